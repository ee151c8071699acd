//! What the cross-crate tests share: a model behind a desk, tools behind a door, an engine to
//! start, an audit of everything an engine has stored, a disk that loses power. Public API only.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a harness: a panic is how it says that a test has failed"
)]

mod audit;
mod desk;
pub mod disk;
mod door;
mod engine;
mod says;

pub use audit::audit;
pub use desk::Desk;
pub use disk::Dice;
pub use door::{Call, Door};
pub use engine::{Engine, Setup, create, priced, shared, within};
pub use says::{fingerprint, is_summary, results, task_of, texts, turn, turn_number};
