//! `edit`: exact replacements in a file, all or none.
//!
//! # After a crash
//!
//! The file is replaced by one rename, so either every replacement of a try took place or none. A
//! later try (`try_number` above 1) cannot know which, so it looks at the text, in this order:
//!
//! 1. Every old text is gone and every new text is there: it was applied. Nothing is changed.
//! 2. Every old text is there exactly once, and this cannot be the outcome of the earlier try,
//!    because some new text is missing, or some old text stands clear of every new text (then it
//!    was never replaced): it was not applied. It is applied now.
//! 3. Every old text is there exactly once, and it may be the outcome (`a` became `a b`, which
//!    still contains `a`; or a deletion whose text may have been put together anew): in doubt. The
//!    model is told to read the file.
//! 4. Anything else is the error a first try would give.
//!
//! All this supposes that nobody else wrote the file between the tries. If someone did, case 1 can
//! report an edit as applied that another writer made.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::fence::{Parents, PathProblem, is_binary};
use super::super::typed::blocking_tool;
use super::super::{Tool, ToolContext, ToolError, ToolOutput};
use crate::model::SideEffect;

/// Replacements one call may ask for.
const EDITS_MAX: usize = 100;
/// How far occurrences of an ambiguous text are counted.
const COUNT_MAX: usize = 100;

#[derive(Debug, Deserialize, JsonSchema)]
struct Args {
    /// The file, relative to the workspace.
    path: String,
    /// The replacements, 1 to 100. All are made, or none.
    edits: Vec<Edit>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Edit {
    /// The exact text to replace, white space and line ends included. It must occur exactly once
    /// in the file as it is now.
    old_text: String,
    /// What to put in its place. Empty = delete it.
    new_text: String,
}

pub(super) fn tool() -> Arc<dyn Tool> {
    blocking_tool(
        "edit",
        "Replaces exact pieces of text in a file, all or none. Each old_text must occur exactly \
         once in the file as it is now (add lines around it until it does), and the pieces must \
         not overlap.",
        SideEffect::Reconcilable,
        run,
    )
}

fn run(cx: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    let Args { path, edits } = args;
    check(edits)?;
    let at = |problem: PathProblem| ToolError::from(problem.at(path));
    let target = cx.fence.target(path, Parents::MustExist).map_err(at)?;
    let bytes = target
        .read()
        .map_err(at)?
        .ok_or_else(|| at(PathProblem::NotFound))?;
    if is_binary(&bytes) {
        return Err(ToolError::new(format!(
            "`{path}` is a binary file: it cannot be edited"
        )));
    }
    let text = String::from_utf8(bytes).map_err(|err| {
        ToolError::new(format!(
            "`{path}` is not UTF-8 ({}): it cannot be edited",
            err.utf8_error()
        ))
    })?;
    let what = format!("{} replacement(s) in `{path}`", edits.len());
    if cx.try_number > 1 {
        match look(&text, edits) {
            Seen::Applied => {
                // Makes the earlier try's rename durable.
                target.replace(text.as_bytes(), &|| false).map_err(at)?;
                return Ok(ToolOutput::text(format!(
                    "{what} were already made by an earlier try"
                )));
            }
            Seen::InDoubt => {
                return Err(ToolError::new(format!(
                    "an earlier try of this edit was interrupted, and the text of `{path}` does \
                     not tell whether it was made. Nothing was changed now: read the file, and \
                     send the edit again if it is still needed"
                )));
            }
            Seen::NotApplied | Seen::Unclear => {}
        }
    }
    let new = apply(&text, edits)?;
    target
        .replace(new.as_bytes(), &|| cx.cancel.is_cancelled())
        .map_err(at)?;
    Ok(ToolOutput::text(format!("made {what}")))
}

fn check(edits: &[Edit]) -> Result<(), ToolError> {
    if edits.is_empty() || edits.len() > EDITS_MAX {
        return Err(ToolError::new(format!(
            "`edits` needs 1 to {EDITS_MAX} replacements"
        )));
    }
    for (i, edit) in edits.iter().enumerate() {
        if edit.old_text.is_empty() {
            return Err(ToolError::new(format!(
                "`edits[{i}].old_text` is empty: give the text to replace"
            )));
        }
        if edit.old_text == edit.new_text {
            return Err(ToolError::new(format!(
                "`edits[{i}]` changes nothing: old_text and new_text are the same"
            )));
        }
    }
    Ok(())
}

/// Makes all replacements against the text as it is.
fn apply(text: &str, edits: &[Edit]) -> Result<String, ToolError> {
    let mut places = Vec::with_capacity(edits.len());
    for (i, edit) in edits.iter().enumerate() {
        let start = match occurrences(text, &edit.old_text).as_slice() {
            [start] => *start,
            [] => return Err(not_found(i, text, edit)),
            many => {
                let least = if many.len() >= COUNT_MAX {
                    "at least "
                } else {
                    ""
                };
                return Err(ToolError::new(format!(
                    "`edits[{i}].old_text` was found {least}{} times: it must be found exactly \
                     once. Add lines around it. Nothing was changed",
                    many.len()
                )));
            }
        };
        places.push((start, start + edit.old_text.len(), i));
    }
    places.sort_unstable();
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    let mut before = 0;
    for (start, end, i) in places {
        if start < done {
            return Err(ToolError::new(format!(
                "`edits[{before}]` and `edits[{i}]` overlap: join them into one. Nothing was changed"
            )));
        }
        out.push_str(text.get(done..start).unwrap_or_default());
        out.push_str(edits.get(i).map_or("", |edit| &edit.new_text));
        (done, before) = (end, i);
    }
    out.push_str(text.get(done..).unwrap_or_default());
    Ok(out)
}

fn not_found(i: usize, text: &str, edit: &Edit) -> ToolError {
    let hint =
        if text.contains("\r\n") && !edit.old_text.contains('\r') && edit.old_text.contains('\n') {
            " The lines of this file end in \\r\\n; so must those of old_text."
        } else {
            ""
        };
    ToolError::new(format!(
        "`edits[{i}].old_text` was found 0 times: read the file and copy the text exactly, white \
         space included.{hint} Nothing was changed"
    ))
}

/// Where `part` begins in `text`, overlapping occurrences included, up to [`COUNT_MAX`].
fn occurrences(text: &str, part: &str) -> Vec<usize> {
    let step = part.chars().next().map_or(1, char::len_utf8);
    let mut found = Vec::new();
    let mut from = 0;
    while found.len() < COUNT_MAX {
        let Some(at) = text.get(from..).and_then(|rest| rest.find(part)) else {
            break;
        };
        found.push(from + at);
        from += at + step;
    }
    found
}

/// What a later try sees. See the module's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Applied,
    NotApplied,
    InDoubt,
    Unclear,
}

