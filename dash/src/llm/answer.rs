//! What every decoder shares: emits events that obey the grammar and folds them as they go.

use std::sync::Arc;

use super::arguments::parse_arguments;
use super::{Billing, LlmError, LlmErrorKind, LlmEvent, MessageBuilder, Model};
use crate::model::{AssistantBlock, AssistantMessage, StopReason, ToolCall, Usage};

/// What a decoder must know of the call it decodes.
#[derive(Debug, Clone)]
pub struct AnswerSetup {
    /// The provider's id, for the message.
    pub provider: Arc<str>,
    /// The model that was asked; its price gives the cost.
    pub model: Arc<Model>,
    /// The most tokens the prompt can be. Used only if a whole answer comes without usage.
    pub input_bound: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
}

#[derive(Debug)]
struct OpenCall {
    index: u32,
    id: String,
    name: String,
    json: String,
}

/// An answer in the making. Every method emits the events that keep the grammar of
/// [`LlmEvent`]: blocks are opened and closed as needed, and nothing follows the terminal event.
///
/// # Missing usage
///
/// A whole answer without usage would be free for the budget, which must never be overrun. It is
/// charged at an upper bound: [`AnswerSetup::input_bound`] tokens of input and one token of output
/// per byte of text, thinking and tool calls received. Reasoning a server hides and does not count
/// is not covered. The message's `raw_stop_reason` is not touched.
#[derive(Debug)]
pub struct Answer {
    builder: MessageBuilder,
    setup: AnswerSetup,
    usage: Option<Usage>,
    produced_bytes: u64,
    started: bool,
    ended: bool,
    open: Option<(Block, u32)>,
    calls: Vec<OpenCall>,
}

impl Answer {
    /// An answer of which nothing has come.
    #[must_use]
    pub fn new(setup: AnswerSetup) -> Self {
        Self {
            builder: MessageBuilder::new(&setup.provider, &setup.model.id),
            setup,
            usage: None,
            produced_bytes: 0,
            started: false,
            ended: false,
            open: None,
            calls: Vec::new(),
        }
    }

    /// Whether `Start` is out.
    #[must_use]
    pub const fn is_started(&self) -> bool {
        self.started
    }

