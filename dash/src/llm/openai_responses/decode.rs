//! Reads answers.

use super::event::{CUSTOM_LEAD, Event, Item, ItemKind, Response, custom_arguments, escaped};
use super::slot::{Piece, Slots, Thought};
use crate::llm::dialect::{Answer, AnswerSetup, CallEnd, Decoder, SseEvent, TextEnd, TextKind};
use crate::llm::failure::{ServerFailure, shown};
use crate::llm::{LlmError, LlmErrorKind, LlmEvent};
use crate::model::StopReason;

/// What a model is told of a call whose end did not come.
const HALF_CALL: &str =
    "the answer ended before the call was whole, so it was not run; send it again";

/// How the server says the answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Completed,
    Incomplete,
    Failed,
    Cancelled,
}

/// Reads the events of one answer.
///
/// An answer that ends without its terminal event is [`LlmErrorKind::StreamCut`]. A call is whole
/// only with the end of its item, or when the final list of a completed answer holds it.
#[derive(Debug)]
pub struct ResponsesDecoder {
    answer: Answer,
    slots: Slots,
    output_limit: u32,
}

impl ResponsesDecoder {
    /// A decoder of one answer.
    #[must_use]
    pub fn new(setup: AnswerSetup) -> Self {
        Self {
            output_limit: setup.output_limit,
            answer: Answer::new(setup),
            slots: Slots::default(),
        }
    }

    fn event(&mut self, kind: &str, event: &Event<'_>, data: &str, out: &mut Vec<LlmEvent>) {
        let content = event.content_index.get().unwrap_or(0);
        let summary = event.summary_index.get().unwrap_or(0);
        match kind {
            "response.created" | "response.queued" | "response.in_progress" => {
                self.answer.heartbeat(out);
                self.begin(&event.response().unwrap_or_default(), out);
            }
            "response.output_item.added" => self.item_added(event, out),
            "response.output_item.done" => self.item_done(event, out),
            "response.output_text.delta" | "response.refusal.delta" => {
                self.text_delta(event, event.delta.as_str(), out);
            }
            "response.output_text.done" => self.text_whole(event, event.text.as_str(), out),
            "response.refusal.done" => self.text_whole(event, event.refusal.as_str(), out),
            "response.content_part.done" => {
                if let Some(text) = event.part_text() {
                    self.text_whole(event, &text, out);
                }
            }
            "response.reasoning_summary_part.added" => {
                let at = self.slot(ItemKind::Reasoning, event);
                if let Some(slot) = at.and_then(|at| self.slots.get_mut(at)) {
                    slot.is_apart = true;
                }
            }
            "response.reasoning_summary_text.delta" => {
                self.thought(event, Thought::Summary(summary), event.delta.as_str(), out);
            }
            "response.reasoning_text.delta" => {
                self.thought(event, Thought::Content(content), event.delta.as_str(), out);
            }
            "response.reasoning_summary_text.done" => {
                self.thought_whole(event, Thought::Summary(summary), out);
            }
            "response.reasoning_text.done" => {
                self.thought_whole(event, Thought::Content(content), out);
            }
            "response.function_call_arguments.delta" => {
                self.call_delta(ItemKind::Function, event, event.delta.as_str(), out);
            }
            "response.custom_tool_call_input.delta" => {
                self.call_delta(ItemKind::Custom, event, &escaped(event.delta.as_str()), out);
            }
            "response.function_call_arguments.done" => {
                let json = event.arguments.as_str().to_owned();
                self.call_whole(ItemKind::Function, event, json);
            }
            "response.custom_tool_call_input.done" => {
                let json = custom_arguments(event.input.as_str());
                self.call_whole(ItemKind::Custom, event, json);
            }
            "response.completed" | "response.done" => self.end(Ending::Completed, event, out),
            "response.incomplete" => self.end(Ending::Incomplete, event, out),
            "response.failed" => self.end(Ending::Failed, event, out),
            "response.cancelled" => self.end(Ending::Cancelled, event, out),
            "error" => self.server_error(&ServerFailure::read(None, data), out),
            "" if event.is_nameless_error() => {
                self.server_error(&ServerFailure::read(None, data), out);
            }
            _ => self.answer.heartbeat(out),
        }
    }

    fn begin(&mut self, response: &Response<'_>, out: &mut Vec<LlmEvent>) {
        let (model, id) = (response.model.as_str(), response.id.as_str());
        self.answer.start(Some(model), Some(id), out);
    }

