//! Bodies of server-sent events through the driver's gate, parser and a decoder, without a socket:
//! for fuzzers and benchmarks.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};

use crate::llm::dialect::{AnswerSetup, Decoder, Dialect, SseEvent};
use crate::llm::http::{LineGate, LineTooLong, sse_events};
use crate::llm::{LlmError, LlmEvent, Model};

/// An event's name and data.
pub type NamedData = (String, String);

fn body(pieces: Vec<Bytes>) -> impl Stream<Item = Result<Bytes, LlmError>> + Send {
    stream::iter(pieces.into_iter().map(Ok))
}

/// A decoder for the answer of a provider `p`.
#[must_use]
pub fn decoder(dialect: &dyn Dialect, model: Arc<Model>) -> Box<dyn Decoder> {
    dialect.decoder(AnswerSetup {
        provider: "p".into(),
        model,
        api: dialect.api(),
        input_bound: 1_000,
        output_limit: 0,
    })
}

/// What a body that comes in these pieces means. A line or event may have `line_bytes_max` bytes.
#[must_use]
pub fn decode(
    dialect: &dyn Dialect,
    model: Arc<Model>,
    pieces: Vec<Bytes>,
    line_bytes_max: usize,
) -> Vec<LlmEvent> {
    let mut decoder = decoder(dialect, model);
    let mut out = Vec::new();
    let read = async {
        let mut events = std::pin::pin!(sse_events(body(pieces), line_bytes_max));
        while !decoder.is_ended() {
            match events.next().await {
                Some(Ok((name, data))) => {
                    let (name, data) = (&*name, &*data);
                    decoder.feed(SseEvent { name, data }, &mut out);
                }
                Some(Err(error)) => decoder.fail(error, &mut out),
                None => decoder.eof(&mut out),
            }
        }
    };
    // The pieces are all there: nothing waits.
    read.now_or_never();
    out
}

/// The server-sent events of a body, up to the first error.
#[must_use]
pub fn read(pieces: Vec<Bytes>, line_bytes_max: usize) -> Vec<Result<NamedData, LlmError>> {
    let mut out = Vec::new();
    let read = async {
        let mut events = std::pin::pin!(sse_events(body(pieces), line_bytes_max));
        while let Some(event) = events.next().await {
            let is_error = event.is_err();
            out.push(event);
            if is_error {
                return;
            }
        }
    };
    read.now_or_never();
    out
}

/// What the line gate lets through, piece by piece: the lines that are whole, and whether one was
/// too long.
#[must_use]
pub fn gate(pieces: &[Bytes], line_bytes_max: usize) -> (Vec<Bytes>, bool) {
    let mut gate = LineGate::new(line_bytes_max);
    let mut out = Vec::new();
    for piece in pieces {
        match gate.push(piece) {
            Ok(lines) => out.push(lines),
            Err(LineTooLong(before)) => {
                out.push(before);
                return (out, true);
            }
        }
    }
    out.push(gate.eof());
    (out, false)
}

/// Cuts a body into pieces of lengths that `seed` says: 0 = single bytes.
#[must_use]
pub fn pieces(body: &Bytes, seed: u8) -> Vec<Bytes> {
    let mut rest = body.clone();
    let mut out = Vec::new();
    let mut state = u32::from(seed);
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(u32::from(seed));
        let len = usize::try_from((state >> 16) % 97).unwrap_or_default() + 1;
        out.push(rest.split_to(len.min(rest.len())));
    }
    out
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;
    use crate::llm::openai_chat::ChatDialect;

    #[test]
    fn pieces_lose_nothing() {
        let body = Bytes::from((0..=255).collect::<Vec<u8>>());
        for seed in [0, 1, 200] {
            assert_eq!(pieces(&body, seed).concat(), body);
        }
        assert_eq!(pieces(&body, 0).len(), body.len());
    }

    #[test]
    fn events_before_an_unreadable_or_too_long_line_count_however_they_are_cut() {
        let good = b"data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n".as_slice();
        let long = [good, b"data: ", &[b'x'; 200], b"\n\n"].concat();
        let unreadable = [good, b"data: \xff\n\n"].concat();
        for body in [long, unreadable] {
            let body = Bytes::from(body);
            let decode = |pieces| {
                let model = Arc::new(Model::free("m", "p"));
                decode(&ChatDialect::default(), model, pieces, 128)
            };
            let single = decode(pieces(&body, 0));
            assert!(matches!(&single[0], LlmEvent::Start { .. }), "{single:#?}");
            assert_eq!(decode(vec![body]), single);
        }
    }
}
