//! One question with a tool, asked in each of the four dialects.
//!
//! ```sh
//! cargo run --example providers       # offline: servers on loopback, no model behind them
//! ANTHROPIC_API_KEY=… cargo run --example providers -- --provider anthropic
//! OPENAI_API_KEY=… cargo run --example providers -- --provider openai-responses --model gpt-5-mini
//! cargo run --example providers -- --provider ollama --model qwen3
//! ```
//!
//! A provider is used here by itself, without the engine: a request in, a stream of events out.
//! Exit codes: 0 answered, 1 failed, 2 wrong flags.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program talks to its user"
)]

mod loopback;
#[path = "../shared/server.rs"]
mod server;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use dash::llm::http::HttpProvider;
use dash::llm::registry::ModelRegistry;
use dash::llm::{
    LlmEvent, LlmProvider, LlmRequest, Model, RequestOptions, ToolChoice, ToolSpec, api,
};
use dash::model::{
    AssistantMessage, ContentBlock, Message, MessageOrigin, NanoUsd, ToolCall, ToolResultMessage,
    Usage,
};
use dash::{Error, ErrorKind, Result};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use loopback::{Asked, Dialect, Loopback, Saying};
use server::{ServerFlags, declared};

/// Turns after which a model that only calls is given up.
const TURNS_MAX: u32 = 4;

/// Asks one question with a tool, in each of the four dialects.
///
/// Without --provider it asks servers on loopback that come with it and have no model behind them.
#[derive(Debug, Parser)]
#[command(name = "providers")]
struct Options {
    #[command(flatten)]
    server: ServerFlags,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options.server).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("providers: {}", err.chain());
            match err.kind() {
                ErrorKind::Invalid => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(flags: &ServerFlags) -> Result<()> {
    if let Some(name) = &flags.provider {
        let target = flags.connect(name).await?;
        println!("== {name}: {}", target.about);
        return talk(&*target.provider, target.model).await;
    }
    let given = [
        ("--base-url", flags.base_url.is_some()),
        ("--model", flags.model.is_some()),
        ("--input-price", flags.input_price.is_some()),
        ("--output-price", flags.output_price.is_some()),
        ("--models", flags.models.is_some()),
    ];
    if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
        let issue = "needs --provider: without it, only servers on loopback are asked";
        return Err(Error::invalid(*flag, issue));
    }
    println!("servers on loopback, no model behind them; prices are those of the models named\n");
    let registry = ModelRegistry::builtin();
    for dialect in Dialect::ALL {
        let server = Loopback::start(dialect, scripted).await;
        let server = server.map_err(|err| {
            Error::new(ErrorKind::Unavailable, "no server on loopback").with_source(err)
        })?;
        let (name, builder, id) = match dialect {
            Dialect::OpenAiChat => {
                let builder = HttpProvider::openai_chat(server.url());
                (api::OPENAI_CHAT, builder, "openai/gpt-5-mini")
            }
            Dialect::OpenAiResponses => {
                let builder = HttpProvider::openai_responses(server.url());
                (api::OPENAI_RESPONSES, builder, "openai/gpt-5-mini")
            }
            Dialect::Anthropic => {
                let builder = HttpProvider::anthropic(server.url());
                (api::ANTHROPIC, builder, "anthropic/claude-haiku-4-5")
            }
            Dialect::Gemini => {
                let builder = HttpProvider::gemini(server.url());
                (api::GEMINI, builder, "google/gemini-2.5-flash")
            }
        };
        let provider = builder.api_key("loopback".to_owned().into()).build()?;
        let model = declared(&registry, provider.id(), id)?;
        println!("== {name}: {} at {}", model.id, server.url());
        talk(&provider, model).await?;
        println!();
    }
    Ok(())
}

