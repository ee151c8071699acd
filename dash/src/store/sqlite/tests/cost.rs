//! What a turn costs in bytes of file.

use super::*;
use crate::event::{
    AgentProgress, AgentTurn, CostSoFar, EventKind, NewEvent, ProgressReport, ToolCompleted,
    ToolStarted,
};
use crate::ids::EventId;
use crate::model::{
    Amount, AssistantBlock, AssistantMessage, ContentBlock, EntryBody, Message, NanoUsd,
    SideEffect, StopReason, ToolCall, ToolResultMessage, Usage,
};
use crate::store::RowWrite;

/// Numbers that look random.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn id(&mut self, at: u64) -> u128 {
        (u128::from(at) << 80) | u128::from(self.next())
    }

    fn text(&mut self, len: usize) -> String {
        (0..len)
            .map(|_| char::from(b'!' + u8::try_from(self.next() % 90).unwrap()))
            .collect()
    }
}

fn answer(noise: &mut Noise, path: &str) -> EntryBody {
    let call = ToolCall {
        id: noise.text(24),
        name: "read_file".to_owned(),
        arguments: serde_json::json!({ "path": path }),
        arguments_error: None,
        thought_signature: None,
    };
    let message = AssistantMessage {
        content: vec![AssistantBlock::ToolCall(call)],
        provider: "scripted".to_owned(),
        model: "scripted-1".to_owned(),
        api: String::new(),
        cost_reported: false,
        response_model: None,
        response_id: None,
        usage: Usage {
            input: 1_200,
            output: 150,
            ..Usage::default()
        },
        cost: NanoUsd(1_234_567),
        stop_reason: StopReason::ToolUse,
        raw_stop_reason: None,
    };
    EntryBody::Message {
        message: Arc::new(Message::Assistant(message)),
    }
}

fn result(text: String) -> EntryBody {
    let message = ToolResultMessage {
        tool_call_id: "call_0".to_owned(),
        tool_name: "read_file".to_owned(),
        content: vec![ContentBlock::text(text)],
        is_error: false,
        details: serde_json::Value::Null,
        is_final: false,
    };
    EntryBody::Message {
        message: Arc::new(Message::ToolResult(message)),
    }
}

#[expect(clippy::too_many_lines, reason = "one turn from end to end, as data")]
/// A turn: a model call and a tool call, each intended in one commit and done in the next.
async fn turn(store: &SqliteStore, noise: &mut Noise, agent: &mut Agent, body: String) {
    let number = agent.turns + 1;
    let at = 1_770_028_921_123 + u64::from(number) * 900;
    let model = StepKey::Model {
        turn: number,
        attempt: 0,
    };
    let tool = StepKey::Tool {
        turn: number,
        index: 0,
    };
    let mut held = WORLD.reservation(1);
    held.id = ReservationId::from_u128(noise.id(at));
    held.step = model;
    let step = |key, name: &str, side_effect| Step {
        name: name.to_owned(),
        side_effect,
        reservation_id: None,
        ..WORLD.step(key)
    };
    let mut asked = step(model, "scripted-1", SideEffect::Idempotent);
    asked.reservation_id = Some(held.id);
    let mut called = step(tool, "read_file", SideEffect::Pure);
    let mut entry = |agent: &mut Agent, body, key| {
        let mut entry = WORLD.entry(1, body);
        entry.parent_id = agent.head;
        entry.step = Some(key);
        entry.id = EntryId::from_u128(noise.id(at));
        agent.head = Some(entry.id);
        entry
    };
    let agent_id = WORLD.agent_id;
    let mut seed = Noise(at);
    let mut event = |kind: EventKind| NewEvent {
        id: EventId::from_u128(seed.id(at)),
        ..WORLD.event_of(kind)
    };
    let write = |agent: &mut Agent| {
        let expected = Some(agent.version);
        agent.version += 1;
        vec![RowWrite {
            row: agent.clone(),
            expected,
        }]
    };
    let intent = Changeset {
        reservations: vec![held.clone()],
        steps: vec![asked.clone()],
        ..Changeset::default()
    };
    store.commit(intent).await.unwrap();

    let said = entry(agent, answer(&mut Noise(at), "src/main.rs"), model);
    (asked.state, asked.entry_id, asked.finished_at) = (StepState::Done, Some(said.id), Some(AT));
    held.state = ReservationState::Settled;
    held.actual = Some(Amount {
        usd: NanoUsd(1_234_567),
        tokens: 1_350,
    });
    agent.turns = number;
    let usage = Usage {
        input: 1_200,
        output: 150,
        ..Usage::default()
    };
    let progress = ProgressReport {
        current: number,
        total: 200,
        percentage: number / 2,
    };
    let cost = CostSoFar {
        tokens: u64::from(number) * 1_350,
        amount: 0.001_234_567,
    };
    let done = Changeset {
        agents: write(agent),
        reservations: vec![held],
        entries: vec![said],
        steps: vec![asked, called.clone()],
        events: vec![
            event(
                AgentTurn {
                    agent_id,
                    step: model,
                    usage,
                    cost_nanos: 1_234_567,
                    tool_calls: 1,
                }
                .into(),
            ),
            event(
                AgentProgress {
                    agent_id,
                    progress,
                    cost,
                }
                .into(),
            ),
            event(
                ToolStarted {
                    agent_id,
                    step: tool,
                    tool: "read_file".into(),
                }
                .into(),
            ),
        ],
        ..Changeset::default()
    };
    store.commit(done).await.unwrap();

    let heard = entry(agent, result(body), tool);
    (called.state, called.entry_id, called.finished_at) =
        (StepState::Done, Some(heard.id), Some(AT));
    let ended = ToolCompleted {
        agent_id,
        step: tool,
        tool: "read_file".into(),
        is_error: false,
        duration_ms: 12,
    };
    let done = Changeset {
        agents: write(agent),
        entries: vec![heard],
        steps: vec![called],
        events: vec![event(ended.into())],
        ..Changeset::default()
    };
    store.commit(done).await.unwrap();
}

/// Bytes of file per turn over 200 turns whose tool results have `len` bytes that do not compress.
async fn bytes_per_turn(len: usize) -> u64 {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    let mut agent = Agent {
        head: None,
        turns: 0,
        ..WORLD.agent()
    };
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    store.close().await.unwrap();
    let empty = std::fs::metadata(&path).unwrap().len();
    let store = SqliteStore::open(&path).await.unwrap();
    for _ in 0..200 {
        let body = noise.text(len);
        turn(&store, &mut noise, &mut agent, body).await;
    }
    store.close().await.unwrap();
    let bytes = (std::fs::metadata(&path).unwrap().len() - empty) / 200;
    eprintln!("{bytes} bytes per turn with results of {len} bytes");
    bytes
}

#[tokio::test]
async fn a_turn_fits_two_kilobytes() {
    let bytes = bytes_per_turn(100).await;
    assert!(bytes <= 2_048, "{bytes}");
}

#[tokio::test]
async fn large_results_cost_little_more_than_themselves() {
    let (small, large) = (bytes_per_turn(1_024).await, bytes_per_turn(9_216).await);
    assert!(large - small <= 8_192 * 5 / 4, "{small} {large}");
}
