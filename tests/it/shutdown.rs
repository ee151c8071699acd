//! Shutdowns in the middle of things, and the start that follows.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dash::env::UnixMillis;
use dash::event::EventKind;
use dash::llm::{LlmError, LlmErrorKind, LlmRequest, ScriptedReply};
use dash::model::{AgentStatus, ReservationState, SideEffect, StepState, Strategy, SwarmStatus};
use dash::store::{SqliteStore, Store};
use dash::testing::faulty_store::Fault;
use dash::testing::{FaultyStore, ManualClock};
use dash_tests::{Door, Setup, audit, create, results, shared, task_of, turn, within};
use pretty_assertions::assert_eq;
use serde_json::json;

fn acts_once(request: &LlmRequest) -> ScriptedReply {
    match turn(request) {
        0 => ScriptedReply::tool_call("act", json!({})),
        _ => ScriptedReply::text(results(request)[0].1.clone()),
    }
}

fn manual() -> ManualClock {
    ManualClock::new(UnixMillis(1_770_000_000_000))
}

async fn sqlite(path: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(path).await.unwrap())
}

/// Waits for a commit after the first `count`.
async fn committing(store: &FaultyStore, count: u64) {
    within("a commit", async {
        while store.commits() == count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dash.db");
    let door = Door::new("act", SideEffect::Pure);
    door.close();
    let setup = Setup::new(acts_once).door(&door);
    let faulty = Arc::new(FaultyStore::new(sqlite(&path).await));
    let engine = setup.clone().on(shared(&faulty)).start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    door.wait_for_calls(1).await;
    faulty.fail_when(|_, _| Some(Fault::Full));
    let commits = faulty.commits();
    door.open();
    committing(&faulty, commits).await;
    let shutdown = engine.shutdown(Duration::from_secs(3_600));
    within("the shutdown", shutdown).await.unwrap();
    drop((engine, faulty));
    let engine = setup.on(sqlite(&path).await).start().await;
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    audit(&engine).await;
}

#[tokio::test]
async fn a_shutdown_records_the_calls_under_way_and_starts_nothing_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dash.db");
    let door = Door::new("act", SideEffect::Once);
    let setup = Setup::new(acts_once).door(&door).priced();
    setup.desk.hold_after(0);
    let engine = setup.clone().on(sqlite(&path).await).start().await;
    let swarm = engine.create_swarm(create("go", 2)).await.unwrap();
    engine.desk.wait_for_calls(2).await;
    let both = async {
        let shutdown = engine.shutdown(Duration::from_secs(3_600));
        let release = async {
            // Commands are refused from the moment that nothing is granted any more.
            while engine.pause_swarm(swarm.id).await.is_ok() {
                tokio::task::yield_now().await;
            }
            engine.desk.release();
        };
        tokio::join!(shutdown, release).0
    };
    within("the shutdown", both).await.unwrap();
    assert_eq!((engine.desk.calls(), door.calls().len()), (2, 0));
    assert!(
        within("the same again", engine.shutdown(Duration::ZERO))
            .await
            .is_ok()
    );
    drop(engine);
    let engine = setup.on(sqlite(&path).await).start().await;
    assert_eq!(engine.count("agent.turn").await, 2);
    engine.resume_swarm(swarm.id).await.unwrap();
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    let states: Vec<_> = engine
        .reservations()
        .await
        .iter()
        .map(|r| r.state)
        .collect();
    assert_eq!(states, [ReservationState::Settled; 4]);
    audit(&engine).await;
}

#[tokio::test]
async fn a_shutdown_cuts_what_does_not_end_and_the_next_start_settles_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dash.db");
    let door = Door::new("act", SideEffect::Once);
    door.close();
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let script = move |request: &LlmRequest| match (
        task_of(request).ends_with("tool"),
        is_well.load(Ordering::SeqCst),
    ) {
        (true, _) => acts_once(request),
        (false, true) => ScriptedReply::text("end"),
        (false, false) => ScriptedReply::new().hanging(),
    };
    let setup = Setup::new(script).door(&door).priced();
    let engine = setup.clone().on(sqlite(&path).await).start().await;
    let mut request = create("go", 2);
    request.parts = vec!["tool".to_owned(), "model".to_owned()];
    let swarm = engine.create_swarm(request).await.unwrap();
    door.wait_for_calls(1).await;
    engine.desk.wait_for_calls(2).await;
    within("the shutdown", engine.shutdown(Duration::ZERO))
        .await
        .unwrap();
    drop(engine);
    well.store(true, Ordering::SeqCst);
    door.open();
    let engine = setup.on(sqlite(&path).await).start().await;
    let recovered = engine.wait_for_type("system.recovered").await;
    let EventKind::SystemRecovered(recovered) = &recovered.kind else {
        panic!()
    };
    assert_eq!(
        (recovered.steps_in_doubt, recovered.reservations_uncertain),
        (1, 1)
    );
    let agents = engine.agents(swarm.id).await;
    let held = agents
        .iter()
        .find(|a| a.status == AgentStatus::Paused)
        .unwrap();
    let steps = engine.steps(held.id).await;
    let doubt = steps
        .iter()
        .find(|s| s.state == StepState::InDoubt)
        .unwrap();
    let resolution = dash::api::Resolution::Result {
        text: "done".to_owned(),
    };
    engine
        .resolve_step(held.id, doubt.key, resolution)
        .await
        .unwrap();
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    assert_eq!(door.calls().len(), 1);
    audit(&engine).await;
}

