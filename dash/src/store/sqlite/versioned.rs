//! Writing the rows that carry a version and change rarely, and projects: an insert must find
//! nothing, an update the version that was read. Updates write only the columns that may change.

use rusqlite::{Connection, params};

use super::fault::{Fault, is_duplicate};
use super::write::Write;
use crate::model::{Budget, Project, Swarm, Task};
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
