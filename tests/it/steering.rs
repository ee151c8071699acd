//! Messages to agents: when they arrive, and what becomes of those that cannot.

use dash::ErrorKind;
use dash::event::EventKind;
use dash::ids::AgentId;
use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::{Message, MessageOrigin, QueueMode, SideEffect, SwarmStatus, TicketState};
use dash::store::{Page, TicketFilter};
use dash_tests::{Door, Engine, Setup, audit, create, texts, turn};
use pretty_assertions::assert_eq;
use serde_json::json;

/// Calls `act` twice side by side, then ends; every answer says how many came before.
fn script(request: &LlmRequest) -> ScriptedReply {
    match turn(request) {
        0 => ScriptedReply::tool_call("act", json!({})).add_tool_call("act", json!({})),
        n => ScriptedReply::text(format!("answer {n}")),
    }
}

async fn tickets(engine: &Engine, agent: AgentId) -> Vec<TicketState> {
    let filter = TicketFilter {
        agent_id: Some(agent),
        state: None,
    };
    let tickets = engine
        .list_tickets(&filter, Page::first(100))
        .await
        .unwrap();
    tickets.items.iter().map(|t| t.state).collect()
}

/// An engine whose one agent stands in the middle of its two tool calls.
async fn in_the_middle(door: &std::sync::Arc<Door>) -> (Engine, AgentId, dash::ids::SwarmId) {
    door.close();
    let engine = Setup::new(script).door(door).start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    door.wait_for_calls(2).await;
    let agent = engine.agent(swarm.id).await.id;
    (engine, agent, swarm.id)
}

#[tokio::test]
async fn steering_arrives_after_the_whole_tool_batch_and_before_the_next_model_call() {
    let door = Door::new("act", SideEffect::Pure);
    let (engine, agent, swarm) = in_the_middle(&door).await;
    engine.steer(agent, "look left").await.unwrap();
    assert_eq!(tickets(&engine, agent).await, [TicketState::Queued]);
    door.open();
    let swarm = engine.finish(swarm).await;
    assert_eq!(swarm.result.as_deref(), Some("answer 1"));
    let requests = engine.desk.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(texts(&requests[1])[2..], ["done", "done", "look left"]);
    let Message::User(user) = requests[1].messages.last().unwrap().as_ref() else {
        panic!()
    };
    assert_eq!(user.origin, MessageOrigin::Steer);
    assert_eq!(tickets(&engine, agent).await, [TicketState::Delivered]);
    let order: Vec<String> = engine
        .events()
        .await
        .iter()
        .map(|e| e.kind.name().to_owned())
        .collect();
    let at = |name: &str| order.iter().rposition(|n| n == name).unwrap();
    assert!(at("tool.completed") < at("message.delivered"));
    assert!(at("message.delivered") < at("agent.turn"));
    audit(&engine).await;
}

#[tokio::test]
async fn a_follow_up_arrives_only_when_the_agent_would_stop() {
    let door = Door::new("act", SideEffect::Pure);
    let (engine, agent, swarm) = in_the_middle(&door).await;
    engine.follow_up(agent, "and now?").await.unwrap();
    door.open();
    let swarm = engine.finish(swarm).await;
    assert_eq!(swarm.result.as_deref(), Some("answer 2"));
    let requests = engine.desk.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(texts(&requests[1]).last().unwrap(), "done");
    assert_eq!(texts(&requests[2])[4..], ["answer 1", "and now?"]);
    assert_eq!(tickets(&engine, agent).await, [TicketState::Delivered]);
    audit(&engine).await;
}

#[tokio::test]
async fn steering_comes_before_follow_ups_and_each_in_its_order() {
    let door = Door::new("act", SideEffect::Pure);
    let (engine, agent, swarm) = in_the_middle(&door).await;
    engine.follow_up(agent, "f1").await.unwrap();
    engine.follow_up(agent, "f2").await.unwrap();
    engine.steer(agent, "s1").await.unwrap();
    engine.steer(agent, "s2").await.unwrap();
    door.open();
    let swarm = engine.finish(swarm).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    let last = engine.desk.requests().pop().unwrap();
    let sent: Vec<String> = texts(&last).into_iter().filter(|t| t.len() == 2).collect();
    assert_eq!(sent, ["s1", "s2", "f1", "f2"]);
    audit(&engine).await;
}

