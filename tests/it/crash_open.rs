//! A database file that is only half made, not ours to write, taken, or on a full disk.

#![cfg(test)]

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::crash_audit::{audit, check_effects, check_end, check_told};
use crate::crash_child::{Process, tell};
use crate::crash_conversations::check_asked;

/// Kills while the file is made.
const KILLS: u64 = 60;

fn driver(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crash_driver"));
    command.arg(dir);
    command
}

/// Runs the driver to its end, which is to be a good one.
async fn finish(dir: &Path, mut said: Vec<String>) {
    let (status, lines, complaints) = Process::start(&mut driver(dir)).end().await;
    assert!(status.success(), "{status}: {complaints}");
    said.extend(lines);
    let db = dir.join("run.db");
    let records = audit(&db).await;
    check_told(&records, &said);
    check_effects(dir, &records);
    check_asked(dir, &records);
    check_end(&records, &["completed"]);
}

/// Runs the driver to an end that is to be a bad one; what it complains about.
async fn refused(dir: &Path) -> String {
    let (status, lines, complaints) = Process::start(&mut driver(dir)).end().await;
    assert_eq!(status.code(), Some(1), "{complaints}");
    assert!(lines.is_empty(), "{lines:?}");
    complaints
}

/// How long the driver takes until it has opened a new file.
async fn time_to_open() -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let began = tokio::time::Instant::now();
    let mut driver = Process::driver(dir.path());
    assert_eq!(driver.line().await.as_deref(), Some("open"));
    let took = began.elapsed();
    driver.kill().await;
    took
}

#[tokio::test]
async fn killed_while_it_makes_the_file_it_makes_it_the_next_time() {
    let mut whole = time_to_open().await;
    let mut early = 0;
    for n in 0..KILLS {
        let dir = tempfile::tempdir().unwrap();
        // Twice into the same file: once while it is new, once while it is half made.
        for part in [n, KILLS - n] {
            let driver = Process::driver(dir.path());
            // Not to wait for anything: moments spread over the time it takes to open.
            let at = whole.mul_f64(part as f64 / KILLS as f64);
            tokio::time::sleep(at).await;
            let (lines, status) = driver.kill().await;
            assert_eq!(
                status.signal(),
                Some(9),
                "it was to be killed before its end"
            );
            // The machine is not always equally busy: the moments follow what it needs now.
            if lines.is_empty() {
                early += 1;
                whole = whole.mul_f64(1.02);
            } else {
                whole = whole.mul_f64(0.9);
            }
        }
        let mut next = Process::driver(dir.path());
        let line = next.line().await;
        if line.as_deref() != Some("open") {
            let (_, _, complaints) = next.end().await;
            panic!("kill {n}: {complaints}");
        }
        next.kill().await;
        audit(&dir.path().join("run.db")).await;
        if n % 20 == 0 {
            finish(dir.path(), Vec::new()).await;
        }
    }
    tell(&format!(
        "{early} of {} kills came before a new file was open",
        KILLS * 2
    ));
    assert!(early >= KILLS / 2, "only {early} kills came early enough");
}

#[tokio::test]
async fn a_second_engine_on_the_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Process::driver(dir.path());
    assert_eq!(first.line().await.as_deref(), Some("open"));
    // Stopped, so that it surely has the file while the second one tries.
    signal("-STOP", first.id()).await;
    let complaint = refused(dir.path()).await;
    let db = dir.path().join("run.db");
    let words = format!("`{}` is in use by another process", db.display());
    assert!(complaint.contains(&words), "{complaint}");
    signal("-CONT", first.id()).await;
    let (status, lines, complaints) = first.end().await;
    assert!(status.success(), "{complaints}");
    finish(dir.path(), lines).await;
}

#[tokio::test]
async fn the_next_engine_has_the_file_as_soon_as_the_first_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    for _ in 0..5 {
        let mut first = Process::driver(dir.path());
        assert_eq!(first.line().await.as_deref(), Some("open"));
        // Stopped, so that it cannot end by itself.
        signal("-STOP", first.id()).await;
        let complaint = refused(dir.path()).await;
        assert!(
            complaint.contains("is in use by another process"),
            "{complaint}"
        );
        let (lines, status) = first.kill().await;
        said.extend(lines);
        assert_eq!(status.signal(), Some(9));
        // The first try must do: nobody waits, nobody cleans up.
        let mut next = Process::driver(dir.path());
        let line = next.line().await;
        if line.as_deref() != Some("open") {
            let (_, _, complaints) = next.end().await;
            panic!("{complaints}");
        }
        said.extend(next.kill().await.0);
    }
    finish(dir.path(), said).await;
}

