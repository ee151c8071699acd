//! The text a tool answers: lines up to a limit, then notes about what is not there.

use std::ffi::OsStr;

use super::super::fence::{
    DEPTH_MAX, EntryKind, Fence, Located, PathProblem, READ_BYTES_MAX, Walk, WalkEntry,
};
use super::super::{ToolError, ToolOutput};
use super::{OUTPUT_BYTES_MAX, SKIPPED_DIRS};

/// Lines up to a number and [`OUTPUT_BYTES_MAX`], then notes.
#[derive(Debug)]
pub(super) struct Report {
    text: String,
    lines: usize,
    lines_max: usize,
    notes: Vec<String>,
    is_full: bool,
}

impl Report {
    pub(super) const fn new(lines_max: usize) -> Self {
        Self {
            text: String::new(),
            lines: 0,
            lines_max,
            notes: Vec::new(),
            is_full: false,
        }
    }

    /// Adds a line; `false` if there is no room for it, and for all that follow.
    pub(super) fn push(&mut self, line: &str) -> bool {
        let fits = self.lines < self.lines_max
            && self.text.len().saturating_add(line.len()).saturating_add(1) <= OUTPUT_BYTES_MAX;
        if !fits || self.is_full {
            self.is_full = true;
            return false;
        }
        self.text.push_str(line);
        self.text.push('\n');
        self.lines += 1;
        true
    }

    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) const fn lines(&self) -> usize {
        self.lines
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Says what a walk did not see.
    pub(super) fn note_walk(&mut self, walk: &Walk) {
        if walk.is_full {
            self.note(format!(
                "stopped after {} entries; give a narrower path to see the rest",
                walk.entries
            ));
        }
        if walk.is_too_deep {
            self.note(format!(
                "what lies deeper than {DEPTH_MAX} directories was left out"
            ));
        }
        if walk.unreadable > 0 {
            self.note(format!("{} directories could not be read", walk.unreadable));
        }
    }

    /// The answer; `nothing` where there is no line.
    pub(super) fn into_output(mut self, nothing: &str) -> ToolOutput {
        if self.lines == 0 {
            self.notes.insert(0, nothing.to_owned());
        }
        for note in &self.notes {
            self.text.push('[');
            self.text.push_str(note);
            self.text.push_str("]\n");
        }
        ToolOutput::text(self.text)
    }
}

/// Files that a search could not look into, by reason.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    pub(super) binary: usize,
    large: usize,
    linked: usize,
    other: usize,
}

impl Skipped {
    pub(super) const fn count(&mut self, problem: &PathProblem) {
        match problem {
            PathProblem::TooLarge { .. } => self.large += 1,
            PathProblem::HardLinked { .. } => self.linked += 1,
            _ => self.other += 1,
        }
    }

    pub(super) fn note(&self, report: &mut Report) {
        let larger = format!("larger than {READ_BYTES_MAX} bytes");
        let reasons = [
            (self.binary, "binary"),
            (self.large, larger.as_str()),
            (self.linked, "with more than one hard link"),
            (self.other, "not readable"),
        ];
        let parts: Vec<String> = reasons
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, reason)| format!("{count} {reason}"))
            .collect();
        if !parts.is_empty() {
            report.note(format!("files skipped: {}", parts.join(", ")));
        }
    }
}

/// The path of something below where a search began, as the tools take it.
pub(super) fn path_below(fence: &Fence, start: &Located<'_>, below: &str) -> String {
    let parts = start.rest.split('/').chain(below.split('/'));
    let clean: Vec<&str> = parts.filter(|part| !matches!(*part, "" | ".")).collect();
    fence.display(start.root, &clean.join("/"))
}

/// A path on a line of its own: as JSON text if it would break the line.
pub(super) fn on_one_line(path: &str) -> String {
    if path.chars().any(char::is_control) || path.starts_with('"') {
        serde_json::Value::String(path.to_owned()).to_string()
    } else {
        path.to_owned()
    }
}

/// Whether a search stays out of this entry.
pub(super) fn is_skipped(entry: &WalkEntry<'_>) -> bool {
    entry.kind == EntryKind::Dir
        && SKIPPED_DIRS
            .iter()
            .any(|name| OsStr::new(name) == entry.name)
}

/// What a path looks like in a list: directories end in `/`, links in `@`, pipes and such in `|`.
pub(super) const fn mark(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "",
        EntryKind::Dir => "/",
        EntryKind::Link => "@",
        EntryKind::Other => "|",
    }
}

/// A glob over paths (if it contains a `/`) or names.
#[derive(Debug)]
pub(super) struct PathGlob {
    matcher: globset::GlobMatcher,
    over_names: bool,
}

/// Longest glob, bytes.
const GLOB_BYTES_MAX: usize = 1_000;

impl PathGlob {
    pub(super) fn new(glob: &str) -> Result<Self, ToolError> {
        if glob.is_empty() || glob.len() > GLOB_BYTES_MAX {
            return Err(ToolError::new(format!(
                "a glob has 1 to {GLOB_BYTES_MAX} bytes"
            )));
        }
        let built = globset::GlobBuilder::new(glob)
            .literal_separator(true)
            .build();
        let built = built
            .map_err(|err| ToolError::new(format!("`{glob}` is not a glob: {}", err.kind())))?;
        Ok(Self {
            matcher: built.compile_matcher(),
            over_names: !glob.contains('/'),
        })
    }

    pub(super) fn is_match(&self, entry: &WalkEntry<'_>) -> bool {
        let name = if self.over_names {
            entry.path.rsplit('/').next().unwrap_or(&entry.path)
        } else {
            &entry.path
        };
        self.matcher.is_match(name)
    }
}
