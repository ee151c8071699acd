//! The form of cassettes: one call per line, as JSON.
//!
//! A line: `{"v":1,"provider":…,"fingerprint":…,"request":{…},"events":[…]}`. Requests are told as
//! the model was: without headers, without ids of this process (agent, swarm, step) and without
//! what no model is sent (costs, a tool's details). No time is in it. Whatever looks like a key is
//! removed, in requests before their fingerprint is taken, so that a conversation that goes on from
//! a replayed answer is found again.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::llm::failure::without_keys;
use crate::llm::{LlmEvent, LlmRequest};
use crate::model::{AssistantBlock, Message};

/// The version of the form.
pub(super) const VERSION: u32 = 1;

/// Bytes of one line, at most.
pub(super) const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of a whole cassette, at most.
pub(super) const CASSETTE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// One recorded call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) v: u32,
    pub(super) provider: String,
    pub(super) fingerprint: String,
    pub(super) request: Value,
    /// As they came. Without a terminal one, the call was dropped before its end.
    pub(super) events: Vec<LlmEvent>,
}

impl Line {
    /// The call with its keys removed, as a line with its end.
    pub(super) fn write(
        provider: &str,
        request: &Value,
        mut events: Vec<LlmEvent>,
    ) -> serde_json::Result<Vec<u8>> {
        join_split_keys(&mut events);
        let mut told = serde_json::to_value(&events)?;
        redact(&mut told);
        let line = json!({
            "v": VERSION,
            "provider": provider,
            "fingerprint": fingerprint(request),
            "request": request,
            "events": told,
        });
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// What a request's recording is found by.
pub(super) fn fingerprint(request: &Value) -> String {
    let mut sorted = request.clone();
    sorted.sort_all_objects();
    blake3::hash(sorted.to_string().as_bytes())
        .to_hex()
        .to_string()
}

/// A request in readable form: all that decides the answer.
pub(super) fn readable(request: &LlmRequest) -> Value {
    let options = &request.options;
    let mut extra = Value::Object(options.extra.clone());
    hide_secrets(&mut extra);
    let messages: Vec<Value> = request.messages.iter().map(|m| message(m)).collect();
    let mut told = json!({
        "provider": request.model.provider,
        "model": request.model.id,
        "system": request.system,
        "messages": messages,
        "tools": request.tools,
        "tool_choice": request.tool_choice,
        "max_output_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "response_schema": request.response_schema,
        "thinking": options.thinking,
        "cache": options.cache,
        "parallel_tool_calls": options.parallel_tool_calls,
        "stop": options.stop,
        "extra": extra,
    });
    redact(&mut told);
    told
}

/// A message without what no model is sent.
fn message(message: &Message) -> Value {
    // Plain data with text keys: writing it as JSON cannot fail.
    let mut told = serde_json::to_value(message).unwrap_or_default();
    if let Value::Object(fields) = &mut told {
        let unsent = [
            "usage",
            "cost",
            "cost_reported",
            "response_id",
            "response_model",
            "raw_stop_reason",
            "details",
            "origin",
        ];
        for key in unsent {
            fields.shift_remove(key);
        }
    }
    told
}

/// Removes what looks like a key from every text.
fn redact(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(clean) = without_keys(text) {
                *text = clean;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => fields.values_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Removes texts whose name says that they are secret.
fn hide_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.to_lowercase();
                let words = ["key", "token", "secret", "password", "authorization"];
                if value.is_string() && words.iter().any(|word| name.contains(word)) {
                    *value = Value::from("[redacted]");
                } else {
                    hide_secrets(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A key may be cut by deltas. Where a block's whole text has one, its first delta takes the clean
/// text and the others become empty.
fn join_split_keys(events: &mut [LlmEvent]) {
    let mut blocks: Vec<(String, bool)> = Vec::new();
    for event in events.iter_mut() {
        let is_json = matches!(event, LlmEvent::ToolCallDelta { .. });
        if let Some((index, delta)) = delta(event) {
            if blocks.len() <= index {
                blocks.resize(index + 1, (String::new(), is_json));
            }
            if let Some((whole, of)) = blocks.get_mut(index) {
                whole.push_str(delta);
                *of = is_json;
            }
        }
    }
    for (at, (whole, is_json)) in blocks.iter().enumerate() {
        let clean = if *is_json {
            clean_json(whole)
        } else {
            clean_text(whole)
        };
        let Some(clean) = clean else {
            continue;
        };
        let mut clean = Some(clean);
        for event in events.iter_mut() {
            if let Some((index, delta)) = delta(event)
                && index == at
            {
                *delta = clean.take().unwrap_or_default();
            }
        }
    }
}

/// The text without keys, if it has any.
fn clean_text(text: &str) -> Option<String> {
    match without_keys(text) {
        Cow::Owned(clean) => Some(clean),
        Cow::Borrowed(_) => None,
    }
}

/// The same for JSON text, where an escape before a key hides where it begins.
fn clean_json(text: &str) -> Option<String> {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        // Cut short: a preview that nobody acts on, so its escapes may be lost.
        let open = ["\\n", "\\t", "\\r", "\\f", "\\b"];
        let open = open
            .iter()
            .fold(text.to_owned(), |text, from| text.replace(from, " "));
        return clean_text(&open);
    };
    let mut clean = value.clone();
    redact(&mut clean);
    (clean != value).then(|| clean.to_string())
}

fn delta(event: &mut LlmEvent) -> Option<(usize, &mut String)> {
    match event {
        LlmEvent::TextDelta { index, delta }
        | LlmEvent::ThinkingDelta { index, delta }
        | LlmEvent::ToolCallDelta { index, delta } => {
            // An answer has few blocks; a larger index is nothing a decoder gives.
            let index = usize::try_from(*index)
                .ok()
                .filter(|index| *index < 4_096)?;
            Some((index, delta))
        }
        _ => None,
    }
}

/// Where two requests first differ, e.g. `messages[2]`, and how much is alike before it.
pub(super) fn difference(a: &Value, b: &Value) -> (usize, String) {
    let none = Map::new();
    let (a, b) = (
        a.as_object().unwrap_or(&none),
        b.as_object().unwrap_or(&none),
    );
    let mut alike = 0;
    let mut first = None;
    for (name, value) in a {
        let other = b.get(name).unwrap_or(&Value::Null);
        if value == other {
            alike += 1;
            continue;
        }
        let mut place = name.clone();
        if let (Value::Array(items), Value::Array(others)) = (value, other) {
            let same = items.iter().zip(others).take_while(|(a, b)| a == b).count();
            alike += same + usize::from(items.len() == others.len());
            place = format!("{name}[{same}]");
        }
        first.get_or_insert(place);
    }
    (alike, first.unwrap_or_default())
}

/// How many bytes an event adds to a line, about.
pub(super) fn event_bytes(event: &LlmEvent) -> usize {
    let overhead = 64;
    overhead
        + match event {
            LlmEvent::TextDelta { delta, .. }
            | LlmEvent::ThinkingDelta { delta, .. }
            | LlmEvent::ToolCallDelta { delta, .. } => delta.len(),
            LlmEvent::TextEnd { text, .. } | LlmEvent::ThinkingEnd { text, .. } => text.len(),
            LlmEvent::Done { message, .. } | LlmEvent::Error { message, .. } => {
                let len = |block: &AssistantBlock| match block {
                    AssistantBlock::Text { text, .. } | AssistantBlock::Thinking { text, .. } => {
                        text.len()
                    }
                    AssistantBlock::ToolCall(_) => 0,
                };
                message.content.iter().map(len).sum()
            }
            _ => 0,
        }
}
