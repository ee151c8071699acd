//! Language models: the [`LlmProvider`] seam, its request, events, errors and contract.
//!
//! ```text
//!  agent ──LlmRequest──▶ LlmProvider::stream ──▶ LlmStream: Start, (TextDelta | …)*, Done | Error
//! ```
//!
//! # Contract
//!
//! * `stream` never fails and does nothing until the stream is polled: every failure is the
//!   terminal [`LlmEvent::Error`], which carries what was said and used so far.
//! * Exactly one terminal event ([`LlmEvent::Done`] or [`LlmEvent::Error`]); nothing after it.
//!   A stream that ends without one was cut; [`LlmStream::finish`] turns that into an error.
//! * Blocks of different indexes may interleave; the index is the block's place in the final
//!   message. The terminal message is authoritative, deltas are for screens.
//! * **Cancel safety**: dropping the stream cancels the call, connection included.
//! * **Billing**: [`LlmError::billing`] MUST be [`Billing::None`] only if the request cannot have
//!   been billed; a wrong `None` lets a budget be overrun.
//!
//! Proven by `dash::testing::provider_suite` (feature `test-util`).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::env::BoxFuture;
use crate::model::{AssistantMessage, Message, NanoUsd, StopReason, ToolCall, Usage};

mod answer;
pub mod anthropic;
pub mod arguments;
mod cost;
pub mod dialect;
pub mod failure;
mod fold;
pub mod gemini;
#[cfg(test)]
#[cfg(feature = "http")]
mod golden_tests;
pub mod handoff;
#[cfg(test)]
#[cfg(feature = "http")]
mod handoff_tests;
pub mod layer;
mod lenient;
mod models;
pub mod preview;
pub mod registry;
pub mod scripted;

/// Names of the dialects, as messages carry them.
pub mod api {
    /// OpenAI Chat Completions and its imitations.
    pub const OPENAI_CHAT: &str = "openai-chat";
    /// OpenAI Responses.
    pub const OPENAI_RESPONSES: &str = "openai-responses";
    /// Anthropic Messages.
    pub const ANTHROPIC: &str = "anthropic-messages";
    /// Google Gemini.
    pub const GEMINI: &str = "google-gemini";
}

#[cfg(feature = "http")]
pub mod http;
pub mod openai_chat;
pub mod openai_responses;

pub use crate::model::compat::{Compat, CompatPatch};
pub use crate::model::pricing::{Model, ModelPrice, PriceTier};
pub use crate::model::thinking::{ThinkingLevel, ThinkingMode, ThinkingSupport};
pub use fold::MessageBuilder;
pub use scripted::{ScriptedLlm, ScriptedReply};

/// A tool as a model sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// What it does and when to use it.
    pub description: String,
    /// JSON Schema of its arguments, an object.
    pub parameters: Value,
}

/// Whether and which tools the model must call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// No tool.
    None,
    /// At least one tool.
    Required,
    /// This tool.
    Tool(String),
}

/// One model call, in no provider's dialect.
#[derive(Debug, Clone)]
pub struct LlmRequest {
    /// The model to ask.
    pub model: Arc<Model>,
    /// The system prompt; empty = none.
    pub system: Arc<str>,
    /// The conversation. Tool results follow the message that asked for them, in its order.
    pub messages: Vec<Arc<Message>>,
    /// The tools on offer.
    pub tools: Arc<[ToolSpec]>,
    /// Whether and which tools must be called.
    pub tool_choice: ToolChoice,
    /// Output tokens the model may produce, reasoning included. A hard limit: it is what the
    /// budget reserved.
    pub max_output_tokens: u32,
    /// Sampling temperature; `None` = the server's default.
    pub temperature: Option<f32>,
    /// A JSON Schema the answer must follow.
    pub response_schema: Option<Value>,
    /// The step's key, the same over every try; sent to servers that take one.
    pub idempotency_key: String,
    /// What is rarely said.
    pub options: RequestOptions,
}

/// How long a server shall keep the prompt in its cache, where it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheRetention {
    /// Not at all; for prompts that are not used again.
    None,
    /// As long as it does by default: minutes.
    #[default]
    Short,
    /// An hour or more; writing to such a cache may cost more.
    Long,
}

