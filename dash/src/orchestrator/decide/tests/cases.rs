use super::{World, answered, model, tool, tool_answered};
use crate::api::{BudgetOwner, BudgetRequest, CreateSwarm, Resolution};
use crate::llm::Billing;
use crate::model::inbox::Queue;
use crate::model::{
    AgentStatus, Budget, NanoUsd, SideEffect, StepKey, StepState, Strategy, SwarmStatus,
    TaskStatus, Usage,
};
use crate::orchestrator::effect::{Command, Effect, Input, Reply};
use crate::settings::Settings;
use crate::spawn::{AttemptFailure, Delegation, Grant, Next, Outcome};

fn parallel(agents: u32) -> CreateSwarm {
    let mut request = CreateSwarm::new("s", "do it");
    request.initial_agents = agents;
    request
}

fn capped(agents: u32, cap: i64) -> CreateSwarm {
    let mut request = parallel(agents);
    request.budget = Some(BudgetRequest::usd(NanoUsd(cap)));
    request
}

fn budget(world: &mut World, id: crate::ids::SwarmId) -> Budget {
    match world.command(Command::BudgetStatus(BudgetOwner::Swarm(id))) {
        Ok(Reply::Status(status)) => status.budget,
        other => panic!("{other:?}"),
    }
}

fn complete(result: &str) -> Next {
    Next::Complete {
        result: result.to_owned(),
    }
}

const MODEL: StepKey = StepKey::Model {
    turn: 1,
    attempt: 0,
};

#[test]
fn a_swarm_starts_as_many_agents_as_may_work() {
    let mut world = World::new(Settings::default());
    let mut request = parallel(2);
    request.parts = ["a", "b", "c"].map(str::to_owned).to_vec();
    let swarm = world.swarm(request);
    let started = world.started();
    assert_eq!(started.len(), 2);
    let first = world.advance(started[0], Vec::new(), complete("x"));
    assert_eq!(world.grant(first), Some(Grant::Ended));
    assert_eq!(world.started().len(), 1, "a free hand takes the third part");
    assert_eq!(
        world.state.swarms.get(swarm).unwrap().status,
        SwarmStatus::Active
    );
}

#[test]
fn a_second_call_waits_for_money_that_the_first_holds() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(capped(2, 150));
    let agents = world.started();
    let first = world.advance(agents[0], Vec::new(), model(1, 90));
    assert!(matches!(world.grant(first), Some(Grant::Model { .. })));
    let second = world.advance(agents[1], Vec::new(), model(1, 90));
    assert_eq!(world.grant(second), None);
    assert_eq!(budget(&mut world, swarm).reserved, 100);

    let end = world.advance(agents[0], vec![answered(MODEL, 20, &[])], complete("x"));
    assert_eq!(world.grant(end), Some(Grant::Ended));
    assert!(
        matches!(world.grant(second), Some(Grant::Model { .. })),
        "what was left over does"
    );
    let after = budget(&mut world, swarm);
    assert_eq!((after.spent, after.reserved), (20, 100));
}

#[test]
fn a_call_that_can_never_fit_ends_the_swarm() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(capped(1, 12));
    let agent = world.started()[0];
    let asked = world.advance(agent, Vec::new(), model(1, 90));
    assert_eq!(world.grant(asked), Some(Grant::Ended));
    let row = world.state.swarms.get(swarm).unwrap();
    assert_eq!(row.status, SwarmStatus::Failed);
    assert!(row.error.as_ref().unwrap().starts_with("budget exceeded"));
    assert_eq!(world.count("budget.exceeded"), 1);
}

#[test]
fn a_killed_call_stays_charged_until_its_usage_is_known() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(capped(2, 1_000));
    let agent = world.started()[0];
    world.advance(agent, Vec::new(), model(1, 90));
    world.command(Command::KillAgent(agent)).unwrap();
    assert!(world.effects.contains(&Effect::Cancel(agent)));
    assert_eq!(budget(&mut world, swarm).uncertain, 100);

    let late = world.advance(agent, vec![answered(MODEL, 30, &[])], complete("x"));
    assert!(matches!(world.grant(late), Some(Grant::Stop { .. })));
    let after = budget(&mut world, swarm);
    assert_eq!((after.spent, after.uncertain, after.reserved), (30, 0, 0));
}

