//! `find`: files by name.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::fence::{PathProblem, Start, Visit, Walk, WalkEntry};
use super::super::typed::blocking_tool;
use super::super::{Tool, ToolContext, ToolError, ToolOutput};
use super::report::{PathGlob, Report, is_skipped, mark, on_one_line, path_below};
use crate::model::SideEffect;

/// Paths one call answers.
pub(super) const LINES_MAX: usize = 1_000;

#[derive(Debug, Deserialize, JsonSchema)]
struct Args {
    /// The glob, e.g. `*.rs`, or `src/**/*.rs`. Without a `/` it is compared with names at any
    /// depth, with one with paths relative to `path`. `*` does not cross a `/`, `**` does.
    glob: String,
    /// The directory to search, relative to the workspace. Default: all of the workspace.
    #[serde(default)]
    path: Option<String>,
}

pub(super) fn tool() -> Arc<dyn Tool> {
    blocking_tool(
        "find",
        "Finds files and directories by a glob, sorted by path, at most 1000. Does not enter \
         .git, target and node_modules (unless the path is there) and does not follow symbolic \
         links. Directories end in /, symbolic links in @.",
        SideEffect::Pure,
        run,
    )
}

fn run(cx: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    let glob = PathGlob::new(&args.glob)?;
    let mut report = Report::new(LINES_MAX);
    let mut walk = Walk::default();
    for start in cx.fence.starts(args.path.as_deref())? {
        let shown = path_below(&cx.fence, &start, "");
        let at = |problem: PathProblem| problem.at(&shown);
        let Start::Dir(dir) = start.start().map_err(at)? else {
            return Err(ToolError::new(format!(
                "`{shown}` is a file: give a directory"
            )));
        };
        let mut visit = |entry: &WalkEntry<'_>| {
            if glob.is_match(entry) {
                let path = path_below(&cx.fence, &start, &entry.path);
                if !report.push(&format!("{}{}", on_one_line(&path), mark(entry.kind))) {
                    return Visit::Stop;
                }
            }
            if is_skipped(entry) {
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
            "only the first {} results; narrow the glob or the path",
            report.lines()
        ));
    }
    report.note_walk(&walk);
    Ok(report.into_output("nothing matches"))
}
