//! The suite on the sinks there are, on one that reads again from the store, and on sinks that each
//! break one rule.

use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::sink::broadcast::Ahead;
use crate::sink::{BroadcastSink, JsonLinesSink};
use crate::store::EventFilter;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_json_lines_sink_passes() {
    run_all(Delivery::Gaps, |far, _store| {
        Arc::new(JsonLinesSink::new(far).unwrap())
    })
    .await;
}

/// A fan-out and the task of one reader.
#[derive(Debug)]
struct Followed {
    sink: BroadcastSink,
    _reader: JoinSet<()>,
}

impl EventSink for Followed {
    fn name(&self) -> &str {
        self.sink.name()
    }

    fn emit(&self, events: &[Arc<Event>]) {
        self.sink.emit(events);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broadcast_sink_passes() {
    run_all(Delivery::Gaps, |far, _store| {
        let sink = BroadcastSink::new(64);
        let mut batches = sink.subscribe();
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            let mut cursor = 0;
            loop {
                match batches.after(cursor) {
                    Ahead::Batch(batch) => {
                        for event in batch.iter().filter(|event| event.seq > cursor) {
                            if !far.arrive_async(Event::clone(event)).await {
                                return;
                            }
                        }
                        cursor = batch.last().map_or(cursor, |event| event.seq);
                    }
                    // A gap, which shows in `seq`.
                    Ahead::Stored(until) => cursor = until,
                    Ahead::Nothing => batches.changed().await,
                }
            }
        });
        let followed = Followed {
            sink,
            _reader: reader,
        };
        Arc::new(followed)
    })
    .await;
}

/// A sink that keeps a cursor: it is only told how far the store is, and reads from there.
#[derive(Debug)]
struct Cursor {
    head: watch::Sender<u64>,
    _reader: JoinSet<()>,
}

impl Cursor {
    /// `from` is where it believes to be at its start; delivery begins behind it.
    fn new(far: FarSide, store: Arc<dyn Store>, skip: u64) -> Self {
        let head = watch::Sender::new(0);
        let mut news = head.subscribe();
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            let mut after = 0;
            while news.changed().await.is_ok() {
                loop {
                    let filter = EventFilter::default();
                    let events = store.list_events(&filter, after, 100).await.unwrap();
                    let Some(last) = events.last() else { break };
                    after = last.seq + skip;
                    for event in events {
                        if !far.arrive_async(event).await {
                            return;
                        }
                    }
                }
            }
        });
        Self {
            head,
            _reader: reader,
        }
    }
}

impl EventSink for Cursor {
    fn name(&self) -> &'static str {
        "cursor"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        if let Some(last) = events.last() {
            self.head.send_replace(last.seq);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_with_a_cursor_passes() {
    run_all(Delivery::AtLeastOnce, |far, store| {
        Arc::new(Cursor::new(far, store, 0))
    })
    .await;
}

/// A rule to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twist {
    HasNoName,
    TurnsCommitsRound,
    Repeats,
    ChangesEvents,
    Blocks,
    EndsAtTheFirstGap,
    PanicsWhenNobodyListens,
}

/// A sink with a queue and a thread, twisted.
#[derive(Debug)]
struct Twisted {
    twist: Twist,
    queue: Mutex<Option<SyncSender<Event>>>,
}

impl Twisted {
    fn new(twist: Twist, far: FarSide) -> Self {
        let (queue, waiting) = sync_channel(match twist {
            Twist::Blocks | Twist::PanicsWhenNobodyListens => 8,
            _ => 1_024,
        });
        // Ends with its queue.
        let _writer = std::thread::spawn(move || {
            while let Ok(event) = waiting.recv() {
                if !far.arrive(event) {
                    return;
                }
            }
        });
        Self {
            twist,
            queue: Mutex::new(Some(queue)),
        }
    }

    fn send(&self, event: Event) {
        let mut queue = self.queue.lock().unwrap();
        let Some(sender) = queue.as_ref() else { return };
        if self.twist == Twist::Blocks {
            let _gone = sender.send(event);
            return;
        }
        let refused = sender.try_send(event).is_err();
        if refused && self.twist == Twist::EndsAtTheFirstGap {
            *queue = None;
        }
        if self.twist == Twist::PanicsWhenNobodyListens {
            drop(queue);
            assert!(!refused, "nobody listens");
        }
    }
}

impl EventSink for Twisted {
    fn name(&self) -> &'static str {
        if self.twist == Twist::HasNoName {
            ""
        } else {
            "twisted"
        }
    }

    fn emit(&self, events: &[Arc<Event>]) {
        let mut events: Vec<Event> = events.iter().map(|event| Event::clone(event)).collect();
        match self.twist {
            Twist::TurnsCommitsRound => events.reverse(),
            Twist::Repeats => events.extend(events.last().cloned()),
            Twist::ChangesEvents => events.iter_mut().for_each(|event| event.swarm_id = None),
            _ => {}
        }
        for event in events {
            self.send(event);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_breaks_a_rule_is_found() {
    for (twist, case, rule) in [
        (Twist::HasNoName, "it_has_a_name", rules::NAMED),
        (
            Twist::TurnsCommitsRound,
            "events_arrive_whole_and_in_order",
            rules::IN_ORDER,
        ),
        (
            Twist::Repeats,
            "events_arrive_whole_and_in_order",
            rules::IN_ORDER,
        ),
        (
            Twist::ChangesEvents,
            "events_arrive_whole_and_in_order",
            rules::IN_ORDER,
        ),
        (
            Twist::PanicsWhenNobodyListens,
            "a_far_side_that_is_gone_is_no_harm",
            rules::RETURNS,
        ),
    ] {
        let make = |far, _store| Arc::new(Twisted::new(twist, far)) as Arc<dyn EventSink>;
        let broken = run_case(case, Delivery::Gaps, make).await.unwrap_err();
        assert_eq!(broken.rule, rule, "{twist:?}: {broken}");
    }
}

/// These show only by what never happens, so the suite need not be patient with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_blocks_or_ends_is_found() {
    let patience = Duration::from_millis(500);
    for (twist, case, rule) in [
        (
            Twist::Blocks,
            "a_far_side_that_stalls_holds_nobody_up",
            rules::RETURNS,
        ),
        (
            Twist::EndsAtTheFirstGap,
            "after_a_stall_it_goes_on",
            rules::GAPS,
        ),
    ] {
        let make = |far, _store| Arc::new(Twisted::new(twist, far)) as Arc<dyn EventSink>;
        let broken = run_within(patience, case, Delivery::Gaps, make).await;
        let broken = broken.unwrap_err();
        assert_eq!(broken.rule, rule, "{twist:?}: {broken}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_leaves_events_out_is_found() {
    let make = |far, store| Arc::new(Cursor::new(far, store, 1)) as Arc<dyn EventSink>;
    let case = "after_a_stall_it_goes_on";
    let broken = run_case(case, Delivery::AtLeastOnce, make).await;
    assert_eq!(broken.unwrap_err().rule, rules::AT_LEAST_ONCE);
}
