//! The HTTP driver: posts a request in some dialect and streams the answer, and the providers
//! built on it.
//!
//! ```text
//!  body bytes ─▶ idle timer ─▶ line gate ─▶ SSE parser ─▶ Decoder ─▶ LlmEvents ─▶ keys removed
//! ```
//!
//! One request per call: retrying is for the caller, who owns the budget. The driver never follows
//! redirects, never uses a proxy for loopback, and shows no key in an error.
//!
//! # Billing
//!
//! `None`: refused by a status of 300 or above, or the connection was never made (refused, DNS,
//! TLS). `Unknown`: everything after the request may have been read, and the statuses by which a
//! gateway says that it gave up on the server behind it (408, 502, 504, 520 to 524). `Known`: the server told the
//! usage before it failed.

mod body;
mod driver;
mod gate;
mod headers;
mod hosts;
mod parser;
mod provider;
#[cfg(test)]
mod tests;
mod windows;

use std::time::Duration;

#[cfg(any(test, feature = "test-util"))]
#[cfg(any(test, feature = "test-util"))]
pub(crate) use body::sse_events;
pub use driver::HttpDriver;
#[cfg(feature = "test-util")]
pub(crate) use gate::{LineGate, LineTooLong};
pub use provider::{HttpProvider, HttpProviderBuilder};

/// Time limits of the driver, on tokio's timer, and what it may reuse. There is no limit on a whole
/// answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpOptions {
    /// How long connecting may take, DNS and TLS included.
    pub connect_timeout: Duration,
    /// How long the server may take until the head of its response, connecting included. Some
    /// send it only with the first token.
    pub response_head_timeout: Duration,
    /// How long a body may be silent. Comments count as life.
    pub idle_timeout: Duration,
    /// Whether connections to near servers are used again, as all others are: to loopback, to
    /// private and link-local addresses (10/8, 172.16/12, 192.168/16, 169.254/16, fc00::/7,
    /// fe80::/10), to names below `.local` and to names without a dot. Off by default: some local
    /// servers announce keep-alive, yet close after each answer, and the next request on such a
    /// connection fails, as [`Network`](crate::llm::LlmErrorKind::Network) with unknown cost. A
    /// proxy or gateway that keeps its connections is worth turning it on.
    pub reuse_loopback: bool,
}

impl HttpOptions {
    /// Default of [`connect_timeout`](Self::connect_timeout).
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    /// Default of [`response_head_timeout`](Self::response_head_timeout).
    pub const RESPONSE_HEAD_TIMEOUT: Duration = Duration::from_secs(300);
    /// Default of [`idle_timeout`](Self::idle_timeout): local reasoning models may think long
    /// without a word.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Self::CONNECT_TIMEOUT,
            response_head_timeout: Self::RESPONSE_HEAD_TIMEOUT,
            idle_timeout: Self::IDLE_TIMEOUT,
            reuse_loopback: false,
        }
    }
}
