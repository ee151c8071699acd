//! From the commit of an event to those who follow.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dash::EventStream;
use dash::event::Event;
use dash::model::Progress;
use dash::sink::EventSink;
use dash::spawn::{AgentContext, SpawnRequest, Spawner};
use dash::store::EventFilter;
use tokio::sync::broadcast;

use crate::engine::{self, DEADLINE};
use crate::measure::{cpu_seconds, float, len, now, percentile};
use crate::report::Figure;
use crate::{Options, Result};

/// Events a second of the steady load.
const RATE: u32 = 10_000;
/// Agents of the steady load; each reports every 10 ms.
const STEADY_AGENTS: u32 = 100;
/// Agents of the saturated load; each reports as soon as its last report was acknowledged.
const BUSY_AGENTS: u32 = 500;
/// How long each load lasts.
const LOAD: Duration = Duration::from_secs(2);
/// Events whose commit time is kept.
const TIMES_MAX: usize = 2_000_000;
/// Events of one batch of the yardstick.
const RAW_BATCH: usize = 100;
/// Batches of the yardstick.
const RAW_BATCHES: usize = 2_000;

/// Lets each agent report progress, paced or as fast as it can.
#[derive(Debug)]
struct Reporters {
    pause: Option<Duration>,
    stop: AtomicBool,
    started: AtomicU64,
}

#[async_trait]
impl Spawner for Reporters {
    fn name(&self) -> &'static str {
        "reporters"
    }

    async fn run(&self, _request: SpawnRequest, cx: AgentContext) {
        let mut last = None;
        if engine::tool_step(cx.port.as_ref(), 1, &mut last)
            .await
            .is_none()
        {
            return;
        }
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let mut ticks = self.pause.map(|pause| {
            // Spread over the pause, so that the load is even.
            let offset = pause.mul_f64(float(i64::try_from(number).unwrap_or(0)) / 100.0);
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + offset, pause);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
            ticks
        });
        let mut current = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            current += 1;
            let progress = Progress { current, total: 0 };
            if cx.port.report_progress(progress).await.is_err() {
                return;
            }
        }
        engine::complete(cx.port.as_ref(), last).await;
    }
}

/// Notes when each event was published, right after its commit.
#[derive(Debug)]
struct CommitTimes {
    base: Instant,
    /// Nanoseconds since `base`, by `seq`.
    at: Vec<AtomicU64>,
}

