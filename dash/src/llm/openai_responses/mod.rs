//! The dialect OpenAI Responses, as OpenAI and the servers that imitate it speak it.
//!
//! Pure: see [`dialect`](super::dialect). Nothing is kept on the server (`store: false`); what it
//! needs back travels in the conversation, in the opaque fields of [`AssistantBlock`]:
//!
//! | block | field | holds |
//! |---|---|---|
//! | thinking | `signature` | the whole reasoning item, as JSON |
//! | text | `signature` | the id of its message item (`msg_…`) |
//! | tool call | `thought_signature` | the id of its item (`fc_…`, or `ctc_…` of a custom tool) |
//!
//! A tool call's own id is the `call_id`. The arguments of a custom tool's call are
//! `{"input": "<its text>"}`.
//!
//! [`AssistantBlock`]: crate::model::AssistantBlock

mod decode;
mod encode;
mod event;
mod slot;
#[cfg(test)]
mod tests;

use super::dialect::{AnswerSetup, Decoder, Dialect};
use super::models::read_models;
use super::{LlmError, LlmRequest, Model, api};

pub use decode::ResponsesDecoder;
pub use encode::{OUTPUT_TOKENS_MIN, encode};

/// How a server's Responses differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponsesOptions {
    /// Whether a response schema is sent as `strict`. OpenAI then wants every property required
    /// and `additionalProperties: false`, and refuses schemas that are not so.
    pub strict_schema: bool,
}

/// OpenAI Responses as a [`Dialect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponsesDialect {
    /// How the server differs.
    pub options: ResponsesOptions,
}

impl Dialect for ResponsesDialect {
    fn api(&self) -> &'static str {
        api::OPENAI_RESPONSES
    }

    fn path(&self, _request: &LlmRequest) -> String {
        "/responses".to_owned()
    }

    fn encode(&self, request: &LlmRequest) -> Result<Vec<u8>, LlmError> {
        encode(request, self.options)
    }

    fn decoder(&self, setup: AnswerSetup) -> Box<dyn Decoder> {
        Box::new(ResponsesDecoder::new(setup))
    }

    fn read_models(&self, body: &str, provider: &str) -> Result<Vec<Model>, LlmError> {
        read_models(body, provider)
    }
}
