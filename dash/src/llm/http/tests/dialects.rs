//! Every dialect over a real connection to servers at their worst: each call ends once, in the right
//! words, with what came.

use pretty_assertions::assert_eq;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::HttpProviderBuilder;
use super::server::read_request;
use super::*;
use crate::model::StopReason;
use crate::testing::provider_suite::{self, ProviderUnderTest};

/// A dialect and how its servers speak.
struct Speaker {
    name: &'static str,
    builder: fn(&str) -> HttpProviderBuilder,
    /// Events before the first text.
    begin: &'static [&'static str],
    /// An event that adds `TEXT`.
    text: &'static str,
    /// Events after the text, and whether the usage has been told then. The last ends the answer.
    end: &'static [(&'static str, bool)],
    /// An event that ends an answer in its middle.
    error: &'static str,
    /// The body of a refusal with status 529.
    overloaded: &'static str,
    /// A whole answer that is not streamed.
    plain: &'static str,
}

const SPEAKERS: [Speaker; 4] = [
    Speaker {
        name: "openai_chat",
        builder: |url| HttpProvider::openai_chat(url),
        begin: &[],
        text: "data: {\"choices\":[{\"delta\":{\"content\":\"TEXT\"}}]}\n\n",
        end: &[
            (
                "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
                false,
            ),
            (
                "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n",
                true,
            ),
            ("data: [DONE]\n\n", true),
        ],
        error: "data: {\"error\":{\"code\":503,\"message\":\"no room\"}}\n\n",
        overloaded: "{\"error\":{\"message\":\"no room\",\"type\":\"overloaded_error\"}}",
        plain: "{\"object\":\"chat.completion\",\"choices\":[{\"message\":{\"content\":\"Hi\"}}]}",
    },
    Speaker {
        name: "openai_responses",
        builder: |url| HttpProvider::openai_responses(url),
        begin: &[
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"status\":\"in_progress\"}}\n\n",
            "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"output_index\":0,\"item\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[]}}\n\n",
        ],
        text: "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"item_id\":\"m\",\"output_index\":0,\"content_index\":0,\"delta\":\"TEXT\"}\n\n",
        end: &[
            (
                "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"Hi\"}]}}\n\n",
                false,
            ),
            (
                "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"status\":\"completed\",\"usage\":{\"input_tokens\":9,\"output_tokens\":2}}}\n\n",
                true,
            ),
        ],
        error: "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"id\":\"r\",\"status\":\"failed\",\"error\":{\"code\":\"server_is_overloaded\",\"message\":\"no room\"}}}\n\n",
        overloaded: "{\"error\":{\"message\":\"no room\",\"type\":\"service_unavailable_error\",\"code\":\"server_is_overloaded\"}}",
        plain: "{\"object\":\"response\",\"status\":\"completed\",\"output\":[{\"type\":\"message\"}]}",
    },
    Speaker {
        name: "anthropic",
        builder: |url| HttpProvider::anthropic(url),
        begin: &[
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"role\":\"assistant\",\"content\":[],\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n",
            "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
        ],
        text: "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"TEXT\"}}\n\n",
        end: &[
            (
                "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
                false,
            ),
            (
                "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2}}\n\n",
                true,
            ),
            (
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
                true,
            ),
        ],
        error: "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"no room\"}}\n\n",
        overloaded: "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"no room\"}}",
        plain: "{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"Hi\"}]}",
    },
    Speaker {
        name: "gemini",
        builder: |url| HttpProvider::gemini(url),
        begin: &[],
        text: "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"TEXT\"}],\"role\":\"model\"}}]}\n\n",
        end: &[(
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"\"}]},\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":9,\"candidatesTokenCount\":2}}\n\n",
            true,
        )],
        error: "data: {\"error\":{\"code\":503,\"message\":\"no room\",\"status\":\"UNAVAILABLE\"}}\n\n",
        overloaded: "{\"error\":{\"code\":529,\"message\":\"no room\",\"status\":\"UNAVAILABLE\"}}",
        plain: "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hi\"}]},\"finishReason\":\"STOP\"}]}",
    },
];

/// What the usage of every whole answer is.
const USAGE: (u64, u64) = (9, 2);

impl Speaker {
    fn provider(&self, url: &str, options: HttpOptions) -> HttpProvider {
        let key = SecretString::from(KEY);
        let builder = (self.builder)(url).http_options(options).api_key(key);
        builder.build().unwrap()
    }

    fn text(&self, text: &str) -> String {
        self.text.replace("TEXT", text)
    }

    /// The events up to and with the text.
    fn half(&self, text: &str) -> String {
        [&self.begin.concat(), &self.text(text)]
            .map(String::as_str)
            .concat()
    }

