//! The conformance suite, and what only this store refuses.

use std::sync::Arc;

use super::*;
use crate::env::UnixMillis;
use crate::model::AgentStatus;
use crate::store::RowWrite;
use crate::testing::samples::{AT, World};
use crate::testing::store_suite;

const WORLD: World = World::new(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    store_suite::run_all(|| async { Arc::new(MemoryStore::new()) as Arc<dyn Store> }).await;
}

async fn refused(changeset: Changeset) {
    let store = MemoryStore::new();
    store.commit(WORLD.all()).await.unwrap();
    let result = store.commit(changeset).await;
    assert!(
        matches!(result, Err(StoreError::Constraint { .. })),
        "{result:?}"
    );
    assert_eq!(
        store.find_agent(WORLD.agent_id).await.unwrap(),
        Some(WORLD.agent())
    );
}

#[tokio::test]
async fn an_illegal_move_of_a_status_is_refused() {
    let row = Agent {
        status: AgentStatus::Idle,
        version: 2,
        ..WORLD.agent()
    };
    let agents = vec![RowWrite {
        row,
        expected: Some(1),
    }];
    refused(Changeset {
        agents,
        ..Changeset::default()
    })
    .await;
}

#[tokio::test]
async fn a_change_of_what_never_changes_is_refused() {
    let row = Agent {
        depth: 4,
        version: 2,
        ..WORLD.agent()
    };
    let agents = vec![RowWrite {
        row,
        expected: Some(1),
    }];
    refused(Changeset {
        agents,
        ..Changeset::default()
    })
    .await;
}

#[tokio::test]
async fn a_version_that_does_not_grow_is_refused() {
    let agents = vec![RowWrite {
        row: WORLD.agent(),
        expected: Some(1),
    }];
    refused(Changeset {
        agents,
        ..Changeset::default()
    })
    .await;
}

#[tokio::test]
async fn an_event_before_its_predecessor_is_refused() {
    let mut changeset = WORLD.events(2);
    changeset.events[1].at = UnixMillis(AT.0 - 1);
    refused(changeset).await;
}
