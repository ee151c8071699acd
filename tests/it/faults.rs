//! A store that fails, models and tools that misbehave and sinks that block.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dash::ErrorKind;
use dash::api::BudgetOwner;
use dash::env::UnixMillis;
use dash::event::{Event, EventKind};
use dash::llm::{LlmError, LlmErrorKind, LlmRequest, ScriptedReply};
use dash::model::{ReservationState, SideEffect, SwarmStatus};
use dash::sink::EventSink;
use dash::testing::faulty_store::Fault;
use dash::testing::{FaultyStore, ManualClock};
use dash::tool::{ToolError, ToolOutput};
use dash_tests::{Door, Engine, Setup, audit, create, results, shared, turn, within};
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

/// Waits for a commit after the first `count`.
async fn committing(store: &FaultyStore, count: u64) {
    within("a commit", async {
        while store.commits() == count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

// ---- the store ----

#[tokio::test]
async fn a_full_disk_is_waited_out_and_nothing_is_lost() {
    let door = Door::new("act", SideEffect::Once);
    door.close();
    let clock = manual();
    let setup = Setup::new(acts_once)
        .door(&door)
        .clock(Arc::new(clock.clone()));
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    let full = Arc::new(AtomicBool::new(false));
    let is_full = Arc::clone(&full);
    faulty.fail_when(move |_, _| is_full.load(Ordering::SeqCst).then_some(Fault::Full));
    let engine = setup.on(shared(&faulty)).start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    door.wait_for_calls(1).await;
    let head = engine.head_seq().await.unwrap();
    full.store(true, Ordering::SeqCst);
    let commits = faulty.commits();
    door.open();
    committing(&faulty, commits).await;
    for _ in 0..2 {
        let refused = within("an answer", engine.pause_swarm(swarm.id)).await;
        let err = refused.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        clock.advance(Duration::from_secs(1));
    }
    let err = engine.create_swarm(create("go", 1)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert_eq!(
        engine.get_swarm(swarm.id).await.unwrap().status,
        SwarmStatus::Active
    );
    assert_eq!(engine.head_seq().await.unwrap(), head);
    full.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(1));
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    assert_eq!(door.calls().len(), 1);
    audit(&engine).await;
}

#[tokio::test]
async fn a_store_that_fails_for_good_stops_the_engine() {
    for fault in [Fault::IoBefore, Fault::IoAfter, Fault::Conflict] {
        let setup = Setup::new(|_| ScriptedReply::new().hanging());
        let inner = Arc::clone(&setup.store);
        let faulty = Arc::new(FaultyStore::new(Arc::clone(&inner)));
        let engine = setup.on(shared(&faulty)).start().await;
        let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
        engine.desk.wait_for_calls(1).await;
        faulty.push(Some(fault));
        let err = engine.pause_swarm(swarm.id).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Closed, "{fault:?}");
        assert!(err.chain().contains("stopped"), "{err:?}");
        engine.stopped().await;
        engine.desk.wait_for_dropped(1).await;
        let err = engine.wait_swarm(swarm.id).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Closed, "{fault:?}");
        let err = engine.create_swarm(create("go", 1)).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Closed, "{fault:?}");
        // Nothing is written any more; reads still work.
        let head = inner.head_seq().await.unwrap();
        assert_eq!(engine.head_seq().await.unwrap(), head);
    }
}

// ---- models ----

#[tokio::test]
async fn a_failing_model_is_asked_again_only_if_that_may_help() {
    use LlmErrorKind as Kind;
    for kind in [
        Kind::Auth,
        Kind::NotFound,
        Kind::InvalidRequest,
        Kind::ContextOverflow,
        Kind::RateLimited,
        Kind::Quota,
        Kind::Overloaded,
        Kind::Server,
        Kind::Network,
        Kind::Timeout,
        Kind::StreamCut,
        Kind::Decode,
        Kind::ContentFilter,
        Kind::Cancelled,
    ] {
        let script = move |_: &LlmRequest| ScriptedReply::failure(LlmError::unbilled(kind, "no"));
        let engine = Setup::new(script).priced().start().await;
        let mut request = create("go", 1);
        request.config.max_retries = 2;
        let swarm = engine.run(request).await;
        assert_eq!(swarm.status, SwarmStatus::Failed);
        let calls = if kind.is_retryable() { 3 } else { 1 };
        assert_eq!(engine.desk.calls(), calls, "{kind:?}");
        let released = engine.reservations().await;
        assert!(
            released
                .iter()
                .all(|r| r.state == ReservationState::Released),
            "{kind:?}"
        );
        audit(&engine).await;
    }
}

#[tokio::test]
async fn an_answer_that_ends_in_the_middle_is_charged_at_worst_case_and_asked_for_again() {
    let script = |request: &LlmRequest| {
        let whole = ScriptedReply::text("one two three four");
        let cut = LlmError::billed_unknown(LlmErrorKind::StreamCut, "cut");
        match request.idempotency_key.ends_with("t1/m") {
            true => whole.failing_midway(cut),
            false => whole,
        }
    };
    let engine = Setup::new(script).priced().start().await;
    let mut request = create("go", 1);
    request.config.max_retries = 1;
    let swarm = engine.run(request).await;
    assert_eq!(swarm.result.as_deref(), Some("one two three four"));
    let states: Vec<_> = engine
        .reservations()
        .await
        .iter()
        .map(|r| r.state)
        .collect();
    assert_eq!(
        states,
        [ReservationState::Uncertain, ReservationState::Settled]
    );
    // What was cut is not part of the conversation.
    assert_eq!(engine.desk.requests()[1].messages.len(), 1);
    audit(&engine).await;
}

