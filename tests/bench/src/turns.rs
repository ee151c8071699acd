//! Agents that ask a model server for one streamed answer with one tool call a turn, beside a
//! hand-made loop that does no more than it must.
//!
//! Every run is a process of its own: CPU and memory are of the engine alone. Processes tell what
//! they measured in one line of JSON, the line of a kit by which other engines are compared.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use dash::api::CreateSwarm;
use dash::llm::Model;
use dash::llm::http::{HttpOptions, HttpProvider};
use dash::model::{Agent, AgentStatus};
use dash::store::{AgentFilter, Page, SqliteStore};
use dash::{Orchestrator, ids::SwarmId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::{self, DEADLINE};
use crate::measure::{Cost, file_bytes, float};
use crate::model_server::ModelServer;
use crate::report::{Figure, Target};
use crate::{Options, Result};

const PROVIDER: &str = "mock";

/// Milliseconds to the first token and microseconds between tokens, when nothing is said: none,
/// those of a fast server that sends an answer at once, those of a model that writes.
const PACES: [(u32, u32); 3] = [(0, 0), (200, 0), (200, 20_000)];

/// Measures the engine and the floor in processes of their own, against the same server.
pub(crate) fn run(options: &Options, dir: &Path) -> Result<Vec<Figure>> {
    let server = match &options.base {
        Some(base) => ModelServer::at(base),
        None => ModelServer::start()?,
    };
    let paces = match (options.latency, options.itd) {
        (None, None) => PACES.to_vec(),
        (latency, itd) => vec![(latency.unwrap_or(0), itd.unwrap_or(0))],
    };
    let mut figures = Vec::new();
    for pace in paces {
        let dash = elsewhere("turns", &server, options, pace, dir)?;
        let floor = elsewhere("floor", &server, options, pace, dir)?;
        figures.extend(compared(&dash, &floor, pace));
    }
    Ok(figures)
}

fn compared(dash: &Line, floor: &Line, (latency, itd): (u32, u32)) -> Vec<Figure> {
    let pace = match (latency, itd) {
        (0, 0) => "at once".to_owned(),
        (latency, 0) => format!("{latency} ms"),
        (latency, itd) => format!("{latency} ms + {itd} us a token"),
    };
    let name = |what: &str| format!("{what}, {pace}");
    let beside = "hand-made floor";
    let ratio = if itd == 0 { 2.5 } else { 1.5 };
    let cpu = Figure::new(name("CPU of a turn"), "us", dash.cpu_ms_per_turn * 1e3)
        .beside(beside, floor.cpu_ms_per_turn * 1e3)
        .target(Target::RatioAtMost(ratio));
    let mut wall = Figure::new(name("wall"), "s", dash.wall_s).beside(beside, floor.wall_s);
    if (dash.n, dash.k, latency, itd) == (1_000, 5, 200, 0) {
        wall = wall.target(Target::AtMost(1.3));
    }
    let peak = Figure::new(name("resident, peak"), "MB", dash.rss_peak_mb)
        .beside(beside, floor.rss_peak_mb);
    let mut each = Figure::new(name("an agent in flight"), "KB", dash.kb_per_agent)
        .beside(beside, floor.kb_per_agent);
    if dash.n >= 1_000 {
        each = each.target(Target::AtMost(64.0));
    }
    vec![cpu, wall, peak, each]
}

/// One run in a process of its own, whose line it is; fails if an agent or the server did not do
/// exactly what the workload says.
fn elsewhere(
    what: &str,
    server: &ModelServer,
    options: &Options,
    (latency, itd): (u32, u32),
    dir: &Path,
) -> Result<Line> {
    let (n, k) = (options.n.unwrap_or(1_000), options.k.unwrap_or(5));
    let dir = tempfile::tempdir_in(dir)?;
    let before = server.stats()?;
    let mut child = std::process::Command::new(std::env::current_exe()?);
    child.args([what, "--kit", "--base", server.url()]);
    for (flag, value) in [
        ("--n", n),
        ("--k", k),
        ("--tokens", options.tokens),
        ("--latency", latency),
        ("--itd", itd),
        ("--warmup", options.warmup),
        ("--threads", u32::try_from(options.threads)?),
    ] {
        child.args([flag, &value.to_string()]);
    }
    let output = child.arg("--db").arg(dir.path().join("run.db")).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{what}: {errors}").into());
    }
    let line: Line = serde_json::from_slice(&output.stdout)
        .map_err(|err| format!("{what} printed no line: {err}; {errors}"))?;
    if line.failures > 0 {
        return Err(format!("{what}: {} agents failed: {:?}", line.failures, line.errors).into());
    }
    let agents = u64::from(n + options.warmup);
    let after = server.stats()?;
    let asked = after.requests - before.requests;
    let calls = after.tool_turns - before.tool_turns;
    if (asked, calls) != (agents * u64::from(k), agents * u64::from(k - 1)) {
        let text = format!("{what}: the server saw {asked} requests and asked for {calls} calls");
        return Err(text.into());
    }
    Ok(line)
}

/// What a run measured, in the fields of the kit.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) peer: String,
    pub(crate) version: String,
    pub(crate) lang: String,
    /// What is kept, and how well.
    pub(crate) persist: String,
    /// Agents.
    pub(crate) n: u32,
    /// Turns of each.
    pub(crate) k: u32,
    pub(crate) latency_ms: u32,
    pub(crate) tokens: u32,
    pub(crate) itd_us: u32,
    /// Agents that did what they should.
    pub(crate) ok: u32,
    pub(crate) failures: u32,
    pub(crate) wall_s: f64,
    pub(crate) cpu_user_s: f64,
    pub(crate) cpu_sys_s: f64,
    /// CPU of the process since its start.
    pub(crate) proc_cpu_s: f64,
    /// Resident memory after the warm-up.
    pub(crate) rss_base_mb: f64,
    pub(crate) rss_peak_mb: f64,
    /// How much the files grew.
    pub(crate) db_mb: f64,
    /// What was stored.
    pub(crate) rows: Value,
    pub(crate) cpu_ms_per_turn: f64,
    pub(crate) kb_per_agent: f64,
    pub(crate) errors: Vec<String>,
}

