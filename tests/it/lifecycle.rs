//! Pause, kill, destroy, retry, time limits, tasks by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dash::ErrorKind;
use dash::api::{BudgetOwner, CreateTask, SpawnAgent};
use dash::event::EventKind;
use dash::llm::{LlmError, LlmErrorKind, LlmRequest, ScriptedReply};
use dash::model::{
    AgentStatus, FailurePolicy, ReservationState, SideEffect, StepState, Strategy, SwarmStatus,
    TaskStatus,
};
use dash_tests::{Door, Engine, Setup, audit, create, results, task_of, turn};
use pretty_assertions::assert_eq;
use serde_json::json;

/// Calls `act` once, then ends.
fn acts_once(request: &LlmRequest) -> ScriptedReply {
    match turn(request) {
        0 => ScriptedReply::tool_call("act", json!({})),
        _ => ScriptedReply::text("end"),
    }
}

async fn open_steps(engine: &Engine, swarm: dash::ids::SwarmId) -> usize {
    let mut open = 0;
    for agent in engine.agents(swarm).await {
        let steps = engine.steps(agent.id).await;
        open += steps
            .iter()
            .filter(|s| s.state == StepState::Intended)
            .count();
    }
    open
}

#[tokio::test]
async fn a_swarm_paused_in_the_middle_of_its_calls_records_them_and_starts_nothing() {
    let door = Door::new("act", SideEffect::Pure);
    let setup = Setup::new(acts_once).door(&door);
    setup.desk.hold_after(0);
    let engine = setup.start().await;
    let swarm = engine.create_swarm(create("go", 2)).await.unwrap();
    engine.desk.wait_for_calls(2).await;
    let paused = engine.pause_swarm(swarm.id).await.unwrap();
    assert_eq!(paused.status, SwarmStatus::Paused);
    assert_eq!(engine.pause_swarm(swarm.id).await.unwrap(), paused);
    engine.desk.release();
    let first = engine.wait_for_type("agent.turn").await;
    engine
        .wait_after(first.seq, "the second answer", |e| {
            e.kind.name() == "agent.turn"
        })
        .await;
    // What is recorded with an answer would show here if anything had been granted after it.
    assert_eq!(open_steps(&engine, swarm.id).await, 0);
    assert_eq!((engine.desk.calls(), door.calls().len()), (2, 0));
    for agent in engine.agents(swarm.id).await {
        assert_eq!(agent.status, AgentStatus::Paused);
        assert_eq!(agent.pause_reason.as_deref(), Some("its swarm is paused"));
    }
    engine.resume_swarm(swarm.id).await.unwrap();
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    assert_eq!((engine.desk.calls(), door.calls().len()), (4, 2));
    audit(&engine).await;
}

#[tokio::test]
async fn an_agent_paused_between_its_tools_makes_no_model_call_until_it_is_resumed() {
    let door = Door::new("act", SideEffect::Pure);
    let setup = Setup::new(acts_once).door(&door);
    door.close();
    let engine = setup.start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    door.wait_for_calls(1).await;
    let agent = engine.agent(swarm.id).await;
    engine.pause_agent(agent.id).await.unwrap();
    door.open();
    engine.wait_for_type("tool.completed").await;
    assert_eq!(open_steps(&engine, swarm.id).await, 0);
    assert_eq!(engine.desk.calls(), 1);
    // The swarm itself is not paused, so there is nothing for it to resume.
    engine.resume_swarm(swarm.id).await.unwrap();
    assert_eq!(engine.agent(swarm.id).await.status, AgentStatus::Paused);
    engine.resume_agent(agent.id).await.unwrap();
    engine.finish(swarm.id).await;
    assert_eq!(engine.desk.calls(), 2);
    audit(&engine).await;
}

#[tokio::test]
async fn an_agent_paused_by_hand_stays_paused_when_its_swarm_is_resumed() {
    let setup = Setup::new(|_| ScriptedReply::text("end"));
    setup.desk.hold_after(0);
    let engine = setup.start().await;
    let swarm = engine.create_swarm(create("go", 2)).await.unwrap();
    engine.desk.wait_for_calls(2).await;
    let agents = engine.agents(swarm.id).await;
    engine.pause_agent(agents[0].id).await.unwrap();
    engine.pause_swarm(swarm.id).await.unwrap();
    let err = engine.resume_agent(agents[0].id).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    engine.resume_swarm(swarm.id).await.unwrap();
    engine.desk.release();
    engine.wait_for_type("agent.completed").await;
    let first = engine.get_agent(agents[0].id).await.unwrap();
    assert_eq!(first.status, AgentStatus::Paused);
    engine.resume_agent(first.id).await.unwrap();
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    audit(&engine).await;
}

