//! Conversations that outgrow a window: summed up, paid for, and gone on with.

use std::sync::Arc;

use dash::event::EventKind;
use dash::llm::{LlmError, LlmErrorKind, LlmRequest, ScriptedReply};
use dash::model::{EntryBody, NanoUsd, SideEffect, StepKind, StepState, SwarmStatus};
use dash::testing::FaultyStore;
use dash::tool::ToolOutput;
use dash_tests::{
    Door, Engine, Setup, audit, create, is_summary, results, shared, task_of, texts, turn_number,
};
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::recovery::gone;

const WINDOW: u32 = 2_048;

/// Calls a tool for `turns` turns with arguments of 1,500 characters, then ends.
fn talkative(turns: u32) -> impl Fn(&LlmRequest) -> ScriptedReply + Send + Sync + 'static {
    move |request| {
        if is_summary(request) {
            return ScriptedReply::text(format!("what happened until {}", turn_number(request)));
        }
        if turn_number(request) <= turns {
            ScriptedReply::tool_call("act", json!({"pad": "x".repeat(1_500)}))
        } else {
            ScriptedReply::text("end")
        }
    }
}

fn chars(request: &LlmRequest) -> usize {
    let said: usize = texts(request).iter().map(|text| text.len()).sum();
    let calls = request.messages.iter().filter_map(|m| match m.as_ref() {
        dash::model::Message::Assistant(answer) => Some(answer),
        _ => None,
    });
    let calls = calls.flat_map(|answer| answer.tool_calls());
    said + calls
        .map(|call| call.arguments.to_string().len())
        .sum::<usize>()
}

async fn compacted(engine: &Engine) -> Vec<dash::event::AgentCompacted> {
    let events = engine.events().await;
    let of = |kind: EventKind| match kind {
        EventKind::AgentCompacted(event) => Some(event),
        _ => None,
    };
    events.into_iter().filter_map(|e| of(e.kind)).collect()
}

#[tokio::test]
async fn a_long_conversation_is_summed_up_and_the_agent_goes_on() {
    let door = Door::new("act", SideEffect::Pure);
    let mut setup = Setup::new(talkative(9)).priced().door(&door);
    setup.model.context_window = WINDOW;
    let engine = setup.start().await;
    let swarm = engine.run(create("the task", 1)).await;
    assert_eq!(swarm.result.as_deref(), Some("end"));
    let summed = compacted(&engine).await;
    assert!(summed.len() >= 2, "{summed:?}");
    assert!(
        summed
            .iter()
            .all(|e| e.usage.total() > 0 && e.cost_nanos > 0)
    );

    // No request is longer than the window, and the task is in all of them, word for word.
    let requests = engine.desk.requests();
    for request in &requests {
        assert!(chars(request) * 2 / 7 < 2_048, "{}", chars(request));
        if !is_summary(request) {
            assert!(task_of(request).starts_with("the task"));
        }
    }
    let last = texts(requests.last().unwrap());
    assert!(last[1].contains("summed up"), "{}", last[1]);
    assert!(last[1].contains("what happened until"), "{}", last[1]);

    // The calls that summed up are steps like others: journaled, numbered, paid.
    let agent = engine.agent(swarm.id).await;
    let steps = engine.steps(agent.id).await;
    let of_summary = steps.iter().filter(|s| s.key.kind() == StepKind::Summary);
    let of_summary: Vec<_> = of_summary.collect();
    assert_eq!(of_summary.len(), summed.len());
    assert!(of_summary.iter().all(|s| s.state == StepState::Done));
    assert!(of_summary.iter().all(|s| s.entry_id.is_some()));
    assert_eq!(agent.turns as usize, requests.len());
    let budget = engine.reservations().await;
    let spent: NanoUsd = budget.iter().filter_map(|r| r.actual).map(|a| a.usd).sum();
    assert_eq!(agent.cost, spent);

    // Nothing is taken out of the store.
    let head = agent.head.unwrap();
    let path = engine.store.list_path(head, 1_000).await.unwrap();
    let results = path.iter().filter_map(|e| e.body.message());
    let results = results.filter(|m| matches!(m.as_ref(), dash::model::Message::ToolResult(_)));
    assert_eq!(results.count(), door.calls().len());
    let compactions = path
        .iter()
        .filter(|e| matches!(e.body, EntryBody::Compaction { .. }));
    assert_eq!(compactions.count(), summed.len());
    audit(&engine).await;
}

