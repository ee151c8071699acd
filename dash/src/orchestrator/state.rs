//! The coordinator's picture of everything that is alive: rows with their versions, plans, and the
//! runtime of agents. Plain data; [`decide`](super::decide) changes it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use super::effect::{Effect, Reply, ReplyId};
use crate::Result;
use crate::env::UnixMillis;
use crate::ids::{AgentId, BudgetId, ReservationId, SwarmId, TaskId};
use crate::llm::Model;
use crate::model::{
    Agent, Budget, Project, Reservation, Step, StepKey, StepKind, Swarm, SwarmStatus, Task,
    TaskRole, TaskStatus, Ticket, Version,
};
use crate::mutation::{self, Mutation};
use crate::policy::burn::BurnWindow;
use crate::settings::Settings;
use crate::spawn::Next;
use crate::store::{Changeset, RowWrite};

/// What is known of an agent's open work beside its row, when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenWork {
    /// Whether its output is part of the swarm's result.
    pub(crate) makes_result: bool,
    /// Whether a call that sums its conversation up has no outcome yet.
    pub(crate) summary_open: bool,
}

/// A row that is written with an expected version.
pub(crate) trait Row: Clone {
    type Id: Copy + Eq + Hash;
    fn id(&self) -> Self::Id;
    fn version(&self) -> Version;
    fn touch(&mut self, version: Version, at: UnixMillis);
}

macro_rules! rows {
    ($($row:ident: $id:ident),*) => {$(
        impl Row for $row {
            type Id = $id;
            fn id(&self) -> $id {
                self.id
            }
            fn version(&self) -> Version {
                self.version
            }
            fn touch(&mut self, version: Version, at: UnixMillis) {
                self.version = version;
                self.updated_at = at;
            }
        }
    )*};
}

rows!(Swarm: SwarmId, Agent: AgentId, Task: TaskId, Budget: BudgetId);

/// Rows by id, and which of them the next commit must write.
#[derive(Debug)]
pub(crate) struct Table<R: Row> {
    /// Boxed: a map has up to twice the places it needs.
    rows: HashMap<R::Id, Box<R>>,
    /// Changed rows in the order of their first change, with the version the store has.
    dirty: Vec<(R::Id, Option<Version>)>,
    dirty_ids: HashSet<R::Id>,
}

impl<R: Row> Default for Table<R> {
    fn default() -> Self {
        Self {
            rows: HashMap::new(),
            dirty: Vec::new(),
            dirty_ids: HashSet::new(),
        }
    }
}

impl<R: Row> Table<R> {
    pub(crate) fn get(&self, id: R::Id) -> Option<&R> {
        self.rows.get(&id).map(Box::as_ref)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &R> {
        self.rows.values().map(Box::as_ref)
    }

    /// A row to be changed; the next commit writes it.
    pub(crate) fn edit(&mut self, id: R::Id, now: UnixMillis) -> Option<&mut R> {
        let row = self.rows.get_mut(&id)?;
        if self.dirty_ids.insert(id) {
            self.dirty.push((id, Some(row.version())));
            let step = u64::from(!mutation::active(Mutation::KeepVersion));
            row.touch(row.version() + step, now);
        }
        Some(row)
    }

    /// A new row.
    pub(crate) fn insert(&mut self, row: R) {
        let id = row.id();
        if self.dirty_ids.insert(id) {
            self.dirty.push((id, None));
        }
        self.rows.insert(id, Box::new(row));
    }

    /// A row as the store has it.
    pub(crate) fn load(&mut self, row: R) {
        self.rows.entry(row.id()).or_insert_with(|| Box::new(row));
    }

    pub(crate) fn forget(&mut self, id: R::Id) {
        self.rows.remove(&id);
    }

    /// Whether the next commit writes this row.
    fn is_dirty(&self, id: R::Id) -> bool {
        self.dirty_ids.contains(&id)
    }

    /// The rows that the next commit writes.
    fn dirty(&self) -> impl Iterator<Item = &R> {
        self.dirty.iter().filter_map(|(id, _)| self.get(*id))
    }

    fn take_writes(&mut self) -> Vec<RowWrite<R>> {
        self.dirty_ids.clear();
        let rows = &self.rows;
        let write = |(id, expected): (R::Id, Option<Version>)| {
            rows.get(&id).map(|row| RowWrite {
                row: R::clone(row),
                expected,
            })
        };
        std::mem::take(&mut self.dirty)
            .into_iter()
            .filter_map(write)
            .collect()
    }
}

/// A swarm's plan and people, derived from its rows.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Tasks in the order of their creation.
    pub(crate) tasks: Vec<TaskId>,
    pub(crate) by_key: HashMap<String, TaskId>,
    pub(crate) dependents: HashMap<TaskId, Vec<TaskId>>,
    pub(crate) ready: BTreeSet<(u32, TaskId)>,
    /// Tasks that have not ended.
    pub(crate) open_tasks: u32,
    /// Agents that have not ended, idle ones included.
    pub(crate) agents: BTreeSet<AgentId>,
    /// Agents without a task.
    pub(crate) idle: BTreeSet<AgentId>,
}

