//! Tools from plain closures: typed arguments in, schema and parsing for free.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Tool, ToolContext, ToolError, ToolOutput, parameters_of, parse_arguments};
use crate::llm::ToolSpec;
use crate::model::SideEffect;
use crate::{Error, schema};

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
/// Arguments that do not fit are coerced ([`schema::coerce`]), and else answered with an error that
/// names the fields. `side_effect` says what may be done after a crash; see [`SideEffect`] and take
/// [`SideEffect::Once`] when in doubt.
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

/// Makes a tool of an async closure whose arguments are only known as a JSON Schema, an object: for
/// tools that come from elsewhere.
///
/// The closure gets arguments that fit `parameters`, coerced ([`schema::coerce`]) if they did not;
/// what still does not fit ([`schema::check`]) is answered with an error that names the fields. A
/// rule that the checker does not know is not enforced. The rest is as with [`tool_fn`].
///
/// ```
/// use dash::model::SideEffect;
/// use dash::tool::{ToolContext, ToolOutput, json_tool};
/// use serde_json::{Value, json};
///
/// let parameters = json!({
///     "type": "object",
///     "properties": {"city": {"type": "string"}},
///     "required": ["city"],
/// });
/// let run = |_cx: ToolContext, args: Value| async move {
///     Ok(ToolOutput::text(format!("{}: rain", args["city"])))
/// };
/// let tool = json_tool("weather", "Tells the weather.", parameters, SideEffect::Pure, run);
/// assert_eq!(tool.spec().name, "weather");
/// ```
pub fn json_tool<F, Fut>(
    name: impl Into<String>,
    description: impl Into<String>,
    parameters: Value,
    side_effect: SideEffect,
    run: F,
) -> Arc<dyn Tool>
where
    F: Fn(ToolContext, Value) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ToolOutput, ToolError>> + Send + 'static,
{
    let spec = ToolSpec {
        name: name.into(),
        description: description.into(),
        parameters: parameters.clone(),
    };
    let run = move |cx: ToolContext, arguments: Value| -> BoxFuture<'static, _> {
        let fitting = schema::coerce(&parameters, &arguments);
        let problems = schema::check(&parameters, &fitting);
        if problems.is_empty() {
            return Box::pin(run(cx, fitting));
        }
        let text = schema::explain(&problems, &arguments);
        Box::pin(std::future::ready(Err(ToolError::new(text))))
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

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;
    use tokio::sync::Semaphore;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::ids::{AgentId, SwarmId};
    use crate::tool::{Fence, ToolUpdates};

    #[derive(Deserialize, JsonSchema)]
    struct Args {
        /// The city, e.g. `Oslo`.
        city: String,
        /// Days ahead. Default 0.
        #[serde(default)]
        days: Option<u8>,
        /// The unit.
        unit: Unit,
    }

    #[derive(Deserialize, JsonSchema)]
    struct Nothing {}

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum Unit {
        Celsius,
        Fahrenheit,
    }

    fn weather() -> Arc<dyn Tool> {
        let run = |cx: ToolContext, args: Args| async move {
            let (city, days, unit) = (args.city, args.days.unwrap_or(0), args.unit);
            Ok(ToolOutput::text(format!(
                "{}: {city} +{days} {unit:?}",
                cx.call_id
            )))
        };
        tool_fn("weather", "Tells the weather.", SideEffect::Pure, run)
    }

    fn context() -> ToolContext {
        ToolContext {
            agent_id: AgentId::from_u128(1),
            swarm_id: SwarmId::from_u128(2),
            call_id: "call-1".to_owned(),
            idempotency_key: "k".to_owned(),
            try_number: 1,
            fence: Arc::new(Fence::none()),
            cancel: CancellationToken::new(),
            updates: ToolUpdates::default(),
        }
    }

    #[test]
    fn the_schema_is_what_models_expect() {
        let tool = weather();
        assert_eq!(tool.side_effect(), SideEffect::Pure);
        let expected = concat!(
            r#"{"name":"weather","description":"Tells the weather.","parameters":"#,
            r#"{"type":"object","properties":{"#,
            r#""city":{"type":"string","description":"The city, e.g. `Oslo`."},"#,
            r#""days":{"type":["integer","null"],"format":"uint8","minimum":0,"maximum":255,"#,
            r#""description":"Days ahead. Default 0.","default":null},"#,
            r#""unit":{"type":"string","enum":["celsius","fahrenheit"],"description":"The unit."}},"#,
            r#""required":["city","unit"]}}"#,
        );
        assert_eq!(serde_json::to_string(tool.spec()).unwrap(), expected);
    }

    #[tokio::test]
    async fn arguments_come_typed_or_not_at_all() {
        let tool = weather();
        let got = tool
            .call(context(), json!({"city": "Oslo", "unit": "celsius"}))
            .await;
        assert_eq!(got, Ok(ToolOutput::text("call-1: Oslo +0 Celsius")));
        let err = tool
            .call(context(), json!({"city": "Oslo", "unit": "kelvin"}))
            .await
            .unwrap_err();
        let text = concat!(
            "invalid arguments:\n",
            "unit: must be one of \"celsius\", \"fahrenheit\"\n",
            r#"Received: {"city":"Oslo","unit":"kelvin"}"#,
        );
        assert_eq!(err.message, text);
    }

    #[tokio::test]
    async fn arguments_that_nearly_fit_are_coerced() {
        let sent = json!({"city": 7, "days": "2", "unit": "celsius"});
        let got = weather().call(context(), sent).await;
        assert_eq!(got, Ok(ToolOutput::text("call-1: 7 +2 Celsius")));
    }

    #[tokio::test]
    async fn what_only_the_type_minds_is_told_by_the_type() {
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(try_from = "u8")]
        struct Even;

        impl TryFrom<u8> for Even {
            type Error = &'static str;

            fn try_from(number: u8) -> Result<Self, Self::Error> {
                if number.is_multiple_of(2) {
                    Ok(Self)
                } else {
                    Err("odd")
                }
            }
        }

        let err = parse_arguments::<Vec<Even>>(&json!([2, "4", 7])).unwrap_err();
        let text = "invalid arguments:\n[2]: odd\nReceived: [2,\"4\",7]";
        assert_eq!(err.message, text);
    }

    #[tokio::test]
    async fn a_tool_with_a_schema_gets_arguments_that_fit_it() {
        let parameters = json!({
            "type": "object",
            "properties": {"ids": {"type": "array", "items": {"type": "integer"}}},
            "required": ["ids"],
            "additionalProperties": false,
        });
        let run =
            |_: ToolContext, args: Value| async move { Ok(ToolOutput::text(args.to_string())) };
        let tool = json_tool("sum", "Sums.", parameters.clone(), SideEffect::Pure, run);
        assert_eq!(tool.spec().parameters, parameters);
        let got = tool.call(context(), json!({"ids": "4"})).await;
        assert_eq!(got, Ok(ToolOutput::text(r#"{"ids":[4]}"#)));
        let sent = json!({"ids": [1, "two"], "all": true});
        let err = tool.call(context(), sent).await.unwrap_err();
        let text = concat!(
            "invalid arguments:\n",
            "ids[1]: must be integer, not string \"two\"\n",
            "all: is not a field of this object; it has ids\n",
            r#"Received: {"ids":[1,"two"],"all":true}"#,
        );
        assert_eq!(err.message, text);
    }

    #[tokio::test]
    async fn a_dropped_call_cancels_its_blocking_work() {
        static STARTED: Semaphore = Semaphore::const_new(0);
        static STOPPED: Semaphore = Semaphore::const_new(0);
        let run = |cx: &ToolContext, _: &Nothing| {
            STARTED.add_permits(1);
            while !cx.cancel.is_cancelled() {
                std::thread::yield_now();
            }
            STOPPED.add_permits(1);
            Ok(ToolOutput::default())
        };
        let tool = blocking_tool::<Nothing>("wait", "Waits.", SideEffect::Pure, run);
        let cx = context();
        let outer = cx.cancel.clone();
        tokio::select! {
            _ = tool.call(cx, json!({})) => panic!("it waits for the cancellation"),
            started = STARTED.acquire() => started.unwrap().forget(),
        }
        STOPPED.acquire().await.unwrap().forget();
        assert!(!outer.is_cancelled(), "only the call itself is cancelled");
    }

    #[test]
    fn names_are_checked() {
        for name in ["a", "read_file-2", &"n".repeat(64)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a.b", "é", "a/b", &"n".repeat(65)] {
            assert_eq!(
                check_name(name).unwrap_err().field(),
                Some("name"),
                "{name}"
            );
        }
    }
}
