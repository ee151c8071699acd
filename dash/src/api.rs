//! What callers ask of the orchestrator, as data.

use std::collections::HashSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, SwarmId, TaskId};
use crate::model::entry::CompactionConfig;
use crate::model::swarm::WorkspaceRoot;
use crate::model::{Budget, Currency, FailurePolicy, NanoUsd, Strategy, SwarmConfig, Thresholds};
use crate::settings::check;
use crate::{Error, Result};

/// The longest name of a swarm or agent, in characters.
pub const NAME_MAX: usize = 100;

/// The longest task or message text, in characters.
pub const TEXT_MAX: usize = 10_000;

/// The longest system prompt, in characters.
pub const INSTRUCTIONS_MAX: usize = 100_000;

/// A cap for a swarm or agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetRequest {
    /// The cap, in nano-dollars or tokens; 0 allows only what costs nothing.
    pub allocated: i64,
    /// What it counts.
    #[serde(default)]
    pub currency: Currency,
    /// Levels and actions.
    #[serde(default)]
    pub thresholds: Thresholds,
}

impl BudgetRequest {
    /// A cap in dollars.
    #[must_use]
    pub fn usd(cap: NanoUsd) -> Self {
        Self {
            allocated: cap.0,
            currency: Currency::Usd,
            thresholds: Thresholds::default(),
        }
    }

    /// A cap in tokens.
    #[must_use]
    pub fn tokens(cap: u64) -> Self {
        let allocated = i64::try_from(cap).unwrap_or(i64::MAX);
        Self {
            allocated,
            currency: Currency::Tokens,
            thresholds: Thresholds::default(),
        }
    }

    /// The same with other thresholds.
    #[must_use]
    pub const fn with_thresholds(mut self, thresholds: Thresholds) -> Self {
        self.thresholds = thresholds;
        self
    }

    /// Checks the range of the cap and the order of the levels.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) with the field.
    pub fn validate(&self) -> Result<()> {
        check_cap(self.allocated)?;
        self.thresholds.validate()
    }
}

/// Checks that a cap is neither negative nor so large that sums could overflow.
pub(crate) fn check_cap(allocated: i64) -> Result<()> {
    if allocated < 0 {
        return Err(Error::invalid("budget.allocated", "must not be negative"));
    }
    if allocated > NanoUsd::MAX_BUDGET.0 {
        return Err(Error::invalid(
            "budget.allocated",
            "is larger than a budget may be",
        ));
    }
    Ok(())
}

/// A task of a caller's own graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskSpec {
    /// Its key, unique in the swarm.
    pub key: String,
    /// What is to be done.
    pub prompt: String,
    /// Keys of the tasks that must end first.
    #[serde(default)]
    pub depends_on: Vec<String>,
}

/// A swarm to be created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct CreateSwarm {
    /// The id it shall have; `None` = a new one. An id that exists already is a conflict, so a
    /// caller that names ids may send the request again.
    pub id: Option<SwarmId>,
    /// The project; `None` = the orchestrator's. Created if it is not there.
    pub project: Option<String>,
    /// Its name (1 to [`NAME_MAX`] characters).
    pub name: String,
    /// The goal (1 to [`TEXT_MAX`] characters).
    pub task: String,
    /// How the goal becomes tasks.
    pub strategy: Strategy,
    /// Agents that may work at the same time; with `parallel` and no parts also how many tasks
    /// there are, with `pipeline` and no parts how many stages.
    pub initial_agents: u32,
    /// Parts of the goal (parallel, map-reduce) or stages (pipeline).
    pub parts: Vec<String>,
    /// The caller's own graph (strategy `dag`).
    pub tasks: Vec<TaskSpec>,
    /// Its cap; `None` = only the project's.
    pub budget: Option<BudgetRequest>,
    /// Its settings.
    pub config: SwarmConfig,
}

impl Default for CreateSwarm {
    fn default() -> Self {
        Self {
            id: None,
            project: None,
            name: String::new(),
            task: String::new(),
            strategy: Strategy::Parallel,
            initial_agents: 1,
            parts: Vec::new(),
            tasks: Vec::new(),
            budget: None,
            config: SwarmConfig::default(),
        }
    }
}

