//! Durable steps, of one agent and of many, and the disk and `SQLite` alone.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dash::spawn::{AgentContext, SpawnRequest, Spawner};
use tokio::sync::{Barrier, mpsc};

use crate::engine::{self, DEADLINE};
use crate::measure::{cpu_seconds, fdatasync, len, micros_since, now, percentile};
use crate::report::{Figure, Target};
use crate::{Options, Result, yardstick};

/// Appends that tell what the disk takes, before and after.
const SYNCS: usize = 500;
/// Producers of the group-commit yardstick.
const PRODUCERS: usize = 1_000;
/// Events of each.
const EVENTS_EACH: usize = 50;
/// Events of one tool step: `tool.completed` of the last, `tool.started` of the next.
const EVENTS_PER_STEP: f64 = 2.0;

/// Lets each agent make so many tool steps, all at once; notes when each step began and ended.
#[derive(Debug)]
struct Steps {
    each: u32,
    ready: Barrier,
    /// Microseconds of every step.
    times: Mutex<Vec<f64>>,
    ended: mpsc::Sender<()>,
    begun: mpsc::Sender<()>,
}

#[async_trait]
impl Spawner for Steps {
    fn name(&self) -> &'static str {
        "steps"
    }

    async fn run(&self, _request: SpawnRequest, cx: AgentContext) {
        let port = cx.port.as_ref();
        let mut last = None;
        let mut times = Vec::with_capacity(self.each as usize);
        // The first step announces the agent; it is not counted.
        if engine::tool_step(port, 1, &mut last).await.is_none() {
            return;
        }
        if self.ready.wait().await.is_leader() {
            // The measurement waits for this; it outlives its agents.
            let _sent = self.begun.send(()).await;
        }
        for turn in 0..self.each {
            let began = now();
            if engine::tool_step(port, turn + 2, &mut last).await.is_none() {
                return;
            }
            times.push(micros_since(began));
        }
        self.times
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .append(&mut times);
        // As above.
        let _sent = self.ended.send(()).await;
        engine::complete(port, last).await;
    }
}

struct Measured {
    wall: f64,
    cpu: f64,
    times: Vec<f64>,
}

async fn measure(path: &Path, agents: u32, each: u32) -> Result<Measured> {
    let (begun, mut begin) = mpsc::channel(1);
    let (ended, mut end) = mpsc::channel(1_024);
    let steps = Arc::new(Steps {
        each,
        ready: Barrier::new(agents as usize),
        times: Mutex::new(Vec::with_capacity(agents as usize * each as usize)),
        ended,
        begun,
    });
    let dash = engine::driven(path, Arc::<Steps>::clone(&steps)).await?;
    let swarm = dash.create_swarm(engine::swarm(agents)).await?;
    begin.recv().await.ok_or("the agents did not begin")?;
    let (began, cpu) = (now(), cpu_seconds());
    for _ in 0..agents {
        end.recv().await.ok_or("an agent did not end")?;
    }
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    dash.wait_swarm(swarm.id).await?;
    dash.shutdown(DEADLINE).await?;
    let times = std::mem::take(&mut *steps.times.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Measured { wall, cpu, times })
}

/// One agent: how long a durable step takes.
pub(crate) async fn one(options: &Options, dir: &Path) -> Result<Vec<Figure>> {
    let mut disk = fdatasync(dir, SYNCS)?;
    let each = options.k.unwrap_or(2_000);
    let mut run = measure(&dir.join("dash.db"), options.n.unwrap_or(1), each).await?;
    disk.extend(fdatasync(dir, SYNCS)?);
    let sync = percentile(&mut disk, 50);
    let sync_late = percentile(&mut disk, 99);
    Ok(vec![
        Figure::new("durable step p50", "us", percentile(&mut run.times, 50))
            .beside("fdatasync p50", sync)
            .target(Target::AtMostAbove(200.0)),
        Figure::new("durable step p99", "us", percentile(&mut run.times, 99))
            .beside("fdatasync p99", sync_late),
        Figure::new("CPU of a step", "us", run.cpu * 1e6 / len(run.times.len())),
    ])
}

/// Many agents: how many durable steps and events a second.
pub(crate) async fn many(options: &Options, dir: &Path) -> Result<Vec<Figure>> {
    let agents = options.n.unwrap_or(1_000);
    let mut run = measure(&dir.join("dash.db"), agents, options.k.unwrap_or(50)).await?;
    let raw = yardstick::group_commit(dir, PRODUCERS, EVENTS_EACH).await?;
    let steps = len(run.times.len());
    let events = steps * EVENTS_PER_STEP;
    let yard = "raw group commit";
    Ok(vec![
        Figure::new("durable events", "/s", events / run.wall)
            .beside(yard, raw.events_per_second)
            .target(Target::RatioAtLeast(0.6)),
        Figure::new("CPU of an event", "us", run.cpu * 1e6 / events)
            .beside(yard, raw.cpu_micros_per_event)
            .target(Target::AtMost(10.0)),
        Figure::new("durable steps", "/s", steps / run.wall),
        Figure::new("step p50", "us", percentile(&mut run.times, 50))
            .beside("raw event p50", raw.p50_micros),
        Figure::new("step p99", "us", percentile(&mut run.times, 99)),
        Figure::new("rows of a step", "", ROWS_PER_STEP),
    ])
}

/// Rows that one step writes: entry, two steps, agent, two events. The yardstick writes two an
/// event.
const ROWS_PER_STEP: f64 = 6.0;

/// The disk and `SQLite` alone.
pub(crate) async fn disk(_options: &Options, dir: &Path) -> Result<Vec<Figure>> {
    let mut disk = fdatasync(dir, 2 * SYNCS)?;
    let raw = yardstick::group_commit(dir, PRODUCERS, EVENTS_EACH).await?;
    Ok(vec![
        Figure::new("fdatasync p50", "us", percentile(&mut disk, 50)),
        Figure::new("fdatasync p99", "us", percentile(&mut disk, 99)),
        Figure::new("raw group commit", "/s", raw.events_per_second),
        Figure::new("raw CPU of an event", "us", raw.cpu_micros_per_event),
        Figure::new("raw event p50", "us", raw.p50_micros),
    ])
}
