//! Reads answers.

use serde_json::Value;
use serde_json::value::RawValue;

use super::chunk::{CallDelta, Choice, Chunk, Delta, FunctionDelta, RawUsage};
use super::content::{Content, Details};
use crate::llm::dialect::{Answer, AnswerSetup, BlockHandle, Decoder, SseEvent, TextEnd, TextKind};
use crate::llm::failure::{ServerFailure, shown};
use crate::llm::{Compat, LlmError, LlmErrorKind, LlmEvent};
use crate::model::{AssistantBlock, StopReason};

/// Why the server says it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    Whole(StopReason),
    Filtered,
    Failed,
}

/// A tool call as the server counts them.
#[derive(Debug)]
struct Slot {
    wire_index: Option<u64>,
    wire_id: String,
    name: String,
    /// The handle in [`Answer`], once the name is known.
    call: Option<BlockHandle>,
    /// Argument text that came before the name.
    early: String,
}

/// Reads the chunks of one answer.
///
/// The terminal event comes with `[DONE]` or the end of the body, because usage follows the finish
/// reason. A body that ends without either is [`LlmErrorKind::StreamCut`].
#[derive(Debug)]
pub struct ChatDecoder {
    answer: Answer,
    compat: Compat,
    finish: Option<Finish>,
    slots: Vec<Slot>,
    /// What must be sent back unchanged, and the thinking it belongs to.
    details: Details,
    detailed: Option<BlockHandle>,
}

impl ChatDecoder {
    /// A decoder of one answer of a server that differs in nothing but what its model says.
    #[must_use]
    pub fn new(setup: AnswerSetup) -> Self {
        Self::with_compat(setup, Compat::COMMON)
    }

    /// A decoder of one answer; what the model says of its own differences wins.
    #[must_use]
    pub fn with_compat(setup: AnswerSetup, compat: Compat) -> Self {
        Self {
            compat: setup
                .model
                .compat
                .map_or(compat, |patch| compat.patched(&patch)),
            answer: Answer::new(setup),
            finish: None,
            slots: Vec::new(),
            details: Details::default(),
            detailed: None,
        }
    }

    fn chunk(&mut self, chunk: &Chunk<'_>, out: &mut Vec<LlmEvent>) {
        self.answer
            .start(Some(chunk.model.as_str()), Some(chunk.id.as_str()), out);
        // One answer is asked for, so there is at most one choice.
        if let Some(choice) = chunk.choices.as_ref().and_then(|choices| choices.first()) {
            self.choice(choice, out);
        }
        if let Some(usage) = chunk.usage() {
            // A chunk of its own, without choices, is how the last word on usage comes.
            let is_last = chunk.choices.as_ref().is_some_and(Vec::is_empty);
            self.usage(&usage, is_last, out);
        }
    }

    /// Some servers count in every chunk. The bill is what comes with or after the finish reason, in a
    /// chunk of its own, or with its cost.
    fn usage(&mut self, usage: &RawUsage<'_>, is_last: bool, out: &mut Vec<LlmEvent>) {
        let cost = usage.billed(self.compat.usage_cost);
        if is_last || cost.is_some() || self.finish.is_some() {
            self.answer.usage(usage.usage(), out);
        } else {
            self.answer.usage_so_far(usage.usage(), out);
        }
        if let Some(cost) = cost {
            self.answer.billed(cost);
        }
    }

    fn choice(&mut self, choice: &Choice<'_>, out: &mut Vec<LlmEvent>) {
        if let Some(delta) = &choice.delta {
            self.delta(delta, out);
        }
        self.finish_reason(choice);
        if let Some(usage) = choice.usage() {
            self.usage(&usage, false, out);
        }
    }

    fn finish_reason(&mut self, choice: &Choice<'_>) {
        let reason = choice.finish_reason.as_str();
        let native = choice.native_finish_reason.as_str();
        if reason.is_empty() {
            return;
        }
        let (finish, is_defined) = read_finish(reason);
        self.finish = Some(finish);
        // A router translates; the model's own word says more.
        if !native.is_empty() && !read_finish(native).1 {
            self.answer.raw_stop_reason(native);
        } else if !is_defined {
            self.answer.raw_stop_reason(reason);
        }
    }

    fn delta(&mut self, delta: &Delta<'_>, out: &mut Vec<LlmEvent>) {
        let pieces = delta.reasoning_details.clone().unwrap_or_default();
        let Content { text, thinking } = &delta.content;
        self.thinking(delta.thinking(), pieces, out);
        self.answer.thinking(thinking, out);
        self.answer.text(text.as_str(), out);
        self.answer.text(delta.refusal.as_str(), out);
        for call in delta.tool_calls.iter().flatten() {
            self.call(call, out);
        }
        let old = delta.function_call.as_ref();
        if let Some(function) = old.filter(|function| !function.is_empty()) {
            self.call_piece(None, "", Some(function), out);
        }
    }

