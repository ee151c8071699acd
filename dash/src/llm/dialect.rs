//! Dialects: how a request is written for a kind of server, and how its answer is read.
//!
//! ```text
//!  LlmRequest ──Dialect::encode──▶ body ──▶ (HTTP driver) ──▶ SSE events ──Decoder::feed──▶ LlmEvents
//! ```
//!
//! Pure: bytes and events in, bytes and events out, no IO and no clock. One driver serves all
//! dialects, and tests and fuzzers need no socket. [`Answer`] holds what every decoder shares: the
//! event grammar, the fold, tool arguments, usage and cost.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{LlmError, LlmErrorKind, LlmEvent, LlmRequest, Model, ToolChoice};

pub use super::answer::{
    ANSWER_BYTES_MAX, Answer, AnswerSetup, BLOCKS_MAX, BlockHandle, CallEnd, TextEnd, TextKind,
};

/// One server-sent event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// Its name; `message` if the server gave none.
    pub name: &'a str,
    /// Its data lines, joined by line breaks.
    pub data: &'a str,
}

/// How a key is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyHeader {
    /// `authorization: Bearer <key>`.
    Bearer,
    /// A header of this name with the key alone.
    Named(&'static str),
}

/// A kind of server.
pub trait Dialect: fmt::Debug + Send + Sync + 'static {
    /// Its name, one of [`api`](super::api) or the implementer's own.
    fn api(&self) -> &'static str;

    /// The path that is added to a base URL that has none, e.g. `/v1`.
    fn base_path(&self) -> &'static str {
        "/v1"
    }

    /// The path to post the request to, below the base URL, e.g. `/chat/completions`. It may end in
    /// a query.
    fn path(&self, request: &LlmRequest) -> String;

    /// How the key is sent.
    fn key_header(&self) -> KeyHeader {
        KeyHeader::Bearer
    }

    /// Headers besides the usual ones. Names in lower case.
    fn headers(&self, request: &LlmRequest) -> Vec<(&'static str, String)> {
        let _none = request;
        Vec::new()
    }

    /// The request's body. The same request always gives the same bytes, so that servers can cache
    /// prompts by prefix.
    ///
    /// # Errors
    ///
    /// [`LlmErrorKind::InvalidRequest`], unbilled, if the
    /// dialect cannot say what is asked.
    fn encode(&self, request: &LlmRequest) -> Result<Vec<u8>, LlmError>;

    /// A decoder for the answer.
    fn decoder(&self, setup: AnswerSetup) -> Box<dyn Decoder>;

    /// Where the list of models is, below the base URL; it may end in a query.
    fn models_path(&self) -> &'static str {
        "/models"
    }

    /// Reads the list of models. What the server does not tell is as in [`Model::free`].
    ///
    /// # Errors
    ///
    /// [`LlmErrorKind::Decode`], unbilled, if it is no such list.
    fn read_models(&self, body: &str, provider: &str) -> Result<Vec<Model>, LlmError>;
}

/// Turns one answer's events into [`LlmEvent`]s that obey their grammar, whatever the server sends.
///
/// After the terminal event every method does nothing.
pub trait Decoder: Send {
    /// Reads one server-sent event and adds what it means to `out`.
    fn feed(&mut self, event: SseEvent<'_>, out: &mut Vec<LlmEvent>);

    /// The body ended. Adds the terminal event if there was none.
    fn eof(&mut self, out: &mut Vec<LlmEvent>);

    /// The transport failed. Adds the error with what was said before;
    /// [`LlmError::billing`] becomes `Known` if the server told the usage in time.
    fn fail(&mut self, error: LlmError, out: &mut Vec<LlmEvent>);

    /// Whether the terminal event is out.
    fn is_ended(&self) -> bool;
}

fn invalid(message: impl Into<String>) -> LlmError {
    LlmError::unbilled(LlmErrorKind::InvalidRequest, message)
}

/// Checks what no dialect can say.
///
/// # Errors
///
/// [`LlmErrorKind::InvalidRequest`], unbilled: the temperature is not a number, or a tool must be
/// called that is not on offer.
pub fn check(request: &LlmRequest) -> Result<(), LlmError> {
    if request
        .temperature
        .is_some_and(|temperature| !temperature.is_finite())
    {
        return Err(invalid("the temperature is not a finite number"));
    }
    match &request.tool_choice {
        ToolChoice::Auto | ToolChoice::None => Ok(()),
        ToolChoice::Required if request.tools.is_empty() => {
            Err(invalid("a tool must be called, but none is on offer"))
        }
        ToolChoice::Required => Ok(()),
        ToolChoice::Tool(name) if request.tools.iter().any(|tool| tool.name == *name) => Ok(()),
        ToolChoice::Tool(name) => Err(invalid(format!(
            "tool `{name}` must be called, but is not on offer"
        ))),
    }
}

/// Fields that say which model answers, how often and how: what a budget has reserved and what the
/// decoder can read depend on them.
const FIXED: [&str; 6] = ["model", "models", "stream", "n", "route", "background"];

/// Writes a body: its own fields in their order, then `extra`, which replaces or is merged into what
/// is there, object by object. What `reserved` names stays as the dialect wrote it, at any depth, and
/// so do, at the top, the model and how many answers come in which way.
///
/// # Errors
///
/// [`LlmErrorKind::InvalidRequest`], unbilled, if it is no JSON.
pub fn write_body<T: Serialize>(
    body: &T,
    extra: &Map<String, Value>,
    reserved: &[&str],
) -> Result<Vec<u8>, LlmError> {
    let unwritable = |err| invalid(format!("the request cannot be written as JSON: {err}"));
    if extra.is_empty() {
        return serde_json::to_vec(body).map_err(unwritable);
    }
    let mut whole = serde_json::to_value(body).map_err(unwritable)?;
    if let Value::Object(fields) = &mut whole {
        let free = extra
            .iter()
            .filter(|(key, _)| !FIXED.contains(&key.as_str()));
        let free = free
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        merge(fields, &free, reserved);
    }
    serde_json::to_vec(&whole).map_err(unwritable)
}

fn merge(fields: &mut Map<String, Value>, extra: &Map<String, Value>, reserved: &[&str]) {
    for (key, value) in extra {
        if reserved.contains(&key.as_str()) {
            continue;
        }
        match (fields.get_mut(key), value) {
            (Some(Value::Object(own)), Value::Object(more)) => merge(own, more, reserved),
            _ => {
                fields.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The number that is written the same in twice the precision: 0.7 stays 0.7.
pub(super) fn written(number: f32) -> f64 {
    number
        .to_string()
        .parse()
        .unwrap_or_else(|_| f64::from(number))
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;

    #[test]
    fn extra_fields_win_except_over_what_was_reserved() {
        let body = json!({"model": "m", "config": {"max": 5, "top": 1}, "max": 7});
        let extra =
            json!({"seed": 3, "max": 9, "config": {"max": 6, "top": 2}, "model": "dearer", "n": 4});
        let written = write_body(&body, extra.as_object().unwrap(), &["max"]).unwrap();
        assert_eq!(
            String::from_utf8(written).unwrap(),
            r#"{"model":"m","config":{"max":5,"top":2},"max":7,"seed":3}"#
        );
    }
}
