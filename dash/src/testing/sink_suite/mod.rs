//! What every [`EventSink`] must do, as runnable cases.
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! use std::sync::Arc;
//!
//! use dash::sink::{EventSink, JsonLinesSink};
//! use dash::testing::sink_suite::{self, Delivery};
//!
//! sink_suite::run_all(Delivery::Gaps, |far, _store| {
//!     Arc::new(JsonLinesSink::new(far).unwrap()) as Arc<dyn EventSink>
//! })
//! .await;
//! # });
//! ```
//!
//! As the engine does, a case commits events to a store and then emits them. It looks at what arrives
//! at the [`FarSide`] that the sink delivers to, and can hold that up or end it. A finding in one
//! implementation becomes a case here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::samples::{World, new};
use super::verdict::{Broken, Verdict, broken, ensure, judge, unknown};
use crate::event::Event;
use crate::sink::EventSink;
use crate::store::{Changeset, MemoryStore, Store};

mod far;
#[cfg(test)]
mod tests;

pub use far::FarSide;

const WORLD: World = World::new(1);

/// Commits that are emitted while the far side is held up: more than a bounded queue should hold.
const STALLED_COMMITS: u32 = 6_000;

/// What a sink says happens to events that do not fit its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// They are left out, and the gap shows in `seq`.
    Gaps,
    /// They are read again from the store: every event arrives, some perhaps twice.
    AtLeastOnce,
}

mod rules {
    pub(super) const NAMED: &str = "a sink has a name for logs";
    pub(super) const IN_ORDER: &str = "events arrive as they are, in the order of `seq`";
    pub(super) const RETURNS: &str = "`emit` returns at once, whatever the far side does";
    pub(super) const GAPS: &str =
        "what does not fit leaves a gap in `seq`, and delivery goes on behind it";
    pub(super) const AT_LEAST_ONCE: &str =
        "what does not fit is read again from the store: every event arrives";
}

struct Bench {
    sink: Arc<dyn EventSink>,
    far: FarSide,
    store: Arc<dyn Store>,
    delivery: Delivery,
    /// How long what must happen may take.
    patience: Duration,
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        /// The names of the cases, in the order in which they run.
        pub const CASES: &[&str] = &[$(stringify!($case)),*];

        async fn run(name: &str, bench: &Bench) -> Result<(), Broken> {
            match name {
                $(stringify!($case) => judge("sink", name, $case(bench)).await,)*
                _ => Err(unknown("sink", name, CASES)),
            }
        }
    };
}

cases!(
    it_has_a_name,
    events_arrive_whole_and_in_order,
    no_events_are_no_harm,
    a_far_side_that_stalls_holds_nobody_up,
    after_a_stall_it_goes_on,
    a_far_side_that_is_gone_is_no_harm,
);

/// Runs one case by its name, on a sink from `make`: it gets the far side to deliver to and the store
/// that holds every event before it is emitted.
///
/// # Errors
///
/// The rule that is broken, or that there is no such case.
pub async fn run_case<F>(name: &str, delivery: Delivery, make: F) -> Result<(), Broken>
where
    F: FnOnce(FarSide, Arc<dyn Store>) -> Arc<dyn EventSink>,
{
    run_within(super::verdict::HANG / 2, name, delivery, make).await
}

async fn run_within<F>(
    patience: Duration,
    name: &str,
    delivery: Delivery,
    make: F,
) -> Result<(), Broken>
where
    F: FnOnce(FarSide, Arc<dyn Store>) -> Arc<dyn EventSink>,
{
    let (far, store) = (FarSide::default(), Arc::new(MemoryStore::new()));
    let bench = Bench {
        sink: make(far.clone(), Arc::clone(&store) as Arc<dyn Store>),
        far,
        store,
        delivery,
        patience,
    };
    let found = run(name, &bench).await;
    // Whoever is still held up may end.
    bench.far.resume();
    found
}

/// Runs every case, each on a fresh sink from `make`; see [`run_case`].
///
/// Needs a tokio runtime with time; one of several threads, if a sink blocks the one it runs on.
///
/// # Panics
///
/// If the sink breaks a rule, with the case and the rule.
#[expect(clippy::panic, reason = "a suite fails by panicking")]
pub async fn run_all<F>(delivery: Delivery, make: F)
where
    F: Fn(FarSide, Arc<dyn Store>) -> Arc<dyn EventSink>,
{
    for case in CASES {
        if let Err(broken) = run_case(case, delivery, &make).await {
            panic!("{broken}");
        }
    }
}

impl Bench {
    /// Commits events, as the engine does before it emits them.
    async fn commit(&self, count: u32) -> Verdict<Vec<Arc<Event>>> {
        let mut changeset = WORLD.events(count);
        if self.store.head_seq().await.unwrap_or(0) == 0 {
            let events = std::mem::take(&mut changeset.events);
            changeset = Changeset {
                projects: vec![WORLD.project()],
                budgets: vec![new(WORLD.budget())],
                swarms: vec![new(WORLD.swarm())],
                tasks: vec![new(WORLD.task())],
                agents: vec![new(WORLD.agent())],
                events,
                ..Changeset::default()
            };
        }
        match self.store.commit(changeset).await {
            Ok(committed) => Ok(committed.events.into_iter().map(Arc::new).collect()),
            Err(err) => broken("the suite's store works", err.to_string()),
        }
    }

