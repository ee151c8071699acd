//! Agents: workers with a model, a conversation and one task at a time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NanoUsd, Usage, Version};
use crate::env::UnixMillis;
use crate::ids::{AgentId, EntryId, SwarmId, TaskId};

status! {
    /// Where an agent is in its life.
    AgentStatus, "agent" {
        /// Created, without a task.
        Idle = "idle" => [Spawning, Killed];
        /// Has a task; starts now or after the delay of a retry.
        Spawning = "spawning" => [Running, Paused, Failed, Killed];
        /// Works.
        Running = "running" => [Paused, Spawning, Completed, Failed, Killed];
        /// Held at the gate between two steps, by a caller, a budget or a step in doubt.
        Paused = "paused" => [Running, Spawning, Failed, Killed];
        /// Finished its task.
        Completed = "completed" => [] terminal;
        /// Gave up after its retries. A caller may retry it.
        Failed = "failed" => [Spawning] terminal;
        /// Stopped by a caller, a budget or its swarm.
        Killed = "killed" => [] terminal;
    }
}

/// How far an agent says it is: `current` of `total` (0 of 0 = unknown).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Steps done.
    pub current: u32,
    /// Steps in all; 0 = unknown.
    pub total: u32,
}

impl Progress {
    /// Whole per cent, 0 to 100.
    #[must_use]
    pub fn percentage(self) -> u32 {
        if self.total == 0 {
            return 0;
        }
        let percent = u64::from(self.current) * 100 / u64::from(self.total);
        u32::try_from(percent.min(100)).unwrap_or(100)
    }
}

/// A kind of agent that others can call as a tool: it works on what it is told, with instructions,
/// a model and tools of its own, and its answer is the tool's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentProfile {
    /// Its name, which is the tool's: 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// What it is good for; what the calling model reads.
    pub description: String,
    /// Its system prompt; empty = that of its swarm.
    #[serde(default)]
    pub instructions: String,
    /// Its model, an id of the registry; empty = that of the agent that calls.
    #[serde(default)]
    pub model: String,
    /// Names of its tools; `None` = those of its swarm.
    #[serde(default)]
    pub tools: Option<Vec<String>>,
}

/// One agent's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its name, unique for people only.
    pub name: String,
    /// Where it is in its life.
    pub status: AgentStatus,
    /// The swarm that owns it.
    pub swarm_id: SwarmId,
    /// The agent that delegated to it, in a tree.
    pub parent_id: Option<AgentId>,
    /// Distance from the root of its tree; 0 for an agent without a parent.
    pub depth: u32,
    /// The task it works on.
    pub task_id: Option<TaskId>,
    /// The model it uses, an id of the registry.
    pub model: String,
    /// The profile it follows instead of its swarm's instructions and tools: a name in
    /// [`SwarmConfig::profiles`](super::SwarmConfig::profiles).
    pub profile: Option<String>,
    /// The newest entry of its conversation.
    pub head: Option<EntryId>,
    /// Model calls finished so far.
    pub turns: u32,
    /// Tool calls finished so far.
    pub tool_calls: u32,
    /// How far it says it is.
    pub progress: Progress,
    /// Tokens used so far.
    pub usage: Usage,
    /// Money settled so far.
    pub cost: NanoUsd,
    /// Why it is paused, in words.
    pub pause_reason: Option<String>,
    /// The text it finished with.
    pub result: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Automatic retries so far in this life.
    pub retry_count: u32,
    /// Automatic retries allowed.
    pub max_retries: u32,
    /// Starts of this agent, retries by hand included; part of the keys of failed model calls.
    pub attempt: u32,
    /// `turns` when this attempt began: the turn limit counts from here.
    pub attempt_turns: u32,
    /// When a waiting retry is due.
    pub retry_at: Option<UnixMillis>,
    /// When the row was made.
    pub created_at: UnixMillis,
    /// When the row was last written.
    pub updated_at: UnixMillis,
    /// When the agent first ran.
    pub started_at: Option<UnixMillis>,
    /// When it reached a terminal state.
    pub completed_at: Option<UnixMillis>,
    /// How often the row was written.
    pub version: Version,
}
