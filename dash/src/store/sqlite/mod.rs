//! The SQLite store: one file, one writer, nothing acknowledged before it is on the disk.
//!
//! Bundled SQLite in WAL mode with `synchronous=FULL`; the schema is documented in
//! `migrations/`. `writer` owns the only read-write connection, `read` a few that cannot
//! write. Two engines cannot own one file (`lock`). Events carry a hash chain (`chain`).
//!
//! An acknowledged commit survives `kill -9` and power loss, as far as the disk keeps what it said
//! it flushed. Not supported: network file systems, and files shared between containers that do
//! not share a kernel.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use self::fault::Fault;
use self::fault::replicate;
use self::open::Flush;
use self::read::Readers;
use self::writer::{Outcome, Request, Writer};
use super::{
    AgentFilter, BudgetFilter, Changeset, Committed, EventFilter, Page, ReservationFilter,
    StepFilter, Store, StoreError, StoreInfo, SwarmFilter, TaskFilter, TicketFilter,
};
use crate::env::{Clock, SystemClock};
use crate::event::Event;
use crate::ids::{AgentId, BudgetId, EntryId, ReservationId, SwarmId, TaskId, TicketId};
use crate::model::{
    Agent, Budget, Entry, Project, Reservation, Step, StepKey, Swarm, Task, Ticket,
};

mod blob;
mod chain;
mod fault;
mod journal;
mod list;
mod lock;
mod migrate;
mod open;
mod read;
mod rows;
#[cfg(test)]
#[cfg(feature = "test-util")]
mod tests;
mod verify;
mod versioned;
mod write;
mod writer;

/// How many events one read of a whole-chain check covers, so that it holds no long snapshot.
const VERIFY_CHUNK: u64 = 10_000;

