//! How fast answers are read: each dialect's decoder, and the whole path from bytes to events,
//! beside `serde_json` on the same data; and whether a long line in small pieces costs more per
//! byte than a short one.

use std::sync::Arc;

use bytes::Bytes;
use dash::llm::Model;
use dash::llm::anthropic::AnthropicDialect;
use dash::llm::dialect::{Dialect, SseEvent};
use dash::llm::gemini::GeminiDialect;
use dash::llm::openai_chat::ChatDialect;
use dash::llm::openai_responses::ResponsesDialect;
use dash::testing::sse;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::measure::{float, len, micros_since, now};
use crate::report::{Figure, Target};
use crate::{Options, Result};

/// Counts allocations. Behind a feature, since it would slow every other scenario down.
#[cfg(feature = "count-allocations")]
mod counted {
    use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

    #[global_allocator]
    static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

    /// Allocations so far, growing ones included.
    pub(super) fn so_far() -> Option<usize> {
        let stats = ALLOCATOR.stats();
        Some(stats.allocations + stats.reallocations)
    }
}

#[cfg(not(feature = "count-allocations"))]
mod counted {
    /// Nothing is counted.
    pub(super) const fn so_far() -> Option<usize> {
        None
    }
}

/// Deltas of an answer if `--n` does not say.
const DELTAS: u32 = 20_000;
/// Bytes of a piece of a body, as sockets give them.
const PIECE_BYTES: usize = 4_096;
/// Bytes of a piece of a long line.
const LINE_PIECE_BYTES: usize = 1_024;
/// A long line may cost this much of what putting it together and reading it costs, however long.
const LINE_RATIO_MAX: f64 = 12.0;
const MIB: usize = 1 << 20;
/// Of a line; more than any here.
const LINE_BYTES_MAX: usize = 64 * MIB;

/// An answer: names and data of its events.
struct Answer {
    name: &'static str,
    dialect: Box<dyn Dialect>,
    events: Vec<(&'static str, String)>,
}

impl Answer {
    fn new(name: &'static str, dialect: impl Dialect, events: Vec<(&'static str, Value)>) -> Self {
        let events = events
            .into_iter()
            .map(|(name, data)| (name, data.to_string()));
        Self {
            name,
            dialect: Box::new(dialect),
            events: events.collect(),
        }
    }

    fn body(&self) -> Bytes {
        let mut body = String::new();
        for (name, data) in &self.events {
            let named = *name != "message";
            let head = if named {
                ["event: ", name, "\n"]
            } else {
                [""; 3]
            };
            body.extend(head);
            body.extend(["data: ", data, "\n\n"]);
        }
        Bytes::from(body)
    }

    fn data_bytes(&self) -> usize {
        self.events.iter().map(|(_name, data)| data.len()).sum()
    }
}

/// A word with its blank, as tokens are; every seventh holds what JSON escapes.
fn word(at: u32) -> String {
    match at % 7 {
        0 => format!(" \"{at}\"\n"),
        3 => " größer".to_owned(),
        _ => format!(" word{}", at % 100),
    }
}

fn anthropic(deltas: u32) -> Answer {
    let mut events = vec![
        (
            "message_start",
            json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": null, "usage": {"input_tokens": 100, "output_tokens": 1}}}),
        ),
        (
            "content_block_start",
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        ),
    ];
    events.extend((0..deltas).map(|at| ("content_block_delta", json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word(at)}}))));
    events.extend([
        ("content_block_stop", json!({"type": "content_block_stop", "index": 0})),
        ("message_delta", json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": deltas}})),
        ("message_stop", json!({"type": "message_stop"})),
    ]);
    Answer::new("anthropic", AnthropicDialect::default(), events)
}

fn chat(deltas: u32) -> Answer {
    let chunk = |delta: Value, reason: Value| {
        (
            "message",
            json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_763_700_000, "model": "m", "system_fingerprint": "fp_1", "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]}),
        )
    };
    let mut events = vec![chunk(
        json!({"role": "assistant", "content": ""}),
        Value::Null,
    )];
    events.extend((0..deltas).map(|at| chunk(json!({"content": word(at)}), Value::Null)));
    events.push(chunk(json!({}), json!("stop")));
    events.push(("message", json!({"id": "chatcmpl-1", "model": "m", "choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": deltas, "total_tokens": 100 + deltas}})));
    Answer::new("openai chat", ChatDialect::default(), events)
}

