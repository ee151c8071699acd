//! What servers want of requests: each difference by itself, as bytes.

use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::*;
use crate::llm::{CacheRetention, ThinkingLevel, ThinkingMode, ThinkingSupport};

fn hi() -> LlmRequest {
    request(vec![Message::user("Hi", MessageOrigin::Task)])
}

fn tool(name: &str) -> ToolSpec {
    ToolSpec {
        name: name.into(),
        description: "d".into(),
        parameters: json!({"type": "object"}),
    }
}

fn sent(request: &LlmRequest, compat: Compat) -> Value {
    serde_json::from_str(&body(request, compat)).unwrap()
}

/// The body without what every request has.
fn extras(request: &LlmRequest, compat: Compat) -> Value {
    let mut whole = sent(request, compat);
    let fields = whole.as_object_mut().unwrap();
    for key in ["model", "messages", "stream"] {
        fields.remove(key);
    }
    whole
}

fn preset(name: &str) -> Compat {
    Preset::find(name).unwrap().compat
}

fn text(text: &str) -> AssistantBlock {
    AssistantBlock::Text {
        text: text.into(),
        signature: None,
    }
}

fn thought(text: &str, signature: Option<&str>) -> AssistantBlock {
    AssistantBlock::Thinking {
        text: text.into(),
        signature: signature.map(str::to_owned),
        redacted: false,
    }
}

/// A question, a call, its result, another question.
fn with_call() -> LlmRequest {
    request(vec![
        Message::user("Hi", MessageOrigin::Task),
        said(
            vec![thought("hm", None), call("a", json!({"x": 1}))],
            StopReason::ToolUse,
        ),
        result("a", vec![ContentBlock::text("one")]),
        Message::user("And?", MessageOrigin::Steer),
    ])
}

#[test]
fn every_preset_writes_a_plain_request_as_its_server_takes_it() {
    let usage = json!({"include_usage": true});
    let old = json!({"stream_options": usage, "max_tokens": 50});
    let new = json!({"stream_options": usage, "max_completion_tokens": 50});
    for (name, expected) in [
        (
            "openai",
            json!({"stream_options": usage, "max_completion_tokens": 50, "store": false}),
        ),
        ("openrouter", old.clone()),
        ("groq", new.clone()),
        ("deepseek", old.clone()),
        ("mistral", json!({"max_tokens": 50})),
        ("xai", new),
        ("ollama", old.clone()),
        ("lmstudio", old.clone()),
        ("llama.cpp", old.clone()),
        ("vllm", old),
    ] {
        assert_eq!(extras(&hi(), preset(name)), expected, "{name}");
    }
}

#[test]
fn a_choice_by_name_is_refused_where_the_server_ignores_it() {
    let mut request = hi();
    request.tools = Arc::new([tool("add"), tool("get_weather")]);
    request.tool_choice = ToolChoice::Tool("add".into());
    for name in ["llama.cpp", "ollama", "lmstudio"] {
        let error = encode(&request, preset(name)).unwrap_err();
        assert_eq!(
            (error.kind, &error.billing),
            (LlmErrorKind::InvalidRequest, &Billing::None)
        );
        assert!(error.message.contains("ignores"), "{error}");
    }
    let named = json!({"type": "function", "function": {"name": "add"}});
    assert_eq!(sent(&request, preset("vllm"))["tool_choice"], named);
    request.tool_choice = ToolChoice::Required;
    let required = sent(&request, preset("llama.cpp"));
    assert_eq!(required["tool_choice"], "required");
}

#[test]
fn a_conversation_for_mistral_has_names_short_ids_and_an_answer_after_results() {
    let body = sent(&with_call(), preset("mistral"));
    let id = body["messages"][2]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()));
    let expected = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": id, "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
        {"role": "tool", "tool_call_id": id, "name": "f", "content": "one"},
        {"role": "assistant", "content": "Noted."},
        {"role": "user", "content": "And?"},
    ]);
    assert_eq!(body["messages"], expected);
    // An id that fits stays.
    let own = request(vec![said(
        vec![call("D681PevKs", json!({}))],
        StopReason::ToolUse,
    )]);
    let body = sent(&own, preset("mistral"));
    assert_eq!(body["messages"][1]["tool_calls"][0]["id"], "D681PevKs");
    assert_eq!(body["messages"][2]["tool_call_id"], "D681PevKs");
}

