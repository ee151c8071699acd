//! What a chunk of an answer may hold. Texts are borrowed from the event where JSON allows it.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::llm::lenient::{Count, Lenient};
use crate::model::Usage;

#[derive(Deserialize)]
pub(super) struct Chunk<'a> {
    #[serde(borrow, default)]
    pub(super) id: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) model: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    pub(super) usage: Option<RawUsage>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) detail: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) object: Lenient<'a>,
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow, default)]
    pub(super) delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    pub(super) finish_reason: Lenient<'a>,
    #[serde(default)]
    pub(super) usage: Option<RawUsage>,
}

#[derive(Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow, default)]
    pub(super) content: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) refusal: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) reasoning_content: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) reasoning: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) reasoning_text: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) tool_calls: Option<Vec<CallDelta<'a>>>,
}

impl Delta<'_> {
    /// The reasoning: the first field that has some, since servers send it twice.
    pub(super) fn thinking(&self) -> &str {
        let fields = [
            &self.reasoning_content,
            &self.reasoning,
            &self.reasoning_text,
        ];
        fields
            .into_iter()
            .map(Lenient::as_str)
            .find(|text| !text.is_empty())
            .unwrap_or_default()
    }
}

#[derive(Deserialize)]
pub(super) struct CallDelta<'a> {
    #[serde(default)]
    pub(super) index: Option<u64>,
    #[serde(borrow, default)]
    pub(super) id: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) function: Option<FunctionDelta<'a>>,
}

#[derive(Deserialize)]
pub(super) struct FunctionDelta<'a> {
    #[serde(borrow, default)]
    pub(super) name: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) arguments: Lenient<'a>,
}

#[derive(Deserialize)]
pub(super) struct RawUsage {
    #[serde(default)]
    prompt_tokens: Count,
    #[serde(default)]
    completion_tokens: Count,
    #[serde(default)]
    total_tokens: Count,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek.
    #[serde(default)]
    prompt_cache_hit_tokens: Count,
    /// Kimi.
    #[serde(default)]
    cached_tokens: Count,
}

#[derive(Deserialize, Default)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Count,
    #[serde(default)]
    cache_write_tokens: Count,
}

#[derive(Deserialize, Default)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Count,
}

impl RawUsage {
    /// The counts, none of which overlaps another.
    pub(super) fn usage(&self) -> Usage {
        let prompt = self.prompt_tokens.get().unwrap_or(0);
        let details = self.prompt_tokens_details.as_ref();
        let cached = details
            .and_then(|details| details.cached_tokens.get())
            .or_else(|| self.prompt_cache_hit_tokens.get())
            .or_else(|| self.cached_tokens.get())
            .unwrap_or(0)
            .min(prompt);
        let written = details
            .and_then(|details| details.cache_write_tokens.get())
            .unwrap_or(0);
        let written = written.min(prompt - cached);
        let reasoning = self.completion_tokens_details.as_ref();
        let reasoning = reasoning
            .and_then(|details| details.reasoning_tokens.get())
            .unwrap_or(0);
        // Some servers count reasoning in the total only; all of it is billed.
        let rest = self.total_tokens.get().unwrap_or(0).saturating_sub(prompt);
        let output = self.completion_tokens.get().unwrap_or(0).max(rest);
        Usage {
            input: prompt - cached - written,
            output,
            cache_read: cached,
            cache_write: written,
            reasoning: reasoning.min(output),
            cache_write_long: 0,
        }
    }
}
