//! What an agent is told, and what a swarm's outputs add up to.

use std::collections::HashSet;

use serde_json::Value;

use crate::ids::TaskId;
use crate::model::{Strategy, Task, TaskRole, TaskStatus};

/// The system prompt of agents whose swarm sets none. The same for all, so that prompt caches hit.
pub const SYSTEM_PROMPT: &str = "You are one agent of a swarm that works on a larger goal. Do the \
task you are given, using your tools where they help; paths are relative to your workspace. When you \
are done, answer with the result itself: your last message is your output, and other agents may \
build on it.";

/// What an agent is told before its task: its swarm's instructions, or [`SYSTEM_PROMPT`] if they are
/// empty, and the schema its answer must fit.
#[must_use]
pub fn system_prompt(instructions: &str, answer_schema: Option<&Value>) -> String {
    let told = match instructions {
        "" => SYSTEM_PROMPT,
        own => own,
    };
    match answer_schema {
        None => told.to_owned(),
        Some(schema) => format!(
            "{told}\n\nYour last message must be one JSON value that fits this JSON Schema, and \
             nothing else:\n{schema}"
        ),
    }
}

/// The first message of an agent that takes `task`: its prompt and, for each dependency, its
/// output (at most `bytes_max` of it) or that there is none.
#[must_use]
pub fn task_prompt(task: &Task, dependencies: &[&Task], bytes_max: usize) -> String {
    let mut prompt = task.prompt.clone();
    for dependency in dependencies {
        let heading = match task.role {
            TaskRole::Stage => "Output of the stage before".to_owned(),
            _ => format!("Output of `{}`", dependency.key),
        };
        prompt.push_str("\n\n--- ");
        prompt.push_str(&heading);
        prompt.push_str(" ---\n");
        match &dependency.output {
            Some(output) => push_cut(&mut prompt, output, bytes_max),
            None => {
                prompt.push_str("(none: it ");
                prompt.push_str(dependency.status.as_str());
                prompt.push(')');
            }
        }
    }
    prompt
}

/// Bytes of a swarm's result; each task's whole output stays in its row.
pub(super) const RESULT_BYTES_MAX: usize = 1 << 20;

/// Appends `text`, cut at a character boundary, and says what was left out.
fn push_cut(out: &mut String, text: &str, bytes_max: usize) {
    if text.len() <= bytes_max {
        out.push_str(text);
        return;
    }
    let end = text.floor_char_boundary(bytes_max);
    out.push_str(text.get(..end).unwrap_or_default());
    out.push_str("\n[cut: ");
    out.push_str(&(text.len() - end).to_string());
    out.push_str(" bytes more]");
}

/// The result of a swarm whose tasks have all ended: the one output of the task that everything
/// leads to, or all outputs under headings.
#[must_use]
pub fn fold_result(strategy: Strategy, tasks: &[&Task]) -> String {
    let output_of = |role: TaskRole| {
        tasks
            .iter()
            .rev()
            .find(|t| t.role == role && t.status == TaskStatus::Completed)
    };
    let single = match strategy {
        Strategy::MapReduce => output_of(TaskRole::Reduce),
        Strategy::Pipeline => output_of(TaskRole::Stage),
        Strategy::Tree => output_of(TaskRole::Coordinate),
        Strategy::Parallel | Strategy::Dag => None,
    };
    if let Some(task) = single {
        return task.output.clone().unwrap_or_default();
    }
    let needed: HashSet<TaskId> = tasks.iter().flat_map(|t| &t.depends_on).copied().collect();
    let sinks: Vec<&&Task> = tasks
        .iter()
        .filter(|t| !needed.contains(&t.id) && t.status == TaskStatus::Completed)
        .collect();
    if let [only] = sinks.as_slice() {
        return only.output.clone().unwrap_or_default();
    }
    let mut result = String::new();
    for task in sinks {
        let output = task.output.as_deref().unwrap_or_default();
        let section = format!(
            "{}## {}\n\n{output}",
            if result.is_empty() { "" } else { "\n\n" },
            task.key
        );
        let room = RESULT_BYTES_MAX.saturating_sub(result.len());
        push_cut(&mut result, &section, room);
        if section.len() > room {
            break;
        }
    }
    result
}
