//! Thousands of seeds through the simulator: what must hold holds, whatever goes wrong.
//!
//! `DASH_SEEDS=100000 cargo test --release -p dash-tests --test it simulate::` runs more of them.

#![cfg(test)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use dash::mutation::{self, Mutation};
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads that run seeds, each with a runtime of its own.
const THREADS: usize = 2;

/// What must have happened in a thousand seeds, beside every kind of event.
const HAPPENS: &[&str] = &[
    "crashes",
    "outside: shutdown",
    "sink: panic",
    "sink: slow",
    "starts that failed",
    "store: conflict",
    "store: failed after the commit",
    "store: failed before the commit",
    "store: failed read",
    "store: full",
    "store: locked",
];

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
    for what in dash::event::EventKind::NAMES.iter().chain(HAPPENS) {
        let times = counts.get(what).copied().unwrap_or_default();
        assert!(times > 0 || wanted < 1_000, "{what} never happens");
    }
    assert!(
        failures.is_empty(),
        "{} of {wanted} seeds:\n{}",
        failures.len(),
        failures[0]
    );
}

/// Seeds that are run twice.
const TWICE: u64 = 60;

#[test]
fn a_seed_gives_the_same_run_byte_for_byte() {
    let mut hashes = BTreeMap::new();
    for seed in 0..TWICE {
        let first = dash::sim::run(seed).unwrap_or_else(|failure| panic!("{failure}"));
        let second = dash::sim::run(seed).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(first, second, "seed {seed}");
        hashes.insert(first.hash, seed);
    }
    assert_eq!(hashes.len() as u64, TWICE, "seeds that look the same");
}

/// Seeds within which a broken engine must be found out.
const FOUND_WITHIN: u64 = 400;

#[test]
fn every_invariant_is_broken_by_a_mutation_that_is_found_out() {
    let covered: Vec<&str> = Mutation::ALL.iter().map(|(_, breaks)| *breaks).collect();
    for invariant in dash::sim::check::INVARIANTS {
        assert!(covered.contains(invariant), "nothing breaks {invariant}");
    }
    for (mutation, breaks) in Mutation::ALL {
        mutation::set(Some(*mutation));
        let found = (0..FOUND_WITHIN).find_map(|seed| dash::sim::run(seed).err());
        mutation::set(None);
        let found = found.unwrap_or_else(|| panic!("{mutation:?} is not found out"));
        eprintln!("{mutation:?}: seed {}: {}", found.seed, found.broken);
        assert_eq!(found.broken.invariant, *breaks, "{mutation:?}: {found}");
    }
}
