//! Hooks: a host's own code around what agents of this process do.
//!
//! ```text
//!  before_request ─▶ (model) ─▶ before_tool ─▶ (tool) ─▶ after_tool ─▶ finish_turn ─▶ …
//! ```
//!
//! # Contract
//!
//! * A hook runs outside the journal. After a crash the engine goes on from what was committed, so
//!   a hook may be asked again about the same request, call or turn: it must answer alike, and an
//!   effect of its own should be idempotent. What it decided becomes durable with the commit that
//!   follows: a refused call as its error result, a changed result as the result.
//! * Hooks of one agent never overlap, except those of tool calls that run side by side. They hold
//!   the agent up for as long as they take; other agents go on.
//! * **Cancel safety**: a hook's future is dropped when its agent is stopped.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::ids::{AgentId, SwarmId};
use crate::llm::LlmRequest;
use crate::model::{AssistantMessage, Message, ToolCall};
use crate::tool::ToolOutput;

/// Whose hook it is.
#[derive(Debug, Clone, Copy)]
pub struct HookContext<'a> {
    /// The agent.
    pub agent_id: AgentId,
    /// Its name.
    pub name: &'a str,
    /// Its swarm.
    pub swarm_id: SwarmId,
    /// Which start of the agent this is, from 0.
    pub attempt: u32,
    /// The turn, from 1.
    pub turn: u32,
    /// Whether the request asks to sum the conversation, or a branch of it, up.
    pub sums_up: bool,
}

/// What becomes of a tool call.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ToolGate {
    /// It is made.
    #[default]
    Allow,
    /// It is made with these arguments instead.
    Rewrite(Value),
    /// It is not made; the model reads why.
    Deny(String),
}

/// What a tool call came to.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolAnswer {
    /// What the model and the screens see.
    pub output: ToolOutput,
    /// Whether it failed.
    pub is_error: bool,
}

/// A turn that has ended: an answer, and the results of its calls.
#[derive(Debug, Clone, Copy)]
pub struct TurnView<'a> {
    /// The answer.
    pub answer: &'a AssistantMessage,
    /// The results of its calls and what was said since, in the order they came.
    pub after: &'a [Arc<Message>],
}

/// What follows a turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TurnDecision {
    /// What would follow anyway.
    #[default]
    GoOn,
    /// The agent ends well, with this text, unless messages wait for it.
    End(String),
    /// The agent is told this and goes on, even if it had ended.
    /// A hook that is asked again after a crash finds it in [`TurnView::after`] if it was told, and
    /// must not say it again.
    Say(String),
}

/// A host's code around what agents do. See the module's contract. Every method does nothing by
/// default.
#[async_trait]
pub trait AgentHooks: fmt::Debug + Send + Sync + 'static {
    /// Before a model is asked, also for a summary, and before the call's worst case is reserved. The
    /// request may be changed, except for its model, its key and the limit of output tokens, which
    /// may only be lowered. What is changed is for this request only. A steering message that is
    /// delivered with the call is added at the end, after this.
    async fn before_request(&self, cx: HookContext<'_>, request: &mut LlmRequest) {
        let _unused = (cx, request);
    }

    /// Before a tool call is journaled and made. Not asked about calls that cannot be made anyway.
    async fn before_tool(&self, cx: HookContext<'_>, call: &ToolCall) -> ToolGate {
        let _unused = (cx, call);
        ToolGate::Allow
    }

    /// After a tool call, before its result is journaled.
    async fn after_tool(&self, cx: HookContext<'_>, call: &ToolCall, answer: &mut ToolAnswer) {
        let _unused = (cx, call, answer);
    }

    /// After a turn: the answer and the results of its calls are there.
    async fn finish_turn(&self, cx: HookContext<'_>, turn: TurnView<'_>) -> TurnDecision {
        let _unused = (cx, turn);
        TurnDecision::GoOn
    }
}
