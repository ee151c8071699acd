//! Writes the conversation: two roles that alternate, and blocks.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value};

use super::encode::CacheControl;
use crate::llm::handoff::{CallIdRule, CallResult, Part, Said, Turn, turns};
use crate::llm::{LlmRequest, api};

const CALL_IDS: CallIdRule = CallIdRule {
    len_max: 64,
    plain: true,
};

/// The longest name of a tool.
const TOOL_NAME_LEN_MAX: usize = 64;

/// What a user says before a conversation in which the model spoke first: the API wants a user's
/// message at the beginning.
const OPENING: &str = "Begin.";

/// What a failed call is said to have answered if it said nothing: the API refuses an error without
/// content.
const NO_WORDS: &str = "The tool failed and gave no reason.";

/// What stands before the images of failed calls, whose results may hold text only.
const IMAGES_FOLLOW: &str = "Images of the failed tool calls:";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    User,
    Assistant,
}

#[derive(Debug, Serialize)]
pub(super) struct WireMessage<'a> {
    pub(super) role: Role,
    /// Never empty.
    pub(super) content: Vec<Block<'a>>,
}

/// A block, and whether the prompt is kept up to here.
#[derive(Debug, Serialize)]
pub(super) struct Block<'a> {
    #[serde(flatten)]
    kind: BlockKind<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum BlockKind<'a> {
    Text {
        text: Cow<'a, str>,
    },
    Image {
        source: ImageSource<'a>,
    },
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    RedactedThinking {
        data: &'a str,
    },
    ToolUse {
        id: Cow<'a, str>,
        name: Cow<'a, str>,
        input: Cow<'a, Value>,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        #[serde(skip_serializing_if = "ResultContent::is_empty")]
        content: ResultContent<'a>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

#[derive(Debug, Serialize)]
struct ImageSource<'a> {
    r#type: &'static str,
    media_type: &'a str,
    data: &'a str,
}

/// Text alone is sent as a string: every imitation knows that form.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ResultContent<'a> {
    Text(String),
    Blocks(Vec<Block<'a>>),
}

impl ResultContent<'_> {
    const fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Blocks(blocks) => blocks.is_empty(),
        }
    }
}

impl<'a> Block<'a> {
    const fn new(kind: BlockKind<'a>) -> Self {
        Self {
            kind,
            cache_control: None,
        }
    }

    pub(super) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::new(BlockKind::Text { text: text.into() })
    }

    pub(super) const fn mark(&mut self, cache_control: Option<CacheControl>) {
        self.cache_control = cache_control;
    }

    pub(super) const fn is_result(&self) -> bool {
        matches!(self.kind, BlockKind::ToolResult { .. })
    }

    pub(super) fn tool_called(&self) -> Option<&str> {
        match &self.kind {
            BlockKind::ToolUse { name, .. } => Some(name),
            _ => None,
        }
    }

    pub(super) const fn is_thinking(&self) -> bool {
        matches!(
            self.kind,
            BlockKind::Thinking { .. } | BlockKind::RedactedThinking { .. }
        )
    }
}

/// The conversation. Roles alternate, and the first is a user's.
pub(super) fn messages(request: &LlmRequest) -> Vec<WireMessage<'_>> {
    let mut out = Vec::with_capacity(request.messages.len() + 1);
    for turn in turns(request, api::ANTHROPIC, CALL_IDS) {
        match turn {
            Turn::User(content) => {
                push(
                    Role::User,
                    content.into_iter().filter_map(said).collect(),
                    &mut out,
                );
            }
            Turn::Assistant { parts, results, .. } => {
                push(
                    Role::Assistant,
                    parts.into_iter().filter_map(part).collect(),
                    &mut out,
                );
                push(Role::User, told_results(results), &mut out);
            }
        }
    }
    for message in &mut out {
        if message.role == Role::Assistant {
            // The API refuses an answer that ends in thinking: one that was cut there.
            while message.content.last().is_some_and(Block::is_thinking) {
                message.content.pop();
            }
        }
    }
    trim_end(&mut out);
    let mut whole = Vec::with_capacity(out.len() + 1);
    if out
        .first()
        .is_none_or(|first| first.role == Role::Assistant)
    {
        push(Role::User, vec![Block::text(OPENING)], &mut whole);
    }
    for message in out {
        push(message.role, message.content, &mut whole);
    }
    whole
}

