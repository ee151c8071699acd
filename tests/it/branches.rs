//! Failed agents that are sent back to an earlier point of their conversation.

use std::sync::Arc;

use dash::ErrorKind;
use dash::ids::{AgentId, EntryId};
use dash::llm::{LlmError, LlmErrorKind, LlmRequest, ScriptedReply};
use dash::model::{Entry, EntryBody, Message, SideEffect, SwarmStatus};
use dash::testing::FaultyStore;
use dash_tests::{Door, Engine, Setup, audit, create, is_summary, shared, texts, turn};
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::recovery::gone;

/// Two turns with a tool, then it fails for good, until it has been told of a branch.
fn script(request: &LlmRequest) -> ScriptedReply {
    if is_summary(request) {
        return ScriptedReply::text("the wrong way");
    }
    if texts(request)
        .iter()
        .any(|text| text.contains("another way"))
    {
        return ScriptedReply::text("told");
    }
    match turn(request) {
        0 | 1 => ScriptedReply::tool_call("act", json!({"n": turn(request)})),
        _ => ScriptedReply::failure(LlmError::unbilled(LlmErrorKind::InvalidRequest, "no")),
    }
}

async fn path(engine: &Engine, agent: AgentId) -> Vec<Entry> {
    let head = engine.get_agent(agent).await.unwrap().head.unwrap();
    engine.store.list_path(head, 1_000).await.unwrap()
}

/// The entry of the first tool result, and that of the answer before it.
fn first_result(path: &[Entry]) -> (EntryId, EntryId) {
    let is_result = |entry: &Entry| {
        let message = entry.body.message();
        message.is_some_and(|m| matches!(m.as_ref(), Message::ToolResult(_)))
    };
    let at = path.iter().position(is_result).unwrap();
    (path[at].id, path[at - 1].id)
}

#[tokio::test]
async fn a_failed_agent_goes_on_from_an_earlier_entry_and_knows_what_came_of_the_branch() {
    for summarise in [true, false] {
        let door = Door::new("act", SideEffect::Once);
        let engine = Setup::new(script).priced().door(&door).start().await;
        let swarm = engine.run(create("go", 1)).await;
        assert_eq!(swarm.status, SwarmStatus::Failed);
        let agent = engine.agent(swarm.id).await;
        let before = path(&engine, agent.id).await;
        let (result, answer) = first_result(&before);

        // A call would be without its result.
        let err = engine.retry_agent_from(agent.id, answer, summarise).await;
        assert_eq!(err.unwrap_err().kind(), ErrorKind::Invalid);
        let nowhere = EntryId::from_u128(99);
        let err = engine.retry_agent_from(agent.id, nowhere, summarise).await;
        assert_eq!(err.unwrap_err().kind(), ErrorKind::NotFound);

        let asked = engine.desk.calls();
        engine
            .retry_agent_from(agent.id, result, summarise)
            .await
            .unwrap();
        let swarm = engine.finish(swarm.id).await;
        let requests = engine.desk.requests().split_off(asked);
        if summarise {
            assert_eq!(swarm.result.as_deref(), Some("told"));
            assert!(is_summary(&requests[0]));
            // It is about the branch, not about what is kept.
            let read = &texts(&requests[0])[0];
            assert!(
                read.contains(r#"{"n":1}"#) && !read.contains(r#"{"n":0}"#),
                "{read}"
            );
            let told = texts(&requests[1]);
            assert!(told.last().unwrap().contains("the wrong way"), "{told:?}");
            assert_eq!(engine.count("agent.branch_summarised").await, 1);
        } else {
            assert!(!requests.iter().any(is_summary));
            assert_eq!(engine.count("agent.branch_summarised").await, 0);
        }
        assert_eq!(engine.count("agent.branched").await, 1);
        // The branch is still there.
        let after = path(&engine, agent.id).await;
        let branch = after.iter().find_map(|entry| match entry.body {
            EntryBody::Branch { abandoned, .. } => Some(abandoned),
            _ => None,
        });
        let old = engine
            .store
            .list_path(branch.unwrap(), 1_000)
            .await
            .unwrap();
        assert_eq!(old, before);
        audit(&engine).await;
    }
}

#[tokio::test]
async fn only_a_failed_agent_can_be_sent_back() {
    let engine = Setup::new(|_| ScriptedReply::text("end")).start().await;
    let swarm = engine.run(create("go", 1)).await;
    let agent = engine.agent(swarm.id).await;
    let first = path(&engine, agent.id).await[0].id;
    let err = engine.retry_agent_from(agent.id, first, true).await;
    assert_eq!(err.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn an_engine_that_dies_while_a_branch_is_summed_up_begins_with_that_again() {
    let door = Door::new("act", SideEffect::Once);
    let setup = Setup::new(script).priced().door(&door);
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    let left = Arc::downgrade(&faulty);
    let engine = setup.clone().on(shared(&faulty)).start().await;
    let swarm = engine.run(create("go", 1)).await;
    let agent = engine.agent(swarm.id).await;
    let (result, _) = first_result(&path(&engine, agent.id).await);
    let asked = engine.desk.calls();
    engine.desk.hold_after(asked);
    engine
        .retry_agent_from(agent.id, result, true)
        .await
        .unwrap();
    engine.desk.wait_for_calls(asked + 1).await;
    drop((engine, faulty));
    gone(&left).await;
    setup.desk.release();

    let engine = setup.start().await;
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.result.as_deref(), Some("told"));
    let requests = engine.desk.requests().split_off(asked);
    let keys: Vec<&str> = requests
        .iter()
        .map(|r| r.idempotency_key.as_str())
        .collect();
    assert!(is_summary(&requests[0]) && is_summary(&requests[1]));
    assert_eq!(keys[0], keys[1], "the same step, again");
    assert_eq!(engine.count("agent.branch_summarised").await, 1);
    audit(&engine).await;
}