/// What the servers on loopback say: a call first, then what came of it.
fn scripted(asked: &Asked) -> Option<Vec<Saying>> {
    let Some(result) = asked.results.last() else {
        let name = asked.tools.first().cloned().unwrap_or_default();
        let mut numbers = asked.task.split(' ').filter_map(|word| {
            let digits = word.trim_end_matches(['?', '.', ',']);
            digits.parse::<i64>().ok()
        });
        let arguments = json!({"a": numbers.next(), "b": numbers.next()});
        let text = "The tool shall do that. ".to_owned();
        return Some(vec![Saying::Text(text), Saying::Call { name, arguments }]);
    };
    let text = format!("The product is {result}.");
    Some(vec![Saying::Text(text)])
}

/// Asks, does what the model wants done, and asks again until it has answered.
async fn talk(provider: &dyn LlmProvider, model: Model) -> Result<()> {
    let (mut usage, mut cost) = (Usage::default(), NanoUsd::ZERO);
    let question = "What is 6127 times 8941? Use the tool `multiply`, then say the product.";
    let mut request = LlmRequest {
        max_output_tokens: model.max_output_tokens.min(2_000),
        model: Arc::new(model),
        system: "You answer in one sentence.".into(),
        messages: vec![Arc::new(Message::user(question, MessageOrigin::Task))],
        tools: Arc::new([multiply()]),
        tool_choice: ToolChoice::Auto,
        temperature: None,
        response_schema: None,
        idempotency_key: "example".to_owned(),
        options: RequestOptions::default(),
    };
    for _turn in 0..TURNS_MAX {
        let answer = stream(provider, request.clone()).await?;
        usage += answer.usage;
        cost += answer.cost;
        let calls: Vec<ToolCall> = answer.tool_calls().cloned().collect();
        request.messages.push(Arc::new(Message::Assistant(answer)));
        if calls.is_empty() {
            println!(
                "  usage   {} in, {} of them cached, {} out",
                usage.prompt(),
                usage.cache_read,
                usage.output
            );
            println!("  cost    {cost}");
            return Ok(());
        }
        for call in calls {
            println!("  call    {} {}", call.name, call.arguments);
            let (text, is_error) = match product(&call.arguments) {
                Some(product) => (product.to_string(), false),
                None => ("`a` and `b` must be whole numbers".to_owned(), true),
            };
            println!("  result  {text}");
            let result = ToolResultMessage {
                tool_call_id: call.id,
                tool_name: call.name,
                content: vec![ContentBlock::text(text)],
                is_error,
                details: Value::Null,
                is_final: false,
            };
            request.messages.push(Arc::new(Message::ToolResult(result)));
        }
    }
    Err(Error::conflict(format!(
        "no answer after {TURNS_MAX} turns"
    )))
}

/// One call: shows the text as it comes.
async fn stream(provider: &dyn LlmProvider, request: LlmRequest) -> Result<AssistantMessage> {
    let mut events = provider.stream(request);
    let mut is_open = false;
    while let Some(event) = events.next().await {
        match event {
            LlmEvent::TextDelta { delta, .. } => {
                print!("{}{delta}", if is_open { "" } else { "  text    " });
                // A screen that has gone is no reason to stop.
                let _gone = std::io::stdout().flush();
                is_open = true;
            }
            LlmEvent::Done { message, .. } => {
                if is_open {
                    println!();
                }
                return Ok(message);
            }
            LlmEvent::Error { error, .. } => {
                if is_open {
                    println!();
                }
                let what = format!("the model call failed ({:?})", error.kind);
                return Err(Error::new(ErrorKind::Unavailable, what).with_source(error));
            }
            _ => {}
        }
    }
    Err(Error::conflict("the answer was cut"))
}

fn multiply() -> ToolSpec {
    ToolSpec {
        name: "multiply".to_owned(),
        description: "Multiplies two whole numbers.".to_owned(),
        parameters: json!({
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": false,
        }),
    }
}

fn product(arguments: &Value) -> Option<i64> {
    let number = |name: &str| arguments.get(name)?.as_i64();
    number("a")?.checked_mul(number("b")?)
}
