//! Opening a store: whose file is it, does every setting take, is it whole.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::fault::Fault;
use super::lock::{FileLock, open_error, suffixed};
use super::{chain, migrate};
use crate::env::UnixMillis;
use crate::store::StoreError;

/// How long SQLite waits for a foreign lock on the file. Engines exclude each other by their own
/// lock, so only a shell or a backup tool can hold one.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The first SQLite whose WAL cannot be reset wrongly (source: sqlite.org/wal.html, "the WAL-reset
/// bug", fixed in 3.51.3).
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// Above this size an unclean end is not followed by `quick_check` (about 0.4 s at the bound).
const QUICK_CHECK_BYTES_MAX: u64 = 256 << 20;

/// A page of the database: SQLite's default.
const PAGE_BYTES: u64 = 4_096;

/// Bytes of a rollback journal that say what it is.
const JOURNAL_HEADER_BYTES: usize = 28;

/// Statements each connection keeps prepared: all that there are, and room for list filters.
const STATEMENTS_MAX: usize = 128;

/// What every connection must be set to, and what reading it back must give.
const PRAGMAS: [(&str, &str); 6] = [
    ("foreign_keys", "1"),
    ("trusted_schema", "0"),
    ("cell_size_check", "1"),
    ("busy_timeout", "5000"),
    ("mmap_size", "0"),
    ("temp_store", "2"),
];

/// The same for the writer. It makes all checkpoints itself.
const WRITER_PRAGMAS: [(&str, &str); 4] = [
    // 8 MiB. With SQLite's 2, the transactions of some hundred agents spill their pages into the
    // log halfway and read them back.
    ("cache_size", "-8192"),
    ("journal_mode", "wal"),
    ("wal_autocheckpoint", "0"),
    ("journal_size_limit", "67108864"),
];

/// When SQLite flushes what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// Before a commit returns.
    EveryCommit,
    /// Only around checkpoints: a power cut takes what was committed since.
    #[cfg(feature = "test-util")]
    Checkpoints,
}

impl Flush {
    /// The value of `PRAGMA synchronous`.
    const fn synchronous(self) -> &'static str {
        match self {
            Self::EveryCommit => "2",
            #[cfg(feature = "test-util")]
            Self::Checkpoints => "1",
        }
    }

    /// What a store with it survives.
    pub(super) const fn durability(self) -> &'static str {
        match self {
            Self::EveryCommit => "power loss (WAL, synchronous=FULL)",
            #[cfg(feature = "test-util")]
            Self::Checkpoints => "the end of the process (WAL, synchronous=NORMAL)",
        }
    }
}

/// A store that was found fit to be used.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) lock: FileLock,
    pub(super) conn: Connection,
}

/// Opens or creates the store at `path`, takes its lock, brings its schema up to date.
pub(super) fn open(
    path: &Path,
    now: UnixMillis,
    flush: Flush,
    watch: migrate::Watch<'_>,
) -> Result<Opened, StoreError> {
    let version = rusqlite::version_number();
    if version < SQLITE_VERSION_MIN {
        return Err(StoreError::Open {
            detail: format!("SQLite {version} is too old, {SQLITE_VERSION_MIN} is needed"),
        });
    }
    let path = resolve(path)?;
    check_header(&path)?;
    let mut lock = FileLock::acquire(&path)?;
    let classify = |fault: Fault| at_open(fault.classify(&path));
    // Only now: before the lock another process may have been creating the file.
    check_header(&path)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    drop(file.map_err(|err| open_error(&path, &err))?);
    let wal_len = std::fs::metadata(suffixed(&path, "-wal")).map_or(0, |meta| meta.len());
    let is_unclean = lock.was_unclean || wal_len > 0;

    let conn = connect_writer(&path, flush).map_err(classify)?;
    if is_unclean {
        quick_check(&conn, &path).map_err(classify)?;
    }
    let mut conn = conn;
    migrate::up(&mut conn, now, watch).map_err(classify)?;
    chain::verify_tail(&conn).map_err(classify)?;
    lock.mark().map_err(|err| open_error(&path, &err))?;
    Ok(Opened { path, lock, conn })
}

/// An error of opening: nothing was written, so an unknown outcome is none.
fn at_open(err: StoreError) -> StoreError {
    match err {
        StoreError::Io { detail } => StoreError::Open { detail },
        other => other,
    }
}

/// The file itself, so that two paths to it meet at one lock. (Hard links do not.)
pub(super) fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    if let Ok(found) = path.canonicalize() {
        return Ok(found);
    }
    let Some(name) = path.file_name() else {
        return Err(StoreError::Open {
            detail: format!("`{}` names no file", path.display()),
        });
    };
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    let parent = parent
        .canonicalize()
        .map_err(|err| open_error(parent, &err))?;
    Ok(parent.join(name))
}

