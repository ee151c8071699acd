//! Contents and reasoning in the shapes servers send them.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::llm::lenient::Lenient;

/// A content: its text, and the thinking among its parts (Mistral sends both in one list).
#[derive(Default)]
pub(super) struct Content<'a> {
    pub(super) text: Lenient<'a>,
    pub(super) thinking: String,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Nearly always a text, which is read where it stands.
        let raw = <&RawValue>::deserialize(from)?.get();
        let text = match plain(raw) {
            Some(text) => Lenient::borrowed(text),
            None => serde_json::from_str(raw).unwrap_or_default(),
        };
        let mut thinking = String::new();
        if raw.starts_with('[') {
            let parts: Vec<Value> = serde_json::from_str(raw).unwrap_or_default();
            for part in &parts {
                push_text(part.get("thinking"), &mut thinking);
            }
        }
        Ok(Self { text, thinking })
    }
}

/// A JSON text without escapes. That it is JSON was checked.
fn plain(json: &str) -> Option<&str> {
    let text = json.strip_prefix('"')?.strip_suffix('"')?;
    (!text.contains('\\')).then_some(text)
}

fn push_text(value: Option<&Value>, out: &mut String) {
    match value {
        Some(Value::String(text)) => out.push_str(text),
        Some(Value::Array(parts)) => {
            for part in parts {
                out.push_str(part.get("text").and_then(Value::as_str).unwrap_or_default());
            }
        }
        _ => {}
    }
}

/// The `reasoning_details` of an answer, put together from their pieces, to be sent back unchanged.
#[derive(Debug, Default)]
pub(super) struct Details(Vec<Value>);

impl Details {
    /// Adds pieces; the readable text in them. A readable item grows as long as pieces of its type
    /// and index follow; signed and encrypted ones come whole.
    pub(super) fn add(&mut self, pieces: Vec<Value>) -> String {
        let mut said = String::new();
        for piece in pieces {
            for key in TEXTS {
                push_text(piece.get(key), &mut said);
            }
            match self.0.last_mut() {
                Some(last) if continues(last, &piece) => extend(last, piece),
                _ => self.0.push(piece),
            }
        }
        said
    }

    /// The whole list as JSON.
    pub(super) fn to_json(&self) -> String {
        Value::from(self.0.clone()).to_string()
    }
}

/// Fields with text that comes in pieces.
const TEXTS: [&str; 2] = ["text", "summary"];

fn continues(last: &Value, piece: &Value) -> bool {
    let told = |key: &str| piece.get(key).filter(|value| !value.is_null());
    let same = |key: &str| match (last.get(key), told(key)) {
        (Some(own), Some(other)) => own.is_null() || own == other,
        _ => true,
    };
    let is_text = piece.get("data").is_none() && last.get("data").is_none();
    is_text && last.get("type") == piece.get("type") && same("index") && same("id")
}

fn extend(last: &mut Value, piece: Value) {
    let (Value::Object(own), Value::Object(more)) = (last, piece) else {
        return;
    };
    for (key, value) in more {
        match (own.get_mut(&key), value) {
            (_, Value::Null) => {}
            (Some(Value::String(text)), Value::String(more)) if TEXTS.contains(&&*key) => {
                text.push_str(&more);
            }
            (_, value) => {
                own.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;

    #[test]
    fn details_grow_by_index_and_keep_their_signature() {
        let mut details = Details::default();
        let text = |text: &str, index: u32| json!({"type": "reasoning.text", "text": text, "format": "a", "index": index});
        assert_eq!(details.add(vec![text("I ", 0), text("see", 0)]), "I see");
        let signed = json!({"type": "reasoning.text", "text": null, "signature": "s", "index": 0});
        assert_eq!(details.add(vec![signed]), "");
        details.add(vec![text("new", 1)]);
        let sealed = json!({"type": "reasoning.encrypted", "data": "x", "index": 1});
        details.add(vec![sealed.clone(), sealed.clone()]);
        let expected = json!([
            {"type": "reasoning.text", "text": "I see", "format": "a", "index": 0, "signature": "s"},
            {"type": "reasoning.text", "text": "new", "format": "a", "index": 1},
            sealed,
            sealed,
        ]);
        assert_eq!(details.to_json(), expected.to_string());
    }

    #[test]
    fn thinking_among_parts_is_told_apart_from_text() {
        let raw = r#"[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"Hi"},7]"#;
        let both: Content<'_> = serde_json::from_str(raw).unwrap();
        assert_eq!((both.text.as_str(), both.thinking.as_str()), ("Hi", "hm"));
    }

    #[test]
    fn a_content_is_read_with_its_escapes() {
        for (json, text) in [
            (r#""a b""#, "a b"),
            (r#""a\n\"b\"""#, "a\n\"b\""),
            (r#""""#, ""),
            ("null", ""),
            ("7", "7"),
        ] {
            let read: Content<'_> = serde_json::from_str(json).unwrap();
            assert_eq!(read.text.as_str(), text, "{json}");
        }
    }
}
