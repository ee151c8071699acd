//! An engine that dies at any commit, and the one that goes on after it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use dash::api::{CreateSwarm, Resolution};
use dash::event::EventKind;
use dash::ids::SwarmId;
use dash::llm::{LlmError, LlmErrorKind, LlmRequest, ScriptedReply};
use dash::model::{
    AgentProfile, ReservationState, SideEffect, StepState, Strategy, SwarmStatus, TaskStatus,
};
use dash::store::{EventFilter, Page, ReservationFilter, StepFilter, Store};
use dash::testing::FaultyStore;
use dash::testing::faulty_store::Fault;
use dash_tests::{
    Door, Engine, Setup, audit, create, is_summary, priced, results, shared, task_of, texts, turn,
    turn_number, within,
};
use pretty_assertions::assert_eq;
use serde_json::json;

pub(crate) const SWARM: SwarmId = SwarmId::from_u128(7);

/// A tool of every class.
#[derive(Clone)]
pub(crate) struct Doors(pub(crate) Vec<Arc<Door>>);

impl Doors {
    fn new() -> Self {
        let names = SideEffect::ALL.map(|class| Door::new(class.as_str(), class));
        Self(names.into())
    }

    /// Every call so far: key and try, per tool.
    fn calls(&self) -> Vec<(String, u32)> {
        let all = self.0.iter().flat_map(|door| door.calls());
        all.map(|call| (call.key, call.try_number)).collect()
    }

    fn once(&self) -> Vec<String> {
        self.0[3].calls().into_iter().map(|call| call.key).collect()
    }
}

/// Calls a tool of every class, then ends. The first attempt of a `flaky` task fails.
fn worker(request: &LlmRequest) -> ScriptedReply {
    if task_of(request).contains("flaky") && request.idempotency_key.ends_with("t1/m") {
        let used = dash::model::Usage {
            input: 5,
            output: 1,
            ..Default::default()
        };
        return ScriptedReply::failure(LlmError {
            billing: dash::llm::Billing::Known(used),
            ..LlmError::unbilled(LlmErrorKind::Server, "down")
        });
    }
    match turn(request) {
        0 => SideEffect::ALL
            .iter()
            .fold(ScriptedReply::new(), |reply, class| {
                reply.add_tool_call(class.as_str(), json!({}))
            }),
        _ => ScriptedReply::text("end"),
    }
}

/// A root that delegates to two workers.
fn root(request: &LlmRequest) -> ScriptedReply {
    match (task_of(request).as_str(), turn(request)) {
        ("root", 0) => ScriptedReply::tool_call("delegate", json!({"name": "a", "task": "a"}))
            .add_tool_call("delegate", json!({"name": "b", "task": "b"})),
        ("root", _) => ScriptedReply::text(
            results(request)
                .into_iter()
                .map(|r| r.1)
                .collect::<Vec<_>>()
                .join("+"),
        ),
        _ => worker(request),
    }
}

