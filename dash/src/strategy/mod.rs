//! Pure planning: how a goal becomes tasks, when a task may start, what its agent is told, and how
//! the outputs become the swarm's result. No IO, no clock; the engine gives what is known and
//! carries out what comes back.

use serde::{Deserialize, Serialize};

use crate::api::TaskSpec;
use crate::model::{FailurePolicy, Strategy, TaskRole, TaskStatus};
use crate::{Error, Result};

mod dag;
mod prompt;

pub use dag::check_graph;
pub use prompt::{SYSTEM_PROMPT, fold_result, system_prompt, task_prompt};

/// The most parts a planner may split a goal into.
pub const PARTS_MAX: usize = 1_000;

/// A task to be created. `depends_on` holds keys of tasks of the same swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedTask {
    /// Its place in the plan, unique in the swarm.
    pub key: String,
    /// What it is for.
    pub role: TaskRole,
    /// What is to be done.
    pub prompt: String,
    /// The tasks that must end first, by key.
    pub depends_on: Vec<String>,
}

impl From<TaskSpec> for PlannedTask {
    fn from(spec: TaskSpec) -> Self {
        Self {
            key: spec.key,
            role: TaskRole::Work,
            prompt: spec.prompt,
            depends_on: spec.depends_on,
        }
    }
}

/// What a strategy plans from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal<'a> {
    /// The goal, in words.
    pub task: &'a str,
    /// Agents asked for.
    pub agents: u32,
    /// Parts of the goal, if the caller split it (parallel, map-reduce), or stages (pipeline).
    pub parts: &'a [String],
    /// The caller's own graph (custom DAG).
    pub graph: &'a [PlannedTask],
}

/// The tasks a swarm starts with.
///
/// # Errors
///
/// [`Invalid`](crate::ErrorKind::Invalid) if parts, stages or the graph do not fit the strategy.
pub fn plan(strategy: Strategy, goal: &Goal<'_>) -> Result<Vec<PlannedTask>> {
    if goal.parts.len() > PARTS_MAX {
        return Err(Error::invalid("parts", format!("at most {PARTS_MAX}")));
    }
    if goal.parts.iter().any(|part| part.trim().is_empty()) {
        return Err(Error::invalid("parts", "a part must not be empty"));
    }
    if strategy != Strategy::Dag && !goal.graph.is_empty() {
        return Err(Error::invalid(
            "tasks",
            "only the strategy `dag` takes a graph of tasks",
        ));
    }
    match strategy {
        Strategy::Parallel => Ok(parallel(goal)),
        Strategy::MapReduce if goal.parts.is_empty() => Ok(vec![planner(goal)]),
        Strategy::MapReduce => Ok(map_reduce(goal.task, goal.parts)),
        Strategy::Pipeline => Ok(pipeline(goal)),
        Strategy::Tree => tree(goal),
        Strategy::Dag => {
            check_graph(goal.graph)?;
            Ok(goal.graph.to_vec())
        }
    }
}

fn parallel(goal: &Goal<'_>) -> Vec<PlannedTask> {
    if goal.parts.is_empty() {
        return (1..=goal.agents)
            .map(|i| parallel_task(goal.task, i, goal.agents))
            .collect();
    }
    let part = |(i, part): (usize, &String)| PlannedTask {
        key: format!("work/{}", i + 1),
        role: TaskRole::Work,
        prompt: format!("{}\n\nYour part: {part}", goal.task),
        depends_on: Vec::new(),
    };
    goal.parts.iter().enumerate().map(part).collect()
}

/// Task `index` (from 1) of `count` of a parallel swarm without parts.
#[must_use]
pub fn parallel_task(goal: &str, index: u32, count: u32) -> PlannedTask {
    PlannedTask {
        key: format!("work/{index}"),
        role: TaskRole::Work,
        prompt: format!("{goal}\n\nYou are worker {index} of {count}."),
        depends_on: Vec::new(),
    }
}

/// Whether a task of a parallel swarm is numbered, which means that the swarm was given no parts.
#[must_use]
pub fn is_numbered(goal: &str, prompt: &str) -> bool {
    let rest = prompt.strip_prefix(goal);
    rest.is_some_and(|rest| rest.starts_with("\n\nYou are worker "))
}

fn planner(goal: &Goal<'_>) -> PlannedTask {
    let most = goal.agents.max(1);
    PlannedTask {
        key: "plan".to_owned(),
        role: TaskRole::Plan,
        prompt: format!(
            "Split this goal into at most {most} parts that can be worked on independently.\n\n\
             Goal: {}\n\nAnswer with JSON only, of this form: {{\"parts\": [\"…\", \"…\"]}}",
            goal.task
        ),
        depends_on: Vec::new(),
    }
}

