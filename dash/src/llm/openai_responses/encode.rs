//! Writes requests. The order of keys is the order of fields here, so the bytes are stable.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use super::ResponsesOptions;
use crate::llm::dialect::{check, write_body, written};
use crate::llm::handoff::{CallIdRule, CallResult, Part, Said, Turn, turns};
use crate::llm::{
    CacheRetention, LlmError, LlmErrorKind, LlmRequest, ThinkingLevel, ThinkingMode, ToolChoice,
    ToolSpec, api,
};

/// The least [`LlmRequest::max_output_tokens`] the API takes.
pub const OUTPUT_TOKENS_MIN: u32 = 16;

/// Servers take any characters.
const CALL_IDS: CallIdRule = CallIdRule {
    len_max: 64,
    plain: false,
};

/// The longest id of an item, in bytes.
const ITEM_ID_LEN_MAX: usize = 64;

/// The longest key of a cache, in characters.
const CACHE_KEY_CHARS_MAX: usize = 64;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    instructions: &'a str,
    input: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<WireTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<WireChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    store: bool,
    stream: bool,
    max_output_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Reasoning<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    include: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<TextOptions<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_retention: Option<&'static str>,
}

#[derive(Serialize)]
struct Reasoning<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'static str>,
}

#[derive(Serialize)]
struct TextOptions<'a> {
    format: Format<'a>,
}

#[derive(Serialize)]
struct Format<'a> {
    r#type: &'static str,
    name: &'static str,
    schema: &'a Value,
    strict: bool,
}

#[derive(Serialize)]
struct WireTool<'a> {
    r#type: &'static str,
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
    strict: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireChoice<'a> {
    Word(&'static str),
    Named { r#type: &'static str, name: &'a str },
}

/// One piece of the conversation.
#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    User {
        role: &'static str,
        content: Vec<Input<'a>>,
    },
    /// A reasoning item as the server sent it.
    Reasoning(Value),
    Message(Answered<'a>),
    Call {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        call_id: Cow<'a, str>,
        name: &'a str,
        arguments: String,
    },
    CustomCall {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        call_id: Cow<'a, str>,
        name: &'a str,
        input: &'a str,
    },
    CallOutput {
        r#type: &'static str,
        call_id: Cow<'a, str>,
        output: Output<'a>,
    },
}

#[derive(Serialize)]
struct Answered<'a> {
    r#type: &'static str,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    status: &'static str,
    content: Vec<OutputText<'a>>,
}

#[derive(Serialize)]
struct OutputText<'a> {
    r#type: &'static str,
    text: &'a str,
    annotations: [(); 0],
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Input<'a> {
    InputText {
        text: Cow<'a, str>,
    },
    InputImage {
        image_url: String,
        detail: &'static str,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Output<'a> {
    Text(String),
    Parts(Vec<Input<'a>>),
}

/// Writes the body of a request, a JSON object. The same request gives the same bytes.
///
/// The conversation is told as [`handoff`](crate::llm::handoff) says. The temperature is left out
/// for models that think, which refuse it.
///
/// # Errors
///
/// [`LlmErrorKind::InvalidRequest`], unbilled: what [`check`] refuses, fewer than
/// [`OUTPUT_TOKENS_MIN`] output tokens, or texts at which the model shall stop.
pub fn encode(request: &LlmRequest, options: ResponsesOptions) -> Result<Vec<u8>, LlmError> {
    check(request)?;
    let invalid = |text: String| LlmError::unbilled(LlmErrorKind::InvalidRequest, text);
    if request.max_output_tokens < OUTPUT_TOKENS_MIN {
        let asked = request.max_output_tokens;
        return Err(invalid(format!(
            "{asked} output tokens are asked for, but the API's minimum is {OUTPUT_TOKENS_MIN}"
        )));
    }
    if !request.options.stop.is_empty() {
        let text = "stop sequences are not supported by the Responses API";
        return Err(invalid(text.to_owned()));
    }
    let thinks = request.model.thinking.is_some();
    let body = Body {
        model: request.model.wire_id(),
        instructions: &request.system,
        input: input(request),
        tools: request.tools.iter().map(tool).collect(),
        tool_choice: tool_choice(request),
        parallel_tool_calls: request
            .options
            .parallel_tool_calls
            .filter(|_| !request.tools.is_empty()),
        store: false,
        stream: true,
        max_output_tokens: request.max_output_tokens,
        temperature: request.temperature.filter(|_| !thinks).map(written),
        reasoning: reasoning(request),
        include: if thinks {
            &["reasoning.encrypted_content"]
        } else {
            &[]
        },
        text: request.response_schema.as_ref().map(|schema| TextOptions {
            format: Format {
                r#type: "json_schema",
                name: "answer",
                schema,
                strict: options.strict_schema,
            },
        }),
        prompt_cache_key: cache_key(request),
        prompt_cache_retention: match request.options.cache {
            CacheRetention::Long => Some("24h"),
            CacheRetention::None | CacheRetention::Short => None,
        },
    };
    write_body(&body, &request.options.extra, &["max_output_tokens"])
}

const fn tool(spec: &ToolSpec) -> WireTool<'_> {
    WireTool {
        r#type: "function",
        name: spec.name.as_str(),
        description: spec.description.as_str(),
        parameters: &spec.parameters,
        strict: false,
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
            name,
        }),
    }
}

