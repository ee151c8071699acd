use std::io;
use std::sync::Mutex;

use futures_util::FutureExt as _;
use pretty_assertions::assert_eq;

use super::*;
use crate::llm::Billing;
use crate::llm::layer::{Recorder, Replayer};
use crate::model::AssistantBlock;

/// A cassette in memory.
#[derive(Debug, Clone, Default)]
struct Tape(Arc<Mutex<Vec<u8>>>);

impl Tape {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// What is dropped is written by another thread, which nobody waits for.
    async fn wait_for_lines(&self, count: usize) {
        while self.text().lines().count() < count {
            tokio::task::yield_now().await;
        }
    }

    fn replay(&self) -> Replayer {
        Replayer::read("tape", self.text().as_bytes()).unwrap()
    }
}

impl io::Write for Tape {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Full;

impl io::Write for Full {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("no space"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn recorder(tape: &Tape) -> Recorder {
    let llm = ScriptedLlm::new("scripted", |request| reply(&said(request)));
    Recorder::new(Arc::new(llm), tape.clone())
}

#[tokio::test]
async fn the_provider_suite_passes_for_the_recorder_and_what_it_recorded() {
    let tape = Tape::default();
    let out = tape.clone();
    passes_the_suite(true, |inner| Arc::new(Recorder::new(inner, out))).await;
    // What the suite asks: 30 requests, and 22 times the endless one.
    tape.wait_for_lines(52).await;
    let replayer = tape.replay();
    passes_the_suite(false, |_inner| Arc::new(replayer)).await;
}

#[tokio::test]
async fn a_replay_gives_the_same_events_in_order_among_equal_requests() {
    let tape = Tape::default();
    let (llm, _) = series(
        "p",
        vec![
            ScriptedReply::text("first one"),
            ScriptedReply::text("second"),
        ],
    );
    let recorder = Recorder::new(llm, tape.clone());
    let mut recorded = Vec::new();
    for text in ["same", "same", "other"] {
        recorded.push(events(&recorder, request(text)).await);
    }
    recorder.check().unwrap();
    let replayer = tape.replay();
    assert_eq!((replayer.id(), replayer.remaining()), ("p", 3));
    // Another step of another agent asks the same.
    let mut asked = request("other");
    asked.idempotency_key = "step-9".into();
    asked.options.cache_key = Some("agent-7".into());
    asked.options.group = Some("swarm-7".into());
    assert_eq!(events(&replayer, asked).await, recorded[2]);
    assert_eq!(events(&replayer, request("same")).await, recorded[0]);
    assert_eq!(events(&replayer, request("same")).await, recorded[1]);
    let (error, _) = failure(&replayer, request("same")).await;
    assert!(
        error
            .message
            .contains("every recording of this request has been used")
    );
}

#[tokio::test]
async fn an_unknown_request_names_the_nearest_recorded_one() {
    let tape = Tape::default();
    let recorder = recorder(&tape);
    events(&recorder, request("one")).await;
    let mut longer = request("one");
    longer
        .messages
        .push(Arc::new(Message::user("two", MessageOrigin::Task)));
    events(&recorder, longer.clone()).await;
    longer.messages[1] = Arc::new(Message::user("three", MessageOrigin::Task));
    let (error, message) = failure(&tape.replay(), longer).await;
    assert_eq!(
        (error.kind, &error.billing),
        (LlmErrorKind::InvalidRequest, &Billing::None)
    );
    assert!(
        error
            .message
            .contains("the nearest request, line 2, differs in `messages[1]`"),
        "{error}"
    );
    assert!(error.message.contains("`Recorder`"), "{error}");
    assert_eq!(message.provider, "scripted");
}

#[tokio::test]
async fn keys_are_in_no_cassette_even_if_deltas_cut_them() {
    let tape = Tape::default();
    let key = "sk-abcdef0123456789";
    let (llm, _) = series(
        "p",
        vec![
            ScriptedReply::tool_call(
                "login",
                serde_json::json!({"with": key, "n": format!("\n{key}")}),
            )
            .add_text(format!("use {key} now")),
            ScriptedReply::text("next"),
        ],
    );
    let recorder = Recorder::new(llm, tape.clone());
    let mut first = request(&format!("my key is {key}"));
    first
        .options
        .extra
        .insert("api_key".into(), "hunter2hunter2".into());
    let answer = recorder.stream(first.clone()).finish().await.unwrap();
    let mut second = first.clone();
    second.messages.push(Arc::new(Message::Assistant(answer)));
    recorder.stream(second).finish().await.unwrap();
    let text = tape.text();
    for secret in ["sk-abc", "0123456789", "hunter2"] {
        assert!(!text.contains(secret), "{text}");
    }
    // A conversation that goes on from the replayed, clean answer is found.
    let replayer = tape.replay();
    let heard = events(&replayer, first.clone()).await;
    let Some(LlmEvent::Done { message, .. }) = heard.last() else {
        panic!("{heard:?}")
    };
    let is_clean = |block: &AssistantBlock| matches!(block, AssistantBlock::Text { text, .. } if text == "use [redacted] now");
    assert!(message.content.iter().any(is_clean), "{message:?}");
    first
        .messages
        .push(Arc::new(Message::Assistant(message.clone())));
    assert_eq!(
        replayer.stream(first).finish().await.unwrap().text(),
        "next"
    );
}

#[tokio::test]
async fn a_cassette_cut_anywhere_in_its_last_line_loads_without_it() {
    let tape = Tape::default();
    let recorder = recorder(&tape);
    events(&recorder, request("one")).await;
    events(&recorder, request("two")).await;
    let text = tape.text();
    let first = text.find('\n').unwrap() + 1;
    for end in first..text.len() - 1 {
        let cut = Replayer::read("tape", &text.as_bytes()[..end]).unwrap();
        assert_eq!(cut.remaining(), 1, "cut at {end}");
    }
    // Only its line break is missing.
    let cut = Replayer::read("tape", &text.as_bytes()[..text.len() - 1]).unwrap();
    assert_eq!(cut.remaining(), 2);
    for broken in ["{\n", "{\"v\":1}\n", &text.replace("\"v\":1", "\"v\":2")] {
        assert!(
            Replayer::read("tape", broken.as_bytes()).is_err(),
            "{broken}"
        );
    }
}

#[tokio::test]
async fn a_call_that_was_dropped_is_replayed_as_far_as_it_came() {
    let tape = Tape::default();
    let mut stream = recorder(&tape).stream(request("endless"));
    let mut heard = Vec::new();
    while let Some(Some(event)) = stream.next().now_or_never() {
        heard.push(event);
    }
    drop(stream);
    tape.wait_for_lines(1).await;
    let mut stream = tape.replay().stream(request("endless"));
    for event in heard {
        assert_eq!(stream.next().await, Some(event));
    }
    assert_eq!(stream.next().now_or_never(), None);
}

#[tokio::test]
async fn a_recording_that_fails_is_told_but_fails_no_call() {
    let (llm, _) = series("p", vec![ScriptedReply::text("fine")]);
    let recorder = Recorder::new(llm, Full);
    let answer = recorder.stream(request("x")).finish().await.unwrap();
    assert_eq!(answer.text(), "fine");
    let told = recorder.check().unwrap_err().to_string();
    assert!(told.contains("no space"), "{told}");
}

#[tokio::test]
async fn a_file_is_recorded_once_and_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.jsonl");
    let (llm, _) = series("p", vec![ScriptedReply::text("fine")]);
    let recorder = Recorder::create(Arc::clone(&llm), &path).unwrap();
    recorder.stream(request("x")).finish().await.unwrap();
    assert!(Recorder::create(llm, &path).is_err());
    let replayer = Replayer::open(&path).unwrap().with_id("q");
    assert_eq!(replayer.id(), "q");
    assert_eq!(
        replayer.stream(request("x")).finish().await.unwrap().text(),
        "fine"
    );
    assert!(Replayer::open(folder.path().join("none")).is_err());
}
