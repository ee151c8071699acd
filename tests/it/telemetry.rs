//! Spans, as a host that exports them would see them.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};

use dash::Orchestrator;
use dash::llm::{
    LlmError, LlmErrorKind, LlmEvent, LlmProvider, LlmRequest, LlmStream, Model, ScriptedLlm,
    ScriptedReply,
};
use dash::model::{SideEffect, Usage};
use dash::store::MemoryStore;
use dash::telemetry as t;
use dash_tests::{Door, Setup, create, turn};
use futures_util::StreamExt as _;
use pretty_assertions::assert_eq;
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

#[derive(Debug, Clone, Default)]
struct Seen {
    name: &'static str,
    parent: Option<u64>,
    fields: HashMap<&'static str, String>,
    closed: bool,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// Collects the spans of one thread.
#[derive(Debug, Clone, Default)]
struct Collector {
    spans: Arc<Mutex<HashMap<u64, Seen>>>,
    entered: Arc<Mutex<Vec<u64>>>,
    next: Arc<AtomicU64>,
}

/// Sees nothing.
struct Quiet;

impl Subscriber for Quiet {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Collector {
    /// Collects on this thread until the guard is dropped. With this subscriber alone, a span that
    /// another thread meets first would be off for good; a second one, for all threads, prevents it.
    fn watch(&self) -> tracing::subscriber::DefaultGuard {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing::subscriber::set_global_default(Quiet).unwrap());
        tracing::subscriber::set_default(self.clone())
    }

    fn named(&self, name: &str) -> Vec<Seen> {
        let spans = self.spans.lock().unwrap();
        let mut found: Vec<_> = spans.iter().filter(|(_, s)| s.name == name).collect();
        found.sort_by_key(|(id, _)| **id);
        found.into_iter().map(|(_, seen)| seen.clone()).collect()
    }

    fn parent_of(&self, seen: &Seen) -> Option<Seen> {
        let spans = self.spans.lock().unwrap();
        spans.get(&seen.parent?).cloned()
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("dash")
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::SeqCst) + 1;
        let current = self.entered.lock().unwrap().last().copied();
        let mut seen = Seen {
            name: attributes.metadata().name(),
            parent: match attributes.parent() {
                Some(parent) => Some(parent.into_u64()),
                None if attributes.is_root() => None,
                None => current,
            },
            ..Seen::default()
        };
        attributes.record(&mut seen);
        self.spans.lock().unwrap().insert(id, seen);
        Id::from_u64(id)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        if let Some(seen) = self.spans.lock().unwrap().get_mut(&id.into_u64()) {
            values.record(seen);
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, id: &Id) {
        self.entered.lock().unwrap().push(id.into_u64());
    }

    fn exit(&self, id: &Id) {
        let mut entered = self.entered.lock().unwrap();
        if let Some(at) = entered.iter().rposition(|open| *open == id.into_u64()) {
            entered.remove(at);
        }
    }

