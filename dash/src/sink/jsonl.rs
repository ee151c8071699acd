//! One event per line, to anything that can be written to.

use std::fmt;
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::EventSink;
use crate::event::Event;

/// Commits that may wait for a slow writer.
const QUEUE_MAX: usize = 4_096;

/// Writes each event as one line of JSON. A thread of its own does the writing; when `QUEUE_MAX`
/// commits wait, further ones are left out and the gap shows in `seq`: a reader that needs all
/// events re-reads them from the store. After a write that failed nothing more is written (an error
/// in the log says so). Dropping it waits for the writer, as [`JsonLinesSink::close`] does.
pub struct JsonLinesSink {
    queue: Mutex<Option<SyncSender<Vec<Arc<Event>>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl JsonLinesSink {
    /// Writes to `out`, which is flushed whenever the queue is empty.
    ///
    /// # Errors
    ///
    /// If the system refuses a thread.
    pub fn new(out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new().name("dash-json-lines".to_owned());
        let writer = thread.spawn(move || write_all(out, &waiting))?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Waits until all that was queued is written, and takes no more.
    pub fn close(&self) {
        drop(
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            // A writer that panicked has written what it could.
            let _ended = writer.join();
        }
    }
}

fn write_all(mut out: impl Write, waiting: &Receiver<Vec<Arc<Event>>>) {
    while let Ok(first) = waiting.recv() {
        let mut batch = Some(first);
        while let Some(events) = batch {
            for event in events {
                let Ok(mut line) = serde_json::to_vec(event.as_ref()) else {
                    continue;
                };
                line.push(b'\n');
                if let Err(error) = out.write_all(&line) {
                    tracing::error!(%error, "json-lines sink: nothing more is written");
                    return;
                }
            }
            batch = waiting.try_recv().ok();
        }
        if let Err(error) = out.flush() {
            tracing::error!(%error, "json-lines sink: nothing more is written");
            return;
        }
    }
}

impl EventSink for JsonLinesSink {
    fn name(&self) -> &'static str {
        "json-lines"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref() {
            match queue.try_send(events.to_vec()) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(left_out)) => {
                    tracing::warn!(events = left_out.len(), "json-lines sink is full, left out");
                }
            }
        }
    }
}

impl Drop for JsonLinesSink {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for JsonLinesSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLinesSink").finish_non_exhaustive()
    }
}
