//! The driver's agents are killed with their engine, again and again, until they are done all the same.
//!
//! `DASH_KILLS=1000 cargo test -p dash-tests --test it crash::` runs more of it, 1,000 kills over
//! all tests here; a failure names the round and kill, which are the seed.

#![cfg(test)]

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use dash::event::Event;
use dash::model::{ReservationState, Step, StepKind};
use tokio::process::Command;
use tokio::time::Instant;

use crate::crash_audit::{Records, audit, check_effects, check_end, check_end_served, check_told};
use crate::crash_child::{Process, tell};
use crate::crash_conversations::check_asked;
use crate::crash_served::{Bill, Misdeeds, Served};

/// A number that depends on nothing but `seed` (splitmix64).
pub(crate) const fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Kills of all tests here together, unless `DASH_KILLS` says how many.
const KILLS: u64 = 100;

/// `share` per cent of the kills, rounded up.
#[expect(
    clippy::disallowed_methods,
    reason = "a test may be told how long to go on"
)]
fn kills_wanted(share: u64) -> u64 {
    let wanted = std::env::var("DASH_KILLS")
        .map_or(KILLS, |text| text.parse().expect("DASH_KILLS is a number"));
    (wanted * share).div_ceil(100)
}

/// What became of the kills of a test.
#[derive(Default)]
struct Tally {
    kills: u64,
    rounds: u64,
    events: usize,
    doubts: usize,
    reruns: u32,
    uncertain: usize,
    /// From the start of a process until its engine had recovered and was ready.
    ready: Vec<Duration>,
    /// Requests compared with the conversation they were made from.
    asked: usize,
    summaries: usize,
    /// Summaries that were made again after a kill.
    summaries_again: usize,
    escalations: usize,
    /// Messages delivered all at once, and one at a time.
    delivered: [usize; 2],
    misdeeds: Misdeeds,
    bill: Bill,
}

impl Tally {
    /// Restart to ready: so many per cent of the restarts took no longer.
    fn ready(&self, per_cent: usize) -> Duration {
        let mut all = self.ready.clone();
        all.sort_unstable();
        let last = all.len().saturating_sub(1);
        all.get(last * per_cent / 100).copied().unwrap_or_default()
    }

    /// Adds what a round has left.
    fn add(&mut self, records: &Records) {
        self.rounds += 1;
        self.events += records.events.len();
        let named = |name: &str| {
            let events = records.events.iter();
            events.filter(|e| e.kind.name() == name).count()
        };
        self.doubts += named("step.in_doubt");
        self.reruns += records.steps.iter().map(|s| s.tries - 1).sum::<u32>();
        self.summaries += named("agent.compacted");
        self.escalations += named("agent.escalated");
        for (count, ladder) in self.delivered.iter_mut().zip(["ladder", "ladder-slow"]) {
            let swarm = records.swarms.iter().find(|s| s.name == ladder);
            let of_it = |e: &&Event| {
                e.kind.name() == "message.delivered" && e.swarm_id == swarm.map(|s| s.id)
            };
            *count += records.events.iter().filter(of_it).count();
        }
        let is_summary = |s: &&Step| s.key.kind() == StepKind::Summary;
        let again = records.steps.iter().filter(is_summary);
        self.summaries_again += again.filter(|s| s.tries > 1).count();
        let of_unknown = records.reservations.iter();
        let of_unknown = of_unknown.filter(|r| r.state == ReservationState::Uncertain);
        self.uncertain += of_unknown.count();
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kills, rounds, reruns] = [self.kills, self.rounds, self.reruns.into()];
        write!(
            f,
            "{kills} kills in {rounds} rounds, {} events; steps made again {reruns}, in doubt {}, \
             calls of unknown cost {}; restart to ready p50 {:.0?}, p99 {:.0?} ({} restarts)",
            self.events,
            self.doubts,
            self.uncertain,
            self.ready(50),
            self.ready(99),
            self.ready.len(),
        )?;
        if self.asked > 0 {
            write!(
                f,
                "; requests compared {}, summaries {} ({} of them again), escalations {}, \
                 messages delivered {:?}",
                self.asked, self.summaries, self.summaries_again, self.escalations, self.delivered,
            )?;
        }
        if self.bill.requests > 0 {
            let Misdeeds {
                refused,
                broke,
                cut,
                dripped,
            } = self.misdeeds;
            write!(
                f,
                "; requests served {}, of which refused {refused}, failed {broke}, cut {cut}, \
                 dripped {dripped}; nano-dollars billed {}, charged {}",
                self.bill.requests, self.bill.billed, self.bill.charged,
            )?;
        }
        Ok(())
    }
}

