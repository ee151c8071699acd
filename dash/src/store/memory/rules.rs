//! What the in-memory store checks before it changes anything.
//!
//! A commit is laid over the tables first (`Overlay`): a row is looked up among the changeset's own
//! rows, then among the stored ones. Only when every row and event has passed are they moved in.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;

use super::Tables;
use crate::event::{Event, EventSource};
use crate::ids::{AgentId, BudgetId, EntryId, ReservationId, SwarmId, TaskId};
use crate::model::{
    Agent, Budget, Entry, Project, Reservation, Step, StepKey, Swarm, Task, Ticket, Version,
};
use crate::mutation::{self, Mutation};
use crate::store::{Changeset, Committed, RowWrite, StoreError};

type Check = Result<(), StoreError>;

/// Rows of the changeset that passed so far.
#[derive(Default)]
struct Overlay {
    projects: HashMap<crate::ids::ProjectId, Project>,
    project_names: HashSet<String>,
    budgets: HashMap<BudgetId, Budget>,
    swarms: HashMap<SwarmId, Swarm>,
    tasks: HashMap<TaskId, Task>,
    task_keys: HashSet<(SwarmId, String)>,
    agents: HashMap<AgentId, Agent>,
    reservations: HashMap<ReservationId, Reservation>,
    entries: HashMap<EntryId, Entry>,
    steps: HashMap<(AgentId, StepKey), Step>,
    tickets: HashMap<crate::ids::TicketId, Ticket>,
}

/// Applies a changeset, all or nothing.
pub(super) fn apply(tables: &mut Tables, changeset: Changeset) -> Result<Committed, StoreError> {
    let mut over = Overlay::default();
    for row in changeset.projects {
        project(tables, &mut over, row)?;
    }
    for write in changeset.budgets {
        budget(tables, &mut over, write)?;
    }
    for write in changeset.swarms {
        swarm(tables, &mut over, write)?;
    }
    for write in changeset.tasks {
        task(tables, &mut over, write)?;
    }
    for write in changeset.agents {
        agent(tables, &mut over, write)?;
    }
    for row in changeset.reservations {
        reservation(tables, &mut over, row)?;
    }
    for row in changeset.entries {
        entry(tables, &mut over, row)?;
    }
    for row in changeset.steps {
        step(tables, &mut over, row)?;
    }
    for row in changeset.tickets {
        ticket(tables, &mut over, row)?;
    }
    let mut last_at = tables.events.last().map(|event| event.at);
    let mut seq = tables.events.last().map_or(0, |event| event.seq);
    let mut events = Vec::with_capacity(changeset.events.len());
    for event in changeset.events {
        if last_at.is_some_and(|last| event.at < last) {
            return broken(format!("event `{}` is before the one before it", event.id));
        }
        last_at = Some(event.at);
        if let Some(id) = event.swarm_id {
            known(&over.swarms, &tables.swarms, &id, "swarm")?;
        }
        match event.source {
            EventSource::Agent(id) => known(&over.agents, &tables.agents, &id, "agent")?,
            EventSource::Swarm(id) => known(&over.swarms, &tables.swarms, &id, "swarm")?,
            EventSource::System => {}
        }
        seq += 1 + u64::from(mutation::active(Mutation::SkipSeq));
        events.push(Event::committed(seq, event));
    }
    over.settle(tables);
    tables.events.extend(events.iter().cloned());
    Ok(Committed { events })
}

impl Overlay {
    /// Moves everything in.
    fn settle(self, tables: &mut Tables) {
        for (id, row) in self.projects {
            tables.project_names.insert(row.name.clone(), id);
            tables.projects.insert(id, row);
        }
        for (id, row) in self.tasks {
            tables.task_keys.insert((row.swarm_id, row.key.clone()), id);
            tables.tasks.insert(id, row);
        }
        tables.budgets.extend(self.budgets);
        tables.swarms.extend(self.swarms);
        tables.agents.extend(self.agents);
        tables.reservations.extend(self.reservations);
        tables.entries.extend(self.entries);
        tables.steps.extend(self.steps);
        tables.tickets.extend(self.tickets);
    }
}

fn broken<T>(rule: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Constraint { rule: rule.into() })
}

type Stored<K, V> = std::collections::BTreeMap<K, V>;

fn look<'a, K: Hash + Ord, V>(
    over: &'a HashMap<K, V>,
    stored: &'a Stored<K, V>,
    id: &K,
) -> Option<&'a V> {
    over.get(id).or_else(|| stored.get(id))
}

