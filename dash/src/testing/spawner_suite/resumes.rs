//! Going on from a conversation that an earlier engine left.

use std::sync::Arc;

use serde_json::json;

use super::super::verdict::{Verdict, broken, ensure};
use super::book::Book;
use super::lab::{Lab, Setup, TOOL, calls};
use super::rules;
use super::steps::completed;
use crate::llm::ScriptedReply;
use crate::model::{
    AssistantBlock, AssistantMessage, ContentBlock, Message, StopReason, ToolCall,
    ToolResultMessage,
};

fn last() -> ScriptedReply {
    ScriptedReply::text("all is done")
}

/// An answer that called the tool once for each of these.
fn called(actions: &[&str]) -> Arc<Message> {
    let mut answer = AssistantMessage::new("suite", "suite-model");
    answer.stop_reason = StopReason::ToolUse;
    for (at, action) in actions.iter().enumerate() {
        answer.content.push(AssistantBlock::ToolCall(ToolCall {
            id: format!("call_0_{at}"),
            name: TOOL.to_owned(),
            arguments: json!({"do": action}),
            arguments_error: None,
            thought_signature: None,
        }));
    }
    Arc::new(Message::Assistant(answer))
}

fn result(at: usize) -> Arc<Message> {
    Arc::new(Message::ToolResult(ToolResultMessage {
        tool_call_id: format!("call_0_{at}"),
        tool_name: TOOL.to_owned(),
        content: vec![ContentBlock::text("done before")],
        is_error: false,
        details: json!(null),
        is_final: false,
    }))
}

/// An attempt whose conversation goes on with these.
fn with_history(more: Vec<Arc<Message>>) -> Setup {
    let mut setup = Setup::new(vec![calls(&["never"]), last()]);
    setup.history.extend(more);
    setup
}

/// The calls that were made, by id.
fn made(book: &Book) -> Vec<&str> {
    book.made.iter().map(|made| made.call_id.as_str()).collect()
}

pub(super) async fn open_calls_of_the_last_answer_come_first(lab: &Lab) -> Verdict {
    let history = vec![called(&["one", "two", "three"]), result(1)];
    let book = lab.run(with_history(history)).await?;
    completed(&book)?;
    let mut made = made(&book);
    made.sort_unstable();
    let what = format!("made were {made:?}");
    let is_so = made == ["call_0_0", "call_0_2"];
    ensure(is_so, rules::GOES_ON_FROM_ITS_CONVERSATION, what)
}

pub(super) async fn answered_calls_are_not_made_again(lab: &Lab) -> Verdict {
    let history = vec![called(&["one", "two"]), result(1), result(0)];
    let book = lab.run(with_history(history)).await?;
    completed(&book)?;
    let what = format!("made were {:?}", made(&book));
    let is_so = book.made.is_empty();
    ensure(is_so, rules::GOES_ON_FROM_ITS_CONVERSATION, what)
}

pub(super) async fn a_whole_conversation_completes_without_a_call(lab: &Lab) -> Verdict {
    let mut answer = AssistantMessage::new("suite", "suite-model");
    answer.content.push(AssistantBlock::Text {
        text: "all is done".to_owned(),
        signature: None,
    });
    let book = lab
        .run(with_history(vec![Arc::new(Message::Assistant(answer))]))
        .await?;
    completed(&book)?;
    let what = format!("the model was asked {} times", book.requests.len());
    let is_so = book.requests.is_empty();
    ensure(is_so, rules::GOES_ON_FROM_ITS_CONVERSATION, what)
}

pub(super) async fn a_second_try_is_told_to_the_tool(lab: &Lab) -> Verdict {
    let mut setup = with_history(vec![called(&["one"])]);
    setup.orders.tries = 2;
    let book = lab.run(setup).await?;
    completed(&book)?;
    let tries: Vec<u32> = book.made.iter().map(|made| made.try_number).collect();
    let what = format!("the tool was told the tries {tries:?}");
    ensure(tries == [2], rules::WITHIN_LIMITS, what)
}

pub(super) async fn an_idempotency_key_survives_a_restart(lab: &Lab) -> Verdict {
    let first = lab.run(Setup::new(vec![calls(&["one", "two"]), last()]));
    let first = first.await?;
    let mut setup = with_history(vec![called(&["one", "two"])]);
    setup.orders.tries = 2;
    let second = lab.run(setup).await?;
    let keys = |book: &Book| {
        let keys = book.made.iter().map(|m| m.idempotency_key.clone());
        let mut keys: Vec<String> = keys.collect();
        keys.sort();
        keys
    };
    let (before, after) = (keys(&first), keys(&second));
    let are_two = before.first() != before.last() && before.len() == 2;
    if before == after && are_two && before.iter().all(|key| !key.is_empty()) {
        return Ok(());
    }
    let what = format!("the keys were {before:?} and then {after:?}");
    broken(rules::GOES_ON_FROM_ITS_CONVERSATION, what)
}

pub(super) async fn a_second_attempt_goes_on(lab: &Lab) -> Verdict {
    let mut setup = with_history(vec![called(&["one"]), result(0)]);
    setup.attempt = 1;
    setup.turns_left = 1;
    let book = lab.run(setup).await?;
    completed(&book)?;
    let what = format!("the model was asked {} times", book.requests.len());
    ensure(book.requests.len() == 1, rules::WITHIN_LIMITS, what)
}
