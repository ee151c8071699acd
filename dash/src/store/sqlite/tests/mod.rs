//! The conformance suite on files, and what only a file can do.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::model::budget::ReservationState;
use crate::model::{
    AgentStatus, StepKey, StepState, Strategy, SwarmStatus, TaskRole, TaskStatus, TicketState,
};
use crate::testing::ManualClock;
use crate::testing::samples::{AT, World, message};
use crate::testing::store_suite;

mod cost;
mod plans;

const WORLD: World = World::new(1);

/// A directory that goes away, and a store's path in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dash.db");
    (dir, path)
}

async fn open_seeded(path: &Path) -> SqliteStore {
    let store = SqliteStore::open(path).await.unwrap();
    store.commit(WORLD.all()).await.unwrap();
    store
}

/// A plain connection, as a person with a shell has.
fn shell(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let next = std::sync::atomic::AtomicU32::new(0);
    store_suite::run_all(|| {
        let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = dir.path().join(format!("{n}.db"));
        async move { Arc::new(SqliteStore::open(path).await.unwrap()) as Arc<dyn Store> }
    })
    .await;
}

#[tokio::test]
async fn a_reopened_store_has_everything_and_goes_on_counting() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    let first = store.commit(WORLD.events(3)).await.unwrap();
    drop(store);
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(
        store.find_agent(WORLD.agent_id).await.unwrap(),
        Some(WORLD.agent())
    );
    let second = store.commit(WORLD.events(1)).await.unwrap();
    assert_eq!(second.events[0].seq, 4);
    let all = store
        .list_events(&EventFilter::default(), 0, 9)
        .await
        .unwrap();
    assert_eq!(all, [first.events, second.events].concat());
    assert_eq!(store.verify_chain().await.unwrap(), 4);
    store.close().await.unwrap();
    assert_eq!(SqliteStore::verify(&path).await.unwrap(), 4);
}

#[tokio::test]
async fn a_copy_taken_from_under_a_running_store_is_recovered_and_whole() {
    let (dir, path) = place();
    let store = open_seeded(&path).await;
    store.commit(WORLD.events(3)).await.unwrap();
    let copy = dir.path().join("copy.db");
    for suffix in ["", "-wal", ".lock"] {
        std::fs::copy(lock::suffixed(&path, suffix), lock::suffixed(&copy, suffix)).unwrap();
    }
    let copied = SqliteStore::open(&copy).await.unwrap();
    assert_eq!(copied.verify_chain().await.unwrap(), 3);
    assert_eq!(
        copied.find_agent(WORLD.agent_id).await.unwrap(),
        Some(WORLD.agent())
    );
}

#[tokio::test]
async fn a_second_store_on_one_file_is_locked_out() {
    let (dir, path) = place();
    let store = SqliteStore::open(&path).await.unwrap();
    let link = dir.path().join("other name.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for path in [&path, &link] {
        let err = SqliteStore::open(path).await.unwrap_err();
        assert!(matches!(err, StoreError::Locked { .. }), "{err}");
    }
    store.close().await.unwrap();
    SqliteStore::open(&path).await.unwrap();
}

#[tokio::test]
async fn a_place_that_takes_no_file_is_named() {
    let (dir, path) = place();
    std::fs::write(&path, "").unwrap();
    for path in [
        path.join("below-a-file.db"),
        dir.path().join("no/such/dir.db"),
        dir.path().into(),
    ] {
        let err = SqliteStore::open(&path).await.unwrap_err();
        assert!(
            matches!(err, StoreError::Open { .. } | StoreError::NotDash { .. }),
            "{err}"
        );
    }
    // Permission bits do not bind root, but nobody may make files in sysfs.
    #[cfg(target_os = "linux")]
    if Path::new("/sys/kernel").is_dir() {
        let err = SqliteStore::open("/sys/kernel/dash.db").await.unwrap_err();
        assert!(matches!(err, StoreError::ReadOnly { .. }), "{err}");
    }
}

