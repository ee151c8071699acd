//! Messages that wait for an agent whose engine dies at any commit.

use std::sync::Arc;

use dash::event::EventKind;
use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::inbox::Queue;
use dash::model::{
    ContentBlock, Message, MessageOrigin, QueueMode, SideEffect, SwarmStatus, Ticket, TicketState,
};
use dash::store::{Page, TicketFilter};
use dash::testing::FaultyStore;
use dash::testing::faulty_store::Fault;
use dash_tests::{Door, Engine, Setup, audit, create, shared, texts, turn, within};
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::recovery::{SWARM, gone};

/// Follow-ups and steers as they are sent.
const SENT: [(Queue, &str); 6] = [
    (Queue::FollowUp, "f1"),
    (Queue::Steer, "s1"),
    (Queue::Steer, "s2"),
    (Queue::FollowUp, "f2"),
    (Queue::Steer, "s3"),
    (Queue::FollowUp, "f3"),
];

/// The first life: sends all it can while the agent waits for its tool, then lets it go on. Its
/// `nth` commit fails. Returns how many were sent for sure; `None` if there was no such commit.
async fn sends(
    nth: u64,
    fault: Fault,
    setup: &Setup,
    door: &Door,
    mode: QueueMode,
) -> Option<usize> {
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    faulty.fail_at(nth, fault);
    let left = Arc::downgrade(&faulty);
    let mut sent = 0;
    if let Ok(engine) = setup.clone().on(shared(&faulty)).try_start().await {
        let mut request = create("go", 1);
        request.id = Some(SWARM);
        (request.config.steer_mode, request.config.follow_up_mode) = (mode, mode);
        let is_created = engine.create_swarm(request).await.is_ok();
        let is_called = is_created
            && tokio::select! {
                // It dies before.
                _ = engine.wait_swarm(SWARM) => false,
                () = door.wait_for_calls(1) => true,
            };
        if is_called {
            let agent = engine.agent(SWARM).await.id;
            for (queue, text) in SENT {
                let ticket = match queue {
                    Queue::Steer => engine.steer(agent, text).await,
                    Queue::FollowUp => engine.follow_up(agent, text).await,
                };
                sent += usize::from(ticket.is_ok());
            }
        }
        door.open();
        if is_created {
            drop(within("an end", engine.wait_swarm(SWARM)).await);
        }
        if faulty.commits() < nth {
            return None;
        }
    }
    drop(faulty);
    door.open();
    gone(&left).await;
    Some(sent)
}

async fn tickets(engine: &Engine) -> Vec<Ticket> {
    let page = Page::first(100);
    let tickets = engine.list_tickets(&TicketFilter::default(), page).await;
    tickets.unwrap().items
}

/// What the agent was told, as its conversation has it.
async fn told(engine: &Engine) -> Vec<String> {
    let head = engine.agent(SWARM).await.head.unwrap();
    let path = engine.store.list_path(head, 1_000).await.unwrap();
    let text = |message: &Message| match message {
        Message::User(user) if user.origin != MessageOrigin::Task => match &user.content[..] {
            [ContentBlock::Text { text }] => Some(text.clone()),
            other => panic!("{other:?}"),
        },
        _ => None,
    };
    path.iter()
        .filter_map(|entry| text(entry.body.message()?))
        .collect()
}

fn told_in(request: &LlmRequest) -> Vec<String> {
    let is_sent = |text: &String| SENT.iter().any(|(_, sent)| sent == text);
    texts(request).into_iter().filter(is_sent).collect()
}

/// Steers in their order, and then follow-ups in theirs.
fn in_order(tickets: &[Ticket]) -> Vec<String> {
    let of = |queue| tickets.iter().filter(move |t| t.queue == queue);
    let ordered = of(Queue::Steer).chain(of(Queue::FollowUp));
    ordered.map(|ticket| ticket.text.clone()).collect()
}

/// Each request says what the one before it said and, of what is new, as much as the mode allows.
/// The first of the second life is request number `first`.
fn check_requests(requests: &[LlmRequest], first: usize, tickets: &[Ticket], mode: QueueMode) {
    let all = in_order(tickets);
    let steers = tickets.iter().filter(|t| t.queue == Queue::Steer).count();
    let mut known = 0;
    for (number, request) in requests.iter().enumerate() {
        let told = told_in(request);
        assert_eq!(told, all[..told.len()], "told in another order");
        if told.len() > known {
            // What was delivered with a call that was never made is said with the next one.
            let unsaid = usize::from(number == first && told.len() == known + 2);
            let step = match mode {
                QueueMode::OneAtATime => known + 1 + unsaid,
                QueueMode::All if known < steers => steers,
                QueueMode::All => all.len(),
            };
            assert_eq!(told.len(), step, "{mode:?}: {told:?}");
        }
        assert!(told.len() >= known, "{known} were told: {told:?}");
        known = told.len();
    }
    assert_eq!(known, all.len());
}

async fn count(engine: &Engine, ticket: &Ticket) -> [usize; 2] {
    let mut counts = [0, 0];
    for event in engine.events().await {
        match &event.kind {
            EventKind::MessageQueued(e) if e.ticket_id == ticket.id => counts[0] += 1,
            EventKind::MessageDelivered(e) if e.ticket_id == ticket.id => counts[1] += 1,
            _ => {}
        }
    }
    counts
}

