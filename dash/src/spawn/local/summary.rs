//! Summing the conversation up, before a call it would not fit or after one that it did not.

use std::sync::Arc;

use super::super::compact::{self, Limits, Plan};
use super::super::run::tokens_max;
use super::super::{Grant, HookContext, ModelIntent, Next, Outcome, Summary};
use super::model::extra_bytes;
use super::{Flow, Session, fixed_tokens};
use crate::llm::{
    Billing, CacheRetention, LlmError, LlmErrorKind, LlmRequest, RequestOptions, ThinkingLevel,
    ToolChoice,
};
use crate::model::{Amount, Message, MessageOrigin, StepKey, StopReason, Usage};

/// Output tokens below which a summary is not worth making, or all it can have.
const SUMMARY_FLOOR: u32 = 1_024;

/// What part of the estimate stays when a call has shown that the estimate or the window is wrong.
const OVERFLOW_KEEP_PART: u64 = 4;

impl Session {
    pub(super) fn summary_limits(&self) -> Limits {
        let window = self.request.model.context_window;
        let config = self.request.config.compaction;
        let seen = match window {
            0 => self.run.largest_call(),
            _ => 0,
        };
        Limits::new(config, window, self.output_max(), seen)
    }

    /// Whether the conversation leaves too little of the model's window.
    pub(super) fn needs_summary(&self) -> bool {
        if !self.request.config.compaction.enabled {
            return false;
        }
        if self.summary_due {
            return true;
        }
        let Some(context_max) = self.summary_limits().context_max else {
            return false;
        };
        let estimate = self.run.tokens_estimate(self.fixed_estimate);
        estimate > context_max && self.summary_plan().is_some()
    }

    fn summary_plan(&self) -> Option<Plan> {
        let mut limits = self.summary_limits();
        if self.summary_due {
            let estimate = self.run.tokens_estimate(self.fixed_estimate);
            limits.keep = limits.keep.min(estimate / OVERFLOW_KEEP_PART);
            // The newest part may be what is too long.
            limits.context_max = None;
        }
        compact::plan(self.run.messages(), limits)
    }

    /// A call failed because the conversation was too long: sums it up, once, and goes on.
    pub(super) async fn overflowed(
        &mut self,
        key: StepKey,
        error: LlmError,
        outcomes: &mut Vec<Outcome>,
    ) -> Flow {
        let is_first = !std::mem::replace(&mut self.has_overflowed, true);
        self.summary_due = true;
        let may = is_first && self.request.config.compaction.enabled;
        if !may || self.summary_plan().is_none() {
            return self.give_up(key, error).await;
        }
        let failed = Outcome::ModelFailed {
            key,
            error: error.message,
            billing: error.billing,
        };
        let turn = self.run.next_turn();
        self.summary_turn(turn, vec![failed], outcomes).await
    }

    /// One model call that sums the conversation up. It is a turn of its own.
    pub(super) async fn summary_turn(
        &mut self,
        turn: u32,
        reported: Vec<Outcome>,
        outcomes: &mut Vec<Outcome>,
    ) -> Flow {
        let Some(plan) = self.summary_plan() else {
            // Nothing to sum up any more: an earlier engine died after it had been done.
            self.summary_due = false;
            outcomes.extend(reported);
            return Flow::GoOn;
        };
        let tokens_before = self.run.tokens_estimate(self.fixed_estimate);
        let text = compact::request_text(&plan);
        let made = self.summed_up(turn, text, reported).await;
        let Made::Summary(done) = made else {
            return made.flow();
        };
        let compaction = compact::compaction(&plan, done.text.clone(), tokens_before);
        self.run.compact(&compaction);
        self.finished_turn = turn;
        self.summary_due = false;
        outcomes.push(done.outcome(Summary::Compaction(compaction)));
        Flow::GoOn
    }

