//! Random runs: whatever agents, callers and crashes do, the strict store takes every decision and
//! the sums hold after each of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{World, answered, model, tool, tool_answered};
use crate::api::{BudgetRequest, CreateSwarm};
use crate::ids::AgentId;
use crate::llm::Billing;
use crate::model::inbox::{Queue, QueueMode};
use crate::model::{
    AgentStatus, Amount, Budget, Compaction, FailurePolicy, MessageOrigin, NanoUsd, SideEffect,
    StepKey, Strategy as Plan, Usage,
};
use crate::orchestrator::effect::{Command, Effect, Input};
use crate::settings::Settings;
use crate::spawn::{AttemptFailure, Grant, Next, Outcome, Summary};

/// What an agent's driver is in the middle of.
#[derive(Debug, Clone)]
pub(super) enum Doing {
    Nothing { turn: u32 },
    Waiting { reply: u64, turn: u32 },
    Calling { key: StepKey, max: u32, turn: u32 },
    Working { turn: u32 },
}

pub(super) struct Drivers {
    pub(super) world: World,
    pub(super) doing: BTreeMap<AgentId, Doing>,
}

impl Drivers {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            world: World::new(settings),
            doing: BTreeMap::new(),
        }
    }

    /// Starts and ends drivers as the effects say.
    pub(super) fn follow_effects(&mut self) {
        for effect in std::mem::take(&mut self.world.effects) {
            match effect {
                Effect::Start(id) => {
                    let turns = self.world.state.agents.get(id).map_or(0, |a| a.turns);
                    self.doing.insert(id, Doing::Nothing { turn: turns + 1 });
                }
                Effect::Cancel(id) => self.detach(id),
                Effect::RetryAt {
                    agent_id, attempt, ..
                } => {
                    self.detach_attempt(agent_id, attempt.saturating_sub(1));
                    let due = Input::RetryDue { agent_id, attempt };
                    self.world.with(|decision| decision.decide(due));
                }
            }
        }
    }

    fn detach(&mut self, id: AgentId) {
        let attempt = self.world.state.agents.get(id).map_or(0, |a| a.attempt);
        self.detach_attempt(id, attempt);
    }

    fn detach_attempt(&mut self, id: AgentId, attempt: u32) {
        if self.doing.remove(&id).is_some() {
            let ended = Input::Detached {
                agent_id: id,
                attempt,
                failure: None,
            };
            self.world.with(|decision| decision.decide(ended));
        }
    }

    pub(super) fn step(&mut self, id: AgentId, choice: u8) {
        let Some(doing) = self.doing.get(&id).cloned() else {
            return;
        };
        match doing {
            // As the session does with a summary that an engine died over.
            Doing::Nothing { turn } if self.has_open_summary(id) => {
                self.send(id, turn, Vec::new(), summary(turn));
            }
            Doing::Nothing { turn } => self.ask(id, turn, Vec::new(), choice),
            Doing::Waiting { reply, turn } => self.receive(id, reply, turn),
            Doing::Calling { key, max, turn } => match choice % 8 {
                1.. if matches!(key, StepKey::Summary { .. }) => {
                    let done = summarised(key, u64::from(max));
                    self.ask(id, turn + 1, vec![done], choice);
                }
                4 => {
                    // As a conversation that was too long: only a summary may follow.
                    let failed = Outcome::ModelFailed {
                        key,
                        error: "too long".to_owned(),
                        billing: Billing::None,
                    };
                    self.send(id, turn, vec![failed], summary(turn));
                }
                0 => {
                    let error = "cut".to_owned();
                    let billing = Billing::Unknown;
                    let failed = Outcome::ModelFailed {
                        key,
                        error: error.clone(),
                        billing,
                    };
                    let failure = AttemptFailure::fatal(error).retryable().other_model();
                    self.send(id, turn, vec![failed], Next::Fail(failure));
                }
                1..=3 => {
                    let calls = vec![tool(0, "c", SideEffect::ALL[usize::from(choice) % 4])];
                    let used = u64::from(max) / 2;
                    let outcome = answered(key, used, &["c"]);
                    self.send(id, turn, vec![outcome], Next::Tools { turn, calls });
                }
                _ => self.ask(
                    id,
                    turn + 1,
                    vec![answered(key, u64::from(max), &[])],
                    choice,
                ),
            },
            Doing::Working { turn } => {
                let done = tool_answered(StepKey::Tool { turn, index: 0 }, "c");
                self.ask(id, turn + 1, vec![done], choice);
            }
        }
    }

    fn has_open_summary(&self, id: AgentId) -> bool {
        let live = self.world.state.live.get(&id);
        let is_summary = |key: &StepKey| matches!(key, StepKey::Summary { .. });
        live.is_some_and(|live| live.steps.keys().any(is_summary))
    }

    fn ask(&mut self, id: AgentId, turn: u32, outcomes: Vec<Outcome>, choice: u8) {
        let next = if choice.is_multiple_of(3) && turn > 1 {
            Next::Complete {
                result: "x".to_owned(),
            }
        } else if choice.is_multiple_of(5) {
            summary(turn)
        } else if choice.is_multiple_of(7) {
            Next::Say {
                text: "once more".to_owned(),
                origin: MessageOrigin::Correction,
            }
        } else {
            model(turn, 40 + u32::from(choice))
        };
        self.send(id, turn, outcomes, next);
    }

    fn send(&mut self, id: AgentId, turn: u32, outcomes: Vec<Outcome>, next: Next) {
        let reply = self.world.advance(id, outcomes, next);
        self.doing.insert(id, Doing::Waiting { reply, turn });
        self.receive(id, reply, turn);
    }

    fn receive(&mut self, id: AgentId, reply: u64, turn: u32) {
        let next =
            match self.world.grant(reply) {
                None => return,
                Some(Grant::Model {
                    key,
                    max_output_tokens: max,
                    ..
                }) => Doing::Calling { key, max, turn },
                Some(Grant::Tools { .. }) => Doing::Working { turn },
                Some(Grant::Continue { .. } | Grant::Noted) => Doing::Nothing { turn },
                Some(Grant::Ended | Grant::Stop { .. }) => {
                    let attempt = self.world.state.agents.get(id).map_or(0, |a| a.attempt);
                    let old =
                        self.world.state.agents.get(id).is_some_and(|a| {
                            a.status == AgentStatus::Spawning && a.retry_at.is_some()
                        });
                    self.detach_attempt(
                        id,
                        if old {
                            attempt.saturating_sub(1)
                        } else {
                            attempt
                        },
                    );
                    return;
                }
            };
        self.doing.insert(id, next);
    }

    /// The engine dies and starts again on its rows.
    pub(super) fn crash(&mut self) {
        self.doing.clear();
        self.world.effects.clear();
        self.world.replies.clear();
        for live in self.world.state.live.values_mut() {
            live.attached = false;
            live.announced = false;
            live.parked = None;
            live.calling = None;
        }
        self.world.state.gates.clear();
        self.world.state.budget_waiters.clear();
        self.world.with(|decision| decision.recover());
    }

    pub(super) fn check(&self) {
        let state = &self.world.state;
        for Budget {
            allocated,
            spent,
            uncertain,
            reserved,
            overrun,
            ..
        } in state.budgets.iter()
        {
            assert!(*spent >= 0 && *uncertain >= 0 && *reserved >= 0);
            assert_eq!(*overrun, 0, "no driver uses more than it was granted");
            if let Some(cap) = allocated {
                assert!(spent + uncertain + reserved <= *cap);
            }
        }
        let calling = state
            .live
            .values()
            .filter(|live| live.calling.is_some())
            .count();
        let slots: u32 = state.gates.values().map(|gate| gate.under_way).sum();
        assert_eq!(calling, slots as usize, "every slot belongs to a call");
        for (id, live) in &state.live {
            assert!(
                live.attached || live.calling.is_none(),
                "{id} holds a slot although nothing runs for it"
            );
        }
        for (swarm, plan) in &state.plans {
            let open = plan
                .tasks
                .iter()
                .filter(|t| {
                    state
                        .tasks
                        .get(**t)
                        .is_some_and(|t| !t.status.is_terminal())
                })
                .count();
            assert_eq!(open, plan.open_tasks as usize, "{swarm}");
        }
    }
}