fn responses(deltas: u32) -> Answer {
    let whole: String = (0..deltas).map(word).collect();
    let part = json!({"type": "output_text", "text": whole, "annotations": []});
    let item = json!({"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]});
    let mut events = vec![
        (
            "response.created",
            json!({"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "status": "in_progress", "model": "m", "output": []}}),
        ),
        (
            "response.output_item.added",
            json!({"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": {"type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}}),
        ),
        (
            "response.content_part.added",
            json!({"type": "response.content_part.added", "sequence_number": 2, "item_id": "msg_1", "output_index": 0, "content_index": 0, "part": {"type": "output_text", "text": "", "annotations": []}}),
        ),
    ];
    events.extend((0..deltas).map(|at| ("response.output_text.delta", json!({"type": "response.output_text.delta", "sequence_number": at + 3, "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": word(at), "logprobs": [], "obfuscation": "Xk2pQ9"}))));
    events.push(("response.output_item.done", json!({"type": "response.output_item.done", "sequence_number": deltas + 3, "output_index": 0, "item": item})));
    events.push(("response.completed", json!({"type": "response.completed", "sequence_number": deltas + 4, "response": {"id": "resp_1", "status": "completed", "model": "m", "output": [item], "usage": {"input_tokens": 100, "output_tokens": deltas, "total_tokens": 100 + deltas}}})));
    Answer::new("openai responses", ResponsesDialect::default(), events)
}

fn gemini(deltas: u32) -> Answer {
    let events = (0..deltas).map(|at| {
        let mut chunk = json!({"candidates": [{"content": {"parts": [{"text": word(at)}], "role": "model"}, "index": 0}], "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": at + 1, "totalTokenCount": 101 + at}, "modelVersion": "m", "responseId": "r1"});
        if at + 1 == deltas
            && let Some(candidate) = chunk.pointer_mut("/candidates/0").and_then(Value::as_object_mut)
        {
            candidate.insert("finishReason".to_owned(), json!("STOP"));
        }
        ("message", chunk)
    });
    Answer::new("gemini", GeminiDialect::default(), events.collect())
}

fn cut(body: &Bytes, bytes: usize) -> Vec<Bytes> {
    let starts = (0..body.len()).step_by(bytes);
    starts
        .map(|at| body.slice(at..body.len().min(at + bytes)))
        .collect()
}

/// What it took: seconds and allocations, growing ones included.
struct Took {
    seconds: f64,
    allocations: Option<f64>,
}

fn measured<T>(work: impl FnOnce() -> Result<T>) -> Result<Took> {
    let before = counted::so_far();
    let began = now();
    let out = work()?;
    let seconds = micros_since(began) / 1e6;
    let after = counted::so_far();
    drop(out);
    Ok(Took {
        seconds,
        allocations: after.zip(before).map(|(after, before)| len(after - before)),
    })
}

/// The decoders' rates beside JSON values of the same data.
pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let deltas = options.n.unwrap_or(DELTAS);
    let mut figures = Vec::new();
    for answer in [
        anthropic(deltas),
        chat(deltas),
        responses(deltas),
        gemini(deltas),
    ] {
        figures.extend(rates(&answer, float(i64::from(deltas)))?);
    }
    figures.extend(long_lines()?);
    Ok(figures)
}

fn rates(answer: &Answer, deltas: f64) -> Result<Vec<Figure>> {
    let name = answer.name;
    let model = Arc::new(Model::free("m", "p"));
    let body = answer.body();
    let pieces = cut(&body, PIECE_BYTES);
    let data_mb = len(answer.data_bytes()) / 1e6;
    let values = measured(|| {
        for (_name, data) in &answer.events {
            std::hint::black_box(serde_json::from_str::<Value>(data)?);
        }
        Ok(())
    })?;
    let ignored = measured(|| {
        for (_name, data) in &answer.events {
            std::hint::black_box(serde_json::from_str::<IgnoredAny>(data)?);
        }
        Ok(())
    })?;
    let mut decoder = sse::decoder(&*answer.dialect, Arc::clone(&model));
    let mut out = Vec::with_capacity(8);
    let mut count = 0;
    let decoded = measured(|| {
        for (name, data) in &answer.events {
            decoder.feed(SseEvent { name, data }, &mut out);
            count += out.len();
            // The driver gives events on as they come.
            out.clear();
        }
        decoder.eof(&mut out);
        Ok(())
    })?;
    if len(count) < deltas {
        return Err(format!("{name}: {count} events of {deltas} deltas").into());
    }
    let whole = measured(|| {
        Ok(sse::decode(
            &*answer.dialect,
            Arc::clone(&model),
            pieces,
            LINE_BYTES_MAX,
        ))
    })?;
    let json = data_mb / values.seconds;
    let mut figures = vec![
        Figure::new(
            format!("{name}: decoder"),
            "MB/s",
            data_mb / decoded.seconds,
        )
        .beside("serde_json::Value", json)
        .target(Target::RatioAtLeast(1.0)),
        Figure::new(
            format!("{name}: gate, parser, decoder"),
            "MB/s",
            len(body.len()) / 1e6 / whole.seconds,
        )
        .beside("serde_json::Value", json),
        Figure::new(
            format!("{name}: serde_json::IgnoredAny"),
            "MB/s",
            data_mb / ignored.seconds,
        )
        .beside("serde_json::Value", json),
    ];
    let counts = [
        ("decoder", decoded.allocations),
        ("whole path", whole.allocations),
    ];
    for (what, count) in counts {
        if let (Some(count), Some(plain)) = (count, values.allocations) {
            let name = format!("{name}: {what}, allocations per delta");
            let figure = Figure::new(name, "", count / deltas);
            figures.push(figure.beside("serde_json::Value", plain / deltas));
        }
    }
    Ok(figures)
}

fn long_lines() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for size in [1, 2, 4, 8, 16] {
        let text = "x".repeat(size * MIB);
        let chunk = json!({"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]});
        let chunk = chunk.to_string();
        let body = Bytes::from(format!("data: {chunk}\n\ndata: [DONE]\n\n"));
        let pieces = cut(&body, LINE_PIECE_BYTES);
        let model = Arc::new(Model::free("m", "p"));
        let dialect = ChatDialect::default();
        let took = measured(|| Ok(sse::decode(&dialect, model, pieces, LINE_BYTES_MAX)))?;
        // The least that can be done: put the pieces together and read them.
        let data = cut(&Bytes::from(chunk), LINE_PIECE_BYTES);
        let plain = measured(|| {
            let whole = data.concat();
            Ok(serde_json::from_slice::<Value>(&whole)?)
        })?;
        let per_byte = |seconds: f64| seconds * 1e9 / len(body.len());
        let name = format!("a line of {size} MiB in pieces of 1 KiB");
        let figure = Figure::new(name, "ns/byte", per_byte(took.seconds))
            .beside("put together, serde_json::Value", per_byte(plain.seconds));
        figures.push(figure.target(Target::RatioAtMost(LINE_RATIO_MAX)));
    }
    Ok(figures)
}