fn known<K: Hash + Ord + Display, V>(
    over: &HashMap<K, V>,
    stored: &Stored<K, V>,
    id: &K,
    what: &str,
) -> Check {
    match look(over, stored, id) {
        Some(_) => Ok(()),
        None => broken(format!("no {what} `{id}`")),
    }
}

/// Checks the version; the new one must be the next.
fn version(
    what: &'static str,
    id: &impl ToString,
    stored: Option<Version>,
    expected: Option<Version>,
    new: Version,
) -> Check {
    if stored != expected {
        return Err(StoreError::Conflict {
            what,
            id: id.to_string(),
        });
    }
    match expected {
        Some(old) if new <= old => broken(format!(
            "{what} `{}`: version {new} is not after {old}",
            id.to_string()
        )),
        _ => Ok(()),
    }
}

/// Checks that a status can be reached from the stored one; staying is allowed.
macro_rules! check_move {
    ($what:literal, $id:expr, $old:expr, $new:expr) => {
        if $old != $new && !$old.can_reach($new) {
            return broken(format!(
                concat!($what, " `{}` that is `{}` cannot become `{}`"),
                $id, $old, $new
            ));
        }
    };
}

fn project(tables: &Tables, over: &mut Overlay, row: Project) -> Check {
    let is_taken = tables.project_names.contains_key(&row.name)
        || !over.project_names.insert(row.name.clone())
        || tables.projects.contains_key(&row.id);
    if is_taken || over.projects.contains_key(&row.id) {
        return Err(StoreError::Conflict {
            what: "project",
            id: row.id.to_string(),
        });
    }
    over.projects.insert(row.id, row);
    Ok(())
}

fn budget(tables: &Tables, over: &mut Overlay, write: RowWrite<Budget>) -> Check {
    let RowWrite { row, expected } = write;
    let old = look(&over.budgets, &tables.budgets, &row.id);
    version(
        "budget",
        &row.id,
        old.map(|old| old.version),
        expected,
        row.version,
    )?;
    if let Some(id) = &row.parent_id {
        known(&over.budgets, &tables.budgets, id, "budget")?;
    }
    if let Some(old) = old {
        let fixed = |b: &Budget| {
            (
                b.scope,
                b.entity_id.clone(),
                b.parent_id,
                b.currency,
                b.created_at,
            )
        };
        if fixed(old) != fixed(&row) {
            return broken(format!("budget `{}` changed what never changes", row.id));
        }
    }
    let counts = [row.spent, row.uncertain, row.reserved, row.overrun];
    let used = counts.iter().take(3).map(|n| i128::from(*n)).sum::<i128>();
    let fits = row
        .allocated
        .is_none_or(|cap| used <= i128::from(cap) + i128::from(row.overrun));
    if !fits || counts.iter().any(|n| *n < 0) {
        return broken(format!("budget_is_kept (`{}`)", row.id));
    }
    over.budgets.insert(row.id, row);
    Ok(())
}

fn swarm(tables: &Tables, over: &mut Overlay, write: RowWrite<Swarm>) -> Check {
    let RowWrite { row, expected } = write;
    let old = look(&over.swarms, &tables.swarms, &row.id);
    version(
        "swarm",
        &row.id,
        old.map(|old| old.version),
        expected,
        row.version,
    )?;
    known(&over.projects, &tables.projects, &row.project_id, "project")?;
    known(&over.budgets, &tables.budgets, &row.budget_id, "budget")?;
    if let Some(old) = old {
        check_move!("swarm", row.id, old.status, row.status);
        let fixed = |s: &Swarm| {
            (
                s.project_id,
                s.task.clone(),
                s.strategy,
                s.budget_id,
                s.created_at,
            )
        };
        if fixed(old) != fixed(&row) {
            return broken(format!("swarm `{}` changed what never changes", row.id));
        }
    }
    over.swarms.insert(row.id, row);
    Ok(())
}

