//! Power cuts.

use std::path::Path;

use dash::store::{SqliteStore, Store as _};
use dash_tests::disk::record::Kind;
use dash_tests::disk::{Dice, Disk, Recording};
use tempfile::TempDir;

use super::rows::{Rows, go_on};
use super::shim::{DATABASE, Program, ROWS, ROWS_UNFLUSHED, Run, SWARM, SWARMS};
use crate::crash_audit::{audit, check_effects, check_end, check_told};
use crate::crash_child::Process;
use crate::crash_conversations::check_asked;

/// Cuts that one run is recorded for.
const CUTS_PER_RUN: usize = 50;

#[expect(
    clippy::disallowed_methods,
    reason = "a test may be told how long to go on"
)]
fn cuts_wanted() -> usize {
    let text = std::env::var("DASH_CUTS").unwrap_or_else(|_| "200".to_owned());
    text.parse().expect("DASH_CUTS is a number")
}

/// Which moments to cut at.
#[derive(Debug, Clone, Copy)]
enum Moments {
    /// After an acknowledgement, each as likely as any other.
    Told,
    /// Of four, one of these, one after any record, two near a flush, a new file, a change of length,
    /// of which there are few.
    Mixed,
}

/// Moments to cut at, in order.
fn moments(recording: &Recording, how: Moments, count: usize, dice: &mut Dice) -> Vec<usize> {
    let (turning, told) = (recording.turning_points(), recording.told_points());
    let all = recording.moments();
    let one = |_| match (how, dice.below(4)) {
        (Moments::Told, _) | (Moments::Mixed, 0) => told[dice.below(told.len())] + 1,
        (Moments::Mixed, 1) => dice.below(all + 1),
        (Moments::Mixed, _) => turning[dice.below(turning.len())] + dice.below(4),
    };
    let mut moments: Vec<usize> = (0..count).map(one).map(|moment| moment.min(all)).collect();
    moments.sort_unstable();
    moments
}

/// A directory for what a cut has left: in memory if the system has a place there, as many are made.
pub(crate) fn place() -> TempDir {
    let memory = Path::new("/dev/shm");
    TempDir::new_in(memory).unwrap_or_else(|_| TempDir::new().unwrap())
}

/// What is left by a cut.
struct Left {
    dir: TempDir,
    /// What was told before.
    said: Vec<String>,
    /// For messages: which cut it was.
    which: String,
}

impl Left {
    fn has_opened(&self) -> bool {
        self.said.iter().any(|line| line == "open")
    }
}

/// Cuts runs of a program short, `count` times in all, and shows what is left.
async fn cut(program: Program, how: Moments, count: usize, mut check: impl AsyncFnMut(Left)) {
    let mut done = 0;
    while done < count {
        let run = Run::succeeding(program).await;
        let wanted = CUTS_PER_RUN.min(count - done);
        // The same seed for the same cut of each test.
        let mut dice = Dice::new(done as u64);
        let mut disk = Disk::new(&run.recording, DATABASE);
        for moment in moments(&run.recording, how, wanted, &mut dice) {
            disk.run_to(moment);
            let (dir, seed) = (place(), dice.roll());
            disk.lose_power(seed, dir.path());
            let which = format!("cut {done}: after record {moment}, seed {seed}");
            eprintln!("{which}");
            let said = run.recording.told(moment);
            check(Left { dir, said, which }).await;
            done += 1;
        }
    }
}

/// Runs the program to its end on what is left, without the shim.
async fn finish(program: Program, left: &mut Left) {
    let (status, lines, complaints) = Process::start(&mut program.on(left.dir.path())).end().await;
    assert!(status.success(), "{}: {complaints}", left.which);
    left.said.extend(lines);
}

#[tokio::test]
async fn a_swarm_goes_on_after_a_power_cut_and_nothing_acknowledged_is_lost() {
    let count = (cuts_wanted() * 2).div_ceil(5);
    cut(SWARM, Moments::Mixed, count, async |mut left| {
        let db = left.dir.path().join(DATABASE);
        if left.has_opened() {
            check_told(&audit(&db).await, &left.said);
        }
        finish(SWARM, &mut left).await;
        let records = audit(&db).await;
        check_told(&records, &left.said);
        assert_eq!(
            records.swarms[0].status.as_str(),
            "completed",
            "{}",
            left.which
        );
    })
    .await;
}

