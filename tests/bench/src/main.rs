//! Measures the engine beside what the machine allows.
//!
//! ```text
//! cargo run --release -p dash-bench -- step --runs 5
//! ```
//!
//! Each scenario prints its figures (median, least and most over the runs) next to a yardstick
//! taken in the same run, the ratio of the two, and whether the figures meet their targets. It
//! never fails over a figure: a busy machine is no bug.

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

mod decode;
mod engine;
mod fanout;
mod floor;
mod idle;
mod measure;
mod model_server;
mod report;
mod restart;
mod sim;
mod step;
mod storage;
mod turns;
mod yardstick;

use report::Figure;

/// Any error: a benchmark only reports it.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
/// What a measurement gives.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// A durable step of one agent, beside one fdatasync.
    Step,
    /// Durable steps of many agents at once, beside `SQLite` alone.
    Steps,
    /// From the commit to in-process subscribers.
    Fanout,
    /// Memory of agents that wait.
    Idle,
    /// From a start on a large store to the first agent at work.
    Restart,
    /// Answers of model servers, from bytes to events, beside JSON alone; takes no disk.
    Decode,
    /// Bytes in the file.
    Storage,
    /// The disk and `SQLite` alone.
    Fsync,
    /// Seeds through the simulator: not how fast, but whether what must hold does.
    Sim,
    /// Agents against a model server, beside a loop made by hand.
    Turns,
    /// The yardstick of `turns`; one line with `--kit`.
    #[value(hide = true)]
    Floor,
    /// The model server of `turns`.
    #[value(hide = true)]
    ServeModel,
    /// The yardstick of `idle`.
    #[value(hide = true)]
    Bare,
    /// One run of `idle`.
    #[value(hide = true)]
    Parked,
}

/// Measures the engine beside what the machine allows.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Options {
    /// What to measure.
    scenario: Scenario,
    /// One JSON object per figure instead of a table.
    #[arg(long)]
    json: bool,
    /// How often.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Agents, or deltas of an answer (decode); each scenario has its own default.
    #[arg(long)]
    n: Option<u32>,
    /// Turns or steps of each agent; each scenario has its own default.
    #[arg(long)]
    k: Option<u32>,
    /// Events in the store (restart).
    #[arg(long, default_value_t = 1_000_000)]
    events: u32,
    /// Threads of the runtime.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Where the files go; the system's directory for temporary files if not said.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// One run in this process and one JSON line, as the kit that compares engines wants it (turns).
    #[arg(long)]
    kit: bool,
    /// The URL of a model server (turns). If not said, one is started; with `--kit`, it is
    /// `http://127.0.0.1:4010`.
    #[arg(long)]
    base: Option<String>,
    /// Text tokens of an answer (turns).
    #[arg(long, default_value_t = 32)]
    tokens: u32,
    /// Milliseconds to the first token (turns). If neither this nor `--itd` is said: 0, then 200,
    /// then 200 with 20,000 microseconds between tokens.
    #[arg(long)]
    latency: Option<u32>,
    /// Microseconds between tokens (turns).
    #[arg(long)]
    itd: Option<u32>,
    /// Agents that run before the measurement (turns).
    #[arg(long, default_value_t = 10)]
    warmup: u32,
    /// The store's file (turns with `--kit`); a temporary one if not said.
    #[arg(long)]
    db: Option<PathBuf>,
    /// How many seeds (sim).
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first seed (sim).
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this seed (sim).
    #[arg(long)]
    seed: Option<u64>,
    /// Taken and ignored: the engine is always durable (turns).
    #[arg(long, hide = true)]
    persist: Option<String>,
}

impl Options {
    /// The file that was named, or one in `dir`.
    fn db_or(&self, dir: &Path) -> PathBuf {
        let named = self.db.clone();
        named
            .filter(|path| !path.as_os_str().is_empty())
            .unwrap_or_else(|| dir.join("dash.db"))
    }
}

/// Spawns a task of the measurement itself.
#[expect(
    clippy::disallowed_methods,
    reason = "producers and subscribers are no part of the engine"
)]
pub(crate) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(task)
}

fn main() -> Result<()> {
    // The kit's runners have no scenario: `--n 50 --k 5 …` means `turns --kit`.
    let mut args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let first = args.get(1).and_then(|arg| arg.to_str());
    if first.is_some_and(|arg| arg.starts_with("--") && arg != "--help") {
        args.splice(1..1, ["turns".into(), "--kit".into()]);
    }
    let options = Options::parse_from(args);
    if options.scenario == Scenario::Sim {
        return sim::run(&options);
    }
    engine::raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads)
        .enable_all()
        .build()?;
    match options.scenario {
        Scenario::Bare => return runtime.block_on(idle::print_bare(&options)),
        Scenario::Parked => return runtime.block_on(idle::print_parked(&options)),
        Scenario::ServeModel => return runtime.block_on(model_server::serve()),
        Scenario::Floor => return runtime.block_on(floor::print(&options)),
        Scenario::Turns if options.kit => return runtime.block_on(turns::print(&options)),
        _ => {}
    }
    let mut runs = Vec::with_capacity(options.runs);
    for _ in 0..options.runs.max(1) {
        let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::tempdir_in(parent)?;
        runs.push(runtime.block_on(run(&options, dir.path()))?);
    }
    let name = options.scenario.to_possible_value();
    let name = name.as_ref().map_or("", |name| name.get_name());
    report::print(name, &runs, options.json)
}

async fn run(options: &Options, dir: &Path) -> Result<Vec<Figure>> {
    match options.scenario {
        Scenario::Step => step::one(options, dir).await,
        Scenario::Steps => step::many(options, dir).await,
        Scenario::Fanout => fanout::run(options, dir).await,
        Scenario::Idle => idle::run(options, dir),
        Scenario::Restart => restart::run(options, dir).await,
        Scenario::Decode => decode::run(options),
        Scenario::Storage => storage::run(options, dir).await,
        Scenario::Fsync => step::disk(options, dir).await,
        Scenario::Turns => turns::run(options, dir),
        Scenario::Sim
        | Scenario::Floor
        | Scenario::ServeModel
        | Scenario::Bare
        | Scenario::Parked => Ok(Vec::new()),
    }
}
