//! The layers around scripted models, on a clock that is moved by hand.

mod failover;
mod rate_limited;
mod recorded;
mod retrying;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;

use crate::env::UnixMillis;
use crate::llm::{
    LlmError, LlmErrorKind, LlmEvent, LlmProvider, LlmRequest, LlmStream, Model, RequestOptions,
    ScriptedLlm, ScriptedReply, ToolChoice,
};
use crate::model::{AssistantMessage, Message, MessageOrigin};
use crate::testing::ManualClock;
use crate::testing::provider_suite::{self, ProviderUnderTest, check_grammar};

fn request(text: &str) -> LlmRequest {
    LlmRequest {
        model: Arc::new(Model::free("m", "scripted")),
        system: "Be brief.".into(),
        messages: vec![Arc::new(Message::user(text, MessageOrigin::Task))],
        tools: Arc::new([]),
        tool_choice: ToolChoice::Auto,
        max_output_tokens: 100,
        temperature: None,
        response_schema: None,
        idempotency_key: "step-1".into(),
        options: RequestOptions::default(),
    }
}

fn clock() -> ManualClock {
    ManualClock::new(UnixMillis(0))
}

/// What the request says last.
fn said(request: &LlmRequest) -> String {
    match request.messages.last().map(|message| (**message).clone()) {
        Some(Message::User(user)) => match user.content.first() {
            Some(crate::model::ContentBlock::Text { text }) => text.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn reply(words: &str) -> ScriptedReply {
    match words {
        "refused" => ScriptedReply::failure(unbilled(LlmErrorKind::InvalidRequest)),
        "midway" => ScriptedReply::text("one two three four").failing_midway(
            LlmError::billed_unknown(LlmErrorKind::StreamCut, "cut in the middle"),
        ),
        "endless" => ScriptedReply::text("for ever").hanging(),
        "call" => ScriptedReply::tool_call("add", serde_json::json!({"a": 1})).add_text("so"),
        words => ScriptedReply::text(format!("You said {words}.")),
    }
}

fn unbilled(kind: LlmErrorKind) -> LlmError {
    LlmError::unbilled(kind, format!("{kind:?} it is"))
}

/// A model that gives these replies in turn, the last one for ever, and how often it was asked.
fn series(id: &str, replies: Vec<ScriptedReply>) -> (Arc<dyn LlmProvider>, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let llm = ScriptedLlm::new(id, move |_request| {
        let at = count.fetch_add(1, Ordering::SeqCst);
        replies[at.min(replies.len() - 1)].clone()
    });
    (Arc::new(llm), calls)
}

async fn events(provider: &dyn LlmProvider, request: LlmRequest) -> Vec<LlmEvent> {
    let events: Vec<_> = provider.stream(request).collect().await;
    assert_eq!(check_grammar(&events), Ok(()), "{events:#?}");
    events
}

async fn failure(provider: &dyn LlmProvider, request: LlmRequest) -> (LlmError, AssistantMessage) {
    match events(provider, request).await.pop() {
        Some(LlmEvent::Error { error, message }) => (error, message),
        other => panic!("{other:?}"),
    }
}

/// A provider that counts the streams of its inner one that are alive.
#[derive(Debug)]
struct Counted {
    inner: Arc<dyn LlmProvider>,
    open: watch::Sender<usize>,
}

struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl LlmProvider for Counted {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        self.open.send_modify(|open| *open += 1);
        let open = Open(self.open.clone());
        LlmStream::new(self.inner.stream(request).map(move |event| {
            let _held = &open;
            event
        }))
    }
}

/// Runs the provider suite on what `wrap` makes of a scripted model. What `is_seen` says of the far
/// side is that the model is asked.
async fn passes_the_suite(
    is_seen: bool,
    wrap: impl FnOnce(Arc<dyn LlmProvider>) -> Arc<dyn LlmProvider>,
) {
    let (count, started) = watch::channel(0);
    let inner = ScriptedLlm::new("scripted", move |request| {
        count.send_modify(|n| *n += 1);
        reply(&said(request))
    });
    let (open, seen) = watch::channel(0);
    let llm = Counted {
        inner: Arc::new(inner),
        open,
    };
    let words = ["good", "refused", "midway", "call"];
    let requests = words.map(request).to_vec();
    let provider = wrap(Arc::new(llm));
    let mut subject = ProviderUnderTest::new(provider, requests, request("endless"));
    if is_seen {
        subject.started = Some(started);
        subject.open = Some(seen);
    }
    provider_suite::run_all(subject).await;
}

/// Moves the clock whenever somebody sleeps, until `work` is done.
async fn driven<T>(clock: &ManualClock, step: Duration, work: impl Future<Output = T>) -> T {
    let drive = async {
        loop {
            clock.wait_for_sleepers(1).await;
            clock.advance(step);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        () = drive => unreachable!("driving never ends"),
    }
}
