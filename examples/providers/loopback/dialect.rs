//! The four dialects from the server's side: what a request must hold, and an answer's events.

use serde_json::{Value, json};

use super::Request;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAiChat,
    OpenAiResponses,
    Anthropic,
    Gemini,
}

/// What a server has read of a request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) model: String,
    /// Names of the tools on offer.
    pub(crate) tools: Vec<String>,
    /// What the person said first.
    pub(crate) task: String,
    /// What tools have answered so far.
    pub(crate) results: Vec<String>,
}

/// A piece of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Saying {
    Text(String),
    Call { name: String, arguments: Value },
}

/// What every answer counts as: 1,200 tokens of prompt, 1,000 of them from the cache, 50 of answer.
const PROMPT: u64 = 1_200;
const CACHED: u64 = 1_000;
const ANSWER: u64 = 50;

impl Dialect {
    pub(crate) const ALL: [Self; 4] = [
        Self::OpenAiChat,
        Self::OpenAiResponses,
        Self::Anthropic,
        Self::Gemini,
    ];

    /// Whether the request carries a key where this dialect has it.
    pub(super) fn has_key(self, request: &Request) -> bool {
        let key = match self {
            Self::OpenAiChat | Self::OpenAiResponses => request
                .header("authorization")
                .and_then(|value| value.strip_prefix("Bearer ")),
            Self::Anthropic => request.header("x-api-key"),
            Self::Gemini => request.header("x-goog-api-key"),
        };
        key.is_some_and(|key| !key.is_empty())
    }

    /// Reads a request, or says what is not of this dialect.
    pub(super) fn read(self, request: &Request) -> Result<Asked, String> {
        let (line, body) = (request.line.as_str(), &request.body);
        let path = match self {
            Self::OpenAiChat => "POST /v1/chat/completions ",
            Self::OpenAiResponses => "POST /v1/responses ",
            Self::Anthropic => "POST /v1/messages ",
            Self::Gemini => "POST /v1beta/models/",
        };
        let rest = line.strip_prefix(path);
        let rest = rest.ok_or_else(|| format!("`{line}` does not begin with `{path}`"))?;
        // Where each dialect has the same things, and what only it has.
        let (needed, messages, tools) = match self {
            Self::OpenAiChat => (vec!["stream"], "messages", "/function/name"),
            Self::OpenAiResponses => (
                vec!["stream", "max_output_tokens", "store"],
                "input",
                "/name",
            ),
            Self::Anthropic => (vec!["stream", "max_tokens"], "messages", "/name"),
            Self::Gemini => (vec!["generationConfig"], "contents", "/name"),
        };
        if let Some(missing) = needed.iter().find(|field| body.get(**field).is_none()) {
            return Err(format!("no `{missing}`"));
        }
        if self == Self::Anthropic && request.header("anthropic-version").is_none() {
            return Err("no header `anthropic-version`".to_owned());
        }
        let messages = body.get(messages).and_then(Value::as_array);
        let messages = messages.ok_or("no conversation")?;
        let offered = match self {
            Self::Gemini => body.pointer("/tools/0/functionDeclarations"),
            _ => body.get("tools"),
        };
        let offered = offered.and_then(Value::as_array).into_iter().flatten();
        let model = match self {
            Self::Gemini => rest.split_once(':').map(|(model, _method)| model),
            _ => body.get("model").and_then(Value::as_str),
        };
        Ok(Asked {
            model: model.ok_or("no model")?.to_owned(),
            tools: offered.filter_map(|tool| text_at(tool, tools)).collect(),
            task: messages
                .iter()
                .find(|message| text_at(message, "/role").as_deref() == Some("user"))
                .and_then(|message| message.get("content").or_else(|| message.get("parts")))
                .map(text_of)
                .ok_or("nobody said anything")?,
            results: messages.iter().flat_map(|one| self.results(one)).collect(),
        })
    }

    /// The results of tools that a message holds.
    fn results(self, message: &Value) -> Vec<String> {
        let is = |value: &Value, at: &str, word: &str| text_at(value, at).as_deref() == Some(word);
        let parts = |at: &str| {
            let parts = message.get(at).and_then(Value::as_array);
            parts.into_iter().flatten()
        };
        match self {
            Self::OpenAiChat if is(message, "/role", "tool") => {
                message.get("content").map(text_of).into_iter().collect()
            }
            Self::OpenAiResponses if is(message, "/type", "function_call_output") => {
                message.get("output").map(text_of).into_iter().collect()
            }
            Self::Anthropic => parts("content")
                .filter(|part| is(part, "/type", "tool_result"))
                .filter_map(|part| part.get("content").map(text_of))
                .collect(),
            Self::Gemini => parts("parts")
                .filter_map(|part| part.pointer("/functionResponse/response"))
                .filter_map(|said| said.get("output").or_else(|| said.get("error")))
                .map(text_of)
                .collect(),
            Self::OpenAiChat | Self::OpenAiResponses => Vec::new(),
        }
    }

