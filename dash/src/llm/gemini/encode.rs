//! Writes requests. The order of keys is the order of fields here, so the bytes are stable.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use super::GeminiOptions;
use super::schema::Schema;
use crate::llm::dialect::{check, write_body, written};
use crate::llm::handoff::{CallIdRule, CallResult, Part, Said, Turn, turns};
use crate::llm::{
    LlmError, LlmErrorKind, LlmRequest, ThinkingLevel, ThinkingMode, ToolChoice, api,
};

/// What stands for the signature of a call that another model made, so that models from version 3
/// do not refuse it. Documented by Google for exactly that.
pub const SIGNATURE_BYPASS: &str = "skip_thought_signature_validator";

const CALL_IDS: CallIdRule = CallIdRule {
    len_max: 64,
    plain: true,
};

/// The output limit, and what would multiply it. Google reads both spellings of a field.
const RESERVED: &[&str] = &[
    "maxOutputTokens",
    "max_output_tokens",
    "candidateCount",
    "candidate_count",
    "generation_config",
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Instruction<'a>>,
    contents: Vec<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<[Tools<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<ToolConfig<'a>>,
    generation_config: GenerationConfig<'a>,
}

#[derive(Serialize)]
struct Instruction<'a> {
    parts: [WirePart<'a>; 1],
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    User,
    Model,
}

#[derive(Serialize)]
struct Content<'a> {
    role: Role,
    parts: Vec<WirePart<'a>>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct WirePart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    thought: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    inline_data: Option<InlineData<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_response: Option<FunctionResponse<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thought_signature: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InlineData<'a> {
    mime_type: &'a str,
    data: &'a str,
}

#[derive(Serialize)]
struct FunctionCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Cow<'a, str>>,
    name: &'a str,
    args: &'a Value,
}

#[derive(Serialize)]
struct FunctionResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Cow<'a, str>>,
    name: &'a str,
    response: Outcome,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<WirePart<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Output(String),
    Error(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tools<'a> {
    function_declarations: Vec<FunctionDeclaration<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionDeclaration<'a> {
    name: &'a str,
    description: &'a str,
    parameters_json_schema: Schema<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolConfig<'a> {
    function_calling_config: FunctionCallingConfig<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionCallingConfig<'a> {
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_function_names: Option<[&'a str; 1]>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    max_output_tokens: u32,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<Schema<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_config: Option<ThinkingConfig>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ThinkingConfig {
    /// Refused where thinking is off.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    include_thoughts: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_budget: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_level: Option<String>,
}

/// Writes the body of a request, a JSON object. The same request gives the same bytes.
///
/// The conversation is told as [`handoff`](crate::llm::handoff) says, with every signature on the
/// part it came on. Whether calls may be parallel and how long to keep the prompt cannot be said.
///
/// # Errors
///
/// [`LlmErrorKind::InvalidRequest`], unbilled: the temperature is not a number, a tool must be
/// called that is not on offer, or an extra `generationConfig` is no object.
pub fn encode(request: &LlmRequest, options: GeminiOptions) -> Result<Vec<u8>, LlmError> {
    check(request)?;
    let extra = &request.options.extra;
    if extra
        .get("generationConfig")
        .is_some_and(|config| !config.is_object())
    {
        // It would replace the limit of output tokens.
        let text = "the extra field `generationConfig` is not an object";
        return Err(LlmError::unbilled(LlmErrorKind::InvalidRequest, text));
    }
    let schema = request.response_schema.as_ref();
    let body = Body {
        system_instruction: (!request.system.is_empty()).then(|| Instruction {
            parts: [text_part(&request.system)],
        }),
        contents: contents(request, options.is_new(request.model.wire_id())),
        tools: tools(request),
        tool_config: tool_config(request),
        generation_config: GenerationConfig {
            temperature: request.temperature.map(written),
            max_output_tokens: request.max_output_tokens,
            stop_sequences: &request.options.stop,
            response_mime_type: schema.map(|_| "application/json"),
            response_json_schema: schema.map(Schema),
            thinking_config: thinking(request),
        },
    };
    write_body(&body, extra, RESERVED)
}

fn tools(request: &LlmRequest) -> Option<[Tools<'_>; 1]> {
    let declarations = request.tools.iter().map(|tool| FunctionDeclaration {
        name: &tool.name,
        description: &tool.description,
        parameters_json_schema: Schema(&tool.parameters),
    });
    let function_declarations: Vec<_> = declarations.collect();
    (!function_declarations.is_empty()).then_some([Tools {
        function_declarations,
    }])
}

fn tool_config(request: &LlmRequest) -> Option<ToolConfig<'_>> {
    let (mode, allowed_function_names) = match &request.tool_choice {
        _ if request.tools.is_empty() => return None,
        ToolChoice::Auto => ("AUTO", None),
        ToolChoice::None => ("NONE", None),
        ToolChoice::Required => ("ANY", None),
        ToolChoice::Tool(name) => ("ANY", Some([name.as_str()])),
    };
    Some(ToolConfig {
        function_calling_config: FunctionCallingConfig {
            mode,
            allowed_function_names,
        },
    })
}