#[tokio::test]
async fn a_conversation_the_server_calls_too_long_is_summed_up_without_losing_an_attempt() {
    let door = Door::new("act", SideEffect::Pure);
    let inner = talkative(6);
    let script = move |request: &LlmRequest| {
        if !is_summary(request) && chars(request) > 5_000 {
            let error = LlmError::unbilled(LlmErrorKind::ContextOverflow, "prompt is too long");
            return ScriptedReply::failure(error);
        }
        inner(request)
    };
    // The window is not known: only the server can say.
    let engine = Setup::new(script).priced().door(&door).start().await;
    let swarm = engine.run(create("the task", 1)).await;
    assert_eq!(swarm.result.as_deref(), Some("end"), "{:?}", swarm.error);
    let agent = engine.agent(swarm.id).await;
    assert_eq!((agent.attempt, agent.retry_count), (0, 0));
    assert!(!compacted(&engine).await.is_empty());
    assert!(engine.count("agent.turn_failed").await > 0);
    audit(&engine).await;
}

#[tokio::test]
async fn a_server_that_finds_even_the_summary_too_long_ends_the_agent_with_its_words() {
    let door = Door::new("act", SideEffect::Pure);
    let inner = talkative(6);
    let script = move |request: &LlmRequest| {
        if !is_summary(request) && turn_number(request) > 3 {
            let error = LlmError::unbilled(LlmErrorKind::ContextOverflow, "prompt is too long");
            return ScriptedReply::failure(error);
        }
        inner(request)
    };
    let engine = Setup::new(script).priced().door(&door).start().await;
    let swarm = engine.run(create("the task", 1)).await;
    assert_eq!(swarm.status, SwarmStatus::Failed);
    assert!(swarm.error.unwrap().contains("prompt is too long"));
    assert_eq!(compacted(&engine).await.len(), 1);
    audit(&engine).await;
}

#[tokio::test]
async fn without_compaction_a_conversation_that_is_too_long_ends_the_agent() {
    let script = |_: &LlmRequest| {
        let error = LlmError::unbilled(LlmErrorKind::ContextOverflow, "prompt is too long");
        ScriptedReply::failure(error)
    };
    let engine = Setup::new(script).start().await;
    let mut request = create("the task", 1);
    request.config.compaction.enabled = false;
    let swarm = engine.run(request).await;
    assert!(swarm.error.unwrap().contains("prompt is too long"));
    assert_eq!(engine.desk.calls(), 1);
    audit(&engine).await;
}

#[tokio::test]
async fn a_summary_that_fails_costs_an_attempt_and_is_made_again() {
    let door = Door::new("act", SideEffect::Pure);
    let inner = talkative(5);
    let script = move |request: &LlmRequest| {
        // The first attempt's summaries fail, once by error, once by silence.
        if is_summary(request) && request.idempotency_key.ends_with("/s") {
            return ScriptedReply::failure(LlmError::unbilled(LlmErrorKind::Server, "down"));
        }
        if is_summary(request) && request.idempotency_key.ends_with("/s.1") {
            return ScriptedReply::text(" ");
        }
        inner(request)
    };
    let mut setup = Setup::new(script).priced().door(&door);
    setup.model.context_window = WINDOW;
    let engine = setup.start().await;
    let mut request = create("the task", 1);
    request.config.max_retries = 5;
    let swarm = engine.run(request).await;
    assert_eq!(swarm.result.as_deref(), Some("end"), "{:?}", swarm.error);
    assert!(engine.agent(swarm.id).await.attempt >= 2);
    audit(&engine).await;
}