impl Plan {
    pub(crate) fn add(&mut self, task: &Task) {
        self.tasks.push(task.id);
        self.by_key.insert(task.key.clone(), task.id);
        for dependency in &task.depends_on {
            self.dependents
                .entry(*dependency)
                .or_default()
                .push(task.id);
        }
        if task.status == TaskStatus::Ready {
            self.ready.insert((task.ordinal, task.id));
        }
        if !task.status.is_terminal() {
            self.open_tasks += 1;
        }
    }

    /// Agents that have a task.
    pub(crate) fn busy(&self) -> usize {
        self.agents.len() - self.idle.len()
    }
}

/// A request for the next step that waits: for a resume, a budget or a free slot.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) reply: ReplyId,
    pub(crate) next: Next,
}

/// What an agent is in the middle of.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Whether a spawner runs it (or is about to).
    pub(crate) attached: bool,
    /// Steps that are intended or in doubt.
    pub(crate) steps: BTreeMap<StepKey, Step>,
    /// Reservations of those steps.
    pub(crate) held: HashMap<ReservationId, Reservation>,
    /// The model call under way in this process, which occupies a slot of its provider.
    pub(crate) calling: Option<StepKey>,
    /// Messages that wait for it.
    pub(crate) inbox: VecDeque<Ticket>,
    pub(crate) parked: Option<Parked>,
    /// Who waits for its end, in a tree.
    pub(crate) delegator: Option<ReplyId>,
    /// The lowest budget of its path.
    pub(crate) budget_id: Option<BudgetId>,
    /// Whether it has shown up in `agent.started` since this engine began.
    pub(crate) announced: bool,
}

/// Model calls of one provider: how many are under way, and who waits, fair between swarms.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    pub(crate) under_way: u32,
    waiting: BTreeMap<SwarmId, VecDeque<AgentId>>,
    last_served: Option<SwarmId>,
}

impl Gate {
    pub(crate) fn wait(&mut self, swarm: SwarmId, agent: AgentId) {
        self.waiting.entry(swarm).or_default().push_back(agent);
    }

    /// The next agent: round robin over swarms, first come first served within one.
    pub(crate) fn pop(&mut self) -> Option<AgentId> {
        let after = self.last_served.and_then(|last| {
            let range = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            self.waiting.range(range).next().map(|(id, _)| *id)
        });
        let swarm = after.or_else(|| self.waiting.keys().next().copied())?;
        self.last_served = Some(swarm);
        let queue = self.waiting.get_mut(&swarm)?;
        let agent = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&swarm);
        }
        agent
    }
}

/// What a run of decisions adds up to: one commit, and what follows it.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) changes: Changeset,
    pub(crate) effects: Vec<Effect>,
    pub(crate) replies: Vec<(ReplyId, Result<Reply>)>,
}

