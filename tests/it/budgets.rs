//! Money: held before a call, settled after it, never more than the cap.

use std::sync::Arc;

use dash::ErrorKind;
use dash::api::{BudgetOwner, BudgetRequest, CreateSwarm, SpawnAgent};
use dash::event::EventKind;
use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::budget::ThresholdAction;
use dash::model::{
    AgentStatus, BudgetScope, Currency, FailurePolicy, NanoUsd, ReservationState, SideEffect,
    Strategy, SwarmStatus, Thresholds, Usage,
};
use dash::store::EventFilter;
use dash_tests::{Door, Engine, Setup, audit, create, results, task_of, turn, within};
use pretty_assertions::assert_eq;
use serde_json::json;

const fn used(input: u64, output: u64) -> Usage {
    Usage {
        input,
        output,
        cache_read: 0,
        cache_write: 0,
        reasoning: 0,
        cache_write_long: 0,
    }
}

fn cheap(_: &LlmRequest) -> ScriptedReply {
    ScriptedReply::text("end").usage(used(10, 1))
}

/// A swarm without tools, so that its prompts are small.
fn plain(agents: u32) -> CreateSwarm {
    let mut request = create("go", agents);
    request.config.tools = Some(Vec::new());
    request
}

const fn quiet() -> Thresholds {
    Thresholds {
        warning: 75,
        warning_action: ThresholdAction::None,
        critical: 90,
        critical_action: ThresholdAction::None,
        hard_stop: 100,
        hard_stop_action: ThresholdAction::Kill,
    }
}

fn cap(nanos: i64) -> Option<BudgetRequest> {
    Some(BudgetRequest::usd(NanoUsd(nanos)).with_thresholds(quiet()))
}

/// What one call of a `plain(1)` swarm holds.
async fn one_call() -> i64 {
    let engine = Setup::new(cheap).priced().start().await;
    engine.run(plain(1)).await;
    engine.reservations().await[0].held.usd.0
}

async fn thresholds(engine: &Engine) -> Vec<(u32, ThresholdAction, f64)> {
    let events = engine.events().await;
    let fired = events.iter().filter_map(|e| match &e.kind {
        EventKind::BudgetThreshold(t) => Some((t.threshold, t.action, t.spent)),
        _ => None,
    });
    fired.collect()
}

#[tokio::test]
async fn a_call_is_settled_to_the_nano_dollar() {
    let script = |_: &LlmRequest| ScriptedReply::text("end").usage(used(543, 892));
    let engine = Setup::new(script).priced().start().await;
    let swarm = engine.run(plain(1)).await;
    let cost = 543 * 1_000 + 892 * 2_000;
    for owner in [
        BudgetOwner::Swarm(swarm.id),
        BudgetOwner::Project("default".to_owned()),
    ] {
        let budget = engine.budget(owner).await;
        assert_eq!(
            (budget.spent, budget.reserved, budget.uncertain),
            (cost, 0, 0)
        );
    }
    assert_eq!(engine.agent(swarm.id).await.cost, NanoUsd(cost));
    let reservation = engine.reservations().await.remove(0);
    assert_eq!(reservation.state, ReservationState::Settled);
    assert_eq!(reservation.actual.unwrap().usd, NanoUsd(cost));
    assert!(reservation.held.usd.0 > 2_000_000, "the worst case is held");
    audit(&engine).await;
}

#[tokio::test]
async fn a_call_that_does_not_fit_whole_may_answer_less() {
    let full = one_call().await;
    let engine = Setup::new(cheap).priced().start().await;
    let mut request = plain(1);
    request.budget = cap(full - 1_000_000);
    let swarm = engine.run(request).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    assert_eq!(engine.desk.requests()[0].max_output_tokens, 500);
    audit(&engine).await;
}