    /// The item an event adds to; `None` if it has ended. Servers may tell of one that they did not
    /// announce.
    fn slot(&mut self, kind: ItemKind, event: &Event<'_>) -> Option<usize> {
        let (place, id) = (event.output_index.get(), event.item_id.as_str());
        let found = self.slots.find(kind, place, [id, ""]);
        let found = found.or_else(|| self.slots.last_unless_named(kind, place, id));
        if let Some(at) = found {
            let is_open = self.slots.get_mut(at).is_some_and(|slot| !slot.is_done);
            return is_open.then_some(at);
        }
        let at = self.slots.push(kind, place);
        if let Some(slot) = self.slots.get_mut(at) {
            id.clone_into(&mut slot.item_id);
        }
        Some(at)
    }

    // ---- items ----

    fn item_added(&mut self, event: &Event<'_>, out: &mut Vec<LlmEvent>) {
        let Some(item) = event.item() else {
            return self.answer.heartbeat(out);
        };
        let (place, ids) = (event.output_index.get(), [&*item.id, &*item.call_id]);
        let found = self.slots.find_announced(item.kind, place, ids);
        let at = found.unwrap_or_else(|| self.slots.push(item.kind, place));
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        slot.learn(&item);
        match item.kind {
            ItemKind::Message => {}
            ItemKind::Reasoning => self.open_thinking(at, out),
            ItemKind::Function | ItemKind::Custom if slot.name.is_empty() => {}
            ItemKind::Function | ItemKind::Custom => self.begin_call(at, out),
        }
    }

    fn item_done(&mut self, event: &Event<'_>, out: &mut Vec<LlmEvent>) {
        let Some(item) = event.item() else {
            return self.answer.heartbeat(out);
        };
        let (place, ids) = (event.output_index.get(), [&*item.id, &*item.call_id]);
        let found = self.slots.find(item.kind, place, ids);
        let at = found.unwrap_or_else(|| self.slots.push(item.kind, place));
        self.finish_item(at, Some(&item), out);
    }

    /// The end of an item, with what the server finally says of it.
    fn finish_item(&mut self, at: usize, item: Option<&Item>, out: &mut Vec<LlmEvent>) {
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        if std::mem::replace(&mut slot.is_done, true) {
            return;
        }
        if let Some(item) = item {
            slot.learn(item);
        }
        match slot.kind {
            ItemKind::Message => self.finish_message(at, item, out),
            ItemKind::Reasoning => self.finish_thinking(at, item, out),
            ItemKind::Function | ItemKind::Custom => self.finish_call(at, item, out),
        }
    }

    // ---- messages ----

    fn text_delta(&mut self, event: &Event<'_>, delta: &str, out: &mut Vec<LlmEvent>) {
        let index = event.content_index.get().unwrap_or(0);
        if let Some(at) = self.slot(ItemKind::Message, event) {
            self.grow_text(at, index, delta, out);
        }
    }

    fn grow_text(&mut self, at: usize, index: u64, delta: &str, out: &mut Vec<LlmEvent>) {
        let Some(slot) = self.slots.get_mut(at).filter(|_| !delta.is_empty()) else {
            return;
        };
        let known = slot.pieces.iter().find(|p| p.content_index == index);
        let block = match known.map(|piece| piece.block) {
            Some(block) => block,
            None => {
                let block = self.answer.open(TextKind::Text, out);
                slot.pieces.push(Piece {
                    content_index: index,
                    block,
                    whole: None,
                });
                block
            }
        };
        self.answer.grow(block, delta, out);
    }

    fn text_whole(&mut self, event: &Event<'_>, text: &str, out: &mut Vec<LlmEvent>) {
        let index = event.content_index.get().unwrap_or(0);
        if let Some(at) = self.slot(ItemKind::Message, event) {
            self.set_text(at, index, text, out);
        }
    }

    /// The whole text of a part; one that was not streamed is told at once. Nothing does not
    /// replace something: servers leave the repetition empty.
    fn set_text(&mut self, at: usize, index: u64, text: &str, out: &mut Vec<LlmEvent>) {
        let Some(slot) = self.slots.get_mut(at).filter(|_| !text.is_empty()) else {
            return;
        };
        match slot.pieces.iter_mut().find(|p| p.content_index == index) {
            Some(piece) => piece.whole = Some(text.to_owned()),
            None => self.grow_text(at, index, text, out),
        }
    }

    fn finish_message(&mut self, at: usize, item: Option<&Item>, out: &mut Vec<LlmEvent>) {
        let texts = item.into_iter().flat_map(|item| &item.texts);
        for (index, text) in (0_u64..).zip(texts) {
            self.set_text(at, index, text, out);
        }
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        for piece in &mut slot.pieces {
            let signature = Some(slot.item_id.clone()).filter(|id| !id.is_empty());
            let end = TextEnd {
                text: piece.whole.take(),
                signature,
                redacted: false,
            };
            self.answer.close(piece.block, end, out);
        }
    }

