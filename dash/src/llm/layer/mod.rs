//! Providers around providers: what is wanted of any of them, added from outside.
//!
//! ```text
//!  agent ─▶ Retrying ─▶ RateLimited ─▶ Failover ─▶ Recorder ─▶ HttpProvider
//! ```
//!
//! Each is an [`LlmProvider`](super::LlmProvider) itself and keeps its contract: lazy, cancelled by
//! dropping the stream, one terminal event. They may be stacked in any order; the one above is
//! usual. Time limits are the HTTP driver's own, scripted answers are
//! [`ScriptedLlm`](super::ScriptedLlm).
//!
//! # Money
//!
//! A budget has reserved the price of **one** call of the model that was asked for. A layer
//! therefore calls again only after a lone error whose billing is [`Billing::None`]: nothing came,
//! and nothing can have been billed. A call that may have cost is never repeated here; its caller
//! settles it first and asks again with a new reservation.

mod cassette;
mod failover;
mod rate_limited;
mod recorded;
mod replayed;
mod retrying;
#[cfg(test)]
mod tests;
mod turnstile;

pub use failover::Failover;
pub use rate_limited::{RateLimit, RateLimited};
pub use recorded::Recorder;
pub use replayed::Replayer;
pub use retrying::{RetryOptions, Retrying};

use super::{Billing, LlmError, LlmEvent, LlmRequest};
use crate::model::{AssistantBlock, ContentBlock, Message};

/// The error, if it is all that came and cannot have cost anything.
const fn free_failure(event: &LlmEvent) -> Option<&LlmError> {
    match event {
        LlmEvent::Error { error, message }
            if matches!(error.billing, Billing::None) && message.content.is_empty() =>
        {
            Some(error)
        }
        _ => None,
    }
}

/// Bytes of the prompt and the tools. An image counts as `image_bytes`, or what its base64 has.
fn prompt_bytes(request: &LlmRequest, image_bytes: Option<usize>) -> u64 {
    let content = |blocks: &[ContentBlock]| -> usize {
        let len = |block: &ContentBlock| match block {
            ContentBlock::Text { text } => text.len(),
            ContentBlock::Image { data, .. } => image_bytes.unwrap_or(data.len()),
        };
        blocks.iter().map(len).sum()
    };
    let said = |block: &AssistantBlock| match block {
        AssistantBlock::Text { text, signature }
        | AssistantBlock::Thinking {
            text, signature, ..
        } => text.len() + signature.as_ref().map_or(0, String::len),
        AssistantBlock::ToolCall(call) => {
            call.id.len() + call.name.len() + call.arguments.to_string().len()
        }
    };
    let messages = request.messages.iter().map(|message| match &**message {
        Message::User(user) => content(&user.content),
        Message::ToolResult(result) => result.tool_call_id.len() + content(&result.content),
        Message::Assistant(message) => message.content.iter().map(said).sum(),
    });
    let tools = request
        .tools
        .iter()
        .map(|tool| tool.name.len() + tool.description.len() + tool.parameters.to_string().len());
    let schema = request.response_schema.as_ref();
    let bytes = request.system.len()
        + messages.map(|bytes| bytes + MESSAGE_BYTES).sum::<usize>()
        + tools.map(|bytes| bytes + MESSAGE_BYTES).sum::<usize>()
        + schema.map_or(0, |schema| schema.to_string().len());
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Bytes that stand for a message's role and separators.
const MESSAGE_BYTES: usize = 16;
