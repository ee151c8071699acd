//! The server over real sockets, asked with bytes and with the engine's own driver.
#![cfg(test)]

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use dash::llm::http::{HttpOptions, HttpProvider};
use dash::llm::{LlmProvider as _, LlmRequest, Model, RequestOptions, ToolChoice};
use dash::model::{Message, MessageOrigin};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use dash_model_server::{Billed, ModelServer, Options, Reply, counting};

const HUNG: Duration = Duration::from_secs(60);

/// Sends bytes and reads what comes until the connection ends, however it ends.
async fn exchange(server: &ModelServer, request: &str) -> Vec<u8> {
    let talk = async {
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that breaks off ends it with an error or without one.
        drop(socket.read_to_end(&mut answer).await);
        answer
    };
    tokio::time::timeout(HUNG, talk).await.expect("an answer")
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer k\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn ask(server: &ModelServer, path: &str, body: &str) -> String {
    let answer = exchange(server, &post(path, body)).await;
    String::from_utf8(answer).unwrap()
}

async fn chat(server: &ModelServer, body: &str) -> String {
    ask(server, "/v1/chat/completions", body).await
}

/// A conversation with so many finished tool calls.
fn body(model: &str, results: u32, more: &str) -> String {
    let mut messages = r#"{"role":"user","content":"count"}"#.to_owned();
    for n in 0..results {
        messages = format!(
            r#"{messages},{{"role":"assistant","content":"","tool_calls":[{{"id":"c{n}"}}]}},{{"role":"tool","tool_call_id":"c{n}","content":"1"}}"#
        );
    }
    format!(r#"{{"model":"{model}","messages":[{messages}]{more}}}"#)
}

const STREAM: &str = r#","stream":true,"stream_options":{"include_usage":true}"#;

#[tokio::test]
async fn the_model_name_and_the_tool_results_decide_the_answer() {
    let server = ModelServer::start(counting).await.unwrap();
    let second = chat(&server, &body("mock-k3-t2", 1, STREAM)).await;
    assert!(second.starts_with("HTTP/1.1 200"), "{second}");
    assert!(second.contains("text/event-stream"), "{second}");
    assert_eq!(second.matches(r#"{"content":" "#).count(), 2, "{second}");
    assert!(second.contains(r#""name":"add_one""#), "{second}");
    assert!(second.contains(r#""finish_reason":"tool_calls""#));
    assert!(second.contains(r#""completion_tokens":10"#), "{second}");
    assert!(second.contains("data: [DONE]"), "{second}");
    let last = chat(&server, &body("mock-k3-t2", 2, "")).await;
    assert!(last.contains("application/json"), "{last}");
    assert!(last.contains(r#""content":" the agent""#), "{last}");
    assert!(last.contains(r#""finish_reason":"stop""#), "{last}");
    let stats = server.stats();
    assert_eq!((stats.tool_turns, stats.final_turns), (1, 1));
    assert_eq!((stats.streamed, stats.bad, stats.connections), (1, 0, 2));
}

#[tokio::test]
async fn requests_that_the_api_would_refuse_are_refused_in_words() {
    let server = ModelServer::start(counting).await.unwrap();
    let unanswered = r#"{"model":"mock","messages":[{"role":"assistant","tool_calls":[{"id":"a"}]},{"role":"user"}]}"#;
    let orphan = r#"{"model":"mock","messages":[{"role":"tool","tool_call_id":"a"}]}"#;
    let open = r#"{"model":"mock","messages":[{"role":"assistant","tool_calls":[{"id":"a"}]}]}"#;
    let cases = [
        ("{", "cannot read the body"),
        (r#"{"messages":[{"role":"user"}]}"#, "missing field `model`"),
        (r#"{"model":"mock","messages":[]}"#, "`messages` is empty"),
        (
            r#"{"model":"mock","messages":[{"role":"robot"}]}"#,
            "unknown role `robot`",
        ),
        (orphan, "`a` is no call that waits"),
        (unanswered, "the call `a` has no result"),
        (open, "the call `a` has no result"),
    ];
    for (body, words) in cases {
        let answer = chat(&server, body).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{body}: {answer}");
        assert!(answer.contains(words), "{body}: {answer}");
    }
    for (model, words) in [
        ("mock-k0x", "the part `k0x` has no number"),
        ("mock-q1", "is none of k, t, l, d"),
        ("mock-t999999999", "is above 100000"),
    ] {
        let answer = chat(&server, &body(model, 0, "")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains(words), "{answer}");
    }
    let other = chat(&server, &body("gpt", 0, "")).await;
    assert!(other.starts_with("HTTP/1.1 404"), "{other}");
    let nowhere = ask(&server, "/v1/nothing", "{}").await;
    assert!(nowhere.starts_with("HTTP/1.1 404"), "{nowhere}");
    assert_eq!(server.stats().bad, 8);
}

#[tokio::test]
async fn a_script_decides_status_headers_and_where_the_answer_breaks() {
    let server = ModelServer::start(|request| match request.turn() {
        1 => Reply::status(429, "slow down").header("retry-after", "7"),
        2 => Reply::text("one two three").cut(20),
        3 => Reply::raw("text/plain", "no json"),
        _ => Reply::text("one two").header("bad name", "x"),
    })
    .await
    .unwrap();
    let limited = chat(&server, &body("m", 0, STREAM)).await;
    assert!(limited.starts_with("HTTP/1.1 429"), "{limited}");
    assert!(limited.contains("retry-after: 7"), "{limited}");
    assert!(limited.contains("slow down"), "{limited}");
    let cut = chat(&server, &body("m", 1, STREAM)).await;
    assert!(
        cut.contains("\r\n14\r\ndata: {\"id\":\"chatcmp\r\n"),
        "{cut}"
    );
    // The chunk of length zero is how a whole answer ends.
    assert!(!cut.contains("\r\n0\r\n"), "{cut}");
    let raw = chat(&server, &body("m", 2, STREAM)).await;
    assert!(raw.contains("text/plain") && raw.contains("no json"));
    let broken = chat(&server, &body("m", 3, STREAM)).await;
    assert!(broken.starts_with("HTTP/1.1 500"), "{broken}");
    assert!(broken.contains("header bad name"), "{broken}");
}

#[tokio::test]
async fn a_drip_sends_every_byte_in_pieces() {
    let server = ModelServer::start(|_| Reply::text("é").drip(1, Duration::from_micros(1)))
        .await
        .unwrap();
    let request = post("/v1/chat/completions", &body("m", 0, ""));
    let answer = exchange(&server, &request).await;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (mut rest, mut text) = (&answer[head.unwrap() + 4..], Vec::new());
    while let Some(after) = rest.strip_prefix(b"1\r\n") {
        text.push(after[0]);
        rest = &after[3..];
    }
    assert_eq!(rest, b"0\r\n\r\n");
    // The letter of two bytes was in two pieces.
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains(r#""content":"é""#), "{text}");
    assert!(text.ends_with("}}"), "{text}");
}

#[tokio::test]
async fn requests_are_kept_with_what_they_were_billed_and_no_more_than_asked() {
    let options = Options {
        requests_kept: 2,
        ..Options::default()
    };
    let script = |request: &dash_model_server::Request| match request.turn() {
        3 => Reply::status(500, "no"),
        _ => Reply::text("a b c").billed(11, 22),
    };
    let server = ModelServer::start_with(options, script).await.unwrap();
    for results in 0..3 {
        chat(&server, &body("m", results, "")).await;
    }
    server.wait_for_requests(2).await;
    let kept = server.requests();
    let seen: Vec<(u32, u16, Billed)> = kept
        .iter()
        .map(|r| (r.request.turn(), r.status, r.billed))
        .collect();
    let billed = Billed {
        input: 11,
        output: 22,
    };
    assert_eq!(seen, [(2, 200, billed), (3, 500, Billed::default())]);
    assert_eq!(kept[0].request.header("authorization"), Some("Bearer k"));
    assert_eq!(kept[0].request.json()["model"], "m");
    assert_eq!(server.stats().billed_output, 44);
    let reset = ask(&server, "/reset", "").await;
    assert!(reset.starts_with("HTTP/1.1 200"), "{reset}");
    assert!(server.requests().is_empty());
    assert_eq!(server.stats().requests, 0);
}

#[tokio::test]
async fn the_engines_driver_reads_its_answers() {
    let server = ModelServer::start(counting).await.unwrap();
    let provider = HttpProvider::openai_chat(server.url())
        .http_options(HttpOptions::default())
        .build()
        .unwrap();
    let request = LlmRequest {
        model: Arc::new(Model::free("mock-k2-t3", "counter")),
        system: Arc::from("You count."),
        messages: vec![Arc::new(Message::user("count", MessageOrigin::Task))],
        tools: Arc::from([]),
        tool_choice: ToolChoice::Auto,
        max_output_tokens: 100,
        temperature: None,
        response_schema: None,
        idempotency_key: "a-step".to_owned(),
        options: RequestOptions::default(),
    };
    let message = provider.stream(request).finish().await.unwrap();
    assert_eq!(message.text(), " the agent reads");
    assert_eq!(message.tool_calls().count(), 1);
}

#[tokio::test]
async fn the_program_prints_its_url_and_ends_with_its_parent() {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_dash-model-server"))
        .arg("--until-stdin-closes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().expect("a line");
    let address = url.strip_prefix("http://").expect("a URL");
    drop(TcpStream::connect(address).await.unwrap());
    drop(child.stdin.take());
    let status = tokio::time::timeout(HUNG, child.wait()).await.unwrap();
    assert!(status.unwrap().success());
}