fn summary(turn: u32) -> Next {
    match model(turn, 30) {
        Next::Model { turn, intent } => Next::Summary { turn, intent },
        other => other,
    }
}

fn summarised(key: StepKey, used: u64) -> Outcome {
    let usage = Usage {
        input: used,
        ..Usage::default()
    };
    let compaction = Compaction {
        summary: "all of it".to_owned(),
        keeps_task: true,
        kept: 0,
        tokens_before: used,
    };
    let used = Amount {
        usd: NanoUsd(i64::try_from(used).unwrap()),
        tokens: used,
    };
    Outcome::Summarised {
        key,
        summary: Summary::Compaction(compaction),
        usage,
        used,
    }
}

fn run(strategy: Plan, policy: FailurePolicy, cap: i64, choices: &[(u8, u8)]) -> Vec<String> {
    let settings = Settings {
        calls_per_provider_max: 2,
        ..Settings::default()
    };
    let mut drivers = Drivers::new(settings);
    let mut request = CreateSwarm::new("s", "go");
    request.strategy = strategy;
    request.initial_agents = 3;
    request.config.failure_policy = policy;
    request.config.max_retries = 1;
    request.config.escalation = vec!["n".to_owned()];
    request.config.steer_mode = QueueMode::All;
    if strategy == Plan::MapReduce {
        request.parts = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
    }
    request.budget = Some(BudgetRequest::usd(NanoUsd(cap)));
    let swarm = drivers.world.swarm(request);
    for (what, choice) in choices {
        drivers.follow_effects();
        let agents: Vec<AgentId> = drivers.doing.keys().copied().collect();
        let chosen = agents
            .get(usize::from(*choice) % agents.len().max(1))
            .copied();
        match (what % 32, chosen) {
            (0, _) => drivers.crash(),
            (1, Some(id)) => drop(drivers.world.command(Command::KillAgent(id))),
            (2, Some(id)) => drop(drivers.world.command(Command::PauseAgent(id))),
            (3, _) => drop(drivers.world.command(Command::PauseSwarm(swarm))),
            (4..=7, _) => drop(drivers.world.command(Command::ResumeSwarm(swarm))),
            (8, _) => {
                let agents = u32::from(choice % 5) + 1;
                drop(drivers.world.command(Command::ScaleSwarm(swarm, agents)));
            }
            (9, Some(id)) => {
                let queue = if choice % 2 == 0 {
                    Queue::Steer
                } else {
                    Queue::FollowUp
                };
                let (agent_id, text) = (id, "listen".to_owned());
                let sent = Command::Send {
                    agent_id,
                    queue,
                    text,
                };
                drop(drivers.world.command(sent));
            }
            (_, Some(id)) => drivers.step(id, *choice),
            (_, None) => {}
        }
        drivers.check();
    }
    drop(drivers.world.command(Command::DestroySwarm(swarm)));
    drivers.follow_effects();
    drivers.check();
    let state = &drivers.world.state;
    assert!(
        state.budgets.iter().all(|b| b.reserved == 0),
        "nothing is held at the end"
    );
    assert!(state.agents.iter().all(|a| a.status.is_terminal()));
    assert!(state.tasks.iter().all(|t| t.status.is_terminal()));
    drivers
        .world
        .events
        .iter()
        .map(|kind| format!("{kind:?}"))
        .collect()
}

proptest! {
    #![proptest_config(crate::testing::random::cases(300))]

    #[test]
    fn whatever_happens_the_store_takes_it_and_the_sums_hold(
        strategy in prop::sample::select(vec![Plan::Parallel, Plan::MapReduce, Plan::Pipeline]),
        policy in prop::sample::select(vec![
            FailurePolicy::FailFast, FailurePolicy::Continue, FailurePolicy::Quorum(2),
        ]),
        cap in 60_i64..5_000,
        choices in proptest::collection::vec((any::<u8>(), any::<u8>()), 1..150),
    ) {
        let events = run(strategy, policy, cap, &choices);
        prop_assert_eq!(events, run(strategy, policy, cap, &choices), "the same run twice");
    }
}
