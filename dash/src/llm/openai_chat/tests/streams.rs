//! Whole answers as servers of each kind stream them.

use pretty_assertions::assert_eq;

use super::*;

/// The events of a stream: names and data.
fn events(stream: &str) -> Vec<(String, String)> {
    let stream = stream.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let fields = |block: &str, key: &str| {
        let lines = block.lines().filter_map(|line| line.strip_prefix(key));
        lines.map(str::trim_start).collect::<Vec<_>>().join("\n")
    };
    let blocks = stream.split("\n\n").map(|block| {
        let name = fields(block, "event:");
        (name, fields(block, "data:"))
    });
    blocks.filter(|(_name, data)| !data.is_empty()).collect()
}

fn stream(preset: &str, text: &str) -> Vec<LlmEvent> {
    let events = events(text);
    let events: Vec<_> = events.iter().map(|(n, d)| (&**n, &**d)).collect();
    let compat = Preset::find(preset).map_or(Compat::COMMON, |preset| preset.compat);
    decode_as(compat, model(), &events)
}

const ALL: [&str; 18] = [
    include_str!("../goldens/crlf_multibyte.sse"),
    include_str!("../goldens/deepseek_reasoning.sse"),
    include_str!("../goldens/groq.sse"),
    include_str!("../goldens/llama_cpp.sse"),
    include_str!("../goldens/lm_studio_error_event.sse"),
    include_str!("../goldens/mistral_parts.sse"),
    include_str!("../goldens/moonshot_usage_in_choice.sse"),
    include_str!("../goldens/ollama_index_zero.sse"),
    include_str!("../goldens/openai_tools_usage.sse"),
    include_str!("../goldens/openrouter_comments_cost.sse"),
    include_str!("../goldens/openrouter_error_midstream.sse"),
    include_str!("../goldens/proxy_empty_finish_reasons.sse"),
    include_str!("../goldens/runner_calls.sse"),
    include_str!("../goldens/runner_error.sse"),
    include_str!("../goldens/runner_text.sse"),
    include_str!("../goldens/vllm.sse"),
    include_str!("../goldens/xai_error_string.sse"),
    include_str!("../goldens/xai_ticks.sse"),
];

macro_rules! golden {
    ($preset:literal, $name:literal) => {
        stream($preset, include_str!(concat!("../goldens/", $name, ".sse")))
    };
}

fn usage(input: u64, cache_read: u64, output: u64, reasoning: u64) -> Usage {
    Usage {
        input,
        cache_read,
        output,
        reasoning,
        ..Usage::default()
    }
}

const PARIS: &str = r#"{"city":"Paris"}"#;
const OSLO: &str = r#"{"city":"Oslo"}"#;

#[test]
fn openai_streams_two_calls_and_then_its_usage() {
    let message = whole(golden!("openai", "openai_tools_usage"));
    let expected = [
        ("call_a1", "get_weather", PARIS.to_owned()),
        ("call_b2", "get_weather", OSLO.to_owned()),
    ];
    assert_eq!(calls(&message), expected);
    assert_eq!(message.stop_reason, StopReason::ToolUse);
    assert_eq!(message.usage, usage(176, 1_024, 90, 64));
    assert_eq!(
        message.response_model.as_deref(),
        Some("gpt-5-mini-2025-08-07")
    );
    assert!(!message.cost_reported);
}

#[test]
fn llama_cpp_begins_with_null_and_its_blanks_are_content() {
    let message = whole(golden!("llama.cpp", "llama_cpp"));
    assert_eq!(message.text(), "Rain \n\nfalls");
    assert_eq!(thinking(&message), ("A haiku, then.".to_owned(), None));
    assert_eq!(message.usage, usage(2, 28, 9, 0));
}

#[test]
fn ollama_counts_every_call_as_the_first_and_stops_with_stop() {
    let message = whole(golden!("ollama", "ollama_index_zero"));
    let expected = [
        ("call_x1", "get_weather", PARIS.to_owned()),
        ("call_y2", "get_weather", OSLO.to_owned()),
    ];
    assert_eq!(calls(&message), expected);
    assert_eq!(message.stop_reason, StopReason::ToolUse);
    assert_eq!(thinking(&message).0, "Two cities.");
}