    // ---- reasoning ----

    fn open_thinking(&mut self, at: usize, out: &mut Vec<LlmEvent>) {
        if let Some(slot) = self.slots.get_mut(at)
            && slot.thinking.is_none()
        {
            slot.thinking = Some(self.answer.open(TextKind::Thinking, out));
        }
    }

    fn thought(
        &mut self,
        event: &Event<'_>,
        thought: Thought,
        delta: &str,
        out: &mut Vec<LlmEvent>,
    ) {
        let Some(at) = self.slot(ItemKind::Reasoning, event) else {
            return;
        };
        if delta.is_empty() {
            return;
        }
        self.open_thinking(at, out);
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        let Some(block) = slot.thinking else {
            return;
        };
        let is_new = slot.thoughts.last() != Some(&thought);
        if (is_new || slot.is_apart) && !slot.thoughts.is_empty() {
            self.answer.grow(block, "\n\n", out);
        }
        slot.is_apart = false;
        if is_new {
            slot.thoughts.push(thought);
        }
        self.answer.grow(block, delta, out);
    }

    /// A part of the reasoning that was not streamed is told at once.
    fn thought_whole(&mut self, event: &Event<'_>, thought: Thought, out: &mut Vec<LlmEvent>) {
        let at = self.slot(ItemKind::Reasoning, event);
        let slot = at.and_then(|at| self.slots.get_mut(at));
        if slot.is_some_and(|slot| slot.is_apart || !slot.thoughts.contains(&thought)) {
            self.thought(event, thought, event.text.as_str(), out);
        }
    }

    fn finish_thinking(&mut self, at: usize, item: Option<&Item>, out: &mut Vec<LlmEvent>) {
        if item.is_some() {
            self.open_thinking(at, out);
        }
        let Some(block) = self.slots.get_mut(at).and_then(|slot| slot.thinking) else {
            return;
        };
        let text = item.map(|item| item.thinking.clone());
        let end = TextEnd {
            text: text.filter(|text| !text.is_empty()),
            signature: item.and_then(|item| item.replay.clone()),
            redacted: false,
        };
        self.answer.close(block, end, out);
    }

    // ---- calls ----

