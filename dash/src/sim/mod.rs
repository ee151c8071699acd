//! The simulator: one seed decides everything that can happen to an engine, and what must hold is
//! checked after every commit and at the end.
//!
//! ```text
//!  seed ──▶ Plan ──▶ World (outlives crashes) ◀──▶ engine: Clock, ids, Store, LlmProvider,
//!                      │                           Spawner, tools, sinks
//!                      └──▶ check ──▶ Report, or a Failure that names the seed
//! ```
//!
//! The engine is the real one, on the seams that every host uses; only what is around it is made
//! up. A run has several lives: at effects that the seed names everything is dropped at once, and a
//! new engine starts on what was committed. After a while faults end, and then everything must.
//! The same seed gives the same run, byte for byte: [`Report::hash`] tells.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;

use crate::event::Event;
use crate::store::{EventFilter, MemoryStore, Store as _};
use crate::{EventStream, Orchestrator, Result};

pub mod check;
pub mod clock;
mod outside;
pub mod plan;
mod provider;
pub mod rng;
mod sink;
mod spawner;
mod store;
mod tools;
mod world;

use check::Broken;
use outside::End;
use plan::Plan;
use world::World;

/// Lives of one run before faults end, whatever the plan says.
const LIVES_MAX: usize = 60;

/// Lives of one run at all; after faults have ended one is enough.
const LIVES_IN_ALL_MAX: usize = 70;

/// What a run that held was like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// BLAKE3 over every committed event, request, effect of a tool and answer to a caller.
    pub hash: String,
    /// Events that were committed.
    pub events: u64,
    /// How often each kind of thing has happened.
    pub counts: BTreeMap<&'static str, u64>,
}

/// A run that broke an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The invariant and what was found.
    pub broken: Broken,
    /// The last that happened.
    pub lines: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "seed {}: {}", self.seed, self.broken)?;
        let seed = self.seed;
        write!(
            f,
            "again: cargo run --release -p dash-bench -- sim --seed {seed}"
        )
    }
}

impl std::error::Error for Failure {}

/// Runs a seed on this thread, in a runtime of its own; not to be called within another runtime.
///
/// # Errors
///
/// The first invariant that did not hold.
pub fn run(seed: u64) -> std::result::Result<Report, Box<Failure>> {
    let world = World::new(Plan::of(seed));
    let ended = live(&world);
    if let Some(broken) = ended.err().or_else(|| world.broken()) {
        let lines = world.lines();
        return Err(Box::new(Failure {
            seed,
            broken,
            lines,
        }));
    }
    let hash = world.hash();
    Ok(world.with(|truth| Report {
        seed,
        hash,
        events: truth.history.events.len() as u64,
        counts: std::mem::take(&mut truth.counts),
    }))
}

/// One life after another, until all is over.
fn live(world: &Arc<World>) -> std::result::Result<(), Broken> {
    let store = Arc::new(MemoryStore::new());
    let mut next = 0;
    let mut crashes = world.plan.crashes.clone().into_iter();
    for number in 0..LIVES_IN_ALL_MAX {
        if number >= LIVES_MAX && !world.is_healing() {
            world.heal();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|err| Broken::new("everything_ends", format!("no runtime: {err}")))?;
        let crash_at = crashes.next();
        let end = runtime.block_on(async {
            world.begin_life(crash_at);
            let end = tokio::select! {
                biased;
                () = world.over() => None,
                end = life(world, &store, &mut next) => Some(end),
            };
            world.clock.stop();
            end
        });
        // The crash: whatever is under way is dropped where it is.
        drop(runtime);
        if let Some(broken) = world.broken() {
            return Err(broken);
        }
        if end == Some(End::Over) {
            still_there(world, &store)?;
            return world.with(|truth| check::ends::all(&truth.history));
        }
        if end.is_none() {
            world.note("world", "everything is dropped");
        }
    }
    let why = format!("{LIVES_IN_ALL_MAX} engines have ended and swarms are still open");
    Err(Broken::new("everything_ends", why))
}

