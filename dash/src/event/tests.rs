//! Events as JSON: there and back, known or not.

use super::*;

fn sample(kind: EventKind) -> Event {
    Event {
        seq: 7,
        id: EventId::from_u128(1),
        at: UnixMillis(1_770_028_921_123),
        swarm_id: Some(SwarmId::from_u128(2)),
        source: Cow::Borrowed("system"),
        kind,
    }
}

#[test]
fn an_event_survives_json() {
    let event = sample(
        AgentStarted {
            agent_id: AgentId::from_u128(3),
            attempt: 0,
            resumed: false,
        }
        .into(),
    );
    let json = serde_json::to_string(&event).unwrap();
    assert!(
        json.contains(r#""type":"agent.started","data":{"agentId":"#),
        "{json}"
    );
    assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
}

#[test]
fn an_unknown_type_is_kept_whole() {
    let event = sample(EventKind::Unknown {
        type_name: "moon.landed".to_owned(),
        data: serde_json::json!({"crew": 3}),
    });
    let json = serde_json::to_string(&event).unwrap();
    assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
}

#[test]
fn a_known_type_with_a_payload_of_another_shape_is_kept_too() {
    let kind = EventKind::decode("agent.started", r#"{"other":1}"#).unwrap();
    assert!(matches!(kind, EventKind::Unknown { .. }));
}

/// Arguments of tools are stored the same way: after a restart a tool must get the same number.
#[test]
fn a_number_is_read_as_the_one_that_was_written() {
    for json in [
        "10e31",
        "1.7976931348623157e308",
        "0.1",
        "2.2250738585072014e-308",
    ] {
        let kind = EventKind::decode("moon.landed", json).unwrap();
        let written = kind.data_json().unwrap();
        let again = EventKind::decode("moon.landed", &written).unwrap();
        assert_eq!(kind, again, "{json}, written as {written}");
    }
}

#[test]
fn a_payload_that_names_a_field_twice_is_read_as_it_is_read_again() {
    let (one, two) = (SwarmId::from_u128(1), SwarmId::from_u128(2));
    let json = format!(r#"{{"swarmId":"{one}","swarmId":"{two}"}}"#);
    let kind = EventKind::decode("swarm.resumed", &json).unwrap();
    let again = EventKind::decode(kind.name(), &kind.data_json().unwrap()).unwrap();
    assert_eq!(kind, again);
    assert!(!matches!(kind, EventKind::Unknown { .. }), "{kind:?}");
}

#[test]
fn the_prd_names_are_all_there() {
    for name in [
        "agent.spawned",
        "agent.started",
        "agent.progress",
        "agent.completed",
        "agent.failed",
        "agent.killed",
        "agent.paused",
        "agent.resumed",
        "swarm.created",
        "swarm.scaled",
        "swarm.completed",
        "swarm.destroyed",
        "budget.threshold",
        "budget.exceeded",
        "system.error",
    ] {
        assert!(EventKind::NAMES.contains(&name), "{name}");
    }
}
