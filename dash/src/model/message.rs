//! Messages between people, models and tools, in a form every dialect can be written from.
//!
//! Source: `docs/design/0002-messages.md`. Plain JSON, so a conversation can be stored, shown and
//! sent to another model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NanoUsd;

/// A piece of what a person or a tool says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    Image {
        /// Base64 of the bytes.
        data: String,
        /// E.g. `image/png`.
        mime_type: String,
    },
}

impl ContentBlock {
    /// A text block.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

/// A piece of what a model says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AssistantBlock {
    /// Text for the reader.
    Text {
        /// The text.
        text: String,
        /// The provider's opaque signature, returned unchanged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
    },
    /// The model's reasoning.
    Thinking {
        /// The text; may be empty.
        text: String,
        /// The provider's opaque signature, or the encrypted payload when `redacted`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
        /// Whether the text was withheld.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        redacted: bool,
    },
    /// A request to run a tool.
    ToolCall(ToolCall),
}

/// A model's request to run a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCall {
    /// The provider's id of the call; unique within the answer.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments, a JSON object; `{}` if `arguments_error` is set.
    pub arguments: Value,
    /// Why the arguments could not be read, quoting what was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments_error: Option<String>,
    /// The provider's opaque signature of the thought behind the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thought_signature: Option<String>,
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// It said all it had to say.
    Stop,
    /// It hit the limit of output tokens or the window; tool calls may be cut and are not run.
    Length,
    /// It wants tools to run.
    ToolUse,
    /// The call failed.
    Error,
    /// The call was cancelled.
    Aborted,
}

/// The largest count of one call that is believed: a billion, far above any window.
pub const TOKENS_MAX: u64 = 1_000_000_000;

/// Tokens of one or more model calls. The four counts never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Input tokens that were not read from or written to a cache.
    pub input: u64,
    /// Output tokens, reasoning included.
    pub output: u64,
    /// Input tokens read from a cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read: u64,
    /// Input tokens written to a cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write: u64,
    /// The part of `output` that was reasoning; 0 when unknown.
    #[serde(skip_serializing_if = "is_zero")]
    pub reasoning: u64,
    /// The part of `cache_write` that was written to be kept for an hour, which has its own price.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_long: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Usage {
    /// All input tokens, cached or not.
    #[must_use]
    pub const fn prompt(self) -> u64 {
        self.input
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write)
    }

    /// No count above [`TOKENS_MAX`]: what a server reports must not overflow sums or stores.
    #[must_use]
    pub fn clamped(self) -> Self {
        Self {
            input: self.input.min(TOKENS_MAX),
            output: self.output.min(TOKENS_MAX),
            cache_read: self.cache_read.min(TOKENS_MAX),
            cache_write: self.cache_write.min(TOKENS_MAX),
            reasoning: self.reasoning.min(TOKENS_MAX),
            cache_write_long: self.cache_write_long.min(TOKENS_MAX),
        }
    }

    /// All tokens.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.prompt().saturating_add(self.output)
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input = self.input.saturating_add(other.input);
        self.output = self.output.saturating_add(other.output);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
        self.reasoning = self.reasoning.saturating_add(other.reasoning);
        self.cache_write_long = self.cache_write_long.saturating_add(other.cache_write_long);
    }
}

/// How a user message came into the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageOrigin {
    /// The task itself.
    #[default]
    Task,
    /// Steering: delivered after the tool batch that was running.
    Steer,
    /// Follow-up: delivered when the agent would have stopped.
    FollowUp,
    /// The engine: what is wrong with the answer before.
    Correction,
    /// The engine: why another model goes on from here.
    Escalation,
    /// The engine: what was said before, summed up.
    Summary,
}

/// What a person (or a task) says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UserMessage {
    /// Its pieces, in order.
    pub content: Vec<ContentBlock>,
    /// How it came in.
    #[serde(default)]
    pub origin: MessageOrigin,
}

/// What a model says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AssistantMessage {
    /// Its pieces, in order.
    pub content: Vec<AssistantBlock>,
    /// The provider that answered.
    pub provider: String,
    /// The model that was asked.
    pub model: String,
    /// The dialect it was asked in, see [`api`](crate::llm::api); empty if not known. Signatures
    /// are good only for the provider, dialect and model that made them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api: String,
    /// The model that answered, when the server named another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_model: Option<String>,
    /// The server's id of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_id: Option<String>,
    /// Tokens used.
    pub usage: Usage,
    /// What it cost.
    #[serde(default)]
    pub cost: NanoUsd,
    /// Whether `cost` is what the server said it billed, instead of usage times price.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cost_reported: bool,
    /// Why it stopped.
    pub stop_reason: StopReason,
    /// The server's own word for it, when it is not one we know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_stop_reason: Option<String>,
}

impl AssistantMessage {
    /// An empty message of a provider and a model.
    #[must_use]
    pub fn new(provider: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            content: Vec::new(),
            provider: provider.into(),
            model: model.into(),
            api: String::new(),
            response_model: None,
            response_id: None,
            usage: Usage::default(),
            cost: NanoUsd::ZERO,
            cost_reported: false,
            stop_reason: StopReason::Stop,
            raw_stop_reason: None,
        }
    }

    /// The text for the reader, all text blocks joined.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for block in &self.content {
            if let AssistantBlock::Text { text, .. } = block {
                out.push_str(text);
            }
        }
        out
    }

    /// The tool calls, in order.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.content.iter().filter_map(|block| match block {
            AssistantBlock::ToolCall(call) => Some(call),
            AssistantBlock::Text { .. } | AssistantBlock::Thinking { .. } => None,
        })
    }
}

/// What a tool answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolResultMessage {
    /// The call it answers.
    pub tool_call_id: String,
    /// The tool's name.
    pub tool_name: String,
    /// What the model sees.
    pub content: Vec<ContentBlock>,
    /// Whether the call failed.
    pub is_error: bool,
    /// Anything for screens and logs; never sent to a model.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
    /// Whether the tool says that there is nothing left to do: if every result of an answer's calls
    /// says so, the agent ends well with their texts and the model is not asked again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_final: bool,
}

impl ToolResultMessage {
    /// The text blocks, joined by line breaks.
    #[must_use]
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self
            .content
            .iter()
            .filter_map(|block| match block {
                ContentBlock::Text { text } => Some(text.as_str()),
                ContentBlock::Image { .. } => None,
            })
            .collect();
        texts.join("\n")
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    /// From a person or a task.
    User(UserMessage),
    /// From a model.
    Assistant(AssistantMessage),
    /// From a tool.
    ToolResult(ToolResultMessage),
}

impl Message {
    /// A user message of one text.
    #[must_use]
    pub fn user(text: impl Into<String>, origin: MessageOrigin) -> Self {
        Self::User(UserMessage {
            content: vec![ContentBlock::text(text)],
            origin,
        })
    }
}
