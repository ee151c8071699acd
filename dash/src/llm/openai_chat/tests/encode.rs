use pretty_assertions::assert_eq;
use serde_json::json;

use super::*;

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
    let tail = tail.strip_suffix('}').unwrap();
    for (host, limit, end) in [
        ("localhost", r#""max_tokens":50"#, "}"),
        (
            "api.openai.com",
            r#""max_completion_tokens":50"#,
            r#","store":false}"#,
        ),
    ] {
        let expected = format!("{head}{limit}{tail}{end}");
        assert_eq!(body(&request, Compat::for_base(host)), expected);
    }
    request.tool_choice = ToolChoice::Tool("g".into());
    assert_eq!(
        encode(&request, Compat::COMMON).unwrap_err().billing,
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
    assert_eq!(body(&request, Compat::COMMON), expected);

    Arc::make_mut(&mut request.model).images = true;
    let url = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ=="}}"#;
    let expected = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"Look"}},{url}]}},{said},{one},{{"role":"tool","tool_call_id":"{id}","content":""}},{none},{{"role":"user","content":[{{"type":"text","text":"Images of the tool results:"}},{url}]}},{end}"#
    );
    assert_eq!(body(&request, Compat::COMMON), expected);
}

#[test]
fn a_call_without_text_has_null_content() {
    let request = request(vec![said(vec![call("a", json!({}))], StopReason::ToolUse)]);
    assert!(body(&request, Compat::COMMON).contains(r#""content":null,"tool_calls""#));
}
