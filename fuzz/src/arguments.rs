//! What holds for arguments of tool calls, whatever a model sends.

use dash::llm::arguments::parse_arguments;
use dash::llm::preview::JsonPreview;
use serde_json::{Value, json};

use super::schema;

/// Levels that are taken.
const DEPTH_MAX: usize = 64;

/// Any text as the arguments of a call: read, repaired, coerced and checked against a schema that
/// has every keyword.
pub(super) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (value, error) = parse_arguments(text);
    assert!(value.is_object(), "{value}");
    assert!(depth(&value) <= DEPTH_MAX, "too deep");
    match &error {
        Some(error) => {
            assert_eq!(value, json!({}), "an error and a value");
            assert!(error.chars().count() <= 1_300, "a long error: {error}");
        }
        None => {
            let (again, error) = parse_arguments(&value.to_string());
            assert_eq!((again, error), (value.clone(), None), "read again");
        }
    }
    // What is right needs no repair.
    if let Ok(plain @ Value::Object(_)) = serde_json::from_str::<Value>(text)
        && depth(&plain) <= DEPTH_MAX
    {
        assert_eq!((&plain, None), (&value, error), "changed what was right");
        check_preview(text, &plain);
    }
    schema::check(format!("{}\n{value}", every_keyword()).as_bytes());
}

/// A preview of the whole is the whole, also when it comes by characters.
fn check_preview(text: &str, whole: &Value) {
    let mut preview = JsonPreview::new();
    for c in text.chars() {
        preview.push(c.encode_utf8(&mut [0; 4]));
    }
    preview.finish();
    assert_eq!(&preview.value(), whole, "by characters");
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn every_keyword() -> Value {
    json!({
        "type": "object",
        "properties": {
            "path": {"type": "string", "minLength": 1, "maxLength": 20, "pattern": "^[a-z/.]*$"},
            "line": {"type": "integer", "minimum": 1, "maximum": 100},
            "ratio": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5},
            "deep": {"type": ["boolean", "null"]},
            "mode": {"enum": ["a", "b", 1]},
            "lines": {"type": "array", "items": {"type": "integer"}, "maxItems": 4, "uniqueItems": true},
            "pair": {"prefixItems": [{"type": "string"}, {"const": 2}]},
            "any": {"anyOf": [{"type": "integer"}, {"$ref": "#/properties/path"}]},
            "one": {"oneOf": [{"type": "string"}, {"type": "number"}]},
            "all": {"allOf": [{"type": "object"}, {"$ref": "#"}]},
            "old": {"type": "string", "nullable": true}
        },
        "patternProperties": {"^x-": {"type": "string"}},
        "required": ["path"],
        "additionalProperties": false
    })
}
