//! Writes requests. The same request gives the same bytes.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::wire::{
    Body, CacheControl, Content, ImageUrl, JsonSchemaFormat, NamedFunction, Piece, Reasoning,
    Replay, ResponseFormat, StreamOptions, TemplateArguments, ThinkingFields, ThinkingType,
    WireCall, WireChoice, WireFunction, WireMessage, WireTool,
};
use crate::llm::dialect::{check, write_body, written};
use crate::llm::handoff::{CallIdRule, CallResult, Part, Said, Turn, joined, turns};
use crate::llm::{
    CacheRetention, Compat, LlmError, LlmErrorKind, LlmRequest, ThinkingLevel, ThinkingMode,
    ToolChoice, api,
};
use crate::model::compat::{
    CacheMarkers, CallIds, OutputLimitField, ReasoningReplay, ResponseFormatKind, ThinkingSwitch,
};

/// Servers take any characters, but for [`CallIds::NineAlphanumeric`].
const CALL_IDS: CallIdRule = CallIdRule {
    len_max: 40,
    plain: false,
};

/// What the budget has reserved: the limit by the names servers know (llama.cpp lets `n_predict`
/// win over `max_tokens`), that there is one answer, and that it is streamed.
const RESERVED: [&str; 10] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "n_predict",
    "num_predict",
    "n",
    "n_cmpl",
    "best_of",
    "stream",
];

/// What stands between a tool result and a user message where one must not follow the other.
const AFTER_TOOL: &str = "Noted.";

/// Writes the body of a request, a JSON object. The same request gives the same bytes.
///
/// The conversation is told as [`handoff`](crate::llm::handoff) says, the rest as `compat` says;
/// what the model says of its own differences wins.
///
/// # Errors
///
/// [`LlmErrorKind::InvalidRequest`], unbilled: the temperature is not a number, a tool must be
/// called that is not on offer, or one by name where the server ignores names.
pub fn encode(request: &LlmRequest, compat: Compat) -> Result<Vec<u8>, LlmError> {
    check(request)?;
    let patch = request.model.compat.as_ref();
    let compat = patch.map_or(compat, |patch| compat.patched(patch));
    let limit = Some(request.max_output_tokens);
    let (max_tokens, max_completion_tokens) = match compat.output_limit {
        OutputLimitField::MaxTokens => (limit, None),
        OutputLimitField::MaxCompletionTokens => (None, limit),
    };
    let options = &request.options;
    let cache_key = options.cache_key.as_deref();
    let is_cached = options.cache != CacheRetention::None;
    let is_long = options.cache == CacheRetention::Long;
    let mark = cache_mark(request, &compat);
    let messages = messages(request, &compat, mark);
    let parallel = options.parallel_tool_calls;
    let is_sampled = compat.temperature_with_thinking || request.model.thinking.is_none();
    let body = Body {
        model: request.model.wire_id(),
        stream: true,
        stream_options: compat.stream_options.then_some(StreamOptions {
            include_usage: true,
        }),
        max_tokens,
        max_completion_tokens,
        temperature: request.temperature.filter(|_| is_sampled).map(written),
        stop: &options.stop,
        tools: tools(request, &compat, &messages, mark),
        tool_choice: tool_choice(request, &compat)?,
        parallel_tool_calls: parallel
            .filter(|_| compat.parallel_tool_calls && !request.tools.is_empty()),
        response_format: response_format(request, &compat),
        thinking: thinking(request, compat.thinking),
        store: compat.store.then_some(false),
        prompt_cache_key: cache_key.filter(|_| compat.prompt_cache_key && is_cached),
        prompt_cache_retention: (compat.prompt_cache_retention && is_long).then_some("24h"),
        messages,
    };
    write_body(&body, &options.extra, &RESERVED)
}

fn tools<'a>(
    request: &'a LlmRequest,
    compat: &Compat,
    messages: &[WireMessage<'_>],
    mark: Option<CacheControl>,
) -> Option<Vec<WireTool<'a>>> {
    let has_calls = |message: &WireMessage<'_>| matches!(message, WireMessage::Tool { .. });
    if request.tools.is_empty() {
        let is_sent = compat.tools_with_history && messages.iter().any(has_calls);
        return is_sent.then(Vec::new);
    }
    let last = request.tools.len() - 1;
    let tools = request.tools.iter().enumerate();
    let tools = tools.map(|(at, tool)| WireTool {
        r#type: "function",
        function: tool,
        cache_control: mark.filter(|_| at == last),
    });
    Some(tools.collect())
}

fn tool_choice<'a>(
    request: &'a LlmRequest,
    compat: &Compat,
) -> Result<Option<WireChoice<'a>>, LlmError> {
    Ok(match &request.tool_choice {
        ToolChoice::Auto => None,
        // Servers refuse a choice without tools.
        ToolChoice::None if request.tools.is_empty() => None,
        ToolChoice::None => Some(WireChoice::Word("none")),
        ToolChoice::Required => Some(WireChoice::Word("required")),
        ToolChoice::Tool(name) if !compat.named_tool_choice => {
            let text = format!(
                "tool `{name}` must be called, but the server ignores or refuses a choice by name; \
                 offer only this tool and require a call"
            );
            return Err(LlmError::unbilled(LlmErrorKind::InvalidRequest, text));
        }
        ToolChoice::Tool(name) => Some(WireChoice::Named {
            r#type: "function",
            function: NamedFunction { name },
        }),
    })
}

