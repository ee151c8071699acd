//! Killed while it brings an older database up to date, a program does it the next time, and all
//! that was in the database is there.

#![cfg(test)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use dash::store::SqliteStore;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use tokio::process::Command;

use crate::crash::mix;
use crate::crash_audit::{audit, check_effects, check_end_served, check_told};
use crate::crash_child::{Process, tell};
use crate::crash_served::Served;

/// The schema of the first release.
const FIRST: &str = include_str!("../../migrations/0001_initial.up.sql");
/// `DASH` in ASCII.
const APPLICATION_ID: i64 = 0x4441_5348;
/// Lines that a driver says until it is killed, in the middle of its work.
const LINES: usize = 250;
/// Kills at random moments.
const KILLS: u64 = 40;
/// A page and its head in the log of SQLite, and the head of the log.
const FRAME_BYTES: u64 = 4_096 + 24;
const LOG_HEAD_BYTES: u64 = 32;
/// Statements that migrations may have in all; this test goes on until there are no more.
const STATEMENTS_MAX: u32 = 1_000;

/// Makes a database as the first release made it, with everything that `new` holds and that the
/// first release knew.
fn make_older(new: &Path, older: &Path) {
    let conn = Connection::open(older).unwrap();
    conn.pragma_update(None, "application_id", APPLICATION_ID)
        .unwrap();
    conn.pragma_update(None, "foreign_keys", 0).unwrap();
    conn.execute_batch(FIRST).unwrap();
    conn.execute("ATTACH ?1 AS new", [new.to_str().unwrap()])
        .unwrap();
    for (table, columns) in tables(&conn) {
        let columns = columns.join(", ");
        let only = match table.as_str() {
            "_migrations" => " WHERE version = 1",
            _ => "",
        };
        let sql =
            format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}{only}");
        conn.execute(&sql, [])
            .unwrap_or_else(|err| panic!("{table}: {err}"));
    }
    conn.pragma_update(None, "user_version", 1).unwrap();
    let orphans = conn.query_row("PRAGMA main.foreign_key_check", [], |_| Ok(()));
    assert_eq!(orphans, Err(rusqlite::Error::QueryReturnedNoRows));
    conn.execute("DETACH new", []).unwrap();
    conn.pragma_update(None, "journal_mode", "wal").unwrap();
    conn.close().unwrap();
}

/// Tables and their columns.
fn tables(conn: &Connection) -> BTreeMap<String, Vec<String>> {
    let sql = "SELECT t.name, c.name FROM main.sqlite_schema t, pragma_table_info(t.name, 'main') c
        WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY t.name, c.cid";
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (table, column) in rows.unwrap().map(|row| row.unwrap()) {
        tables.entry(table).or_default().push(column);
    }
    tables
}

/// The rows of these columns, each as a text, sorted.
fn rows(db: &Path, tables: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, Vec<String>> {
    let conn = Connection::open(db).unwrap();
    let read = |(table, columns): (&String, &Vec<String>)| {
        let only = match table.as_str() {
            "_migrations" => " WHERE version = 1",
            _ => "",
        };
        let sql = format!("SELECT {} FROM {table}{only}", columns.join(", "));
        let mut statement = conn.prepare(&sql).unwrap();
        let row = |row: &rusqlite::Row<'_>| {
            let values = (0..columns.len()).map(|at| row.get::<_, Value>(at));
            let values: Vec<Value> = values.collect::<Result<_, _>>()?;
            Ok(format!("{values:?}"))
        };
        let found = statement.query_map(params_from_iter([0_i64; 0]), row);
        let mut found: Vec<String> = found.unwrap().map(|row| row.unwrap()).collect();
        found.sort_unstable();
        (table.clone(), found)
    };
    tables.iter().map(read).collect()
}

