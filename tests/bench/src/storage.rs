//! Bytes in the file, beside the bytes that are not known from elsewhere.

use std::path::Path;

use dash::llm::LlmRequest;
use dash::llm::scripted::ScriptedReply;
use dash::model::Message;
use serde_json::json;

use crate::engine::{self, DEADLINE, TOOL};
use crate::measure::{file_bytes, float, len};
use crate::report::{Figure, Target};
use crate::{Options, Result};

/// Turns of the long conversation.
const LONG_TURNS: u32 = 200;
/// Text of each of its answers.
const TEXT_BYTES: usize = 1_024;
/// Agents of the kit's workload.
const KIT_AGENTS: u32 = 1_000;
/// Turns of each.
const KIT_TURNS: u32 = 5;
/// Text tokens of each answer; the kit's server sends words of about this kind.
const KIT_TOKENS: usize = 32;

const WORDS: [&str; 48] = [
    "the", "agent", "reads", "a", "file", "and", "finds", "that", "one", "function", "is",
    "called", "from", "three", "places", "so", "it", "changes", "each", "of", "them", "then",
    "runs", "tests", "which", "pass", "except", "for", "two", "where", "an", "old", "name", "was",
    "left", "behind", "because", "nobody", "looked", "at", "this", "module", "since", "last",
    "spring", "when", "error", "handling",
];

/// Pseudo-text of at least so many bytes: words in an order that never repeats.
fn text(seed: u32, bytes: usize) -> String {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = String::with_capacity(bytes + 16);
    while out.len() < bytes {
        // xorshift64: enough to look random.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let pick = usize::try_from(state % 48).unwrap_or(0);
        out.push_str(WORDS.get(pick).copied().unwrap_or("the"));
        out.push(' ');
    }
    out.truncate(bytes);
    out
}

fn turns_so_far(request: &LlmRequest) -> u32 {
    let answers = request
        .messages
        .iter()
        .filter(|m| matches!(m.as_ref(), Message::Assistant(_)));
    u32::try_from(answers.count()).unwrap_or(u32::MAX)
}

/// Runs `agents` of `turns` turns; bytes of the closed file.
async fn file_of(path: &Path, agents: u32, turns: u32, text_bytes: usize) -> Result<f64> {
    let provider = engine::scripted(move |request| {
        let turn = turns_so_far(request);
        // Every agent's texts are its own: the key names the agent.
        let own = request
            .idempotency_key
            .bytes()
            .fold(turn, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        let reply = ScriptedReply::text(text(own, text_bytes));
        if turn + 1 < turns {
            reply.add_tool_call(TOOL, json!({"n": turn}))
        } else {
            reply
        }
    });
    let store = engine::store(path).await?;
    let dash = engine::builder(store, provider).start().await?;
    let mut request = engine::swarm(agents);
    request.config.max_turns = turns + 1;
    let swarm = dash.create_swarm(request).await?;
    let outcome = dash.wait_swarm(swarm.id).await?;
    outcome.result()?;
    dash.shutdown(DEADLINE).await?;
    Ok(float(i64::try_from(file_bytes(path))?))
}

/// The long conversation and the kit's workload.
pub(crate) async fn run(_options: &Options, dir: &Path) -> Result<Vec<Figure>> {
    let empty = {
        let path = dir.join("empty.db");
        let store = engine::store(&path).await?;
        let dash = engine::builder(store, engine::no_model()).start().await?;
        dash.shutdown(DEADLINE).await?;
        float(i64::try_from(file_bytes(&path))?)
    };
    let long = file_of(&dir.join("long.db"), 1, LONG_TURNS, TEXT_BYTES).await?;
    // Unique payload: the text of each answer, the JSON of each call's arguments, the text of each
    // tool result. Not counted: names, ids, roles, usage, times, the prompts.
    let calls: usize = (0..LONG_TURNS - 1)
        .map(|turn| json!({"n": turn}).to_string().len() + (turn + 1).to_string().len())
        .sum();
    let payload = len(LONG_TURNS as usize * TEXT_BYTES + calls);
    // A word of the kit is about 6 bytes with its blank.
    let kit = file_of(&dir.join("kit.db"), KIT_AGENTS, KIT_TURNS, KIT_TOKENS * 6).await?;
    let turns = f64::from(KIT_AGENTS * KIT_TURNS);
    Ok(vec![
        Figure::new("file, 1 agent x 200 turns x 1 KiB", "bytes", long)
            .beside("texts, arguments, results", payload)
            .target(Target::RatioAtMost(1.5)),
        Figure::new("file, 1,000 agents x 5 turns, a turn", "bytes", kit / turns)
            .target(Target::AtMost(2_048.0)),
        Figure::new("file of an empty store", "bytes", empty),
    ])
}
