//! The list queries: which SQL a filter becomes.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _};

use super::fault::Fault;
use super::read::Select;
use super::rows;
use crate::ids::{AgentId, BudgetId, ReservationId, SwarmId, TaskId, TicketId};
use crate::model::budget::ReservationState;
use crate::model::{AgentStatus, StepKey, StepState, SwarmStatus, TaskStatus, TicketState};
use crate::store::{
    AgentFilter, BudgetFilter, EventFilter, PAGE_MAX, Page, ReservationFilter, StepFilter,
    SwarmFilter, TaskFilter, TicketFilter,
};

// The conditions of the partial indexes, in the order of the schema's text.
const SWARMS_ACTIVE: [&str; 3] = ["creating", "active", "paused"];
const AGENTS_ACTIVE: [&str; 4] = ["idle", "spawning", "running", "paused"];
const RESERVATIONS_OPEN: [&str; 2] = ["held", "uncertain"];
const STEPS_OPEN: [&str; 2] = ["intended", "in_doubt"];
const TICKETS_QUEUED: [&str; 1] = ["queued"];

fn names<T: Copy>(values: &[T], name: fn(T) -> &'static str) -> Vec<&'static str> {
    values.iter().copied().map(name).collect()
}

fn blob(id: u128) -> Value {
    Value::Blob(id.to_be_bytes().to_vec())
}

pub(super) fn swarms(filter: &SwarmFilter, page: Page<SwarmId>) -> Select {
    let mut select = Select::new(rows::SWARM_COLUMNS);
    select.and_value("project_id = ?", filter.project_id.map(|id| id.to_string()));
    select.and_in(
        "status",
        &names(&filter.statuses, SwarmStatus::as_str),
        &SWARMS_ACTIVE,
    );
    select.and_value("id > ?", page.after.map(|id| id.to_string()));
    select.end("id", page.size());
    select
}

pub(super) fn agents(filter: &AgentFilter, page: Page<AgentId>) -> Select {
    let mut select = Select::new(rows::AGENT_COLUMNS);
    select.and_value("swarm_id = ?", filter.swarm_id.map(|id| id.to_string()));
    select.and_value("parent_id = ?", filter.parent_id.map(|id| id.to_string()));
    select.and_in(
        "status",
        &names(&filter.statuses, AgentStatus::as_str),
        &AGENTS_ACTIVE,
    );
    select.and_value("id > ?", page.after.map(|id| id.to_string()));
    select.end("id", page.size());
    select
}

pub(super) fn tasks(filter: &TaskFilter, page: Page<TaskId>) -> Select {
    let mut select = Select::new(rows::TASK_COLUMNS);
    select.and_value("swarm_id = ?", filter.swarm_id.map(|id| id.to_string()));
    select.and_in("status", &names(&filter.statuses, TaskStatus::as_str), &[]);
    select.and_value("id > ?", page.after.map(|id| id.to_string()));
    select.end("id", page.size());
    select
}

pub(super) fn budgets(filter: &BudgetFilter, page: Page<BudgetId>) -> Select {
    let mut select = Select::new(rows::BUDGET_COLUMNS);
    if let Some((scope, entity)) = &filter.entity {
        select.and_value("scope = ?", Some(scope.as_str().to_owned()));
        select.and_value("entity_id = ?", Some(entity.clone()));
    }
    select.and_value("parent_id = ?", filter.parent_id.map(|id| id.to_string()));
    select.and_value("id > ?", page.after.map(|id| id.to_string()));
    select.end("id", page.size());
    select
}

/// A step's place as the three columns that order it.
const fn place(key: StepKey) -> (i64, u32, u32) {
    match key {
        StepKey::Model { turn, attempt } => (0, turn, attempt),
        StepKey::Tool { turn, index } => (1, turn, index),
        StepKey::Summary { turn, attempt } => (2, turn, attempt),
    }
}

/// One step; parameters: [`step_params`].
pub(super) fn step_sql() -> String {
    let rest = " FROM agents a CROSS JOIN steps s ON s.agent = a.num \
         WHERE a.id = ?1 AND s.kind = ?2 AND s.turn = ?3 AND s.number = ?4";
    [rows::STEP_COLUMNS, rest].concat()
}

pub(super) fn step_params(agent: AgentId, key: StepKey) -> (String, i64, u32, u32) {
    let (kind, turn, number) = place(key);
    (agent.to_string(), kind, turn, number)
}

pub(super) fn steps(filter: &StepFilter, page: Page<(AgentId, StepKey)>) -> Select {
    let states = names(&filter.states, StepState::as_str);
    let is_open = !states.is_empty() && states.iter().all(|state| STEPS_OPEN.contains(state));
    // Without a state, agents lead, in the order of their ids. The open steps are few: they are
    // found by their own index and sorted.
    let from = if is_open {
        " FROM steps s CROSS JOIN agents a ON a.num = s.agent"
    } else {
        " FROM agents a CROSS JOIN steps s ON s.agent = a.num"
    };
    let mut select = Select::new(&[rows::STEP_COLUMNS, from].concat());
    select.and_in("s.state", &states, &STEPS_OPEN);
    if let Some(agent) = filter.agent_id {
        let one = "s.agent = (SELECT num FROM agents WHERE id = ?)";
        select.and_value(one, Some(agent.to_string()));
        select.and_value("a.id = ?", Some(agent.to_string()));
    }
    if let Some((agent, key)) = page.after {
        let (kind, turn, number) = place(key);
        if filter.agent_id == Some(agent) {
            select.and("(s.kind, s.turn, s.number) > (?, ?, ?)");
        } else {
            select.and_value("a.id >= ?", Some(agent.to_string()));
            select.and("(a.id, s.kind, s.turn, s.number) > (?, ?, ?, ?)");
            select.bind(agent.to_string());
        }
        select.bind(kind);
        select.bind(turn);
        select.bind(number);
    }
    let order = if filter.agent_id.is_some() {
        "s.kind, s.turn, s.number"
    } else {
        "a.id, s.kind, s.turn, s.number"
    };
    select.end(order, page.size());
    select
}

pub(super) fn reservations(filter: &ReservationFilter, page: Page<ReservationId>) -> Select {
    let mut select = Select::new(rows::RESERVATION_COLUMNS);
    let one = "r.agent = (SELECT num FROM agents WHERE id = ?)";
    select.and_value(one, filter.agent_id.map(|id| id.to_string()));
    select.and_in(
        "r.state",
        &names(&filter.states, ReservationState::as_str),
        &RESERVATIONS_OPEN,
    );
    select.and_value("r.id > ?", page.after.map(|id| blob(id.as_u128())));
    select.end("r.id", page.size());
    select
}

pub(super) fn tickets(filter: &TicketFilter, page: Page<TicketId>) -> Select {
    let mut select = Select::new(rows::TICKET_COLUMNS);
    select.and_value("agent_id = ?", filter.agent_id.map(|id| id.to_string()));
    let state: Vec<_> = filter.state.into_iter().map(TicketState::as_str).collect();
    select.and_in("state", &state, &TICKETS_QUEUED);
    select.and_value("id > ?", page.after.map(|id| id.to_string()));
    select.end("id", page.size());
    select
}

/// The short number that `sql` finds for a name.
fn number(conn: &Connection, sql: &str, name: &str) -> Result<Option<i64>, Fault> {
    Ok(conn
        .prepare_cached(sql)?
        .query_row([name], |row| row.get(0))
        .optional()?)
}

/// The short number of an event's source.
fn source_number(conn: &Connection, source: &str) -> Result<Option<i64>, Fault> {
    if source == "system" {
        return Ok(Some(0));
    }
    if let Some(num) = number(conn, "SELECT num FROM agents WHERE id = ?", source)? {
        return Ok(Some(num));
    }
    number(conn, "SELECT -num FROM swarms WHERE id = ?", source)
}

/// `None` if no event can match.
pub(super) fn events(
    conn: &Connection,
    filter: &EventFilter,
    after: u64,
    limit: usize,
) -> Result<Option<Select>, Fault> {
    let Ok(after) = i64::try_from(after) else {
        return Ok(None);
    };
    let mut select = Select::new(rows::EVENT_COLUMNS);
    if let Some(id) = filter.swarm_id {
        let sql = "SELECT num FROM swarms WHERE id = ?";
        let Some(num) = number(conn, sql, &id.to_string())? else {
            return Ok(None);
        };
        select.and_value("e.swarm = ?", Some(num));
    }
    if let Some(source) = &filter.source {
        let Some(num) = source_number(conn, source)? else {
            return Ok(None);
        };
        select.and_value("e.source = ?", Some(num));
    }
    if !filter.types.is_empty() {
        let mut types = Vec::with_capacity(filter.types.len());
        for name in &filter.types {
            types.extend(number(
                conn,
                "SELECT num FROM event_types WHERE name = ?",
                name,
            )?);
        }
        match types.as_slice() {
            [] => return Ok(None),
            [one] => select.and_value("e.type = ?", Some(*one)),
            many => {
                let marks = vec!["?"; many.len()].join(", ");
                select.and(&["e.type IN (", &marks, ")"].concat());
                many.iter().for_each(|num| select.bind(*num));
            }
        }
    }
    select.and_value("e.seq > ?", Some(after));
    select.end("e.seq", limit.min(PAGE_MAX));
    Ok(Some(select))
}