#[tokio::test]
async fn a_foreign_file_is_refused_and_not_touched() {
    let (dir, text) = place();
    std::fs::write(&text, "once upon a time").unwrap();
    let sqlite = dir.path().join("foreign.db");
    shell(&sqlite)
        .execute_batch("CREATE TABLE cats (name TEXT)")
        .unwrap();
    for path in [&text, &sqlite] {
        let before = std::fs::read(path).unwrap();
        let err = SqliteStore::open(path).await.unwrap_err();
        assert!(matches!(err, StoreError::NotDash { .. }), "{err}");
        assert_eq!(std::fs::read(path).unwrap(), before);
        assert!(!lock::lock_path(path).exists());
    }
}

/// The journal of a transaction on a file of so many pages, before it has changed one.
///
/// Format: sqlite.org/fileformat2.html, section 3. There are no page records.
fn journal_of(pages: u32) -> Vec<u8> {
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for word in [0, 0, pages, 512, 4_096] {
        journal.extend(word.to_be_bytes());
    }
    journal.resize(512, 0);
    journal
}

/// What a power cut leaves behind while the first page of a new file is written: of its sectors
/// some are missing, the first among them.
#[tokio::test]
async fn a_file_whose_first_page_is_torn_is_made_anew() {
    for (len, first) in [(4_096, 0), (4_096, 0x5a), (1_024, 0)] {
        let (_dir, path) = place();
        std::fs::write(&path, vec![first; len]).unwrap();
        std::fs::write(lock::suffixed(&path, "-journal"), journal_of(0)).unwrap();
        let store = open_seeded(&path).await;
        store.close().await.unwrap();
        SqliteStore::verify(&path).await.unwrap();
    }
}

#[tokio::test]
async fn a_foreign_file_with_a_journal_is_refused_and_not_touched() {
    for (len, journal) in [(4_097, journal_of(0)), (4_096, journal_of(1))] {
        let (_dir, path) = place();
        std::fs::write(&path, vec![b'x'; len]).unwrap();
        std::fs::write(lock::suffixed(&path, "-journal"), journal).unwrap();
        let err = SqliteStore::open(&path).await.unwrap_err();
        assert!(matches!(err, StoreError::NotDash { .. }), "{err}");
        assert_eq!(std::fs::read(&path).unwrap(), vec![b'x'; len]);
    }
}