async fn signal(which: &str, process: u32) {
    let mut kill = Command::new("kill");
    let status = kill.arg(which).arg(process.to_string()).status().await;
    assert!(status.unwrap().success());
}

/// A run that was killed in the middle; what it said.
pub(crate) async fn half_done(dir: &Path) -> Vec<String> {
    let mut driver = Process::driver(dir);
    for _ in 0..200 {
        driver.line().await.unwrap();
    }
    driver.kill().await.0
}

#[tokio::test]
async fn a_database_that_may_not_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let said = half_done(dir.path()).await;
    let files: Vec<PathBuf> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let set_mode = |mode: u32| {
        for path in &files {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, mode).unwrap();
        }
    };
    set_mode(0o444);
    let mut command = without_privileges(dir.path());
    let (status, _, complaints) = Process::start(&mut command).end().await;
    assert_eq!(status.code(), Some(1), "{complaints}");
    assert!(complaints.contains("cannot be written to"), "{complaints}");
    assert!(complaints.contains("check its permissions"), "{complaints}");
    set_mode(0o644);
    finish(dir.path(), said).await;
}

/// The driver without root's privilege to write what it may not.
fn without_privileges(dir: &Path) -> Command {
    let script = r#"
    [ "$(id -u)" != 0 ] && exec "$@"
    exec setpriv --bounding-set -all --inh-caps -all "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_crash_driver")).arg(dir);
    command
}

/// A file that may not grow is not a full disk: what a failed write has left is unknown, so the
/// engine stops and the next one decides.
#[tokio::test]
async fn a_file_that_may_not_grow_stops_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    for limit in [300_000, 330_000, 400_000, 500_000] {
        let mut command = Command::new("sh");
        // Ignored signals stay ignored, and without SIGXFSZ a write fails instead.
        command
            .args([
                "-c",
                r#"trap '' XFSZ; exec prlimit --fsize="$1" -- "$2" "$3""#,
                "sh",
            ])
            .arg(limit.to_string())
            .arg(env!("CARGO_BIN_EXE_crash_driver"))
            .arg(dir.path());
        let (status, lines, complaints) = Process::start(&mut command).end().await;
        said.extend(lines);
        assert_eq!(status.code(), Some(1), "{limit}: {complaints}");
        let words = "the store failed, the outcome of the last write is unknown";
        assert!(complaints.contains(words), "{limit}: {complaints}");
        let records = audit(&dir.path().join("run.db")).await;
        check_told(&records, &said);
        check_effects(dir.path(), &records);
    }
    finish(dir.path(), said).await;
    tell("full disk: a limit on the size of files (RLIMIT_FSIZE) ran");
}

/// Mounts a small tmpfs, fills it but for some space, runs the driver there.
const ON_A_SMALL_DISK: &str = r#"
mount -t tmpfs -o size=24m tmpfs "$1" || { echo "cannot mount a tmpfs" >&2; exit 99; }
head -c "$3" /dev/zero > "$1/ballast"
echo ready
exec "$2" "$1"
"#;

#[tokio::test]
async fn a_full_disk_is_waited_out() {
    for ballast in [22_000_000, 24_000_000] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        // A namespace of its own: the mount is seen by nobody else and ends with it.
        command
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                ON_A_SMALL_DISK,
                "sh",
            ])
            .arg(dir.path())
            .arg(env!("CARGO_BIN_EXE_crash_driver"))
            .arg(ballast.to_string());
        let mut driver = Process::start(&mut command);
        if driver.line().await.as_deref() != Some("ready") {
            let (_, _, complaints) = driver.end().await;
            assert!(!may_mount(), "a tmpfs could be mounted, but: {complaints}");
            tell(&format!(
                "full disk: a small tmpfs did NOT run: {complaints}"
            ));
            return;
        }
        let inside = PathBuf::from(format!("/proc/{}/root", driver.id()));
        let inside = inside.join(dir.path().strip_prefix("/").unwrap());
        driver.complaint("the disk is full").await;
        std::fs::remove_file(inside.join("ballast")).unwrap();
        let mut swarms = 0;
        while let Some(line) = driver.line().await {
            swarms += u32::from(line.starts_with("swarm ") && line.ends_with(" completed"));
            // The files are gone with the last process that sees them.
            if swarms == 3 {
                break;
            }
        }
        let (status, _, complaints) = driver.end().await;
        assert!(status.success(), "{complaints}");
        assert_eq!(swarms, 3);
    }
    tell("full disk: a small tmpfs ran");
}

/// Whether this process may mount file systems: then a test that needs one is not left out.
fn may_mount() -> bool {
    const SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.unwrap_or(0) >> SYS_ADMIN & 1 == 1
}