/// The texts of the schema, and its version.
fn schema(db: &Path) -> (Vec<String>, i64) {
    let conn = Connection::open(db).unwrap();
    let sql = "SELECT type || ' ' || name || ': ' || coalesce(sql, '') FROM sqlite_schema
        ORDER BY type, name";
    let mut statement = conn.prepare(sql).unwrap();
    let texts = statement.query_map([], |row| row.get(0)).unwrap();
    let version = conn.pragma_query_value(None, "user_version", |row| row.get(0));
    (texts.map(|text| text.unwrap()).collect(), version.unwrap())
}

/// A database that is to be migrated, and what it must hold afterwards.
struct Older {
    dir: tempfile::TempDir,
    /// What the process that made it has said, and whose model it asked.
    said: Vec<String>,
    served: Option<Served>,
    /// The tables of the first release; none if there is no file yet.
    tables: BTreeMap<String, Vec<String>>,
    rows: BTreeMap<String, Vec<String>>,
    /// The schema after a migration that nobody disturbed.
    schema: (Vec<String>, i64),
}

impl Older {
    /// An empty directory.
    async fn none() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            schema: undisturbed(dir.path()).await,
            dir,
            said: Vec::new(),
            served: None,
            tables: BTreeMap::new(),
            rows: BTreeMap::new(),
        }
    }

    /// A run that was killed in the middle, as the first release would have left it.
    async fn of_the_first_release() -> Self {
        let made = tempfile::tempdir().unwrap();
        let served = Served::start(0).await;
        let mut driver = Process::start(&mut served.driver(made.path(), "100"));
        for _ in 0..LINES {
            driver.line().await.unwrap();
        }
        let (said, status) = driver.kill().await;
        assert_eq!(status.signal(), Some(9));
        let new = made.path().join("run.db");
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(made.path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if !name.starts_with("run.db") {
                std::fs::copy(entry.path(), dir.path().join(name)).unwrap();
            }
        }
        let db = dir.path().join("run.db");
        make_older(&new, &db);
        let tables = tables(&Connection::open(&db).unwrap());
        let rows = rows(&db, &tables);
        for table in ["agents", "steps", "entries", "events", "reservations"] {
            assert!(rows[table].len() > 10, "too little in {table}");
        }
        Self {
            schema: undisturbed(dir.path()).await,
            dir,
            said,
            served: Some(served),
            tables,
            rows,
        }
    }

    /// A copy that may be spoilt.
    fn copy(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        dir
    }

    /// After a death in `dir`: the next start migrates, and everything is there.
    async fn check(&self, dir: &Path, what: &str) {
        let (status, lines, complaints) = Process::start(&mut migrate(dir)).end().await;
        assert!(status.success(), "{what}: {complaints}");
        assert_eq!(lines, ["open"], "{what}");
        let db = dir.join("run.db");
        assert_eq!(rows(&db, &self.tables), self.rows, "{what}");
        assert_eq!(schema(&db), self.schema, "{what}");
        let events = self.rows.get("events").map_or(0, Vec::len);
        let found = SqliteStore::verify(&db).await;
        assert_eq!(found.unwrap(), events as u64, "{what}");
    }
}

impl Older {
    /// The work goes on where the older program has left it, and ends well.
    async fn finish(&self, dir: &Path) {
        let served = self.served.as_ref().expect("there is work to go on with");
        let db = dir.join("run.db");
        check_told(&audit(&db).await, &self.said);
        let mut command = served.driver(dir, "100");
        let (status, lines, complaints) = Process::start(&mut command).end().await;
        assert!(status.success(), "{complaints}");
        let records = audit(&db).await;
        check_told(&records, &self.said);
        check_told(&records, &lines);
        check_effects(dir, &records);
        served.check_bill(&records);
        check_end_served(&records);
    }
}

fn migrate(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crash_driver"));
    command.arg("--migrate").arg(dir);
    command
}

