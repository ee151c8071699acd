//! An agent that is stopped after any event of its life.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use dash::event::{Event, EventKind};
use dash::ids::AgentId;
use dash::llm::{LlmRequest, ScriptedReply, ToolSpec};
use dash::model::{
    AgentProfile, AgentStatus, Entry, EntryBody, Message, SideEffect, StepKind, StepState,
    SwarmStatus, TicketState,
};
use dash::sink::EventSink;
use dash::store::{Page, TicketFilter};
use dash::testing::FaultyStore;
use dash::tool::{Tool, ToolContext, ToolError, ToolOutput};
use dash::{ErrorKind, api::CreateSwarm};
use dash_tests::{
    Engine, Setup, audit, create, is_summary, shared, task_of, texts, turn_number, within,
};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::recovery::{SWARM, gone};

/// Turns with a call, in a window that holds about three of them.
const TURNS: u32 = 7;

/// A tool that knows how many of its calls are under way.
#[derive(Debug)]
struct Busy {
    spec: ToolSpec,
    class: SideEffect,
    under_way: AtomicUsize,
    /// Whether calls come to their end.
    ends: watch::Sender<bool>,
}

struct Call<'a>(&'a AtomicUsize);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Busy {
    fn new(class: SideEffect) -> Arc<Self> {
        Arc::new(Self {
            spec: ToolSpec {
                name: class.as_str().to_owned(),
                description: "Does something.".to_owned(),
                parameters: json!({"type": "object"}),
            },
            class,
            under_way: AtomicUsize::new(0),
            ends: watch::Sender::new(true),
        })
    }
}

#[async_trait]
impl Tool for Busy {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn side_effect(&self) -> SideEffect {
        self.class
    }

    async fn call(&self, _: ToolContext, _: Value) -> Result<ToolOutput, ToolError> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let _call = Call(&self.under_way);
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        let mut ends = self.ends.subscribe();
        ends.wait_for(|ends| *ends).await.unwrap();
        Ok(ToolOutput::text("done"))
    }
}

/// Works with all kinds of calls, a helper among them, is summed up, and corrected in the end.
fn script(request: &LlmRequest) -> ScriptedReply {
    let n = turn_number(request);
    if is_summary(request) {
        return ScriptedReply::text(format!("what happened until turn {n}"));
    }
    let pad = json!({"pad": "x".repeat(1_500)});
    if task_of(request).starts_with("help") {
        return match n {
            1 => ScriptedReply::tool_call("once", json!({})),
            _ => ScriptedReply::text("helped"),
        };
    }
    let is_corrected = || texts(request).iter().any(|text| text == "it is three");
    match n {
        1 => ScriptedReply::tool_call("pure", json!({})).add_tool_call("once", json!({})),
        2 => ScriptedReply::tool_call("helper", json!({"task": "help"})),
        n if n <= TURNS => ScriptedReply::tool_call("idempotent", pad),
        _ if is_corrected() => ScriptedReply::text(r#"{"total": 3}"#),
        _ => ScriptedReply::text("it is three"),
    }
}

fn swarm() -> CreateSwarm {
    let mut request = create("go", 1);
    request.id = Some(SWARM);
    request.config.answer_schema = Some(json!({
        "type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"],
    }));
    request.config.profiles = vec![AgentProfile {
        name: "helper".to_owned(),
        description: "Helps.".to_owned(),
        instructions: "You help.".to_owned(),
        model: String::new(),
        tools: None,
    }];
    request
}

/// Holds the store after event number `at`: nothing is committed after it until someone says so.
#[derive(Debug)]
struct Stop {
    at: u64,
    store: Arc<FaultyStore>,
    reached: Arc<watch::Sender<bool>>,
}

impl EventSink for Stop {
    fn name(&self) -> &'static str {
        "stop"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        if !*self.reached.borrow() && events.iter().any(|event| event.seq >= self.at) {
            self.store.hold();
            self.reached.send_replace(true);
        }
    }
}