impl CreateSwarm {
    /// One agent in a parallel swarm; everything else can be set on the value.
    #[must_use]
    pub fn new(name: impl Into<String>, task: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            task: task.into(),
            ..Self::default()
        }
    }

    /// Checks lengths and ranges.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) with the first field that breaks a rule.
    pub fn validate(&self, agents_max: u32) -> Result<()> {
        check_text("name", &self.name, NAME_MAX)?;
        check_text("task", &self.task, TEXT_MAX)?;
        check(
            "initialAgents",
            self.initial_agents.into(),
            1,
            agents_max.into(),
        )?;
        if let Some(project) = &self.project {
            check_text("project", project, NAME_MAX)?;
        }
        for (i, part) in self.parts.iter().enumerate() {
            check_text(&format!("parts[{i}]"), part, TEXT_MAX)?;
        }
        for (i, task) in self.tasks.iter().enumerate() {
            check_text(&format!("tasks[{i}].prompt"), &task.prompt, TEXT_MAX)?;
        }
        if let Some(budget) = &self.budget {
            budget.validate()?;
        }
        validate_config(&self.config)
    }
}

fn validate_config(config: &SwarmConfig) -> Result<()> {
    check("config.timeoutMs", config.timeout_ms, 1_000, 3_600_000)?;
    check("config.maxRetries", config.max_retries.into(), 0, 10)?;
    check("config.maxTurns", config.max_turns.into(), 1, 1_000)?;
    check(
        "config.maxOutputTokens",
        config.max_output_tokens.into(),
        0,
        10_000_000,
    )?;
    check("config.treeDepthMax", config.tree_depth_max.into(), 1, 8)?;
    check(
        "config.treeFanoutMax",
        config.tree_fanout_max.into(),
        1,
        100,
    )?;
    if config.instructions.chars().count() > INSTRUCTIONS_MAX {
        let issue = format!("has more than {INSTRUCTIONS_MAX} characters");
        return Err(Error::invalid("config.instructions", issue));
    }
    if config.failure_policy == FailurePolicy::Quorum(0) {
        return Err(Error::invalid(
            "config.failurePolicy",
            "a quorum is at least 1",
        ));
    }
    validate_agents(config)?;
    let mut names = HashSet::new();
    for WorkspaceRoot { name, .. } in &config.workspace {
        if !names.insert(name) {
            return Err(Error::invalid(
                "config.workspace",
                format!("`{name}` is there twice"),
            ));
        }
    }
    Ok(())
}

/// The most models a ladder may have.
pub const ESCALATION_MAX: usize = 10;

/// The most profiles a swarm may have.
pub const PROFILES_MAX: usize = 50;

/// What a swarm says about how its agents think, answer and hand over.
fn validate_agents(config: &SwarmConfig) -> Result<()> {
    let CompactionConfig {
        reserve_tokens,
        keep_tokens,
        ..
    } = config.compaction;
    let field = "config.compaction.reserveTokens";
    check(field, reserve_tokens.into(), 256, 1_000_000)?;
    check(
        "config.compaction.keepTokens",
        keep_tokens.into(),
        0,
        1_000_000,
    )?;
    if config
        .temperature
        .is_some_and(|t| !(0.0..=2.0).contains(&t))
    {
        return Err(Error::invalid("config.temperature", "is not 0 to 2"));
    }
    if config.escalation.len() > ESCALATION_MAX {
        let issue = format!("names more than {ESCALATION_MAX} models");
        return Err(Error::invalid("config.escalation", issue));
    }
    if config.profiles.len() > PROFILES_MAX {
        let issue = format!("has more than {PROFILES_MAX} entries");
        return Err(Error::invalid("config.profiles", issue));
    }
    if config
        .answer_schema
        .as_ref()
        .is_some_and(|schema| !schema.is_object())
    {
        let issue = "is not a JSON Schema: it must be an object";
        return Err(Error::invalid("config.answerSchema", issue));
    }
    for (i, profile) in config.profiles.iter().enumerate() {
        check_text(
            &format!("config.profiles[{i}].description"),
            &profile.description,
            TEXT_MAX,
        )?;
        if profile.instructions.chars().count() > INSTRUCTIONS_MAX {
            let issue = format!("has more than {INSTRUCTIONS_MAX} characters");
            return Err(Error::invalid(
                format!("config.profiles[{i}].instructions"),
                issue,
            ));
        }
    }
    Ok(())
}

/// Checks that a text is neither empty nor too long.
pub(crate) fn check_text(field: &str, text: &str, max: usize) -> Result<()> {
    if text.trim().is_empty() {
        return Err(Error::invalid(field, "must not be empty"));
    }
    let length = text.chars().count();
    if length > max {
        return Err(Error::invalid(
            field,
            format!("has {length} characters, at most {max}"),
        ));
    }
    Ok(())
}

/// The longest output of a task or step that a caller may give, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Checks that an output is not too long.
pub(crate) fn check_output(field: &str, text: &str) -> Result<()> {
    if text.len() > OUTPUT_BYTES_MAX {
        let issue = format!("has {} bytes, at most {OUTPUT_BYTES_MAX}", text.len());
        return Err(Error::invalid(field, issue));
    }
    Ok(())
}

