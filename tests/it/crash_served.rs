//! The server of the driver's served swarm, which misbehaves as a seed says, and its bill against
//! the engine's books.

#![cfg(test)]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dash::model::{ReservationState, Step, StepState};
use dash_model_server::{Billed, ModelServer, Options, Record, Reply, Request};
use serde_json::Value;
use tokio::process::Command;

use crate::crash::mix;
use crate::crash_audit::Records;

/// Requests for one turn of an agent that may be answered badly; later ones are answered well.
const BAD_MAX: u64 = 2;
/// Requests that are kept: more than any round makes.
const KEPT: usize = 1 << 20;
/// Nano-dollars for a token of a request and of an answer, as the driver's model costs.
const PRICES: [u64; 2] = [250, 2_000];

/// How often the server has misbehaved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Misdeeds {
    /// 429 with a time to wait.
    pub(crate) refused: usize,
    /// 500.
    pub(crate) broke: usize,
    /// Streams that ended in the middle.
    pub(crate) cut: usize,
    /// Answers in small pieces.
    pub(crate) dripped: usize,
}

impl Misdeeds {
    pub(crate) fn add(&mut self, other: Self) {
        self.refused += other.refused;
        self.broke += other.broke;
        self.cut += other.cut;
        self.dripped += other.dripped;
    }
}

#[derive(Debug, Default)]
struct Done {
    misdeeds: Misdeeds,
    /// Requests by agent and turn.
    asked: HashMap<String, u64>,
    /// Keys whose last answer was cut.
    cut: HashSet<String>,
}

/// The server, and what it has done.
pub(crate) struct Served {
    server: ModelServer,
    done: Arc<Mutex<Done>>,
}

/// What was billed and what the engine has charged for it, nano-dollars.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bill {
    pub(crate) requests: usize,
    pub(crate) billed: u64,
    pub(crate) charged: u64,
}

impl Bill {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.billed += other.billed;
        self.charged += other.charged;
    }
}

/// The step that a request was made for: `AGENT/t3/m`, `AGENT/t3/m.1`.
fn key(request: &Request) -> &str {
    request.header("idempotency-key").unwrap_or_default()
}

/// What plain agents of the driver are told: three turns with tools, one with words.
fn answer(request: &Request) -> Reply {
    let body = request.json();
    let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let is_answer = |message: &&Value| message["role"] == "assistant";
    let calls: &[&str] = match messages.iter().filter(is_answer).count() {
        0 => &["pure", "idempotent", "once"],
        1 => &["reconcilable", "once"],
        2 => &["once", "pure"],
        _ => return Reply::text("All of it is done."),
    };
    let said = Reply::text("I use some tools.");
    calls
        .iter()
        .fold(said, |reply, name| reply.call(name, "{}"))
}

impl Done {
    fn reply(&mut self, seed: u64, request: &Request) -> Reply {
        let key = key(request).to_owned();
        let turn = key.split('.').next().unwrap_or_default().to_owned();
        let asked = self.asked.entry(turn.clone()).or_default();
        *asked += 1;
        let chance = turn
            .bytes()
            .fold(mix(seed ^ *asked), |all, byte| mix(all ^ u64::from(byte)));
        self.cut.remove(&key);
        let reply = answer(request).after(Duration::from_micros(chance >> 8 & 0xfff));
        if *asked > BAD_MAX {
            return reply;
        }
        match chance % 16 {
            0 => {
                self.misdeeds.refused += 1;
                Reply::status(429, "not so fast").header("retry-after", "1")
            }
            1 => {
                self.misdeeds.refused += 1;
                Reply::status(429, "not so fast").header("retry-after-ms", "30")
            }
            2 => {
                self.misdeeds.broke += 1;
                Reply::status(500, "the server has stumbled")
            }
            3 | 4 => {
                self.misdeeds.cut += 1;
                self.cut.insert(key);
                reply.cut(usize::try_from((chance >> 32) % 1_500).unwrap())
            }
            5 | 6 => {
                self.misdeeds.dripped += 1;
                reply.drip(61, Duration::from_millis(1))
            }
            _ => reply,
        }
    }
}