/// What was committed is what the store has at the end.
fn still_there(world: &World, store: &MemoryStore) -> std::result::Result<(), Broken> {
    let history = world.with(|truth| truth.history.clone());
    let mut lost = Vec::new();
    // The store in memory never waits.
    for (id, row) in &history.swarms {
        let found = store.find_swarm(*id).now_or_never();
        if !matches!(found, Some(Ok(Some(found))) if found == *row) {
            lost.push(format!("swarm {id}"));
        }
    }
    for (id, row) in &history.agents {
        let found = store.find_agent(*id).now_or_never();
        if !matches!(found, Some(Ok(Some(found))) if found == *row) {
            lost.push(format!("agent {id}"));
        }
    }
    for (id, row) in &history.tasks {
        let found = store.find_task(*id).now_or_never();
        if !matches!(found, Some(Ok(Some(found))) if found == *row) {
            lost.push(format!("task {id}"));
        }
    }
    let head = store.head_seq().now_or_never();
    if !matches!(head, Some(Ok(head)) if head == history.events.len() as u64) {
        lost.push(format!("events: {head:?} of {}", history.events.len()));
    }
    if lost.is_empty() {
        return Ok(());
    }
    let why = format!("not as committed: {}", lost.join(", "));
    Err(Broken::new("acknowledged_writes_are_kept", why))
}

/// Starts an engine on what is stored, until it ends.
async fn life(world: &Arc<World>, store: &Arc<MemoryStore>, next: &mut usize) -> End {
    let engine = match start(world, store).await {
        Ok(engine) => engine,
        Err(err) => {
            world.note("world", &format!("no start: {}", err.chain()));
            world.count("starts that failed");
            return End::Stopped;
        }
    };
    world.note("world", "an engine has started");
    let head = world.with(|truth| truth.history.events.len() as u64);
    let events = engine.subscribe(EventFilter::default(), head);
    tokio::select! {
        biased;
        end = follow(world, events, head) => end,
        end = outside::act(world, &engine, next) => end,
    }
}

async fn start(world: &Arc<World>, store: &Arc<MemoryStore>) -> Result<Orchestrator> {
    let kept = store::SimStore::new(Arc::clone(world), Arc::clone(store));
    let clock: Arc<World> = Arc::clone(world);
    let mut builder = Orchestrator::builder(Arc::new(kept))
        .settings(world.plan.settings.clone())
        .add_provider(Arc::new(provider::SimProvider::new(Arc::clone(world))))
        .with_tools(tools::all(world))
        .with_spawner(Arc::new(spawner::SimSpawner::new(Arc::clone(world))))
        .with_clock(Arc::new(WorldClock(clock)))
        .with_ids(Arc::new(WorldIds(Arc::clone(world))))
        .add_sink(Arc::new(sink::RoughSink::new(Arc::clone(world))))
        .add_sink(Arc::new(sink::CheckingSink::new(Arc::clone(world))));
    for model in &world.plan.models {
        builder = builder.add_model(model.clone());
    }
    builder.start().await
}

/// Follows the events as a watcher does, until the engine has ended.
async fn follow(world: &World, mut events: EventStream, mut last: u64) -> End {
    loop {
        let next: Result<Option<Arc<Event>>> = events.next().await;
        match next {
            Ok(Some(event)) if event.seq == last + 1 => last = event.seq,
            Ok(Some(event)) => {
                let why = format!("a watcher got {} after {last}", event.seq);
                world.breaks(Broken::new("seq_has_no_gap", why));
            }
            Ok(None) => break,
            Err(err) if err.kind() == crate::ErrorKind::Closed => break,
            // A read that failed may be repeated.
            Err(_) => {}
        }
    }
    if world.with(|truth| truth.ending) {
        // Whoever ends the engine says how it went.
        return std::future::pending().await;
    }
    End::Stopped
}

/// The world's clock, as the engine has it.
#[derive(Debug)]
struct WorldClock(Arc<World>);

impl crate::env::Clock for WorldClock {
    fn now(&self) -> crate::env::UnixMillis {
        self.0.clock.now()
    }

    fn sleep(&self, duration: std::time::Duration) -> crate::env::BoxFuture<()> {
        self.0.clock.sleep(duration)
    }
}

/// The world's ids, as the engine has them.
#[derive(Debug)]
struct WorldIds(Arc<World>);

impl crate::env::IdSource for WorldIds {
    fn next(&self, at: crate::env::UnixMillis) -> u128 {
        crate::env::IdSource::next(&self.0.ids, at)
    }
}
