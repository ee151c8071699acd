//! What holds for events, whatever stands in a store or comes over the wire.

use dash::event::{Event, EventKind};
use serde_json::Value;

/// Any bytes: as the JSON of an event, and, cut at the first line end, as a stored type name with its
/// payload.
pub(super) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    check_wire(text);
    let (name, payload) = text.split_once('\n').unwrap_or((text, "{}"));
    check_stored(name, payload);
    // The same payload under each name: a known type with another shape is kept as it is.
    if serde_json::from_str::<Value>(payload).is_ok() {
        for name in EventKind::NAMES {
            check_stored(name, payload);
        }
    }
}

/// What can be read can be written, and is then read as the same.
fn check_wire(text: &str) {
    let Ok(event) = serde_json::from_str::<Event>(text) else {
        return;
    };
    let written = serde_json::to_string(&event).expect("an event that was read can be written");
    let again: Event = serde_json::from_str(&written)
        .unwrap_or_else(|err| panic!("cannot be read again: {err}\n{written}"));
    assert_eq!(again, event, "{written}");
}

/// JSON is always an event, under the name it was stored with; what is no JSON is an error.
fn check_stored(name: &str, payload: &str) {
    let is_json = serde_json::from_str::<Value>(payload).is_ok();
    let Ok(kind) = EventKind::decode(name, payload) else {
        assert!(!is_json, "{name}: refused {payload}");
        return;
    };
    assert!(is_json, "{name}: took {payload}");
    assert_eq!(kind.name(), name);
    let written = kind
        .data_json()
        .expect("a payload that was read can be written");
    let again = EventKind::decode(name, &written).expect("what was written is JSON");
    assert_eq!(again, kind, "{written}");
}