#[test]
fn a_lost_charge_is_reconciled_once() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(capped(2, 1_000));
    let agent = world.started()[0];
    world.advance(agent, Vec::new(), model(1, 90));
    world.command(Command::KillAgent(agent)).unwrap();
    let reconcile = || Command::Reconcile {
        agent_id: agent,
        key: MODEL,
        usage: Usage {
            input: 10,
            output: 15,
            ..Usage::default()
        },
    };
    assert!(matches!(
        world.command(reconcile()),
        Ok(Reply::Reservation(_))
    ));
    let after = budget(&mut world, swarm);
    assert_eq!((after.spent, after.uncertain), (25, 0));
    let again = world.command(reconcile()).unwrap_err();
    assert_eq!(again.kind(), crate::ErrorKind::NotFound);
}

#[test]
fn a_pause_holds_the_next_step_and_a_resume_grants_it() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(parallel(1));
    let agent = world.started()[0];
    world.advance(agent, Vec::new(), model(1, 90));
    world.command(Command::PauseSwarm(swarm)).unwrap();
    let held = world.advance(agent, vec![answered(MODEL, 1, &["c"])], model(2, 90));
    assert_eq!(world.grant(held), None);
    assert_eq!(
        world.count("agent.turn"),
        1,
        "what was under way is recorded"
    );
    world.command(Command::ResumeSwarm(swarm)).unwrap();
    assert!(matches!(world.grant(held), Some(Grant::Model { .. })));
}

#[test]
fn calls_beyond_the_provider_limit_wait_their_turn() {
    let settings = Settings {
        calls_per_provider_max: 1,
        ..Settings::default()
    };
    let mut world = World::new(settings);
    world.swarm(parallel(2));
    let agents = world.started();
    world.advance(agents[0], Vec::new(), model(1, 90));
    let second = world.advance(agents[1], Vec::new(), model(1, 90));
    assert_eq!(world.grant(second), None);
    world.advance(agents[0], vec![answered(MODEL, 1, &[])], complete("x"));
    assert!(matches!(world.grant(second), Some(Grant::Model { .. })));
}

#[test]
fn steering_waits_for_the_whole_batch_and_a_follow_up_for_the_end() {
    let mut world = World::new(Settings::default());
    world.swarm(parallel(1));
    let agent = world.started()[0];
    world.advance(agent, Vec::new(), model(1, 90));
    for (queue, text) in [(Queue::Steer, "steer"), (Queue::FollowUp, "follow")] {
        let text = text.to_owned();
        world
            .command(Command::Send {
                agent_id: agent,
                queue,
                text,
            })
            .unwrap();
    }
    let calls = vec![tool(0, "c", SideEffect::Pure)];
    let tools = Next::Tools { turn: 1, calls };
    let batch = world.advance(agent, vec![answered(MODEL, 1, &["c"])], tools);
    assert!(matches!(world.grant(batch), Some(Grant::Tools { .. })));
    let key = StepKey::Tool { turn: 1, index: 0 };
    let next = world.advance(agent, vec![tool_answered(key, "c")], model(2, 90));
    let Some(Grant::Model { delivered, .. }) = world.grant(next) else {
        panic!()
    };
    assert_eq!(
        delivered.len(),
        1,
        "the steering message, not the follow-up"
    );

    let second = StepKey::Model {
        turn: 2,
        attempt: 0,
    };
    let end = world.advance(agent, vec![answered(second, 1, &[])], complete("x"));
    assert!(matches!(world.grant(end), Some(Grant::Continue { .. })));
}

#[test]
fn a_failed_attempt_is_retried_after_a_delay_that_doubles() {
    let mut world = World::new(Settings::default());
    world.swarm(parallel(1));
    let agent = world.started()[0];
    let fail = || Next::Fail(AttemptFailure::fatal("down").retryable());
    let mut delays = Vec::new();
    for attempt in 0..4 {
        let asked = world.advance(agent, Vec::new(), fail());
        assert_eq!(world.grant(asked), Some(Grant::Ended));
        let retry = world.effects.iter().rev().find_map(|effect| match effect {
            Effect::RetryAt { at, .. } => Some(at.0 - world.now),
            Effect::Start(_) | Effect::Cancel(_) => None,
        });
        delays.extend(retry);
        world.effects.clear();
        world.with(|d| {
            d.decide(Input::Detached {
                agent_id: agent,
                attempt,
                failure: None,
            });
        });
        let due = Input::RetryDue {
            agent_id: agent,
            attempt: attempt + 1,
        };
        world.with(|d| d.decide(due));
    }
    assert_eq!(delays.len(), 3, "the fourth failure is the end");
    for (delay, full) in delays.iter().zip([1_000, 2_000, 4_000]) {
        assert!((full * 3 / 4..=full).contains(delay), "{delay} of {full}");
    }
    assert_eq!(
        world.state.agents.get(agent).unwrap().status,
        AgentStatus::Failed
    );
}

