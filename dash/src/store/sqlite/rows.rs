//! From stored rows to the model. Whatever cannot be read is damage, never a default.

use std::borrow::Cow;
use std::str::FromStr;

use rusqlite::Row;

use super::blob;
use super::fault::Fault;
use crate::env::UnixMillis;
use crate::event::{Event, EventKind};
use crate::ids::{AgentId, EntryId, EventId, ReservationId};
use crate::model::budget::ThresholdAction;
use crate::model::{
    Agent, Amount, Budget, BudgetScope, Currency, Entry, NanoUsd, Progress, Project, Queue,
    Reservation, SideEffect, Step, StepKey, Swarm, Task, TaskRole, Thresholds, Ticket, Usage,
};

pub(super) const PROJECT_COLUMNS: &str = "SELECT id, name, budget_id, created_at FROM projects p";

pub(super) const BUDGET_COLUMNS: &str = "SELECT id, scope, entity_id, parent_id, currency, \
     allocated, spent, uncertain, reserved, overrun, warning, warning_action, critical, \
     critical_action, hard_stop, hard_stop_action, fired, created_at, updated_at, version \
     FROM budgets b";

pub(super) const SWARM_COLUMNS: &str = "SELECT id, project_id, name, status, task, strategy, \
     config, budget_id, agent_count, target_agent_count, result, error, created_at, updated_at, \
     completed_at, version FROM swarms s";

pub(super) const TASK_COLUMNS: &str = "SELECT id, swarm_id, key, role, prompt, depends_on, \
     status, agent_id, output, error, ordinal, created_at, updated_at, completed_at, version \
     FROM tasks t";

pub(super) const AGENT_COLUMNS: &str = "SELECT id, name, status, swarm_id, parent_id, depth, \
     task_id, model, head, turns, tool_calls, progress_current, progress_total, input_tokens, \
     output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_nanos, \
     pause_reason, result, error, retry_count, max_retries, attempt, attempt_turns, retry_at, \
     created_at, updated_at, started_at, completed_at, version, cache_write_long_tokens, profile \
     FROM agents a";

pub(super) const RESERVATION_COLUMNS: &str = "SELECT r.id, b.id, a.id, r.step_kind, r.step_turn, \
     r.step_number, r.state, r.held_usd, r.held_tokens, r.actual_usd, r.actual_tokens, \
     r.created_at FROM reservations r LEFT JOIN budgets b ON b.num = r.budget \
     LEFT JOIN agents a ON a.num = r.agent";

/// The columns of an entry; the caller joins `e` (entries), `a` (agents) and `b` (blobs).
pub(super) const ENTRY_COLUMNS: &str = "e.id, a.id, e.parent_id, e.step_kind, e.step_turn, \
     e.step_number, e.at, e.body, b.hash, b.size, b.codec, b.data";

/// The columns of a step; the caller joins `s` (steps) and `a` (agents).
pub(super) const STEP_COLUMNS: &str = "SELECT a.id, s.kind, s.turn, s.number, s.state, \
     s.side_effect, s.name, s.tries, s.call_id, s.reservation, s.entry, s.note, s.created_at, s.finished_at";

pub(super) const TICKET_COLUMNS: &str =
    "SELECT id, agent_id, queue, text, state, created_at FROM tickets t";

pub(super) const EVENT_COLUMNS: &str = "SELECT e.seq, e.id, e.at, s.id, e.source, a.id, t.id, \
     y.name, e.data, e.hash FROM events e LEFT JOIN event_types y ON y.num = e.type \
     LEFT JOIN swarms s ON s.num = e.swarm LEFT JOIN agents a ON a.num = e.source \
     LEFT JOIN swarms t ON t.num = -e.source";

type Read<T> = Result<T, Fault>;

fn wrong(column: usize, what: &str) -> Fault {
    Fault::corrupt(format!("column {column} of a row is not {what}"))
}

/// A text that has a parser: an id or a status.
fn parse<T: FromStr>(row: &Row<'_>, column: usize) -> Read<T> {
    let text = row
        .get_ref(column)?
        .as_str()
        .map_err(|_reason| wrong(column, "text"))?;
    text.parse()
        .map_err(|_reason| wrong(column, std::any::type_name::<T>()))
}