/// Waits until nothing of an engine is left: no task of it holds its store any more.
pub(crate) async fn gone(store: &Weak<FaultyStore>) {
    within("the end of all tasks", async {
        while store.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn open_doubts(engine: &Engine) -> Vec<dash::model::Step> {
    let filter = StepFilter {
        agent_id: None,
        states: vec![StepState::InDoubt],
    };
    engine
        .store
        .list_steps(&filter, Page::first(100))
        .await
        .unwrap()
}

/// What a life of the engine has done for good: keys of finished model calls and tool calls.
async fn finished(store: &dyn Store) -> HashSet<String> {
    let filter = EventFilter::default();
    let events = store.list_events(&filter, 0, 1_000).await.unwrap();
    let key = |kind: &EventKind| match kind {
        EventKind::AgentTurn(e) => Some(format!("{}/{}", e.agent_id, e.step)),
        EventKind::AgentCompacted(e) => Some(format!("{}/{}", e.agent_id, e.step)),
        EventKind::BranchSummarised(e) => Some(format!("{}/{}", e.agent_id, e.step)),
        EventKind::ToolCompleted(e) => Some(format!("{}/{}", e.agent_id, e.step)),
        _ => None,
    };
    events.iter().filter_map(|e| key(&e.kind)).collect()
}

/// Reservations whose call's outcome was lost, or will turn out to be.
async fn charged_in_doubt(store: &dyn Store) -> usize {
    let filter = ReservationFilter {
        agent_id: None,
        states: vec![ReservationState::Held, ReservationState::Uncertain],
    };
    let page = Page::first(100);
    store.list_reservations(&filter, page).await.unwrap().len()
}

/// What the first life of an engine has done and left behind.
struct Before {
    models: usize,
    tools: HashSet<(String, u32)>,
    once: HashSet<String>,
    done: HashSet<String>,
    charged: usize,
}

impl Before {
    async fn of(setup: &Setup, doors: &Doors) -> Self {
        Self {
            models: setup.desk.calls(),
            tools: doors.calls().into_iter().collect(),
            once: doors.once().into_iter().collect(),
            done: finished(setup.store.as_ref()).await,
            charged: charged_in_doubt(setup.store.as_ref()).await,
        }
    }
}

/// The engine's first life, whose `nth` commit fails. False if there was no such commit.
async fn first_life(nth: u64, fault: Fault, setup: &Setup, request: &CreateSwarm) -> bool {
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    faulty.fail_at(nth, fault);
    let left = Arc::downgrade(&faulty);
    if let Ok(engine) = setup.clone().on(shared(&faulty)).try_start().await {
        if engine.create_swarm(request.clone()).await.is_ok() {
            drop(within("an end", engine.wait_swarm(SWARM)).await);
        }
        if faulty.commits() < nth {
            let doubts = open_doubts(&engine).await;
            assert!(doubts.is_empty(), "{doubts:?}");
            audit(&engine).await;
            return false;
        }
    }
    drop(faulty);
    gone(&left).await;
    true
}

/// Its second life, on what the first has stored. Returns the calls that shall run again.
async fn second_life(
    engine: &Engine,
    setup: &Setup,
    request: &CreateSwarm,
    first: usize,
) -> HashSet<String> {
    if setup.store.find_swarm(SWARM).await.unwrap().is_none() {
        engine.create_swarm(request.clone()).await.unwrap();
    }
    let mut again = HashSet::new();
    for (i, step) in open_doubts(engine).await.into_iter().enumerate() {
        let found = (step.side_effect, step.name.as_str());
        assert_eq!(found, (SideEffect::Once, "once"));
        let resolution = match (first + i) % 3 {
            0 => Resolution::Skip,
            1 => Resolution::Result {
                text: "it was done".to_owned(),
            },
            _ => Resolution::Retry,
        };
        if resolution == Resolution::Retry {
            again.insert(step.idempotency_key());
        }
        engine
            .resolve_step(step.agent_id, step.key, resolution)
            .await
            .unwrap();
    }
    let swarm = engine.finish(SWARM).await;
    assert_eq!(swarm.status, SwarmStatus::Completed, "{:?}", swarm.error);
    audit(engine).await;
    again
}

/// Nothing that was done is done again, and nothing that was charged is forgotten.
async fn compare(before: &Before, setup: &Setup, doors: &Doors, again: &HashSet<String>) {
    for request in &setup.desk.requests()[before.models..] {
        assert!(
            !before.done.contains(&request.idempotency_key),
            "asked twice"
        );
    }
    let mut last_try = HashMap::new();
    for (key, try_number) in doors.calls() {
        let later = !before.tools.contains(&(key.clone(), try_number));
        assert!(!(later && before.done.contains(&key)), "{key} ran twice");
        let last = last_try.insert(key.clone(), try_number).unwrap_or_default();
        assert!(try_number > last, "try {try_number} of {key} after {last}");
    }
    let mut once = HashMap::new();
    for key in doors.once() {
        *once.entry(key).or_insert(0) += 1;
    }
    for (key, times) in once {
        let twice = again.contains(&key) && before.once.contains(&key);
        assert!(times == 1 || twice && times == 2, "{key} ran {times} times");
    }
    let charged = charged_in_doubt(setup.store.as_ref()).await;
    assert_eq!(charged, before.charged);
}

async fn dies_everywhere(script: fn(&LlmRequest) -> ScriptedReply, request: CreateSwarm) {
    dies_everywhere_with(script, request, |_| {}).await;
}

async fn dies_everywhere_with(
    script: fn(&LlmRequest) -> ScriptedReply,
    request: CreateSwarm,
    prepare: fn(&mut Setup),
) {
    dies_everywhere_and(script, request, prepare, async |_, _| {}).await;
}

/// The same, with a look at what there is in the end.
pub(crate) async fn dies_everywhere_and(
    script: fn(&LlmRequest) -> ScriptedReply,
    mut request: CreateSwarm,
    prepare: fn(&mut Setup),
    look: impl AsyncFn(&Engine, &Doors),
) {
    request.id = Some(SWARM);
    request.config.max_retries = 2;
    for fault in [Fault::IoBefore, Fault::IoAfter] {
        let mut commits = 0;
        loop {
            let doors = Doors::new();
            let mut setup = Setup::new(script).priced();
            prepare(&mut setup);
            let setup = doors.0.iter().fold(setup, Setup::door);
            if !first_life(commits + 1, fault, &setup, &request).await {
                break;
            }
            commits += 1;
            // Shown if one of the assertions that follow fails.
            println!("{fault:?} at commit {commits}");
            let before = Before::of(&setup, &doors).await;
            let engine = setup.start().await;
            let nth = usize::try_from(commits).unwrap();
            let again = second_life(&engine, &setup, &request, nth).await;
            compare(&before, &setup, &doors, &again).await;
            look(&engine, &doors).await;
        }
        assert!(commits > 5, "only {commits} commits");
    }
}

#[tokio::test]
async fn a_parallel_swarm_survives_a_death_at_every_commit() {
    dies_everywhere(worker, create("work", 2)).await;
}

#[tokio::test]
async fn a_tree_survives_a_death_at_every_commit() {
    let mut request = create("root", 1);
    request.strategy = Strategy::Tree;
    dies_everywhere(root, request).await;
}

#[tokio::test]
async fn a_pipeline_with_retries_survives_a_death_at_every_commit() {
    let mut request = create("go", 1);
    request.strategy = Strategy::Pipeline;
    request.parts = vec!["one".to_owned(), "flaky".to_owned()];
    dies_everywhere(worker, request).await;
}

#[tokio::test]
async fn a_planned_swarm_survives_a_death_at_every_commit() {
    fn script(request: &LlmRequest) -> ScriptedReply {
        if task_of(request).contains("Answer with JSON only") {
            return ScriptedReply::text("{\"parts\": [\"flaky\", \"y\"]}");
        }
        worker(request)
    }
    let mut request = create("sum", 2);
    request.strategy = Strategy::MapReduce;
    dies_everywhere(script, request).await;
}

/// Works for six turns with a tool that says much, in a window that holds about three of them.
fn talkative(request: &LlmRequest) -> ScriptedReply {
    if is_summary(request) {
        return ScriptedReply::text(format!("summary in turn {}", turn_number(request)));
    }
    match turn_number(request) {
        1..8 => ScriptedReply::tool_call("pure", json!({"pad": "x".repeat(1_500)})),
        _ => ScriptedReply::text("end"),
    }
}

#[tokio::test]
async fn a_swarm_that_sums_up_survives_a_death_at_every_commit() {
    dies_everywhere_with(talkative, create("go", 1), |setup| {
        setup.model.context_window = 2_048;
    })
    .await;
}

#[tokio::test]
async fn a_swarm_that_outgrows_an_unknown_window_survives_a_death_at_every_commit() {
    fn script(request: &LlmRequest) -> ScriptedReply {
        let chars: usize = texts(request).iter().map(|text| text.len()).sum();
        let said = request.messages.len();
        if !is_summary(request) && said > 5 && chars < 100_000 {
            let error = LlmError::unbilled(LlmErrorKind::ContextOverflow, "prompt is too long");
            return ScriptedReply::failure(error);
        }
        talkative(request)
    }
    dies_everywhere_with(script, create("go", 1), |_| {}).await;
}

#[tokio::test]
async fn a_swarm_whose_models_fail_survives_a_death_at_every_commit() {
    fn script(request: &LlmRequest) -> ScriptedReply {
        if request.model.id == "m" && turn_number(request) > 1 {
            let error = LlmError::unbilled(LlmErrorKind::Server, "down");
            return ScriptedReply::failure(error);
        }
        worker(request)
    }
    let mut request = create("go", 1);
    request.config.escalation = vec!["better".to_owned()];
    dies_everywhere_with(script, request, |setup| {
        let mut better = priced();
        better.id = "better".to_owned();
        *setup = setup.clone().also(better);
    })
    .await;
}

#[tokio::test]
async fn a_swarm_with_a_schema_and_profiles_survives_a_death_at_every_commit() {
    fn script(request: &LlmRequest) -> ScriptedReply {
        match (task_of(request).as_str(), turn(request)) {
            ("review", 0) => ScriptedReply::tool_call("idempotent", json!({})),
            ("review", _) => ScriptedReply::text("fine"),
            (_, 0) => ScriptedReply::tool_call("reviewer", json!({"task": "review"})),
            (_, 1) => ScriptedReply::text("not what was asked for"),
            _ => ScriptedReply::text(json!({"verdict": results(request)[0].1}).to_string()),
        }
    }
    let mut request = create("go", 1);
    request.config.answer_schema = Some(json!({
        "type": "object", "properties": {"verdict": {"type": "string"}}, "required": ["verdict"],
    }));
    request.config.profiles = vec![AgentProfile {
        name: "reviewer".to_owned(),
        description: "Reviews.".to_owned(),
        instructions: "You review.".to_owned(),
        model: String::new(),
        tools: None,
    }];
    dies_everywhere_with(script, request, |_| {}).await;
}

/// An engine that dies while its one agent is in the middle of a `once` tool; the next one.
async fn in_doubt(paused: bool) -> (Engine, Arc<Door>) {
    let door = Door::new("once", SideEffect::Once);
    door.close();
    let script = |request: &LlmRequest| match turn(request) {
        0 => ScriptedReply::tool_call("once", json!({})),
        _ => ScriptedReply::text(results(request)[0].1.clone()),
    };
    let setup = Setup::new(script).door(&door);
    let inner = Arc::clone(&setup.store);
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&inner)));
    let left = Arc::downgrade(&faulty);
    let engine = setup.clone().on(faulty).start().await;
    let mut request = create("go", 1);
    request.id = Some(SWARM);
    engine.create_swarm(request).await.unwrap();
    door.wait_for_calls(1).await;
    if paused {
        engine.pause_swarm(SWARM).await.unwrap();
    }
    drop(engine);
    gone(&left).await;
    door.open();
    (setup.start().await, door)
}

