//! Conversations of an audited database: what is in them, what models were asked with, and where
//! messages and models came from.

#![cfg(test)]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use dash::event::EventKind;
use dash::ids::{AgentId, EntryId};
use dash::model::entry::context;
use dash::model::{
    Agent, AssistantMessage, Entry, EntryBody, Message, MessageOrigin, Step, StepKind, StepState,
    TicketState,
};
use dash_tests::fingerprint;

use crate::crash_audit::Records;

pub(crate) fn check_conversations(records: &Records) {
    for agent in &records.agents {
        check_path(agent, &records.paths[&agent.id], records);
        check_models(agent, records);
    }
    check_summaries(records);
    check_tickets(records);
}

/// The answers of an agent, in order.
pub(crate) fn answers(path: &[Entry]) -> impl Iterator<Item = &AssistantMessage> {
    path.iter()
        .filter_map(|e| match e.body.message()?.as_ref() {
            Message::Assistant(answer) => Some(answer),
            Message::User(_) | Message::ToolResult(_) => None,
        })
}

const fn is_compaction(entry: &Entry) -> bool {
    matches!(entry.body, EntryBody::Compaction { .. })
}

/// Every answer's calls have at most one result each, and answers and summaries are counted as
/// turns.
fn check_path(agent: &Agent, path: &[Entry], records: &Records) {
    let mut open: HashSet<String> = HashSet::new();
    for message in path.iter().filter_map(|entry| entry.body.message()) {
        match message.as_ref() {
            Message::User(_) => {}
            Message::Assistant(answer) => {
                assert!(open.is_empty(), "{open:?} have no result before an answer");
                open.extend(answer.tool_calls().map(|call| call.id.clone()));
            }
            Message::ToolResult(result) => {
                let id = &result.tool_call_id;
                assert!(
                    open.remove(id),
                    "a second result of {id}, or one of no call"
                );
            }
        }
    }
    let turns = answers(path).count() + path.iter().filter(|e| is_compaction(e)).count();
    assert_eq!(turns, agent.turns as usize, "{agent:?}");
    let done = |s: &&Step| {
        s.agent_id == agent.id && s.key.kind() == StepKind::Tool && s.state == StepState::Done
    };
    let count = records.steps.iter().filter(done).count();
    assert_eq!(agent.tool_calls as usize, count, "{agent:?}");
}

/// Escalations lead from the agent's first model to the one it has, and each call was made with
/// the model of its time.
fn check_models(agent: &Agent, records: &Records) {
    let mut now: Option<String> = None;
    let mut steps = Vec::new();
    for event in &records.events {
        match &event.kind {
            EventKind::AgentEscalated(e) if e.agent_id == agent.id => {
                if let Some(now) = &now {
                    assert_eq!(*now, e.from, "{agent:?}");
                }
                now = Some(e.to.clone());
            }
            EventKind::AgentTurn(e) if e.agent_id == agent.id => steps.push((e.step, now.clone())),
            EventKind::AgentCompacted(e) if e.agent_id == agent.id => {
                steps.push((e.step, now.clone()));
            }
            _ => {}
        }
    }
    let first = records.events.iter().find_map(|event| match &event.kind {
        EventKind::AgentEscalated(e) if e.agent_id == agent.id => Some(e.from.clone()),
        _ => None,
    });
    let first = first.unwrap_or_else(|| agent.model.clone());
    assert_eq!(
        now.unwrap_or_else(|| first.clone()),
        agent.model,
        "{agent:?}"
    );
    for (key, model) in steps {
        let of_key = |s: &&Step| s.agent_id == agent.id && s.key == key;
        let step = records.steps.iter().find(of_key).unwrap();
        let model = model.unwrap_or_else(|| first.clone());
        assert_eq!(step.name, model, "{step:?}");
        let path = &records.paths[&agent.id];
        let entry = path.iter().find(|e| Some(e.id) == step.entry_id).unwrap();
        if let Some(Message::Assistant(answer)) = entry.body.message().map(Arc::as_ref) {
            assert_eq!(answer.model, model, "{step:?}");
        }
    }
}

/// Summary steps that are done and compaction entries belong together, one to one.
fn check_summaries(records: &Records) {
    let mut entries: HashMap<EntryId, &Entry> = HashMap::new();
    for path in records.paths.values() {
        entries.extend(path.iter().filter(|e| is_compaction(e)).map(|e| (e.id, e)));
    }
    let made = entries.len();
    for step in &records.steps {
        if step.key.kind() != StepKind::Summary || step.state != StepState::Done {
            continue;
        }
        let entry = step.entry_id.and_then(|id| entries.remove(&id));
        let entry = entry.unwrap_or_else(|| panic!("no compaction for {step:?}"));
        let whose = (entry.agent_id, entry.step);
        assert_eq!(whose, (step.agent_id, Some(step.key)), "{entry:?}");
    }
    assert!(entries.is_empty(), "of no summary: {entries:?}");
    let told = records.events.iter();
    let told = told.filter(|e| e.kind.name() == "agent.compacted");
    assert_eq!(told.count(), made, "events and compactions");
}

