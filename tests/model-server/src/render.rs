//! Replies as bytes: events of a stream, or one JSON object.

use std::collections::VecDeque;
use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::reply::{Answer, Billed};
use crate::{Reply, Request};

/// When every completion was made, for all this server knows.
const CREATED: u64 = 1_700_000_000;

/// The usage of an answer to a request.
pub(crate) fn billed(answer: &Answer, request: &Request) -> Billed {
    answer.billed.unwrap_or_else(|| Billed {
        input: request.input_tokens(),
        output: (answer.text.len() + answer.calls.len()) as u64,
    })
}

const fn finish(answer: &Answer) -> &'static str {
    if answer.truncated {
        "length"
    } else if answer.calls.is_empty() {
        "stop"
    } else {
        "tool_calls"
    }
}

fn usage(billed: Billed) -> Value {
    json!({
        "prompt_tokens": billed.input, "completion_tokens": billed.output,
        "total_tokens": billed.input + billed.output,
    })
}

/// An answer as the events of a stream, one text each.
pub(crate) fn events(answer: &Answer, request: &Request, ids: &[String]) -> Vec<String> {
    let head = format!(
        "data: {{\"id\":\"chatcmpl-scripted\",\"object\":\"chat.completion.chunk\",\
         \"created\":{CREATED},\"model\":{}",
        Value::from(request.model.as_str())
    );
    let chunk = |delta: &dyn std::fmt::Display, finish: &str| {
        format!(
            "{head},\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\
             \"finish_reason\":{finish}}}]}}\n\n"
        )
    };
    let mut out = Vec::with_capacity(answer.text.len() + 3 * answer.calls.len() + 3);
    out.push(chunk(&"{\"role\":\"assistant\",\"content\":\"\"}", "null"));
    for text in &answer.text {
        let text = Value::from(text.as_str());
        out.push(chunk(&format_args!("{{\"content\":{text}}}"), "null"));
    }
    for (index, (call, id)) in answer.calls.iter().zip(ids).enumerate() {
        let begin = json!({"tool_calls": [{
            "index": index, "id": id, "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }]});
        out.push(chunk(&begin, "null"));
        for part in halves(&call.arguments) {
            let part = json!({"tool_calls": [{"index": index, "function": {"arguments": part}}]});
            out.push(chunk(&part, "null"));
        }
    }
    out.push(chunk(&"{}", &format!("\"{}\"", finish(answer))));
    let mut last = String::new();
    if request.include_usage {
        let usage = usage(billed(answer, request));
        // Writing into a text cannot fail.
        let _written = write!(last, "{head},\"choices\":[],\"usage\":{usage}}}\n\n");
    }
    last.push_str("data: [DONE]\n\n");
    out.push(last);
    out
}

/// Arguments in the two pieces in which they stream.
fn halves(text: &str) -> impl Iterator<Item = &str> {
    let mut at = text.len() / 2;
    while !text.is_char_boundary(at) {
        at += 1;
    }
    let (first, second) = text.split_at(at);
    [first, second].into_iter().filter(|part| !part.is_empty())
}

/// An answer as one object.
pub(crate) fn whole(answer: &Answer, request: &Request, ids: &[String]) -> String {
    let mut message = json!({
        "role": "assistant", "content": answer.text.concat(), "refusal": null,
    });
    if !answer.calls.is_empty() {
        let calls = answer.calls.iter().zip(ids).map(|(call, id)| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            json!({"id": id, "type": "function", "function": function})
        });
        if let Some(fields) = message.as_object_mut() {
            fields.insert("tool_calls".to_owned(), calls.collect());
        }
    }
    json!({
        "id": "chatcmpl-scripted", "object": "chat.completion", "created": CREATED,
        "model": request.model, "choices": [{
            "index": 0, "message": message, "logprobs": null, "finish_reason": finish(answer),
        }],
        "usage": usage(billed(answer, request)),
    })
    .to_string()
}

/// A refusal.
pub(crate) fn error(status: u16, message: &str) -> String {
    let kind = match status {
        401 | 403 => "authentication_error",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        _ => "server_error",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": null}}).to_string()
}

/// The frames of a body, cut and in pieces as the reply says. Without a pause all of it is one.
pub(crate) fn pieces(reply: &Reply, frames: Vec<String>) -> VecDeque<Bytes> {
    let mut all: VecDeque<Bytes> = match reply.piece {
        Some(size) => {
            let body = Bytes::from(frames.concat());
            let starts = (0..body.len()).step_by(size);
            let piece = |at: usize| body.slice(at..body.len().min(at + size));
            starts.map(piece).collect()
        }
        None if reply.gap.is_zero() => VecDeque::from([Bytes::from(frames.concat())]),
        None => frames.into_iter().map(Bytes::from).collect(),
    };
    if let Some(mut left) = reply.cut {
        all.retain_mut(|piece| {
            piece.truncate(left);
            left -= piece.len();
            !piece.is_empty()
        });
    }
    all
}