    fn end(&self) -> String {
        self.end.iter().map(|(event, _)| *event).collect()
    }

    fn whole(&self) -> String {
        self.half("Hi") + &self.end()
    }

    /// The text that is kept of the first `at` bytes, and whether the usage is known.
    fn after(&self, at: usize) -> (&'static str, bool) {
        let mut bytes = self.half("Hi").len();
        if at < bytes {
            return ("", false);
        }
        let mut is_told = false;
        for (event, tells) in self.end {
            bytes += event.len();
            is_told = if at < bytes { is_told } else { *tells };
        }
        ("Hi", is_told)
    }

    async fn ask(&self, url: &str, options: HttpOptions) -> Vec<LlmEvent> {
        let provider = self.provider(url, options);
        let events: Vec<_> = provider.stream(request("Hi")).collect().await;
        self.checked(events)
    }

    fn checked(&self, events: Vec<LlmEvent>) -> Vec<LlmEvent> {
        assert_eq!(check_grammar(&events), Ok(()), "{}: {events:#?}", self.name);
        assert!(!format!("{events:?}").contains(KEY), "{}", self.name);
        events
    }

    /// How a call to a server ends that answers like this: the error and the text that is kept.
    async fn failure(&self, answer: Answer) -> (LlmError, String) {
        let server = Server::start(move |_| answer.clone()).await;
        ended(self, self.ask(&server.url, HttpOptions::default()).await)
    }
}

fn ended(speaker: &Speaker, mut events: Vec<LlmEvent>) -> (LlmError, String) {
    match events.pop() {
        Some(LlmEvent::Error { error, message }) => {
            assert_eq!(message.stop_reason, StopReason::Error, "{}", speaker.name);
            if let Billing::Known(usage) = error.billing {
                assert_eq!(usage, message.usage, "{}", speaker.name);
            }
            (error, message.text())
        }
        other => panic!("{}: {other:?}", speaker.name),
    }
}

fn billing(is_told: bool) -> Billing {
    if is_told {
        let (input, output) = USAGE;
        Billing::Known(Usage {
            input,
            output,
            ..Usage::default()
        })
    } else {
        Billing::Unknown
    }
}

fn whole_of(speaker: &Speaker, events: &[LlmEvent]) {
    let message = done(events);
    assert_eq!(message.text(), "Hi", "{}", speaker.name);
    assert_eq!(message.stop_reason, StopReason::Stop, "{}", speaker.name);
    let usage = (message.usage.input, message.usage.output);
    assert_eq!(usage, USAGE, "{}", speaker.name);
}