#[tokio::test]
async fn a_call_that_does_not_fit_is_not_made_and_ends_the_swarm() {
    let engine = Setup::new(cheap).priced().start().await;
    let mut request = plain(1);
    request.budget = cap(1_500_000);
    let swarm = engine.create_swarm(request).await.unwrap();
    let outcome = within("the end", engine.wait_swarm(swarm.id))
        .await
        .unwrap();
    assert_eq!(outcome.swarm.status, SwarmStatus::Failed);
    assert!(
        outcome
            .swarm
            .error
            .as_ref()
            .unwrap()
            .starts_with("budget exceeded")
    );
    assert_eq!(
        outcome.result().unwrap_err().kind(),
        ErrorKind::BudgetExceeded
    );
    assert_eq!(engine.desk.calls(), 0);
    let event = engine.wait_for_type("budget.exceeded").await;
    let EventKind::BudgetExceeded(exceeded) = &event.kind else {
        panic!()
    };
    assert_eq!(exceeded.swarm_id, Some(swarm.id));
    assert_eq!(
        (exceeded.scope, exceeded.currency),
        (BudgetScope::Swarm, Currency::Usd)
    );
    assert!((exceeded.allocated - 0.001_5).abs() < 1e-12 && exceeded.spent.abs() < 1e-12);
    assert!(exceeded.requested > exceeded.allocated);
    audit(&engine).await;
}

#[tokio::test]
async fn each_threshold_fires_once_and_does_what_it_says() {
    let script = |_: &LlmRequest| ScriptedReply::tool_call("act", json!({})).usage(used(0, 1_000));
    let door = Door::new("act", SideEffect::Pure);
    let engine = Setup::new(script).door(&door).priced().start().await;
    let mut request = create("go", 1);
    let levels = Thresholds {
        warning: 10,
        critical: 20,
        hard_stop: 30,
        ..Thresholds::default()
    };
    request.budget = Some(BudgetRequest::usd(NanoUsd(20_000_000)).with_thresholds(levels));
    let swarm = engine.create_swarm(request).await.unwrap();
    let paused = engine.wait_for_type("swarm.paused").await;
    let EventKind::SwarmPaused(paused) = &paused.kind else {
        panic!()
    };
    assert_eq!(paused.reason, "its budget is used up to 20 %");
    assert_eq!(engine.desk.calls(), 2);
    assert_eq!(engine.agent(swarm.id).await.status, AgentStatus::Paused);
    engine.resume_swarm(swarm.id).await.unwrap();
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(
        swarm.error.as_deref(),
        Some("budget exceeded: 30 % are used up")
    );
    assert_eq!(engine.desk.calls(), 3);
    let expected = [
        (10, ThresholdAction::Notify, 0.002),
        (20, ThresholdAction::Pause, 0.004),
        (30, ThresholdAction::Kill, 0.006),
    ];
    assert_eq!(thresholds(&engine).await, expected);
    let event = engine.wait_for_type("budget.threshold").await;
    let EventKind::BudgetThreshold(first) = &event.kind else {
        panic!()
    };
    assert_eq!(
        (first.swarm_id, first.scope),
        (Some(swarm.id), BudgetScope::Swarm)
    );
    assert!((first.allocated - 0.02).abs() < 1e-12);
    audit(&engine).await;
}

#[tokio::test]
async fn a_raised_cap_lets_a_swarm_that_its_budget_has_paused_go_on() {
    let engine = Setup::new(cheap).priced().start().await;
    let mut request = plain(1);
    let pausing = Thresholds {
        hard_stop_action: ThresholdAction::Pause,
        ..quiet()
    };
    request.budget = Some(BudgetRequest::usd(NanoUsd(1_000)).with_thresholds(pausing));
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.wait_for_type("swarm.paused").await;
    let owner = BudgetOwner::Swarm(swarm.id);
    let budget = engine
        .allocate(owner.clone(), Some(10_000_000))
        .await
        .unwrap();
    assert_eq!(budget.allocated, Some(10_000_000));
    engine.wait_for_type("budget.allocated").await;
    engine.resume_swarm(swarm.id).await.unwrap();
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    let err = engine
        .allocate(owner.clone(), Some(11_999))
        .await
        .unwrap_err();
    assert_eq!(
        (err.kind(), err.field()),
        (ErrorKind::Invalid, Some("allocated"))
    );
    engine.allocate(owner.clone(), Some(12_000)).await.unwrap();
    engine.allocate(owner, None).await.unwrap();
    audit(&engine).await;
}