#[test]
fn recovery_settles_open_steps_by_their_class() {
    for (class, state) in [
        (SideEffect::Pure, StepState::Intended),
        (SideEffect::Idempotent, StepState::Intended),
        (SideEffect::Reconcilable, StepState::Intended),
        (SideEffect::Once, StepState::InDoubt),
    ] {
        let mut world = World::new(Settings::default());
        world.swarm(parallel(1));
        let agent = world.started()[0];
        world.advance(agent, Vec::new(), model(1, 90));
        let calls = vec![tool(0, "c", class)];
        let next = Next::Tools { turn: 1, calls };
        world.advance(agent, vec![answered(MODEL, 1, &["c"])], next);
        // The same rows, seen by an engine that starts on them.
        world.state.live.get_mut(&agent).unwrap().attached = false;
        world.with(|decision| decision.recover());
        let key = StepKey::Tool { turn: 1, index: 0 };
        assert_eq!(
            world.state.live[&agent].steps[&key].state, state,
            "{class:?}"
        );
        let goes_on = world.started() == [agent];
        assert_eq!(goes_on, class.may_run_again(), "{class:?}");
        if !class.may_run_again() {
            let task = world.state.agents.get(agent).unwrap().task_id.unwrap();
            assert_eq!(
                world.state.tasks.get(task).unwrap().status,
                TaskStatus::Blocked
            );
            let resolution = Resolution::Skip;
            let resolve = Command::ResolveStep {
                agent_id: agent,
                key,
                resolution,
            };
            world.command(resolve).unwrap();
            assert_eq!(
                world.state.tasks.get(task).unwrap().status,
                TaskStatus::Running
            );
            assert_eq!(world.started(), [agent]);
        }
    }
}

#[test]
fn a_lost_model_call_is_charged_and_made_again() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(capped(1, 1_000));
    let agent = world.started()[0];
    world.advance(agent, Vec::new(), model(1, 90));
    world.state.live.get_mut(&agent).unwrap().attached = false;
    world.with(|decision| decision.recover());
    let after = budget(&mut world, swarm);
    assert_eq!((after.reserved, after.uncertain), (0, 100));
    let again = world.advance(agent, Vec::new(), model(1, 90));
    assert!(matches!(
        world.grant(again),
        Some(Grant::Model { key: MODEL, .. })
    ));
    assert_eq!(world.state.live[&agent].steps[&MODEL].tries, 2);
}

#[test]
fn a_threshold_fires_once_and_again_after_the_cap_was_raised() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(capped(1, 200));
    let agent = world.started()[0];
    world.advance(agent, Vec::new(), model(1, 190));
    world.advance(agent, vec![answered(MODEL, 160, &["c"])], Next::Nothing);
    assert_eq!(world.count("budget.threshold"), 1);
    let owner = BudgetOwner::Swarm(swarm);
    let raise = Command::Allocate {
        owner: owner.clone(),
        allocated: Some(1_000),
    };
    world.command(raise).unwrap();
    assert_eq!(world.count("budget.threshold"), 1);
    let lower = Command::Allocate {
        owner: owner.clone(),
        allocated: Some(200),
    };
    world.command(lower).unwrap();
    assert_eq!(world.count("budget.threshold"), 2, "crossed again");
    let below = Command::Allocate {
        owner,
        allocated: Some(159),
    };
    assert_eq!(world.command(below).unwrap_err().field(), Some("allocated"));
}

#[test]
fn nothing_is_granted_once_a_shutdown_has_begun() {
    let mut world = World::new(Settings::default());
    world.swarm(parallel(2));
    let agents = world.started();
    world.advance(agents[0], Vec::new(), model(1, 90));
    world.with(|decision| decision.drain());
    let asked = world.advance(agents[1], Vec::new(), model(1, 90));
    assert!(matches!(world.grant(asked), Some(Grant::Stop { .. })));
    let reported = world.advance(agents[0], vec![answered(MODEL, 1, &[])], complete("x"));
    assert!(matches!(world.grant(reported), Some(Grant::Stop { .. })));
    assert_eq!(
        world.count("agent.turn"),
        1,
        "what was under way is recorded"
    );
    let status = world.state.agents.get(agents[0]).unwrap().status;
    assert_eq!(
        status,
        AgentStatus::Running,
        "and the next start goes on from there"
    );
}