#[tokio::test]
async fn a_call_in_doubt_blocks_its_task_until_someone_decides() {
    for (resolution, told, calls) in [
        (Resolution::Retry, "done", 2),
        (Resolution::Skip, "The outcome of this call is unknown", 1),
        (
            Resolution::Result {
                text: "42".to_owned(),
            },
            "42",
            1,
        ),
    ] {
        let (engine, door) = in_doubt(false).await;
        assert_eq!(
            engine.task(SWARM, "work/1").await.status,
            TaskStatus::Blocked
        );
        let agent = engine.agent(SWARM).await;
        let err = engine.resume_agent(agent.id).await.unwrap_err();
        assert_eq!(err.kind(), dash::ErrorKind::Conflict);
        let step = open_doubts(&engine).await.remove(0);
        engine
            .resolve_step(agent.id, step.key, resolution.clone())
            .await
            .unwrap();
        let err = engine
            .resolve_step(agent.id, step.key, resolution)
            .await
            .unwrap_err();
        assert!(matches!(
            err.kind(),
            dash::ErrorKind::Conflict | dash::ErrorKind::NotFound
        ));
        let swarm = engine.finish(SWARM).await;
        assert!(
            swarm.result.as_ref().unwrap().starts_with(told),
            "{swarm:?}"
        );
        assert_eq!(door.calls().len(), calls);
        audit(&engine).await;
    }
}

