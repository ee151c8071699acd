//! Dialects: how a request is written for a kind of server, and how its answer is read.
//!
//! ```text
//!  LlmRequest ──Dialect::encode──▶ body ──▶ (HTTP driver) ──▶ SSE events ──Decoder::feed──▶ LlmEvents
//! ```
//!
//! Pure: bytes and events in, bytes and events out, no IO and no clock. One driver serves all
//! dialects, and tests and fuzzers need no socket. [`Answer`] holds what every decoder shares: the
//! event grammar, the fold, tool arguments, usage and cost.

use std::fmt;

use super::{LlmError, LlmEvent, LlmRequest};

pub use super::answer::{Answer, AnswerSetup};

/// One server-sent event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// Its name; `message` if the server gave none.
    pub name: &'a str,
    /// Its data lines, joined by line breaks.
    pub data: &'a str,
}

/// A kind of server.
pub trait Dialect: fmt::Debug + Send + Sync + 'static {
    /// The path to post the request to, below the base URL, e.g. `/chat/completions`.
    fn path(&self, request: &LlmRequest) -> String;

    /// The request's body. The same request always gives the same bytes, so that servers can cache
    /// prompts by prefix.
    ///
    /// # Errors
    ///
    /// [`LlmErrorKind::InvalidRequest`](super::LlmErrorKind::InvalidRequest), unbilled, if the
    /// dialect cannot say what is asked.
    fn encode(&self, request: &LlmRequest) -> Result<Vec<u8>, LlmError>;

    /// A decoder for the answer.
    fn decoder(&self, setup: AnswerSetup) -> Box<dyn Decoder>;
}

/// Turns one answer's events into [`LlmEvent`]s that obey their grammar, whatever the server sends.
///
/// After the terminal event every method does nothing.
pub trait Decoder: Send {
    /// Reads one server-sent event and adds what it means to `out`.
    fn feed(&mut self, event: SseEvent<'_>, out: &mut Vec<LlmEvent>);

    /// The body ended. Adds the terminal event if there was none.
    fn eof(&mut self, out: &mut Vec<LlmEvent>);

    /// The transport failed. Adds the error with what was said before;
    /// [`LlmError::billing`] becomes `Known` if the server told the usage in time.
    fn fail(&mut self, error: LlmError, out: &mut Vec<LlmEvent>);

    /// Whether the terminal event is out.
    fn is_ended(&self) -> bool;
}