#[tokio::test]
async fn a_child_made_while_its_swarm_is_paused_waits_too() {
    let door = Door::new("act", SideEffect::Pure);
    let script = |request: &LlmRequest| match (task_of(request).as_str(), turn(request)) {
        ("go", 0) => ScriptedReply::tool_call("act", json!({}))
            .add_tool_call("delegate", json!({"name": "child", "task": "child"})),
        _ => ScriptedReply::text("end"),
    };
    let mut setup = Setup::new(script).door(&door);
    // One tool after the other, so that the pause comes between the two.
    setup.settings.tools_parallel_max = 1;
    door.close();
    let engine = setup.start().await;
    let mut request = create("go", 1);
    request.strategy = Strategy::Tree;
    let swarm = engine.create_swarm(request).await.unwrap();
    door.wait_for_calls(1).await;
    engine.pause_swarm(swarm.id).await.unwrap();
    door.open();
    let born = engine
        .wait_for(
            "the child",
            |e| matches!(&e.kind, EventKind::AgentSpawned(e) if e.parent_id.is_some()),
        )
        .await;
    let EventKind::AgentSpawned(born) = &born.kind else {
        panic!()
    };
    let child = engine.get_agent(born.agent_id).await.unwrap();
    assert_eq!(child.status, AgentStatus::Paused);
    engine.resume_swarm(swarm.id).await.unwrap();
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    audit(&engine).await;
}

#[tokio::test]
async fn a_killed_agent_drops_its_call_and_what_it_may_have_cost_stays_charged() {
    let setup = Setup::new(|_| ScriptedReply::text("late").hanging()).priced();
    let engine = setup.start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    let agent = engine.agent(swarm.id).await;
    let killed = engine.kill_agent(agent.id).await.unwrap();
    assert_eq!(killed.status, AgentStatus::Killed);
    engine.desk.wait_for_dropped(1).await;
    assert_eq!(engine.kill_agent(agent.id).await.unwrap(), killed);
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.status, SwarmStatus::Failed);
    assert_eq!(
        engine.task(swarm.id, "work/1").await.status,
        TaskStatus::Cancelled
    );
    let reservations = engine.reservations().await;
    assert_eq!(reservations.len(), 1);
    assert_eq!(reservations[0].state, ReservationState::Uncertain);
    let budget = engine.budget(BudgetOwner::Swarm(swarm.id)).await;
    assert_eq!((budget.reserved, budget.spent), (0, 0));
    assert_eq!(budget.uncertain, reservations[0].held.usd.0);
    audit(&engine).await;
}

#[tokio::test]
async fn killing_an_agent_kills_its_children() {
    let script = |request: &LlmRequest| match task_of(request).as_str() {
        "go" => ScriptedReply::tool_call("delegate", json!({"name": "child", "task": "child"})),
        _ => ScriptedReply::new().hanging(),
    };
    let engine = Setup::new(script).start().await;
    let mut request = create("go", 1);
    request.strategy = Strategy::Tree;
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(2).await;
    let agents = engine.agents(swarm.id).await;
    let root = agents.iter().find(|a| a.depth == 0).unwrap();
    engine.kill_agent(root.id).await.unwrap();
    engine.desk.wait_for_dropped(1).await;
    engine.finish(swarm.id).await;
    for agent in engine.agents(swarm.id).await {
        assert_eq!(agent.status, AgentStatus::Killed);
    }
    audit(&engine).await;
}

