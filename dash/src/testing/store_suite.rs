//! What every [`Store`] must do, as runnable cases.
//!
//! ```no_run
//! # async fn suite() {
//! use std::sync::Arc;
//!
//! use dash::store::{MemoryStore, Store};
//!
//! dash::testing::store_suite::run_all(|| async { Arc::new(MemoryStore::new()) as Arc<dyn Store> })
//!     .await;
//! # }
//! ```
//!
//! Each case gets a store of its own and panics with the case's name in the backtrace and what it
//! compared. A finding in one implementation becomes a case here.

#![expect(
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a suite fails by panicking, and its tasks are joined where they are spawned"
)]

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::json;

use super::samples::{AT, World, message, new};
use crate::event::{EventKind, EventSource, NewEvent, SwarmPaused, SystemError};
use crate::ids::{AgentId, BudgetId, EventId, SwarmId, TaskId};
use crate::model::budget::ReservationState;
use crate::model::{
    Agent, AgentStatus, Amount, Budget, BudgetScope, EntryBody, NanoUsd, StepKey, StepState, Swarm,
    SwarmStatus, Task, TaskStatus, TicketState,
};
use crate::store::{
    AgentFilter, BudgetFilter, Changeset, EventFilter, Page, ReservationFilter, RowWrite,
    StepFilter, Store, StoreError, SwarmFilter, TaskFilter, TicketFilter,
};

const WORLD: World = World::new(1);

/// Runs every case, each on a fresh store from `make`.
///
/// Needs a tokio runtime. Stores are closed after their case.
///
/// # Panics
///
/// If the store does not keep the contract.
pub async fn run_all<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            let store = make().await;
            $case(&store).await;
            store.close().await.unwrap();
        )*};
    }
    cases!(
        a_new_store_is_empty,
        rows_survive_a_round_trip,
        changed_rows_survive_a_round_trip,
        a_changed_step_survives_a_round_trip,
        a_stale_version_is_a_conflict,
        an_insert_of_what_exists_is_a_conflict,
        a_conflict_leaves_no_trace,
        a_missing_reference_is_refused,
        a_budget_cannot_be_overspent,
        what_a_step_is_never_changes,
        numbers_are_contiguous_with_failures_in_between,
        concurrent_commits_get_numbers_without_gaps,
        one_failure_does_not_fail_others,
        events_survive_a_round_trip,
        events_are_filtered,
        bodies_survive_a_round_trip,
        equal_bodies_may_be_stored_twice,
        a_path_is_in_order_and_cut_to_the_newest,
        a_fork_shares_its_path,
        swarms_are_listed_and_paged,
        agents_are_listed_and_paged,
        tasks_are_listed_and_paged,
        budgets_are_listed_and_paged,
        steps_are_listed_in_the_order_of_their_keys,
        reservations_are_listed_and_settled,
        tickets_are_listed_and_delivered,
        limits_are_cut,
        closing_twice_is_fine_and_ends_writes,
    );
}

async fn seed(store: &Arc<dyn Store>) {
    store.commit(WORLD.all()).await.unwrap();
}

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::Conflict { .. })),
        "{result:?}"
    );
}

#[track_caller]
fn assert_constraint<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::Constraint { .. })),
        "{result:?}"
    );
}

async fn a_new_store_is_empty(store: &Arc<dyn Store>) {
    assert_eq!(store.head_seq().await.unwrap(), 0);
    assert_eq!(store.find_project("default").await.unwrap(), None);
    assert_eq!(store.find_agent(WORLD.agent_id).await.unwrap(), None);
    assert_eq!(
        store
            .list_events(&EventFilter::default(), 0, 10)
            .await
            .unwrap(),
        []
    );
    assert_eq!(
        store
            .list_path(WORLD.entry(1, message("")).id, 10)
            .await
            .unwrap(),
        []
    );
    assert!(!store.info().backend.is_empty());
}

