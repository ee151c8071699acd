//! Two swarms of three agents that use everything that changes a conversation on its way. They
//! differ in how many messages they are told at once.
//!
//! Their window is small, so that it is summed up; those with an even part fail with their first
//! model and go on with the second; each calls a helper as a tool, ends with an answer that does
//! not fit the schema, and is steered while it works. Hooks rewrite the calls: as the model says
//! them they fail.

use std::io::Write as _;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dash::api::CreateSwarm;
use dash::env::{Clock as _, SystemClock};
use dash::event::EventKind;
use dash::ids::{AgentId, SwarmId};
use dash::llm::layer::{RateLimit, RateLimited, RetryOptions, Retrying};
use dash::llm::{
    LlmError, LlmErrorKind, LlmProvider, LlmRequest, Model, ScriptedLlm, ScriptedReply,
};
use dash::model::inbox::{Queue, QueueMode};
use dash::model::{AgentProfile, Message, MessageOrigin, NanoUsd, SideEffect, ToolCall};
use dash::spawn::{AgentHooks, HookContext, ToolGate};
use dash::store::EventFilter;
use dash::{ErrorKind, Orchestrator, Result};
use dash_tests::{fingerprint, is_summary, task_of, turn_number};
use serde_json::json;

use super::tell::{complain, say};
use super::{WORK, model};

/// The swarms: id (fixed, so that a restart finds what it has created), name, parts, and how many
/// messages their agents are told at once.
pub(crate) const LADDERS: [(SwarmId, &str, RangeInclusive<u32>, QueueMode); 2] = [
    (SwarmId::from_u128(3), "ladder", 1..=3, QueueMode::All),
    (
        SwarmId::from_u128(4),
        "ladder-slow",
        4..=6,
        QueueMode::OneAtATime,
    ),
];

/// Tokens of its models' window.
const WINDOW: u32 = 1_280;
/// The turn from which its agents want to end.
const LAST_TURN: u32 = 16;
/// One call of so many is refused, and made again by the layer above.
const REFUSED_OF: u32 = 9;

/// A swarm with an agent for each part.
pub(crate) fn swarm(
    mut request: CreateSwarm,
    parts: RangeInclusive<u32>,
    mode: QueueMode,
) -> CreateSwarm {
    request.parts = parts.map(|n| format!("number {n}")).collect();
    request.initial_agents = 3;
    let config = &mut request.config;
    config.model = "first".to_owned();
    config.escalation = vec!["second".to_owned()];
    config.max_retries = 1;
    config.steer_mode = mode;
    config.follow_up_mode = mode;
    config.answer_schema = Some(json!({
        "type": "object",
        "properties": {"total": {"type": "integer"}},
        "required": ["total"],
    }));
    config.profiles = vec![AgentProfile {
        name: "helper".to_owned(),
        description: "Helps.".to_owned(),
        instructions: "You help.".to_owned(),
        model: "second".to_owned(),
        tools: Some(vec![SideEffect::Pure.as_str().to_owned()]),
    }];
    request
}

pub(crate) fn models() -> Result<[Model; 2]> {
    let rung = |id: &str, factor: i64| -> Result<Model> {
        let mut model = model()?;
        id.clone_into(&mut model.id);
        model.context_window = WINDOW;
        model.price.input = NanoUsd(factor * model.price.input.0);
        model.price.output = NanoUsd(factor * model.price.output.0);
        Ok(model)
    };
    Ok([rung("first", 1)?, rung("second", 3)?])
}

// ---- what the models say ----

/// The provider of all swarms: `script` in two layers, which notes each request in
/// `DIR/asked.log` as a line `KEY FINGERPRINT`.
pub(crate) fn provider(
    dir: PathBuf,
    script: impl Fn(&LlmRequest) -> ScriptedReply + Send + Sync + 'static,
) -> Arc<dyn LlmProvider> {
    let calls = AtomicU32::new(0);
    let inner = ScriptedLlm::new("script", move |request| {
        // On a full disk there is nothing to compare with later, but the work goes on.
        let noted = note(&dir, request);
        if let Err(err) = noted.or_else(|err| match err.kind() {
            std::io::ErrorKind::StorageFull => Ok(()),
            _ => Err(err),
        }) {
            let what = format!("asked.log: {err}");
            return ScriptedReply::failure(LlmError::unbilled(LlmErrorKind::InvalidRequest, what));
        }
        if calls.fetch_add(1, Ordering::Relaxed) % REFUSED_OF == REFUSED_OF - 1 {
            return down("busy");
        }
        script(request)
    });
    let clock = Arc::new(SystemClock);
    let limit = RateLimit {
        requests_per_minute: 60_000.try_into().ok(),
        ..RateLimit::default()
    };
    let limited = RateLimited::new(Arc::new(inner), limit, clock);
    let options = RetryOptions {
        attempts_max: 4,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(2),
        ..RetryOptions::default()
    };
    Arc::new(Retrying::new(Arc::new(limited), options))
}

