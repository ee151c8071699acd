//! Agents in this process: the model-and-tools loop.
//!
//! `mod` is the loop; `model` makes model calls, `tools` tool calls, `summary` sums the conversation
//! up, `answer` checks what an agent ends with, `spans` is their telemetry.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::compact;
use super::run::{Action, Run};
use super::{
    Advance, AgentContext, AttemptFailure, Grant, HookContext, Next, Outcome, SpawnRequest,
    Spawner, TurnDecision, TurnView,
};
use crate::env::UnixMillis;
use crate::llm::{LlmError, LlmErrorKind, ToolSpec};
use crate::model::{Message, MessageOrigin, StepKey};

mod answer;
mod model;
mod spans;
mod summary;
mod tools;

/// Runs agents as tasks of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalSpawner;

impl Spawner for LocalSpawner {
    fn name(&self) -> &'static str {
        "local"
    }

    // What `async fn` would become, by hand: its arguments would stay in the future to its end,
    // beside the session that is made of them.
    fn run<'a, 'b>(
        &'a self,
        request: SpawnRequest,
        cx: AgentContext,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let cancel = cx.cancel.clone();
        let session = Box::new(Session::new(request, cx));
        Box::pin(async move {
            // Dropping the session's future closes the model's stream and aborts its tools.
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = session.drive() => {}
            }
        })
    }
}

/// Tokens that a server's template may add around tools and the conversation, at most.
const TEMPLATE_OVERHEAD: u64 = 1_024;

struct Session {
    request: SpawnRequest,
    cx: AgentContext,
    run: Run,
    /// Upper bound of the tokens of the system prompt and the tools.
    fixed_tokens: u64,
    /// About how many they are.
    fixed_estimate: u64,
    active_left: Duration,
    /// A branch that was abandoned and is to be summed up before anything else.
    branch: Vec<Arc<Message>>,
    /// The conversation is to be summed up before the next call.
    summary_due: bool,
    /// The last call failed because the conversation was too long, and it was summed up.
    has_overflowed: bool,
    /// The turn that the hooks have been asked about.
    finished_turn: u32,
    /// How often this attempt's answer was sent back.
    corrections: u32,
}

/// What to do after a step.
enum Flow {
    GoOn,
    End,
}

impl Session {
    fn new(mut request: SpawnRequest, cx: AgentContext) -> Self {
        let history = std::mem::take(&mut request.history);
        let branch = std::mem::take(&mut request.branch);
        let (done, left) = (request.turns_done, request.turns_left);
        let run = Run::new(history, request.stale, done, left);
        let (fixed_tokens, fixed_estimate) = fixed_tokens(&request.system, &request.specs);
        Self {
            active_left: request.timeout,
            branch,
            summary_due: request.summary_open,
            has_overflowed: false,
            finished_turn: 0,
            corrections: 0,
            request,
            cx,
            run,
            fixed_tokens,
            fixed_estimate,
        }
    }

    async fn drive(mut self: Box<Self>) {
        let mut outcomes = Vec::new();
        loop {
            let mut reported = std::mem::take(&mut outcomes);
            let decided = match self.request.hooks {
                Some(_) => {
                    // A hook may take its time: what is done is committed before it is asked.
                    let done = std::mem::take(&mut reported);
                    if !done.is_empty() && !self.note(done).await {
                        return;
                    }
                    Box::pin(self.decided_by_hooks()).await
                }
                None => None,
            };
            let action = match decided {
                Some(next) => {
                    if matches!(self.finish(reported, next).await, Flow::End) {
                        return;
                    }
                    continue;
                }
                None => self.run.next_action(),
            };
            let flow = match action {
                Action::Model { turn } if !self.branch.is_empty() => {
                    Box::pin(self.branch_turn(turn, reported, &mut outcomes)).await
                }
                Action::Model { turn } if self.needs_summary() => {
                    Box::pin(self.summary_turn(turn, reported, &mut outcomes)).await
                }
                Action::Model { turn } => self.model_turn(turn, reported, &mut outcomes).await,
                Action::Tools { turn, calls, cut } => {
                    Box::pin(self.tool_turn(turn, calls, cut, reported, &mut outcomes)).await
                }
                Action::Complete { result } => {
                    let next = self.checked_answer(result);
                    self.finish(reported, next).await
                }
                Action::TurnLimit => {
                    let turns = self.request.config.max_turns;
                    let failure =
                        AttemptFailure::fatal(format!("no end after {turns} model calls"));
                    self.finish(reported, Next::Fail(failure.other_model()))
                        .await
                }
            };
            if matches!(flow, Flow::End) {
                return;
            }
        }
    }

