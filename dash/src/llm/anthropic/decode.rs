//! Reads answers.

use serde_json::value::RawValue;

use super::event::{
    BlockDelta, BlockHead, ErrorHead, Event, MessageDelta, MessageHead, StopDetails, Tally, part,
};
use crate::llm::dialect::{
    Answer, AnswerSetup, BlockHandle, CallEnd, Decoder, SseEvent, TextEnd, TextKind,
};
use crate::llm::failure::{ServerFailure, shown};
use crate::llm::{LlmError, LlmErrorKind, LlmEvent};
use crate::model::StopReason;

/// Why the server says it stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finish {
    Whole(StopReason),
    Refused { explanation: String },
    Failed { raw: String },
}

/// A block as the server counts them.
#[derive(Debug)]
struct Slot {
    wire_index: Option<u64>,
    state: State,
}

#[derive(Debug)]
enum State {
    Text(BlockHandle),
    Thinking {
        block: BlockHandle,
        signature: String,
    },
    Call {
        call: BlockHandle,
        /// The arguments the block began with; they count if none are streamed.
        eager: String,
    },
    /// Whole, or of a kind that is not read.
    Shut,
}

/// Reads the events of one answer.
///
/// The terminal event comes with `message_stop`. A body that ends without it is
/// [`LlmErrorKind::StreamCut`]. The usage counts as final, and a failure's bill as known, only
/// once it came with a stop reason: what is told at the start leaves the output out.
#[derive(Debug)]
pub struct AnthropicDecoder {
    answer: Answer,
    tally: Tally,
    finish: Option<Finish>,
    slots: Vec<Slot>,
}

impl AnthropicDecoder {
    /// A decoder of one answer.
    #[must_use]
    pub fn new(setup: AnswerSetup) -> Self {
        Self {
            answer: Answer::new(setup),
            tally: Tally::default(),
            finish: None,
            slots: Vec::new(),
        }
    }

    fn event(&mut self, kind: &str, event: &Event<'_>, data: &str, out: &mut Vec<LlmEvent>) {
        match kind {
            "message_start" => {
                let head: MessageHead<'_> = part(event.message);
                let (model, id) = (head.model.as_str(), head.id.as_str());
                self.answer.start(Some(model), Some(id), out);
                self.usage(head.usage, out);
            }
            "content_block_start" => {
                self.block_start(event.index.get(), &part(event.content_block), out);
            }
            "content_block_delta" => self.block_delta(event.index.get(), &part(event.delta), out),
            "content_block_stop" => {
                if let Some(at) = self.find_slot(event.index.get(), |_| true) {
                    self.shut(at, out);
                }
            }
            "message_delta" => self.message_delta(&part(event.delta), event.usage, out),
            "message_stop" => self.finish(out),
            "error" => self.server_error(event.error, data, out),
            _ if event.error.is_some_and(is_told) => self.server_error(event.error, data, out),
            // A ping; or what the dialect may add one day.
            _ => self.answer.heartbeat(out),
        }
    }

    fn usage(&mut self, raw: Option<&RawValue>, out: &mut Vec<LlmEvent>) {
        let has_output = self.tally.take(raw);
        let usage = self.tally.usage();
        if has_output && self.finish.is_some() {
            self.answer.usage(usage, out);
        } else {
            self.answer.usage_so_far(usage, out);
        }
    }

    // ---- blocks ----

    /// The latest block of this index; without an index, the latest that is open. An index that
    /// no block has is that of the latest open block which was begun without one.
    fn find_slot(&self, index: Option<u64>, fits: impl Fn(&State) -> bool) -> Option<usize> {
        let is_open = |slot: &Slot| !matches!(slot.state, State::Shut) && fits(&slot.state);
        if index.is_none() {
            return self.slots.iter().rposition(is_open);
        }
        let same = self.slots.iter().rposition(|slot| slot.wire_index == index);
        let unnumbered = |slot: &Slot| slot.wire_index.is_none() && is_open(slot);
        same.or_else(|| self.slots.iter().rposition(unnumbered))
    }

