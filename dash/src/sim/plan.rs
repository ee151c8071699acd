//! What a seed means: the engine's limits, the swarms, and what is done to them from outside.

use serde_json::json;

use crate::api::{BudgetRequest, CreateSwarm, TaskSpec};
use crate::ids::SwarmId;
use crate::llm::Model;
use crate::model::budget::ThresholdAction;
use crate::model::{
    AgentProfile, CompactionConfig, FailurePolicy, NanoUsd, QueueMode, Strategy, SwarmConfig,
    Thresholds,
};
use crate::settings::Settings;
use crate::sim::rng::Rng;

/// The provider of all models.
pub(super) const PROVIDER: &str = "sim";

/// Crashes of one run at most.
const CRASHES_MAX: u64 = 5;

/// Everything that a seed decides before the run begins.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Limits of the engine.
    pub settings: Settings,
    /// Its models.
    pub models: Vec<Model>,
    /// The swarms.
    pub swarms: Vec<CreateSwarm>,
    /// What is done from outside, by time.
    pub actions: Vec<(u64, Action)>,
    /// Effects after which the engine dies, each counted from the start of its life.
    pub crashes: Vec<u64>,
    /// Faults of the store in a thousand calls.
    pub store_faults: u64,
    /// Faults of providers and tools in a hundred calls.
    pub faults: u64,
    /// Polls of tasks in a hundred that are put off.
    pub shuffle: u64,
    /// When faults and crashes end, ms after the start.
    pub chaos_ms: u64,
}

/// Something done from outside. Whom it is done to is drawn when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Creates a swarm of the plan.
    Create(usize),
    /// Pauses a swarm.
    PauseSwarm,
    /// Resumes a swarm.
    ResumeSwarm,
    /// Scales a swarm.
    ScaleSwarm,
    /// Destroys a swarm.
    DestroySwarm,
    /// Adds an agent to a swarm.
    SpawnAgent,
    /// Pauses an agent.
    PauseAgent,
    /// Resumes an agent.
    ResumeAgent,
    /// Kills an agent.
    KillAgent,
    /// Retries a failed agent.
    RetryAgent,
    /// Retries a failed agent from an earlier entry.
    RetryAgentFrom,
    /// Sends an agent a message.
    Steer,
    /// Sends an agent a message for later.
    FollowUp,
    /// Takes the waiting messages of an agent back.
    ClearInbox,
    /// Adds a task to a swarm.
    CreateTask,
    /// Gives a task an output.
    CompleteTask,
    /// Cancels a task.
    CancelTask,
    /// Settles a step in doubt.
    ResolveStep,
    /// Changes a cap.
    Allocate,
    /// Changes thresholds.
    SetThresholds,
    /// Tells what a lost call has cost.
    Reconcile,
    /// Ends the engine in good order.
    Shutdown,
}

/// Actions and how often each is drawn, in relation to the others.
const ACTIONS: &[(Action, u64)] = &[
    (Action::PauseSwarm, 3),
    (Action::ResumeSwarm, 4),
    (Action::ScaleSwarm, 3),
    (Action::DestroySwarm, 1),
    (Action::SpawnAgent, 3),
    (Action::PauseAgent, 4),
    (Action::ResumeAgent, 4),
    (Action::KillAgent, 3),
    (Action::RetryAgent, 4),
    (Action::RetryAgentFrom, 6),
    (Action::Steer, 6),
    (Action::FollowUp, 5),
    (Action::ClearInbox, 1),
    (Action::CreateTask, 3),
    (Action::CompleteTask, 1),
    (Action::CancelTask, 2),
    (Action::ResolveStep, 5),
    (Action::Allocate, 3),
    (Action::SetThresholds, 2),
    (Action::Reconcile, 3),
    (Action::Shutdown, 2),
];

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::of(seed, "plan");
        let models = models(&mut rng);
        let is_rough = rng.chance(75);
        let swarms: Vec<CreateSwarm> = (0..rng.between(1, 3))
            .map(|at| swarm(&mut rng, at, &models))
            .collect();
        let crashes = if is_rough {
            rng.between(0, CRASHES_MAX)
        } else {
            0
        };
        let chaos_ms = rng.between(2_000, 20_000);
        Self {
            seed,
            settings: settings(&mut rng, &models),
            actions: actions(&mut rng, swarms.len(), chaos_ms),
            swarms,
            models,
            crashes: (0..crashes).map(|_| rng.between(1, 300)).collect(),
            store_faults: if is_rough { rng.between(0, 15) } else { 0 },
            faults: if is_rough { rng.between(0, 40) } else { 0 },
            shuffle: rng.between(0, 40),
            chaos_ms,
        }
    }
}

