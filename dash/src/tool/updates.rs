//! What a running tool call tells those who watch.

use std::fmt;
use std::sync::{Arc, Weak};

/// The most bytes of one update; the rest of its text is left out.
pub const UPDATE_BYTES_MAX: usize = 16 * 1_024;

type Publish = dyn Fn(String) + Send + Sync;

/// Publishes what a tool call is doing, as [deltas](crate::event::DeltaKind::ToolUpdate) of its step:
/// shown to whoever listens, never stored and never sent to a model. Never waits. What is sent after
/// the call has ended goes nowhere, so a clone may outlive it.
///
/// The default goes nowhere from the start.
#[derive(Clone, Default)]
pub struct ToolUpdates(Option<Weak<Publish>>);

impl ToolUpdates {
    /// Publishes through `publish`, for as long as someone else holds it.
    pub(crate) fn new(publish: &Arc<Publish>) -> Self {
        Self(Some(Arc::downgrade(publish)))
    }

    /// Publishes a text. At most [`UPDATE_BYTES_MAX`] bytes of it, cut between two characters.
    pub fn send(&self, text: impl Into<String>) {
        let Some(publish) = self.0.as_ref().and_then(Weak::upgrade) else {
            return;
        };
        let mut text = text.into();
        text.truncate(text.floor_char_boundary(UPDATE_BYTES_MAX));
        publish(text);
    }
}

impl fmt::Debug for ToolUpdates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToolUpdates")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn updates_are_cut_and_end_with_their_call() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let publish: Arc<Publish> = Arc::new(move |text| log.lock().unwrap().push(text));
        let updates = ToolUpdates::new(&publish);
        updates.send("half");
        // Two bytes a character, and one that shifts them over the limit.
        updates.send(format!("a{}", "é".repeat(UPDATE_BYTES_MAX)));
        drop(publish);
        updates.send("late");
        ToolUpdates::default().send("nowhere");
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(seen[0], "half");
        assert_eq!(seen[1].len(), UPDATE_BYTES_MAX - 1);
    }
}