/// What a kill leaves behind that comes between the first page of a new file and the end of the
/// journal beside it: SQLite takes the page back, and with it the mark of whose file it is.
#[tokio::test]
async fn a_file_whose_first_page_is_taken_back_is_made_anew() {
    let (_dir, path) = place();
    let conn = shell(&path);
    conn.pragma_update(None, "application_id", migrate::APPLICATION_ID)
        .unwrap();
    drop(conn);
    let journal = journal_of(0);
    std::fs::write(lock::suffixed(&path, "-journal"), journal).unwrap();

    let store = open_seeded(&path).await;
    store.close().await.unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    assert!(store.find_agent(WORLD.agent_id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_newer_or_different_schema_is_refused() {
    let (_dir, path) = place();
    SqliteStore::open(&path)
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    let set = |sql: &str| shell(&path).execute_batch(sql).unwrap();
    set("INSERT INTO _migrations (version, name, applied_at, checksum) VALUES (9, 'x', 0, 'y')");
    let err = SqliteStore::open(&path).await.unwrap_err();
    assert!(
        matches!(err, StoreError::Newer { found: 9, known: 3 }),
        "{err}"
    );
    set("DELETE FROM _migrations WHERE version = 9; UPDATE _migrations SET checksum = 'other'");
    let err = SqliteStore::open(&path).await.unwrap_err();
    assert!(matches!(err, StoreError::Checksum { version: 1 }), "{err}");
}

#[tokio::test]
async fn migrations_go_up_down_and_up_again() {
    let (_dir, path) = place();
    let clock = Arc::new(ManualClock::new(AT));
    let store = SqliteStore::open_with(&path, clock).await.unwrap();
    store.close().await.unwrap();
    let number = |sql: &str| {
        shell(&path)
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!(
        number("SELECT applied_at FROM _migrations WHERE version = 1"),
        AT.0
    );
    assert_eq!(number("PRAGMA user_version"), 3);
    SqliteStore::migrate_down(&path, 0).await.unwrap();
    assert_eq!(number("SELECT count(*) FROM sqlite_schema"), 0);
    assert_eq!(number("PRAGMA user_version"), 0);
    let store = open_seeded(&path).await;
    assert_eq!(
        store.find_agent(WORLD.agent_id).await.unwrap(),
        Some(WORLD.agent())
    );
}

/// All rows of the tables that migration 3 makes anew, as text.
fn journal_rows(path: &Path) -> Vec<String> {
    let conn = shell(path);
    let mut out = Vec::new();
    for (table, order) in [
        ("entries", "id"),
        ("steps", "agent, kind, turn, number"),
        ("events", "seq"),
    ] {
        let sql = format!("SELECT * FROM {table} ORDER BY {order}");
        let mut statement = conn.prepare(&sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<_> = (0..columns).map(|at| row.get_ref(at).unwrap()).collect();
            out.push(format!("{table} {values:?}"));
        }
    }
    out
}

#[tokio::test]
async fn the_journal_is_put_in_another_order_and_back_without_a_loss() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    let first = WORLD.entry(1, message("hello"));
    let mut second = WORLD.entry(2, message(&"a long answer ".repeat(100)));
    second.parent_id = Some(first.id);
    let mut done = WORLD.step(StepKey::Tool { turn: 1, index: 0 });
    (done.state, done.entry_id, done.finished_at) = (StepState::Done, Some(second.id), Some(AT));
    let open = WORLD.step(StepKey::Tool { turn: 2, index: 0 });
    let changeset = Changeset {
        entries: vec![first, second.clone()],
        steps: vec![open.clone(), done.clone()],
        ..WORLD.events(3)
    };
    store.commit(changeset).await.unwrap();
    store.close().await.unwrap();
    let rows = journal_rows(&path);
    assert_eq!(rows.len(), 7);

    SqliteStore::migrate_down(&path, 2).await.unwrap();
    assert_eq!(journal_rows(&path), rows);
    let conn = shell(&path);
    conn.pragma_update(None, "foreign_keys", 1).unwrap();
    let stray = "UPDATE events SET type = 999";
    assert!(conn.execute(stray, []).is_err(), "the key is back");
    drop(conn);

    let store = SqliteStore::open(&path).await.unwrap();
    let found = store.list_path(second.id, 9).await.unwrap();
    assert_eq!(found.len(), 2);
    for step in [open, done] {
        let found = store.find_step(WORLD.agent_id, step.key).await.unwrap();
        assert_eq!(found, Some(step));
    }
    store.close().await.unwrap();
    assert_eq!(journal_rows(&path), rows);
    assert_eq!(SqliteStore::verify(&path).await.unwrap(), 3);
}

#[tokio::test]
async fn a_step_back_keeps_what_the_older_schema_can_hold() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    let model = WORLD.step(StepKey::Model {
        turn: 2,
        attempt: 1,
    });
    let summary = WORLD.step(StepKey::Summary {
        turn: 2,
        attempt: 1,
    });
    let mut held = WORLD.reservation(7);
    held.step = summary.key;
    let changeset = Changeset {
        steps: vec![model.clone(), summary.clone()],
        reservations: vec![held.clone()],
        ..Changeset::default()
    };
    store.commit(changeset).await.unwrap();
    store.close().await.unwrap();
    let set = |sql: &str| shell(&path).execute_batch(sql).unwrap();
    set("UPDATE budgets SET reserved = reserved + 30, allocated = NULL");
    let figures = || {
        let sql = "SELECT reserved, uncertain FROM budgets ORDER BY num LIMIT 1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        shell(&path).query_row(sql, [], read).unwrap()
    };
    let before = figures();
    SqliteStore::migrate_down(&path, 1).await.unwrap();
    // The call under way is charged at its worst case, and the older engine can read it.
    assert_eq!(figures(), (before.0 - 30, before.1 + 30));
    let sql = "SELECT state || step_kind FROM reservations ORDER BY id DESC LIMIT 1";
    let state: String = shell(&path).query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(state, "uncertain0");
    let keys = |sql: &str| {
        let conn = shell(&path);
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0));
        rows.unwrap().collect::<Result<Vec<_>, _>>().unwrap()
    };
    assert_eq!(keys("SELECT key FROM steps_readable"), ["t2/m.1"]);
    let store = SqliteStore::open(&path).await.unwrap();
    let found = store.find_step(WORLD.agent_id, model.key).await.unwrap();
    assert_eq!(found, Some(model));
    let changeset = Changeset {
        steps: vec![summary.clone()],
        ..Changeset::default()
    };
    store.commit(changeset).await.unwrap();
    let found = store.find_step(WORLD.agent_id, summary.key).await.unwrap();
    assert_eq!(found, Some(summary));
    store.close().await.unwrap();
    assert_eq!(
        keys("SELECT key FROM steps_readable ORDER BY key"),
        ["t2/m.1", "t2/s.1"]
    );
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_writes_work_again_once_there_is_space() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    store.commit(WORLD.events(1)).await.unwrap();
    let limit = async |pages| {
        let (tx, rx) = oneshot::channel();
        store
            .requests
            .as_ref()
            .unwrap()
            .send(Request::LimitPages(pages, tx))
            .await
            .unwrap();
        rx.await.unwrap();
    };
    limit(1).await;
    let fill = || Changeset {
        entries: vec![WORLD.entry(1, message(&"never the same ".repeat(40_000)))],
        ..WORLD.events(2_000)
    };
    for _ in 0..3 {
        let err = store.commit(fill()).await.unwrap_err();
        assert!(matches!(err, StoreError::Full), "{err}");
        assert_eq!(store.head_seq().await.unwrap(), 1);
    }
    limit(1_000_000).await;
    let committed = store.commit(fill()).await.unwrap();
    assert_eq!(committed.events[0].seq, 2);
    assert_eq!(store.verify_chain().await.unwrap(), 2_001);
}