#[test]
fn what_has_ended_is_forgotten_once_nothing_runs_for_it() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(capped(2, 1_000));
    let agents = world.started();
    for agent in &agents {
        let end = world.advance(*agent, Vec::new(), complete("x"));
        assert_eq!(world.grant(end), Some(Grant::Ended));
        world.with(|d| {
            d.decide(Input::Detached {
                agent_id: *agent,
                attempt: 0,
                failure: None,
            });
        });
    }
    world.state.evict(&agents, &[swarm]);
    assert!(world.state.swarms.get(swarm).is_none());
    assert!(world.state.plans.is_empty() && world.state.live.is_empty());
    assert_eq!(world.state.tasks.iter().count(), 0);
    assert_eq!(world.state.budgets.iter().count(), 1, "the project's");
}

#[test]
fn keys_of_the_engine_are_not_given_to_callers() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(parallel(1));
    for key in ["plan", "reduce", "map/1", "delegated/x/t1/c0"] {
        let request = crate::api::CreateTask {
            swarm_id: swarm,
            key: key.to_owned(),
            prompt: "p".to_owned(),
            depends_on: Vec::new(),
            budget: None,
        };
        let err = world
            .command(Command::CreateTask(Box::new(request)))
            .unwrap_err();
        assert_eq!(err.field(), Some("key"), "{key}");
    }
}

#[test]
fn tools_under_way_may_finish_during_a_shutdown() {
    let mut world = World::new(Settings::default());
    world.swarm(parallel(1));
    let agent = world.started()[0];
    world.advance(agent, Vec::new(), model(1, 90));
    let calls = vec![
        tool(0, "a", SideEffect::Once),
        tool(1, "b", SideEffect::Once),
    ];
    let next = Next::Tools { turn: 1, calls };
    world.advance(agent, vec![answered(MODEL, 1, &["a", "b"])], next);
    world.with(|decision| decision.drain());
    let key = StepKey::Tool { turn: 1, index: 0 };
    let first = world.advance(agent, vec![tool_answered(key, "a")], Next::Nothing);
    assert_eq!(
        world.grant(first),
        Some(Grant::Noted),
        "the other one goes on"
    );
}

#[test]
fn a_pause_by_a_caller_outlasts_a_doubt() {
    let mut world = World::new(Settings::default());
    world.swarm(parallel(1));
    let agent = world.started()[0];
    world.advance(agent, Vec::new(), model(1, 90));
    let next = Next::Tools {
        turn: 1,
        calls: vec![tool(0, "c", SideEffect::Once)],
    };
    world.advance(agent, vec![answered(MODEL, 1, &["c"])], next);
    world.command(Command::PauseAgent(agent)).unwrap();
    world.state.live.get_mut(&agent).unwrap().attached = false;
    world.with(|decision| decision.recover());
    let key = StepKey::Tool { turn: 1, index: 0 };
    let resolution = Resolution::Skip;
    let resolve = Command::ResolveStep {
        agent_id: agent,
        key,
        resolution,
    };
    world.command(resolve).unwrap();
    assert_eq!(
        world.state.agents.get(agent).unwrap().status,
        AgentStatus::Paused
    );
    world.command(Command::ResumeAgent(agent)).unwrap();
    assert_eq!(world.started(), [agent]);
}

#[test]
fn a_count_that_no_server_means_is_bounded() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(capped(1, 1_000));
    let agent = world.started()[0];
    world.advance(agent, Vec::new(), model(1, 90));
    let outcome = answered(MODEL, i64::MAX as u64, &[]);
    world.advance(agent, vec![outcome], complete("x"));
    let after = budget(&mut world, swarm);
    assert!(
        after.spent > 0 && after.overrun > 0,
        "recorded, and the store takes it"
    );
}

#[test]
fn a_failed_call_is_told_before_the_end_that_its_cost_brings() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(capped(1, 100));
    let agent = world.started()[0];
    world.advance(agent, Vec::new(), model(1, 90));
    let failed = Outcome::ModelFailed {
        key: MODEL,
        error: "broke off".to_owned(),
        billing: Billing::Unknown,
    };
    let end = Next::Fail(AttemptFailure::fatal("broke off").retryable());
    world.advance(agent, vec![failed], end);
    let row = world.state.swarms.get(swarm).unwrap();
    assert_eq!(row.status, SwarmStatus::Failed);
    let place = |name: &str| world.events.iter().position(|e| e.name() == name).unwrap();
    assert!(place("agent.turn_failed") < place("agent.killed"));
}

/// A parent and its child, in a tree without retries.
fn family(world: &mut World) -> (crate::ids::AgentId, crate::ids::AgentId) {
    let (_, parent, child) = family_of(world, parallel(1));
    (parent, child)
}

