//! Projects and swarms.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Version;
use super::agent::AgentProfile;
use super::entry::CompactionConfig;
use super::inbox::QueueMode;
use super::thinking::ThinkingLevel;
use crate::env::UnixMillis;
use crate::ids::{BudgetId, ProjectId, SwarmId};

status! {
    /// Where a swarm is in its life.
    SwarmStatus, "swarm" {
        /// Being set up.
        Creating = "creating" => [Active, Failed, Destroyed];
        /// Works.
        Active = "active" => [Paused, Completed, Failed, Destroyed];
        /// Held: no new step starts.
        Paused = "paused" => [Active, Completed, Failed, Destroyed];
        /// Its plan is done.
        Completed = "completed" => [Destroyed] terminal;
        /// Its plan cannot be done. A retry of an agent reopens it.
        Failed = "failed" => [Active, Destroyed] terminal;
        /// Stopped for good by a caller; its rows stay for the record.
        Destroyed = "destroyed" => [] terminal;
    }
}

/// How a goal becomes tasks, and how their outputs become the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// n agents, each told its index and the count, or its own part.
    #[serde(rename = "parallel")]
    Parallel,
    /// Parts worked on side by side, then one agent folds the outputs.
    #[serde(rename = "map-reduce")]
    MapReduce,
    /// Stages in order, each given the output of the one before.
    #[serde(rename = "pipeline")]
    Pipeline,
    /// One coordinator that delegates to children.
    #[serde(rename = "tree")]
    Tree,
    /// The caller's own graph of tasks.
    #[serde(rename = "dag")]
    Dag,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Self; 5] = [
        Self::Parallel,
        Self::MapReduce,
        Self::Pipeline,
        Self::Tree,
        Self::Dag,
    ];

    /// The wire and SQL form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Parallel => "parallel",
            Self::MapReduce => "map-reduce",
            Self::Pipeline => "pipeline",
            Self::Tree => "tree",
            Self::Dag => "dag",
        }
    }
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Strategy {
    type Err = crate::Error;

    fn from_str(text: &str) -> crate::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| {
                crate::Error::invalid(
                    "strategy",
                    format!("`{text}` is unknown: use parallel, map-reduce, pipeline, tree or dag"),
                )
            })
    }
}

/// What a failed task means for its swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailurePolicy {
    /// The first failed task cancels the rest and fails the swarm.
    #[default]
    FailFast,
    /// The rest goes on; what depends on several tasks gets the outputs there are.
    Continue,
    /// As `Continue`, but work that depends on several tasks (and the swarm itself, where nothing
    /// folds) needs at least this many of them completed.
    Quorum(u32),
}

/// A directory that agents of a swarm may reach through the file tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceRoot {
    /// The name agents use as first part of a path; `.` is where paths without such a name go.
    pub name: String,
    /// The directory on this machine; absolute.
    pub path: PathBuf,
    /// Whether agents may write below it.
    #[serde(default)]
    pub writable: bool,
}

/// What may be set per swarm. Everything has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct SwarmConfig {
    /// The model of its agents, an id of the registry; empty = the orchestrator's default.
    pub model: String,
    /// How long one attempt of an agent may take, ms (1,000 to 3,600,000).
    pub timeout_ms: u64,
    /// Automatic retries of an agent (0 to 10).
    pub max_retries: u32,
    /// Model calls one attempt may make (1 to 1,000).
    pub max_turns: u32,
    /// Output tokens one model call may produce; 0 = the model's own maximum.
    pub max_output_tokens: u32,
    /// The system prompt of its agents; empty = the engine's short one.
    pub instructions: String,
    /// Directories the file tools may reach. Empty = none.
    pub workspace: Vec<WorkspaceRoot>,
    /// Names of the tools its agents get; `None` = all registered ones.
    pub tools: Option<Vec<String>>,
    /// What a failed task means.
    pub failure_policy: FailurePolicy,
    /// Tree: how deep children may nest below the coordinator (1 to 8).
    pub tree_depth_max: u32,
    /// Tree: children one agent may have (1 to 100).
    pub tree_fanout_max: u32,
    /// Models that an agent is moved up to, in order, when it fails with the one before (at most
    /// 10). It keeps its conversation and is told why.
    pub escalation: Vec<String>,
    /// How hard models think; `None` = as they do by themselves.
    pub thinking: Option<ThinkingLevel>,
    /// Sampling temperature (0 to 2); `None` = the server's default.
    pub temperature: Option<f32>,
    /// A JSON Schema for the outputs that make the swarm's result: those of tasks that no other
    /// task of the plan depends on. An answer that does not fit is sent back with what is wrong.
    pub answer_schema: Option<Value>,
    /// When conversations are summed up.
    pub compaction: CompactionConfig,
    /// How many steering messages are delivered at a boundary.
    pub steer_mode: QueueMode,
    /// How many follow-ups are delivered at a boundary.
    pub follow_up_mode: QueueMode,
    /// Kinds of agents that its agents can call as tools (at most 50). They count as children:
    /// `tree_depth_max` and `tree_fanout_max` bound them.
    pub profiles: Vec<AgentProfile>,
}

impl SwarmConfig {
    /// The profile of this name.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<&AgentProfile> {
        self.profiles.iter().find(|profile| profile.name == name)
    }
}

impl Default for SwarmConfig {
    fn default() -> Self {
        Self {
            model: String::new(),
            timeout_ms: 300_000,
            max_retries: 3,
            max_turns: 50,
            max_output_tokens: 4_096,
            instructions: String::new(),
            workspace: Vec::new(),
            tools: None,
            failure_policy: FailurePolicy::default(),
            tree_depth_max: 3,
            tree_fanout_max: 10,
            escalation: Vec::new(),
            thinking: None,
            temperature: None,
            answer_schema: None,
            compaction: CompactionConfig::default(),
            steer_mode: QueueMode::default(),
            follow_up_mode: QueueMode::default(),
            profiles: Vec::new(),
        }
    }
}

/// The outermost namespace and budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Its name, unique in the store; `default` unless named.
    pub name: String,
    /// Its budget node.
    pub budget_id: BudgetId,
    /// When the row was made.
    pub created_at: UnixMillis,
}

/// One swarm's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Swarm {
    /// Its id.
    pub id: SwarmId,
    /// The project it belongs to.
    pub project_id: ProjectId,
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub status: SwarmStatus,
    /// The goal, in words.
    pub task: String,
    /// How the goal becomes tasks.
    pub strategy: Strategy,
    /// Its settings.
    pub config: SwarmConfig,
    /// Its budget node.
    pub budget_id: BudgetId,
    /// Agents ever created in it.
    pub agent_count: u32,
    /// Agents that may work at the same time.
    pub target_agent_count: u32,
    /// The folded outputs of its tasks, once completed.
    pub result: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// When the row was made.
    pub created_at: UnixMillis,
    /// When the row was last written.
    pub updated_at: UnixMillis,
    /// When it reached a terminal state.
    pub completed_at: Option<UnixMillis>,
    /// How often the row was written.
    pub version: Version,
}