#[tokio::test]
async fn a_changed_event_is_found() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    store.commit(WORLD.events(9)).await.unwrap();
    store.close().await.unwrap();
    for change in [
        "UPDATE events SET data = replace(data, 'false', 'true') WHERE seq = 5",
        "UPDATE events SET at = at + 1 WHERE seq = 5",
        "UPDATE events SET source = 0 WHERE seq = 5",
        "DELETE FROM events WHERE seq = 5",
    ] {
        let copy = path.with_extension("copy");
        std::fs::copy(&path, &copy).unwrap();
        shell(&copy).execute_batch(change).unwrap();
        for result in [
            SqliteStore::verify(&copy).await,
            SqliteStore::open(&copy).await.map(|_| 0),
        ] {
            let err = result.unwrap_err();
            assert!(
                matches!(&err, StoreError::Corrupt { detail } if detail.contains("event 5")),
                "{err}"
            );
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_payload_is_found() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    store.commit(WORLD.events(9)).await.unwrap();
    store.close().await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"\"attempt\":4";
    let at = bytes
        .windows(needle.len())
        .position(|w| w == needle)
        .unwrap();
    bytes[at + needle.len() - 1] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let conn = shell(&path);
    open::check(&conn, "integrity_check").unwrap();
    let err = SqliteStore::verify(&path).await.unwrap_err();
    assert!(err.to_string().contains("event 5 "), "{err}");
}

#[tokio::test]
async fn a_damaged_body_is_found_on_reading() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    let entries = vec![WORLD.entry(1, message(&"spam ".repeat(400)))];
    let head = entries[0].id;
    store
        .commit(Changeset {
            entries,
            ..Changeset::default()
        })
        .await
        .unwrap();
    shell(&path)
        .execute_batch("UPDATE blobs SET hash = zeroblob(16)")
        .unwrap();
    let err = store.list_path(head, 9).await.unwrap_err();
    assert!(matches!(err, StoreError::Corrupt { .. }), "{err}");
    // A claim of a size that no content may have is not believed.
    shell(&path)
        .execute_batch("UPDATE blobs SET size = 1 << 40")
        .unwrap();
    let err = store.list_path(head, 9).await.unwrap_err();
    assert!(matches!(err, StoreError::Corrupt { .. }), "{err}");
}

