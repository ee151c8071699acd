//! A host's own code around what agents do.

use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use dash::event::EventKind;
use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::{Message, MessageOrigin, SideEffect, ToolCall};
use dash::spawn::{AgentHooks, HookContext, ToolAnswer, ToolGate, TurnDecision, TurnView};
use dash::testing::FaultyStore;
use dash::tool::ToolOutput;
use dash_tests::{Door, Setup, audit, create, results, shared, texts, turn, within};
use pretty_assertions::assert_eq;
use serde_json::json;
use tokio::sync::watch;

use crate::recovery::gone;

/// Hooks that do what the test's script says, and note what they were asked.
#[derive(Debug, Default)]
struct Guard {
    asked: Mutex<Vec<String>>,
    says: Mutex<Vec<TurnDecision>>,
}

impl Guard {
    fn note(&self, cx: HookContext<'_>, what: &str) {
        let line = format!("{} turn {}: {what}", cx.name, cx.turn);
        self.asked.lock().unwrap().push(line);
    }
}

#[async_trait]
impl AgentHooks for Guard {
    async fn before_request(&self, cx: HookContext<'_>, request: &mut LlmRequest) {
        self.note(cx, "request");
        request.system = "changed".into();
        request.max_output_tokens = 77;
        let extra = Message::user("y".repeat(4_000), MessageOrigin::Task);
        request.messages.insert(0, Arc::new(extra));
    }

    async fn before_tool(&self, cx: HookContext<'_>, call: &ToolCall) -> ToolGate {
        self.note(cx, &format!("before {}", call.name));
        match call.arguments["n"].as_i64() {
            Some(1) => ToolGate::Deny("not this one".to_owned()),
            Some(2) => ToolGate::Rewrite(json!({"n": 20})),
            Some(3) => ToolGate::Rewrite(json!([])),
            _ => ToolGate::Allow,
        }
    }

    async fn after_tool(&self, cx: HookContext<'_>, call: &ToolCall, answer: &mut ToolAnswer) {
        self.note(cx, &format!("after {}", call.arguments));
        answer.output = ToolOutput::text(format!("seen {}", call.arguments));
    }

    async fn finish_turn(&self, cx: HookContext<'_>, turn: TurnView<'_>) -> TurnDecision {
        let (calls, after) = (turn.answer.tool_calls().count(), turn.after.len());
        self.note(cx, &format!("finished {calls} calls, {after} after"));
        self.says.lock().unwrap().pop().unwrap_or_default()
    }
}

fn calls(numbers: &[i64]) -> ScriptedReply {
    let add = |reply: ScriptedReply, n: &i64| reply.add_tool_call("act", json!({"n": n}));
    numbers.iter().fold(ScriptedReply::new(), add)
}

