//! Following what happens: events from any `seq`, without a gap, then live.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use crate::event::Event;
use crate::sink::broadcast::Batch;
use crate::store::{EventFilter, Store};
use crate::{Error, ErrorKind, Result};

/// Events read from the store at once.
const READ_PAGE: usize = 500;

/// Whether, and why, the engine has stopped.
#[derive(Debug)]
pub(crate) struct Closed {
    state: watch::Sender<Option<Option<String>>>,
}

impl Closed {
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(None),
        }
    }

    /// Notes the end, once.
    pub(crate) fn close(&self, why: Option<String>) {
        self.state.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                *state = Some(why);
            }
            first
        });
    }

    /// The error that every call gets after the end.
    pub(crate) fn error(&self) -> Option<Error> {
        self.state.borrow().as_ref().map(|why| match why {
            Some(why) => Error::new(ErrorKind::Closed, "the orchestrator has stopped")
                .with_source(Error::internal(why.clone())),
            None => Error::closed(),
        })
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) {
        // The sender is `self`, so waiting cannot fail.
        let mut state = self.state.subscribe();
        let _closed = state.wait_for(Option::is_some).await;
    }
}

/// Events in `seq` order from a cursor on: stored ones first, then live ones, none left out and
/// none twice. A reader that falls behind re-reads from the store by itself.
#[derive(Debug)]
pub struct EventStream {
    store: Arc<dyn Store>,
    live: broadcast::Receiver<Batch>,
    closed: Arc<Closed>,
    filter: EventFilter,
    /// The newest event looked at.
    cursor: u64,
    ready: VecDeque<Arc<Event>>,
    /// Whether there may be stored events after the cursor that `live` does not bring.
    behind: bool,
}

impl EventStream {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        live: broadcast::Receiver<Batch>,
        closed: Arc<Closed>,
        filter: EventFilter,
        after: u64,
    ) -> Self {
        Self {
            store,
            live,
            closed,
            filter,
            cursor: after,
            ready: VecDeque::new(),
            behind: true,
        }
    }

    /// The next event; `None` after the last one of an engine that has stopped.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) or [`Data`](ErrorKind::Data) if the store cannot be
    /// read, and the call may be repeated; [`Closed`](ErrorKind::Closed) if the engine stopped before
    /// all stored events were read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Arc<Event>>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.behind {
                self.read_stored().await?;
                continue;
            }
            let received = tokio::select! {
                biased;
                received = self.live.recv() => received,
                () = self.closed.wait() => Err(broadcast::error::RecvError::Closed),
            };
            match received {
                Ok(batch) => self.take_live(&batch),
                Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
                Err(broadcast::error::RecvError::Closed) => return Ok(None),
            }
        }
    }

    async fn read_stored(&mut self) -> Result<()> {
        let events = self
            .store
            .list_events(&self.filter, self.cursor, READ_PAGE)
            .await?;
        // All that is stored has been read; what came meanwhile waits in `live`.
        self.behind = events.len() == READ_PAGE;
        if let Some(last) = events.last() {
            self.cursor = last.seq;
        }
        self.ready.extend(events.into_iter().map(Arc::new));
        Ok(())
    }

    fn take_live(&mut self, batch: &Batch) {
        for event in batch.iter().filter(|event| event.seq > self.cursor) {
            if self.filter.matches(event) {
                self.ready.push_back(Arc::clone(event));
            }
        }
        if let Some(last) = batch.last() {
            self.cursor = self.cursor.max(last.seq);
        }
    }
}
