//! Bad requests: each gets its kind and field, and leaves no trace. And lists, page by page.

use dash::api::{
    BudgetOwner, BudgetRequest, CreateSwarm, CreateTask, NAME_MAX, Resolution, SpawnAgent,
    TEXT_MAX, TaskSpec,
};
use dash::ids::{AgentId, SwarmId, TaskId};
use dash::llm::ScriptedReply;
use dash::model::swarm::WorkspaceRoot;
use dash::model::{FailurePolicy, NanoUsd, StepKey, Strategy, Usage};
use dash::store::{AgentFilter, EventFilter, Page, TaskFilter};
use dash::{Error, ErrorKind, Settings};
use dash_tests::{Setup, audit, create, within};
use pretty_assertions::assert_eq;

fn done() -> Setup {
    Setup::new(|_| ScriptedReply::text("done"))
}

fn with(change: impl FnOnce(&mut CreateSwarm)) -> CreateSwarm {
    let mut request = create("go", 1);
    change(&mut request);
    request
}

fn spec(key: &str, depends_on: &[&str]) -> TaskSpec {
    TaskSpec {
        key: key.to_owned(),
        prompt: "x".to_owned(),
        depends_on: depends_on.iter().map(|s| (*s).to_owned()).collect(),
    }
}

fn dag(tasks: Vec<TaskSpec>) -> CreateSwarm {
    with(|r| (r.strategy, r.tasks) = (Strategy::Dag, tasks))
}

/// Requests for a swarm that break one rule each, and the field that is named.
fn bad_swarms() -> Vec<(&'static str, CreateSwarm)> {
    let budget = |cap: i64| Some(BudgetRequest::usd(NanoUsd(cap)));
    let root = |name: &str, path: &str| WorkspaceRoot {
        name: name.to_owned(),
        path: path.into(),
        writable: false,
    };
    vec![
        ("name", with(|r| r.name = String::new())),
        ("name", with(|r| r.name = " ".to_owned())),
        ("name", with(|r| r.name = "é".repeat(NAME_MAX + 1))),
        ("task", with(|r| r.task = String::new())),
        ("task", with(|r| r.task = "x".repeat(TEXT_MAX + 1))),
        ("project", with(|r| r.project = Some(String::new()))),
        ("initialAgents", with(|r| r.initial_agents = 0)),
        ("initialAgents", with(|r| r.initial_agents = 101)),
        (
            "config.model",
            with(|r| r.config.model = "gpt-0".to_owned()),
        ),
        ("config.timeoutMs", with(|r| r.config.timeout_ms = 0)),
        ("config.maxRetries", with(|r| r.config.max_retries = 11)),
        ("config.maxTurns", with(|r| r.config.max_turns = 0)),
        (
            "config.tools",
            with(|r| r.config.tools = Some(vec!["fly".to_owned()])),
        ),
        (
            "config.failurePolicy",
            with(|r| r.config.failure_policy = FailurePolicy::Quorum(0)),
        ),
        (
            "config.workspace",
            with(|r| r.config.workspace = vec![root("w", "/does/not/exist")]),
        ),
        (
            "config.workspace",
            with(|r| r.config.workspace = vec![root("w", "/"), root("w", "/")]),
        ),
        ("budget.allocated", with(|r| r.budget = budget(-1))),
        ("budget.allocated", with(|r| r.budget = budget(i64::MAX))),
        (
            "budget.thresholds",
            with(|r| {
                r.budget = budget(1);
                r.budget.as_mut().unwrap().thresholds.warning = 95;
            }),
        ),
        (
            "parts[1]",
            with(|r| r.parts = vec!["a".to_owned(), String::new()]),
        ),
        ("tasks", with(|r| r.tasks = vec![spec("a", &[])])),
        ("tasks", dag(Vec::new())),
        ("tasks", dag(vec![spec("a", &["b"]), spec("b", &["a"])])),
        ("tasks[0].dependsOn", dag(vec![spec("a", &["ghost"])])),
        ("tasks[1]", dag(vec![spec("a", &[]), spec("a", &[])])),
        ("tasks[0]", dag(vec![spec("", &[])])),
    ]
}

#[tokio::test]
async fn a_bad_swarm_is_refused_by_field_and_leaves_no_trace() {
    let engine = done().start().await;
    let head = engine.head_seq().await.unwrap();
    for (field, request) in bad_swarms() {
        let err = engine.create_swarm(request.clone()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Invalid, "{request:?}");
        assert_eq!(err.field(), Some(field), "{err}");
    }
    assert_eq!(engine.head_seq().await.unwrap(), head);
    let filter = dash::store::SwarmFilter::default();
    let swarms = engine.list_swarms(&filter, Page::first(10)).await.unwrap();
    assert_eq!(swarms.items, []);
}

