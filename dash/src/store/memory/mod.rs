//! The in-memory store: for tests and for runs that need not survive.
//!
//! Stricter than any database: it also refuses illegal moves of a status, events that go back in
//! time, and changes of what never changes. What it refuses is a bug of the writer.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{
    AgentFilter, BudgetFilter, Changeset, Committed, EventFilter, PAGE_MAX, Page,
    ReservationFilter, StepFilter, Store, StoreError, StoreInfo, SwarmFilter, TaskFilter,
    TicketFilter,
};
use crate::event::Event;
use crate::ids::{AgentId, BudgetId, EntryId, ProjectId, ReservationId, SwarmId, TaskId, TicketId};
use crate::model::{
    Agent, Budget, Entry, Project, Reservation, Step, StepKey, Swarm, Task, Ticket,
};

mod rules;

/// A [`Store`] in memory; everything is lost when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

/// The rows. A commit works on the rows it touches and undoes them if it is refused.
#[derive(Debug, Default)]
struct Tables {
    is_closed: bool,
    projects: BTreeMap<ProjectId, Project>,
    project_names: HashMap<String, ProjectId>,
    budgets: BTreeMap<BudgetId, Budget>,
    swarms: BTreeMap<SwarmId, Swarm>,
    tasks: BTreeMap<TaskId, Task>,
    task_keys: HashMap<(SwarmId, String), TaskId>,
    agents: BTreeMap<AgentId, Agent>,
    reservations: BTreeMap<ReservationId, Reservation>,
    entries: BTreeMap<EntryId, Entry>,
    steps: BTreeMap<(AgentId, StepKey), Step>,
    tickets: BTreeMap<TicketId, Ticket>,
    events: Vec<Event>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The rows, unless the store was closed. Held for a few lines, never across an `await`.
    fn open(&self) -> Result<MutexGuard<'_, Tables>, StoreError> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.is_closed {
            Err(StoreError::Closed)
        } else {
            Ok(tables)
        }
    }
}

/// The rows of a page that pass a filter.
fn page<K: Ord + Copy, V: Clone>(
    table: &BTreeMap<K, V>,
    page: Page<K>,
    keep: impl Fn(&V) -> bool,
) -> Vec<V> {
    use std::ops::Bound;
    let start = page.after.map_or(Bound::Unbounded, Bound::Excluded);
    let rows = table.range((start, Bound::Unbounded)).map(|(_, row)| row);
    rows.filter(|row| keep(row))
        .take(page.size())
        .cloned()
        .collect()
}

fn any<T: PartialEq>(wanted: &[T], value: &T) -> bool {
    wanted.is_empty() || wanted.contains(value)
}

fn is<T: PartialEq>(wanted: Option<&T>, value: &T) -> bool {
    wanted.is_none_or(|wanted| wanted == value)
}

#[async_trait]
impl Store for MemoryStore {
    fn info(&self) -> StoreInfo {
        StoreInfo {
            backend: "memory".to_owned(),
            durability: "nothing: lost with the process".to_owned(),
            path: None,
        }
    }

    async fn commit(&self, changeset: Changeset) -> Result<Committed, StoreError> {
        let mut tables = self.open()?;
        rules::apply(&mut tables, changeset)
    }

    async fn find_project(&self, name: &str) -> Result<Option<Project>, StoreError> {
        let tables = self.open()?;
        let id = tables.project_names.get(name);
        Ok(id.and_then(|id| tables.projects.get(id)).cloned())
    }

    async fn find_swarm(&self, id: SwarmId) -> Result<Option<Swarm>, StoreError> {
        Ok(self.open()?.swarms.get(&id).cloned())
    }

    async fn list_swarms(
        &self,
        filter: &SwarmFilter,
        window: Page<SwarmId>,
    ) -> Result<Vec<Swarm>, StoreError> {
        Ok(page(&self.open()?.swarms, window, |row| {
            is(filter.project_id.as_ref(), &row.project_id) && any(&filter.statuses, &row.status)
        }))
    }

    async fn find_agent(&self, id: AgentId) -> Result<Option<Agent>, StoreError> {
        Ok(self.open()?.agents.get(&id).cloned())
    }