fn family_of(
    world: &mut World,
    mut request: CreateSwarm,
) -> (
    crate::ids::SwarmId,
    crate::ids::AgentId,
    crate::ids::AgentId,
) {
    request.strategy = Strategy::Tree;
    request.config.max_retries = 0;
    let swarm = world.swarm(request);
    let parent = world.started()[0];
    let delegation = Delegation {
        name: "child".to_owned(),
        task: "a part".to_owned(),
        budget_nanos: None,
        profile: None,
    };
    world.input(|reply| Input::Delegate {
        agent_id: parent,
        step: StepKey::Tool { turn: 1, index: 0 },
        delegation: Box::new(delegation),
        reply,
    });
    (swarm, parent, world.started()[0])
}

#[test]
fn a_child_is_not_retried_once_its_parent_has_ended() {
    let mut world = World::new(Settings::default());
    let (parent, child) = family(&mut world);
    world.advance(child, Vec::new(), Next::Fail(AttemptFailure::fatal("no")));
    world.command(Command::KillAgent(parent)).unwrap();
    let err = world.command(Command::RetryAgent(child)).unwrap_err();
    assert_eq!(err.kind(), crate::ErrorKind::Conflict);
    let row = world.state.agents.get(child).unwrap();
    assert_eq!(row.status, AgentStatus::Failed);
}

#[test]
fn a_child_that_was_retried_ends_with_its_parent() {
    let mut world = World::new(Settings::default());
    let (parent, child) = family(&mut world);
    world.advance(child, Vec::new(), Next::Fail(AttemptFailure::fatal("no")));
    world.command(Command::RetryAgent(child)).unwrap();
    world.advance(parent, Vec::new(), complete("without it"));
    let row = world.state.agents.get(child).unwrap();
    assert_eq!(row.status, AgentStatus::Killed);
}

#[test]
fn a_parent_completes_before_what_is_left_of_its_child_ends_the_swarm() {
    let mut world = World::new(Settings::default());
    let (swarm, parent, child) = family_of(&mut world, capped(1, 100));
    world.advance(child, Vec::new(), Next::Fail(AttemptFailure::fatal("no")));
    world.command(Command::RetryAgent(child)).unwrap();
    let call = world.advance(child, Vec::new(), model(1, 90));
    assert!(matches!(world.grant(call), Some(Grant::Model { .. })));
    world.advance(parent, Vec::new(), complete("without it"));
    let status = |id| world.state.agents.get(id).unwrap().status;
    assert_eq!(status(parent), AgentStatus::Completed);
    assert_eq!(status(child), AgentStatus::Killed);
    let row = world.state.swarms.get(swarm).unwrap();
    assert_eq!(row.status, SwarmStatus::Failed, "the cap is used up");
    let places = |name: &str| {
        let events = world.events.iter().enumerate();
        let named = events.filter(|(_, e)| e.name() == name);
        named.map(|(at, _)| at).collect::<Vec<_>>()
    };
    assert_eq!(places("task.completed").len(), 1);
    assert_eq!(places("task.cancelled").len(), 1, "the child's only");
    assert!(places("task.completed") < places("swarm.failed"));
    assert_eq!(world.state.plans[&swarm].open_tasks, 0);
}

#[test]
fn an_agent_whose_last_call_uses_the_budget_up_does_not_complete_after_it_was_killed() {
    let mut world = World::new(Settings::default());
    let swarm = world.swarm(capped(1, 100));
    let agent = world.started()[0];
    let call = world.advance(agent, Vec::new(), model(1, 90));
    assert!(matches!(world.grant(call), Some(Grant::Model { .. })));
    // Its spawner ends it with the call under way.
    world.advance(agent, Vec::new(), complete("x"));
    let row = world.state.agents.get(agent).unwrap();
    assert_eq!(row.status, AgentStatus::Killed);
    let row = world.state.swarms.get(swarm).unwrap();
    assert_eq!(row.status, SwarmStatus::Failed);
    assert_eq!(world.count("agent.completed"), 0);
    assert_eq!(world.count("task.completed"), 0);
}

#[test]
fn a_child_whose_parent_is_forgotten_is_not_retried() {
    let mut world = World::new(Settings::default());
    let (parent, child) = family(&mut world);
    world.advance(child, Vec::new(), Next::Fail(AttemptFailure::fatal("no")));
    world.command(Command::KillAgent(parent)).unwrap();
    world.input(|_| Input::Detached {
        agent_id: parent,
        attempt: 0,
        failure: None,
    });
    world.state.evict(&[parent], &[]);
    assert!(world.state.agents.get(parent).is_none());
    let err = world.command(Command::RetryAgent(child)).unwrap_err();
    assert!(err.to_string().contains("its parent has ended"), "{err}");
}
