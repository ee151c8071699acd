//! The rows that every step writes: agents, reservations, entries, steps and events. Each list
//! prepares its statement once.

use rusqlite::{Connection, Statement, params};

use super::blob::{self, Place};
use super::chain;
use super::fault::Fault;
use super::rows::shorten;
use super::versioned::{inserted, signed, updated};
use super::write::{
    State, Write, agent_number, key_parts, known_agent_number, not_its_own, swarm_number,
    type_number,
};
use crate::event::{Event, EventSource, NewEvent};
use crate::model::budget::ReservationState;
use crate::model::{Agent, Entry, Reservation, Step, StepState, Version};
use crate::store::RowWrite;

pub(super) fn agents(conn: &Connection, state: &mut State, writes: &[RowWrite<Agent>]) -> Write {
    if writes.is_empty() {
        return Ok(());
    }
    let mut update = conn.prepare_cached(UPDATE_AGENT)?;
    for write in writes {
        let row = &write.row;
        not_its_own("agent", row.id, row.parent_id)?;
        let Some(expected) = write.expected else {
            insert_agent(conn, row)?;
            continue;
        };
        let num = known_agent_number(conn, state, row.id)?;
        if !update_agent(&mut update, num, row, expected)? {
            let mut moved = conn.prepare_cached(MOVE_AGENT)?;
            let result = moved.execute(params![
                num,
                signed(expected)?,
                row.status.as_str(),
                row.task_id.map(|id| id.to_string()),
            ]);
            updated(result, "agent", &row.id)?;
            update_agent(&mut update, num, row, expected)?;
        }
    }
    Ok(())
}

/// Writes all that an index or a foreign key does not concern: by far the most common update. One
/// that touched those columns too would check the key, move the row's place in the index and keep
/// a copy of the pages, whether or not they changed.
const UPDATE_AGENT: &str = "UPDATE agents SET name = ?3, model = ?6, head = ?7, turns = ?8, \
     tool_calls = ?9, progress_current = ?10, progress_total = ?11, input_tokens = ?12, \
     output_tokens = ?13, cache_read_tokens = ?14, cache_write_tokens = ?15, \
     reasoning_tokens = ?16, cost_nanos = ?17, pause_reason = ?18, result = ?19, error = ?20, \
     retry_count = ?21, max_retries = ?22, attempt = ?23, attempt_turns = ?24, retry_at = ?25, \
     updated_at = ?26, started_at = ?27, completed_at = ?28, version = ?29, \
     cache_write_long_tokens = ?30, profile = ?31 \
     WHERE num = ?1 AND version = ?2 AND status = ?4 AND task_id IS ?5";

/// Brings the columns that [`UPDATE_AGENT`] leaves alone up to date, so that it finds the row.
const MOVE_AGENT: &str =
    "UPDATE agents SET status = ?3, task_id = ?4 WHERE num = ?1 AND version = ?2";

fn insert_agent(conn: &Connection, row: &Agent) -> Write {
    let mut statement = conn.prepare_cached(
        "INSERT INTO agents (id, name, status, swarm_id, parent_id, depth, task_id, model, head, \
         turns, tool_calls, progress_current, progress_total, input_tokens, output_tokens, \
         cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_nanos, pause_reason, \
         result, error, retry_count, max_retries, attempt, attempt_turns, retry_at, created_at, \
         updated_at, started_at, completed_at, version, cache_write_long_tokens, profile) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, \
         ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, \
         ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34)",
    )?;
    let result = statement.execute(params![
        row.id.to_string(),
        row.name,
        row.status.as_str(),
        row.swarm_id.to_string(),
        row.parent_id.map(|id| id.to_string()),
        row.depth,
        row.task_id.map(|id| id.to_string()),
        row.model,
        row.head.map(|id| id.as_u128().to_be_bytes()),
        row.turns,
        row.tool_calls,
        row.progress.current,
        row.progress.total,
        signed(row.usage.input)?,
        signed(row.usage.output)?,
        signed(row.usage.cache_read)?,
        signed(row.usage.cache_write)?,
        signed(row.usage.reasoning)?,
        row.cost.0,
        row.pause_reason,
        row.result,
        row.error,
        row.retry_count,
        row.max_retries,
        row.attempt,
        row.attempt_turns,
        row.retry_at.map(|at| at.0),
        row.created_at.0,
        row.updated_at.0,
        row.started_at.map(|at| at.0),
        row.completed_at.map(|at| at.0),
        signed(row.version)?,
        signed(row.usage.cache_write_long)?,
        row.profile,
    ]);
    inserted(result, "agent", &row.id)
}

