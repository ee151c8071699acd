//! The driver against a server on loopback, and the pipeline on bytes cut anywhere.

mod dialects;
mod hostile;
mod models;
mod server;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use secrecy::SecretString;

use self::server::{Answer, Server, Then};
use super::body::sse_events;
use super::{HttpOptions, HttpProvider};
use crate::env::UnixMillis;
use crate::llm::dialect::{AnswerSetup, Decoder as _, SseEvent};
use crate::llm::openai_chat::ChatDecoder;
use crate::llm::{
    Billing, LlmError, LlmErrorKind, LlmEvent, LlmProvider as _, LlmRequest, Model, ToolChoice,
};
use crate::model::{AssistantMessage, Message, MessageOrigin, Usage};
use crate::testing::ManualClock;
use crate::testing::provider_suite::check_grammar;

const KEY: &str = "very-secret-0123456789";

const BODY: &str = "\u{feff}: hello\r\n\r\ndata: {\"id\":\"r\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\r\n\r\ndata: {\"choices\":[{\"delta\":{\"reasoning\":\"h\u{e9}\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"\u{1f600} \\u00e9\"}}]}\n\n: ping\ndata: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":\"}}]}}]}\n\ndata: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"1}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}";

fn request(text: &str) -> LlmRequest {
    LlmRequest {
        model: Arc::new(Model::free("m", "openai")),
        system: "".into(),
        messages: vec![Arc::new(Message::user(text, MessageOrigin::Task))],
        tools: Arc::new([]),
        tool_choice: ToolChoice::Auto,
        max_output_tokens: 100,
        temperature: None,
        response_schema: None,
        idempotency_key: "step-1".into(),
        options: crate::llm::RequestOptions::default(),
    }
}

fn quick() -> HttpOptions {
    let limit = Duration::from_millis(100);
    HttpOptions {
        response_head_timeout: limit,
        idle_timeout: limit,
        ..HttpOptions::default()
    }
}

fn provider(url: &str, options: HttpOptions) -> HttpProvider {
    let clock = ManualClock::new(UnixMillis::from_rfc3339("2015-10-21T07:27:30Z").unwrap());
    let builder = HttpProvider::openai_chat(url)
        .http_options(options)
        .with_clock(Arc::new(clock));
    builder.api_key(SecretString::from(KEY)).build().unwrap()
}

/// The events of one call; the grammar holds and the key shows nowhere.
async fn ask(url: &str, options: HttpOptions) -> Vec<LlmEvent> {
    let provider = provider(url, options);
    let events: Vec<_> = provider.stream(request("Hi")).collect().await;
    assert_eq!(check_grammar(&events), Ok(()), "{events:#?}");
    assert!(!format!("{events:?} {provider:?}").contains(KEY));
    events
}

async fn failure_with(answer: Answer, options: HttpOptions) -> (LlmError, AssistantMessage) {
    let server = Server::start(move |_| answer.clone()).await;
    match ask(&server.url, options).await.pop() {
        Some(LlmEvent::Error { error, message }) => (error, message),
        other => panic!("{other:?}"),
    }
}

async fn failure(answer: Answer) -> LlmError {
    failure_with(answer, HttpOptions::default()).await.0
}