    fn try_close(&self, id: Id) -> bool {
        if let Some(seen) = self.spans.lock().unwrap().get_mut(&id.into_u64()) {
            seen.closed = true;
        }
        true
    }
}

fn script(request: &LlmRequest) -> ScriptedReply {
    match turn(request) {
        0 => ScriptedReply::tool_call("act", json!({"secret": "s3"})),
        _ => ScriptedReply::text("the end"),
    }
}

#[tokio::test]
async fn model_and_tool_calls_are_spans_below_their_agent() {
    let collector = Collector::default();
    let _guard = collector.watch();
    let door = Door::new("act", SideEffect::Pure);
    let engine = Setup::new(script).priced().door(&door).start().await;
    let swarm = engine.run(create("private", 1)).await;
    let agent = engine.agent(swarm.id).await;

    let chats = collector.named("chat");
    assert_eq!(chats.len(), 2);
    let first = &chats[0].fields;
    for (name, value) in [
        ("otel.name", "chat m"),
        ("otel.kind", "client"),
        (t::OPERATION_NAME, t::CHAT),
        (t::PROVIDER_NAME, "desk"),
        (t::REQUEST_MODEL, "m"),
        (t::AGENT_ID, &agent.id.to_string()),
        (t::AGENT_NAME, "work/1"),
        (t::CONVERSATION_ID, &swarm.id.to_string()),
        (t::RESPONSE_MODEL, "m"),
        (t::RESPONSE_FINISH_REASONS, r#"["tool_call"]"#),
        ("dash.step", "t1/m"),
    ] {
        assert_eq!(first.get(name).map(String::as_str), Some(value), "{name}");
    }
    let tokens = |seen: &Seen, name: &str| -> u64 { seen.fields[name].parse().unwrap() };
    let input: u64 = chats.iter().map(|c| tokens(c, t::USAGE_INPUT_TOKENS)).sum();
    let output: u64 = chats
        .iter()
        .map(|c| tokens(c, t::USAGE_OUTPUT_TOKENS))
        .sum();
    assert_eq!((input, output), (agent.usage.prompt(), agent.usage.output));

    let tools = collector.named("execute_tool");
    assert_eq!(tools.len(), 1);
    assert_eq!(tools[0].fields["otel.name"], "execute_tool act");
    assert_eq!(tools[0].fields[t::OPERATION_NAME], t::EXECUTE_TOOL);
    assert_eq!(tools[0].fields[t::TOOL_NAME], "act");
    assert_eq!(tools[0].fields[t::TOOL_TYPE], "function");
    assert_eq!(tools[0].fields[t::TOOL_CALL_ID], "call_0_0");
    assert!(!tools[0].fields.contains_key(t::ERROR_TYPE));
    for seen in chats.iter().chain(&tools) {
        assert!(seen.closed, "{seen:?}");
        let above = collector.parent_of(seen).unwrap();
        assert_eq!(above.name, "invoke_agent", "{seen:?}");
        let top = collector.parent_of(&above).unwrap();
        assert_eq!((top.name, top.parent), ("invoke_workflow", None));
    }
    // What was said is nobody's business unless the host asks for it.
    let all = format!("{:?}", collector.spans.lock().unwrap());
    assert!(!all.contains("private") && !all.contains("s3") && !all.contains("the end"));
}

/// A provider whose server names the model that answers and the answer.
#[derive(Debug)]
struct Named(ScriptedLlm);

impl LlmProvider for Named {
    fn id(&self) -> &str {
        self.0.id()
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let is_second = turn(&request) > 0;
        LlmStream::new(self.0.stream(request).map(move |mut event| {
            if let LlmEvent::Done { message, .. } = &mut event {
                message.response_model = Some("m-2026-11".into());
                message.response_id = is_second.then(|| "answer-2".into());
            }
            event
        }))
    }
}

#[tokio::test]
async fn an_answer_is_told_by_its_own_model_its_id_and_what_the_cache_did() {
    let collector = Collector::default();
    let _guard = collector.watch();
    let cached = |request: &LlmRequest| {
        script(request).usage(Usage {
            input: 5,
            output: 3,
            cache_read: 70,
            cache_write: 11,
            ..Usage::default()
        })
    };
    let door = Door::new("act", SideEffect::Pure);
    let engine = Orchestrator::builder(Arc::new(MemoryStore::new()))
        .add_provider(Arc::new(Named(ScriptedLlm::new("desk", cached))))
        .add_model(Model::free("m", "desk"))
        .with_tools(vec![door])
        .start()
        .await
        .unwrap();
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    let ended = engine.wait_swarm(swarm.id).await.unwrap();
    assert_eq!(ended.result().unwrap(), "the end");

    let chats = collector.named("chat");
    assert_eq!(chats.len(), 2);
    for chat in &chats {
        for (name, value) in [
            (t::REQUEST_MODEL, "m"),
            (t::RESPONSE_MODEL, "m-2026-11"),
            (t::USAGE_INPUT_TOKENS, "86"),
            (t::USAGE_OUTPUT_TOKENS, "3"),
            (t::USAGE_CACHE_READ_INPUT_TOKENS, "70"),
            (t::USAGE_CACHE_CREATION_INPUT_TOKENS, "11"),
        ] {
            let found = chat.fields.get(name).map(String::as_str);
            assert_eq!(found, Some(value), "{name}");
        }
    }
    // An id that the server does not tell is left out.
    let ids: Vec<_> = chats.iter().map(|c| c.fields.get(t::RESPONSE_ID)).collect();
    assert_eq!(ids, [None, Some(&"answer-2".to_owned())]);
}

#[tokio::test]
async fn contents_are_in_the_spans_if_the_host_asks() {
    let collector = Collector::default();
    let _guard = collector.watch();
    let door = Door::new("act", SideEffect::Pure);
    let mut setup = Setup::new(script).door(&door);
    setup.settings.telemetry_contents = true;
    let engine = setup.start().await;
    engine.run(create("private", 1)).await;
    let chats = collector.named("chat");
    assert!(chats[0].fields[t::INPUT_MESSAGES].contains("private"));
    assert!(chats[1].fields[t::OUTPUT_MESSAGES].contains("the end"));
    let tool = &collector.named("execute_tool")[0].fields;
    assert_eq!(tool[t::TOOL_CALL_ARGUMENTS], r#"{"secret":"s3"}"#);
    assert!(tool[t::TOOL_CALL_RESULT].contains("done"));
}

#[tokio::test]
async fn what_fails_says_so_in_one_word() {
    let collector = Collector::default();
    let _guard = collector.watch();
    let script = |request: &LlmRequest| match turn(request) {
        0 => ScriptedReply::tool_call("nothing", json!({})),
        _ => ScriptedReply::failure(LlmError::unbilled(LlmErrorKind::RateLimited, "slow down")),
    };
    let engine = Setup::new(script).start().await;
    engine.run(create("go", 1)).await;
    let chats = collector.named("chat");
    assert_eq!(chats[1].fields[t::ERROR_TYPE], "rate_limited");
    let tool = &collector.named("execute_tool")[0];
    assert_eq!(tool.fields[t::ERROR_TYPE], "tool_error");
}