fn reasoning(request: &LlmRequest) -> Option<Reasoning<'_>> {
    let support = request.model.thinking.as_ref()?;
    if support.mode == ThinkingMode::Budget {
        // The API knows words only.
        return None;
    }
    let summary = Some("auto");
    let Some(wanted) = request.options.thinking else {
        return Some(Reasoning {
            effort: None,
            summary,
        });
    };
    let level = support.nearest(wanted)?;
    if level == ThinkingLevel::Off {
        // `off` is no word of the API: only a word the model's entry names is sent.
        let word = support.levels.get(&level)?.as_deref()?;
        return Some(Reasoning {
            effort: Some(word),
            summary: None,
        });
    }
    Some(Reasoning {
        effort: support.word(level),
        summary,
    })
}

fn cache_key(request: &LlmRequest) -> Option<&str> {
    if request.options.cache == CacheRetention::None {
        return None;
    }
    let key = request.options.cache_key.as_deref()?;
    let end = key.char_indices().nth(CACHE_KEY_CHARS_MAX);
    let key = end.map_or(key, |(end, _)| key.get(..end).unwrap_or_default());
    Some(key).filter(|key| !key.is_empty())
}

fn input(request: &LlmRequest) -> Vec<Item<'_>> {
    let mut out = Vec::with_capacity(request.messages.len());
    for turn in turns(request, api::OPENAI_RESPONSES, CALL_IDS) {
        match turn {
            Turn::User(content) => out.push(Item::User {
                role: "user",
                content: content.into_iter().map(piece).collect(),
            }),
            Turn::Assistant { parts, results, .. } => push_assistant(parts, results, &mut out),
        }
    }
    out
}

fn push_assistant<'a>(parts: Vec<Part<'a>>, results: Vec<CallResult<'a>>, out: &mut Vec<Item<'a>>) {
    // An item's id ties it to the reasoning before it; without the reasoning the id is refused.
    let is_lost = |part: &Part<'_>| match part {
        Part::Thinking { signature, .. } => replayed(*signature).is_none(),
        Part::Text { .. } | Part::Call { .. } => false,
    };
    let is_answer = |part: &Part<'_>| !matches!(part, Part::Thinking { .. });
    let answer_len = parts.iter().rposition(is_answer).map_or(0, |last| last + 1);
    let has_ids = answer_len == parts.len() && !parts.iter().any(is_lost);
    let known = |id: Option<&'a str>, prefix: &str| id.filter(|id| has_ids && fits(id, prefix));
    let mut custom = Vec::new();
    // Reasoning that nothing follows is refused.
    for part in parts.into_iter().take(answer_len) {
        match part {
            Part::Thinking { signature, .. } => {
                out.extend(replayed(signature).map(Item::Reasoning));
            }
            Part::Text { text: "", .. } => {}
            Part::Text { text, signature } => push_text(text, known(signature, "msg_"), out),
            Part::Call {
                id,
                name,
                arguments,
                signature,
                ..
            } => {
                let input = arguments.get("input").and_then(Value::as_str);
                let input = input.filter(|_| signature.is_some_and(|id| id.starts_with("ctc_")));
                out.push(if let Some(input) = input {
                    custom.push(id.clone());
                    Item::CustomCall {
                        r#type: "custom_tool_call",
                        id: known(signature, "ctc_"),
                        call_id: id,
                        name,
                        input,
                    }
                } else {
                    Item::Call {
                        r#type: "function_call",
                        id: known(signature, "fc_"),
                        call_id: id,
                        name,
                        arguments: arguments.to_string(),
                    }
                });
            }
        }
    }
    for result in results {
        let r#type = if custom.contains(&result.id) {
            "custom_tool_call_output"
        } else {
            "function_call_output"
        };
        let output = if result.images().next().is_some() {
            Output::Parts(result.content.into_iter().map(piece).collect())
        } else {
            Output::Text(result.text().into_owned())
        };
        out.push(Item::CallOutput {
            r#type,
            call_id: result.id,
            output,
        });
    }
}

/// Texts of one message item stay together.
fn push_text<'a>(text: &'a str, id: Option<&'a str>, out: &mut Vec<Item<'a>>) {
    let text = OutputText {
        r#type: "output_text",
        text,
        annotations: [],
    };
    match out.last_mut() {
        Some(Item::Message(message)) if id.is_some() && message.id == id => {
            message.content.push(text);
        }
        _ => out.push(Item::Message(Answered {
            r#type: "message",
            role: "assistant",
            id,
            status: "completed",
            content: vec![text],
        })),
    }
}

/// The reasoning item in a signature, if a server that stored nothing can use it.
fn replayed(signature: Option<&str>) -> Option<Value> {
    let item: Value = serde_json::from_str(signature?).ok()?;
    let is_reasoning = item.get("type")? == "reasoning";
    let is_told = item.get("encrypted_content").is_some() || item.get("content").is_some();
    (is_reasoning && is_told).then_some(item)
}

fn fits(id: &str, prefix: &str) -> bool {
    id.starts_with(prefix) && id.len() <= ITEM_ID_LEN_MAX
}

fn piece(said: Said<'_>) -> Input<'_> {
    match said {
        Said::Text(text) => Input::InputText { text },
        Said::Image { data, mime_type } => Input::InputImage {
            image_url: format!("data:{mime_type};base64,{data}"),
            detail: "auto",
        },
    }
}
