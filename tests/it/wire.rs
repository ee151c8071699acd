//! The JSON of every event, against a file: an accidental change is a red diff.
//!
//! A deliberate change: put what the failing test prints into `tests/it/wire/events.jsonl`.

use dash::env::UnixMillis;
use dash::event::{Event, EventKind};
use dash::ids::{EventId, SwarmId};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

const GOLDEN: &str = include_str!("wire/events.jsonl");

/// A value that a schema allows, the same in every run.
fn sample(schema: &Value, defs: &Value) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        return sample(&defs[name], defs);
    }
    for several in ["anyOf", "oneOf"] {
        if let Some(first) = schema[several].as_array().and_then(|all| all.first()) {
            return sample(first, defs);
        }
    }
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    if !schema["const"].is_null() {
        return schema["const"].clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds[0].as_str(),
        kind => kind.as_str(),
    };
    match kind {
        Some("object") => {
            let properties = schema["properties"].as_object().unwrap();
            let value = |(name, schema): (&String, &Value)| (name.clone(), sample(schema, defs));
            Value::Object(properties.iter().map(value).collect())
        }
        Some("integer") => json!(7),
        Some("number") => json!(0.25),
        Some("boolean") => json!(true),
        Some("string") => match schema["pattern"].as_str() {
            Some(pattern) if pattern.contains("{25}") => json!("00000000000000000000000007"),
            Some(_) => json!("t3/c0"),
            None => json!("text"),
        },
        other => panic!("no sample for {other:?} in {schema}"),
    }
}

fn lines() -> String {
    let mut lines = String::new();
    for (name, schema) in EventKind::schemas() {
        let schema = schema.to_value();
        let data = sample(&schema, &schema["$defs"]);
        let kind = EventKind::decode(name, &data.to_string()).unwrap();
        let is_known = !matches!(kind, EventKind::Unknown { .. });
        assert!(
            is_known,
            "{name} does not read what its schema allows: {data}"
        );
        let event = Event {
            seq: 12,
            id: EventId::from_u128(1),
            at: UnixMillis(1_770_028_921_123),
            swarm_id: Some(SwarmId::from_u128(2)),
            source: "system".into(),
            kind,
        };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        lines.push_str(&line);
        lines.push('\n');
    }
    lines
}

/// With `DASH_UPDATE_WIRE=1` the file is written; without it, it is compared.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the one switch of this test is a variable"
)]
fn the_json_of_every_event_is_what_was_released() {
    let lines = lines();
    if std::env::var("DASH_UPDATE_WIRE").is_ok() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/it/wire/events.jsonl");
        std::fs::write(path, lines).unwrap();
        return;
    }
    assert_eq!(lines, GOLDEN, "\n{lines}");
}

#[test]
fn the_names_of_all_events_are_what_was_released() {
    let names: Vec<String> = GOLDEN
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            event["type"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names, EventKind::NAMES);
}
