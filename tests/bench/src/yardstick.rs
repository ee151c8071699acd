//! What SQLite alone reaches on this disk: the least a durable engine has to do.

use std::path::Path;

use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use crate::Result;
use crate::measure::{cpu_seconds, len, now, percentile};

/// The most events in one transaction.
const GROUP_MAX: usize = 1_024;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE events (seq INTEGER PRIMARY KEY, swarm INTEGER NOT NULL, agent INTEGER NOT NULL,
        number INTEGER NOT NULL, type TEXT NOT NULL, at INTEGER NOT NULL, data TEXT NOT NULL);
    CREATE INDEX events_by_agent ON events (agent, number);
    CREATE INDEX events_by_swarm ON events (swarm, at);
    CREATE TABLE agents (id INTEGER PRIMARY KEY, status TEXT NOT NULL, turns INTEGER NOT NULL,
        tokens INTEGER NOT NULL, cost INTEGER NOT NULL, version INTEGER NOT NULL,
        updated_at INTEGER NOT NULL, state TEXT NOT NULL);";

/// What a run of the yardstick gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw {
    pub(crate) events_per_second: f64,
    pub(crate) cpu_micros_per_event: f64,
    pub(crate) p50_micros: f64,
}

/// `producers` tasks each store `each` events of 300 bytes one after the other, and with each
/// update an agent's row; one thread writes whatever waits as one commit (`synchronous=FULL`) and
/// only then answers.
pub(crate) async fn group_commit(dir: &Path, producers: usize, each: usize) -> Result<Raw> {
    let conn = Connection::open(dir.join("yardstick.db"))?;
    conn.execute_batch(SCHEMA)?;
    let data = "x".repeat(300);
    conn.execute_batch("BEGIN")?;
    for id in 0..producers {
        let row = params![i64::try_from(id)?, data];
        conn.execute(
            "INSERT INTO agents VALUES (?1, 'running', 0, 0, 0, 0, 0, ?2)",
            row,
        )?;
    }
    conn.execute_batch("COMMIT")?;

    let (sender, waiting) = mpsc::channel(8_192);
    let (began, cpu) = (now(), cpu_seconds());
    let writer = std::thread::spawn(move || write(&conn, &data, waiting));
    let tasks: Vec<_> = (0..producers)
        .map(|id| crate::spawn(produce(id, each, sender.clone())))
        .collect();
    drop(sender);
    let mut times = Vec::with_capacity(producers * each);
    for task in tasks {
        times.extend(task.await??);
    }
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let written = writer.join().map_err(|_panic| "the writer panicked")?;
    written.map_err(|err| err.to_string())?;
    let events = len(producers * each);
    Ok(Raw {
        events_per_second: events / wall,
        cpu_micros_per_event: cpu * 1e6 / events,
        p50_micros: percentile(&mut times, 50),
    })
}

type Produced = (i64, i64, oneshot::Sender<()>);

async fn produce(id: usize, each: usize, sender: mpsc::Sender<Produced>) -> Result<Vec<f64>> {
    let id = i64::try_from(id)?;
    let mut times = Vec::with_capacity(each);
    for number in 0..i64::try_from(each)? {
        let began = now();
        let (done, answer) = oneshot::channel();
        sender.send((id, number, done)).await?;
        answer.await?;
        times.push(crate::measure::micros_since(began));
    }
    Ok(times)
}

fn write(conn: &Connection, data: &str, mut waiting: mpsc::Receiver<Produced>) -> Result<()> {
    let mut insert = conn.prepare(
        "INSERT INTO events (swarm, agent, number, type, at, data) \
         VALUES (1, ?1, ?2, 'agent.turn', ?2, ?3)",
    )?;
    let mut update = conn.prepare(
        "UPDATE agents SET status = 'running', turns = turns + 1, tokens = tokens + 852, \
         cost = cost + 412, version = version + 1, updated_at = ?2 WHERE id = ?1 AND version >= 0",
    )?;
    let mut group: Vec<Produced> = Vec::with_capacity(GROUP_MAX);
    while waiting.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        for (id, number, _) in &group {
            insert.execute(params![id, number, data])?;
            update.execute(params![id, number])?;
        }
        conn.execute_batch("COMMIT")?;
        for (_, _, done) in group.drain(..) {
            // A producer that has gone needs no answer.
            let _gone = done.send(());
        }
    }
    Ok(())
}
