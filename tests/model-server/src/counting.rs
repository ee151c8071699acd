//! The script of the benchmarks: agents that count.

use std::time::Duration;

use crate::{Reply, Request};

/// Turns of an agent, unless the model's name says how many.
const TURNS: u32 = 5;
const TURNS_MAX: u32 = 100_000;
/// Text tokens of an answer.
const TOKENS: u32 = 32;
const TOKENS_MAX: u32 = 100_000;
/// Ten minutes.
const LATENCY_MS_MAX: u32 = 600_000;
/// Ten seconds.
const GAP_MICROS_MAX: u32 = 10_000_000;

const WORDS: [&str; 8] = [
    " the", " agent", " reads", " a", " number", " and", " adds", " one",
];

/// Answers as the model's name says: `mock-k5-t32-l200-d5000` makes 5 turns of 32 text tokens, the
/// first after 200 ms, the others 5,000 µs apart. Every turn but the last calls the tool `add_one`.
/// Parts may be left out: 5 turns, 32 tokens, no delays.
///
/// Other models are not found; a part that is none is a bad request.
#[must_use]
pub fn counting(request: &Request) -> Reply {
    let pace = match Pace::of(&request.model) {
        Ok(pace) => pace,
        Err((status, text)) => return Reply::status(status, &text),
    };
    let turn = request.turn();
    let words = WORDS.iter().copied().cycle().take(pace.tokens as usize);
    let reply = Reply::tokens(words)
        .billed(request.input_tokens(), u64::from(pace.tokens) + 8)
        .after(Duration::from_millis(pace.latency_ms.into()))
        .paced(Duration::from_micros(pace.gap_micros.into()));
    if turn < pace.turns {
        reply.call("add_one", &format!("{{\"n\":{turn}}}"))
    } else {
        reply
    }
}

struct Pace {
    turns: u32,
    tokens: u32,
    latency_ms: u32,
    gap_micros: u32,
}

impl Pace {
    fn of(model: &str) -> Result<Self, (u16, String)> {
        let mut parts = model.split('-');
        if parts.next() != Some("mock") {
            let text = format!("the model `{model}` does not exist; names begin with `mock`");
            return Err((404, text));
        }
        let mut pace = Self {
            turns: TURNS,
            tokens: TOKENS,
            latency_ms: 0,
            gap_micros: 0,
        };
        for part in parts {
            let bad = |why: &str| {
                let text = format!("model `{model}`: the part `{part}` {why}");
                Err((400, text))
            };
            let mut rest = part.chars();
            let (field, max) = match rest.next() {
                Some('k') => (&mut pace.turns, TURNS_MAX),
                Some('t') => (&mut pace.tokens, TOKENS_MAX),
                Some('l') => (&mut pace.latency_ms, LATENCY_MS_MAX),
                Some('d') => (&mut pace.gap_micros, GAP_MICROS_MAX),
                _ => return bad("is none of k, t, l, d"),
            };
            match rest.as_str().parse() {
                Ok(value) if value <= max => *field = value,
                Ok(_) => return bad(&format!("is above {max}")),
                Err(_) => return bad("has no number"),
            }
        }
        Ok(pace)
    }
}
