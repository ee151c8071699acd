//! The task that a tool runs in.

use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use crate::tool::{ToolError, ToolOutput};

/// A tool's task; dropping this stops it.
pub(super) struct AbortOnDrop(
    pub(super) JoinHandle<Result<ToolOutput, ToolError>>,
    #[expect(
        dead_code,
        reason = "held for its drop, which cancels the tool's token"
    )]
    pub(super) DropGuard,
);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a task panicked with.
pub(super) fn panic_text(err: tokio::task::JoinError) -> String {
    if !err.is_panic() {
        return "it was stopped".to_owned();
    }
    crate::spawn::panic_message(err.into_panic().as_ref())
}
