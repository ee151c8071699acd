//! How an agent is run: the [`Spawner`] seam, the engine's hand in the agent ([`AgentContext`])
//! and their contract.
//!
//! ```text
//!  engine ──SpawnRequest──▶ Spawner::run ──advance(outcomes, next)──▶ engine: one commit
//!                                ◀──────── Grant: go on | stop ────────┘
//! ```
//!
//! # Contract
//!
//! * An agent does nothing with an effect before [`AgentPort::advance`] has granted it: the grant
//!   is returned after the commit that makes the intention durable, and it may wait for as long as
//!   the agent is paused, its budget is taken by others or its provider is busy.
//! * What is granted is reported back: every granted step ends in an [`Outcome`] of a later
//!   `advance`, unless the agent is stopped.
//! * A failed model call ends its attempt: [`Outcome::ModelFailed`] goes with [`Next::Fail`], or
//!   with [`Next::Summary`] if the conversation was too long for the model.
//! * [`Grant::Stop`] (and [`AgentContext::cancel`]) mean: end now, without further effects. What
//!   an already granted step produced meanwhile may still be reported, so that it is accounted for.
//! * `run` returns when the agent has ended or was stopped. Dropping its future must end its
//!   effects too.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::env::Clock;
use crate::error::Result;
use crate::event::DeltaKind;
use crate::ids::{AgentId, SwarmId};
use crate::llm::{Billing, LlmProvider, Model, ToolSpec};
use crate::model::{
    AgentProfile, Amount, Compaction, Message, MessageOrigin, Progress, SideEffect, StepKey,
    SwarmConfig, Usage,
};
use crate::tool::{Fence, Tool};

mod compact;
mod engine_tools;
pub mod hooks;
pub mod local;
mod run;
mod task;

pub use hooks::{AgentHooks, HookContext, ToolAnswer, ToolGate, TurnDecision, TurnView};
pub use local::LocalSpawner;

/// All a spawner needs to run an agent, or to go on with one after a restart.
#[derive(Debug, Clone)]
pub struct SpawnRequest {
    /// The agent.
    pub agent_id: AgentId,
    /// Its name.
    pub name: String,
    /// Its swarm.
    pub swarm_id: SwarmId,
    /// Which start this is, from 0.
    pub attempt: u32,
    /// The agent's depth in its tree.
    pub depth: u32,
    /// Turns this attempt may still make.
    pub turns_left: u32,
    /// Model calls the agent has finished before.
    pub turns_done: u32,
    /// Active time this attempt may take.
    pub timeout: Duration,
    /// The swarm's settings.
    pub config: Arc<SwarmConfig>,
    /// The system prompt.
    pub system: Arc<str>,
    /// The model.
    pub model: Arc<Model>,
    /// Who serves it.
    pub provider: Arc<dyn LlmProvider>,
    /// The tools on offer.
    pub tools: Arc<[Arc<dyn Tool>]>,
    /// The engine's own tools on offer.
    pub engine_tools: Vec<EngineTool>,
    /// All these tools as a model sees them. Agents of a swarm share them.
    pub specs: Arc<[ToolSpec]>,
    /// The directories its tools may reach.
    pub fence: Arc<Fence>,
    /// Limits of its steps.
    pub limits: AttemptLimits,
    /// The conversation so far, as the model may see it; the last is what to go on from.
    pub history: Vec<Arc<Message>>,
    /// How many of `history` were there when it was last summed up.
    pub stale: usize,
    /// Whether an earlier engine died while the conversation was summed up: that comes first.
    pub summary_open: bool,
    /// A branch that was abandoned and is to be summed up before anything else.
    pub branch: Vec<Arc<Message>>,
    /// The schema its answer must fit.
    pub answer_schema: Option<Arc<Value>>,
    /// Whether its telemetry spans carry what is said.
    pub telemetry_contents: bool,
    /// Who is asked before and after what it does.
    pub hooks: Option<Arc<dyn AgentHooks>>,
}

