//! A small JSON Schema checker for values that a model wrote: arguments of tools whose schema is
//! only known as JSON.
//!
//! [`coerce`] first, then [`check`]; [`explain`] makes the text the model reads:
//!
//! ```
//! use dash::schema;
//! use serde_json::json;
//!
//! let wanted = json!({"type": "object", "properties": {"days": {"type": "integer"}}});
//! let sent = json!({"days": "3"});
//! assert_eq!(schema::check(&wanted, &sent)[0].path, "days");
//! assert_eq!(schema::coerce(&wanted, &sent), json!({"days": 3}));
//! ```
//!
//! Known: `type`, `enum`, `const`, `required`, `properties`, `patternProperties`,
//! `additionalProperties`, `items`, `prefixItems`, `anyOf`, `oneOf`, `allOf`, `$ref` within the
//! schema, `nullable`, `pattern`, and the bounds of lengths, counts and numbers. Other keywords
//! are ignored, so a value that passes may still break a rule that is not checked here. Whatever
//! the schema, the work is bounded; what is too deep or too much to check does not pass.

use std::fmt;

use serde_json::{Number, Value};

mod check;
mod coerce;
#[cfg(test)]
mod tests;

pub use check::check;
pub use coerce::coerce;

/// Most problems that one check reports.
pub const PROBLEMS_MAX: usize = 20;
/// Characters of the received value that [`explain`] repeats.
pub const RECEIVED_CHARS_MAX: usize = 1_000;
/// Schemas within schemas, references included, that are followed.
const DEPTH_MAX: usize = 128;
/// Pairs of schema and value that one check looks at, copies included.
const WORK_MAX: usize = 500_000;
/// Characters of a path or a message.
const TEXT_CHARS_MAX: usize = 300;

/// One way in which a value does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: `items[2].name`, or `(root)`.
    pub path: String,
    /// What is wrong, in words for a model.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The text a model reads when its arguments do not fit: a line per problem, then what was received,
/// cut to [`RECEIVED_CHARS_MAX`] characters.
#[must_use]
pub fn explain(problems: &[Problem], received: &Value) -> String {
    let mut out = String::from("invalid arguments:\n");
    for problem in problems {
        out.push_str(&problem.to_string());
        out.push('\n');
    }
    out.push_str("Received: ");
    out.push_str(&cut(&received.to_string(), RECEIVED_CHARS_MAX));
    out
}

/// A place in a value, as a list from the leaf to the root.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Field(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("(root)"),
            Self::Field(Self::Root, name) if is_plain(name) => f.write_str(name),
            Self::Field(parent, name) if is_plain(name) => write!(f, "{parent}.{name}"),
            Self::Field(Self::Root, name) => write!(f, "[{name:?}]"),
            Self::Field(parent, name) => write!(f, "{parent}[{name:?}]"),
            Self::Item(Self::Root, at) => write!(f, "[{at}]"),
            Self::Item(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '$'))
}

/// What `type` may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "string" => Self::String,
            "array" => Self::Array,
            "object" => Self::Object,
            _ => return None,
        })
    }

    /// The narrowest kind of a value.
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if is_whole(number) => Self::Integer,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::String,
            Value::Array(_) => Self::Array,
            Value::Object(_) => Self::Object,
        }
    }

    fn takes(self, value: &Value) -> bool {
        let kind = Self::of(value);
        self == kind || (self == Self::Number && kind == Self::Integer)
    }
}

/// Whether a number is an integer; `2.0` is.
fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|f| f.fract() == 0.0)
}

/// The kinds that `type` allows; `None` = any, also where it names something unknown.
fn kinds_of(schema: &Value) -> Option<Vec<Kind>> {
    match schema.get("type")? {
        Value::String(name) => Kind::named(name).map(|kind| vec![kind]),
        Value::Array(names) if !names.is_empty() => names
            .iter()
            .map(|name| name.as_str().and_then(Kind::named))
            .collect(),
        _ => None,
    }
}

/// Whether the schema takes `null` by `nullable`.
fn is_nullable(schema: &Value) -> bool {
    schema.get("nullable") == Some(&Value::Bool(true))
}

/// Where the schema's `$ref` points; `None` = there is none, or not within this schema.
fn referred<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    let pointer = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
    root.pointer(pointer)
}

/// The schemas in a list such as `anyOf`.
fn branches<'a>(schema: &'a Value, keyword: &str) -> &'a [Value] {
    let list = schema.get(keyword).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// The text, cut to `max` characters.
fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}