#[tokio::test]
async fn a_path_that_leads_nowhere_or_in_circles_is_damage() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    let entries: Vec<_> = (1..=3).map(|n| WORLD.entry(n, message("spam"))).collect();
    let [first, .., last] = [0, 1, 2].map(|n| entries[n].id);
    store
        .commit(Changeset {
            entries,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let conn = shell(&path);
    conn.pragma_update(None, "foreign_keys", 0).unwrap();
    let move_first = |parent: u128| {
        let ids = [parent, first.as_u128()].map(u128::to_be_bytes);
        let sql = "UPDATE entries SET parent_id = ?1 WHERE id = ?2";
        assert_eq!(conn.execute(sql, ids).unwrap(), 1);
    };
    for (parent, words) in [(9_999, "is not there"), (last.as_u128(), "follows itself")] {
        move_first(parent);
        let err = store.list_path(last, 1_000_000).await.unwrap_err();
        assert!(matches!(err, StoreError::Corrupt { .. }), "{err}");
        assert!(err.to_string().contains(words), "{err}");
    }
    // What is asked for is there.
    assert_eq!(store.list_path(last, 2).await.unwrap().len(), 2);
}

#[tokio::test]
async fn equal_contents_are_stored_once_and_compressed() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    let body = message(&"spam and eggs ".repeat(1_000));
    let entries = (1..=50).map(|n| WORLD.entry(n, body.clone())).collect();
    store
        .commit(Changeset {
            entries,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let sql = "SELECT count(*), sum(length(data)) FROM blobs";
    let found: (i64, i64) = shell(&path)
        .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(found.0, 1);
    assert!(found.1 < 1_000, "{found:?}");
}

#[tokio::test]
async fn a_foreign_writer_makes_a_commit_fail_and_the_store_goes_on() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    let other = shell(&path);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let err = store.commit(WORLD.events(1)).await.unwrap_err();
    assert!(matches!(err, StoreError::Locked { .. }), "{err}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(
        store.commit(WORLD.events(1)).await.unwrap().events[0].seq,
        1
    );
}

#[tokio::test]
async fn after_damage_nothing_more_is_written() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    store.commit(WORLD.events(1)).await.unwrap();
    // A missing table is no error that the table of codes names: it counts as unknown.
    shell(&path).execute_batch("DROP TABLE tickets").unwrap();
    let tickets = vec![WORLD.ticket(1)];
    let err = store
        .commit(Changeset {
            tickets,
            ..Changeset::default()
        })
        .await
        .unwrap_err();
    assert!(err.is_unknown(), "{err}");
    let err = store.commit(WORLD.events(1)).await.unwrap_err();
    assert!(err.is_unknown(), "{err}");
    assert_eq!(store.head_seq().await.unwrap(), 1);
    assert!(store.close().await.is_err());
}

#[tokio::test]
async fn the_settings_are_what_they_should_be() {
    let (_dir, path) = place();
    let opened = open::open(&path, AT, Flush::EveryCommit, &|_, _| ()).unwrap();
    for (name, value) in [
        ("journal_mode", "wal"),
        ("synchronous", "2"),
        ("foreign_keys", "1"),
        ("trusted_schema", "0"),
        ("cell_size_check", "1"),
        ("busy_timeout", "5000"),
        ("application_id", "1145131848"),
    ] {
        assert_eq!(open::pragma(&opened.conn, name).unwrap(), value, "{name}");
    }
    let reader = open::connect_reader(&path).unwrap();
    assert!(
        reader.execute_batch("DELETE FROM events").is_err(),
        "a reader wrote"
    );
}

