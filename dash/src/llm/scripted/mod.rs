//! A model made of a function: for demos without a key, for tests and for simulations.
//!
//! The reply is a function of the request alone, so a run that is resumed goes on as it would have.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use serde_json::Value;

use super::dialect::{Answer, AnswerSetup};
use super::{LlmError, LlmEvent, LlmProvider, LlmRequest, LlmStream};
use crate::env::{Clock, SystemClock};
use crate::model::{ContentBlock, Message, StopReason, Usage};

/// Bytes that count as one token in usage that is not given.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes of a tool call's argument text in one delta.
const ARGUMENT_DELTA_BYTES: usize = 16;

/// A provider whose replies are scripted.
#[derive(Clone)]
pub struct ScriptedLlm {
    id: Arc<str>,
    script: Arc<dyn Fn(&LlmRequest) -> ScriptedReply + Send + Sync>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for ScriptedLlm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedLlm")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl ScriptedLlm {
    /// A provider that answers each request with what `script` makes of it. For runs that can be
    /// resumed, `script` must depend on nothing but the request. It is called when the stream is
    /// first polled.
    pub fn new(
        id: impl Into<String>,
        script: impl Fn(&LlmRequest) -> ScriptedReply + Send + Sync + 'static,
    ) -> Self {
        Self {
            id: id.into().into(),
            script: Arc::new(script),
            clock: Arc::new(SystemClock),
        }
    }

    /// The clock that delays run on; tokio's timer if not said.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Thinking(String),
    Call { name: String, arguments: Value },
}

#[derive(Debug, Clone, PartialEq, Default)]
enum Ending {
    #[default]
    Done,
    Fail(LlmError),
    Hang,
}

/// What a [`ScriptedLlm`] answers. Empty until told otherwise; pieces come in the order added.
///
/// Text streams by words. An answer that is longer than the request's
/// [`max_output_tokens`](LlmRequest::max_output_tokens) is cut there and stops with `length`.
#[derive(Debug, Clone, PartialEq, Default)]
#[must_use]
pub struct ScriptedReply {
    pieces: Vec<Piece>,
    usage: Option<Usage>,
    stop_reason: Option<StopReason>,
    ending: Ending,
    is_partial: bool,
    first_delay: Duration,
    delta_delay: Duration,
}

impl ScriptedReply {
    /// An empty reply.
    pub fn new() -> Self {
        Self::default()
    }

