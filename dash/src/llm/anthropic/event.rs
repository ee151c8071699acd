//! What an event of an answer may hold. Texts are borrowed from the event where JSON allows it.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::llm::lenient::{Count, Lenient};
use crate::model::Usage;

/// An event. Its parts are read on their own, so that a part of the wrong type is only missing.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Lenient<'a>,
    #[serde(default)]
    pub(super) index: Count,
    #[serde(borrow, default)]
    pub(super) message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) content_block: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
}

/// A part of an event; missing if it is of the wrong type.
pub(super) fn part<'a, T: Deserialize<'a> + Default>(raw: Option<&'a RawValue>) -> T {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default()
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct MessageHead<'a> {
    #[serde(borrow)]
    pub(super) id: Lenient<'a>,
    #[serde(borrow)]
    pub(super) model: Lenient<'a>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct BlockHead<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Lenient<'a>,
    #[serde(borrow)]
    pub(super) text: Lenient<'a>,
    #[serde(borrow)]
    pub(super) thinking: Lenient<'a>,
    #[serde(borrow)]
    pub(super) signature: Lenient<'a>,
    /// Of thinking that is withheld.
    #[serde(borrow)]
    pub(super) data: Lenient<'a>,
    #[serde(borrow)]
    pub(super) id: Lenient<'a>,
    #[serde(borrow)]
    pub(super) name: Lenient<'a>,
    /// The arguments, where a server does not stream them; as JSON text.
    #[serde(borrow)]
    pub(super) input: Lenient<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct BlockDelta<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Lenient<'a>,
    #[serde(borrow)]
    pub(super) text: Lenient<'a>,
    #[serde(borrow)]
    pub(super) thinking: Lenient<'a>,
    #[serde(borrow)]
    pub(super) signature: Lenient<'a>,
    #[serde(borrow)]
    pub(super) partial_json: Lenient<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct MessageDelta<'a> {
    #[serde(borrow)]
    pub(super) stop_reason: Lenient<'a>,
    #[serde(borrow)]
    pub(super) stop_details: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct StopDetails<'a> {
    #[serde(borrow)]
    pub(super) explanation: Lenient<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ErrorHead<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Lenient<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawUsage<'a> {
    input_tokens: Count,
    output_tokens: Count,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
    #[serde(borrow)]
    cache_creation: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens_details: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CacheCreation {
    ephemeral_5m_input_tokens: Count,
    ephemeral_1h_input_tokens: Count,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OutputDetails {
    thinking_tokens: Count,
}

/// The counts told so far. Each telling is of the whole answer and may leave counts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    usage: Usage,
}

impl Tally {
    /// Takes over what is told. Returns whether the output was.
    pub(super) fn take(&mut self, raw: Option<&RawValue>) -> bool {
        let told: RawUsage<'_> = part(raw);
        let cache: CacheCreation = part(told.cache_creation);
        let details: OutputDetails = part(told.output_tokens_details);
        let old = self.usage;
        let long = cache.ephemeral_1h_input_tokens.get();
        let short = cache.ephemeral_5m_input_tokens.get();
        let parts = (long.is_some() || short.is_some())
            .then(|| long.unwrap_or(0).saturating_add(short.unwrap_or(0)));
        let written = told.cache_creation_input_tokens.get().or(parts);
        let mut new = Usage {
            input: told.input_tokens.get().unwrap_or(old.input),
            output: told.output_tokens.get().unwrap_or(0).max(old.output),
            cache_read: told.cache_read_input_tokens.get().unwrap_or(old.cache_read),
            cache_write: written.unwrap_or(old.cache_write),
            reasoning: details.thinking_tokens.get().unwrap_or(old.reasoning),
            cache_write_long: long.unwrap_or(old.cache_write_long),
        };
        if new.prompt() == 0 {
            // Some servers fill what they do not repeat with zeros.
            new = Usage {
                input: old.input,
                cache_read: old.cache_read,
                cache_write: old.cache_write,
                cache_write_long: old.cache_write_long,
                ..new
            };
        }
        new.reasoning = new.reasoning.min(new.output);
        new.cache_write_long = new.cache_write_long.min(new.cache_write);
        self.usage = new.clamped();
        told.output_tokens.get().is_some()
    }

    pub(super) const fn usage(&self) -> Usage {
        self.usage
    }
}