fn look(text: &str, edits: &[Edit]) -> Seen {
    let gone = edits.iter().all(|edit| !text.contains(&edit.old_text));
    let there = edits.iter().all(|edit| text.contains(&edit.new_text));
    if gone {
        return if there { Seen::Applied } else { Seen::Unclear };
    }
    if apply(text, edits).is_err() {
        return Seen::Unclear;
    }
    if !there {
        return Seen::NotApplied;
    }
    if edits.iter().any(|edit| edit.new_text.is_empty()) {
        return Seen::InDoubt;
    }
    if edits
        .iter()
        .any(|edit| stands_clear(text, &edit.old_text, edits))
    {
        Seen::NotApplied
    } else {
        Seen::InDoubt
    }
}

/// Whether the one occurrence of `old` shares no byte with an occurrence of any new text.
fn stands_clear(text: &str, old: &str, edits: &[Edit]) -> bool {
    let Some(start) = text.find(old) else {
        return false;
    };
    let end = start + old.len();
    edits.iter().all(|edit| {
        // Only what can reach the old text is looked at.
        let new = &edit.new_text;
        let from = text.floor_char_boundary((start + 1).saturating_sub(new.len()));
        let to = text.ceil_char_boundary((end - 1).saturating_add(new.len()).min(text.len()));
        text.get(from..to)
            .is_some_and(|around| !around.contains(new.as_str()))
    })
}
