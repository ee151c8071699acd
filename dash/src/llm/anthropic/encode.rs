//! Writes requests. The order of keys is the order of fields here, so the bytes are stable.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value};

use super::messages::{Block, Role, WireMessage, messages};
use crate::llm::dialect::{check, write_body, written};
use crate::llm::{
    CacheRetention, LlmError, LlmRequest, ThinkingLevel, ThinkingMode, ToolChoice, ToolSpec,
};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<WireTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<WireChoice<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Block<'a>>,
    messages: Vec<WireMessage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Thinking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop_sequences: &'a [String],
}

/// Where the server may cut the prompt to keep what is before in its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct CacheControl {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<&'static str>,
}

impl CacheControl {
    const fn of(retention: CacheRetention) -> Option<Self> {
        let ttl = match retention {
            CacheRetention::None => return None,
            CacheRetention::Short => None,
            CacheRetention::Long => Some("1h"),
        };
        let r#type = "ephemeral";
        Some(Self { r#type, ttl })
    }
}

#[derive(Serialize)]
struct WireTool<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    input_schema: Cow<'a, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
struct WireChoice<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disable_parallel_tool_use: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Thinking {
    Enabled { budget_tokens: u32 },
    Adaptive,
    Disabled,
}

#[derive(Default, PartialEq, Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<OutputFormat<'a>>,
}

#[derive(PartialEq, Serialize)]
struct OutputFormat<'a> {
    r#type: &'static str,
    schema: &'a Value,
}

/// Whether the model is of those that decide themselves how long to think. They refuse sampling
/// parameters.
fn is_adaptive(request: &LlmRequest) -> bool {
    let support = request.model.thinking.as_ref();
    support.is_some_and(|support| support.mode == ThinkingMode::Adaptive)
}

/// Writes the body of a request, a JSON object. The same request gives the same bytes.
///
/// The conversation is told as [`handoff`](crate::llm::handoff) says. The ends of the tools, the
/// system prompt and the last user message are marked for the cache, unless the request wants none.
///
/// # Errors
///
/// [`LlmErrorKind::InvalidRequest`](crate::llm::LlmErrorKind::InvalidRequest), unbilled: the
/// temperature is not a number, or a tool must be called that is not on offer.
pub fn encode(request: &LlmRequest) -> Result<Vec<u8>, LlmError> {
    check(request)?;
    let cache_control = CacheControl::of(request.options.cache);
    let mut messages = messages(request);
    let users = messages.iter_mut().rev();
    let mut users = users.filter(|message| message.role == Role::User);
    if let Some(last) = users.next().and_then(|user| user.content.last_mut()) {
        last.mark(cache_control);
    }
    let tools = tools(request, &messages, cache_control);
    let (thinking, effort) = thinking(request, &messages);
    let is_thinking = thinking.is_some_and(|thinking| thinking != Thinking::Disabled);
    let schema = request.response_schema.as_ref();
    let output_config = OutputConfig {
        effort,
        format: schema.map(|schema| OutputFormat {
            r#type: "json_schema",
            schema,
        }),
    };
    let body = Body {
        model: request.model.wire_id(),
        max_tokens: request.max_output_tokens,
        stream: true,
        tool_choice: tool_choice(request, !tools.is_empty()),
        tools,
        system: system(&request.system, cache_control),
        messages,
        thinking,
        output_config: Some(output_config).filter(|config| *config != OutputConfig::default()),
        temperature: request
            .temperature
            .filter(|_| !is_thinking && !is_adaptive(request))
            .map(written),
        stop_sequences: &request.options.stop,
    };
    write_body(&body, &request.options.extra, &["max_tokens"])
}

fn system(text: &str, cache_control: Option<CacheControl>) -> Vec<Block<'_>> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let mut block = Block::text(text);
    block.mark(cache_control);
    vec![block]
}

