//! Dash runs swarms of AI agents and never loses track of them.
//!
//! This crate is the engine: link it, give it a store, a provider and a goal. It is not a server,
//! not a prompt library and not a general workflow engine.
//!
//! Reading order: [`event`] (what can happen), [`store`] (how it is kept), `orchestrator` (who
//! decides), `orchestrator/decide` (how), then `examples/swarm/main.rs`.

pub mod api;
pub mod env;
pub mod error;
pub mod event;
pub mod ids;
pub mod llm;
pub mod model;
pub mod mutation;
pub mod orchestrator;
pub mod policy;
pub mod schema;
pub mod settings;
#[cfg(feature = "test-util")]
pub mod sim;
pub mod sink;
pub mod spawn;
pub mod store;
pub mod strategy;
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod tool;

pub use error::{Error, ErrorKind, Result};
pub use orchestrator::{EventStream, Orchestrator, OrchestratorBuilder};
pub use settings::Settings;
