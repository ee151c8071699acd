//! Decisions without a shell: inputs in, and every output is committed to the strict in-memory
//! store, which refuses illegal moves, stale versions and broken budgets.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::effect::{Command, Effect, Input, Reply, ReplyId};
use super::super::state::State;
use super::Decision;
use crate::Result;
use crate::api::CreateSwarm;
use crate::env::UnixMillis;
use crate::event::EventKind;
use crate::ids::{AgentId, SwarmId};
use crate::llm::{Model, ModelPrice};
use crate::model::{
    Amount, AssistantBlock, AssistantMessage, Message, NanoUsd, StepKey, StopReason, ToolCall,
    ToolResultMessage, Usage,
};
use crate::settings::Settings;
use crate::spawn::{Advance, Grant, ModelIntent, Next, Outcome, ToolIntent};
use crate::store::{MemoryStore, Store as _};
use crate::testing::CountingIds;

mod cases;
mod ledger;
mod random;

/// A state, a clock and a store, driven by hand.
struct World {
    state: State,
    ids: CountingIds,
    now: i64,
    store: MemoryStore,
    replies: HashMap<u64, Result<Reply>>,
    next_reply: u64,
    effects: Vec<Effect>,
    events: Vec<EventKind>,
}

/// One nano-dollar a token, in and out.
fn penny_model() -> Model {
    let mut model = Model::free("m", "p");
    model.price = ModelPrice {
        input: NanoUsd(1_000_000),
        output: NanoUsd(1_000_000),
        ..ModelPrice::default()
    };
    model
}

impl World {
    fn new(settings: Settings) -> Self {
        // Of the same price; an agent may be moved up from one to the other.
        let models = ["m", "n"].map(|id| {
            let mut model = penny_model();
            id.clone_into(&mut model.id);
            (id.to_owned(), Arc::new(model))
        });
        let models = HashMap::from(models);
        let mut world = Self {
            state: State::new(Arc::new(settings), Arc::new(models)),
            ids: CountingIds::seeded(7),
            now: 1_000_000,
            store: MemoryStore::new(),
            replies: HashMap::new(),
            next_reply: 0,
            effects: Vec::new(),
            events: Vec::new(),
        };
        world.with(|decision| {
            decision.project("default");
        });
        world
    }

    /// Decides and commits.
    fn with<T>(&mut self, act: impl FnOnce(&mut Decision<'_>) -> T) -> T {
        self.now += 1;
        let mut decision = Decision::new(&mut self.state, UnixMillis(self.now), &self.ids);
        let result = act(&mut decision);
        let out = self.state.take_output();
        if !out.changes.is_empty() {
            let commit = self.store.commit(out.changes);
            let committed = futures_util::FutureExt::now_or_never(commit)
                .expect("the memory store never waits")
                .expect("the strict store takes every decision");
            self.events
                .extend(committed.events.into_iter().map(|event| event.kind));
        }
        for (id, answer) in out.replies {
            assert!(
                self.replies.insert(id.0, answer).is_none(),
                "answered twice"
            );
        }
        self.effects.extend(out.effects);
        result
    }

    fn input(&mut self, input: impl FnOnce(ReplyId) -> Input) -> u64 {
        self.next_reply += 1;
        let reply = ReplyId(self.next_reply);
        let input = input(reply);
        self.with(|decision| decision.decide(input));
        reply.0
    }

    fn command(&mut self, command: Command) -> Result<Reply> {
        let id = self.input(|reply| Input::Command {
            command,
            expected: None,
            reply,
        });
        self.replies
            .remove(&id)
            .expect("commands are answered at once")
    }

    fn swarm(&mut self, request: CreateSwarm) -> SwarmId {
        let mut request = request;
        request.config.model = "m".to_owned();
        match self.command(Command::CreateSwarm(Box::new(request))) {
            Ok(Reply::Swarm(swarm)) => swarm.id,
            other => panic!("{other:?}"),
        }
    }

    fn advance(&mut self, agent: AgentId, outcomes: Vec<Outcome>, next: Next) -> u64 {
        let attempt = self.state.agents.get(agent).map_or(0, |a| a.attempt);
        let advance = Box::new(Advance { outcomes, next });
        self.input(|reply| Input::Advance {
            agent_id: agent,
            attempt,
            advance,
            reply,
        })
    }

    /// The answer to an advance, if it has come.
    fn grant(&mut self, id: u64) -> Option<Grant> {
        self.replies.remove(&id).map(|answer| match answer {
            Ok(Reply::Grant(grant)) => *grant,
            other => panic!("{other:?}"),
        })
    }

    /// Agents that the effects since the last call start.
    fn started(&mut self) -> Vec<AgentId> {
        let start = |effect: Effect| match effect {
            Effect::Start(id) => Some(id),
            Effect::Cancel(_) | Effect::RetryAt { .. } => None,
        };
        std::mem::take(&mut self.effects)
            .into_iter()
            .filter_map(start)
            .collect()
    }

    fn count(&self, name: &str) -> usize {
        self.events
            .iter()
            .filter(|kind| kind.name() == name)
            .count()
    }
}

/// A call of at most 10 + `output` tokens.
fn model(turn: u32, output: u32) -> Next {
    let intent = ModelIntent {
        input_tokens_max: 10,
        output_tokens: output,
        output_tokens_floor: 5,
    };
    Next::Model { turn, intent }
}

fn answered(key: StepKey, used: u64, calls: &[&str]) -> Outcome {
    let call = |id: &&str| {
        AssistantBlock::ToolCall(ToolCall {
            id: (*id).to_owned(),
            name: "tool".to_owned(),
            arguments: serde_json::json!({}),
            arguments_error: None,
            thought_signature: None,
        })
    };
    let usage = Usage {
        input: used,
        ..Usage::default()
    };
    let message = Arc::new(Message::Assistant(AssistantMessage {
        content: calls.iter().map(call).collect(),
        provider: "p".to_owned(),
        model: "m".to_owned(),
        api: String::new(),
        cost_reported: false,
        response_model: None,
        response_id: None,
        usage,
        cost: NanoUsd(i64::try_from(used).unwrap()),
        stop_reason: StopReason::Stop,
        raw_stop_reason: None,
    }));
    let used = Amount {
        usd: NanoUsd(i64::try_from(used).unwrap()),
        tokens: used,
    };
    Outcome::Answered { key, message, used }
}

fn tool_answered(key: StepKey, call: &str) -> Outcome {
    let message = Arc::new(Message::ToolResult(ToolResultMessage {
        tool_call_id: call.to_owned(),
        tool_name: "tool".to_owned(),
        content: Vec::new(),
        is_error: false,
        details: serde_json::Value::Null,
        is_final: false,
    }));
    Outcome::ToolAnswered {
        key,
        message,
        duration: std::time::Duration::ZERO,
    }
}

fn tool(index: u32, call: &str, side_effect: crate::model::SideEffect) -> ToolIntent {
    ToolIntent {
        index,
        call_id: call.to_owned(),
        tool: "tool".to_owned(),
        side_effect,
    }
}