#[test]
fn openrouter_tells_details_the_models_own_word_and_what_it_billed() {
    let message = whole(golden!("openrouter", "openrouter_comments_cost"));
    assert_eq!(message.text(), "Three.");
    let details = r#"[{"type":"reasoning.text","text":"Count them.","format":"anthropic-claude-v1","index":0,"signature":"c2ln"}]"#;
    assert_eq!(
        thinking(&message),
        ("Count them.".to_owned(), Some(details.to_owned()))
    );
    assert_eq!(message.stop_reason, StopReason::Stop);
    assert_eq!(message.raw_stop_reason.as_deref(), Some("end_turn"));
    assert_eq!(
        (message.cost, message.cost_reported),
        (NanoUsd(612_000), true)
    );
}

#[test]
fn openrouter_may_fail_in_the_middle_of_a_good_response() {
    let (error, message) = broken(golden!("openrouter", "openrouter_error_midstream"));
    assert_eq!(
        (error.kind, error.billing),
        (LlmErrorKind::Server, Billing::Unknown)
    );
    assert!(error.message.contains("Provider returned error"), "{error}");
    assert_eq!(message.text(), "Half an");
}

#[test]
fn deepseek_reasons_first_and_counts_its_cache() {
    let message = whole(golden!("deepseek", "deepseek_reasoning"));
    assert_eq!(thinking(&message), ("9.11 is less.".to_owned(), None));
    assert_eq!(message.text(), "9.8 is greater.");
    assert_eq!(message.usage, usage(4, 60, 30, 21));
}

