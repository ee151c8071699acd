//! Rows come back as they went in.

use std::sync::Arc;

use super::super::samples::{AT, message};
use super::{WORLD, seed};
use crate::model::{
    Agent, AgentStatus, Budget, NanoUsd, StepKey, StepState, Swarm, SwarmStatus, Task, TaskStatus,
};
use crate::store::{Changeset, EventFilter, Page, RowWrite, Store, StoreError, TicketFilter};

pub(super) async fn a_new_store_is_empty(store: &Arc<dyn Store>) {
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

pub(super) async fn rows_survive_a_round_trip(store: &Arc<dyn Store>) {
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

pub(super) async fn changed_rows_survive_a_round_trip(store: &Arc<dyn Store>) {
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

pub(super) async fn a_changed_step_survives_a_round_trip(store: &Arc<dyn Store>) {
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

pub(super) async fn closing_twice_is_fine_and_ends_writes(store: &Arc<dyn Store>) {
    seed(store).await;
    let (first, second) = tokio::join!(store.close(), store.close());
    first.unwrap();
    second.unwrap();
    store.close().await.unwrap();
    let late = store.commit(WORLD.events(1)).await;
    assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
}
