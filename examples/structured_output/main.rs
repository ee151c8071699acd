//! An answer of a type of one's own: the schema is the type's, the engine checks what the model
//! says against it and sends back what does not fit.
//!
//! ```sh
//! cargo run --example structured_output     # offline: the model is a scripted one
//! ```

#![expect(clippy::print_stdout, reason = "a program talks to its user")]

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use dash::Orchestrator;
use dash::api::CreateSwarm;
use dash::llm::{LlmRequest, Model, ScriptedLlm, ScriptedReply};
use dash::model::{ContentBlock, Message};
use dash::store::{AgentFilter, MemoryStore, Page};
use dash::tool::parameters_of;

/// Reads an invoice into a type, with a scripted model that is wrong at first.
#[derive(Debug, Parser)]
#[command(name = "structured_output")]
struct Options {}

/// What the program wants.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Invoice {
    /// The invoice's number, e.g. `R-17`.
    number: String,
    /// Its lines, in order.
    lines: Vec<Line>,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Line {
    /// What was bought.
    article: String,
    /// How many.
    count: u32,
    /// The price of one, in cents.
    cents: u32,
}

const TEXT: &str = "Invoice R-2044. Three chairs at 49.90 each, and a table for 120.00. \
                    Please pay within 14 days.";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Options {} = Options::parse();
    println!("the model is a scripted one, and wrong at first");
    let dash = Orchestrator::builder(Arc::new(MemoryStore::new()))
        .add_provider(Arc::new(ScriptedLlm::new("scripted", script)))
        .add_model(Model::free("scripted", "scripted"))
        .with_tools(Vec::new())
        .start()
        .await?;
    let mut request = CreateSwarm::new("invoice", format!("Read this invoice. {TEXT}"));
    request.config.answer_schema = Some(parameters_of::<Invoice>());
    let swarm = dash.create_swarm(request).await?;
    let outcome = dash.wait_swarm(swarm.id).await?;

    let agents = dash
        .list_agents(&AgentFilter::default(), Page::first(1))
        .await?;
    let agent = agents.items.first().ok_or("no agent")?;
    for entry in dash.list_entries(agent.id, 100).await?.iter().skip(1) {
        match entry.body.message().map(AsRef::as_ref) {
            Some(Message::Assistant(answer)) => println!("model  {}", answer.text()),
            Some(Message::User(user)) => {
                for block in &user.content {
                    if let ContentBlock::Text { text } = block {
                        println!("engine {}", text.replace('\n', "\n       "));
                    }
                }
            }
            Some(Message::ToolResult(_)) | None => {}
        }
    }

    // It fits the schema, so it fits the type.
    let invoice: Invoice = serde_json::from_str(outcome.result()?)?;
    println!("\n{}", invoice.number);
    for line in &invoice.lines {
        println!(
            "  {} × {} at {} cents",
            line.count, line.article, line.cents
        );
    }
    let total: u32 = invoice
        .lines
        .iter()
        .map(|line| line.count * line.cents)
        .sum();
    println!("  total {total} cents");
    dash.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// The scripted model: prose, then a wrong field, then what was asked for.
fn script(request: &LlmRequest) -> ScriptedReply {
    let answers = request.messages.iter();
    let answers = answers.filter(|message| matches!(message.as_ref(), Message::Assistant(_)));
    ScriptedReply::text(match answers.count() {
        0 => "It is invoice R-2044 over chairs and a table.",
        1 => {
            r#"{"number": "R-2044", "lines": [{"article": "chair", "count": "three", "price": 49.9}]}"#
        }
        _ => {
            r#"{"number": "R-2044", "lines": [{"article": "chair", "count": 3, "cents": 4990},
                {"article": "table", "count": 1, "cents": 12000}]}"#
        }
    })
}