#[tokio::test]
async fn a_retry_that_waits_survives_a_restart_and_falls_due_when_it_would_have() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dash.db");
    let clock = manual();
    let script = |request: &LlmRequest| match request.idempotency_key.ends_with("t1/m") {
        true => ScriptedReply::failure(LlmError {
            retry_after_ms: Some(60_000),
            ..LlmError::unbilled(LlmErrorKind::Server, "down")
        }),
        false => ScriptedReply::text("end"),
    };
    let mut setup = Setup::new(script).clock(Arc::new(clock.clone()));
    setup.settings.retry_cap_ms = 60_000;
    let engine = setup.clone().on(sqlite(&path).await).start().await;
    let mut request = create("go", 1);
    request.config.max_retries = 1;
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.wait_for_type("agent.retrying").await;
    within("the shutdown", engine.shutdown(Duration::ZERO))
        .await
        .unwrap();
    drop(engine);
    clock.advance(Duration::from_secs(20));
    let engine = setup.on(sqlite(&path).await).start().await;
    clock.wait_for_sleepers(1).await;
    clock.advance(Duration::from_millis(39_999));
    engine.scale_swarm(swarm.id, 1).await.unwrap();
    assert_eq!(engine.desk.calls(), 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    audit(&engine).await;
}

#[tokio::test]
async fn a_tree_goes_on_after_a_restart_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dash.db");
    let script = |request: &LlmRequest| match (task_of(request).as_str(), turn(request)) {
        ("go", 0) => {
            ScriptedReply::tool_call("delegate", json!({"name": "child", "task": "child"}))
        }
        ("go", _) => ScriptedReply::text(results(request)[0].1.clone()),
        _ => ScriptedReply::text("from the child"),
    };
    let setup = Setup::new(script);
    setup.desk.hold_after(1);
    let engine = setup.clone().on(sqlite(&path).await).start().await;
    let mut request = create("go", 1);
    request.strategy = Strategy::Tree;
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(2).await;
    within("the shutdown", engine.shutdown(Duration::ZERO))
        .await
        .unwrap();
    drop(engine);
    setup.desk.release();
    let engine = setup.on(sqlite(&path).await).start().await;
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.result.as_deref(), Some("from the child"));
    assert_eq!(swarm.agent_count, 2);
    audit(&engine).await;
}
