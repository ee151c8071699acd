//! Whether a file as a whole is what was written: its structure, the hashes of events and of large
//! contents, every reference, and that every row can be read.
//!
//! What has no hash of its own and still looks like something that could have been written is not
//! found.

use rusqlite::Connection;

use super::fault::Fault;
use super::{chain, migrate, open, rows};

/// Checks everything. Returns how many events there are.
///
/// # Errors
///
/// As [`SqliteStore::verify`](super::SqliteStore::verify).
pub(super) fn all(conn: &Connection) -> Result<u64, Fault> {
    let applied = migrate::applied(conn)?;
    migrate::check(&applied)?;
    open::check(conn, "integrity_check")?;
    references(conn)?;
    // Rows of an older schema are read once it has been brought up to date.
    if applied.last().map(|(version, _)| *version) == Some(migrate::newest()) {
        rows(conn)?;
    }
    chain::verify(conn, 0, u64::MAX)
}

/// Every foreign key leads to a row.
fn references(conn: &Connection) -> Result<(), Fault> {
    let mut statement = conn.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    match rows.next()? {
        Some(row) => {
            let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
            let text = format!("a row of `{table}` refers to one of `{parent}` that is not there");
            Err(Fault::corrupt(text))
        }
        None => Ok(()),
    }
}

/// Every row of every table but the events', which their chain covers.
fn rows(conn: &Connection) -> Result<(), Fault> {
    let steps = " FROM steps s LEFT JOIN agents a ON a.num = s.agent";
    let entries = " FROM entries e LEFT JOIN agents a ON a.num = e.agent \
         LEFT JOIN blobs b ON b.num = e.blob";
    each(conn, rows::PROJECT_COLUMNS, rows::project)?;
    each(conn, rows::BUDGET_COLUMNS, rows::budget)?;
    each(conn, rows::SWARM_COLUMNS, rows::swarm)?;
    each(conn, rows::TASK_COLUMNS, rows::task)?;
    each(conn, rows::AGENT_COLUMNS, rows::agent)?;
    each(conn, rows::RESERVATION_COLUMNS, rows::reservation)?;
    each(conn, rows::TICKET_COLUMNS, rows::ticket)?;
    each(conn, &[rows::STEP_COLUMNS, steps].concat(), rows::step)?;
    let entries = ["SELECT ", rows::ENTRY_COLUMNS, entries].concat();
    each(conn, &entries, rows::entry)
}

/// Reads every row of a query and keeps none.
fn each<T>(
    conn: &Connection,
    sql: &str,
    read: fn(&rusqlite::Row<'_>) -> Result<T, Fault>,
) -> Result<(), Fault> {
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        read(row)?;
    }
    Ok(())
}