    fn begin_call(&mut self, at: usize, out: &mut Vec<LlmEvent>) {
        let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.call.is_none()) else {
            return;
        };
        let wanted = match slot.call_id.as_str() {
            "" => &slot.item_id,
            call_id => call_id,
        };
        let id = self.answer.unique_call_id(wanted);
        let call = self.answer.call_start(&id, &slot.name, out);
        slot.call = Some(call);
        let early = std::mem::take(&mut slot.early);
        if slot.kind == ItemKind::Custom {
            self.answer.call_delta(call, CUSTOM_LEAD, out);
        }
        self.answer.call_delta(call, &early, out);
    }

    fn call_delta(
        &mut self,
        kind: ItemKind,
        event: &Event<'_>,
        delta: &str,
        out: &mut Vec<LlmEvent>,
    ) {
        let at = self.slot(kind, event);
        let Some(slot) = at.and_then(|at| self.slots.get_mut(at)) else {
            return;
        };
        match slot.call {
            Some(call) => self.answer.call_delta(call, delta, out),
            None => slot.early.push_str(delta),
        }
    }

    fn call_whole(&mut self, kind: ItemKind, event: &Event<'_>, json: String) {
        let at = self.slot(kind, event);
        let slot = at.and_then(|at| self.slots.get_mut(at));
        if let Some(slot) = slot.filter(|_| !json.is_empty()) {
            slot.whole = Some(json);
        }
    }

    fn finish_call(&mut self, at: usize, item: Option<&Item>, out: &mut Vec<LlmEvent>) {
        self.begin_call(at, out);
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        let Some(call) = slot.call else {
            return;
        };
        let told = item.and_then(|item| item.json.clone());
        let end = CallEnd {
            json: told
                .filter(|json| !json.is_empty())
                .or_else(|| slot.whole.take()),
            signature: Some(slot.item_id.clone()).filter(|id| !id.is_empty()),
            error: match item {
                Some(item) if item.is_whole => None,
                _ => Some(HALF_CALL.to_owned()),
            },
        };
        self.answer.call_close(call, end, out);
    }

    // ---- the end ----

    fn end(&mut self, ending: Ending, event: &Event<'_>, out: &mut Vec<LlmEvent>) {
        let response = event.response().unwrap_or_default();
        self.begin(&response, out);
        if let Some(usage) = response.usage() {
            self.answer.usage(usage, out);
        }
        // Some servers name the event `completed` whatever became of the answer.
        let ending = match (ending, response.status.as_str()) {
            (Ending::Completed, "incomplete") => Ending::Incomplete,
            (Ending::Completed, "failed") => Ending::Failed,
            (Ending::Completed, "cancelled") => Ending::Cancelled,
            (ending, _) => ending,
        };
        match ending {
            Ending::Completed => self.whole(&response, StopReason::Stop, out),
            Ending::Incomplete => self.incomplete(&response, out),
            Ending::Failed => {
                let failure = response.error.map_or_else(ServerFailure::default, |error| {
                    ServerFailure::read(None, error.get())
                });
                self.server_error(&failure, out);
            }
            Ending::Cancelled => {
                let text = "the server cancelled the answer";
                self.fails(LlmErrorKind::Server, text.to_owned(), out);
            }
        }
    }

    fn incomplete(&mut self, response: &Response<'_>, out: &mut Vec<LlmEvent>) {
        let reason = response.incomplete_reason();
        match reason.as_str() {
            "max_output_tokens" => self.whole(response, StopReason::Length, out),
            "max_tokens" | "length" => {
                self.answer.raw_stop_reason(&reason);
                self.whole(response, StopReason::Length, out);
            }
            "content_filter" => {
                let text = "the provider's filter withheld the answer";
                self.fails(LlmErrorKind::ContentFilter, text.to_owned(), out);
            }
            other => {
                if !other.is_empty() {
                    self.answer.raw_stop_reason(other);
                }
                let text = format!("the server left the answer incomplete: `{other}`");
                self.fails(LlmErrorKind::Server, shown(&text), out);
            }
        }
    }

    /// The answer is whole, or as whole as the limit let it be. The final list tells what was not
    /// streamed.
    fn whole(&mut self, response: &Response<'_>, reason: StopReason, out: &mut Vec<LlmEvent>) {
        for (at, item) in self.slots.listed(response.items()) {
            self.finish_item(at, Some(&item), out);
        }
        for at in 0..self.slots.len() {
            self.finish_item(at, None, out);
        }
        // llama.cpp calls an answer completed that the limit has cut.
        let limit = u64::from(self.output_limit);
        let is_cut = limit > 0 && self.answer.message().usage.output >= limit;
        let reason = if is_cut { StopReason::Length } else { reason };
        self.answer.done(reason, out);
    }

    fn server_error(&mut self, failure: &ServerFailure, out: &mut Vec<LlmEvent>) {
        let kind = match failure.kind() {
            // Codes of this API that other servers do not have.
            LlmErrorKind::Server if failure.code.contains("slow_down") => LlmErrorKind::Overloaded,
            LlmErrorKind::Server if failure.code.starts_with("invalid_") => {
                LlmErrorKind::InvalidRequest
            }
            kind => kind,
        };
        let mut error = LlmError::billed_unknown(kind, failure.shown());
        error.retry_after_ms = failure.retry_after_ms();
        self.answer.error(error, out);
    }

    fn fails(&mut self, kind: LlmErrorKind, text: String, out: &mut Vec<LlmEvent>) {
        self.answer.error(LlmError::billed_unknown(kind, text), out);
    }

    fn cut(&mut self, out: &mut Vec<LlmEvent>) {
        let text = "the answer ended in the middle";
        self.fails(LlmErrorKind::StreamCut, text.to_owned(), out);
    }
}

impl Decoder for ResponsesDecoder {
    fn feed(&mut self, event: SseEvent<'_>, out: &mut Vec<LlmEvent>) {
        if self.answer.is_ended() {
            return;
        }
        let data = event.data.trim();
        // Not of this API, but some servers send it in every dialect.
        if data.is_empty() || data == "[DONE]" {
            return;
        }
        if event.name == "error" {
            return self.server_error(&ServerFailure::read(None, data), out);
        }
        match serde_json::from_str::<Event<'_>>(data) {
            Ok(read) if data.starts_with('{') => {
                let kind = match (read.kind.as_str(), event.name) {
                    ("", "message") => "",
                    ("", name) => name,
                    (kind, _) => kind,
                };
                self.event(kind, &read, data, out);
            }
            // A body that breaks off leaves half an event.
            Err(err) if err.is_eof() => self.cut(out),
            Ok(_) => {
                let text = format!("the server sent an event that is no object: {data}");
                self.fails(LlmErrorKind::Decode, shown(&text), out);
            }
            Err(err) => {
                let text = format!("the server sent an event that cannot be read ({err}): {data}");
                self.fails(LlmErrorKind::Decode, shown(&text), out);
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
