//! What the events of an answer may hold. Texts are borrowed from the event where JSON allows it.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::llm::dialect::BLOCKS_MAX;
use crate::llm::lenient::{Count, Lenient};
use crate::model::Usage;

/// The fields of all kinds of events together.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Lenient<'a>,
    #[serde(default)]
    pub(super) output_index: Count,
    #[serde(default)]
    pub(super) content_index: Count,
    #[serde(default)]
    pub(super) summary_index: Count,
    #[serde(borrow, default)]
    pub(super) item_id: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) delta: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) text: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) refusal: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) arguments: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) input: Lenient<'a>,
    #[serde(borrow, default)]
    item: Option<&'a RawValue>,
    #[serde(borrow, default)]
    part: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
    #[serde(borrow, default)]
    object: Lenient<'a>,
}

impl<'a> Event<'a> {
    pub(super) fn item(&self) -> Option<Item> {
        Item::read(&read(self.item)?)
    }

    /// The text of a part of a message.
    pub(super) fn part_text(&self) -> Option<String> {
        let part: Value = read(self.part)?;
        match part.get("type")?.as_str()? {
            "output_text" | "text" | "refusal" => Some(text_of(&part)?.to_owned()),
            _ => None,
        }
    }

    pub(super) fn response(&self) -> Option<Response<'a>> {
        read(self.response)
    }

    /// Whether an event that does not say its kind tells a failure.
    pub(super) fn is_nameless_error(&self) -> bool {
        self.error.is_some() || self.detail.is_some() || self.object.as_str() == "error"
    }
}

/// Where an answer stands.
#[derive(Deserialize, Default)]
pub(super) struct Response<'a> {
    #[serde(borrow, default)]
    pub(super) id: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) model: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) status: Lenient<'a>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    incomplete_details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

impl Response<'_> {
    /// The items, each with its place.
    pub(super) fn items(&self) -> Vec<(u64, Item)> {
        let values: Vec<Value> = read(self.output).unwrap_or_default();
        let placed = (0_u64..).zip(&values);
        placed
            .filter_map(|(at, value)| Some((at, Item::read(value)?)))
            .take(BLOCKS_MAX)
            .collect()
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        read::<RawUsage>(self.usage).map(|usage| usage.usage())
    }

    pub(super) fn incomplete_reason(&self) -> String {
        let details: Option<Value> = read(self.incomplete_details);
        let reason = details.as_ref().and_then(|details| details.get("reason"));
        let reason = reason.and_then(Value::as_str).unwrap_or_default();
        reason.to_owned()
    }
}

/// A kind of item that a message has a block for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemKind {
    Message,
    Reasoning,
    Function,
    /// A call whose argument is plain text.
    Custom,
}

/// An item as far as it is told.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: ItemKind,
    pub(super) id: String,
    pub(super) call_id: String,
    pub(super) name: String,
    /// The arguments of a call.
    pub(super) json: Option<String>,
    /// The texts of a message, by content index.
    pub(super) texts: Vec<String>,
    /// The text of a reasoning item.
    pub(super) thinking: String,
    /// A reasoning item as the server wants it back.
    pub(super) replay: Option<String>,
    /// Whether the server does not say that something is missing.
    pub(super) is_whole: bool,
}

