//! What a chunk of an answer may hold: a whole `GenerateContentResponse` each. What may be of the
//! wrong type is kept raw and read on its own, so that it spoils nothing beside it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::llm::lenient::{Count, Lenient};
use crate::model::Usage;

/// Reads a field that may be missing or of the wrong type.
pub(super) fn read<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chunk<'a> {
    #[serde(borrow, default)]
    candidates: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage_metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    prompt_feedback: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) model_version: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) response_id: Lenient<'a>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl<'a> Chunk<'a> {
    /// Whether it is an error object.
    pub(super) fn is_error(&self) -> bool {
        self.error
            .is_some_and(|error| !matches!(error.get(), "null" | "\"\"" | "{}" | "false"))
    }

    /// The answer. One is asked for, so there is at most one.
    pub(super) fn candidate(&self) -> Option<Candidate<'a>> {
        let all: Vec<&RawValue> = read(self.candidates)?;
        read(all.first().copied())
    }

    pub(super) fn usage(&self) -> Option<RawUsage> {
        read(self.usage_metadata)
    }

    pub(super) fn prompt_feedback(&self) -> Option<PromptFeedback<'a>> {
        read(self.prompt_feedback)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Candidate<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) finish_reason: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) finish_message: Lenient<'a>,
}

impl<'a> Candidate<'a> {
    pub(super) fn parts(&self) -> Vec<Part<'a>> {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow, default)]
            parts: Option<&'a RawValue>,
        }
        let content: Option<Content<'a>> = read(self.content);
        let parts: Option<Vec<&RawValue>> = content.and_then(|content| read(content.parts));
        let parts = parts.into_iter().flatten();
        parts.filter_map(Part::read).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PromptFeedback<'a> {
    #[serde(borrow, default)]
    pub(super) block_reason: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) block_reason_message: Lenient<'a>,
}

/// A part of an answer and its signature.
pub(super) struct Part<'a> {
    pub(super) said: Said<'a>,
    pub(super) signature: Option<String>,
}

/// What a part says.
pub(super) enum Said<'a> {
    Text(Cow<'a, str>),
    Thought(Cow<'a, str>),
    Call(FunctionCall<'a>),
}

impl<'a> Part<'a> {
    /// `None` if it is of a kind that means nothing here.
    fn read(raw: &'a RawValue) -> Option<Self> {
        let mut fields: BTreeMap<String, &'a RawValue> = read(Some(raw))?;
        let is_thought = fields
            .remove("thought")
            .is_some_and(|thought| thought.get() == "true");
        let signature: Option<String> = read(fields.remove("thoughtSignature"));
        let signature = signature.filter(|signature| !signature.is_empty());
        let text = fields.remove("text");
        let call = fields.remove("functionCall");
        let said = if let Some(call) = read(call) {
            Said::Call(call)
        } else {
            // A signature may come alone, but that of code or an image is not the text's.
            let is_alone = fields.is_empty() && call.is_none() && signature.is_some();
            let text: Lenient<'a> = match text {
                Some(text) => read(Some(text)).unwrap_or_default(),
                None if is_alone => Lenient::default(),
                None => return None,
            };
            if is_thought {
                Said::Thought(text.into_inner())
            } else {
                Said::Text(text.into_inner())
            }
        };
        Some(Self { said, signature })
    }
}

#[derive(Deserialize)]
pub(super) struct FunctionCall<'a> {
    #[serde(borrow, default)]
    pub(super) id: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) name: Lenient<'a>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
}

impl<'a> FunctionCall<'a> {
    /// The arguments as JSON text. Some proxies send the text as a string.
    pub(super) fn arguments(&self) -> Cow<'a, str> {
        match self.args {
            None => Cow::Borrowed("{}"),
            Some(args) if args.get() == "null" => Cow::Borrowed("{}"),
            Some(args) if args.get().starts_with('"') => {
                Cow::Owned(read(Some(args)).unwrap_or_default())
            }
            Some(args) => Cow::Borrowed(args.get()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(super) struct RawUsage {
    prompt_token_count: Count,
    cached_content_token_count: Count,
    candidates_token_count: Count,
    thoughts_token_count: Count,
    tool_use_prompt_token_count: Count,
}

impl RawUsage {
    /// The counts, none of which overlaps another.
    pub(super) fn usage(&self) -> Usage {
        let count = |count: Count| count.get().unwrap_or(0);
        let prompt = count(self.prompt_token_count);
        let cached = count(self.cached_content_token_count).min(prompt);
        let thoughts = count(self.thoughts_token_count);
        Usage {
            input: (prompt - cached).saturating_add(count(self.tool_use_prompt_token_count)),
            output: count(self.candidates_token_count).saturating_add(thoughts),
            cache_read: cached,
            reasoning: thoughts,
            ..Usage::default()
        }
    }
}