/// How hard to think, as near to the wish as the model can be told. The words of a model that
/// counts tokens may be numbers, which then are its budgets.
fn thinking(request: &LlmRequest) -> Option<ThinkingConfig> {
    let support = request.model.thinking.as_ref()?;
    let level = support.nearest(request.options.thinking?)?;
    let word = support.word(level)?;
    let mut config = ThinkingConfig {
        include_thoughts: level != ThinkingLevel::Off,
        ..ThinkingConfig::default()
    };
    match support.mode {
        ThinkingMode::Budget => {
            let told = word.parse().ok();
            config.thinking_budget = told.or_else(|| match level {
                ThinkingLevel::Off => Some(0),
                level => level
                    .budget_tokens(request.max_output_tokens)
                    .map(i64::from),
            });
            let has_off = support.word(ThinkingLevel::Off).is_some();
            if config.thinking_budget.is_none() && has_off {
                // No room to think beside the answer.
                config = ThinkingConfig {
                    thinking_budget: Some(0),
                    ..ThinkingConfig::default()
                };
            }
        }
        ThinkingMode::Effort | ThinkingMode::Adaptive => {
            // There is no word for not at all; this is the next.
            let word = if word == "off" { "minimal" } else { word };
            config.thinking_level = Some(word.to_uppercase());
        }
    }
    Some(config)
}

fn contents(request: &LlmRequest, is_new: bool) -> Vec<Content<'_>> {
    let mut out = Vec::with_capacity(request.messages.len());
    for turn in turns(request, api::GEMINI, CALL_IDS) {
        match turn {
            Turn::User(said) => push(&mut out, Role::User, said.into_iter().map(said_part)),
            Turn::Assistant {
                is_same,
                parts,
                results,
            } => {
                let bypass = (is_new && !is_same).then_some(SIGNATURE_BYPASS);
                let parts = parts.into_iter();
                let parts = parts.filter_map(|part| model_part(part, is_new, bypass));
                push(&mut out, Role::Model, parts);
                push(&mut out, Role::User, responses(results, is_new));
            }
        }
    }
    out
}

/// Adds parts to what the same side said last.
fn push<'a>(out: &mut Vec<Content<'a>>, role: Role, parts: impl IntoIterator<Item = WirePart<'a>>) {
    let mut parts = parts.into_iter().peekable();
    if parts.peek().is_none() {
        return;
    }
    match out.last_mut() {
        Some(last) if last.role == role => last.parts.extend(parts),
        _ => out.push(Content {
            role,
            parts: parts.collect(),
        }),
    }
}

fn said_part(said: Said<'_>) -> WirePart<'_> {
    match said {
        Said::Text(text) => WirePart {
            text: Some(text),
            ..WirePart::default()
        },
        Said::Image { data, mime_type } => image_part(data, mime_type),
    }
}

fn text_part(text: &str) -> WirePart<'_> {
    WirePart {
        text: Some(Cow::Borrowed(text)),
        ..WirePart::default()
    }
}

fn image_part<'a>(data: &'a str, mime_type: &'a str) -> WirePart<'a> {
    WirePart {
        inline_data: Some(InlineData { mime_type, data }),
        ..WirePart::default()
    }
}

/// One part for one block, so that signatures stay where they were.
fn model_part<'a>(
    part: Part<'a>,
    is_new: bool,
    bypass: Option<&'static str>,
) -> Option<WirePart<'a>> {
    Some(match part {
        Part::Text { text, signature } => WirePart {
            thought_signature: signature,
            ..text_part(text)
        },
        // A summary alone is of no use to the model.
        Part::Thinking {
            text,
            signature: Some(signature),
            redacted: false,
        } => WirePart {
            thought: true,
            thought_signature: Some(signature),
            ..text_part(text)
        },
        Part::Thinking { .. } => return None,
        Part::Call {
            id,
            name,
            arguments,
            signature,
            ..
        } => WirePart {
            function_call: Some(FunctionCall {
                id: is_new.then_some(id),
                name,
                args: arguments,
            }),
            thought_signature: signature.or(bypass),
            ..WirePart::default()
        },
    })
}

/// All results of a turn: the answers to the calls, then the images they could not hold.
fn responses(results: Vec<CallResult<'_>>, is_new: bool) -> Vec<WirePart<'_>> {
    let mut out = Vec::with_capacity(results.len());
    let mut loose = Vec::new();
    for result in results {
        let text = result.text().into_owned();
        let images = result.content.into_iter().filter_map(|said| match said {
            Said::Image { data, mime_type } => Some(image_part(data, mime_type)),
            Said::Text(_) => None,
        });
        let mut parts = Vec::new();
        if is_new {
            parts.extend(images);
        } else {
            loose.extend(images);
        }
        out.push(WirePart {
            function_response: Some(FunctionResponse {
                id: is_new.then_some(result.id),
                name: result.name,
                response: if result.is_error {
                    Outcome::Error(text)
                } else {
                    Outcome::Output(text)
                },
                parts,
            }),
            ..WirePart::default()
        });
    }
    out.append(&mut loose);
    out
}
