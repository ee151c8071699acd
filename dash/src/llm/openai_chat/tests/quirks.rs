//! What servers do to answers besides the streams in `goldens/`.

use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::*;

fn as_server(compat: Compat, chunks: &[&str]) -> Vec<LlmEvent> {
    let events = chunks.iter().map(|data| ("message", *data));
    decode_as(compat, model(), &events.collect::<Vec<_>>())
}

#[test]
fn a_server_that_never_says_why_it_stopped_is_whole_with_content() {
    let compat = Compat {
        finish_reason_optional: true,
        ..Compat::COMMON
    };
    let text = r#"{"choices":[{"delta":{"content":"x"}}]}"#;
    assert_eq!(whole(as_server(compat, &[text])).text(), "x");
    let empty = r#"{"choices":[{"delta":{"role":"assistant"}}]}"#;
    let thought = r#"{"choices":[{"delta":{"reasoning":"hm"}}]}"#;
    let half = r#"{"choices":[{"delta":{"content":"x","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{\"x\":"}}]}}]}"#;
    for cut in [empty, thought, half] {
        let (error, _) = broken(as_server(compat, &[cut]));
        assert_eq!(error.kind, LlmErrorKind::StreamCut, "{cut}");
    }
    let rest = r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"1}"}}]}}]}"#;
    let message = whole(as_server(compat, &[half, rest]));
    assert_eq!(message.stop_reason, StopReason::ToolUse);
    // Others must say it.
    assert_eq!(failed(&[text]).0.kind, LlmErrorKind::StreamCut);
}

#[test]
fn a_models_own_difference_wins_over_its_servers() {
    let mut model = model();
    model.compat = Some(CompatPatch {
        finish_reason_optional: Some(true),
        ..CompatPatch::default()
    });
    let text = r#"{"choices":[{"delta":{"content":"x"}}]}"#;
    let events = decode_as(Compat::COMMON, model, &[("message", text)]);
    assert_eq!(whole(events).text(), "x");
}

#[test]
fn cost_is_billed_only_where_it_is_dollars() {
    let chunk = r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"cost":COST}}"#;
    let openrouter = Compat {
        usage_cost: true,
        ..Compat::COMMON
    };
    let priced = NanoUsd(13_000);
    for (compat, cost, billed, is_reported) in [
        (openrouter, "1.25e-05", NanoUsd(12_500), true),
        (openrouter, "0", NanoUsd(0), true),
        (openrouter, "null", priced, false),
        (openrouter, "-1", priced, false),
        (openrouter, "{\"total_cost\":1}", priced, false),
        (
            openrouter,
            "0.001,\"is_byok\":true,\"cost_details\":{\"upstream_inference_cost\":0.02}",
            NanoUsd(21_000_000),
            true,
        ),
        (Compat::COMMON, "0.5", priced, false),
    ] {
        let message = whole(as_server(compat, &[&chunk.replace("COST", cost)]));
        assert_eq!(
            (message.cost, message.cost_reported),
            (billed, is_reported),
            "{cost}"
        );
    }
}

#[test]
fn a_failure_keeps_what_was_billed_before_it() {
    let compat = Preset::find("openrouter").unwrap().compat;
    let usage = r#"{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":2,"cost":0.5}}"#;
    let error = r#"{"choices":[{"delta":{},"finish_reason":"error","error":{"code":429,"message":"slow down"}}]}"#;
    let (error, message) = broken(as_server(compat, &[usage, error]));
    assert_eq!(error.kind, LlmErrorKind::RateLimited);
    let billed = Billing::Reported {
        usage: message.usage,
        cost: NanoUsd(500_000_000),
    };
    assert_eq!(error.billing, billed);
    assert_eq!(message.cost, NanoUsd(500_000_000));
}

#[test]
fn details_without_words_and_after_the_text_are_kept() {
    let message = done(&[
        r#"{"choices":[{"delta":{"reasoning":"hm"}}]}"#,
        r#"{"choices":[{"delta":{"content":"x"}}]}"#,
        r#"{"choices":[{"delta":{"reasoning_details":[{"type":"reasoning.encrypted","data":"e"}]}}]}"#,
        r#"{"choices":[{"delta":{"content":"y"},"finish_reason":"stop"}]}"#,
    ]);
    let sealed = r#"[{"type":"reasoning.encrypted","data":"e"}]"#.to_owned();
    assert_eq!(thinking(&message), ("hm".to_owned(), Some(sealed)));
    assert_eq!(message.text(), "xy");
}

