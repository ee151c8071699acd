//! The real model of `real_model`, asked in each dialect that its server speaks: what streams in,
//! what fails, and conversations that go from one dialect to the next.
//!
//! What the server does not do: hold an answer to a schema in Messages, and in Responses only if
//! the schema is said as Chat Completions say it.

#![cfg(test)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dash::Orchestrator;
use dash::api::CreateSwarm;
use dash::event::{Event, EventKind};
use dash::llm::{
    Billing, LlmError, LlmErrorKind, LlmEvent, LlmProvider, LlmRequest, LlmStream, RequestOptions,
    ToolChoice, ToolSpec, api,
};
use dash::model::{
    AssistantMessage, ContentBlock, Message, MessageOrigin, SideEffect, StopReason, SwarmStatus,
    ToolResultMessage,
};
use dash::spawn::{AgentHooks, HookContext, TurnDecision, TurnView};
use dash::store::SqliteStore;
use dash::testing::provider_suite::check_grammar;
use dash::tool::{Tool, ToolContext, ToolOutput, tool_fn};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::crash_audit::audit;
use crate::crash_conversations::answers;
use crate::real_model::{DIALECTS, Server, get_weather, model};

/// How long a call or a swarm may take on a busy machine.
const RUN_MAX: Duration = Duration::from_secs(300);

/// More than the server's window of 8,192 tokens.
const WORDS_TOO_MANY: usize = 9_000;

fn told(text: &str) -> Arc<Message> {
    Arc::new(Message::user(text, MessageOrigin::Task))
}

fn request(dialect: &str, messages: Vec<Arc<Message>>) -> LlmRequest {
    LlmRequest {
        model: Arc::new(model(dialect)),
        system: "You are helpful.".into(),
        messages,
        tools: [].into(),
        tool_choice: ToolChoice::Auto,
        max_output_tokens: 40,
        temperature: Some(0.0),
        response_schema: None,
        idempotency_key: String::new(),
        options: RequestOptions::default(),
    }
}

fn weather() -> Arc<[ToolSpec]> {
    let city = json!({"type": "string", "description": "The city."});
    Arc::new([ToolSpec {
        name: "get_weather".to_owned(),
        description: "Tells the weather of a city.".to_owned(),
        parameters: json!({"type": "object", "properties": {"city": city}, "required": ["city"]}),
    }])
}

/// Asks, and checks what must hold of any answer: the grammar of the events, and the usage.
async fn ask(server: &Server, request: LlmRequest) -> (Vec<LlmEvent>, AssistantMessage) {
    let (dialect, limit) = (request.model.id.clone(), request.max_output_tokens);
    let stream = server.provider(&dialect).stream(request);
    let events: Vec<LlmEvent> = timeout(RUN_MAX, stream.collect()).await.unwrap();
    check_grammar(&events).unwrap_or_else(|wrong| panic!("{dialect}: {wrong}"));
    let Some(LlmEvent::Done { message, .. }) = events.last() else {
        panic!("{dialect}: {:?}", events.last());
    };
    let answer = message.clone();
    assert_eq!(answer.api, dialect);
    let usage = answer.usage;
    assert!(usage.prompt() > 0 && usage.output > 0, "{usage:?}");
    assert!(usage.output <= u64::from(limit), "{usage:?}");
    (events, answer)
}

async fn failure(server: &Server, request: LlmRequest) -> LlmError {
    let dialect = request.model.id.clone();
    let stream = server.provider(&dialect).stream(request);
    let finished = timeout(RUN_MAX, stream.finish()).await.unwrap();
    finished.expect_err("the server refuses")
}

#[tokio::test]
async fn text_streams_in_and_stops_at_the_limit() {
    let server = Server::start().await;
    for dialect in DIALECTS {
        let story = vec![told("Tell a very long story about a fox.")];
        let (events, answer) = ask(&server, request(dialect, story)).await;
        let deltas: Vec<&str> = events.iter().filter_map(text_delta).collect();
        assert!(deltas.len() >= 3, "{dialect}: {deltas:?}");
        assert_eq!(deltas.concat(), answer.text(), "{dialect}");
        assert!(answer.response_id.is_some(), "{dialect}: {answer:?}");
        // This server's Responses call an answer complete that they have cut.
        if dialect != api::OPENAI_RESPONSES {
            assert_eq!(answer.stop_reason, StopReason::Length, "{dialect}");
        }
    }
    server.stop().await;
}