impl Item {
    fn read(value: &Value) -> Option<Self> {
        let kind = match value.get("type")?.as_str()? {
            "message" => ItemKind::Message,
            "reasoning" => ItemKind::Reasoning,
            "function_call" => ItemKind::Function,
            "custom_tool_call" => ItemKind::Custom,
            _ => return None,
        };
        let text = |key: &str| {
            let text = value.get(key).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let mut item = Self {
            kind,
            id: text("id"),
            call_id: text("call_id"),
            name: text("name"),
            json: None,
            texts: Vec::new(),
            thinking: String::new(),
            replay: None,
            is_whole: !matches!(
                text("status").as_str(),
                "incomplete" | "in_progress" | "failed"
            ),
        };
        match kind {
            ItemKind::Message => item.texts = texts(value.get("content")),
            ItemKind::Reasoning => {
                item.thinking = joined(value.get("summary"));
                if item.thinking.is_empty() {
                    item.thinking = joined(value.get("content"));
                }
                item.replay = Some(replay(value));
            }
            ItemKind::Function => {
                item.json = match value.get("arguments") {
                    Some(Value::String(json)) => Some(json.clone()),
                    Some(object @ Value::Object(_)) => Some(object.to_string()),
                    _ => None,
                };
            }
            ItemKind::Custom => {
                let input = value.get("input").and_then(Value::as_str);
                item.json = input.map(custom_arguments);
            }
        }
        Some(item)
    }
}

/// The arguments of a custom tool's call.
pub(super) fn custom_arguments(input: &str) -> String {
    json!({ "input": input }).to_string()
}

/// How the JSON of a custom tool's arguments begins, before its text.
pub(super) const CUSTOM_LEAD: &str = r#"{"input":""#;

/// Text as it stands inside a JSON string.
pub(super) fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
    inner.unwrap_or_default().to_owned()
}

fn replay(item: &Value) -> String {
    let mut fields = Map::new();
    fields.insert("type".to_owned(), json!("reasoning"));
    if let Some(id @ Value::String(_)) = item.get("id") {
        fields.insert("id".to_owned(), id.clone());
    }
    let summary = item.get("summary").filter(|summary| summary.is_array());
    let summary = summary.cloned().unwrap_or_else(|| json!([]));
    fields.insert("summary".to_owned(), summary);
    if let Some(Value::Array(content)) = item.get("content")
        && !content.is_empty()
    {
        fields.insert("content".to_owned(), json!(content));
    }
    if let Some(Value::String(encrypted)) = item.get("encrypted_content")
        && !encrypted.is_empty()
    {
        fields.insert("encrypted_content".to_owned(), json!(encrypted));
    }
    Value::Object(fields).to_string()
}

fn texts(content: Option<&Value>) -> Vec<String> {
    match content {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(parts)) => {
            let texts = parts.iter().map(|part| text_of(part).unwrap_or_default());
            texts.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

fn joined(parts: Option<&Value>) -> String {
    let mut texts = texts(parts);
    texts.retain(|text| !text.is_empty());
    texts.join("\n\n")
}

fn text_of(part: &Value) -> Option<&str> {
    let fields = ["text", "refusal"].into_iter();
    fields
        .filter_map(|key| part.get(key))
        .find_map(Value::as_str)
}

fn read<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

#[derive(Deserialize)]
struct RawUsage {
    #[serde(default)]
    input_tokens: Count,
    #[serde(default)]
    input_tokens_details: Option<Value>,
    #[serde(default)]
    output_tokens: Count,
    #[serde(default)]
    output_tokens_details: Option<Value>,
    #[serde(default)]
    total_tokens: Count,
}

impl RawUsage {
    /// The counts, none of which overlaps another.
    fn usage(&self) -> Usage {
        let count = |details: &Option<Value>, key: &str| {
            let count = details.as_ref().and_then(|details| details.get(key));
            count.and_then(Value::as_u64).unwrap_or(0)
        };
        let prompt = self.input_tokens.get().unwrap_or(0);
        let cached = count(&self.input_tokens_details, "cached_tokens").min(prompt);
        let written = count(&self.input_tokens_details, "cache_write_tokens");
        let written = written.min(prompt - cached);
        // Some servers count reasoning in the total only; all of it is billed.
        let rest = self.total_tokens.get().unwrap_or(0).saturating_sub(prompt);
        let output = self.output_tokens.get().unwrap_or(0).max(rest);
        let reasoning = count(&self.output_tokens_details, "reasoning_tokens");
        Usage {
            input: prompt - cached - written,
            output,
            cache_read: cached,
            cache_write: written,
            reasoning: reasoning.min(output),
            cache_write_long: 0,
        }
    }
}
