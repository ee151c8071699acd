//! From changesets to rows: every statement prepared once and cached, every value bound.
//!
//! Here are the journal's rows; those that carry a version are in `versioned`.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::blob::{self, Place};
use super::chain::{self, Link};
use super::fault::Fault;
use super::rows::shorten;
use super::versioned::{agent, budget, inserted, project, signed, swarm, task};
use crate::event::{Event, EventSource, NewEvent};
use crate::ids::{AgentId, SwarmId};
use crate::model::{Entry, Reservation, Step, StepKey, StepKind, Ticket};
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
    for row in &changeset.budgets {
        budget(conn, row)?;
    }
    for row in &changeset.swarms {
        swarm(conn, row)?;
    }
    for row in &changeset.tasks {
        task(conn, row)?;
    }
    for row in &changeset.agents {
        agent(conn, row)?;
    }
    for row in &changeset.reservations {
        reservation(conn, state, row)?;
    }
    for row in &changeset.entries {
        entry(conn, state, row)?;
    }
    for row in &changeset.steps {
        step(conn, state, row)?;
    }
    for row in &changeset.tickets {
        ticket(conn, row)?;
    }
    Ok(Committed {
        events: events(conn, state, changeset.events)?,
    })
}

const fn key_parts(key: StepKey) -> (i64, u32, u32) {
    let kind = match key.kind() {
        StepKind::Model => 0,
        StepKind::Tool => 1,
    };
    match key {
        StepKey::Model { turn, attempt } => (kind, turn, attempt),
        StepKey::Tool { turn, index } => (kind, turn, index),
    }
}

/// The short number of an agent.
fn agent_number(conn: &Connection, state: &mut State, id: AgentId) -> Result<i64, Fault> {
    if let Some(num) = state.agents.get(&id) {
        return Ok(*num);
    }
    let num = conn
        .prepare_cached("SELECT num FROM agents WHERE id = ?1")?
        .query_row([id.to_string()], |row| row.get(0))
        .optional()?
        .ok_or_else(|| Fault::constraint(format!("no agent `{id}`")))?;
    if state.agents.len() >= NUMBERS_MAX {
        state.agents.clear();
    }
    state.agents.insert(id, num);
    Ok(num)
}

/// The short number of a swarm.
fn swarm_number(conn: &Connection, state: &mut State, id: SwarmId) -> Result<i64, Fault> {
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
fn type_number(conn: &Connection, state: &mut State, name: &str) -> Result<i64, Fault> {
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

fn reservation(conn: &Connection, state: &mut State, row: &Reservation) -> Write {
    let agent = agent_number(conn, state, row.agent_id)?;
    let (kind, turn, number) = key_parts(row.step);
    let mut statement = conn.prepare_cached(
        "INSERT INTO reservations (id, budget, agent, step_kind, step_turn, step_number, state, \
         held_usd, held_tokens, actual_usd, actual_tokens, created_at) \
         VALUES (?1, (SELECT num FROM budgets WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
         ?11, ?12) ON CONFLICT (id) DO UPDATE SET state = excluded.state, \
         held_usd = excluded.held_usd, held_tokens = excluded.held_tokens, \
         actual_usd = excluded.actual_usd, actual_tokens = excluded.actual_tokens",
    )?;
    let actual = row.actual.as_ref();
    statement.execute(params![
        row.id.as_u128().to_be_bytes(),
        row.budget_id.to_string(),
        agent,
        kind,
        turn,
        number,
        row.state.as_str(),
        row.held.usd.0,
        signed(row.held.tokens)?,
        actual.map(|amount| amount.usd.0),
        actual.map(|amount| signed(amount.tokens)).transpose()?,
        row.created_at.0,
    ])?;
    Ok(())
}

fn entry(conn: &Connection, state: &mut State, row: &Entry) -> Write {
    let agent = agent_number(conn, state, row.agent_id)?;
    let (body, blob) = match blob::put(conn, &row.body)? {
        Place::Inline(json) => (Some(json), None),
        Place::Blob(num) => (None, Some(num)),
    };
    let step = row.step.map(key_parts);
    let mut statement = conn.prepare_cached(
        "INSERT INTO entries (id, agent, parent_id, step_kind, step_turn, step_number, at, body, \
         blob) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let result = statement.execute(params![
        row.id.as_u128().to_be_bytes(),
        agent,
        row.parent_id.map(|id| id.as_u128().to_be_bytes()),
        step.map(|parts| parts.0),
        step.map(|parts| parts.1),
        step.map(|parts| parts.2),
        row.at.0,
        body,
        blob,
    ]);
    inserted(result, "entry", &row.id)
}

fn step(conn: &Connection, state: &mut State, row: &Step) -> Write {
    let agent = agent_number(conn, state, row.agent_id)?;
    let (kind, turn, number) = key_parts(row.key);
    let mut statement = conn.prepare_cached(
        "INSERT INTO steps (agent, kind, turn, number, state, side_effect, name, tries, \
         call_id, reservation, entry, note, created_at, finished_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
         ON CONFLICT (agent, kind, turn, number) DO UPDATE SET state = excluded.state, \
         tries = excluded.tries, reservation = excluded.reservation, entry = excluded.entry, \
         note = excluded.note, finished_at = excluded.finished_at \
         WHERE side_effect = excluded.side_effect AND name = excluded.name",
    )?;
    let changed = statement.execute(params![
        agent,
        kind,
        turn,
        number,
        row.state.as_str(),
        row.side_effect.as_str(),
        row.name,
        row.tries,
        row.call_id,
        row.reservation_id.map(|id| id.as_u128().to_be_bytes()),
        row.entry_id.map(|id| id.as_u128().to_be_bytes()),
        row.note,
        row.created_at.0,
        row.finished_at.map(|at| at.0),
    ])?;
    if changed == 0 {
        return Err(Fault::constraint(format!(
            "step `{}` of agent `{}` changed its name or side effect",
            row.key, row.agent_id
        )));
    }
    Ok(())
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

fn events(conn: &Connection, state: &mut State, new: Vec<NewEvent>) -> Result<Vec<Event>, Fault> {
    let mut out = Vec::with_capacity(new.len());
    if new.is_empty() {
        return Ok(out);
    }
    let mut statement = conn.prepare_cached(
        "INSERT INTO events (seq, id, at, swarm, source, type, data, hash) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for event in new {
        let (source, agent) = match event.source {
            EventSource::Agent(id) => (agent_number(conn, state, id)?, Some(id)),
            EventSource::Swarm(id) => (-swarm_number(conn, state, id)?, None),
            EventSource::System => (0, None),
        };
        let swarm = match event.swarm_id {
            Some(id) => Some(swarm_number(conn, state, id)?),
            None => None,
        };
        let type_num = type_number(conn, state, event.kind.name())?;
        let data = event
            .kind
            .data_json()
            .map_err(|err| Fault::constraint(format!("an event is not JSON: {err}")))?;
        let seq = state.seq + 1;
        let event = Event::committed(seq, event);
        let link = chain::link(&state.link, &event, &data);
        let stored = shorten(&data, agent);
        statement.execute(params![
            signed(seq)?,
            event.id.as_u128().to_be_bytes(),
            event.at.0,
            swarm,
            source,
            type_num,
            &*stored,
            link,
        ])?;
        state.seq = seq;
        state.link = link;
        out.push(event);
    }
    Ok(out)
}
