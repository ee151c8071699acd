//! Runs seeds through the simulator: what must hold holds, or the seed that broke it is named.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dash::sim::{Failure, Report};

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
    let began = tokio::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= count {
                        break;
                    }
                    let ended = dash::sim::run(from.wrapping_add(nth));
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.add(ended);
                    stop.store(tally.failures.len() >= FAILURES_MAX, Ordering::Relaxed);
                }
            });
        }
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