fn response_format<'a>(request: &'a LlmRequest, compat: &Compat) -> Option<ResponseFormat<'a>> {
    let schema = request.response_schema.as_ref()?;
    match compat.response_format {
        ResponseFormatKind::JsonSchema => Some(ResponseFormat {
            r#type: "json_schema",
            json_schema: Some(JsonSchemaFormat {
                name: "answer",
                schema,
                strict: compat.strict_schema,
            }),
        }),
        ResponseFormatKind::JsonObject => Some(ResponseFormat {
            r#type: "json_object",
            json_schema: None,
        }),
        ResponseFormatKind::None => None,
    }
}

/// The fields for the nearest level the model has; nothing if it has none or none is asked for.
fn thinking(request: &LlmRequest, switch: ThinkingSwitch) -> ThinkingFields<'_> {
    let mut fields = ThinkingFields::default();
    let support = request.model.thinking.as_ref();
    let level = support.zip(request.options.thinking);
    let level = level.and_then(|(support, level)| Some((support, support.nearest(level)?)));
    let Some((support, level)) = level else {
        return fields;
    };
    let own = support.word(level).unwrap_or_default();
    let is_off = level == ThinkingLevel::Off;
    // The dialect's usual word, unless the model has its own.
    let word = if own == ThinkingLevel::Off.as_str() {
        "none"
    } else {
        own
    };
    let counts = support.mode == ThinkingMode::Budget;
    let budget = level.budget_tokens(request.max_output_tokens);
    let budget = budget.filter(|_| counts);
    // Without room to think, a model that counts tokens does not.
    let is_on = !is_off && (!counts || budget.is_some());
    let kind = ThinkingType {
        r#type: if is_on { "enabled" } else { "disabled" },
    };
    match switch {
        ThinkingSwitch::None => {}
        ThinkingSwitch::ReasoningEffort => fields.reasoning_effort = Some(word),
        ThinkingSwitch::ThinkingType => fields.thinking = Some(kind),
        ThinkingSwitch::ThinkingTypeAndEffort => {
            fields.thinking = Some(kind);
            fields.reasoning_effort = is_on.then_some(word);
        }
        ThinkingSwitch::EnableThinking => {
            fields.enable_thinking = Some(is_on);
            fields.thinking_budget = budget;
        }
        ThinkingSwitch::ChatTemplateKwargs => {
            fields.chat_template_kwargs = Some(TemplateArguments {
                enable_thinking: is_on,
            });
        }
        ThinkingSwitch::Reasoning => {
            fields.reasoning = Some(match budget {
                Some(tokens) => Reasoning::MaxTokens(tokens),
                None => Reasoning::Effort(if is_on { word } else { "none" }),
            });
        }
    }
    fields
}

fn cache_mark(request: &LlmRequest, compat: &Compat) -> Option<CacheControl> {
    let is_marked = match compat.prompt_cache_markers {
        CacheMarkers::None => false,
        CacheMarkers::Claude => request.model.wire_id().contains("claude"),
        CacheMarkers::All => true,
    };
    let ttl = match request.options.cache {
        CacheRetention::None => return None,
        CacheRetention::Short => None,
        CacheRetention::Long => Some("1h"),
    };
    is_marked.then_some(CacheControl {
        r#type: "ephemeral",
        ttl,
    })
}

fn system<'a>(request: &'a LlmRequest, compat: &Compat) -> Cow<'a, str> {
    let own = &*request.system;
    let schema = request.response_schema.as_ref();
    match schema.filter(|_| compat.response_format != ResponseFormatKind::JsonSchema) {
        None => Cow::Borrowed(own),
        Some(schema) => {
            let gap = if own.is_empty() { "" } else { "\n\n" };
            Cow::Owned(format!(
                "{own}{gap}Answer with JSON only, valid against this JSON Schema:\n{schema}"
            ))
        }
    }
}

fn messages<'a>(
    request: &'a LlmRequest,
    compat: &Compat,
    mark: Option<CacheControl>,
) -> Vec<WireMessage<'a>> {
    let mut out = Vec::with_capacity(request.messages.len() + 1);
    let system = system(request, compat);
    if !system.is_empty() {
        let mut content = Content::Text(system);
        if let Some(mark) = mark {
            content.mark(mark);
        }
        out.push(
            if compat.developer_role && request.model.thinking.is_some() {
                WireMessage::Developer { content }
            } else {
                WireMessage::System { content }
            },
        );
    }
    for turn in turns(request, api::OPENAI_CHAT, CALL_IDS) {
        match turn {
            Turn::User(content) => push_user(user(content), compat, &mut out),
            Turn::Assistant { parts, results, .. } => {
                push_assistant(parts, results, compat, &mut out);
            }
        }
    }
    if let Some(mark) = mark {
        mark_last(&mut out, mark);
    }
    out
}