#[test]
fn groq_tells_usage_in_a_field_of_its_own() {
    let message = whole(golden!("groq", "groq"));
    assert_eq!(thinking(&message).0, "Use f.");
    assert_eq!(calls(&message), [("fc_1", "f", r#"{"x":1}"#.to_owned())]);
    assert_eq!(message.usage, usage(70, 0, 25, 8));
}

#[test]
fn mistral_thinks_in_parts_of_the_content() {
    let message = whole(golden!("mistral", "mistral_parts"));
    assert_eq!(thinking(&message).0, "Short answer.");
    assert_eq!(message.text(), "Sure.");
    assert_eq!(
        calls(&message),
        [("D681PevKs", "f", r#"{"x":1}"#.to_owned())]
    );
    assert_eq!(message.usage, usage(90, 0, 40, 0));
}

#[test]
fn xai_fails_with_a_plain_string() {
    let (error, message) = broken(golden!("xai", "xai_error_string"));
    assert_eq!(error.kind, LlmErrorKind::RateLimited);
    assert!(error.message.contains("60 per minute"), "{error}");
    assert_eq!(message.text(), "I ");
}

#[test]
fn xai_bills_in_ticks_and_counts_reasoning_beside_the_completion() {
    let message = whole(golden!("xai", "xai_ticks"));
    assert_eq!(message.usage, usage(7, 112, 107, 98));
    assert_eq!(
        (message.cost, message.cost_reported),
        (NanoUsd(3_775_600), true)
    );
}

#[test]
fn vllm_says_its_reasoning_twice_and_ends_with_the_last_fragment() {
    let message = whole(golden!("vllm", "vllm"));
    assert_eq!(thinking(&message).0, "Need f");
    let id = "chatcmpl-tool-9f8e7d6c5b4a39281706f5e4d3c2b1a0";
    assert_eq!(calls(&message), [(id, "f", r#"{"x":1}"#.to_owned())]);
    assert_eq!(message.stop_reason, StopReason::ToolUse);
}

#[test]
fn any_line_ends_and_any_script_are_read() {
    let message = whole(golden!("", "crlf_multibyte"));
    assert_eq!(message.text(), "Grüße, 世界 👩\u{200d}🚀\u{2028}é\\\"\t");
}

#[test]
fn lm_studio_says_in_an_event_that_the_prompt_is_too_long() {
    let (error, _) = broken(golden!("lmstudio", "lm_studio_error_event"));
    assert_eq!(error.kind, LlmErrorKind::ContextOverflow);
}

#[test]
fn moonshot_tells_usage_in_the_choice() {
    let message = whole(golden!("", "moonshot_usage_in_choice"));
    assert_eq!(message.usage, usage(8, 32, 3, 0));
}

#[test]
fn a_proxy_may_send_empty_finish_reasons_and_words_of_its_own() {
    let message = whole(golden!("", "proxy_empty_finish_reasons"));
    assert_eq!(message.text(), "Ok!");
    assert_eq!(message.stop_reason, StopReason::Stop);
    assert_eq!(message.raw_stop_reason.as_deref(), Some("eos"));
}

#[test]
fn a_text_comes_piece_by_piece_and_empty_pieces_are_none() {
    let mut events = golden!("", "runner_text");
    let deltas: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            LlmEvent::TextDelta { delta, .. } => Some(&**delta),
            _ => None,
        })
        .collect();
    assert_eq!(deltas, ["Grüße, ", "😀 Welt"]);
    let told = LlmEvent::Usage {
        usage: usage(12, 0, 5, 0),
    };
    assert_eq!(events.iter().filter(|event| **event == told).count(), 1);
    events.retain(|event| *event != LlmEvent::Heartbeat);
    let message = whole(events);
    assert_eq!(message.text(), "Grüße, 😀 Welt");
    assert_eq!(message.stop_reason, StopReason::Stop);
    assert_eq!(message.response_id.as_deref(), Some("gen-1"));
    assert_eq!(message.response_model.as_deref(), Some("m-2"));
    assert_eq!(message.usage, usage(12, 0, 5, 0));
}

#[test]
fn a_chunk_may_end_one_call_and_be_the_whole_of_the_next() {
    let events = golden!("", "runner_calls");
    let deltas: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            LlmEvent::ToolCallDelta { delta, .. } => Some(&**delta),
            _ => None,
        })
        .collect();
    assert_eq!(deltas, [r#"{"city":"Zür"#, r#"ich"}"#, "{}"]);
    let ends: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            LlmEvent::ToolCallEnd { call, .. } => Some(&*call.id),
            _ => None,
        })
        .collect();
    assert_eq!(ends, ["a", "b"]);
    let message = whole(events);
    assert_eq!(thinking(&message).0, "Two lookups.");
    let expected = [
        ("a", "weather", r#"{"city":"Zürich"}"#.to_owned()),
        ("b", "time", "{}".to_owned()),
    ];
    assert_eq!(calls(&message), expected);
    assert_eq!(message.stop_reason, StopReason::ToolUse);
    assert_eq!(message.usage, usage(30, 0, 21, 0));
}

#[test]
fn an_error_event_ends_a_text_that_is_kept() {
    let (error, message) = broken(golden!("", "runner_error"));
    let told = (error.kind, error.billing, &*error.message);
    let words = "the server reported: overloaded";
    assert_eq!(told, (LlmErrorKind::Overloaded, Billing::Unknown, words));
    assert_eq!(message.text(), "so far");
    assert_eq!(message.stop_reason, StopReason::Error);
}

#[test]
fn a_stream_cut_after_any_event_ends_once_and_is_whole_only_with_a_reason() {
    for text in ALL {
        let events = events(text);
        for len in 0..events.len() {
            let cut: Vec<_> = events[..len].iter().map(|(n, d)| (&**n, &**d)).collect();
            let told = |data: &str| {
                let empty = r#""finish_reason":"""#;
                data.contains(r#""finish_reason":""#) && !data.contains(empty)
            };
            let last = decode_as(Compat::COMMON, model(), &cut).pop();
            if matches!(last, Some(LlmEvent::Done { .. })) {
                assert!(cut.iter().any(|(_, data)| told(data)), "{cut:?}");
            }
        }
    }
}
