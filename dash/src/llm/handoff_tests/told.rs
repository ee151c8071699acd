//! Reads what was written, dialect by dialect.

use serde_json::Value;

use crate::llm::api;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    User(String),
    Said,
    Call(String),
    Result(String, String),
}

fn list<'a>(body: &'a Value, key: &str) -> &'a [Value] {
    body[key].as_array().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

const fn places(api: &str) -> (&'static str, Option<&'static str>) {
    match api.as_bytes() {
        b"openai-chat" => ("messages", None),
        b"openai-responses" => ("input", None),
        b"anthropic-messages" => ("messages", Some("content")),
        _ => ("contents", Some("parts")),
    }
}

pub(super) fn roles(api: &str, body: &Value) -> Vec<String> {
    let messages = list(body, places(api).0).iter();
    let roles = messages.filter_map(|message| message["role"].as_str());
    roles.map(str::to_owned).collect()
}

/// The smallest pieces that are never changed later, with their roles and without cache marks.
pub(super) fn pieces(api: &str, body: &Value) -> Vec<(String, Value)> {
    let (key, blocks) = places(api);
    let mut out = Vec::new();
    for message in list(body, key) {
        let role = text(&message["role"]);
        match blocks {
            Some(blocks) => out.extend(
                list(message, blocks)
                    .iter()
                    .map(|b| (role.clone(), b.clone())),
            ),
            None => out.push((role, message.clone())),
        }
    }
    for (_role, piece) in &mut out {
        if let Value::Object(fields) = piece {
            fields.shift_remove("cache_control");
        }
    }
    out
}

/// The conversation, piece by piece, with the role of each.
pub(super) fn told(api: &str, body: &Value) -> Vec<(String, Told)> {
    let mut out = Vec::new();
    for (role, piece) in pieces(api, body) {
        let mut put = |told| out.push((role.clone(), told));
        match api {
            api::ANTHROPIC => match piece["type"].as_str().unwrap() {
                "tool_use" => put(Told::Call(text(&piece["id"]))),
                "tool_result" => put(Told::Result(
                    text(&piece["tool_use_id"]),
                    text(&piece["content"]),
                )),
                _ if role == "user" => put(Told::User(text(&piece["text"]))),
                _ => put(Told::Said),
            },
            api::GEMINI => {
                if let Some(call) = piece.get("functionCall") {
                    put(Told::Call(text(&call["id"])));
                } else if let Some(response) = piece.get("functionResponse") {
                    let shown = response["response"].to_string();
                    put(Told::Result(text(&response["id"]), shown));
                } else if role == "user" {
                    put(Told::User(text(&piece["text"])));
                } else {
                    put(Told::Said);
                }
            }
            api::OPENAI_RESPONSES => match piece["type"].as_str() {
                Some("function_call" | "custom_tool_call") => {
                    put(Told::Call(text(&piece["call_id"])));
                }
                Some("function_call_output" | "custom_tool_call_output") => put(Told::Result(
                    text(&piece["call_id"]),
                    text(&piece["output"]),
                )),
                Some(_) => put(Told::Said),
                None => put(Told::User(piece["content"].to_string())),
            },
            _ => match &*role {
                "tool" => put(Told::Result(
                    text(&piece["tool_call_id"]),
                    text(&piece["content"]),
                )),
                "assistant" => {
                    put(Told::Said);
                    for call in piece["tool_calls"].as_array().into_iter().flatten() {
                        put(Told::Call(text(&call["id"])));
                    }
                }
                _ => put(Told::User(text(&piece["content"]))),
            },
        }
    }
    out
}
