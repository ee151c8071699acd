//! Reads: a few connections that cannot write, each used by one read at a time.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};
use tokio::sync::Semaphore;

use super::fault::Fault;
use super::open::connect_reader;
use super::rows::ENTRY_COLUMNS;
use crate::ids::EntryId;
use crate::model::Entry;
use crate::store::StoreError;

/// Reads at the same time. Each is a thread and a page cache; more gain nothing on a few cores.
const READERS: u32 = 4;

/// How many entries of a path are read at first, and by which factor more if there are more: a
/// damaged path that leads round in circles is to be found before it fills the memory.
const PATH_FIRST: usize = 4_096;
const PATH_GROWTH: usize = 16;

/// The pool.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        let permits = Arc::new(Semaphore::new(READERS as usize));
        Self {
            path,
            idle: Mutex::default(),
            permits,
        }
    }

    /// Runs `read` on a thread that may block. No transaction outlives it.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_closed| StoreError::Closed)?;
        let pool = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let result = pool.take().and_then(|conn| {
                let result = read(&conn);
                pool.idle
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(conn);
                result
            });
            drop(permit);
            result.map_err(|fault| fault.classify(&pool.path))
        });
        task.await.unwrap_or_else(|err| {
            Err(StoreError::Io {
                detail: err.to_string(),
            })
        })
    }

    fn take(&self) -> Result<Connection, Fault> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        idle.map_or_else(|| connect_reader(&self.path), Ok)
    }

    /// Waits for reads under way, then closes all connections.
    pub(super) async fn close(&self) {
        if let Ok(all) = self.permits.acquire_many(READERS).await {
            self.permits.close();
            drop(all);
        }
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// A list query whose conditions depend on the filter. Values are bound; only names of states,
/// which are constants of the program, become part of the text.
pub(super) struct Select {
    sql: String,
    values: Vec<Value>,
    has_where: bool,
}

impl Select {
    pub(super) fn new(columns: &str) -> Self {
        Self {
            sql: columns.to_owned(),
            values: Vec::new(),
            has_where: false,
        }
    }

    /// Adds a condition without values.
    pub(super) fn and(&mut self, condition: &str) {
        self.sql
            .push_str(if self.has_where { " AND " } else { " WHERE " });
        self.sql.push_str(condition);
        self.has_where = true;
    }

    /// Adds a condition if there is a value for its `?`.
    pub(super) fn and_value(&mut self, condition: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.and(condition);
            self.values.push(value.into());
        }
    }

    /// Adds `column IN (names)` unless `names` is empty. If all names are among `indexed`, adds
    /// the condition of the partial index over those too, so that SQLite sees it may use it.
    pub(super) fn and_in(&mut self, column: &str, names: &[&'static str], indexed: &[&str]) {
        if names.is_empty() {
            return;
        }
        let list = |names: &[&str]| [column, " IN ('", &names.join("', '"), "')"].concat();
        if names.iter().all(|name| indexed.contains(name)) {
            self.and(&list(indexed));
        }
        self.and(&list(names));
    }

    /// Adds a value for a `?` of the columns' part or the next condition.
    pub(super) fn bind(&mut self, value: impl Into<Value>) {
        self.values.push(value.into());
    }

    /// Ends the query with its order and the most rows.
    pub(super) fn end(&mut self, order: &str, limit: usize) {
        self.sql.push_str(" ORDER BY ");
        self.sql.push_str(order);
        self.sql.push_str(" LIMIT ?");
        self.values
            .push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
    }

    /// The text and the values.
    #[cfg(test)]
    pub(super) fn parts(&self) -> (&str, &[Value]) {
        (&self.sql, &self.values)
    }

    /// Runs it.
    pub(super) fn all<T>(
        self,
        conn: &Connection,
        read: fn(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let mut statement = conn.prepare_cached(&self.sql)?;
        let mut rows = statement.query(params_from_iter(self.values))?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            out.push(read(row)?);
        }
        Ok(out)
    }
}

/// The walk from `?1` to the root, newest first, at most `?2` entries.
pub(super) fn path_sql() -> String {
    [
        "WITH RECURSIVE path (id, parent_id, depth) AS (\
         SELECT id, parent_id, 0 FROM entries WHERE id = ?1 \
         UNION ALL SELECT e.id, e.parent_id, path.depth + 1 FROM path \
         JOIN entries e ON e.id = path.parent_id LIMIT ?2) SELECT ",
        ENTRY_COLUMNS,
        " FROM path CROSS JOIN entries e ON e.id = path.id \
         LEFT JOIN agents a ON a.num = e.agent LEFT JOIN blobs b ON b.num = e.blob \
         ORDER BY path.depth DESC",
    ]
    .concat()
}

/// The path that ends in `head`, first entry first.
pub(super) fn path(conn: &Connection, head: EntryId, limit: usize) -> Result<Vec<Entry>, Fault> {
    let mut most = PATH_FIRST.min(limit);
    loop {
        let path = walk(conn, head, most)?;
        if path.len() < most {
            // It is all there is, so it is to begin with an entry that has no parent.
            return match path.first() {
                Some(Entry {
                    id,
                    parent_id: Some(parent),
                    ..
                }) => Err(Fault::corrupt(format!(
                    "entry {id} follows {parent}, which is not there"
                ))),
                _ => Ok(path),
            };
        }
        let mut seen = HashSet::with_capacity(path.len());
        if let Some(again) = path.iter().find(|entry| !seen.insert(entry.id)) {
            let text = format!("entry {} follows itself", again.id);
            return Err(Fault::corrupt(text));
        }
        if most == limit {
            return Ok(path);
        }
        most = most.saturating_mul(PATH_GROWTH).min(limit);
    }
}

fn walk(conn: &Connection, head: EntryId, limit: usize) -> Result<Vec<Entry>, Fault> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(&path_sql())?;
    let mut rows = statement.query((head.as_u128().to_be_bytes(), limit))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(super::rows::entry(row)?);
    }
    Ok(out)
}
