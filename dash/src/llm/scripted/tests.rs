use futures_util::{FutureExt as _, StreamExt as _};
use pretty_assertions::assert_eq;
use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::env::UnixMillis;
use crate::llm::{Billing, LlmErrorKind, Model, ToolChoice};
use crate::model::{AssistantMessage, MessageOrigin};
use crate::testing::ManualClock;
use crate::testing::provider_suite::{self, ProviderUnderTest};

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
        idempotency_key: String::new(),
        options: crate::llm::RequestOptions::default(),
    }
}

fn said(request: &LlmRequest) -> String {
    request
        .messages
        .first()
        .map_or_else(String::new, |message| match &**message {
            Message::User(user) => match user.content.first() {
                Some(ContentBlock::Text { text }) => text.clone(),
                _ => String::new(),
            },
            Message::Assistant(_) | Message::ToolResult(_) => String::new(),
        })
}

fn reply(words: &str) -> ScriptedReply {
    let failed = || LlmError::billed_unknown(LlmErrorKind::Overloaded, "busy");
    match words {
        "text" => ScriptedReply::text("one two  three\nfour"),
        "all" => ScriptedReply::new()
            .add_thinking("let me see")
            .add_text("looking it up")
            .add_tool_call("get_weather", json!({"city": "Paris", "days": [1, 2, 3]}))
            .add_tool_call("now", json!({})),
        "fail" => ScriptedReply::failure(failed()),
        "midway" => ScriptedReply::text("one two three four").failing_midway(failed()),
        "endless" => ScriptedReply::text("one").hanging(),
        "silent" => ScriptedReply::new().hanging(),
        "long" => ScriptedReply::text("é".repeat(500)),
        "long call" => ScriptedReply::tool_call("write", json!({"text": "x".repeat(500)})),
        _ => ScriptedReply::new(),
    }
}

fn scripted() -> ScriptedLlm {
    ScriptedLlm::new("scripted", |request| reply(&said(request)))
}

async fn finish(words: &str) -> Result<AssistantMessage, LlmError> {
    scripted().stream(request(words)).finish().await
}

#[tokio::test]
async fn the_provider_suite_passes() {
    let (count, started) = watch::channel(0);
    let provider = ScriptedLlm::new("scripted", move |request| {
        count.send_modify(|n| *n += 1);
        reply(&said(request))
    });
    let words = [
        "text",
        "all",
        "fail",
        "midway",
        "long",
        "long call",
        "empty",
    ];
    let requests = words.map(request).to_vec();
    let provider = Arc::new(provider);
    let mut subject = ProviderUnderTest::new(provider, requests, request("endless"));
    subject.started = Some(started);
    provider_suite::run_all(subject).await;
}

#[tokio::test]
async fn usage_is_a_quarter_of_the_bytes_rounded_up() {
    let message = finish("text").await.unwrap();
    // "Be brief." and "text" are 13 bytes, the reply 19.
    assert_eq!(
        message.usage,
        Usage {
            input: 4,
            output: 5,
            ..Usage::default()
        }
    );
    assert_eq!(message.text(), "one two  three\nfour");
}

#[tokio::test]
async fn tool_calls_have_ids_that_repeat_in_a_rerun_and_nowhere_else() {
    let first = finish("all").await.unwrap();
    assert_eq!(first.stop_reason, StopReason::ToolUse);
    assert_eq!(first, finish("all").await.unwrap());
    let mut next = request("all");
    next.messages
        .push(Arc::new(Message::Assistant(first.clone())));
    let second = scripted().stream(next).finish().await.unwrap();
    let ids = |message: &AssistantMessage| {
        message
            .tool_calls()
            .map(|call| call.id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&first), ["call_0_0", "call_0_1"]);
    assert_eq!(ids(&second), ["call_1_0", "call_1_1"]);
}

#[tokio::test]
async fn an_answer_over_the_limit_is_cut() {
    for words in ["long", "long call"] {
        let message = finish(words).await.unwrap();
        assert_eq!(
            (message.stop_reason, message.usage.output),
            (StopReason::Length, 100)
        );
        assert!(
            message
                .tool_calls()
                .all(|call| call.arguments_error.is_some())
        );
    }
}

#[tokio::test]
async fn a_failure_midway_keeps_what_was_said() {
    let events: Vec<_> = scripted().stream(request("midway")).collect().await;
    let Some(LlmEvent::Error { error, message }) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (error.kind, &error.billing),
        (LlmErrorKind::Overloaded, &Billing::Unknown)
    );
    assert_eq!(message.text(), "one two ");
}

#[tokio::test(start_paused = true)]
async fn delays_run_on_the_clock_and_silence_lasts() {
    let ms = Duration::from_millis;
    let llm = ScriptedLlm::new("scripted", move |_| {
        ScriptedReply::text("one two")
            .first_delay(ms(7))
            .delta_delay(ms(5))
    });
    let before = tokio::time::Instant::now();
    assert_eq!(
        llm.stream(request("")).finish().await.unwrap().text(),
        "one two"
    );
    assert_eq!(before.elapsed(), ms(17));
    assert_eq!(
        scripted().stream(request("silent")).next().now_or_never(),
        None
    );

    let clock = ManualClock::new(UnixMillis(0));
    let mut call = llm.with_clock(Arc::new(clock.clone())).stream(request(""));
    assert_eq!(call.next().now_or_never(), None);
    assert_eq!(clock.slept(), [ms(7)]);
}
