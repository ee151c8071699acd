//! Two tools of one's own over a file, and a hook that refuses a call.
//!
//! ```sh
//! cargo run --example custom_tool     # offline: the model is a scripted one
//! ```
//!
//! The tools work on a copy of `examples/custom_tool/planets.csv` in a temporary folder.

#![expect(clippy::print_stdout, reason = "a program talks to its user")]

mod table;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use dash::Orchestrator;
use dash::api::CreateSwarm;
use dash::llm::{LlmRequest, Model, ScriptedLlm, ScriptedReply};
use dash::model::{Message, SideEffect, ToolCall};
use dash::spawn::{AgentHooks, HookContext, ToolGate};
use dash::store::{AgentFilter, MemoryStore, Page};
use dash::tool::{Tool, ToolContext, ToolOutput, tool_fn};
use serde_json::json;

use table::{Column, Table};

/// Two tools over a file and a hook that refuses a call, with a scripted model.
#[derive(Debug, Parser)]
#[command(name = "custom_tool")]
struct Options {}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Find {
    /// What to compare.
    column: Column,
    /// The least value, e.g. `20`.
    at_least: f64,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Correct {
    /// The planet's name.
    name: String,
    /// What to correct.
    column: Column,
    /// The new value.
    value: f64,
}

/// Reading changes nothing: after a crash the engine may simply call again.
fn find(table: Table) -> Arc<dyn Tool> {
    let about = "Finds planets by a value, the greatest first.";
    tool_fn(
        "find",
        about,
        SideEffect::Pure,
        move |_cx: ToolContext, args: Find| {
            let found = table.at_least(args.column, args.at_least);
            async move {
                let lines = found?
                    .into_iter()
                    .map(|(name, value)| format!("{name}: {value}"));
                Ok(ToolOutput::text(lines.collect::<Vec<_>>().join(", ")))
            }
        },
    )
}

/// Writing the same value twice is the same as once: after a crash the engine calls again, too.
fn correct(table: Table) -> Arc<dyn Tool> {
    let about = "Corrects a value in the file.";
    tool_fn(
        "correct",
        about,
        SideEffect::Idempotent,
        move |_cx: ToolContext, args: Correct| {
            let old = table.set(&args.name, args.column, args.value);
            async move {
                let (name, column) = (args.name, args.column.name());
                let text = format!("{column} of {name}: {} instead of {}", args.value, old?);
                Ok(ToolOutput::text(text))
            }
        },
    )
}

/// The program's own rule: sizes are settled, only moons are still being found.
#[derive(Debug)]
struct OnlyMoons;

#[async_trait]
impl AgentHooks for OnlyMoons {
    async fn before_tool(&self, _cx: HookContext<'_>, call: &ToolCall) -> ToolGate {
        let column = call
            .arguments
            .get("column")
            .and_then(|value| value.as_str());
        match (call.name.as_str(), column) {
            ("correct", Some("moons")) => ToolGate::Allow,
            ("correct", _) => ToolGate::Deny("only `moons` may be corrected".to_owned()),
            _ => ToolGate::Allow,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Options {} = Options::parse();
    println!("the model is a scripted one");
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("planets.csv");
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("custom_tool/planets.csv");
    std::fs::copy(original, &file)?;
    let table = Table::at(&file);
    let tools = vec![find(table.clone()), correct(table)];
    for tool in &tools {
        let (spec, class) = (tool.spec(), tool.side_effect().as_str());
        println!("tool {} ({class}): {}", spec.name, spec.description);
    }

    let dash = Orchestrator::builder(Arc::new(MemoryStore::new()))
        .add_provider(Arc::new(ScriptedLlm::new("scripted", script)))
        .add_model(Model::free("scripted", "scripted"))
        .with_tools(tools)
        .with_hooks(Arc::new(OnlyMoons))
        .start()
        .await?;
    let task = "Saturn has 274 moons now, and Earth is 1 km wide: correct that.";
    let swarm = dash.create_swarm(CreateSwarm::new("planets", task)).await?;
    let outcome = dash.wait_swarm(swarm.id).await?;
    let agents = dash
        .list_agents(&AgentFilter::default(), Page::first(1))
        .await?;
    let agent = agents.items.first().ok_or("no agent")?;
    for entry in dash.list_entries(agent.id, 100).await? {
        match entry.body.message().map(AsRef::as_ref) {
            Some(Message::Assistant(answer)) => {
                for call in answer.tool_calls() {
                    println!("call     {} {}", call.name, call.arguments);
                }
            }
            Some(Message::ToolResult(result)) => {
                let how = if result.is_error { "refused" } else { "result" };
                println!("{how:<8} {}", result.text());
            }
            Some(Message::User(_)) | None => {}
        }
    }
    println!("answer   {}", outcome.result()?);
    let saturn = std::fs::read_to_string(&file)?;
    let saturn = saturn.lines().find(|line| line.starts_with("Saturn"));
    println!("file     {}", saturn.unwrap_or_default());
    dash.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// The scripted model: it looks, corrects, looks again and tells what it read last.
fn script(request: &LlmRequest) -> ScriptedReply {
    let results: Vec<String> = request
        .messages
        .iter()
        .filter_map(|message| match message.as_ref() {
            Message::ToolResult(result) => Some(result.text()),
            Message::User(_) | Message::Assistant(_) => None,
        })
        .collect();
    let look = json!({"column": "moons", "at_least": 90});
    match results.as_slice() {
        [] => ScriptedReply::tool_call("find", look),
        [_] => ScriptedReply::new()
            // A number as text is taken as a number.
            .add_tool_call(
                "correct",
                json!({"name": "Saturn", "column": "moons", "value": "274"}),
            )
            .add_tool_call(
                "correct",
                json!({"name": "Earth", "column": "diameter_km", "value": 1}),
            ),
        [_, _, _] => ScriptedReply::tool_call("find", look),
        [.., last] => ScriptedReply::text(format!("90 moons or more: {last}.")),
    }
}
