//! `write`: a whole file.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::fence::Parents;
use super::super::typed::blocking_tool;
use super::super::{Tool, ToolContext, ToolError, ToolOutput};
use crate::model::SideEffect;

#[derive(Debug, Deserialize, JsonSchema)]
struct Args {
    /// The file, relative to the workspace. Missing directories are created.
    path: String,
    /// The whole new content, at most 16 MiB.
    content: String,
}

pub(super) fn tool() -> Arc<dyn Tool> {
    blocking_tool(
        "write",
        "Writes a whole file: creates it, or replaces all that was in it. To change a part of a \
         file use edit. Refuses symbolic links and everything below .git.",
        SideEffect::Idempotent,
        run,
    )
}

fn run(cx: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    let Args { path, content } = args;
    let write = || {
        let target = cx.fence.target(path, Parents::Create)?;
        target.replace(content.as_bytes(), &|| cx.cancel.is_cancelled())
    };
    write().map_err(|problem| problem.at(path))?;
    Ok(ToolOutput::text(format!(
        "wrote {} bytes to `{path}`",
        content.len()
    )))
}