    fn block_start(&mut self, index: Option<u64>, head: &BlockHead<'_>, out: &mut Vec<LlmEvent>) {
        let kind = head.kind.as_str();
        if kind.is_empty() {
            // The first delta tells what it is.
            return;
        }
        // A second start of an index is a new block, and so is the next one of a server that
        // numbers none.
        let same = self.slots.iter().rposition(|slot| slot.wire_index == index);
        if let Some(at) = same {
            self.shut(at, out);
        }
        let state = match kind {
            "text" => {
                let block = self.answer.open(TextKind::Text, out);
                self.answer.grow(block, head.text.as_str(), out);
                State::Text(block)
            }
            "thinking" => {
                let block = self.answer.open(TextKind::Thinking, out);
                self.answer.grow(block, head.thinking.as_str(), out);
                let signature = head.signature.as_str().to_owned();
                State::Thinking { block, signature }
            }
            "redacted_thinking" => {
                let block = self.answer.open(TextKind::Thinking, out);
                let end = TextEnd {
                    text: None,
                    signature: told(head.data.as_str()),
                    redacted: true,
                };
                self.answer.close(block, end, out);
                State::Shut
            }
            "tool_use" => {
                let id = self.answer.unique_call_id(head.id.as_str());
                let call = self.answer.call_start(&id, head.name.as_str(), out);
                let eager = head.input.as_str().to_owned();
                State::Call { call, eager }
            }
            _ => State::Shut,
        };
        self.slots.push(Slot {
            wire_index: index,
            state,
        });
    }

    fn block_delta(&mut self, index: Option<u64>, delta: &BlockDelta<'_>, out: &mut Vec<LlmEvent>) {
        match delta.kind.as_str() {
            "text_delta" => {
                let at = self.find_slot(index, |state| matches!(state, State::Text(_)));
                let at = at.unwrap_or_else(|| self.open(index, TextKind::Text, out));
                if let Some(State::Text(block)) = self.state(at) {
                    let block = *block;
                    self.answer.grow(block, delta.text.as_str(), out);
                }
            }
            "thinking_delta" => {
                let at = self.find_slot(index, |state| matches!(state, State::Thinking { .. }));
                let at = at.unwrap_or_else(|| self.open(index, TextKind::Thinking, out));
                if let Some(State::Thinking { block, .. }) = self.state(at) {
                    let block = *block;
                    self.answer.grow(block, delta.thinking.as_str(), out);
                }
            }
            "signature_delta" => {
                let at = self.find_slot(index, |state| matches!(state, State::Thinking { .. }));
                if let Some(State::Thinking { signature, .. }) = at.and_then(|at| self.state(at)) {
                    signature.push_str(delta.signature.as_str());
                }
            }
            "input_json_delta" => {
                let at = self.find_slot(index, |state| matches!(state, State::Call { .. }));
                if let Some(State::Call { call, .. }) = at.and_then(|at| self.state(at)) {
                    let call = *call;
                    let json = delta.partial_json.as_str();
                    self.answer.call_delta(call, json, out);
                }
            }
            _ => {}
        }
    }

    fn state(&mut self, at: usize) -> Option<&mut State> {
        self.slots.get_mut(at).map(|slot| &mut slot.state)
    }

    /// Opens a block whose start was not told.
    fn open(&mut self, index: Option<u64>, kind: TextKind, out: &mut Vec<LlmEvent>) -> usize {
        let block = self.answer.open(kind, out);
        let state = match kind {
            TextKind::Text => State::Text(block),
            TextKind::Thinking => State::Thinking {
                block,
                signature: String::new(),
            },
        };
        self.slots.push(Slot {
            wire_index: index,
            state,
        });
        self.slots.len() - 1
    }

    fn shut(&mut self, at: usize, out: &mut Vec<LlmEvent>) {
        let Some(state) = self.state(at) else {
            return;
        };
        match std::mem::replace(state, State::Shut) {
            State::Text(block) => self.answer.close(block, TextEnd::default(), out),
            State::Thinking { block, signature } => {
                let end = TextEnd {
                    signature: told(&signature),
                    ..TextEnd::default()
                };
                self.answer.close(block, end, out);
            }
            State::Call { call, eager } => {
                let is_streamed = !self.answer.call_json(call).trim().is_empty();
                let end = CallEnd {
                    json: (!is_streamed).then_some(eager),
                    ..CallEnd::default()
                };
                self.answer.call_close(call, end, out);
            }
            State::Shut => {}
        }
    }

    // ---- the end ----

    fn message_delta(
        &mut self,
        delta: &MessageDelta<'_>,
        usage: Option<&RawValue>,
        out: &mut Vec<LlmEvent>,
    ) {
        let reason = delta.stop_reason.as_str();
        if !reason.is_empty() {
            let finish = read_finish(reason, delta);
            if matches!(finish, Finish::Failed { .. }) {
                self.answer.raw_stop_reason(reason);
            }
            self.finish = Some(finish);
        }
        self.usage(usage, out);
    }

