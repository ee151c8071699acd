//! Runs seeds through the simulator: what must hold holds, or the seed that broke it is named.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use dash::sim::{Failure, Report};
use tokio::time::Instant;

use crate::{Options, Result};

/// What all threads have found so far.
#[derive(Debug, Default)]
struct Tally {
    seeds: u64,
    events: u64,
    counts: BTreeMap<&'static str, u64>,
    failures: Vec<Failure>,
}

impl Tally {
    fn add(&mut self, ended: std::result::Result<Report, Box<Failure>>) {
        self.seeds += 1;
        match ended {
            Ok(report) => {
                self.events += report.events;
                for (what, times) in report.counts {
                    *self.counts.entry(what).or_default() += times;
                }
            }
            Err(failure) => self.failures.push(*failure),
        }
    }
}

/// How long a seed may run before its number is told: thousands of times longer than any does.
const LONG: Duration = Duration::from_secs(120);

/// The seeds that run, so that one that hangs has a number.
#[derive(Debug)]
struct Running {
    seeds: Mutex<Option<BTreeMap<u64, Instant>>>,
    changed: Condvar,
}

impl Running {
    fn new() -> Self {
        Self {
            seeds: Mutex::new(Some(BTreeMap::new())),
            changed: Condvar::new(),
        }
    }

    fn begin(&self, seed: u64) {
        let mut seeds = self.seeds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seeds) = seeds.as_mut() {
            seeds.insert(seed, Instant::now());
        }
    }

    fn end(&self, seed: u64) {
        let mut seeds = self.seeds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seeds) = seeds.as_mut() {
            seeds.remove(&seed);
        }
    }

    /// No seed will run any more.
    fn close(&self) {
        *self.seeds.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_all();
    }

    /// Until it is closed, tells of seeds that run for long.
    #[expect(
        clippy::print_stderr,
        reason = "a seed that hangs never gets into the result"
    )]
    fn watch(&self) {
        let mut seeds = self.seeds.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(running) = seeds.as_ref() {
            for (seed, began) in running {
                let seconds = began.elapsed().as_secs();
                if began.elapsed() >= LONG {
                    eprintln!(
                        "seed {seed} has been running for {seconds} s; again: \
                         cargo run --release -p dash-bench -- sim --seed {seed}"
                    );
                }
            }
            let waited = self.changed.wait_timeout(seeds, LONG);
            seeds = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Failures after which no further seed is started.
const FAILURES_MAX: usize = 20;

/// Runs the seeds and prints what they were like. Fails if one broke an invariant.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (from, count) = match options.seed {
        Some(seed) => (seed, 1),
        None => (options.from, options.seeds),
    };
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let tally = Mutex::new(Tally::default());
    let began = Instant::now();
    let running = Running::new();
    std::thread::scope(|scope| {
        scope.spawn(|| running.watch());
        let work = || {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= count {
                        break;
                    }
                    let seed = from.wrapping_add(nth);
                    running.begin(seed);
                    let ended = dash::sim::run(seed);
                    running.end(seed);
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.add(ended);
                    stop.store(tally.failures.len() >= FAILURES_MAX, Ordering::Relaxed);
                }
            })
        };
        let workers: Vec<_> = (0..options.threads.max(1)).map(|_| work()).collect();
        for worker in workers {
            // A panic of a thread is the scope's.
            let _ended = worker.join();
        }
        running.close();
    });
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    print(options, &tally, began.elapsed());
    match tally.failures.len() {
        0 => Ok(()),
        n => Err(format!("{n} of {} seeds broke an invariant", tally.seeds).into()),
    }
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
fn print(options: &Options, tally: &Tally, took: Duration) {
    let seconds = took.as_secs_f64();
    if options.json {
        let failures = tally.failures.iter().map(|failure| {
            serde_json::json!({
                "seed": failure.seed,
                "invariant": failure.broken.invariant,
                "detail": failure.broken.detail,
                "last": failure.lines,
            })
        });
        let failures: Vec<serde_json::Value> = failures.collect();
        let line = serde_json::json!({
            "seeds": tally.seeds,
            "events": tally.events,
            "seconds": seconds,
            "counts": tally.counts,
            "failures": failures,
        });
        println!("{line}");
        return;
    }
    for failure in &tally.failures {
        println!("{failure}\n");
    }
    for (what, times) in &tally.counts {
        println!("{times:>12}  {what}");
    }
    println!(
        "{} seeds, {} events, {} broke an invariant, {seconds:.1} s",
        tally.seeds,
        tally.events,
        tally.failures.len()
    );
}