async fn rows_survive_a_round_trip(store: &Arc<dyn Store>) {
    let key = StepKey::Tool { turn: 2, index: 7 };
    let (mut entry, mut step) = (WORLD.entry(1, message("hello")), WORLD.step(key));
    entry.step = Some(key);
    step.entry_id = Some(entry.id);
    step.reservation_id = Some(WORLD.reservation(1).id);
    let changeset = Changeset {
        reservations: vec![WORLD.reservation(1)],
        entries: vec![entry.clone()],
        steps: vec![step.clone()],
        tickets: vec![WORLD.ticket(1)],
        ..WORLD.all()
    };
    store.commit(changeset).await.unwrap();
    let project = WORLD.project();
    assert_eq!(
        store.find_project(&project.name).await.unwrap(),
        Some(project)
    );
    assert_eq!(
        store.find_budget(WORLD.budget_id).await.unwrap(),
        Some(WORLD.budget())
    );
    assert_eq!(
        store.find_swarm(WORLD.swarm_id).await.unwrap(),
        Some(WORLD.swarm())
    );
    assert_eq!(
        store.find_task(WORLD.task_id).await.unwrap(),
        Some(WORLD.task())
    );
    assert_eq!(
        store.find_agent(WORLD.agent_id).await.unwrap(),
        Some(WORLD.agent())
    );
    assert_eq!(
        store.find_step(WORLD.agent_id, key).await.unwrap(),
        Some(step)
    );
    assert_eq!(store.list_path(entry.id, 9).await.unwrap(), [entry]);
    let tickets = store
        .list_tickets(&TicketFilter::default(), Page::first(9))
        .await
        .unwrap();
    assert_eq!(tickets, [WORLD.ticket(1)]);
}

async fn changed_rows_survive_a_round_trip(store: &Arc<dyn Store>) {
    seed(store).await;
    let text = || Some("x".to_owned());
    let later = AT.plus(std::time::Duration::from_secs(1));
    let budget = Budget {
        allocated: None,
        spent: 5,
        version: 2,
        ..WORLD.budget()
    };
    let swarm = Swarm {
        status: SwarmStatus::Completed,
        result: text(),
        completed_at: Some(later),
        version: 2,
        ..WORLD.swarm()
    };
    let task = Task {
        status: TaskStatus::Blocked,
        error: text(),
        version: 2,
        agent_id: None,
        ..WORLD.task()
    };
    let agent = Agent {
        status: AgentStatus::Paused,
        pause_reason: text(),
        head: None,
        task_id: None,
        retry_at: None,
        cost: NanoUsd(77),
        updated_at: later,
        version: 2,
        ..WORLD.agent()
    };
    let changeset = Changeset {
        budgets: vec![RowWrite {
            row: budget.clone(),
            expected: Some(1),
        }],
        swarms: vec![RowWrite {
            row: swarm.clone(),
            expected: Some(1),
        }],
        tasks: vec![RowWrite {
            row: task.clone(),
            expected: Some(1),
        }],
        agents: vec![RowWrite {
            row: agent.clone(),
            expected: Some(1),
        }],
        ..Changeset::default()
    };
    store.commit(changeset).await.unwrap();
    assert_eq!(store.find_budget(budget.id).await.unwrap(), Some(budget));
    assert_eq!(store.find_swarm(swarm.id).await.unwrap(), Some(swarm));
    assert_eq!(store.find_task(task.id).await.unwrap(), Some(task));
    assert_eq!(store.find_agent(agent.id).await.unwrap(), Some(agent));
}

