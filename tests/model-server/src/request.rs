//! What a client asked, checked as far as the API would check it.

use std::borrow::Cow;

use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

/// A request for a completion.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model that was named.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether the stream is to end with the usage.
    pub include_usage: bool,
    /// How many messages there are.
    pub messages: usize,
    /// How many of them are tool results.
    pub tool_results: u32,
    /// The limit of the answer's tokens, if there is one.
    pub max_tokens: Option<u64>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: Bytes,
}

impl Request {
    /// The number of tool results plus one: the turn of an agent that makes one call a turn.
    #[must_use]
    pub const fn turn(&self) -> u32 {
        self.tool_results + 1
    }

    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON. It was read once already, so it is JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What this server bills for the request: a token for four bytes of the body, rounded down.
    #[must_use]
    pub const fn input_tokens(&self) -> u64 {
        // A usize fits a u64 wherever this runs.
        self.body.len() as u64 / 4
    }

    /// Reads a request.
    pub(crate) fn read(headers: HeaderMap, body: &Bytes) -> Result<Self, String> {
        let wire: Wire<'_> =
            serde_json::from_slice(body).map_err(|err| format!("cannot read the body: {err}"))?;
        let tool_results = check(&wire.messages)?;
        let max_tokens = wire.max_completion_tokens.or(wire.max_tokens);
        if max_tokens == Some(0) {
            return Err("an answer of 0 tokens is none".to_owned());
        }
        Ok(Self {
            model: wire.model.into_owned(),
            stream: wire.stream,
            include_usage: wire.stream_options.is_some_and(|o| o.include_usage),
            messages: wire.messages.len(),
            tool_results,
            max_tokens,
            headers,
            body: body.clone(),
        })
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    max_completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    tool_call_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// Whether every call has its result and every result its call; answers the number of results.
fn check(messages: &[Message<'_>]) -> Result<u32, String> {
    if messages.is_empty() {
        return Err("`messages` is empty".to_owned());
    }
    let mut open: Vec<&str> = Vec::new();
    let mut results = 0;
    for (at, message) in messages.iter().enumerate() {
        match message.role.as_ref() {
            "tool" => {
                let id = message.tool_call_id.as_deref();
                let id = id.ok_or_else(|| format!("messages[{at}]: no `tool_call_id`"))?;
                let call = open.iter().position(|call| *call == id);
                let call = call.ok_or_else(|| {
                    format!("messages[{at}]: `{id}` is no call that waits for a result")
                })?;
                open.swap_remove(call);
                results += 1;
            }
            "system" | "developer" | "user" | "assistant" => {
                if let Some(id) = open.first() {
                    return Err(format!("messages[{at}]: the call `{id}` has no result"));
                }
                let calls = message.tool_calls.iter().flatten();
                open.extend(calls.map(|call| call.id.as_ref()));
                if !open.is_empty() && message.role != "assistant" {
                    return Err(format!("messages[{at}]: only an assistant makes calls"));
                }
            }
            role => return Err(format!("messages[{at}]: unknown role `{role}`")),
        }
    }
    match open.first() {
        Some(id) => Err(format!("the call `{id}` has no result")),
        None => Ok(results),
    }
}