/// Marks the last message that is somebody's text; tool results take no marks everywhere.
fn mark_last(messages: &mut [WireMessage<'_>], mark: CacheControl) {
    for message in messages.iter_mut().rev() {
        let is_marked = match message {
            WireMessage::User { content }
            | WireMessage::Assistant {
                content: Some(content @ Content::Parts(_)),
                ..
            } => content.mark(mark),
            WireMessage::Assistant {
                content: Some(content @ Content::Text(_)),
                ..
            } => !matches!(content, Content::Text(text) if text.is_empty()) && content.mark(mark),
            _ => false,
        };
        if is_marked {
            return;
        }
    }
}

fn push_user<'a>(content: Content<'a>, compat: &Compat, out: &mut Vec<WireMessage<'a>>) {
    if compat.assistant_after_tool && matches!(out.last(), Some(WireMessage::Tool { .. })) {
        out.push(WireMessage::Assistant {
            content: Some(Content::Text(Cow::Borrowed(AFTER_TOOL))),
            reasoning: Replay::default(),
            tool_calls: Vec::new(),
        });
    }
    out.push(WireMessage::User { content });
}

fn user(content: Vec<Said<'_>>) -> Content<'_> {
    if content
        .iter()
        .any(|said| matches!(said, Said::Image { .. }))
    {
        return Content::Parts(content.into_iter().map(piece).collect());
    }
    Content::Text(match content.as_slice() {
        [Said::Text(text)] => text.clone(),
        several => Cow::Owned(joined(several).into_owned()),
    })
}

fn push_assistant<'a>(
    parts: Vec<Part<'a>>,
    results: Vec<CallResult<'a>>,
    compat: &Compat,
    out: &mut Vec<WireMessage<'a>>,
) {
    let mut text = String::new();
    let mut thoughts = Vec::new();
    let mut tool_calls = Vec::new();
    for part in parts {
        match part {
            Part::Text { text: piece, .. } => text.push_str(piece),
            Part::Thinking {
                text, signature, ..
            } => thoughts.push((text, signature)),
            Part::Call {
                id,
                name,
                arguments,
                ..
            } => tool_calls.push(WireCall {
                id: call_id(id, compat.call_ids),
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
    let is_said = !text.is_empty() || compat.content_never_null;
    out.push(WireMessage::Assistant {
        content: is_said.then_some(Content::Text(Cow::Owned(text))),
        reasoning: replay(&thoughts, compat, !tool_calls.is_empty()),
        tool_calls,
    });
    let mut images = Vec::new();
    for result in results {
        out.push(WireMessage::Tool {
            tool_call_id: call_id(result.id.clone(), compat.call_ids),
            name: compat.tool_result_name.then_some(result.name),
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
        let intro = Cow::Borrowed("Images of the tool results:");
        images.insert(0, Piece::text(intro));
        push_user(Content::Parts(images), compat, out);
    }
}

/// The same model's own reasoning, where the server wants it back.
fn replay<'a>(
    thoughts: &[(&'a str, Option<&'a str>)],
    compat: &Compat,
    has_calls: bool,
) -> Replay<'a> {
    let is_needed = has_calls && compat.reasoning_with_calls;
    let text = || {
        let text: String = thoughts.iter().map(|(text, _signature)| *text).collect();
        Some(text).filter(|text| is_needed || !text.is_empty())
    };
    let mut replay = Replay::default();
    match compat.reasoning_replay {
        ReasoningReplay::None => {}
        ReasoningReplay::ReasoningContent => replay.reasoning_content = text(),
        ReasoningReplay::Reasoning => replay.reasoning = text(),
        ReasoningReplay::ReasoningDetails => {
            let details = thoughts.iter().filter_map(|(_text, signature)| *signature);
            let lists =
                details.filter_map(|json| serde_json::from_str::<Vec<&RawValue>>(json).ok());
            replay.reasoning_details = lists.flatten().collect();
        }
    }
    replay
}

/// The id as the server takes it, the same for the call and its result.
fn call_id(id: Cow<'_, str>, rule: CallIds) -> Cow<'_, str> {
    let is_nine = |id: &str| id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric());
    match rule {
        CallIds::Any => id,
        CallIds::NineAlphanumeric if is_nine(&id) => id,
        CallIds::NineAlphanumeric => {
            let hash = blake3::hash(id.as_bytes()).to_hex();
            Cow::Owned(hash.chars().take(9).collect())
        }
    }
}

fn piece(said: Said<'_>) -> Piece<'_> {
    match said {
        Said::Text(text) => Piece::text(text),
        Said::Image { data, mime_type } => {
            let url = format!("data:{mime_type};base64,{data}");
            Piece::ImageUrl {
                image_url: ImageUrl { url },
            }
        }
    }
}
