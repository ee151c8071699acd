//! Checks of a caller's own graph of tasks.

use std::collections::HashMap;

use super::{PARTS_MAX, PlannedTask};
use crate::{Error, Result};

/// The longest key and the longest prompt of a task, in characters.
const KEY_MAX: usize = 100;

/// Checks that keys are unique and not too long, prompts are there, every dependency exists, and
/// no task waits for itself, directly or around a cycle.
///
/// # Errors
///
/// [`Invalid`](crate::ErrorKind::Invalid) naming the task; a cycle is spelled out.
pub fn check_graph(tasks: &[PlannedTask]) -> Result<()> {
    if tasks.is_empty() {
        return Err(Error::invalid(
            "tasks",
            "the strategy `dag` needs at least one task",
        ));
    }
    if tasks.len() > PARTS_MAX {
        return Err(Error::invalid("tasks", format!("at most {PARTS_MAX}")));
    }
    let mut by_key = HashMap::new();
    for (i, task) in tasks.iter().enumerate() {
        let field = format!("tasks[{i}]");
        if task.key.trim().is_empty() || task.key.chars().count() > KEY_MAX {
            return Err(Error::invalid(
                field,
                format!("its key must have 1 to {KEY_MAX} characters"),
            ));
        }
        if task.prompt.trim().is_empty() {
            return Err(Error::invalid(field, "its prompt is empty"));
        }
        if by_key.insert(task.key.as_str(), i).is_some() {
            return Err(Error::invalid(
                field,
                format!("the key `{}` is there twice", task.key),
            ));
        }
    }
    let mut edges = Vec::with_capacity(tasks.len());
    for (i, task) in tasks.iter().enumerate() {
        let mut targets = Vec::new();
        for key in &task.depends_on {
            let Some(target) = by_key.get(key.as_str()) else {
                let issue = format!("`{}` depends on `{key}`, which is not there", task.key);
                return Err(Error::invalid(format!("tasks[{i}].dependsOn"), issue));
            };
            targets.push(*target);
        }
        edges.push(targets);
    }
    match find_cycle(&edges) {
        None => Ok(()),
        Some(cycle) => {
            let keys: Vec<&str> = cycle
                .iter()
                .filter_map(|i| tasks.get(*i))
                .map(|t| t.key.as_str())
                .collect();
            Err(Error::invalid(
                "tasks",
                format!("a cycle of dependencies: {}", keys.join(" → ")),
            ))
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

/// A cycle as a path that ends where it began, by depth-first search without recursion.
fn find_cycle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut marks = vec![Mark::New; edges.len()];
    for start in 0..edges.len() {
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        if marks.get(start) != Some(&Mark::New) {
            continue;
        }
        set(&mut marks, start, Mark::Open);
        while let Some((node, next)) = path.last_mut() {
            let Some(target) = edges
                .get(*node)
                .and_then(|targets| targets.get(*next))
                .copied()
            else {
                set(&mut marks, *node, Mark::Done);
                path.pop();
                continue;
            };
            *next += 1;
            match marks.get(target) {
                Some(Mark::New) => {
                    set(&mut marks, target, Mark::Open);
                    path.push((target, 0));
                }
                Some(Mark::Open) => {
                    let mut cycle: Vec<usize> = path
                        .iter()
                        .map(|(n, _)| *n)
                        .skip_while(|n| *n != target)
                        .collect();
                    cycle.push(target);
                    return Some(cycle);
                }
                Some(Mark::Done) | None => {}
            }
        }
    }
    None
}

fn set(marks: &mut [Mark], at: usize, mark: Mark) {
    if let Some(slot) = marks.get_mut(at) {
        *slot = mark;
    }
}