/// What a request rarely says. The default says nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestOptions {
    /// How hard the model shall think; `None` = as it does by itself. A level that the model does
    /// not have becomes the nearest it has.
    pub thinking: Option<ThinkingLevel>,
    /// How long the server shall keep the prompt.
    pub cache: CacheRetention,
    /// The same for requests that share a prompt's beginning, so that a server can send them to the
    /// same cache: the agent's id.
    pub cache_key: Option<Arc<str>>,
    /// Who shares fairly where calls must wait, see [`layer::RateLimited`]: the swarm's id. Never
    /// sent to a server.
    pub group: Option<Arc<str>>,
    /// Whether one answer may hold several tool calls; `None` = as the server does by itself.
    pub parallel_tool_calls: Option<bool>,
    /// Texts at which the model stops.
    pub stop: Vec<String>,
    /// Fields of the body in the server's own words. Merged last, so they win over what the dialect
    /// writes, except for the model and the limit of output tokens, which the budget has reserved. A
    /// field that changes the price, such as `service_tier`, needs a model declared at that price.
    pub extra: serde_json::Map<String, Value>,
}

/// What kind of failure it was, which decides what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LlmErrorKind {
    /// The key is missing, wrong or not allowed this.
    Auth,
    /// No such model or path.
    NotFound,
    /// The server refuses the request as it is.
    InvalidRequest,
    /// The conversation does not fit the model's window.
    ContextOverflow,
    /// Too many requests or tokens per minute.
    RateLimited,
    /// The account's money or quota is used up.
    Quota,
    /// The server is overloaded.
    Overloaded,
    /// The server failed.
    Server,
    /// The server could not be reached, or the connection broke before an answer began.
    Network,
    /// Nothing came for too long.
    Timeout,
    /// The answer ended in the middle.
    StreamCut,
    /// The answer cannot be read.
    Decode,
    /// The provider's filter withheld the answer.
    ContentFilter,
    /// The provider was told to stop. Dropping a stream, the usual way, says nothing.
    Cancelled,
}

impl LlmErrorKind {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::RateLimited
            | Self::Overloaded
            | Self::Server
            | Self::Network
            | Self::Timeout
            | Self::StreamCut => true,
            Self::Auth
            | Self::NotFound
            | Self::InvalidRequest
            | Self::ContextOverflow
            | Self::Quota
            | Self::Decode
            | Self::ContentFilter
            | Self::Cancelled => false,
        }
    }
}

/// Whether a failed call may have cost money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Billing {
    /// It cannot have been billed: the server refused it or was never reached.
    None,
    /// It was billed this much, at the model's prices.
    Known(Usage),
    /// The server said what it billed.
    Reported {
        /// Tokens used.
        usage: Usage,
        /// What it billed.
        cost: NanoUsd,
    },
    /// It may have been billed up to the worst case.
    Unknown,
}

/// Why a model call failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct LlmError {
    /// What kind of failure.
    pub kind: LlmErrorKind,
    /// What happened, in words; the server's text is cut to 4,000 characters, keys are removed.
    pub message: String,
    /// How long the server asks to wait, ms.
    pub retry_after_ms: Option<u64>,
    /// Whether it may have cost money.
    pub billing: Billing,
}

impl LlmError {
    /// An error that cannot have cost money.
    #[must_use]
    pub fn unbilled(kind: LlmErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after_ms: None,
            billing: Billing::None,
        }
    }

    /// An error after the request was on its way.
    #[must_use]
    pub fn billed_unknown(kind: LlmErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after_ms: None,
            billing: Billing::Unknown,
        }
    }

    /// The server's wish to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms.map(Duration::from_millis)
    }
}

