//! Calls to the disk that fail: nothing acknowledged is lost, nothing is damaged, and the engine ends
//! as it should. Its process stops if what a write has done is unknown; a full disk is waited out.

use std::path::Path;
use std::time::Duration;

use dash::store::SqliteStore;
use dash_tests::disk::record::Kind;
use dash_tests::disk::{Dice, Disk, Recording};
use dash_tests::within;

use super::cuts::place;
use super::shim::{DATABASE, Run, SWARM, SWARMS, under_shim};
use crate::crash_audit::{audit, check_effects, check_end, check_told};
use crate::crash_child::Process;

/// Every how manieth write fails unless the tests are told otherwise, and every how manieth of the
/// other calls, of which there are few.
const WRITE_STEP: usize = 67;
const OTHER_STEP: usize = 5;

/// Which calls fail: every one, if `DASH_FAULTS` is `all`.
#[expect(
    clippy::disallowed_methods,
    reason = "a test may be told how long to go on"
)]
fn step(usual: usize) -> usize {
    match std::env::var("DASH_FAULTS").as_deref() {
        Ok("all") => 1,
        Ok(other) => panic!("DASH_FAULTS is `all` or nothing, not `{other}`"),
        Err(_) => usual,
    }
}

/// A call that is to fail.
#[derive(Debug, Clone, Copy)]
struct Failure {
    call: &'static str,
    number: usize,
    how: &'static str,
    times: &'static str,
}

impl Failure {
    fn plan(&self) -> String {
        let Self {
            call,
            number,
            how,
            times,
        } = self;
        format!("{call}:{number}:{how}:{times}")
    }

    /// What a run must come to in which it was met.
    fn check(&self, run: &Run) {
        let plan = self.plan();
        let (code, complaint) = (run.status.code(), run.complaints.as_str());
        let has_told = |word: &str| run.said.iter().any(|line| line.starts_with(word));
        let is_refused = || {
            let words = ["store cannot be opened", "store cannot be written to"];
            code == Some(1) && words.iter().any(|words| complaint.contains(words))
        };
        let failed = run.recording.names(Kind::Fault);
        // Memory, of which SQLite makes another one if it can.
        let is_memory = failed.iter().all(|name| name.ends_with("-shm"));
        let is_right = if self.how == "short" {
            code == Some(0)
        } else if is_memory && code == Some(0) {
            true
        } else if !has_told("open") {
            is_refused()
        } else if (self.call, self.how) == ("write", "ENOSPC") {
            // Before the first commit and after the last there is nobody who could wait.
            let is_full = code == Some(1) && complaint.contains("the disk is full");
            let may_not_wait = !has_told("event ") || has_told("swarm small completed");
            code == Some(0) || is_full && may_not_wait
        } else if self.call == "open" && code == Some(0) {
            // What a reader cannot open for writing it opens for reading.
            true
        } else {
            let words = "the outcome of the last write is unknown";
            code == Some(1) && complaint.contains(words)
        };
        let last = run.said.last();
        assert!(is_right, "{plan}: {code:?} after {last:?}, {complaint}");
    }
}

/// The file's log is what makes commits durable, whatever the pragma says.
fn check_mode(db: &Path) {
    let header = std::fs::read(db).unwrap();
    // Offsets: sqlite.org/fileformat2.html, section 1.3.3.
    assert_eq!(header.get(18..20), Some([2, 2].as_slice()), "WAL mode");
}

/// Runs the swarm with a failure, then without. True if the call was made. `kind` is how the journal
/// names such a call.
async fn fail(failure: Failure, kind: Kind) -> bool {
    let run = Run::of(SWARM, Some(&failure.plan())).await;
    let was_met = run.recording.count(Kind::Fault, DATABASE) > 0;
    if was_met {
        failure.check(&run);
    } else {
        assert!(run.status.success(), "{failure:?}: {}", run.complaints);
        // Threads are not in step, so that a run may make fewer calls: then it never came to it.
        let count = run.recording.count(kind, DATABASE);
        assert!(count < failure.number, "{failure:?} of {count} was made");
    }
    let db = run.files().join(DATABASE);
    if run.said.iter().any(|line| line == "open") {
        check_mode(&db);
        check_told(&audit(&db).await, &run.said);
        // The power goes, too.
        let (dir, seed) = (place(), failure.number as u64);
        let moments = run.recording.moments();
        let mut disk = Disk::new(&run.recording, DATABASE);
        disk.run_to(moments);
        disk.lose_power(Dice::new(seed).roll(), dir.path());
        let records = audit(&dir.path().join(DATABASE)).await;
        check_told(&records, &run.said);
    }
    let next = Process::start(&mut SWARM.on(&run.files()));
    let (status, lines, complaints) = next.end().await;
    assert!(status.success(), "after {failure:?}: {complaints}");
    let records = audit(&db).await;
    check_told(&records, &run.said);
    check_told(&records, &lines);
    assert_eq!(records.swarms[0].status.as_str(), "completed");
    was_met
}