/// A message was delivered exactly once, or never; what is stored, told and in the conversation is
/// the same.
fn check_tickets(records: &Records) {
    let mut told: HashMap<_, [usize; 3]> = HashMap::new();
    for event in &records.events {
        let (id, what) = match &event.kind {
            EventKind::MessageQueued(e) => (e.ticket_id, 0),
            EventKind::MessageDelivered(e) => (e.ticket_id, 1),
            EventKind::MessageDropped(e) => (e.ticket_id, 2),
            _ => continue,
        };
        told.entry(id).or_default()[what] += 1;
    }
    assert_eq!(told.len(), records.tickets.len(), "tickets and events");
    for ticket in &records.tickets {
        let expected = match ticket.state {
            TicketState::Queued => [1, 0, 0],
            TicketState::Delivered => [1, 1, 0],
            TicketState::Dropped => [1, 0, 1],
        };
        assert_eq!(told.get(&ticket.id), Some(&expected), "{ticket:?}");
        let path = &records.paths[&ticket.agent_id];
        let heard = path.iter().filter(|e| is_told(e, &ticket.text)).count();
        assert_eq!(heard, expected[1], "{ticket:?}");
    }
}

/// Whether this is a message that someone sent to the agent, with this text.
fn is_told(entry: &Entry, text: &str) -> bool {
    match entry.body.message().map(Arc::as_ref) {
        Some(Message::User(user)) => {
            let sent = matches!(user.origin, MessageOrigin::Steer | MessageOrigin::FollowUp);
            sent && user.content == [dash::model::ContentBlock::text(text)]
        }
        _ => false,
    }
}

/// A conversation as it is sent: results in the order of their calls, and before what was said
/// while they came.
fn as_sent(path: &[Entry]) -> Vec<Arc<Message>> {
    let messages = context(path.iter().map(|entry| &entry.body)).messages;
    let mut sent: Vec<Arc<Message>> = Vec::new();
    let mut rest = messages.as_slice();
    while let Some((message, after)) = rest.split_first() {
        sent.push(Arc::clone(message));
        rest = after;
        let Message::Assistant(answer) = message.as_ref() else {
            continue;
        };
        let end = after
            .iter()
            .position(|m| matches!(m.as_ref(), Message::Assistant(_)));
        let (batch, next) = after.split_at(end.unwrap_or(after.len()));
        for call in answer.tool_calls() {
            sent.extend(batch.iter().filter(|m| answers_call(m, &call.id)).cloned());
        }
        let others = batch
            .iter()
            .filter(|m| !matches!(m.as_ref(), Message::ToolResult(_)));
        sent.extend(others.cloned());
        rest = next;
    }
    sent
}

fn answers_call(message: &Arc<Message>, id: &str) -> bool {
    matches!(message.as_ref(), Message::ToolResult(result) if result.tool_call_id == id)
}

/// What models were asked with, as noted by the driver, is what the stored conversations say: for
/// an answer all that comes before it, for a call without one the conversation of some moment of
/// the same turn. Returns how many requests were compared.
pub(crate) fn check_asked(dir: &Path, records: &Records) -> usize {
    let text = std::fs::read_to_string(dir.join("asked.log")).unwrap_or_default();
    let mut asked: HashMap<&str, Vec<&str>> = HashMap::new();
    let lines = text.split_inclusive('\n');
    for line in lines.filter_map(|line| line.strip_suffix('\n')) {
        let (key, print) = line.split_once(' ').unwrap();
        asked.entry(key).or_default().push(print);
    }
    let mut prefixes: HashMap<AgentId, Vec<(u32, String)>> = HashMap::new();
    let mut compared = 0;
    for step in records
        .steps
        .iter()
        .filter(|s| s.key.kind().is_model_call())
    {
        let key = step.idempotency_key();
        let prints = asked.remove(key.as_str()).unwrap_or_default();
        let is_done = step.state == StepState::Done;
        assert!(
            !is_done || !prints.is_empty(),
            "answered and not asked: {step:?}"
        );
        if step.key.kind() == StepKind::Summary {
            continue;
        }
        let path = &records.paths[&step.agent_id];
        let prefixes = prefixes
            .entry(step.agent_id)
            .or_insert_with(|| prints_of(path));
        let answered = path.iter().position(|e| Some(e.id) == step.entry_id);
        let last = prints.len().saturating_sub(1);
        for (number, print) in prints.into_iter().enumerate() {
            compared += 1;
            match answered.filter(|_| is_done && number == last) {
                Some(at) => assert_eq!(print, prefixes[at].1, "what {key} was asked"),
                None => assert!(
                    prefixes
                        .iter()
                        .any(|(turns, known)| turns + 1 == step.key.turn() && known == print),
                    "{key} was asked with what was never its conversation"
                ),
            }
        }
    }
    assert!(asked.is_empty(), "asked without intent: {:?}", asked.keys());
    compared
}

/// For each length of a path: the turns in it, and the fingerprint of what is sent of it.
fn prints_of(path: &[Entry]) -> Vec<(u32, String)> {
    let mut turns = 0;
    let mut prints = Vec::new();
    for end in 0..=path.len() {
        prints.push((turns, fingerprint(&as_sent(&path[..end]))));
        let next = path.get(end);
        let is_turn = next.is_some_and(|e| is_compaction(e) || is_answer(e));
        turns += u32::from(is_turn);
    }
    prints
}

fn is_answer(entry: &Entry) -> bool {
    matches!(
        entry.body.message().map(Arc::as_ref),
        Some(Message::Assistant(_))
    )
}