#[tokio::test]
async fn a_model_that_calls_unknown_tools_for_ever_ends_at_its_turn_limit() {
    let script = |_: &LlmRequest| ScriptedReply::tool_call("nothing", json!({}));
    let engine = Setup::new(script).start().await;
    let mut request = create("go", 1);
    request.config.max_turns = 5;
    request.config.max_retries = 3;
    let swarm = engine.run(request).await;
    assert!(swarm.error.unwrap().contains("no end after 5 model calls"));
    assert_eq!(engine.desk.calls(), 5);
    let told = results(&engine.desk.requests()[4]);
    assert_eq!(told.len(), 4);
    assert!(
        told.iter()
            .all(|(_, text, is_error)| *is_error && text.contains("There is no tool"))
    );
    audit(&engine).await;
}

// ---- tools ----

#[tokio::test]
async fn what_a_tool_does_wrong_is_told_to_the_model() {
    let wrong = [
        ("fails", "cannot"),
        ("panics", "it panicked: boom"),
        ("huge", "bytes were left out here"),
        (
            "report_progress",
            "\ncurrent: must be integer, not string \"x\"\n",
        ),
        ("nothing", "There is no tool `nothing`"),
    ];
    let script = move |request: &LlmRequest| match turn(request) {
        0 => wrong.iter().fold(ScriptedReply::new(), |reply, (tool, _)| {
            reply.add_tool_call(*tool, json!({"current": "x", "total": 2}))
        }),
        _ => ScriptedReply::text("end"),
    };
    let fails = Door::acting("fails", SideEffect::Once, |_| Err(ToolError::new("cannot")));
    let panics = Door::acting("panics", SideEffect::Once, |_| panic!("boom"));
    let huge = Door::acting("huge", SideEffect::Once, |_| {
        Ok(ToolOutput::text("x".repeat(100 << 20)))
    });
    let engine = Setup::new(script)
        .door(&fails)
        .door(&panics)
        .door(&huge)
        .start()
        .await;
    let swarm = engine.run(create("go", 1)).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    let told = results(&engine.desk.requests()[1]);
    for ((tool, expected), (name, text, is_error)) in wrong.iter().zip(told) {
        assert_eq!(name, *tool);
        assert!(text.contains(expected), "{tool}: {}", text.len());
        assert!(text.len() < 60_000);
        assert_eq!(is_error, *tool != "huge", "{tool}");
    }
    audit(&engine).await;
}

#[tokio::test]
async fn a_tool_that_hangs_is_stopped_at_its_time_limit() {
    let door = Door::new("act", SideEffect::Once);
    door.close();
    let clock = manual();
    let setup = Setup::new(acts_once)
        .door(&door)
        .clock(Arc::new(clock.clone()));
    let engine = setup.start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    door.wait_for_calls(1).await;
    clock.wait_for_sleepers(1).await;
    clock.advance(Duration::from_secs(120));
    let swarm = engine.finish(swarm.id).await;
    assert!(swarm.result.unwrap().contains("did not answer within 120s"));
    assert_eq!(door.done(), 0);
    audit(&engine).await;
}

// ---- sinks ----

/// Panics when a budget is set.
#[derive(Debug, Default)]
struct Panics(AtomicUsize);

impl EventSink for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        self.0.fetch_add(1, Ordering::SeqCst);
        let set = |e: &Arc<Event>| e.kind.name() == "budget.allocated";
        assert!(!events.iter().any(set), "no more");
    }
}

#[derive(Debug, Default)]
struct Blocks(Mutex<Vec<u64>>);

impl EventSink for Blocks {
    fn name(&self) -> &'static str {
        "blocks"
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a sink that blocks is what is tested"
    )]
    fn emit(&self, events: &[Arc<Event>]) {
        let mut seen = self.0.lock().unwrap();
        if seen.is_empty() {
            std::thread::sleep(dash::sink::SLOW_SINK * 2);
        }
        seen.extend(events.iter().map(|e| e.seq));
    }
}

async fn sink_trouble(engine: &Engine) -> String {
    let event = engine.wait_for_type("system.error").await;
    let EventKind::SystemError(error) = &event.kind else {
        panic!()
    };
    assert_eq!(error.component, "sink");
    error.error.clone()
}

#[tokio::test]
async fn a_sink_that_panics_is_reported_at_once_and_left_alone() {
    let sink = Arc::new(Panics::default());
    let setup = Setup::new(acts_once).sink(Arc::<Panics>::clone(&sink));
    let engine = setup.start().await;
    let project = BudgetOwner::Project("default".to_owned());
    engine.allocate(project, Some(1)).await.unwrap();
    let trouble = sink_trouble(&engine).await;
    assert!(
        trouble.contains("`panics`") && trouble.contains("no more"),
        "{trouble}"
    );
    let told = sink.0.load(Ordering::SeqCst);
    engine.run(create("go", 1)).await;
    assert_eq!(sink.0.load(Ordering::SeqCst), told);
    audit(&engine).await;
}

#[tokio::test]
async fn a_sink_that_blocks_is_reported_once_and_still_gets_everything() {
    let sink = Arc::new(Blocks::default());
    let engine = Setup::new(acts_once)
        .sink(Arc::<Blocks>::clone(&sink))
        .start()
        .await;
    engine.run(create("go", 2)).await;
    let trouble = sink_trouble(&engine).await;
    assert!(
        trouble.contains("`blocks` holds every commit up"),
        "{trouble}"
    );
    assert_eq!(engine.count("system.error").await, 1);
    let seen = sink.0.lock().unwrap().clone();
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
    audit(&engine).await;
}