/// A life that stands still right after event number `at`.
struct Life {
    setup: Setup,
    tools: Vec<Arc<Busy>>,
    store: Arc<FaultyStore>,
    engine: Engine,
}

/// Starts a life and waits until it stands still. False: it came to its end before.
async fn until(at: u64) -> (Life, bool) {
    let mut setup = Setup::new(script).priced();
    setup.model.context_window = 2_048;
    let tools: Vec<_> = SideEffect::ALL.into_iter().map(Busy::new).collect();
    for tool in &tools {
        let tool: Arc<Busy> = Arc::clone(tool);
        setup = setup.tool(tool);
    }
    let store = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    let reached = Arc::new(watch::Sender::new(false));
    let stop = Stop {
        at,
        store: Arc::clone(&store),
        reached: Arc::clone(&reached),
    };
    let first = setup.clone().on(shared(&store)).sink(Arc::new(stop));
    let engine = first.start().await;
    let mut seen = reached.subscribe();
    let life = async {
        engine.create_swarm(swarm()).await.unwrap();
        let agent = roots(&engine).await.remove(0);
        engine.steer(agent, "mind the gap").await.unwrap();
        engine.steer(agent, "mind the doors").await.unwrap();
        engine.follow_up(agent, "and then?").await.unwrap();
        let swarm = engine.finish(SWARM).await;
        assert_eq!(swarm.status, SwarmStatus::Completed, "{:?}", swarm.error);
    };
    let stands = tokio::select! {
        biased;
        stands = seen.wait_for(|reached| *reached) => { stands.unwrap(); true }
        () = life => false,
    };
    let life = Life {
        setup,
        tools,
        store,
        engine,
    };
    (life, stands)
}

/// The agents that nobody called as a tool.
async fn roots(engine: &Engine) -> Vec<AgentId> {
    let agents = engine.agents(SWARM).await.into_iter();
    let roots = agents.filter(|agent| agent.parent_id.is_none());
    roots.map(|agent| agent.id).collect()
}

/// Kills the agent; what it was about to commit comes before or after that.
async fn kill(engine: &Engine, held: Option<&FaultyStore>) {
    let Some(agent) = roots(engine).await.pop() else {
        panic!("a swarm is created with its agents")
    };
    let killed = async {
        match engine.kill_agent(agent).await {
            Ok(agent) => assert_eq!(agent.status, AgentStatus::Killed),
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::Conflict);
                let agent = engine.get_agent(agent).await.unwrap();
                assert_eq!(agent.status, AgentStatus::Completed);
            }
        }
    };
    match held {
        None => killed.await,
        Some(store) => {
            within("a kill", async {
                tokio::pin!(killed);
                tokio::select! {
                    biased;
                    // Refused: there is nothing to commit.
                    () = &mut killed => store.release(),
                    () = store.wait_for_held(1) => {
                        store.release();
                        killed.await;
                    }
                }
            })
            .await;
        }
    }
}

