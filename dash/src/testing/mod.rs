//! What tests of Dash and of its implementers need: a clock moved by hand, ids from a counter,
//! stores that fail on demand, and a conformance suite for each seam: [`store_suite`],
//! [`provider_suite`], [`spawner_suite`], [`sink_suite`].
//!
//! Feature `test-util`. Nothing outside tests and examples uses it.

mod clock;
pub mod faulty_store;
mod ids;
pub mod provider_suite;
#[cfg(test)]
pub(crate) mod random;
pub(crate) mod samples;

pub mod sink_suite;
pub mod spawner_suite;
#[cfg(feature = "http")]
pub mod sse;
pub mod store_suite;
mod verdict;

pub use clock::ManualClock;
pub use faulty_store::FaultyStore;
pub use ids::CountingIds;
pub use verdict::Broken;
