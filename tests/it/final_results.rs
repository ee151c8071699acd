//! Tools that say that nothing is left to do, and tools that tell what they are doing.

#![cfg(test)]

use std::sync::Arc;

use async_trait::async_trait;
use dash::api::CreateSwarm;
use dash::event::DeltaKind;
use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::{SideEffect, StepKey, SwarmStatus, ToolCall};
use dash::spawn::{AgentHooks, HookContext, ToolAnswer};
use dash::tool::{Tool, ToolContext, ToolError, ToolOutput, json_tool};
use dash_tests::{Door, Setup, audit, create, results, turn, within};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::recovery::{SWARM, dies_everywhere_and};

/// A tool that ends its agent with what it is given.
fn submit() -> Arc<Door> {
    Door::acting(
        "submit",
        SideEffect::Once,
        |arguments| match arguments["text"].as_str() {
            Some(text) => Ok(ToolOutput::text(text).as_final()),
            None => Err(ToolError::new("say a text")),
        },
    )
}

fn submits(texts: &[&str]) -> ScriptedReply {
    let add =
        |reply: ScriptedReply, text: &&str| reply.add_tool_call("submit", json!({"text": text}));
    texts.iter().fold(ScriptedReply::new(), add)
}

/// One agent of a model that is not to be asked a second time.
async fn result_of(setup: Setup) -> (SwarmStatus, Option<String>, usize) {
    let engine = setup.start().await;
    let swarm = engine.run(create("go", 1)).await;
    audit(&engine).await;
    (swarm.status, swarm.result, engine.desk.calls())
}

#[tokio::test]
async fn an_agent_ends_with_results_that_are_all_final() {
    let setup = Setup::new(|_| submits(&["one", "two"])).door(&submit());
    let expected = Some("one\ntwo".to_owned());
    assert_eq!(
        result_of(setup).await,
        (SwarmStatus::Completed, expected, 1)
    );
}

#[tokio::test]
async fn one_result_that_is_not_final_keeps_the_agent_going() {
    let act = Door::new("act", SideEffect::Pure);
    let script = |request: &LlmRequest| match turn(request) {
        0 => submits(&["one"]).add_tool_call("act", json!({})),
        _ => ScriptedReply::text("end"),
    };
    let setup = Setup::new(script).door(&submit()).door(&act);
    let expected = Some("end".to_owned());
    assert_eq!(
        result_of(setup).await,
        (SwarmStatus::Completed, expected, 2)
    );
}

/// Calls every final result a failure.
#[derive(Debug)]
struct Strict;

#[async_trait]
impl AgentHooks for Strict {
    async fn after_tool(&self, _: HookContext<'_>, _: &ToolCall, answer: &mut ToolAnswer) {
        answer.is_error = true;
    }
}

#[tokio::test]
async fn a_failed_call_is_never_final() {
    let script = |request: &LlmRequest| match turn(request) {
        0 => submits(&["one"]),
        _ => ScriptedReply::text(results(request)[0].1.clone()),
    };
    let setup = Setup::new(script).door(&submit()).hooks(Arc::new(Strict));
    let expected = Some("one".to_owned());
    assert_eq!(
        result_of(setup).await,
        (SwarmStatus::Completed, expected, 2)
    );
}

#[tokio::test]
async fn a_message_that_waits_keeps_the_agent_going() {
    let door = submit();
    door.close();
    let script = |request: &LlmRequest| match turn(request) {
        0 => submits(&["one"]),
        _ => ScriptedReply::text("told"),
    };
    let engine = Setup::new(script).door(&door).start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    door.wait_for_calls(1).await;
    let agent = engine.agent(swarm.id).await;
    engine.follow_up(agent.id, "one more thing").await.unwrap();
    door.open();
    assert_eq!(
        engine.finish(swarm.id).await.result.as_deref(),
        Some("told")
    );
    audit(&engine).await;
}

#[tokio::test]
async fn an_answer_schema_holds_for_final_results_too() {
    let script = |request: &LlmRequest| match turn(request) {
        0 => submits(&["no JSON"]),
        _ => submits(&[r#"{"n":1}"#]),
    };
    let engine = Setup::new(script).door(&submit()).start().await;
    let mut request = create("go", 1);
    request.config.answer_schema = Some(json!({"type": "object", "required": ["n"]}));
    let swarm = engine.run(request).await;
    assert_eq!(swarm.result.as_deref(), Some(r#"{"n":1}"#));
    assert_eq!(engine.desk.calls(), 2);
    audit(&engine).await;
}

#[tokio::test]
async fn an_agent_that_ends_with_a_final_result_survives_a_death_at_every_commit() {
    fn script(request: &LlmRequest) -> ScriptedReply {
        match turn(request) {
            0 => ScriptedReply::tool_call("pure", json!({})),
            1 => ScriptedReply::tool_call("idempotent", json!({})),
            _ => ScriptedReply::tool_call("submit", json!({})),
        }
    }
    let mut request: CreateSwarm = create("go", 1);
    request.id = Some(SWARM);
    let prepare = |setup: &mut Setup| {
        let last = |_: &Value| Ok(ToolOutput::text("submitted").as_final());
        let door = Door::acting("submit", SideEffect::Idempotent, last);
        *setup = setup.clone().door(&door);
    };
    dies_everywhere_and(script, request, prepare, async |engine, _| {
        let swarm = engine.get_swarm(SWARM).await.unwrap();
        assert_eq!(swarm.result.as_deref(), Some("submitted"));
        let asked = engine.desk.requests();
        assert!(
            asked.iter().all(|request| turn(request) < 3),
            "asked after the end"
        );
    })
    .await;
}

#[tokio::test]
async fn what_a_tool_tells_is_seen_while_it_works_and_not_after() {
    let (go_on, late) = (
        Arc::new(Notify::new()),
        Arc::new(std::sync::Mutex::new(None)),
    );
    let (gate, kept) = (Arc::clone(&go_on), Arc::clone(&late));
    let run = move |cx: ToolContext, _: Value| {
        let (gate, kept) = (Arc::clone(&gate), Arc::clone(&kept));
        async move {
            cx.updates.send("half of it");
            gate.notified().await;
            cx.updates.send("all of it");
            *kept.lock().unwrap() = Some(cx.updates.clone());
            Ok(ToolOutput::text("done").as_final())
        }
    };
    let schema = json!({"type": "object"});
    let tool: Arc<dyn Tool> = json_tool("act", "Acts.", schema, SideEffect::Pure, run);
    let setup = Setup::new(|_| ScriptedReply::tool_call("act", json!({}))).tool(tool);
    let engine = setup.start().await;
    let mut deltas = engine.subscribe_deltas();
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    let mut updates = Vec::new();
    while updates.len() < 2 {
        let delta = within("an update", deltas.recv()).await.unwrap();
        if let DeltaKind::ToolUpdate(text) = &delta.kind {
            assert_eq!(delta.step, StepKey::Tool { turn: 1, index: 0 });
            if updates.is_empty() {
                // Its call waits for the gate.
                assert_eq!(engine.count("tool.completed").await, 0);
                go_on.notify_one();
            }
            updates.push(text.clone());
        }
    }
    assert_eq!(updates, ["half of it", "all of it"]);
    engine.finish(swarm.id).await;
    late.lock().unwrap().take().unwrap().send("too late");
    while let Ok(delta) = deltas.try_recv() {
        assert!(!matches!(delta.kind, DeltaKind::ToolUpdate(_)), "{delta:?}");
    }
}
