//! The workload that other engines are measured with: N agents of K turns against a model server,
//! one JSON line in their format.

use std::io::Write as _;
use std::sync::Arc;

use dash::api::CreateSwarm;
use dash::llm::Model;
use dash::llm::http::{HttpOptions, HttpProvider};
use dash::model::{Agent, AgentStatus};
use dash::store::{AgentFilter, Page, SqliteStore};
use dash::{Orchestrator, ids::SwarmId};
use serde_json::json;

use crate::engine::{self, DEADLINE};
use crate::measure::{cpu_user_system, file_bytes, float, now, reset_peak, status_kib};
use crate::{Options, Result};

const PROVIDER: &str = "mock";

/// Runs the warm-up, then the swarm, and prints the line.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let (n, k) = (options.n.unwrap_or(50), options.k.unwrap_or(5));
    let dir = tempfile::tempdir()?;
    let path = options
        .db
        .clone()
        .filter(|path| !path.as_os_str().is_empty())
        .unwrap_or_else(|| dir.path().join("dash.db"));
    let model = |latency, itd| format!("mock-k{k}-t{}-l{latency}-d{itd}", options.tokens);
    let (main, warm) = (model(options.latency, options.itd), model(0, 0));
    // As with a server elsewhere; the kit's other runners do so too.
    let http = HttpOptions {
        reuse_loopback: true,
        ..HttpOptions::default()
    };
    let provider = HttpProvider::openai_chat(&options.base)
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

    let base = status_kib("VmRSS");
    reset_peak();
    let (bytes, head) = (file_bytes(&path), dash.head_seq().await?);
    let (cpu, began) = (cpu_user_system()?, now());
    let swarm = dash.create_swarm(request(n, k, &main)).await?;
    dash.wait_swarm(swarm.id).await?;
    let (wall, after) = (began.elapsed().as_secs_f64(), cpu_user_system()?);
    let peak = status_kib("VmHWM");
    let grown = float(i64::try_from(file_bytes(&path).saturating_sub(bytes))?);
    let events = dash.head_seq().await? - head;
    let agents = agents_of(&dash, swarm.id).await?;
    let good = |agent: &&Agent| {
        let text = agent.result.as_deref().unwrap_or_default();
        agent.status == AgentStatus::Completed && agent.tool_calls + 1 == k && !text.is_empty()
    };
    let ok = agents.iter().filter(good).count();
    let errors: Vec<String> = agents
        .iter()
        .filter(|agent| !good(agent))
        .take(3)
        .map(|a| format!("{} tools={} error={:?}", a.status, a.tool_calls, a.error))
        .collect();
    dash.shutdown(DEADLINE).await?;
    let closed = float(i64::try_from(file_bytes(&path))?);
    let (user, system) = (after.0 - cpu.0, after.1 - cpu.1);
    let turns = f64::from(n * k);
    let line = json!({
        "peer": "dash", "version": env!("CARGO_PKG_VERSION"), "lang": "rust", "persist": "sqlite-full",
        "n": n, "k": k, "latency_ms": options.latency, "tokens": options.tokens,
        "itd_us": options.itd, "ok": ok, "failures": n as usize - ok.min(n as usize),
        "wall_s": rounded(wall), "cpu_user_s": rounded(user), "cpu_sys_s": rounded(system),
        "proc_cpu_s": rounded(after.0 + after.1), "rss_base_mb": rounded(base / 1_024.0),
        "rss_peak_mb": rounded(peak / 1_024.0), "db_mb": rounded(grown / 1e6),
        "rows": {"events": events, "closed_file_bytes": closed},
        "cpu_ms_per_turn": rounded((user + system) * 1_000.0 / turns),
        "kb_per_agent": rounded((peak - base) / f64::from(n)), "errors": errors,
    });
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
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
        let page = dash
            .list_agents(
                &filter,
                Page {
                    after,
                    limit: 1_000,
                },
            )
            .await?;
        agents.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(agents);
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