fn note(dir: &std::path::Path, request: &LlmRequest) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .append(true)
        .open(dir.join("asked.log"))?;
    let print = fingerprint(&request.messages);
    file.write_all(format!("{} {print}\n", request.idempotency_key).as_bytes())
}

fn down(what: &str) -> ScriptedReply {
    ScriptedReply::failure(LlmError::unbilled(LlmErrorKind::Server, what))
}

/// The answer to a request of these swarms; `None` to one of another.
pub(crate) fn answer(request: &LlmRequest) -> Option<ScriptedReply> {
    if request.model.id == "scripted" {
        return None;
    }
    let turn = turn_number(request);
    if is_summary(request) {
        let text = format!("What happened until turn {turn}.");
        return Some(ScriptedReply::text(text).first_delay(WORK * 8));
    }
    let raw = json!({"said": "raw", "pad": "x".repeat(300)});
    if &*request.system == "You help." {
        return Some(match turn {
            1 => ScriptedReply::tool_call("pure", raw).first_delay(WORK),
            _ => ScriptedReply::text("Helped.").first_delay(WORK),
        });
    }
    let part = task_of(request).trim_end().chars().last();
    let is_even = part
        .and_then(|c| c.to_digit(10))
        .is_some_and(|n| n % 2 == 0);
    if is_even && request.model.id == "first" && turn >= 3 {
        return Some(down("the first model has given up"));
    }
    let reply = match turn {
        2 => ScriptedReply::tool_call("helper", json!({"task": "help"})),
        n if n >= LAST_TURN && is_corrected(request) => ScriptedReply::text(r#"{"total": 3}"#),
        n if n >= LAST_TURN => ScriptedReply::text("It is three."),
        n if n % 2 == 0 => ScriptedReply::tool_call("once", raw),
        // Later, the window has no room for an answer of two.
        1 => ScriptedReply::tool_call("pure", raw.clone()).add_tool_call("reconcilable", raw),
        _ => ScriptedReply::tool_call("pure", raw),
    };
    Some(reply.first_delay(WORK * 2))
}

/// Whether the last answer was sent back.
fn is_corrected(request: &LlmRequest) -> bool {
    let origin = |message: &Arc<Message>| match message.as_ref() {
        Message::User(user) => Some(user.origin),
        Message::Assistant(_) | Message::ToolResult(_) => None,
    };
    let mut told = request.messages.iter().rev().filter_map(origin);
    told.any(|origin| origin == MessageOrigin::Correction)
}

// ---- what happens to their calls ----

/// Rewrites what the swarms' agents say to tools.
#[derive(Debug)]
pub(crate) struct Rewrite;

#[async_trait]
impl AgentHooks for Rewrite {
    async fn before_tool(&self, _: HookContext<'_>, call: &ToolCall) -> ToolGate {
        if call.arguments.get("said") == Some(&json!("raw")) {
            ToolGate::Rewrite(json!({"said": "rewritten"}))
        } else {
            ToolGate::Allow
        }
    }
}

// ---- what they are told meanwhile ----

/// Steers the swarms' agents for as long as it is polled, and says each ticket it gets.
pub(crate) async fn steer(dash: &Orchestrator, after: u64) -> Result<()> {
    let filter = EventFilter {
        types: vec!["agent.turn".to_owned()],
        ..EventFilter::default()
    };
    let mut turns = dash.subscribe(filter, after);
    while let Some(event) = turns.next().await? {
        let EventKind::AgentTurn(turn) = &event.kind else {
            continue;
        };
        if !LADDERS.iter().any(|(id, ..)| event.swarm_id == Some(*id)) {
            continue;
        }
        match turn.step.turn() {
            1 | 4 | 7 => {
                send(dash, turn.agent_id, Queue::Steer).await?;
                send(dash, turn.agent_id, Queue::Steer).await?;
            }
            6 => send(dash, turn.agent_id, Queue::FollowUp).await?,
            _ => {}
        }
    }
    Err(dash::Error::closed())
}

async fn send(dash: &Orchestrator, agent: AgentId, queue: Queue) -> Result<()> {
    static SENT: AtomicU64 = AtomicU64::new(0);
    let now = SystemClock.now().0;
    let number = SENT.fetch_add(1, Ordering::Relaxed);
    // No other run of this program says the same.
    let text = format!("Mind this: {now}-{}-{number}.", std::process::id());
    let sent = match queue {
        Queue::Steer => dash.steer(agent, text).await,
        Queue::FollowUp => dash.follow_up(agent, text).await,
    };
    match sent {
        Ok(ticket) => say(&format!("ticket {ticket}")),
        // It has ended, or the disk is full.
        Err(err)
            if matches!(
                err.kind(),
                ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::Unavailable
            ) => {}
        Err(err) => {
            complain(&err.chain());
            return Err(err);
        }
    }
    Ok(())
}
