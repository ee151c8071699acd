//! Requests on living and ended swarms, limits, settings, and lists page by page.

use dash::api::{BudgetOwner, CreateSwarm, CreateTask, SpawnAgent};
use dash::ids::TaskId;
use dash::llm::ScriptedReply;
use dash::model::{NanoUsd, Strategy};
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
    audit(&engine).await;
}

#[tokio::test]
async fn what_has_ended_takes_no_requests() {
    let engine = done().start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    let filter = AgentFilter::default();
    let listed = engine.list_agents(&filter, Page::first(1)).await.unwrap();
    let agent = listed.items.into_iter().next().unwrap();
    let task = CreateTask {
        swarm_id: swarm.id,
        key: "k".to_owned(),
        prompt: "p".to_owned(),
        depends_on: Vec::new(),
        budget: None,
    };
    engine.destroy_swarm(swarm.id).await.unwrap();
    let late = [
        kind(engine.pause_swarm(swarm.id).await),
        kind(engine.scale_swarm(swarm.id, 2).await),
        kind(
            engine
                .spawn_agent(SpawnAgent::new(swarm.id, "n", "t"))
                .await,
        ),
        kind(engine.create_task(task).await),
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