#[tokio::test]
async fn a_paused_swarm_with_a_call_in_doubt_can_be_resumed() {
    let (engine, _door) = in_doubt(true).await;
    let swarm = engine.resume_swarm(SWARM).await.unwrap();
    assert_eq!(swarm.status, SwarmStatus::Active);
    let agent = engine.agent(SWARM).await;
    let reason = agent.pause_reason.unwrap();
    assert!(reason.contains("is unknown"), "{reason}");
    let step = open_doubts(&engine).await.remove(0);
    engine
        .resolve_step(agent.id, step.key, Resolution::Skip)
        .await
        .unwrap();
    assert_eq!(engine.finish(SWARM).await.status, SwarmStatus::Completed);
    audit(&engine).await;
}

#[tokio::test]
async fn a_call_in_doubt_that_is_resolved_in_a_paused_swarm_waits_for_the_swarm() {
    let (engine, _door) = in_doubt(true).await;
    let agent = engine.agent(SWARM).await;
    let step = open_doubts(&engine).await.remove(0);
    engine
        .resolve_step(agent.id, step.key, Resolution::Skip)
        .await
        .unwrap();
    assert_eq!(
        engine.agent(SWARM).await.status,
        dash::model::AgentStatus::Paused
    );
    engine.resume_swarm(SWARM).await.unwrap();
    assert_eq!(engine.finish(SWARM).await.status, SwarmStatus::Completed);
    audit(&engine).await;
}

