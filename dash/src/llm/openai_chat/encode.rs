//! Writes requests. The order of keys is the order of fields here, so the bytes are stable.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::{ChatOptions, OutputLimitField};
use crate::llm::{LlmError, LlmErrorKind, LlmRequest, ToolChoice, ToolSpec};
use crate::model::{
    AssistantMessage, ContentBlock, Message, StopReason, ToolCall, ToolResultMessage, UserMessage,
};

/// Characters of a tool call's id the servers take.
const CALL_ID_LEN_MAX: usize = 40;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: Vec<WireMessage<'a>>,
    stream: bool,
    stream_options: StreamOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<WireTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<WireChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
enum WireMessage<'a> {
    System {
        content: &'a str,
    },
    User {
        content: Content<'a>,
    },
    Assistant {
        /// `null` beside calls.
        content: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<WireCall<'a>>,
    },
    Tool {
        tool_call_id: Cow<'a, str>,
        content: Cow<'a, str>,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: Cow<'a, str> },
    ImageUrl { image_url: ImageUrl },
}

#[derive(Serialize)]
struct ImageUrl {
    url: String,
}

#[derive(Serialize)]
struct WireCall<'a> {
    id: Cow<'a, str>,
    r#type: &'static str,
    function: WireFunction<'a>,
}

#[derive(Serialize)]
struct WireFunction<'a> {
    name: &'a str,
    arguments: String,
}

#[derive(Serialize)]
struct WireTool<'a> {
    r#type: &'static str,
    function: &'a ToolSpec,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireChoice<'a> {
    Word(&'static str),
    Named {
        r#type: &'static str,
        function: NamedFunction<'a>,
    },
}

#[derive(Serialize)]
struct NamedFunction<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct ResponseFormat<'a> {
    r#type: &'static str,
    json_schema: JsonSchemaFormat<'a>,
}

#[derive(Serialize)]
struct JsonSchemaFormat<'a> {
    name: &'static str,
    schema: &'a Value,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    strict: bool,
}

/// Writes the body of a request, a JSON object. The same request gives the same bytes.
///
/// Assistant messages that failed or were cancelled are left out, as are thinking, empty assistant
/// messages and results that answer no call. A call without a result gets an error result, since
/// servers refuse a conversation with an open call. Images become text if the model cannot see.
///
/// # Errors
///
/// [`LlmErrorKind::InvalidRequest`], unbilled: the temperature is not a number, or a tool must be
/// called that is not on offer.
pub fn encode(request: &LlmRequest, options: ChatOptions) -> Result<Vec<u8>, LlmError> {
    check(request)?;
    let limit = Some(request.max_output_tokens);
    let (max_tokens, max_completion_tokens) = match options.output_limit {
        OutputLimitField::MaxTokens => (limit, None),
        OutputLimitField::MaxCompletionTokens => (None, limit),
    };
    let tools = request.tools.iter().map(|tool| WireTool {
        r#type: "function",
        function: tool,
    });
    let body = Body {
        model: &request.model.id,
        messages: messages(request),
        stream: true,
        stream_options: StreamOptions {
            include_usage: true,
        },
        max_tokens,
        max_completion_tokens,
        temperature: request.temperature,
        tools: tools.collect(),
        tool_choice: tool_choice(request),
        response_format: request
            .response_schema
            .as_ref()
            .map(|schema| ResponseFormat {
                r#type: "json_schema",
                json_schema: JsonSchemaFormat {
                    name: "answer",
                    schema,
                    strict: options.strict_schema,
                },
            }),
    };
    serde_json::to_vec(&body)
        .map_err(|err| invalid(format!("the request cannot be written as JSON: {err}")))
}

fn invalid(message: impl Into<String>) -> LlmError {
    LlmError::unbilled(LlmErrorKind::InvalidRequest, message)
}

fn check(request: &LlmRequest) -> Result<(), LlmError> {
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

fn tool_choice(request: &LlmRequest) -> Option<WireChoice<'_>> {
    match &request.tool_choice {
        ToolChoice::Auto => None,
        // Servers refuse a choice without tools.
        ToolChoice::None if request.tools.is_empty() => None,
        ToolChoice::None => Some(WireChoice::Word("none")),
        ToolChoice::Required => Some(WireChoice::Word("required")),
        ToolChoice::Tool(name) => Some(WireChoice::Named {
            r#type: "function",
            function: NamedFunction { name },
        }),
    }
}

fn messages(request: &LlmRequest) -> Vec<WireMessage<'_>> {
    let mut out = Vec::with_capacity(request.messages.len() + 1);
    if !request.system.is_empty() {
        out.push(WireMessage::System {
            content: &request.system,
        });
    }
    let sees = request.model.images;
    let mut rest = request.messages.as_slice();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match &**first {
            Message::User(user) => push_user(user, sees, &mut out),
            Message::Assistant(said) => push_assistant(said, after, sees, &mut out),
            // Results are written with their calls; one that is met here answers none.
            Message::ToolResult(_) => {}
        }
    }
    out
}