#[tokio::test]
async fn a_call_whose_money_others_hold_waits_for_it() {
    let full = one_call().await;
    let setup = Setup::new(cheap).priced();
    setup.desk.hold_after(0);
    let engine = setup.start().await;
    let mut request = plain(4);
    request.budget = cap(full + 200_000);
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    engine.desk.release();
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    assert_eq!((engine.desk.calls(), engine.desk.most_at_once()), (4, 1));
    audit(&engine).await;
}

#[tokio::test]
async fn a_killed_call_gives_way_to_those_that_wait_and_stays_charged() {
    let full = one_call().await;
    let setup = Setup::new(cheap).priced();
    setup.desk.hold_after(0);
    let engine = setup.start().await;
    let mut request = plain(2);
    request.config.failure_policy = FailurePolicy::Continue;
    // Room for the call that is killed and one shrunk one.
    request.budget = cap(2 * full - 1_000_000);
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    let first = engine.reservations().await.remove(0);
    engine.kill_agent(first.agent_id).await.unwrap();
    engine.desk.release();
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    let budget = engine.budget(BudgetOwner::Swarm(swarm.id)).await;
    assert_eq!((budget.uncertain, budget.reserved), (first.held.usd.0, 0));
    assert_eq!(budget.spent, 12_000);
    assert_eq!(engine.desk.requests()[1].max_output_tokens, 500);
    audit(&engine).await;
}

#[tokio::test]
async fn a_projects_cap_covers_all_its_swarms() {
    let full = one_call().await;
    let setup = Setup::new(cheap).priced();
    let engine = setup.start().await;
    let project = BudgetOwner::Project("default".to_owned());
    engine
        .allocate(project.clone(), Some(full + 100_000))
        .await
        .unwrap();
    let first = engine.create_swarm(plain(2)).await.unwrap();
    let second = engine.create_swarm(plain(2)).await.unwrap();
    engine.finish(first.id).await;
    engine.finish(second.id).await;
    assert_eq!(engine.desk.most_at_once(), 1);
    assert_eq!(engine.budget(project.clone()).await.spent, 4 * 12_000);
    audit(&engine).await;

    // Another project does not pay for it; this one is exhausted.
    engine.allocate(project, Some(4 * 12_000)).await.unwrap();
    let mut elsewhere = plain(1);
    elsewhere.project = Some("other".to_owned());
    assert_eq!(engine.run(elsewhere).await.status, SwarmStatus::Completed);
    let swarm = engine.run(plain(1)).await;
    assert!(
        swarm
            .error
            .unwrap()
            .starts_with("budget exceeded: the project's")
    );
    audit(&engine).await;
}

#[tokio::test]
async fn an_agents_own_cap_ends_it_alone() {
    let setup = Setup::new(cheap).priced();
    setup.desk.hold_after(0);
    let engine = setup.start().await;
    let mut request = plain(1);
    request.config.failure_policy = FailurePolicy::Continue;
    let swarm = engine.create_swarm(request).await.unwrap();
    let mut poor = SpawnAgent::new(swarm.id, "poor", "more");
    poor.budget = cap(1_000);
    let poor = engine.spawn_agent(poor).await.unwrap();
    engine
        .wait_for(
            "its end",
            |e| matches!(&e.kind, EventKind::AgentFailed(e) if e.agent_id == poor.id),
        )
        .await;
    let poor = engine.get_agent(poor.id).await.unwrap();
    assert!(
        poor.error
            .unwrap()
            .starts_with("budget exceeded: the agent's")
    );
    let own = engine.budget(BudgetOwner::Agent(poor.id)).await;
    assert_eq!(own.parent_id, Some(swarm.budget_id));
    engine.desk.release();
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    audit(&engine).await;
}