/// A [`Store`] in one SQLite file.
///
/// ```no_run
/// # async fn open() -> Result<(), dash::store::StoreError> {
/// use dash::store::{SqliteStore, Store as _};
///
/// let store = SqliteStore::open("dash.db").await?;
/// println!("{}", store.info().durability);
/// store.close().await
/// # }
/// ```
///
/// Beside the file stand `-wal` and `-shm` (SQLite's) and `.lock` (which stays, empty, after a clean
/// end). A copy of the file without its `-wal` misses the newest commits while the store is open.
///
/// Dropping the store without [`close`](Store::close) loses nothing that was acknowledged; the
/// drop waits until the writer thread has finished what it was given.
#[derive(Debug)]
pub struct SqliteStore {
    info: StoreInfo,
    requests: Option<mpsc::Sender<Request>>,
    readers: Arc<Readers>,
    outcome: watch::Receiver<Outcome>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteStore {
    /// Opens the store at `path`, or makes one if there is no such file or an empty one.
    ///
    /// Brings the schema up to date. After an unclean end it has SQLite check the file's structure
    /// (not above 256 MiB); the hashes of the newest 1,000 events are checked every time.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if another store has the file; [`StoreError::NotDash`] if it holds
    /// something else (it is not touched); [`StoreError::Newer`] or [`StoreError::Checksum`] if a
    /// different Dash wrote it; [`StoreError::Corrupt`] if a check failed;
    /// [`StoreError::ReadOnly`], [`StoreError::Full`] or [`StoreError::Open`] if the system refuses.
    pub async fn open(path: impl AsRef<Path> + Send) -> Result<Self, StoreError> {
        Self::open_with(path, Arc::new(SystemClock)).await
    }

    /// Opens the store at `path`; `clock` gives the time noted with applied migrations.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`].
    pub async fn open_with(
        path: impl AsRef<Path> + Send,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let path = path.as_ref().to_path_buf();
        blocking(move || Self::open_blocking(&path, clock.as_ref(), Flush::EveryCommit, &|_, _| ()))
            .await
    }

    /// Opens the store at `path` so that a power cut loses commits that were acknowledged
    /// (`synchronous=NORMAL`). For tests that must be able to see the loss, and for nothing else.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`].
    #[cfg(feature = "test-util")]
    #[doc(hidden)]
    pub async fn open_losing_power_cuts(path: impl AsRef<Path> + Send) -> Result<Self, StoreError> {
        let path = path.as_ref().to_path_buf();
        let open = move || Self::open_blocking(&path, &SystemClock, Flush::Checkpoints, &|_, _| ());
        blocking(open).await
    }

    /// The same as [`SqliteStore::open`], for tests that stop a program in the middle of a
    /// migration.
    ///
    /// `watch` is called after each statement, on the thread that migrates: with the migration's
    /// version and how many of its statements are done, BEGIN being the first and COMMIT the last.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`].
    #[cfg(feature = "test-util")]
    pub async fn open_watched(
        path: impl AsRef<Path> + Send,
        watch: impl Fn(u32, u32) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let path = path.as_ref().to_path_buf();
        blocking(move || Self::open_blocking(&path, &SystemClock, Flush::EveryCommit, &watch)).await
    }

    fn open_blocking(
        path: &Path,
        clock: &dyn Clock,
        flush: Flush,
        watch: migrate::Watch<'_>,
    ) -> Result<Self, StoreError> {
        let open::Opened { path, lock, conn } = open::open(path, clock.now(), flush, watch)?;
        let writer = Writer::new(conn, path.clone()).map_err(|fault| fault.classify(&path))?;
        let (tx, rx) = mpsc::channel(writer::QUEUE_LEN);
        let (ended, outcome) = watch::channel(None);
        let thread = std::thread::Builder::new()
            .name("dash-store".to_owned())
            .spawn(move || writer.run(rx, lock, &ended))
            .map_err(|err| StoreError::Open {
                detail: err.to_string(),
            })?;
        let info = StoreInfo {
            backend: ["sqlite ", rusqlite::version()].concat(),
            durability: flush.durability().to_owned(),
            path: Some(path.clone()),
        };
        Ok(Self {
            info,
            requests: Some(tx),
            readers: Arc::new(Readers::new(path)),
            outcome,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Checks the hashes of all events and that no number is missing. Returns how many there are.
    ///
    /// Writes go on meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`], naming the first bad event.
    pub async fn verify_chain(&self) -> Result<u64, StoreError> {
        let mut after = 0;
        loop {
            let read = move |conn: &Connection| chain::verify(conn, after, VERIFY_CHUNK);
            let checked = self.readers.run(read).await?;
            after += checked;
            if checked < VERIFY_CHUNK {
                return Ok(after);
            }
        }
    }

    /// Checks a store's file as a whole, without opening it for writing: SQLite's
    /// `integrity_check`, every reference, the hashes of all events and of large contents, and that
    /// every row can be read. Returns how many events there are.
    ///
    /// Not found is damage to a row other than an event that leaves it as it might have been
    /// written, say another letter in a name. Rows of an older schema are not read one by one.
    ///
    /// An engine may have the file open meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotDash`], [`StoreError::Newer`], [`StoreError::Checksum`];
    /// [`StoreError::Corrupt`] with what was found first.
    pub async fn verify(path: impl AsRef<Path> + Send) -> Result<u64, StoreError> {
        let path = path.as_ref().to_path_buf();
        blocking(move || {
            let path = open::resolve(&path)?;
            require_store(&path)?;
            let check = || {
                let conn = open::connect_reader(&path)?;
                verify::all(&conn)
            };
            check().map_err(|fault: Fault| fault.classify(&path))
        })
        .await
    }

    /// Takes back the migrations above `version` of a store that nobody has open. What their tables
    /// held is lost; 0 empties the file.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`].
    pub async fn migrate_down(
        path: impl AsRef<Path> + Send,
        version: u32,
    ) -> Result<(), StoreError> {
        let path = path.as_ref().to_path_buf();
        blocking(move || {
            let path = open::resolve(&path)?;
            require_store(&path)?;
            let lock = lock::FileLock::acquire(&path)?;
            let down = || {
                let mut conn = open::connect_writer(&path, Flush::EveryCommit)?;
                migrate::down(&mut conn, version)?;
                conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
                Ok(())
            };
            down().map_err(|fault: Fault| fault.classify(&path))?;
            lock.release().map_err(|err| StoreError::Io {
                detail: err.to_string(),
            })
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.run(read).await
    }

    /// The row of `columns` whose `id` is this.
    async fn find<T: Send + 'static>(
        &self,
        columns: &str,
        id: String,
        read: fn(&rusqlite::Row<'_>) -> Result<T, Fault>,
    ) -> Result<Option<T>, StoreError> {
        let sql = [columns, " WHERE id = ?1"].concat();
        self.read(move |conn| first(conn, &sql, [id], read)).await
    }

    async fn list<T: Send + 'static>(
        &self,
        select: read::Select,
        read: fn(&rusqlite::Row<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, StoreError> {
        self.read(move |conn| select.all(conn, read)).await
    }
}

/// Errors unless `path` holds a store.
fn require_store(path: &Path) -> Result<(), StoreError> {
    if open::check_header(path)? {
        return Err(StoreError::NotDash {
            path: path.to_path_buf(),
        });
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let task = tokio::task::spawn_blocking(work).await;
    task.unwrap_or_else(|err| {
        Err(StoreError::Open {
            detail: err.to_string(),
        })
    })
}

/// The first row of a query.
fn first<T>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: fn(&rusqlite::Row<'_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.requests = None;
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A thread that panicked has nothing more to lose.
            drop(thread.join());
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn info(&self) -> StoreInfo {
        self.info.clone()
    }

    async fn commit(&self, changeset: Changeset) -> Result<Committed, StoreError> {
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        let (tx, rx) = oneshot::channel();
        let sent = requests
            .send(Request::Commit(Box::new(changeset), tx))
            .await;
        sent.map_err(|_closed| StoreError::Closed)?;
        rx.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn find_project(&self, name: &str) -> Result<Option<Project>, StoreError> {
        let name = name.to_owned();
        let sql = [rows::PROJECT_COLUMNS, " WHERE name = ?1"].concat();
        self.read(move |conn| first(conn, &sql, [name], rows::project))
            .await
    }

    async fn find_swarm(&self, id: SwarmId) -> Result<Option<Swarm>, StoreError> {
        self.find(rows::SWARM_COLUMNS, id.to_string(), rows::swarm)
            .await
    }

    async fn list_swarms(
        &self,
        filter: &SwarmFilter,
        page: Page<SwarmId>,
    ) -> Result<Vec<Swarm>, StoreError> {
        self.list(list::swarms(filter, page), rows::swarm).await
    }

    async fn find_agent(&self, id: AgentId) -> Result<Option<Agent>, StoreError> {
        self.find(rows::AGENT_COLUMNS, id.to_string(), rows::agent)
            .await
    }

    async fn list_agents(
        &self,
        filter: &AgentFilter,
        page: Page<AgentId>,
    ) -> Result<Vec<Agent>, StoreError> {
        self.list(list::agents(filter, page), rows::agent).await
    }

    async fn find_task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.find(rows::TASK_COLUMNS, id.to_string(), rows::task)
            .await
    }

    async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: Page<TaskId>,
    ) -> Result<Vec<Task>, StoreError> {
        self.list(list::tasks(filter, page), rows::task).await
    }

    async fn find_budget(&self, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        self.find(rows::BUDGET_COLUMNS, id.to_string(), rows::budget)
            .await
    }

    async fn list_budgets(
        &self,
        filter: &BudgetFilter,
        page: Page<BudgetId>,
    ) -> Result<Vec<Budget>, StoreError> {
        self.list(list::budgets(filter, page), rows::budget).await
    }

    async fn find_step(&self, agent: AgentId, key: StepKey) -> Result<Option<Step>, StoreError> {
        self.read(move |conn| {
            first(
                conn,
                &list::step_sql(),
                list::step_params(agent, key),
                rows::step,
            )
        })
        .await
    }

    async fn list_steps(
        &self,
        filter: &StepFilter,
        page: Page<(AgentId, StepKey)>,
    ) -> Result<Vec<Step>, StoreError> {
        self.list(list::steps(filter, page), rows::step).await
    }

    async fn list_reservations(
        &self,
        filter: &ReservationFilter,
        page: Page<ReservationId>,
    ) -> Result<Vec<Reservation>, StoreError> {
        self.list(list::reservations(filter, page), rows::reservation)
            .await
    }

    async fn list_tickets(
        &self,
        filter: &TicketFilter,
        page: Page<TicketId>,
    ) -> Result<Vec<Ticket>, StoreError> {
        self.list(list::tickets(filter, page), rows::ticket).await
    }

    async fn list_path(&self, head: EntryId, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.read(move |conn| read::path(conn, head, limit)).await
    }

    async fn list_events(
        &self,
        filter: &EventFilter,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let filter = filter.clone();
        let read = move |conn: &Connection| match list::events(conn, &filter, after, limit)? {
            Some(select) => select.all(conn, |row| Ok(rows::StoredEvent::read(row)?.event)),
            None => Ok(Vec::new()),
        };
        self.read(read).await
    }

    async fn head_seq(&self) -> Result<u64, StoreError> {
        self.read(|conn| chain::head(conn).map(|(seq, _)| seq))
            .await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.readers.close().await;
        if let Some(requests) = &self.requests {
            // Fails if the thread has ended or is about to: then its outcome is all there is.
            drop(requests.send(Request::Close).await);
        }
        let mut outcome = self.outcome.clone();
        let end = outcome.wait_for(Option::is_some).await;
        match end.as_deref() {
            Ok(Some(Err(err))) => Err(replicate(err)),
            Ok(_) => Ok(()),
            Err(_gone) => Err(StoreError::Io {
                detail: "the writer thread died".to_owned(),
            }),
        }
    }
}