fn parse_optional<T: FromStr>(row: &Row<'_>, column: usize) -> Read<Option<T>> {
    if row.get_ref(column)? == rusqlite::types::ValueRef::Null {
        return Ok(None);
    }
    parse(row, column).map(Some)
}

/// A text that is one of a closed list.
fn pick<T: Copy>(row: &Row<'_>, column: usize, all: &[T], name: fn(T) -> &'static str) -> Read<T> {
    let text = row
        .get_ref(column)?
        .as_str()
        .map_err(|_reason| wrong(column, "text"))?;
    all.iter()
        .copied()
        .find(|value| name(*value) == text)
        .ok_or_else(|| wrong(column, std::any::type_name::<T>()))
}

fn blob_id(row: &Row<'_>, column: usize) -> Read<u128> {
    Ok(u128::from_be_bytes(row.get(column)?))
}

fn optional_blob_id(row: &Row<'_>, column: usize) -> Read<Option<u128>> {
    Ok(row
        .get::<_, Option<[u8; 16]>>(column)?
        .map(u128::from_be_bytes))
}

fn unsigned(row: &Row<'_>, column: usize) -> Read<u64> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|_reason| wrong(column, "a count"))
}

fn at(row: &Row<'_>, column: usize) -> Read<UnixMillis> {
    Ok(UnixMillis(row.get(column)?))
}

fn optional_at(row: &Row<'_>, column: usize) -> Read<Option<UnixMillis>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(UnixMillis))
}

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> Read<T> {
    let text = row
        .get_ref(column)?
        .as_str()
        .map_err(|_reason| wrong(column, "text"))?;
    serde_json::from_str(text).map_err(|_reason| wrong(column, std::any::type_name::<T>()))
}

/// A step's place from its three columns.
fn step_key(row: &Row<'_>, first: usize) -> Read<StepKey> {
    let (turn, number) = (row.get(first + 1)?, row.get(first + 2)?);
    match row.get::<_, i64>(first)? {
        0 => Ok(StepKey::Model {
            turn,
            attempt: number,
        }),
        1 => Ok(StepKey::Tool {
            turn,
            index: number,
        }),
        2 => Ok(StepKey::Summary {
            turn,
            attempt: number,
        }),
        _ => Err(wrong(first, "a kind of step")),
    }
}

pub(super) fn project(row: &Row<'_>) -> Read<Project> {
    Ok(Project {
        id: parse(row, 0)?,
        name: row.get(1)?,
        budget_id: parse(row, 2)?,
        created_at: at(row, 3)?,
    })
}

const SCOPES: [BudgetScope; 4] = [
    BudgetScope::Project,
    BudgetScope::Swarm,
    BudgetScope::Agent,
    BudgetScope::Task,
];
const ACTIONS: [ThresholdAction; 4] = [
    ThresholdAction::None,
    ThresholdAction::Notify,
    ThresholdAction::Pause,
    ThresholdAction::Kill,
];

pub(super) fn budget(row: &Row<'_>) -> Read<Budget> {
    let action = |column| pick(row, column, &ACTIONS, ThresholdAction::as_str);
    Ok(Budget {
        id: parse(row, 0)?,
        scope: pick(row, 1, &SCOPES, BudgetScope::as_str)?,
        entity_id: row.get(2)?,
        parent_id: parse_optional(row, 3)?,
        currency: pick(row, 4, &[Currency::Usd, Currency::Tokens], Currency::as_str)?,
        allocated: row.get(5)?,
        spent: row.get(6)?,
        uncertain: row.get(7)?,
        reserved: row.get(8)?,
        overrun: row.get(9)?,
        thresholds: Thresholds {
            warning: row.get(10)?,
            warning_action: action(11)?,
            critical: row.get(12)?,
            critical_action: action(13)?,
            hard_stop: row.get(14)?,
            hard_stop_action: action(15)?,
        },
        fired: row.get(16)?,
        created_at: at(row, 17)?,
        updated_at: at(row, 18)?,
        version: unsigned(row, 19)?,
    })
}

