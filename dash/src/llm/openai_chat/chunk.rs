//! What a chunk of an answer may hold. Texts are borrowed from the event where JSON allows it.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::content::Content;
use crate::llm::cost;
use crate::llm::lenient::{Count, Lenient};
use crate::model::{NanoUsd, Usage};

/// What has another shape counts as missing.
fn soft<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    let raw = <&RawValue>::deserialize(from)?;
    Ok(serde_json::from_str(raw.get()).ok())
}

/// The same for what was put aside.
fn read<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

#[derive(Deserialize)]
pub(super) struct Chunk<'a> {
    #[serde(borrow, default)]
    pub(super) id: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) model: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) choices: Option<Vec<Choice<'a>>>,
    /// Read when it is there: as a field of every chunk it would be moved about in each.
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    /// Groq, also if usage is not asked for.
    #[serde(borrow, default)]
    x_groq: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) detail: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) object: Lenient<'a>,
}

#[derive(Deserialize)]
struct GroqExtra<'a> {
    #[serde(borrow, default, deserialize_with = "soft")]
    usage: Option<RawUsage<'a>>,
}

impl<'a> Chunk<'a> {
    /// The usage, wherever it is.
    pub(super) fn usage(&self) -> Option<RawUsage<'a>> {
        read(self.usage).or_else(|| read::<GroqExtra<'a>>(self.x_groq)?.usage)
    }
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow, default)]
    pub(super) delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    pub(super) finish_reason: Lenient<'a>,
    /// The model's own word, behind a router.
    #[serde(borrow, default)]
    pub(super) native_finish_reason: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

impl<'a> Choice<'a> {
    /// The usage, where servers put it here.
    pub(super) fn usage(&self) -> Option<RawUsage<'a>> {
        read(self.usage)
    }
}

#[derive(Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow, default)]
    pub(super) content: Content<'a>,
    #[serde(borrow, default)]
    pub(super) refusal: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) reasoning_content: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) reasoning: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) reasoning_text: Lenient<'a>,
    #[serde(default, deserialize_with = "soft")]
    pub(super) reasoning_details: Option<Vec<Value>>,
    #[serde(borrow, default, deserialize_with = "soft")]
    pub(super) tool_calls: Option<Vec<CallDelta<'a>>>,
    /// What calls were before there could be several.
    #[serde(borrow, default, deserialize_with = "soft")]
    pub(super) function_call: Option<FunctionDelta<'a>>,
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
    pub(super) index: Count,
    #[serde(borrow, default)]
    pub(super) id: Lenient<'a>,
    #[serde(borrow, default, deserialize_with = "soft")]
    pub(super) function: Option<FunctionDelta<'a>>,
}

#[derive(Deserialize)]
pub(super) struct FunctionDelta<'a> {
    #[serde(borrow, default)]
    pub(super) name: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) arguments: Lenient<'a>,
}

impl FunctionDelta<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.name.as_str().is_empty() && self.arguments.as_str().is_empty()
    }
}

#[derive(Deserialize)]
pub(super) struct RawUsage<'a> {
    #[serde(default)]
    prompt_tokens: Count,
    #[serde(default)]
    completion_tokens: Count,
    #[serde(default)]
    total_tokens: Count,
    #[serde(default, deserialize_with = "soft")]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default, deserialize_with = "soft")]
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek.
    #[serde(default)]
    prompt_cache_hit_tokens: Count,
    /// Kimi.
    #[serde(default)]
    cached_tokens: Count,
    /// OpenRouter: dollars.
    #[serde(borrow, default)]
    cost: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "soft")]
    cost_details: Option<CostDetails<'a>>,
    /// Whether the upstream provider bills the caller's own account besides.
    #[serde(default, deserialize_with = "soft")]
    is_byok: Option<bool>,
    /// xAI.
    #[serde(default)]
    cost_in_usd_ticks: Count,
}

#[derive(Deserialize)]
struct CostDetails<'a> {
    #[serde(borrow, default)]
    upstream_inference_cost: Option<&'a RawValue>,
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

impl RawUsage<'_> {
    /// What the server says it billed; `cost` counts only where it is known to be dollars.
    pub(super) fn billed(&self, cost_is_dollars: bool) -> Option<NanoUsd> {
        if let Some(ticks) = self.cost_in_usd_ticks.get() {
            return cost::ticks(ticks);
        }
        let cost = self.cost.filter(|_| cost_is_dollars)?;
        let cost = cost::dollars(cost.get())?;
        if self.is_byok != Some(true) {
            return Some(cost);
        }
        // With a key of one's own the upstream bills the rest; without its figure nothing is known.
        let upstream = self.cost_details.as_ref()?.upstream_inference_cost?;
        Some(cost + cost::dollars(upstream.get())?)
    }

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