/// What every runner fills in last.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) peer: &'static str,
    pub(crate) persist: String,
    pub(crate) cost: Cost,
    pub(crate) db_bytes: i64,
    pub(crate) rows: Value,
    /// Why agents did not do what they should; one each.
    pub(crate) errors: Vec<String>,
}

impl Ran {
    /// Prints the line.
    pub(crate) fn print(self, options: &Options) -> Result<()> {
        let (n, k) = size(options);
        let failures = u32::try_from(self.errors.len())?;
        let cost = self.cost;
        let line = Line {
            peer: self.peer.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lang: "rust".to_owned(),
            persist: self.persist,
            n,
            k,
            latency_ms: options.latency.unwrap_or(0),
            tokens: options.tokens,
            itd_us: options.itd.unwrap_or(0),
            ok: n.saturating_sub(failures),
            failures,
            wall_s: rounded(cost.wall),
            cpu_user_s: rounded(cost.user),
            cpu_sys_s: rounded(cost.system),
            proc_cpu_s: rounded(cost.process),
            rss_base_mb: rounded(cost.resident_kib / 1_024.0),
            rss_peak_mb: rounded(cost.peak_kib / 1_024.0),
            db_mb: rounded(float(self.db_bytes) / 1e6),
            rows: self.rows,
            cpu_ms_per_turn: rounded(cost.cpu * 1e3 / (f64::from(n) * f64::from(k))),
            kb_per_agent: rounded((cost.peak_kib - cost.resident_kib) / f64::from(n)),
            errors: self.errors.into_iter().take(3).collect(),
        };
        let line = serde_json::to_string(&line)?;
        writeln!(std::io::stdout().lock(), "{line}")?;
        Ok(())
    }
}

/// Agents and turns of one run.
pub(crate) fn size(options: &Options) -> (u32, u32) {
    (options.n.unwrap_or(50), options.k.unwrap_or(5))
}

/// The names of the models of the measurement and of the warm-up, which waits for nothing.
pub(crate) fn models(options: &Options) -> (String, String) {
    let (_, k) = size(options);
    let model = |latency, itd| format!("mock-k{k}-t{}-l{latency}-d{itd}", options.tokens);
    let (latency, itd) = (options.latency.unwrap_or(0), options.itd.unwrap_or(0));
    (model(latency, itd), model(0, 0))
}

/// Runs the warm-up, then the swarm, and prints the line.
pub(crate) async fn print(options: &Options) -> Result<()> {
    let (n, k) = size(options);
    let (main, warm) = models(options);
    let server = ModelServer::for_kit(options.base.as_deref());
    let dir = tempfile::tempdir()?;
    let path = options.db_or(dir.path());
    // As with a server elsewhere; other engines do so too.
    let http = HttpOptions {
        reuse_loopback: true,
        ..HttpOptions::default()
    };
    let provider = HttpProvider::openai_chat(server.url())
        .id(PROVIDER)
        .http_options(http)
        .build()?;
    let store = Arc::new(SqliteStore::open(&path).await?);
    let provider = Arc::new(provider);
    let mut builder = engine::builder(store, provider).add_model(Model::free(&main, PROVIDER));
    if warm != main {
        builder = builder.add_model(Model::free(&warm, PROVIDER));
    }
    let dash = builder.start().await?;
    if options.warmup > 0 {
        let swarm = dash.create_swarm(request(options.warmup, k, &warm)).await?;
        dash.wait_swarm(swarm.id).await?;
    }

    let (bytes, head) = (file_bytes(&path), dash.head_seq().await?);
    let meter = Cost::begin()?;
    let swarm = dash.create_swarm(request(n, k, &main)).await?;
    dash.wait_swarm(swarm.id).await?;
    let cost = meter.end()?;
    let grown = file_bytes(&path).saturating_sub(bytes);
    let events = dash.head_seq().await? - head;
    let errors = agents_of(&dash, swarm.id)
        .await?
        .iter()
        .filter(|agent| !is_good(agent, k))
        .map(|a| format!("{} tools={} error={:?}", a.status, a.tool_calls, a.error))
        .collect();
    dash.shutdown(DEADLINE).await?;
    let ran = Ran {
        peer: "dash",
        persist: "sqlite-full".to_owned(),
        cost,
        db_bytes: i64::try_from(grown)?,
        rows: json!({"events": events, "closed_file_bytes": file_bytes(&path)}),
        errors,
    };
    ran.print(options)
}

fn is_good(agent: &Agent, k: u32) -> bool {
    let text = agent.result.as_deref().unwrap_or_default();
    agent.status == AgentStatus::Completed && agent.tool_calls + 1 == k && !text.is_empty()
}

fn request(agents: u32, turns: u32, model: &str) -> CreateSwarm {
    let mut request = engine::swarm(agents);
    model.clone_into(&mut request.config.model);
    request.config.max_turns = turns + 1;
    request
}

async fn agents_of(dash: &Orchestrator, swarm: SwarmId) -> Result<Vec<Agent>> {
    let filter = AgentFilter {
        swarm_id: Some(swarm),
        ..AgentFilter::default()
    };
    let mut agents = Vec::new();
    let mut after = None;
    loop {
        let page = Page {
            after,
            limit: 1_000,
        };
        let page = dash.list_agents(&filter, page).await?;
        agents.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(agents);
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}