    /// A reply of one text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new().add_text(text)
    }

    /// A reply of one tool call.
    pub fn tool_call(name: impl Into<String>, arguments: Value) -> Self {
        Self::new().add_tool_call(name, arguments)
    }

    /// A refusal before the answer begins.
    pub fn failure(error: LlmError) -> Self {
        Self {
            ending: Ending::Fail(error),
            ..Self::default()
        }
    }

    /// Adds a text.
    pub fn add_text(mut self, text: impl Into<String>) -> Self {
        self.pieces.push(Piece::Text(text.into()));
        self
    }

    /// Adds thinking.
    pub fn add_thinking(mut self, text: impl Into<String>) -> Self {
        self.pieces.push(Piece::Thinking(text.into()));
        self
    }

    /// Adds a tool call. Its id is `call_{n}_{i}`: the `i`-th call (from 0) of the answer after `n`
    /// assistant messages, the same in every run and different within a conversation.
    pub fn add_tool_call(mut self, name: impl Into<String>, arguments: Value) -> Self {
        self.pieces.push(Piece::Call {
            name: name.into(),
            arguments,
        });
        self
    }

    /// Tokens used. If not said: a quarter of the bytes of system prompt, messages and tools, and
    /// of the bytes of the reply, each rounded up.
    pub const fn usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Why it stops. If not said: `tool_use` with calls, else `stop`.
    pub const fn stop_reason(mut self, reason: StopReason) -> Self {
        self.stop_reason = Some(reason);
        self
    }

    /// Fails after about half of the reply has been streamed.
    pub fn failing_midway(mut self, error: LlmError) -> Self {
        self.ending = Ending::Fail(error);
        self.is_partial = true;
        self
    }

    /// Never ends: streams the reply, if there is one, and is silent for ever.
    pub fn hanging(mut self) -> Self {
        self.ending = Ending::Hang;
        self
    }

    /// Waits before anything comes.
    pub const fn first_delay(mut self, delay: Duration) -> Self {
        self.first_delay = delay;
        self
    }

    /// Waits before each delta.
    pub const fn delta_delay(mut self, delay: Duration) -> Self {
        self.delta_delay = delay;
        self
    }

    /// The whole stream of events.
    pub(crate) fn events(self, provider: &Arc<str>, request: &LlmRequest) -> Vec<LlmEvent> {
        let mut out = Vec::new();
        let setup = AnswerSetup {
            api: "scripted",
            provider: Arc::clone(provider),
            model: Arc::clone(&request.model),
            input_bound: 0,
            output_limit: 0,
        };
        let mut answer = Answer::new(setup);
        let refusal = match &self.ending {
            Ending::Fail(error) if !self.is_partial => Some(error.clone()),
            Ending::Hang if self.pieces.is_empty() => return out,
            Ending::Done | Ending::Fail(_) | Ending::Hang => None,
        };
        if let Some(error) = refusal {
            answer.error(error, &mut out);
            return out;
        }
        answer.start(Some(&request.model.id), None, &mut out);
        let written = self.write(request, &mut answer, &mut out);
        match self.ending {
            Ending::Hang => {}
            Ending::Fail(error) => {
                let whole = out.iter().filter(|event| is_delta(event)).count();
                keep_deltas(&mut out, whole.div_ceil(2));
                out.push(fail_after(&out, error, request, provider));
            }
            Ending::Done => {
                let output = written.bytes.div_ceil(BYTES_PER_TOKEN);
                let input = prompt_bytes(request).div_ceil(BYTES_PER_TOKEN);
                let told = Usage {
                    input,
                    output,
                    ..Usage::default()
                };
                answer.usage(self.usage.unwrap_or(told), &mut out);
                let stop = self.stop_reason.unwrap_or(StopReason::Stop);
                answer.done(
                    if written.is_cut {
                        StopReason::Length
                    } else {
                        stop
                    },
                    &mut out,
                );
            }
        }
        out
    }

    /// Writes the pieces as far as the request's limit allows.
    fn write(&self, request: &LlmRequest, answer: &mut Answer, out: &mut Vec<LlmEvent>) -> Written {
        let turn = request
            .messages
            .iter()
            .filter(|m| matches!(***m, Message::Assistant(_)))
            .count();
        let mut room = Room::new(request.max_output_tokens, self.usage.is_some());
        for piece in &self.pieces {
            if room.is_cut {
                break;
            }
            match piece {
                Piece::Text(text) => {
                    for word in room.take(text).split_inclusive(char::is_whitespace) {
                        answer.text(word, out);
                    }
                }
                Piece::Thinking(text) => {
                    for word in room.take(text).split_inclusive(char::is_whitespace) {
                        answer.thinking(word, out);
                    }
                }
                Piece::Call { name, arguments } => {
                    let number = answer.calls_len();
                    let call = answer.call_start(&format!("call_{turn}_{number}"), name, out);
                    let json = arguments.to_string();
                    let mut rest = room.take(&json);
                    while !rest.is_empty() {
                        let (delta, after) = split(rest, ARGUMENT_DELTA_BYTES);
                        answer.call_delta(call, delta, out);
                        rest = after;
                    }
                }
            }
        }
        Written {
            bytes: room.used,
            is_cut: room.is_cut,
        }
    }
}

struct Written {
    bytes: u64,
    is_cut: bool,
}

/// How much may still be written.
struct Room {
    left: usize,
    used: u64,
    is_cut: bool,
}

impl Room {
    /// Usage that is given is believed, so the answer is not cut then.
    fn new(max_output_tokens: u32, is_usage_given: bool) -> Self {
        let bytes = u64::from(max_output_tokens).saturating_mul(BYTES_PER_TOKEN);
        let left = if is_usage_given {
            usize::MAX
        } else {
            usize::try_from(bytes).unwrap_or(usize::MAX)
        };
        Self {
            left,
            used: 0,
            is_cut: false,
        }
    }

