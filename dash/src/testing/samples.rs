//! A small world of rows for the tests of stores.

use std::sync::Arc;

use crate::env::UnixMillis;
use crate::event::{AgentStarted, EventKind, EventSource, NewEvent};
use crate::ids::{
    AgentId, BudgetId, EntryId, EventId, ProjectId, ReservationId, SwarmId, TaskId, TicketId,
};
use crate::model::budget::ReservationState;
use crate::model::{
    Agent, AgentStatus, Amount, Budget, BudgetScope, Currency, Entry, EntryBody, Message,
    MessageOrigin, NanoUsd, Progress, Project, Queue, Reservation, SideEffect, Step, StepKey,
    StepState, Strategy, Swarm, SwarmConfig, SwarmStatus, Task, TaskRole, TaskStatus, Thresholds,
    Ticket, TicketState, Usage,
};
use crate::store::{Changeset, RowWrite};

/// The time of every row.
pub(crate) const AT: UnixMillis = UnixMillis(1_770_028_921_123);

/// An insert.
pub(crate) const fn new<T>(row: T) -> RowWrite<T> {
    RowWrite {
        row,
        expected: None,
    }
}

/// A message of one text.
pub(crate) fn message(text: &str) -> EntryBody {
    EntryBody::Message {
        message: Arc::new(Message::user(text, MessageOrigin::Task)),
    }
}

/// One project, budget, swarm, task and agent, and rows below them.
///
/// Ids are made of a number per row, so that tests can name them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    pub(crate) project_id: ProjectId,
    pub(crate) budget_id: BudgetId,
    pub(crate) swarm_id: SwarmId,
    pub(crate) task_id: TaskId,
    pub(crate) agent_id: AgentId,
}

impl World {
    /// The world with number `n`.
    pub(crate) const fn new(n: u128) -> Self {
        let base = n << 32;
        Self {
            project_id: ProjectId::from_u128(base + 1),
            budget_id: BudgetId::from_u128(base + 2),
            swarm_id: SwarmId::from_u128(base + 3),
            task_id: TaskId::from_u128(base + 4),
            agent_id: AgentId::from_u128(base + 5),
        }
    }

    /// Everything in it, as one changeset without events.
    pub(crate) fn all(&self) -> Changeset {
        Changeset {
            projects: vec![self.project()],
            budgets: vec![new(self.budget())],
            swarms: vec![new(self.swarm())],
            tasks: vec![new(self.task())],
            agents: vec![new(self.agent())],
            ..Changeset::default()
        }
    }

    pub(crate) fn project(&self) -> Project {
        Project {
            id: self.project_id,
            name: self.project_id.to_string(),
            budget_id: self.budget_id,
            created_at: AT,
        }
    }

    pub(crate) fn budget(&self) -> Budget {
        Budget {
            id: self.budget_id,
            scope: BudgetScope::Project,
            entity_id: self.project_id.to_string(),
            parent_id: None,
            currency: Currency::Usd,
            allocated: Some(1_000),
            spent: 10,
            uncertain: 20,
            reserved: 30,
            overrun: 0,
            thresholds: Thresholds::default(),
            fired: 75,
            created_at: AT,
            updated_at: AT,
            version: 1,
        }
    }

    pub(crate) fn swarm(&self) -> Swarm {
        Swarm {
            id: self.swarm_id,
            project_id: self.project_id,
            name: "the swarm".to_owned(),
            status: SwarmStatus::Active,
            task: "count the wörds 🦀".to_owned(),
            strategy: Strategy::Dag,
            config: SwarmConfig {
                tools: Some(Vec::new()),
                ..SwarmConfig::default()
            },
            budget_id: self.budget_id,
            agent_count: 1,
            target_agent_count: 5,
            result: None,
            error: None,
            created_at: AT,
            updated_at: AT,
            completed_at: None,
            version: 1,
        }
    }

    pub(crate) fn task(&self) -> Task {
        Task {
            id: self.task_id,
            swarm_id: self.swarm_id,
            key: "map/0".to_owned(),
            role: TaskRole::Map,
            prompt: "count".to_owned(),
            depends_on: vec![TaskId::from_u128(9)],
            status: TaskStatus::Running,
            agent_id: Some(self.agent_id),
            output: None,
            error: None,
            ordinal: 3,
            created_at: AT,
            updated_at: AT,
            completed_at: None,
            version: 1,
        }
    }

