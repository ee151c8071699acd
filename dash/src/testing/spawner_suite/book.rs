//! The engine as the suite plays it: it knows what was granted and what was reported, and notes the
//! first rule that is broken. Stricter than the engine itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use std::sync::Arc;

use tokio::sync::watch;

use super::super::verdict::{Fault, Verdict, broken};
use super::rules;
use crate::llm::LlmRequest;
use crate::model::{
    AssistantMessage, Message, MessageOrigin, Progress, SideEffect, StepKey, StepKind, ToolCall,
    Usage,
};
use crate::spawn::{Advance, AttemptFailure, Delegation, Grant, Next, Outcome, ToolIntent};

/// A place where the engine may hold or stop an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Before the model call of this turn.
    Model(u32),
    /// Before the tool calls of this turn.
    Tools(u32),
}

/// What the engine does in a case.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    /// Where it holds the agent until it is released.
    pub(super) hold: Option<Gate>,
    /// Where it tells it to stop.
    pub(super) stop: Option<Gate>,
    /// Where it is gone.
    pub(super) close: Option<Gate>,
    /// A message that enters before the model call of a turn.
    pub(super) steer: Option<(u32, &'static str)>,
    /// A message that waits where the agent would end.
    pub(super) follow_up: Option<&'static str>,
    /// Output tokens that a call is granted, if fewer than asked for.
    pub(super) output_tokens: Option<u32>,
    /// The number of the try of tool calls, from 1.
    pub(super) tries: u32,
}

/// How the agent ended, as the engine was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Completed(String),
    Failed(AttemptFailure),
    /// Told to stop, or the engine was gone.
    Stopped,
}

/// A tool call that was made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Made {
    pub(super) call_id: String,
    pub(super) arguments: serde_json::Value,
    pub(super) try_number: u32,
    pub(super) idempotency_key: String,
}

/// What the engine knows of one attempt.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) orders: Orders,
    pub(super) attempt: u32,
    pub(super) turns_left: u32,
    pub(super) turns_done: u32,
    pub(super) conversation: Vec<Arc<Message>>,
    /// Steps granted and not reported, with the call of a tool's.
    pub(super) open: BTreeMap<StepKey, Option<ToolCall>>,
    /// The granted model call: its limit and its idempotency key.
    pub(super) call: Option<(u32, String)>,
    pub(super) reported: BTreeSet<StepKey>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) end: Option<End>,
    /// Requests that reached the model.
    pub(super) requests: Vec<LlmRequest>,
    /// Tool calls that were made.
    pub(super) made: Vec<Made>,
    pub(super) progress: Vec<Progress>,
    pub(super) delegations: Vec<(StepKey, Delegation)>,
    /// Streams and tool calls that are alive, and the most tool calls at once.
    pub(super) live: usize,
    pub(super) tools_live: usize,
    pub(super) tools_live_max: usize,
    /// Where the agent is held now.
    pub(super) held_at: Option<Gate>,
    pub(super) is_released: bool,
    pub(super) fault: Option<Fault>,
}

/// What to do with an advance.
pub(super) enum Decision {
    Answer(Grant),
    /// Wait until released, then ask again what to answer.
    Hold(Next),
    Closed,
}

/// The book with a bell that rings at every change.
#[derive(Debug)]
pub(super) struct Desk {
    book: Mutex<Book>,
    bell: watch::Sender<()>,
}

impl Desk {
    pub(super) fn new(book: Book) -> Self {
        Self {
            book: Mutex::new(book),
            bell: watch::Sender::new(()),
        }
    }

