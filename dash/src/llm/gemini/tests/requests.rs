//! What is asked, byte by byte.

use pretty_assertions::assert_eq;

use super::*;
use crate::llm::{
    ThinkingLevel, ThinkingMode, ThinkingSupport, ToolChoice, ToolSpec, handoff::NO_RESULT,
};
use crate::model::{ContentBlock, Message, MessageOrigin, ToolResultMessage, UserMessage};

fn request(id: &str, messages: Vec<Message>) -> LlmRequest {
    let mut model = model(id);
    model.images = true;
    LlmRequest {
        model: Arc::new(model),
        system: "".into(),
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

fn body(request: &LlmRequest) -> String {
    let options = GeminiOptions::default();
    let bytes = encode(request, options).unwrap();
    assert_eq!(bytes, encode(request, options).unwrap());
    String::from_utf8(bytes).unwrap()
}

/// The part of the body that is the conversation.
fn contents(request: &LlmRequest) -> String {
    let body = body(request);
    let body = body.strip_prefix(r#"{"contents":"#).unwrap();
    let end = body.find(r#","generationConfig":"#).unwrap();
    body[..end].to_owned()
}

fn said(model: &str, content: Vec<AssistantBlock>) -> Message {
    let mut message = AssistantMessage::new("p", model);
    message.api = api::GEMINI.into();
    message.content = content;
    Message::Assistant(message)
}

fn user(text: &str) -> Message {
    Message::user(text, MessageOrigin::Task)
}

fn result(id: &str, is_error: bool, content: Vec<ContentBlock>) -> Message {
    Message::ToolResult(ToolResultMessage {
        tool_call_id: id.into(),
        tool_name: "f".into(),
        content,
        is_error,
        details: serde_json::Value::Null,
        is_final: false,
    })
}

fn image() -> ContentBlock {
    ContentBlock::Image {
        data: "QQ==".into(),
        mime_type: "image/png".into(),
    }
}

#[test]
fn a_request_with_everything_has_these_bytes() {
    let mut request = request("gemini-2.5-flash", vec![user("Hi")]);
    request.system = "Be brief.".into();
    request.temperature = Some(0.5);
    request.tools = Arc::new([ToolSpec {
        name: "f".into(),
        description: "Does f.".into(),
        parameters: json!({"type": "object", "properties": {"z": {"const": "k"}, "a": {}}}),
    }]);
    request.tool_choice = ToolChoice::Tool("f".into());
    request.response_schema = Some(json!({"type": "object", "properties": {"x": {"const": 1}}}));
    request.options.stop = vec!["END".into()];
    request.options.thinking = Some(ThinkingLevel::Low);
    let support = ThinkingSupport::new(ThinkingMode::Budget);
    Arc::make_mut(&mut request.model).thinking = Some(support);
    request.max_output_tokens = 9_000;
    let expected = r#"{"systemInstruction":{"parts":[{"text":"Be brief."}]},"contents":[{"role":"user","parts":[{"text":"Hi"}]}],"tools":[{"functionDeclarations":[{"name":"f","description":"Does f.","parametersJsonSchema":{"type":"object","properties":{"z":{"enum":["k"]},"a":{}}}}]}],"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["f"]}},"generationConfig":{"temperature":0.5,"maxOutputTokens":9000,"stopSequences":["END"],"responseMimeType":"application/json","responseJsonSchema":{"type":"object","properties":{"x":{"enum":[1]}}},"thinkingConfig":{"includeThoughts":true,"thinkingBudget":2048}}}"#;
    assert_eq!(body(&request), expected);
    for (choice, mode) in [
        (ToolChoice::Auto, "AUTO"),
        (ToolChoice::None, "NONE"),
        (ToolChoice::Required, "ANY"),
    ] {
        request.tool_choice = choice;
        let config = format!(r#""toolConfig":{{"functionCallingConfig":{{"mode":"{mode}"}}}}"#);
        assert!(body(&request).contains(&config), "{mode}");
    }
    request.tool_choice = ToolChoice::Tool("g".into());
    let error = encode(&request, GeminiOptions::default()).unwrap_err();
    assert_eq!(
        (error.kind, error.billing),
        (LlmErrorKind::InvalidRequest, Billing::None)
    );
}

#[test]
fn a_plain_request_says_no_more_than_it_must() {
    let request = request(WIRE_ID, vec![user("Hi"), user("there")]);
    let expected = r#"{"contents":[{"role":"user","parts":[{"text":"Hi"},{"text":"there"}]}],"generationConfig":{"maxOutputTokens":50}}"#;
    assert_eq!(body(&request), expected);
}

fn conversation() -> Vec<Message> {
    let look = UserMessage {
        content: vec![ContentBlock::text("Look"), image()],
        origin: MessageOrigin::Task,
    };
    vec![
        Message::User(look),
        said(
            "m",
            vec![
                thought("signed", Some("t1")),
                thought("unsigned", None),
                text("A", None),
                text("", Some("t2")),
                text("", None),
                call("a.b", "f", json!({"z": 1, "b": 2}), Some("t3")),
                call("c", "f", json!({}), None),
                call("d", "f", json!({}), None),
            ],
        ),
        result(
            "c",
            false,
            vec![
                ContentBlock::text("one"),
                image(),
                ContentBlock::text("two"),
            ],
        ),
        result("a.b", true, vec![ContentBlock::text("no such thing")]),
        user("Go on"),
        said("m", vec![thought("hm", None)]),
        said("m", vec![text("B", None)]),
        said("m", vec![text("C", Some("t4"))]),
    ]
}

/// The id that stands for one that Gemini would refuse.
fn rewritten(id: &str) -> String {
    let hash = blake3::hash(&[id.as_bytes(), &[0; 4]].concat()).to_hex();
    format!("call_{}", &hash[..32])
}

const LOOK: &str = r#"{"role":"user","parts":[{"text":"Look"},{"inlineData":{"mimeType":"image/png","data":"QQ=="}}]}"#;

#[test]
fn a_conversation_is_told_to_a_new_model_with_ids_and_its_own_signatures() {
    let mut request = request("m", conversation());
    Arc::make_mut(&mut request.model).wire_id = Some("gemini-3.8-flash".into());
    let id = rewritten("a.b");
    let expected = format!(
        r#"[{LOOK},{{"role":"model","parts":[{{"text":"signed","thought":true,"thoughtSignature":"t1"}},{{"text":"A"}},{{"text":"","thoughtSignature":"t2"}},{{"functionCall":{{"id":"{id}","name":"f","args":{{"z":1,"b":2}}}},"thoughtSignature":"t3"}},{{"functionCall":{{"id":"c","name":"f","args":{{}}}}}},{{"functionCall":{{"id":"d","name":"f","args":{{}}}}}}]}},{{"role":"user","parts":[{{"functionResponse":{{"id":"{id}","name":"f","response":{{"error":"no such thing"}}}}}},{{"functionResponse":{{"id":"c","name":"f","response":{{"output":"one\ntwo"}},"parts":[{{"inlineData":{{"mimeType":"image/png","data":"QQ=="}}}}]}}}},{{"functionResponse":{{"id":"d","name":"f","response":{{"error":"{NO_RESULT}"}}}}}},{{"text":"Go on"}}]}},{{"role":"model","parts":[{{"text":"B"}},{{"text":"C","thoughtSignature":"t4"}}]}}]"#
    );
    assert_eq!(contents(&request), expected.replace('\n', "\\n"));
}

#[test]
fn a_conversation_is_told_to_an_old_model_without_ids_and_with_loose_images() {
    let mut request = request("m", conversation());
    Arc::make_mut(&mut request.model).wire_id = Some("gemini-2.5-pro".into());
    let expected = format!(
        r#"[{LOOK},{{"role":"model","parts":[{{"text":"signed","thought":true,"thoughtSignature":"t1"}},{{"text":"A"}},{{"text":"","thoughtSignature":"t2"}},{{"functionCall":{{"name":"f","args":{{"z":1,"b":2}}}},"thoughtSignature":"t3"}},{{"functionCall":{{"name":"f","args":{{}}}}}},{{"functionCall":{{"name":"f","args":{{}}}}}}]}},{{"role":"user","parts":[{{"functionResponse":{{"name":"f","response":{{"error":"no such thing"}}}}}},{{"functionResponse":{{"name":"f","response":{{"output":"one\ntwo"}}}}}},{{"functionResponse":{{"name":"f","response":{{"error":"{NO_RESULT}"}}}}}},{{"inlineData":{{"mimeType":"image/png","data":"QQ=="}}}},{{"text":"Go on"}}]}},{{"role":"model","parts":[{{"text":"B"}},{{"text":"C","thoughtSignature":"t4"}}]}}]"#
    );
    assert_eq!(contents(&request), expected.replace('\n', "\\n"));
}

#[test]
fn calls_of_other_models_bypass_the_check_of_signatures_where_there_is_one() {
    let told = |wire_id: &str, version: Option<u32>| {
        let blocks = vec![
            thought("hm", Some("x")),
            text("A", Some("x")),
            text("", Some("x")),
            call("a", "f", json!({}), Some("x")),
            call("b", "f", json!({}), None),
        ];
        let request = request(wire_id, vec![said("other", blocks)]);
        let bytes = encode(&request, GeminiOptions { version }).unwrap();
        let whole: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        whole["contents"][0]["parts"].clone()
    };
    let with = |id: &str, name: &str| {
        json!({"functionCall": {"id": id, "name": name, "args": {}},
               "thoughtSignature": "skip_thought_signature_validator"})
    };
    let new = json!([{"text": "A"}, with("a", "f"), with("b", "f")]);
    let bare = json!({"functionCall": {"name": "f", "args": {}}});
    let old = json!([{"text": "A"}, bare, bare]);
    for (wire_id, version, expected) in [
        ("gemini-3-pro-preview", None, &new),
        ("models/gemini-3.8-flash", None, &new),
        ("gemini-10", None, &new),
        ("gemini-flash-latest", None, &new),
        ("somebodys-own", None, &new),
        ("gemini-2.5-pro", None, &old),
        ("google/gemini-2.0-flash", None, &old),
        ("gemini-2.5-pro", Some(3), &new),
        ("somebodys-own", Some(2), &old),
    ] {
        assert_eq!(told(wire_id, version), *expected, "{wire_id} {version:?}");
    }
}

/// The fields of a part that an answer and a conversation have in common.
fn common(part: &serde_json::Value) -> Option<serde_json::Value> {
    let mut part = part.clone();
    if let Some(call) = part["functionCall"].as_object_mut() {
        call.remove("id");
    }
    let kept = part.as_object_mut()?;
    kept.retain(|_, value| !value.is_null());
    let is_code = kept.contains_key("executableCode") || kept.contains_key("codeExecutionResult");
    let is_unsigned = !kept.contains_key("thoughtSignature");
    let is_summary = kept.contains_key("thought") && is_unsigned;
    (!(is_code || is_summary || is_unsigned && part["text"] == "")).then_some(part)
}

#[test]
fn an_answer_is_told_back_as_it_came() {
    for name in [
        "text",
        "thinking",
        "parallel_calls",
        "call_with_id",
        "two_finish_reasons",
    ] {
        let mut came: Vec<serde_json::Value> = Vec::new();
        for data in data_of(name) {
            let chunk: serde_json::Value = serde_json::from_str(&data).unwrap();
            let parts = &chunk["candidates"][0]["content"]["parts"];
            for part in parts.as_array().unwrap().iter().filter_map(common) {
                let is_plain = |part: &serde_json::Value| {
                    part["text"].is_string() && part["thoughtSignature"].is_null()
                };
                match came.last_mut() {
                    // Only pieces of text that nobody signed become one.
                    Some(last) if is_plain(last) && is_plain(&part) => {
                        let text = format!(
                            "{}{}",
                            last["text"].as_str().unwrap(),
                            part["text"].as_str().unwrap()
                        );
                        last["text"] = json!(text);
                    }
                    _ => came.push(part),
                }
            }
        }
        let message = whole(decode(&data_of(name)));
        let request = request(WIRE_ID, vec![Message::Assistant(message)]);
        let told: serde_json::Value = serde_json::from_str(&contents(&request)).unwrap();
        let told = told[0]["parts"].as_array().unwrap();
        let told: Vec<serde_json::Value> = told.iter().filter_map(common).collect();
        assert_eq!(told, came, "{name}");
    }
}

/// How a model of this support is told to think.
fn thinking_config(
    mode: ThinkingMode,
    levels: &[(ThinkingLevel, Option<&str>)],
    level: Option<ThinkingLevel>,
    max: u32,
) -> Option<String> {
    let mut support = ThinkingSupport::new(mode);
    let levels = levels.iter();
    support.levels = levels
        .map(|(l, word)| (*l, word.map(str::to_owned)))
        .collect();
    let mut request = request(WIRE_ID, vec![user("Hi")]);
    request.options.thinking = level;
    request.max_output_tokens = max;
    Arc::make_mut(&mut request.model).thinking = Some(support);
    let body = body(&request);
    let (_, config) = body.split_once(r#""thinkingConfig":{"#)?;
    Some(config.strip_suffix("}}}").unwrap().to_owned())
}

#[test]
fn a_model_that_counts_its_thinking_is_told_a_budget_with_room_for_the_answer() {
    use ThinkingLevel as Level;
    let told = |levels: &[_], level, max| {
        thinking_config(ThinkingMode::Budget, levels, Some(level), max).unwrap()
    };
    let thoughts = |budget: &str| format!(r#""includeThoughts":true,"thinkingBudget":{budget}"#);
    assert_eq!(told(&[], Level::High, 64_000), thoughts("16384"));
    assert_eq!(told(&[], Level::High, 4_000), thoughts("2976"));
    assert_eq!(told(&[], Level::Off, 64_000), r#""thinkingBudget":0"#);
    assert_eq!(told(&[], Level::Low, 50), r#""thinkingBudget":0"#);
    let no_off = [(Level::Off, None)];
    assert_eq!(told(&no_off, Level::Off, 64_000), thoughts("1024"));
    assert_eq!(told(&no_off, Level::Low, 50), r#""includeThoughts":true"#);
    let words = [(Level::Max, Some("32768")), (Level::Low, Some("-1"))];
    assert_eq!(told(&words, Level::Max, 64_000), thoughts("32768"));
    assert_eq!(told(&words, Level::Low, 64_000), thoughts("-1"));
    assert_eq!(
        thinking_config(ThinkingMode::Budget, &[], None, 64_000),
        None
    );
}

#[test]
fn a_model_that_knows_words_is_told_one() {
    use ThinkingLevel as Level;
    let told = |levels: &[_], level| {
        thinking_config(ThinkingMode::Effort, levels, Some(level), 50).unwrap()
    };
    let thoughts = |word: &str| format!(r#""includeThoughts":true,"thinkingLevel":"{word}""#);
    assert_eq!(told(&[], Level::Medium), thoughts("MEDIUM"));
    assert_eq!(told(&[], Level::Max), thoughts("HIGH"));
    assert_eq!(told(&[(Level::Off, None)], Level::Off), thoughts("MINIMAL"));
    assert_eq!(told(&[], Level::Off), r#""thinkingLevel":"MINIMAL""#);
    assert_eq!(thinking_config(ThinkingMode::Effort, &[], None, 50), None);
}

#[test]
fn extra_fields_win_but_not_over_the_limit_of_output() {
    let mut request = request(WIRE_ID, vec![user("Hi")]);
    let extra = json!({
        "generationConfig": {"topP": 0.5, "maxOutputTokens": 9, "max_output_tokens": 9, "candidateCount": 8},
        "generation_config": {"maxOutputTokens": 9},
        "cachedContent": "c",
    });
    request.options.extra = extra.as_object().unwrap().clone();
    let body = body(&request);
    let expected = r#""generationConfig":{"maxOutputTokens":50,"topP":0.5},"cachedContent":"c"}"#;
    assert!(body.ends_with(expected), "{body}");
    for config in [json!(null), json!(7)] {
        request.options.extra = [("generationConfig".to_owned(), config)]
            .into_iter()
            .collect();
        let error = encode(&request, GeminiOptions::default()).unwrap_err();
        assert_eq!(
            (error.kind, error.billing),
            (LlmErrorKind::InvalidRequest, Billing::None)
        );
    }
}

#[test]
fn paths_and_the_key_header_are_gemini_s() {
    let dialect = GeminiDialect::default();
    for (id, path) in [
        ("gemini-2.5-pro", "gemini-2.5-pro"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("a/b c?é:%", "a%2Fb%20c%3F%C3%A9%3A%25"),
    ] {
        let expected = format!("/models/{path}:streamGenerateContent?alt=sse");
        assert_eq!(dialect.path(&request(id, vec![])), expected);
    }
    assert_eq!(dialect.api(), "google-gemini");
    assert_eq!(dialect.base_path(), "/v1beta");
    assert_eq!(dialect.key_header(), KeyHeader::Named("x-goog-api-key"));
    assert_eq!(dialect.models_path(), "/models?pageSize=1000");
    let models = dialect.read_models(r#"{"models":[{"name":"models/x"}]}"#, "p");
    assert_eq!(models.unwrap()[0].id, "x");
    assert_eq!(
        dialect.encode(&request(WIRE_ID, vec![])).unwrap().first(),
        Some(&b'{')
    );
}