    /// Reports and asks; an engine that is gone is an end.
    async fn advance(&self, outcomes: Vec<Outcome>, next: Next) -> Option<Grant> {
        self.cx.port.advance(Advance { outcomes, next }).await.ok()
    }

    /// Reports without asking for more; false = it is over.
    async fn note(&self, outcomes: Vec<Outcome>) -> bool {
        let noted = self.advance(outcomes, Next::Nothing).await;
        matches!(noted, Some(Grant::Noted))
    }

    async fn finish(&mut self, outcomes: Vec<Outcome>, next: Next) -> Flow {
        match self.advance(outcomes, next).await {
            Some(Grant::Continue { delivered }) => {
                delivered
                    .into_iter()
                    .for_each(|message| self.run.push(message));
                Flow::GoOn
            }
            _ => Flow::End,
        }
    }

    /// Reports a call that failed, and the end of the attempt with it.
    async fn give_up(&mut self, key: StepKey, error: LlmError) -> Flow {
        let failure = failure_of(&error);
        let failed = Outcome::ModelFailed {
            key,
            error: error.message,
            billing: error.billing,
        };
        self.finish(vec![failed], Next::Fail(failure)).await
    }

    /// If no time is left, the end of the attempt: a call that would be cut at once would still have
    /// to be paid.
    fn out_of_time(&self) -> Option<Next> {
        let failure = || {
            let limit = self.request.timeout;
            AttemptFailure::fatal(format!("the attempt took longer than {limit:?}"))
        };
        let is_over = self.active_left.is_zero();
        is_over.then(|| Next::Fail(failure().retryable().other_model()))
    }

    /// Takes the time since `began` off what the attempt may still take.
    fn spend(&mut self, began: UnixMillis) {
        let spent = self.cx.clock.now().since(began);
        self.active_left = self.active_left.saturating_sub(spent);
    }

    // ---- hooks ----

    fn hook_context(&self, turn: u32) -> HookContext<'_> {
        HookContext {
            agent_id: self.request.agent_id,
            name: &self.request.name,
            swarm_id: self.request.swarm_id,
            attempt: self.request.attempt,
            turn,
            sums_up: false,
        }
    }

    /// Asks the hooks what follows a turn that has just ended; `None` = what would follow anyway.
    async fn decided_by_hooks(&mut self) -> Option<Next> {
        let hooks = self.request.hooks.as_ref()?;
        let turn = self.run.next_turn() - 1;
        if turn == self.finished_turn || matches!(self.run.next_action(), Action::Tools { .. }) {
            return None;
        }
        let (answer, after) = self.run.last_turn()?;
        let view = TurnView { answer, after };
        let decision = hooks.finish_turn(self.hook_context(turn), view).await;
        self.finished_turn = turn;
        match decision {
            TurnDecision::GoOn => None,
            TurnDecision::End(result) => Some(self.checked_answer(result)),
            TurnDecision::Say(text) => {
                let origin = MessageOrigin::FollowUp;
                Some(Next::Say { text, origin })
            }
        }
    }
}

/// What a failed call means for its attempt.
fn failure_of(error: &LlmError) -> AttemptFailure {
    let mut failure = AttemptFailure::fatal(format!("the model call failed: {error}"));
    failure.retryable = error.kind.is_retryable();
    failure.retry_after = error.retry_after();
    failure.other_model = error.kind != LlmErrorKind::Cancelled;
    failure
}

/// The tokens of a system prompt and tools: an upper bound and a guess.
fn fixed_tokens(system: &str, specs: &[ToolSpec]) -> (u64, u64) {
    let bytes = |spec: &ToolSpec| {
        spec.name.len() + spec.description.len() + spec.parameters.to_string().len()
    };
    let tools: usize = specs.iter().map(bytes).sum();
    // Templates may show a tool twice: in the list and in an example.
    let most = 2 * (tools + 64 * specs.len()) + system.len();
    let about = compact::of_chars((tools + system.len()) as u64);
    (most as u64 + TEMPLATE_OVERHEAD, about)
}