#[tokio::test]
async fn an_unknown_strategy_or_amount_is_refused_where_it_is_read() {
    let err = "swirl".parse::<Strategy>().unwrap_err();
    assert_eq!(
        (err.kind(), err.field()),
        (ErrorKind::Invalid, Some("strategy"))
    );
    let json = r#"{"name":"n","task":"t","strategy":"swirl"}"#;
    assert!(serde_json::from_str::<CreateSwarm>(json).is_err());
    for text in ["-", "1e9", "0.0000000001", "99999999999"] {
        assert_eq!(
            text.parse::<NanoUsd>().unwrap_err().field(),
            Some("amount"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn an_id_that_is_taken_is_a_conflict_even_after_its_swarm_has_ended() {
    let engine = done().start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    within("the end", engine.wait_swarm(swarm.id))
        .await
        .unwrap();
    let again = engine
        .create_swarm(with(|r| r.id = Some(swarm.id)))
        .await
        .unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    audit(&engine).await;
}

fn kind<T: std::fmt::Debug>(answer: Result<T, Error>) -> ErrorKind {
    answer.unwrap_err().kind()
}

#[tokio::test]
async fn every_verb_on_an_unknown_id_is_not_found_and_leaves_no_trace() {
    let engine = done().start().await;
    let head = engine.head_seq().await.unwrap();
    let (swarm, agent) = (SwarmId::from_u128(1), AgentId::from_u128(2));
    let (task, key) = (TaskId::from_u128(3), StepKey::Tool { turn: 1, index: 0 });
    let new_task = CreateTask {
        swarm_id: swarm,
        key: "k".to_owned(),
        prompt: "p".to_owned(),
        depends_on: Vec::new(),
        budget: None,
    };
    let kinds = [
        kind(engine.get_swarm(swarm).await),
        kind(engine.pause_swarm(swarm).await),
        kind(engine.resume_swarm(swarm).await),
        kind(engine.scale_swarm(swarm, 2).await),
        kind(engine.destroy_swarm(swarm).await),
        kind(engine.wait_swarm(swarm).await),
        kind(engine.spawn_agent(SpawnAgent::new(swarm, "n", "t")).await),
        kind(engine.get_agent(agent).await),
        kind(engine.pause_agent(agent).await),
        kind(engine.resume_agent(agent).await),
        kind(engine.kill_agent(agent).await),
        kind(engine.retry_agent(agent).await),
        kind(engine.steer(agent, "x").await),
        kind(engine.follow_up(agent, "x").await),
        kind(engine.list_entries(agent, 10).await),
        kind(engine.resolve_step(agent, key, Resolution::Retry).await),
        kind(engine.reconcile(agent, key, Usage::default()).await),
        kind(engine.create_task(new_task).await),
        kind(engine.get_task(task).await),
        kind(engine.assign_task(task, agent).await),
        kind(engine.complete_task(task, "x").await),
        kind(engine.cancel_task(task).await),
        kind(engine.get_budget(BudgetOwner::Swarm(swarm)).await),
        kind(engine.get_budget(BudgetOwner::Agent(agent)).await),
        kind(
            engine
                .get_budget(BudgetOwner::Project("ghost".to_owned()))
                .await,
        ),
        kind(engine.allocate(BudgetOwner::Task(task), Some(1)).await),
    ];
    assert_eq!(kinds, [ErrorKind::NotFound; 26]);
    assert_eq!(engine.head_seq().await.unwrap(), head);
}

#[tokio::test]
async fn requests_on_a_living_swarm_are_checked_too() {
    let engine = Setup::new(|_| ScriptedReply::text("x").hanging())
        .start()
        .await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    let task = engine
        .list_tasks(&TaskFilter::default(), Page::first(10))
        .await
        .unwrap()
        .items
        .remove(0);
    let agent = engine
        .list_agents(&AgentFilter::default(), Page::first(10))
        .await
        .unwrap()
        .items
        .remove(0);
    let new = |key: &str, depends_on: Vec<TaskId>| CreateTask {
        swarm_id: swarm.id,
        key: key.to_owned(),
        prompt: "p".to_owned(),
        depends_on,
        budget: None,
    };
    let ghost = TaskId::from_u128(9);
    let fields = [
        engine.scale_swarm(swarm.id, 0).await.unwrap_err(),
        engine.scale_swarm(swarm.id, 101).await.unwrap_err(),
        engine.steer(agent.id, " ").await.unwrap_err(),
        engine.create_task(new("", Vec::new())).await.unwrap_err(),
        engine.create_task(new("k", vec![ghost])).await.unwrap_err(),
        engine
            .spawn_agent(SpawnAgent::new(swarm.id, "", "t"))
            .await
            .unwrap_err(),
        engine
            .spawn_agent(SpawnAgent::new(swarm.id, "n", ""))
            .await
            .unwrap_err(),
        engine
            .allocate(BudgetOwner::Swarm(swarm.id), Some(-1))
            .await
            .unwrap_err(),
    ];
    let fields: Vec<&str> = fields
        .iter()
        .map(|err| err.field().unwrap_or("?"))
        .collect();
    let expected = [
        "agents",
        "agents",
        "text",
        "key",
        "dependsOn",
        "name",
        "task",
        "budget.allocated",
    ];
    assert_eq!(fields, expected);
    let conflicts = [
        kind(engine.create_task(new(&task.key, Vec::new())).await),
        kind(engine.retry_agent(agent.id).await),
        kind(
            engine
                .resume_agent(agent.id)
                .await
                .and_then(|_| engine_conflict()),
        ),
        kind(engine.complete_task(task.id, "x").await),
        kind(engine.assign_task(task.id, agent.id).await),
    ];
    assert_eq!(conflicts, [ErrorKind::Conflict; 5]);
    engine.destroy_swarm(swarm.id).await.unwrap();
    let late = [
        kind(engine.pause_swarm(swarm.id).await),
        kind(engine.scale_swarm(swarm.id, 2).await),
        kind(
            engine
                .spawn_agent(SpawnAgent::new(swarm.id, "n", "t"))
                .await,
        ),
        kind(engine.create_task(new("k", Vec::new())).await),
        kind(engine.steer(agent.id, "x").await),
        kind(engine.pause_agent(agent.id).await),
    ];
    assert_eq!(late, [ErrorKind::Conflict; 6]);
    audit(&engine).await;
}

/// Resuming an agent that runs does nothing, which is no error; the table above wants one.
fn engine_conflict() -> Result<(), Error> {
    Err(Error::conflict("resuming what runs does nothing"))
}

#[tokio::test]
async fn more_agents_than_the_settings_allow_are_refused() {
    let mut setup = Setup::new(|_| ScriptedReply::text("x").hanging());
    (
        setup.settings.agents_per_swarm_max,
        setup.settings.agents_total_max,
    ) = (2, 3);
    let engine = setup.start().await;
    let swarm = engine.create_swarm(create("go", 2)).await.unwrap();
    let other = engine.create_swarm(create("go", 2)).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::RateLimited);
    assert!(other.to_string().contains("agentsTotalMax"), "{other}");
    let third = engine
        .spawn_agent(SpawnAgent::new(swarm.id, "n", "t"))
        .await
        .unwrap_err();
    assert_eq!(third.kind(), ErrorKind::RateLimited);
    assert!(third.to_string().contains("agentsPerSwarmMax"), "{third}");
    engine.destroy_swarm(swarm.id).await.unwrap();
    engine.create_swarm(create("go", 2)).await.unwrap();
}

#[tokio::test]
async fn settings_and_components_are_checked_at_the_start() {
    let builder = || {
        let store = std::sync::Arc::new(dash::store::MemoryStore::new());
        dash::Orchestrator::builder(store)
    };
    let mut settings = Settings::default();
    settings.tools_parallel_max = 65;
    let err = builder().settings(settings).start().await.unwrap_err();
    assert_eq!(err.field(), Some("toolsParallelMax"));
    let orphan = dash::llm::Model::free("m", "nobody");
    assert_eq!(
        builder()
            .add_model(orphan)
            .start()
            .await
            .unwrap_err()
            .field(),
        Some("model")
    );
    let engine = builder().start().await.unwrap();
    let err = engine.create_swarm(create("go", 1)).await.unwrap_err();
    assert_eq!(err.field(), Some("config.model"));
}

#[tokio::test]
async fn lists_are_walked_page_by_page() {
    let engine = done().start().await;
    let request =
        with(|r| (r.initial_agents, r.parts) = (3, (1..=7).map(|n| n.to_string()).collect()));
    let swarm = engine.create_swarm(request).await.unwrap();
    within("the end", engine.wait_swarm(swarm.id))
        .await
        .unwrap();
    let filter = AgentFilter {
        swarm_id: Some(swarm.id),
        ..AgentFilter::default()
    };
    let (mut ids, mut page, mut pages) = (Vec::new(), Page::first(3), 0);
    loop {
        let listed = engine.list_agents(&filter, page).await.unwrap();
        ids.extend(listed.items.iter().map(|a| a.id));
        pages += 1;
        let Some(next) = listed.next else { break };
        page.after = Some(next);
    }
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!((ids.len(), pages), (7, 3));
    assert_eq!(ids, sorted);
    let entries = engine.list_entries(ids[0], 100).await.unwrap();
    assert_eq!(entries.len(), 2, "the task and the answer");
    let started = EventFilter {
        types: vec!["agent.started".to_owned()],
        ..EventFilter::default()
    };
    assert_eq!(engine.list_events(&started, 0, 100).await.unwrap().len(), 7);
}