    /// Writes an answer as this dialect streams it.
    pub(super) fn write(self, asked: &Asked, pieces: &[Saying]) -> String {
        let calls = pieces.iter().any(|one| matches!(one, Saying::Call { .. }));
        let answer = Answer {
            model: &asked.model,
            turn: asked.results.len(),
            pieces,
            calls,
        };
        match self {
            Self::OpenAiChat => answer.chat(),
            Self::OpenAiResponses => answer.responses(),
            Self::Anthropic => answer.anthropic(),
            Self::Gemini => answer.gemini(),
        }
    }
}

/// An answer to be written.
struct Answer<'a> {
    model: &'a str,
    /// Makes the ids of calls different.
    turn: usize,
    pieces: &'a [Saying],
    calls: bool,
}

impl Answer<'_> {
    fn chat(&self) -> String {
        let chunk = |delta: Value, reason: Value| {
            let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
            let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk",
                "model": self.model, "choices": [choice]});
            event("", &chunk)
        };
        let mut out = chunk(json!({"role": "assistant", "content": ""}), Value::Null);
        let mut at = 0;
        for piece in self.pieces {
            match piece {
                Saying::Text(text) => {
                    for word in text.split_inclusive(' ') {
                        out.push_str(&chunk(json!({"content": word}), Value::Null));
                    }
                }
                Saying::Call { name, arguments } => {
                    let id = format!("call_{}_{at}", self.turn);
                    let function = json!({"name": name, "arguments": arguments.to_string()});
                    let call =
                        json!({"index": at, "id": id, "type": "function", "function": function});
                    out.push_str(&chunk(json!({"tool_calls": [call]}), Value::Null));
                    at += 1;
                }
            }
        }
        let reason = if self.calls { "tool_calls" } else { "stop" };
        out.push_str(&chunk(json!({}), json!(reason)));
        let usage = json!({"prompt_tokens": PROMPT, "completion_tokens": ANSWER,
            "total_tokens": PROMPT + ANSWER, "prompt_tokens_details": {"cached_tokens": CACHED}});
        let last = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk",
            "model": self.model, "choices": [], "usage": usage});
        out + &event("", &last) + "data: [DONE]\n\n"
    }

    fn responses(&self) -> String {
        let mut out = String::new();
        let mut items = Vec::new();
        let mut send = |mut said: Value| {
            let number = out.matches("event: ").count();
            let kind = text_at(&said, "/type").unwrap_or_default();
            if let Some(fields) = said.as_object_mut() {
                fields.insert("sequence_number".to_owned(), json!(number));
            }
            out.push_str(&event(&kind, &said));
        };
        let response = |status: &str, items: &[Value], usage: Value| {
            json!({"id": "resp_1", "object": "response", "status": status, "model": self.model,
                "output": items, "usage": usage})
        };
        let began = response("in_progress", &[], Value::Null);
        send(json!({"type": "response.created", "response": began}));
        for (at, piece) in self.pieces.iter().enumerate() {
            let added = |item: &Value| json!({"type": "response.output_item.added", "output_index": at, "item": item});
            let item = match piece {
                Saying::Text(text) => {
                    let id = format!("msg_{}_{at}", self.turn);
                    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
                    send(added(
                        &json!({"id": id, "type": "message", "role": "assistant",
                        "status": "in_progress", "content": []}),
                    ));
                    send(json!({"type": "response.content_part.added", "item_id": id,
                        "output_index": at, "content_index": 0, "part": part("")}));
                    for word in text.split_inclusive(' ') {
                        send(json!({"type": "response.output_text.delta", "item_id": id,
                            "output_index": at, "content_index": 0, "delta": word}));
                    }
                    send(json!({"type": "response.output_text.done", "item_id": id,
                        "output_index": at, "content_index": 0, "text": text}));
                    json!({"id": id, "type": "message", "role": "assistant",
                        "status": "completed", "content": [part(text)]})
                }
                Saying::Call { name, arguments } => {
                    let (id, arguments) = (format!("fc_{}_{at}", self.turn), arguments.to_string());
                    let call_id = format!("call_{}_{at}", self.turn);
                    let item = |status: &str, arguments: &str| {
                        json!({"id": id, "type": "function_call", "status": status,
                            "call_id": call_id, "name": name, "arguments": arguments})
                    };
                    send(added(&item("in_progress", "")));
                    send(json!({"type": "response.function_call_arguments.delta",
                        "item_id": id, "output_index": at, "delta": arguments}));
                    send(json!({"type": "response.function_call_arguments.done",
                        "item_id": id, "output_index": at, "arguments": arguments}));
                    item("completed", &arguments)
                }
            };
            send(json!({"type": "response.output_item.done", "output_index": at, "item": item}));
            items.push(item);
        }
        let usage = json!({"input_tokens": PROMPT, "output_tokens": ANSWER,
            "total_tokens": PROMPT + ANSWER, "input_tokens_details": {"cached_tokens": CACHED}});
        let ended = response("completed", &items, usage);
        send(json!({"type": "response.completed", "response": ended}));
        out
    }

    fn anthropic(&self) -> String {
        let mut out = String::new();
        let mut send = |said: Value| {
            let kind = text_at(&said, "/type").unwrap_or_default();
            out.push_str(&event(&kind, &said));
        };
        let usage = json!({"input_tokens": PROMPT - CACHED, "cache_read_input_tokens": CACHED,
            "cache_creation_input_tokens": 0, "output_tokens": 1});
        send(
            json!({"type": "message_start", "message": {"id": "msg_1", "type": "message",
            "role": "assistant", "model": self.model, "content": [], "stop_reason": null,
            "usage": usage}}),
        );
        for (at, piece) in self.pieces.iter().enumerate() {
            let begin = |block: Value| json!({"type": "content_block_start", "index": at, "content_block": block});
            let delta =
                |delta: Value| json!({"type": "content_block_delta", "index": at, "delta": delta});
            match piece {
                Saying::Text(text) => {
                    send(begin(json!({"type": "text", "text": ""})));
                    for word in text.split_inclusive(' ') {
                        send(delta(json!({"type": "text_delta", "text": word})));
                    }
                }
                Saying::Call { name, arguments } => {
                    let id = format!("toolu_{}_{at}", self.turn);
                    send(begin(
                        json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
                    ));
                    let text = arguments.to_string();
                    send(delta(
                        json!({"type": "input_json_delta", "partial_json": text}),
                    ));
                }
            }
            send(json!({"type": "content_block_stop", "index": at}));
        }
        let reason = if self.calls { "tool_use" } else { "end_turn" };
        send(
            json!({"type": "message_delta", "delta": {"stop_reason": reason},
            "usage": {"output_tokens": ANSWER}}),
        );
        send(json!({"type": "message_stop"}));
        out
    }

    fn gemini(&self) -> String {
        let mut parts = Vec::new();
        for (at, piece) in self.pieces.iter().enumerate() {
            match piece {
                Saying::Text(text) => {
                    let words = text.split_inclusive(' ');
                    parts.extend(words.map(|word| json!({"text": word})));
                }
                Saying::Call { name, arguments } => {
                    let id = format!("call-{}-{at}", self.turn);
                    parts
                        .push(json!({"functionCall": {"id": id, "name": name, "args": arguments}}));
                }
            }
        }
        let count = parts.len();
        let chunk = |(at, part): (usize, Value)| {
            let content = json!({"role": "model", "parts": [part]});
            let mut chunk = json!({"candidates": [{"index": 0, "content": content}],
                "modelVersion": self.model, "responseId": "answer-1"});
            if at + 1 == count {
                let candidate = chunk.pointer_mut("/candidates/0");
                if let Some(fields) = candidate.and_then(Value::as_object_mut) {
                    fields.insert("finishReason".to_owned(), json!("STOP"));
                }
                let usage = json!({"promptTokenCount": PROMPT, "cachedContentTokenCount": CACHED,
                    "candidatesTokenCount": ANSWER, "totalTokenCount": PROMPT + ANSWER});
                if let Some(fields) = chunk.as_object_mut() {
                    fields.insert("usageMetadata".to_owned(), usage);
                }
            }
            event("", &chunk)
        };
        parts.into_iter().enumerate().map(chunk).collect()
    }
}

/// One event of a stream; most have a name.
fn event(name: &str, data: &Value) -> String {
    let name = match name {
        "" => String::new(),
        name => format!("event: {name}\n"),
    };
    format!("{name}data: {data}\n\n")
}

fn text_at(value: &Value, at: &str) -> Option<String> {
    Some(value.pointer(at)?.as_str()?.to_owned())
}

/// A text, or the texts of its parts.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|p| text_at(p, "/text")).collect(),
        _ => String::new(),
    }
}
