//! Reads the JSON text of a tool call's arguments.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Characters of broken arguments an error quotes.
const QUOTED_CHARS_MAX: usize = 1_000;

/// Parses the argument text of a tool call, with one pass of repair.
///
/// No text, or `null`, means no arguments. What cannot be read, or is not an object, gives `{}`
/// and an error for the model that quotes what it sent.
#[must_use]
pub fn parse_arguments(text: &str) -> (Value, Option<String>) {
    let none = || Value::Object(Map::new());
    let text = text.trim();
    if text.is_empty() || text == "null" {
        return (none(), None);
    }
    let parsed: Result<Value, _> = serde_json::from_str(text)
        .or_else(|first: serde_json::Error| serde_json::from_str(&repair(text)).or(Err(first)));
    let fault = match parsed {
        Ok(value) if !is_within(&value, DEPTH_MAX) => {
            format!("the arguments are nested more than {DEPTH_MAX} levels deep")
        }
        Ok(Value::Object(fields)) => return (Value::Object(fields), None),
        Ok(other) => format!("the arguments are {}, not a JSON object", kind_of(&other)),
        Err(err) => format!("the arguments are not valid JSON ({err})"),
    };
    (
        none(),
        Some(format!("{fault}: {}", cut(text, QUOTED_CHARS_MAX))),
    )
}

/// Levels of arguments that are taken. What is stored around them has levels too, and no reader of
/// JSON goes beyond 128.
const DEPTH_MAX: usize = 64;

/// Whether a value has no more levels than these.
fn is_within(value: &Value, levels: usize) -> bool {
    let below = |value: &Value| levels > 0 && is_within(value, levels - 1);
    match value {
        Value::Array(items) => items.iter().all(below),
        Value::Object(fields) => fields.values().all(below),
        _ => true,
    }
}

const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The first `max_chars` characters; `…` marks a cut.
pub(super) fn cut(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Escapes raw control characters inside strings and doubles backslashes that escape nothing:
/// what small models most often get wrong.
fn repair(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut in_string = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                in_string = !in_string;
                out.push(c);
            }
            '\\' if in_string => {
                out.push('\\');
                match chars.peek() {
                    Some('u') => {
                        let digits: Vec<char> = chars.clone().skip(1).take(4).collect();
                        if digits.len() < 4 || !digits.iter().all(char::is_ascii_hexdigit) {
                            out.push('\\');
                        }
                    }
                    Some('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => {
                        out.extend(chars.next());
                    }
                    Some(_) | None => out.push('\\'),
                }
            }
            '\n' if in_string => out.push_str("\\n"),
            '\r' if in_string => out.push_str("\\r"),
            '\t' if in_string => out.push_str("\\t"),
            c if in_string && c.is_control() && c.is_ascii() => {
                // Writing to a string cannot fail.
                let _written = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_read_strictly_then_repaired_once() {
        for (text, arguments) in [
            ("", json!({})),
            ("  ", json!({})),
            ("null", json!({})),
            ("{}", json!({})),
            (r#"{"a":"\u00e9 \\ \n"}"#, json!({"a": "\u{e9} \\ \n"})),
            (
                "{\"a\":\"one\ntwo\tthree\"}",
                json!({"a": "one\ntwo\tthree"}),
            ),
            (
                r#"{"path":"C:\dir\new \user \q"}"#,
                json!({"path": "C:\\dir\new \\user \\q"}),
            ),
            ("{\"a\":\"\u{1}\"}", json!({"a": "\u{1}"})),
        ] {
            assert_eq!(parse_arguments(text), (arguments, None), "{text}");
        }
    }

    #[test]
    fn arguments_are_no_deeper_than_what_can_be_stored() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
            parse_arguments(&format!("{{\"a\":{open}1{close}}}"))
        };
        assert_eq!(nested(64).1, None);
        let (arguments, error) = nested(65);
        assert_eq!(arguments, json!({}));
        assert!(error.unwrap().contains("more than 64 levels"));
    }

    #[test]
    fn what_is_no_object_is_an_error_that_quotes_it() {
        for text in ["[1]", "\"text\"", "3", "true", r#"{"a":"cut of"#, "{'a':1}"] {
            let (arguments, error) = parse_arguments(text);
            assert_eq!(arguments, json!({}), "{text}");
            assert!(error.unwrap().ends_with(text), "{text}");
        }
        let long = "x".repeat(5_000);
        assert!(parse_arguments(&long).1.unwrap().chars().count() < 1_200);
    }
}
