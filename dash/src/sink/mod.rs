//! Where events go after the commit: the [`EventSink`] seam and its contract.
//!
//! # Contract
//!
//! * [`EventSink::emit`] is called after the commit that makes the events true, with the events of
//!   one commit, in `seq` order, from one task. It is synchronous and must return at once.
//! * A sink that does IO owns a bounded queue and says what happens when it is full: it either
//!   leaves a gap that shows in `seq`, or keeps a cursor of its own and re-reads from the store, so
//!   that delivery beyond it is at least once and readers drop duplicates by `seq`.
//! * A sink that panics is reported (`system.error`) and not called again. A sink that blocks
//!   longer than [`SLOW_SINK`] is reported once; it still delays every commit behind it, so do not.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Event;

pub mod broadcast;
pub mod jsonl;

pub use broadcast::BroadcastSink;
pub use jsonl::JsonLinesSink;

/// How long one `emit` may take before it is reported.
pub const SLOW_SINK: Duration = Duration::from_millis(100);

/// Something that is told what happened. See the module's contract.
pub trait EventSink: fmt::Debug + Send + Sync + 'static {
    /// Its name in logs.
    fn name(&self) -> &str;

    /// Takes the events of one commit.
    fn emit(&self, events: &[Arc<Event>]);
}
