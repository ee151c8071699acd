//! Requests and answers, byte by byte. `goldens/` holds whole answers as they are on the wire;
//! those of llama.cpp have the shape of recorded ones.

mod goldens;
mod read;
mod write;

use std::sync::Arc;

use pretty_assertions::assert_eq;
use serde_json::Value;

use super::*;
use crate::llm::dialect::SseEvent;
use crate::llm::{LlmEvent, ModelPrice};
use crate::model::{AssistantBlock, AssistantMessage, NanoUsd, ToolCall, Usage};
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

fn setup() -> AnswerSetup {
    AnswerSetup {
        api: api::OPENAI_RESPONSES,
        provider: "p".into(),
        model: Arc::new(model()),
        input_bound: 70,
        output_limit: 0,
    }
}

fn decoder() -> ResponsesDecoder {
    ResponsesDecoder::new(setup())
}

/// Decodes events, each a name and its data; the grammar holds whatever they are.
fn decode_named(events: &[(&str, &str)]) -> Vec<LlmEvent> {
    let mut decoder = decoder();
    let mut out = Vec::new();
    for (name, data) in events {
        decoder.feed(SseEvent { name, data }, &mut out);
    }
    decoder.eof(&mut out);
    assert!(decoder.is_ended());
    assert_eq!(check_grammar(&out), Ok(()), "{out:#?}");
    out
}

/// Decodes events that are named in their data only.
fn decode(events: &[Value]) -> Vec<LlmEvent> {
    let texts: Vec<String> = events.iter().map(Value::to_string).collect();
    let named: Vec<_> = texts.iter().map(|data| ("message", &**data)).collect();
    decode_named(&named)
}

fn message_of(events: Vec<LlmEvent>) -> AssistantMessage {
    match events.into_iter().last() {
        Some(LlmEvent::Done { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

fn error_of(events: Vec<LlmEvent>) -> (LlmError, AssistantMessage) {
    match events.into_iter().last() {
        Some(LlmEvent::Error { error, message }) => (error, message),
        other => panic!("{other:?}"),
    }
}

fn done(events: &[Value]) -> AssistantMessage {
    message_of(decode(events))
}

fn failed(events: &[Value]) -> (LlmError, AssistantMessage) {
    error_of(decode(events))
}

fn text(text: &str, signature: &str) -> AssistantBlock {
    AssistantBlock::Text {
        text: text.into(),
        signature: Some(signature.to_owned()).filter(|id| !id.is_empty()),
    }
}

fn thinking(text: &str, signature: &str) -> AssistantBlock {
    AssistantBlock::Thinking {
        text: text.into(),
        signature: Some(signature.to_owned()).filter(|item| !item.is_empty()),
        redacted: false,
    }
}

fn call(id: &str, name: &str, arguments: Value, item_id: &str) -> AssistantBlock {
    AssistantBlock::ToolCall(ToolCall {
        id: id.into(),
        name: name.into(),
        arguments,
        arguments_error: None,
        thought_signature: Some(item_id.to_owned()).filter(|id| !id.is_empty()),
    })
}

/// The calls that must not be run: id, tool and why.
fn refused(message: &AssistantMessage) -> Vec<(&str, &str, &str)> {
    let calls = message.tool_calls();
    calls
        .filter_map(|call| Some((&*call.id, &*call.name, call.arguments_error.as_deref()?)))
        .collect()
}

fn tokens(input: u64, output: u64) -> Usage {
    Usage {
        input,
        output,
        ..Usage::default()
    }
}
