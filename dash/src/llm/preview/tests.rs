use std::fmt::Write as _;

use pretty_assertions::assert_eq;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn shown(text: &str) -> Value {
    let mut preview = JsonPreview::new();
    preview.push(text);
    preview.value()
}

#[test]
fn what_is_open_is_shown_and_what_is_half_is_not() {
    for (text, expected) in [
        ("", json!(null)),
        ("  ", json!(null)),
        ("{", json!({})),
        (r#"{"a"#, json!({})),
        (r#"{"a""#, json!({})),
        (r#"{"a":"#, json!({})),
        (r#"{"a":""#, json!({"a": ""})),
        (r#"{"a":"x\"#, json!({"a": "x"})),
        (r#"{"a":"x\n"#, json!({"a": "x\n"})),
        (r#"{"a":"x\u00e"#, json!({"a": "x"})),
        (r#"{"a":"x\u00e9"#, json!({"a": "xé"})),
        (r#"{"a":"\ud83d"#, json!({"a": ""})),
        (r#"{"a":"\ud83d\ude0"#, json!({"a": ""})),
        (r#"{"a":"\ud83d\ude00"#, json!({"a": "😀"})),
        (r#"{"a":-1"#, json!({})),
        (r#"{"a":-1 "#, json!({"a": -1})),
        (r#"{"a":tru"#, json!({})),
        (r#"{"a":true,"#, json!({"a": true})),
        (r#"{"a":[1,[2,{"b":"c"#, json!({"a": [1, [2, {"b": "c"}]]})),
        (r#"[[1],[]"#, json!([[1], []])),
        ("42", json!(null)),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn the_end_of_the_text_is_the_end_of_a_number() {
    let mut preview = JsonPreview::new();
    preview.push("4");
    preview.push("2");
    assert!(!preview.is_complete());
    preview.finish();
    assert!(preview.is_complete());
    assert_eq!(preview.value(), json!(42));
}

#[test]
fn after_an_error_what_was_read_stays() {
    for (text, expected) in [
        (r#"{"a":1,}"#, json!({"a": 1})),
        (r#"{"a":1]"#, json!({"a": 1})),
        (r#"{"a":[1,x,3]}"#, json!({"a": [1]})),
        (r#"{"a":nul,"b":1}"#, json!({})),
        (r#"{"a":1} {"b":2}"#, json!({"a": 1})),
        (r#"[1 2]"#, json!([1])),
        ("}", json!(null)),
        // What models get wrong in strings is shown as it was meant.
        ("{\"a\":\"x\ny\\d\"}", json!({"a": "x\ny\\d"})),
        (r#"{"a":"\ud83dx\u12"}"#, json!({"a": "\u{fffd}x\u{fffd}"})),
        (
            r#"{"a":"\udc00\ud83d\ud83d"}"#,
            json!({"a": "\u{fffd}\u{fffd}\u{fffd}"}),
        ),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn what_is_too_deep_is_not_shown() {
    let text = "[".repeat(100_000);
    let mut value = shown(&text);
    let mut depth = 0;
    while let Value::Array(items) = value {
        depth += 1;
        value = items.into_iter().next().unwrap_or_default();
    }
    assert_eq!(depth, DEPTH_MAX);
    // As deep as the strict reader goes, and no less.
    let deep = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
    assert_eq!(shown(&deep), serde_json::from_str::<Value>(&deep).unwrap());
    assert!(serde_json::from_str::<Value>(&format!("[{deep}]")).is_err());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[\\\\\"/bnu😀é]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// The text of a value, in one of several ways to write it.
fn written(value: &Value, pretty: bool, ascii: bool) -> String {
    let text = if pretty {
        serde_json::to_string_pretty(value).unwrap()
    } else {
        value.to_string()
    };
    if !ascii {
        return text;
    }
    let mut units = [0; 2];
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                let _infallible = write!(out, "\\u{unit:04X}");
            }
        }
    }
    out
}

/// Whether `part` may be shown while `whole` is being written.
fn is_part(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::String(part), Value::String(whole)) => whole.starts_with(part.as_str()),
        (Value::Array(part), Value::Array(whole)) => {
            let Some((last, before)) = part.split_last() else {
                return true;
            };
            let Some((same, rest)) = whole.split_at_checked(before.len()) else {
                return false;
            };
            before == same && rest.first().is_some_and(|whole| is_part(last, whole))
        }
        (Value::Object(part), Value::Object(whole)) => {
            let mut pairs = part.iter().zip(whole).rev();
            let last = pairs
                .next()
                .is_none_or(|((a, x), (b, y))| a == b && is_part(x, y));
            part.len() <= whole.len() && last && pairs.all(|(a, b)| a == b)
        }
        (part, whole) => part == whole,
    }
}

proptest! {
    #[test]
    fn however_it_is_cut_the_end_is_what_the_strict_reader_says(
        value in any_json(), pretty: bool, ascii: bool, cuts in prop::collection::vec(1..9_usize, 1..20),
    ) {
        let text = written(&value, pretty, ascii);
        let strict: Value = serde_json::from_str(&text).unwrap();
        let mut preview = JsonPreview::new();
        let mut rest: Vec<char> = text.chars().collect();
        for size in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let fragment: String = rest.drain(..rest.len().min(*size)).collect();
            preview.push(&fragment);
        }
        preview.finish();
        prop_assert!(preview.is_complete());
        prop_assert_eq!(preview.value(), strict);
    }

    #[test]
    fn every_preview_is_a_part_of_the_end(value in any_json(), pretty: bool, ascii: bool) {
        let text = written(&value, pretty, ascii);
        let strict: Value = serde_json::from_str(&text).unwrap();
        let mut preview = JsonPreview::new();
        for c in text.chars() {
            let shown = preview.value();
            prop_assert!(shown.is_null() || is_part(&shown, &strict), "{} of {}", shown, strict);
            preview.push(c.encode_utf8(&mut [0; 4]));
        }
    }

    #[test]
    fn no_text_makes_it_stop(text in "[\\[\\]{}\",:\\\\utrue0-9.e \nédD8]{0,60}") {
        let mut preview = JsonPreview::new();
        for c in text.chars() {
            preview.push(c.encode_utf8(&mut [0; 4]));
            let _shown = preview.value();
        }
        preview.finish();
        let whole = serde_json::from_str::<Value>(&text);
        if let Ok(value) = whole {
            prop_assert_eq!(preview.value(), value);
        }
    }

    #[test]
    fn the_work_is_linear_and_the_same_for_every_cut(value in any_json(), size in 1..9_usize) {
        let text = value.to_string();
        let mut whole = JsonPreview::new();
        whole.push(&text);
        let mut cut = JsonPreview::new();
        let chars: Vec<char> = text.chars().collect();
        for part in chars.chunks(size) {
            cut.push(&part.iter().collect::<String>());
        }
        prop_assert_eq!(whole.steps, cut.steps);
        // One step for each character, and one more for each that ends a number or literal.
        prop_assert!(cut.steps <= 2 * chars.len());
    }
}
