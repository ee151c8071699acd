//! Where everything is kept: the [`Store`] seam, its errors and its contract.
//!
//! ```text
//!  coordinator ──commit(Changeset)──▶ Store ──Committed { events with seq }──▶ coordinator
//!  callers     ──bounded, paged reads────▶ Store
//! ```
//!
//! # Contract
//!
//! * **One way to write.** [`Store::commit`] applies a whole [`Changeset`] or nothing of it. When
//!   it returns `Ok`, the write survives a power cut (or what [`StoreInfo::durability`] says).
//! * **Numbers.** Events get contiguous numbers, 1 for the first event of a store. A failed commit
//!   uses none up.
//! * **Versions.** A [`RowWrite`] whose `expected` version is not the stored one fails the
//!   changeset with [`StoreError::Conflict`] and leaves no trace. So does an insert of what exists.
//! * **Reads** see only what has been committed, and all of what was committed before they began.
//!   Lists are ordered by id (creation order) and cut at `limit`; the last item's id is the cursor.
//! * **Cancel safety.** Dropping the future of a commit leaves it undecided: it may still happen.
//!   Dropping a read is harmless.
//!
//! # Error classification
//!
//! An implementation MUST NOT return an error for which [`StoreError::is_unknown`] is false unless
//! nothing of the changeset was or will be applied: the engine goes on with its old state, and a
//! write that surfaces later would be lost work or a double effect. When in doubt return
//! [`StoreError::Io`]; the engine then stops, and recovery decides.
//!
//! Proven by `dash::testing::store_suite` (feature `test-util`), which every implementation runs.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::ids::{AgentId, BudgetId, EntryId, ProjectId, ReservationId, SwarmId, TaskId, TicketId};
use crate::model::budget::ReservationState;
use crate::model::{
    Agent, AgentStatus, Budget, BudgetScope, Entry, Project, Reservation, Step, StepKey, StepState,
    Swarm, SwarmStatus, Task, TaskStatus, Ticket, TicketState,
};

mod changeset;
pub use changeset::{Changeset, Committed, RowWrite};

pub mod memory;
#[cfg(test)]
mod random_tests;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use memory::MemoryStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;

/// The most items one read returns; larger limits are cut to it.
pub const PAGE_MAX: usize = 1_000;

/// Why a store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A row is not at the expected version, or exists already. Nothing was applied.
    #[error("{what} `{id}` was changed meanwhile or exists already")]
    Conflict {
        /// The kind of row.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The changeset breaks a rule of the schema. Nothing was applied. A bug of the writer.
    #[error("the write breaks a rule of the schema: {rule}")]
    Constraint {
        /// Which one, as far as the store tells.
        rule: String,
    },
    /// No space is left. Nothing was applied; reads work; writes work again once there is space.
    #[error("the disk is full")]
    Full,
    /// Another engine owns the store.
    #[error("`{path}` is in use by another process; stop it or choose another file")]
    Locked {
        /// The store's file.
        path: PathBuf,
    },
    /// The store cannot be written to.
    #[error("`{path}` cannot be written to; check its permissions and its directory's")]
    ReadOnly {
        /// The store's file.
        path: PathBuf,
    },
    /// The file holds something else.
    #[error("`{path}` is not a Dash database; choose another file")]
    NotDash {
        /// The store's file.
        path: PathBuf,
    },
    /// The store was written by a newer Dash.
    #[error("the store has schema version {found}, this Dash knows {known}; use a newer Dash")]
    Newer {
        /// The store's version.
        found: u32,
        /// The newest version this build knows.
        known: u32,
    },
    /// An applied migration is not the one this build knows.
    #[error("migration {version} of the store is not the one this Dash was built with")]
    Checksum {
        /// The migration's number.
        version: u32,
    },
    /// Stored data is damaged. No further write is made; restore a backup.
    #[error("the store is damaged, restore a backup: {detail}")]
    Corrupt {
        /// What was found.
        detail: String,
    },
    /// A write failed in a way that leaves its outcome unknown. No further write is made.
    #[error("the store failed, the outcome of the last write is unknown: {detail}")]
    Io {
        /// What the system said.
        detail: String,
    },
    /// Opening failed before anything was touched.
    #[error("failed to open the store: {detail}")]
    Open {
        /// What the system said.
        detail: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether a commit that returned this may have been applied nevertheless.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Corrupt { .. } | Self::Closed)
    }
}

