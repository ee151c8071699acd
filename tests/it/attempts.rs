//! Attempts of an agent: their time limit, and what follows when they fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dash::api::BudgetOwner;
use dash::env::UnixMillis;
use dash::event::EventKind;
use dash::llm::{LlmError, LlmErrorKind, LlmRequest, ScriptedReply};
use dash::model::{ReservationState, Strategy, SwarmStatus};
use dash::spawn::{AgentContext, LocalSpawner, SpawnRequest, Spawner};
use dash::testing::ManualClock;
use dash_tests::{Setup, audit, create, task_of, turn, within};
use pretty_assertions::assert_eq;
use serde_json::json;
use tokio::sync::watch;

fn manual() -> ManualClock {
    ManualClock::new(UnixMillis(1_770_000_000_000))
}

fn server_error() -> LlmError {
    LlmError::unbilled(LlmErrorKind::Server, "down")
}

#[tokio::test]
async fn retries_wait_twice_as_long_each_time_less_at_most_a_quarter() {
    let clock = manual();
    let mut setup =
        Setup::new(|_| ScriptedReply::failure(server_error())).clock(Arc::new(clock.clone()));
    (setup.settings.retry_base_ms, setup.settings.retry_cap_ms) = (1_000, 3_000);
    let engine = setup.start().await;
    let mut request = create("go", 1);
    request.config.max_retries = 4;
    let swarm = engine.create_swarm(request).await.unwrap();
    let mut seq = 0;
    for (n, most) in [1_000, 2_000, 3_000, 3_000].into_iter().enumerate() {
        let event = engine
            .wait_after(seq, "a retry", |e| e.kind.name() == "agent.retrying")
            .await;
        seq = event.seq;
        let EventKind::AgentRetrying(retry) = &event.kind else {
            panic!()
        };
        assert!((most * 3 / 4..=most).contains(&retry.delay_ms), "{retry:?}");
        assert_eq!(retry.retry_count as usize, n + 1);
        clock.wait_for_sleepers(1).await;
        clock.advance(Duration::from_millis(retry.delay_ms - 1));
        engine.budget(BudgetOwner::Swarm(swarm.id)).await;
        assert_eq!(engine.desk.calls(), n + 1);
        clock.advance(Duration::from_millis(1));
        engine.desk.wait_for_calls(n + 2).await;
    }
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.status, SwarmStatus::Failed);
    assert_eq!(engine.desk.calls(), 5);
    audit(&engine).await;
}

#[tokio::test]
async fn a_server_that_asks_to_wait_is_waited_for() {
    let clock = manual();
    let error = LlmError {
        retry_after_ms: Some(40_000),
        ..LlmError::unbilled(LlmErrorKind::RateLimited, "slow down")
    };
    let mut setup =
        Setup::new(move |_| ScriptedReply::failure(error.clone())).clock(Arc::new(clock));
    (setup.settings.retry_base_ms, setup.settings.retry_cap_ms) = (1_000, 300_000);
    let engine = setup.start().await;
    let mut request = create("go", 1);
    request.config.max_retries = 1;
    let swarm = engine.create_swarm(request).await.unwrap();
    let event = engine.wait_for_type("agent.retrying").await;
    let EventKind::AgentRetrying(retry) = &event.kind else {
        panic!()
    };
    assert_eq!(retry.delay_ms, 40_000);
    engine.destroy_swarm(swarm.id).await.unwrap();
    audit(&engine).await;
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_fails_and_stays_charged() {
    let clock = manual();
    let setup = Setup::new(|_| ScriptedReply::text("half").hanging())
        .priced()
        .clock(Arc::new(clock.clone()));
    let engine = setup.start().await;
    let mut request = create("go", 1);
    request.config.timeout_ms = 60_000;
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    clock.wait_for_sleepers(1).await;
    clock.advance(Duration::from_secs(60));
    let swarm = engine.finish(swarm.id).await;
    assert!(swarm.error.unwrap().contains("longer than 60s"));
    engine.desk.wait_for_dropped(1).await;
    let states: Vec<_> = engine
        .reservations()
        .await
        .iter()
        .map(|r| r.state)
        .collect();
    assert_eq!(states, [ReservationState::Uncertain]);
    audit(&engine).await;
}

#[tokio::test]
async fn an_answer_that_is_there_when_the_time_is_up_is_taken() {
    let clock = manual();
    let setup = Setup::new(|_| ScriptedReply::text("end").first_delay(Duration::from_secs(60)))
        .priced()
        .clock(Arc::new(clock.clone()));
    let engine = setup.start().await;
    let mut request = create("go", 1);
    request.config.timeout_ms = 60_000;
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    // The limit and the answer, which come at the same time.
    clock.wait_for_sleepers(2).await;
    clock.advance(Duration::from_secs(60));
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.result.as_deref(), Some("end"));
    let reservations = engine.reservations().await;
    let states: Vec<_> = reservations.iter().map(|r| r.state).collect();
    assert_eq!(states, [ReservationState::Settled]);
    audit(&engine).await;
}

