use std::sync::Arc;

use pretty_assertions::assert_eq;
use serde_json::json;

use super::*;
use crate::llm::dialect::SseEvent;
use crate::llm::{Billing, LlmErrorKind, LlmEvent, ModelPrice};
use crate::model::{AssistantBlock, AssistantMessage, NanoUsd, StopReason, ToolCall, Usage};
use crate::testing::provider_suite::check_grammar;

mod any;
mod requests;

/// Raw streams as a server sends them, by name.
const GOLDENS: [(&str, &str); 13] = [
    ("text", include_str!("../goldens/text.sse")),
    ("thinking", include_str!("../goldens/thinking.sse")),
    (
        "parallel_calls",
        include_str!("../goldens/parallel_calls.sse"),
    ),
    ("call_with_id", include_str!("../goldens/call_with_id.sse")),
    (
        "two_finish_reasons",
        include_str!("../goldens/two_finish_reasons.sse"),
    ),
    ("signed_text", include_str!("../goldens/signed_text.sse")),
    ("error_object", include_str!("../goldens/error_object.sse")),
    ("quota", include_str!("../goldens/quota.sse")),
    ("rate_limit", include_str!("../goldens/rate_limit.sse")),
    (
        "blocked_prompt",
        include_str!("../goldens/blocked_prompt.sse"),
    ),
    (
        "malformed_call",
        include_str!("../goldens/malformed_call.sse"),
    ),
    ("safety", include_str!("../goldens/safety.sse")),
    ("cut", include_str!("../goldens/cut.sse")),
];

const WIRE_ID: &str = "gemini-3-pro-preview";

fn model(id: &str) -> Model {
    let mut model = Model::free(id, "p");
    model.price = ModelPrice {
        input: NanoUsd::from_usd(1),
        output: NanoUsd::from_usd(2),
        ..ModelPrice::default()
    };
    model
}

fn decoder() -> GeminiDecoder {
    GeminiDecoder::new(AnswerSetup {
        api: api::GEMINI,
        provider: "p".into(),
        model: Arc::new(model(WIRE_ID)),
        input_bound: 70,
        output_limit: 0,
    })
}

/// Decodes events; the grammar holds whatever they are.
fn decode<S: AsRef<str>>(data: &[S]) -> Vec<LlmEvent> {
    let mut decoder = decoder();
    let mut out = Vec::new();
    for data in data {
        let (name, data) = ("message", data.as_ref());
        decoder.feed(SseEvent { name, data }, &mut out);
    }
    decoder.eof(&mut out);
    assert_eq!(check_grammar(&out), Ok(()), "{out:#?}");
    out
}

/// The data of each event of a raw stream.
fn data_of(name: &str) -> Vec<String> {
    let found = GOLDENS.iter().find(|(of, _)| *of == name);
    let stream = found.unwrap().1;
    assert!(stream.contains("\r\n\r\n") || name == "cut", "{name}");
    let events = stream.split("\r\n\r\n").filter(|event| !event.is_empty());
    let lines = |event: &str| -> Vec<String> {
        let lines = event.split("\r\n").map(|line| line.strip_prefix("data: "));
        lines.map(|line| line.unwrap().to_owned()).collect()
    };
    events.map(|event| lines(event).join("\n")).collect()
}

