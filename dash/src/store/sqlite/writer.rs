//! The one thread that writes: owns the only read-write connection and all checkpoints.
//!
//! ```text
//!  commit() ─▶ bounded queue ─▶ thread: BEGIN IMMEDIATE, a savepoint per changeset, COMMIT ─▶ replies
//! ```
//!
//! Whatever waits in the queue shares one commit, so the time of one `fsync` is what gathers the
//! next batch; there is no timer. A changeset that is refused is rolled back to its savepoint and
//! uses up no event number; its neighbours go on. Nobody is answered before COMMIT returned.
//!
//! A changeset that is alone in its transaction needs no savepoint, and has none: with one, SQLite
//! copies every page it touches, and the end of every statement walks all these copies.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::chain;
use super::fault::{Fault, replicate};
use super::lock::FileLock;
use super::open::{BUSY_TIMEOUT, log_pages};
use super::write::{State, apply};
use crate::store::{Changeset, Committed, StoreError};

/// Requests that wait before `commit` itself has to: two full batches.
pub(super) const QUEUE_LEN: usize = 1_024;

/// The most changesets in one transaction: bounds what one failure takes along, and the time a
/// commit waits for others. Beyond some hundred the `fsync` is a small part of the time.
const BATCH_MAX: usize = 512;

/// WAL pages not yet in the database that start a checkpoint: 8 MiB of 4 KiB pages.
const CHECKPOINT_PAGES: i64 = 2_000;

/// WAL pages above which readers are waited for, so that the file can shrink: 128 MiB.
const WAL_GUARD_PAGES: i64 = 32_768;

/// How long the guard waits for readers. Reads are bounded and take milliseconds.
const WAL_GUARD_WAIT: Duration = Duration::from_millis(250);

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Request {
    /// Write this and answer.
    Commit(
        Box<Changeset>,
        oneshot::Sender<Result<Committed, StoreError>>,
    ),
    /// Take no more requests; end once the queue is empty.
    Close,
    /// Let the file have at most so many pages.
    #[cfg(test)]
    LimitPages(u32, oneshot::Sender<()>),
}

type Reply = oneshot::Sender<Result<Committed, StoreError>>;

/// How the thread ended; `None` while it runs.
pub(super) type Outcome = Option<Result<(), StoreError>>;

#[derive(Debug)]
pub(super) struct Writer {
    conn: Connection,
    path: PathBuf,
    state: State,
    /// Why no more is written, if so.
    poison: Option<StoreError>,
}

/// Who is to be answered once the transaction has ended, and with what.
type Batch = Vec<(Reply, Result<Committed, StoreError>)>;

impl Writer {
    /// A writer that goes on after the newest event of the file.
    pub(super) fn new(conn: Connection, path: PathBuf) -> Result<Self, Fault> {
        let (seq, link) = chain::head(&conn)?;
        let state = State::new(seq, link);
        Ok(Self {
            conn,
            path,
            state,
            poison: None,
        })
    }

