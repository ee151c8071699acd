//! The model server of a simulated run: it answers, refuses, breaks off and hangs by seed, and keeps
//! its own bill.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use serde_json::{Value, json};

use crate::env::Clock as _;
use crate::llm::{
    Billing, LlmError, LlmErrorKind, LlmEvent, LlmProvider, LlmRequest, LlmStream, ScriptedReply,
};
use crate::model::{Amount, Message, Usage};
use crate::sim::check::{Bill, rows};
use crate::sim::plan::PROVIDER;
use crate::sim::rng::Rng;
use crate::sim::world::{Running, World};

/// The provider of all models of a run.
#[derive(Debug, Clone)]
pub(crate) struct SimProvider {
    world: Arc<World>,
}

/// What a request meets.
struct Fate {
    reply: ScriptedReply,
    /// Tokens billed beyond the limit that the request set.
    over: u64,
    /// The stream ends without a last event.
    cut: bool,
    delays: (u64, u64),
}

enum Play {
    New(SimProvider, Box<LlmRequest>),
    On(On),
}

struct On {
    world: Arc<World>,
    key: String,
    events: VecDeque<LlmEvent>,
    delta_ms: u64,
    /// Whether it ends without a terminal event instead of hanging.
    ends: bool,
    running: Running,
}

impl SimProvider {
    pub(crate) const fn new(world: Arc<World>) -> Self {
        Self { world }
    }

    /// Takes a request: from here on it is billed.
    async fn begin(self, request: Box<LlmRequest>) -> On {
        let world = self.world;
        let key = request.idempotency_key.clone();
        let agent = request
            .options
            .cache_key
            .as_deref()
            .and_then(|id| id.parse().ok());
        let swarm = request
            .options
            .group
            .as_deref()
            .and_then(|id| id.parse().ok());
        let running = world.runs(format!("the call {key}"), agent, swarm);
        world.effect("a request").await;
        let granted = world.with(|truth| rows::effect_was_granted(&truth.history, &key, None));
        world.check(granted.map(|_| ()));
        world.check(rows::requests_are_whole(&key, &request.messages));
        let nth = world.with(|truth| truth.history.bills.get(&key).map_or(0, Vec::len));
        let mut rng = Rng::of(world.plan.seed, &format!("{key}#{nth}"));
        let faults = if world.is_healing() {
            0
        } else {
            world.plan.faults
        };
        let fate = fate(&mut rng, &request, faults);
        let mut events: VecDeque<LlmEvent> = fate.reply.events(&PROVIDER.into(), &request).into();
        let mut bill = Bill {
            amount: Amount::default(),
            is_over: false,
        };
        bill.is_over = fate.over > 0;
        if let Some(LlmEvent::Done { message, .. }) = events.back_mut() {
            message.usage.output += fate.over;
            message.cost = request.model.price.cost(message.usage);
        }
        bill.amount = billed(&request, events.back());
        if fate.cut {
            events.pop_back();
        }
        world.note(
            "request",
            &format!(
                "{key} {} {} messages, at most {}, billed {}",
                request.model.id,
                request.messages.len(),
                request.max_output_tokens,
                bill.amount.usd.0
            ),
        );
        world.with(|truth| {
            truth
                .history
                .bills
                .entry(key.clone())
                .or_default()
                .push(bill);
        });
        world
            .clock
            .sleep(Duration::from_millis(fate.delays.0))
            .await;
        On {
            world,
            key,
            events,
            delta_ms: fate.delays.1,
            ends: fate.cut,
            running,
        }
    }
}

impl On {
    async fn next(mut self) -> Option<(LlmEvent, Play)> {
        let Some(event) = self.events.pop_front() else {
            if self.ends {
                return None;
            }
            // Hangs until its reader gives up.
            let _held = (self.running, self.key);
            return std::future::pending().await;
        };
        if self.delta_ms > 0 {
            self.world
                .clock
                .sleep(Duration::from_millis(self.delta_ms))
                .await;
        }
        self.world.effect("a piece of an answer").await;
        Some((event, Play::On(self)))
    }
}

impl LlmProvider for SimProvider {
    fn id(&self) -> &str {
        PROVIDER
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let first = Play::New(self.clone(), Box::new(request));
        LlmStream::new(stream::unfold(first, |play| async move {
            let on = match play {
                Play::New(provider, request) => provider.begin(request).await,
                Play::On(on) => on,
            };
            on.next().await
        }))
    }
}

/// What the server really bills for an answer that ends in `last`; without an end, as much as an
/// answer of half the limit would cost.
fn billed(request: &LlmRequest, last: Option<&LlmEvent>) -> Amount {
    let usage = match last {
        Some(LlmEvent::Done { message, .. }) => message.usage,
        Some(LlmEvent::Error { error, .. }) => match error.billing {
            Billing::None => return Amount::default(),
            Billing::Known(usage) => usage,
            Billing::Reported { usage, cost } => {
                return Amount {
                    usd: cost,
                    tokens: usage.total(),
                };
            }
            Billing::Unknown => half(request),
        },
        _ => half(request),
    };
    Amount {
        usd: request.model.price.cost(usage),
        tokens: usage.total(),
    }
}