/// An agent to be created in a swarm, outside its strategy's plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpawnAgent {
    /// The swarm.
    pub swarm_id: SwarmId,
    /// Its name (1 to [`NAME_MAX`] characters).
    pub name: String,
    /// What it is to do; `None` = it stays idle until a task is assigned.
    #[serde(default)]
    pub task: Option<String>,
    /// Its model; `None` = the swarm's.
    #[serde(default)]
    pub model: Option<String>,
    /// Its own cap below the swarm's.
    #[serde(default)]
    pub budget: Option<BudgetRequest>,
}

impl SpawnAgent {
    /// An agent that starts to work on `task` at once.
    #[must_use]
    pub fn new(swarm_id: SwarmId, name: impl Into<String>, task: impl Into<String>) -> Self {
        Self {
            swarm_id,
            name: name.into(),
            task: Some(task.into()),
            model: None,
            budget: None,
        }
    }

    /// Checks lengths and ranges.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) with the field.
    pub fn validate(&self) -> Result<()> {
        check_text("name", &self.name, NAME_MAX)?;
        if let Some(task) = &self.task {
            check_text("task", task, TEXT_MAX)?;
        }
        self.budget.as_ref().map_or(Ok(()), BudgetRequest::validate)
    }
}

/// A task to be added to a swarm's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateTask {
    /// The swarm.
    pub swarm_id: SwarmId,
    /// Its key, unique in the swarm.
    pub key: String,
    /// What is to be done.
    pub prompt: String,
    /// The tasks that must end first. They exist already, so no cycle can arise.
    #[serde(default)]
    pub depends_on: Vec<TaskId>,
    /// Its own cap below those of its agent and its swarm.
    #[serde(default)]
    pub budget: Option<BudgetRequest>,
}

impl CreateTask {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) with the field.
    pub fn validate(&self) -> Result<()> {
        check_text("key", &self.key, NAME_MAX)?;
        check_text("prompt", &self.prompt, TEXT_MAX)?;
        self.budget.as_ref().map_or(Ok(()), BudgetRequest::validate)
    }
}

/// How a step in doubt is settled by a person or a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "resolution", rename_all = "snake_case")]
pub enum Resolution {
    /// It did not happen, or may happen again: run it again.
    Retry,
    /// Go on without it; the model is told that its outcome is unknown.
    Skip,
    /// It happened; this is what it answered.
    Result {
        /// The answer.
        text: String,
    },
}

impl Resolution {
    /// The name used in events.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Result { .. } => "result",
        }
    }
}

/// A budget with its forecast.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetStatus {
    /// The node.
    pub budget: Budget,
    /// Charged per minute over the last five minutes, in the budget's unit.
    pub burn_per_minute: i64,
    /// The predicted final charge, in the budget's unit.
    pub projected: i64,
    /// Time until the cap at this rate.
    pub exhausted_in: Option<Duration>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<T, Id> {
    /// The items, in order of creation.
    pub items: Vec<T>,
    /// Give this as `after` for the next page; `None` = that was the last.
    pub next: Option<Id>,
}

/// How a swarm ended.
#[derive(Debug, Clone, PartialEq)]
pub struct SwarmOutcome {
    /// The swarm's row, terminal.
    pub swarm: crate::model::Swarm,
}

impl SwarmOutcome {
    /// The result of a completed swarm.
    ///
    /// # Errors
    ///
    /// The swarm's error as [`Conflict`](crate::ErrorKind::Conflict), or
    /// [`BudgetExceeded`](crate::ErrorKind::BudgetExceeded) if that ended it.
    pub fn result(&self) -> Result<&str> {
        use crate::ErrorKind;
        use crate::model::SwarmStatus;
        if self.swarm.status == SwarmStatus::Completed {
            return Ok(self.swarm.result.as_deref().unwrap_or_default());
        }
        let error = self.swarm.error.as_deref().unwrap_or("it was destroyed");
        let kind = if error.starts_with(BUDGET_EXCEEDED) {
            ErrorKind::BudgetExceeded
        } else {
            ErrorKind::Conflict
        };
        Err(Error::new(
            kind,
            format!("swarm `{}` did not complete: {error}", self.swarm.name),
        ))
    }
}

/// The words every error of an agent, task or swarm begins with that an exhausted budget has ended.
pub const BUDGET_EXCEEDED: &str = "budget exceeded";

/// Who a budget belongs to, as callers name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BudgetOwner {
    /// A project, by name.
    Project(String),
    /// A swarm.
    Swarm(SwarmId),
    /// An agent that was given a cap of its own.
    Agent(AgentId),
    /// A task that was given a cap of its own.
    Task(TaskId),
}
