//! Fragments that are shown and not stored.

use serde::Serialize;

use crate::ids::{AgentId, SwarmId};
use crate::model::StepKey;

/// A fragment of a streaming answer, or of what a tool call tells: published, never stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delta {
    /// The agent whose answer or call it is.
    pub agent_id: AgentId,
    /// Its swarm.
    pub swarm_id: SwarmId,
    /// The model call or tool call.
    pub step: StepKey,
    /// What was added.
    pub kind: DeltaKind,
}

/// What a [`Delta`] adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "text", rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeltaKind {
    /// Text for the reader.
    Text(String),
    /// Reasoning.
    Thinking(String),
    /// A tool call begins; its tool's name.
    ToolCall(String),
    /// What a tool call under way says that it is doing.
    ToolUpdate(String),
}