#[test]
fn content_is_never_null_and_tools_are_never_missing_where_servers_want_that() {
    let compat = Compat {
        content_never_null: true,
        tools_with_history: true,
        ..Compat::COMMON
    };
    let body = sent(&with_call(), compat);
    assert_eq!(body["messages"][2]["content"], "");
    assert_eq!(body["tools"], json!([]));
    let common = sent(&with_call(), Compat::COMMON);
    assert_eq!(common["messages"][2]["content"], Value::Null);
    assert_eq!(common.get("tools"), None);
    assert_eq!(sent(&hi(), compat).get("tools"), None);
}

#[test]
fn reasoning_goes_back_where_the_server_wants_it_and_only_to_its_own_model() {
    let details = r#"[{"type":"reasoning.text","text":"hm","signature":"s","n":1.50}]"#;
    let conversation = |signature| {
        request(vec![said(
            vec![thought("hm", signature), text("A")],
            StopReason::Stop,
        )])
    };
    let replay = |kind, request: &LlmRequest| {
        let compat = Compat {
            reasoning_replay: kind,
            ..Compat::COMMON
        };
        let whole = body(request, compat);
        let at = whole.find(r#"{"role":"assistant""#).unwrap();
        let end = whole.find(r#"],"stream""#).unwrap();
        whole[at..end].to_owned()
    };
    let plain = r#"{"role":"assistant","content":"A"}"#;
    for (kind, expected) in [
        (ReasoningReplay::None, plain.to_owned()),
        (
            ReasoningReplay::ReasoningContent,
            r#"{"role":"assistant","content":"A","reasoning_content":"hm"}"#.to_owned(),
        ),
        (
            ReasoningReplay::Reasoning,
            r#"{"role":"assistant","content":"A","reasoning":"hm"}"#.to_owned(),
        ),
        (
            ReasoningReplay::ReasoningDetails,
            format!(r#"{{"role":"assistant","content":"A","reasoning_details":{details}}}"#),
        ),
    ] {
        assert_eq!(replay(kind, &conversation(Some(details))), expected);
    }
    // A signature of another kind is not passed on as details.
    let kind = ReasoningReplay::ReasoningDetails;
    assert_eq!(replay(kind, &conversation(Some("c2ln"))), plain);
    let mut other = conversation(Some(details));
    Arc::make_mut(&mut other.model).id = "another".into();
    assert_eq!(replay(kind, &other), plain);
}

#[test]
fn deepseek_gets_reasoning_with_every_call_be_it_empty() {
    let mut request = with_call();
    let reasoning = |request: &LlmRequest| {
        let body = sent(request, preset("deepseek"));
        body["messages"][2]["reasoning_content"].clone()
    };
    assert_eq!(reasoning(&request), "hm");
    Arc::make_mut(&mut request.model).id = "another".into();
    assert_eq!(reasoning(&request), "");
    let plain = request_of_plain_answer();
    let body = sent(&plain, preset("deepseek"));
    assert_eq!(body["messages"][1].get("reasoning_content"), None);
}

fn request_of_plain_answer() -> LlmRequest {
    request(vec![said(vec![text("A")], StopReason::Stop)])
}

#[test]
fn what_was_read_as_details_is_what_is_sent_back() {
    let chunk = r#"{"choices":[{"delta":{"content":"A","reasoning_details":[{"type":"reasoning.encrypted","data":"e","id":"r1","format":"x","index":0}]},"finish_reason":"stop"}]}"#;
    let request = request(vec![Message::Assistant(done(&[chunk]))]);
    let body = sent(&request, preset("openrouter"));
    let expected = json!([{"type": "reasoning.encrypted", "data": "e", "id": "r1", "format": "x", "index": 0}]);
    assert_eq!(body["messages"][1]["reasoning_details"], expected);
}

/// What a request for a level says, as `switch mode level`.
fn switched(switch: &str, mode: &str, level: &str, limit: u32) -> Value {
    let word = |text: &str| Value::from(text);
    let mut request = hi();
    request.max_output_tokens = limit;
    let mode: ThinkingMode = serde_json::from_value(word(mode)).unwrap();
    Arc::make_mut(&mut request.model).thinking = Some(ThinkingSupport::new(mode));
    request.options.thinking = Some(serde_json::from_value(word(level)).unwrap());
    let compat = Compat {
        thinking: serde_json::from_value(word(switch)).unwrap(),
        stream_options: false,
        ..Compat::COMMON
    };
    let mut fields = extras(&request, compat);
    fields.as_object_mut().unwrap().remove("max_tokens");
    fields
}

#[test]
fn thinking_is_switched_in_each_servers_way() {
    for (case, expected) in [
        ("none effort high", r"{}"),
        (
            "reasoning_effort effort high",
            r#"{"reasoning_effort":"high"}"#,
        ),
        (
            "reasoning_effort effort off",
            r#"{"reasoning_effort":"none"}"#,
        ),
        (
            "reasoning_effort effort max",
            r#"{"reasoning_effort":"high"}"#,
        ),
        (
            "thinking_type effort high",
            r#"{"thinking":{"type":"enabled"}}"#,
        ),
        (
            "thinking_type effort off",
            r#"{"thinking":{"type":"disabled"}}"#,
        ),
        (
            "thinking_type_and_effort effort high",
            r#"{"thinking":{"type":"enabled"},"reasoning_effort":"high"}"#,
        ),
        (
            "thinking_type_and_effort effort off",
            r#"{"thinking":{"type":"disabled"}}"#,
        ),
        ("enable_thinking effort high", r#"{"enable_thinking":true}"#),
        ("enable_thinking effort off", r#"{"enable_thinking":false}"#),
        (
            "enable_thinking budget high",
            r#"{"enable_thinking":true,"thinking_budget":6976}"#,
        ),
        (
            "chat_template_kwargs effort high",
            r#"{"chat_template_kwargs":{"enable_thinking":true}}"#,
        ),
        (
            "chat_template_kwargs effort off",
            r#"{"chat_template_kwargs":{"enable_thinking":false}}"#,
        ),
        (
            "reasoning effort high",
            r#"{"reasoning":{"effort":"high"}}"#,
        ),
        ("reasoning effort off", r#"{"reasoning":{"effort":"none"}}"#),
        (
            "reasoning budget high",
            r#"{"reasoning":{"max_tokens":6976}}"#,
        ),
    ] {
        let words: Vec<_> = case.split(' ').collect();
        let sent = switched(words[0], words[1], words[2], 8_000);
        let expected: Value = serde_json::from_str(expected).unwrap();
        assert_eq!(sent, expected, "{case}");
    }
}

#[test]
fn a_model_that_counts_tokens_does_not_think_without_room_for_it() {
    let sent = switched("enable_thinking", "budget", "high", 100);
    assert_eq!(sent, json!({"enable_thinking": false}));
    let sent = switched("reasoning", "budget", "high", 100);
    assert_eq!(sent, json!({"reasoning": {"effort": "none"}}));
}

#[test]
fn a_model_that_cannot_be_told_is_told_nothing_and_its_own_word_wins() {
    let mut request = hi();
    request.options.thinking = Some(ThinkingLevel::High);
    let fields = extras(&request, preset("deepseek"));
    assert_eq!(
        (fields.get("thinking"), fields.get("reasoning_effort")),
        (None, None)
    );
    let mut support = ThinkingSupport::new(ThinkingMode::Effort);
    support
        .levels
        .insert(ThinkingLevel::High, Some("heavy".into()));
    support.levels.insert(ThinkingLevel::Off, None);
    Arc::make_mut(&mut request.model).thinking = Some(support);
    assert_eq!(
        extras(&request, preset("deepseek"))["reasoning_effort"],
        "heavy"
    );
    request.options.thinking = Some(ThinkingLevel::Off);
    assert_eq!(
        extras(&request, preset("groq"))["reasoning_effort"],
        "minimal"
    );
    request.options.thinking = None;
    assert_eq!(
        extras(&request, preset("groq")).get("reasoning_effort"),
        None
    );
}

#[test]
fn models_that_think_have_a_developer_at_openai() {
    let mut request = hi();
    assert_eq!(
        sent(&request, preset("openai"))["messages"][0]["role"],
        "system"
    );
    let support = ThinkingSupport::new(ThinkingMode::Effort);
    Arc::make_mut(&mut request.model).thinking = Some(support);
    assert_eq!(
        sent(&request, preset("openai"))["messages"][0]["role"],
        "developer"
    );
    assert_eq!(
        sent(&request, preset("groq"))["messages"][0]["role"],
        "system"
    );
}

#[test]
fn a_schema_is_sent_as_the_server_takes_it() {
    let mut request = hi();
    request.response_schema = Some(json!({"type": "object"}));
    let compat = |response_format| Compat {
        response_format,
        strict_schema: true,
        ..Compat::COMMON
    };
    let body = sent(&request, compat(ResponseFormatKind::JsonSchema));
    let strict = json!({"name": "answer", "schema": {"type": "object"}, "strict": true});
    assert_eq!(
        body["response_format"],
        json!({"type": "json_schema", "json_schema": strict})
    );
    assert_eq!(body["messages"][0]["content"], "Be brief.");
    let told = "Be brief.\n\nAnswer with JSON only, valid against this JSON Schema:\n{\"type\":\"object\"}";
    let body = sent(&request, compat(ResponseFormatKind::JsonObject));
    assert_eq!(body["response_format"], json!({"type": "json_object"}));
    assert_eq!(body["messages"][0]["content"], told);
    let body = sent(&request, compat(ResponseFormatKind::None));
    assert_eq!(body.get("response_format"), None);
    assert_eq!(body["messages"][0]["content"], told);
}

#[test]
fn wishes_are_sent_only_to_servers_that_take_them() {
    let mut request = hi();
    request.options.parallel_tool_calls = Some(false);
    request.options.cache_key = Some("agent-1".into());
    request.options.cache = CacheRetention::Long;
    request.options.stop = vec!["END".into()];
    let openai = extras(&request, preset("openai"));
    assert_eq!(openai["prompt_cache_key"], "agent-1");
    assert_eq!(openai["prompt_cache_retention"], "24h");
    assert_eq!(openai["stop"], json!(["END"]));
    // Servers refuse the wish without tools.
    assert_eq!(openai.get("parallel_tool_calls"), None);
    request.tools = Arc::new([tool("f")]);
    assert_eq!(
        extras(&request, preset("openai"))["parallel_tool_calls"],
        false
    );
    let ollama = extras(&request, preset("ollama"));
    for key in [
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
    ] {
        assert_eq!(ollama.get(key), None, "{key}");
    }
    request.options.cache = CacheRetention::None;
    assert_eq!(
        extras(&request, preset("openai")).get("prompt_cache_key"),
        None
    );
}

#[test]
fn claude_behind_a_router_gets_its_cache_marks() {
    let mut request = with_call();
    request.tools = Arc::new([tool("f"), tool("g")]);
    request.messages.pop();
    let plain = sent(&request, preset("openrouter"));
    assert!(!plain.to_string().contains("cache_control"));
    Arc::make_mut(&mut request.model).wire_id = Some("anthropic/claude-sonnet-5".into());
    let body = sent(&request, preset("openrouter"));
    let mark = json!({"type": "ephemeral"});
    let marked = |text: &str| json!([{"type": "text", "text": text, "cache_control": mark}]);
    assert_eq!(body["messages"][0]["content"], marked("Be brief."));
    // The last message with somebody's words; neither a bare call nor a result can carry a mark.
    assert_eq!(body["messages"][1]["content"], marked("Hi"));
    assert_eq!(body["messages"][2]["content"], Value::Null);
    assert_eq!(body["tools"][0].get("cache_control"), None);
    assert_eq!(body["tools"][1]["cache_control"], mark);
    request.options.cache = CacheRetention::Long;
    let long = sent(&request, preset("openrouter"));
    assert_eq!(
        long["tools"][1]["cache_control"],
        json!({"type": "ephemeral", "ttl": "1h"})
    );
    request.options.cache = CacheRetention::None;
    let none = sent(&request, preset("openrouter"));
    assert!(!none.to_string().contains("cache_control"));
}

#[test]
fn no_extra_field_lifts_the_limit_of_output() {
    let mut request = hi();
    let extra = json!({"max_tokens": 9_999, "max_completion_tokens": 9_999, "n_predict": 9_999, "num_predict": 9_999, "max_new_tokens": 9_999, "best_of": 4, "n_cmpl": 4, "max_output_tokens": 9_999,
        "n": 4, "stream": false, "seed": 3, "stream_options": {"include_usage": false}});
    request.options.extra = extra.as_object().unwrap().clone();
    assert_eq!(
        sent(&request, Compat::COMMON),
        json!({"model": "m", "messages": [{"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"}], "stream": true,
            "stream_options": {"include_usage": false}, "max_tokens": 50, "seed": 3})
    );
}

#[test]
fn a_models_own_difference_wins_field_by_field() {
    let mut request = hi();
    Arc::make_mut(&mut request.model).compat = Some(CompatPatch {
        output_limit: Some(OutputLimitField::MaxTokens),
        ..CompatPatch::default()
    });
    let fields = extras(&request, preset("openai"));
    assert_eq!(
        fields,
        json!({"stream_options": {"include_usage": true}, "max_tokens": 50, "store": false})
    );
}
