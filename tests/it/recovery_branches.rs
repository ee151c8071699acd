//! An engine that dies while a failed agent is sent back to an earlier point.

use std::collections::HashSet;
use std::sync::Arc;

use dash::ErrorKind;
use dash::ids::EntryId;
use dash::llm::{LlmError, LlmErrorKind, LlmRequest, ScriptedReply};
use dash::model::{Entry, EntryBody, Message, SideEffect, Swarm, SwarmStatus};
use dash::testing::FaultyStore;
use dash::testing::faulty_store::Fault;
use dash_tests::{Door, Engine, Setup, audit, create, is_summary, shared, texts, turn, within};
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::recovery::{SWARM, gone};

const WRONG: &str = "the wrong way";

/// Two turns with a tool, then it fails for good, until it has been told of a branch; then a third.
fn script(request: &LlmRequest) -> ScriptedReply {
    if is_summary(request) {
        return ScriptedReply::text(WRONG);
    }
    let is_told = texts(request).iter().any(|text| text.contains(WRONG));
    match (is_told, turn(request)) {
        (false, n @ 0..2) => ScriptedReply::tool_call("act", json!({"n": n})),
        (false, _) => {
            ScriptedReply::failure(LlmError::unbilled(LlmErrorKind::InvalidRequest, "no"))
        }
        (true, 1) => ScriptedReply::tool_call("act", json!({"n": "other"})),
        (true, _) => ScriptedReply::text("told"),
    }
}

async fn path(engine: &Engine) -> Vec<Entry> {
    let head = engine.agent(SWARM).await.head.unwrap();
    engine.store.list_path(head, 1_000).await.unwrap()
}

fn is_result(entry: &Entry) -> bool {
    let message = entry.body.message().map(Arc::as_ref);
    matches!(message, Some(Message::ToolResult(_)))
}

/// A store with a swarm that has failed, the conversation of its agent, and the entry it is to go
/// back to.
async fn failed(door: &Arc<Door>) -> (Setup, Vec<Entry>, EntryId) {
    let setup = Setup::new(script).priced().door(door);
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    let left = Arc::downgrade(&faulty);
    let engine = setup.clone().on(faulty).start().await;
    let mut request = create("go", 1);
    request.id = Some(SWARM);
    let swarm = engine.run(request).await;
    assert_eq!(swarm.status, SwarmStatus::Failed);
    let path = path(&engine).await;
    let back_to = path.iter().find(|entry| is_result(entry)).unwrap().id;
    drop(engine);
    gone(&left).await;
    (setup, path, back_to)
}

/// The life in which the retry is asked for, whose `nth` commit fails. False if there was none.
async fn dies(nth: u64, fault: Fault, setup: &Setup, back_to: EntryId) -> bool {
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    faulty.fail_at(nth, fault);
    let left = Arc::downgrade(&faulty);
    if let Ok(engine) = setup.clone().on(shared(&faulty)).try_start().await {
        let agent = engine.agent(SWARM).await.id;
        if engine.retry_agent_from(agent, back_to, true).await.is_ok() {
            drop(within("an end", engine.wait_swarm(SWARM)).await);
        }
        if faulty.commits() < nth {
            return false;
        }
    }
    drop(faulty);
    gone(&left).await;
    true
}

/// The life after it: the retry goes on, or is asked for.
async fn goes_on(engine: &Engine, back_to: EntryId) -> (Swarm, bool) {
    let agent = engine.agent(SWARM).await.id;
    let branched = engine.count("agent.branched").await;
    let asked = engine.retry_agent_from(agent, back_to, true).await;
    match &asked {
        Ok(_) => assert_eq!(branched, 0, "it was there already"),
        Err(err) => assert_eq!((err.kind(), branched), (ErrorKind::Conflict, 1)),
    }
    (engine.finish(SWARM).await, asked.is_ok())
}

/// The agent's conversation is what was kept, the summary of the branch, and what came after.
fn check_path(after: &[Entry], before: &[Entry], back_to: EntryId) {
    let kept = before.iter().position(|entry| entry.id == back_to).unwrap() + 1;
    assert_eq!(after[..kept], before[..kept]);
    let [branch, summary, call, result, end] = &after[kept..] else {
        panic!("{:?}", &after[kept..])
    };
    let expected = EntryBody::Branch {
        abandoned: before.last().unwrap().id,
        summarise: true,
    };
    assert_eq!(branch.body, expected);
    let summed_up =
        matches!(&summary.body, EntryBody::BranchSummary { summary } if summary == WRONG);
    assert!(summed_up, "{summary:?}");
    let answer = |entry: &Entry| match entry.body.message().map(Arc::as_ref) {
        Some(Message::Assistant(answer)) => (answer.text(), answer.tool_calls().count()),
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(call), (String::new(), 1));
    assert!(is_result(result), "{result:?}");
    assert_eq!(answer(end), ("told".to_owned(), 0));
}

#[tokio::test]
async fn a_failed_agent_that_is_sent_back_survives_a_death_at_every_commit() {
    for fault in [Fault::IoBefore, Fault::IoAfter] {
        let (mut commits, mut asked_again) = (0, 0);
        loop {
            let door = Door::new("act", SideEffect::Idempotent);
            let (setup, before, back_to) = failed(&door).await;
            if !dies(commits + 1, fault, &setup, back_to).await {
                break;
            }
            commits += 1;
            // Shown if one of the assertions that follow fails.
            println!("{fault:?} at commit {commits}");
            let engine = setup.start().await;
            let (swarm, again) = goes_on(&engine, back_to).await;
            asked_again += usize::from(again);
            let done = (swarm.status, swarm.result.as_deref());
            assert_eq!(
                done,
                (SwarmStatus::Completed, Some("told")),
                "{:?}",
                swarm.error
            );
            assert_eq!(engine.count("agent.branch_summarised").await, 1);
            assert_eq!(engine.count("agent.branched").await, 1);
            check_path(&path(&engine).await, &before, back_to);
            let branch = before.last().unwrap().id;
            let branch = engine.store.list_path(branch, 1_000).await.unwrap();
            assert_eq!(branch, before, "the branch is still there");
            // One for each turn with a call; the one that was under way may have been made again.
            let keys: HashSet<String> = door.calls().into_iter().map(|c| c.key).collect();
            assert_eq!(keys.len(), 3);
            assert!(door.calls().len() <= 4, "{:?}", door.calls());
            audit(&engine).await;
        }
        assert!(commits > 5, "only {commits} commits");
        // The first commit is the retry's: it is either there as a whole or not at all.
        assert_eq!(asked_again, usize::from(fault == Fault::IoBefore));
    }
}