    /// Thinking with details stays open to the end, since details may still follow the text.
    fn thinking(&mut self, said: &str, pieces: Vec<Value>, out: &mut Vec<LlmEvent>) {
        if pieces.is_empty() {
            match self.detailed {
                Some(block) => self.answer.grow(block, said, out),
                None => self.answer.thinking(said, out),
            }
            return;
        }
        let detailed = self.details.add(pieces);
        let block = match self.detailed {
            Some(block) => block,
            None => self.answer.open(TextKind::Thinking, out),
        };
        self.detailed = Some(block);
        let said = if said.is_empty() { &detailed } else { said };
        self.answer.grow(block, said, out);
    }

    fn call(&mut self, delta: &CallDelta<'_>, out: &mut Vec<LlmEvent>) {
        if self.answer.is_ended() {
            return;
        }
        self.call_piece(
            delta.index.get(),
            delta.id.as_str(),
            delta.function.as_ref(),
            out,
        );
    }

    fn call_piece(
        &mut self,
        index: Option<u64>,
        id: &str,
        function: Option<&FunctionDelta<'_>>,
        out: &mut Vec<LlmEvent>,
    ) {
        let (name, arguments) = function.map_or(("", ""), |function| {
            (function.name.as_str(), function.arguments.as_str())
        });
        let at = self.find_slot(index, id, name).unwrap_or_else(|| {
            self.slots.push(Slot {
                wire_index: index,
                wire_id: id.to_owned(),
                name: String::new(),
                call: None,
                early: String::new(),
            });
            self.slots.len() - 1
        });
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        if slot.wire_id.is_empty() {
            id.clone_into(&mut slot.wire_id);
        }
        match slot.call {
            Some(call) => self.answer.call_delta(call, arguments, out),
            None => {
                slot.early.push_str(arguments);
                if !name.is_empty() {
                    name.clone_into(&mut slot.name);
                    self.begin_call(at, name, out);
                }
            }
        }
    }

    /// Which call a fragment belongs to. Servers disagree: the index may be missing or always 0,
    /// the id may come once, every time or never.
    fn find_slot(&self, index: Option<u64>, id: &str, name: &str) -> Option<usize> {
        let fits = |slot: &Slot| match index {
            Some(_) => slot.wire_index == index,
            None => id.is_empty() || slot.wire_id == id,
        };
        let at = self.slots.iter().rposition(fits)?;
        let slot = self.slots.get(at)?;
        let other_id = !id.is_empty() && !slot.wire_id.is_empty() && slot.wire_id != id;
        if other_id {
            // A new id on a taken index is a new call, unless it is an older one of that index.
            let older = |slot: &Slot| slot.wire_index == index && slot.wire_id == id;
            return self.slots.iter().rposition(older);
        }
        // Without ids, another name, or a name after whole arguments, begins a new call.
        let json = slot.call.map_or("", |call| self.answer.call_json(call));
        let is_named = id.is_empty() && !name.is_empty() && slot.call.is_some();
        let is_new = is_named && (slot.name != name || is_whole_object(json));
        (!is_new).then_some(at)
    }

    fn begin_call(&mut self, at: usize, name: &str, out: &mut Vec<LlmEvent>) {
        let Some(wanted) = self.slots.get(at).map(|slot| slot.wire_id.clone()) else {
            return;
        };
        let id = self.answer.unique_call_id(&wanted);
        let call = self.answer.call_start(&id, name, out);
        if let Some(slot) = self.slots.get_mut(at) {
            slot.call = Some(call);
            self.answer
                .call_delta(call, &std::mem::take(&mut slot.early), out);
        }
    }

    /// Calls that never got a name are kept, so that the model is told.
    fn begin_nameless_calls(&mut self, out: &mut Vec<LlmEvent>) {
        for at in 0..self.slots.len() {
            if self.slots.get(at).is_some_and(|slot| slot.call.is_none()) {
                self.begin_call(at, "", out);
            }
        }
    }

    fn finish(&mut self, finish: Finish, out: &mut Vec<LlmEvent>) {
        if self.answer.is_ended() {
            return;
        }
        match finish {
            Finish::Whole(reason) => {
                self.begin_nameless_calls(out);
                if let Some(block) = self.detailed.take() {
                    let end = TextEnd {
                        signature: Some(self.details.to_json()),
                        ..TextEnd::default()
                    };
                    self.answer.close(block, end, out);
                }
                self.answer.done(reason, out);
            }
            Finish::Filtered => {
                let text = "the provider's filter withheld the answer";
                let error = LlmError::billed_unknown(LlmErrorKind::ContentFilter, text);
                self.answer.error(error, out);
            }
            Finish::Failed => {
                let raw = self
                    .answer
                    .message()
                    .raw_stop_reason
                    .as_deref()
                    .unwrap_or("error");
                let text = shown(&format!("the server ended the answer with `{raw}`"));
                self.answer
                    .error(LlmError::billed_unknown(LlmErrorKind::Server, text), out);
            }
        }
    }