    fn finish(&mut self, out: &mut Vec<LlmEvent>) {
        for at in 0..self.slots.len() {
            self.shut(at, out);
        }
        let (kind, text) = match self.finish.take() {
            None => return self.answer.done(StopReason::Stop, out),
            Some(Finish::Whole(reason)) => return self.answer.done(reason, out),
            Some(Finish::Refused { explanation }) => {
                let text = "the provider's filter withheld the answer";
                let text = match explanation.as_str() {
                    "" => text.to_owned(),
                    why => format!("{text}: {why}"),
                };
                (LlmErrorKind::ContentFilter, text)
            }
            Some(Finish::Failed { raw }) => {
                let text = format!("the server ended the answer with `{raw}`");
                (LlmErrorKind::Server, text)
            }
        };
        let error = LlmError::billed_unknown(kind, shown(&text));
        self.answer.error(error, out);
    }

    fn cut(&mut self, out: &mut Vec<LlmEvent>) {
        let text = "the answer ended in the middle";
        let error = LlmError::billed_unknown(LlmErrorKind::StreamCut, text);
        self.answer.error(error, out);
    }

    fn server_error(&mut self, raw: Option<&RawValue>, data: &str, out: &mut Vec<LlmEvent>) {
        let failure = ServerFailure::read(None, data);
        let head: ErrorHead<'_> = part(raw);
        // The words may say more than the type: money, or a prompt that is too long.
        let kind = ServerFailure {
            status: failure.status.or_else(|| status_of(head.kind.as_str())),
            ..failure.clone()
        }
        .kind();
        let mut error = LlmError::billed_unknown(kind, failure.shown());
        error.retry_after_ms = failure.retry_after_ms();
        self.answer.error(error, out);
    }
}

impl Decoder for AnthropicDecoder {
    fn feed(&mut self, event: SseEvent<'_>, out: &mut Vec<LlmEvent>) {
        if self.answer.is_ended() {
            return;
        }
        let data = event.data.trim();
        if data == "[DONE]" {
            // Gateways add it; it says no more than that the body ends.
            if self.finish.is_some() {
                self.finish(out);
            }
            return;
        }
        if data.is_empty() {
            return self.answer.heartbeat(out);
        }
        match serde_json::from_str::<Event<'_>>(data) {
            Ok(read) => match read.kind.as_str() {
                "" => self.event(event.name, &read, data, out),
                kind => self.event(kind, &read, data, out),
            },
            Err(_) if event.name == "error" => self.server_error(None, data, out),
            // A body that breaks off leaves half an event.
            Err(err) if err.is_eof() => self.cut(out),
            Err(err) => {
                let text = format!("the server sent an event that cannot be read ({err}): {data}");
                let error = LlmError::billed_unknown(LlmErrorKind::Decode, shown(&text));
                self.answer.error(error, out);
            }
        }
    }

    fn eof(&mut self, out: &mut Vec<LlmEvent>) {
        self.cut(out);
    }

    fn fail(&mut self, error: LlmError, out: &mut Vec<LlmEvent>) {
        self.answer.error(error, out);
    }

    fn is_ended(&self) -> bool {
        self.answer.is_ended()
    }
}

fn told(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn is_told(value: &RawValue) -> bool {
    !matches!(value.get(), "\"\"" | "{}" | "false")
}

fn read_finish(word: &str, delta: &MessageDelta<'_>) -> Finish {
    match word {
        // After a pause the conversation goes on when it is sent again.
        "end_turn" | "stop_sequence" | "pause_turn" => Finish::Whole(StopReason::Stop),
        "max_tokens" | "model_context_window_exceeded" => Finish::Whole(StopReason::Length),
        "tool_use" => Finish::Whole(StopReason::ToolUse),
        "refusal" => {
            let details: StopDetails<'_> = part(delta.stop_details);
            Finish::Refused {
                explanation: details.explanation.as_str().trim().to_owned(),
            }
        }
        raw => Finish::Failed {
            raw: raw.to_owned(),
        },
    }
}

/// The HTTP status that an error of this type would have had before the answer began.
fn status_of(kind: &str) -> Option<u16> {
    Some(match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "api_error" => 500,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => return None,
    })
}
