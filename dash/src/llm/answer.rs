//! What every decoder shares: emits events that obey the grammar and folds them as they go.

use std::sync::Arc;

use super::arguments::parse_arguments;
use super::{Billing, LlmError, LlmErrorKind, LlmEvent, MessageBuilder, Model};
use crate::model::{AssistantBlock, AssistantMessage, NanoUsd, StopReason, ToolCall, Usage};

/// What a decoder must know of the call it decodes.
#[derive(Debug, Clone)]
pub struct AnswerSetup {
    /// The provider's id, for the message.
    pub provider: Arc<str>,
    /// The model that was asked; its price gives the cost.
    pub model: Arc<Model>,
    /// The dialect's name, for the message.
    pub api: &'static str,
    /// The most tokens the prompt can be. Used only if a whole answer comes without usage.
    pub input_bound: u64,
    /// The limit of output tokens that was asked for; 0 = unknown. For servers that do not say when
    /// they cut an answer there.
    pub output_limit: u32,
}

/// The most blocks (texts, thoughts, calls) of one answer.
pub const BLOCKS_MAX: usize = 4_096;

/// The most bytes of one answer's texts, thoughts and calls: 64 MiB.
pub const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A kind of block with text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// Text for the reader.
    Text,
    /// The model's reasoning.
    Thinking,
}

/// A block of an [`Answer`], from the method that opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHandle(usize);

/// How a block with text ends. The default: as it was streamed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextEnd {
    /// The whole text, if the server repeats it; it replaces what was streamed.
    pub text: Option<String>,
    /// The provider's opaque signature; the encrypted payload if `redacted`.
    pub signature: Option<String>,
    /// Whether the text was withheld. Thinking only.
    pub redacted: bool,
}

/// How a tool call ends. The default: as it was streamed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallEnd {
    /// The whole JSON text of the arguments, if the server repeats it.
    pub json: Option<String>,
    /// The provider's opaque signature of the thought behind it.
    pub signature: Option<String>,
    /// Why the call must not be run, if so.
    pub error: Option<String>,
}

#[derive(Debug)]
enum Open {
    Text {
        kind: TextKind,
    },
    Call {
        id: String,
        name: String,
        json: String,
    },
    Closed {
        json: String,
    },
}

/// An answer in the making. Every method emits the events that keep the grammar of
/// [`LlmEvent`]: blocks are opened and closed as needed, and nothing follows the terminal event.
///
/// Two ways to add text: [`text`](Self::text) and [`thinking`](Self::thinking) for servers that
/// only tell what kind a piece is; [`open`](Self::open), [`grow`](Self::grow) and
/// [`close`](Self::close) for those that number their blocks. Handles of blocks that are closed are
/// ignored.
///
/// # Missing usage
///
/// A whole answer without usage would be free for the budget, which must never be overrun. It is
/// charged at an upper bound: [`AnswerSetup::input_bound`] tokens of input and one token of output
/// per byte of text, thinking and tool calls received. Reasoning a server hides and does not count
/// is not covered. The message's `raw_stop_reason` is not touched.
///
/// # Silent overflow
///
/// Some servers cut a prompt that is too long and answer all the same. An answer whose prompt was
/// above the model's window, or that hit the limit without a word with the window all but full, is
/// an error of kind [`LlmErrorKind::ContextOverflow`]. Only if the window is known.
#[derive(Debug)]
pub struct Answer {
    builder: MessageBuilder,
    setup: AnswerSetup,
    usage: Option<Usage>,
    /// Whether `usage` is of the whole answer.
    usage_is_final: bool,
    billed: Option<NanoUsd>,
    produced_bytes: u64,
    started: bool,
    ended: bool,
    /// One per block of the message, in its order.
    blocks: Vec<Open>,
    /// The block that [`Answer::text`] and [`Answer::thinking`] add to.
    current: Option<BlockHandle>,
    calls: usize,
}