#[tokio::test]
async fn a_destroyed_swarm_stops_at_once_and_keeps_its_rows() {
    let door = Door::new("act", SideEffect::Once);
    door.close();
    let setup = Setup::new(
        |request: &LlmRequest| match task_of(request).ends_with("tool") {
            true => ScriptedReply::tool_call("act", json!({})),
            false => ScriptedReply::new().hanging(),
        },
    )
    .door(&door);
    let engine = setup.start().await;
    let mut request = create("go", 2);
    request.parts = ["tool", "hang", "waits"].map(str::to_owned).into();
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(2).await;
    door.wait_for_calls(1).await;
    let gone = engine.destroy_swarm(swarm.id).await.unwrap();
    assert_eq!(gone.status, SwarmStatus::Destroyed);
    assert_eq!(engine.destroy_swarm(swarm.id).await.unwrap(), gone);
    engine.desk.wait_for_dropped(1).await;
    for task in engine.tasks(swarm.id).await {
        assert_eq!(task.status, TaskStatus::Cancelled, "{}", task.key);
    }
    assert_eq!(door.done(), 0);
    for err in [
        engine.pause_swarm(swarm.id).await.unwrap_err(),
        engine.resume_swarm(swarm.id).await.unwrap_err(),
        engine.scale_swarm(swarm.id, 3).await.unwrap_err(),
        engine
            .spawn_agent(SpawnAgent::new(swarm.id, "late", "late"))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(err.kind(), ErrorKind::Conflict, "{err}");
    }
    audit(&engine).await;
}

#[tokio::test]
async fn a_failed_agent_that_is_retried_reopens_its_swarm() {
    let healthy = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&healthy);
    let script = move |request: &LlmRequest| {
        if task_of(request).ends_with("2 of 3.") && !well.load(Ordering::SeqCst) {
            return ScriptedReply::failure(LlmError::unbilled(LlmErrorKind::Auth, "no key"));
        }
        ScriptedReply::text("fine")
    };
    let engine = Setup::new(script).start().await;
    let mut request = create("go", 3);
    request.initial_agents = 3;
    let swarm = engine.run(request).await;
    assert_eq!(swarm.status, SwarmStatus::Failed);
    assert!(swarm.error.unwrap().contains("no key"));
    let agents = engine.agents(swarm.id).await;
    let failed = agents
        .iter()
        .find(|a| a.status == AgentStatus::Failed)
        .unwrap();
    let other = agents.iter().find(|a| a.status != AgentStatus::Failed);
    if let Some(other) = other {
        let err = engine.retry_agent(other.id).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Conflict);
    }
    healthy.store(true, Ordering::SeqCst);
    let agent = engine.retry_agent(failed.id).await.unwrap();
    assert_eq!((agent.status, agent.attempt), (AgentStatus::Spawning, 1));
    let swarm = engine.finish(swarm.id).await;
    assert_eq!((swarm.status, swarm.error), (SwarmStatus::Completed, None));
    for task in engine.tasks(swarm.id).await {
        assert_eq!(task.status, TaskStatus::Completed, "{}", task.key);
    }
    assert_eq!(engine.count("swarm.resumed").await, 1);
    audit(&engine).await;
}

#[tokio::test]
async fn idle_agents_and_tasks_are_brought_together_by_hand() {
    let setup = Setup::new(|request: &LlmRequest| ScriptedReply::text(task_of(request)));
    setup.desk.hold_after(0);
    let engine = setup.start().await;
    let mut request = create("go", 1);
    request.config.failure_policy = FailurePolicy::Continue;
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    let mut spawn = SpawnAgent::new(swarm.id, "helper", "");
    spawn.task = None;
    let helper = engine.spawn_agent(spawn).await.unwrap();
    assert_eq!(helper.status, AgentStatus::Idle);
    let task = |key: &str| CreateTask {
        swarm_id: swarm.id,
        key: key.to_owned(),
        prompt: format!("do {key}"),
        depends_on: Vec::new(),
        budget: None,
    };
    let mine = engine.create_task(task("mine")).await.unwrap();
    assert_eq!(mine.status, TaskStatus::Ready);
    let mut after = task("after");
    after.depends_on = vec![mine.id];
    let after = engine.create_task(after).await.unwrap();
    assert_eq!(after.status, TaskStatus::Pending);
    let never = engine.create_task(task("never")).await.unwrap();
    let helped = engine.create_task(task("helped")).await.unwrap();

    let err = engine.assign_task(after.id, helper.id).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    let helped = engine.assign_task(helped.id, helper.id).await.unwrap();
    assert_eq!(
        (helped.status, helped.agent_id),
        (TaskStatus::Running, Some(helper.id))
    );
    let err = engine.assign_task(mine.id, helper.id).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    let err = engine.complete_task(helped.id, "mine").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    let cancelled = engine.cancel_task(never.id).await.unwrap();
    assert_eq!(cancelled.status, TaskStatus::Cancelled);
    assert_eq!(engine.cancel_task(never.id).await.unwrap(), cancelled);
    let mine = engine.complete_task(mine.id, "by hand").await.unwrap();
    assert_eq!(mine.output.as_deref(), Some("by hand"));

    engine.desk.release();
    assert_eq!(engine.finish(swarm.id).await.status, SwarmStatus::Completed);
    let after = engine.task(swarm.id, "after").await;
    assert_eq!(
        after.output.as_deref(),
        Some("do after\n\n--- Output of `mine` ---\nby hand")
    );
    audit(&engine).await;
}