    /// Whether a server that never says why it stopped has said something, and no call is half.
    fn is_whole_without_reason(&self) -> bool {
        let is_text = |block: &AssistantBlock| matches!(block, AssistantBlock::Text { .. });
        let has_text = self.answer.message().content.iter().any(is_text);
        let is_whole = |slot: &Slot| {
            slot.call.is_some_and(|call| {
                let json = self.answer.call_json(call);
                json.is_empty() || is_whole_object(json)
            })
        };
        self.compat.finish_reason_optional
            && (has_text || !self.slots.is_empty())
            && self.slots.iter().all(is_whole)
    }

    /// Whether an answer without a finish reason may be whole: of a server that gives none, or text
    /// alone. A call may have lost its end.
    fn may_end_unsaid(&self) -> bool {
        self.compat.finish_reason_optional || self.slots.is_empty()
    }

    fn cut(&mut self, out: &mut Vec<LlmEvent>) {
        let text = "the answer ended in the middle";
        self.answer
            .error(LlmError::billed_unknown(LlmErrorKind::StreamCut, text), out);
    }

    fn server_error(&mut self, data: &str, out: &mut Vec<LlmEvent>) {
        let failure = ServerFailure::read(None, data);
        let mut error = LlmError::billed_unknown(failure.kind(), failure.shown());
        error.retry_after_ms = failure.retry_after_ms();
        self.answer.error(error, out);
    }
}

impl Decoder for ChatDecoder {
    fn feed(&mut self, event: SseEvent<'_>, out: &mut Vec<LlmEvent>) {
        if self.answer.is_ended() {
            return;
        }
        let data = event.data.trim();
        if data == "[DONE]" {
            return match self.finish {
                Some(finish) => self.finish(finish, out),
                None if self.may_end_unsaid() => {
                    self.finish(Finish::Whole(StopReason::Stop), out);
                }
                None => self.cut(out),
            };
        }
        if event.name == "error" {
            return self.server_error(data, out);
        }
        match serde_json::from_str::<Chunk<'_>>(data) {
            Ok(chunk) if is_error(&chunk) => {
                if let Some(usage) = chunk.usage() {
                    self.usage(&usage, true, out);
                }
                // Some routers put it into the choice.
                let inner = chunk.choices.iter().flatten().find_map(|c| c.error);
                let inner = inner.filter(|_| chunk.error.is_none());
                self.server_error(inner.map_or(data, RawValue::get), out);
            }
            Ok(chunk) => self.chunk(&chunk, out),
            // A body that breaks off leaves half a chunk.
            Err(err) if err.is_eof() => self.cut(out),
            Err(err) => {
                let text = format!("the server sent a chunk that cannot be read ({err}): {data}");
                let error = LlmError::billed_unknown(LlmErrorKind::Decode, shown(&text));
                self.answer.error(error, out);
            }
        }
    }

    fn eof(&mut self, out: &mut Vec<LlmEvent>) {
        match self.finish {
            Some(finish) => self.finish(finish, out),
            None if self.is_whole_without_reason() => {
                self.finish(Finish::Whole(StopReason::Stop), out);
            }
            None => self.cut(out),
        }
    }

    fn fail(&mut self, error: LlmError, out: &mut Vec<LlmEvent>) {
        self.answer.error(error, out);
    }

    fn is_ended(&self) -> bool {
        self.answer.is_ended()
    }
}

fn is_error(chunk: &Chunk<'_>) -> bool {
    let has_choices = chunk
        .choices
        .as_ref()
        .is_some_and(|choices| !choices.is_empty());
    let told = |value: &RawValue| !matches!(value.get(), "\"\"" | "{}" | "false");
    let first = chunk.choices.as_ref().and_then(|choices| choices.first());
    chunk.error.is_some_and(told)
        || first.is_some_and(|choice| choice.error.is_some_and(told))
        || (!has_choices && (chunk.detail.is_some() || chunk.object.as_str() == "error"))
}

/// The reason, and whether the dialect defines this word.
fn read_finish(word: &str) -> (Finish, bool) {
    match word {
        "stop" => (Finish::Whole(StopReason::Stop), true),
        "length" => (Finish::Whole(StopReason::Length), true),
        "tool_calls" | "function_call" => (Finish::Whole(StopReason::ToolUse), true),
        "content_filter" => (Finish::Filtered, true),
        "eos" | "eos_token" | "end" | "end_turn" | "stop_sequence" => {
            (Finish::Whole(StopReason::Stop), false)
        }
        "max_tokens" | "model_length" => (Finish::Whole(StopReason::Length), false),
        "tool_use" | "tool_call" => (Finish::Whole(StopReason::ToolUse), false),
        // `content_filter: SAFETY` and the like.
        _ if word.starts_with("content_filter") => (Finish::Filtered, false),
        _ => (Finish::Failed, false),
    }
}

fn is_whole_object(json: &str) -> bool {
    json.trim_end().ends_with('}') && serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok()
}
