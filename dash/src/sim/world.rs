//! The world around the engine: what outlives every crash. It knows what is committed, what was
//! really done and billed, and decides from the seed what goes wrong.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::env::{Clock as _, UnixMillis};
use crate::event::{Event, EventKind};
use crate::ids::{AgentId, SwarmId};
use crate::sim::check::{Broken, History};
use crate::sim::clock::{SimClock, SimIds};
use crate::sim::plan::Plan;
use crate::sim::rng::Rng;
use crate::store::Changeset;

/// When every run begins: 2027-01-15T08:00:00Z.
const START: UnixMillis = UnixMillis(1_800_000_000_000);

/// Effects that one run may have; far more than any run needs that ends.
const EFFECTS_MAX: u64 = 60_000;

/// Lines of the run that a failure shows.
const LINES_MAX: usize = 60;

/// How long after the answer to a stop something of it may still run.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The world of one run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) clock: SimClock,
    pub(crate) ids: SimIds,
    truth: Mutex<Truth>,
    /// Wakes the run when the life is over.
    over: Notify,
}

/// What the world knows.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) history: History,
    pub(crate) rng: Rng,
    /// Faults and crashes are over.
    pub(crate) healing: bool,
    /// The outside ends the engine, so that its end is no surprise.
    pub(crate) ending: bool,
    /// How often each thing has happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    hash: blake3::Hasher,
    lines: VecDeque<String>,
    effects: u64,
    /// Effects of this life.
    in_life: u64,
    crash_at: Option<u64>,
    crashed: bool,
    broken: Option<Broken>,
    next_alive: u64,
    alive: BTreeMap<u64, Alive>,
    stopped_agents: BTreeMap<AgentId, UnixMillis>,
    stopped_swarms: BTreeMap<SwarmId, UnixMillis>,
}

