//! Whatever a server sends, the events obey their grammar.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn part() -> impl Strategy<Value = Value> {
    let signature = prop_oneof![
        3 => Just(Value::Null),
        1 => Just(json!("c2ln")),
        1 => Just(json!("")),
        1 => Just(json!(5)),
    ];
    let body = prop_oneof![
        ("[aé🗼 ]{0,3}", any::<bool>())
            .prop_map(|(text, thought)| json!({"text": text, "thought": thought})),
        ("[ab]?", "[fg]?", any::<bool>()).prop_map(|(id, name, odd)| {
            let args = if odd {
                json!("{\"x\":")
            } else {
                json!({"x": 1})
            };
            json!({"functionCall": {"id": id, "name": name, "args": args}})
        }),
        Just(json!({"executableCode": {"code": "1"}})),
        Just(json!({"functionCall": []})),
        Just(json!({})),
    ];
    (body, signature).prop_map(|(mut part, signature)| {
        part["thoughtSignature"] = signature;
        part
    })
}

fn data() -> impl Strategy<Value = String> {
    let finish = prop_oneof![
        8 => Just(""), 2 => Just("STOP"), 1 => Just("MAX_TOKENS"), 1 => Just("SAFETY"), 1 => Just("ODD")
    ];
    let usage = prop_oneof![
        Just(Value::Null),
        any::<(u64, u64, u64)>().prop_map(|(a, b, c)| json!({
            "promptTokenCount": a, "cachedContentTokenCount": b, "candidatesTokenCount": c,
            "thoughtsTokenCount": a, "toolUsePromptTokenCount": c})),
        (0..9_u64, 0..9_u64)
            .prop_map(|(a, b)| json!({"promptTokenCount": a, "thoughtsTokenCount": b})),
    ];
    let whole = (
        proptest::collection::vec(part(), 0..4),
        finish,
        usage,
        "[r]?",
    )
        .prop_map(|(parts, finish, usage, id)| {
            let candidate = json!({"content": {"parts": parts}, "finishReason": finish});
            json!({"candidates": [candidate], "usageMetadata": usage, "responseId": id}).to_string()
        });
    let golden = proptest::sample::select(GOLDENS.map(|(name, _)| name).to_vec());
    let golden = (golden, any::<proptest::sample::Index>()).prop_map(|(name, at)| {
        let data = data_of(name);
        data[at.index(data.len())].clone()
    });
    prop_oneof![
        12 => whole,
        3 => golden,
        1 => Just("[DONE]".to_owned()),
        1 => Just(r#"{"error":{"code":500}}"#.to_owned()),
        1 => Just(r#"{"promptFeedback":{"blockReason":"OTHER"}}"#.to_owned()),
        1 => r#"[\[\]{}":,a0]{0,9}"#,
    ]
}

proptest! {
    #[test]
    fn whatever_comes_the_events_obey_the_grammar(data in proptest::collection::vec(data(), 0..10)) {
        // The check is in there.
        let events = decode(&data);
        let ended = events.last().unwrap();
        prop_assert!(ended.is_terminal());
        if let LlmEvent::Done { message, .. } = ended {
            let mut ids: Vec<&str> = message.tool_calls().map(|call| &*call.id).collect();
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), count);
        }
    }

    #[test]
    fn a_raw_stream_cut_anywhere_obeys_it_too(
        which in 0..GOLDENS.len(), at in any::<proptest::sample::Index>(),
    ) {
        let data = data_of(GOLDENS[which].0).join("\n");
        let ends: Vec<usize> = data.char_indices().map(|(end, _)| end).collect();
        let end = ends[at.index(ends.len())];
        decode(&[data.get(..end).unwrap()]);
    }
}