#[tokio::test]
async fn the_provider_suite_passes_in_every_dialect() {
    for speaker in &SPEAKERS {
        let bodies = [
            speaker.whole(),
            speaker.half("Hi"),
            speaker.half("Hi") + speaker.error + &speaker.end(),
        ];
        let server = Server::start(move |request| {
            let [whole, half, broken] = &bodies;
            if request.starts_with("GET ") {
                Answer::new(
                    "200 OK\r\ncontent-type: application/json",
                    r#"{"data":[{"id":"m"}]}"#,
                )
            } else if request.contains("endless") {
                Answer::open_sse(half, 9)
            } else if request.contains("refused") {
                Answer::new(
                    "500 Oops",
                    format!("broken, {KEY} it is: {}", "x".repeat(20_000)),
                )
            } else if request.contains("cut") {
                Answer::open_sse(half, 50).then(Then::Close)
            } else if request.contains("broken") {
                Answer::sse(broken, 40)
            } else {
                Answer::sse(whole, 11)
            }
        })
        .await;
        let provider = Arc::new(speaker.provider(&server.url, HttpOptions::default()));
        let words = ["good", "refused", "cut", "broken"];
        let requests = words.map(request).to_vec();
        let mut subject = ProviderUnderTest::new(provider, requests, request("endless"));
        subject.started = Some(server.started.clone());
        subject.open = Some(server.open.clone());
        subject.secrets = vec![KEY.to_owned()];
        provider_suite::run_all(subject).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_after_any_byte_ends_once_with_what_came() {
    for speaker in &SPEAKERS {
        let body = speaker.whole();
        let served = body.clone();
        let server = Server::start(move |request| {
            let (_, rest) = request.split_once("case-").unwrap();
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let at: usize = digits.parse().unwrap();
            // Cut in the middle of the transfer, so the client sees a broken connection.
            Answer::open_sse(&served[..at], 100).then(Then::Close)
        })
        .await;
        let provider = speaker.provider(&server.url, HttpOptions::default());
        for at in 0..=body.len() {
            let stream = provider.stream(request(&format!("case-{at}.")));
            let events = speaker.checked(stream.collect().await);
            if at == body.len() && matches!(events.last(), Some(LlmEvent::Done { .. })) {
                whole_of(speaker, &events);
                continue;
            }
            let (error, text) = ended(speaker, events);
            let place = format!("{} cut at {at}: {error}", speaker.name);
            assert_eq!(error.kind, LlmErrorKind::StreamCut, "{place}");
            let (kept, is_told) = speaker.after(at);
            assert_eq!((&*text, error.billing), (kept, billing(is_told)), "{place}");
        }
    }
}

#[tokio::test]
async fn an_error_after_a_good_status_keeps_what_came() {
    for speaker in &SPEAKERS {
        let body = speaker.half("Hi") + speaker.error + &speaker.end();
        let (error, text) = speaker.failure(Answer::sse(body, 40)).await;
        let place = format!("{}: {error}", speaker.name);
        assert_eq!(error.kind, LlmErrorKind::Overloaded, "{place}");
        assert_eq!(
            (&*text, &error.billing),
            ("Hi", &Billing::Unknown),
            "{place}"
        );
        assert!(error.message.contains("no room"), "{place}");
    }
}

#[tokio::test]
async fn an_overloaded_server_is_told_by_its_body_and_costs_nothing() {
    for speaker in &SPEAKERS {
        let answer = Answer::new("529 Busy\r\nretry-after: 3", speaker.overloaded);
        let (error, text) = speaker.failure(answer).await;
        let place = format!("{}: {error}", speaker.name);
        assert_eq!(error.kind, LlmErrorKind::Overloaded, "{place}");
        assert_eq!((&*text, &error.billing), ("", &Billing::None), "{place}");
        assert_eq!(error.retry_after_ms, Some(3_000), "{place}");
        assert!(error.message.ends_with("529: no room"), "{place}");
    }
}

#[tokio::test]
async fn a_web_page_or_an_answer_in_one_piece_is_no_stream() {
    const PAGE: &str = "<html><title>Sign in</title><body>please</body></html>";
    for speaker in &SPEAKERS {
        for (kind, body, words) in [
            ("text/html", PAGE, "is the base URL right? Sign in please"),
            ("text/event-stream", PAGE, "is the base URL right? Sign in"),
            ("application/json", speaker.plain, "does not stream"),
            ("text/event-stream", speaker.plain, "does not stream"),
            ("text/plain", speaker.plain, "does not stream"),
        ] {
            let head = format!("200 OK\r\ncontent-type: {kind}");
            let (error, text) = speaker.failure(Answer::new(&head, body)).await;
            let place = format!("{} {kind}: {error}", speaker.name);
            assert_eq!(error.kind, LlmErrorKind::Decode, "{place}");
            assert_eq!((&*text, &error.billing), ("", &Billing::Unknown), "{place}");
            assert!(error.message.contains(words), "{place}");
        }
    }
}

#[tokio::test]
async fn a_stream_is_read_whatever_its_content_type_says() {
    for speaker in &SPEAKERS {
        for head in [
            "200 OK",
            "200 OK\r\ncontent-type: text/plain",
            "200 OK\r\ncontent-type: application/octet-stream",
            "200 OK\r\ncontent-type: text/event-stream; charset=utf-8",
        ] {
            let answer = Answer::new(head, speaker.whole());
            let server = Server::start(move |_| answer.clone()).await;
            whole_of(
                speaker,
                &speaker.ask(&server.url, HttpOptions::default()).await,
            );
        }
    }
}

#[tokio::test]
async fn a_line_of_7_mib_passes_and_one_above_the_limit_is_refused() {
    for speaker in &SPEAKERS {
        let long = "y".repeat(7 << 20);
        // What the end repeats of the text is not looked at: the text is what was streamed.
        let end = speaker.end().replace("\"text\":\"Hi\"", "\"text\":\"\"");
        let body = speaker.half(&long) + &end;
        let server = Server::start(move |_| Answer::sse(&body, 60_000)).await;
        let events = speaker.ask(&server.url, HttpOptions::default()).await;
        assert_eq!(done(&events).text().len(), long.len(), "{}", speaker.name);

        let over = speaker.text(&"y".repeat(8 << 20));
        let body = speaker.half("Hi") + &over + &speaker.end();
        let (error, text) = speaker.failure(Answer::sse(body, 60_000)).await;
        let place = format!("{}: {error}", speaker.name);
        assert_eq!(error.kind, LlmErrorKind::Decode, "{place}");
        assert_eq!(
            (&*text, &error.billing),
            ("Hi", &Billing::Unknown),
            "{place}"
        );
        assert!(error.message.contains("too long"), "{place}");
    }
}

#[tokio::test]
async fn a_connection_that_the_server_drops_after_each_answer_fails_no_later_call() {
    for speaker in &SPEAKERS {
        let body = speaker.whole();
        let server = Server::start(move |_| Answer::sse(&body, 50).then(Then::CloseWhenUsed)).await;
        let provider = speaker.provider(&server.url, HttpOptions::default());
        for _ in 0..3 {
            let events = provider.stream(request("Hi")).collect().await;
            whole_of(speaker, &speaker.checked(events));
        }
        assert_eq!(server.requests.lock().unwrap().len(), 3, "{}", speaker.name);
    }
}

#[tokio::test]
async fn a_dropped_connection_fails_the_next_call_if_near_servers_are_reused() {
    for speaker in &SPEAKERS {
        let body = speaker.whole();
        let server = Server::start(move |_| Answer::sse(&body, 50).then(Then::CloseWhenUsed)).await;
        let options = HttpOptions {
            reuse_loopback: true,
            ..HttpOptions::default()
        };
        let provider = speaker.provider(&server.url, options);
        let events = provider.stream(request("Hi")).collect().await;
        whole_of(speaker, &speaker.checked(events));
        let events = provider.stream(request("Hi")).collect().await;
        let (error, text) = ended(speaker, speaker.checked(events));
        let place = format!("{}: {error}", speaker.name);
        assert_eq!(error.kind, LlmErrorKind::Network, "{place}");
        assert_eq!((&*text, &error.billing), ("", &Billing::Unknown), "{place}");
        // The connection is gone: the third call makes its own.
        let events = provider.stream(request("Hi")).collect().await;
        whole_of(speaker, &speaker.checked(events));
    }
}

/// A server that sends what it is handed as it is handed it, and is silent in between.
struct Drip {
    url: String,
    pieces: mpsc::Sender<String>,
    _task: tokio::task::JoinSet<()>,
}

impl Drip {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (pieces, mut handed) = mpsc::channel::<String>(1);
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move {
            let (mut socket, _peer) = listener.accept().await.unwrap();
            read_request(&mut socket).await.unwrap();
            let head = Answer::open_sse("", 1).bytes;
            socket.write_all(&head).await.unwrap();
            while let Some(piece) = handed.recv().await {
                let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
                socket.write_all(chunk.as_bytes()).await.unwrap();
            }
            let mut byte = [0];
            while let Ok(1..) = socket.read(&mut byte).await {}
        });
        Self {
            url,
            pieces,
            _task: task,
        }
    }
}