    fn take<'a>(&mut self, text: &'a str) -> &'a str {
        let (kept, rest) = if text.len() <= self.left {
            (text, "")
        } else {
            split(text, self.left)
        };
        self.left -= kept.len();
        self.used += u64::try_from(kept.len()).unwrap_or(u64::MAX);
        self.is_cut = !rest.is_empty();
        kept
    }
}

/// Splits at the last character boundary that leaves at most `bytes_max` on the left, but at least
/// one character unless `bytes_max` is 0.
fn split(text: &str, bytes_max: usize) -> (&str, &str) {
    let mut at = bytes_max.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.split_at(at)
}

const fn is_delta(event: &LlmEvent) -> bool {
    matches!(
        event,
        LlmEvent::TextDelta { .. }
            | LlmEvent::ThinkingDelta { .. }
            | LlmEvent::ToolCallDelta { .. }
    )
}

/// Drops everything after the first `count` deltas.
fn keep_deltas(out: &mut Vec<LlmEvent>, count: usize) {
    let mut seen = 0;
    let end = out.iter().position(|event| {
        seen += usize::from(is_delta(event));
        seen > count
    });
    out.truncate(end.unwrap_or(out.len()));
}

/// The error after `events`, with the message they make.
fn fail_after(
    events: &[LlmEvent],
    error: LlmError,
    request: &LlmRequest,
    provider: &str,
) -> LlmEvent {
    let mut fold = super::MessageBuilder::new(provider, &request.model.id);
    for event in events {
        fold.apply(event);
    }
    let mut message = fold.into_message(StopReason::Error);
    if let super::Billing::Known(usage) = error.billing {
        message.usage = usage;
        message.cost = request.model.price.cost(usage);
    }
    LlmEvent::Error { error, message }
}

/// Bytes of what the model is told.
fn prompt_bytes(request: &LlmRequest) -> u64 {
    let blocks = |blocks: &[ContentBlock]| -> usize {
        let len = |block: &ContentBlock| match block {
            ContentBlock::Text { text } => text.len(),
            ContentBlock::Image { data, .. } => data.len(),
        };
        blocks.iter().map(len).sum()
    };
    let said = request.messages.iter().map(|message| match &**message {
        Message::User(user) => blocks(&user.content),
        Message::ToolResult(result) => blocks(&result.content),
        Message::Assistant(said) => {
            let calls = said
                .tool_calls()
                .map(|c| c.name.len() + c.arguments.to_string().len());
            said.text().len() + calls.sum::<usize>()
        }
    });
    let tools = request
        .tools
        .iter()
        .map(|tool| tool.name.len() + tool.description.len() + tool.parameters.to_string().len());
    let bytes = request.system.len() + said.sum::<usize>() + tools.sum::<usize>();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl LlmProvider for ScriptedLlm {
    fn id(&self) -> &str {
        &self.id
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let this = self.clone();
        LlmStream::new(stream::unfold(
            Play::New(this, Box::new(request)),
            Play::next,
        ))
    }
}

enum Play {
    New(ScriptedLlm, Box<LlmRequest>),
    On {
        events: std::vec::IntoIter<LlmEvent>,
        delta_delay: Duration,
        clock: Arc<dyn Clock>,
    },
}

impl Play {
    async fn next(self) -> Option<(LlmEvent, Self)> {
        let (mut events, delta_delay, clock) = match self {
            Self::New(llm, request) => {
                let reply = (llm.script)(&request);
                let (first_delay, delta_delay) = (reply.first_delay, reply.delta_delay);
                let events = reply.events(&llm.id, &request);
                wait(&*llm.clock, first_delay).await;
                (events.into_iter(), delta_delay, llm.clock)
            }
            Self::On {
                events,
                delta_delay,
                clock,
            } => (events, delta_delay, clock),
        };
        // Only a reply that hangs has no terminal event.
        let Some(event) = events.next() else {
            return std::future::pending().await;
        };
        if is_delta(&event) {
            wait(&*clock, delta_delay).await;
        }
        Some((
            event,
            Self::On {
                events,
                delta_delay,
                clock,
            },
        ))
    }
}

async fn wait(clock: &dyn Clock, delay: Duration) {
    if !delay.is_zero() {
        clock.sleep(delay).await;
    }
}

#[cfg(test)]
mod tests;