#[tokio::test]
async fn messages_that_wait_for_an_agent_that_ends_are_dropped() {
    let door = Door::new("act", SideEffect::Pure);
    let (engine, agent, swarm) = in_the_middle(&door).await;
    let steer = engine.steer(agent, "too late").await.unwrap();
    engine.follow_up(agent, "too late").await.unwrap();
    engine.kill_agent(agent).await.unwrap();
    engine.finish(swarm).await;
    assert_eq!(tickets(&engine, agent).await, [TicketState::Dropped; 2]);
    let event = engine.wait_for_type("message.dropped").await;
    let EventKind::MessageDropped(dropped) = &event.kind else {
        panic!()
    };
    assert_eq!((dropped.agent_id, dropped.ticket_id), (agent, steer));
    let err = engine.steer(agent, "hello").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    audit(&engine).await;
}

#[tokio::test]
async fn an_inbox_has_a_limit() {
    let mut setup = Setup::new(|_| ScriptedReply::new().hanging());
    setup.settings.inbox_max = 2;
    let engine = setup.start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    let agent = engine.agent(swarm.id).await.id;
    engine.steer(agent, "1").await.unwrap();
    engine.follow_up(agent, "2").await.unwrap();
    let err = engine.steer(agent, "3").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::RateLimited);
    assert_eq!(tickets(&engine, agent).await, [TicketState::Queued; 2]);
    engine.destroy_swarm(swarm.id).await.unwrap();
    audit(&engine).await;
}

#[tokio::test]
async fn a_message_sent_to_a_paused_agent_waits_with_it() {
    let door = Door::new("act", SideEffect::Pure);
    let (engine, agent, swarm) = in_the_middle(&door).await;
    engine.pause_agent(agent).await.unwrap();
    engine.steer(agent, "hello").await.unwrap();
    door.open();
    let first = engine.wait_for_type("tool.completed").await;
    engine
        .wait_after(first.seq, "both tools", |e| {
            e.kind.name() == "tool.completed"
        })
        .await;
    assert_eq!(tickets(&engine, agent).await, [TicketState::Queued]);
    engine.resume_agent(agent).await.unwrap();
    engine.finish(swarm).await;
    assert_eq!(tickets(&engine, agent).await, [TicketState::Delivered]);
    audit(&engine).await;
}

#[tokio::test]
async fn a_queue_in_mode_all_is_delivered_at_once() {
    for (mode, expected) in [
        (QueueMode::OneAtATime, vec![1, 2, 3]),
        (QueueMode::All, vec![3, 3, 3]),
    ] {
        let door = Door::new("act", SideEffect::Pure);
        door.close();
        let script = |request: &LlmRequest| match turn(request) {
            0..3 => ScriptedReply::tool_call("act", json!({})),
            _ => ScriptedReply::text("end"),
        };
        let engine = Setup::new(script).priced().door(&door).start().await;
        let mut request = create("go", 1);
        request.config.steer_mode = mode;
        let swarm = engine.create_swarm(request).await.unwrap();
        door.wait_for_calls(1).await;
        let agent = engine.agent(swarm.id).await;
        for text in ["one", "two", "three"] {
            engine.steer(agent.id, text).await.unwrap();
        }
        door.open();
        engine.finish(swarm.id).await;
        let told = |request: &LlmRequest| {
            let texts = texts(request);
            let of = |text: &&String| ["one", "two", "three"].contains(&text.as_str());
            texts.iter().filter(of).count()
        };
        let counts: Vec<usize> = engine.desk.requests()[1..].iter().map(told).collect();
        assert_eq!(counts, expected, "{mode:?}");
        assert_eq!(engine.count("message.delivered").await, 3);
        audit(&engine).await;
    }
}

#[tokio::test]
async fn messages_that_wait_can_be_taken_back() {
    let door = Door::new("act", SideEffect::Pure);
    door.close();
    let engine = Setup::new(script).door(&door).start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    door.wait_for_calls(2).await;
    let agent = engine.agent(swarm.id).await;
    engine.steer(agent.id, "one").await.unwrap();
    engine.follow_up(agent.id, "two").await.unwrap();
    let taken = engine.clear_inbox(agent.id).await.unwrap();
    let texts: Vec<&str> = taken.iter().map(|t| t.text.as_str()).collect();
    assert_eq!(texts, ["one", "two"]);
    assert_eq!(engine.clear_inbox(agent.id).await.unwrap(), []);
    let states = tickets(&engine, agent.id).await;
    assert_eq!(states, [TicketState::Dropped, TicketState::Dropped]);
    door.open();
    engine.finish(swarm.id).await;
    assert_eq!(engine.count("message.delivered").await, 0);
    assert_eq!(engine.count("message.dropped").await, 2);
    audit(&engine).await;
}