fn push_user<'a>(user: &'a UserMessage, sees: bool, out: &mut Vec<WireMessage<'a>>) {
    match user.content.as_slice() {
        [] => {}
        [ContentBlock::Text { text }] => {
            out.push(WireMessage::User {
                content: Content::Text(Cow::Borrowed(text)),
            });
        }
        blocks if sees && blocks.iter().any(is_image) => {
            out.push(WireMessage::User {
                content: Content::Parts(blocks.iter().map(part).collect()),
            });
        }
        blocks => out.push(WireMessage::User {
            content: Content::Text(Cow::Owned(as_text(blocks))),
        }),
    }
}

fn push_assistant<'a>(
    said: &'a AssistantMessage,
    after: &'a [Arc<Message>],
    sees: bool,
    out: &mut Vec<WireMessage<'a>>,
) {
    if matches!(said.stop_reason, StopReason::Error | StopReason::Aborted) {
        return;
    }
    let text = said.text();
    let tool_calls: Vec<WireCall<'_>> = said.tool_calls().map(call).collect();
    if text.is_empty() && tool_calls.is_empty() {
        return;
    }
    let content = Some(text).filter(|text| !text.is_empty());
    out.push(WireMessage::Assistant {
        content,
        tool_calls,
    });

    let turn = after
        .iter()
        .take_while(|message| !matches!(***message, Message::Assistant(_)));
    let mut results: VecDeque<&ToolResultMessage> = turn
        .filter_map(|message| match &**message {
            Message::ToolResult(result) => Some(result),
            Message::User(_) | Message::Assistant(_) => None,
        })
        .collect();
    let mut images = Vec::new();
    for call in said.tool_calls() {
        let at = results
            .iter()
            .position(|result| result.tool_call_id == call.id);
        let result = at.and_then(|at| results.remove(at));
        out.push(tool_result(call, result, sees));
        let blocks = result.map_or(&[][..], |result| &result.content);
        images.extend(
            blocks
                .iter()
                .filter(|block| sees && is_image(block))
                .map(part),
        );
    }
    if !images.is_empty() {
        // Tool messages carry text only.
        let intro = Part::Text {
            text: Cow::Borrowed("Images of the tool results:"),
        };
        images.insert(0, intro);
        out.push(WireMessage::User {
            content: Content::Parts(images),
        });
    }
}

fn call(call: &ToolCall) -> WireCall<'_> {
    let function = WireFunction {
        name: &call.name,
        arguments: call.arguments.to_string(),
    };
    WireCall {
        id: wire_id(&call.id),
        r#type: "function",
        function,
    }
}

fn tool_result<'a>(
    call: &'a ToolCall,
    result: Option<&'a ToolResultMessage>,
    sees: bool,
) -> WireMessage<'a> {
    let content = match result.map(|result| result.content.as_slice()) {
        None => Cow::Borrowed("No result provided"),
        Some([ContentBlock::Text { text }]) => Cow::Borrowed(text.as_str()),
        Some(blocks) if sees => Cow::Owned(texts(blocks).collect::<Vec<_>>().join("\n")),
        Some(blocks) => Cow::Owned(as_text(blocks)),
    };
    WireMessage::Tool {
        tool_call_id: wire_id(&call.id),
        content,
    }
}

/// An id the servers take. One that another dialect made too long is replaced by its hash, which
/// keeps the calls of a turn apart and is the same for the call and its result.
fn wire_id(id: &str) -> Cow<'_, str> {
    if id.len() <= CALL_ID_LEN_MAX {
        return Cow::Borrowed(id);
    }
    let hash = blake3::hash(id.as_bytes()).to_hex();
    Cow::Owned(format!("call_{}", hash.get(..32).unwrap_or_default()))
}

const fn is_image(block: &ContentBlock) -> bool {
    matches!(block, ContentBlock::Image { .. })
}

fn part(block: &ContentBlock) -> Part<'_> {
    match block {
        ContentBlock::Text { text } => Part::Text {
            text: Cow::Borrowed(text),
        },
        ContentBlock::Image { data, mime_type } => {
            let url = format!("data:{mime_type};base64,{data}");
            Part::ImageUrl {
                image_url: ImageUrl { url },
            }
        }
    }
}

fn texts(blocks: &[ContentBlock]) -> impl Iterator<Item = &str> {
    blocks.iter().filter_map(|block| match block {
        ContentBlock::Text { text } => Some(text.as_str()),
        ContentBlock::Image { .. } => None,
    })
}

/// The texts, with one remark for each run of images.
fn as_text(blocks: &[ContentBlock]) -> String {
    const LEFT_OUT: &str = "[image left out: the model cannot see images]";
    let mut lines: Vec<&str> = blocks
        .iter()
        .map(|block| match block {
            ContentBlock::Text { text } => text.as_str(),
            ContentBlock::Image { .. } => LEFT_OUT,
        })
        .collect();
    lines.dedup_by(|line, before| *line == LEFT_OUT && *before == LEFT_OUT);
    lines.join("\n")
}
