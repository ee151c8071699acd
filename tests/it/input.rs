//! Requests that break a rule: the kind, the field, and nothing half-written.

use dash::api::{
    BudgetOwner, BudgetRequest, CreateSwarm, CreateTask, NAME_MAX, Resolution, SpawnAgent,
    TEXT_MAX, TaskSpec,
};
use dash::ids::{AgentId, SwarmId, TaskId};
use dash::llm::ScriptedReply;
use dash::model::swarm::WorkspaceRoot;
use dash::model::{FailurePolicy, NanoUsd, StepKey, Strategy, Thresholds};
use dash::{Error, ErrorKind, Result};
use dash_tests::{Engine, Setup, audit, create};
use pretty_assertions::assert_eq;

async fn idle() -> Engine {
    Setup::new(|_| ScriptedReply::new().hanging()).start().await
}

fn spec(key: &str, depends_on: &[&str]) -> TaskSpec {
    TaskSpec {
        key: key.to_owned(),
        prompt: "p".to_owned(),
        depends_on: depends_on.iter().map(|s| (*s).to_owned()).collect(),
    }
}

fn dag(request: &mut CreateSwarm, tasks: Vec<TaskSpec>) {
    request.strategy = Strategy::Dag;
    request.tasks = tasks;
}

fn kind_and_field<T: std::fmt::Debug>(answer: Result<T>) -> (ErrorKind, Option<String>) {
    let err: Error = answer.unwrap_err();
    (err.kind(), err.field().map(str::to_owned))
}

type Change = fn(&mut CreateSwarm);

/// What is wrong with a swarm, and the field that must be named.
const WRONG_SWARMS: &[(&str, Change)] = &[
    ("name", |r| r.name.clear()),
    ("name", |r| r.name = " \n".to_owned()),
    ("name", |r| r.name = "é".repeat(NAME_MAX + 1)),
    ("task", |r| r.task.clear()),
    ("task", |r| r.task = "x".repeat(TEXT_MAX + 1)),
    ("initialAgents", |r| r.initial_agents = 0),
    ("initialAgents", |r| r.initial_agents = 101),
    ("project", |r| r.project = Some(String::new())),
    ("parts[1]", |r| {
        r.parts = vec!["a".to_owned(), " ".to_owned()];
    }),
    ("parts", |r| r.parts = vec!["a".to_owned(); 1_001]),
    ("parts", |r| {
        r.strategy = Strategy::Tree;
        r.parts = vec!["a".to_owned()];
    }),
    ("tasks", |r| r.tasks = vec![spec("a", &[])]),
    ("tasks", |r| dag(r, Vec::new())),
    ("tasks", |r| {
        dag(r, vec![spec("a", &["b"]), spec("b", &["a"])]);
    }),
    ("tasks", |r| dag(r, vec![spec("a", &["a"])])),
    ("tasks[0].dependsOn", |r| dag(r, vec![spec("a", &["gone"])])),
    ("tasks[1]", |r| dag(r, vec![spec("a", &[]), spec("a", &[])])),
    ("tasks[0]", |r| dag(r, vec![spec("", &[])])),
    ("tasks[0].prompt", |r| {
        dag(
            r,
            vec![TaskSpec {
                prompt: String::new(),
                ..spec("a", &[])
            }],
        );
    }),
    ("config.model", |r| r.config.model = "unheard-of".to_owned()),
    ("config.timeoutMs", |r| r.config.timeout_ms = 999),
    ("config.maxRetries", |r| r.config.max_retries = 11),
    ("config.maxTurns", |r| r.config.max_turns = 0),
    ("config.treeDepthMax", |r| r.config.tree_depth_max = 9),
    ("config.treeFanoutMax", |r| r.config.tree_fanout_max = 0),
    ("config.instructions", |r| {
        r.config.instructions = "x".repeat(100_001);
    }),
    ("config.failurePolicy", |r| {
        r.config.failure_policy = FailurePolicy::Quorum(0);
    }),
    ("config.tools", |r| {
        r.config.tools = Some(vec!["unheard-of".to_owned()]);
    }),
    ("config.workspace", |r| {
        r.config.workspace = vec![WorkspaceRoot {
            name: ".".to_owned(),
            path: "/does/not/exist".into(),
            writable: false,
        }];
    }),
    ("budget.allocated", |r| {
        r.budget = Some(BudgetRequest::usd(NanoUsd(-1)));
    }),
    ("budget.allocated", |r| {
        r.budget = Some(BudgetRequest::usd(NanoUsd(i64::MAX)));
    }),
    ("budget.allocated", |r| {
        r.budget = Some(BudgetRequest::tokens(u64::MAX));
    }),
    ("budget.thresholds.warning", |r| {
        let levels = Thresholds {
            warning: 0,
            ..Thresholds::default()
        };
        r.budget = Some(BudgetRequest::usd(NanoUsd(1)).with_thresholds(levels));
    }),
    ("budget.thresholds", |r| {
        let levels = Thresholds {
            warning: 95,
            ..Thresholds::default()
        };
        r.budget = Some(BudgetRequest::usd(NanoUsd(1)).with_thresholds(levels));
    }),
];

