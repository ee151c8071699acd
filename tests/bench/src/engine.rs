//! Engines as the scenarios need them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dash::api::CreateSwarm;
use dash::llm::scripted::{ScriptedLlm, ScriptedReply};
use dash::llm::{LlmProvider, LlmRequest, Model};
use dash::model::{ContentBlock, Message, SideEffect, ToolResultMessage};
use dash::spawn::{Advance, AgentPort, Grant, Next, Outcome, Spawner, ToolIntent};
use dash::store::{SqliteStore, Store};
use dash::tool::{Tool, ToolOutput, tool_fn};
use dash::{Orchestrator, OrchestratorBuilder, Settings};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::Result;

/// How long an engine may take to end.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The name of the tool that agents call.
pub(crate) const TOOL: &str = "add_one";

/// Lets this process open as many files as it may: each model call is a connection.
pub(crate) fn raise_open_files() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(())
}

/// Settings that never hold an agent back.
pub(crate) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.agents_per_swarm_max = 100_000;
    settings.agents_total_max = 1_000_000;
    settings.calls_per_provider_max = 100_000;
    settings
}

/// A builder on a store, with one model and one tool.
pub(crate) fn builder(
    store: Arc<dyn Store>,
    provider: Arc<dyn LlmProvider>,
) -> OrchestratorBuilder {
    let model = Model::free("model", provider.id());
    Orchestrator::builder(store)
        .settings(settings())
        .add_provider(provider)
        .add_model(model)
        .with_tools(vec![add_one()])
}

/// A provider that is never asked.
pub(crate) fn no_model() -> Arc<dyn LlmProvider> {
    scripted(|_| ScriptedReply::text("nothing"))
}

/// A provider that answers by a function.
pub(crate) fn scripted(
    script: impl Fn(&LlmRequest) -> ScriptedReply + Send + Sync + 'static,
) -> Arc<dyn LlmProvider> {
    Arc::new(ScriptedLlm::new("script", script))
}

/// Opens the store of a run.
pub(crate) async fn store(path: &Path) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(SqliteStore::open(path).await?))
}

/// An engine whose agents are driven by `spawner`.
pub(crate) async fn driven(path: &Path, spawner: Arc<dyn Spawner>) -> Result<Orchestrator> {
    let builder = builder(store(path).await?, no_model()).with_spawner(spawner);
    Ok(builder.start().await?)
}

/// A parallel swarm of `agents`.
pub(crate) fn swarm(agents: u32) -> CreateSwarm {
    let mut request = CreateSwarm::new("bench", "count");
    request.initial_agents = agents;
    request.config.tools = Some(vec![TOOL.to_owned()]);
    request.config.max_retries = 0;
    request.config.instructions = "You count.".to_owned();
    request
}

#[derive(Deserialize, JsonSchema)]
struct AddOne {
    n: i64,
}

/// The tool of the kit's workload.
fn add_one() -> Arc<dyn Tool> {
    let run = |_, args: AddOne| async move { Ok(ToolOutput::text((args.n + 1).to_string())) };
    tool_fn(TOOL, "Adds one to n.", SideEffect::Pure, run)
}

/// Reports the outcome of the last step, if there is one, and asks for the tool call of `turn`: one
/// durable step. `None` when the engine says stop.
pub(crate) async fn tool_step(
    port: &dyn AgentPort,
    turn: u32,
    last: &mut Option<Outcome>,
) -> Option<()> {
    let call = ToolIntent {
        index: 0,
        call_id: format!("call_{turn}"),
        tool: TOOL.to_owned(),
        side_effect: SideEffect::Pure,
    };
    let advance = Advance {
        outcomes: last.take().into_iter().collect(),
        next: Next::Tools {
            turn,
            calls: vec![call],
        },
    };
    let Ok(Grant::Tools { steps }) = port.advance(advance).await else {
        return None;
    };
    let (key, _) = *steps.first()?;
    let result = ToolResultMessage {
        tool_call_id: format!("call_{turn}"),
        tool_name: TOOL.to_owned(),
        content: vec![ContentBlock::text("42")],
        is_error: false,
        details: serde_json::Value::Null,
        is_final: false,
    };
    *last = Some(Outcome::ToolAnswered {
        key,
        message: Arc::new(Message::ToolResult(result)),
        duration: Duration::ZERO,
    });
    Some(())
}

/// Ends an agent well.
pub(crate) async fn complete(port: &dyn AgentPort, last: Option<Outcome>) {
    let advance = Advance {
        outcomes: last.into_iter().collect(),
        next: Next::Complete {
            result: "done".to_owned(),
        },
    };
    // An engine that has stopped needs no more from this agent.
    drop(port.advance(advance).await);
}