#[tokio::test]
async fn after_a_power_cut_the_engine_knows_of_every_effect_it_had() {
    let count = cuts_wanted().div_ceil(5);
    let mut number = 0;
    cut(SWARMS, Moments::Mixed, count, async |mut left| {
        let dir = left.dir.path().to_owned();
        let db = dir.join(DATABASE);
        if left.has_opened() {
            let records = audit(&db).await;
            check_told(&records, &left.said);
            check_effects(&dir, &records);
            check_asked(&dir, &records);
        }
        number += 1;
        if number % 10 == 0 {
            finish(SWARMS, &mut left).await;
        } else {
            // It opens the file and tells the first event after that.
            let mut next = Process::start(&mut SWARMS.on(&dir));
            for _ in 0..2 {
                next.line().await;
            }
            let (lines, _) = next.kill().await;
            let opened = lines.iter().any(|line| line == "open");
            assert!(opened, "{}: {lines:?}", left.which);
            left.said.extend(lines);
        }
        let records = audit(&db).await;
        check_told(&records, &left.said);
        check_effects(&dir, &records);
        if number % 10 == 0 {
            check_end(&records, &["completed"]);
        }
    })
    .await;
}

#[tokio::test]
async fn many_producers_lose_nothing_by_a_power_cut() {
    let count = (cuts_wanted() * 2).div_ceil(5);
    cut(ROWS, Moments::Mixed, count, async |left| {
        let db = left.dir.path().join(DATABASE);
        if left.has_opened() {
            let rows = Rows::audit(&db).await;
            assert_eq!(rows.lost(&left.said), 0, "{}", left.which);
        }
        go_on(&db).await;
    })
    .await;
}

/// Cuts at every moment until a new file is open, many times before and after flushes.
#[tokio::test]
async fn a_power_cut_while_the_file_is_made_is_made_good() {
    const SEEDS: u64 = 24;
    let run = Run::succeeding(SWARM).await;
    let turning = run.recording.turning_points();
    let mut disk = Disk::new(&run.recording, DATABASE);
    for moment in 0..run.recording.moments() {
        if !run.recording.told(moment).is_empty() {
            break;
        }
        disk.run_to(moment);
        let seeds = if turning.contains(&moment) { SEEDS } else { 1 };
        for seed in 0..seeds {
            let dir = place();
            disk.lose_power(Dice::new(moment as u64 * SEEDS + seed).roll(), dir.path());
            let opened = SqliteStore::open(dir.path().join(DATABASE)).await;
            let store = opened.unwrap_or_else(|err| panic!("after {moment}, seed {seed}: {err}"));
            store.close().await.unwrap();
        }
    }
}

/// The control: a store that does not flush its commits is whole after a cut, but has lost some.
/// If this finds nothing, the other tests prove nothing.
#[tokio::test]
async fn without_flushes_power_cuts_lose_what_was_acknowledged() {
    let count = cuts_wanted().div_ceil(5);
    let (mut losing, mut worst) = (0, 0);
    cut(ROWS_UNFLUSHED, Moments::Told, count, async |left| {
        let db = left.dir.path().join(DATABASE);
        // Even the tables may be lost: they are made anew.
        go_on(&db).await;
        let lost = Rows::audit(&db).await.lost(&left.said);
        losing += usize::from(lost > 0);
        worst = worst.max(lost);
    })
    .await;
    eprintln!("{losing} of {count} cuts lost something, the worst {worst} acknowledgements");
    assert!(
        losing * 2 >= count,
        "only {losing} of {count} cuts lost something"
    );
}

/// The producers' log outgrows what starts a checkpoint, so that cuts come in the middle of one.
#[tokio::test]
async fn the_producers_run_has_checkpoints_between_commits() {
    let run = Run::succeeding(ROWS).await;
    let between = run.recording.writes_between_told(DATABASE);
    assert!(between > 100, "{between}");
    assert!(run.recording.count(Kind::SyncEnd, DATABASE) > 50);
}
