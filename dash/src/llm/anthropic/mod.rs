//! The dialect Anthropic Messages, as Anthropic and the servers that imitate it speak it.
//!
//! Pure: see [`dialect`](super::dialect). Reading is lenient: every field is optional, unknown
//! events, blocks and deltas are ignored. The raw answers in `goldens/` show the wire.

mod decode;
mod encode;
mod event;
mod messages;
mod models;
#[cfg(test)]
mod tests;

use super::dialect::{AnswerSetup, Decoder, Dialect, KeyHeader};
use super::{LlmError, LlmRequest, Model, api};

pub use decode::AnthropicDecoder;
pub use encode::encode;

/// The version of the API that is spoken.
const VERSION: &str = "2023-06-01";

/// How a server's Messages differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnthropicOptions {
    /// Whether the key is sent as `authorization: Bearer` instead of `x-api-key`: tokens of OAuth,
    /// and many gateways.
    pub bearer: bool,
    /// Features that are switched on by name, sent as `anthropic-beta` in this order.
    pub betas: Vec<String>,
}

/// Anthropic Messages as a [`Dialect`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnthropicDialect {
    /// How the server differs.
    pub options: AnthropicOptions,
}

impl Dialect for AnthropicDialect {
    fn api(&self) -> &'static str {
        api::ANTHROPIC
    }

    fn path(&self, _request: &LlmRequest) -> String {
        "/messages".to_owned()
    }

    fn key_header(&self) -> KeyHeader {
        if self.options.bearer {
            KeyHeader::Bearer
        } else {
            KeyHeader::Named("x-api-key")
        }
    }

    fn headers(&self, _request: &LlmRequest) -> Vec<(&'static str, String)> {
        let mut headers = vec![("anthropic-version", VERSION.to_owned())];
        if !self.options.betas.is_empty() {
            headers.push(("anthropic-beta", self.options.betas.join(",")));
        }
        headers
    }

    fn encode(&self, request: &LlmRequest) -> Result<Vec<u8>, LlmError> {
        encode(request)
    }

    fn decoder(&self, setup: AnswerSetup) -> Box<dyn Decoder> {
        Box::new(AnthropicDecoder::new(setup))
    }

    fn models_path(&self) -> &'static str {
        "/models?limit=1000"
    }

    fn read_models(&self, body: &str, provider: &str) -> Result<Vec<Model>, LlmError> {
        models::read_models(body, provider)
    }
}
