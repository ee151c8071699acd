//! A small swarm on the whole engine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dash::api::{BudgetRequest, CreateSwarm};
use dash::event::Event;
use dash::ids::SwarmId;
use dash::llm::{LlmRequest, Model, ModelPrice, ScriptedLlm, ScriptedReply};
use dash::model::budget::{ThresholdAction, Thresholds};
use dash::model::{NanoUsd, SideEffect};
use dash::sink::EventSink;
use dash::store::{SqliteStore, Store};
use dash::tool::{Tool, ToolOutput, tool_fn};
use dash::{ErrorKind, Orchestrator, Result, Settings};
use dash_tests::turn;
use serde_json::json;

use super::say;

/// Fixed, so that a restart finds what it has created.
const SWARM: SwarmId = SwarmId::from_u128(1);
const AGENTS: u32 = 3;
/// Turns with tools before the last one.
const TURNS: usize = 2;

/// Runs the swarm to its end.
pub(crate) async fn run(file: &Path) -> Result<()> {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(file).await?);
    say("open");
    let mut settings = Settings::default();
    settings.store_retry_ms = 10;
    settings.default_model = "scripted".to_owned();
    let dash = Orchestrator::builder(store)
        .settings(settings)
        .add_provider(Arc::new(ScriptedLlm::new("script", answer)))
        .add_model(model()?)
        .with_tools(SideEffect::ALL.map(tool).into())
        .add_sink(Arc::new(Tell))
        .start()
        .await?;
    create(&dash).await?;
    let swarm = dash.wait_swarm(SWARM).await?.swarm;
    say(&format!("swarm {} {}", swarm.name, swarm.status));
    dash.shutdown(Duration::from_secs(5)).await
}

/// Creates the swarm unless an earlier run has.
async fn create(dash: &Orchestrator) -> Result<()> {
    let mut request = CreateSwarm::new("small", "Use the tools, then stop.");
    request.id = Some(SWARM);
    request.initial_agents = AGENTS;
    // Nobody watches, so 90 % is only reported.
    let thresholds = Thresholds {
        critical_action: ThresholdAction::Notify,
        ..Thresholds::default()
    };
    let budget = BudgetRequest::usd(NanoUsd(1_000_000_000));
    request.budget = Some(budget.with_thresholds(thresholds));
    loop {
        match dash.create_swarm(request.clone()).await {
            Err(err) if err.kind() == ErrorKind::Conflict => return Ok(()),
            // The disk is full. Space may come back.
            Err(err) if err.kind() == ErrorKind::Unavailable && !is_lost(&err) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => return other.map(drop),
        }
    }
}

fn is_lost(err: &dash::Error) -> bool {
    err.chain().contains("unknown")
}

fn model() -> Result<Model> {
    let mut model = Model::free("scripted", "script");
    model.max_output_tokens = 300;
    model.price = ModelPrice {
        input: "0.25".parse()?,
        output: "2.00".parse()?,
        ..ModelPrice::default()
    };
    Ok(model)
}

fn answer(request: &LlmRequest) -> ScriptedReply {
    if turn(request) == TURNS {
        return ScriptedReply::text("Done.");
    }
    // No step in doubt: nobody is there to settle it.
    ["pure", "idempotent"]
        .iter()
        .fold(ScriptedReply::new(), |reply, name| {
            reply.add_tool_call(*name, json!({}))
        })
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Nothing {}

fn tool(class: SideEffect) -> Arc<dyn Tool> {
    let run = |_, _: Nothing| async { Ok(ToolOutput::text("done ".repeat(100))) };
    tool_fn(class.as_str(), "Does nothing.", class, run)
}

/// Prints the numbers of events, after their commit.
#[derive(Debug)]
struct Tell;

impl EventSink for Tell {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        let line = |event: &Arc<Event>| format!("event {} {}", event.seq, event.id);
        let lines: Vec<String> = events.iter().map(line).collect();
        say(&lines.join("\n"));
    }
}