async fn quiet(life: &Life) {
    let busy = || {
        let calls = life
            .tools
            .iter()
            .map(|t| t.under_way.load(Ordering::SeqCst));
        calls.sum::<usize>() + life.setup.desk.under_way()
    };
    within("the end of all calls", async {
        while busy() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Every result has its call; calls without one are of the last answer of an agent that was
/// stopped before it began them.
fn check_calls(path: &[Entry], status: AgentStatus) {
    let mut open: HashSet<String> = HashSet::new();
    for message in path.iter().filter_map(|entry| entry.body.message()) {
        match message.as_ref() {
            Message::User(_) => {}
            Message::Assistant(answer) => {
                assert!(open.is_empty(), "{open:?} have no result before an answer");
                open.extend(answer.tool_calls().map(|call| call.id.clone()));
            }
            Message::ToolResult(result) => assert!(open.remove(&result.tool_call_id), "{result:?}"),
        }
    }
    assert!(open.is_empty() || status == AgentStatus::Killed, "{open:?}");
    let parents = path.iter().zip(path.iter().skip(1));
    for (parent, entry) in parents {
        assert_eq!(entry.parent_id, Some(parent.id));
    }
    let of_summary = |e: &&Entry| matches!(e.body, EntryBody::Compaction { .. });
    assert!(path.iter().filter(of_summary).count() <= TURNS as usize);
}

/// What holds of a store whose one agent has come to its end, one way or the other.
async fn check(engine: &Engine) {
    let mut delivered = 0;
    for agent in engine.agents(SWARM).await {
        for step in engine.steps(agent.id).await {
            assert!(step.state.is_terminal(), "{step:?}");
            let may_have_none =
                step.key.kind() != StepKind::Tool && step.state == StepState::Failed;
            assert!(step.entry_id.is_some() || may_have_none, "{step:?}");
        }
        let path = match agent.head {
            Some(head) => engine.store.list_path(head, 1_000).await.unwrap(),
            None => Vec::new(),
        };
        check_calls(&path, agent.status);
        let filter = TicketFilter {
            agent_id: Some(agent.id),
            state: None,
        };
        let tickets = engine.list_tickets(&filter, Page::first(100)).await;
        for ticket in tickets.unwrap().items {
            let message = |entry: &&Entry| match entry.body.message().map(Arc::as_ref) {
                Some(Message::User(user)) => {
                    user.content == [dash::model::ContentBlock::text(&ticket.text)]
                }
                _ => false,
            };
            let told = path.iter().filter(message).count();
            let expected = match ticket.state {
                TicketState::Delivered => 1,
                TicketState::Dropped => 0,
                TicketState::Queued => panic!("nobody will read {ticket:?}"),
            };
            assert_eq!(told, expected, "{ticket:?}");
            delivered += told;
        }
    }
    assert_eq!(engine.count("message.delivered").await, delivered);
    audit(engine).await;
}

#[tokio::test]
async fn an_agent_that_is_killed_after_any_event_of_its_life_leaves_nothing_behind() {
    let mut killed = 0;
    for at in 1.. {
        let (life, stands) = until(at).await;
        if !stands {
            check(&life.engine).await;
            break;
        }
        // Shown if one of the assertions that follow fails.
        println!("killed after event {at}");
        // Calls that are under way do not end by themselves any more.
        life.setup.desk.hold_after(0);
        for tool in &life.tools {
            tool.ends.send_replace(false);
        }
        kill(&life.engine, Some(life.store.as_ref())).await;
        let swarm = life.engine.finish(SWARM).await;
        quiet(&life).await;
        check(&life.engine).await;
        if swarm.status == SwarmStatus::Failed {
            killed += 1;
            let is_killed = |e: &Event| matches!(e.kind, EventKind::AgentKilled(_));
            assert!(life.engine.events().await.iter().any(is_killed));
        }
        let Life {
            setup,
            store,
            engine,
            ..
        } = life;
        let (left, last) = (
            Arc::downgrade(&store),
            engine.store.head_seq().await.unwrap(),
        );
        drop((engine, store));
        gone(&left).await;
        assert_eq!(
            setup.store.head_seq().await.unwrap(),
            last,
            "written after the end"
        );
    }
    assert!(killed > 30, "only {killed} kills");
}

#[tokio::test]
async fn an_agent_whose_engine_is_dropped_after_any_event_of_its_life_can_be_killed() {
    let mut killed = 0;
    for at in 1.. {
        let (life, stands) = until(at).await;
        if !stands {
            break;
        }
        // Shown if one of the assertions that follow fails.
        println!("dropped after event {at}");
        let Life {
            setup,
            tools,
            store,
            engine,
        } = life;
        let left = Arc::downgrade(&store);
        drop(engine);
        store.release();
        drop(store);
        gone(&left).await;
        let engine = setup.start().await;
        kill(&engine, None).await;
        let swarm = engine.finish(SWARM).await;
        killed += usize::from(swarm.status == SwarmStatus::Failed);
        let life = Life {
            store: Arc::new(FaultyStore::new(Arc::clone(&setup.store))),
            setup,
            tools,
            engine,
        };
        quiet(&life).await;
        check(&life.engine).await;
    }
    assert!(killed > 30, "only {killed} kills");
}
