//! Tools behind a door: every call is noted and can be held.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use dash::llm::ToolSpec;
use dash::model::SideEffect;
use dash::tool::{ExecutionMode, Tool, ToolContext, ToolError, ToolOutput};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::engine::within;

/// One call of a [`Door`].
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The idempotency key.
    pub key: String,
    /// The number of the try.
    pub try_number: u32,
    /// What it was given.
    pub arguments: Value,
}

type Act = dyn Fn(&Value) -> Result<ToolOutput, ToolError> + Send + Sync;

/// A tool that notes its calls and waits while its door is closed.
pub struct Door {
    spec: ToolSpec,
    class: SideEffect,
    mode: ExecutionMode,
    act: Box<Act>,
    calls: watch::Sender<Vec<Call>>,
    done: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("name", &self.spec.name)
            .finish_non_exhaustive()
    }
}

impl Door {
    /// An open door that answers `done`.
    #[must_use]
    pub fn new(name: &str, class: SideEffect) -> Arc<Self> {
        Self::acting(name, class, |_| Ok(ToolOutput::text("done")))
    }

    /// An open door that answers what `act` makes of the arguments.
    pub fn acting(
        name: &str,
        class: SideEffect,
        act: impl Fn(&Value) -> Result<ToolOutput, ToolError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            spec: ToolSpec {
                name: name.to_owned(),
                description: "Does something.".to_owned(),
                parameters: json!({"type": "object"}),
            },
            class,
            mode: ExecutionMode::Parallel,
            act: Box::new(act),
            calls: watch::Sender::new(Vec::new()),
            done: watch::Sender::new(0),
            open: watch::Sender::new(true),
        })
    }

    /// Holds calls from now on.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Lets calls pass.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// The calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.borrow().clone()
    }

    /// How many calls have come to their end.
    #[must_use]
    pub fn done(&self) -> usize {
        *self.done.borrow()
    }

    /// Waits until `count` calls have begun.
    pub async fn wait_for_calls(&self, count: usize) {
        let mut calls = self.calls.subscribe();
        within("tool calls", calls.wait_for(|c| c.len() >= count))
            .await
            .unwrap();
    }
}

#[async_trait]
impl Tool for Door {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn side_effect(&self) -> SideEffect {
        self.class
    }

    fn execution_mode(&self) -> ExecutionMode {
        self.mode
    }

    async fn call(&self, cx: ToolContext, arguments: Value) -> Result<ToolOutput, ToolError> {
        let call = Call {
            key: cx.idempotency_key,
            try_number: cx.try_number,
            arguments: arguments.clone(),
        };
        self.calls.send_modify(|calls| calls.push(call));
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
        let answer = (self.act)(&arguments);
        self.done.send_modify(|n| *n += 1);
        answer
    }
}