fn map_reduce(goal: &str, parts: &[String]) -> Vec<PlannedTask> {
    let count = parts.len();
    let mut tasks: Vec<PlannedTask> = parts
        .iter()
        .enumerate()
        .map(|(i, part)| PlannedTask {
            key: format!("map/{}", i + 1),
            role: TaskRole::Map,
            prompt: format!("{goal}\n\nYour part ({} of {count}): {part}", i + 1),
            depends_on: Vec::new(),
        })
        .collect();
    let depends_on = tasks.iter().map(|t| t.key.clone()).collect();
    tasks.push(PlannedTask {
        key: "reduce".to_owned(),
        role: TaskRole::Reduce,
        prompt: format!("{goal}\n\nCombine the outputs of the parts below into one result."),
        depends_on,
    });
    tasks
}

fn pipeline(goal: &Goal<'_>) -> Vec<PlannedTask> {
    let count = if goal.parts.is_empty() {
        goal.agents as usize
    } else {
        goal.parts.len()
    };
    (1..=count)
        .map(|i| {
            let stage = goal
                .parts
                .get(i - 1)
                .map_or_else(|| ".".to_owned(), |text| format!(": {text}"));
            PlannedTask {
                key: format!("stage/{i}"),
                role: TaskRole::Stage,
                prompt: format!("{}\n\nThis is stage {i} of {count}{stage}", goal.task),
                depends_on: if i == 1 {
                    Vec::new()
                } else {
                    vec![format!("stage/{}", i - 1)]
                },
            }
        })
        .collect()
}

fn tree(goal: &Goal<'_>) -> Result<Vec<PlannedTask>> {
    if !goal.parts.is_empty() {
        return Err(Error::invalid(
            "parts",
            "the strategy `tree` delegates by itself",
        ));
    }
    Ok(vec![PlannedTask {
        key: "root".to_owned(),
        role: TaskRole::Coordinate,
        prompt: goal.task.to_owned(),
        depends_on: Vec::new(),
    }])
}

#[derive(Deserialize)]
struct Parts {
    parts: Vec<String>,
}

/// The map and reduce tasks that a planner's answer asks for.
///
/// # Errors
///
/// A sentence for people if the answer is not the JSON that was asked for.
pub fn expand_plan(goal: &str, answer: &str, parts_max: u32) -> Result<Vec<PlannedTask>, String> {
    let json = match (answer.find('{'), answer.rfind('}')) {
        (Some(start), Some(end)) if start < end => answer.get(start..=end).unwrap_or_default(),
        _ => return Err("the planner did not answer with a JSON object".to_owned()),
    };
    let Parts { mut parts } = serde_json::from_str(json)
        .map_err(|err| format!("the planner's answer is not {{\"parts\": […]}}: {err}"))?;
    parts.retain(|part| !part.trim().is_empty());
    if parts.is_empty() {
        return Err("the planner found no parts".to_owned());
    }
    parts.truncate((parts_max as usize).clamp(1, PARTS_MAX));
    Ok(map_reduce(goal, &parts))
}

/// What can be said of a task from the states of the tasks it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It must wait.
    Waits,
    /// It may start.
    Ready,
    /// It can never start.
    Never,
}

/// Whether a task may start.
#[must_use]
pub fn readiness(policy: FailurePolicy, dependencies: &[TaskStatus]) -> Readiness {
    let completed = dependencies
        .iter()
        .filter(|s| **s == TaskStatus::Completed)
        .count();
    let ended = dependencies.iter().filter(|s| s.is_terminal()).count();
    let needed = needed(policy, dependencies.len());
    if completed + (dependencies.len() - ended) < needed {
        Readiness::Never
    } else if ended < dependencies.len() {
        Readiness::Waits
    } else {
        Readiness::Ready
    }
}

/// How many of `count` tasks must be completed for what follows them.
fn needed(policy: FailurePolicy, count: usize) -> usize {
    match policy {
        FailurePolicy::FailFast => count,
        FailurePolicy::Continue => count.min(1),
        FailurePolicy::Quorum(n) => count.min(n as usize),
    }
}

/// Whether a swarm whose tasks have all ended did well: its sinks (the tasks nothing depends on)
/// are what counts.
#[must_use]
pub fn succeeded(policy: FailurePolicy, sinks: &[TaskStatus]) -> bool {
    let completed = sinks
        .iter()
        .filter(|s| **s == TaskStatus::Completed)
        .count();
    completed >= needed(policy, sinks.len())
}

#[cfg(test)]
mod tests;