#[tokio::test]
async fn steering_reaches_the_model_after_the_summary_and_not_with_it() {
    let door = Door::new("act", SideEffect::Pure);
    let mut setup = Setup::new(talkative(5)).priced().door(&door);
    setup.model.context_window = WINDOW;
    let engine = setup.start().await;
    door.close();
    let swarm = engine.create_swarm(create("the task", 1)).await.unwrap();
    door.wait_for_calls(1).await;
    let agent = engine.agent(swarm.id).await;
    let said: Vec<String> = (0..5).map(|n| format!("mind gap {n}")).collect();
    for text in &said {
        engine.steer(agent.id, text.clone()).await.unwrap();
    }
    door.open();
    engine.finish(swarm.id).await;
    let requests = engine.desk.requests();
    assert!(requests.iter().any(is_summary));
    for text in &said {
        let told = |r: &&LlmRequest| texts(r).iter().any(|t| t.contains(text));
        let first = requests.iter().find(told).unwrap();
        assert!(!is_summary(first), "{text} was delivered to a summary");
    }
    audit(&engine).await;
}

#[tokio::test]
async fn a_model_sees_the_results_it_has_asked_for_however_small_its_window() {
    let door = Door::acting("act", SideEffect::Pure, |_| {
        let lines: String = (0..2_000).map(|n| format!("line {n}\n")).collect();
        Ok(ToolOutput::text(lines))
    });
    let script = |request: &LlmRequest| {
        if is_summary(request) {
            return ScriptedReply::text("read the file");
        }
        let seen = |r: &(String, String, bool)| r.1.contains("line 9\n");
        let results = results(request);
        match results.last() {
            Some(last) if seen(last) => ScriptedReply::text("seen"),
            Some(_) => ScriptedReply::text("not seen"),
            None => ScriptedReply::tool_call("act", json!({})).add_tool_call("act", json!({})),
        }
    };
    let mut setup = Setup::new(script).priced().door(&door);
    setup.model.context_window = 4_096;
    let engine = setup.start().await;
    let swarm = engine.run(create(&"a long task. ".repeat(600), 1)).await;
    assert_eq!(swarm.result.as_deref(), Some("seen"), "{:?}", swarm.error);
    assert_eq!(door.calls().len(), 2, "nothing was asked for twice");
    for request in engine.desk.requests() {
        assert!(chars(&request) * 2 / 7 < 4_096, "{}", chars(&request));
    }
    audit(&engine).await;
}

#[tokio::test]
async fn an_engine_that_stops_between_an_overflow_and_its_summary_sums_up_first() {
    let door = Door::new("act", SideEffect::Pure);
    let script = |request: &LlmRequest| {
        if is_summary(request) {
            return ScriptedReply::text("what happened");
        }
        match turn_number(request) {
            1..3 => ScriptedReply::tool_call("act", json!({"pad": "x".repeat(1_500)})),
            3 => ScriptedReply::failure(LlmError::unbilled(
                LlmErrorKind::ContextOverflow,
                "prompt is too long",
            )),
            _ => ScriptedReply::text("end"),
        }
    };
    let setup = Setup::new(script).priced().door(&door);
    setup.desk.hold_after(2);
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    let left = Arc::downgrade(&faulty);
    let engine = setup.clone().on(shared(&faulty)).start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    engine.desk.wait_for_calls(3).await;
    let agent = engine.agent(swarm.id).await;
    engine.pause_agent(agent.id).await.unwrap();
    engine.desk.release();
    let failed = |e: &dash::event::Event| e.kind.name() == "agent.turn_failed";
    engine.wait_for("the overflow", failed).await;
    drop((engine, faulty));
    gone(&left).await;

    let engine = setup.start().await;
    engine.resume_agent(agent.id).await.unwrap();
    let done = engine.finish(swarm.id).await;
    assert_eq!(done.result.as_deref(), Some("end"), "{:?}", done.error);
    let agent = engine.agent(swarm.id).await;
    assert_eq!((agent.attempt, agent.retry_count), (0, 0));
    let requests = engine.desk.requests();
    let again = requests
        .iter()
        .filter(|r| r.idempotency_key.ends_with("t3/m"));
    assert_eq!(again.count(), 1, "a key that was used up was used again");
    audit(&engine).await;
}