/// A tool that is carried out by the engine itself, through [`AgentPort`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineTool {
    /// `report_progress`.
    ReportProgress,
    /// `delegate`: hands work to a child agent.
    Delegate,
    /// A kind of agent, called by its name: hands work to a child of that kind.
    Agent(Arc<AgentProfile>),
}

/// Limits of an attempt's steps, from the orchestrator's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptLimits {
    /// Calls of one answer that run side by side.
    pub parallel_max: u32,
    /// How long one call may take.
    pub timeout: Duration,
    /// Bytes of one result that reach the model and the store.
    pub output_bytes_max: usize,
    /// Output tokens below which a model call is refused rather than shrunk to fit a budget.
    pub output_tokens_floor: u32,
}

/// What a granted model call must stay within.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelIntent {
    /// An upper bound of the prompt's tokens.
    pub input_tokens_max: u64,
    /// Output tokens wanted.
    pub output_tokens: u32,
    /// Output tokens below which the call is not worth making.
    pub output_tokens_floor: u32,
}

/// A tool call about to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolIntent {
    /// The call's place in the answer, from 0.
    pub index: u32,
    /// The call's id in the answer.
    pub call_id: String,
    /// The tool's name.
    pub tool: String,
    /// What may be done with it after a crash.
    pub side_effect: SideEffect,
}

/// What came out of a granted step.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A model answered.
    Answered {
        /// The step.
        key: StepKey,
        /// The answer, cost included.
        message: Arc<Message>,
        /// What it used.
        used: Amount,
    },
    /// The conversation, or a branch of it, was summed up.
    Summarised {
        /// The step.
        key: StepKey,
        /// What came of it.
        summary: Summary,
        /// Tokens of the call.
        usage: Usage,
        /// What it used.
        used: Amount,
    },
    /// A model call failed.
    ModelFailed {
        /// The step.
        key: StepKey,
        /// Why.
        error: String,
        /// Whether it may have cost money.
        billing: Billing,
    },
    /// A tool answered, well or not.
    ToolAnswered {
        /// The step.
        key: StepKey,
        /// The answer.
        message: Arc<Message>,
        /// How long it took.
        duration: Duration,
    },
}

/// What a call that summed up has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Summary {
    /// What is left of the conversation.
    Compaction(Compaction),
    /// What came of an abandoned branch.
    Branch(String),
}

/// Why an attempt of an agent failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptFailure {
    /// What happened.
    pub error: String,
    /// Whether another attempt may succeed.
    pub retryable: bool,
    /// How long to wait at least, if someone said so.
    pub retry_after: Option<Duration>,
    /// Whether another model may do better, if attempts with this one are used up.
    pub other_model: bool,
}

impl AttemptFailure {
    /// A failure that no other attempt or model can help.
    #[must_use]
    pub fn fatal(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            retryable: false,
            retry_after: None,
            other_model: false,
        }
    }

    /// The same, worth another attempt.
    #[must_use]
    pub const fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// The same, worth another model.
    #[must_use]
    pub const fn other_model(mut self) -> Self {
        self.other_model = true;
        self
    }
}

/// What an agent wants next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Call the model for this turn. Queued steering, the oldest message or all, enters the
    /// conversation first.
    Model {
        /// The turn, from 1.
        turn: u32,
        /// The bounds of the call.
        intent: ModelIntent,
    },
    /// Sum the conversation up, or a branch of it, by a model call of its own. Granted as [`Grant::Model`], without
    /// messages delivered; reported as [`Outcome::Summarised`].
    Summary {
        /// The turn that the call is, from 1.
        turn: u32,
        /// The bounds of the call.
        intent: ModelIntent,
    },
    /// Add a message of the engine to the conversation and go on: [`Grant::Continue`].
    Say {
        /// The text.
        text: String,
        /// What it is.
        origin: MessageOrigin,
    },
    /// Run these tool calls of the last answer.
    Tools {
        /// The turn of the answer.
        turn: u32,
        /// The calls.
        calls: Vec<ToolIntent>,
    },
    /// Nothing now: other granted steps are still under way.
    Nothing,
    /// End well, unless messages wait for the agent.
    Complete {
        /// What came out.
        result: String,
    },
    /// Give this attempt up.
    Fail(AttemptFailure),
}