pub(super) fn swarm(row: &Row<'_>) -> Read<Swarm> {
    Ok(Swarm {
        id: parse(row, 0)?,
        project_id: parse(row, 1)?,
        name: row.get(2)?,
        status: parse(row, 3)?,
        task: row.get(4)?,
        strategy: parse(row, 5)?,
        config: json(row, 6)?,
        budget_id: parse(row, 7)?,
        agent_count: row.get(8)?,
        target_agent_count: row.get(9)?,
        result: row.get(10)?,
        error: row.get(11)?,
        created_at: at(row, 12)?,
        updated_at: at(row, 13)?,
        completed_at: optional_at(row, 14)?,
        version: unsigned(row, 15)?,
    })
}

pub(super) fn task(row: &Row<'_>) -> Read<Task> {
    Ok(Task {
        id: parse(row, 0)?,
        swarm_id: parse(row, 1)?,
        key: row.get(2)?,
        role: pick(row, 3, &TaskRole::ALL, TaskRole::as_str)?,
        prompt: row.get(4)?,
        depends_on: json(row, 5)?,
        status: parse(row, 6)?,
        agent_id: parse_optional(row, 7)?,
        output: row.get(8)?,
        error: row.get(9)?,
        ordinal: row.get(10)?,
        created_at: at(row, 11)?,
        updated_at: at(row, 12)?,
        completed_at: optional_at(row, 13)?,
        version: unsigned(row, 14)?,
    })
}

pub(super) fn agent(row: &Row<'_>) -> Read<Agent> {
    Ok(Agent {
        id: parse(row, 0)?,
        name: row.get(1)?,
        status: parse(row, 2)?,
        swarm_id: parse(row, 3)?,
        parent_id: parse_optional(row, 4)?,
        depth: row.get(5)?,
        task_id: parse_optional(row, 6)?,
        model: row.get(7)?,
        head: optional_blob_id(row, 8)?.map(EntryId::from_u128),
        turns: row.get(9)?,
        tool_calls: row.get(10)?,
        progress: Progress {
            current: row.get(11)?,
            total: row.get(12)?,
        },
        usage: Usage {
            input: unsigned(row, 13)?,
            output: unsigned(row, 14)?,
            cache_read: unsigned(row, 15)?,
            cache_write: unsigned(row, 16)?,
            reasoning: unsigned(row, 17)?,
            cache_write_long: unsigned(row, 32)?,
        },
        cost: NanoUsd(row.get(18)?),
        pause_reason: row.get(19)?,
        result: row.get(20)?,
        error: row.get(21)?,
        retry_count: row.get(22)?,
        max_retries: row.get(23)?,
        attempt: row.get(24)?,
        attempt_turns: row.get(25)?,
        retry_at: optional_at(row, 26)?,
        created_at: at(row, 27)?,
        updated_at: at(row, 28)?,
        started_at: optional_at(row, 29)?,
        completed_at: optional_at(row, 30)?,
        version: unsigned(row, 31)?,
        profile: row.get(33)?,
    })
}

pub(super) fn reservation(row: &Row<'_>) -> Read<Reservation> {
    let actual = match row.get::<_, Option<i64>>(9)? {
        Some(usd) => Some(Amount {
            usd: NanoUsd(usd),
            tokens: unsigned(row, 10)?,
        }),
        None => None,
    };
    Ok(Reservation {
        id: ReservationId::from_u128(blob_id(row, 0)?),
        budget_id: parse(row, 1)?,
        agent_id: parse(row, 2)?,
        step: step_key(row, 3)?,
        state: parse(row, 6)?,
        held: Amount {
            usd: NanoUsd(row.get(7)?),
            tokens: unsigned(row, 8)?,
        },
        actual,
        created_at: at(row, 11)?,
    })
}