/// False if there is no such row at this version, with this status and task.
fn update_agent(
    statement: &mut Statement<'_>,
    num: Option<i64>,
    row: &Agent,
    expected: Version,
) -> Result<bool, Fault> {
    let changed = statement.execute(params![
        num,
        signed(expected)?,
        row.name,
        row.status.as_str(),
        row.task_id.map(|id| id.to_string()),
        row.model,
        row.head.map(|id| id.as_u128().to_be_bytes()),
        row.turns,
        row.tool_calls,
        row.progress.current,
        row.progress.total,
        signed(row.usage.input)?,
        signed(row.usage.output)?,
        signed(row.usage.cache_read)?,
        signed(row.usage.cache_write)?,
        signed(row.usage.reasoning)?,
        row.cost.0,
        row.pause_reason,
        row.result,
        row.error,
        row.retry_count,
        row.max_retries,
        row.attempt,
        row.attempt_turns,
        row.retry_at.map(|at| at.0),
        row.updated_at.0,
        row.started_at.map(|at| at.0),
        row.completed_at.map(|at| at.0),
        signed(row.version)?,
        signed(row.usage.cache_write_long)?,
        row.profile,
    ])?;
    Ok(changed == 1)
}

pub(super) fn reservations(conn: &Connection, state: &mut State, rows: &[Reservation]) -> Write {
    if rows.is_empty() {
        return Ok(());
    }
    let mut update = conn.prepare_cached(
        "UPDATE reservations SET state = ?2, held_usd = ?3, held_tokens = ?4, actual_usd = ?5, \
         actual_tokens = ?6 WHERE id = ?1",
    )?;
    for row in rows {
        // What is held is new, or held still; both go through the insert.
        if row.state != ReservationState::Held {
            let actual = row.actual.as_ref();
            let changed = update.execute(params![
                row.id.as_u128().to_be_bytes(),
                row.state.as_str(),
                row.held.usd.0,
                signed(row.held.tokens)?,
                actual.map(|amount| amount.usd.0),
                actual.map(|amount| signed(amount.tokens)).transpose()?,
            ])?;
            if changed == 1 {
                continue;
            }
        }
        insert_reservation(conn, state, row)?;
    }
    Ok(())
}

fn insert_reservation(conn: &Connection, state: &mut State, row: &Reservation) -> Write {
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

pub(super) fn entries(conn: &Connection, state: &mut State, rows: &[Entry]) -> Write {
    if rows.is_empty() {
        return Ok(());
    }
    let mut statement = conn.prepare_cached(
        "INSERT INTO entries (id, agent, parent_id, step_kind, step_turn, step_number, at, body, \
         blob) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for row in rows {
        not_its_own("entry", row.id, row.parent_id)?;
        let agent = agent_number(conn, state, row.agent_id)?;
        let (body, blob) = match blob::put(conn, &row.body)? {
            Place::Inline(json) => (Some(json), None),
            Place::Blob(num) => (None, Some(num)),
        };
        let step = row.step.map(key_parts);
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
        inserted(result, "entry", &row.id)?;
    }
    Ok(())
}

/// A step is written twice, as intended and with its outcome. Each has a statement that does just
/// that; what neither finds as it expects goes through the one that can do everything, at five
/// times the cost.
pub(super) fn steps(conn: &Connection, state: &mut State, rows: &[Step]) -> Write {
    if rows.is_empty() {
        return Ok(());
    }
    let mut insert = conn.prepare_cached(
        "INSERT INTO steps (agent, kind, turn, number, state, side_effect, name, tries, call_id, \
         reservation, entry, note, created_at, finished_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, \
         ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT (agent, kind, turn, number) DO NOTHING",
    )?;
    let mut update = conn.prepare_cached(
        "UPDATE steps SET state = ?5, tries = ?8, entry = ?11, note = ?12, finished_at = ?14 \
         WHERE agent = ?1 AND kind = ?2 AND turn = ?3 AND number = ?4 AND side_effect = ?6 \
         AND name = ?7 AND reservation IS ?10 AND ?9 IS ?9 AND ?13 IS ?13",
    )?;
    for row in rows {
        let agent = agent_number(conn, state, row.agent_id)?;
        let is_new = row.state == StepState::Intended && row.tries <= 1;
        let likely = if is_new { &mut insert } else { &mut update };
        if write_step(likely, agent, row)? == 1 {
            continue;
        }
        let mut either = conn.prepare_cached(
            "INSERT INTO steps (agent, kind, turn, number, state, side_effect, name, tries, \
             call_id, reservation, entry, note, created_at, finished_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
             ON CONFLICT (agent, kind, turn, number) DO UPDATE SET state = excluded.state, \
             tries = excluded.tries, reservation = excluded.reservation, entry = excluded.entry, \
             note = excluded.note, finished_at = excluded.finished_at \
             WHERE side_effect = excluded.side_effect AND name = excluded.name",
        )?;
        if write_step(&mut either, agent, row)? == 0 {
            return Err(Fault::constraint(format!(
                "step `{}` of agent `{}` changed its name or side effect",
                row.key, row.agent_id
            )));
        }
    }
    Ok(())
}

fn write_step(statement: &mut Statement<'_>, agent: i64, row: &Step) -> Result<usize, Fault> {
    let (kind, turn, number) = key_parts(row.key);
    Ok(statement.execute(params![
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
    ])?)
}

pub(super) fn events(
    conn: &Connection,
    state: &mut State,
    new: Vec<NewEvent>,
) -> Result<Vec<Event>, Fault> {
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
