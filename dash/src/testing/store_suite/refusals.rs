//! What a store must refuse, and that a refusal leaves no trace.

use std::sync::Arc;

use super::super::samples::{World, message, new};
use super::{WORLD, assert_conflict, assert_constraint, seed};
use crate::event::{EventSource, NewEvent};
use crate::ids::TaskId;
use crate::model::{Agent, Budget, StepKey, Swarm, Task};
use crate::store::{Changeset, EventFilter, RowWrite, Store};

pub(super) async fn a_stale_version_is_a_conflict(store: &Arc<dyn Store>) {
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

pub(super) async fn an_insert_of_what_exists_is_a_conflict(store: &Arc<dyn Store>) {
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

pub(super) async fn a_conflict_leaves_no_trace(store: &Arc<dyn Store>) {
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

pub(super) async fn a_missing_reference_is_refused(store: &Arc<dyn Store>) {
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

pub(super) async fn nothing_is_its_own_parent(store: &Arc<dyn Store>) {
    seed(store).await;
    let (budget, child) = (World::new(2).budget(), WORLD.child(1));
    let mut entry = WORLD.entry(1, message("a"));
    entry.parent_id = Some(entry.id);
    for changeset in [
        Changeset {
            budgets: vec![new(Budget {
                parent_id: Some(budget.id),
                ..budget.clone()
            })],
            ..Changeset::default()
        },
        Changeset {
            agents: vec![new(Agent {
                parent_id: Some(child.id),
                ..child.clone()
            })],
            ..Changeset::default()
        },
        Changeset {
            entries: vec![entry.clone()],
            ..Changeset::default()
        },
    ] {
        assert_constraint(store.commit(changeset).await);
    }
    assert_eq!(store.find_budget(budget.id).await.unwrap(), None);
    assert_eq!(store.find_agent(child.id).await.unwrap(), None);
    assert_eq!(store.list_path(entry.id, 10).await.unwrap(), []);
}

pub(super) async fn a_budget_cannot_be_overspent(store: &Arc<dyn Store>) {
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

pub(super) async fn what_a_step_is_never_changes(store: &Arc<dyn Store>) {
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

pub(super) async fn one_failure_does_not_fail_others(store: &Arc<dyn Store>) {
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
