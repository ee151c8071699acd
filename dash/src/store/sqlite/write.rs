//! From changesets to rows: every statement prepared once and cached, every value bound.

use std::collections::HashMap;
use std::fmt::Display;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::chain::Link;
use super::fault::Fault;
use super::journal;
use super::versioned::{budget, project, swarm, task};
use crate::ids::{AgentId, SwarmId};
use crate::model::{StepKey, StepKind, Ticket};
use crate::store::{Changeset, Committed};

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
    for write in &changeset.budgets {
        not_its_own("budget", write.row.id, write.row.parent_id)?;
        budget(conn, write)?;
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

/// A row comes after its parent. A foreign key is content with a row that refers to itself, and what
/// walks up from there would never end.
pub(super) fn not_its_own<Id: Copy + PartialEq + Display>(
    what: &str,
    id: Id,
    parent: Option<Id>,
) -> Write {
    if parent.is_some_and(|parent| parent == id) {
        return Err(Fault::constraint(format!(
            "{what} `{id}` is its own parent"
        )));
    }
    Ok(())
}

pub(super) const fn key_parts(key: StepKey) -> (i64, u32, u32) {
    let kind = match key.kind() {
        StepKind::Model => 0,
        StepKind::Tool => 1,
        StepKind::Summary => 2,
    };
    match key {
        StepKey::Model { turn, attempt } | StepKey::Summary { turn, attempt } => {
            (kind, turn, attempt)
        }
        StepKey::Tool { turn, index } => (kind, turn, index),
    }
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
