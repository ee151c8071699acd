//! Tools: what agents can do besides talking. The [`Tool`] trait, its context and contract.
//!
//! ```text
//!  engine: commit `intended` ──▶ Tool::call(cx, args) ──▶ ToolOutput ──▶ engine: commit `done`
//! ```
//!
//! # Contract
//!
//! * [`Tool::side_effect`] says what the engine may do after a crash between the two commits. It
//!   MUST be [`SideEffect::Once`] (the default) unless a second run changes nothing more: a wrong
//!   `Pure` repeats an effect.
//! * A call may fail ([`ToolError`]), panic, hang or answer too much: the model gets an error
//!   result or a cut one, the run goes on.
//! * **Cancel safety**: the engine drops the call's future at its time limit and when the agent is
//!   killed. Work handed to other threads must watch [`ToolContext::cancel`].

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::ids::{AgentId, SwarmId};
use crate::llm::ToolSpec;
use crate::model::{ContentBlock, SideEffect};
use crate::schema::{self, Problem};

pub mod fence;
pub mod fs;
mod limit;
mod typed;
mod updates;

pub use fence::{Fence, FenceError};
pub use limit::limit_output;
pub use typed::{TOOL_NAME_CHARS_MAX, check_name, json_tool, tool_fn};
pub use updates::{ToolUpdates, UPDATE_BYTES_MAX};

/// What a tool is told about the call.
#[derive(Debug, Clone)]
pub struct ToolContext {
    /// The agent that calls.
    pub agent_id: AgentId,
    /// Its swarm.
    pub swarm_id: SwarmId,
    /// The call's id in the model's answer.
    pub call_id: String,
    /// The same over every try of this call, also after a crash.
    pub idempotency_key: String,
    /// 1, or more if the engine died during an earlier try.
    pub try_number: u32,
    /// The directories the agent may reach.
    pub fence: Arc<Fence>,
    /// Cancelled when the call is no longer wanted.
    pub cancel: CancellationToken,
    /// Tells whoever watches the agent what the call is doing.
    pub updates: ToolUpdates,
}

/// What a tool answers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolOutput {
    /// What the model sees.
    pub content: Vec<ContentBlock>,
    /// Anything for screens and logs; never sent to a model.
    pub details: Value,
    /// Whether nothing is left to do; see [`ToolResultMessage::is_final`](crate::model::ToolResultMessage::is_final).
    pub is_final: bool,
}

impl ToolOutput {
    /// An answer of one text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            content: vec![ContentBlock::text(text)],
            ..Self::default()
        }
    }

    /// The same, with nothing left to do after it: if all calls of the model's answer end so, the
    /// agent ends well with their texts and the model is not asked again. Messages that wait for the
    /// agent, and an answer schema that the texts do not fit, keep it going.
    #[must_use]
    pub const fn as_final(mut self) -> Self {
        self.is_final = true;
        self
    }
}

/// Why a tool could not do what was asked. The text goes to the model, so it should say what to do
/// instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// What went wrong.
    pub message: String,
}

impl ToolError {
    /// An error with this text.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

/// Whether calls of one answer may run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExecutionMode {
    /// They may.
    #[default]
    Parallel,
    /// One such tool in a batch makes the whole batch run in order.
    Sequential,
}

/// Something an agent can do. See the module's contract.
#[async_trait]
pub trait Tool: fmt::Debug + Send + Sync + 'static {
    /// Its name, description and argument schema.
    fn spec(&self) -> &ToolSpec;

    /// What may be done with a call whose outcome is unknown after a crash.
    fn side_effect(&self) -> SideEffect {
        SideEffect::Once
    }

    /// Whether it may run beside other calls.
    fn execution_mode(&self) -> ExecutionMode {
        ExecutionMode::Parallel
    }

    /// Does it. `arguments` is a JSON object; it has not been checked against the schema.
    async fn call(&self, cx: ToolContext, arguments: Value) -> Result<ToolOutput, ToolError>;
}

/// The JSON Schema of a tool's arguments, inlined and without a title: what models expect.
#[must_use]
pub fn parameters_of<A: JsonSchema>() -> Value {
    let mut settings = schemars::generate::SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = settings.into_generator().into_root_schema_for::<A>();
    schema.remove("title");
    schema.to_value()
}

/// Reads a tool's arguments into its type; if they do not fit, once more as its schema would have
/// them ([`schema::coerce`]).
///
/// # Errors
///
/// A [`ToolError`] that names the paths of the wrong fields and repeats what was received
/// ([`schema::explain`]).
pub fn parse_arguments<A: DeserializeOwned + JsonSchema>(
    arguments: &Value,
) -> Result<A, ToolError> {
    deserialize(arguments).or_else(|_| {
        let parameters = parameters_of::<A>();
        let coerced = schema::coerce(&parameters, arguments);
        deserialize(&coerced).map_err(|problem| {
            let mut problems = schema::check(&parameters, &coerced);
            if problems.is_empty() {
                problems.push(problem);
            }
            ToolError::new(schema::explain(&problems, arguments))
        })
    })
}

fn deserialize<A: DeserializeOwned>(arguments: &Value) -> Result<A, Problem> {
    serde_path_to_error::deserialize(arguments).map_err(|err| {
        let path = err.path().to_string();
        Problem {
            path: if path == "." {
                "(root)".to_owned()
            } else {
                path
            },
            message: err.inner().to_string(),
        }
    })
}