/// A root that delegates with the budget its task names.
fn carving(request: &LlmRequest) -> ScriptedReply {
    let task = task_of(request);
    match (task.strip_prefix("carve "), turn(request)) {
        (Some(budget), 0) => {
            let arguments = json!({"name": "child", "task": "child", "budget_usd": budget});
            ScriptedReply::tool_call("delegate", arguments).usage(used(1, 1))
        }
        (Some(_), _) => ScriptedReply::text(results(request)[0].1.clone()).usage(used(1, 1)),
        (None, _) => ScriptedReply::text("small").usage(used(1, 1)),
    }
}

#[tokio::test]
async fn a_childs_budget_is_carved_from_its_parents() {
    for (carve, result) in [
        ("0.015", "small"),
        ("$0.015", "small"),
        ("0.5", "budget exceeded"),
        ("-1", "must not be negative"),
        ("much", "not a decimal amount"),
    ] {
        let engine = Setup::new(carving).priced().start().await;
        let mut request = create(&format!("carve {carve}"), 1);
        request.strategy = Strategy::Tree;
        request.budget = cap(20_000_000);
        let swarm = engine.run(request).await;
        assert!(
            swarm.result.as_ref().unwrap().contains(result),
            "{carve}: {swarm:?}"
        );
        let agents = engine.agents(swarm.id).await;
        if let Some(child) = agents.iter().find(|a| a.depth == 1) {
            let own = engine.budget(BudgetOwner::Agent(child.id)).await;
            assert_eq!((own.allocated, own.spent), (Some(15_000_000), 3_000));
        }
        audit(&engine).await;
    }
}

#[tokio::test]
async fn a_budget_that_pauses_an_agent_pauses_its_children_too() {
    let door = Door::new("act", SideEffect::Pure);
    let script = |request: &LlmRequest| match (task_of(request).as_str(), turn(request)) {
        ("lead", 0) => ScriptedReply::tool_call("delegate", json!({"name": "c", "task": "child"}))
            .usage(used(0, 0)),
        ("child", 0) => ScriptedReply::tool_call("act", json!({})).usage(used(0, 1_000)),
        ("idle", _) => ScriptedReply::new().hanging(),
        _ => ScriptedReply::text("end").usage(used(0, 0)),
    };
    let engine = Setup::new(script).door(&door).priced().start().await;
    let mut request = create("idle", 1);
    request.strategy = Strategy::Tree;
    let swarm = engine.create_swarm(request).await.unwrap();
    let mut lead = SpawnAgent::new(swarm.id, "lead", "lead");
    let levels = Thresholds {
        warning: 5,
        critical: 10,
        hard_stop: 100,
        ..Thresholds::default()
    };
    lead.budget = Some(BudgetRequest::usd(NanoUsd(20_000_000)).with_thresholds(levels));
    let lead = engine.spawn_agent(lead).await.unwrap();
    engine.wait_for_type("agent.paused").await;
    let agents = engine.agents(swarm.id).await;
    let child = agents
        .iter()
        .find(|a| a.parent_id == Some(lead.id))
        .unwrap();
    assert_eq!(child.status, AgentStatus::Paused);
    assert_eq!(door.calls().len(), 0);
    engine.resume_agent(child.id).await.unwrap();
    engine.resume_agent(lead.id).await.unwrap();
    engine
        .wait_for(
            "the lead's end",
            |e| matches!(&e.kind, EventKind::AgentCompleted(e) if e.agent_id == lead.id),
        )
        .await;
    engine.destroy_swarm(swarm.id).await.unwrap();
    audit(&engine).await;
}

#[tokio::test]
async fn a_budget_may_count_tokens() {
    let script = |_: &LlmRequest| ScriptedReply::text("end").usage(used(30, 12));
    let engine = Setup::new(script).start().await;
    let mut request = plain(1);
    request.budget = Some(BudgetRequest::tokens(10_000).with_thresholds(quiet()));
    let swarm = engine.run(request).await;
    let budget = engine.budget(BudgetOwner::Swarm(swarm.id)).await;
    assert_eq!((budget.currency, budget.spent), (Currency::Tokens, 42));
    let mut request = plain(1);
    request.budget = Some(BudgetRequest::tokens(1_000).with_thresholds(quiet()));
    let swarm = engine.run(request).await;
    let error = swarm.error.unwrap();
    assert!(
        error.starts_with("budget exceeded") && error.contains("1000 tokens"),
        "{error}"
    );
    audit(&engine).await;
}

