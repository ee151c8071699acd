//! A scripted model server: real HTTP on loopback, Chat Completions streamed or whole, and answers
//! that a function of the request decides. For tests and benchmarks; it is no language model.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use dash_model_server::{ModelServer, Reply};
//!
//! let server = ModelServer::start(|request| match request.turn() {
//!     1 => Reply::text("I count.").call("add_one", r#"{"n":1}"#),
//!     2 => Reply::status(429, "slow down").header("retry-after", "1"),
//!     _ => Reply::text("Two."),
//! })
//! .await?;
//! // Point a provider at `server.url()`, then look at what arrived:
//! let billed: u64 = server.requests().iter().map(|r| r.billed.output).sum();
//! # drop(billed); Ok(())
//! # }
//! ```
//!
//! [`counting`] is the script of the benchmarks. It keeps no state: the model's name says how many
//! turns an agent makes and how fast tokens come, and the turn is the number of tool results in the
//! request plus one.
//!
//! Requests that the API would refuse are refused here too, with a status of 400 and words: no
//! JSON, no messages, an unknown role, a tool result that answers no call.

mod counting;
mod render;
mod reply;
mod request;
mod server;

pub use counting::counting;
pub use reply::{Billed, Reply};
pub use request::Request;
pub use server::{ModelServer, Options, Record, Stats};
