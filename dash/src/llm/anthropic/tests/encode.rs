use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::*;
use crate::llm::{
    Billing, CacheRetention, LlmErrorKind, RequestOptions, ThinkingLevel, ThinkingMode,
    ThinkingSupport, ToolChoice, ToolSpec,
};
use crate::model::{
    ContentBlock, Message, MessageOrigin, StopReason, ToolCall, ToolResultMessage, UserMessage,
};

pub(super) fn request(messages: Vec<Message>) -> LlmRequest {
    LlmRequest {
        model: Arc::new(model()),
        system: "Be brief.".into(),
        messages: messages.into_iter().map(Arc::new).collect(),
        tools: Arc::new([]),
        tool_choice: ToolChoice::Auto,
        max_output_tokens: 5_000,
        temperature: None,
        response_schema: None,
        idempotency_key: "k".into(),
        options: RequestOptions::default(),
    }
}

/// A request whose cache is off, so that bodies are short.
fn bare(messages: Vec<Message>) -> LlmRequest {
    let mut request = request(messages);
    request.system = "".into();
    request.options.cache = CacheRetention::None;
    request
}

fn body(request: &LlmRequest) -> String {
    let dialect = AnthropicDialect::default();
    let bytes = dialect.encode(request).unwrap();
    assert_eq!(bytes, dialect.encode(request).unwrap());
    String::from_utf8(bytes).unwrap()
}

/// One field of a body, as it is written.
fn field(request: &LlmRequest, name: &str) -> Option<String> {
    let body: Value = serde_json::from_str(&body(request)).unwrap();
    body.get(name).map(Value::to_string)
}

fn messages(request: &LlmRequest) -> String {
    field(request, "messages").unwrap()
}

fn user(text: &str) -> Message {
    Message::user(text, MessageOrigin::Task)
}

/// An answer of the same provider, model and dialect.
fn said(content: Vec<AssistantBlock>) -> Message {
    let mut message = AssistantMessage::new("p", "m");
    message.api = api::ANTHROPIC.into();
    message.content = content;
    message.stop_reason = StopReason::Stop;
    Message::Assistant(message)
}

fn call_of(id: &str, name: &str, arguments: Value) -> AssistantBlock {
    AssistantBlock::ToolCall(ToolCall {
        id: id.into(),
        name: name.into(),
        arguments,
        arguments_error: None,
        thought_signature: None,
    })
}

fn call(id: &str) -> AssistantBlock {
    call_of(id, "f", json!({"z": 1, "a": 2}))
}