    /// Looks into the book, or changes it.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        let mut book: MutexGuard<'_, Book> =
            self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = look(&mut book);
        drop(book);
        self.bell.send_replace(());
        seen
    }

    /// Waits until something is so.
    pub(super) async fn until(&self, is_so: impl Fn(&Book) -> bool) {
        let mut bell = self.bell.subscribe();
        loop {
            bell.borrow_and_update();
            let so = is_so(&self.book.lock().unwrap_or_else(PoisonError::into_inner));
            // The sender lives as long as `self`.
            if so || bell.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Book {
    /// Notes a broken rule; the first one counts.
    pub(super) fn note(&mut self, verdict: Verdict) {
        if let Err(fault) = verdict {
            self.fault.get_or_insert(fault);
        }
    }

    /// Takes what was reported, and decides what to do with the wish that came with it.
    pub(super) fn take(&mut self, advance: Advance) -> Decision {
        let Advance { outcomes, next } = advance;
        let failed = outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::ModelFailed { .. }));
        if failed && !matches!(next, Next::Fail(_) | Next::Summary { .. }) {
            let what = format!("a failed call came with {next:?}");
            self.note(broken(rules::FAILURE_ENDS, what));
        }
        let nothing = outcomes.is_empty() && matches!(next, Next::Nothing);
        if nothing && self.open.is_empty() && self.end.is_none() {
            let what = "it reported nothing and asked for nothing, with nothing under way";
            self.note(broken(rules::ASKS_FOR_ITS_NEXT, what));
        }
        for outcome in outcomes {
            let verdict = self.report(&outcome);
            self.note(verdict);
            self.outcomes.push(outcome);
        }
        if self.end.is_some() {
            if !matches!(next, Next::Nothing) {
                let what = format!("after its end it asked for {next:?}");
                self.note(broken(rules::ENDS_ONCE, what));
            }
            let reason = "it has ended".to_owned();
            return Decision::Answer(Grant::Stop { reason });
        }
        let gate = match &next {
            Next::Model { turn, .. } => Some(Gate::Model(*turn)),
            Next::Tools { turn, .. } => Some(Gate::Tools(*turn)),
            _ => None,
        };
        if gate.is_some() && gate == self.orders.close {
            self.end = Some(End::Stopped);
            return Decision::Closed;
        }
        if gate.is_some() && gate == self.orders.hold && !self.is_released {
            self.held_at = gate;
            return Decision::Hold(next);
        }
        Decision::Answer(self.answer(next))
    }

    /// The engine's answer to a wish.
    pub(super) fn answer(&mut self, next: Next) -> Grant {
        self.held_at = None;
        let checked = self.check(&next);
        self.note(checked);
        let stops = match &next {
            Next::Model { turn, .. } => self.orders.stop == Some(Gate::Model(*turn)),
            Next::Tools { turn, .. } => self.orders.stop == Some(Gate::Tools(*turn)),
            _ => false,
        };
        if stops || self.fault.is_some() {
            self.end.get_or_insert(End::Stopped);
            let reason = "the suite says so".to_owned();
            return Grant::Stop { reason };
        }
        match next {
            Next::Model { turn, intent } => self.grant_call(turn, intent.output_tokens),
            Next::Summary { turn, .. } => {
                // No case asks for one: the window is unknown and nothing is left open.
                let what = format!("it wanted a summary in turn {turn}");
                self.note(broken(rules::GOES_ON_FROM_ITS_CONVERSATION, what));
                let reason = "no summary is due".to_owned();
                Grant::Stop { reason }
            }
            Next::Say { text, origin } => self.deliver(&text, origin),
            Next::Tools { turn, calls } => self.grant_tools(turn, &calls),
            Next::Nothing => Grant::Noted,
            Next::Complete { result } => match self.orders.follow_up.take() {
                Some(text) => self.deliver(text, MessageOrigin::FollowUp),
                None => {
                    self.end = Some(End::Completed(result));
                    Grant::Ended
                }
            },
            Next::Fail(failure) => {
                self.end = Some(End::Failed(failure));
                Grant::Ended
            }
        }
    }

    fn grant_call(&mut self, turn: u32, wanted: u32) -> Grant {
        let key = StepKey::Model {
            turn,
            attempt: self.attempt,
        };
        let max_output_tokens = self
            .orders
            .output_tokens
            .map_or(wanted, |most| most.min(wanted));
        let mut delivered = Vec::new();
        if let Some((at, text)) = self.orders.steer
            && at == turn
        {
            delivered.push(Arc::new(Message::user(text, MessageOrigin::Steer)));
        }
        self.conversation.extend(delivered.iter().cloned());
        let idempotency_key = format!("suite/{key}");
        self.open.insert(key, None);
        self.call = Some((max_output_tokens, idempotency_key.clone()));
        Grant::Model {
            key,
            max_output_tokens,
            idempotency_key,
            delivered,
        }
    }

    fn grant_tools(&mut self, turn: u32, calls: &[ToolIntent]) -> Grant {
        let asked: Vec<ToolCall> = self
            .last_answer()
            .map_or_else(Vec::new, |answer| answer.tool_calls().cloned().collect());
        let mut steps = Vec::new();
        for intent in calls {
            let index = intent.index;
            let key = StepKey::Tool { turn, index };
            let call = asked.iter().find(|call| call.id == intent.call_id);
            self.open.insert(key, call.cloned());
            steps.push((key, self.orders.tries));
        }
        Grant::Tools { steps }
    }

    fn deliver(&mut self, text: &str, origin: MessageOrigin) -> Grant {
        let delivered = vec![Arc::new(Message::user(text, origin))];
        self.conversation.extend(delivered.iter().cloned());
        Grant::Continue { delivered }
    }

    // ---- checks ----

    fn report(&mut self, outcome: &Outcome) -> Verdict {
        let (key, fits) = match outcome {
            Outcome::Answered { key, .. } => (*key, key.kind() == StepKind::Model),
            Outcome::Summarised { key, .. } => (*key, key.kind() == StepKind::Summary),
            Outcome::ModelFailed { key, .. } => (*key, key.kind().is_model_call()),
            Outcome::ToolAnswered { key, .. } => (*key, key.kind() == StepKind::Tool),
        };
        if self.reported.contains(&key) {
            return broken(rules::REPORTS_ONCE, format!("`{key}` was reported twice"));
        }
        let Some(call) = self.open.remove(&key) else {
            let what = format!("`{key}` was reported and had not been granted");
            return broken(rules::ASKS_FIRST, what);
        };
        self.reported.insert(key);
        if !fits {
            let what = format!("`{key}` was reported as {outcome:?}");
            return broken(rules::REPORTS_ONCE, what);
        }
        match outcome {
            Outcome::Answered { message, used, .. } => {
                let Message::Assistant(answer) = message.as_ref() else {
                    let what = format!("`{key}` was answered by {message:?}");
                    return broken(rules::REPORTS_WHAT_CAME, what);
                };
                self.turns_done += 1;
                self.conversation.push(Arc::clone(message));
                if (used.usd, used.tokens) == (answer.cost, Usage::total(answer.usage)) {
                    return Ok(());
                }
                let what = format!("`{key}` used {used:?}, its answer says {:?}", answer.usage);
                broken(rules::REPORTS_WHAT_CAME, what)
            }
            Outcome::ToolAnswered { message, .. } => {
                self.conversation.push(Arc::clone(message));
                match (message.as_ref(), call) {
                    (Message::ToolResult(result), Some(call))
                        if result.tool_call_id == call.id && result.tool_name == call.name =>
                    {
                        Ok(())
                    }
                    (message, call) => {
                        let what = format!("`{key}`, the call {call:?}, got {message:?}");
                        broken(rules::REPORTS_WHAT_CAME, what)
                    }
                }
            }
            Outcome::Summarised { .. } | Outcome::ModelFailed { .. } => Ok(()),
        }
    }

    fn check(&self, next: &Next) -> Verdict {
        if !self.open.is_empty() && !matches!(next, Next::Nothing) {
            let open: Vec<String> = self.open.keys().map(ToString::to_string).collect();
            let what = format!(
                "{} not reported when it asked for {next:?}",
                open.join(", ")
            );
            return broken(rules::REPORTS_ONCE, what);
        }
        match next {
            Next::Model { turn, intent } => {
                if *turn != self.turns_done + 1 {
                    let what = format!("turn {turn} after {} turns", self.turns_done);
                    return broken(rules::GOES_ON_FROM_ITS_CONVERSATION, what);
                }
                if !self.calls_left().is_empty() || self.has_answered() {
                    let what = "it called the model where the conversation asks for something else";
                    return broken(rules::GOES_ON_FROM_ITS_CONVERSATION, what);
                }
                if self.turns_done >= self.turns_left {
                    let what = format!("turn {turn}, allowed are {}", self.turns_left);
                    return broken(rules::WITHIN_LIMITS, what);
                }
                if intent.input_tokens_max == 0 || intent.output_tokens_floor > intent.output_tokens
                {
                    return broken(rules::WITHIN_LIMITS, format!("it asked for {intent:?}"));
                }
                Ok(())
            }
            Next::Tools { turn, calls } => {
                if *turn != self.turns_done {
                    let what = format!("tools of turn {turn} after turn {}", self.turns_done);
                    return broken(rules::GOES_ON_FROM_ITS_CONVERSATION, what);
                }
                self.check_calls(calls)
            }
            Next::Complete { result } => {
                let said = self.last_answer().map(AssistantMessage::text);
                if self.has_answered() && said.as_deref() == Some(result) {
                    return Ok(());
                }
                let what = format!("it completed with {result:?}, last said was {said:?}");
                broken(rules::GOES_ON_FROM_ITS_CONVERSATION, what)
            }
            Next::Summary { .. } | Next::Say { .. } | Next::Nothing | Next::Fail(_) => Ok(()),
        }
    }

    fn check_calls(&self, calls: &[ToolIntent]) -> Verdict {
        let left = self.calls_left();
        let mut seen = BTreeSet::new();
        for intent in calls {
            let fits = left.iter().any(|(index, call)| {
                (*index, &call.id, &call.name) == (intent.index, &intent.call_id, &intent.tool)
            });
            if !fits || !seen.insert(intent.index) {
                let what = format!("it asked for {intent:?}, left are {left:?}");
                return broken(rules::GOES_ON_FROM_ITS_CONVERSATION, what);
            }
            if intent.tool == super::lab::TOOL && intent.side_effect != SideEffect::Idempotent {
                let what = format!("the tool is idempotent, it said {intent:?}");
                return broken(rules::ASKS_FIRST, what);
            }
        }
        if calls.is_empty() {
            return broken(rules::ASKS_FOR_ITS_NEXT, "it asked for no tool call at all");
        }
        Ok(())
    }

    fn last_answer(&self) -> Option<&AssistantMessage> {
        self.conversation
            .iter()
            .rev()
            .find_map(|message| match message.as_ref() {
                Message::Assistant(answer) => Some(answer),
                Message::User(_) | Message::ToolResult(_) => None,
            })
    }

    /// Whether the last message is an answer that asks for nothing.
    fn has_answered(&self) -> bool {
        matches!(
            self.conversation.last().map(Arc::as_ref),
            Some(Message::Assistant(answer)) if answer.tool_calls().next().is_none()
        )
    }

    /// The calls of the last answer that have no result, with their places.
    fn calls_left(&self) -> VecDeque<(u32, ToolCall)> {
        let Some(answer) = self.last_answer() else {
            return VecDeque::new();
        };
        let answered: BTreeSet<&str> = self
            .conversation
            .iter()
            .filter_map(|message| match message.as_ref() {
                Message::ToolResult(result) => Some(result.tool_call_id.as_str()),
                Message::User(_) | Message::Assistant(_) => None,
            })
            .collect();
        (0..)
            .zip(answer.tool_calls())
            .filter(|(_, call)| !answered.contains(call.id.as_str()))
            .map(|(index, call)| (index, call.clone()))
            .collect()
    }
}
