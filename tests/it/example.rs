//! `cargo run --example swarm` and the other examples, as a person runs them.
//!
//! Cargo tells tests of one package nothing about the examples of another, so the test asks it to
//! build them and to say where they are. That takes no time if they are built already.

#![cfg(test)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::crash_audit::audit;
use crate::crash_child::Process;

/// How long building may take on a slow machine with nothing built.
const BUILD_MAX: Duration = Duration::from_secs(900);

const FILES: usize = 5;

/// Variables that would change which model is asked.
const KEYS: [&str; 8] = [
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "GROQ_API_KEY",
    "OLLAMA_API_KEY",
    "BOX_API_KEY",
];

/// An example without any key.
pub(crate) async fn example(name: &str) -> Command {
    static BUILT: OnceCell<HashMap<String, PathBuf>> = OnceCell::const_new();
    let built = BUILT.get_or_init(build).await;
    let mut command = Command::new(&built[name]);
    for key in KEYS {
        command.env_remove(key);
    }
    command
}

async fn build() -> HashMap<String, PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--package", "dash-examples", "--examples"])
        .args(["--message-format", "json"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .kill_on_drop(true);
    let built = timeout(BUILD_MAX, cargo.output())
        .await
        .expect("cargo ends");
    let built = built.unwrap();
    let complaints = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{complaints}");
    let messages = String::from_utf8(built.stdout).unwrap();
    let paths = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = message["target"]["name"].as_str()?;
        Some((name.to_owned(), message["executable"].as_str()?.into()))
    });
    paths.collect()
}

/// Files to work on, and a place for the database.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files");
        std::fs::create_dir(&files).unwrap();
        for n in 1..=FILES {
            let text = format!("# Heading{n}\n\nThe file number {n} is about itself.\n");
            std::fs::write(files.join(format!("file{n}.md")), text).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.dir.path().join("run.db")
    }

    /// The example on these files, with the scripted model.
    pub(crate) async fn command(&self, args: &[&str]) -> Command {
        let mut command = example("swarm").await;
        command
            .env("TMPDIR", self.dir.path())
            .arg("--path")
            .arg(self.dir.path().join("files"))
            .args(args);
        command
    }

    /// The same with its own database.
    pub(crate) async fn command_with_db(&self, args: &[&str]) -> Command {
        let mut command = self.command(args).await;
        command.arg("--db").arg(self.db());
        command
    }

    /// Runs it to its end: exit code, output, complaints.
    async fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = self.command_with_db(args).await;
        let (status, lines, complaints) = Process::start(&mut command).end().await;
        (status.code(), lines.join("\n"), complaints)
    }

    /// The report has something of each file that only a reader of it knows.
    fn check_report(&self, what: &str) {
        let report = self.dir.path().join("run.out/report.md");
        let report = std::fs::read_to_string(report).unwrap();
        for n in 1..=FILES {
            let name = format!("file{n}.md");
            assert!(
                report.contains(&name),
                "{what}: {name} is missing:\n{report}"
            );
            let heading = format!("Heading{n}");
            assert!(
                report.contains(&heading),
                "{what}: {heading} is missing:\n{report}"
            );
        }
    }
}

#[tokio::test]
async fn every_strategy_writes_a_report_about_every_file() {
    for strategy in ["parallel", "map-reduce", "pipeline", "tree"] {
        let place = Place::new();
        let (code, out, complaints) = place.run(&["--strategy", strategy]).await;
        assert_eq!(code, Some(0), "{strategy}: {complaints}{out}");
        assert!(out.contains("completed"), "{strategy}: {out}");
        place.check_report(strategy);
        audit(&place.db()).await;
    }
}

#[tokio::test]
async fn a_budget_too_small_is_exceeded_and_says_so() {
    let place = Place::new();
    let (code, out, complaints) = place.run(&["--budget", "0.000001"]).await;
    assert_eq!(code, Some(3), "{complaints}{out}");
    assert!(complaints.contains("budget exceeded"), "{complaints}");
    let records = audit(&place.db()).await;
    assert!(
        records.budgets.iter().all(|b| b.charged() == 0),
        "nothing was spent"
    );
}

#[tokio::test]
async fn killed_at_five_moments_it_is_resumed_to_the_same_report() {
    // Lines of output; the second says that the swarm is there, the whole run has about fifty.
    for lines in [2, 8, 15, 22, 30] {
        let place = Place::new();
        let mut command = place.command_with_db(&["--pace", "20"]).await;
        let mut first = Process::start(&mut command);
        for _ in 0..lines {
            assert!(first.line().await.is_some(), "it ended before line {lines}");
        }
        let (said, status) = first.kill().await;
        assert!(
            !status.success(),
            "line {lines}: it was to be killed before its end"
        );
        assert!(
            !said
                .iter()
                .any(|line| line.contains("is done") && line.contains("reduce"))
        );
        audit(&place.db()).await;
        let (code, out, complaints) = place.run(&["--resume"]).await;
        assert_eq!(code, Some(0), "line {lines}: {complaints}{out}");
        place.check_report("resumed");
        let records = audit(&place.db()).await;
        assert!(records.budgets.iter().all(|b| b.reserved == 0));
    }
}

/// A run that was killed before its first commit has left nothing: the next one starts.
#[tokio::test]
async fn resuming_nothing_starts_and_says_so() {
    let place = Place::new();
    let (code, out, complaints) = place.run(&["--resume"]).await;
    assert_eq!(code, Some(0), "{complaints}{out}");
    assert!(out.contains("nothing to resume"), "{out}");
    place.check_report("started");
    let mut command = place.command(&["--resume"]).await;
    let (status, _, complaints) = Process::start(&mut command).end().await;
    assert_eq!(status.code(), Some(2), "{complaints}");
    assert!(complaints.contains("--db"), "{complaints}");
}

#[tokio::test]
async fn wrong_flags_are_named() {
    let place = Place::new();
    for (args, named) in [
        (["--agents", "0"], "gents"),
        (["--agents", "1000"], "gents"),
        (["--agents", "-1"], "--agents"),
        (["--strategy", "x"], "--strategy"),
        (["--strategy", "dag"], "--strategy"),
        (["--budget", "-1"], "budget"),
        (["--budget", "abc"], "--budget"),
        (["--pace", "soon"], "--pace"),
    ] {
        let (code, out, complaints) = place.run(&args).await;
        assert_eq!(code, Some(2), "{args:?}: {complaints}{out}");
        assert!(complaints.contains(named), "{args:?}: {complaints}");
    }
    let mut command = example("swarm").await;
    command
        .args(["--path", "/there/is/nothing/here"])
        .arg("--db")
        .arg(place.db());
    let (status, _, complaints) = Process::start(&mut command).end().await;
    assert_eq!(status.code(), Some(2), "{complaints}");
    assert!(
        complaints.contains("`--path`: cannot be read"),
        "{complaints}"
    );
}
