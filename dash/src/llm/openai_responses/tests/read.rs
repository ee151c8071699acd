use pretty_assertions::assert_eq;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::llm::{Billing, LlmErrorKind};
use crate::model::StopReason;

fn completed(output: Value) -> Value {
    let usage = json!({"input_tokens": 9, "output_tokens": 2});
    let mut event = json!({"type": "response.completed", "response": {"id": "r", "usage": usage}});
    event["response"]["output"] = output;
    event
}

fn text_delta(place: &Value, delta: &str) -> Value {
    let mut event = json!({"type": "response.output_text.delta", "delta": delta});
    merge(&mut event, place);
    event
}

fn merge(event: &mut Value, more: &Value) {
    for (key, value) in more.as_object().unwrap() {
        event[key] = value.clone();
    }
}

fn added(place: &Value, item: Value) -> Value {
    let mut event = json!({"type": "response.output_item.added"});
    event["item"] = item;
    merge(&mut event, place);
    event
}

fn item_done(place: &Value, item: Value) -> Value {
    let mut event = json!({"type": "response.output_item.done"});
    event["item"] = item;
    merge(&mut event, place);
    event
}

fn arguments(place: &Value, delta: &str) -> Value {
    let mut event = json!({"type": "response.function_call_arguments.delta", "delta": delta});
    merge(&mut event, place);
    event
}

fn function(id: &str, call_id: &str, arguments: &str) -> Value {
    json!({"type": "function_call", "id": id, "call_id": call_id, "name": "f", "arguments": arguments})
}

fn message_item(id: &str, text: &str) -> Value {
    json!({"type": "message", "id": id, "content": [{"type": "output_text", "text": text}]})
}

#[test]
fn text_may_come_without_its_item_being_announced() {
    for place in [
        json!({"output_index": 0, "item_id": "msg_1"}),
        json!({"output_index": 0}),
        json!({"item_id": "msg_1"}),
        json!({}),
        json!({"output_index": null, "item_id": 7}),
    ] {
        let message = done(&[
            text_delta(&place, "a"),
            text_delta(&place, " \n"),
            completed(json!([])),
        ]);
        assert_eq!(message.text(), "a \n", "{place}");
        assert_eq!(message.content.len(), 1);
        // The final list does not repeat it.
        let message = done(&[
            text_delta(&place, "a"),
            completed(json!([message_item("msg_1", "b")])),
        ]);
        assert_eq!(message.content, [text("b", "msg_1")], "{place}");
    }
}

#[test]
fn parts_of_a_message_are_blocks_of_their_own() {
    let part = |n: u64| json!({"output_index": 0, "item_id": "msg_1", "content_index": n});
    let message = done(&[
        text_delta(&part(0), "a"),
        text_delta(&part(1), "b"),
        text_delta(&part(0), "c"),
        item_done(
            &json!({"output_index": 0}),
            json!({"type": "message", "id": "msg_1", "content": [
            {"type": "output_text", "text": "ac"}, {"type": "refusal", "refusal": "B"}, {"type": "output_text", "text": "d"}]}),
        ),
        completed(json!([])),
    ]);
    assert_eq!(
        message.content,
        [text("ac", "msg_1"), text("B", "msg_1"), text("d", "msg_1")]
    );
}

#[test]
fn a_text_is_told_whole_if_it_was_not_streamed_and_kept_if_the_end_repeats_nothing() {
    let place = json!({"output_index": 0, "item_id": "msg_1"});
    let mut whole = json!({"type": "response.output_text.done", "text": "whole"});
    merge(&mut whole, &place);
    assert_eq!(done(&[whole.clone(), completed(json!([]))]).text(), "whole");
    let events = [text_delta(&place, "hal"), whole, completed(json!([]))];
    assert_eq!(done(&events).text(), "whole");
    let mut part =
        json!({"type": "response.content_part.done", "part": {"type": "refusal", "refusal": "no"}});
    merge(&mut part, &place);
    assert_eq!(done(&[part, completed(json!([]))]).text(), "no");
    let empty = json!({"type": "message", "id": "msg_1", "content": []});
    let events = [
        text_delta(&place, "kept"),
        item_done(&place, empty),
        completed(json!([message_item("msg_1", "late")])),
    ];
    assert_eq!(done(&events).content, [text("kept", "msg_1")]);
}