impl CommitTimes {
    fn nanos(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn of(&self, event: &Event) -> Option<u64> {
        let slot = self.at.get(usize::try_from(event.seq).ok()?)?;
        Some(slot.load(Ordering::Relaxed))
    }
}

impl EventSink for CommitTimes {
    fn name(&self) -> &'static str {
        "commit-times"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        let now = self.nanos();
        for event in events {
            let seq = usize::try_from(event.seq).unwrap_or(usize::MAX);
            if let Some(slot) = self.at.get(seq) {
                slot.store(now, Ordering::Relaxed);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Received {
    events: u64,
    micros: Vec<f64>,
}

/// Follows to the end of the swarm.
async fn follow(mut stream: EventStream, times: Arc<CommitTimes>, every: u64) -> Result<Received> {
    let mut received = Received::default();
    while let Some(event) = stream.next().await? {
        received.events += 1;
        if event.kind.name() == "swarm.completed" {
            break;
        }
        if event.seq.is_multiple_of(every) {
            let now = times.nanos();
            // Not noted yet: the subscriber was faster than the sink beside it.
            let committed = times.of(&event).filter(|at| *at > 0).unwrap_or(now);
            let nanos = i64::try_from(now.saturating_sub(committed))?;
            received.micros.push(float(nanos) / 1_000.0);
        }
    }
    Ok(received)
}

/// All loads with 1, 10 and 100 subscribers.
pub(crate) async fn run(_options: &Options, dir: &Path) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for subscribers in [1, 10, 100] {
        for is_steady in [true, false] {
            let path = dir.join(format!("{subscribers}-{is_steady}.db"));
            figures.extend(load(&path, subscribers, is_steady).await?);
        }
    }
    Ok(figures)
}

async fn load(path: &Path, subscribers: u32, is_steady: bool) -> Result<Vec<Figure>> {
    let (agents, pause) = if is_steady {
        let pause = Duration::from_secs(1) * STEADY_AGENTS / RATE;
        (STEADY_AGENTS, Some(pause))
    } else {
        (BUSY_AGENTS, None)
    };
    let spawner = Arc::new(Reporters {
        pause,
        stop: AtomicBool::new(false),
        started: AtomicU64::new(0),
    });
    let times = Arc::new(CommitTimes {
        base: now(),
        at: (0..TIMES_MAX).map(|_| AtomicU64::new(0)).collect(),
    });
    let dash = engine::builder(engine::store(path).await?, engine::no_model())
        .with_spawner(Arc::<Reporters>::clone(&spawner))
        .add_sink(Arc::<CommitTimes>::clone(&times))
        .start()
        .await?;
    let swarm = dash.create_swarm(engine::swarm(agents)).await?;
    while spawner.started.load(Ordering::Relaxed) < u64::from(agents) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let head = dash.head_seq().await?;
    let (began, cpu) = (now(), cpu_seconds());
    let followers: Vec<_> = (0..subscribers)
        .map(|_| {
            let stream = dash.subscribe(EventFilter::default(), head);
            let every = u64::from(subscribers);
            crate::spawn(follow(stream, Arc::clone(&times), every))
        })
        .collect();
    tokio::time::sleep(LOAD).await;
    spawner.stop.store(true, Ordering::Relaxed);
    let mut all = Received::default();
    for follower in followers {
        let received = follower.await??;
        all.events += received.events;
        all.micros.extend(received.micros);
    }
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    dash.wait_swarm(swarm.id).await?;
    dash.shutdown(DEADLINE).await?;

    let deliveries = float(i64::try_from(all.events)?);
    let word = if is_steady { "steady" } else { "saturated" };
    let name = |what: &str| format!("{subscribers} {word}: {what}");
    let events = Figure::new(
        name("events"),
        "/s",
        deliveries / f64::from(subscribers) / wall,
    );
    let mut figures = vec![
        if is_steady {
            events.beside("rate asked for", f64::from(RATE))
        } else {
            events
        },
        Figure::new(name("delivery p50"), "us", percentile(&mut all.micros, 50)),
        Figure::new(name("delivery p99"), "us", percentile(&mut all.micros, 99)),
    ];
    if !is_steady {
        let raw = raw_broadcast(subscribers).await?;
        figures.push(
            Figure::new(name("CPU of a delivery"), "ns", cpu * 1e9 / deliveries)
                .beside("tokio broadcast alone", raw),
        );
    }
    Ok(figures)
}

/// Nanoseconds of CPU a delivery through the channel alone.
async fn raw_broadcast(subscribers: u32) -> Result<f64> {
    let sender: broadcast::Sender<Arc<[Arc<u64>]>> = broadcast::Sender::new(4_096);
    let readers: Vec<_> = (0..subscribers)
        .map(|_| {
            let mut receiver = sender.subscribe();
            crate::spawn(async move {
                let mut sum = 0;
                while let Ok(batch) = receiver.recv().await {
                    sum += batch.iter().map(|event| **event).sum::<u64>();
                }
                sum
            })
        })
        .collect();
    let cpu = cpu_seconds();
    for _ in 0..RAW_BATCHES {
        let batch: Arc<[Arc<u64>]> = (0..RAW_BATCH).map(|_| Arc::new(1)).collect();
        // Readers live until the sender is dropped.
        let _sent = sender.send(batch);
        tokio::task::yield_now().await;
    }
    drop(sender);
    let mut received = 0;
    for reader in readers {
        received += reader.await?;
    }
    let cpu = cpu_seconds() - cpu;
    let all = len(RAW_BATCHES * RAW_BATCH) * f64::from(subscribers);
    // A reader that fell behind ends early: only what arrived counts.
    Ok(cpu * 1e9 / float(i64::try_from(received)?).clamp(1.0, all))
}
