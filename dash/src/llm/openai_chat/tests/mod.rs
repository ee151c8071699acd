mod compat;
mod decode;
mod encode;
mod quirks;
mod streams;

use std::sync::Arc;

use pretty_assertions::assert_eq;

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
    let events = chunks.iter().map(|data| ("message", *data));
    decode_as(Compat::COMMON, model(), &events.collect::<Vec<_>>())
}

/// The same of a server that differs.
fn decode_as(compat: Compat, model: Model, events: &[(&str, &str)]) -> Vec<LlmEvent> {
    let setup = AnswerSetup {
        api: api::OPENAI_CHAT,
        provider: "p".into(),
        model: Arc::new(model),
        input_bound: 70,
        output_limit: 0,
    };
    let mut decoder = ChatDecoder::with_compat(setup, compat);
    let mut out = Vec::new();
    for (name, data) in events {
        decoder.feed(SseEvent { name, data }, &mut out);
    }
    decoder.eof(&mut out);
    assert_eq!(check_grammar(&out), Ok(()), "{out:#?}");
    out
}

fn done(chunks: &[&str]) -> AssistantMessage {
    whole(decode(chunks))
}

fn whole(mut events: Vec<LlmEvent>) -> AssistantMessage {
    match events.pop() {
        Some(LlmEvent::Done { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

fn failed(chunks: &[&str]) -> (LlmError, AssistantMessage) {
    broken(decode(chunks))
}

fn broken(mut events: Vec<LlmEvent>) -> (LlmError, AssistantMessage) {
    match events.pop() {
        Some(LlmEvent::Error { error, message }) => (error, message),
        other => panic!("{other:?}"),
    }
}

fn thinking(message: &AssistantMessage) -> (String, Option<String>) {
    let mut all = (String::new(), None);
    for block in &message.content {
        if let AssistantBlock::Thinking {
            text, signature, ..
        } = block
        {
            all.0.push_str(text);
            all.1 = signature.clone().or(all.1);
        }
    }
    all
}

fn calls(message: &AssistantMessage) -> Vec<(&str, &str, String)> {
    message
        .tool_calls()
        .map(|c| (&*c.id, &*c.name, c.arguments.to_string()))
        .collect()
}

const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":3,"cache_write_tokens":2},"completion_tokens_details":{"reasoning_tokens":1}}}"#;

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

fn body(request: &LlmRequest, compat: Compat) -> String {
    let bytes = encode(request, compat).unwrap();
    assert_eq!(bytes, encode(request, compat).unwrap());
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
        is_final: false,
    })
}
