//! From changesets to rows: every statement prepared once and cached, every value bound.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::chain::Link;
use super::fault::{Fault, is_duplicate};
use super::journal;
use crate::ids::{AgentId, SwarmId};
use crate::model::{Budget, Project, StepKey, StepKind, Swarm, Task, Ticket};
use crate::store::{Changeset, Committed, RowWrite, StoreError};

pub(super) type Write = Result<(), Fault>;

/// The most short numbers kept in memory per kind; a full table starts again.
const NUMBERS_MAX: usize = 16_384;

/// What the writer knows without asking the file. Must be put back when a changeset is undone.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The newest event's number.
    pub(super) seq: u64,
    /// The newest event's link.
    pub(super) link: Link,
    agents: HashMap<AgentId, i64>,
    swarms: HashMap<SwarmId, i64>,
    types: HashMap<String, i64>,
}

impl State {
    /// What is known of a file whose newest event this is.
    pub(super) fn new(seq: u64, link: Link) -> Self {
        Self {
            seq,
            link,
            ..Self::default()
        }
    }

    /// Forgets every short number: those of an undone changeset may be given out again.
    pub(super) fn forget_numbers(&mut self) {
        self.agents.clear();
        self.swarms.clear();
        self.types.clear();
    }
}

/// Writes one changeset into the open transaction.
pub(super) fn apply(
    conn: &Connection,
    state: &mut State,
    changeset: Changeset,
) -> Result<Committed, Fault> {
    for row in &changeset.projects {
        project(conn, row)?;
    }
    for row in &changeset.budgets {
        budget(conn, row)?;
    }
    for row in &changeset.swarms {
        swarm(conn, row)?;
    }
    for row in &changeset.tasks {
        task(conn, row)?;
    }
    journal::agents(conn, state, &changeset.agents)?;
    journal::reservations(conn, state, &changeset.reservations)?;
    journal::entries(conn, state, &changeset.entries)?;
    journal::steps(conn, state, &changeset.steps)?;
    for row in &changeset.tickets {
        ticket(conn, row)?;
    }
    Ok(Committed {
        events: journal::events(conn, state, changeset.events)?,
    })
}

/// A count as SQLite keeps it.
pub(super) fn signed(n: u64) -> Result<i64, Fault> {
    i64::try_from(n).map_err(|_reason| Fault::constraint(format!("{n} is above 2^63 - 1")))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, Fault> {
    serde_json::to_string(value)
        .map_err(|err| Fault::constraint(format!("a value is not JSON: {err}")))
}

/// Makes a duplicate a conflict.
pub(super) fn inserted(
    result: rusqlite::Result<usize>,
    what: &'static str,
    id: &impl ToString,
) -> Write {
    match result {
        Ok(_) => Ok(()),
        Err(err) if is_duplicate(&err) => Err(StoreError::Conflict {
            what,
            id: id.to_string(),
        }
        .into()),
        Err(err) => Err(err.into()),
    }
}

/// Makes an update of no row a conflict.
pub(super) fn updated(
    result: rusqlite::Result<usize>,
    what: &'static str,
    id: &impl ToString,
) -> Write {
    match result? {
        0 => Err(StoreError::Conflict {
            what,
            id: id.to_string(),
        }
        .into()),
        _ => Ok(()),
    }
}

pub(super) const fn key_parts(key: StepKey) -> (i64, u32, u32) {
    let kind = match key.kind() {
        StepKind::Model => 0,
        StepKind::Tool => 1,
    };
    match key {
        StepKey::Model { turn, attempt } => (kind, turn, attempt),
        StepKey::Tool { turn, index } => (kind, turn, index),
    }
}

fn project(conn: &Connection, row: &Project) -> Write {
    let mut statement = conn.prepare_cached(
        "INSERT INTO projects (id, name, budget_id, created_at) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let result = statement.execute(params![
        row.id.to_string(),
        row.name,
        row.budget_id.to_string(),
        row.created_at.0
    ]);
    inserted(result, "project", &row.id)
}

