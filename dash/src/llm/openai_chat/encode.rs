//! Writes requests. The order of keys is the order of fields here, so the bytes are stable.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use super::{ChatOptions, OutputLimitField};
use crate::llm::dialect::{check, write_body};
use crate::llm::handoff::{CallIdRule, CallResult, Part, Said, Turn, joined, turns};
use crate::llm::{LlmError, LlmRequest, ToolChoice, ToolSpec, api};

/// Servers take any characters.
const CALL_IDS: CallIdRule = CallIdRule {
    len_max: 40,
    plain: false,
};

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
        content: Cow<'a, str>,
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
    Parts(Vec<Piece<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Piece<'a> {
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
/// The conversation is told as [`handoff`](crate::llm::handoff) says; thinking is left out.
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
        model: request.model.wire_id(),
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
    let limits = ["max_tokens", "max_completion_tokens"];
    write_body(&body, &request.options.extra, &limits)
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
            content: Cow::Borrowed(&request.system),
        });
    }
    for turn in turns(request, api::OPENAI_CHAT, CALL_IDS) {
        match turn {
            Turn::User(content) => out.push(user(content)),
            Turn::Assistant { parts, results, .. } => push_assistant(parts, results, &mut out),
        }
    }
    out
}

fn user(content: Vec<Said<'_>>) -> WireMessage<'_> {
    if content
        .iter()
        .any(|said| matches!(said, Said::Image { .. }))
    {
        let parts = content.into_iter().map(piece).collect();
        return WireMessage::User {
            content: Content::Parts(parts),
        };
    }
    let text = match content.as_slice() {
        [Said::Text(text)] => text.clone(),
        several => Cow::Owned(joined(several).into_owned()),
    };
    WireMessage::User {
        content: Content::Text(text),
    }
}

fn push_assistant<'a>(
    parts: Vec<Part<'a>>,
    results: Vec<CallResult<'a>>,
    out: &mut Vec<WireMessage<'a>>,
) {
    let mut text = String::new();
    let mut tool_calls = Vec::new();
    for part in parts {
        match part {
            Part::Text { text: piece, .. } => text.push_str(piece),
            Part::Thinking { .. } => {}
            Part::Call {
                id,
                name,
                arguments,
                ..
            } => tool_calls.push(WireCall {
                id,
                r#type: "function",
                function: WireFunction {
                    name,
                    arguments: arguments.to_string(),
                },
            }),
        }
    }
    if text.is_empty() && tool_calls.is_empty() {
        return;
    }
    let content = Some(text).filter(|text| !text.is_empty());
    out.push(WireMessage::Assistant {
        content,
        tool_calls,
    });
    let mut images = Vec::new();
    for result in results {
        out.push(WireMessage::Tool {
            tool_call_id: result.id.clone(),
            content: Cow::Owned(result.text().into_owned()),
        });
        let seen = result.content.into_iter();
        images.extend(
            seen.filter(|said| matches!(said, Said::Image { .. }))
                .map(piece),
        );
    }
    if !images.is_empty() {
        // Tool messages carry text only.
        let intro = Piece::Text {
            text: Cow::Borrowed("Images of the tool results:"),
        };
        images.insert(0, intro);
        out.push(WireMessage::User {
            content: Content::Parts(images),
        });
    }
}

fn piece(said: Said<'_>) -> Piece<'_> {
    match said {
        Said::Text(text) => Piece::Text { text },
        Said::Image { data, mime_type } => {
            let url = format!("data:{mime_type};base64,{data}");
            Piece::ImageUrl {
                image_url: ImageUrl { url },
            }
        }
    }
}
