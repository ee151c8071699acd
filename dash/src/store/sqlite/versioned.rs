//! Writing the rows that carry a version, and projects: an insert must find nothing, an update the
//! version that was read. Updates write only the columns that may change.

use rusqlite::{Connection, Statement, params};

use super::fault::{Fault, is_duplicate};
use super::write::{State, Write, known_agent_number};
use crate::model::{Agent, Budget, Project, Swarm, Task, Version};
use crate::store::{RowWrite, StoreError};

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
fn updated(result: rusqlite::Result<usize>, what: &'static str, id: &impl ToString) -> Write {
    match result? {
        0 => Err(StoreError::Conflict {
            what,
            id: id.to_string(),
        }
        .into()),
        _ => Ok(()),
    }
}

pub(super) fn project(conn: &Connection, row: &Project) -> Write {
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

pub(super) fn budget(conn: &Connection, write: &RowWrite<Budget>) -> Write {
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

pub(super) fn swarm(conn: &Connection, write: &RowWrite<Swarm>) -> Write {
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

pub(super) fn task(conn: &Connection, write: &RowWrite<Task>) -> Write {
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

pub(super) fn agents(conn: &Connection, state: &mut State, writes: &[RowWrite<Agent>]) -> Write {
    if writes.is_empty() {
        return Ok(());
    }
    let mut update = conn.prepare_cached(UPDATE_AGENT)?;
    for write in writes {
        let row = &write.row;
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
     updated_at = ?26, started_at = ?27, completed_at = ?28, version = ?29 \
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
         updated_at, started_at, completed_at, version) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, \
         ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, \
         ?26, ?27, ?28, ?29, ?30, ?31, ?32)",
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
    ])?;
    Ok(changed == 1)
}