fn models(rng: &mut Rng) -> Vec<Model> {
    let priced = |rng: &mut Rng, id: &str, nanos: u64| {
        let price = |rng: &mut Rng| {
            let nanos = rng.between(nanos, nanos * 4);
            NanoUsd(i64::try_from(nanos).unwrap_or(i64::MAX))
        };
        let mut model = Model::priced(id, PROVIDER, price(rng), price(rng));
        model.max_output_tokens = rng.small(200, 2_000);
        model.context_window = rng.pick(&[0, 0, 1_500, 2_500, 8_000]).copied().unwrap_or(0);
        model
    };
    let mut models = vec![
        priced(rng, "small", 500_000_000),
        priced(rng, "large", 3_000_000_000),
    ];
    if rng.chance(30) {
        models.push(Model::free("free", PROVIDER));
    }
    models
}

fn settings(rng: &mut Rng, models: &[Model]) -> Settings {
    let pick = |rng: &mut Rng, from: &[u32]| rng.pick(from).copied().unwrap_or(1);
    Settings {
        default_model: rng.pick(models).map(|m| m.id.clone()).unwrap_or_default(),
        agents_per_swarm_max: pick(rng, &[3, 6, 20]),
        agents_total_max: pick(rng, &[8, 12, 40]),
        calls_per_provider_max: pick(rng, &[1, 2, 5, 64]),
        tools_parallel_max: pick(rng, &[1, 2, 8]),
        tool_timeout_ms: rng.between(300, 5_000),
        tool_output_bytes_max: 1_024,
        output_tokens_floor: pick(rng, &[1, 16, 200]),
        task_input_bytes_max: 1_024,
        inbox_max: pick(rng, &[1, 3, 100]),
        retry_base_ms: rng.between(1, 1_000),
        retry_cap_ms: rng.between(1_000, 4_000),
        store_retry_ms: rng.between(10, 500),
        broadcast_capacity: 16,
        ..Settings::default()
    }
}

/// A cap: of a few calls, or of many. Nano-dollars, or as many tokens.
pub(super) fn budget(rng: &mut Rng) -> BudgetRequest {
    let is_tight = rng.chance(40);
    let mut request = if rng.chance(25) {
        let (low, high) = if is_tight {
            (0, 12_000)
        } else {
            (20_000, 900_000)
        };
        BudgetRequest::tokens(rng.between(low, high))
    } else {
        let (low, high) = if is_tight {
            (0, 20_000_000)
        } else {
            (30_000_000, 2_000_000_000)
        };
        let cap = rng.between(low, high);
        BudgetRequest::usd(NanoUsd(i64::try_from(cap).unwrap_or(i64::MAX)))
    };
    request.thresholds = thresholds(rng);
    request
}

/// Levels and actions in any combination that is valid.
pub(super) fn thresholds(rng: &mut Rng) -> Thresholds {
    use ThresholdAction::{Kill, None, Notify, Pause};
    let mut action = |all: &[ThresholdAction]| rng.pick(all).copied().unwrap_or(Notify);
    let (warning_action, critical_action, hard_stop_action) = (
        action(&[None, Notify, Notify, Pause, Kill]),
        action(&[None, Notify, Notify, Pause, Kill]),
        action(&[Notify, Pause, Kill, Kill]),
    );
    let warning = rng.small(1, 90);
    let critical = rng.small(warning, 100);
    Thresholds {
        warning,
        warning_action,
        critical,
        critical_action,
        hard_stop: rng.small(critical, 100),
        hard_stop_action,
    }
}

