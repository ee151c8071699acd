//! The driver's agents are killed with their engine, again and again, until they are done all the same.
//!
//! `DASH_KILLS=1000 cargo test -p dash-tests --test it crash::` runs more of it; a failure names
//! the round and kill, which are the seed.

#![cfg(test)]

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::crash_audit::{audit, check_effects, check_end, check_told};
use crate::crash_child::Process;
use crate::crash_conversations::check_asked;

/// A number that depends on nothing but `seed` (splitmix64).
pub(crate) const fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test may be told how long to go on"
)]
fn kills_wanted() -> u64 {
    let text = std::env::var("DASH_KILLS").unwrap_or_else(|_| "30".to_owned());
    text.parse().expect("DASH_KILLS is a number")
}

/// What became of the kills of a round.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    rounds: u64,
    events: usize,
    doubts: usize,
    reruns: u32,
    uncertain: usize,
    /// Requests compared with the conversation they were made from.
    asked: usize,
    summaries: usize,
    /// Summaries that were made again after a kill.
    summaries_again: usize,
    escalations: usize,
    /// Messages delivered all at once, and one at a time.
    delivered: [usize; 2],
}

/// Lines after which a driver is killed: from the first moment of its life to far into the work.
const LINES_MAX: u64 = 160;

/// Starts a driver and kills it somewhere. False if it was done before.
async fn kill_once(command: &mut Command, seed: u64, said: &mut Vec<String>) -> bool {
    let mut driver = Process::start(command);
    // Every eighth dies while it starts, which no line tells of.
    let lines = if seed % 8 == 7 {
        0
    } else {
        mix(seed) % LINES_MAX
    };
    for _ in 0..lines {
        if driver.line().await.is_none() {
            break;
        }
    }
    // Not to wait for anything: lines come right after commits and effects, this is in between.
    let later = mix(seed ^ 0xdead) % if lines == 0 { 30_000 } else { 3_000 };
    tokio::time::sleep(Duration::from_micros(later)).await;
    let (lines, status) = driver.kill().await;
    said.extend(lines);
    if status.signal() == Some(9) {
        return true;
    }
    assert!(status.success(), "{status}");
    false
}

/// One run from an empty directory to its end, killed on the way.
async fn round(dir: &Path, cap: &str, statuses: &[&str], wanted: u64, tally: &mut Tally) {
    let db = dir.join("run.db");
    let mut said = Vec::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crash_driver"));
    command.arg(dir).arg(cap);
    while tally.kills < wanted {
        let seed = tally.rounds << 32 | tally.kills;
        if !kill_once(&mut command, seed, &mut said).await {
            break;
        }
        tally.kills += 1;
        eprintln!("round {}, kill {}", tally.rounds, tally.kills);
        if db.exists() && said.iter().any(|line| line == "open") {
            let records = audit(&db).await;
            check_told(&records, &said);
            check_effects(dir, &records);
            check_asked(dir, &records);
        }
    }
    let (status, lines, complaints) = Process::start(&mut command).end().await;
    assert!(status.success(), "{complaints}");
    said.extend(lines);
    let records = audit(&db).await;
    check_told(&records, &said);
    check_effects(dir, &records);
    tally.asked += check_asked(dir, &records);
    check_end(&records, statuses);
    tally.rounds += 1;
    tally.events += records.events.len();
    let named = |name: &str| {
        records
            .events
            .iter()
            .filter(|e| e.kind.name() == name)
            .count()
    };
    tally.doubts += named("step.in_doubt");
    tally.reruns += records.steps.iter().map(|s| s.tries - 1).sum::<u32>();
    tally.summaries += named("agent.compacted");
    tally.escalations += named("agent.escalated");
    for (count, ladder) in tally.delivered.iter_mut().zip(["ladder", "ladder-slow"]) {
        let swarm = records.swarms.iter().find(|s| s.name == ladder);
        let of_it = |e: &&dash::event::Event| {
            e.kind.name() == "message.delivered" && e.swarm_id == swarm.map(|s| s.id)
        };
        *count += records.events.iter().filter(of_it).count();
    }
    let is_summary = |s: &&dash::model::Step| s.key.kind() == dash::model::StepKind::Summary;
    let again = records.steps.iter().filter(is_summary);
    tally.summaries_again += again.filter(|s| s.tries > 1).count();
    let uncertain = dash::model::budget::ReservationState::Uncertain;
    tally.uncertain += records
        .reservations
        .iter()
        .filter(|r| r.state == uncertain)
        .count();
}

#[tokio::test]
async fn killed_at_any_moment_nothing_is_lost_or_done_twice() {
    let wanted = kills_wanted();
    let mut tally = Tally::default();
    while tally.kills < wanted {
        let dir = tempfile::tempdir().unwrap();
        round(dir.path(), "100", &["completed"], wanted, &mut tally).await;
    }
    eprintln!("{tally:?}");
    assert!(tally.doubts > 0, "no kill hit a call that may run once");
    assert!(tally.uncertain > 0, "no kill hit a model call");
    let changed = [
        tally.asked,
        tally.summaries,
        tally.escalations,
        tally.delivered[0],
        tally.delivered[1],
    ];
    assert!(changed.iter().all(|n| *n > 0), "{changed:?}");
}

#[tokio::test]
async fn killed_at_any_moment_a_tight_budget_is_kept() {
    let wanted = kills_wanted().div_ceil(3);
    let mut tally = Tally::default();
    while tally.kills < wanted {
        let dir = tempfile::tempdir().unwrap();
        // About half of what a run without kills reserves at once.
        let ends = ["completed", "failed"];
        round(dir.path(), "0.02", &ends, wanted, &mut tally).await;
    }
    eprintln!("{tally:?}");
}
