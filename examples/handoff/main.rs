//! A conversation that begins with one model and goes on with another, of another maker and in
//! another dialect, within one budget.
//!
//! ```sh
//! cargo run --example handoff     # offline: servers on loopback, no model behind them
//! ```
//!
//! `gpt-5-mini` (OpenAI Responses) makes a tool call, then its server is overloaded. After its
//! retries the agent moves up to `claude-sonnet-5` (Anthropic Messages), which reads the call, its
//! result and why it takes over.

#![expect(clippy::print_stdout, reason = "a program talks to its user")]

#[expect(dead_code, reason = "it can do more than is needed here")]
#[path = "../providers/loopback/mod.rs"]
mod loopback;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use dash::api::{BudgetOwner, BudgetRequest, CreateSwarm};
use dash::event::EventKind;
use dash::llm::http::HttpProvider;
use dash::llm::registry::ModelRegistry;
use dash::model::budget::{ThresholdAction, Thresholds};
use dash::model::{Message, NanoUsd, SideEffect};
use dash::store::{AgentFilter, EventFilter, MemoryStore, Page};
use dash::tool::{Tool, ToolContext, ToolError, ToolOutput, tool_fn};
use dash::{Orchestrator, Settings};
use serde_json::json;

use loopback::{Asked, Dialect, Loopback, Saying};

/// Hands a conversation from one model to another, with servers on loopback.
#[derive(Debug, Parser)]
#[command(name = "handoff")]
struct Options {}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct File {
    /// The file's name, e.g. `README.md`.
    name: String,
}

/// Counts the lines of a file of this repository.
fn count_lines() -> Arc<dyn Tool> {
    let about = "Counts the lines of a file.";
    tool_fn(
        "count_lines",
        about,
        SideEffect::Pure,
        |_cx: ToolContext, args: File| async move {
            if args.name.contains(['/', '\\']) {
                return Err(ToolError::new("a name, not a path"));
            }
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let text =
                tokio::task::spawn_blocking(move || std::fs::read_to_string(root.join(args.name)));
            let failed = |err: &dyn std::error::Error| ToolError::new(err.to_string());
            let text = text.await.map_err(|err| failed(&err))?;
            let count = text.map_err(|err| failed(&err))?.lines().count();
            Ok(ToolOutput::text(format!("{count} lines")))
        },
    )
}

/// The first server: one call, then it is overloaded.
fn first(asked: &Asked) -> Option<Vec<Saying>> {
    let name = asked.tools.first()?.clone();
    let arguments = json!({"name": "README.md"});
    asked
        .results
        .is_empty()
        .then(|| vec![Saying::Call { name, arguments }])
}

/// The second: it answers with what the first has found out.
fn second(asked: &Asked) -> Option<Vec<Saying>> {
    let found = asked.results.last()?;
    Some(vec![Saying::Text(format!("README.md has {found}."))])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Options {} = Options::parse();
    println!("servers on loopback, no model behind them; prices are those of the models named\n");
    let openai = Loopback::start(Dialect::OpenAiResponses, first).await?;
    let anthropic = Loopback::start(Dialect::Anthropic, second).await?;
    let key = || "loopback".to_owned().into();
    let models = ModelRegistry::builtin();
    let mut settings = Settings::default();
    settings.retry_base_ms = 10;
    let dash = Orchestrator::builder(Arc::new(MemoryStore::new()))
        .settings(settings)
        .add_provider(Arc::new(
            HttpProvider::openai_responses(openai.url())
                .api_key(key())
                .build()?,
        ))
        .add_provider(Arc::new(
            HttpProvider::anthropic(anthropic.url())
                .api_key(key())
                .build()?,
        ))
        .add_model(models.find("gpt-5-mini")?.model())
        .add_model(models.find("claude-sonnet-5")?.model())
        .with_tools(vec![count_lines()])
        .start()
        .await?;

    let mut request = CreateSwarm::new("count", "How many lines has README.md?");
    request.config.model = "gpt-5-mini".to_owned();
    request.config.escalation = vec!["claude-sonnet-5".to_owned()];
    request.config.max_retries = 1;
    let unwatched = Thresholds {
        critical_action: ThresholdAction::Notify,
        ..Thresholds::default()
    };
    let budget = BudgetRequest::usd("0.10".parse()?).with_thresholds(unwatched);
    request.budget = Some(budget);
    let mut events = dash.subscribe(EventFilter::default(), 0);
    let swarm = dash.create_swarm(request).await?;
    while let Some(event) = events.next().await? {
        match &event.kind {
            EventKind::AgentTurn(e) => println!("turn      {}", NanoUsd(e.cost_nanos)),
            EventKind::ToolCompleted(e) => println!("tool      {}", e.tool),
            EventKind::AgentRetrying(e) => println!("retry     {}", e.error),
            EventKind::AgentEscalated(e) => println!("escalated {} → {}", e.from, e.to),
            EventKind::SwarmCompleted(_) | EventKind::SwarmFailed(_) => break,
            _ => {}
        }
    }
    let outcome = dash.wait_swarm(swarm.id).await?;
    println!("answer    {}\n", outcome.result()?);

    // Every answer of the conversation says who gave it, in which dialect, and what it cost.
    let agents = dash
        .list_agents(&AgentFilter::default(), Page::first(1))
        .await?;
    let agent = agents.items.first().ok_or("no agent")?;
    let mut costs: BTreeMap<String, NanoUsd> = BTreeMap::new();
    for entry in dash.list_entries(agent.id, 100).await? {
        if let Some(Message::Assistant(answer)) = entry.body.message().map(AsRef::as_ref) {
            let name = format!("{} ({})", answer.model, answer.api);
            *costs.entry(name).or_default() += answer.cost;
        }
    }
    for (name, cost) in costs {
        println!("{name:<38} {cost}");
    }
    let budget = dash.get_budget(BudgetOwner::Swarm(swarm.id)).await?.budget;
    let cap = NanoUsd(budget.allocated.unwrap_or_default());
    println!("{:<38} {} of {cap}", "budget", NanoUsd(budget.charged()));
    dash.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
