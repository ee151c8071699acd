//! `list`: what is in a directory.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::fence::{DEPTH_MAX, Start, Visit, Walk};
use super::super::typed::blocking_tool;
use super::super::{Tool, ToolContext, ToolError, ToolOutput};
use super::report::{Report, is_skipped, mark, on_one_line, path_below};
use crate::model::SideEffect;

/// Entries one call answers.
pub(super) const LINES_MAX: usize = 500;

#[derive(Debug, Deserialize, JsonSchema)]
struct Args {
    /// The directory, relative to the workspace. Default: all of the workspace.
    #[serde(default)]
    path: Option<String>,
    /// How many levels to go down, 1 to 64. Default 1: only what is directly in it.
    #[serde(default)]
    depth: Option<usize>,
}

pub(super) fn tool() -> Arc<dyn Tool> {
    blocking_tool(
        "list",
        "Lists a directory, sorted by name, at most 500 entries. Directories end in /, symbolic \
         links in @ (they are not followed), pipes and devices in |. What is in .git, target and \
         node_modules is only shown when the path is there.",
        SideEffect::Pure,
        run,
    )
}

fn run(cx: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    let depth = args.depth.unwrap_or(1).clamp(1, DEPTH_MAX);
    let mut report = Report::new(LINES_MAX);
    let mut walk = Walk::default();
    for start in cx.fence.starts(args.path.as_deref())? {
        let shown = path_below(&cx.fence, &start, "");
        let at = |problem: super::super::fence::PathProblem| problem.at(&shown);
        let Start::Dir(dir) = start.start().map_err(at)? else {
            return Err(ToolError::new(format!("`{shown}` is a file: use read")));
        };
        // Empty roots would not be seen otherwise.
        if start.root.name != "." && args.path.is_none() {
            let access = if start.root.writable {
                ""
            } else {
                " (read-only)"
            };
            report.push(&format!("{}/{access}", start.root.name));
        }
        let mut visit = |entry: &super::super::fence::WalkEntry<'_>| {
            let path = path_below(&cx.fence, &start, &entry.path);
            if !report.push(&format!("{}{}", on_one_line(&path), mark(entry.kind))) {
                return Visit::Stop;
            }
            if entry.depth >= depth || is_skipped(entry) {
                Visit::Skip
            } else {
                Visit::On
            }
        };
        if walk.run(dir, &cx.cancel, &mut visit).map_err(at)? == Visit::Stop {
            break;
        }
    }
    if report.is_full() {
        report.note(format!(
            "only the first {} entries; give a narrower path or use find",
            report.lines()
        ));
    }
    report.note_walk(&walk);
    Ok(report.into_output("the directory is empty"))
}