fn budget(conn: &Connection, write: &RowWrite<Budget>) -> Write {
    let row = &write.row;
    let levels = &row.thresholds;
    let Some(expected) = write.expected else {
        let mut statement = conn.prepare_cached(
            "INSERT INTO budgets (id, scope, entity_id, parent_id, currency, allocated, spent, \
             uncertain, reserved, overrun, warning, warning_action, critical, critical_action, \
             hard_stop, hard_stop_action, fired, created_at, updated_at, version) VALUES (?1, ?2, \
             ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?;
        let result = statement.execute(params![
            row.id.to_string(),
            row.scope.as_str(),
            row.entity_id,
            row.parent_id.map(|id| id.to_string()),
            row.currency.as_str(),
            row.allocated,
            row.spent,
            row.uncertain,
            row.reserved,
            row.overrun,
            levels.warning,
            levels.warning_action.as_str(),
            levels.critical,
            levels.critical_action.as_str(),
            levels.hard_stop,
            levels.hard_stop_action.as_str(),
            row.fired,
            row.created_at.0,
            row.updated_at.0,
            signed(row.version)?,
        ]);
        return inserted(result, "budget", &row.id);
    };
    let mut statement = conn.prepare_cached(
        "UPDATE budgets SET allocated = ?3, spent = ?4, uncertain = ?5, reserved = ?6, \
         overrun = ?7, warning = ?8, warning_action = ?9, critical = ?10, critical_action = ?11, \
         hard_stop = ?12, hard_stop_action = ?13, fired = ?14, updated_at = ?15, version = ?16 \
         WHERE id = ?1 AND version = ?2",
    )?;
    let result = statement.execute(params![
        row.id.to_string(),
        signed(expected)?,
        row.allocated,
        row.spent,
        row.uncertain,
        row.reserved,
        row.overrun,
        levels.warning,
        levels.warning_action.as_str(),
        levels.critical,
        levels.critical_action.as_str(),
        levels.hard_stop,
        levels.hard_stop_action.as_str(),
        row.fired,
        row.updated_at.0,
        signed(row.version)?,
    ]);
    updated(result, "budget", &row.id)
}

fn swarm(conn: &Connection, write: &RowWrite<Swarm>) -> Write {
    let row = &write.row;
    let Some(expected) = write.expected else {
        let mut statement = conn.prepare_cached(
            "INSERT INTO swarms (id, project_id, name, status, task, strategy, config, budget_id, \
             agent_count, target_agent_count, result, error, created_at, updated_at, \
             completed_at, version) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?;
        let result = statement.execute(params![
            row.id.to_string(),
            row.project_id.to_string(),
            row.name,
            row.status.as_str(),
            row.task,
            row.strategy.as_str(),
            json(&row.config)?,
            row.budget_id.to_string(),
            row.agent_count,
            row.target_agent_count,
            row.result,
            row.error,
            row.created_at.0,
            row.updated_at.0,
            row.completed_at.map(|at| at.0),
            signed(row.version)?,
        ]);
        return inserted(result, "swarm", &row.id);
    };
    let mut statement = conn.prepare_cached(
        "UPDATE swarms SET name = ?3, status = ?4, config = ?5, agent_count = ?6, \
         target_agent_count = ?7, result = ?8, error = ?9, updated_at = ?10, completed_at = ?11, \
         version = ?12 WHERE id = ?1 AND version = ?2",
    )?;
    let result = statement.execute(params![
        row.id.to_string(),
        signed(expected)?,
        row.name,
        row.status.as_str(),
        json(&row.config)?,
        row.agent_count,
        row.target_agent_count,
        row.result,
        row.error,
        row.updated_at.0,
        row.completed_at.map(|at| at.0),
        signed(row.version)?,
    ]);
    updated(result, "swarm", &row.id)
}

fn task(conn: &Connection, write: &RowWrite<Task>) -> Write {
    let row = &write.row;
    let Some(expected) = write.expected else {
        let mut statement = conn.prepare_cached(
            "INSERT INTO tasks (id, swarm_id, key, role, prompt, depends_on, status, agent_id, \
             output, error, ordinal, created_at, updated_at, completed_at, version) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?;
        let result = statement.execute(params![
            row.id.to_string(),
            row.swarm_id.to_string(),
            row.key,
            row.role.as_str(),
            row.prompt,
            json(&row.depends_on)?,
            row.status.as_str(),
            row.agent_id.map(|id| id.to_string()),
            row.output,
            row.error,
            row.ordinal,
            row.created_at.0,
            row.updated_at.0,
            row.completed_at.map(|at| at.0),
            signed(row.version)?,
        ]);
        return inserted(result, "task", &row.id);
    };
    let mut statement = conn.prepare_cached(
        "UPDATE tasks SET depends_on = ?3, status = ?4, agent_id = ?5, output = ?6, error = ?7, \
         updated_at = ?8, completed_at = ?9, version = ?10 WHERE id = ?1 AND version = ?2",
    )?;
    let result = statement.execute(params![
        row.id.to_string(),
        signed(expected)?,
        json(&row.depends_on)?,
        row.status.as_str(),
        row.agent_id.map(|id| id.to_string()),
        row.output,
        row.error,
        row.updated_at.0,
        row.completed_at.map(|at| at.0),
        signed(row.version)?,
    ]);
    updated(result, "task", &row.id)
}

/// The short number of an agent.
pub(super) fn agent_number(
    conn: &Connection,
    state: &mut State,
    id: AgentId,
) -> Result<i64, Fault> {
    known_agent_number(conn, state, id)?
        .ok_or_else(|| Fault::constraint(format!("no agent `{id}`")))
}

/// The short number of an agent; `None` if there is no such agent.
pub(super) fn known_agent_number(
    conn: &Connection,
    state: &mut State,
    id: AgentId,
) -> Result<Option<i64>, Fault> {
    if let Some(num) = state.agents.get(&id) {
        return Ok(Some(*num));
    }
    let found: Option<i64> = conn
        .prepare_cached("SELECT num FROM agents WHERE id = ?1")?
        .query_row([id.to_string()], |row| row.get(0))
        .optional()?;
    if let Some(num) = found {
        if state.agents.len() >= NUMBERS_MAX {
            state.agents.clear();
        }
        state.agents.insert(id, num);
    }
    Ok(found)
}

/// The short number of a swarm.
pub(super) fn swarm_number(
    conn: &Connection,
    state: &mut State,
    id: SwarmId,
) -> Result<i64, Fault> {
    if let Some(num) = state.swarms.get(&id) {
        return Ok(*num);
    }
    let num = conn
        .prepare_cached("SELECT num FROM swarms WHERE id = ?1")?
        .query_row([id.to_string()], |row| row.get(0))
        .optional()?
        .ok_or_else(|| Fault::constraint(format!("no swarm `{id}`")))?;
    if state.swarms.len() >= NUMBERS_MAX {
        state.swarms.clear();
    }
    state.swarms.insert(id, num);
    Ok(num)
}

/// The short number of an event type; a new type gets one.
pub(super) fn type_number(conn: &Connection, state: &mut State, name: &str) -> Result<i64, Fault> {
    if let Some(num) = state.types.get(name) {
        return Ok(*num);
    }
    let known = conn
        .prepare_cached("SELECT num FROM event_types WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    let num = match known {
        Some(num) => num,
        None => conn
            .prepare_cached("INSERT INTO event_types (name) VALUES (?1)")?
            .insert([name])?,
    };
    if state.types.len() >= NUMBERS_MAX {
        state.types.clear();
    }
    state.types.insert(name.to_owned(), num);
    Ok(num)
}

fn ticket(conn: &Connection, row: &Ticket) -> Write {
    let mut statement = conn.prepare_cached(
        "INSERT INTO tickets (id, agent_id, queue, text, state, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE SET queue = excluded.queue, \
         text = excluded.text, state = excluded.state",
    )?;
    statement.execute(params![
        row.id.to_string(),
        row.agent_id.to_string(),
        row.queue.as_str(),
        row.text,
        row.state.as_str(),
        row.created_at.0,
    ])?;
    Ok(())
}