#[tokio::test]
async fn cancelling_a_task_kills_the_agent_that_works_on_it() {
    let setup = Setup::new(|_| ScriptedReply::new().hanging());
    let engine = setup.start().await;
    let mut request = create("go", 1);
    request.config.failure_policy = FailurePolicy::Continue;
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    let task = engine.task(swarm.id, "work/1").await;
    let task = engine.cancel_task(task.id).await.unwrap();
    assert_eq!(task.status, TaskStatus::Cancelled);
    engine.desk.wait_for_dropped(1).await;
    assert_eq!(engine.agent(swarm.id).await.status, AgentStatus::Killed);
    engine.finish(swarm.id).await;
    audit(&engine).await;
}

#[tokio::test]
async fn a_command_that_expects_an_older_version_is_a_conflict() {
    let setup = Setup::new(|_| ScriptedReply::new().hanging());
    let engine = setup.start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    let agent = engine.agent(swarm.id).await;
    let swarm = engine.get_swarm(swarm.id).await.unwrap();
    let head = engine.head_seq().await.unwrap();
    let stale = engine.expecting(swarm.version + 1);
    let task = CreateTask {
        swarm_id: swarm.id,
        key: "k".to_owned(),
        prompt: "p".to_owned(),
        depends_on: Vec::new(),
        budget: None,
    };
    for err in [
        stale.pause_swarm(swarm.id).await.unwrap_err(),
        stale.resume_swarm(swarm.id).await.unwrap_err(),
        stale.scale_swarm(swarm.id, 2).await.unwrap_err(),
        stale.destroy_swarm(swarm.id).await.unwrap_err(),
        stale.create_task(task).await.unwrap_err(),
        stale
            .spawn_agent(SpawnAgent::new(swarm.id, "n", "t"))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(err.kind(), ErrorKind::Conflict, "{err}");
    }
    let stale = engine.expecting(agent.version + 1);
    for err in [
        stale.pause_agent(agent.id).await.unwrap_err(),
        stale.resume_agent(agent.id).await.unwrap_err(),
        stale.kill_agent(agent.id).await.unwrap_err(),
        stale.retry_agent(agent.id).await.unwrap_err(),
        stale.steer(agent.id, "hi").await.unwrap_err(),
        stale.follow_up(agent.id, "hi").await.unwrap_err(),
    ] {
        assert_eq!(err.kind(), ErrorKind::Conflict, "{err}");
    }
    assert_eq!(engine.head_seq().await.unwrap(), head);
    let fresh = engine.expecting(agent.version);
    fresh.pause_agent(agent.id).await.unwrap();
    let err = fresh.resume_agent(agent.id).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    engine.destroy_swarm(swarm.id).await.unwrap();
    audit(&engine).await;
}

#[tokio::test]
async fn results_of_a_tool_reach_the_model_in_the_order_of_its_calls() {
    let slow = Door::new("slow", SideEffect::Pure);
    let quick = Door::new("quick", SideEffect::Pure);
    slow.close();
    let script = |request: &LlmRequest| match turn(request) {
        0 => ScriptedReply::tool_call("slow", json!({})).add_tool_call("quick", json!({})),
        _ => ScriptedReply::text("end"),
    };
    let engine = Setup::new(script).door(&slow).door(&quick).start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    engine.wait_for_type("tool.completed").await;
    assert_eq!((slow.done(), quick.done()), (0, 1));
    slow.open();
    engine.finish(swarm.id).await;
    let requests = engine.desk.requests();
    let order: Vec<String> = results(&requests[1]).into_iter().map(|r| r.0).collect();
    assert_eq!(order, ["slow", "quick"]);
    audit(&engine).await;
}
