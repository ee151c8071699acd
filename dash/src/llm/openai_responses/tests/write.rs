use pretty_assertions::assert_eq;
use serde_json::json;

use super::*;
use crate::llm::{
    Billing, CacheRetention, LlmErrorKind, RequestOptions, ThinkingLevel, ThinkingMode,
    ThinkingSupport, ToolChoice, ToolSpec,
};
use crate::model::{
    ContentBlock, Message, MessageOrigin, StopReason, ToolResultMessage, UserMessage,
};

const ITEM: &str = r#"{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"e=="}"#;

fn request(messages: Vec<Message>) -> LlmRequest {
    LlmRequest {
        model: Arc::new(model()),
        system: "".into(),
        messages: messages.into_iter().map(Arc::new).collect(),
        tools: Arc::new([]),
        tool_choice: ToolChoice::Auto,
        max_output_tokens: 50,
        temperature: None,
        response_schema: None,
        idempotency_key: "k".into(),
        options: RequestOptions::default(),
    }
}

fn body(request: &LlmRequest) -> String {
    let dialect = ResponsesDialect::default();
    let bytes = dialect.encode(request).unwrap();
    assert_eq!(bytes, dialect.encode(request).unwrap());
    String::from_utf8(bytes).unwrap()
}

/// The conversation alone.
fn input(request: &LlmRequest) -> String {
    let body: Value = serde_json::from_str(&body(request)).unwrap();
    body["input"].to_string()
}

fn refusal(request: &LlmRequest) -> String {
    let error = ResponsesDialect::default().encode(request).unwrap_err();
    assert_eq!(
        (error.kind, error.billing),
        (LlmErrorKind::InvalidRequest, Billing::None)
    );
    error.message
}

fn user(text: &str) -> Message {
    Message::user(text, MessageOrigin::Task)
}

fn said(content: Vec<AssistantBlock>) -> Message {
    let mut message = AssistantMessage::new("p", "m");
    message.api = api::OPENAI_RESPONSES.into();
    message.content = content;
    message.stop_reason = StopReason::ToolUse;
    Message::Assistant(message)
}

fn result(id: &str, content: Vec<ContentBlock>) -> Message {
    Message::ToolResult(ToolResultMessage {
        tool_call_id: id.into(),
        tool_name: "f".into(),
        content,
        is_error: false,
        details: Value::Null,
        is_final: false,
    })
}

fn image() -> ContentBlock {
    ContentBlock::Image {
        data: "QQ==".into(),
        mime_type: "image/png".into(),
    }
}

fn thinks(request: &mut LlmRequest, levels: &[(ThinkingLevel, Option<&str>)]) {
    let mut support = ThinkingSupport::new(ThinkingMode::Effort);
    for (level, word) in levels {
        support.levels.insert(*level, word.map(str::to_owned));
    }
    Arc::make_mut(&mut request.model).thinking = Some(support);
}

#[test]
fn the_dialect_says_where_it_is() {
    let dialect = ResponsesDialect::default();
    let request = request(vec![]);
    assert_eq!(dialect.api(), "openai-responses");
    assert_eq!(dialect.base_path(), "/v1");
    assert_eq!(dialect.path(&request), "/responses");
    let models = dialect
        .read_models(r#"{"data":[{"id":"a"}]}"#, "p")
        .unwrap();
    assert_eq!(models.len(), 1);
}

#[test]
fn a_short_request_has_these_bytes() {
    assert_eq!(
        body(&request(vec![user("Hi")])),
        r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"Hi"}]}],"store":false,"stream":true,"max_output_tokens":50}"#
    );
}

