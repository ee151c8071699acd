mod decode;
mod encode;
mod random;

use std::sync::Arc;

use pretty_assertions::assert_eq;

use super::*;
use crate::llm::dialect::SseEvent;
use crate::llm::{LlmEvent, ModelPrice};
use crate::model::{AssistantBlock, AssistantMessage, NanoUsd};
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

fn decoder(model: Model) -> Box<dyn Decoder> {
    AnthropicDialect::default().decoder(AnswerSetup {
        api: api::ANTHROPIC,
        provider: "p".into(),
        model: Arc::new(model),
        input_bound: 70,
        output_limit: 0,
    })
}

/// Decodes named events; the grammar holds whatever they are.
fn decode_as(model: Model, events: &[(&str, &str)]) -> Vec<LlmEvent> {
    let mut decoder = decoder(model);
    let mut out = Vec::new();
    for (name, data) in events {
        decoder.feed(SseEvent { name, data }, &mut out);
    }
    decoder.eof(&mut out);
    assert_eq!(check_grammar(&out), Ok(()), "{out:#?}");
    assert!(decoder.is_ended());
    out
}

fn decode(events: &[&str]) -> Vec<LlmEvent> {
    let named: Vec<_> = events.iter().map(|data| ("message", *data)).collect();
    decode_as(model(), &named)
}

fn whole(mut events: Vec<LlmEvent>) -> AssistantMessage {
    match events.pop() {
        Some(LlmEvent::Done { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

fn broken(mut events: Vec<LlmEvent>) -> (LlmError, AssistantMessage) {
    match events.pop() {
        Some(LlmEvent::Error { error, message }) => (error, message),
        other => panic!("{other:?}"),
    }
}

fn done(events: &[&str]) -> AssistantMessage {
    whole(decode(events))
}

fn failed(events: &[&str]) -> (LlmError, AssistantMessage) {
    broken(decode(events))
}

fn text(text: &str) -> AssistantBlock {
    AssistantBlock::Text {
        text: text.into(),
        signature: None,
    }
}

fn thinking(text: &str, signature: Option<&str>) -> AssistantBlock {
    AssistantBlock::Thinking {
        text: text.into(),
        signature: signature.map(str::to_owned),
        redacted: false,
    }
}

fn redacted(data: &str) -> AssistantBlock {
    AssistantBlock::Thinking {
        text: String::new(),
        signature: Some(data.into()),
        redacted: true,
    }
}

fn calls(message: &AssistantMessage) -> Vec<(&str, &str, String)> {
    message
        .tool_calls()
        .map(|call| (&*call.id, &*call.name, call.arguments.to_string()))
        .collect()
}

#[test]
fn the_key_goes_where_the_server_looks_for_it() {
    let request = encode::request(Vec::new());
    let plain = AnthropicDialect::default();
    assert_eq!(plain.key_header(), KeyHeader::Named("x-api-key"));
    let version = || ("anthropic-version", "2023-06-01".to_owned());
    assert_eq!(plain.headers(&request), [version()]);
    let options = AnthropicOptions {
        bearer: true,
        betas: vec!["interleaved-thinking-2025-05-14".into(), "b".into()],
    };
    let other = AnthropicDialect { options };
    assert_eq!(other.key_header(), KeyHeader::Bearer);
    let betas = "interleaved-thinking-2025-05-14,b".to_owned();
    assert_eq!(
        other.headers(&request),
        [version(), ("anthropic-beta", betas)]
    );
    let paths = (plain.base_path(), plain.path(&request), plain.models_path());
    let expected = ("/v1", "/messages".to_owned(), "/models?limit=1000");
    assert_eq!(paths, expected);
    assert_eq!(plain.api(), "anthropic-messages");
}
