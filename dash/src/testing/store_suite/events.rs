//! Numbers without gaps, and events by filter.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::json;

use super::super::samples::{World, new};
use super::{WORLD, assert_conflict, seed};
use crate::event::{EventKind, EventSource, NewEvent, SwarmPaused, SystemError};
use crate::ids::{EventId, SwarmId};
use crate::store::{Changeset, EventFilter, Store};

pub(super) async fn numbers_are_contiguous_with_failures_in_between(store: &Arc<dyn Store>) {
    seed(store).await;
    let mut expected = 0;
    for n in 1..=5 {
        let committed = store.commit(WORLD.events(n)).await.unwrap();
        for event in committed.events {
            expected += 1;
            assert_eq!(event.seq, expected);
        }
        let clash = Changeset {
            agents: WORLD.all().agents,
            ..WORLD.events(3)
        };
        assert_conflict(store.commit(clash).await);
    }
    assert_eq!(store.head_seq().await.unwrap(), expected);
    let events = store
        .list_events(&EventFilter::default(), 0, 100)
        .await
        .unwrap();
    let numbers: Vec<u64> = events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=expected).collect::<Vec<_>>());
}

pub(super) async fn concurrent_commits_get_numbers_without_gaps(store: &Arc<dyn Store>) {
    seed(store).await;
    let tasks: Vec<_> = (0..50_u128)
        .map(|n| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                for round in 0..4_u128 {
                    // Every third one is refused.
                    let is_bad = (n + round) % 3 == 0;
                    let agent = if is_bad {
                        WORLD.agent()
                    } else {
                        WORLD.child(1 + n * 4 + round)
                    };
                    let changeset = Changeset {
                        agents: vec![new(agent)],
                        ..WORLD.events(3)
                    };
                    match store.commit(changeset).await {
                        Ok(committed) => seen.extend(committed.events.iter().map(|e| e.seq)),
                        Err(err) => assert!(is_bad, "{err}"),
                    }
                }
                seen
            })
        })
        .collect();
    let mut all = HashSet::new();
    for task in tasks {
        let seen = task.await.unwrap();
        for run in seen.chunks(3) {
            assert_eq!(
                [run[0] + 1, run[0] + 2],
                run[1..],
                "a changeset's events are neighbours"
            );
        }
        all.extend(seen);
    }
    let head = store.head_seq().await.unwrap();
    assert_eq!(all, (1..=head).collect());
}

pub(super) async fn events_survive_a_round_trip(store: &Arc<dyn Store>) {
    seed(store).await;
    let unknown = |data| EventKind::Unknown {
        type_name: "moon.landed".to_owned(),
        data,
    };
    let id = EventId::from_u128(u128::MAX >> 1);
    let agent = WORLD.agent_id.to_string();
    let mut changeset = WORLD.events(2);
    changeset.events.extend([
        NewEvent {
            id,
            source: EventSource::Swarm(WORLD.swarm_id),
            ..WORLD.event_of(
                SwarmPaused {
                    swarm_id: WORLD.swarm_id,
                    reason: "\u{1F980}\"@".into(),
                }
                .into(),
            )
        },
        NewEvent {
            id,
            swarm_id: None,
            source: EventSource::System,
            ..WORLD.event_of(
                SystemError {
                    component: "x".into(),
                    error: "@".into(),
                }
                .into(),
            )
        },
        WORLD.event_of(unknown(json!({"crew": [1, 2.5, null], "agentId": agent}))),
        WORLD.event_of(unknown(json!({"agentId": agent}))),
        WORLD.event_of(unknown(json!({"agentId": WORLD.child(1).id.to_string()}))),
        WORLD.event_of(unknown(json!({"agentId": "@"}))),
        WORLD.event_of(unknown(json!("@"))),
        WORLD.event_of(unknown(json!(null))),
    ]);
    let committed = store.commit(changeset.clone()).await.unwrap();
    let read = store
        .list_events(&EventFilter::default(), 0, 100)
        .await
        .unwrap();
    assert_eq!(read, committed.events);
    for (event, new) in read.iter().zip(changeset.events) {
        assert_eq!(
            (&event.kind, event.source.as_ref()),
            (&new.kind, &*new.source.to_string())
        );
    }
}

pub(super) async fn events_are_filtered(store: &Arc<dyn Store>) {
    seed(store).await;
    let other = World::new(2);
    store.commit(other.all()).await.unwrap();
    let system = SystemError {
        component: "x".into(),
        error: "y".into(),
    };
    let changeset = Changeset {
        events: vec![
            WORLD.event(0),
            other.event(1),
            NewEvent {
                swarm_id: None,
                source: EventSource::System,
                ..WORLD.event_of(system.into())
            },
            NewEvent {
                source: EventSource::Swarm(WORLD.swarm_id),
                ..WORLD.event(3)
            },
            WORLD.event(4),
        ],
        ..Changeset::default()
    };
    store.commit(changeset).await.unwrap();
    let of = |swarm_id: Option<SwarmId>, source: Option<String>, types: &[&str]| EventFilter {
        swarm_id,
        source,
        types: types.iter().map(|name| (*name).to_owned()).collect(),
    };
    let cases: [(EventFilter, u64, &[u64]); 11] = [
        (of(None, None, &[]), 2, &[3, 4, 5]),
        (of(Some(WORLD.swarm_id), None, &[]), 0, &[1, 4, 5]),
        (of(Some(WORLD.swarm_id), None, &[]), 4, &[5]),
        (of(None, Some(WORLD.agent_id.to_string()), &[]), 0, &[1, 5]),
        (of(None, Some(WORLD.swarm_id.to_string()), &[]), 0, &[4]),
        (of(None, Some("system".to_owned()), &[]), 0, &[3]),
        (of(None, Some("nobody".to_owned()), &[]), 0, &[]),
        (of(None, None, &["agent.started"]), 1, &[2, 4, 5]),
        (
            of(None, None, &["agent.started", "system.error", "no.such"]),
            0,
            &[1, 2, 3, 4, 5],
        ),
        (of(None, None, &["no.such"]), 0, &[]),
        (
            of(
                Some(other.swarm_id),
                Some(other.agent_id.to_string()),
                &["agent.started"],
            ),
            0,
            &[2],
        ),
    ];
    for (filter, after, expected) in cases {
        let found = store.list_events(&filter, after, 100).await.unwrap();
        let numbers: Vec<u64> = found.iter().map(|event| event.seq).collect();
        assert_eq!(numbers, expected, "{filter:?} after {after}");
    }
    let found = store
        .list_events(&EventFilter::default(), 1, 2)
        .await
        .unwrap();
    assert_eq!(
        found.iter().map(|event| event.seq).collect::<Vec<_>>(),
        [2, 3]
    );
    assert_eq!(
        store
            .list_events(&EventFilter::default(), u64::MAX, 2)
            .await
            .unwrap(),
        []
    );
}
