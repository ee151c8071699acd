//! Thousands of seeds through the simulator: what must hold holds, whatever goes wrong.
//!
//! `DASH_SEEDS=100000 cargo test --release -p dash-tests --test it simulate::` runs more of them.

#![cfg(test)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads that run seeds, each with a runtime of its own.
const THREADS: usize = 2;

#[expect(
    clippy::disallowed_methods,
    reason = "a test may be told how long to go on"
)]
fn seeds_wanted() -> u64 {
    let text = std::env::var("DASH_SEEDS").unwrap_or_else(|_| "2000".to_owned());
    text.parse().expect("DASH_SEEDS is a number")
}

#[test]
fn every_seed_keeps_every_invariant() {
    let wanted = seeds_wanted();
    let next = AtomicU64::new(0);
    let counts: Mutex<BTreeMap<&str, u64>> = Mutex::default();
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= wanted {
                        break;
                    }
                    match dash::sim::run(seed) {
                        Ok(report) => {
                            let mut counts = counts.lock().unwrap();
                            for (what, times) in report.counts {
                                *counts.entry(what).or_default() += times;
                            }
                        }
                        Err(failure) => failures.lock().unwrap().push(failure.to_string()),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let counts = counts.into_inner().unwrap();
    eprintln!("{wanted} seeds: {counts:#?}");
    assert!(
        failures.is_empty(),
        "{} of {wanted} seeds:\n{}",
        failures.len(),
        failures[0]
    );
}