impl Served {
    /// Starts it on a free port. It outlives the processes that ask it.
    pub(crate) async fn start(seed: u64) -> Self {
        let done = Arc::new(Mutex::new(Done::default()));
        let script = Arc::clone(&done);
        let options = Options {
            requests_kept: KEPT,
            ..Options::default()
        };
        let script = move |request: &Request| script.lock().unwrap().reply(seed, request);
        let server = ModelServer::start_with(options, script).await.unwrap();
        Self { server, done }
    }

    /// A driver that asks it and may spend `cap` dollars.
    pub(crate) fn driver(&self, dir: &Path, cap: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crash_driver"));
        command.arg(dir).arg(cap).arg(self.server.url());
        command
    }

    pub(crate) fn misdeeds(&self) -> Misdeeds {
        self.done.lock().unwrap().misdeeds
    }

    /// Every request was made for a step of the journal, and each step is charged at least what
    /// was billed for it, in tokens and in dollars. True at any moment while no engine runs.
    pub(crate) fn check_bill(&self, records: &Records) -> Bill {
        assert_eq!(self.server.stats().bad, 0, "a request that is none");
        let requests = self.server.requests();
        let mut by_step: HashMap<&str, Vec<&Record>> = HashMap::new();
        for record in &requests {
            by_step
                .entry(key(&record.request))
                .or_default()
                .push(record);
        }
        let mut bill = Bill {
            requests: requests.len(),
            ..Bill::default()
        };
        let model_calls = records.steps.iter();
        for step in model_calls.filter(|s| s.key.kind().is_model_call()) {
            let key = step.idempotency_key();
            let asked = by_step.remove(key.as_str()).unwrap_or_default();
            self.check_step(records, step, &asked, &mut bill);
        }
        let unknown: Vec<&&str> = by_step.keys().collect();
        assert!(unknown.is_empty(), "asked without intent: {unknown:?}");
        bill
    }

    fn check_step(&self, records: &Records, step: &Step, asked: &[&Record], bill: &mut Bill) {
        let of_step = records
            .reservations
            .iter()
            .filter(|r| (r.agent_id, r.step) == (step.agent_id, step.key));
        let (mut tokens, mut usd, mut settled) = (0, 0, None);
        for reservation in of_step {
            let charged = match reservation.state {
                ReservationState::Settled => reservation.actual.unwrap(),
                ReservationState::Uncertain | ReservationState::Held => reservation.held,
                ReservationState::Released => continue,
            };
            tokens += charged.tokens;
            usd += u64::try_from(charged.usd.0).unwrap();
            if reservation.state == ReservationState::Settled {
                settled = reservation.actual;
            }
        }
        let billed_tokens: u64 = asked.iter().map(|r| r.billed.input + r.billed.output).sum();
        let billed_usd: u64 = asked.iter().map(|r| price(r.billed)).sum();
        assert!(
            tokens >= billed_tokens,
            "{billed_tokens} tokens were billed, {tokens} are charged for {step:?}"
        );
        assert!(
            usd >= billed_usd,
            "{billed_usd} were billed, {usd} are charged for {step:?}"
        );
        bill.billed += billed_usd;
        bill.charged += usd;
        if step.state == StepState::Done {
            let last = asked
                .last()
                .unwrap_or_else(|| panic!("answered and not asked: {step:?}"));
            assert_eq!(last.status, 200, "{step:?}");
            let was_cut = self
                .done
                .lock()
                .unwrap()
                .cut
                .contains(&step.idempotency_key());
            let is_known = settled.map(|actual| u64::try_from(actual.usd.0).unwrap());
            // An answer whose end is lost may be whole all the same, but not its usage.
            assert!(
                was_cut || is_known == Some(price(last.billed)),
                "{last:?}: {step:?}"
            );
        }
    }
}

const fn price(billed: Billed) -> u64 {
    billed.input * PRICES[0] + billed.output * PRICES[1]
}