fn done(events: &[LlmEvent]) -> &AssistantMessage {
    match events.last() {
        Some(LlmEvent::Done { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

/// The pipeline without a socket.
fn decode(pieces: Vec<Bytes>, line_bytes_max: usize) -> Vec<LlmEvent> {
    let body = stream::iter(pieces.into_iter().map(Ok));
    let model = Arc::new(Model::free("m", "p"));
    let mut decoder = ChatDecoder::new(AnswerSetup {
        api: crate::llm::api::OPENAI_CHAT,
        provider: "p".into(),
        model,
        input_bound: 1,
        output_limit: 0,
    });
    let mut out = Vec::new();
    let feed = async {
        let mut events = std::pin::pin!(sse_events(body, line_bytes_max));
        while let Some(event) = events.next().await {
            match event {
                Ok((name, data)) => {
                    let (name, data) = (&*name, &*data);
                    decoder.feed(SseEvent { name, data }, &mut out);
                }
                Err(error) => decoder.fail(error, &mut out),
            }
        }
        decoder.eof(&mut out);
    };
    feed.now_or_never().unwrap();
    out
}

fn cut(body: &[u8], size: usize) -> Vec<Bytes> {
    body.chunks(size).map(Bytes::copy_from_slice).collect()
}

#[test]
fn the_same_bytes_cut_anywhere_give_the_same_events() {
    let body = BODY.as_bytes();
    let whole = decode(cut(body, body.len()), 1 << 20);
    assert_eq!(check_grammar(&whole), Ok(()));
    assert_eq!(done(&whole).tool_calls().count(), 1);
    assert_eq!(decode(cut(body, 1), 1 << 20), whole);
    for at in 1..body.len() {
        let (a, b) = body.split_at(at);
        let pieces = vec![Bytes::copy_from_slice(a), Bytes::copy_from_slice(b)];
        assert_eq!(decode(pieces, 1 << 20), whole, "cut at {at}");
    }
}

#[test]
fn a_line_that_is_too_long_is_an_error() {
    let events = decode(cut(BODY.as_bytes(), 7), 60);
    let Some(LlmEvent::Error { error, .. }) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (error.kind, &error.billing),
        (LlmErrorKind::Decode, &Billing::Unknown)
    );
}

fn chunk() -> impl Strategy<Value = String> {
    let delta = prop_oneof![
        "[a-z \n\u{e9}]{0,5}".prop_map(|text| serde_json::json!({"content": text})),
        "[a-z]{0,3}".prop_map(|text| serde_json::json!({"reasoning": text, "content": null})),
        (proptest::option::of(0..3_u64), "[ab]?", "[fg]?", r#"(\{\}|\{"x":|1\}|\[|)"#).prop_map(
            |(index, id, name, arguments)| {
                let function = serde_json::json!({"name": name, "arguments": arguments});
                serde_json::json!({"tool_calls": [{"index": index, "id": id, "function": function}]})
            }
        ),
    ];
    let finish = prop_oneof![
        8 => Just(""), 1 => Just("stop"), 1 => Just("tool_calls"), 1 => Just("length"), 1 => Just("odd")
    ];
    let whole = (delta, finish).prop_map(|(delta, finish)| {
        serde_json::json!({"choices": [{"delta": delta, "finish_reason": finish}]}).to_string()
    });
    prop_oneof![
        20 => whole,
        1 => Just(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#.to_owned()),
        1 => Just(r#"{"error":{"message":"boom"}}"#.to_owned()),
        1 => Just("[DONE]".to_owned()),
        1 => "[ -~]{0,12}",
    ]
}

proptest! {
    #[test]
    fn whatever_comes_the_events_obey_the_grammar(
        chunks in proptest::collection::vec(chunk(), 0..12), size in 1..40_usize,
    ) {
        let body: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
        let events = decode(cut(body.as_bytes(), size), 1 << 20);
        prop_assert_eq!(check_grammar(&events), Ok(()), "{:#?}", events);
    }
}

#[tokio::test]
async fn a_request_goes_where_it_should_with_the_key() {
    let server = Server::start(|_| Answer::sse(BODY, 1)).await;
    let events = ask(&server.url, HttpOptions::default()).await;
    assert_eq!(
        done(&events).usage,
        Usage {
            input: 9,
            output: 2,
            ..Usage::default()
        }
    );
    let requests = server.requests.lock().unwrap().clone();
    let [sent] = requests.as_slice() else {
        panic!("{requests:?}")
    };
    assert!(
        sent.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
        "{sent}"
    );
    for line in [
        &format!("authorization: Bearer {KEY}"),
        "idempotency-key: step-1",
    ] {
        assert!(sent.contains(line), "{sent}");
    }
}

#[tokio::test]
async fn a_refusal_has_its_kind_costs_nothing_and_says_when_to_come_back() {
    use LlmErrorKind as Kind;
    for (head, body, kind, wait) in [
        (
            "429 Slow\r\nretry-after: 7",
            "{}",
            Kind::RateLimited,
            Some(7_000),
        ),
        (
            "429 Slow\r\nretry-after: Wed, 21 Oct 2015 07:28:00 GMT",
            "{}",
            Kind::RateLimited,
            Some(30_000),
        ),
        (
            "529 Busy\r\nretry-after-ms: 250",
            "{}",
            Kind::Overloaded,
            Some(250),
        ),
        (
            "500 No\r\nx-should-retry: false",
            "{}",
            Kind::InvalidRequest,
            None,
        ),
        (
            "401 No\r\ncontent-type: text/plain",
            "wrong key very-secret-0123456789",
            Kind::Auth,
            None,
        ),
        (
            "307 Away\r\nlocation: http://127.0.0.1:1/",
            "",
            Kind::InvalidRequest,
            None,
        ),
    ] {
        let error = failure(Answer::new(head, body)).await;
        assert_eq!((error.kind, error.retry_after_ms), (kind, wait), "{head}");
        assert_eq!(error.billing, Billing::None, "{head}");
    }
}

#[tokio::test]
async fn an_error_body_without_end_is_read_in_part() {
    let answer = Answer::new("400 No", "e".repeat(200_000)).then(Then::Hold);
    let error = failure(answer).await;
    assert!(error.message.chars().count() < 4_100);
}

#[tokio::test]
async fn a_stream_that_breaks_is_an_error_that_may_have_cost() {
    let half = &BODY[..BODY.find("data: {\"choices\":[],").unwrap() - 80];
    let mut torn = Answer::open_sse(half, 50);
    torn.then = Then::Close;
    for (answer, kind) in [
        (Answer::sse(half, 50), LlmErrorKind::StreamCut),
        (torn, LlmErrorKind::StreamCut),
        (Answer::open_sse(half, 50), LlmErrorKind::Timeout),
        (
            Answer::sse("garbage\n\ndata: {{\n\n", 5),
            LlmErrorKind::Decode,
        ),
        (Answer::sse(b"data: \xff\n\n", 5), LlmErrorKind::Decode),
        (
            Answer::sse("event: error\ndata: {\"error\":\"boom\"}\n\n", 5),
            LlmErrorKind::Server,
        ),
        (
            Answer::new(
                "200 OK\r\ncontent-type: application/json",
                "{\"error\":\"boom\"}",
            ),
            LlmErrorKind::Server,
        ),
        (
            Answer::new(
                "200 OK\r\ncontent-type: application/json",
                "{\"choices\":[]}",
            ),
            LlmErrorKind::Decode,
        ),
        (
            Answer {
                bytes: Vec::new(),
                then: Then::Hold,
            },
            LlmErrorKind::Timeout,
        ),
        (
            Answer {
                bytes: Vec::new(),
                then: Then::Close,
            },
            LlmErrorKind::Network,
        ),
    ] {
        let shown = format!("{answer:?}");
        let (error, message) = failure_with(answer, quick()).await;
        assert_eq!(
            (error.kind, &error.billing),
            (kind, &Billing::Unknown),
            "{error} {shown}"
        );
        assert_eq!(message.usage, Usage::default());
    }
}

#[tokio::test]
async fn a_cut_after_the_usage_costs_what_was_told() {
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n";
    let (error, _) = failure_with(Answer::open_sse(usage, 50), quick()).await;
    let known = Usage {
        input: 9,
        output: 2,
        ..Usage::default()
    };
    assert_eq!(
        (error.kind, error.billing),
        (LlmErrorKind::Timeout, Billing::Known(known))
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_costs_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let events = ask(&url, HttpOptions::default()).await;
    let [LlmEvent::Error { error, .. }] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (error.kind, &error.billing),
        (LlmErrorKind::Network, &Billing::None)
    );
}

#[tokio::test]
async fn the_models_are_listed() {
    let list = r#"{"data":[{"id":"a","meta":{"n_ctx":2048}}]}"#;
    let server = Server::start(move |_| Answer::new("200 OK", list)).await;
    let models = provider(&server.url, HttpOptions::default())
        .models()
        .await
        .unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!((&*models[0].id, models[0].context_window), ("a", 2_048));
    let error = provider("http://127.0.0.1:1", quick())
        .models()
        .await
        .unwrap_err();
    assert_eq!(error.billing, Billing::None);
}