#[tokio::test]
async fn the_time_that_children_take_is_not_their_parents() {
    let clock = manual();
    let script = |request: &LlmRequest| match (task_of(request).as_str(), turn(request)) {
        ("go", 0 | 1) => {
            ScriptedReply::tool_call("delegate", json!({"name": "child", "task": "child"}))
        }
        ("go", _) => ScriptedReply::text("end").first_delay(Duration::from_secs(1)),
        _ => ScriptedReply::text("child").first_delay(Duration::from_secs(40)),
    };
    let setup = Setup::new(script).clock(Arc::new(clock.clone()));
    let engine = setup.start().await;
    let mut request = create("go", 1);
    request.strategy = Strategy::Tree;
    request.config.timeout_ms = 60_000;
    let swarm = engine.create_swarm(request).await.unwrap();
    for (calls, secs) in [(2, 40), (4, 40), (5, 1)] {
        engine.desk.wait_for_calls(calls).await;
        clock.wait_for_sleepers(2).await;
        clock.advance(Duration::from_secs(secs));
    }
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    audit(&engine).await;
}

/// Runs agents like the local spawner, but returns only when it may.
#[derive(Debug)]
struct LateSpawner {
    done: watch::Sender<u32>,
    may_return: watch::Sender<bool>,
}

#[async_trait]
impl Spawner for LateSpawner {
    fn name(&self) -> &'static str {
        "late"
    }

    async fn run(&self, request: SpawnRequest, cx: AgentContext) {
        LocalSpawner.run(request, cx).await;
        self.done.send_modify(|n| *n += 1);
        let mut may_return = self.may_return.subscribe();
        may_return.wait_for(|may| *may).await.unwrap();
    }
}

#[tokio::test]
async fn an_agent_paused_and_resumed_while_its_failed_attempt_winds_up_goes_on() {
    for resumed_early in [false, true] {
        let spawner = Arc::new(LateSpawner {
            done: watch::Sender::new(0),
            may_return: watch::Sender::new(false),
        });
        let clock = manual();
        let failed = AtomicBool::new(false);
        let script = move |_: &LlmRequest| match failed.swap(true, Ordering::SeqCst) {
            false => ScriptedReply::failure(server_error()),
            true => ScriptedReply::text("end"),
        };
        let setup = Setup::new(script)
            .clock(Arc::new(clock.clone()))
            .spawner(Arc::<LateSpawner>::clone(&spawner));
        let engine = setup.start().await;
        let mut request = create("go", 1);
        request.config.max_retries = 1;
        let swarm = engine.create_swarm(request).await.unwrap();
        engine.wait_for_type("agent.retrying").await;
        let mut done = spawner.done.subscribe();
        within("the attempt", done.wait_for(|n| *n == 1))
            .await
            .unwrap();
        let agent = engine.agent(swarm.id).await;
        engine.pause_agent(agent.id).await.unwrap();
        if resumed_early {
            engine.resume_agent(agent.id).await.unwrap();
            clock.advance(Duration::from_secs(1));
        } else {
            // The retry falls due while the agent is paused.
            clock.advance(Duration::from_secs(1));
            engine.budget(BudgetOwner::Swarm(swarm.id)).await;
            engine.resume_agent(agent.id).await.unwrap();
        }
        spawner.may_return.send_replace(true);
        assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
        audit(&engine).await;
    }
}