/// Whether the file is new, empty or was never finished. Looks at the bytes, so that a foreign file
/// is never touched.
///
/// # Errors
///
/// [`StoreError::NotDash`] if it holds anything but a store.
pub(super) fn check_header(path: &Path) -> Result<bool, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(err) => return Err(open_error(path, &err)),
    };
    let mut header = Vec::with_capacity(100);
    let len = file.metadata().map_err(|err| open_error(path, &err))?.len();
    file.take(100)
        .read_to_end(&mut header)
        .map_err(|err| open_error(path, &err))?;
    if header.is_empty() {
        return Ok(true);
    }
    // Offsets: sqlite.org/fileformat2.html, section 1.3.
    let is_sqlite = header.get(..16) == Some(b"SQLite format 3\0");
    let is_ours = header.get(68..72) == Some(&migrate::APPLICATION_ID.to_be_bytes());
    if is_sqlite && is_ours {
        return Ok(false);
    }
    if is_unfinished(path, len)? {
        return Ok(true);
    }
    Err(StoreError::NotDash {
        path: path.to_path_buf(),
    })
}

/// Whether a power cut has torn the first page of a new file while it was written. Then the journal
/// beside it says that the file had no pages, and SQLite takes it back to that.
fn is_unfinished(path: &Path, len: u64) -> Result<bool, StoreError> {
    if len > PAGE_BYTES {
        return Ok(false);
    }
    let journal = match File::open(suffixed(path, "-journal")) {
        Ok(journal) => journal,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(err) => return Err(open_error(path, &err)),
    };
    let mut header = Vec::with_capacity(JOURNAL_HEADER_BYTES);
    journal
        .take(JOURNAL_HEADER_BYTES as u64)
        .read_to_end(&mut header)
        .map_err(|err| open_error(path, &err))?;
    // Offsets: sqlite.org/fileformat2.html, section 3.
    let is_journal = header.get(..8) == Some(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7");
    let had_no_pages = header.get(16..20) == Some(&[0; 4]);
    Ok(is_journal && had_no_pages)
}

/// The only read-write connection.
pub(super) fn connect_writer(path: &Path, flush: Flush) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    prepare(&conn)?;
    // Not told by the file's length: a kill may have left a first page that SQLite takes back now.
    if pragma(&conn, "page_count")? == "0" {
        // Before WAL mode, so that the mark is in the file itself and not in its log.
        conn.pragma_update(None, "application_id", migrate::APPLICATION_ID)?;
    }
    set(&conn, &WRITER_PRAGMAS)?;
    set(&conn, &[("synchronous", flush.synchronous())])?;
    if log_pages(&conn, "PRAGMA wal_checkpoint(NOOP)")?.0 < 0 {
        let detail = "the write-ahead log is not in use".to_owned();
        return Err(StoreError::Open { detail }.into());
    }
    Ok(conn)
}

/// A connection that only reads.
pub(super) fn connect_reader(path: &Path) -> Result<Connection, Fault> {
    // Not SQLITE_OPEN_READ_ONLY: a reader may be the one that has to recover the shared index.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    prepare(&conn)?;
    set(&conn, &[("query_only", "1")])?;
    Ok(conn)
}

fn prepare(conn: &Connection) -> Result<(), Fault> {
    // Only the writer checkpoints, and only when it says so.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Without it SQLite plans a statement anew whenever the value of its LIMIT is bound.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    set(conn, &PRAGMAS)
}

/// Sets pragmas and reads them back.
fn set(conn: &Connection, pragmas: &[(&str, &str)]) -> Result<(), Fault> {
    for (name, value) in pragmas {
        // To its end: setting may be a transaction, and whether that has been committed is known
        // only after the row that tells the new value.
        let mut statement = conn.prepare(&format!("PRAGMA {name} = {value}"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        let found = pragma(conn, name)?;
        if found != *value {
            let detail = format!("`PRAGMA {name} = {value}` did not take, it is {found}");
            return Err(StoreError::Open { detail }.into());
        }
    }
    Ok(())
}

/// Pages in the log after a checkpoint, and how many of them are in the database too. Negative if
/// there is no log.
pub(super) fn log_pages(conn: &Connection, checkpoint: &str) -> rusqlite::Result<(i64, i64)> {
    conn.prepare_cached(checkpoint)?
        .query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// A pragma's value as text.
pub(super) fn pragma(conn: &Connection, name: &str) -> Result<String, Fault> {
    let value =
        conn.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))?;
    Ok(match value {
        rusqlite::types::Value::Integer(n) => n.to_string(),
        rusqlite::types::Value::Text(text) => text,
        other => format!("{other:?}"),
    })
}

/// After an unclean end: is the file's structure whole?
fn quick_check(conn: &Connection, path: &Path) -> Result<(), Fault> {
    let len = std::fs::metadata(path).map_or(0, |meta| meta.len());
    if len > QUICK_CHECK_BYTES_MAX {
        tracing::warn!(path = %path.display(), bytes = len, "too large to be checked at start");
        return Ok(());
    }
    check(conn, "quick_check")
}

/// Runs `quick_check` or `integrity_check`.
pub(super) fn check(conn: &Connection, which: &str) -> Result<(), Fault> {
    let found: String = conn.pragma_query_value(None, which, |row| row.get(0))?;
    if found == "ok" {
        Ok(())
    } else {
        Err(Fault::corrupt(found))
    }
}