/// A stream of a provider or a call of a tool that runs.
#[derive(Debug, Clone)]
pub(crate) struct Alive {
    pub(crate) what: String,
    agent: Option<AgentId>,
    swarm: Option<SwarmId>,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        let seed = plan.seed;
        Arc::new(Self {
            clock: SimClock::new(START),
            ids: SimIds::new(seed),
            truth: Mutex::new(Truth {
                history: History::default(),
                rng: Rng::of(seed, "world"),
                healing: false,
                ending: false,
                counts: BTreeMap::new(),
                hash: blake3::Hasher::new(),
                lines: VecDeque::new(),
                effects: 0,
                in_life: 0,
                crash_at: None,
                crashed: false,
                broken: None,
                next_alive: 0,
                alive: BTreeMap::new(),
                stopped_agents: BTreeMap::new(),
                stopped_swarms: BTreeMap::new(),
            }),
            over: Notify::new(),
            plan,
        })
    }

    /// Looks at or changes what is known. Held for a few lines, never across an `await`.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Truth) -> T) -> T {
        f(&mut self.truth.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Milliseconds since the run began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.now().since(START)
    }

    // ---- lives ----

    /// Begins a life, which ends after `crash_at` effects.
    pub(crate) fn begin_life(&self, crash_at: Option<u64>) {
        self.with(|truth| {
            truth.crash_at = crash_at.filter(|_| !truth.healing);
            truth.crashed = false;
            truth.ending = false;
            truth.in_life = 0;
            truth.count("lives");
        });
        self.clock.start();
    }

    /// Waits for the crash, or for something that breaks a rule.
    pub(crate) async fn over(&self) {
        while !self.with(|truth| truth.is_over()) {
            self.over.notified().await;
        }
    }

    /// Ends faults and crashes.
    pub(crate) fn heal(&self) {
        self.with(|truth| {
            truth.healing = true;
            truth.crash_at = None;
        });
        self.note("world", "faults end");
    }

    pub(crate) fn is_healing(&self) -> bool {
        self.with(|truth| truth.healing)
    }

    /// One thing that reaches out of the engine, and the only place where it dies: then this never
    /// returns. Before and after every effect.
    pub(crate) async fn effect(&self, what: &str) {
        if self.touch(what) {
            return std::future::pending().await;
        }
        if self.with(|truth| truth.rng.chance(self.plan.shuffle)) {
            tokio::task::yield_now().await;
        }
    }

    /// The same where nobody can wait. True = the life is over.
    pub(crate) fn touch(&self, what: &str) -> bool {
        let is_over = self.with(|truth| {
            truth.effects += 1;
            truth.in_life += 1;
            if truth.effects > EFFECTS_MAX {
                let why = format!("more than {EFFECTS_MAX} effects, at last: {what}");
                truth.breaks(Broken::new("everything_ends", why));
            }
            if truth.crash_at == Some(truth.in_life) && !truth.is_over() {
                truth.crashed = true;
                truth.count("crashes");
                truth.line(format!("crash at {what}"));
            }
            truth.is_over()
        });
        if is_over {
            self.over.notify_one();
        }
        is_over
    }

    // ---- what is noted ----

    /// Notes what happened; the hash of the run is made of these.
    pub(crate) fn note(&self, what: &str, detail: &str) {
        let at = self.elapsed().as_millis();
        self.with(|truth| {
            let line = format!("{at:>7} {what} {detail}");
            truth.hash.update(line.as_bytes());
            truth.hash.update(b"\n");
            truth.line(line);
        });
    }

    pub(crate) fn breaks(&self, broken: Broken) {
        self.with(|truth| truth.breaks(broken));
        self.over.notify_one();
    }

    /// Keeps what a check has found.
    pub(crate) fn check(&self, found: Result<(), Broken>) {
        if let Err(broken) = found {
            self.breaks(broken);
        }
    }

    pub(crate) fn broken(&self) -> Option<Broken> {
        self.with(|truth| truth.broken.clone())
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.with(|truth| truth.lines.iter().cloned().collect())
    }

    pub(crate) fn hash(&self) -> String {
        self.with(|truth| truth.hash.finalize().to_hex().to_string())
    }

    pub(crate) fn count(&self, what: &'static str) {
        self.with(|truth| truth.count(what));
    }

    /// Takes over what a commit has made true, and checks it.
    pub(crate) fn committed(&self, changes: &Changeset, events: &[Event]) {
        for event in events {
            let json = serde_json::to_string(event).unwrap_or_default();
            self.note("event", &json);
            let name = EventKind::NAMES.iter().find(|n| **n == event.kind.name());
            if let Some(name) = name {
                self.count(name);
            }
        }
        let found = self.with(|truth| truth.history.take(changes, events));
        self.check(found);
    }

    // ---- what runs ----

    /// Notes that something runs for an agent, until the guard is dropped.
    pub(crate) fn runs(
        self: &Arc<Self>,
        what: String,
        agent: Option<AgentId>,
        swarm: Option<SwarmId>,
    ) -> Running {
        let alive = Alive { what, agent, swarm };
        self.check_stopped(&alive);
        let number = self.with(|truth| {
            truth.next_alive += 1;
            truth.alive.insert(truth.next_alive, alive);
            truth.next_alive
        });
        Running {
            world: Arc::clone(self),
            number,
        }
    }

    /// Notes that a caller was told that an agent has been stopped.
    pub(crate) fn agent_stopped(&self, id: AgentId) {
        let now = self.clock.now();
        self.with(|truth| {
            truth.stopped_agents.entry(id).or_insert(now);
        });
    }

    /// Notes that a caller was told that a swarm has been stopped.
    pub(crate) fn swarm_stopped(&self, id: SwarmId) {
        let now = self.clock.now();
        self.with(|truth| {
            truth.stopped_swarms.entry(id).or_insert(now);
        });
    }

    fn check_stopped(&self, alive: &Alive) {
        let now = self.clock.now();
        let stopped = self.with(|truth| {
            let by_agent = alive.agent.and_then(|id| truth.stopped_agents.get(&id));
            let by_swarm = alive.swarm.and_then(|id| truth.stopped_swarms.get(&id));
            let at = by_agent.into_iter().chain(by_swarm).min().copied()?;
            Some(now.since(at))
        });
        if let Some(late) = stopped.filter(|late| *late > STOP_GRACE) {
            let why = format!("{} ran {late:?} after its end was told", alive.what);
            self.breaks(Broken::new("a_stop_leaves_nothing_running", why));
        }
    }

    /// What runs now.
    pub(crate) fn alive(&self) -> Vec<String> {
        self.with(|truth| truth.alive.values().map(|a| a.what.clone()).collect())
    }
}

impl Truth {
    fn is_over(&self) -> bool {
        self.crashed || self.broken.is_some()
    }

    fn breaks(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn line(&mut self, mut line: String) {
        if line.len() > 400 {
            let mut end = 400;
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            let rest = line.len() - end;
            line.truncate(end);
            // Writing to a text cannot fail.
            let _written = write!(line, "… ({rest} bytes more)");
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Whether something goes wrong that does so in `per_mille` of a thousand cases.
    pub(crate) fn fails(&mut self, per_mille: u64) -> bool {
        !self.healing && self.rng.between(0, 999) < per_mille
    }
}

/// Something that runs; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    world: Arc<World>,
    number: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        let ended = self.world.with(|truth| truth.alive.remove(&self.number));
        if let Some(ended) = ended {
            self.world.check_stopped(&ended);
        }
    }
}