/// What a test kills.
#[derive(Clone, Copy)]
struct Target<'a> {
    /// Dollars each swarm may spend.
    cap: &'a str,
    /// How its swarms may end.
    statuses: &'a [&'a str],
    /// Lines after which a driver is killed: from the first moment of its life to far into the
    /// work.
    lines_max: u64,
    /// Who serves the model; without one it is a script.
    served: Option<&'a Served>,
}

impl Target<'_> {
    fn command(&self, dir: &Path) -> Command {
        if let Some(served) = self.served {
            return served.driver(dir, self.cap);
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_crash_driver"));
        command.arg(dir).arg(self.cap);
        command
    }

    /// What must be true whenever no driver runs.
    fn check(&self, dir: &Path, records: &Records, said: &[String]) -> (usize, Bill) {
        check_told(records, said);
        check_effects(dir, records);
        match self.served {
            Some(served) => (0, served.check_bill(records)),
            None => (check_asked(dir, records), Bill::default()),
        }
    }

    /// Starts a driver and kills it somewhere. False if it was done before.
    async fn kill_once(
        &self,
        command: &mut Command,
        seed: u64,
        said: &mut Vec<String>,
        tally: &mut Tally,
    ) -> bool {
        let began = Instant::now();
        let mut driver = Process::start(command);
        // Every eighth dies while it starts, which no line tells of.
        let lines = if seed % 8 == 7 {
            0
        } else {
            mix(seed) % self.lines_max
        };
        for _ in 0..lines {
            match driver.line().await.as_deref() {
                Some("ready") => tally.ready.push(began.elapsed()),
                Some(_) => {}
                None => break,
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
    async fn round(&self, wanted: u64, tally: &mut Tally) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let db = dir.join("run.db");
        let mut said = Vec::new();
        let mut command = self.command(dir);
        while tally.kills < wanted {
            let seed = tally.rounds << 32 | tally.kills;
            if !self.kill_once(&mut command, seed, &mut said, tally).await {
                break;
            }
            tally.kills += 1;
            eprintln!("round {}, kill {}", tally.rounds, tally.kills);
            if db.exists() && said.iter().any(|line| line == "open") {
                let records = audit(&db).await;
                self.check(dir, &records, &said);
            }
        }
        let (status, lines, complaints) = Process::start(&mut command).end().await;
        assert!(status.success(), "{complaints}");
        said.extend(lines);
        let records = audit(&db).await;
        let (asked, bill) = self.check(dir, &records, &said);
        match self.served {
            Some(_) => check_end_served(&records),
            None => check_end(&records, self.statuses),
        }
        tally.asked += asked;
        tally.bill.add(bill);
        tally.add(&records);
    }
}

#[tokio::test]
async fn killed_at_any_moment_nothing_is_lost_or_done_twice() {
    let wanted = kills_wanted(40);
    let target = Target {
        cap: "100",
        statuses: &["completed"],
        lines_max: 160,
        served: None,
    };
    let mut tally = Tally::default();
    while tally.kills < wanted {
        target.round(wanted, &mut tally).await;
    }
    tell(&format!("scripted models: {tally}"));
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
    let wanted = kills_wanted(10);
    let target = Target {
        // About half of what a run without kills reserves at once.
        cap: "0.02",
        statuses: &["completed", "failed"],
        lines_max: 160,
        served: None,
    };
    let mut tally = Tally::default();
    while tally.kills < wanted {
        target.round(wanted, &mut tally).await;
    }
    tell(&format!("a tight budget: {tally}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_a_served_swarm_pays_what_its_server_bills() {
    let wanted = kills_wanted(50);
    let mut tally = Tally::default();
    while tally.kills < wanted {
        let served = Served::start(tally.rounds).await;
        let target = Target {
            cap: "100",
            statuses: &["completed"],
            lines_max: 100,
            served: Some(&served),
        };
        target.round(wanted, &mut tally).await;
        tally.misdeeds.add(served.misdeeds());
    }
    tell(&format!("a served model: {tally}"));
    assert!(tally.doubts > 0, "no kill hit a call that may run once");
    assert!(tally.uncertain > 0, "no kill hit a model call");
    let Misdeeds {
        refused,
        broke,
        cut,
        dripped,
    } = tally.misdeeds;
    for (count, what) in [
        (refused, "429"),
        (broke, "500"),
        (cut, "cut"),
        (dripped, "drip"),
    ] {
        assert!(count > 0, "no answer was bad in this way: {what}");
    }
}