    async fn list_agents(
        &self,
        filter: &AgentFilter,
        window: Page<AgentId>,
    ) -> Result<Vec<Agent>, StoreError> {
        Ok(page(&self.open()?.agents, window, |row| {
            is(filter.swarm_id.as_ref(), &row.swarm_id)
                && (filter.parent_id.is_none() || filter.parent_id == row.parent_id)
                && any(&filter.statuses, &row.status)
        }))
    }

    async fn find_task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        Ok(self.open()?.tasks.get(&id).cloned())
    }

    async fn list_tasks(
        &self,
        filter: &TaskFilter,
        window: Page<TaskId>,
    ) -> Result<Vec<Task>, StoreError> {
        Ok(page(&self.open()?.tasks, window, |row| {
            is(filter.swarm_id.as_ref(), &row.swarm_id) && any(&filter.statuses, &row.status)
        }))
    }

    async fn find_budget(&self, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        Ok(self.open()?.budgets.get(&id).cloned())
    }

    async fn list_budgets(
        &self,
        filter: &BudgetFilter,
        window: Page<BudgetId>,
    ) -> Result<Vec<Budget>, StoreError> {
        Ok(page(&self.open()?.budgets, window, |row| {
            let entity = filter.entity.as_ref();
            entity.is_none_or(|(scope, id)| *scope == row.scope && *id == row.entity_id)
                && (filter.parent_id.is_none() || filter.parent_id == row.parent_id)
        }))
    }

    async fn find_step(&self, agent: AgentId, key: StepKey) -> Result<Option<Step>, StoreError> {
        Ok(self.open()?.steps.get(&(agent, key)).cloned())
    }

    async fn list_steps(
        &self,
        filter: &StepFilter,
        window: Page<(AgentId, StepKey)>,
    ) -> Result<Vec<Step>, StoreError> {
        Ok(page(&self.open()?.steps, window, |row| {
            is(filter.agent_id.as_ref(), &row.agent_id) && any(&filter.states, &row.state)
        }))
    }

    async fn list_reservations(
        &self,
        filter: &ReservationFilter,
        window: Page<ReservationId>,
    ) -> Result<Vec<Reservation>, StoreError> {
        Ok(page(&self.open()?.reservations, window, |row| {
            is(filter.agent_id.as_ref(), &row.agent_id) && any(&filter.states, &row.state)
        }))
    }

    async fn list_tickets(
        &self,
        filter: &TicketFilter,
        window: Page<TicketId>,
    ) -> Result<Vec<Ticket>, StoreError> {
        Ok(page(&self.open()?.tickets, window, |row| {
            is(filter.agent_id.as_ref(), &row.agent_id) && is(filter.state.as_ref(), &row.state)
        }))
    }

    async fn list_path(&self, head: EntryId, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let tables = self.open()?;
        let parent = |entry: &&Entry| entry.parent_id.and_then(|id| tables.entries.get(&id));
        let walk = std::iter::successors(tables.entries.get(&head), parent);
        let mut path: Vec<_> = walk.take(limit).cloned().collect();
        path.reverse();
        Ok(path)
    }

    async fn list_events(
        &self,
        filter: &EventFilter,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let tables = self.open()?;
        let start = usize::try_from(after).unwrap_or(usize::MAX);
        let keep = |event: &&Event| {
            (filter.swarm_id.is_none() || filter.swarm_id == event.swarm_id)
                && filter
                    .source
                    .as_ref()
                    .is_none_or(|source| *source == event.source)
                && (filter.types.is_empty()
                    || filter.types.iter().any(|name| name == event.kind.name()))
        };
        let events = tables.events.iter().skip(start).filter(keep);
        Ok(events.take(limit.min(PAGE_MAX)).cloned().collect())
    }

    async fn head_seq(&self) -> Result<u64, StoreError> {
        Ok(self.open()?.events.last().map_or(0, |event| event.seq))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.tables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_closed = true;
        Ok(())
    }
}

#[cfg(test)]
#[cfg(feature = "test-util")]
mod tests;