impl From<StoreError> for Error {
    fn from(err: StoreError) -> Self {
        let (kind, message) = match &err {
            StoreError::Conflict { what, .. } => {
                (ErrorKind::Conflict, format!("failed to write the {what}"))
            }
            StoreError::Constraint { .. } => (
                ErrorKind::Internal,
                "failed to write to the store".to_owned(),
            ),
            StoreError::Full | StoreError::Locked { .. } | StoreError::ReadOnly { .. } => (
                ErrorKind::Unavailable,
                "the store cannot be written to".to_owned(),
            ),
            StoreError::Open { .. } => (
                ErrorKind::Unavailable,
                "the store cannot be opened".to_owned(),
            ),
            StoreError::NotDash { .. }
            | StoreError::Newer { .. }
            | StoreError::Checksum { .. }
            | StoreError::Corrupt { .. } => {
                (ErrorKind::Data, "the store cannot be used".to_owned())
            }
            StoreError::Io { .. } => (ErrorKind::Unavailable, "the store failed".to_owned()),
            StoreError::Closed => (ErrorKind::Closed, "the store is closed".to_owned()),
        };
        Self::new(kind, message).with_source(err)
    }
}

/// What a store is, for logs and health reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInfo {
    /// E.g. `sqlite 3.54.1` or `memory`.
    pub backend: String,
    /// What an acknowledged write survives, in words, e.g. `power loss (WAL, synchronous=FULL)`.
    pub durability: String,
    /// Where it is, if it is a file.
    pub path: Option<PathBuf>,
}

/// A window on a list ordered by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page<Id> {
    /// Only items after this one.
    pub after: Option<Id>,
    /// At most this many; cut to [`PAGE_MAX`].
    pub limit: usize,
}

impl<Id> Page<Id> {
    /// The first `limit` items.
    #[must_use]
    pub const fn first(limit: usize) -> Self {
        Self { after: None, limit }
    }

    /// `limit`, cut to [`PAGE_MAX`].
    #[must_use]
    pub fn size(&self) -> usize {
        self.limit.min(PAGE_MAX)
    }
}

/// Which swarms to list. Empty lists and `None` mean all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwarmFilter {
    /// Only in this project.
    pub project_id: Option<ProjectId>,
    /// Only in one of these states.
    pub statuses: Vec<SwarmStatus>,
}

/// Which agents to list. Empty lists and `None` mean all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// Only of this swarm.
    pub swarm_id: Option<SwarmId>,
    /// Only children of this agent.
    pub parent_id: Option<AgentId>,
    /// Only in one of these states.
    pub statuses: Vec<AgentStatus>,
}

/// Which tasks to list. Empty lists and `None` mean all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Only of this swarm.
    pub swarm_id: Option<SwarmId>,
    /// Only in one of these states.
    pub statuses: Vec<TaskStatus>,
}

/// Which budgets to list. `None` means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetFilter {
    /// Only of this entity.
    pub entity: Option<(BudgetScope, String)>,
    /// Only direct children of this node.
    pub parent_id: Option<BudgetId>,
}

/// Which steps to list. Empty lists and `None` mean all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepFilter {
    /// Only of this agent.
    pub agent_id: Option<AgentId>,
    /// Only in one of these states.
    pub states: Vec<StepState>,
}