async fn dies_while_messages_wait(mode: QueueMode, fault: Fault) {
    let (mut commits, mut complete, mut waited) = (0, 0, 0);
    loop {
        let door = Door::new("act", SideEffect::Idempotent);
        door.close();
        let script = |request: &LlmRequest| match turn(request) {
            0..2 => ScriptedReply::tool_call("act", json!({})),
            n => ScriptedReply::text(format!("answer {n}")),
        };
        let setup = Setup::new(script).priced().door(&door);
        let Some(sent) = sends(commits + 1, fault, &setup, &door, mode).await else {
            break;
        };
        commits += 1;
        // Shown if one of the assertions that follow fails.
        println!("{mode:?}, {fault:?} at commit {commits}");
        let Some(_) = setup.store.find_swarm(SWARM).await.unwrap() else {
            continue;
        };
        let first = setup.desk.calls();
        let engine = setup.start().await;
        let before = tickets(&engine).await;
        // Of one that failed nobody can know whether it was queued.
        assert!(before.len() == sent || before.len() == sent + 1 && fault == Fault::IoAfter);
        complete += usize::from(before.len() == SENT.len());
        waited += before
            .iter()
            .filter(|t| t.state == TicketState::Queued)
            .count();
        let swarm = engine.finish(SWARM).await;
        assert_eq!(swarm.status, SwarmStatus::Completed, "{:?}", swarm.error);
        let after = tickets(&engine).await;
        assert_eq!(after.len(), before.len());
        for ticket in &after {
            assert_eq!(ticket.state, TicketState::Delivered);
            assert_eq!(count(&engine, ticket).await, [1, 1], "{ticket:?}");
        }
        assert_eq!(told(&engine).await, in_order(&after));
        check_requests(&setup.desk.requests(), first, &after, mode);
        audit(&engine).await;
    }
    assert!(
        complete > 5,
        "only {complete} of {commits} after all were sent"
    );
    assert!(waited > 5, "only {waited} waited for the next engine");
}

#[tokio::test]
async fn messages_that_wait_survive_a_death_at_every_commit() {
    for mode in [QueueMode::OneAtATime, QueueMode::All] {
        for fault in [Fault::IoBefore, Fault::IoAfter] {
            dies_while_messages_wait(mode, fault).await;
        }
    }
}

#[tokio::test]
async fn messages_are_all_taken_back_or_none_when_the_engine_dies_at_it() {
    for (fault, again) in [
        (Fault::IoBefore, false),
        (Fault::IoBefore, true),
        (Fault::IoAfter, false),
        (Fault::IoAfter, true),
    ] {
        let door = Door::new("act", SideEffect::Idempotent);
        door.close();
        let script = |request: &LlmRequest| match turn(request) {
            0 => ScriptedReply::tool_call("act", json!({})),
            n => ScriptedReply::text(format!("answer {n}")),
        };
        let setup = Setup::new(script).priced().door(&door);
        let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
        let left = Arc::downgrade(&faulty);
        let engine = setup.clone().on(shared(&faulty)).start().await;
        let mut request = create("go", 1);
        request.id = Some(SWARM);
        engine.create_swarm(request).await.unwrap();
        door.wait_for_calls(1).await;
        let agent = engine.agent(SWARM).await.id;
        engine.steer(agent, "s1").await.unwrap();
        engine.steer(agent, "s2").await.unwrap();
        engine.follow_up(agent, "f1").await.unwrap();
        faulty.push(Some(fault));
        engine.clear_inbox(agent).await.unwrap_err();
        drop((engine, faulty));
        gone(&left).await;

        let engine = setup.start().await;
        let is_taken = fault == Fault::IoAfter;
        let state = if is_taken {
            TicketState::Dropped
        } else {
            TicketState::Queued
        };
        let states = |tickets: Vec<Ticket>| tickets.iter().map(|t| t.state).collect::<Vec<_>>();
        assert_eq!(states(tickets(&engine).await), [state; 3], "{fault:?}");
        door.wait_for_calls(2).await;
        if again {
            let taken = engine.clear_inbox(agent).await.unwrap();
            let taken: Vec<String> = taken.into_iter().map(|t| t.text).collect();
            let expected: &[&str] = if is_taken { &[] } else { &["s1", "s2", "f1"] };
            assert_eq!(taken, expected);
        }
        door.open();
        let swarm = engine.finish(SWARM).await;
        assert_eq!(swarm.status, SwarmStatus::Completed, "{:?}", swarm.error);
        let (state, expected): (_, &[&str]) = if is_taken || again {
            (TicketState::Dropped, &[])
        } else {
            (TicketState::Delivered, &["s1", "s2", "f1"])
        };
        assert_eq!(states(tickets(&engine).await), [state; 3]);
        assert_eq!(told(&engine).await, expected);
        assert_eq!(engine.count("message.delivered").await, expected.len());
        assert_eq!(engine.count("message.dropped").await, 3 - expected.len());
        audit(&engine).await;
    }
}
