//! Servers at their worst: every call ends once, in the right words, with what came, and counted
//! once.

use super::super::body::{events_only, never_idle};
use super::super::driver::{client, send_error};
use pretty_assertions::assert_eq;

use super::*;
use crate::llm::RequestOptions;
use crate::model::StopReason;
use crate::model::message::TOKENS_MAX;

/// Ways a server can refuse: head, body, kind, wait. All cost nothing.
#[rustfmt::skip]
const REFUSALS: &[(&str, &str, LlmErrorKind, Option<u64>)] = &[
    ("400 No", r#"{"error":{"message":"bad"}}"#, LlmErrorKind::InvalidRequest, None),
    ("400 No", r#"{"error":{"message":"prompt is too long: 9 > 8"}}"#, LlmErrorKind::ContextOverflow, None),
    ("401 No", "", LlmErrorKind::Auth, None),
    ("402 Pay", r#"{"error":{"message":"Insufficient credits"}}"#, LlmErrorKind::Quota, None),
    ("403 No", "<html><body>Forbidden</body></html>", LlmErrorKind::Auth, None),
    ("404 No", r#"{"detail":"Not Found"}"#, LlmErrorKind::NotFound, None),
    ("408 Late", "", LlmErrorKind::Server, None),
    ("409 Again", "", LlmErrorKind::Server, None),
    ("413 Big", "<html>413 Request Entity Too Large</html>", LlmErrorKind::ContextOverflow, None),
    ("418 Tea", "short and stout", LlmErrorKind::InvalidRequest, None),
    ("422 No", r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#, LlmErrorKind::InvalidRequest, None),
    ("429 Slow", "", LlmErrorKind::RateLimited, None),
    ("429 Slow\r\nretry-after: 9", "", LlmErrorKind::RateLimited, Some(9_000)),
    ("429 Slow\r\nretry-after: never", "", LlmErrorKind::RateLimited, None),
    ("429 Slow", r#"{"error":{"message":"try again in 1.5s"}}"#, LlmErrorKind::RateLimited, Some(1_500)),
    ("429 Slow\r\nretry-after: 9", r#"{"error":{"code":"insufficient_quota"}}"#, LlmErrorKind::Quota, Some(9_000)),
    ("429 Slow", r#"{"error":{"details":{"error_code":"enforced_spend_limit_reached"}}}"#, LlmErrorKind::Quota, None),
    ("429 Slow\r\nx-should-retry: false", "", LlmErrorKind::InvalidRequest, None),
    ("500 No", "\u{0}\u{1}", LlmErrorKind::Server, None),
    ("502 No", "<!DOCTYPE html><title>Bad Gateway</title>", LlmErrorKind::Server, None),
    ("503 Busy", r#"{"error":{"message":"Loading model"}}"#, LlmErrorKind::Overloaded, None),
    ("504 Late", "", LlmErrorKind::Server, None),
    ("529 Busy", r#"{"type":"error","error":{"type":"overloaded_error"}}"#, LlmErrorKind::Overloaded, None),
];

/// The answer that the last words of a request choose, so that one server serves a whole table.
fn chosen(request: &str) -> usize {
    let (_, rest) = request.split_once("case-").unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

async fn ask_case(provider: &HttpProvider, case: usize) -> Vec<LlmEvent> {
    let stream = provider.stream(request(&format!("case-{case}.")));
    let events: Vec<_> = stream.collect().await;
    assert_eq!(check_grammar(&events), Ok(()), "case {case}: {events:#?}");
    assert_counted_once(&events);
    events
}

/// One terminal event says what was used, and the error says the same as the message.
fn assert_counted_once(events: &[LlmEvent]) {
    if let Some(LlmEvent::Error { error, message }) = events.last() {
        match error.billing {
            Billing::Known(usage) | Billing::Reported { usage, .. } => {
                assert_eq!(usage, message.usage);
            }
            Billing::None | Billing::Unknown => assert_eq!(message.usage, Usage::default()),
        }
        let began = matches!(events.first(), Some(LlmEvent::Start { .. }));
        assert!(!began || error.billing != Billing::None, "{error:?}");
    }
}

#[tokio::test]
async fn every_refusal_is_told_by_kind_and_costs_nothing_if_it_cannot() {
    let server = Server::start(|request| {
        let (head, body, ..) = REFUSALS[chosen(request)];
        Answer::new(head, body)
    })
    .await;
    let provider = provider(&server.url, HttpOptions::default());
    for (case, (head, body, kind, wait)) in REFUSALS.iter().enumerate() {
        let events = ask_case(&provider, case).await;
        let [LlmEvent::Error { error, .. }] = events.as_slice() else {
            panic!("{head} {body}: {events:?}")
        };
        let told = (error.kind, error.retry_after_ms, &error.billing);
        let status = &head[..3];
        // A gateway that gave up says nothing of the server behind it.
        let billing = match status {
            "408" | "502" | "504" => Billing::Unknown,
            _ => Billing::None,
        };
        assert_eq!(told, (*kind, *wait, &billing), "{head} {body}");
        assert!(error.message.contains(status), "{error}");
        assert!(!error.message.contains('<'), "{error}");
    }
}

const HI: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n";
const STOP: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const SSE: &str = "200 OK\r\ncontent-type: text/event-stream";

const PLAIN: &str = "200 OK\r\ncontent-type: text/plain";
const HTML: &str = "200 OK\r\ncontent-type: text/html; charset=utf-8";

/// How an answer with a good status ends.
#[derive(Debug, PartialEq)]
enum End {
    Done(StopReason),
    Failed(LlmErrorKind),
}

/// An odd answer: head, body, end, the text that is kept.
type Odd = (&'static str, Vec<u8>, End, &'static str);

fn oddities() -> Vec<Odd> {
    [whole(), broken()].into_iter().flatten().collect()
}

/// Answers that end as they should, however odd.
#[rustfmt::skip]
fn whole() -> Vec<Odd> {
    use End::Done;
    let stop = Done(StopReason::Stop);
    let body = |pieces: &[&str]| pieces.concat().into_bytes();
    let crlf = body(&[HI, STOP]);
    let crlf = String::from_utf8(crlf).unwrap().replace('\n', "\r\n");
    let both_marks = "\u{feff}\u{feff}";
    let long = format!(": {}\n\n", "x".repeat(1 << 20));
    let call = |index: &str, id: &str, name: &str| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{{index}{id}\"function\":{{\"name\":\"{name}\",\"arguments\":\"{{}}\"}}}}]}}}}]}}\n\n"
        )
    };
    let twins = [
        call("\"index\":0,", "\"id\":\"a\",", "f"),
        call("\"index\":0,", "\"id\":\"b\",", "f"),
        call("\"index\":1,", "\"id\":\"a\",", "g"),
        call("", "", "h"),
    ]
    .concat();
    vec![
        (PLAIN, body(&[HI, STOP]), Done(StopReason::Stop), "Hi"),
        ("200 OK", body(&[HI, STOP]), Done(StopReason::Stop), "Hi"),
        (SSE, crlf.into_bytes(), Done(StopReason::Stop), "Hi"),
        (
            SSE,
            body(&[both_marks, HI, STOP]),
            Done(StopReason::Stop),
            "Hi",
        ),
        (
            SSE,
            body(&["\n\n\r\n", &long, HI, ": ping\n\n", STOP]),
            Done(StopReason::Stop),
            "Hi",
        ),
        // Unknown events, fields and chunks.
        (
            SSE,
            body(&[
                "event: odd\ndata: {\"a\":1}\n\nid: 7\nretry: 1\nwhat: ever\n\n",
                HI,
                STOP,
            ]),
            stop,
            "Hi",
        ),
        // The second finish reason is another try to say the same.
        (
            SSE,
            body(&[HI, STOP, STOP, "data: [DONE]\n\ndata: [DONE]\n\n"]),
            Done(StopReason::Stop),
            "Hi",
        ),
        (
            SSE,
            body(&[
                HI,
                "data: {\"choices\":[{\"finish_reason\":\"length\"}]}\n\n",
            ]),
            Done(StopReason::Length),
            "Hi",
        ),
        (
            SSE,
            body(&[HI, &twins, STOP]),
            Done(StopReason::ToolUse),
            "Hi",
        ),
    ]
}

/// Answers that do not end, or are none.
#[rustfmt::skip]
fn broken() -> Vec<Odd> {
    use End::Failed;
    let body = |pieces: &[&str]| pieces.concat().into_bytes();
    let page = "<html><title>Sign in</title></html>";
    let error = "{\"error\":{\"message\":\"overloaded, try later\"}}";
    vec![
        (SSE, body(&[HI]), Failed(LlmErrorKind::StreamCut), "Hi"),
        (SSE, Vec::new(), Failed(LlmErrorKind::StreamCut), ""),
        (
            SSE,
            body(&[HI, "data: {\"choices\":[{\"delta\":{\"con"]),
            Failed(LlmErrorKind::StreamCut),
            "Hi",
        ),
        (
            SSE,
            body(&[HI, "data: {]}\n\n"]),
            Failed(LlmErrorKind::Decode),
            "Hi",
        ),
        (
            SSE,
            [HI.as_bytes(), b"data: \xff\xfe\n\n"].concat(),
            Failed(LlmErrorKind::Decode),
            "Hi",
        ),
        (
            SSE,
            body(&[
                HI,
                "event: error\ndata: {\"error\":{\"message\":\"boom\"}}\n\n",
            ]),
            Failed(LlmErrorKind::Server),
            "Hi",
        ),
        (
            SSE,
            body(&[
                HI,
                "data: {\"error\":{\"code\":429,\"message\":\"rate limit\"}}\n\n",
            ]),
            Failed(LlmErrorKind::RateLimited),
            "Hi",
        ),
        (
            SSE,
            body(&[
                HI,
                "data: {\"choices\":[{\"finish_reason\":\"content_filter\"}]}\n\n",
            ]),
            Failed(LlmErrorKind::ContentFilter),
            "Hi",
        ),
        // Not a stream at all.
        (HTML, body(&[page]), Failed(LlmErrorKind::Decode), ""),
        (SSE, body(&["\n ", page]), Failed(LlmErrorKind::Decode), ""),
        (PLAIN, body(&[error]), Failed(LlmErrorKind::Overloaded), ""),
        (
            SSE,
            body(&["[", error, "]"]),
            Failed(LlmErrorKind::Overloaded),
            "",
        ),
        (
            SSE,
            body(&["{\"choices\":[]}"]),
            Failed(LlmErrorKind::Decode),
            "",
        ),
    ]
}

#[tokio::test]
async fn every_odd_answer_ends_once_and_keeps_what_came() {
    let server = Server::start(|request| {
        let (head, body, ..) = &oddities()[chosen(request)];
        Answer::new(head, body)
    })
    .await;
    let provider = provider(&server.url, HttpOptions::default());
    for (case, (head, body, end, text)) in oddities().into_iter().enumerate() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        let events = ask_case(&provider, case).await;
        let (was, message) = match events.last() {
            Some(LlmEvent::Done { reason, message }) => (End::Done(*reason), message),
            Some(LlmEvent::Error { error, message }) => {
                assert_ne!(error.billing, Billing::None, "{head} {shown}");
                (End::Failed(error.kind), message)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (was, &*message.text()),
            (end, text),
            "{head} {shown} {events:#?}"
        );
        let ids: std::collections::HashSet<_> = message.tool_calls().map(|c| &c.id).collect();
        assert_eq!(ids.len(), message.tool_calls().count(), "{message:?}");
    }
}

#[tokio::test]
async fn a_stream_cut_after_any_byte_ends_once_with_what_came() {
    let body = [HI, STOP].concat();
    let server = Server::start(move |request| {
        let at = chosen(request);
        // Cut in the middle of the transfer, so the client sees a broken connection.
        let mut answer = Answer::open_sse(&body[..at], 1_000);
        answer.then = Then::Close;
        answer
    })
    .await;
    let provider = provider(&server.url, HttpOptions::default());
    let finish = HI.len() + STOP.len();
    for at in 0..=finish {
        let events = ask_case(&provider, at).await;
        let Some(LlmEvent::Error { error, message }) = events.last() else {
            panic!("cut at {at}: {events:?}")
        };
        assert_eq!(error.kind, LlmErrorKind::StreamCut, "cut at {at}");
        assert_ne!(error.billing, Billing::None, "cut at {at}");
        let text = if at >= HI.len() { "Hi" } else { "" };
        assert_eq!(message.text(), text, "cut at {at}");
    }
}

#[tokio::test]
async fn a_server_that_closes_its_kept_connections_fails_no_later_call() {
    let server = Server::start(|_| Answer::sse(BODY, 50)).await;
    let provider = provider(&server.url, HttpOptions::default());
    for _ in 0..5 {
        let events: Vec<_> = provider.stream(request("Hi")).collect().await;
        assert_eq!(done(&events).tool_calls().count(), 1);
    }
    assert_eq!(
        server.requests.lock().unwrap().len(),
        5,
        "one request per call"
    );
}

#[tokio::test]
async fn a_server_that_says_not_to_retry_is_believed_and_quoted() {
    const NO_RETRY: &str = "the server says not to retry";
    let body = r#"{"error":{"message":"slow down"}}"#;
    for (head, kind, is_quoted) in [
        (
            "429 Slow\r\nx-should-retry: false",
            LlmErrorKind::InvalidRequest,
            true,
        ),
        (
            "503 Busy\r\nx-should-retry: false",
            LlmErrorKind::InvalidRequest,
            true,
        ),
        (
            "429 Slow\r\nx-should-retry: true",
            LlmErrorKind::RateLimited,
            false,
        ),
        (
            "402 Pay\r\nx-should-retry: false",
            LlmErrorKind::Quota,
            false,
        ),
        (
            "400 No\r\nx-should-retry: false",
            LlmErrorKind::InvalidRequest,
            false,
        ),
    ] {
        let error = failure(Answer::new(head, body)).await;
        assert_eq!(error.kind, kind, "{head}");
        assert_eq!(error.billing, Billing::None, "{head}");
        assert!(error.message.contains("slow down"), "{head} {error}");
        assert_eq!(
            error.message.ends_with(NO_RETRY),
            is_quoted,
            "{head} {error}"
        );
    }
}

/// Ollama's own interface, as it streams.
const OLLAMA_NATIVE: &str = include_str!("../../openai_chat/goldens/ollama_native.ndjson");

#[tokio::test]
async fn lines_of_json_are_an_error_that_says_where_to_go() {
    const WHERE: &str = "use its OpenAI-compatible interface, whose base URL ends in `/v1`";
    for kind in [
        "application/x-ndjson",
        "application/x-ndjson; charset=utf-8",
        "application/ndjson",
        "application/json",
        "text/event-stream",
        "text/plain",
    ] {
        let head = format!("200 OK\r\ncontent-type: {kind}");
        let error = failure(Answer::new(&head, OLLAMA_NATIVE)).await;
        assert_eq!(error.kind, LlmErrorKind::Decode, "{kind}");
        assert_eq!(error.billing, Billing::Unknown, "{kind}");
        assert!(error.message.contains(WHERE), "{kind}: {error}");
    }
}

#[tokio::test]
async fn of_lines_of_json_only_the_first_is_waited_for_and_it_may_be_an_error() {
    let head = "200 OK\r\ncontent-type: application/x-ndjson";
    let (first, _) = OLLAMA_NATIVE.split_at(OLLAMA_NATIVE.find('\n').unwrap() + 1);
    let silent = Answer::new(head, first).then(Then::Hold);
    assert_eq!(failure(silent).await.kind, LlmErrorKind::Decode);
    let line = "{\"error\":\"model is overloaded\"}\n";
    let error = failure(Answer::new(head, line)).await;
    assert_eq!(
        (error.kind, error.billing),
        (LlmErrorKind::Overloaded, Billing::Unknown)
    );
    assert!(
        error.message.contains("model is overloaded"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn huge_counts_overflow_nothing() {
    let max = u64::MAX;
    let usage = format!(
        "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{max},\"completion_tokens\":{max},\"total_tokens\":{max}}}}}\n\n"
    );
    let body = [HI, STOP, &usage].concat();
    let server = Server::start(move |_| Answer::sse(&body, 90)).await;
    let mut model = Model::priced(
        "m",
        "openai",
        crate::model::NanoUsd::from_usd(1_000),
        crate::model::NanoUsd::from_usd(1_000),
    );
    model.context_window = 0;
    let mut request = request("Hi");
    request.model = Arc::new(model);
    request.options = RequestOptions::default();
    let provider = provider(&server.url, HttpOptions::default());
    let message = provider.stream(request).finish().await.unwrap();
    let usage = message.usage.clamped();
    assert_eq!((usage.input, usage.output), (TOKENS_MAX, TOKENS_MAX));
    assert!(message.cost > crate::model::NanoUsd::ZERO);
}

fn pieces(
    gap: Duration,
    body: &'static str,
    then: Option<()>,
) -> impl futures_util::Stream<Item = Result<Bytes, LlmError>> + Send + 'static {
    let drip = stream::iter(body.bytes()).then(move |byte| async move {
        tokio::time::sleep(gap).await;
        Ok(Bytes::copy_from_slice(&[byte]))
    });
    let silence = stream::pending();
    drip.chain(match then {
        None => silence.left_stream(),
        Some(()) => stream::empty().right_stream(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_slow_drip_is_life_and_silence_is_an_error() {
    let idle = Duration::from_secs(300);
    let just_in_time = idle.checked_sub(Duration::from_millis(1)).unwrap();
    let slow = never_idle(pieces(just_in_time, BODY, Some(())), idle);
    let bytes: Vec<_> = slow.collect().await;
    assert_eq!(bytes.len(), BODY.len());
    assert!(bytes.iter().all(Result::is_ok));
    let silent = never_idle(pieces(just_in_time, "data", None), idle);
    let bytes: Vec<_> = silent.collect().await;
    let Some(Err(error)) = bytes.last() else {
        panic!("{bytes:?}")
    };
    assert_eq!((bytes.len(), error.kind), (5, LlmErrorKind::Timeout));
    assert_eq!(error.billing, Billing::Unknown);
    assert!(error.message.contains("silent for 300 s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_drips_is_still_a_page_and_is_read_in_part() {
    let page = "\u{feff} <html>Sign in</html>";
    let one = events_only(pieces(Duration::from_secs(1), page, Some(())));
    // A mark that comes in pieces is not looked for.
    let one: Vec<_> = one.collect().await;
    assert!(one.len() > 1);
    let whole = stream::iter([Ok(Bytes::from(page))]);
    let endless = whole.chain(stream::repeat_with(|| Ok(Bytes::from(vec![b'x'; 9_000]))));
    let mut told = std::pin::pin!(events_only(endless));
    let error = told.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, LlmErrorKind::Decode);
    assert!(
        error.message.contains("is the base URL right? Sign in"),
        "{error}"
    );
}

#[test]
fn very_many_tiny_lines_and_one_very_long_one_are_read() {
    let many = "\n".repeat(200_000);
    let text = "y".repeat(7 << 20);
    let long = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let body = [&many, &long, STOP].concat();
    let events = decode(cut(body.as_bytes(), 300_000), 8 << 20);
    assert_eq!(done(&events).text().len(), text.len());
    let line = "x".repeat(9 << 20);
    let events = decode(cut(line.as_bytes(), 300_000), 8 << 20);
    let [LlmEvent::Error { error, .. }] = events.as_slice() else {
        panic!("{} events", events.len())
    };
    assert_eq!(error.kind, LlmErrorKind::Decode);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_finishes_the_handshake_costs_nothing_and_is_given_up_in_time() {
    // The machine takes the connection, and nobody ever says a word of TLS.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let options = HttpOptions {
        connect_timeout: Duration::from_secs(7),
        ..HttpOptions::default()
    };
    // Without the machine's certificates: it may have none.
    let client = client(&url.parse().unwrap(), &options).tls_certs_only([]);
    let began = tokio::time::Instant::now();
    let sent = client.build().unwrap().get(url).send().await;
    let waited = began.elapsed();
    let error = send_error(sent.unwrap_err());
    let told = (error.kind, &error.billing);
    assert_eq!(told, (LlmErrorKind::Timeout, &Billing::None), "{error}");
    let limit = options.connect_timeout;
    let slack = Duration::from_millis(10);
    assert!(waited >= limit && waited < limit + slack, "{waited:?}");
}