fn result(id: &str, content: Vec<ContentBlock>, is_error: bool) -> Message {
    Message::ToolResult(ToolResultMessage {
        tool_call_id: id.into(),
        tool_name: "f".into(),
        content,
        is_error,
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

fn tool(name: &str, parameters: Value) -> ToolSpec {
    ToolSpec {
        name: name.into(),
        description: "Does it.".into(),
        parameters,
    }
}

#[test]
fn a_request_with_everything_has_these_bytes() {
    let mut request = request(vec![user("Hi"), said(vec![text("Yes?")]), user("Bye")]);
    request.temperature = Some(0.7);
    request.tools = Arc::new([
        tool(
            "f",
            json!({"type": "object", "properties": {"z": {}, "a": {}}}),
        ),
        tool("g", json!({"type": "object"})),
    ]);
    request.tool_choice = ToolChoice::Tool("f".into());
    request.response_schema = Some(json!({"type": "object"}));
    request.options.parallel_tool_calls = Some(false);
    request.options.stop = vec!["END".into()];
    request.options.cache = CacheRetention::Long;
    let mark = r#""cache_control":{"type":"ephemeral","ttl":"1h"}"#;
    let expected = [
        r#"{"model":"m","max_tokens":5000,"stream":true,"#,
        r#""tools":[{"name":"f","description":"Does it.","input_schema":{"type":"object","properties":{"z":{},"a":{}}}},"#,
        &format!(
            r#"{{"name":"g","description":"Does it.","input_schema":{{"type":"object"}},{mark}}}],"#
        ),
        r#""tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true},"#,
        &format!(r#""system":[{{"type":"text","text":"Be brief.",{mark}}}],"#),
        r#""messages":[{"role":"user","content":[{"type":"text","text":"Hi"}]},"#,
        r#"{"role":"assistant","content":[{"type":"text","text":"Yes?"}]},"#,
        &format!(r#"{{"role":"user","content":[{{"type":"text","text":"Bye",{mark}}}]}}],"#),
        r#""output_config":{"format":{"type":"json_schema","schema":{"type":"object"}}},"#,
        r#""temperature":0.7,"stop_sequences":["END"]}"#,
    ];
    assert_eq!(body(&request), expected.concat());
    // Fields of the caller are added at the end; the rest stays as it was.
    request.options.extra = json!({"max_tokens": 9, "top_k": 3})
        .as_object()
        .unwrap()
        .clone();
    let whole = expected.concat();
    let head = whole.strip_suffix('}').unwrap();
    assert_eq!(body(&request), format!(r#"{head},"top_k":3}}"#));

    request.tool_choice = ToolChoice::Tool("h".into());
    let error = AnthropicDialect::default().encode(&request).unwrap_err();
    assert_eq!(
        (error.kind, error.billing),
        (LlmErrorKind::InvalidRequest, Billing::None)
    );
}

#[test]
fn the_cache_is_marked_as_long_as_it_is_wanted() {
    let mut request = request(vec![user("Hi")]);
    let short = r#"{"model":"m","max_tokens":5000,"stream":true,"system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":[{"type":"text","text":"Hi","cache_control":{"type":"ephemeral"}}]}]}"#;
    assert_eq!(body(&request), short);
    request.options.cache = CacheRetention::None;
    let none = short.replace(r#","cache_control":{"type":"ephemeral"}"#, "");
    assert_eq!(body(&request), none);
    // The last user message may not be the last one, and may end in a result.
    let mut request = self::request(vec![
        user("Hi"),
        said(vec![call("a")]),
        result("a", vec![ContentBlock::text("ok")], false),
        said(vec![text("So")]),
    ]);
    request.system = "".into();
    let marked = r#"{"type":"tool_result","tool_use_id":"a","content":"ok","cache_control":{"type":"ephemeral"}}]},{"role":"assistant","content":[{"type":"text","text":"So"}]}]"#;
    let written = messages(&request);
    assert!(written.ends_with(marked), "{written}");
    assert_eq!(written.matches("cache_control").count(), 1);
}

#[test]
fn all_results_of_a_turn_stand_before_what_the_user_says_next() {
    let mut request = bare(vec![
        user("Go"),
        said(vec![
            text("A"),
            call("a"),
            call("b"),
            call("c"),
            call("d.e"),
        ]),
        result("b", vec![image()], true),
        result(
            "a",
            vec![
                ContentBlock::text("one"),
                image(),
                ContentBlock::text("two"),
            ],
            false,
        ),
        user("Wait"),
        result("d.e", Vec::new(), false),
        user(" \n"),
        user("Stop"),
    ]);
    Arc::make_mut(&mut request.model).images = true;
    let id = "call_".to_owned()
        + blake3::hash(&[b"d.e".as_slice(), &[0; 4]].concat())
            .to_hex()
            .get(..32)
            .unwrap();
    let source =
        r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"QQ=="}}"#;
    let use_of = |id: &str| {
        format!(r#"{{"type":"tool_use","id":"{id}","name":"f","input":{{"z":1,"a":2}}}}"#)
    };
    let expected = [
        r#"[{"role":"user","content":[{"type":"text","text":"Go"}]},"#,
        r#"{"role":"assistant","content":[{"type":"text","text":"A"},"#,
        &format!(
            "{},{},{},{}]}},",
            use_of("a"),
            use_of("b"),
            use_of("c"),
            use_of(&id)
        ),
        r#"{"role":"user","content":["#,
        &format!(
            r#"{{"type":"tool_result","tool_use_id":"a","content":[{{"type":"text","text":"one"}},{source},{{"type":"text","text":"two"}}]}},"#
        ),
        r#"{"type":"tool_result","tool_use_id":"b","content":"The tool failed and gave no reason.","is_error":true},"#,
        r#"{"type":"tool_result","tool_use_id":"c","content":"No result provided","is_error":true},"#,
        &format!(r#"{{"type":"tool_result","tool_use_id":"{id}"}},"#),
        &format!(r#"{{"type":"text","text":"Images of the failed tool calls:"}},{source},"#),
        r#"{"type":"text","text":"Wait"},{"type":"text","text":"Stop"}]}]"#,
    ];
    assert_eq!(messages(&request), expected.concat());
}

#[test]
fn thinking_is_returned_unchanged_and_in_place_to_the_model_that_signed_it() {
    let content = vec![
        thinking("first", Some("s1")),
        redacted("d1"),
        text("A"),
        thinking("", Some("s2")),
        thinking("not signed", None),
        call("a"),
    ];
    let answer = result("a", vec![ContentBlock::text("ok")], false);
    let mut request = bare(vec![user("Go"), said(content), answer]);
    let call = r#"{"type":"tool_use","id":"a","name":"f","input":{"z":1,"a":2}}"#;
    let own = format!(
        r#"[{{"type":"thinking","thinking":"first","signature":"s1"}},{{"type":"redacted_thinking","data":"d1"}},{{"type":"text","text":"A"}},{{"type":"thinking","thinking":"","signature":"s2"}},{call}]"#
    );
    let content = |request: &LlmRequest| {
        let messages: Value = serde_json::from_str(&messages(request)).unwrap();
        messages[1]["content"].to_string()
    };
    assert_eq!(content(&request), own);
    Arc::make_mut(&mut request.model).id = "other".into();
    let foreign = format!(r#"[{{"type":"text","text":"A"}},{call}]"#);
    assert_eq!(content(&request), foreign);
}

#[test]
fn an_answer_that_was_cut_in_its_thinking_does_not_end_in_it() {
    let cut = thinking("hm", Some("s"));
    let request = bare(vec![
        user("Go"),
        said(vec![text("A"), cut.clone()]),
        user("On"),
        said(vec![cut]),
        user("And on"),
    ]);
    let expected = r#"[{"role":"user","content":[{"type":"text","text":"Go"}]},{"role":"assistant","content":[{"type":"text","text":"A"}]},{"role":"user","content":[{"type":"text","text":"On"},{"type":"text","text":"And on"}]}]"#;
    assert_eq!(messages(&request), expected);
}

#[test]
fn roles_alternate_and_the_first_is_a_user() {
    let request = bare(vec![
        said(vec![text("One ")]),
        said(vec![text(" \n"), text("two\n ")]),
    ]);
    // Only the end of the conversation loses its blanks.
    let expected = r#"[{"role":"user","content":[{"type":"text","text":"Begin."}]},{"role":"assistant","content":[{"type":"text","text":"One "},{"type":"text","text":"two"}]}]"#;
    assert_eq!(messages(&request), expected);
    let request = bare(vec![user("A "), said(vec![text("B ")]), user("C ")]);
    let expected = r#"[{"role":"user","content":[{"type":"text","text":"A "}]},{"role":"assistant","content":[{"type":"text","text":"B "}]},{"role":"user","content":[{"type":"text","text":"C "}]}]"#;
    assert_eq!(messages(&request), expected);
}

#[test]
fn blank_texts_are_never_sent() {
    let mut request = bare(vec![
        Message::User(UserMessage {
            content: vec![ContentBlock::text("\n"), ContentBlock::text("A")],
            origin: MessageOrigin::Task,
        }),
        said(vec![text(" "), call("a")]),
        result("a", vec![ContentBlock::text(" \n")], false),
    ]);
    request.system = " \n".into();
    let expected = r#"[{"role":"user","content":[{"type":"text","text":"A"}]},{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{"z":1,"a":2}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"a"}]}]"#;
    assert_eq!(messages(&request), expected);
    assert_eq!(field(&request, "system"), None);
}

#[test]
fn calls_of_other_models_become_calls_that_the_api_takes() {
    let request = bare(vec![
        user("A"),
        said(vec![
            call_of("a", "", json!({})),
            call_of("b", "my tool.é", json!([1])),
            call_of("c", &"x".repeat(70), json!({})),
        ]),
    ]);
    let written = messages(&request);
    for call in [
        r#"{"type":"tool_use","id":"a","name":"unnamed","input":{}}"#,
        r#"{"type":"tool_use","id":"b","name":"my_tool__","input":{}}"#,
        &format!(
            r#"{{"type":"tool_use","id":"c","name":"{}","input":{{}}}}"#,
            "x".repeat(64)
        ),
    ] {
        assert!(written.contains(call), "{call} in {written}");
    }
}

#[test]
fn images_are_sent_to_models_that_see() {
    let mut request = bare(vec![Message::User(UserMessage {
        content: vec![ContentBlock::text("Look"), image()],
        origin: MessageOrigin::Task,
    })]);
    let blind = r#"[{"role":"user","content":[{"type":"text","text":"Look"},{"type":"text","text":"[image left out: the model cannot see images]"}]}]"#;
    assert_eq!(messages(&request), blind);
    Arc::make_mut(&mut request.model).images = true;
    let seen = r#"[{"role":"user","content":[{"type":"text","text":"Look"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"QQ=="}}]}]"#;
    assert_eq!(messages(&request), seen);
}

#[test]
fn a_choice_of_tools_is_said_in_the_apis_words() {
    let mut request = bare(vec![user("A")]);
    request.options.parallel_tool_calls = Some(false);
    request.tool_choice = ToolChoice::None;
    assert_eq!(field(&request, "tool_choice"), None);
    request.tools = Arc::new([tool("f", json!({"type": "object"}))]);
    for (choice, many, one) in [
        (
            ToolChoice::Auto,
            None,
            Some(r#"{"type":"auto","disable_parallel_tool_use":true}"#),
        ),
        (
            ToolChoice::None,
            Some(r#"{"type":"none"}"#),
            Some(r#"{"type":"none"}"#),
        ),
        (
            ToolChoice::Required,
            Some(r#"{"type":"any"}"#),
            Some(r#"{"type":"any","disable_parallel_tool_use":true}"#),
        ),
        (
            ToolChoice::Tool("f".into()),
            Some(r#"{"type":"tool","name":"f"}"#),
            Some(r#"{"type":"tool","name":"f","disable_parallel_tool_use":true}"#),
        ),
    ] {
        request.tool_choice = choice;
        request.options.parallel_tool_calls = Some(false);
        assert_eq!(field(&request, "tool_choice").as_deref(), one);
        for parallel in [None, Some(true)] {
            request.options.parallel_tool_calls = parallel;
            assert_eq!(field(&request, "tool_choice").as_deref(), many);
        }
    }
}

#[test]
fn a_schema_always_says_that_it_is_an_object() {
    for (schema, sent) in [
        (json!({}), r#"{"type":"object"}"#),
        (Value::Null, r#"{"type":"object"}"#),
        (
            json!({"properties": {"a": {}}}),
            r#"{"properties":{"a":{}},"type":"object"}"#,
        ),
    ] {
        let mut request = bare(vec![user("A")]);
        request.tools = Arc::new([tool("f", schema)]);
        let expected =
            format!(r#"[{{"name":"f","description":"Does it.","input_schema":{sent}}}]"#);
        assert_eq!(field(&request, "tools"), Some(expected));
    }
}

/// What a request says of thinking: the field, the effort and the temperature.
fn thinking_of(request: &LlmRequest) -> (Option<String>, Option<String>, bool) {
    (
        field(request, "thinking"),
        field(request, "output_config"),
        field(request, "temperature").is_some(),
    )
}

fn thinker(mode: ThinkingMode, level: Option<ThinkingLevel>) -> LlmRequest {
    let mut request = bare(vec![user("A")]);
    Arc::make_mut(&mut request.model).thinking = Some(ThinkingSupport::new(mode));
    request.options.thinking = level;
    request.temperature = Some(0.5);
    request
}

#[test]
fn a_model_is_told_to_think_in_the_way_it_takes() {
    use ThinkingLevel as Level;
    use ThinkingMode as Mode;
    let effort = |word: &str| Some(format!(r#"{{"effort":"{word}"}}"#));
    let kind = |kind: &str| Some(format!(r#"{{"type":"{kind}"}}"#));
    let budget = |n: u32| Some(format!(r#"{{"type":"enabled","budget_tokens":{n}}}"#));
    for (mode, level, expected) in [
        (Mode::Budget, None, (None, None, true)),
        (
            Mode::Budget,
            Some(Level::Off),
            (kind("disabled"), None, true),
        ),
        (Mode::Budget, Some(Level::Low), (budget(2_048), None, false)),
        (Mode::Budget, Some(Level::Max), (budget(3_976), None, false)),
        (Mode::Adaptive, None, (None, None, false)),
        (
            Mode::Adaptive,
            Some(Level::Off),
            (kind("disabled"), None, false),
        ),
        (
            Mode::Adaptive,
            Some(Level::Minimal),
            (kind("adaptive"), effort("low"), false),
        ),
        (
            Mode::Adaptive,
            Some(Level::Medium),
            (kind("adaptive"), effort("medium"), false),
        ),
        (
            Mode::Adaptive,
            Some(Level::XHigh),
            (kind("adaptive"), effort("high"), false),
        ),
        (
            Mode::Effort,
            Some(Level::High),
            (None, effort("high"), true),
        ),
    ] {
        let request = thinker(mode, level);
        assert_eq!(thinking_of(&request), expected, "{mode:?} {level:?}");
    }
    // The model's own word.
    let mut request = thinker(Mode::Adaptive, Some(Level::Max));
    let support = Arc::make_mut(&mut request.model).thinking.as_mut().unwrap();
    support.levels.insert(Level::Max, Some("max".into()));
    assert_eq!(thinking_of(&request).1, effort("max"));
    // A budget that does not fit, and a model that does not think.
    let mut request = thinker(Mode::Budget, Some(Level::High));
    request.max_output_tokens = 2_000;
    assert_eq!(thinking_of(&request), (None, None, true));
    Arc::make_mut(&mut request.model).thinking = None;
    request.max_output_tokens = 5_000;
    assert_eq!(thinking_of(&request), (None, None, true));
}

#[test]
fn a_call_that_must_be_made_is_made_without_thinking() {
    for (mode, effort) in [
        (ThinkingMode::Budget, None),
        (
            ThinkingMode::Adaptive,
            Some(r#"{"effort":"high"}"#.to_owned()),
        ),
    ] {
        let mut request = thinker(mode, Some(ThinkingLevel::High));
        request.tools = Arc::new([tool("f", json!({"type": "object"}))]);
        assert!(thinking_of(&request).0.is_some());
        request.tool_choice = ToolChoice::Required;
        let is_sampled = mode == ThinkingMode::Budget;
        assert_eq!(thinking_of(&request), (None, effort, is_sampled));
    }
}

#[test]
fn calls_that_began_without_thinking_are_finished_without_it() {
    let ok = |id: &str| result(id, vec![ContentBlock::text("ok")], false);
    let thought = || thinking("hm", Some("s"));
    let asks_with_thinking = |messages: Vec<Message>| {
        let mut request = thinker(ThinkingMode::Budget, Some(ThinkingLevel::Low));
        request.messages = messages.into_iter().map(Arc::new).collect();
        thinking_of(&request).0.is_some()
    };
    let go = || user("Go");
    assert!(asks_with_thinking(vec![go(), said(vec![text("A")]), go()]));
    assert!(!asks_with_thinking(vec![
        go(),
        said(vec![call("a")]),
        ok("a")
    ]));
    let first = said(vec![thought(), call("a")]);
    // Only the first answer of a round begins with thinking.
    let round = vec![go(), first.clone(), ok("a"), said(vec![call("b")]), ok("b")];
    assert!(asks_with_thinking(round));
    let after = vec![
        go(),
        said(vec![call("a")]),
        ok("a"),
        said(vec![text("A")]),
        go(),
    ];
    assert!(asks_with_thinking(after));
    let before = vec![
        go(),
        first,
        ok("a"),
        said(vec![text("A")]),
        go(),
        said(vec![call("b")]),
        ok("b"),
    ];
    assert!(!asks_with_thinking(before));
}

#[test]
fn calls_of_tools_that_are_no_longer_on_offer_are_declared_and_forbidden() {
    let call = |id: &str, name: &str| call_of(id, name, json!({}));
    let calls = vec![call("a", "g"), call("b", "f"), call("c", "g")];
    let mut request = bare(vec![user("A"), said(calls), user("Sum it up.")]);
    request.options.parallel_tool_calls = Some(false);
    let declared = r#"[{"name":"g","input_schema":{"type":"object"}},{"name":"f","input_schema":{"type":"object"}}]"#;
    assert_eq!(field(&request, "tools").as_deref(), Some(declared));
    let forbidden = r#"{"type":"none"}"#;
    assert_eq!(field(&request, "tool_choice").as_deref(), Some(forbidden));
    request.tools = Arc::new([tool("h", json!({"type": "object"}))]);
    let offered = r#"[{"name":"h","description":"Does it.","input_schema":{"type":"object"}}]"#;
    assert_eq!(field(&request, "tools").as_deref(), Some(offered));
}