#[test]
fn ids_that_change_with_every_event_do_not_matter_where_there_are_places() {
    let at = |n: u64, id: &str| json!({"output_index": n, "item_id": id});
    let message = done(&[
        added(&at(0, ""), message_item("x1", "")),
        text_delta(&at(0, "x2"), "a"),
        text_delta(&at(0, "x3"), "b"),
        item_done(&at(0, ""), message_item("x4", "ab")),
        added(&at(1, ""), function("y1", "call_1", "")),
        arguments(&at(1, "y2"), "{}"),
        item_done(&at(1, ""), function("y3", "call_1", "{}")),
        completed(json!([
            message_item("x5", "ab"),
            function("y4", "call_1", "{}")
        ])),
    ]);
    assert_eq!(
        message.content,
        [text("ab", "x4"), call("call_1", "f", json!({}), "y3")]
    );
}

#[test]
fn calls_are_told_apart_though_all_have_the_place_0() {
    let at = |id: &str| json!({"output_index": 0, "item_id": id});
    let one = function("fc_1", "call_1", r#"{"x":1}"#);
    let two = function("fc_2", "call_2", r#"{"x":2}"#);
    let expected = [
        call("call_1", "f", json!({"x": 1}), "fc_1"),
        call("call_2", "f", json!({"x": 2}), "fc_2"),
    ];
    let message = done(&[
        added(&at(""), function("fc_1", "call_1", "")),
        added(&at(""), function("fc_2", "call_2", "")),
        arguments(&at("fc_1"), r#"{"x":"#),
        arguments(&at("fc_2"), r#"{"x":2}"#),
        arguments(&at("fc_1"), "1}"),
        item_done(&at(""), one.clone()),
        item_done(&at(""), two.clone()),
        completed(json!([one, two])),
    ]);
    assert_eq!(message.content, expected);
    let message = done(&[
        item_done(&at(""), one.clone()),
        item_done(&at(""), two.clone()),
        completed(json!([one, two])),
    ]);
    assert_eq!(message.content, expected);
}

#[test]
fn items_in_the_final_list_are_known_by_their_ids_before_their_order() {
    let place = json!({"item_id": "msg_2"});
    let message = done(&[
        text_delta(&place, "b"),
        item_done(&json!({}), message_item("msg_2", "b")),
        completed(json!([
            message_item("msg_1", "a"),
            message_item("msg_2", "b")
        ])),
    ]);
    assert_eq!(message.content, [text("b", "msg_2"), text("a", "msg_1")]);
}

#[test]
fn the_end_of_an_item_finds_deltas_that_had_no_marks() {
    let place = json!({"output_index": 2});
    let message = done(&[
        text_delta(&json!({}), "a"),
        item_done(&place, message_item("msg_1", "ab")),
        arguments(&json!({}), r#"{"x":"#),
        item_done(&place, function("fc_1", "call_1", r#"{"x":1}"#)),
        completed(json!([])),
    ]);
    let expected = [
        text("ab", "msg_1"),
        call("call_1", "f", json!({"x": 1}), "fc_1"),
    ];
    assert_eq!(message.content, expected);
}

#[test]
fn a_call_may_be_named_by_its_call_id_alone() {
    let message = done(&[
        added(&json!({}), function("", "fc_1", "")),
        arguments(&json!({"item_id": "fc_1"}), r#"{"x":1}"#),
        item_done(&json!({}), function("", "fc_1", r#"{"x":1}"#)),
        completed(json!([function("", "fc_1", r#"{"x":1}"#)])),
    ]);
    assert_eq!(message.content, [call("fc_1", "f", json!({"x": 1}), "")]);
}

#[test]
fn a_call_without_its_end_is_not_run() {
    let place = json!({"output_index": 0, "item_id": "fc_1"});
    let mut repeated =
        json!({"type": "response.function_call_arguments.done", "arguments": r#"{"x":1}"#});
    merge(&mut repeated, &place);
    for events in [
        vec![added(&place, function("fc_1", "call_1", ""))],
        vec![
            added(&place, function("fc_1", "call_1", "")),
            arguments(&place, r#"{"x":1}"#),
        ],
        vec![
            added(&place, function("fc_1", "call_1", "")),
            repeated.clone(),
        ],
    ] {
        let mut events = events;
        events.push(completed(json!([])));
        let message = done(&events);
        let refused = refused(&message);
        assert!(matches!(refused[..], [("call_1", "f", _)]), "{message:#?}");
        // The list of a completed answer is an end too.
        events.pop();
        events.push(completed(json!([function("fc_1", "call_1", r#"{"x":2}"#)])));
        assert_eq!(
            done(&events).content,
            [call("call_1", "f", json!({"x": 2}), "fc_1")]
        );
    }
    // Even one of which not even the name came is told.
    let message = done(&[arguments(&place, "{}"), completed(json!([]))]);
    assert!(matches!(refused(&message)[..], [("fc_1", "", _)]));
}

#[test]
fn arguments_are_corrected_by_the_end_of_the_item() {
    let place = json!({"output_index": 0, "item_id": "fc_1"});
    let whole = |arguments: Value| {
        let mut item = function("fc_1", "call_1", "");
        item["arguments"] = arguments;
        let message = done(&[
            added(&place, function("fc_1", "call_1", "")),
            arguments_of_one(&place),
            item_done(&place, item),
            completed(json!([])),
        ]);
        message.tool_calls().next().unwrap().arguments.clone()
    };
    assert_eq!(whole(json!(r#"{"x":2}"#)), json!({"x": 2}));
    assert_eq!(whole(json!({"x": 3})), json!({"x": 3}));
    assert_eq!(whole(json!("")), json!({"x": 1}));
    assert_eq!(whole(Value::Null), json!({"x": 1}));
}

fn arguments_of_one(place: &Value) -> Value {
    arguments(place, r#"{"x":1}"#)
}

#[test]
fn reasoning_without_deltas_is_told_from_its_end_or_its_parts() {
    let item = json!({"type": "reasoning", "id": "rs_1", "encrypted_content": "e",
        "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]});
    let kept = r#"{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"a"},{"type":"summary_text","text":"b"}],"encrypted_content":"e"}"#;
    let place = json!({"output_index": 0, "item_id": "rs_1"});
    let message = done(&[item_done(&place, item), completed(json!([]))]);
    assert_eq!(message.content, [thinking("a\n\nb", kept)]);
    let part = |n: u64, text: &str| json!({"type": "response.reasoning_summary_text.done", "item_id": "rs_1", "summary_index": n, "text": text});
    let message = done(&[part(0, "a"), part(1, "b"), completed(json!([]))]);
    assert_eq!(message.content, [thinking("a\n\nb", "")]);
    // Parts may be announced instead of numbered.
    let new = json!({"type": "response.reasoning_summary_part.added", "item_id": "rs_1"});
    let grown = |delta: &str| json!({"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "delta": delta});
    let message = done(&[
        new.clone(),
        grown("a"),
        new,
        grown("b"),
        grown("c"),
        completed(json!([])),
    ]);
    assert_eq!(message.content, [thinking("a\n\nbc", "")]);
}

#[test]
fn withheld_reasoning_is_kept_for_replay_without_text() {
    let item = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"});
    let kept = r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"e"}"#;
    let message = done(&[
        item_done(&json!({"output_index": 0}), item),
        completed(json!([])),
    ]);
    assert_eq!(message.content, [thinking("", kept)]);
}

#[test]
fn endings_of_every_kind_are_understood() {
    let ended = |kind: &str, response: Value| {
        let event = json!({"type": kind, "response": response});
        decode(&[text_delta(&json!({}), "x"), event])
    };
    for (kind, response, reason, raw) in [
        ("response.completed", json!({}), StopReason::Stop, None),
        ("response.completed", Value::Null, StopReason::Stop, None),
        (
            "response.done",
            json!({"status": "completed"}),
            StopReason::Stop,
            None,
        ),
        (
            "response.incomplete",
            json!({"incomplete_details": {"reason": "max_output_tokens"}}),
            StopReason::Length,
            None,
        ),
        (
            "response.completed",
            json!({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}),
            StopReason::Length,
            None,
        ),
        (
            "response.incomplete",
            json!({"incomplete_details": {"reason": "max_tokens"}}),
            StopReason::Length,
            Some("max_tokens"),
        ),
    ] {
        let message = message_of(ended(kind, response));
        assert_eq!(message.stop_reason, reason, "{kind}");
        assert_eq!(message.raw_stop_reason.as_deref(), raw);
        assert_eq!(message.text(), "x");
    }
    for (kind, response, error) in [
        (
            "response.incomplete",
            json!({"incomplete_details": {"reason": "content_filter"}}),
            LlmErrorKind::ContentFilter,
        ),
        (
            "response.incomplete",
            json!({"incomplete_details": {"reason": "new"}}),
            LlmErrorKind::Server,
        ),
        ("response.incomplete", json!({}), LlmErrorKind::Server),
        ("response.cancelled", json!({}), LlmErrorKind::Server),
        ("response.failed", json!({}), LlmErrorKind::Server),
        (
            "response.completed",
            json!({"status": "failed", "error": {"code": "insufficient_quota"}}),
            LlmErrorKind::Quota,
        ),
    ] {
        let (told, message) = error_of(ended(kind, response));
        assert_eq!(
            (told.kind, &told.billing),
            (error, &Billing::Unknown),
            "{kind}"
        );
        assert_eq!(message.text(), "x");
    }
}

#[test]
fn failures_have_their_kinds() {
    for (code, words, kind) in [
        ("context_length_exceeded", "", LlmErrorKind::ContextOverflow),
        (
            "insufficient_quota",
            "You exceeded your quota",
            LlmErrorKind::Quota,
        ),
        ("rate_limit_exceeded", "slow", LlmErrorKind::RateLimited),
        ("server_error", "boom", LlmErrorKind::Server),
        ("server_is_overloaded", "", LlmErrorKind::Overloaded),
        ("slow_down", "", LlmErrorKind::Overloaded),
        ("invalid_prompt", "", LlmErrorKind::InvalidRequest),
        ("new", "", LlmErrorKind::Server),
    ] {
        let error = json!({"code": code, "message": words});
        let usage = json!({"input_tokens": 5, "output_tokens": 1});
        let shapes = [
            json!({"type": "response.failed", "response": {"status": "failed", "error": error}}),
            json!({"type": "error", "code": code, "message": words, "param": null}),
            json!({"type": "error", "error": error}),
            json!({"error": error}),
        ];
        for shape in shapes {
            let (told, _) = failed(std::slice::from_ref(&shape));
            assert_eq!(
                (told.kind, told.billing),
                (kind, Billing::Unknown),
                "{shape}"
            );
            assert!(told.message.contains(words));
        }
        let known =
            json!({"type": "response.failed", "response": {"error": error, "usage": usage}});
        assert_eq!(failed(&[known]).0.billing, Billing::Known(tokens(5, 1)));
    }
    // A server may name the event and not its data.
    let (error, _) = error_of(decode_named(&[("error", "boom")]));
    assert_eq!(error.message, "the server reported: boom");
}

#[test]
fn events_may_be_named_outside_their_data() {
    let message = message_of(decode_named(&[
        (
            "response.output_text.delta",
            r#"{"item_id":"msg_1","delta":"x"}"#,
        ),
        ("response.completed", r#"{"response":{}}"#),
    ]));
    assert_eq!(message.text(), "x");
}

#[test]
fn what_is_unknown_is_ignored_and_what_is_no_event_is_an_error() {
    let message = message_of(decode_named(&[
        ("message", ""),
        ("message", r#"{"type":"keepalive"}"#),
        (
            "message",
            r#"{"type":"response.new_thing.delta","delta":{"a":[1]}}"#,
        ),
        (
            "message",
            r#"{"type":"response.output_item.added","item":{"type":"mcp_call","id":"m"}}"#,
        ),
        (
            "message",
            r#"{"type":"response.output_item.done","item":7}"#,
        ),
        ("message", r#"{"type":"response.output_item.done"}"#),
        (
            "message",
            r#"{"type":"response.output_text.delta","delta":"x"}"#,
        ),
        ("message", "[DONE]"),
        (
            "message",
            r#"{"type":"response.completed","response":{"output":{"a":1},"usage":"much","model":null}}"#,
        ),
        (
            "message",
            r#"{"type":"response.output_text.delta","delta":"late"}"#,
        ),
    ]));
    assert_eq!(message.text(), "x");
    assert_eq!(message.usage, tokens(70, 1));
    for garbage in ["{]", "<html>", "7", "[]", r#"["response.completed"]"#] {
        let (error, _) = error_of(decode_named(&[("message", garbage)]));
        assert_eq!(error.kind, LlmErrorKind::Decode, "{garbage}");
    }
    for half in [r#"{"type":"response.comp"#, "{"] {
        let (error, _) = error_of(decode_named(&[("message", half)]));
        assert_eq!(error.kind, LlmErrorKind::StreamCut, "{half}");
    }
    let (error, _) = error_of(decode_named(&[("message", "[DONE]")]));
    assert_eq!(error.kind, LlmErrorKind::StreamCut);
}

#[test]
fn a_failing_transport_keeps_what_was_said() {
    let mut decoder = decoder();
    let mut out = Vec::new();
    let data = text_delta(&json!({}), "x").to_string();
    let name = "message";
    decoder.feed(SseEvent { name, data: &data }, &mut out);
    let error = LlmError::unbilled(LlmErrorKind::Timeout, "silent");
    decoder.fail(error, &mut out);
    decoder.eof(&mut out);
    let (error, message) = error_of(out);
    assert_eq!(error.kind, LlmErrorKind::Timeout);
    assert_eq!(
        (error.billing, message.text()),
        (Billing::Unknown, "x".to_owned())
    );
}

#[test]
fn usage_is_counted_once() {
    for (usage, expected) in [
        (
            json!({"input_tokens": 9, "output_tokens": 2, "total_tokens": 20}),
            tokens(9, 11),
        ),
        (
            json!({"input_tokens": 9, "output_tokens": 2, "input_tokens_details": null}),
            tokens(9, 2),
        ),
        (
            json!({"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 5}}),
            Usage {
                cache_read: 9,
                ..tokens(0, 2)
            },
        ),
        (
            json!({"input_tokens": 9, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 5}}),
            Usage {
                reasoning: 2,
                ..tokens(9, 2)
            },
        ),
    ] {
        let event = json!({"type": "response.completed", "response": {"usage": usage}});
        assert_eq!(done(&[event]).usage, expected, "{usage}");
    }
}

fn any_event() -> impl Strategy<Value = Value> {
    let kinds = [
        "response.created",
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.refusal.delta",
        "response.refusal.done",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.web_search_call.searching",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "error",
        "",
    ];
    let place = prop_oneof![
        Just(json!({})),
        (0..3_u64).prop_map(|n| json!({"output_index": n, "content_index": n % 2}))
    ];
    let word = || prop::sample::select(vec!["", "a", "b", "{\"x\":", "1}", "\n"]);
    let id = || prop::sample::select(vec!["", "msg_1", "fc_1", "fc_2"]);
    let item_kinds = vec![
        "message",
        "reasoning",
        "function_call",
        "custom_tool_call",
        "web_search_call",
    ];
    let item = (prop::sample::select(item_kinds), id(), id(), word(), word())
        .prop_map(|(kind, id, call_id, name, text)| {
            json!({"type": kind, "id": id, "call_id": call_id, "name": name, "arguments": text, "input": text,
                "content": [{"type": "output_text", "text": text}, {"type": "refusal", "refusal": name}],
                "summary": [{"type": "summary_text", "text": text}], "encrypted_content": name})
        });
    let items = prop::collection::vec(item.clone(), 0..4);
    (prop::sample::select(kinds.to_vec()), place, id(), word(), item, items).prop_map(
        |(kind, place, id, word, item, items)| {
            let mut event = json!({"type": kind, "item_id": id, "delta": word, "text": word, "refusal": word,
                "arguments": word, "input": word, "summary_index": word.len(), "item": item,
                "part": {"type": "output_text", "text": word},
                "response": {"id": id, "output": items, "incomplete_details": {"reason": "max_output_tokens"}}});
            merge(&mut event, &place);
            event
        },
    )
}

proptest! {
    /// `decode` checks the grammar.
    #[test]
    fn any_events_obey_the_grammar(events in prop::collection::vec(any_event(), 0..24)) {
        let out = decode(&events);
        prop_assert!(out.last().is_some_and(LlmEvent::is_terminal));
        let mut seen = std::collections::BTreeSet::new();
        if let Some(LlmEvent::Done { message, .. }) = out.last() {
            for call in message.tool_calls() {
                prop_assert!(seen.insert(call.id.clone()), "two calls have the id {}", call.id);
            }
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic(name in "error|message|response[.]completed", data in r#"(\{"type":"response\.[a-z_.]{0,20}",?)?.{0,60}"#) {
        let out = decode_named(&[(&name, &data)]);
        prop_assert!(out.last().is_some_and(LlmEvent::is_terminal));
    }
}
