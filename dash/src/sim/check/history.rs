//! What is known of a run to be true: rows and events that were committed, answers that callers
//! got, effects that really happened and what was really billed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Found, ends, rows};
use crate::event::{Event, EventKind};
use crate::ids::{AgentId, BudgetId, EntryId, EventId, ReservationId, SwarmId, TaskId, TicketId};
use crate::model::{
    Agent, Amount, Budget, Reservation, SideEffect, Step, StepKey, Swarm, Task, Ticket,
};
use crate::store::Changeset;

/// A write that a caller was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ack {
    /// A swarm was created.
    Swarm(SwarmId),
    /// An agent was created.
    Agent(AgentId),
    /// A task was created.
    Task(TaskId),
    /// A message was queued.
    Ticket(TicketId),
    /// A step in doubt was settled.
    Resolved(AgentId, StepKey),
    /// A swarm was destroyed.
    Destroyed(SwarmId),
    /// An agent was killed.
    Killed(AgentId),
}

/// A call of a tool that really had its effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The tool.
    pub tool: String,
    /// What may be done with it after a crash.
    pub class: SideEffect,
    /// The try that it was told.
    pub try_number: u32,
}

/// What a provider really billed for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bill {
    /// How much.
    pub amount: Amount,
    /// Whether the server broke its own limit: then more than the worst case.
    pub is_over: bool,
}

/// What is known of a run to be true.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Budgets as committed.
    pub budgets: BTreeMap<BudgetId, Budget>,
    /// Swarms as committed.
    pub swarms: BTreeMap<SwarmId, Swarm>,
    /// Tasks as committed.
    pub tasks: BTreeMap<TaskId, Task>,
    /// Agents as committed.
    pub agents: BTreeMap<AgentId, Agent>,
    /// Reservations as committed.
    pub reservations: BTreeMap<ReservationId, Reservation>,
    /// The reservations of each step.
    pub held_for: BTreeMap<(AgentId, StepKey), BTreeSet<ReservationId>>,
    /// Steps as committed.
    pub steps: BTreeMap<(AgentId, StepKey), Step>,
    /// Messages on their way as committed.
    pub tickets: BTreeMap<TicketId, Ticket>,
    /// Entries that were committed, by agent.
    pub entries: BTreeMap<AgentId, Vec<EntryId>>,
    /// The ids of all committed events; the first has number 1.
    pub events: Vec<EventId>,
    /// Where each agent is, by the events alone.
    pub told_agents: BTreeMap<AgentId, crate::model::AgentStatus>,
    /// How often someone decided that a step in doubt shall run again.
    pub retries: BTreeMap<(AgentId, StepKey), u32>,
    /// What callers were told.
    pub acks: BTreeSet<Ack>,
    /// What tools really did, by idempotency key.
    pub runs: BTreeMap<String, Vec<Run>>,
    /// What was really billed, by idempotency key.
    pub bills: BTreeMap<String, Vec<Bill>>,
}

impl History {
    /// Checks what a commit has written against what was there, and takes it over.
    ///
    /// # Errors
    ///
    /// The first invariant that does not hold.
    pub fn take(&mut self, changes: &Changeset, events: &[Event]) -> Found {
        rows::seq_has_no_gap(self, events)?;
        rows::moves_are_legal(self, changes)?;
        rows::no_step_is_done_twice(self, changes)?;
        rows::spent_is_within_caps(changes)?;
        self.take_rows(changes);
        if !changes.agents.is_empty() || !changes.swarms.is_empty() {
            ends::no_agent_is_orphaned(self)?;
        }
        if !changes.tasks.is_empty() || !changes.swarms.is_empty() {
            ends::tasks_of_finished_swarms_are_terminal(self)?;
        }
        for event in events {
            self.events.push(event.id);
            rows::events_tell_legal_moves(self, event)?;
            if let EventKind::StepResolved(resolved) = &event.kind
                && resolved.resolution == "retry"
            {
                *self
                    .retries
                    .entry((resolved.agent_id, resolved.step))
                    .or_default() += 1;
            }
        }
        Ok(())
    }

    fn take_rows(&mut self, changes: &Changeset) {
        let budgets = changes.budgets.iter().map(|w| (w.row.id, w.row.clone()));
        self.budgets.extend(budgets);
        let swarms = changes.swarms.iter().map(|w| (w.row.id, w.row.clone()));
        self.swarms.extend(swarms);
        let tasks = changes.tasks.iter().map(|w| (w.row.id, w.row.clone()));
        self.tasks.extend(tasks);
        let agents = changes.agents.iter().map(|w| (w.row.id, w.row.clone()));
        self.agents.extend(agents);
        for row in &changes.reservations {
            let key = (row.agent_id, row.step);
            self.held_for.entry(key).or_default().insert(row.id);
            self.reservations.insert(row.id, row.clone());
        }
        let steps = changes
            .steps
            .iter()
            .map(|s| ((s.agent_id, s.key), s.clone()));
        self.steps.extend(steps);
        let tickets = changes.tickets.iter().map(|t| (t.id, t.clone()));
        self.tickets.extend(tickets);
        for entry in &changes.entries {
            self.entries
                .entry(entry.agent_id)
                .or_default()
                .push(entry.id);
        }
    }

    /// The agent and step of an idempotency key.
    #[must_use]
    pub fn step_of(key: &str) -> Option<(AgentId, StepKey)> {
        let (agent, step) = key.split_once('/')?;
        Some((agent.parse().ok()?, step.parse().ok()?))
    }

    /// The reservations that a step has had, oldest first.
    pub fn reservations_of(
        &self,
        agent: AgentId,
        step: StepKey,
    ) -> impl Iterator<Item = &Reservation> {
        let ids = self.held_for.get(&(agent, step)).into_iter().flatten();
        ids.filter_map(|id| self.reservations.get(id))
    }
}