#[tokio::test]
async fn a_swarm_that_breaks_a_rule_is_refused_by_its_field_and_leaves_no_trace() {
    let engine = idle().await;
    let head = engine.head_seq().await.unwrap();
    for (field, change) in WRONG_SWARMS {
        let mut request = create("go", 1);
        change(&mut request);
        let found = kind_and_field(engine.create_swarm(request).await);
        assert_eq!(found, (ErrorKind::Invalid, Some((*field).to_owned())));
    }
    assert!("round-robin".parse::<Strategy>().is_err());
    assert_eq!(engine.head_seq().await.unwrap(), head);
    audit(&engine).await;
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let engine = idle().await;
    let head = engine.head_seq().await.unwrap();
    let (swarm, agent, task) = (
        SwarmId::from_u128(1),
        AgentId::from_u128(2),
        TaskId::from_u128(3),
    );
    let key = StepKey::Tool { turn: 1, index: 0 };
    let create = CreateTask {
        swarm_id: swarm,
        key: "k".to_owned(),
        prompt: "p".to_owned(),
        depends_on: Vec::new(),
        budget: None,
    };
    let kinds = [
        engine.get_swarm(swarm).await.map(drop),
        engine.pause_swarm(swarm).await.map(drop),
        engine.resume_swarm(swarm).await.map(drop),
        engine.scale_swarm(swarm, 2).await.map(drop),
        engine.destroy_swarm(swarm).await.map(drop),
        engine.wait_swarm(swarm).await.map(drop),
        engine.get_agent(agent).await.map(drop),
        engine.pause_agent(agent).await.map(drop),
        engine.resume_agent(agent).await.map(drop),
        engine.kill_agent(agent).await.map(drop),
        engine.retry_agent(agent).await.map(drop),
        engine.steer(agent, "hi").await.map(drop),
        engine.follow_up(agent, "hi").await.map(drop),
        engine.list_entries(agent, 1).await.map(drop),
        engine
            .resolve_step(agent, key, Resolution::Skip)
            .await
            .map(drop),
        engine
            .spawn_agent(SpawnAgent::new(swarm, "n", "t"))
            .await
            .map(drop),
        engine.create_task(create).await.map(drop),
        engine.get_task(task).await.map(drop),
        engine.assign_task(task, agent).await.map(drop),
        engine.complete_task(task, "x").await.map(drop),
        engine.cancel_task(task).await.map(drop),
        engine.get_budget(BudgetOwner::Swarm(swarm)).await.map(drop),
        engine.get_budget(BudgetOwner::Agent(agent)).await.map(drop),
        engine.get_budget(BudgetOwner::Task(task)).await.map(drop),
        engine
            .get_budget(BudgetOwner::Project("p".to_owned()))
            .await
            .map(drop),
        engine
            .allocate(BudgetOwner::Swarm(swarm), Some(1))
            .await
            .map(drop),
    ];
    for (i, answer) in kinds.into_iter().enumerate() {
        assert_eq!(
            answer.unwrap_err().kind(),
            ErrorKind::NotFound,
            "number {i}"
        );
    }
    assert_eq!(engine.head_seq().await.unwrap(), head);
}