fn config(rng: &mut Rng, strategy: Strategy, models: &[Model]) -> SwarmConfig {
    let model = |rng: &mut Rng| rng.pick(models).map(|m| m.id.clone()).unwrap_or_default();
    let mut config = SwarmConfig {
        model: model(rng),
        timeout_ms: rng.between(1_000, 30_000),
        max_retries: rng.small(0, 2),
        max_turns: rng.small(2, 10),
        max_output_tokens: rng.small(0, 600),
        failure_policy: match rng.between(0, 2) {
            0 => FailurePolicy::FailFast,
            1 => FailurePolicy::Continue,
            _ => FailurePolicy::Quorum(rng.small(1, 3)),
        },
        tree_depth_max: rng.small(1, 2),
        tree_fanout_max: rng.small(1, 3),
        compaction: CompactionConfig {
            enabled: rng.chance(80),
            reserve_tokens: rng.small(256, 1_000),
            keep_tokens: rng.small(0, 500),
        },
        ..SwarmConfig::default()
    };
    if rng.chance(30) {
        config.steer_mode = QueueMode::All;
        config.follow_up_mode = QueueMode::All;
    }
    if rng.chance(40) {
        config.escalation = (0..rng.between(1, 2)).map(|_| model(rng)).collect();
    }
    if rng.chance(25) {
        config.answer_schema = Some(json!({
            "type": "object",
            "properties": { "value": { "type": "integer" } },
            "required": ["value"],
        }));
    }
    if strategy == Strategy::Tree || rng.chance(20) {
        config.profiles = vec![AgentProfile {
            name: "scout".to_owned(),
            description: "Looks around.".to_owned(),
            instructions: String::new(),
            model: if rng.chance(50) {
                model(rng)
            } else {
                String::new()
            },
            tools: rng.chance(50).then(|| vec!["look".to_owned()]),
        }];
    }
    config
}

fn swarm(rng: &mut Rng, at: u64, models: &[Model]) -> CreateSwarm {
    let strategy = if rng.chance(20) {
        Strategy::Tree
    } else {
        let drawn = rng.pick(&Strategy::ALL).copied();
        drawn.unwrap_or(Strategy::Parallel)
    };
    let mut request = CreateSwarm::new(format!("swarm {at}"), "Do the work.");
    request.id = Some(SwarmId::from_u128(u128::from(at) + 1));
    request.strategy = strategy;
    request.initial_agents = rng.small(1, 3);
    request.config = config(rng, strategy, models);
    if rng.chance(20) {
        request.project = Some("other".to_owned());
    }
    if rng.chance(60) {
        request.budget = Some(budget(rng));
    }
    let parts = |rng: &mut Rng| {
        let parts = (0..rng.between(1, 3)).map(|n| format!("part {n}"));
        parts.collect::<Vec<String>>()
    };
    match strategy {
        Strategy::Tree => request.initial_agents = 1,
        Strategy::Dag => {
            let all = rng.between(1, 4);
            for n in 0..all {
                let mut depends_on = Vec::new();
                for before in 0..n {
                    if rng.chance(40) {
                        depends_on.push(format!("n{before}"));
                    }
                }
                request.tasks.push(TaskSpec {
                    key: format!("n{n}"),
                    prompt: format!("Do {n}."),
                    depends_on,
                });
            }
        }
        Strategy::Parallel | Strategy::MapReduce | Strategy::Pipeline => {
            if rng.chance(50) {
                request.parts = parts(rng);
            }
        }
    }
    request
}

fn actions(rng: &mut Rng, swarms: usize, until_ms: u64) -> Vec<(u64, Action)> {
    let mut actions: Vec<(u64, Action)> = (0..swarms)
        .map(|at| {
            (
                if at == 0 { 0 } else { rng.between(0, 500) },
                Action::Create(at),
            )
        })
        .collect();
    if rng.chance(80) {
        let total: u64 = ACTIONS.iter().map(|(_, weight)| weight).sum();
        for _ in 0..rng.between(0, 14) {
            let mut left = rng.between(0, total - 1);
            let drawn = ACTIONS
                .iter()
                .find(|(_, weight)| match left.checked_sub(*weight) {
                    Some(rest) => {
                        left = rest;
                        false
                    }
                    None => true,
                });
            if let Some((action, _)) = drawn {
                actions.push((rng.between(50, until_ms / 2), *action));
            }
        }
    }
    actions.sort_by_key(|(at, _)| *at);
    actions
}