    /// Whether the terminal event is out.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.ended
    }

    /// The answer so far.
    #[must_use]
    pub const fn message(&self) -> &AssistantMessage {
        self.builder.message()
    }

    /// The answer begins. Only the first call counts; the other methods begin it if need be.
    pub fn start(&mut self, model: Option<&str>, id: Option<&str>, out: &mut Vec<LlmEvent>) {
        if self.started || self.ended {
            return;
        }
        self.started = true;
        let told = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        self.emit(
            LlmEvent::Start {
                model: told(model),
                response_id: told(id),
            },
            out,
        );
    }

    /// Text grows. Empty deltas are dropped, blank ones are content.
    pub fn text(&mut self, delta: &str, out: &mut Vec<LlmEvent>) {
        self.grow(Block::Text, delta, out);
    }

    /// Thinking grows. Empty deltas are dropped, blank ones are content.
    pub fn thinking(&mut self, delta: &str, out: &mut Vec<LlmEvent>) {
        self.grow(Block::Thinking, delta, out);
    }

    /// A tool call begins. Returns the handle for [`Answer::call_delta`].
    pub fn call_start(&mut self, id: &str, name: &str, out: &mut Vec<LlmEvent>) -> usize {
        let call = self.calls.len();
        if self.ended {
            return call;
        }
        self.start(None, None, out);
        self.close_block(out);
        let index = self.next_index();
        self.count(name);
        let (id, name) = (id.to_owned(), name.to_owned());
        let json = String::new();
        self.calls.push(OpenCall {
            index,
            id: id.clone(),
            name: name.clone(),
            json,
        });
        self.emit(LlmEvent::ToolCallStart { index, id, name }, out);
        call
    }

    /// A tool call's arguments grow. Unknown handles and empty deltas are ignored.
    pub fn call_delta(&mut self, call: usize, delta: &str, out: &mut Vec<LlmEvent>) {
        if self.ended || delta.is_empty() {
            return;
        }
        self.count(delta);
        if let Some(open) = self.calls.get_mut(call) {
            open.json.push_str(delta);
            out.push(LlmEvent::ToolCallDelta {
                index: open.index,
                delta: delta.to_owned(),
            });
        }
    }

    /// The argument text of a call so far.
    #[must_use]
    pub fn call_json(&self, call: usize) -> &str {
        self.calls.get(call).map_or("", |open| &open.json)
    }

    /// How many calls there are.
    #[must_use]
    pub const fn calls_len(&self) -> usize {
        self.calls.len()
    }

    /// The server tells the tokens used so far. All zero is taken for not told.
    pub fn usage(&mut self, usage: Usage, out: &mut Vec<LlmEvent>) {
        if self.ended || usage.total() == 0 || self.usage == Some(usage) {
            return;
        }
        self.start(None, None, out);
        self.usage = Some(usage);
        self.emit(LlmEvent::Usage { usage }, out);
    }

    /// Keeps the server's own word for why it stopped, when it is not one the dialect defines.
    pub fn raw_stop_reason(&mut self, raw: &str) {
        self.builder.set_raw_stop_reason(raw);
    }

    /// The answer is whole. Calls are closed, arguments parsed. A `Stop` with calls becomes
    /// `ToolUse` and a `ToolUse` without calls `Stop`; `Error` and `Aborted` are not for here.
    pub fn done(&mut self, reason: StopReason, out: &mut Vec<LlmEvent>) {
        if self.ended {
            return;
        }
        self.start(None, None, out);
        self.close_block(out);
        let reason = match (reason, self.calls.is_empty()) {
            (StopReason::Stop, false) => StopReason::ToolUse,
            (StopReason::ToolUse, true) => StopReason::Stop,
            (reason, _) => reason,
        };
        self.close_calls(out);
        if self.usage.is_none() {
            let usage = Usage {
                input: self.setup.input_bound,
                output: self.produced_bytes,
                ..Usage::default()
            };
            self.usage(usage, out);
        }
        let message = self.take(reason);
        out.push(LlmEvent::Done { reason, message });
    }

    /// The call failed. Billing that is unknown becomes known if the usage is; an answer that
    /// began is never unbilled.
    pub fn error(&mut self, mut error: LlmError, out: &mut Vec<LlmEvent>) {
        if self.ended {
            return;
        }
        match (self.usage, &error.billing) {
            (Some(usage), Billing::Unknown | Billing::None) => {
                error.billing = Billing::Known(usage);
            }
            (None, Billing::None) if self.started => error.billing = Billing::Unknown,
            _ => {}
        }
        let cancelled = error.kind == LlmErrorKind::Cancelled;
        let message = self.take(if cancelled {
            StopReason::Aborted
        } else {
            StopReason::Error
        });
        out.push(LlmEvent::Error { error, message });
    }

    fn grow(&mut self, block: Block, delta: &str, out: &mut Vec<LlmEvent>) {
        if self.ended || delta.is_empty() {
            return;
        }
        self.start(None, None, out);
        let index = self.open_block(block, out);
        self.count(delta);
        let delta = delta.to_owned();
        let event = match block {
            Block::Text => LlmEvent::TextDelta { index, delta },
            Block::Thinking => LlmEvent::ThinkingDelta { index, delta },
        };
        self.emit(event, out);
    }

    fn open_block(&mut self, block: Block, out: &mut Vec<LlmEvent>) -> u32 {
        if let Some((open, index)) = self.open
            && open == block
        {
            return index;
        }
        self.close_block(out);
        let index = self.next_index();
        self.open = Some((block, index));
        let event = match block {
            Block::Text => LlmEvent::TextStart { index },
            Block::Thinking => LlmEvent::ThinkingStart { index },
        };
        self.emit(event, out);
        index
    }

    /// Ends the open text or thinking. The end repeats the fold, so it is not folded again.
    fn close_block(&mut self, out: &mut Vec<LlmEvent>) {
        let Some((block, index)) = self.open.take() else {
            return;
        };
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        let text = match self.builder.message().content.get(place) {
            Some(AssistantBlock::Text { text, .. } | AssistantBlock::Thinking { text, .. }) => {
                text.clone()
            }
            Some(AssistantBlock::ToolCall(_)) | None => String::new(),
        };
        out.push(match block {
            Block::Text => LlmEvent::TextEnd { index, text },
            Block::Thinking => LlmEvent::ThinkingEnd {
                index,
                text,
                signature: None,
            },
        });
    }

    fn close_calls(&mut self, out: &mut Vec<LlmEvent>) {
        for open in std::mem::take(&mut self.calls) {
            let (arguments, arguments_error) = parse_arguments(&open.json);
            let call = ToolCall {
                id: open.id,
                name: open.name,
                arguments,
                arguments_error,
                thought_signature: None,
            };
            self.emit(
                LlmEvent::ToolCallEnd {
                    index: open.index,
                    call,
                },
                out,
            );
        }
    }

    fn take(&mut self, reason: StopReason) -> AssistantMessage {
        self.ended = true;
        let empty = MessageBuilder::new(&self.setup.provider, &self.setup.model.id);
        let mut message = std::mem::replace(&mut self.builder, empty).into_message(reason);
        message.cost = self.setup.model.price.cost(message.usage);
        message
    }

    fn emit(&mut self, event: LlmEvent, out: &mut Vec<LlmEvent>) {
        self.builder.apply(&event);
        out.push(event);
    }

    fn count(&mut self, text: &str) {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.produced_bytes = self.produced_bytes.saturating_add(bytes);
    }

    fn next_index(&self) -> u32 {
        u32::try_from(self.builder.message().content.len()).unwrap_or(u32::MAX)
    }
}