#[tokio::test]
async fn a_server_that_uses_more_than_its_limit_shows_as_an_overrun() {
    let script = |_: &LlmRequest| ScriptedReply::text("end").usage(used(0, 9_000));
    let engine = Setup::new(script).priced().start().await;
    let mut request = plain(1);
    let levels = Thresholds {
        hard_stop_action: ThresholdAction::Notify,
        ..quiet()
    };
    request.budget = Some(BudgetRequest::usd(NanoUsd(5_000_000)).with_thresholds(levels));
    let swarm = engine.run(request).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    let budget = engine.budget(BudgetOwner::Swarm(swarm.id)).await;
    assert_eq!((budget.spent, budget.overrun), (18_000_000, 13_000_000));
    assert_eq!(engine.count("budget.overrun").await, 1);
    audit(&engine).await;
}

async fn race(cap_nanos: i64, usage: fn(&LlmRequest) -> Usage) -> SwarmStatus {
    let door = Door::new("act", SideEffect::Pure);
    let script = move |request: &LlmRequest| match turn(request) {
        0 => ScriptedReply::tool_call("act", json!({})).usage(usage(request)),
        _ => ScriptedReply::text("end").usage(usage(request)),
    };
    let engine = Setup::new(script).door(&door).priced().start().await;
    let mut request = create("go", 50);
    request.budget = cap(cap_nanos);
    let mut events = engine.subscribe(EventFilter::default(), 0);
    let swarm = engine.create_swarm(request).await.unwrap();
    let status = within("the race", async {
        loop {
            let event = events.next().await.unwrap().unwrap();
            let budget = engine
                .store
                .find_budget(swarm.budget_id)
                .await
                .unwrap()
                .unwrap();
            let taken = budget.spent + budget.uncertain + budget.reserved;
            assert!(taken <= cap_nanos, "{taken} of {cap_nanos} at {event:?}");
            if event.kind.name().starts_with("swarm.") && event.kind.name() != "swarm.created" {
                return engine.get_swarm(swarm.id).await.unwrap().status;
            }
        }
    })
    .await;
    audit(&engine).await;
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_agents_that_race_for_a_small_budget_never_exceed_it() {
    let little = |_: &LlmRequest| used(10, 10);
    assert_eq!(race(12_000_000, little).await, SwarmStatus::Completed);
    let much = |request: &LlmRequest| used(0, u64::from(request.max_output_tokens));
    assert_eq!(race(12_000_000, much).await, SwarmStatus::Failed);
}

#[tokio::test]
async fn a_budget_survives_a_restart_with_its_thresholds() {
    let script = |_: &LlmRequest| ScriptedReply::tool_call("act", json!({})).usage(used(0, 1_000));
    let door = Door::new("act", SideEffect::Pure);
    let setup = Setup::new(script).door(&door).priced();
    let faulty = Arc::new(dash::testing::FaultyStore::new(Arc::clone(&setup.store)));
    let left = Arc::downgrade(&faulty);
    let engine = setup.clone().on(faulty).start().await;
    let mut request = create("go", 1);
    let levels = Thresholds {
        warning: 10,
        critical: 20,
        hard_stop: 30,
        ..Thresholds::default()
    };
    request.budget = Some(BudgetRequest::usd(NanoUsd(20_000_000)).with_thresholds(levels));
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.wait_for_type("swarm.paused").await;
    drop(engine);
    within("the end of all tasks", async {
        while left.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let engine = setup.start().await;
    engine.resume_swarm(swarm.id).await.unwrap();
    engine.finish(swarm.id).await;
    let levels: Vec<u32> = thresholds(&engine).await.iter().map(|t| t.0).collect();
    assert_eq!(levels, [10, 20, 30]);
    audit(&engine).await;
}