#[tokio::test]
async fn the_wal_does_not_grow_for_ever_and_is_empty_after_close() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    for _ in 0..60 {
        store.commit(WORLD.events(2_000)).await.unwrap();
    }
    let wal = lock::suffixed(&path, "-wal");
    let len = std::fs::metadata(&wal).unwrap().len();
    assert!(len < 24 << 20, "{len} bytes");
    store.close().await.unwrap();
    assert_eq!(std::fs::metadata(&wal).map_or(0, |meta| meta.len()), 0);
    assert_eq!(
        std::fs::metadata(lock::lock_path(&path)).unwrap().len(),
        0,
        "a clean end"
    );
}

#[tokio::test]
async fn a_dropped_commit_is_whole_or_absent() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    for _ in 0..20 {
        let commit = store.commit(WORLD.events(5));
        drop(tokio::time::timeout(Duration::from_micros(50), commit).await);
    }
    store.commit(WORLD.events(5)).await.unwrap();
    assert_eq!(store.head_seq().await.unwrap() % 5, 0);
    store.verify_chain().await.unwrap();
}

/// The values of `CHECK (column = … OR column = …)` of a table.
fn checked(conn: &Connection, table: &str, column: &str) -> Vec<String> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    let text: String = conn.query_row(sql, [table], |row| row.get(0)).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, rest) = text.split_once(&format!("CHECK ( {column} = ")).unwrap();
    rest.split_once(')')
        .unwrap()
        .0
        .split(&format!(" OR {column} = "))
        .map(|item| item.trim_matches('\'').to_owned())
        .collect()
}

#[tokio::test]
async fn the_checks_are_the_tables_of_states() {
    let (_dir, path) = place();
    let conn = open::open(&path, AT, Flush::EveryCommit, &|_, _| ())
        .unwrap()
        .conn;
    macro_rules! same {
        ($table:literal, $column:literal, $all:expr) => {
            let expected: Vec<_> = $all.iter().map(|value| value.as_str().to_owned()).collect();
            assert_eq!(checked(&conn, $table, $column), expected, "{}", $table);
        };
    }
    same!("agents", "status", AgentStatus::ALL);
    same!("swarms", "status", SwarmStatus::ALL);
    same!("swarms", "strategy", Strategy::ALL);
    same!("tasks", "status", TaskStatus::ALL);
    same!("tasks", "role", TaskRole::ALL);
    same!("steps", "state", StepState::ALL);
    same!("steps", "side_effect", crate::model::SideEffect::ALL);
    same!("reservations", "state", ReservationState::ALL);
    same!("tickets", "state", TicketState::ALL);
}

#[tokio::test]
async fn a_person_can_read_the_views() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    let changeset = Changeset {
        entries: vec![WORLD.entry(1, message("hello"))],
        steps: vec![WORLD.step(StepKey::Model {
            turn: 3,
            attempt: 2,
        })],
        ..WORLD.events(1)
    };
    store.commit(changeset).await.unwrap();
    let text = |sql: &str| {
        shell(&path)
            .query_row(sql, [], |row| row.get::<_, String>(0))
            .unwrap()
    };
    let agent = WORLD.agent_id.to_string();
    assert_eq!(text("SELECT source FROM events_readable"), agent);
    let expected = format!(r#"{{"agentId":"{agent}","attempt":0,"resumed":false}}"#);
    assert_eq!(text("SELECT data FROM events_readable"), expected);
    assert_eq!(text("SELECT at FROM events_readable"), AT.to_rfc3339());
    assert_eq!(text("SELECT key FROM steps_readable"), "t3/m.2");
    assert!(text("SELECT body FROM entries_readable").contains("hello"));
}