/// Which reservations to list. Empty lists and `None` mean all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReservationFilter {
    /// Only of this agent.
    pub agent_id: Option<AgentId>,
    /// Only in one of these states.
    pub states: Vec<ReservationState>,
}

/// Which queued messages to list. `None` means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TicketFilter {
    /// Only for this agent.
    pub agent_id: Option<AgentId>,
    /// Only in this state.
    pub state: Option<TicketState>,
}

/// Which events to list. Empty lists and `None` mean all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only of this swarm.
    pub swarm_id: Option<SwarmId>,
    /// Only about this agent, swarm or `system`.
    pub source: Option<String>,
    /// Only of these types (wire names).
    pub types: Vec<String>,
}

impl EventFilter {
    /// Whether an event is wanted.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let swarm = self.swarm_id.is_none() || self.swarm_id == event.swarm_id;
        let source = self
            .source
            .as_ref()
            .is_none_or(|source| *source == event.source);
        let name = event.kind.name();
        swarm && source && (self.types.is_empty() || self.types.iter().any(|t| t == name))
    }
}

/// Where everything is kept. See the module's contract.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// What this store is.
    fn info(&self) -> StoreInfo;

    /// Applies a changeset, all or nothing. Returns after it is durable.
    async fn commit(&self, changeset: Changeset) -> Result<Committed, StoreError>;

    /// The project of this name.
    async fn find_project(&self, name: &str) -> Result<Option<Project>, StoreError>;

    /// One swarm.
    async fn find_swarm(&self, id: SwarmId) -> Result<Option<Swarm>, StoreError>;

    /// Swarms, by id.
    async fn list_swarms(
        &self,
        filter: &SwarmFilter,
        page: Page<SwarmId>,
    ) -> Result<Vec<Swarm>, StoreError>;

    /// One agent.
    async fn find_agent(&self, id: AgentId) -> Result<Option<Agent>, StoreError>;

    /// Agents, by id.
    async fn list_agents(
        &self,
        filter: &AgentFilter,
        page: Page<AgentId>,
    ) -> Result<Vec<Agent>, StoreError>;

    /// One task.
    async fn find_task(&self, id: TaskId) -> Result<Option<Task>, StoreError>;

    /// Tasks, by id.
    async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: Page<TaskId>,
    ) -> Result<Vec<Task>, StoreError>;

    /// One budget.
    async fn find_budget(&self, id: BudgetId) -> Result<Option<Budget>, StoreError>;

    /// Budgets, by id.
    async fn list_budgets(
        &self,
        filter: &BudgetFilter,
        page: Page<BudgetId>,
    ) -> Result<Vec<Budget>, StoreError>;

    /// One step.
    async fn find_step(&self, agent: AgentId, key: StepKey) -> Result<Option<Step>, StoreError>;

    /// Steps, by agent and then by key in its order.
    async fn list_steps(
        &self,
        filter: &StepFilter,
        page: Page<(AgentId, StepKey)>,
    ) -> Result<Vec<Step>, StoreError>;

    /// Reservations, by id.
    async fn list_reservations(
        &self,
        filter: &ReservationFilter,
        page: Page<ReservationId>,
    ) -> Result<Vec<Reservation>, StoreError>;

    /// Queued messages, by id.
    async fn list_tickets(
        &self,
        filter: &TicketFilter,
        page: Page<TicketId>,
    ) -> Result<Vec<Ticket>, StoreError>;

    /// The path that ends in `head`, first entry first. At most the newest `limit` entries
    /// (not cut to [`PAGE_MAX`]: a conversation is needed whole).
    async fn list_path(&self, head: EntryId, limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// Events with a number above `after`, by number.
    async fn list_events(
        &self,
        filter: &EventFilter,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError>;

    /// The number of the newest event; 0 if there is none.
    async fn head_seq(&self) -> Result<u64, StoreError>;

    /// Stops taking writes, waits for those under way, frees the file. Idempotent.
    async fn close(&self) -> Result<(), StoreError>;
}