/// Fails every `step`-th of the calls that a run makes, in each of the ways.
async fn sweep(
    calls: &[(&'static str, Kind)],
    ways: &[(&'static str, &'static str)],
    usual: usize,
) {
    let clean = Run::succeeding(SWARM).await;
    let step = step(usual);
    let (mut made, mut met) = (0, 0);
    for (call, kind) in calls {
        let count = clean.recording.count(*kind, DATABASE);
        for (way, (how, times)) in ways.iter().enumerate() {
            // Not the same calls for each way.
            for number in (1 + way * 7 % step..=count).step_by(step) {
                let failure = Failure {
                    call,
                    number,
                    how,
                    times,
                };
                made += 1;
                met += usize::from(fail(failure, *kind).await);
            }
        }
    }
    eprintln!("{made} runs, {met} met their failure");
    assert!(met * 2 > made, "only {met} of {made} met their failure");
}

#[tokio::test]
async fn a_write_that_fails_stops_the_engine_or_is_waited_out() {
    let ways = [
        ("EIO", "1"),
        ("EIO", "on"),
        ("ENOSPC", "1"),
        ("ENOSPC", "20"),
        ("short", "1"),
        ("short", "on"),
    ];
    sweep(&[("write", Kind::Write)], &ways, WRITE_STEP).await;
}

#[tokio::test]
async fn a_flush_or_another_call_that_fails_stops_the_engine() {
    let ways = [
        ("EIO", "1"),
        ("EIO", "on"),
        ("ENOSPC", "1"),
        ("ENOSPC", "on"),
    ];
    let calls = [
        ("fsync", Kind::SyncBegin),
        ("truncate", Kind::Truncate),
        ("unlink", Kind::Unlink),
        ("open", Kind::Open),
    ];
    sweep(&calls, &ways, OTHER_STEP).await;
}

/// The calls before the first commit, in a new file: each of them, as the log is not yet in use.
#[tokio::test]
async fn a_flush_that_fails_while_the_file_is_made_is_not_passed_over() {
    for (call, kind) in [("fsync", Kind::SyncBegin), ("unlink", Kind::Unlink)] {
        let mut met = 0;
        for number in 1..=8 {
            let failure = Failure {
                call,
                number,
                how: "EIO",
                times: "1",
            };
            met += usize::from(fail(failure, kind).await);
        }
        assert!(met > 0, "no {call} was met");
    }
}

#[tokio::test]
async fn while_the_disk_is_full_the_file_can_be_read_and_with_space_it_goes_on() {
    for number in [400, 1_500, 3_000] {
        let (here, notes) = (place(), place());
        let (dir, plan) = (here.path(), format!("write:{number}:ENOSPC:on"));
        let journal = notes.path().join("journal");
        let mut command = under_shim(SWARMS, dir, &journal, Some(&plan));
        let mut driver = Process::start(&mut command);
        driver.complaint("the disk is full").await;
        let db = dir.join(DATABASE);
        let events = SqliteStore::verify(&db).await.unwrap();
        let failed = || Recording::read(&journal).count(Kind::Fault, DATABASE);
        let again = within("another try", async {
            let before = failed();
            while failed() == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        driver.listening(again).await;
        assert_eq!(SqliteStore::verify(&db).await.unwrap(), events);
        let (mut said, _) = driver.kill().await;
        let records = audit(&db).await;
        check_told(&records, &said);
        check_effects(dir, &records);
        let next = Process::start(&mut SWARMS.on(dir));
        let (status, lines, complaints) = next.end().await;
        assert!(status.success(), "{plan}: {complaints}");
        said.extend(lines);
        let records = audit(&db).await;
        check_told(&records, &said);
        check_effects(dir, &records);
        check_end(&records, &["completed"]);
    }
}