async fn a_changed_step_survives_a_round_trip(store: &Arc<dyn Store>) {
    seed(store).await;
    let later = AT.plus(std::time::Duration::from_secs(1));
    let step = WORLD.step(StepKey::Model {
        turn: 1,
        attempt: 0,
    });
    let steps = vec![step.clone()];
    store
        .commit(Changeset {
            steps,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let done = crate::model::Step {
        state: StepState::Done,
        note: Some("x".to_owned()),
        tries: 2,
        finished_at: Some(later),
        ..step
    };
    let steps = vec![done.clone()];
    store
        .commit(Changeset {
            steps,
            ..Changeset::default()
        })
        .await
        .unwrap();
    assert_eq!(
        store.find_step(done.agent_id, done.key).await.unwrap(),
        Some(done)
    );
}

async fn a_stale_version_is_a_conflict(store: &Arc<dyn Store>) {
    seed(store).await;
    let row = Agent {
        turns: 9,
        version: 2,
        ..WORLD.agent()
    };
    let write = |expected| Changeset {
        agents: vec![RowWrite {
            row: row.clone(),
            expected: Some(expected),
        }],
        ..Changeset::default()
    };
    store.commit(write(1)).await.unwrap();
    assert_conflict(store.commit(write(1)).await);
    assert_conflict(store.commit(write(7)).await);
    let budgets = vec![RowWrite {
        row: Budget {
            version: 4,
            ..WORLD.budget()
        },
        expected: Some(3),
    }];
    assert_conflict(
        store
            .commit(Changeset {
                budgets,
                ..Changeset::default()
            })
            .await,
    );
    let swarms = vec![RowWrite {
        row: Swarm {
            version: 4,
            ..WORLD.swarm()
        },
        expected: Some(3),
    }];
    assert_conflict(
        store
            .commit(Changeset {
                swarms,
                ..Changeset::default()
            })
            .await,
    );
    let tasks = vec![RowWrite {
        row: Task {
            version: 4,
            ..WORLD.task()
        },
        expected: Some(3),
    }];
    assert_conflict(
        store
            .commit(Changeset {
                tasks,
                ..Changeset::default()
            })
            .await,
    );
    let unknown = Agent {
        version: 2,
        ..WORLD.child(50)
    };
    let agents = vec![RowWrite {
        row: unknown,
        expected: Some(1),
    }];
    assert_conflict(
        store
            .commit(Changeset {
                agents,
                ..Changeset::default()
            })
            .await,
    );
    assert_eq!(store.find_agent(WORLD.agent_id).await.unwrap(), Some(row));
}

async fn an_insert_of_what_exists_is_a_conflict(store: &Arc<dyn Store>) {
    seed(store).await;
    let entries = vec![WORLD.entry(1, message("a"))];
    store
        .commit(Changeset {
            entries: entries.clone(),
            ..Changeset::default()
        })
        .await
        .unwrap();
    let empty = Changeset::default;
    let all = WORLD.all();
    for changeset in [
        Changeset {
            projects: all.projects,
            ..empty()
        },
        Changeset {
            budgets: all.budgets,
            ..empty()
        },
        Changeset {
            swarms: all.swarms,
            ..empty()
        },
        Changeset {
            tasks: all.tasks,
            ..empty()
        },
        Changeset {
            agents: all.agents,
            ..empty()
        },
        Changeset { entries, ..empty() },
        // Another id, but a place in the plan that is taken.
        Changeset {
            tasks: vec![new(Task {
                id: TaskId::from_u128(99),
                ..WORLD.task()
            })],
            ..empty()
        },
    ] {
        assert_conflict(store.commit(changeset).await);
    }
}

async fn a_conflict_leaves_no_trace(store: &Arc<dyn Store>) {
    seed(store).await;
    let changeset = Changeset {
        budgets: vec![RowWrite {
            row: Budget {
                version: 2,
                ..WORLD.budget()
            },
            expected: Some(1),
        }],
        agents: vec![
            new(WORLD.child(1)),
            RowWrite {
                row: Agent {
                    version: 9,
                    ..WORLD.agent()
                },
                expected: Some(8),
            },
        ],
        events: vec![WORLD.event(0)],
        ..Changeset::default()
    };
    assert_conflict(store.commit(changeset).await);
    assert_eq!(
        store.find_budget(WORLD.budget_id).await.unwrap(),
        Some(WORLD.budget())
    );
    assert_eq!(store.find_agent(WORLD.child(1).id).await.unwrap(), None);
    assert_eq!(store.head_seq().await.unwrap(), 0);
    // The number of an undone agent may go to another one: its events must not.
    let child = WORLD.child(2);
    let event = NewEvent {
        source: EventSource::Agent(child.id),
        ..WORLD.event(0)
    };
    let changeset = Changeset {
        agents: vec![new(child.clone())],
        events: vec![event],
        ..Changeset::default()
    };
    let committed = store.commit(changeset).await.unwrap();
    assert_eq!(
        store
            .list_events(&EventFilter::default(), 0, 9)
            .await
            .unwrap(),
        committed.events
    );
    assert_eq!(committed.events[0].source, child.id.to_string());
}

async fn a_missing_reference_is_refused(store: &Arc<dyn Store>) {
    seed(store).await;
    let other = World::new(2);
    let empty = Changeset::default;
    let event = NewEvent {
        swarm_id: None,
        ..other.event(0)
    };
    for changeset in [
        Changeset {
            swarms: vec![new(other.swarm())],
            ..empty()
        },
        Changeset {
            tasks: vec![new(other.task())],
            ..empty()
        },
        Changeset {
            agents: vec![new(other.agent())],
            ..empty()
        },
        Changeset {
            reservations: vec![other.reservation(1)],
            ..empty()
        },
        Changeset {
            entries: vec![other.entry(1, message("a"))],
            ..empty()
        },
        Changeset {
            entries: vec![WORLD.entry(2, message("a"))],
            ..empty()
        },
        Changeset {
            steps: vec![other.step(StepKey::Tool { turn: 1, index: 0 })],
            ..empty()
        },
        Changeset {
            tickets: vec![other.ticket(1)],
            ..empty()
        },
        Changeset {
            events: vec![event],
            ..empty()
        },
    ] {
        assert_constraint(store.commit(changeset).await);
    }
}

async fn a_budget_cannot_be_overspent(store: &Arc<dyn Store>) {
    seed(store).await;
    let write = |row| Changeset {
        budgets: vec![RowWrite {
            row,
            expected: Some(1),
        }],
        ..Changeset::default()
    };
    let at = |spent, overrun| Budget {
        spent,
        overrun,
        version: 2,
        ..WORLD.budget()
    };
    assert_constraint(store.commit(write(at(951, 0))).await);
    assert_constraint(store.commit(write(at(-1, 0))).await);
    assert_eq!(
        store.find_budget(WORLD.budget_id).await.unwrap(),
        Some(WORLD.budget())
    );
    store.commit(write(at(960, 10))).await.unwrap();
}

async fn what_a_step_is_never_changes(store: &Arc<dyn Store>) {
    seed(store).await;
    let step = WORLD.step(StepKey::Tool { turn: 1, index: 0 });
    let steps = vec![step.clone()];
    store
        .commit(Changeset {
            steps,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let renamed = crate::model::Step {
        name: "other".to_owned(),
        ..step.clone()
    };
    let steps = vec![renamed];
    assert_constraint(
        store
            .commit(Changeset {
                steps,
                ..Changeset::default()
            })
            .await,
    );
    assert_eq!(
        store.find_step(step.agent_id, step.key).await.unwrap(),
        Some(step)
    );
}

async fn numbers_are_contiguous_with_failures_in_between(store: &Arc<dyn Store>) {
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

async fn concurrent_commits_get_numbers_without_gaps(store: &Arc<dyn Store>) {
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

async fn one_failure_does_not_fail_others(store: &Arc<dyn Store>) {
    seed(store).await;
    let good = store.commit(WORLD.events(1));
    let bad = store.commit(Changeset {
        agents: WORLD.all().agents,
        ..WORLD.events(1)
    });
    let other = store.commit(WORLD.events(2));
    let (good, bad, other) = tokio::join!(good, bad, other);
    assert_conflict(bad);
    assert_eq!(good.unwrap().events.len() + other.unwrap().events.len(), 3);
    assert_eq!(store.head_seq().await.unwrap(), 3);
}

async fn events_survive_a_round_trip(store: &Arc<dyn Store>) {
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

async fn events_are_filtered(store: &Arc<dyn Store>) {
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

/// Text that no compressor shortens.
fn noise(len: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut out = String::with_capacity(len);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.push(char::from(u8::try_from(33 + state % 90).unwrap_or(b'x')));
    }
    out
}

async fn bodies_survive_a_round_trip(store: &Arc<dyn Store>) {
    seed(store).await;
    let bodies = [
        message(""),
        message("ünï🦀\u{0}\"\\\n"),
        EntryBody::Label {
            text: "a label".to_owned(),
        },
        message(&"a".repeat(511)),
        message(&"spam and eggs ".repeat(10_000)),
        message(&noise(100_000)),
        EntryBody::Label { text: noise(600) },
    ];
    let mut entries = Vec::new();
    for (n, body) in (1..).zip(bodies) {
        entries.push(WORLD.entry(n, body));
    }
    let changeset = Changeset {
        entries: entries.clone(),
        ..Changeset::default()
    };
    store.commit(changeset).await.unwrap();
    let head = entries.last().map(|entry| entry.id).unwrap();
    assert_eq!(store.list_path(head, 100).await.unwrap(), entries);
}

async fn equal_bodies_may_be_stored_twice(store: &Arc<dyn Store>) {
    seed(store).await;
    let body = message(&"again ".repeat(500));
    let entries: Vec<_> = (1..=3).map(|n| WORLD.entry(n, body.clone())).collect();
    for entry in entries.clone() {
        store
            .commit(Changeset {
                entries: vec![entry],
                ..Changeset::default()
            })
            .await
            .unwrap();
    }
    assert_eq!(store.list_path(entries[2].id, 100).await.unwrap(), entries);
}

async fn a_path_is_in_order_and_cut_to_the_newest(store: &Arc<dyn Store>) {
    seed(store).await;
    let count: usize = 1_500;
    let mut entries = Vec::with_capacity(count);
    for n in 1..=1_500_u128 {
        entries.push(WORLD.entry(n, message(&n.to_string())));
    }
    let changeset = Changeset {
        entries: entries.clone(),
        ..Changeset::default()
    };
    store.commit(changeset).await.unwrap();
    let head = entries[count - 1].id;
    assert_eq!(
        store.list_path(head, usize::MAX).await.unwrap(),
        entries,
        "no page limit"
    );
    assert_eq!(
        store.list_path(head, 3).await.unwrap(),
        entries[count - 3..]
    );
    assert_eq!(store.list_path(head, 0).await.unwrap(), []);
    assert_eq!(
        store.list_path(entries[1].id, 9).await.unwrap(),
        entries[..2]
    );
}

async fn a_fork_shares_its_path(store: &Arc<dyn Store>) {
    seed(store).await;
    let child = WORLD.child(1);
    let trunk: Vec<_> = (1..=3).map(|n| WORLD.entry(n, message("trunk"))).collect();
    let mut branch = WORLD.entry(9, message("branch"));
    branch.parent_id = Some(trunk[1].id);
    branch.agent_id = child.id;
    let mut entries = trunk.clone();
    entries.push(branch.clone());
    let agents = vec![new(child)];
    store
        .commit(Changeset {
            agents,
            entries,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let expected = [trunk[0].clone(), trunk[1].clone(), branch.clone()];
    assert_eq!(store.list_path(branch.id, 9).await.unwrap(), expected);
    assert_eq!(store.list_path(trunk[2].id, 9).await.unwrap(), trunk);
}

async fn swarms_are_listed_and_paged(store: &Arc<dyn Store>) {
    let worlds: Vec<World> = (1..=4).map(World::new).collect();
    for world in &worlds {
        let mut changeset = world.all();
        changeset.swarms[0].row.status = if world.swarm_id == worlds[1].swarm_id {
            SwarmStatus::Failed
        } else {
            SwarmStatus::Active
        };
        store.commit(changeset).await.unwrap();
    }
    let list = async |filter: SwarmFilter, after, limit| {
        let rows = store
            .list_swarms(&filter, Page { after, limit })
            .await
            .unwrap();
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let id = |n: usize| worlds[n].swarm_id;
    let all = SwarmFilter::default();
    assert_eq!(
        list(all.clone(), None, 9).await,
        [id(0), id(1), id(2), id(3)]
    );
    assert_eq!(list(all.clone(), Some(id(1)), 1).await, [id(2)]);
    assert_eq!(list(all, Some(id(3)), 9).await, []);
    let active = SwarmFilter {
        statuses: vec![SwarmStatus::Active],
        ..SwarmFilter::default()
    };
    assert_eq!(list(active, None, 2).await, [id(0), id(2)]);
    let ended = vec![SwarmStatus::Failed, SwarmStatus::Completed];
    let ended = SwarmFilter {
        statuses: ended,
        ..SwarmFilter::default()
    };
    assert_eq!(list(ended, None, 9).await, [id(1)]);
    let of = SwarmFilter {
        project_id: Some(worlds[2].project_id),
        ..SwarmFilter::default()
    };
    assert_eq!(list(of, None, 9).await, [id(2)]);
}

async fn agents_are_listed_and_paged(store: &Arc<dyn Store>) {
    seed(store).await;
    let other = World::new(2);
    store.commit(other.all()).await.unwrap();
    let done = Agent {
        status: AgentStatus::Completed,
        ..WORLD.child(2)
    };
    // Not in the order of their ids.
    let agents = vec![new(WORLD.child(3)), new(WORLD.child(1)), new(done)];
    store
        .commit(Changeset {
            agents,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let list = async |filter: AgentFilter, after, limit| {
        let rows = store
            .list_agents(&filter, Page { after, limit })
            .await
            .unwrap();
        rows.iter().map(|row| row.id).collect::<Vec<AgentId>>()
    };
    let id = |n: u128| AgentId::from_u128(WORLD.agent_id.as_u128() + n);
    let all = AgentFilter::default();
    assert_eq!(
        list(all.clone(), None, 9).await,
        [id(0), id(1), id(2), id(3), other.agent_id]
    );
    assert_eq!(list(all, Some(id(1)), 2).await, [id(2), id(3)]);
    let mine = AgentFilter {
        swarm_id: Some(WORLD.swarm_id),
        ..AgentFilter::default()
    };
    assert_eq!(
        list(mine.clone(), None, 9).await,
        [id(0), id(1), id(2), id(3)]
    );
    let running = AgentFilter {
        statuses: vec![AgentStatus::Running],
        ..mine
    };
    assert_eq!(list(running, None, 9).await, [id(0), id(1), id(3)]);
    let children = AgentFilter {
        parent_id: Some(WORLD.agent_id),
        ..AgentFilter::default()
    };
    assert_eq!(list(children, Some(id(1)), 9).await, [id(2), id(3)]);
    let ended = vec![AgentStatus::Completed, AgentStatus::Killed];
    let ended = AgentFilter {
        statuses: ended,
        ..AgentFilter::default()
    };
    assert_eq!(list(ended, None, 9).await, [id(2)]);
}

async fn tasks_are_listed_and_paged(store: &Arc<dyn Store>) {
    seed(store).await;
    let task = |n: u32, status| Task {
        id: TaskId::from_u128(WORLD.task_id.as_u128() + u128::from(n)),
        key: format!("map/{n}"),
        status,
        ..WORLD.task()
    };
    let rows = [
        task(1, TaskStatus::Ready),
        task(2, TaskStatus::Pending),
        task(3, TaskStatus::Ready),
    ];
    let tasks = rows.iter().cloned().map(new).collect();
    store
        .commit(Changeset {
            tasks,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let filter = TaskFilter {
        swarm_id: Some(WORLD.swarm_id),
        statuses: vec![TaskStatus::Ready],
    };
    let found = store.list_tasks(&filter, Page::first(9)).await.unwrap();
    assert_eq!(found, [rows[0].clone(), rows[2].clone()]);
    let page = Page {
        after: Some(rows[0].id),
        limit: 1,
    };
    assert_eq!(
        store
            .list_tasks(&TaskFilter::default(), page)
            .await
            .unwrap(),
        [rows[1].clone()]
    );
}

async fn budgets_are_listed_and_paged(store: &Arc<dyn Store>) {
    seed(store).await;
    let child = |n: u128| Budget {
        id: BudgetId::from_u128(WORLD.budget_id.as_u128() + n),
        scope: BudgetScope::Swarm,
        entity_id: WORLD.swarm_id.to_string(),
        parent_id: Some(WORLD.budget_id),
        ..WORLD.budget()
    };
    let budgets = vec![new(child(1)), new(child(2))];
    store
        .commit(Changeset {
            budgets,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let below = BudgetFilter {
        parent_id: Some(WORLD.budget_id),
        ..BudgetFilter::default()
    };
    let found = store.list_budgets(&below, Page::first(9)).await.unwrap();
    assert_eq!(found, [child(1), child(2)]);
    let page = Page {
        after: Some(child(1).id),
        limit: 9,
    };
    assert_eq!(store.list_budgets(&below, page).await.unwrap(), [child(2)]);
    let of = Some((BudgetScope::Project, WORLD.project_id.to_string()));
    let of = BudgetFilter {
        entity: of,
        ..BudgetFilter::default()
    };
    assert_eq!(
        store.list_budgets(&of, Page::first(9)).await.unwrap(),
        [WORLD.budget()]
    );
}

async fn steps_are_listed_in_the_order_of_their_keys(store: &Arc<dyn Store>) {
    seed(store).await;
    let child = WORLD.child(1);
    let mut steps = Vec::new();
    for turn in [1, 2, 10] {
        steps.push(WORLD.step(StepKey::Tool { turn, index: 10 }));
        steps.push(WORLD.step(StepKey::Tool { turn, index: 9 }));
        steps.push(WORLD.step(StepKey::Model { turn, attempt: 0 }));
    }
    steps.push(WORLD.step(StepKey::Model {
        turn: u32::MAX,
        attempt: u32::MAX,
    }));
    let mut other = WORLD.step(StepKey::Model {
        turn: 1,
        attempt: 0,
    });
    other.agent_id = child.id;
    steps.push(other);
    for step in steps.iter_mut().step_by(2) {
        step.state = StepState::Done;
    }
    let changeset = Changeset {
        agents: vec![new(child)],
        steps: steps.clone(),
        ..Changeset::default()
    };
    store.commit(changeset).await.unwrap();
    steps.sort_by_key(|step| (step.agent_id, step.key));
    let of = |agent_id, states: &[StepState]| StepFilter {
        agent_id,
        states: states.to_vec(),
    };
    let mine = Some(WORLD.agent_id);
    let open = [StepState::Intended, StepState::InDoubt];
    for filter in [
        of(None, &[]),
        of(mine, &[]),
        of(None, &[StepState::Intended]),
        of(None, &open),
        of(mine, &open),
        of(mine, &[StepState::Done]),
        of(None, &[StepState::Done, StepState::Intended]),
    ] {
        let keep = |step: &&crate::model::Step| {
            filter.agent_id.is_none_or(|id| id == step.agent_id)
                && (filter.states.is_empty() || filter.states.contains(&step.state))
        };
        let expected: Vec<_> = steps.iter().filter(keep).cloned().collect();
        let mut found = Vec::new();
        let mut page = Page::first(3);
        loop {
            let rows = store.list_steps(&filter, page).await.unwrap();
            let Some(last) = rows.last() else { break };
            page.after = Some((last.agent_id, last.key));
            found.extend(rows);
        }
        assert_eq!(found, expected, "{filter:?}");
    }
}

async fn reservations_are_listed_and_settled(store: &Arc<dyn Store>) {
    seed(store).await;
    let mut rows: Vec<_> = (1..=3).map(|n| WORLD.reservation(n)).collect();
    let commit = |reservations| {
        store.commit(Changeset {
            reservations,
            ..Changeset::default()
        })
    };
    commit(rows.clone()).await.unwrap();
    rows[1].state = ReservationState::Settled;
    rows[1].actual = Some(Amount {
        usd: NanoUsd(7),
        tokens: 8,
    });
    commit(vec![rows[1].clone()]).await.unwrap();
    let list = |agent_id, states: &[ReservationState]| {
        let filter = ReservationFilter {
            agent_id,
            states: states.to_vec(),
        };
        async move {
            store
                .list_reservations(&filter, Page::first(9))
                .await
                .unwrap()
        }
    };
    assert_eq!(list(Some(WORLD.agent_id), &[]).await, rows);
    assert_eq!(
        list(None, &[ReservationState::Held]).await,
        [rows[0].clone(), rows[2].clone()]
    );
    assert_eq!(
        list(None, &[ReservationState::Settled]).await,
        [rows[1].clone()]
    );
    let page = Page {
        after: Some(rows[1].id),
        limit: 9,
    };
    let rest = store
        .list_reservations(&ReservationFilter::default(), page)
        .await
        .unwrap();
    assert_eq!(rest, [rows[2].clone()]);
}

async fn tickets_are_listed_and_delivered(store: &Arc<dyn Store>) {
    seed(store).await;
    let mut rows = vec![WORLD.ticket(1), WORLD.ticket(2)];
    let commit = |tickets| {
        store.commit(Changeset {
            tickets,
            ..Changeset::default()
        })
    };
    commit(rows.clone()).await.unwrap();
    rows[0].state = TicketState::Delivered;
    commit(vec![rows[0].clone()]).await.unwrap();
    let list = |agent_id, state| async move {
        store
            .list_tickets(&TicketFilter { agent_id, state }, Page::first(9))
            .await
            .unwrap()
    };
    assert_eq!(list(None, None).await, rows);
    assert_eq!(
        list(None, Some(TicketState::Queued)).await,
        [rows[1].clone()]
    );
    assert_eq!(
        list(Some(WORLD.agent_id), Some(TicketState::Delivered)).await,
        [rows[0].clone()]
    );
    assert_eq!(list(Some(WORLD.child(1).id), None).await, []);
}

async fn limits_are_cut(store: &Arc<dyn Store>) {
    seed(store).await;
    store.commit(WORLD.events(1_100)).await.unwrap();
    let events = store
        .list_events(&EventFilter::default(), 0, usize::MAX)
        .await
        .unwrap();
    assert_eq!(events.len(), crate::store::PAGE_MAX);
    assert_eq!(
        store
            .list_events(&EventFilter::default(), 0, 0)
            .await
            .unwrap(),
        []
    );
    let tickets = (1..=1_100).map(|n| WORLD.ticket(n)).collect();
    store
        .commit(Changeset {
            tickets,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let page = Page::first(usize::MAX);
    let tickets = store
        .list_tickets(&TicketFilter::default(), page)
        .await
        .unwrap();
    assert_eq!(tickets.len(), crate::store::PAGE_MAX);
}

async fn closing_twice_is_fine_and_ends_writes(store: &Arc<dyn Store>) {
    seed(store).await;
    let (first, second) = tokio::join!(store.close(), store.close());
    first.unwrap();
    second.unwrap();
    store.close().await.unwrap();
    let late = store.commit(WORLD.events(1)).await;
    assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
}
