//! In-process fan-out: what live watchers follow.
//!
//! The newest events are kept once, for all readers. A reader has no queue of its own, only the
//! number of the event it has come to, so one that fell behind finds its way back from here and
//! seldom has to ask the store: reads of the store slow the writer down that everyone waits for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::EventSink;
use crate::event::Event;

/// The events of one commit.
pub(crate) type Batch = Arc<[Arc<Event>]>;

/// A bounded fan-out of committed events. A reader that falls behind further than that re-reads
/// what it missed from the store by `seq`; it never slows the engine.
#[derive(Debug, Clone)]
pub struct BroadcastSink {
    tail: Arc<Tail>,
}

/// The newest events.
#[derive(Debug)]
struct Tail {
    capacity: usize,
    kept: Mutex<Kept>,
    /// The newest event's number. Its receivers are the readers.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    /// Without a gap.
    batches: VecDeque<Batch>,
    /// Events in all of them.
    events: usize,
    /// The number of the event before the first one.
    before: u64,
}

/// What there is for a reader.
#[derive(Debug)]
pub(crate) enum Ahead {
    /// The events of one commit, some of them perhaps known already.
    Batch(Batch),
    /// What comes next is not kept any more. The store has it; from the event after this number on
    /// everything is here.
    Stored(u64),
    /// Nothing yet.
    Nothing,
}

/// One reader.
#[derive(Debug)]
pub(crate) struct Reader {
    tail: Arc<Tail>,
    news: watch::Receiver<u64>,
}

impl BroadcastSink {
    /// A fan-out that keeps the last `capacity` events for slow readers, while there are readers.
    /// The newest commit is kept as a whole even if it has more.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let tail = Tail {
            capacity: capacity.max(1),
            kept: Mutex::new(Kept {
                batches: VecDeque::new(),
                events: 0,
                before: 0,
            }),
            news: watch::Sender::new(0),
        };
        Self {
            tail: Arc::new(tail),
        }
    }

    /// Says that the store has all events up to this one already.
    pub(crate) fn begin_after(&self, seq: u64) {
        self.tail.kept().forget(seq);
    }

    /// A new reader: what is emitted from now on is kept for it.
    pub(crate) fn subscribe(&self) -> Reader {
        let tail = Arc::clone(&self.tail);
        // Under the lock, so that no batch is let go between this and the first look.
        let kept = tail.kept();
        let news = tail.news.subscribe();
        drop(kept);
        Reader { tail, news }
    }
}

impl Tail {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Lets everything go; the store has all up to `seq`.
    fn forget(&mut self, seq: u64) {
        self.batches.clear();
        self.events = 0;
        self.before = seq;
    }

    fn push(&mut self, batch: Batch, capacity: usize) {
        if let Some(first) = batch.first()
            && self.batches.is_empty()
        {
            self.before = first.seq.saturating_sub(1);
        }
        self.events += batch.len();
        self.batches.push_back(batch);
        while self.events > capacity && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.events -= oldest.len();
                self.before = oldest.last().map_or(self.before, |event| event.seq);
            }
        }
    }

    fn after(&self, cursor: u64) -> Ahead {
        if cursor < self.before {
            return Ahead::Stored(self.before);
        }
        let known = |batch: &Batch| batch.last().is_none_or(|event| event.seq <= cursor);
        let at = self.batches.partition_point(known);
        self.batches
            .get(at)
            .map_or(Ahead::Nothing, |batch| Ahead::Batch(Arc::clone(batch)))
    }
}

impl Reader {
    /// What follows the event with this number.
    pub(crate) fn after(&mut self, cursor: u64) -> Ahead {
        // First, so that what comes in after the look is news.
        self.news.mark_unchanged();
        self.tail.kept().after(cursor)
    }

    /// Waits for something that came in after the last look.
    pub(crate) async fn changed(&mut self) {
        // The sender is in `tail`, so waiting cannot fail.
        let _open = self.news.changed().await;
    }
}

impl EventSink for BroadcastSink {
    fn name(&self) -> &'static str {
        "broadcast"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        let Some(last) = events.last() else { return };
        let mut kept = self.tail.kept();
        if self.tail.news.receiver_count() == 0 {
            kept.forget(last.seq);
            return;
        }
        kept.push(events.into(), self.tail.capacity);
        drop(kept);
        self.tail.news.send_replace(last.seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::UnixMillis;
    use crate::event::{EventSource, NewEvent, SystemError};
    use crate::ids::EventId;

    /// Emits a commit with the events of these numbers.
    fn emit(sink: &BroadcastSink, seqs: std::ops::RangeInclusive<u64>) {
        let events: Vec<Arc<Event>> = seqs
            .map(|seq| {
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
            })
            .collect();
        sink.emit(&events);
    }

    /// The numbers of the batch after `cursor`, or up to which number to read the store.
    fn look(reader: &mut Reader, cursor: u64) -> (Vec<u64>, Option<u64>) {
        match reader.after(cursor) {
            Ahead::Batch(batch) => (batch.iter().map(|event| event.seq).collect(), None),
            Ahead::Stored(until) => (Vec::new(), Some(until)),
            Ahead::Nothing => (Vec::new(), None),
        }
    }

    #[test]
    fn a_reader_finds_its_place_by_number() {
        let sink = BroadcastSink::new(100);
        sink.begin_after(4);
        let mut reader = sink.subscribe();
        emit(&sink, 5..=6);
        emit(&sink, 7..=9);
        assert_eq!(look(&mut reader, 3), (vec![], Some(4)));
        assert_eq!(look(&mut reader, 4), (vec![5, 6], None));
        assert_eq!(look(&mut reader, 5), (vec![5, 6], None));
        assert_eq!(look(&mut reader, 6), (vec![7, 8, 9], None));
        assert_eq!(look(&mut reader, 9), (vec![], None));
    }

    #[test]
    fn the_oldest_commits_go_first_and_the_store_is_asked_for_no_more_than_these() {
        let sink = BroadcastSink::new(5);
        let mut reader = sink.subscribe();
        emit(&sink, 1..=2);
        emit(&sink, 3..=5);
        assert_eq!(look(&mut reader, 0), (vec![1, 2], None));
        emit(&sink, 6..=6);
        assert_eq!(look(&mut reader, 0), (vec![], Some(2)));
        assert_eq!(look(&mut reader, 2), (vec![3, 4, 5], None));
        // Larger than the bound, but the newest.
        emit(&sink, 7..=16);
        assert_eq!(look(&mut reader, 2), (vec![], Some(6)));
        assert_eq!(look(&mut reader, 6).0.len(), 10);
    }

    #[test]
    fn nothing_is_kept_while_nobody_reads() {
        let sink = BroadcastSink::new(100);
        emit(&sink, 1..=3);
        let mut reader = sink.subscribe();
        assert_eq!(look(&mut reader, 0), (vec![], Some(3)));
        assert_eq!(look(&mut reader, 3), (vec![], None));
        emit(&sink, 4..=4);
        assert_eq!(look(&mut reader, 3), (vec![4], None));
        drop(reader);
        emit(&sink, 5..=5);
        let mut reader = sink.subscribe();
        assert_eq!(look(&mut reader, 3), (vec![], Some(5)));
    }

    #[tokio::test]
    async fn what_came_in_after_the_last_look_is_news() {
        let sink = BroadcastSink::new(100);
        let mut reader = sink.subscribe();
        assert_eq!(look(&mut reader, 0), (vec![], None));
        emit(&sink, 1..=1);
        reader.changed().await;
        assert_eq!(look(&mut reader, 0), (vec![1], None));
    }
}