/// One report to the engine: what came out, and what shall be next. One commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Advance {
    /// Outcomes of granted steps.
    pub outcomes: Vec<Outcome>,
    /// What is wanted next.
    pub next: Next,
}

/// The engine's answer to an [`Advance`], after the commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Grant {
    /// Make the model call.
    Model {
        /// Its step.
        key: StepKey,
        /// Output tokens it may produce at most.
        max_output_tokens: u32,
        /// The same over every try.
        idempotency_key: String,
        /// Messages that entered the conversation just now; they belong to its end.
        delivered: Vec<Arc<Message>>,
    },
    /// Make the tool calls. In the order asked for.
    Tools {
        /// The steps with the number of their try, from 1.
        steps: Vec<(StepKey, u32)>,
    },
    /// Noted.
    Noted,
    /// Not the end: these messages entered the conversation, go on with them.
    Continue {
        /// The messages.
        delivered: Vec<Arc<Message>>,
    },
    /// Ended as asked.
    Ended,
    /// End now.
    Stop {
        /// Why.
        reason: String,
    },
}

/// Work handed to a child agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// A short name for the child.
    pub name: String,
    /// What it shall do.
    pub task: String,
    /// The most it may spend, nano-dollars, carved from the parent's budget; `None` = only the
    /// caps above it.
    pub budget_nanos: Option<i64>,
    /// The child's profile, a name in its swarm's settings; `None` = like its parent.
    pub profile: Option<String>,
}

/// How a delegated task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegationResult {
    /// The child.
    pub agent_id: AgentId,
    /// Its output, or why there is none.
    pub outcome: std::result::Result<String, String>,
}

/// The engine as an agent sees it. Implemented by the orchestrator.
#[async_trait]
pub trait AgentPort: fmt::Debug + Send + Sync {
    /// Reports outcomes and asks for what is next. Waits while the agent is held.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) when the engine stops: end without further effects.
    async fn advance(&self, advance: Advance) -> Result<Grant>;

    /// Reports progress.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) when the engine stops.
    async fn report_progress(&self, progress: Progress) -> Result<()>;

    /// Hands work to a child and waits for its end. The same `step` always means the same child,
    /// also after a crash.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) or
    /// [`BudgetExceeded`](crate::ErrorKind::BudgetExceeded) if the child cannot be made;
    /// [`Closed`](crate::ErrorKind::Closed) when the engine stops.
    async fn delegate(&self, step: StepKey, delegation: Delegation) -> Result<DelegationResult>;

    /// Publishes a piece of a streaming answer, or what a tool call tells. Never waits, never stored.
    fn publish_delta(&self, step: StepKey, delta: DeltaKind);
}

/// The engine's hand in an agent.
#[derive(Debug, Clone)]
pub struct AgentContext {
    /// The engine.
    pub port: Arc<dyn AgentPort>,
    /// Cancelled when the agent must end now.
    pub cancel: CancellationToken,
    /// Where tasks are spawned, so that a shutdown can wait for them.
    pub tasks: TaskTracker,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Something that runs agents. See the module's contract.
#[async_trait]
pub trait Spawner: fmt::Debug + Send + Sync + 'static {
    /// Its name, e.g. `local`.
    fn name(&self) -> &str;

    /// Runs one attempt of an agent to its end.
    async fn run(&self, request: SpawnRequest, cx: AgentContext);
}

/// The text a task panicked with.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    format!(
        "it panicked: {}",
        text.unwrap_or_else(|| "without a message".to_owned())
    )
}