impl Answer {
    /// An answer of which nothing has come.
    #[must_use]
    pub fn new(setup: AnswerSetup) -> Self {
        Self {
            builder: fresh(&setup),
            setup,
            usage: None,
            usage_is_final: false,
            billed: None,
            produced_bytes: 0,
            started: false,
            ended: false,
            blocks: Vec::new(),
            current: None,
            calls: 0,
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

    /// The answer so far. The arguments of calls are in it only once they are whole.
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
        let model = told(model).filter(|model| model != self.setup.model.wire_id());
        self.emit(
            LlmEvent::Start {
                model,
                response_id: told(id),
            },
            out,
        );
    }

    /// A sign of life without content.
    pub fn heartbeat(&mut self, out: &mut Vec<LlmEvent>) {
        if self.started && !self.ended {
            out.push(LlmEvent::Heartbeat);
        }
    }

    // ---- text and thinking ----

    /// Text grows. Empty deltas are dropped, blank ones are content.
    pub fn text(&mut self, delta: &str, out: &mut Vec<LlmEvent>) {
        self.grow_current(TextKind::Text, delta, out);
    }

    /// Thinking grows. Empty deltas are dropped, blank ones are content.
    pub fn thinking(&mut self, delta: &str, out: &mut Vec<LlmEvent>) {
        self.grow_current(TextKind::Thinking, delta, out);
    }

    /// Opens a block with text.
    pub fn open(&mut self, kind: TextKind, out: &mut Vec<LlmEvent>) -> BlockHandle {
        let handle = BlockHandle(self.blocks.len());
        if self.ended {
            return handle;
        }
        self.start(None, None, out);
        if self.is_too_much(out) {
            return handle;
        }
        let index = self.next_index();
        self.blocks.push(Open::Text { kind });
        self.emit(
            match kind {
                TextKind::Text => LlmEvent::TextStart { index },
                TextKind::Thinking => LlmEvent::ThinkingStart { index },
            },
            out,
        );
        handle
    }

    /// A block with text grows. Empty deltas are dropped, blank ones are content.
    pub fn grow(&mut self, block: BlockHandle, delta: &str, out: &mut Vec<LlmEvent>) {
        if self.ended || delta.is_empty() {
            return;
        }
        let Some(Open::Text { kind }) = self.blocks.get(block.0) else {
            return;
        };
        let (kind, index, delta) = (*kind, index_of(block), delta.to_owned());
        self.count(&delta);
        if self.is_too_much(out) {
            return;
        }
        self.emit(
            match kind {
                TextKind::Text => LlmEvent::TextDelta { index, delta },
                TextKind::Thinking => LlmEvent::ThinkingDelta { index, delta },
            },
            out,
        );
    }

    /// A block with text is whole.
    pub fn close(&mut self, block: BlockHandle, end: TextEnd, out: &mut Vec<LlmEvent>) {
        if self.ended {
            return;
        }
        let Some(Open::Text { kind }) = self.blocks.get(block.0) else {
            return;
        };
        let kind = *kind;
        self.mark_closed(block, String::new());
        if self.current == Some(block) {
            self.current = None;
        }
        let index = index_of(block);
        let streamed = match self.builder.message().content.get(block.0) {
            Some(AssistantBlock::Text { text, .. } | AssistantBlock::Thinking { text, .. }) => text,
            Some(AssistantBlock::ToolCall(_)) | None => "",
        };
        let has_news = end != TextEnd::default();
        let text = end.text.unwrap_or_else(|| streamed.to_owned());
        let more = text.len().saturating_sub(streamed.len());
        self.produced_bytes = self.produced_bytes.saturating_add(more as u64);
        let signature = end.signature;
        let event = match kind {
            TextKind::Text => LlmEvent::TextEnd {
                index,
                text,
                signature,
            },
            TextKind::Thinking => LlmEvent::ThinkingEnd {
                index,
                text,
                signature,
                redacted: end.redacted,
            },
        };
        if has_news {
            self.builder.apply(&event);
        }
        out.push(event);
    }

    fn grow_current(&mut self, kind: TextKind, delta: &str, out: &mut Vec<LlmEvent>) {
        if self.ended || delta.is_empty() {
            return;
        }
        let open = self.current.filter(|block| {
            matches!(self.blocks.get(block.0), Some(Open::Text { kind: of }) if *of == kind)
        });
        let block = open.unwrap_or_else(|| {
            self.close_current(out);
            let block = self.open(kind, out);
            self.current = Some(block);
            block
        });
        self.grow(block, delta, out);
    }

    fn close_current(&mut self, out: &mut Vec<LlmEvent>) {
        if let Some(block) = self.current.take() {
            self.close(block, TextEnd::default(), out);
        }
    }

    // ---- tool calls ----

    /// A tool call begins.
    pub fn call_start(&mut self, id: &str, name: &str, out: &mut Vec<LlmEvent>) -> BlockHandle {
        let handle = BlockHandle(self.blocks.len());
        if self.ended {
            return handle;
        }
        self.start(None, None, out);
        if self.is_too_much(out) {
            return handle;
        }
        self.close_current(out);
        // Closing adds no block, so the handle still is the next one.
        let index = self.next_index();
        self.count(name);
        let (id, name) = (id.to_owned(), name.to_owned());
        self.blocks.push(Open::Call {
            id: id.clone(),
            name: name.clone(),
            json: String::new(),
        });
        self.calls += 1;
        self.emit(LlmEvent::ToolCallStart { index, id, name }, out);
        handle
    }

    /// A tool call's arguments grow. Unknown handles and empty deltas are ignored.
    pub fn call_delta(&mut self, call: BlockHandle, delta: &str, out: &mut Vec<LlmEvent>) {
        if self.ended || delta.is_empty() {
            return;
        }
        if self.is_too_much(out) {
            return;
        }
        if let Some(Open::Call { json, .. }) = self.blocks.get_mut(call.0) {
            json.push_str(delta);
            out.push(LlmEvent::ToolCallDelta {
                index: index_of(call),
                delta: delta.to_owned(),
            });
            self.count(delta);
        }
    }

    /// A tool call is whole: its arguments are parsed.
    pub fn call_close(&mut self, call: BlockHandle, end: CallEnd, out: &mut Vec<LlmEvent>) {
        if self.ended {
            return;
        }
        let Some(Open::Call { id, name, json }) = self.blocks.get_mut(call.0) else {
            return;
        };
        let (id, name) = (std::mem::take(id), std::mem::take(name));
        let streamed = std::mem::take(json);
        let more = end.json.as_ref().map_or(0, String::len);
        let more = more.saturating_sub(streamed.len());
        self.produced_bytes = self.produced_bytes.saturating_add(more as u64);
        let json = end.json.unwrap_or(streamed);
        let (arguments, error) = parse_arguments(&json);
        self.mark_closed(call, json);
        let whole = ToolCall {
            id,
            name,
            arguments,
            arguments_error: end.error.or(error),
            thought_signature: end.signature,
        };
        self.emit(
            LlmEvent::ToolCallEnd {
                index: index_of(call),
                call: whole,
            },
            out,
        );
    }

    /// The argument text of a call so far.
    #[must_use]
    pub fn call_json(&self, call: BlockHandle) -> &str {
        match self.blocks.get(call.0) {
            Some(Open::Call { json, .. } | Open::Closed { json }) => json,
            Some(Open::Text { .. }) | None => "",
        }
    }

    /// How many calls there are.
    #[must_use]
    pub const fn calls_len(&self) -> usize {
        self.calls
    }

    /// An id for a call: `wanted` if no other call has it, else one made of it or of the answer's id.
    #[must_use]
    pub fn unique_call_id(&self, wanted: &str) -> String {
        let is_taken = |id: &str| self.message().tool_calls().any(|call| call.id == id);
        if !wanted.is_empty() && !is_taken(wanted) {
            return wanted.to_owned();
        }
        let stem = match (wanted, &self.message().response_id) {
            ("", Some(response)) => response,
            ("", None) => "call",
            (wanted, _) => wanted,
        };
        let mut n = self.calls;
        loop {
            let id = format!("{stem}_{n}");
            if !is_taken(&id) {
                return id;
            }
            n += 1;
        }
    }

    /// Ends an answer that no model gives: more blocks or bytes than are kept.
    fn is_too_much(&mut self, out: &mut Vec<LlmEvent>) -> bool {
        if self.blocks.len() < BLOCKS_MAX && self.produced_bytes <= ANSWER_BYTES_MAX {
            return false;
        }
        let text = format!(
            "the answer has more than {BLOCKS_MAX} parts or {ANSWER_BYTES_MAX} bytes, it was given up"
        );
        self.error(LlmError::billed_unknown(LlmErrorKind::Decode, text), out);
        true
    }

    // ---- accounts ----

    /// The server tells the tokens used so far. All zero is taken for not told.
    pub fn usage(&mut self, usage: Usage, out: &mut Vec<LlmEvent>) {
        if self.ended || usage.total() == 0 {
            return;
        }
        self.usage_is_final = true;
        self.tell_usage(usage.clamped(), out);
    }

    /// The server tells tokens before it knows all of them. They are shown; but the bill of a
    /// failure stays unknown, and a whole answer is charged at least one token of output per byte
    /// received, unless [`usage`](Self::usage) follows.
    pub fn usage_so_far(&mut self, usage: Usage, out: &mut Vec<LlmEvent>) {
        if !self.ended && usage.total() > 0 {
            self.tell_usage(usage.clamped(), out);
        }
    }

    fn tell_usage(&mut self, usage: Usage, out: &mut Vec<LlmEvent>) {
        if self.usage == Some(usage) {
            return;
        }
        self.start(None, None, out);
        self.usage = Some(usage);
        self.emit(LlmEvent::Usage { usage }, out);
    }

    /// The server tells what it billed; it replaces usage times price.
    pub const fn billed(&mut self, cost: NanoUsd) {
        self.billed = Some(cost);
    }

    /// Keeps the server's own word for why it stopped, when it is not one the dialect defines.
    pub fn raw_stop_reason(&mut self, raw: &str) {
        self.builder.set_raw_stop_reason(raw);
    }

    // ---- the end ----

    /// The answer is whole. Blocks are closed, arguments parsed. A `Stop` with calls becomes
    /// `ToolUse` and a `ToolUse` without calls `Stop`; `Error` and `Aborted` are not for here.
    pub fn done(&mut self, reason: StopReason, out: &mut Vec<LlmEvent>) {
        if self.ended {
            return;
        }
        self.start(None, None, out);
        for at in 0..self.blocks.len() {
            let block = BlockHandle(at);
            self.close(block, TextEnd::default(), out);
            self.call_close(block, CallEnd::default(), out);
        }
        let reason = match (reason, self.calls) {
            (StopReason::Stop, 1..) => StopReason::ToolUse,
            (StopReason::ToolUse, 0) => StopReason::Stop,
            (reason, _) => reason,
        };
        if self.has_overflowed(reason) {
            let window = self.setup.model.context_window;
            let text = format!("the prompt was longer than the model's window of {window} tokens");
            let error = LlmError::billed_unknown(LlmErrorKind::ContextOverflow, text);
            self.error(error, out);
            return;
        }
        if !self.usage_is_final {
            let mut bound = self.usage.unwrap_or_default();
            bound.output = bound.output.max(self.produced_bytes);
            if bound.prompt() == 0 {
                bound.input = self.setup.input_bound;
            }
            self.usage(bound, out);
        }
        let message = self.take(reason);
        out.push(LlmEvent::Done { reason, message });
    }

    fn has_overflowed(&self, reason: StopReason) -> bool {
        let window = u64::from(self.setup.model.context_window);
        let Some(usage) = self.usage.filter(|_| window > 0) else {
            return false;
        };
        match reason {
            StopReason::Stop => usage.prompt() > window,
            StopReason::Length => usage.output == 0 && usage.prompt() * 100 >= window * 99,
            StopReason::ToolUse | StopReason::Error | StopReason::Aborted => false,
        }
    }

    /// The call failed. Billing that is unknown becomes known if the usage is; an answer that
    /// began is never unbilled.
    pub fn error(&mut self, mut error: LlmError, out: &mut Vec<LlmEvent>) {
        if self.ended {
            return;
        }
        let usage = self.usage.filter(|_| self.usage_is_final);
        match (usage, &error.billing) {
            (Some(usage), Billing::Unknown | Billing::None) => {
                error.billing = match self.billed {
                    Some(cost) => Billing::Reported { usage, cost },
                    None => Billing::Known(usage),
                };
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

    fn take(&mut self, reason: StopReason) -> AssistantMessage {
        self.ended = true;
        let empty = fresh(&self.setup);
        let mut message = std::mem::replace(&mut self.builder, empty).into_message(reason);
        message.cost_reported = self.billed.is_some();
        let priced = || self.setup.model.price.cost(message.usage);
        message.cost = self.billed.unwrap_or_else(priced);
        message
    }

    fn mark_closed(&mut self, block: BlockHandle, json: String) {
        if let Some(open) = self.blocks.get_mut(block.0) {
            *open = Open::Closed { json };
        }
    }

    fn emit(&mut self, event: LlmEvent, out: &mut Vec<LlmEvent>) {
        self.builder.apply(&event);
        out.push(event);
    }

    fn count(&mut self, text: &str) {
        self.produced_bytes = self.produced_bytes.saturating_add(text.len() as u64);
    }

    fn next_index(&self) -> u32 {
        u32::try_from(self.blocks.len()).unwrap_or(u32::MAX)
    }
}

fn index_of(block: BlockHandle) -> u32 {
    u32::try_from(block.0).unwrap_or(u32::MAX)
}

fn fresh(setup: &AnswerSetup) -> MessageBuilder {
    let mut builder = MessageBuilder::new(&setup.provider, &setup.model.id);
    builder.set_api(setup.api);
    builder
}
