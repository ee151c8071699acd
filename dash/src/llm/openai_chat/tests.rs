use std::sync::Arc;

use pretty_assertions::assert_eq;
use serde_json::json;

use super::*;
use crate::llm::dialect::SseEvent;
use crate::llm::{Billing, LlmErrorKind, LlmEvent, ModelPrice, ToolChoice, ToolSpec};
use crate::model::{
    AssistantBlock, AssistantMessage, ContentBlock, Message, MessageOrigin, NanoUsd, StopReason,
    ToolCall, ToolResultMessage, Usage,
};
use crate::testing::provider_suite::check_grammar;

fn model() -> Model {
    let mut model = Model::free("m", "p");
    model.price = ModelPrice {
        input: NanoUsd::from_usd(1),
        output: NanoUsd::from_usd(2),
        ..ModelPrice::default()
    };
    model
}

/// Decodes chunks; the grammar holds whatever they are.
fn decode(chunks: &[&str]) -> Vec<LlmEvent> {
    let setup = AnswerSetup {
        api: api::OPENAI_CHAT,
        provider: "p".into(),
        model: Arc::new(model()),
        input_bound: 70,
    };
    let mut decoder = ChatDecoder::new(setup);
    let mut out = Vec::new();
    for data in chunks {
        decoder.feed(
            SseEvent {
                name: "message",
                data,
            },
            &mut out,
        );
    }
    decoder.eof(&mut out);
    assert_eq!(check_grammar(&out), Ok(()), "{out:#?}");
    out
}

