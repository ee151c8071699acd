//! A swarm over real files: agents read them with real tools, and a report is written.
//!
//! ```sh
//! cargo run --example swarm                         # offline, scripted model
//! cargo run --example swarm -- --strategy tree --agents 6 --path ../some/folder
//! OPENAI_API_KEY=… cargo run --example swarm -- --model gpt-5-mini --budget 0.10
//! ANTHROPIC_API_KEY=… cargo run --example swarm -- --provider anthropic --budget 0.10
//! cargo run --example swarm -- --provider ollama --model qwen3
//! cargo run --example swarm -- --db run.db          # kill it at any moment, then:
//! cargo run --example swarm -- --db run.db --resume
//! ```
//!
//! Exit codes: 0 done, 1 failed, 2 wrong flags, 3 budget exceeded, 130 interrupted.

#![expect(clippy::print_stderr, reason = "a program talks to its user")]

mod files;
mod goal;
mod model;
mod options;
mod script;
#[path = "../shared/server.rs"]
mod server;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use dash::api::{BudgetOwner, BudgetRequest};
use dash::model::budget::{ThresholdAction, Thresholds};
use dash::model::swarm::WorkspaceRoot;
use dash::model::{Swarm, SwarmStatus};
use dash::store::{AgentFilter, EventFilter, Page, SqliteStore, SwarmFilter};
use dash::{Error, ErrorKind, Orchestrator, Result};

use options::Options;

