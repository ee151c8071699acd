use pretty_assertions::assert_eq;
use serde_json::json;

use super::*;
use crate::llm::{Billing, LlmErrorKind};
use crate::model::{StopReason, Usage};

/// A raw answer in `goldens/`, decoded.
macro_rules! golden {
    ($name:literal) => {
        replay(include_str!(concat!("../goldens/", $name, ".sse")))
    };
}

/// Decodes a raw answer: lines of `event:` and `data:`, a blank one after each event.
fn replay(raw: &str) -> Vec<LlmEvent> {
    let mut events = Vec::new();
    let (mut name, mut data) = ("message", None);
    for line in raw.lines() {
        if let Some(told) = line.strip_prefix("event: ") {
            name = told;
        } else if let Some(told) = line.strip_prefix("data: ") {
            data = Some(told);
        } else if let Some(data) = data.take().filter(|_| line.is_empty()) {
            events.push((std::mem::replace(&mut name, "message"), data));
        }
    }
    decode_as(model(), &events)
}

const START: &str = r#"{"type":"message_start","message":{"id":"r","model":"m","usage":{"input_tokens":10,"cache_read_input_tokens":3,"output_tokens":1}}}"#;
const TEXT: &str =
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
const HI: &str =
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#;
const SHUT: &str = r#"{"type":"content_block_stop","index":0}"#;
const END: &str =
    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;

fn tokens(input: u64, cache_read: u64, output: u64) -> Usage {
    Usage {
        input,
        cache_read,
        output,
        ..Usage::default()
    }
}

#[test]
fn a_plain_answer_gives_exactly_these_events() {
    let events = decode(&[
        START,
        r#"{"type": "ping"}"#,
        TEXT,
        HI,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" \n"}}"#,
        SHUT,
        END,
        STOP,
        STOP,
        HI,
    ]);
    let said = "Hi \n".to_owned();
    let usage = tokens(10, 3, 4);
    let message = AssistantMessage {
        content: vec![text(&said)],
        provider: "p".into(),
        model: "m".into(),
        api: "anthropic-messages".into(),
        response_model: None,
        response_id: Some("r".into()),
        usage,
        cost: NanoUsd(18_000),
        cost_reported: false,
        stop_reason: StopReason::Stop,
        raw_stop_reason: None,
    };
    let expected = [
        LlmEvent::Start {
            model: None,
            response_id: Some("r".into()),
        },
        LlmEvent::Usage {
            usage: tokens(10, 3, 1),
        },
        LlmEvent::Heartbeat,
        LlmEvent::TextStart { index: 0 },
        LlmEvent::TextDelta {
            index: 0,
            delta: "Hi".into(),
        },
        LlmEvent::TextDelta {
            index: 0,
            delta: " \n".into(),
        },
        LlmEvent::TextEnd {
            index: 0,
            text: said,
            signature: None,
        },
        LlmEvent::Usage { usage },
        LlmEvent::Done {
            reason: StopReason::Stop,
            message,
        },
    ];
    assert_eq!(events, expected);
}

#[test]
fn a_cached_answer_beyond_ascii_is_read_with_its_usage() {
    let message = whole(golden!("text_cached"));
    assert_eq!(message.text(), "Grüße aus 東京 🗼\n\nÇa va?");
    assert_eq!(
        message.usage,
        Usage {
            input: 21,
            output: 19,
            cache_read: 1_200,
            cache_write: 300,
            reasoning: 0,
            cache_write_long: 200,
        }
    );
    assert_eq!(
        (
            message.response_id.as_deref(),
            message.response_model.as_deref()
        ),
        (Some("msg_text"), Some("claude-sonnet-5-20260301"))
    );
    assert_eq!(message.stop_reason, StopReason::Stop);
}