/// While it lives, paused time moves only when told: a task that blocks keeps it from moving on its
/// own whenever all others wait.
struct StoppedTime(#[expect(dead_code, reason = "held")] std::sync::mpsc::Sender<()>);

impl StoppedTime {
    fn begin() -> Self {
        let (hold, held) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || held.recv());
        tokio::time::pause();
        Self(hold)
    }
}

#[tokio::test]
async fn a_slow_drip_is_life_and_then_silence_is_an_error_with_what_came() {
    let idle = HttpOptions::IDLE_TIMEOUT;
    let _stopped = StoppedTime::begin();
    for speaker in &SPEAKERS {
        let drip = Drip::start().await;
        let provider = speaker.provider(&drip.url, HttpOptions::default());
        let mut stream = provider.stream(request("Hi"));
        let mut events = Vec::new();
        drip.pieces.send(speaker.half("0")).await.unwrap();
        let mut text = String::new();
        for number in 1..=5 {
            // What was sent has come before more time goes by.
            while !matches!(events.last(), Some(LlmEvent::TextDelta { .. })) {
                events.push(stream.next().await.unwrap());
            }
            text.push_str(&(number - 1).to_string());
            // The limit runs from here: the next piece is waited for.
            assert!(stream.next().now_or_never().is_none(), "{}", speaker.name);
            tokio::time::advance(idle - Duration::from_millis(1)).await;
            assert!(stream.next().now_or_never().is_none(), "{}", speaker.name);
            drip.pieces
                .send(speaker.text(&number.to_string()))
                .await
                .unwrap();
            events.push(stream.next().await.unwrap());
        }
        text.push('5');
        assert!(stream.next().now_or_never().is_none(), "{}", speaker.name);
        tokio::time::advance(idle + Duration::from_millis(1)).await;
        while let Some(event) = stream.next().await {
            events.push(event);
        }
        let (error, kept) = ended(speaker, speaker.checked(events));
        let place = format!("{}: {error}", speaker.name);
        assert_eq!(error.kind, LlmErrorKind::Timeout, "{place}");
        assert_eq!((kept, error.billing), (text, Billing::Unknown), "{place}");
        assert!(error.message.contains("silent for 300 s"), "{place}");
    }
}