fn text_delta(event: &LlmEvent) -> Option<&str> {
    match event {
        LlmEvent::TextDelta { delta, .. } => Some(delta),
        _ => None,
    }
}

fn argument_delta(event: &LlmEvent) -> Option<&str> {
    match event {
        LlmEvent::ToolCallDelta { delta, .. } => Some(delta),
        _ => None,
    }
}

#[tokio::test]
async fn a_call_made_in_one_dialect_is_gone_on_with_in_every_other() {
    let server = Server::start().await;
    for first in DIALECTS {
        let question = told("What is the weather in Paris?");
        let mut begun = request(first, vec![Arc::clone(&question)]);
        begun.tools = weather();
        let (events, answer) = ask(&server, begun).await;
        assert_eq!(answer.stop_reason, StopReason::ToolUse, "{first}");
        let calls: Vec<_> = answer.tool_calls().cloned().collect();
        let deltas: Vec<&str> = events.iter().filter_map(argument_delta).collect();
        assert!(deltas.len() >= 2, "{first}: {deltas:?}");
        let [call] = calls.as_slice() else {
            panic!("{first}: {calls:?}");
        };
        let streamed: Value = serde_json::from_str(&deltas.concat()).unwrap();
        assert_eq!(streamed, call.arguments, "{first}");
        assert_eq!(
            (call.name.as_str(), &call.arguments_error),
            ("get_weather", &None)
        );
        assert!(
            call.arguments["city"].is_string() && !call.id.is_empty(),
            "{call:?}"
        );

        let before = answer.usage.prompt();
        let result = ToolResultMessage {
            tool_call_id: call.id.clone(),
            tool_name: call.name.clone(),
            content: vec![ContentBlock::text("Sunny, 21 degrees.")],
            is_error: false,
            details: Value::Null,
            is_final: false,
        };
        let answer = Arc::new(Message::Assistant(answer));
        let history = [question, answer, Arc::new(Message::ToolResult(result))];
        for next in DIALECTS {
            let mut going_on = request(next, history.to_vec());
            going_on.tools = weather();
            let (_, last) = ask(&server, going_on).await;
            // The server has read the call and its result.
            let read = last.usage.prompt();
            assert!(
                read >= before + 20,
                "{first} to {next}: {read} after {before}"
            );
            assert!(!last.content.is_empty(), "{first} to {next}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn an_answer_is_held_to_a_schema_where_the_server_does_so() {
    let server = Server::start().await;
    let schema = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 10}, "n": {"enum": [1, 2, 3]}},
        "required": ["city", "n"],
        "additionalProperties": false,
    });
    let question = || vec![told("Name a city and a number.")];
    for dialect in DIALECTS {
        let mut asked = request(dialect, question());
        asked.max_output_tokens = 80;
        asked.response_schema = Some(schema.clone());
        if dialect == api::OPENAI_RESPONSES {
            // It reads the field of Chat Completions, and not its own.
            let format = json!({"name": "answer", "schema": schema});
            let format = json!({"type": "json_schema", "json_schema": format});
            asked
                .options
                .extra
                .insert("response_format".to_owned(), format);
        }
        let (_, answer) = ask(&server, asked).await;
        if dialect == api::ANTHROPIC {
            continue;
        }
        let value: Value = serde_json::from_str(&answer.text())
            .unwrap_or_else(|err| panic!("{dialect}: {err}: {}", answer.text()));
        let object = value.as_object().unwrap();
        assert_eq!(object.len(), 2, "{dialect}: {value}");
        assert!(value["city"].is_string(), "{dialect}: {value}");
        assert!(
            (1..=3).contains(&value["n"].as_i64().unwrap()),
            "{dialect}: {value}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn refusals_say_what_kind_they_are_and_cost_nothing() {
    let server = Server::start().await;
    for dialect in DIALECTS {
        let long = vec![told(&"word ".repeat(WORDS_TOO_MANY))];
        let error = failure(&server, request(dialect, long)).await;
        assert_eq!(
            error.kind,
            LlmErrorKind::ContextOverflow,
            "{dialect}: {error}"
        );
        assert_eq!(error.billing, Billing::None, "{dialect}");
        assert!(error.message.contains("8192"), "{dialect}: {error}");

        let mut wrong = request(dialect, vec![told("Hello.")]);
        wrong
            .options
            .extra
            .insert("top_k".to_owned(), json!("many"));
        let error = failure(&server, wrong).await;
        assert!(!error.kind.is_retryable(), "{dialect}: {error:?}");
        assert_eq!(error.billing, Billing::None, "{dialect}");
    }
    assert_eq!(server.busy().await, 0);
    server.stop().await;
}

async fn run(
    db: &Path,
    providers: Vec<(Arc<dyn LlmProvider>, dash::llm::Model)>,
    tools: Vec<Arc<dyn Tool>>,
    swarm: CreateSwarm,
    follow_ups: &[&str],
) -> dash::model::Swarm {
    let store = Arc::new(SqliteStore::open(db).await.unwrap());
    let mut builder = Orchestrator::builder(store)
        .with_tools(tools)
        .with_hooks(Arc::new(EndsAfterSummary::default()));
    for (provider, model) in providers {
        builder = builder.add_provider(provider).add_model(model);
    }
    let dash = builder.start().await.unwrap();
    let mut spawned = dash.subscribe(dash::store::EventFilter::default(), 0);
    let id = dash.create_swarm(swarm).await.unwrap().id;
    while let Some(event) = spawned.next().await.unwrap() {
        if let EventKind::AgentSpawned(agent) = &event.kind {
            for text in follow_ups {
                dash.follow_up(agent.agent_id, *text).await.unwrap();
            }
            break;
        }
    }
    let ended = timeout(RUN_MAX, dash.wait_swarm(id)).await;
    let swarm = ended.expect("the swarm ends").unwrap().swarm;
    dash.shutdown(Duration::from_secs(5)).await.unwrap();
    swarm
}

fn one_agent(dialect: &str, task: &str) -> CreateSwarm {
    let mut request = CreateSwarm::new(dialect, task);
    request.config.model = dialect.to_owned();
    request.config.temperature = Some(0.0);
    request.config.max_output_tokens = 60;
    request.config.max_retries = 0;
    request.config.max_turns = 5;
    request
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct City {
    /// The city.
    city: String,
}

/// Ends an agent after its first turn on a summary. Whether so small a model ever stops calling a
/// tool depends on the last bits of its arithmetic, and so on the processor.
#[derive(Debug, Default)]
struct EndsAfterSummary {
    summed_up: AtomicBool,
}

#[async_trait]
impl AgentHooks for EndsAfterSummary {
    async fn before_request(&self, cx: HookContext<'_>, _: &mut LlmRequest) {
        self.summed_up.fetch_or(cx.sums_up, Ordering::SeqCst);
    }

    async fn finish_turn(&self, _: HookContext<'_>, turn: TurnView<'_>) -> TurnDecision {
        if self.summed_up.load(Ordering::SeqCst) {
            return TurnDecision::End(format!("the model said {:?}", turn.answer.text()));
        }
        TurnDecision::GoOn
    }
}

/// A tool whose first answer is longer than the server's window.
fn long_winded() -> Arc<dyn Tool> {
    let calls = AtomicU32::new(0);
    let run = move |_: ToolContext, City { city }| {
        let text = match calls.fetch_add(1, Ordering::Relaxed) {
            0 => "word ".repeat(WORDS_TOO_MANY),
            _ => format!("Sunny in {city}, 21 degrees."),
        };
        std::future::ready(Ok(ToolOutput::text(text)))
    };
    let about = "Tells the weather of a city.";
    tool_fn("get_weather", about, SideEffect::Pure, run)
}

#[tokio::test]
async fn an_agent_that_overflows_the_window_sums_up_and_ends_well() {
    let server = Server::start().await;
    for dialect in DIALECTS {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("run.db");
        let mut small = model(dialect);
        // Only the server knows its window.
        small.context_window = 0;
        small.max_output_tokens = 200;
        let provider: Arc<dyn LlmProvider> = server.provider(dialect);
        let task = one_agent(dialect, "What is the weather in Paris?");
        let swarm = run(&db, vec![(provider, small)], vec![long_winded()], task, &[]).await;
        let events = audit(&db).await.events;
        let names: Vec<&str> = events.iter().map(|e| e.kind.name()).collect();
        assert_eq!(swarm.status, SwarmStatus::Completed, "{dialect}: {names:?}");
        let at = |name: &str| names.iter().position(|n| *n == name);
        let (failed, summed) = (at("agent.turn_failed"), at("agent.compacted"));
        assert!(failed.is_some() && failed < summed, "{dialect}: {names:?}");
        let last = names.iter().rposition(|n| *n == "agent.turn");
        assert!(last > summed, "{dialect}: {names:?}");
        let paid = |e: &Event| match &e.kind {
            EventKind::AgentCompacted(e) => e.usage.total() > 0 && e.cost_nanos > 0,
            _ => true,
        };
        assert!(events.iter().all(paid), "{dialect}");
    }
    server.stop().await;
}

/// A provider that answers so many calls and then refuses.
#[derive(Debug)]
struct Tired {
    inner: Arc<dyn LlmProvider>,
    left: AtomicU32,
}

impl LlmProvider for Tired {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let left = |n: u32| n.checked_sub(1);
        let granted = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        if granted.is_ok() {
            return self.inner.stream(request);
        }
        let error = LlmError::unbilled(LlmErrorKind::InvalidRequest, "no more of this model");
        LlmStream::failed(error, self.inner.id(), &request.model.id)
    }
}

#[tokio::test]
async fn an_agent_goes_up_a_ladder_of_dialects_with_all_it_has_done() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("run.db");
    let ladder = [api::OPENAI_CHAT, api::ANTHROPIC, api::OPENAI_RESPONSES];
    let rung = |(dialect, calls): (&str, u32)| {
        let left = AtomicU32::new(calls);
        let inner: Arc<dyn LlmProvider> = server.provider(dialect);
        let tired: Arc<dyn LlmProvider> = Arc::new(Tired { inner, left });
        (tired, model(dialect))
    };
    // The first two fail after an answer each.
    let rungs = ladder.into_iter().zip([1, 1, u32::MAX]).map(rung).collect();
    let mut task = one_agent(ladder[0], "What is the weather in Paris?");
    task.config.escalation = ladder[1..].iter().map(|m| (*m).to_owned()).collect();
    let asked = Arc::default();
    let more = ["What is the weather in London?"];
    let swarm = run(&db, rungs, vec![get_weather(&asked)], task, &more).await;
    // So small a model may not come to an end by itself.
    assert!(swarm.status.is_terminal(), "{swarm:?}");
    server.stop().await;

    let records = audit(&db).await;
    let moves: Vec<(&str, &str)> = records
        .events
        .iter()
        .filter_map(|e| match &e.kind {
            EventKind::AgentEscalated(e) => Some((e.from.as_str(), e.to.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(moves, [(ladder[0], ladder[1]), (ladder[1], ladder[2])]);
    let [agent] = records.agents.as_slice() else {
        panic!("{:?}", records.agents);
    };
    let answers = answers(&records.paths[&agent.id]);
    let models: Vec<&str> = answers.map(|answer| answer.api.as_str()).collect();
    assert_eq!(models[..3], ladder, "each of them has answered");
    assert!(models[3..].iter().all(|m| *m == ladder[2]), "{models:?}");
    assert!(!asked.lock().unwrap().is_empty(), "nobody called the tool");
}