#[tokio::test]
async fn what_clashes_or_is_too_much_is_refused_and_leaves_no_trace() {
    let mut setup = Setup::new(|_| ScriptedReply::new().hanging());
    (
        setup.settings.agents_per_swarm_max,
        setup.settings.agents_total_max,
    ) = (2, 3);
    let engine = setup.start().await;
    let mut request = create("go", 2);
    request.id = Some(SwarmId::from_u128(7));
    let swarm = engine.create_swarm(request.clone()).await.unwrap();
    engine.desk.wait_for_calls(2).await;
    let head = engine.head_seq().await.unwrap();
    let agent = engine.agents(swarm.id).await.remove(0);
    let task = engine.task(swarm.id, "work/1").await;
    let new_task = |key: &str, depends_on: Vec<TaskId>| CreateTask {
        swarm_id: swarm.id,
        key: key.to_owned(),
        prompt: "p".to_owned(),
        depends_on,
        budget: None,
    };
    let mut no_name = SpawnAgent::new(swarm.id, "", "t");
    let field = |name: &str| Some(name.to_owned());
    let unknown = vec![TaskId::from_u128(9)];
    let owner = BudgetOwner::Swarm(swarm.id);
    let found = [
        kind_and_field(engine.create_swarm(request).await),
        kind_and_field(engine.create_swarm(create("go", 2)).await),
        kind_and_field(engine.scale_swarm(swarm.id, 0).await),
        kind_and_field(engine.scale_swarm(swarm.id, 3).await),
        kind_and_field(
            engine
                .spawn_agent(SpawnAgent::new(swarm.id, "n", "t"))
                .await,
        ),
        kind_and_field(engine.spawn_agent(no_name.clone()).await),
        kind_and_field(engine.create_task(new_task("work/1", Vec::new())).await),
        kind_and_field(engine.create_task(new_task("k", unknown)).await),
        kind_and_field(engine.create_task(new_task("", Vec::new())).await),
        kind_and_field(engine.complete_task(task.id, "x").await),
        kind_and_field(engine.assign_task(task.id, agent.id).await),
        kind_and_field(engine.retry_agent(agent.id).await),
        kind_and_field(engine.steer(agent.id, " ").await),
        kind_and_field(engine.steer(agent.id, "x".repeat(TEXT_MAX + 1)).await),
        kind_and_field(engine.allocate(owner.clone(), Some(-1)).await),
        kind_and_field(engine.allocate(owner, Some(i64::MAX)).await),
    ];
    let expected = [
        (ErrorKind::Conflict, None),
        (ErrorKind::RateLimited, None),
        (ErrorKind::Invalid, field("agents")),
        (ErrorKind::Invalid, field("agents")),
        (ErrorKind::RateLimited, None),
        (ErrorKind::Invalid, field("name")),
        (ErrorKind::Conflict, None),
        (ErrorKind::Invalid, field("dependsOn")),
        (ErrorKind::Invalid, field("key")),
        (ErrorKind::Conflict, None),
        (ErrorKind::Conflict, None),
        (ErrorKind::Conflict, None),
        (ErrorKind::Invalid, field("text")),
        (ErrorKind::Invalid, field("text")),
        (ErrorKind::Invalid, field("budget.allocated")),
        (ErrorKind::Invalid, field("budget.allocated")),
    ];
    assert_eq!(found, expected);
    no_name.name = "n".to_owned();
    no_name.model = Some("unheard-of".to_owned());
    let found = kind_and_field(engine.spawn_agent(no_name).await);
    assert_eq!(found, (ErrorKind::Invalid, field("model")));
    assert_eq!(engine.head_seq().await.unwrap(), head);
    engine.destroy_swarm(swarm.id).await.unwrap();
    audit(&engine).await;
}
