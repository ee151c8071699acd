//! The dialect Google Gemini (`generateContent`, version `v1beta`).
//!
//! Pure: see [`dialect`](super::dialect). Reading is lenient: each field is optional, a field of the
//! wrong type counts as missing.
//!
//! # Signatures
//!
//! Any part of an answer may carry an opaque `thoughtSignature`, which must come back on the very
//! part it came on; models from version 3 refuse a conversation whose calls have lost theirs. So a
//! part with a signature is a block of its own, even if its text is empty, and blocks are written
//! back in their order, one part each.

mod chunk;
mod decode;
mod encode;
mod models;
mod schema;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use super::dialect::{AnswerSetup, Decoder, Dialect, KeyHeader};
use super::{LlmError, LlmRequest, Model, api};

pub use decode::GeminiDecoder;
pub use encode::{SIGNATURE_BYPASS, encode};

/// How a server's Gemini differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GeminiOptions {
    /// The major version of the models behind the server, which decides what may be sent. `None` =
    /// as the model's name says, the newest if it does not.
    pub version: Option<u32>,
}

impl GeminiOptions {
    /// Whether the model takes what came with version 3: ids of calls, images inside of tool
    /// results, signatures that must be there.
    fn is_new(self, wire_id: &str) -> bool {
        let version = self.version.or_else(|| version_of(wire_id));
        version.is_none_or(|version| version >= 3)
    }
}

/// The major version in a name such as `gemini-2.5-pro`.
fn version_of(wire_id: &str) -> Option<u32> {
    let (_, rest) = wire_id.rsplit_once("gemini-")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Google Gemini as a [`Dialect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GeminiDialect {
    /// How the server differs.
    pub options: GeminiOptions,
}

impl Dialect for GeminiDialect {
    fn api(&self) -> &'static str {
        api::GEMINI
    }

    fn base_path(&self) -> &'static str {
        "/v1beta"
    }

    fn path(&self, request: &LlmRequest) -> String {
        let id = request.model.wire_id();
        let id = id.strip_prefix("models/").unwrap_or(id);
        format!(
            "/models/{}:streamGenerateContent?alt=sse",
            percent_encoded(id)
        )
    }

    fn key_header(&self) -> KeyHeader {
        KeyHeader::Named("x-goog-api-key")
    }

    fn encode(&self, request: &LlmRequest) -> Result<Vec<u8>, LlmError> {
        encode(request, self.options)
    }

    fn decoder(&self, setup: AnswerSetup) -> Box<dyn Decoder> {
        Box::new(GeminiDecoder::new(setup))
    }

    fn models_path(&self) -> &'static str {
        "/models?pageSize=1000"
    }

    fn read_models(&self, body: &str, provider: &str) -> Result<Vec<Model>, LlmError> {
        models::read_models(body, provider)
    }
}

/// A name as one segment of a path: all but letters, digits and `-._~` is escaped.
fn percent_encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _written = write!(out, "%{byte:02X}");
        }
    }
    out
}