    /// Serves requests until the queue is closed and empty, then leaves a tidy file behind.
    pub(super) fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        lock: FileLock,
        outcome: &watch::Sender<Outcome>,
    ) {
        let mut queue = Vec::with_capacity(BATCH_MAX);
        while requests.blocking_recv_many(&mut queue, BATCH_MAX) > 0 {
            let mut commits = Vec::with_capacity(queue.len());
            for request in queue.drain(..) {
                match request {
                    Request::Commit(changeset, reply) => commits.push((*changeset, reply)),
                    Request::Close => requests.close(),
                    #[cfg(test)]
                    Request::LimitPages(pages, reply) => {
                        let sql = format!("PRAGMA max_page_count = {pages}");
                        self.conn.query_row(&sql, [], |_| Ok(())).expect("a pragma");
                        reply.send(()).expect("a waiting test");
                    }
                }
            }
            if !commits.is_empty() {
                self.batch(commits);
            }
        }
        let end = self.finish(lock);
        outcome.send_replace(Some(end));
    }

    /// Writes a batch and answers everyone in it.
    fn batch(&mut self, commits: Vec<(Changeset, Reply)>) {
        if let Some(poison) = &self.poison {
            for (_, reply) in commits {
                answer(reply, Err(replicate(poison)));
            }
            return;
        }
        let before = (self.state.seq, self.state.link);
        let mut waiting = commits.into_iter();
        let mut done: Batch = Vec::with_capacity(waiting.len());
        match self.transaction(&mut waiting, &mut done) {
            Ok(()) => {
                for (reply, result) in done {
                    answer(reply, result);
                }
                self.checkpoint();
            }
            Err(fault) => {
                (self.state.seq, self.state.link) = before;
                self.state.forget_numbers();
                let err = self.give_up(fault);
                let replies = done.into_iter().map(|(reply, _)| reply);
                for reply in replies.chain(waiting.map(|(_, reply)| reply)) {
                    answer(reply, Err(replicate(&err)));
                }
            }
        }
    }

    /// `BEGIN` to `COMMIT`. Moves each request from `waiting` to `done`; on an error the whole
    /// transaction is lost.
    fn transaction(
        &mut self,
        waiting: &mut std::vec::IntoIter<(Changeset, Reply)>,
        done: &mut Batch,
    ) -> Result<(), Fault> {
        self.execute("BEGIN IMMEDIATE")?;
        if waiting.len() == 1 {
            return self.alone(waiting, done);
        }
        for (changeset, reply) in waiting.by_ref() {
            let before = (self.state.seq, self.state.link);
            let result = match self.one(changeset) {
                Ok(committed) => Ok(committed),
                Err(fault) if fault.is_refusal() && !self.conn.is_autocommit() => {
                    (self.state.seq, self.state.link) = before;
                    self.state.forget_numbers();
                    done.push((reply, Err(fault.classify(&self.path))));
                    self.execute("ROLLBACK TO changeset")?;
                    self.execute("RELEASE changeset")?;
                    continue;
                }
                Err(fault) => {
                    done.push((reply, Err(StoreError::Closed)));
                    return Err(fault);
                }
            };
            done.push((reply, result));
        }
        self.execute("COMMIT")
    }

    /// The rest of a transaction that has only one changeset: all or nothing by itself.
    fn alone(
        &mut self,
        waiting: &mut std::vec::IntoIter<(Changeset, Reply)>,
        done: &mut Batch,
    ) -> Result<(), Fault> {
        let Some((changeset, reply)) = waiting.next() else {
            return self.execute("COMMIT");
        };
        match apply(&self.conn, &mut self.state, changeset) {
            Ok(committed) => {
                done.push((reply, Ok(committed)));
                self.execute("COMMIT")
            }
            // `batch` puts the state back, rolls back and passes the refusal on.
            Err(fault) => {
                done.push((reply, Err(StoreError::Closed)));
                Err(fault)
            }
        }
    }

    fn one(&mut self, changeset: Changeset) -> Result<Committed, Fault> {
        self.execute("SAVEPOINT changeset")?;
        let committed = apply(&self.conn, &mut self.state, changeset)?;
        self.execute("RELEASE changeset")?;
        Ok(committed)
    }

    fn execute(&self, sql: &str) -> Result<(), Fault> {
        self.conn.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// After a lost transaction: goes on if nothing of it can have been written, else never
    /// writes again.
    fn give_up(&mut self, fault: Fault) -> StoreError {
        let err = fault.classify(&self.path);
        if !err.is_unknown() {
            // SQLite may have rolled back by itself (a full disk).
            if self.conn.is_autocommit() {
                return err;
            }
            match self.execute("ROLLBACK") {
                Ok(()) => return err,
                Err(fault) => return self.poison(fault.classify(&self.path)),
            }
        }
        self.poison(err)
    }

    fn poison(&mut self, err: StoreError) -> StoreError {
        let err = if err.is_unknown() {
            err
        } else {
            StoreError::Io {
                detail: err.to_string(),
            }
        };
        tracing::error!(path = %self.path.display(), error = %err, "the store takes no more writes");
        self.poison = Some(replicate(&err));
        err
    }

    /// Moves the WAL into the database once enough has gathered. Nobody waits for it but the next
    /// batch.
    fn checkpoint(&mut self) {
        if let Err(err) = self.try_checkpoint() {
            let err = Fault::from(err).classify(&self.path);
            if err.is_unknown() {
                self.poison(err);
            } else {
                tracing::warn!(path = %self.path.display(), error = %err, "a checkpoint failed");
            }
        }
    }

    fn try_checkpoint(&self) -> rusqlite::Result<()> {
        let (pages, moved) = log_pages(&self.conn, "PRAGMA wal_checkpoint(NOOP)")?;
        if pages - moved < CHECKPOINT_PAGES {
            return Ok(());
        }
        let (pages, _) = log_pages(&self.conn, "PRAGMA wal_checkpoint(PASSIVE)")?;
        if pages > WAL_GUARD_PAGES {
            self.conn.busy_timeout(WAL_GUARD_WAIT)?;
            let result = log_pages(&self.conn, "PRAGMA wal_checkpoint(TRUNCATE)");
            self.conn.busy_timeout(BUSY_TIMEOUT)?;
            result?;
        }
        Ok(())
    }

    /// Empties the WAL, closes the file, gives the lock back.
    fn finish(self, lock: FileLock) -> Result<(), StoreError> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        let classify = |err: rusqlite::Error| Fault::from(err).classify(&self.path);
        // A reader of another process may hold the WAL; then it stays, which is fine.
        log_pages(&self.conn, "PRAGMA wal_checkpoint(TRUNCATE)").map_err(classify)?;
        self.conn
            .close()
            .map_err(|(_, err)| Fault::from(err).classify(&self.path))?;
        lock.release().map_err(|err| StoreError::Io {
            detail: err.to_string(),
        })
    }
}

/// Answers a request. Whoever asked may have gone: dropping the future of a commit is allowed.
fn answer(reply: Reply, result: Result<Committed, StoreError>) {
    drop(reply.send(result));
}
