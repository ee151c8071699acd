//! The journal: outcomes come in, the next step goes out, one commit for both.

use std::sync::Arc;
use std::time::Duration;

use super::super::effect::{Reply, ReplyId};
use super::super::state::Parked;
use super::Decision;
use super::budgets::Reserved;
use crate::event::{
    AgentCompacted, AgentStarted, AgentTurn, AgentTurnFailed, BranchSummarised, StepResolved,
    ToolCompleted, ToolStarted,
};
use crate::ids::{AgentId, EntryId};
use crate::llm::Billing;
use crate::model::inbox::Queue;
use crate::model::message::TOKENS_MAX;
use crate::model::{
    AgentStatus, Amount, ContentBlock, Entry, EntryBody, Message, MessageOrigin, NanoUsd,
    SideEffect, Step, StepKey, StepState, TaskRole, ToolResultMessage, Usage,
};
use crate::mutation::{self, Mutation};
use crate::spawn::{Advance, AttemptFailure, Grant, Next, Outcome, Summary, ToolIntent};
use crate::strategy;

impl Decision<'_> {
    pub(super) fn advance(&mut self, id: AgentId, attempt: u32, advance: Advance, to: ReplyId) {
        let Ok(agent) = self.agent(id) else {
            self.grant(to, stop("the agent is unknown"));
            return;
        };
        let (status, stale) = (agent.status, agent.attempt != attempt);
        if status.is_terminal() || stale {
            for outcome in advance.outcomes {
                self.account_late(id, &outcome);
            }
            self.release_slot(id);
            self.grant(
                to,
                stop(if stale {
                    "a newer attempt runs"
                } else {
                    status.as_str()
                }),
            );
            return;
        }
        self.announce(id);
        let mut next = advance.next;
        for outcome in advance.outcomes {
            // A failed call ends its attempt, in the same commit: its key is used up. Only a summary,
            // which has a key of its own, may follow.
            if let (Outcome::ModelFailed { error, .. }, false) = (
                &outcome,
                matches!(next, Next::Fail(_) | Next::Summary { .. }),
            ) {
                next = Next::Fail(AttemptFailure::fatal(error.clone()).retryable());
            }
            if let (Outcome::ModelFailed { .. }, Next::Summary { turn, .. }) = (&outcome, &next) {
                self.intend_summary(id, *turn, attempt);
            }
            self.outcome(id, outcome);
        }
        // An outcome may have crossed a threshold that paused or killed the agent.
        match self.agent(id).map(|a| a.status) {
            Ok(status) if status.is_terminal() => self.grant(to, stop(status.as_str())),
            _ if matches!(next, Next::Fail(_)) => self.proceed(id, next, to),
            _ if next == Next::Nothing => self.grant(to, Grant::Noted),
            _ if self.state.draining => self.grant(to, stop("the engine is shutting down")),
            Ok(AgentStatus::Paused) => self.park(id, to, next),
            _ => self.proceed(id, next, to),
        }
    }

    /// The first sign of life of a spawner: `spawning` becomes `running`.
    fn announce(&mut self, id: AgentId) {
        if std::mem::replace(&mut self.live(id).announced, true) {
            return;
        }
        let now = self.now;
        let mut started = None;
        self.edit_agent(id, |a| {
            started = Some((a.attempt, a.started_at.is_some()));
            if a.status == AgentStatus::Spawning {
                a.status = AgentStatus::Running;
            }
            a.retry_at = None;
            a.started_at = a.started_at.or(Some(now));
        });
        if let Some((attempt, resumed)) = started {
            self.emit_agent(
                id,
                AgentStarted {
                    agent_id: id,
                    attempt,
                    resumed,
                },
            );
        }
    }

    // ---- outcomes ----

    fn outcome(&mut self, id: AgentId, outcome: Outcome) {
        match outcome {
            Outcome::Answered { key, message, used } => self.answered(id, key, message, used),
            Outcome::Summarised {
                key,
                summary,
                usage,
                used,
            } => self.summarised(id, key, summary, usage, used),
            Outcome::ModelFailed {
                key,
                error,
                billing,
            } => {
                let used = self.billed(id, key, billing);
                self.count_failed(id, billing, used);
                self.end_step(id, key, StepState::Failed, None, Some(error.clone()));
                self.release_slot(id);
                self.emit_agent(
                    id,
                    AgentTurnFailed {
                        agent_id: id,
                        step: key,
                        error,
                    },
                );
                // Last: what it cost may cross a threshold that ends the agent.
                self.settle_step(id, key, used);
            }
            Outcome::ToolAnswered {
                key,
                message,
                duration,
            } => {
                self.tool_answered(id, key, message, duration);
            }
        }
    }

    fn answered(&mut self, id: AgentId, key: StepKey, message: Arc<Message>, used: Amount) {
        if !self.live(id).steps.contains_key(&key) {
            return;
        }
        let Message::Assistant(answer) = message.as_ref() else {
            return;
        };
        let usage = answer.usage.clamped();
        let used = bounded(used);
        let tool_calls = u32::try_from(answer.tool_calls().count()).unwrap_or(u32::MAX);
        let entry = self.append(id, Some(key), EntryBody::Message { message });
        self.end_step(id, key, StepState::Done, Some(entry), None);
        self.edit_agent(id, |a| {
            a.turns += 1;
            a.usage += usage;
            a.cost += used.usd;
        });
        let cost_nanos = used.usd.0;
        self.emit_agent(
            id,
            AgentTurn {
                agent_id: id,
                step: key,
                usage,
                cost_nanos,
                tool_calls,
            },
        );
        self.release_slot(id);
        self.settle_step(id, key, Some(used));
    }

    fn summarised(
        &mut self,
        id: AgentId,
        key: StepKey,
        summary: Summary,
        usage: Usage,
        used: Amount,
    ) {
        if !self.live(id).steps.contains_key(&key) {
            return;
        }
        let (usage, used) = (usage.clamped(), bounded(used));
        let (body, tokens_before, kept) = match summary {
            Summary::Compaction(compaction) => {
                let (before, kept) = (compaction.tokens_before, Some(compaction.kept));
                (EntryBody::Compaction { compaction }, before, kept)
            }
            Summary::Branch(summary) => (EntryBody::BranchSummary { summary }, 0, None),
        };
        let entry = self.append(id, Some(key), body);
        self.end_step(id, key, StepState::Done, Some(entry), None);
        self.edit_agent(id, |a| {
            a.turns += 1;
            a.usage += usage;
            a.cost += used.usd;
        });
        let cost_nanos = used.usd.0;
        match kept {
            Some(kept) => {
                let compacted = AgentCompacted {
                    agent_id: id,
                    step: key,
                    tokens_before,
                    kept,
                    usage,
                    cost_nanos,
                };
                self.emit_agent(id, compacted);
            }
            None => {
                let summarised = BranchSummarised {
                    agent_id: id,
                    step: key,
                    usage,
                    cost_nanos,
                };
                self.emit_agent(id, summarised);
            }
        }
        self.release_slot(id);
        self.settle_step(id, key, Some(used));
    }

    fn tool_answered(
        &mut self,
        id: AgentId,
        key: StepKey,
        message: Arc<Message>,
        duration: Duration,
    ) {
        let Some(step) = self.live(id).steps.get(&key) else {
            return;
        };
        let tool = step.name.clone();
        let Message::ToolResult(result) = message.as_ref() else {
            return;
        };
        let is_error = result.is_error;
        let is_kept = !mutation::active(Mutation::ForgetResult);
        let entry = is_kept.then(|| self.append(id, Some(key), EntryBody::Message { message }));
        self.end_step(id, key, StepState::Done, entry, None);
        self.edit_agent(id, |a| a.tool_calls += 1);
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let event = ToolCompleted {
            agent_id: id,
            step: key,
            tool,
            is_error,
            duration_ms,
        };
        self.emit_agent(id, event);
    }

    /// What a failed call may have cost; `None` = its worst case.
    fn billed(&self, id: AgentId, key: StepKey, billing: Billing) -> Option<Amount> {
        match billing {
            Billing::None => Some(Amount::default()),
            Billing::Unknown => None,
            Billing::Reported { usage, cost } => Some(bounded(Amount {
                usd: cost,
                tokens: usage.clamped().total(),
            })),
            Billing::Known(usage) => {
                let usage = usage.clamped();
                // The agent may have been moved to another model meanwhile.
                let step = self.state.live.get(&id).and_then(|l| l.steps.get(&key));
                let own = self.agent(id).ok().map(|a| a.model.as_str());
                let name = step.map(|s| s.name.as_str()).or(own);
                let model = name.and_then(|name| self.state.models.get(name));
                let usd = model.map(|m| m.price.cost(usage)).unwrap_or_default();
                Some(bounded(Amount {
                    usd,
                    tokens: usage.total(),
                }))
            }
        }
    }

    /// Adds what a failed call is known to have used to its agent's counts.
    fn count_failed(&mut self, id: AgentId, billing: Billing, used: Option<Amount>) {
        if let (Billing::Known(usage) | Billing::Reported { usage, .. }, Some(used)) =
            (billing, used)
        {
            self.edit_agent(id, |a| {
                a.usage += usage.clamped();
                a.cost += used.usd;
            });
        }
    }

    /// An outcome of an agent that has ended or was restarted meanwhile: nothing follows from it,
    /// but what it cost is known now.
    fn account_late(&mut self, id: AgentId, outcome: &Outcome) {
        let (key, billing, used) = match outcome {
            Outcome::Answered { key, message, used } => match message.as_ref() {
                Message::Assistant(answer) => {
                    (*key, Billing::Known(answer.usage), Some(bounded(*used)))
                }
                Message::User(_) | Message::ToolResult(_) => return,
            },
            Outcome::Summarised {
                key, usage, used, ..
            } => (*key, Billing::Known(*usage), Some(bounded(*used))),
            Outcome::ModelFailed { key, billing, .. } => {
                (*key, *billing, self.billed(id, *key, *billing))
            }
            Outcome::ToolAnswered { .. } => return,
        };
        if let Some(used) = used
            && self.reconcile(id, key, used).is_some()
        {
            self.count_failed(id, billing, Some(used));
        }
    }

    // ---- what is next ----

    /// Grants, holds back or refuses what a running agent wants.
    pub(super) fn proceed(&mut self, id: AgentId, next: Next, to: ReplyId) {
        match next {
            next @ (Next::Model { .. } | Next::Summary { .. }) => self.grant_model(id, next, to),
            Next::Say { text, origin } => {
                let delivered = vec![self.say(id, text, origin)];
                self.grant(to, Grant::Continue { delivered });
            }
            Next::Tools { turn, calls } => self.grant_tools(id, turn, &calls, to),
            Next::Nothing => self.grant(to, Grant::Noted),
            Next::Complete { result } => self.complete(id, result, to),
            Next::Fail(failure) => {
                self.fail_attempt(id, failure);
                self.grant(to, Grant::Ended);
            }
        }
    }

    /// Grants a call of a model, for a turn or for a summary, or holds the agent until it can.
    fn grant_model(&mut self, id: AgentId, next: Next, to: ReplyId) {
        let (turn, intent, is_summary) = match &next {
            Next::Model { turn, intent } => (*turn, intent, false),
            Next::Summary { turn, intent } => (*turn, intent, true),
            _ => return,
        };
        let Ok(agent) = self.agent(id) else { return };
        let (attempt, swarm, model_id) = (agent.attempt, agent.swarm_id, agent.model.clone());
        let Some(model) = self.state.models.get(&model_id).map(Arc::clone) else {
            let error = format!("the model `{model_id}` is not registered any more");
            self.fail_attempt(id, AttemptFailure::fatal(error).other_model());
            self.grant(to, Grant::Ended);
            return;
        };
        let max = self.state.settings.calls_per_provider_max;
        let gate = self.state.gates.entry(model.provider.clone()).or_default();
        if gate.under_way >= max {
            gate.wait(swarm, id);
            self.park(id, to, next);
            return;
        }
        let (key, extra) = if is_summary {
            (StepKey::Summary { turn, attempt }, 0)
        } else {
            let key = StepKey::Model { turn, attempt };
            (key, self.waiting_bytes(id, Queue::Steer))
        };
        let input_tokens = intent.input_tokens_max.saturating_add(extra);
        let reserved = self.reserve(id, key, input_tokens, intent, &model.price);
        let max_output_tokens = match reserved {
            Reserved::Held { output_tokens } => output_tokens,
            Reserved::Later => {
                let waiters = self.state.budget_waiters.entry(swarm).or_default();
                waiters.push_back(id);
                self.park(id, to, next);
                return;
            }
            Reserved::Paused => {
                self.park(id, to, next);
                return;
            }
            Reserved::Refused => {
                self.grant(to, Grant::Ended);
                return;
            }
        };
        if let Some(gate) = self.state.gates.get_mut(&model.provider) {
            gate.under_way += 1;
        }
        self.live(id).calling = Some(key);
        let delivered = if is_summary {
            Vec::new()
        } else {
            self.deliver(id, Queue::Steer)
        };
        self.begin_step(id, key, SideEffect::Idempotent, model_id, None);
        let idempotency_key = format!("{id}/{key}");
        self.grant(
            to,
            Grant::Model {
                key,
                max_output_tokens,
                idempotency_key,
                delivered,
            },
        );
    }

    fn grant_tools(&mut self, id: AgentId, turn: u32, calls: &[ToolIntent], to: ReplyId) {
        let mut steps = Vec::with_capacity(calls.len());
        for call in calls {
            let key = StepKey::Tool {
                turn,
                index: call.index,
            };
            let (tool, call_id) = (call.tool.clone(), Some(call.call_id.clone()));
            let tries = self.begin_step(id, key, call.side_effect, tool, call_id);
            let started = ToolStarted {
                agent_id: id,
                step: key,
                tool: call.tool.clone(),
            };
            self.emit_agent(id, started);
            steps.push((key, tries));
        }
        self.grant(to, Grant::Tools { steps });
    }

    fn complete(&mut self, id: AgentId, result: String, to: ReplyId) {
        let mut delivered = self.deliver(id, Queue::Steer);
        if delivered.is_empty() {
            delivered = self.deliver(id, Queue::FollowUp);
        }
        if !delivered.is_empty() {
            self.grant(to, Grant::Continue { delivered });
            return;
        }
        if let Err(complaint) = self.expand(id, &result) {
            let text = format!("{complaint}. Answer again, with the JSON object only.");
            let delivered = vec![self.say(id, text, MessageOrigin::Correction)];
            self.grant(to, Grant::Continue { delivered });
            return;
        }
        self.complete_agent(id, result);
        self.grant(to, Grant::Ended);
    }

    /// If the agent's task was to plan, adds the tasks its answer asks for.
    fn expand(&mut self, id: AgentId, answer: &str) -> Result<(), String> {
        let task = self
            .agent(id)
            .ok()
            .and_then(|a| a.task_id)
            .and_then(|t| self.task(t).ok());
        let Some(task) = task.filter(|t| t.role == TaskRole::Plan) else {
            return Ok(());
        };
        let swarm = task.swarm_id;
        let Ok(row) = self.swarm(swarm) else {
            return Ok(());
        };
        let planned = strategy::expand_plan(&row.task, answer, row.target_agent_count)?;
        self.add_planned(swarm, planned);
        Ok(())
    }

    /// Keeps a request until it can be granted. An agent has one at a time.
    fn park(&mut self, id: AgentId, reply: ReplyId, next: Next) {
        let earlier = self.live(id).parked.replace(Parked { reply, next });
        if let Some(earlier) = earlier {
            self.grant(
                earlier.reply,
                stop("the agent has asked for something else"),
            );
        }
    }

    fn grant(&mut self, to: ReplyId, grant: Grant) {
        self.reply(to, Ok(Reply::Grant(Box::new(grant))));
    }

    // ---- rows ----

    /// Adds a message of the engine to the end of the agent's conversation.
    pub(super) fn say(&mut self, id: AgentId, text: String, origin: MessageOrigin) -> Arc<Message> {
        let message = Arc::new(Message::user(text, origin));
        let shared = Arc::clone(&message);
        self.append(id, None, EntryBody::Message { message: shared });
        message
    }

    /// Adds an entry to the end of the agent's conversation.
    pub(super) fn append(
        &mut self,
        id: AgentId,
        step: Option<StepKey>,
        body: EntryBody,
    ) -> EntryId {
        let entry_id = EntryId::from_u128(self.id());
        let parent_id = self.agent(id).ok().and_then(|a| a.head);
        let at = self.now;
        let entry = Entry {
            id: entry_id,
            agent_id: id,
            parent_id,
            step,
            body,
            at,
        };
        self.state.out.changes.entries.push(entry);
        self.edit_agent(id, |a| a.head = Some(entry_id));
        entry_id
    }

    /// Journals the summary that must follow a failed call before it is granted: the call's key is
    /// used up, and a restart must not go back to it.
    fn intend_summary(&mut self, id: AgentId, turn: u32, attempt: u32) {
        let Ok(model) = self.agent(id).map(|a| a.model.clone()) else {
            return;
        };
        let key = StepKey::Summary { turn, attempt };
        let step = self.new_step(id, key, SideEffect::Idempotent, model, None);
        let step = self.live(id).steps.entry(key).or_insert(step).clone();
        self.write_step(id, step);
    }

    fn new_step(
        &self,
        id: AgentId,
        key: StepKey,
        class: SideEffect,
        name: String,
        call_id: Option<String>,
    ) -> Step {
        Step {
            agent_id: id,
            key,
            state: StepState::Intended,
            side_effect: class,
            name,
            tries: 0,
            call_id,
            reservation_id: None,
            entry_id: None,
            note: None,
            created_at: self.now,
            finished_at: None,
        }
    }

    /// Journals a step as about to happen; again, if an earlier engine died over it. Returns the
    /// number of the try.
    fn begin_step(
        &mut self,
        id: AgentId,
        key: StepKey,
        class: SideEffect,
        name: String,
        call_id: Option<String>,
    ) -> u32 {
        let fresh = self.new_step(id, key, class, name, call_id);
        let step = self.live(id).steps.entry(key).or_insert(fresh);
        // A tool may say another thing than it did before the restart.
        step.side_effect = class;
        step.tries += 1;
        let (step, tries) = (step.clone(), step.tries);
        self.write_step(id, step);
        tries
    }

    fn write_step(&mut self, id: AgentId, mut step: Step) {
        step.reservation_id = self.held_by(id, step.key).or(step.reservation_id);
        if let Some(slot) = self.live(id).steps.get_mut(&step.key) {
            slot.reservation_id = step.reservation_id;
        }
        self.state.out.changes.steps.push(step);
    }

    pub(super) fn end_step(
        &mut self,
        id: AgentId,
        key: StepKey,
        state: StepState,
        entry: Option<EntryId>,
        note: Option<String>,
    ) {
        let now = self.now;
        if let Some(mut step) = self.live(id).steps.remove(&key) {
            step.state = state;
            step.entry_id = entry;
            step.note = note;
            step.finished_at = Some(now);
            self.state.out.changes.steps.push(step);
        }
    }

    /// Ends all steps of an agent that goes no further: what its calls cost is unknown. A model
    /// that is asked again later must not find calls without an answer.
    pub(super) fn abandon_steps(&mut self, id: AgentId, why: &str) {
        let keys: Vec<StepKey> = self.live(id).steps.keys().copied().collect();
        for key in keys {
            self.settle_step(id, key, None);
            let Some(step) = self.live(id).steps.get(&key).cloned() else {
                continue;
            };
            let entry = match (key, step.call_id) {
                (StepKey::Tool { .. }, Some(call)) => {
                    Some(self.append_result(id, key, call, step.name, UNKNOWN_OUTCOME, true))
                }
                _ => None,
            };
            let note = Some(why.to_owned());
            if step.state == StepState::InDoubt {
                self.end_step(id, key, StepState::Resolved, entry, note);
                let resolution = "abandoned".to_owned();
                self.emit_agent(
                    id,
                    StepResolved {
                        agent_id: id,
                        step: key,
                        resolution,
                    },
                );
            } else {
                self.end_step(id, key, StepState::Failed, entry, note);
            }
        }
    }

    /// The steps of an agent that have not ended: key, state, and whether they may run again.
    pub(super) fn open_steps(&mut self, id: AgentId) -> Vec<(StepKey, StepState, bool)> {
        let steps = self.live(id).steps.values();
        steps
            .map(|s| (s.key, s.state, s.side_effect.may_run_again()))
            .collect()
    }

    /// What an attempt that failed leaves open, for the next one: model calls are over, tool calls
    /// run again if they may, and are in doubt if not.
    pub(super) fn suspend_steps(&mut self, id: AgentId) {
        for (key, state, may_run_again) in self.open_steps(id) {
            if key.kind().is_model_call() {
                self.settle_step(id, key, None);
                let note = Some("the attempt failed".to_owned());
                self.end_step(id, key, StepState::Failed, None, note);
            } else if state == StepState::Intended && !may_run_again {
                self.doubt(id, key);
            }
        }
    }

    pub(super) fn append_result(
        &mut self,
        id: AgentId,
        key: StepKey,
        tool_call_id: String,
        tool_name: String,
        text: &str,
        is_error: bool,
    ) -> EntryId {
        let content = vec![ContentBlock::text(text)];
        let details = serde_json::Value::Null;
        let result = ToolResultMessage {
            tool_call_id,
            tool_name,
            content,
            is_error,
            details,
            is_final: false,
        };
        let message = Arc::new(Message::ToolResult(result));
        self.append(id, Some(key), EntryBody::Message { message })
    }
}

/// What a model is told of a call whose outcome nobody knows.
pub(super) const UNKNOWN_OUTCOME: &str = "The outcome of this call is unknown: it was interrupted and not \
                               repeated. Check before relying on either outcome.";

/// Tokens that a message costs besides its text, at most.
pub(crate) const MESSAGE_OVERHEAD: u64 = 16;

/// What a call may be said to have used at most, so that no sum overflows.
fn bounded(used: Amount) -> Amount {
    Amount {
        usd: used.usd.clamp(NanoUsd::ZERO, NanoUsd::MAX_BUDGET),
        tokens: used.tokens.min(4 * TOKENS_MAX),
    }
}

pub(super) fn stop(reason: &str) -> Grant {
    Grant::Stop {
        reason: reason.to_owned(),
    }
}
