use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Anything where something else belongs.
fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!([1, "x"])),
        Just(json!("text")),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
    ]
}

fn index() -> impl Strategy<Value = Value> {
    prop_oneof![6 => (0..4_u64).prop_map(Value::from), 1 => odd()]
}

fn count() -> impl Strategy<Value = Value> {
    prop_oneof![4 => (0..2_000_u64).prop_map(Value::from), 1 => odd()]
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let known = proptest::sample::select(words).prop_map(Value::from);
    prop_oneof![12 => known, 1 => odd()]
}

fn piece() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => "[a-zé{}\":, \\n]{0,6}".prop_map(Value::from),
        1 => odd()
    ]
}

fn usage() -> impl Strategy<Value = Value> {
    let told = (count(), count(), count(), count(), count());
    let told = told.prop_map(|(input, output, read, write, long)| {
        json!({"input_tokens": input, "output_tokens": output, "cache_read_input_tokens": read,
            "cache_creation_input_tokens": write,
            "cache_creation": {"ephemeral_1h_input_tokens": long},
            "output_tokens_details": {"thinking_tokens": long}})
    });
    prop_oneof![6 => told, 1 => odd()]
}

fn event() -> impl Strategy<Value = Value> {
    let blocks = word(&[
        "text",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "server_tool_use",
        "novel",
    ]);
    let deltas = word(&[
        "text_delta",
        "thinking_delta",
        "signature_delta",
        "input_json_delta",
        "citations_delta",
    ]);
    let reasons = word(&[
        "end_turn",
        "tool_use",
        "max_tokens",
        "refusal",
        "pause_turn",
        "novel",
    ]);
    prop_oneof![
        2 => (piece(), piece(), usage()).prop_map(|(id, model, usage)| {
            json!({"type": "message_start", "message": {"id": id, "model": model, "usage": usage}})
        }),
        6 => (index(), blocks, piece(), piece()).prop_map(|(index, kind, a, b)| {
            let block = json!({"type": kind, "text": a, "thinking": a, "data": a, "id": a, "name": b, "input": b});
            json!({"type": "content_block_start", "index": index, "content_block": block})
        }),
        10 => (index(), deltas, piece()).prop_map(|(index, kind, a)| {
            let delta = json!({"type": kind, "text": a, "thinking": a, "signature": a, "partial_json": a});
            json!({"type": "content_block_delta", "index": index, "delta": delta})
        }),
        5 => index().prop_map(|index| json!({"type": "content_block_stop", "index": index})),
        2 => (reasons, piece(), usage()).prop_map(|(reason, why, usage)| {
            let delta = json!({"stop_reason": reason, "stop_details": {"explanation": why}});
            json!({"type": "message_delta", "delta": delta, "usage": usage})
        }),
        1 => Just(json!({"type": "message_stop"})),
        1 => Just(json!({"type": "ping"})),
        1 => odd().prop_map(|error| json!({"type": "novel", "index": error, "error": error})),
        1 => (word(&["message_start", "content_block_start", "content_block_delta", "message_delta"]), odd())
            .prop_map(|(kind, odd)| json!({"type": kind, "index": 0, "message": odd, "content_block": odd, "delta": odd, "usage": odd})),
    ]
}

proptest! {
    /// `decode_as` checks the grammar, and that the fold of the events is the final message.
    #[test]
    fn whatever_is_sent_the_events_obey_the_grammar(
        events in proptest::collection::vec(event(), 0..40),
        garbage in proptest::option::of((0..40_usize, ".{0,12}")),
        ends in any::<bool>(),
    ) {
        let mut events: Vec<String> = events.iter().map(Value::to_string).collect();
        if let Some((at, text)) = garbage {
            events.insert(at.min(events.len()), text);
        }
        if ends {
            events.push(json!({"type": "message_stop"}).to_string());
        }
        let events: Vec<_> = events.iter().map(String::as_str).collect();
        decode(&events);
    }

    #[test]
    fn an_answer_reads_the_same_wherever_its_deltas_are_cut(
        text in "[a-z é\\n\"\\\\]{1,20}",
        cuts in proptest::collection::vec(1..5_usize, 20),
    ) {
        let arguments = json!({ "text": text }).to_string();
        let cut = |whole: &str| {
            let mut chars = whole.chars().peekable();
            let mut cuts = cuts.iter();
            let mut pieces = Vec::new();
            while chars.peek().is_some() {
                let n = cuts.next().copied().unwrap_or(usize::MAX);
                pieces.push(chars.by_ref().take(n).collect::<String>());
            }
            pieces
        };
        let mut events = vec![json!({"type": "message_start", "message": {"id": "r"}})];
        let blocks = [json!({"type": "text"}), json!({"type": "tool_use", "id": "a", "name": "f"})];
        for (index, block) in blocks.iter().enumerate() {
            events.push(json!({"type": "content_block_start", "index": index, "content_block": block}));
        }
        for piece in cut(&text) {
            events.push(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}));
        }
        for piece in cut(&arguments) {
            events.push(json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": piece}}));
        }
        events.push(json!({"type": "message_stop"}));
        let events: Vec<String> = events.iter().map(Value::to_string).collect();
        let message = done(&events.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(message.text(), text);
        prop_assert_eq!(calls(&message), [("a", "f", arguments)]);
    }
}
