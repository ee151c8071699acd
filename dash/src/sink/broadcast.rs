//! In-process fan-out: what live watchers follow.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::EventSink;
use crate::event::Event;

/// The events of one commit.
pub(crate) type Batch = Arc<[Arc<Event>]>;

/// A bounded fan-out of committed events. A reader that falls behind is told, and re-reads what it
/// missed from the store by `seq`; it never slows the engine.
#[derive(Debug, Clone)]
pub struct BroadcastSink {
    sender: broadcast::Sender<Batch>,
}

impl BroadcastSink {
    /// A fan-out that keeps the last `capacity` commits for slow readers.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            sender: broadcast::Sender::new(capacity.max(1)),
        }
    }

    /// Follows from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Batch> {
        self.sender.subscribe()
    }
}

impl EventSink for BroadcastSink {
    fn name(&self) -> &'static str {
        "broadcast"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        if self.sender.receiver_count() > 0 {
            // An error means that the last reader has just gone.
            let _gone = self.sender.send(events.into());
        }
    }
}
