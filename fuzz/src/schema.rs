//! What holds for the schema checker, whatever the schema and the value.

use dash::schema::{self, PROBLEMS_MAX, RECEIVED_CHARS_MAX};
use serde_json::Value;

/// Characters of a path and a message with what stands between them, at most.
const LINE_CHARS_MAX: usize = 700;

/// Two JSON texts, cut at the first line end: a schema and a value.
pub(super) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Some((wanted, value)) = text.split_once('\n') else {
        return;
    };
    let (Ok(wanted), Ok(value)) = (serde_json::from_str(wanted), serde_json::from_str(value))
    else {
        return;
    };
    check_fit(&wanted, &value);
}

/// Problems are few and short, what fits still fits when it is coerced, and nothing panics.
fn check_fit(wanted: &Value, value: &Value) {
    let problems = schema::check(wanted, value);
    assert!(problems.len() <= PROBLEMS_MAX, "{}", problems.len());
    let text = schema::explain(&problems, value);
    for line in problems.iter().map(ToString::to_string) {
        assert!(line.chars().count() <= LINE_CHARS_MAX, "{line}");
    }
    let chars_max = PROBLEMS_MAX * LINE_CHARS_MAX + RECEIVED_CHARS_MAX + 100;
    assert!(text.chars().count() <= chars_max, "{text}");
    let coerced = schema::coerce(wanted, value);
    if problems.is_empty() {
        let after = schema::check(wanted, &coerced);
        assert!(after.is_empty(), "it did fit: {after:?}\n{coerced}");
    }
}
