use pretty_assertions::assert_eq;
use serde_json::json;

use super::*;

#[test]
fn a_plain_answer_gives_exactly_these_events() {
    let events = decode(&[
        r#"{"id":"r1","model":"m-2","choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}"#,
        r#"{"id":"r1","choices":[{"index":0,"delta":{"content":"Hi"}}]}"#,
        r#"{"id":"r1","choices":[{"index":0,"delta":{"content":" \n"},"finish_reason":"stop"}]}"#,
        USAGE,
        "[DONE]",
        r#"{"choices":[{"delta":{"content":"late"}}]}"#,
    ]);
    let usage = Usage {
        input: 5,
        output: 4,
        cache_read: 3,
        cache_write: 2,
        reasoning: 1,
        cache_write_long: 0,
    };
    let text = "Hi \n".to_owned();
    let message = AssistantMessage {
        content: vec![AssistantBlock::Text {
            text: text.clone(),
            signature: None,
        }],
        provider: "p".into(),
        model: "m".into(),
        api: "openai-chat".into(),
        cost_reported: false,
        response_model: Some("m-2".into()),
        response_id: Some("r1".into()),
        usage,
        cost: NanoUsd(13_000),
        stop_reason: StopReason::Stop,
        raw_stop_reason: None,
    };
    let expected = [
        LlmEvent::Start {
            model: Some("m-2".into()),
            response_id: Some("r1".into()),
        },
        LlmEvent::TextStart { index: 0 },
        LlmEvent::TextDelta {
            index: 0,
            delta: "Hi".into(),
        },
        LlmEvent::TextDelta {
            index: 0,
            delta: " \n".into(),
        },
        LlmEvent::Usage { usage },
        LlmEvent::TextEnd {
            index: 0,
            text,
            signature: None,
        },
        LlmEvent::Done {
            reason: StopReason::Stop,
            message,
        },
    ];
    assert_eq!(events, expected);
}

#[test]
fn finish_reasons_of_every_kind_are_understood() {
    let text = r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"FINISH"}]}"#;
    for (word, reason, raw) in [
        ("stop", StopReason::Stop, None),
        ("", StopReason::Stop, None),
        ("eos", StopReason::Stop, Some("eos")),
        ("end", StopReason::Stop, Some("end")),
        ("length", StopReason::Length, None),
        ("tool_calls", StopReason::Stop, None),
    ] {
        let message = done(&[&text.replace("FINISH", word), "[DONE]"]);
        assert_eq!(
            (message.stop_reason, message.raw_stop_reason.as_deref()),
            (reason, raw)
        );
    }
    for (word, kind) in [
        ("content_filter", LlmErrorKind::ContentFilter),
        ("weird", LlmErrorKind::Server),
    ] {
        let (error, message) = failed(&[&text.replace("FINISH", word), USAGE, "[DONE]"]);
        assert_eq!(
            (error.kind, error.billing),
            (kind, Billing::Known(message.usage))
        );
        assert_eq!(message.cost, NanoUsd(13_000));
    }
}

#[test]
fn an_answer_is_whole_with_done_or_a_finish_reason_and_cut_without_both() {
    let chunk = r#"{"choices":[{"delta":{"content":"x"}}]}"#;
    let finish = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    assert_eq!(done(&[chunk, "[DONE]"]).text(), "x");
    assert_eq!(done(&[chunk, finish]).text(), "x");
    let (error, message) = failed(&[chunk]);
    assert_eq!(
        (error.kind, error.billing),
        (LlmErrorKind::StreamCut, Billing::Unknown)
    );
    assert_eq!(message.text(), "x");
    assert_eq!(decode(&[]).len(), 1);
}

#[test]
fn tool_calls_are_told_apart_however_they_are_numbered() {
    let whole = |index: &str, id: &str, name: &str, args: &str| {
        json!({"choices": [{"delta": {"tool_calls": [{"id": id, "function": {"name": name, "arguments": args}}]}}]})
            .to_string()
            .replace(r#"[{"id""#, &format!(r#"[{{{index}"id""#))
    };
    let two = [
        ("a", "f", r#"{"x":1}"#.to_owned()),
        ("b", "g", r#"{"y":2}"#.to_owned()),
    ];
    for index in [
        ["\"index\":0,", "\"index\":1,"],
        ["\"index\":0,"; 2],
        [""; 2],
    ] {
        let first = whole(index[0], "a", "f", "{\"x\":");
        let more = whole(index[0], "a", "", "1}");
        let second = whole(index[1], "b", "g", "{\"y\":2}");
        let stop = r#"{"choices":[{"finish_reason":"stop"}]}"#;
        let message = done(&[&first, &more, &second, stop]);
        assert_eq!(calls(&message), two, "{index:?}");
        assert_eq!(message.stop_reason, StopReason::ToolUse);
    }
    // Without ids they are made up.
    let one = whole("", "", "f", "{}");
    let stop = r#"{"choices":[{"finish_reason":"stop"}]}"#;
    assert_eq!(
        calls(&done(&[&one, &one, stop, "[DONE]"])),
        [
            ("call_0", "f", "{}".to_owned()),
            ("call_1", "f", "{}".to_owned())
        ]
    );
    // Fragments may interleave.
    let message = done(&[
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":""}},{"index":1,"id":"b","function":{"name":"g"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{\"y\":2}"}},{"index":0,"function":{"arguments":"{\"x\":1}"}}]},"finish_reason":"tool_calls"}]}"#,
    ]);
    assert_eq!(calls(&message), two);
}

