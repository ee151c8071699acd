//! Following what happens: events from any `seq`, without a gap, then live.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use crate::event::Event;
use crate::sink::broadcast::{Ahead, Batch, Reader};
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

    /// Whether the engine has stopped.
    pub(crate) fn is_over(&self) -> bool {
        self.state.borrow().is_some()
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) {
        // The sender is `self`, so waiting cannot fail.
        let mut state = self.state.subscribe();
        let _closed = state.wait_for(Option::is_some).await;
    }
}

/// Events in `seq` order from a cursor on: stored ones first, then live ones, none left out and
/// none twice. A reader that falls behind goes on from the newest events, which are kept in memory
/// for all readers, and re-reads from the store by itself what is not kept any more.
#[derive(Debug)]
pub struct EventStream {
    store: Arc<dyn Store>,
    live: Reader,
    closed: Arc<Closed>,
    filter: EventFilter,
    /// The newest event looked at.
    cursor: u64,
    ready: VecDeque<Arc<Event>>,
}

impl EventStream {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        live: Reader,
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
            // Before the look: an engine that has stopped emits nothing more.
            let is_over = self.closed.is_over();
            match self.live.after(self.cursor) {
                Ahead::Batch(batch) => self.take_live(&batch),
                Ahead::Stored(until) => self.read_stored(until).await?,
                Ahead::Nothing if is_over => return Ok(None),
                Ahead::Nothing => tokio::select! {
                    biased;
                    () = self.live.changed() => {}
                    () = self.closed.wait() => {}
                },
            }
        }
    }

    /// Reads the next page from the store. What follows `until` is kept in memory.
    async fn read_stored(&mut self, until: u64) -> Result<()> {
        let events = self
            .store
            .list_events(&self.filter, self.cursor, READ_PAGE)
            .await?;
        let last = events.last().map_or(self.cursor, |event| event.seq);
        // Fewer than a page are all that match, so none is left up to `until`.
        let is_all = events.len() < READ_PAGE;
        self.cursor = if is_all { last.max(until) } else { last };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::UnixMillis;
    use crate::event::{EventSource, NewEvent, SystemError};
    use crate::ids::EventId;
    use crate::sink::{BroadcastSink, EventSink as _};
    use crate::store::MemoryStore;

    fn event(seq: u64) -> Arc<Event> {
        let error = SystemError {
            component: "test".to_owned(),
            error: String::new(),
        };
        let new = NewEvent {
            id: EventId::from_u128(seq.into()),
            at: UnixMillis(0),
            swarm_id: None,
            source: EventSource::System,
            kind: error.into(),
        };
        Arc::new(Event::committed(seq, new))
    }

    #[tokio::test]
    async fn a_reader_within_the_bound_never_asks_the_store() {
        // Whoever asks it gets an error.
        let store = Arc::new(MemoryStore::new());
        store.close().await.unwrap();
        let sink = BroadcastSink::new(100);
        let closed = Arc::new(Closed::new());
        let follow = || {
            let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(&store);
            let live = sink.subscribe();
            EventStream::new(store, live, Arc::clone(&closed), EventFilter::default(), 0)
        };
        let mut slow = follow();
        let mut late = follow();
        (1..=100).for_each(|seq| sink.emit(&[event(seq)]));
        for seq in 1..=100 {
            assert_eq!(slow.next().await.unwrap().unwrap().seq, seq);
        }
        sink.emit(&[event(101)]);
        late.next().await.unwrap_err();
        closed.close(None);
        assert_eq!(slow.next().await.unwrap().unwrap().seq, 101);
        assert_eq!(slow.next().await.unwrap(), None);
    }
}