/// Adds a message; to the one before if that has the same role, since roles must alternate.
fn push<'a>(role: Role, content: Vec<Block<'a>>, out: &mut Vec<WireMessage<'a>>) {
    if content.is_empty() {
        return;
    }
    match out.last_mut() {
        Some(last) if last.role == role => last.content.extend(content),
        _ => out.push(WireMessage { role, content }),
    }
}

/// The API refuses a conversation whose last word is an answer that ends in blanks.
fn trim_end(messages: &mut [WireMessage<'_>]) {
    let last = messages.last_mut();
    let Some(last) = last.filter(|last| last.role == Role::Assistant) else {
        return;
    };
    if let Some(BlockKind::Text { text }) = last.content.last_mut().map(|block| &mut block.kind) {
        let end = text.trim_end().len();
        if end < text.len() {
            text.to_mut().truncate(end);
        }
    }
}

/// The API refuses blank texts.
fn said(said: Said<'_>) -> Option<Block<'_>> {
    let kind = match said {
        Said::Text(text) if text.trim().is_empty() => return None,
        Said::Text(text) => BlockKind::Text { text },
        Said::Image { data, mime_type } => BlockKind::Image {
            source: ImageSource {
                r#type: "base64",
                media_type: mime_type,
                data,
            },
        },
    };
    Some(Block::new(kind))
}

fn part(part: Part<'_>) -> Option<Block<'_>> {
    let kind = match part {
        Part::Text { text, .. } if text.trim().is_empty() => return None,
        Part::Text { text, .. } => BlockKind::Text {
            text: Cow::Borrowed(text),
        },
        Part::Thinking {
            signature: Some(data),
            redacted: true,
            ..
        } => BlockKind::RedactedThinking { data },
        Part::Thinking {
            text,
            signature: Some(signature),
            ..
        } => BlockKind::Thinking {
            thinking: text,
            signature,
        },
        // The API refuses thinking that it has not signed.
        Part::Thinking { .. } => return None,
        Part::Call {
            id,
            name,
            arguments,
            ..
        } => BlockKind::ToolUse {
            id,
            name: tool_name(name),
            input: if arguments.is_object() {
                Cow::Borrowed(arguments)
            } else {
                Cow::Owned(Value::Object(Map::new()))
            },
        },
    };
    Some(Block::new(kind))
}

/// A name that the API takes; other models call tools that do not exist by any name.
fn tool_name(name: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() {
        return Cow::Borrowed("unnamed");
    }
    if name.len() <= TOOL_NAME_LEN_MAX && name.chars().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let plain = name.chars().map(|c| if is_plain(c) { c } else { '_' });
    Cow::Owned(plain.take(TOOL_NAME_LEN_MAX).collect())
}

/// All results of a turn, then the images of those that failed.
fn told_results(results: Vec<CallResult<'_>>) -> Vec<Block<'_>> {
    let mut blocks = Vec::with_capacity(results.len());
    let mut images = Vec::new();
    for result in results {
        let is_image = |said: &Said<'_>| matches!(said, Said::Image { .. });
        let has_images = result.content.iter().any(is_image);
        let content = if has_images && !result.is_error {
            ResultContent::Blocks(result.content.into_iter().filter_map(said).collect())
        } else {
            let text = match result.text() {
                text if !text.trim().is_empty() => text.into_owned(),
                _ if result.is_error => NO_WORDS.to_owned(),
                _ => String::new(),
            };
            let seen = result.content.into_iter().filter(is_image);
            images.extend(seen.filter_map(said));
            ResultContent::Text(text)
        };
        blocks.push(Block::new(BlockKind::ToolResult {
            tool_use_id: result.id,
            content,
            is_error: result.is_error,
        }));
    }
    if !images.is_empty() {
        blocks.push(Block::text(IMAGES_FOLLOW));
        blocks.append(&mut images);
    }
    blocks
}