#[test]
fn a_request_with_everything_has_these_bytes() {
    let mut request = request(vec![user("Hi")]);
    request.system = "Be brief.".into();
    thinks(&mut request, &[]);
    Arc::make_mut(&mut request.model).wire_id = Some("m-2".into());
    request.temperature = Some(0.5);
    request.tools = Arc::new([ToolSpec {
        name: "f".into(),
        description: "Does f.".into(),
        parameters: json!({"type": "object", "properties": {"z": {}, "a": {}}}),
    }]);
    request.tool_choice = ToolChoice::Tool("f".into());
    request.response_schema = Some(json!({"type": "object"}));
    request.options = RequestOptions {
        thinking: Some(ThinkingLevel::High),
        cache: CacheRetention::Long,
        cache_key: Some("agent".into()),
        parallel_tool_calls: Some(false),
        stop: vec![],
        ..RequestOptions::default()
    };
    let expected = r#"{"model":"m-2","instructions":"Be brief.","input":[{"role":"user","content":[{"type":"input_text","text":"Hi"}]}],"tools":[{"type":"function","name":"f","description":"Does f.","parameters":{"type":"object","properties":{"z":{},"a":{}}},"strict":false}],"tool_choice":{"type":"function","name":"f"},"parallel_tool_calls":false,"store":false,"stream":true,"max_output_tokens":50,"reasoning":{"effort":"high","summary":"auto"},"include":["reasoning.encrypted_content"],"text":{"format":{"type":"json_schema","name":"answer","schema":{"type":"object"},"strict":false}},"prompt_cache_key":"agent","prompt_cache_retention":"24h"}"#;
    assert_eq!(body(&request), expected);
    let strict = ResponsesDialect {
        options: ResponsesOptions {
            strict_schema: true,
        },
    };
    let expected = expected.replace(r#""object"},"strict":false"#, r#""object"},"strict":true"#);
    assert_eq!(
        String::from_utf8(strict.encode(&request).unwrap()).unwrap(),
        expected
    );

    // Its own words win, except over the limit that was reserved.
    let extra = json!({"max_output_tokens": 9_999, "service_tier": "flex", "reasoning": {"summary": "detailed"}});
    request.options.extra = extra.as_object().unwrap().clone();
    let written: Value = serde_json::from_str(&body(&request)).unwrap();
    assert_eq!(written["max_output_tokens"], 50);
    assert_eq!(written["service_tier"], "flex");
    assert_eq!(
        written["reasoning"],
        json!({"effort": "high", "summary": "detailed"})
    );
}

#[test]
fn choices_of_tools_are_written_in_the_words_of_the_api() {
    let mut request = request(vec![user("Hi")]);
    let choice = |request: &LlmRequest| {
        let body: Value = serde_json::from_str(&body(request)).unwrap();
        body.get("tool_choice").cloned()
    };
    request.tool_choice = ToolChoice::None;
    assert_eq!(choice(&request), None);
    request.tools = Arc::new([ToolSpec {
        name: "f".into(),
        description: String::new(),
        parameters: json!({}),
    }]);
    assert_eq!(choice(&request), Some(json!("none")));
    request.tool_choice = ToolChoice::Required;
    assert_eq!(choice(&request), Some(json!("required")));
    request.tool_choice = ToolChoice::Auto;
    assert_eq!(choice(&request), None);
}

#[test]
fn levels_of_thinking_are_written_in_the_words_of_the_model() {
    use ThinkingLevel as Level;
    let mut request = request(vec![user("Hi")]);
    request.temperature = Some(0.5);
    let reasoning = |request: &LlmRequest| {
        let body: Value = serde_json::from_str(&body(request)).unwrap();
        assert_eq!(
            body.get("temperature").is_some(),
            body.get("include").is_none()
        );
        body.get("reasoning").cloned()
    };
    request.options.thinking = Some(Level::High);
    assert_eq!(reasoning(&request), None);
    let summary = |effort: &str| Some(json!({"effort": effort, "summary": "auto"}));
    for (levels, level, expected) in [
        (vec![], None, Some(json!({"summary": "auto"}))),
        (vec![], Some(Level::Low), summary("low")),
        (vec![], Some(Level::Max), summary("high")),
        (
            vec![(Level::Max, Some("xxl"))],
            Some(Level::XHigh),
            summary("xxl"),
        ),
        (vec![], Some(Level::Off), None),
        (
            vec![(Level::Off, Some("none"))],
            Some(Level::Off),
            Some(json!({"effort": "none"})),
        ),
        (
            vec![(Level::Off, None)],
            Some(Level::Off),
            summary("minimal"),
        ),
    ] {
        thinks(&mut request, &levels);
        request.options.thinking = level;
        assert_eq!(reasoning(&request), expected, "{levels:?} {level:?}");
    }
    let budget = ThinkingSupport::new(ThinkingMode::Budget);
    Arc::make_mut(&mut request.model).thinking = Some(budget);
    assert_eq!(reasoning(&request), None);
}

#[test]
fn a_cache_key_is_cut_and_is_not_sent_where_nothing_shall_be_kept() {
    let mut request = request(vec![user("Hi")]);
    request.options.cache_key = Some("\u{e9}".repeat(70).into());
    let key = format!(r#","prompt_cache_key":"{}"}}"#, "\u{e9}".repeat(64));
    assert!(body(&request).ends_with(&key));
    request.options.cache = CacheRetention::None;
    assert!(!body(&request).contains("prompt_cache"));
}

#[test]
fn what_the_api_does_not_take_is_refused() {
    let mut request = request(vec![user("Hi")]);
    request.max_output_tokens = 15;
    assert!(refusal(&request).contains("the API's minimum is 16"));
    request.max_output_tokens = 16;
    assert!(body(&request).contains(r#""max_output_tokens":16"#));
    request.options.stop = vec!["END".into()];
    assert!(refusal(&request).contains("stop sequences are not supported"));
    request.options.stop.clear();
    request.tool_choice = ToolChoice::Tool("g".into());
    assert!(refusal(&request).contains("`g`"));
}

#[test]
fn the_same_model_gets_its_reasoning_and_its_ids_back() {
    let request = request(vec![
        user("Add"),
        said(vec![
            thinking("hm", ITEM),
            text("One, ", "msg_1"),
            text("two.", "msg_1"),
            text("Three.", "msg_2"),
            call("call_1", "f", json!({"z": 1, "b": 2}), "fc_1"),
        ]),
        result("call_1", vec![ContentBlock::text("3")]),
    ]);
    let expected = format!(
        r#"[{{"role":"user","content":[{{"type":"input_text","text":"Add"}}]}},{ITEM},{{"type":"message","role":"assistant","id":"msg_1","status":"completed","content":[{{"type":"output_text","text":"One, ","annotations":[]}},{{"type":"output_text","text":"two.","annotations":[]}}]}},{{"type":"message","role":"assistant","id":"msg_2","status":"completed","content":[{{"type":"output_text","text":"Three.","annotations":[]}}]}},{{"type":"function_call","id":"fc_1","call_id":"call_1","name":"f","arguments":"{{\"z\":1,\"b\":2}}"}},{{"type":"function_call_output","call_id":"call_1","output":"3"}}]"#
    );
    assert_eq!(input(&request), expected);
}

#[test]
fn another_model_gets_neither_reasoning_nor_ids() {
    let long = "x".repeat(65);
    let mut request = request(vec![
        said(vec![
            thinking("hm", ITEM),
            text("One.", "msg_1"),
            call("call_1", "f", json!({}), "fc_1"),
            call(&long, "f", json!({}), "fc_2"),
        ]),
        result(&long, vec![ContentBlock::text("2")]),
        result("call_1", vec![ContentBlock::text("1")]),
    ]);
    Arc::make_mut(&mut request.model).id = "other".into();
    let hash = blake3::hash(&[long.as_bytes(), &[0; 4]].concat()).to_hex();
    let id = format!("call_{}", hash.get(..32).unwrap());
    let expected = format!(
        r#"[{{"type":"message","role":"assistant","status":"completed","content":[{{"type":"output_text","text":"One.","annotations":[]}}]}},{{"type":"function_call","call_id":"call_1","name":"f","arguments":"{{}}"}},{{"type":"function_call","call_id":"{id}","name":"f","arguments":"{{}}"}},{{"type":"function_call_output","call_id":"call_1","output":"1"}},{{"type":"function_call_output","call_id":"{id}","output":"2"}}]"#
    );
    assert_eq!(input(&request), expected);
}

#[test]
fn ids_that_the_api_would_refuse_are_left_out() {
    let long = format!("fc_{}", "x".repeat(62));
    let request = request(vec![said(vec![
        text("One.", "item_1"),
        call("call_1", "f", json!({}), "msg_1"),
        call("call_2", "f", json!({}), &long),
        call("call_3", "f", json!({}), "fc_3"),
    ])]);
    let items: Vec<Value> = serde_json::from_str(&input(&request)).unwrap();
    let ids: Vec<_> = items.iter().map(|item| item.get("id")).collect();
    let kept = json!("fc_3");
    assert_eq!(ids, [None, None, None, Some(&kept), None, None, None]);
}

#[test]
fn without_its_reasoning_an_item_has_no_id() {
    let told = r#"{"type":"reasoning","id":"rs_1","summary":[]}"#;
    for lost in [
        told,
        "not JSON",
        r#"{"type":"other","encrypted_content":"e"}"#,
        "",
    ] {
        let request = request(vec![said(vec![
            thinking("hm", lost),
            text("One.", "msg_1"),
            call("call_1", "f", json!({}), "fc_1"),
        ])]);
        let expected = r#"[{"type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"One.","annotations":[]}]},{"type":"function_call","call_id":"call_1","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"call_1","output":"No result provided"}]"#;
        assert_eq!(input(&request), expected, "{lost}");
    }
}

#[test]
fn reasoning_that_nothing_follows_is_left_out() {
    let one = request(vec![
        user("Hi"),
        said(vec![thinking("hm", ITEM)]),
        user("Well?"),
    ]);
    assert_eq!(
        input(&one),
        r#"[{"role":"user","content":[{"type":"input_text","text":"Hi"}]},{"role":"user","content":[{"type":"input_text","text":"Well?"}]}]"#
    );
    let two = request(vec![said(vec![
        thinking("hm", ITEM),
        text("A", "msg_1"),
        thinking("hm", ITEM),
    ])]);
    assert_eq!(
        input(&two),
        format!(
            r#"[{ITEM},{{"type":"message","role":"assistant","status":"completed","content":[{{"type":"output_text","text":"A","annotations":[]}}]}}]"#
        )
    );
}

#[test]
fn images_are_sent_where_they_can_be_seen() {
    let mut request = request(vec![
        Message::User(UserMessage {
            content: vec![ContentBlock::text("Look"), image()],
            origin: MessageOrigin::Task,
        }),
        said(vec![
            call("a", "f", json!({}), "fc_1"),
            call("b", "f", json!({}), "fc_2"),
        ]),
        result("a", vec![ContentBlock::text("one"), image()]),
        result("b", vec![]),
    ]);
    let calls = r#"{"type":"function_call","id":"fc_1","call_id":"a","name":"f","arguments":"{}"},{"type":"function_call","id":"fc_2","call_id":"b","name":"f","arguments":"{}"}"#;
    let empty = r#"{"type":"function_call_output","call_id":"b","output":""}"#;
    let blind = "[image left out: the model cannot see images]";
    let expected = format!(
        r#"[{{"role":"user","content":[{{"type":"input_text","text":"Look"}},{{"type":"input_text","text":"{blind}"}}]}},{calls},{{"type":"function_call_output","call_id":"a","output":"one\n{blind}"}},{empty}]"#
    );
    assert_eq!(input(&request), expected);
    Arc::make_mut(&mut request.model).images = true;
    let seen = r#"{"type":"input_image","image_url":"data:image/png;base64,QQ==","detail":"auto"}"#;
    let expected = format!(
        r#"[{{"role":"user","content":[{{"type":"input_text","text":"Look"}},{seen}]}},{calls},{{"type":"function_call_output","call_id":"a","output":[{{"type":"input_text","text":"one"}},{seen}]}},{empty}]"#
    );
    assert_eq!(input(&request), expected);
}

#[test]
fn calls_of_custom_tools_go_back_as_such() {
    let mut request = request(vec![
        said(vec![call("a", "run", json!({"input": "x\n"}), "ctc_1")]),
        result("a", vec![ContentBlock::text("ok")]),
    ]);
    assert_eq!(
        input(&request),
        r#"[{"type":"custom_tool_call","id":"ctc_1","call_id":"a","name":"run","input":"x\n"},{"type":"custom_tool_call_output","call_id":"a","output":"ok"}]"#
    );
    Arc::make_mut(&mut request.model).id = "other".into();
    assert_eq!(
        input(&request),
        r#"[{"type":"function_call","call_id":"a","name":"run","arguments":"{\"input\":\"x\\n\"}"},{"type":"function_call_output","call_id":"a","output":"ok"}]"#
    );
}

#[test]
fn what_is_read_can_be_written_back() {
    let item: Value = serde_json::from_str(ITEM).unwrap();
    let spoken = json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": "A", "annotations": []}]});
    let asked = json!({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{\"x\":1}"});
    let items = json!([item, spoken, asked]);
    let end = json!({"type": "response.completed", "response": {"output": items}});
    let answer = done(&[end]);
    let request = request(vec![Message::Assistant(answer)]);
    let written: Vec<Value> = serde_json::from_str(&input(&request)).unwrap();
    assert_eq!(written[..3], items.as_array().unwrap()[..]);
}