    pub(crate) fn agent(&self) -> Agent {
        Agent {
            id: self.agent_id,
            name: "worker".to_owned(),
            status: AgentStatus::Running,
            swarm_id: self.swarm_id,
            parent_id: None,
            depth: 0,
            task_id: Some(self.task_id),
            model: "scripted".to_owned(),
            profile: Some("reviewer".to_owned()),
            head: Some(EntryId::from_u128(1)),
            turns: 1,
            tool_calls: 2,
            progress: Progress {
                current: 3,
                total: 4,
            },
            usage: Usage {
                input: 5,
                output: 6,
                cache_read: 7,
                cache_write: 8,
                reasoning: 2,
                cache_write_long: 3,
            },
            cost: NanoUsd(9),
            pause_reason: None,
            result: None,
            error: Some("once".to_owned()),
            retry_count: 1,
            max_retries: 3,
            attempt: 1,
            attempt_turns: 1,
            retry_at: Some(AT),
            created_at: AT,
            updated_at: AT,
            started_at: Some(AT),
            completed_at: None,
            version: 1,
        }
    }

    /// A further agent of the swarm, child of the first.
    pub(crate) fn child(&self, n: u128) -> Agent {
        Agent {
            id: AgentId::from_u128(self.agent_id.as_u128() + n),
            parent_id: Some(self.agent_id),
            depth: 1,
            ..self.agent()
        }
    }

    /// The entry `n`, child of `n - 1`; 1 is a root.
    pub(crate) fn entry(&self, n: u128, body: EntryBody) -> Entry {
        let id = |n: u128| EntryId::from_u128((self.agent_id.as_u128() << 32) + n);
        Entry {
            id: id(n),
            agent_id: self.agent_id,
            parent_id: (n > 1).then(|| id(n - 1)),
            step: None,
            body,
            at: AT,
        }
    }

    pub(crate) fn step(&self, key: StepKey) -> Step {
        Step {
            agent_id: self.agent_id,
            key,
            state: StepState::Intended,
            side_effect: SideEffect::Once,
            name: "write_file".to_owned(),
            tries: 1,
            call_id: None,
            reservation_id: None,
            entry_id: None,
            note: None,
            created_at: AT,
            finished_at: None,
        }
    }

    pub(crate) fn reservation(&self, n: u128) -> Reservation {
        Reservation {
            id: ReservationId::from_u128((self.agent_id.as_u128() << 32) + n),
            budget_id: self.budget_id,
            agent_id: self.agent_id,
            step: StepKey::Model {
                turn: 1,
                attempt: 0,
            },
            state: ReservationState::Held,
            held: Amount {
                usd: NanoUsd(30),
                tokens: 4_000,
            },
            actual: None,
            created_at: AT,
        }
    }

    pub(crate) fn ticket(&self, n: u128) -> Ticket {
        Ticket {
            id: TicketId::from_u128((self.agent_id.as_u128() << 32) + n),
            agent_id: self.agent_id,
            queue: Queue::FollowUp,
            text: "and then?".to_owned(),
            state: TicketState::Queued,
            created_at: AT,
        }
    }

    /// An event of the agent.
    pub(crate) fn event(&self, n: u32) -> NewEvent {
        self.event_of(
            AgentStarted {
                agent_id: self.agent_id,
                attempt: n,
                resumed: false,
            }
            .into(),
        )
    }

    pub(crate) const fn event_of(&self, kind: EventKind) -> NewEvent {
        NewEvent {
            id: EventId::from_u128(7),
            at: AT,
            swarm_id: Some(self.swarm_id),
            source: EventSource::Agent(self.agent_id),
            kind,
        }
    }

    /// A changeset of events alone.
    pub(crate) fn events(&self, count: u32) -> Changeset {
        let events = (0..count).map(|n| self.event(n)).collect();
        Changeset {
            events,
            ..Changeset::default()
        }
    }
}
