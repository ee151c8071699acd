//! An agent is told something while it works, and something more when it would stop.
//!
//! ```sh
//! cargo run --example steer           # offline: the model is a scripted one
//! ```
//!
//! A steering message arrives at the next boundary: after the tool calls under way, before the
//! next model call. A follow-up arrives when the agent has answered and would end. Both get a
//! ticket, kept in the store like everything else.

#![expect(clippy::print_stdout, reason = "a program talks to its user")]

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use dash::Orchestrator;
use dash::api::CreateSwarm;
use dash::llm::{LlmRequest, Model, ScriptedLlm, ScriptedReply};
use dash::model::{ContentBlock, Message, SideEffect};
use dash::store::{AgentFilter, MemoryStore, Page, TicketFilter};
use dash::tool::{ToolContext, ToolError, ToolOutput, tool_fn};
use serde_json::json;
use tokio::sync::Semaphore;

/// Steers an agent in the middle of its work, with a scripted model.
#[derive(Debug, Parser)]
#[command(name = "steer")]
struct Options {}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Which {
    /// The number of the page.
    page: u32,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Options {} = Options::parse();
    println!("the model is a scripted one");
    // The tool tells when it runs and then waits, so that the message surely comes in the middle.
    let (reached, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (tells, waits) = (Arc::clone(&reached), Arc::clone(&go));
    let read = tool_fn(
        "read_page",
        "Reads a page of the report.",
        SideEffect::Pure,
        move |_cx: ToolContext, args: Which| {
            let (tells, waits) = (Arc::clone(&tells), Arc::clone(&waits));
            async move {
                tells.add_permits(1);
                let closed = |_| ToolError::new("the program ends");
                waits.acquire().await.map_err(closed)?.forget();
                Ok(ToolOutput::text(format!("the text of page {}", args.page)))
            }
        },
    );
    let dash = Orchestrator::builder(Arc::new(MemoryStore::new()))
        .add_provider(Arc::new(ScriptedLlm::new("scripted", script)))
        .add_model(Model::free("scripted", "scripted"))
        .with_tools(vec![read])
        .start()
        .await?;

    let request = CreateSwarm::new("report", "Read page 1 and sum the report up.");
    let swarm = dash.create_swarm(request).await?;
    reached.acquire().await?.forget();
    let filter = AgentFilter {
        swarm_id: Some(swarm.id),
        ..AgentFilter::default()
    };
    let agents = dash.list_agents(&filter, Page::first(1)).await?;
    let agent = agents.items.first().ok_or("no agent")?.id;

    println!("the agent is in the middle of a tool call");
    dash.steer(agent, "Write for children.").await?;
    dash.follow_up(agent, "Now give it a title.").await?;
    show(&dash, agent).await?;
    println!("the tool call ends");
    go.add_permits(1);

    let outcome = dash.wait_swarm(swarm.id).await?;
    show(&dash, agent).await?;
    println!("\nthe conversation:");
    for entry in dash.list_entries(agent, 100).await? {
        if let Some(message) = entry.body.message() {
            println!("  {}", line(message));
        }
    }
    println!("\nresult: {}", outcome.result()?);
    dash.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// The scripted model: it answers what it was told last.
fn script(request: &LlmRequest) -> ScriptedReply {
    let said: Vec<String> = request
        .messages
        .iter()
        .filter_map(|message| match message.as_ref() {
            Message::User(user) => Some(joined(&user.content)),
            Message::Assistant(_) | Message::ToolResult(_) => None,
        })
        .collect();
    let was_read = request.messages.len() > said.len();
    match said.last().map(String::as_str) {
        _ if !was_read => ScriptedReply::tool_call("read_page", json!({"page": 1})),
        Some("Now give it a title.") => ScriptedReply::text("The Little Report"),
        Some("Write for children.") => ScriptedReply::text("Once upon a time there was a report."),
        _ => ScriptedReply::text("The report has one page."),
    }
}

async fn show(dash: &Orchestrator, agent: dash::ids::AgentId) -> dash::Result<()> {
    let filter = TicketFilter {
        agent_id: Some(agent),
        ..TicketFilter::default()
    };
    for ticket in dash.list_tickets(&filter, Page::first(10)).await?.items {
        let queue = ticket.queue.as_str();
        println!("  ticket  {queue:<9} {:<9} {}", ticket.state, ticket.text);
    }
    Ok(())
}

fn line(message: &Message) -> String {
    match message {
        Message::User(user) => {
            let text = joined(&user.content);
            format!(
                "{:?}: {}",
                user.origin,
                text.lines().next().unwrap_or_default()
            )
        }
        Message::ToolResult(result) => format!("{}: {}", result.tool_name, result.text()),
        Message::Assistant(answer) => {
            let calls: Vec<&str> = answer.tool_calls().map(|call| call.name.as_str()).collect();
            let calls = if calls.is_empty() {
                String::new()
            } else {
                format!("(calls {})", calls.join(", "))
            };
            format!("Model: {}{calls}", answer.text())
        }
    }
}

fn joined(blocks: &[ContentBlock]) -> String {
    let text = |block: &ContentBlock| match block {
        ContentBlock::Text { text } => text.clone(),
        ContentBlock::Image { .. } => String::new(),
    };
    blocks.iter().map(text).collect()
}
