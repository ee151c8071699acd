//! The body of an answer: its bytes as they come, bounded silences, and the events in it.

use std::fmt;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use reqwest::Response;

use super::driver::{ERROR_BYTES_MAX, not_a_stream, with_causes};
use super::gate::{BOM, LineGate, LineTooLong};
use super::parser::EventParser;
use crate::llm::dialect::SseEvent;
use crate::llm::{LlmError, LlmErrorKind};

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, LlmError>> + Send>>;

/// The body's bytes; an error if they stop coming, or if they are no stream of events after all.
pub(super) fn body_bytes(
    response: Response,
    idle: Duration,
) -> impl Stream<Item = Result<Bytes, LlmError>> + Send + use<> {
    let pieces = stream::unfold(response, |mut response| async move {
        let piece = match response.chunk().await {
            Ok(None) => return None,
            Ok(Some(bytes)) => Ok(bytes),
            Err(err) => {
                let text = with_causes(&err.without_url());
                Err(LlmError::billed_unknown(LlmErrorKind::StreamCut, text))
            }
        };
        Some((piece, response))
    });
    events_only(never_idle(pieces, idle))
}

/// The pieces; an error once none comes for `idle`.
pub(super) fn never_idle(
    pieces: impl Stream<Item = Result<Bytes, LlmError>> + Send + 'static,
    idle: Duration,
) -> impl Stream<Item = Result<Bytes, LlmError>> + Send {
    let timer = IdleTimer::new(idle);
    stream::unfold(Some((Box::pin(pieces), timer)), move |state| async move {
        let (mut pieces, mut timer) = state?;
        match timer.within(pieces.next()).await {
            Some(piece) => Some((piece?, Some((pieces, timer)))),
            None => {
                let text = format!("the answer was silent for {} s", idle.as_secs_f64());
                let error = LlmError::billed_unknown(LlmErrorKind::Timeout, text);
                Some((Err(error), None))
            }
        }
    })
}

/// Waits again and again, each time for so long at most, with one timer: setting it anew for every
/// piece of an answer would cost more than reading the piece.
struct IdleTimer {
    limit: Duration,
    /// May be set for an earlier piece; then it is set again once it has rung.
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl IdleTimer {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            sleep: Box::pin(tokio::time::sleep(limit)),
        }
    }

    /// What is waited for; `None` if it takes too long.
    async fn within<T>(&mut self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = std::pin::pin!(wait);
        let now = tokio::time::Instant::now();
        // A limit beyond what a clock can show never ends.
        let deadline = now.checked_add(self.limit);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = wait.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            while self.sleep.as_mut().poll(cx).is_ready() {
                match deadline {
                    Some(deadline) if self.sleep.deadline() < deadline => {
                        self.sleep.as_mut().reset(deadline);
                    }
                    _ => return Poll::Ready(None),
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The pieces, unless the body begins like JSON or a web page: no line of an event stream does,
/// whatever the content type says. Such a body is read to its end, or [`ERROR_BYTES_MAX`].
pub(super) fn events_only(
    pieces: impl Stream<Item = Result<Bytes, LlmError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, LlmError>> + Send {
    stream::unfold(
        (Box::pin(pieces), true),
        |(mut pieces, is_start)| async move {
            let piece = pieces.next().await?;
            let Ok(bytes) = &piece else {
                return Some((piece, (pieces, is_start)));
            };
            let text = bytes.strip_prefix(BOM).unwrap_or(bytes).trim_ascii_start();
            let is_other = is_start && matches!(text.first(), Some(b'{' | b'[' | b'<'));
            if !is_other {
                let is_start = is_start && text.is_empty();
                return Some((piece, (pieces, is_start)));
            }
            let mut body = text.to_vec();
            while body.len() < ERROR_BYTES_MAX
                && let Some(Ok(more)) = pieces.next().await
            {
                body.extend_from_slice(&more);
            }
            body.truncate(ERROR_BYTES_MAX);
            let error = not_a_stream(&String::from_utf8_lossy(&body));
            Some((Err(error), (pieces, false)))
        },
    )
}

/// Server-sent events out of a body's bytes: the gate, then the parser.
pub(super) struct EventReader {
    /// `None` after its end or an error.
    body: Option<Body>,
    gate: LineGate,
    parser: EventParser,
    /// Told once what came before it has been read.
    error: Option<LlmError>,
}

impl EventReader {
    pub(super) fn new(body: Body, line_bytes_max: usize) -> Self {
        Self {
            body: Some(body),
            gate: LineGate::new(line_bytes_max),
            parser: EventParser::default(),
            error: None,
        }
    }

    /// The next event. After an error nothing good follows.
    pub(super) async fn next(&mut self) -> Option<Result<SseEvent<'_>, LlmError>> {
        while !self.parser.advance() {
            if let Some(error) = self.error.take() {
                return Some(Err(error));
            }
            let lines = match self.body.as_mut()?.next().await {
                Some(Ok(bytes)) => match self.gate.push(&bytes) {
                    Ok(lines) => lines,
                    Err(LineTooLong(before)) => {
                        let text = "the server sent a line that is too long";
                        let error = LlmError::billed_unknown(LlmErrorKind::Decode, text);
                        self.error = Some(error);
                        self.body = None;
                        before
                    }
                },
                Some(Err(error)) => {
                    self.body = None;
                    return Some(Err(error));
                }
                None => {
                    self.body = None;
                    self.gate.eof()
                }
            };
            self.parser.push(lines);
        }
        Some(self.parser.event().map_err(|err| unreadable(&err)))
    }
}

/// The events of a body as a stream of name and data, for tests and fuzzers.
#[cfg(any(test, feature = "test-util"))]
pub(crate) fn sse_events(
    body: impl Stream<Item = Result<Bytes, LlmError>> + Send + 'static,
    line_bytes_max: usize,
) -> impl Stream<Item = Result<(String, String), LlmError>> + Send {
    let reader = EventReader::new(Box::pin(body), line_bytes_max);
    stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        let event = event.map(|event| (event.name.to_owned(), event.data.to_owned()));
        Some((event, reader))
    })
}

fn unreadable(why: &dyn fmt::Display) -> LlmError {
    let text = format!("the server sent events that cannot be read: {why}");
    LlmError::billed_unknown(LlmErrorKind::Decode, text)
}