#[test]
fn a_call_in_the_old_form_is_a_call() {
    let message = done(&[
        r#"{"choices":[{"delta":{"function_call":{"name":"f","arguments":"{\"x\":"}}}]}"#,
        r#"{"choices":[{"delta":{"function_call":{"arguments":"1}"}},"finish_reason":"function_call"}]}"#,
    ]);
    assert_eq!(calls(&message), [("call_0", "f", r#"{"x":1}"#.to_owned())]);
}

#[test]
fn arguments_may_come_as_an_object() {
    let message = done(&[
        r#"{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":{"x":1}}}]},"finish_reason":"tool_calls"}]}"#,
    ]);
    assert_eq!(calls(&message), [("a", "f", r#"{"x":1}"#.to_owned())]);
}

#[test]
fn fields_of_wrong_types_count_as_missing() {
    let message = done(&[
        r#"{"id":7,"model":null,"choices":[{"index":"0","delta":{"content":"x","tool_calls":"none","reasoning_details":{},"function_call":[]}}],"usage":"unknown","x_groq":3}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":"0","id":"a","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":"many","completion_tokens":2,"prompt_tokens_details":[],"cost":[]}}"#,
    ]);
    assert_eq!(calls(&message), [("a", "f", "{}".to_owned())]);
    assert_eq!(message.text(), "x");
    assert_eq!(message.usage.output, 2);
}

#[test]
fn words_of_other_dialects_are_understood_as_reasons() {
    let chunk = r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"WORD"}]}"#;
    assert_eq!(
        done(&[&chunk.replace("WORD", "model_length")]).stop_reason,
        StopReason::Length
    );
    let filtered = chunk.replace("WORD", "content_filter: SAFETY");
    assert_eq!(failed(&[&filtered]).0.kind, LlmErrorKind::ContentFilter);
}

#[test]
fn an_account_without_credit_is_no_reason_to_wait() {
    let chunk = r#"{"error":{"code":402,"message":"more credits needed"},"choices":[]}"#;
    assert_eq!(failed(&[chunk]).0.kind, LlmErrorKind::Quota);
}

#[test]
fn an_answer_that_no_model_gives_is_given_up_and_read_in_bounded_time() {
    let call = |n: usize| json!({"index": n, "id": format!("c{n}"), "function": {"name": "f"}});
    let calls: Vec<Value> = (0..60_000).map(call).collect();
    let chunk = json!({"choices": [{"delta": {"tool_calls": calls}}]}).to_string();
    let (error, message) = broken(as_server(Compat::COMMON, &[&chunk]));
    assert_eq!(error.kind, LlmErrorKind::Decode);
    assert!(error.message.contains("more than 4096 parts"), "{error}");
    assert_eq!(message.tool_calls().count(), 4_096);
}

#[test]
fn a_call_of_an_answer_that_says_no_reason_is_not_made() {
    let call = r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":""}}]}}]}"#;
    let (error, _) = broken(as_server(Compat::COMMON, &[call, "[DONE]"]));
    assert_eq!(error.kind, LlmErrorKind::StreamCut);
    let text = r#"{"choices":[{"delta":{"content":"Hi"}}]}"#;
    let message = whole(as_server(Compat::COMMON, &[text, "[DONE]"]));
    assert_eq!(message.text(), "Hi");
}

#[test]
fn counts_of_every_chunk_are_the_bill_only_at_the_end() {
    let chunk = |tokens: u64, finish: &str| {
        let usage = json!({"prompt_tokens": 9, "completion_tokens": tokens});
        json!({"choices": [{"delta": {"content": "x"}, "finish_reason": finish}], "usage": usage})
            .to_string()
    };
    let (error, message) = broken(as_server(Compat::COMMON, &[&chunk(1, "")]));
    assert_eq!(
        (error.kind, error.billing),
        (LlmErrorKind::StreamCut, Billing::Unknown)
    );
    assert_eq!(message.usage.output, 1);
    let message = whole(as_server(
        Compat::COMMON,
        &[&chunk(1, ""), &chunk(2, "stop")],
    ));
    assert_eq!(message.usage.output, 2);
}
