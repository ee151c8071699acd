//! Schema versions: embedded, each applied in one transaction with its row in `_migrations`.

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Connection, Transaction, TransactionBehavior, params};

use super::fault::Fault;
use crate::env::UnixMillis;
use crate::store::StoreError;

/// `DASH` in ASCII: `PRAGMA application_id` of every store.
pub(super) const APPLICATION_ID: i32 = 0x4441_5348;

/// One step of the schema.
#[derive(Debug)]
pub(super) struct Migration {
    pub(super) version: u32,
    pub(super) name: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
}

/// Every step, in order. Append-only: an applied one never changes.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "initial",
        up: include_str!("../../../migrations/0001_initial.up.sql"),
        down: include_str!("../../../migrations/0001_initial.down.sql"),
    },
    Migration {
        version: 2,
        name: "agent_core",
        up: include_str!("../../../migrations/0002_agent_core.up.sql"),
        down: include_str!("../../../migrations/0002_agent_core.down.sql"),
    },
    Migration {
        version: 3,
        name: "step_order",
        up: include_str!("../../../migrations/0003_step_order.up.sql"),
        down: include_str!("../../../migrations/0003_step_order.down.sql"),
    },
];

/// The newest version this build knows.
pub(super) fn newest() -> u32 {
    MIGRATIONS.last().map_or(0, |migration| migration.version)
}

fn checksum(migration: &Migration) -> String {
    blake3::hash(migration.up.as_bytes()).to_hex().to_string()
}

/// Versions and checksums of what was applied, in order. Empty for a new file.
///
/// # Errors
///
/// [`StoreError::Corrupt`] if there are tables but no record of migrations.
pub(super) fn applied(conn: &Connection) -> Result<Vec<(u32, String)>, Fault> {
    let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    if count("SELECT count(*) FROM sqlite_schema WHERE name = '_migrations'")? == 0 {
        if count("SELECT count(*) FROM sqlite_schema")? == 0 {
            return Ok(Vec::new());
        }
        return Err(Fault::corrupt("it has tables but no record of migrations"));
    }
    let mut statement =
        conn.prepare("SELECT version, checksum FROM _migrations ORDER BY version")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Compares what was applied with what this build knows.
///
/// # Errors
///
/// [`StoreError::Newer`], [`StoreError::Checksum`].
pub(super) fn check(applied: &[(u32, String)]) -> Result<(), StoreError> {
    if let Some((found, _)) = applied.last().filter(|(version, _)| *version > newest()) {
        return Err(StoreError::Newer {
            found: *found,
            known: newest(),
        });
    }
    for (index, (version, sum)) in applied.iter().enumerate() {
        match MIGRATIONS.get(index) {
            Some(known) if known.version == *version && checksum(known) == *sum => {}
            _ => return Err(StoreError::Checksum { version: *version }),
        }
    }
    Ok(())
}

/// Is told after each statement of a migration that is applied: the migration's version and how
/// many of its statements are done. The last one is its COMMIT.
pub(super) type Watch<'a> = &'a dyn Fn(u32, u32);

/// Applies what is missing, `now` being the time noted.
pub(super) fn up(conn: &mut Connection, now: UnixMillis, watch: Watch<'_>) -> Result<(), Fault> {
    let done = applied(conn)?;
    check(&done)?;
    for migration in MIGRATIONS.iter().skip(done.len()) {
        let (version, name) = (migration.version, migration.name);
        tracing::info!(version, name, "a migration begins");
        let mut done = 0;
        let mut tell = || {
            done += 1;
            watch(migration.version, done);
        };
        let tx = begin(conn)?;
        tell();
        let mut statements = Batch::new(&tx, migration.up);
        while let Some(mut statement) = statements.next()? {
            statement.raw_execute()?;
            tell();
        }
        tx.execute(
            "INSERT INTO _migrations (version, name, applied_at, checksum) VALUES (?1, ?2, ?3, ?4)",
            params![
                migration.version,
                migration.name,
                now.0,
                checksum(migration)
            ],
        )?;
        tell();
        tx.pragma_update(None, "user_version", migration.version)?;
        tell();
        tx.commit()?;
        tell();
        tracing::info!(version, name, "the migration is done");
    }
    Ok(())
}

/// Takes back every migration above `target`, newest first. What they held is lost.
pub(super) fn down(conn: &mut Connection, target: u32) -> Result<(), Fault> {
    let done = applied(conn)?;
    check(&done)?;
    for migration in MIGRATIONS.iter().take(done.len()).rev() {
        if migration.version <= target {
            break;
        }
        let (version, name) = (migration.version, migration.name);
        tracing::info!(version, name, "a migration is taken back");
        let tx = begin(conn)?;
        tx.execute_batch(migration.down)?;
        // The first migration's `down` drops the record too.
        if migration.version > 1 {
            tx.execute(
                "DELETE FROM _migrations WHERE version = ?1",
                [migration.version],
            )?;
        }
        tx.pragma_update(None, "user_version", migration.version - 1)?;
        tx.commit()?;
        tracing::info!(version, name, "the migration has been taken back");
    }
    Ok(())
}

fn begin(conn: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    conn.transaction_with_behavior(TransactionBehavior::Immediate)
}
