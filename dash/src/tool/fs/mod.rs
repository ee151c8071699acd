//! The file tools: `read`, `list`, `find`, `grep`, `write`, `edit`.
//!
//! All go through the agent's [`Fence`](super::Fence); none takes a path string to the system by
//! itself. They run on blocking threads and stop at [`ToolContext::cancel`](super::ToolContext).
//! What they answer is bounded by lines and by [`OUTPUT_BYTES_MAX`], and says what was left out.
//!
//! The searches read what a person would search: they do not enter [`SKIPPED_DIRS`] and do not
//! follow symbolic links.

use std::sync::Arc;

use super::Tool;

mod edit;
mod find;
mod grep;
mod list;
mod read;
mod report;
mod write;

#[cfg(test)]
mod tests;

/// Most text one call answers, bytes, notes not counted.
pub const OUTPUT_BYTES_MAX: usize = 50 * 1_024;
/// Directories that `find` and `grep` do not enter and whose content `list` does not show, unless
/// the search begins there.
pub const SKIPPED_DIRS: [&str; 3] = [".git", "target", "node_modules"];

/// Every file tool, in the order models should see them.
#[must_use]
pub fn all() -> Vec<Arc<dyn Tool>> {
    vec![
        read::tool(),
        list::tool(),
        find::tool(),
        grep::tool(),
        write::tool(),
        edit::tool(),
    ]
}