pub(super) fn entry(row: &Row<'_>) -> Read<Entry> {
    let body = match row.get_ref(7)? {
        rusqlite::types::ValueRef::Text(json) => blob::decode(json)?,
        _ => blob::get(row.get(8)?, row.get(9)?, row.get(10)?, row.get_ref(11)?)?,
    };
    let step = match row.get::<_, Option<i64>>(3)? {
        Some(_) => Some(step_key(row, 3)?),
        None => None,
    };
    Ok(Entry {
        id: EntryId::from_u128(blob_id(row, 0)?),
        agent_id: parse(row, 1)?,
        parent_id: optional_blob_id(row, 2)?.map(EntryId::from_u128),
        step,
        body,
        at: at(row, 6)?,
    })
}

pub(super) fn step(row: &Row<'_>) -> Read<Step> {
    Ok(Step {
        agent_id: parse(row, 0)?,
        key: step_key(row, 1)?,
        state: parse(row, 4)?,
        side_effect: pick(row, 5, &SideEffect::ALL, SideEffect::as_str)?,
        name: row.get(6)?,
        tries: row.get(7)?,
        call_id: row.get(8)?,
        reservation_id: optional_blob_id(row, 9)?.map(ReservationId::from_u128),
        entry_id: optional_blob_id(row, 10)?.map(EntryId::from_u128),
        note: row.get(11)?,
        created_at: at(row, 12)?,
        finished_at: optional_at(row, 13)?,
    })
}

pub(super) fn ticket(row: &Row<'_>) -> Read<Ticket> {
    Ok(Ticket {
        id: parse(row, 0)?,
        agent_id: parse(row, 1)?,
        queue: pick(row, 2, &[Queue::Steer, Queue::FollowUp], Queue::as_str)?,
        text: row.get(3)?,
        state: parse(row, 4)?,
        created_at: at(row, 5)?,
    })
}

/// An event with what its link is made of.
pub(super) struct StoredEvent {
    pub(super) event: Event,
    /// The payload as it was given, JSON.
    pub(super) data: String,
    pub(super) hash: [u8; 16],
}

impl StoredEvent {
    /// Reads a row of [`EVENT_COLUMNS`].
    pub(super) fn read(row: &Row<'_>) -> Read<Self> {
        let text = |column| {
            row.get_ref(column)?
                .as_str()
                .map_err(|_reason| wrong(column, "text"))
        };
        let source = match row.get::<_, i64>(4)? {
            0 => Cow::Borrowed("system"),
            n if n > 0 => Cow::Owned(text(5)?.to_owned()),
            _ => Cow::Owned(text(6)?.to_owned()),
        };
        let data = expand(text(8)?, &source);
        let kind = EventKind::decode(text(7)?, &data).map_err(|_reason| wrong(8, "JSON"))?;
        let event = Event {
            seq: unsigned(row, 0)?,
            id: EventId::from_u128(blob_id(row, 1)?),
            at: at(row, 2)?,
            swarm_id: parse_optional(row, 3)?,
            source,
            kind,
        };
        Ok(Self {
            event,
            data,
            hash: row.get(9)?,
        })
    }
}

/// How most payloads of an agent's events begin, up to the agent's id.
const AGENT_PREFIX: &str = "{\"agentId\":\"";

/// Undoes [`shorten`].
fn expand(data: &str, source: &str) -> String {
    match data.strip_prefix('@') {
        Some(rest) => [AGENT_PREFIX, source, "\"", rest].concat(),
        None => data.to_owned(),
    }
}

/// Replaces `{"agentId":"<agent>"` at the start of a payload by `@`, which no JSON begins with:
/// the id is in the row already.
pub(super) fn shorten(data: &str, agent: Option<AgentId>) -> Cow<'_, str> {
    let Some(agent) = agent else {
        return Cow::Borrowed(data);
    };
    let rest = data
        .strip_prefix(AGENT_PREFIX)
        .and_then(|rest| rest.split_at_checked(27))
        .filter(|(id, _)| id.ends_with('"') && id.strip_suffix('"') == Some(&agent.to_string()))
        .map(|(_, rest)| rest);
    match rest {
        Some(rest) => Cow::Owned(["@", rest].concat()),
        None => Cow::Borrowed(data),
    }
}