#[tokio::test]
async fn requests_calls_and_results_pass_through_the_hooks() {
    let door = Door::new("act", SideEffect::Once);
    let script = |request: &LlmRequest| match turn(request) {
        0 => calls(&[0, 1, 2, 3]),
        _ => ScriptedReply::text("end"),
    };
    let guard = Arc::new(Guard::default());
    let hooks: Arc<Guard> = Arc::clone(&guard);
    let setup = Setup::new(script).priced().door(&door).hooks(hooks);
    let engine = setup.start().await;
    let swarm = engine.run(create("go", 1)).await;
    assert_eq!(swarm.result.as_deref(), Some("end"));

    let requests = engine.desk.requests();
    assert_eq!(&*requests[0].system, "changed");
    assert_eq!(requests[0].max_output_tokens, 77);
    assert_eq!(texts(&requests[1])[0], "y".repeat(4_000));
    // What a hook adds is reserved for.
    let held = engine.reservations().await;
    assert!(held.iter().all(|r| r.held.tokens > 4_000), "{held:?}");

    let told = results(&requests[1]);
    let (first, denied, rewritten, broken) = (&told[0], &told[1], &told[2], &told[3]);
    assert_eq!((first.1.as_str(), first.2), (r#"seen {"n":0}"#, false));
    assert_eq!((denied.1.as_str(), denied.2), ("not this one", true));
    assert_eq!(
        (rewritten.1.as_str(), rewritten.2),
        (r#"seen {"n":20}"#, false)
    );
    assert!(broken.2 && broken.1.contains("no object"), "{broken:?}");
    let made: Vec<i64> = door
        .calls()
        .iter()
        .map(|c| c.arguments["n"].as_i64().unwrap())
        .collect();
    assert_eq!(made, [0, 20]);
    // What the model reads is what is stored.
    let agent = engine.agent(swarm.id).await;
    let path = engine
        .store
        .list_path(agent.head.unwrap(), 100)
        .await
        .unwrap();
    let stored: Vec<String> = path
        .iter()
        .filter_map(|e| match e.body.message()?.as_ref() {
            Message::ToolResult(result) => Some(result.text()),
            _ => None,
        })
        .collect();
    assert!(
        stored.contains(&r#"seen {"n":20}"#.to_owned()),
        "{stored:?}"
    );
    let asked = guard.asked.lock().unwrap().clone();
    assert_eq!(
        asked.first().map(String::as_str),
        Some("work/1 turn 1: request")
    );
    assert!(
        asked.contains(&"work/1 turn 1: finished 4 calls, 4 after".to_owned()),
        "{asked:?}"
    );
    assert!(
        asked.contains(&"work/1 turn 2: finished 0 calls, 0 after".to_owned()),
        "{asked:?}"
    );
    audit(&engine).await;
}

#[tokio::test]
async fn a_hook_can_end_a_run_or_make_it_go_on() {
    let door = Door::new("act", SideEffect::Pure);
    let script = |request: &LlmRequest| match turn(request) {
        0 => ScriptedReply::text("too early"),
        1 => calls(&[0]),
        _ => panic!("the hook ends it before"),
    };
    let guard = Arc::new(Guard::default());
    *guard.says.lock().unwrap() = vec![
        TurnDecision::End("enough".to_owned()),
        TurnDecision::Say("go on".to_owned()),
    ];
    let hooks: Arc<Guard> = Arc::clone(&guard);
    let engine = Setup::new(script).door(&door).hooks(hooks).start().await;
    let swarm = engine.run(create("go", 1)).await;
    assert_eq!(swarm.result.as_deref(), Some("enough"));
    let requests = engine.desk.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(
        texts(&requests[1]).last().map(String::as_str),
        Some("go on")
    );
    assert_eq!(door.calls().len(), 1);
    audit(&engine).await;
}

/// Hooks that wait at a gate.
#[derive(Debug)]
struct Slow {
    gate: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
    before_tools: bool,
}

impl Slow {
    fn new(before_tools: bool) -> Arc<Self> {
        Arc::new(Self {
            gate: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            before_tools,
        })
    }

    async fn wait(&self) {
        self.waiting.send_modify(|n| *n += 1);
        let mut gate = self.gate.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
    }

    async fn reached(&self) {
        let mut waiting = self.waiting.subscribe();
        within("a hook", waiting.wait_for(|n| *n > 0))
            .await
            .unwrap();
    }
}

#[async_trait]
impl AgentHooks for Slow {
    async fn before_tool(&self, cx: HookContext<'_>, _: &ToolCall) -> ToolGate {
        if self.before_tools && cx.name == "work/1" {
            self.wait().await;
        }
        ToolGate::Allow
    }

    async fn finish_turn(&self, _: HookContext<'_>, turn: TurnView<'_>) -> TurnDecision {
        if !self.before_tools && !turn.after.is_empty() {
            self.wait().await;
        }
        TurnDecision::GoOn
    }
}

fn one_call(request: &LlmRequest) -> ScriptedReply {
    match turn(request) {
        0 => calls(&[0]),
        _ => ScriptedReply::text("end"),
    }
}

#[tokio::test]
async fn what_is_done_is_committed_before_a_hook_takes_its_time() {
    let door = Door::new("act", SideEffect::Once);
    let slow = Slow::new(false);
    let hooks: Arc<Slow> = Arc::clone(&slow);
    let setup = Setup::new(one_call).priced().door(&door).hooks(hooks);
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    let left = Arc::downgrade(&faulty);
    let engine = setup.clone().on(shared(&faulty)).start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    slow.reached().await;
    drop((engine, faulty));
    gone(&left).await;
    slow.gate.send_replace(true);
    let engine = setup.start().await;
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.result.as_deref(), Some("end"));
    assert_eq!(engine.count("step.in_doubt").await, 0);
    assert_eq!((door.calls().len(), engine.desk.calls()), (1, 2));
    audit(&engine).await;
}

#[tokio::test]
async fn an_agent_whose_hook_waits_holds_no_slot() {
    let door = Door::new("act", SideEffect::Pure);
    let slow = Slow::new(true);
    let hooks: Arc<Slow> = Arc::clone(&slow);
    let mut setup = Setup::new(one_call).priced().door(&door).hooks(hooks);
    setup.settings.calls_per_provider_max = 1;
    let engine = setup.start().await;
    let swarm = engine.create_swarm(create("go", 2)).await.unwrap();
    slow.reached().await;
    let done = |e: &dash::event::Event| matches!(&e.kind, EventKind::AgentCompleted(_));
    engine.wait_for("the other agent", done).await;
    slow.gate.send_replace(true);
    engine.finish(swarm.id).await;
    audit(&engine).await;
}
