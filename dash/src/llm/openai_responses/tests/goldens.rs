use pretty_assertions::assert_eq;
use serde_json::json;

use super::*;
use crate::llm::{Billing, LlmErrorKind};
use crate::model::StopReason;

/// Decodes a stream's text.
fn golden(text: &str) -> Vec<LlmEvent> {
    let blocks = text.split("\n\n").filter(|block| !block.is_empty());
    let events: Vec<(&str, &str)> = blocks
        .map(|block| {
            let (name, data) = block.split_once('\n').unwrap();
            let name = name.strip_prefix("event: ").unwrap();
            (name, data.strip_prefix("data: ").unwrap())
        })
        .collect();
    decode_named(&events)
}

macro_rules! golden {
    ($name:literal) => {
        golden(include_str!(concat!("../goldens/", $name, ".sse")))
    };
}

fn deltas(events: &[LlmEvent]) -> Vec<&str> {
    let told = events.iter().filter_map(|event| match event {
        LlmEvent::TextDelta { delta, .. }
        | LlmEvent::ThinkingDelta { delta, .. }
        | LlmEvent::ToolCallDelta { delta, .. } => Some(delta.as_str()),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_plain_answer_gives_exactly_these_events() {
    let events = golden!("llama_text");
    let usage = Usage {
        cache_read: 4,
        ..tokens(8, 3)
    };
    let whole = "Hello there.".to_owned();
    let signature = Some("msg_l1".to_owned());
    let delta = |delta: &str| LlmEvent::TextDelta {
        index: 0,
        delta: delta.to_owned(),
    };
    let message = AssistantMessage {
        content: vec![text(&whole, "msg_l1")],
        provider: "p".into(),
        model: "m".into(),
        api: "openai-responses".into(),
        cost_reported: false,
        response_model: None,
        response_id: Some("resp_l".into()),
        usage,
        cost: NanoUsd(14_000),
        stop_reason: StopReason::Stop,
        raw_stop_reason: None,
    };
    let expected = [
        LlmEvent::Start {
            model: None,
            response_id: Some("resp_l".into()),
        },
        LlmEvent::Heartbeat,
        LlmEvent::Heartbeat,
        LlmEvent::TextStart { index: 0 },
        delta("Hello"),
        delta(" there"),
        delta("."),
        LlmEvent::TextEnd {
            index: 0,
            text: whole,
            signature,
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
fn calls_without_places_are_told_apart_by_their_ids() {
    let message = message_of(golden!("llama_calls"));
    let expected = [
        call("call_a", "get_weather", json!({"city": "Paris"}), "fc_a"),
        call("call_b", "get_weather", json!({"city": "Rome"}), "fc_b"),
    ];
    assert_eq!(message.content, expected);
    assert_eq!(message.stop_reason, StopReason::ToolUse);
}

/// llama.cpp calls everything completed, even what the limit cut.
#[test]
fn a_half_call_that_is_called_completed_is_not_run() {
    let message = message_of(golden!("llama_limit"));
    let refused = refused(&message);
    assert!(
        matches!(refused[..], [("call_a", "get_weather", why)] if why.ends_with(r#"{"city": "Par"#)),
        "{refused:?}"
    );
}

#[test]
fn an_answer_that_reached_its_limit_is_cut_even_if_the_server_calls_it_completed() {
    let completed = |tokens: u64| {
        json!({"type": "response.completed", "response": {
            "status": "completed",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "Once"}]}],
            "usage": {"input_tokens": 5, "output_tokens": tokens},
        }})
    };
    for (tokens, reason) in [(15, StopReason::Stop), (16, StopReason::Length)] {
        let mut decoder = ResponsesDecoder::new(AnswerSetup {
            output_limit: 16,
            ..setup()
        });
        let mut out = Vec::new();
        let (name, data) = ("message", &*completed(tokens).to_string());
        decoder.feed(SseEvent { name, data }, &mut out);
        assert_eq!(message_of(out).stop_reason, reason, "{tokens}");
    }
}

#[test]
fn reasoning_in_the_open_is_thinking_and_is_kept_for_replay() {
    let message = message_of(golden!("llama_reasoning"));
    let item = r#"{"type":"reasoning","id":"rs_l","summary":[],"content":[{"type":"reasoning_text","text":"Let me think."}]}"#;
    let expected = [thinking("Let me think.", item), text("Yes.", "msg_l1")];
    assert_eq!(message.content, expected);
}

#[test]
fn summaries_are_one_thinking_block_with_the_final_item_as_its_signature() {
    let events = golden!("reasoning_encrypted");
    let deltas = deltas(&events);
    assert_eq!(
        deltas,
        [
            "**Plan**\n\n",
            "Add.",
            "\n\n",
            "**Check**",
            "I will ",
            "add.",
            r#"{"a":1,"#,
            r#""b":2}"#
        ]
    );
    let message = message_of(events);
    let item = r#"{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"**Plan**\n\nAdd."},{"type":"summary_text","text":"**Check**"}],"encrypted_content":"gAAAAABfinal=="}"#;
    let expected = [
        thinking("**Plan**\n\nAdd.\n\n**Check**", item),
        text("I will add.", "msg_1"),
        call("call_1", "add", json!({"a": 1, "b": 2}), "fc_1"),
    ];
    assert_eq!(message.content, expected);
    let usage = Usage {
        input: 30,
        output: 50,
        cache_read: 60,
        cache_write: 10,
        reasoning: 32,
        cache_write_long: 0,
    };
    assert_eq!((message.usage, message.cost), (usage, NanoUsd(130_000)));
    assert_eq!(
        message.response_model.as_deref(),
        Some("gpt-5.4-2026-03-05")
    );
}

#[test]
fn calls_may_interleave() {
    let message = message_of(golden!("parallel_calls"));
    let expected = [
        call("call_1", "f", json!({"x": 1}), "fc_1"),
        call("call_2", "g", json!({"y": 2}), "fc_2"),
    ];
    assert_eq!(message.content, expected);
}

#[test]
fn an_answer_cut_by_the_limit_keeps_its_text_and_runs_no_half_call() {
    let message = message_of(golden!("incomplete_length"));
    assert_eq!(message.stop_reason, StopReason::Length);
    assert_eq!(message.text(), "Writing.");
    let refused = refused(&message);
    assert!(
        matches!(refused[..], [("call_1", "write", why)] if why.contains("before the call was whole")),
        "{refused:?}"
    );
    assert_eq!(message.usage, tokens(20, 16));
}

#[test]
fn an_answer_the_filter_cut_is_an_error_with_what_was_said_and_billed() {
    let (error, message) = error_of(golden!("incomplete_filtered"));
    assert_eq!(error.kind, LlmErrorKind::ContentFilter);
    assert_eq!(error.billing, Billing::Known(tokens(20, 3)));
    assert_eq!(message.text(), "Well, ");
}

#[test]
fn a_rate_limit_tells_how_long_to_wait() {
    let (error, message) = error_of(golden!("failed_rate_limit"));
    assert_eq!(error.kind, LlmErrorKind::RateLimited);
    assert_eq!(error.retry_after_ms, Some(1_300));
    assert_eq!(error.billing, Billing::Unknown);
    assert_eq!(message.text(), "One two");
    assert_eq!(message.stop_reason, StopReason::Error);
}

#[test]
fn a_bare_error_ends_the_answer() {
    let (error, _) = error_of(golden!("error_overflow"));
    assert_eq!(error.kind, LlmErrorKind::ContextOverflow);
    assert!(error.message.contains("exceeds the context window"));
}

#[test]
fn the_end_of_an_item_corrects_what_was_streamed() {
    let events = golden!("corrected_text");
    assert_eq!(deltas(&events), ["The anwser ", "is 4"]);
    assert_eq!(
        message_of(events).content,
        [text("The answer is 4.", "msg_1")]
    );
}

#[test]
fn text_beyond_ascii_survives() {
    let message = message_of(golden!("beyond_ascii"));
    let said =
        "Gr\u{fc}\u{df}e, \u{65e5}\u{672c} \u{1f469}\u{200d}\u{1f680} \u{2028}\u{feff}\u{e9}\u{e9}";
    let expected = [
        text(said, "msg_1"),
        call(
            "call_1",
            "sag\u{e9}",
            json!({"wort": "na\u{ef}ve \u{1f980}"}),
            "fc_1",
        ),
    ];
    assert_eq!(message.content, expected);
}

#[test]
fn items_that_were_not_streamed_are_taken_from_the_final_list() {
    let message = message_of(golden!("not_streamed"));
    let expected = [
        text("Found", "msg_1"),
        text("it.", "msg_1"),
        call("call_1", "open", json!({"n": 1}), "fc_1"),
    ];
    assert_eq!(message.content, expected);
    assert_eq!(message.stop_reason, StopReason::ToolUse);
}

#[test]
fn a_refusal_is_text() {
    let message = message_of(golden!("refusal"));
    assert_eq!(message.content, [text("I can't help with that.", "msg_1")]);
    assert_eq!(message.stop_reason, StopReason::Stop);
}

#[test]
fn the_text_of_a_custom_tool_is_its_one_argument() {
    let events = golden!("custom_tool");
    assert_eq!(
        deltas(&events),
        [r#"{"input":""#, r#"print(\""#, r#"hi\")\n"#]
    );
    let expected = call(
        "call_1",
        "run",
        json!({"input": "print(\"hi\")\n"}),
        "ctc_1",
    );
    assert_eq!(message_of(events).content, [expected]);
}

#[test]
fn an_answer_without_its_end_was_cut() {
    let (error, message) = error_of(golden!("cut"));
    assert_eq!(error.kind, LlmErrorKind::StreamCut);
    assert_eq!(error.billing, Billing::Unknown);
    assert_eq!(message.text(), "Half a ");
}