/// Everything the coordinator knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Arc<Settings>,
    pub(crate) models: Arc<HashMap<String, Arc<Model>>>,
    pub(crate) projects: HashMap<String, Project>,
    pub(crate) swarms: Table<Swarm>,
    pub(crate) agents: Table<Agent>,
    pub(crate) tasks: Table<Task>,
    pub(crate) budgets: Table<Budget>,
    pub(crate) plans: HashMap<SwarmId, Plan>,
    pub(crate) live: HashMap<AgentId, Box<Live>>,
    pub(crate) gates: HashMap<String, Gate>,
    pub(crate) budget_waiters: BTreeMap<SwarmId, VecDeque<AgentId>>,
    /// The budget node of a project, swarm, agent or task, by the owner's id as text.
    pub(crate) budget_of: HashMap<String, BudgetId>,
    pub(crate) burn: HashMap<BudgetId, BurnWindow>,
    /// Swarms whose ready tasks may find agents now.
    pub(crate) to_schedule: BTreeSet<SwarmId>,
    /// Providers that have a free slot now.
    pub(crate) to_wake: BTreeSet<String>,
    /// Whether the engine is shutting down.
    pub(crate) draining: bool,
    /// Whether money was given back, so that waiting calls may fit.
    pub(crate) money_freed: bool,
    /// The time of the newest event: events never go back.
    pub(crate) last_at: UnixMillis,
    pub(crate) out: Output,
}

impl State {
    pub(crate) fn new(settings: Arc<Settings>, models: Arc<HashMap<String, Arc<Model>>>) -> Self {
        Self {
            settings,
            models,
            projects: HashMap::new(),
            swarms: Table::default(),
            agents: Table::default(),
            tasks: Table::default(),
            budgets: Table::default(),
            plans: HashMap::new(),
            live: HashMap::new(),
            gates: HashMap::new(),
            budget_waiters: BTreeMap::new(),
            budget_of: HashMap::new(),
            burn: HashMap::new(),
            to_schedule: BTreeSet::new(),
            to_wake: BTreeSet::new(),
            draining: false,
            money_freed: false,
            last_at: UnixMillis(0),
            out: Output::default(),
        }
    }

    /// What the decisions since the last call add up to.
    pub(crate) fn take_output(&mut self) -> Output {
        let mut out = std::mem::take(&mut self.out);
        out.changes.swarms = self.swarms.take_writes();
        out.changes.agents = self.agents.take_writes();
        out.changes.tasks = self.tasks.take_writes();
        out.changes.budgets = self.budgets.take_writes();
        out
    }

    /// Drops what has ended and nobody refers to any more. Called after the commit that ended it.
    ///
    /// What was changed since is kept: the store does not have it yet. Agents among these are ended
    /// by the next commit too, if they still are; the swarms that must be looked at again are
    /// returned.
    pub(crate) fn evict(&mut self, agents: &[AgentId], swarms: &[SwarmId]) -> Vec<SwarmId> {
        for id in agents {
            let ended = self.agents.get(*id).is_some_and(|a| a.status.is_terminal());
            let attached = self.live.get(id).is_some_and(|live| live.attached);
            if ended && !attached && !self.agents.is_dirty(*id) {
                self.agents.forget(*id);
                self.live.remove(id);
            }
        }
        let mut kept = Vec::new();
        for id in swarms {
            let ended = self.swarms.get(*id).is_some_and(|s| s.status.is_terminal());
            let runs = |a: &Agent| self.live.get(&a.id).is_some_and(|live| live.attached);
            if !ended || self.agents.iter().any(|a| a.swarm_id == *id && runs(a)) {
                continue;
            }
            if self.is_dirty(*id) {
                kept.push(*id);
            } else {
                self.forget_swarm(*id);
            }
        }
        kept
    }

    /// Whether the next commit writes a row of this swarm.
    fn is_dirty(&self, id: SwarmId) -> bool {
        let budget = self.swarms.get(id).map(|s| s.budget_id);
        let mut budgets = self.budgets.dirty();
        self.swarms.is_dirty(id)
            || self.agents.dirty().any(|a| a.swarm_id == id)
            || self.tasks.dirty().any(|t| t.swarm_id == id)
            || budget.is_some_and(|top| budgets.any(|b| b.id == top || self.is_below(b.id, top)))
    }

