//! Tools from plain closures: typed arguments in, schema and parsing for free.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Tool, ToolContext, ToolError, ToolOutput, parameters_of, parse_arguments};
use crate::Error;
use crate::llm::ToolSpec;
use crate::model::SideEffect;

/// Longest name of a tool, characters: what every model API takes.
pub const TOOL_NAME_CHARS_MAX: usize = 64;

type Run =
    dyn Fn(ToolContext, Value) -> BoxFuture<'static, Result<ToolOutput, ToolError>> + Send + Sync;

/// A tool made of a closure.
struct FnTool {
    spec: ToolSpec,
    side_effect: SideEffect,
    run: Box<Run>,
}

/// Makes a tool of an async closure.
///
/// The arguments' type gives the schema; its fields' doc comments are what the model reads.
/// Arguments that do not fit are answered with an error that names the field. `side_effect` says
/// what may be done after a crash; see [`SideEffect`] and take [`SideEffect::Once`] when in doubt.
/// The name is checked when the tool is registered ([`check_name`]).
///
/// ```
/// use dash::model::SideEffect;
/// use dash::tool::{ToolContext, ToolOutput, tool_fn};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Args {
///     /// The city, e.g. `Oslo`.
///     city: String,
/// }
///
/// let tool = tool_fn("weather", "Tells the weather.", SideEffect::Pure, |_cx: ToolContext, args: Args| async move {
///     Ok(ToolOutput::text(format!("{}: rain", args.city)))
/// });
/// assert_eq!(tool.spec().name, "weather");
/// ```
pub fn tool_fn<A, F, Fut>(
    name: impl Into<String>,
    description: impl Into<String>,
    side_effect: SideEffect,
    run: F,
) -> Arc<dyn Tool>
where
    A: DeserializeOwned + JsonSchema + Send + 'static,
    F: Fn(ToolContext, A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ToolOutput, ToolError>> + Send + 'static,
{
    let spec = ToolSpec {
        name: name.into(),
        description: description.into(),
        parameters: parameters_of::<A>(),
    };
    let run = move |cx: ToolContext, arguments: Value| -> BoxFuture<'static, _> {
        match parse_arguments::<A>(&arguments) {
            Ok(args) => Box::pin(run(cx, args)),
            Err(err) => Box::pin(std::future::ready(Err(err))),
        }
    };
    Arc::new(FnTool {
        spec,
        side_effect,
        run: Box::new(run),
    })
}

/// Makes a tool of a function that blocks. It runs on a blocking thread; its
/// [`ToolContext::cancel`] also fires when the call's future is dropped.
pub(super) fn blocking_tool<A>(
    name: &str,
    description: &str,
    side_effect: SideEffect,
    run: fn(&ToolContext, &A) -> Result<ToolOutput, ToolError>,
) -> Arc<dyn Tool>
where
    A: DeserializeOwned + JsonSchema + Send + 'static,
{
    tool_fn(
        name,
        description,
        side_effect,
        move |mut cx: ToolContext, args: A| async move {
            cx.cancel = cx.cancel.child_token();
            let _on_drop = cx.cancel.clone().drop_guard();
            let done = tokio::task::spawn_blocking(move || {
                if cx.cancel.is_cancelled() {
                    return Err(ToolError::new("the call was cancelled before it began"));
                }
                run(&cx, &args)
            });
            match done.await {
                Ok(result) => result,
                Err(err) => Err(ToolError::new(format!(
                    "the tool stopped unexpectedly: {err}"
                ))),
            }
        },
    )
}

/// Checks a tool's name: 1 to 64 of `A-Z a-z 0-9 _ -`.
///
/// # Errors
///
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) with the field `name`.
pub fn check_name(name: &str) -> crate::Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if (1..=TOOL_NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(plain) {
        return Ok(());
    }
    let shown: String = name.chars().take(TOOL_NAME_CHARS_MAX).collect();
    Err(Error::invalid(
        "name",
        format!("tool name {shown:?} must be 1 to {TOOL_NAME_CHARS_MAX} of A-Za-z0-9_-"),
    ))
}

impl fmt::Debug for FnTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnTool")
            .field("name", &self.spec.name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Tool for FnTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn side_effect(&self) -> SideEffect {
        self.side_effect
    }

    async fn call(&self, cx: ToolContext, arguments: Value) -> Result<ToolOutput, ToolError> {
        (self.run)(cx, arguments).await
    }
}