/// The tools on offer. If there are none, those that the conversation has called: the API refuses
/// calls in a request without tools. They must not be called again, see [`tool_choice`].
fn tools<'a>(
    request: &'a LlmRequest,
    messages: &[WireMessage<'_>],
    cache_control: Option<CacheControl>,
) -> Vec<WireTool<'a>> {
    let mut tools: Vec<WireTool<'a>> = request.tools.iter().map(on_offer).collect();
    if tools.is_empty() {
        let blocks = messages.iter().flat_map(|message| &message.content);
        for name in blocks.filter_map(Block::tool_called) {
            if !tools.iter().any(|tool| tool.name == name) {
                tools.push(WireTool {
                    name: Cow::Owned(name.to_owned()),
                    description: "",
                    input_schema: object_schema(&Value::Null),
                    cache_control: None,
                });
            }
        }
    }
    if let Some(last) = tools.last_mut() {
        last.cache_control = cache_control;
    }
    tools
}

fn on_offer(tool: &ToolSpec) -> WireTool<'_> {
    WireTool {
        name: Cow::Borrowed(&tool.name),
        description: &tool.description,
        input_schema: object_schema(&tool.parameters),
        cache_control: None,
    }
}

/// The schema, with the `type` that the API demands.
fn object_schema(schema: &Value) -> Cow<'_, Value> {
    let mut fields = match schema {
        Value::Object(fields) if fields.contains_key("type") => return Cow::Borrowed(schema),
        Value::Object(fields) => fields.clone(),
        _ => Map::new(),
    };
    fields.insert("type".to_owned(), Value::from("object"));
    Cow::Owned(Value::Object(fields))
}

fn tool_choice(request: &LlmRequest, has_tools: bool) -> Option<WireChoice<'_>> {
    // Servers refuse a choice without tools.
    if !has_tools {
        return None;
    }
    let one_only = request.options.parallel_tool_calls == Some(false);
    let (r#type, name) = match &request.tool_choice {
        _ if request.tools.is_empty() => ("none", None),
        ToolChoice::Auto if one_only => ("auto", None),
        ToolChoice::Auto => return None,
        ToolChoice::None => ("none", None),
        ToolChoice::Required => ("any", None),
        ToolChoice::Tool(name) => ("tool", Some(name.as_str())),
    };
    Some(WireChoice {
        r#type,
        name,
        disable_parallel_tool_use: one_only && r#type != "none",
    })
}

/// How the model shall think, and its word for how hard.
fn thinking<'a>(
    request: &'a LlmRequest,
    messages: &[WireMessage<'_>],
) -> (Option<Thinking>, Option<&'a str>) {
    let wanted = request
        .model
        .thinking
        .as_ref()
        .zip(request.options.thinking);
    let Some((support, level)) = wanted else {
        return (None, None);
    };
    let Some(level) = support.nearest(level) else {
        return (None, None);
    };
    if level == ThinkingLevel::Off {
        return (Some(Thinking::Disabled), None);
    }
    // Of the words that levels have by themselves, the API does not know this one.
    let word = match support.word(level) {
        Some("minimal") => Some("low"),
        word => word,
    };
    // The API refuses to think before a call that it must make.
    let is_forced = matches!(
        request.tool_choice,
        ToolChoice::Required | ToolChoice::Tool(_)
    );
    match support.mode {
        ThinkingMode::Effort => (None, word),
        ThinkingMode::Adaptive => ((!is_forced).then_some(Thinking::Adaptive), word),
        ThinkingMode::Budget if is_forced || began_without_thinking(messages) => (None, None),
        ThinkingMode::Budget => {
            let budget = level.budget_tokens(request.max_output_tokens);
            let thinking = budget.map(|budget_tokens| Thinking::Enabled { budget_tokens });
            (thinking, None)
        }
    }
}

/// Whether the conversation stands amid calls which a model began without thinking, or whose
/// thinking was not for this one. The API then refuses a budget until a user has spoken.
fn began_without_thinking(messages: &[WireMessage<'_>]) -> bool {
    let is_round = |message: &&WireMessage<'_>| {
        message.role == Role::Assistant || message.content.iter().any(Block::is_result)
    };
    if !messages.last().is_some_and(|last| is_round(&last)) {
        return false;
    }
    let first = messages.iter().rev().take_while(is_round).last();
    first.is_some_and(|first| !first.content.first().is_some_and(Block::is_thinking))
}
