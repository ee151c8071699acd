//! Folds a stream of events into the message it makes.

use super::LlmEvent;
use crate::model::{AssistantBlock, AssistantMessage, StopReason, ToolCall};

/// Builds an [`AssistantMessage`] from a stream's events. Decoders use it too, so that the
/// terminal message and the fold of the deltas cannot differ.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageBuilder {
    message: AssistantMessage,
}

impl MessageBuilder {
    /// An empty message of `provider` and `model`.
    #[must_use]
    pub fn new(provider: &str, model: &str) -> Self {
        Self {
            message: AssistantMessage::new(provider, model),
        }
    }

    /// Adds one event.
    pub fn apply(&mut self, event: &LlmEvent) {
        match event {
            LlmEvent::Start { model, response_id } => {
                let other = model.as_ref().filter(|model| **model != self.message.model);
                self.message.response_model = other.cloned();
                self.message.response_id.clone_from(response_id);
            }
            LlmEvent::TextStart { .. } => {
                self.push(AssistantBlock::Text {
                    text: String::new(),
                    signature: None,
                });
            }
            LlmEvent::ThinkingStart { .. } => {
                let (text, signature, redacted) = (String::new(), None, false);
                self.push(AssistantBlock::Thinking {
                    text,
                    signature,
                    redacted,
                });
            }
            LlmEvent::ToolCallStart { id, name, .. } => {
                self.push(AssistantBlock::ToolCall(ToolCall {
                    id: id.clone(),
                    name: name.clone(),
                    arguments: serde_json::json!({}),
                    arguments_error: None,
                    thought_signature: None,
                }));
            }
            LlmEvent::TextDelta { index, delta } | LlmEvent::ThinkingDelta { index, delta } => {
                self.grow(*index, delta);
            }
            LlmEvent::TextEnd {
                index,
                text: whole,
                signature: sign,
            } => {
                if let Some(AssistantBlock::Text { text, signature }) = self.block(*index) {
                    text.clone_from(whole);
                    signature.clone_from(sign);
                }
            }
            LlmEvent::ThinkingEnd {
                index,
                text: whole,
                signature: sign,
                redacted: withheld,
            } => {
                if let Some(AssistantBlock::Thinking {
                    text,
                    signature,
                    redacted,
                }) = self.block(*index)
                {
                    text.clone_from(whole);
                    signature.clone_from(sign);
                    *redacted = *withheld;
                }
            }
            LlmEvent::ToolCallEnd { index, call: whole } => {
                if let Some(AssistantBlock::ToolCall(call)) = self.block(*index) {
                    call.clone_from(whole);
                }
            }
            LlmEvent::Usage { usage } => self.message.usage = *usage,
            LlmEvent::Done { message, .. } | LlmEvent::Error { message, .. } => {
                self.message.clone_from(message);
            }
            LlmEvent::ToolCallDelta { .. } | LlmEvent::Heartbeat => {}
        }
    }

    /// The message so far.
    #[must_use]
    pub const fn message(&self) -> &AssistantMessage {
        &self.message
    }

    /// Sets the dialect the model was asked in.
    pub fn set_api(&mut self, api: impl Into<String>) {
        self.message.api = api.into();
    }

    /// Sets the server's own word for the stop reason.
    pub fn set_raw_stop_reason(&mut self, raw: impl Into<String>) {
        self.message.raw_stop_reason = Some(raw.into());
    }

    /// The finished message.
    #[must_use]
    pub fn into_message(mut self, reason: StopReason) -> AssistantMessage {
        self.message.stop_reason = reason;
        self.message
    }

    fn push(&mut self, block: AssistantBlock) {
        self.message.content.push(block);
    }

    fn block(&mut self, index: u32) -> Option<&mut AssistantBlock> {
        self.message.content.get_mut(usize::try_from(index).ok()?)
    }

    fn grow(&mut self, index: u32, delta: &str) {
        match self.block(index) {
            Some(AssistantBlock::Text { text, .. } | AssistantBlock::Thinking { text, .. }) => {
                text.push_str(delta);
            }
            Some(AssistantBlock::ToolCall(_)) | None => {}
        }
    }
}