#[test]
fn parallel_calls_interleave_and_may_have_no_arguments() {
    let events = golden!("tools_parallel");
    let deltas = events.iter().filter_map(|event| match event {
        LlmEvent::ToolCallDelta { index, delta } => Some((*index, delta.as_str())),
        _ => None,
    });
    assert_eq!(
        deltas.collect::<Vec<_>>(),
        [
            (1, "{\"city\": \"Zü"),
            (2, "{\"city\": \"Oslo\","),
            (1, "rich\"}"),
            (2, " \"days\": 3}"),
        ]
    );
    let message = whole(events);
    assert_eq!(message.text(), "I look at both.");
    assert_eq!(
        calls(&message),
        [
            ("toolu_01", "get_weather", r#"{"city":"Zürich"}"#.to_owned()),
            (
                "toolu_02",
                "get_weather",
                r#"{"city":"Oslo","days":3}"#.to_owned()
            ),
            ("toolu_03", "now", "{}".to_owned()),
        ]
    );
    assert_eq!(message.stop_reason, StopReason::ToolUse);
    assert_eq!(message.usage, tokens(410, 0, 98));
}

#[test]
fn thinking_keeps_its_whole_signature() {
    let message = whole(golden!("thinking_signed"));
    let thought = thinking(
        "The sum of 2 and 2 is 4.",
        Some("EqQBCgIYAhIM1gbcDa9GJwZA=="),
    );
    assert_eq!(message.content, [thought, text("4")]);
    let usage = Usage {
        reasoning: 24,
        ..tokens(50, 0, 30)
    };
    assert_eq!(message.usage, usage);
}

#[test]
fn withheld_thinking_is_a_block_without_text() {
    let events = golden!("thinking_redacted");
    assert!(matches!(
        events.as_slice(),
        [
            LlmEvent::Start { .. },
            LlmEvent::Usage { .. },
            LlmEvent::ThinkingStart { index: 0 },
            LlmEvent::ThinkingEnd {
                index: 0,
                redacted: true,
                ..
            },
            ..
        ]
    ));
    assert_eq!(
        whole(events).content,
        [
            redacted("EmwKAhgBEgy3va3pzix/LafPsn4a"),
            thinking("Go on.", Some("c2ln")),
            text("Done."),
        ]
    );
}

#[test]
fn blocks_that_only_the_server_needs_are_left_out() {
    let message = whole(golden!("server_tools_crlf"));
    assert_eq!(
        message.content,
        [text("I search. "), text("Found – naïve.")]
    );
    assert_eq!(message.usage, tokens(2_100, 0, 61));
    assert_eq!(
        (message.stop_reason, message.raw_stop_reason),
        (StopReason::Stop, None)
    );
}

#[test]
fn an_answer_may_begin_without_its_head_and_hold_whole_arguments() {
    let events = golden!("no_message_start");
    assert_eq!(
        events[0],
        LlmEvent::Start {
            model: None,
            response_id: None
        }
    );
    let message = whole(events);
    assert_eq!(message.text(), " Calling.");
    let arguments = r#"{"a":1,"b":[2,"three"]}"#.to_owned();
    assert_eq!(calls(&message), [("call_x", "add", arguments)]);
    assert_eq!(message.usage, tokens(70, 30, 15));
}

#[test]
fn an_error_amid_the_answer_keeps_what_was_said_and_no_bill() {
    let (error, message) = broken(golden!("error_overloaded"));
    assert_eq!(error.kind, LlmErrorKind::Overloaded);
    assert_eq!(error.message, "the server reported: Overloaded");
    // The output that was told at the start is not all of it.
    assert_eq!(error.billing, Billing::Unknown);
    assert_eq!(message.text(), "Half a sen");
    assert_eq!(message.usage, tokens(12, 0, 1));
    assert_eq!(message.stop_reason, StopReason::Error);
}

#[test]
fn a_refusal_is_an_error_with_its_reason_and_its_bill() {
    let (error, message) = broken(golden!("refusal"));
    assert_eq!(error.kind, LlmErrorKind::ContentFilter);
    assert!(
        error
            .message
            .ends_with(": This request may break the rules."),
        "{error}"
    );
    assert_eq!(error.billing, Billing::Known(tokens(33, 0, 4)));
    assert_eq!(message.cost, NanoUsd(41_000));
}

#[test]
fn an_answer_without_its_last_event_was_cut() {
    let (error, message) = broken(golden!("cut"));
    assert_eq!(error.kind, LlmErrorKind::StreamCut);
    assert_eq!(error.billing, Billing::Known(tokens(9, 0, 4)));
    assert_eq!(message.text(), "The end is");
    let (error, _) = failed(&[START, TEXT, HI]);
    assert_eq!(
        (error.kind, error.billing),
        (LlmErrorKind::StreamCut, Billing::Unknown)
    );
    let (error, _) = failed(&[START, r#"{"type":"content_block_del"#]);
    assert_eq!(error.kind, LlmErrorKind::StreamCut);
    assert_eq!(decode(&[]).len(), 1);
}

#[test]
fn a_full_window_is_a_length_and_its_calls_are_broken() {
    let message = whole(golden!("window_exceeded"));
    assert_eq!(message.stop_reason, StopReason::Length);
    let call = message.tool_calls().next().unwrap();
    assert_eq!(call.arguments, json!({}));
    assert!(call.arguments_error.is_some());
}

#[test]
fn stop_reasons_of_every_kind_are_understood() {
    let end = |word: &str| {
        let delta = json!({"type": "message_delta", "delta": {"stop_reason": word}, "usage": {"output_tokens": 4}});
        decode(&[START, TEXT, HI, SHUT, &delta.to_string(), STOP])
    };
    for (word, reason) in [
        ("end_turn", StopReason::Stop),
        ("stop_sequence", StopReason::Stop),
        ("pause_turn", StopReason::Stop),
        ("", StopReason::Stop),
        // A promise without a call.
        ("tool_use", StopReason::Stop),
        ("max_tokens", StopReason::Length),
        ("model_context_window_exceeded", StopReason::Length),
    ] {
        let message = whole(end(word));
        assert_eq!(
            (message.stop_reason, message.raw_stop_reason),
            (reason, None),
            "{word}"
        );
    }
    let (error, message) = broken(end("weird"));
    assert_eq!(error.kind, LlmErrorKind::Server);
    assert!(error.message.contains("`weird`"), "{error}");
    assert_eq!(message.raw_stop_reason.as_deref(), Some("weird"));
    let (error, _) = broken(end("refusal"));
    assert_eq!(
        (error.kind, error.message.as_str()),
        (
            LlmErrorKind::ContentFilter,
            "the provider's filter withheld the answer"
        )
    );
}

#[test]
fn every_error_event_has_its_kind() {
    for (kind, message, expected) in [
        ("invalid_request_error", "no", LlmErrorKind::InvalidRequest),
        (
            "invalid_request_error",
            "prompt is too long: 9 tokens > 8 maximum",
            LlmErrorKind::ContextOverflow,
        ),
        (
            "invalid_request_error",
            "Your credit balance is too low",
            LlmErrorKind::Quota,
        ),
        ("authentication_error", "no", LlmErrorKind::Auth),
        ("billing_error", "no", LlmErrorKind::Quota),
        ("permission_error", "no", LlmErrorKind::Auth),
        ("not_found_error", "no", LlmErrorKind::NotFound),
        ("request_too_large", "no", LlmErrorKind::ContextOverflow),
        ("rate_limit_error", "no", LlmErrorKind::RateLimited),
        ("api_error", "no", LlmErrorKind::Server),
        ("timeout_error", "no", LlmErrorKind::Server),
        ("overloaded_error", "no", LlmErrorKind::Overloaded),
        ("novel_error", "no", LlmErrorKind::Server),
    ] {
        let body = json!({"type": "error", "error": {"type": kind, "message": message}});
        let (error, _) = failed(&[START, &body.to_string()]);
        assert_eq!(error.kind, expected, "{body}");
        assert_eq!(error.message, format!("the server reported: {message}"));
    }
    // However the event is marked as one.
    for (name, data) in [
        ("error", r#"{"message":"boom"}"#),
        ("error", "boom"),
        ("message", r#"{"error":"boom"}"#),
        ("message", r#"{"type":"error","message":"boom"}"#),
    ] {
        let (error, message) = broken(decode_as(model(), &[("message", START), (name, data)]));
        assert_eq!(error.message, "the server reported: boom", "{data}");
        assert_eq!(message.response_id.as_deref(), Some("r"));
    }
    let wait =
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"try again in 2s"}}"#;
    assert_eq!(failed(&[wait]).0.retry_after_ms, Some(2_000));
    for garbage in ["{]", "<html>", "7"] {
        let (error, _) = failed(&[START, garbage]);
        assert_eq!(error.kind, LlmErrorKind::Decode, "{garbage}");
    }
}

#[test]
fn the_name_of_an_event_counts_where_its_data_has_no_type() {
    let untyped = |data: &'static str| data.replacen(r#""type":"content_block_delta","#, "", 1);
    let hi = untyped(HI);
    let events = [
        ("message_start", START),
        ("content_block_start", TEXT),
        ("content_block_delta", hi.as_str()),
        ("ping", ""),
        ("message_delta", END),
        ("message_stop", "{}"),
    ];
    assert_eq!(whole(decode_as(model(), &events)).text(), "Hi");
}

#[test]
fn a_gateway_may_end_an_answer_in_its_own_way() {
    assert_eq!(done(&[START, TEXT, HI, END, "[DONE]"]).text(), "Hi");
    let (error, _) = failed(&[START, TEXT, HI, "[DONE]"]);
    assert_eq!(error.kind, LlmErrorKind::StreamCut);
    // Nothing told why it stopped; a call did.
    let call = r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","name":"f"}}"#;
    assert_eq!(done(&[START, call, STOP]).stop_reason, StopReason::ToolUse);
}

#[test]
fn blocks_are_told_apart_however_they_are_numbered() {
    let events = |first: &str, second: &str, shut: bool| {
        let index = |n: &str| match n {
            "" => String::new(),
            n => format!(r#""index":{n},"#),
        };
        let start = |n: &str, id: &str| {
            format!(
                r#"{{"type":"content_block_start",{}"content_block":{{"type":"tool_use","id":"{id}","name":"f","input":{{}}}}}}"#,
                index(n)
            )
        };
        let delta = |n: &str, json: &str| {
            let delta = json!({"type": "input_json_delta", "partial_json": json});
            let index = index(n);
            format!(r#"{{"type":"content_block_delta",{index}"delta":{delta}}}"#)
        };
        let stop = |n: &str| {
            let index = index(n);
            format!(r#"{{{index}"type":"content_block_stop"}}"#)
        };
        let mut events = vec![START.to_owned()];
        for (n, id, json) in [(first, "a", "{\"x\":1}"), (second, "b", "{\"y\":2}")] {
            events.extend([start(n, id), delta(n, json)]);
            if shut {
                events.push(stop(n));
            }
        }
        events.push(STOP.to_owned());
        events
    };
    for (first, second) in [
        ("0", "1"),
        ("0", "0"),
        ("7", "3"),
        ("", ""),
        ("null", "\"x\""),
    ] {
        for shut in [true, false] {
            let events = events(first, second, shut);
            let events: Vec<_> = events.iter().map(String::as_str).collect();
            assert_eq!(
                calls(&done(&events)),
                [
                    ("a", "f", r#"{"x":1}"#.to_owned()),
                    ("b", "f", r#"{"y":2}"#.to_owned()),
                ],
                "{events:#?}"
            );
        }
    }
}

#[test]
fn a_start_without_an_index_takes_the_index_of_its_deltas() {
    let start = r#"{"type":"content_block_start","content_block":{"type":"text","text":"Oh "}}"#;
    assert_eq!(done(&[START, start, HI, SHUT, STOP]).text(), "Oh Hi");
}

#[test]
fn deltas_without_a_start_begin_their_block() {
    let thought = r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#;
    let nameless = r#"{"type":"content_block_start","index":0}"#;
    let said = HI.replace(r#""index":0"#, r#""index":1"#);
    for events in [
        vec![thought, &said, END, STOP],
        vec![START, nameless, thought, &said, STOP],
    ] {
        let message = done(&events);
        assert_eq!(message.content, [thinking("hm", None), text("Hi")]);
    }
}

#[test]
fn ids_that_are_missing_or_taken_are_made() {
    let call = r#"{"type":"content_block_start","index":N,"content_block":{"type":"tool_use","id":ID,"name":"f","input":{}}}"#;
    let call = |n: &str, id: &str| call.replace('N', n).replace("ID", id);
    let message = done(&[
        START,
        &call("0", "\"a\""),
        &call("1", "\"a\""),
        &call("2", "null"),
        STOP,
    ]);
    let ids: Vec<_> = message.tool_calls().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["a", "a_1", "r_2"]);
}

#[test]
fn streamed_arguments_win_over_those_a_block_began_with() {
    let start = r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","name":"f","input":{"old":1}}}"#;
    let delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"new\":2}"}}"#;
    let arguments = |events: &[&str]| done(events).tool_calls().next().unwrap().arguments.clone();
    assert_eq!(arguments(&[START, start, delta, STOP]), json!({"new": 2}));
    assert_eq!(arguments(&[START, start, STOP]), json!({"old": 1}));
    let as_text = start.replace(r#"{"old":1}"#, r#""{\"old\":1}""#);
    assert_eq!(arguments(&[START, &as_text, STOP]), json!({"old": 1}));
}

#[test]
fn usage_is_cumulative_and_what_is_left_out_stays() {
    let end = |usage: &str| {
        let delta = END.replace(r#"{"output_tokens":4}"#, usage);
        done(&[START, TEXT, HI, SHUT, &delta, STOP]).usage
    };
    for (told, usage) in [
        (r#"{"output_tokens":4}"#, tokens(10, 3, 4)),
        (
            r#"{"input_tokens":12,"cache_read_input_tokens":null,"output_tokens":4}"#,
            tokens(12, 3, 4),
        ),
        (
            r#"{"input_tokens":0,"cache_read_input_tokens":0,"output_tokens":4}"#,
            tokens(10, 3, 4),
        ),
        (
            r#"{"input_tokens":5,"cache_read_input_tokens":8,"output_tokens":4}"#,
            tokens(5, 8, 4),
        ),
        (
            r#"{"output_tokens":4,"cache_creation":{"ephemeral_5m_input_tokens":2,"ephemeral_1h_input_tokens":5}}"#,
            Usage {
                cache_write: 7,
                cache_write_long: 5,
                ..tokens(10, 3, 4)
            },
        ),
        (
            r#"{"output_tokens":4,"cache_creation":7,"output_tokens_details":{"thinking_tokens":9}}"#,
            Usage {
                reasoning: 4,
                ..tokens(10, 3, 4)
            },
        ),
        // The output is not told: at least one token per byte received.
        ("{}", tokens(10, 3, 2)),
        ("null", tokens(10, 3, 2)),
        (r#"{"output_tokens":"4"}"#, tokens(10, 3, 2)),
        (r#"{"output_tokens":-4}"#, tokens(10, 3, 2)),
    ] {
        assert_eq!(end(told), usage, "{told}");
    }
    // Nothing is told at all: the bound of the prompt.
    assert_eq!(done(&[TEXT, HI, STOP]).usage, tokens(70, 0, 2));
}

#[test]
fn huge_counts_do_not_overflow() {
    let huge = u64::MAX;
    let start = json!({"type": "message_start", "message": {"usage": {
        "input_tokens": huge, "cache_read_input_tokens": huge, "cache_creation_input_tokens": huge,
        "cache_creation": {"ephemeral_5m_input_tokens": huge, "ephemeral_1h_input_tokens": huge}}}});
    let end = json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": huge}});
    let mut model = model();
    model.context_window = u32::MAX;
    let (start, end) = (start.to_string(), end.to_string());
    let events = [("message", &*start), ("message", &*end), ("message", STOP)];
    let usage = whole(decode_as(model, &events)).usage;
    assert_eq!(usage.total(), 4_000_000_000);
}

#[test]
fn a_failed_transport_ends_the_answer() {
    let mut decoder = decoder(model());
    let mut out = Vec::new();
    for data in [START, TEXT, HI] {
        let name = "message";
        decoder.feed(SseEvent { name, data }, &mut out);
    }
    let error = LlmError::billed_unknown(LlmErrorKind::Timeout, "silence");
    decoder.fail(error.clone(), &mut out);
    decoder.eof(&mut out);
    assert_eq!(check_grammar(&out), Ok(()));
    let (told, message) = broken(out);
    assert_eq!((told, message.text()), (error, "Hi".to_owned()));
}