fn half(request: &LlmRequest) -> Usage {
    Usage {
        input: 100,
        output: u64::from(request.max_output_tokens) / 2,
        ..Usage::default()
    }
}

fn fate(rng: &mut Rng, request: &LlmRequest, faults: u64) -> Fate {
    let mut fate = Fate {
        reply: ScriptedReply::new(),
        over: 0,
        cut: false,
        delays: (rng.between(0, 400), rng.between(0, 30)),
    };
    if rng.chance(5) {
        fate.delays.0 = rng.between(1_000, 9_000);
    }
    if rng.chance(faults) {
        trouble(rng, request, &mut fate);
    } else {
        fate.reply = answer(rng, request, faults > 0);
    }
    fate
}

fn trouble(rng: &mut Rng, request: &LlmRequest, fate: &mut Fate) {
    use LlmErrorKind as Kind;
    let whole = answer(rng, request, true);
    let limited = |rng: &mut Rng, kind| LlmError {
        retry_after_ms: rng.chance(50).then(|| rng.between(10, 3_000)),
        ..LlmError::unbilled(kind, "come back later")
    };
    let known = LlmError {
        billing: Billing::Known(Usage {
            input: 50,
            output: u64::from(request.max_output_tokens) / 3,
            ..Usage::default()
        }),
        ..LlmError::unbilled(Kind::ContentFilter, "withheld")
    };
    let cost = request.model.price.cost(half(request));
    let reported = LlmError {
        billing: Billing::Reported {
            usage: half(request),
            cost,
        },
        ..LlmError::unbilled(Kind::StreamCut, "broke off")
    };
    let unknown = |kind| LlmError::billed_unknown(kind, "broke off");
    fate.reply = match rng.between(0, 15) {
        0..=2 => ScriptedReply::failure(limited(rng, Kind::RateLimited)),
        3 => ScriptedReply::failure(limited(rng, Kind::Overloaded)),
        4 => ScriptedReply::failure(limited(rng, Kind::Server)),
        5 => ScriptedReply::failure(unknown(Kind::Network)),
        6 => ScriptedReply::failure(LlmError::unbilled(Kind::Quota, "no money left")),
        7 => ScriptedReply::failure(LlmError::unbilled(Kind::ContextOverflow, "too long")),
        8 => ScriptedReply::failure(known),
        9 => whole.failing_midway(unknown(Kind::StreamCut)),
        10 => whole.failing_midway(reported),
        11 => whole.failing_midway(unknown(Kind::Decode)),
        12 => whole.hanging(),
        13 => {
            fate.cut = true;
            whole
        }
        14 => {
            fate.over = rng.between(1, 5_000);
            whole
        }
        _ => ScriptedReply::text(
            "I would rather not say anything that anyone could use. ".repeat(200),
        ),
    };
}

/// A turn as models make them: some calls of tools first, then an answer.
fn answer(rng: &mut Rng, request: &LlmRequest, may_be_odd: bool) -> ScriptedReply {
    let is_answer = |m: &&Arc<Message>| matches!(m.as_ref(), Message::Assistant(_));
    let turns = request.messages.iter().filter(is_answer).count() as u64;
    let is_long = turns >= 2 && rng.chance(60) || turns >= 5;
    if request.tools.is_empty() || is_long || rng.chance(25) {
        let text = match rng.between(0, 9) {
            0 if may_be_odd => "done, I think".to_owned(),
            n => json!({ "value": n, "parts": ["left", "right"] }).to_string(),
        };
        return ScriptedReply::text(text);
    }
    let mut reply = ScriptedReply::new();
    if rng.chance(30) {
        reply = reply.add_thinking("hm").add_text("Let me see.");
    }
    for _ in 0..rng.between(1, 3) {
        let name = rng
            .pick(&request.tools)
            .map_or("", |tool| tool.name.as_str());
        let (name, arguments) = match rng.between(0, 19) {
            0 if may_be_odd => ("nothing", json!({})),
            1 if may_be_odd => (name, json!("no object at all")),
            _ => (name, arguments(rng)),
        };
        reply = reply.add_tool_call(name, arguments);
    }
    reply
}

/// What any of the tools can read.
fn arguments(rng: &mut Rng) -> Value {
    let mut arguments = json!({
        "name": "child",
        "task": "Do your part.",
        "current": rng.between(0, 5),
        "total": 5,
        "text": "x",
    });
    if rng.chance(30)
        && let Value::Object(fields) = &mut arguments
    {
        let usd = format!("0.0{:02}", rng.between(1, 99));
        fields.insert("budget_usd".to_owned(), json!(usd));
    }
    arguments
}