/// Prints a line. A reader that has gone (`| head`) is no reason to stop the swarm.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _gone = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// How long agents may finish what they are doing after Ctrl-C.
const SHUTDOWN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(code) => code,
        Err(err) => {
            eprintln!("swarm: {}", err.chain());
            match err.kind() {
                ErrorKind::Invalid => ExitCode::from(2),
                ErrorKind::BudgetExceeded => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(options: &Options) -> Result<ExitCode> {
    let target = model::choose(options).await?;
    say!("model: {}", target.about);
    let places = Places::new(options)?;
    let store = Arc::new(SqliteStore::open(&places.db).await?);
    places.make_out()?;
    let dash = Orchestrator::builder(store)
        .add_provider(target.provider)
        .add_model(target.model)
        .start()
        .await?;

    let left = if options.resume {
        unfinished(&dash).await?
    } else {
        None
    };
    let swarm = match left {
        Some(swarm) => swarm,
        None => {
            if options.resume {
                // A run that was killed before its first commit has left nothing.
                say!("nothing to resume in {}: starting", places.db.display());
            }
            create(&dash, options, &places).await?
        }
    };
    let interrupted = tokio::select! {
        shown = show_progress(&dash, &swarm) => { shown?; false }
        _ = tokio::signal::ctrl_c() => true,
    };
    if interrupted {
        eprintln!("\ninterrupted: finishing the steps under way …");
        dash.shutdown(SHUTDOWN).await?;
        eprintln!("go on with: --db {} --resume", places.db.display());
        return Ok(ExitCode::from(130));
    }
    let finished = finish(&dash, &swarm, &places).await;
    dash.shutdown(SHUTDOWN).await?;
    finished
}

fn io(what: &str, path: &Path, err: std::io::Error) -> Error {
    let message = format!("failed to {what} `{}`", path.display());
    Error::new(ErrorKind::Unavailable, message).with_source(err)
}

/// Where things are.
struct Places {
    db: PathBuf,
    out: PathBuf,
}

impl Places {
    fn new(options: &Options) -> Result<Self> {
        let db = match &options.db {
            Some(db) => std::path::absolute(db).map_err(|err| io("find", db, err))?,
            None => {
                let dir = tempfile::Builder::new().prefix("dash-swarm-").tempdir();
                let dir = dir.map_err(|err| io("make", Path::new("a temporary folder"), err))?;
                dir.keep().join("dash.db")
            }
        };
        let out = db.with_extension("out");
        Ok(Self { db, out })
    }

    /// The folder that agents write to; only once the database is known to be ours.
    fn make_out(&self) -> Result<()> {
        std::fs::create_dir_all(&self.out).map_err(|err| io("make", &self.out, err))
    }
}

async fn create(dash: &Orchestrator, options: &Options, places: &Places) -> Result<Swarm> {
    let found = files::find(options.path.as_deref());
    let (root, files, found) =
        found.map_err(|err| Error::invalid("--path", "cannot be read").with_source(err))?;
    if files.is_empty() {
        return Err(Error::invalid(
            "--path",
            format!("no text files in `{}`", root.display()),
        ));
    }
    let groups = files::share_out(&files, options.agents);
    let mut request = goal::swarm(options.strategy, &groups);
    request.initial_agents = options.agents;
    request.config.max_output_tokens = options.max_output;
    // Nobody watches to resume it, so 90 % is only reported.
    let thresholds = Thresholds {
        critical_action: ThresholdAction::Notify,
        ..Thresholds::default()
    };
    request.budget = Some(BudgetRequest::usd(options.budget).with_thresholds(thresholds));
    let at = |name: &str, path: &Path, writable| WorkspaceRoot {
        name: name.to_owned(),
        path: path.to_owned(),
        writable,
    };
    request.config.workspace = vec![at("project", &root, false), at("out", &places.out, true)];
    let swarm = dash.create_swarm(request).await?;
    say!(
        "{} of {found} files in {}, {} agents at once",
        files.len(),
        root.display(),
        options.agents
    );
    Ok(swarm)
}

/// The newest swarm that has not ended, or else the newest one.
async fn unfinished(dash: &Orchestrator) -> Result<Option<Swarm>> {
    let mut newest = None;
    let mut page = Page::first(100);
    loop {
        let listed = dash.list_swarms(&SwarmFilter::default(), page).await?;
        for swarm in listed.items {
            let better = |best: &Swarm| !swarm.status.is_terminal() || best.status.is_terminal();
            if newest.as_ref().is_none_or(better) {
                newest = Some(swarm);
            }
        }
        match listed.next {
            Some(after) => page.after = Some(after),
            None => break,
        }
    }
    Ok(newest)
}

/// Prints what happens until the swarm has ended.
async fn show_progress(dash: &Orchestrator, swarm: &Swarm) -> Result<()> {
    let mut progress = show::Progress::default();
    let mut events = dash.subscribe(EventFilter::default(), 0);
    while let Some(event) = events.next().await? {
        if event.swarm_id.is_some_and(|id| id != swarm.id) {
            continue;
        }
        if let Some(line) = progress.line(&event) {
            say!("{line}");
        }
        let name = event.kind.name();
        if matches!(name, "swarm.completed" | "swarm.failed" | "swarm.destroyed") {
            return Ok(());
        }
    }
    Err(Error::closed())
}

async fn finish(dash: &Orchestrator, swarm: &Swarm, places: &Places) -> Result<ExitCode> {
    let outcome = dash.wait_swarm(swarm.id).await?;
    let filter = AgentFilter {
        swarm_id: Some(swarm.id),
        ..AgentFilter::default()
    };
    let mut agents = Vec::new();
    let mut page = Page::first(1_000);
    loop {
        let listed = dash.list_agents(&filter, page).await?;
        agents.extend(listed.items);
        match listed.next {
            Some(after) => page.after = Some(after),
            None => break,
        }
    }
    let budget = dash.get_budget(BudgetOwner::Swarm(swarm.id)).await?.budget;
    let events = usize::try_from(dash.head_seq().await?).unwrap_or(usize::MAX);
    let report = places.out.join("report.md");
    if outcome.swarm.status == SwarmStatus::Completed && !report.exists() {
        // A parallel swarm has no agent that folds: its result is all outputs.
        let result = outcome.result()?;
        std::fs::write(&report, result).map_err(|err| {
            Error::new(ErrorKind::Unavailable, "failed to write the report").with_source(err)
        })?;
    }
    say!(
        "\n{}",
        show::table(
            &outcome.swarm,
            &agents,
            &budget,
            events,
            &places.db,
            &report
        )
    );
    outcome.result()?;
    Ok(ExitCode::SUCCESS)
}