fn whole(events: Vec<LlmEvent>) -> AssistantMessage {
    match events.into_iter().next_back() {
        Some(LlmEvent::Done { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

fn failed(events: Vec<LlmEvent>) -> (LlmError, AssistantMessage) {
    match events.into_iter().next_back() {
        Some(LlmEvent::Error { error, message }) => (error, message),
        other => panic!("{other:?}"),
    }
}

fn text(text: &str, signature: Option<&str>) -> AssistantBlock {
    AssistantBlock::Text {
        text: text.into(),
        signature: signature.map(str::to_owned),
    }
}

fn thought(text: &str, signature: Option<&str>) -> AssistantBlock {
    AssistantBlock::Thinking {
        text: text.into(),
        signature: signature.map(str::to_owned),
        redacted: false,
    }
}

fn call(
    id: &str,
    name: &str,
    arguments: serde_json::Value,
    signature: Option<&str>,
) -> AssistantBlock {
    AssistantBlock::ToolCall(ToolCall {
        id: id.into(),
        name: name.into(),
        arguments,
        arguments_error: None,
        thought_signature: signature.map(str::to_owned),
    })
}

/// A chunk with these parts and maybe a finish reason.
fn chunk(parts: &serde_json::Value, finish: &str) -> String {
    let content = json!({"role": "model", "parts": parts});
    json!({"candidates": [{"content": content, "finishReason": finish, "index": 0}]}).to_string()
}

#[test]
fn a_plain_answer_gives_exactly_these_events() {
    let usage = |output| Usage {
        input: 7,
        output,
        cache_read: 5,
        ..Usage::default()
    };
    let delta = |delta: &str| LlmEvent::TextDelta {
        index: 0,
        delta: delta.into(),
    };
    let told = "Grüße aus 東京 🗼\n";
    let message = AssistantMessage {
        content: vec![text(told, None)],
        provider: "p".into(),
        model: WIRE_ID.into(),
        api: "google-gemini".into(),
        cost_reported: false,
        response_model: None,
        response_id: Some("aZ09_-r".into()),
        usage: usage(9),
        cost: NanoUsd(25_000),
        stop_reason: StopReason::Stop,
        raw_stop_reason: None,
    };
    let expected = [
        LlmEvent::Start {
            model: None,
            response_id: Some("aZ09_-r".into()),
        },
        LlmEvent::TextStart { index: 0 },
        delta("Grüße"),
        LlmEvent::Usage { usage: usage(2) },
        delta(" aus 東京 "),
        LlmEvent::Usage { usage: usage(6) },
        delta("🗼\n"),
        LlmEvent::Usage { usage: usage(9) },
        LlmEvent::TextEnd {
            index: 0,
            text: told.into(),
            signature: None,
        },
        LlmEvent::Done {
            reason: StopReason::Stop,
            message,
        },
    ];
    assert_eq!(decode(&data_of("text")), expected);
}

#[test]
fn thoughts_and_a_signature_on_no_text_are_blocks_of_their_own() {
    let message = whole(decode(&data_of("thinking")));
    let expected = [
        thought("**Weighing**\nboth – then", None),
        text("Ja, natürlich.", None),
        text("", Some("U2lnbmVkIGVtcHR5")),
    ];
    assert_eq!(message.content, expected);
    let usage = Usage {
        input: 20,
        output: 35,
        reasoning: 30,
        ..Usage::default()
    };
    assert_eq!(
        (message.usage, message.stop_reason),
        (usage, StopReason::Stop)
    );
}

#[test]
fn a_signature_is_kept_to_the_part_it_came_on() {
    let message = whole(decode(&data_of("signed_text")));
    let expected = [
        text("A", None),
        text("B", Some("Qg==")),
        text("CD", None),
        text("", Some("QWxvbmU=")),
    ];
    assert_eq!(message.content, expected);
    assert_eq!(message.stop_reason, StopReason::Length);
    let message = whole(decode(&[chunk(
        &json!([{"text": "a", "thought": true, "thoughtSignature": "x"},
               {"text": "b", "thought": true}, {"text": "c"}]),
        "STOP",
    )]));
    let expected = [thought("a", Some("x")), thought("b", None), text("c", None)];
    assert_eq!(message.content, expected);
}

#[test]
fn parallel_calls_come_whole_and_get_ids() {
    let events = decode(&data_of("parallel_calls"));
    let message = whole(events.clone());
    let zurich = call(
        "aZ09_-r_0",
        "get_weather",
        json!({"city": "Zürich", "days": 2}),
        Some("Rmlyc3Q="),
    );
    let expected = [
        thought("Looking up both.", None),
        zurich.clone(),
        call("aZ09_-r_1", "get_weather", json!({"city": "東京"}), None),
        call("aZ09_-r_2", "now", json!({}), None),
    ];
    assert_eq!(message.content, expected);
    assert_eq!(message.stop_reason, StopReason::ToolUse);

    let first = events
        .iter()
        .position(|event| matches!(event, LlmEvent::ToolCallStart { .. }));
    let (AssistantBlock::ToolCall(zurich), Some(first)) = (zurich, first) else {
        panic!("{events:#?}");
    };
    let expected = [
        LlmEvent::ToolCallStart {
            index: 1,
            id: "aZ09_-r_0".into(),
            name: "get_weather".into(),
        },
        LlmEvent::ToolCallDelta {
            index: 1,
            delta: r#"{"city": "Zürich", "days": 2}"#.into(),
        },
        LlmEvent::ToolCallEnd {
            index: 1,
            call: zurich,
        },
    ];
    assert_eq!(events[first..first + 3], expected);
}

#[test]
fn an_id_that_is_told_is_kept_and_one_told_twice_is_not() {
    let message = whole(decode(&data_of("call_with_id")));
    let arguments = json!({"path": "C:\\daten\\ä.txt", "lines": [1, 2]});
    let expected = [
        text("One moment", None),
        call("fc-7_a", "read", arguments, Some("Q2FsbA==")),
    ];
    assert_eq!(message.content, expected);
    let twice = json!({"functionCall": {"id": "a", "name": "f"}});
    let message = whole(decode(&[chunk(&json!([twice, twice]), "STOP")]));
    let ids: Vec<&str> = message.tool_calls().map(|call| &*call.id).collect();
    assert_eq!(ids, ["a", "a_1"]);
}

#[test]
fn the_first_finish_reason_does_not_end_the_answer() {
    let message = whole(decode(&data_of("two_finish_reasons")));
    assert_eq!(message.content, [text("I will run it.\nIt is 42.", None)]);
    let usage = Usage {
        input: 48,
        output: 17,
        ..Usage::default()
    };
    assert_eq!(
        (message.usage, message.stop_reason),
        (usage, StopReason::Stop)
    );
    for (reasons, kind) in [
        (["SAFETY", "STOP"], LlmErrorKind::ContentFilter),
        (["STOP", "OTHER"], LlmErrorKind::Server),
        (["OTHER", "SPII"], LlmErrorKind::ContentFilter),
    ] {
        let (error, message) = failed(decode(&reasons.map(|reason| chunk(&json!([]), reason))));
        assert_eq!(error.kind, kind, "{reasons:?}");
        assert_ne!(message.raw_stop_reason.as_deref(), Some("STOP"));
    }
}

/// The usage that an error is billed at.
fn billed(input: u64, output: u64) -> Billing {
    Billing::Known(Usage {
        input,
        output,
        ..Usage::default()
    })
}

fn check_failed(
    name: &str,
    (kind, wait, billing): (LlmErrorKind, Option<u64>, Billing),
    (said, raw, words): (&str, Option<&str>, &str),
) {
    let (error, message) = failed(decode(&data_of(name)));
    let told = (error.kind, error.retry_after_ms, error.billing);
    assert_eq!(told, (kind, wait, billing), "{name}");
    assert!(error.message.contains(words), "{name}: {}", error.message);
    let told = (message.text(), message.raw_stop_reason);
    assert_eq!(told, (said.to_owned(), raw.map(str::to_owned)), "{name}");
}

#[test]
fn a_server_that_reports_an_error_is_understood() {
    // What was counted before the end is not the bill.
    let error = (LlmErrorKind::Overloaded, None, Billing::Unknown);
    check_failed(
        "error_object",
        error,
        ("Hal", None, "The model is overloaded"),
    );
    let error = (LlmErrorKind::Quota, Some(22_000), Billing::Unknown);
    check_failed("quota", error, ("", None, "exceeded your current quota"));
    let error = (LlmErrorKind::RateLimited, Some(1_500), Billing::Unknown);
    check_failed("rate_limit", error, ("", None, "Too fast."));
}

#[test]
fn an_answer_that_ends_badly_says_why_and_keeps_what_was_said() {
    let prohibited = ("", Some("PROHIBITED_CONTENT"), "`PROHIBITED_CONTENT`");
    let error = (LlmErrorKind::ContentFilter, None, billed(14, 0));
    check_failed("blocked_prompt", error, prohibited);
    let error = (LlmErrorKind::Server, None, billed(11, 3));
    let malformed = ("Trying.", Some("MALFORMED_FUNCTION_CALL"), "f(x=“1”)");
    check_failed("malformed_call", error, malformed);
    let error = (LlmErrorKind::ContentFilter, None, billed(11, 2));
    check_failed("safety", error, ("Well, ", Some("SAFETY"), "`SAFETY`"));
    let error = (LlmErrorKind::StreamCut, None, Billing::Unknown);
    check_failed("cut", error, ("Es war einmäl", None, "ended in the middle"));
}

#[test]
fn finish_reasons_of_every_kind_are_understood() {
    let call = json!({"functionCall": {"name": "f"}});
    for (word, parts, reason) in [
        ("STOP", json!([{"text": "x"}]), StopReason::Stop),
        ("STOP", json!([call]), StopReason::ToolUse),
        ("MAX_TOKENS", json!([call]), StopReason::Length),
    ] {
        let message = whole(decode(&[chunk(&parts, word)]));
        assert_eq!(
            (message.stop_reason, message.raw_stop_reason),
            (reason, None)
        );
    }
    for (words, kind) in [
        (
            &[
                "SAFETY",
                "RECITATION",
                "LANGUAGE",
                "BLOCKLIST",
                "PROHIBITED_CONTENT",
                "SPII",
                "IMAGE_SAFETY",
            ][..],
            LlmErrorKind::ContentFilter,
        ),
        (
            &[
                "MALFORMED_FUNCTION_CALL",
                "UNEXPECTED_TOOL_CALL",
                "TOO_MANY_TOOL_CALLS",
                "OTHER",
                "NEW_WORD",
            ],
            LlmErrorKind::Server,
        ),
        (&["MISSING_THOUGHT_SIGNATURE"], LlmErrorKind::InvalidRequest),
        (&["", "FINISH_REASON_UNSPECIFIED"], LlmErrorKind::StreamCut),
    ] {
        for word in words {
            let (error, message) = failed(decode(&[chunk(&json!([{"text": "x"}]), word)]));
            assert_eq!(
                (error.kind, error.billing),
                (kind, Billing::Unknown),
                "{word}"
            );
            let raw = (kind != LlmErrorKind::StreamCut).then_some(*word);
            assert_eq!(message.raw_stop_reason.as_deref(), raw);
            assert_eq!(message.text(), "x");
        }
    }
}

#[test]
fn the_body_or_a_proxys_done_ends_the_answer_and_nothing_follows() {
    let stop = chunk(&json!([{"text": "x"}]), "STOP");
    let late = chunk(&json!([{"text": "late"}]), "OTHER");
    assert_eq!(whole(decode(&[&*stop])).text(), "x");
    assert_eq!(whole(decode(&[&*stop, "[DONE]", &*late])).text(), "x");
    let open = chunk(&json!([{"text": "x"}]), "");
    for data in [&[&*open][..], &[&*open, "[DONE]"], &[], &["[DONE]"]] {
        assert_eq!(failed(decode(data)).0.kind, LlmErrorKind::StreamCut);
    }
    assert_eq!(decode::<&str>(&[]).len(), 1);
    // A failed transport keeps what was told.
    let (mut decoder, mut out) = (decoder(), Vec::new());
    let data = stop.as_str();
    decoder.feed(
        SseEvent {
            name: "message",
            data,
        },
        &mut out,
    );
    decoder.feed(
        SseEvent {
            name: "message",
            data: "",
        },
        &mut out,
    );
    assert_eq!(out.last(), Some(&LlmEvent::Heartbeat));
    decoder.fail(LlmError::unbilled(LlmErrorKind::Timeout, "slow"), &mut out);
    decoder.eof(&mut out);
    assert!(decoder.is_ended());
    let (error, message) = failed(out);
    assert_eq!(
        (error.kind, error.billing),
        (LlmErrorKind::Timeout, Billing::Unknown)
    );
    assert_eq!(message.text(), "x");
}

#[test]
fn errors_inside_a_stream_are_errors() {
    for (data, kind) in [
        (
            r#"{"error":{"code":429,"message":"boom"}}"#,
            LlmErrorKind::RateLimited,
        ),
        (
            r#"[{"error":{"code":500,"message":"boom","status":"INTERNAL"}}]"#,
            LlmErrorKind::Server,
        ),
        (
            r#"{"error":{"code":400,"message":"boom","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}"#,
            LlmErrorKind::Auth,
        ),
        (
            r#"{"error":{"code":400,"message":"boom: the input token count (5) exceeds the maximum number of tokens allowed (4).","status":"INVALID_ARGUMENT"}}"#,
            LlmErrorKind::ContextOverflow,
        ),
        (
            r#"{"error":{"message":"boom","status":"RESOURCE_EXHAUSTED"}}"#,
            LlmErrorKind::RateLimited,
        ),
        (r#"{"error":"boom"}"#, LlmErrorKind::Server),
    ] {
        let before = chunk(&json!([{"text": "x"}]), "STOP");
        let (error, message) = failed(decode(&[&*before, data]));
        assert_eq!(
            (error.kind, error.billing),
            (kind, Billing::Unknown),
            "{data}"
        );
        assert!(error.message.contains("boom"), "{data}");
        assert_eq!(message.text(), "x");
        assert_eq!(decode(&[data]).len(), 1, "a lone error");
    }
    for garbage in ["{]", "<html>", "7", "\"x\"", "[7]"] {
        assert_eq!(
            failed(decode(&[garbage])).0.kind,
            LlmErrorKind::Decode,
            "{garbage}"
        );
    }
    let (mut decoder, mut out) = (decoder(), Vec::new());
    let (name, data) = ("error", r#"{"code":503,"message":"boom"}"#);
    decoder.feed(SseEvent { name, data }, &mut out);
    assert_eq!(failed(out).0.kind, LlmErrorKind::Overloaded);
}

#[test]
fn fields_of_the_wrong_type_count_as_missing() {
    let stop = chunk(&json!([{"text": "x"}]), "STOP");
    for data in [
        "{}",
        "[]",
        r#"{"candidates":7,"usageMetadata":[],"promptFeedback":"no","error":null}"#,
        r#"{"candidates":[]}"#,
        r#"{"candidates":[7]}"#,
        r#"{"candidates":[{"content":7,"finishReason":null,"finishMessage":{}}]}"#,
        r#"{"candidates":[{"content":{"parts":{"text":"no list"}}}]}"#,
        r#"{"candidates":[{"content":{"parts":[7,null,[],{},{"text":null},{"functionCall":7}]}}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"inlineData":{"data":"QQ=="},"thoughtSignature":"s"},{"newPart":{},"thoughtSignature":"s"}]}}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"thoughtSignature":7},{"thoughtSignature":""}]}}]}"#,
        r#"{"promptFeedback":{"safetyRatings":[]}}"#,
    ] {
        let message = whole(decode(&[data, &*stop]));
        assert_eq!(message.content, [text("x", None)], "{data}");
    }
}

#[test]
fn arguments_are_taken_however_they_come() {
    for (call, arguments, is_wrong) in [
        (json!({"name": "f"}), json!({}), false),
        (json!({"name": "f", "args": null}), json!({}), false),
        (
            json!({"name": "f", "args": {"a": {"b": []}}}),
            json!({"a": {"b": []}}),
            false,
        ),
        (
            json!({"name": "f", "args": "{\"a\":\"ü\"}"}),
            json!({"a": "ü"}),
            false,
        ),
        (json!({"name": "f", "args": [1]}), json!({}), true),
        (json!({"args": {"a": 1}}), json!({"a": 1}), false),
    ] {
        let message = whole(decode(&[chunk(&json!([{"functionCall": call}]), "STOP")]));
        let got = message.tool_calls().next().unwrap();
        assert_eq!(
            (&got.arguments, got.arguments_error.is_some()),
            (&arguments, is_wrong)
        );
        assert_eq!(message.stop_reason, StopReason::ToolUse);
    }
}

#[test]
fn only_the_last_usage_counts() {
    let tell = |usage: serde_json::Value| json!({"usageMetadata": usage}).to_string();
    let stop = chunk(&json!([{"text": "twelve bytes"}]), "STOP");
    for (told, usage) in [
        (
            json!({"promptTokenCount": 9, "candidatesTokenCount": 2, "cachedContentTokenCount": 40,
                   "thoughtsTokenCount": 3, "toolUsePromptTokenCount": 5}),
            Usage {
                input: 5,
                output: 5,
                cache_read: 9,
                reasoning: 3,
                ..Usage::default()
            },
        ),
        (
            json!({"promptTokenCount": 9, "candidatesTokenCount": "2", "thoughtsTokenCount": -3}),
            Usage {
                input: 9,
                ..Usage::default()
            },
        ),
    ] {
        let early = tell(json!({"promptTokenCount": 900, "candidatesTokenCount": 900}));
        assert_eq!(whole(decode(&[&*early, &*stop, &*tell(told)])).usage, usage);
    }
    let bound = Usage {
        input: 70,
        output: 12,
        ..Usage::default()
    };
    assert_eq!(whole(decode(&[stop])).usage, bound);
}