fn done(chunks: &[&str]) -> AssistantMessage {
    match decode(chunks).pop() {
        Some(LlmEvent::Done { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

fn failed(chunks: &[&str]) -> (LlmError, AssistantMessage) {
    match decode(chunks).pop() {
        Some(LlmEvent::Error { error, message }) => (error, message),
        other => panic!("{other:?}"),
    }
}

fn calls(message: &AssistantMessage) -> Vec<(&str, &str, String)> {
    message
        .tool_calls()
        .map(|c| (&*c.id, &*c.name, c.arguments.to_string()))
        .collect()
}

const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":3,"cache_write_tokens":2},"completion_tokens_details":{"reasoning_tokens":1}}}"#;

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
    assert_eq!(
        calls(&done(&[&one, &one, "[DONE]"])),
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

fn request(messages: Vec<Message>) -> LlmRequest {
    LlmRequest {
        model: Arc::new(model()),
        system: "Be brief.".into(),
        messages: messages.into_iter().map(Arc::new).collect(),
        tools: Arc::new([]),
        tool_choice: ToolChoice::Auto,
        max_output_tokens: 50,
        temperature: None,
        response_schema: None,
        idempotency_key: "k".into(),
        options: crate::llm::RequestOptions::default(),
    }
}

fn body(request: &LlmRequest, options: ChatOptions) -> String {
    let bytes = encode(request, options).unwrap();
    assert_eq!(bytes, encode(request, options).unwrap());
    String::from_utf8(bytes).unwrap()
}

fn said(content: Vec<AssistantBlock>, stop_reason: StopReason) -> Message {
    let fold = crate::llm::MessageBuilder::new("p", "m");
    let mut message = fold.into_message(stop_reason);
    message.content = content;
    Message::Assistant(message)
}

fn call(id: &str, arguments: serde_json::Value) -> AssistantBlock {
    AssistantBlock::ToolCall(ToolCall {
        id: id.into(),
        name: "f".into(),
        arguments,
        arguments_error: None,
        thought_signature: None,
    })
}

fn result(id: &str, content: Vec<ContentBlock>) -> Message {
    Message::ToolResult(ToolResultMessage {
        tool_call_id: id.into(),
        tool_name: "f".into(),
        content,
        is_error: false,
        details: serde_json::Value::Null,
    })
}

#[test]
fn a_request_with_everything_has_these_bytes() {
    let mut request = request(vec![Message::user("Hi", MessageOrigin::Task)]);
    request.temperature = Some(0.5);
    request.tools = Arc::new([ToolSpec {
        name: "f".into(),
        description: "Does f.".into(),
        parameters: json!({"type": "object", "properties": {"z": {}, "a": {}}}),
    }]);
    request.tool_choice = ToolChoice::Tool("f".into());
    request.response_schema = Some(json!({"type": "object"}));
    let head = r#"{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}],"stream":true,"stream_options":{"include_usage":true},"#;
    let tail = r#","temperature":0.5,"tools":[{"type":"function","function":{"name":"f","description":"Does f.","parameters":{"type":"object","properties":{"z":{},"a":{}}}}}],"tool_choice":{"type":"function","function":{"name":"f"}},"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"object"}}}}"#;
    for (host, limit) in [
        ("localhost", r#""max_tokens":50"#),
        ("api.openai.com", r#""max_completion_tokens":50"#),
    ] {
        let expected = format!("{head}{limit}{tail}");
        assert_eq!(body(&request, ChatOptions::for_host(host)), expected);
    }
    request.tool_choice = ToolChoice::Tool("g".into());
    assert_eq!(
        encode(&request, ChatOptions::default())
            .unwrap_err()
            .billing,
        Billing::None
    );
}

#[test]
fn a_conversation_is_written_as_servers_accept_it() {
    let text = |text: &str| AssistantBlock::Text {
        text: text.into(),
        signature: None,
    };
    let thinking = AssistantBlock::Thinking {
        text: "hm".into(),
        signature: None,
        redacted: false,
    };
    let image = ContentBlock::Image {
        data: "QQ==".into(),
        mime_type: "image/png".into(),
    };
    let long = "x".repeat(64);
    let mut request = request(vec![
        Message::User(crate::model::UserMessage {
            content: vec![ContentBlock::text("Look"), image.clone()],
            origin: MessageOrigin::Task,
        }),
        said(
            vec![
                thinking.clone(),
                text("A"),
                call("a", json!({"z": 1, "b": 2})),
                call(&long, json!({})),
                call("c", json!({})),
            ],
            StopReason::ToolUse,
        ),
        result(&long, vec![image]),
        result("a", vec![ContentBlock::text("one")]),
        result("nobody", vec![ContentBlock::text("lost")]),
        said(vec![text("half")], StopReason::Error),
        said(vec![thinking], StopReason::Stop),
        said(vec![text("B")], StopReason::Stop),
    ]);
    request.system = "".into();
    let id = "call_".to_owned()
        + blake3::hash(&[long.as_bytes(), &[0; 4]].concat())
            .to_hex()
            .get(..32)
            .unwrap();
    let said = format!(
        r#"{{"role":"assistant","content":"A","tool_calls":[{{"id":"a","type":"function","function":{{"name":"f","arguments":"{{\"z\":1,\"b\":2}}"}}}},{{"id":"{id}","type":"function","function":{{"name":"f","arguments":"{{}}"}}}},{{"id":"c","type":"function","function":{{"name":"f","arguments":"{{}}"}}}}]}}"#
    );
    let one = r#"{"role":"tool","tool_call_id":"a","content":"one"}"#;
    let none = r#"{"role":"tool","tool_call_id":"c","content":"No result provided"}"#;
    let end = r#"{"role":"assistant","content":"B"}],"stream":true,"stream_options":{"include_usage":true},"max_tokens":50}"#;
    let blind = "[image left out: the model cannot see images]";
    let expected = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"Look\n{blind}"}},{said},{one},{{"role":"tool","tool_call_id":"{id}","content":"{blind}"}},{none},{end}"#
    );
    assert_eq!(body(&request, ChatOptions::default()), expected);

    Arc::make_mut(&mut request.model).images = true;
    let url = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ=="}}"#;
    let expected = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"Look"}},{url}]}},{said},{one},{{"role":"tool","tool_call_id":"{id}","content":""}},{none},{{"role":"user","content":[{{"type":"text","text":"Images of the tool results:"}},{url}]}},{end}"#
    );
    assert_eq!(body(&request, ChatOptions::default()), expected);
}

#[test]
fn a_call_without_text_has_null_content() {
    let request = request(vec![said(vec![call("a", json!({}))], StopReason::ToolUse)]);
    assert!(body(&request, ChatOptions::default()).contains(r#""content":null,"tool_calls""#));
}
