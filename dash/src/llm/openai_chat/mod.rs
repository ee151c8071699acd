//! The dialect OpenAI Chat Completions, as OpenAI and the many servers that imitate it speak it.
//!
//! Pure: see [`dialect`](super::dialect). The HTTP side is `llm::http` (feature `http`). Reading is
//! lenient, since every imitation differs: each field is optional, unknown fields are ignored.
//! Writing follows a [`Compat`]: [`Compat::for_base`] knows well-known servers, see [`Preset`].
//! The goldens in `tests/` and `goldens/` name the known quirks.

mod chunk;
mod content;
mod decode;
mod encode;
mod presets;
#[cfg(test)]
mod tests;
mod wire;

use super::dialect::{AnswerSetup, Decoder, Dialect};
use super::models::read_models;
use super::{LlmError, LlmRequest, Model, api};

pub use crate::model::compat::{
    CacheMarkers, CallIds, Compat, CompatPatch, OutputLimitField, ReasoningReplay,
    ResponseFormatKind, ThinkingSwitch,
};
pub use decode::ChatDecoder;
pub use encode::encode;
pub use presets::{Preset, WindowSource};

/// OpenAI Chat Completions as a [`Dialect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChatDialect {
    /// How the server differs.
    pub compat: Compat,
}

impl Dialect for ChatDialect {
    fn api(&self) -> &'static str {
        api::OPENAI_CHAT
    }

    fn path(&self, _request: &LlmRequest) -> String {
        "/chat/completions".to_owned()
    }

    fn encode(&self, request: &LlmRequest) -> Result<Vec<u8>, LlmError> {
        encode(request, self.compat)
    }

    fn decoder(&self, setup: AnswerSetup) -> Box<dyn Decoder> {
        Box::new(ChatDecoder::with_compat(setup, self.compat))
    }

    fn read_models(&self, body: &str, provider: &str) -> Result<Vec<Model>, LlmError> {
        read_models(body, provider)
    }
}
