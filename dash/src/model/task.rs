//! Tasks: the nodes of a swarm's plan.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Version;
use crate::env::UnixMillis;
use crate::ids::{AgentId, SwarmId, TaskId};

status! {
    /// Where a task is in its life.
    TaskStatus, "task" {
        /// Waits for tasks it depends on.
        Pending = "pending" => [Ready, Cancelled, Failed];
        /// May be taken by an agent.
        Ready = "ready" => [Running, Completed, Cancelled, Failed];
        /// An agent works on it.
        Running = "running" => [Completed, Failed, Cancelled, Blocked, Ready];
        /// Waits for a person: an approval, or a step in doubt.
        Blocked = "blocked" => [Running, Failed, Cancelled];
        /// Done; has an output.
        Completed = "completed" => [] terminal;
        /// Its agent failed. A retry of the agent reopens it.
        Failed = "failed" => [Running, Ready] terminal;
        /// Will not be done. A retry of the agent whose failure cancelled it reopens it.
        Cancelled = "cancelled" => [Pending, Ready] terminal;
    }
}

/// What a task is for in its swarm's strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskRole {
    /// Ordinary work (parallel, DAG, tasks made by callers).
    Work,
    /// Splits the goal into parts; its output is a JSON list.
    Plan,
    /// Works on one part.
    Map,
    /// Folds the parts' outputs.
    Reduce,
    /// One stage of a pipeline.
    Stage,
    /// The root of a tree.
    Coordinate,
    /// Delegated by another agent.
    Delegated,
}

impl TaskRole {
    /// The wire and SQL form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Plan => "plan",
            Self::Map => "map",
            Self::Reduce => "reduce",
            Self::Stage => "stage",
            Self::Coordinate => "coordinate",
            Self::Delegated => "delegated",
        }
    }

    /// Every role.
    pub const ALL: [Self; 7] = [
        Self::Work,
        Self::Plan,
        Self::Map,
        Self::Reduce,
        Self::Stage,
        Self::Coordinate,
        Self::Delegated,
    ];
}

/// One task's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The swarm that owns it.
    pub swarm_id: SwarmId,
    /// Its place in the plan, unique in the swarm: `map/3`, `reduce`, or the caller's own key.
    pub key: String,
    /// What it is for.
    pub role: TaskRole,
    /// What is to be done, without the outputs of its dependencies.
    pub prompt: String,
    /// The tasks that must end first.
    pub depends_on: Vec<TaskId>,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// The agent it is assigned to.
    pub agent_id: Option<AgentId>,
    /// What came out.
    pub output: Option<String>,
    /// Why it failed, was cancelled or is blocked.
    pub error: Option<String>,
    /// Its place in the order of creation within the swarm.
    pub ordinal: u32,
    /// When the row was made.
    pub created_at: UnixMillis,
    /// When the row was last written.
    pub updated_at: UnixMillis,
    /// When it reached a terminal state.
    pub completed_at: Option<UnixMillis>,
    /// How often the row was written.
    pub version: Version,
}
