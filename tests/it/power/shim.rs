//! Runs programs under the shim of `tests/shim`, which journals their writes or makes them fail.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use dash_tests::disk::{Disk, Recording};
use tempfile::TempDir;
use tokio::process::Command;

use crate::crash_child::Process;

/// How the names of the database's files begin.
pub(crate) const DATABASE: &str = "run.db";

/// How long a run may take before it is called hung.
const RUN_MAX: Duration = Duration::from_secs(180);

/// A program, and what it is told before the directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    path: &'static str,
    mode: Option<&'static str>,
}

/// Four swarms with everything that the engine has.
pub(crate) const SWARMS: Program = Program {
    path: env!("CARGO_BIN_EXE_crash_driver"),
    mode: None,
};

/// A small swarm.
pub(crate) const SWARM: Program = power("swarm");

/// Many producers on a store.
pub(crate) const ROWS: Program = power("rows");

/// The same without a flush at each commit.
pub(crate) const ROWS_UNFLUSHED: Program = power("rows-unflushed");

const fn power(mode: &'static str) -> Program {
    Program {
        path: env!("CARGO_BIN_EXE_power_driver"),
        mode: Some(mode),
    }
}

impl Program {
    /// The program on a directory.
    pub(crate) fn on(self, dir: &Path) -> Command {
        let mut command = Command::new(self.path);
        command.args(self.mode).arg(dir);
        command
    }
}

/// Where cargo has put the shim: beside this binary, which depends on it.
fn library() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let path = here.with_file_name("libdash_shim.so");
    assert!(path.exists(), "{} was not built", path.display());
    path
}

/// A program under the shim, to work in `dir`, which exists.
pub(crate) fn under_shim(
    program: Program,
    dir: &Path,
    journal: &Path,
    plan: Option<&str>,
) -> Command {
    // As the store resolves it, so that the shim knows it again.
    let dir = dir.canonicalize().unwrap();
    let mut command = program.on(&dir);
    command
        .env("LD_PRELOAD", library())
        .env("DASH_SHIM_DIR", &dir)
        .env("DASH_SHIM_JOURNAL", journal)
        .env("DASH_SHIM_FAULTY", DATABASE);
    if let Some(plan) = plan {
        command.env("DASH_SHIM_FAULT", plan);
    }
    command
}

/// A run that was recorded.
#[derive(Debug)]
pub(crate) struct Run {
    /// What the program left: `files`, and its journal. Kept if a test fails.
    place: Option<TempDir>,
    pub(crate) recording: Recording,
    pub(crate) status: ExitStatus,
    pub(crate) complaints: String,
    /// The lines of standard output.
    pub(crate) said: Vec<String>,
}

impl Run {
    /// Runs a program on an empty directory, and fails a call if a plan says so.
    pub(crate) async fn of(program: Program, plan: Option<&str>) -> Self {
        let place = TempDir::new().unwrap();
        let (files, journal) = (place.path().join("files"), place.path().join("journal"));
        std::fs::create_dir(&files).unwrap();
        let mut command = under_shim(program, &files, &journal, plan);
        let process = Process::start(&mut command);
        let (status, said, complaints) = process.end_within(RUN_MAX).await;
        let recording = Recording::read(&journal);
        Self {
            place: Some(place),
            recording,
            status,
            complaints,
            said,
        }
    }

    /// The same for a run that is to succeed. Its journal must give the very files that it left.
    pub(crate) async fn succeeding(program: Program) -> Self {
        let run = Self::of(program, None).await;
        assert!(run.status.success(), "{}", run.complaints);
        run.check_journal();
        run
    }

    /// Where the program worked.
    pub(crate) fn files(&self) -> PathBuf {
        let place = self.place.as_ref().expect("it is there until the end");
        place.path().join("files")
    }

    fn check_journal(&self) {
        let saved = TempDir::new().unwrap();
        let moments = self.recording.moments();
        let mut disk = Disk::new(&self.recording, DATABASE);
        disk.run_to(moments);
        disk.save(saved.path());
        let (found, expected) = (contents(saved.path()), contents(&self.files()));
        let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
            files.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&found), names(&expected));
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            // Written through shared memory.
            let is_same = name.ends_with("-shm") || found == expected;
            assert!(is_same, "the journal misses something of {name}");
        }
        assert_eq!(self.recording.told(moments), self.said);
    }
}

/// Names and bytes of a directory's files.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// A recording cannot be made again, as threads are not in step, so it stays for whoever looks.
impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(place) = self.place.take()
        {
            eprintln!("the recording is kept: {}", place.keep().display());
        }
    }
}