/// A piece of a streaming answer.
///
/// Grammar: `Start`, then blocks (`TextStart TextDelta* TextEnd`, the same for thinking and tool
/// calls, blocks of different indexes may interleave), `Usage` anywhere, then `Done` or `Error`.
/// A failure before the answer began is a lone `Error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum LlmEvent {
    /// The answer begins.
    Start {
        /// The model that answers, as the server names it.
        model: Option<String>,
        /// The server's id of the answer.
        response_id: Option<String>,
    },
    /// A text block begins, empty.
    TextStart {
        /// Its place in the message.
        index: u32,
    },
    /// A text block grows.
    TextDelta {
        /// Its place in the message.
        index: u32,
        /// What is added.
        delta: String,
    },
    /// A text block is whole.
    TextEnd {
        /// Its place in the message.
        index: u32,
        /// The whole text; may correct what was streamed.
        text: String,
        /// The provider's opaque signature.
        signature: Option<String>,
    },
    /// A thinking block begins, empty.
    ThinkingStart {
        /// Its place in the message.
        index: u32,
    },
    /// A thinking block grows.
    ThinkingDelta {
        /// Its place in the message.
        index: u32,
        /// What is added.
        delta: String,
    },
    /// A thinking block is whole.
    ThinkingEnd {
        /// Its place in the message.
        index: u32,
        /// The whole text.
        text: String,
        /// The provider's opaque signature; the encrypted payload if `redacted`.
        signature: Option<String>,
        /// Whether the text was withheld.
        redacted: bool,
    },
    /// A tool call begins.
    ToolCallStart {
        /// Its place in the message.
        index: u32,
        /// The call's id.
        id: String,
        /// The tool's name.
        name: String,
    },
    /// A tool call's argument text grows. A preview only; act on `ToolCallEnd`.
    ToolCallDelta {
        /// Its place in the message.
        index: u32,
        /// What is added to the JSON text.
        delta: String,
    },
    /// A tool call is whole.
    ToolCallEnd {
        /// Its place in the message.
        index: u32,
        /// The call, arguments parsed.
        call: ToolCall,
    },
    /// Tokens used so far; replaces what was said before.
    Usage {
        /// The counts.
        usage: Usage,
    },
    /// A sign of life without content.
    Heartbeat,
    /// The answer is whole.
    Done {
        /// Why it ended: `stop`, `length` or `tool_use`.
        reason: StopReason,
        /// The answer.
        message: AssistantMessage,
    },
    /// The call failed.
    Error {
        /// Why.
        error: LlmError,
        /// What was said and used before; for people, never for the conversation.
        message: AssistantMessage,
    },
}

impl LlmEvent {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Error { .. })
    }
}

/// A streaming answer. Dropping it cancels the call.
pub struct LlmStream {
    inner: Pin<Box<dyn Stream<Item = LlmEvent> + Send>>,
    ended: bool,
}

impl LlmStream {
    /// Wraps a stream of events.
    #[must_use]
    pub fn new(events: impl Stream<Item = LlmEvent> + Send + 'static) -> Self {
        Self {
            inner: Box::pin(events),
            ended: false,
        }
    }

    /// A stream that fails at once.
    #[must_use]
    pub fn failed(error: LlmError, provider: &str, model: &str) -> Self {
        let message = MessageBuilder::new(provider, model).into_message(StopReason::Error);
        Self::new(futures_util::stream::iter([LlmEvent::Error {
            error,
            message,
        }]))
    }

    /// Reads to the end.
    ///
    /// # Errors
    ///
    /// The call's error; [`LlmErrorKind::StreamCut`] if the stream ended without a terminal event.
    pub async fn finish(mut self) -> Result<AssistantMessage, LlmError> {
        while let Some(event) = self.next().await {
            match event {
                LlmEvent::Done { message, .. } => return Ok(message),
                LlmEvent::Error { error, .. } => return Err(error),
                _ => {}
            }
        }
        Err(LlmError::billed_unknown(
            LlmErrorKind::StreamCut,
            "the answer ended without a terminal event",
        ))
    }
}

impl Stream for LlmStream {
    type Item = LlmEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LlmEvent>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.inner.as_mut().poll_next(cx);
        if let Poll::Ready(Some(event)) = &polled {
            self.ended = event.is_terminal();
        }
        polled
    }
}

impl fmt::Debug for LlmStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmStream")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Something that answers requests. See the module's contract.
pub trait LlmProvider: fmt::Debug + Send + Sync + 'static {
    /// Its name in the registry, e.g. `openai`. [`Model::provider`] refers to it.
    fn id(&self) -> &str;

    /// Starts one model call. Lazy, and failures are events.
    fn stream(&self, request: LlmRequest) -> LlmStream;

    /// The models the server says it has. Empty if it does not tell.
    fn models(&self) -> BoxFuture<Result<Vec<Model>, LlmError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