fn task(tables: &Tables, over: &mut Overlay, write: RowWrite<Task>) -> Check {
    let RowWrite { row, expected } = write;
    let old = look(&over.tasks, &tables.tasks, &row.id);
    version(
        "task",
        &row.id,
        old.map(|old| old.version),
        expected,
        row.version,
    )?;
    known(&over.swarms, &tables.swarms, &row.swarm_id, "swarm")?;
    if let Some(old) = old {
        check_move!("task", row.id, old.status, row.status);
        let fixed = |t: &Task| {
            (
                t.swarm_id,
                t.key.clone(),
                t.role,
                t.prompt.clone(),
                t.ordinal,
                t.created_at,
            )
        };
        if fixed(old) != fixed(&row) {
            return broken(format!("task `{}` changed what never changes", row.id));
        }
    } else {
        let key = (row.swarm_id, row.key.clone());
        if tables.task_keys.contains_key(&key) || !over.task_keys.insert(key) {
            return Err(StoreError::Conflict {
                what: "task",
                id: row.id.to_string(),
            });
        }
    }
    over.tasks.insert(row.id, row);
    Ok(())
}

fn agent(tables: &Tables, over: &mut Overlay, write: RowWrite<Agent>) -> Check {
    let RowWrite { row, expected } = write;
    let old = look(&over.agents, &tables.agents, &row.id);
    version(
        "agent",
        &row.id,
        old.map(|old| old.version),
        expected,
        row.version,
    )?;
    known(&over.swarms, &tables.swarms, &row.swarm_id, "swarm")?;
    if let Some(id) = &row.parent_id {
        known(&over.agents, &tables.agents, id, "agent")?;
    }
    if let Some(id) = &row.task_id {
        known(&over.tasks, &tables.tasks, id, "task")?;
    }
    if let Some(old) = old {
        check_move!("agent", row.id, old.status, row.status);
        let fixed = |a: &Agent| (a.swarm_id, a.parent_id, a.depth, a.created_at);
        if fixed(old) != fixed(&row) {
            return broken(format!("agent `{}` changed what never changes", row.id));
        }
    }
    over.agents.insert(row.id, row);
    Ok(())
}

fn reservation(tables: &Tables, over: &mut Overlay, row: Reservation) -> Check {
    known(&over.budgets, &tables.budgets, &row.budget_id, "budget")?;
    known(&over.agents, &tables.agents, &row.agent_id, "agent")?;
    if let Some(old) = look(&over.reservations, &tables.reservations, &row.id) {
        check_move!("reservation", row.id, old.state, row.state);
        let fixed = |r: &Reservation| (r.budget_id, r.agent_id, r.step, r.created_at);
        if fixed(old) != fixed(&row) {
            return broken(format!(
                "reservation `{}` changed what never changes",
                row.id
            ));
        }
    }
    over.reservations.insert(row.id, row);
    Ok(())
}

fn entry(tables: &Tables, over: &mut Overlay, row: Entry) -> Check {
    known(&over.agents, &tables.agents, &row.agent_id, "agent")?;
    if let Some(id) = &row.parent_id {
        known(&over.entries, &tables.entries, id, "entry")?;
    }
    if look(&over.entries, &tables.entries, &row.id).is_some() {
        return Err(StoreError::Conflict {
            what: "entry",
            id: row.id.to_string(),
        });
    }
    over.entries.insert(row.id, row);
    Ok(())
}

fn step(tables: &Tables, over: &mut Overlay, row: Step) -> Check {
    known(&over.agents, &tables.agents, &row.agent_id, "agent")?;
    if let Some(id) = &row.reservation_id {
        known(&over.reservations, &tables.reservations, id, "reservation")?;
    }
    if let Some(id) = &row.entry_id {
        known(&over.entries, &tables.entries, id, "entry")?;
    }
    let id = (row.agent_id, row.key);
    if let Some(old) = look(&over.steps, &tables.steps, &id) {
        check_move!("step", row.key, old.state, row.state);
        let fixed = |s: &Step| (s.side_effect, s.name.clone(), s.created_at);
        if fixed(old) != fixed(&row) {
            return broken(format!(
                "step `{}` of agent `{}` changed its name or side effect",
                row.key, row.agent_id
            ));
        }
    }
    over.steps.insert(id, row);
    Ok(())
}

fn ticket(tables: &Tables, over: &mut Overlay, row: Ticket) -> Check {
    known(&over.agents, &tables.agents, &row.agent_id, "agent")?;
    if let Some(old) = look(&over.tickets, &tables.tickets, &row.id) {
        check_move!("ticket", row.id, old.state, row.state);
        let fixed = |t: &Ticket| (t.agent_id, t.created_at);
        if fixed(old) != fixed(&row) {
            return broken(format!("ticket `{}` changed what never changes", row.id));
        }
    }
    over.tickets.insert(row.id, row);
    Ok(())
}