    /// One model call that sums an abandoned branch up. It is a turn of its own.
    pub(super) async fn branch_turn(
        &mut self,
        turn: u32,
        reported: Vec<Outcome>,
        outcomes: &mut Vec<Outcome>,
    ) -> Flow {
        let text = compact::branch_request_text(&self.branch, self.summary_limits());
        let made = self.summed_up(turn, text, reported).await;
        let Made::Summary(done) = made else {
            return made.flow();
        };
        self.branch.clear();
        self.run.add_branch(&done.text);
        self.finished_turn = turn;
        let summary = Summary::Branch(done.text.clone());
        outcomes.push(done.outcome(summary));
        Flow::GoOn
    }

    /// Asks for a summary and makes the call.
    async fn summed_up(&mut self, turn: u32, text: String, reported: Vec<Outcome>) -> Made {
        if let Some(end) = self.out_of_time() {
            return Made::Not(self.finish(reported, end).await);
        }
        let mut request = self.summary_request(text);
        if let Some(hooks) = &self.request.hooks {
            let context = HookContext {
                sums_up: true,
                ..self.hook_context(turn)
            };
            let limit = request.max_output_tokens;
            hooks.before_request(context, &mut request).await;
            request.model = Arc::clone(&self.request.model);
            request.max_output_tokens = request.max_output_tokens.clamp(1, limit);
        }
        let said = request.messages.iter().map(|m| tokens_max(m)).sum::<u64>();
        let floor = self.request.limits.output_tokens_floor.max(SUMMARY_FLOOR);
        let intent = ModelIntent {
            input_tokens_max: said
                + fixed_tokens(&request.system, &request.tools).0
                + extra_bytes(&request),
            output_tokens: request.max_output_tokens,
            output_tokens_floor: floor.min(request.max_output_tokens),
        };
        let granted = self.advance(reported, Next::Summary { turn, intent }).await;
        let Some(Grant::Model {
            key,
            max_output_tokens,
            idempotency_key,
            ..
        }) = granted
        else {
            return Made::Not(Flow::End);
        };
        request.max_output_tokens = max_output_tokens;
        request.idempotency_key = idempotency_key;
        let mut answer = match Box::pin(self.call_model(key, request)).await {
            Ok(answer) => answer,
            Err(err) => return Made::Not(self.give_up(key, err).await),
        };
        let used = self.settle(&mut answer);
        let (usage, mut text) = (answer.usage, answer.text());
        if text.trim().is_empty() {
            return Made::Not(self.give_up(key, empty_summary(usage)).await);
        }
        if answer.stop_reason == StopReason::Length {
            text.push_str("\n[cut here: the summary had reached its limit]");
        }
        Made::Summary(Done {
            key,
            text,
            usage,
            used,
        })
    }

    fn summary_request(&self, text: String) -> Box<LlmRequest> {
        Box::new(LlmRequest {
            model: Arc::clone(&self.request.model),
            system: compact::SUMMARY_SYSTEM.into(),
            messages: vec![Arc::new(Message::user(text, MessageOrigin::Task))],
            tools: [].into(),
            tool_choice: ToolChoice::Auto,
            max_output_tokens: self.summary_limits().summary_max,
            temperature: None,
            response_schema: None,
            idempotency_key: String::new(),
            // The prompt is not used again, and a short text needs no long thought.
            options: RequestOptions {
                thinking: Some(ThinkingLevel::Off),
                cache: CacheRetention::None,
                group: Some(self.request.swarm_id.to_string().into()),
                ..RequestOptions::default()
            },
        })
    }
}

/// A call that sums up: what came of it.
enum Made {
    Summary(Done),
    /// No summary; the attempt has ended or was told to.
    Not(Flow),
}

impl Made {
    fn flow(self) -> Flow {
        match self {
            Self::Summary(_) => Flow::GoOn,
            Self::Not(flow) => flow,
        }
    }
}

struct Done {
    key: StepKey,
    text: String,
    usage: Usage,
    used: Amount,
}

impl Done {
    fn outcome(self, summary: Summary) -> Outcome {
        Outcome::Summarised {
            key: self.key,
            summary,
            usage: self.usage,
            used: self.used,
        }
    }
}

fn empty_summary(usage: Usage) -> LlmError {
    LlmError {
        kind: LlmErrorKind::StreamCut,
        message: "the model summed the conversation up in no words".to_owned(),
        retry_after_ms: None,
        billing: Billing::Known(usage),
    }
}