#[test]
fn arguments_are_parsed_at_the_end() {
    let call = |args: &str, finish: &str| {
        let delta = json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": args}}]});
        let chunk = json!({"choices": [{"delta": delta, "finish_reason": finish}]}).to_string();
        let message = done(&[&chunk]);
        let call = message.tool_calls().next().unwrap().clone();
        (
            call.arguments,
            call.arguments_error.is_some(),
            message.stop_reason,
        )
    };
    let use_tool = StopReason::ToolUse;
    assert_eq!(call("", "tool_calls"), (json!({}), false, use_tool));
    assert_eq!(
        call("{\"a\":\"x\ny\"}", "tool_calls"),
        (json!({"a": "x\ny"}), false, use_tool)
    );
    assert_eq!(call("[1]", "tool_calls"), (json!({}), true, use_tool));
    assert_eq!(
        call("{\"a\":", "length"),
        (json!({}), true, StopReason::Length)
    );
}

#[test]
fn reasoning_is_thinking_and_is_not_doubled() {
    for fields in [
        r#""reasoning_content":"hm""#,
        r#""reasoning":"hm""#,
        r#""reasoning_text":"hm""#,
        r#""reasoning_content":"hm","reasoning":"hm""#,
        r#""reasoning_content":"","reasoning":"hm""#,
    ] {
        let chunk = format!(r#"{{"choices":[{{"delta":{{{fields},"content":"x"}}}}]}}"#);
        let message = done(&[&chunk, "[DONE]"]);
        let thinking = AssistantBlock::Thinking {
            text: "hm".into(),
            signature: None,
            redacted: false,
        };
        let text = AssistantBlock::Text {
            text: "x".into(),
            signature: None,
        };
        assert_eq!(message.content, [thinking, text], "{fields}");
    }
}

#[test]
fn usage_is_found_wherever_it_is() {
    let tokens = |input, cache_read, output| Usage {
        input,
        output,
        cache_read,
        ..Usage::default()
    };
    for (chunk, usage) in [
        (
            r#"{"choices":[{"delta":{},"usage":{"prompt_tokens":9,"completion_tokens":2}}]}"#,
            tokens(9, 0, 2),
        ),
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_cache_hit_tokens":4}}"#,
            tokens(5, 4, 2),
        ),
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":2,"cached_tokens":40}}"#,
            tokens(0, 9, 2),
        ),
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":20}}"#,
            tokens(9, 0, 11),
        ),
    ] {
        assert_eq!(done(&[chunk, "[DONE]"]).usage, usage, "{chunk}");
    }
}

#[test]
fn a_whole_answer_without_usage_is_charged_at_its_upper_bound() {
    let message = done(&[
        r#"{"choices":[{"delta":{"content":"twelve bytes"}}],"usage":null}"#,
        "[DONE]",
    ]);
    assert_eq!(
        message.usage,
        Usage {
            input: 70,
            output: 12,
            ..Usage::default()
        }
    );
    assert_eq!(
        (message.cost, message.raw_stop_reason),
        (NanoUsd(94_000), None)
    );
}

#[test]
fn errors_inside_a_stream_are_errors() {
    for (chunk, kind) in [
        (
            r#"{"error":{"message":"boom","code":429}}"#,
            LlmErrorKind::RateLimited,
        ),
        (
            r#"{"error":{"message":"boom","type":"insufficient_quota"}}"#,
            LlmErrorKind::Quota,
        ),
        (r#"{"error":"boom"}"#, LlmErrorKind::Server),
        (r#"{"code":"500","error":"boom"}"#, LlmErrorKind::Server),
        (r#"{"detail":"boom"}"#, LlmErrorKind::Server),
        (
            r#"{"object":"error","message":"boom"}"#,
            LlmErrorKind::Server,
        ),
        (
            r#"{"error":{"message":"boom"},"choices":[{"delta":{"content":""}}]}"#,
            LlmErrorKind::Server,
        ),
    ] {
        let (error, message) = failed(&[r#"{"choices":[{"delta":{"content":"x"}}]}"#, chunk]);
        assert_eq!(
            (error.kind, &error.billing),
            (kind, &Billing::Unknown),
            "{chunk}"
        );
        assert!(error.message.contains("boom"), "{error}");
        assert_eq!(
            (message.text(), message.stop_reason),
            ("x".to_owned(), StopReason::Error)
        );
    }
    for garbage in ["{]", "<html>", "7", "{\"choices\":7}"] {
        assert_eq!(failed(&[garbage]).0.kind, LlmErrorKind::Decode, "{garbage}");
    }
}