#[tokio::test]
async fn an_engine_that_is_dropped_costs_its_agents_no_retry() {
    for committing in [false, true] {
        let setup = Setup::new(|_| ScriptedReply::text("end"));
        setup.desk.hold_after(0);
        let inner = Arc::clone(&setup.store);
        let faulty = Arc::new(FaultyStore::new(inner));
        let left = Arc::downgrade(&faulty);
        let engine = setup.clone().on(shared(&faulty)).start().await;
        let mut request = create("go", 3);
        request.id = Some(SWARM);
        engine.create_swarm(request).await.unwrap();
        engine.desk.wait_for_calls(3).await;
        if committing {
            // The engine is dropped while it writes: what its agents still say waits in its queue.
            faulty.hold();
            tokio::select! {
                _ = engine.pause_swarm(SWARM) => panic!("its commit is held"),
                () = faulty.wait_for_held(1) => {}
            }
        }
        drop(engine);
        setup.desk.wait_for_dropped(3).await;
        faulty.release();
        drop(faulty);
        gone(&left).await;
        setup.desk.release();
        let engine = setup.start().await;
        engine.resume_swarm(SWARM).await.unwrap();
        let swarm = engine.finish(SWARM).await;
        assert_eq!((swarm.status, swarm.error), (SwarmStatus::Completed, None));
        for agent in engine.agents(SWARM).await {
            assert_eq!((agent.attempt, agent.retry_count), (0, 0));
        }
        audit(&engine).await;
    }
}
