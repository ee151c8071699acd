//! The dialect OpenAI Chat Completions, as OpenAI and the many servers that imitate it speak it.
//!
//! Pure: see [`dialect`](super::dialect). The HTTP side is `llm::http` (feature `http`). Reading is
//! lenient, since every imitation differs: each field is optional, unknown fields are ignored.
//! The goldens in `tests.rs` name the known quirks.

mod chunk;
mod decode;
mod encode;
#[cfg(test)]
mod tests;

use super::dialect::{AnswerSetup, Decoder, Dialect};
use super::models::read_models;
use super::{LlmError, LlmRequest, Model, api};

pub use decode::ChatDecoder;
pub use encode::encode;

/// Which field carries the limit of output tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputLimitField {
    /// `max_tokens`: the old name, which the imitations know.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`: what OpenAI asks for; reasoning models refuse the other.
    MaxCompletionTokens,
}

/// How a server's Chat Completions differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChatOptions {
    /// The field of the output limit.
    pub output_limit: OutputLimitField,
    /// Whether a response schema is sent as `strict`. OpenAI then wants every property required
    /// and `additionalProperties: false`, and refuses schemas that are not so.
    pub strict_schema: bool,
}

impl ChatOptions {
    /// The usual options for the server at `host`: OpenAI's own for `api.openai.com`, the most
    /// widely understood ones elsewhere.
    #[must_use]
    pub fn for_host(host: &str) -> Self {
        let openai = host.eq_ignore_ascii_case("api.openai.com");
        let output_limit = if openai {
            OutputLimitField::MaxCompletionTokens
        } else {
            OutputLimitField::MaxTokens
        };
        Self {
            output_limit,
            strict_schema: false,
        }
    }
}

/// OpenAI Chat Completions as a [`Dialect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChatDialect {
    /// How the server differs.
    pub options: ChatOptions,
}

impl Dialect for ChatDialect {
    fn api(&self) -> &'static str {
        api::OPENAI_CHAT
    }

    fn path(&self, _request: &LlmRequest) -> String {
        "/chat/completions".to_owned()
    }

    fn encode(&self, request: &LlmRequest) -> Result<Vec<u8>, LlmError> {
        encode(request, self.options)
    }

    fn decoder(&self, setup: AnswerSetup) -> Box<dyn Decoder> {
        Box::new(ChatDecoder::new(setup))
    }

    fn read_models(&self, body: &str, provider: &str) -> Result<Vec<Model>, LlmError> {
        read_models(body, provider)
    }
}
