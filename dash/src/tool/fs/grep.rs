//! `grep`: lines by a regular expression.

use std::collections::VecDeque;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::super::fence::{EntryKind, PathProblem, Start, Visit, Walk, WalkEntry, is_binary};
use super::super::typed::blocking_tool;
use super::super::{Tool, ToolContext, ToolError, ToolOutput};
use super::report::{PathGlob, Report, Skipped, is_skipped, on_one_line, path_below};
use crate::model::SideEffect;

/// Matching lines one call answers.
pub(super) const MATCHES_MAX: usize = 100;
/// Longest part of a line that is shown, characters.
pub(super) const LINE_CHARS_MAX: usize = 500;
/// Lines shown before and after a match.
const CONTEXT_MAX: usize = 10;
/// Longest pattern, bytes.
const PATTERN_BYTES_MAX: usize = 1_000;
/// Memory a compiled pattern may take, bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Lines between two looks at the cancellation.
const LINES_PER_CHECK: usize = 4_096;

#[derive(Debug, Deserialize, JsonSchema)]
struct Args {
    /// The regular expression (Rust's `regex` syntax: no look-around, no back-references). It is
    /// compared with one line at a time.
    pattern: String,
    /// The file or directory to search, relative to the workspace. Default: all of the workspace.
    #[serde(default)]
    path: Option<String>,
    /// Only files that match this glob, e.g. `*.rs`; same rules as in find.
    #[serde(default)]
    glob: Option<String>,
    /// Whether upper and lower case count as the same. Default false.
    #[serde(default)]
    ignore_case: bool,
    /// Lines to show before and after each match, at most 10. Default 0.
    #[serde(default)]
    context: Option<usize>,
}

pub(super) fn tool() -> Arc<dyn Tool> {
    blocking_tool(
        "grep",
        "Searches files for lines that match a regular expression, at most 100 matches, as \
         `path:line: text`, sorted by path; lines are cut at 500 characters. Skips binary files \
         and files over 16 MiB, does not enter .git, target and node_modules (unless the path is \
         there) and does not follow symbolic links.",
        SideEffect::Pure,
        run,
    )
}

struct Grep {
    regex: Regex,
    context: usize,
    matches: usize,
    has_more: bool,
    report: Report,
    skipped: Skipped,
}

fn run(cx: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    let glob = args.glob.as_deref().map(PathGlob::new).transpose()?;
    let mut grep = Grep {
        regex: compile(&args.pattern, args.ignore_case)?,
        context: args.context.unwrap_or(0).min(CONTEXT_MAX),
        matches: 0,
        has_more: false,
        report: Report::new(usize::MAX),
        skipped: Skipped::default(),
    };
    let mut walk = Walk::default();
    for start in cx.fence.starts(args.path.as_deref())? {
        let shown = path_below(&cx.fence, &start, "");
        let at = |problem: PathProblem| problem.at(&shown);
        let dir = match start.start().map_err(at)? {
            Start::Dir(dir) => dir,
            Start::File(bytes) => {
                grep.file(&on_one_line(&shown), &bytes, &cx.cancel)
                    .map_err(at)?;
                break;
            }
        };
        let mut failed = None;
        let mut visit = |entry: &WalkEntry<'_>| {
            if is_skipped(entry) {
                return Visit::Skip;
            }
            if entry.kind != EntryKind::File || glob.as_ref().is_some_and(|g| !g.is_match(entry)) {
                return Visit::On;
            }
            let path = on_one_line(&path_below(&cx.fence, &start, &entry.path));
            match entry
                .read()
                .map(|bytes| grep.file(&path, &bytes, &cx.cancel))
            {
                Ok(Ok(visit)) => visit,
                Ok(Err(problem)) => {
                    failed = Some(problem);
                    Visit::Stop
                }
                Err(problem) => {
                    grep.skipped.count(&problem);
                    Visit::On
                }
            }
        };
        let ended = walk.run(dir, &cx.cancel, &mut visit).map_err(at)?;
        if let Some(problem) = failed {
            return Err(at(problem).into());
        }
        if ended == Visit::Stop {
            break;
        }
    }
    Ok(grep.into_output(&walk))
}

fn compile(pattern: &str, ignore_case: bool) -> Result<Regex, ToolError> {
    if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
        return Err(ToolError::new(format!(
            "a pattern has 1 to {PATTERN_BYTES_MAX} bytes"
        )));
    }
    RegexBuilder::new(pattern)
        .case_insensitive(ignore_case)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|err| ToolError::new(format!("the pattern is not usable: {err}")))
}

impl Grep {
    /// Searches one file's content.
    fn file(
        &mut self,
        path: &str,
        bytes: &[u8],
        cancel: &CancellationToken,
    ) -> Result<Visit, PathProblem> {
        if is_binary(bytes) {
            self.skipped.binary += 1;
            return Ok(Visit::On);
        }
        let text = String::from_utf8_lossy(bytes);
        let mut before: VecDeque<(usize, &str)> = VecDeque::with_capacity(self.context);
        let mut after = 0;
        let mut last_shown = None;
        for (line, number) in text.lines().zip(1_usize..) {
            if number % LINES_PER_CHECK == 0 && cancel.is_cancelled() {
                return Err(PathProblem::Cancelled);
            }
            if self.regex.is_match(line) {
                if self.matches >= MATCHES_MAX {
                    self.has_more = true;
                    return Ok(Visit::Stop);
                }
                self.matches += 1;
                let first = before.front().map_or(number, |(n, _)| *n);
                let gap = match last_shown {
                    Some(shown) => first > shown + 1,
                    None => self.report.lines() > 0,
                };
                if self.context > 0 && gap {
                    self.report.push("--");
                }
                for (n, line) in before.drain(..) {
                    self.report.push(&format!("{path}-{n}- {}", cut(line)));
                }
                self.report.push(&format!("{path}:{number}: {}", cut(line)));
                last_shown = Some(number);
                after = self.context;
            } else if after > 0 {
                after -= 1;
                self.report.push(&format!("{path}-{number}- {}", cut(line)));
                last_shown = Some(number);
            } else if self.context > 0 {
                if before.len() >= self.context {
                    before.pop_front();
                }
                before.push_back((number, line));
            }
            if self.report.is_full() {
                return Ok(Visit::Stop);
            }
        }
        Ok(Visit::On)
    }

    fn into_output(self, walk: &Walk) -> ToolOutput {
        let mut report = self.report;
        if self.has_more {
            report.note(format!(
                "only the first {MATCHES_MAX} matches; narrow the pattern or the path"
            ));
        } else if report.is_full() {
            report.note("cut: the answer grew too long; narrow the pattern or the path");
        }
        self.skipped.note(&mut report);
        report.note_walk(walk);
        report.into_output("nothing matches")
    }
}

/// A line as it is shown.
fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARS_MAX) {
        Some((at, _)) => format!("{}… [line cut]", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    }
}