/// The schema that a migration of a copy of `dir` makes.
async fn undisturbed(dir: &Path) -> (Vec<String>, i64) {
    let copy = tempfile::tempdir().unwrap();
    let db = copy.path().join("run.db");
    if dir.join("run.db").exists() {
        std::fs::copy(dir.join("run.db"), &db).unwrap();
    }
    let (status, _, complaints) = Process::start(&mut migrate(copy.path())).end().await;
    assert!(status.success(), "{complaints}");
    schema(&db)
}

/// Kills a migration after each of its statements; answers how many there are.
async fn kill_after_every_statement(older: &Older) -> u32 {
    for stop in 1..=STATEMENTS_MAX {
        let dir = older.copy();
        let mut driver = Process::start(migrate(dir.path()).arg(stop.to_string()));
        let line = driver.line().await.unwrap_or_default();
        if line == "open" {
            return stop - 1;
        }
        assert!(line.starts_with("stopped "), "{line}");
        let (_, status) = driver.kill().await;
        assert_eq!(status.signal(), Some(9));
        older.check(dir.path(), &line).await;
    }
    panic!("more than {STATEMENTS_MAX} statements");
}

#[tokio::test]
async fn killed_after_any_statement_of_a_migration_it_migrates_the_next_time() {
    let of_an_older = kill_after_every_statement(&Older::of_the_first_release().await).await;
    let of_a_new = kill_after_every_statement(&Older::none().await).await;
    tell(&format!(
        "killed after {of_an_older} statements of an older file, {of_a_new} of a new one"
    ));
    assert!(of_an_older > 4 && of_a_new > of_an_older);
}

/// The system kills a program that writes beyond its limit: here at each page in turn that the
/// migration writes, to the log and then to the database.
#[tokio::test]
async fn killed_at_any_page_that_a_migration_writes_it_migrates_the_next_time() {
    let older = Older::of_the_first_release().await;
    let mut deaths = 0;
    for pages in 0.. {
        let dir = older.copy();
        let mut command = Command::new("prlimit");
        let limit = LOG_HEAD_BYTES + pages * FRAME_BYTES;
        // Without a core file, which would be cut short too.
        command.args(["--core=0", &format!("--fsize={limit}"), "--"]);
        command.arg(env!("CARGO_BIN_EXE_crash_driver"));
        command.arg("--migrate").arg(dir.path());
        let (status, _, complaints) = Process::start(&mut command).end().await;
        let what = format!("no file above {limit} bytes");
        match status.signal() {
            Some(_) => deaths += 1,
            None => assert!(status.success(), "{what}: {status}: {complaints}"),
        }
        older.check(dir.path(), &what).await;
        if status.success() {
            break;
        }
    }
    tell(&format!("killed at {deaths} pages of a migration"));
    assert!(deaths > 20, "only {deaths}");
}

#[tokio::test]
async fn killed_at_any_moment_of_a_migration_it_migrates_the_next_time() {
    let older = Older::of_the_first_release().await;
    let began = tokio::time::Instant::now();
    older.check(older.copy().path(), "undisturbed").await;
    let mut whole = began.elapsed();
    let mut early = 0;
    for kill in 0..KILLS {
        let dir = older.copy();
        for again in 0..2 {
            let driver = Process::start(&mut migrate(dir.path()));
            // Not to wait for anything: moments spread over the time it takes.
            let part = mix(kill << 1 | again) % 1_000;
            tokio::time::sleep(whole.mul_f64(part as f64 / 1_000.0)).await;
            let (lines, status) = driver.kill().await;
            // The machine is not always equally busy: the moments follow what it needs now.
            let is_early = status.signal() == Some(9) && lines.is_empty();
            early += u64::from(is_early);
            whole = whole.mul_f64(if is_early { 1.02 } else { 0.95 });
        }
        older.check(dir.path(), &format!("kill {kill}")).await;
        if kill == 0 {
            older.finish(dir.path()).await;
        }
    }
    tell(&format!(
        "{early} of {} kills came before the end of a migration",
        KILLS * 2
    ));
    assert!(early > KILLS / 2, "only {early} kills came early enough");
}