    /// Emits events from a thread of its own, one commit each: a sink that blocks holds up only that.
    async fn emit_one_by_one(&self, events: Vec<Arc<Event>>) -> Verdict {
        let sink = Arc::clone(&self.sink);
        let emit = move || {
            for event in events {
                sink.emit(&[event]);
            }
        };
        let emitted = tokio::task::spawn_blocking(emit);
        match tokio::time::timeout(self.patience, emitted).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(err)) => broken(rules::RETURNS, format!("`emit` failed: {err}")),
            Err(_elapsed) => broken(rules::RETURNS, "`emit` has not returned"),
        }
    }

    /// What arrived is a part of what was emitted, in order; all of it, if that is promised.
    fn check_arrived(&self, arrived: &[Event], emitted: &[Arc<Event>]) -> Verdict {
        let mut seen = BTreeSet::new();
        let mut last = 0;
        for event in arrived {
            let is_new = seen.insert(event.seq);
            if !is_new && self.delivery == Delivery::AtLeastOnce {
                continue;
            }
            let what = format!("event {} came after event {last}", event.seq);
            ensure(is_new && event.seq > last, rules::IN_ORDER, what)?;
            last = event.seq;
        }
        let emitted_by: BTreeMap<u64, &Arc<Event>> =
            emitted.iter().map(|event| (event.seq, event)).collect();
        for event in arrived {
            let sent = emitted_by.get(&event.seq);
            let is_same = sent.is_some_and(|sent| ***sent == *event);
            let what = format!("{event:?} arrived, {sent:?} was emitted");
            ensure(is_same, rules::IN_ORDER, what)?;
        }
        if self.delivery == Delivery::AtLeastOnce {
            let missing = emitted
                .iter()
                .find(|event| event.seq <= last && !seen.contains(&event.seq));
            let what = format!("event {:?} did not arrive", missing.map(|event| event.seq));
            ensure(missing.is_none(), rules::AT_LEAST_ONCE, what)?;
        }
        Ok(())
    }
}

async fn it_has_a_name(bench: &Bench) -> Verdict {
    let name = bench.sink.name();
    let is_good = !name.is_empty() && name == bench.sink.name();
    ensure(is_good, rules::NAMED, format!("it is called {name:?}"))
}

async fn events_arrive_whole_and_in_order(bench: &Bench) -> Verdict {
    let mut emitted = Vec::new();
    for count in [1, 3, 2, 1] {
        let events = bench.commit(count).await?;
        bench.sink.emit(&events);
        emitted.extend(events);
    }
    let last = emitted.last().map_or(0, |event| event.seq);
    let arrived = bench
        .far
        .until(|all| all.iter().any(|event| event.seq == last));
    let arrived = arrived.await;
    bench.check_arrived(&arrived, &emitted)?;
    let seqs: BTreeSet<u64> = arrived.iter().map(|event| event.seq).collect();
    let what = format!("of {} events {} arrived", emitted.len(), seqs.len());
    ensure(seqs.len() == emitted.len(), rules::IN_ORDER, what)
}

async fn no_events_are_no_harm(bench: &Bench) -> Verdict {
    bench.sink.emit(&[]);
    let events = bench.commit(1).await?;
    bench.sink.emit(&events);
    let arrived = bench.far.until(|all| !all.is_empty()).await;
    bench.check_arrived(&arrived, &events)
}

async fn a_far_side_that_stalls_holds_nobody_up(bench: &Bench) -> Verdict {
    bench.far.stall();
    let events = bench.commit(STALLED_COMMITS).await?;
    bench.emit_one_by_one(events).await
}

async fn after_a_stall_it_goes_on(bench: &Bench) -> Verdict {
    bench.far.stall();
    let mut emitted = bench.commit(STALLED_COMMITS).await?;
    bench.emit_one_by_one(emitted.clone()).await?;
    let stalled = emitted.last().map_or(0, |event| event.seq);
    bench.far.resume();
    // What waits is delivered at some time; an event that finds room then arrives. Whoever leaves
    // events out may leave out the first ones of these too.
    let goes_on = async {
        loop {
            let events = bench.commit(1).await?;
            bench.sink.emit(&events);
            emitted.extend(events);
            tokio::task::yield_now().await;
            if bench.far.is_past(stalled) {
                return bench.check_arrived(&bench.far.arrived(), &emitted);
            }
        }
    };
    match tokio::time::timeout(bench.patience, goes_on).await {
        Ok(verdict) => verdict,
        Err(_elapsed) => {
            let rule = match bench.delivery {
                Delivery::Gaps => rules::GAPS,
                Delivery::AtLeastOnce => rules::AT_LEAST_ONCE,
            };
            broken(rule, "nothing emitted after the stall has arrived")
        }
    }
}

async fn a_far_side_that_is_gone_is_no_harm(bench: &Bench) -> Verdict {
    let events = bench.commit(1).await?;
    bench.sink.emit(&events);
    bench.far.until(|all| !all.is_empty()).await;
    bench.far.hang_up();
    let events = bench.commit(100).await?;
    bench.emit_one_by_one(events).await
}