    fn forget_swarm(&mut self, id: SwarmId) {
        let budget = self.swarms.get(id).map(|s| s.budget_id);
        if let Some(plan) = self.plans.remove(&id) {
            for task in plan.tasks {
                self.tasks.forget(task);
            }
        }
        let agents: Vec<AgentId> = self
            .agents
            .iter()
            .filter(|a| a.swarm_id == id)
            .map(|a| a.id)
            .collect();
        for agent in agents {
            self.agents.forget(agent);
            self.live.remove(&agent);
        }
        if let Some(budget) = budget {
            let below: Vec<BudgetId> = self
                .budgets
                .iter()
                .filter(|b| b.id == budget || self.is_below(b.id, budget))
                .map(|b| b.id)
                .collect();
            for id in below {
                if let Some(row) = self.budgets.get(id) {
                    self.budget_of.remove(&row.entity_id);
                }
                self.budgets.forget(id);
                self.burn.remove(&id);
            }
        }
        self.swarms.forget(id);
        self.budget_waiters.remove(&id);
    }

    /// Whether a budget lies below another.
    pub(crate) fn is_below(&self, id: BudgetId, above: BudgetId) -> bool {
        let mut at = self.budgets.get(id).and_then(|b| b.parent_id);
        while let Some(parent) = at {
            if parent == above {
                return true;
            }
            at = self.budgets.get(parent).and_then(|b| b.parent_id);
        }
        false
    }

    /// What an agent that starts must know beside its row.
    pub(crate) fn open_work(&self, agent: &Agent) -> OpenWork {
        let task = agent.task_id.and_then(|id| self.tasks.get(id));
        let makes_result = task.is_some_and(|task| {
            let plan = self.plans.get(&task.swarm_id);
            let is_needed = plan.is_some_and(|plan| plan.dependents.contains_key(&task.id));
            !is_needed && !matches!(task.role, TaskRole::Plan | TaskRole::Delegated)
        });
        let live = self.live.get(&agent.id);
        let summary_open =
            live.is_some_and(|live| live.steps.keys().any(|key| key.kind() == StepKind::Summary));
        OpenWork {
            makes_result,
            summary_open,
        }
    }

    /// Agents that have not ended, in all swarms.
    pub(crate) fn agents_alive(&self) -> usize {
        self.plans.values().map(|plan| plan.agents.len()).sum()
    }

    /// Whether a swarm is loaded and at work.
    pub(crate) fn is_active(&self, id: SwarmId) -> bool {
        self.swarms
            .get(id)
            .is_some_and(|s| s.status == SwarmStatus::Active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swarm(n: u128) -> SwarmId {
        SwarmId::from_u128(n)
    }

    fn agent(n: u128) -> AgentId {
        AgentId::from_u128(n)
    }

    #[test]
    fn waiting_calls_are_served_round_robin_over_swarms() {
        let mut gate = Gate::default();
        for n in 0..4 {
            gate.wait(swarm(1), agent(10 + n));
        }
        gate.wait(swarm(2), agent(20));
        gate.wait(swarm(3), agent(30));
        let order: Vec<AgentId> = std::iter::from_fn(|| gate.pop()).collect();
        assert_eq!(order, [10, 20, 30, 11, 12, 13].map(agent));
    }

    #[cfg(feature = "test-util")]
    #[test]
    fn what_was_changed_since_the_commit_that_ended_it_is_not_forgotten() {
        use crate::model::AgentStatus;
        use crate::testing::samples::{AT, World};

        let world = World::new(1);
        let mut state = State::new(Arc::default(), Arc::default());
        let mut ended = world.agent();
        ended.status = AgentStatus::Killed;
        let mut swarm = world.swarm();
        swarm.status = SwarmStatus::Destroyed;
        state.agents.load(ended);
        state.swarms.load(swarm);
        let (agent, swarm) = (world.agent_id, world.swarm_id);

        // A late outcome is put on its account while the commit that ended it runs.
        state.agents.edit(agent, AT).unwrap().turns += 1;
        assert_eq!(state.evict(&[agent], &[swarm]), [swarm]);
        assert!(state.agents.get(agent).is_some() && state.swarms.get(swarm).is_some());
        let written = state.take_output().changes.agents;
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].row.turns, world.agent().turns + 1);

        assert_eq!(state.evict(&[agent], &[swarm]), []);
        assert!(state.agents.get(agent).is_none() && state.swarms.get(swarm).is_none());
    }
}
