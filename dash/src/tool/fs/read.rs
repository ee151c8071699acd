//! `read`: a file's text, by lines.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::fence::is_binary;
use super::super::typed::blocking_tool;
use super::super::{Tool, ToolContext, ToolError, ToolOutput};
use super::OUTPUT_BYTES_MAX;
use super::report::Report;
use crate::model::SideEffect;

/// Lines one call answers.
pub(super) const LINES_MAX: usize = 2_000;

#[derive(Debug, Deserialize, JsonSchema)]
struct Args {
    /// The file, relative to the workspace, e.g. `src/main.rs`.
    path: String,
    /// The first line to read, counted from 1. Default 1.
    #[serde(default)]
    offset: Option<usize>,
    /// How many lines to read, at most 2000. Default 2000.
    #[serde(default)]
    limit: Option<usize>,
}

pub(super) fn tool() -> Arc<dyn Tool> {
    blocking_tool(
        "read",
        "Reads a text file. Answers at most 2000 lines or 50 KiB, as they are, from the start or \
         from `offset`, and says how to continue. Files up to 16 MiB; binary files are refused.",
        SideEffect::Pure,
        run,
    )
}

fn run(cx: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    let (path, offset, limit) = (&args.path, args.offset, args.limit);
    let first = offset.unwrap_or(1);
    if first == 0 || limit == Some(0) {
        return Err(ToolError::new("`offset` and `limit` count from 1"));
    }
    let bytes = cx.fence.read(path)?;
    if is_binary(&bytes) {
        return Err(ToolError::new(format!(
            "`{path}` is a binary file of {} bytes: there is no text to read",
            bytes.len()
        )));
    }
    let text = String::from_utf8_lossy(&bytes);
    let total = text.lines().count();
    if total == 0 {
        return Ok(ToolOutput::text("[the file is empty]"));
    }
    if first > total {
        return Err(ToolError::new(format!(
            "`offset` {first} is past the end: `{path}` has {total} lines"
        )));
    }
    let mut report = Report::new(limit.unwrap_or(LINES_MAX).min(LINES_MAX));
    // Line ends are kept as they are: `edit` needs the exact text.
    for line in text.split('\n').take(total).skip(first - 1) {
        if !report.push(line) {
            break;
        }
    }
    let next = first.saturating_add(report.lines());
    if report.lines() == 0 {
        note_long_line(&mut report, &text, first);
    } else if next <= total {
        report.note(format!(
            "lines {first} to {} of {total}; continue with offset {next}",
            next - 1
        ));
    }
    Ok(report.into_output("the line is longer than one answer"))
}

/// One line that does not fit is cut; there is no way to continue in the middle of it.
fn note_long_line(report: &mut Report, text: &str, first: usize) {
    let line = text.split('\n').nth(first - 1).unwrap_or_default();
    let head = line
        .get(..line.floor_char_boundary(OUTPUT_BYTES_MAX - 1))
        .unwrap_or_default();
    *report = Report::new(1);
    report.push(head);
    report.note(format!(
        "line {first} has {} bytes and was cut after {}; use grep to look into it, or continue \
         with offset {}",
        line.len(),
        head.len(),
        first.saturating_add(1),
    ));
}
