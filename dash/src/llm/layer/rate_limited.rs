//! Keeps calls below a server's limits, shared fairly.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::prompt_bytes;
use super::turnstile::{Turn, Turnstile};
use crate::env::{BoxFuture, Clock};
use crate::llm::{
    Billing, LlmError, LlmErrorKind, LlmEvent, LlmProvider, LlmRequest, LlmStream, MessageBuilder,
    Model,
};
use crate::model::StopReason;

/// Bytes of base64 that an image counts as, about what servers charge for one.
const IMAGE_BYTES: usize = 4_800;

/// The longest that one refusal keeps everybody waiting.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What a server allows, or what a key may take of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls per minute; `None` = no limit.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens of prompts and answers per minute; `None` = no limit.
    pub tokens_per_minute: Option<NonZeroU64>,
    /// Calls that may wait; one more is refused. It bounds memory, not fairness.
    pub waiting_max: usize,
}

impl RateLimit {
    /// Default of [`waiting_max`](Self::waiting_max).
    pub const WAITING_MAX: usize = 10_000;
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            tokens_per_minute: None,
            waiting_max: Self::WAITING_MAX,
        }
    }
}

/// A provider that makes calls wait until the server will take them. Clones share the limits.
///
/// Two buckets, for calls and for tokens, hold a minute's worth and refill evenly; so in any
/// stretch of time at most that time's worth and one minute's more goes out. Tokens are taken
/// before the call, estimated as a token per 3.5 bytes of prompt and all of the output limit, and
/// corrected once the usage is known. A call above a minute's worth waits for a full bucket.
///
/// Calls wait in one queue per [`group`](crate::llm::RequestOptions::group), first come first
/// served, and groups take turns, call by call: a swarm of a thousand does not keep a swarm of one
/// waiting. Calls without a group are one group. A dropped stream leaves the queue.
///
/// If the server refuses all the same and says how long to wait, nobody calls before that (at most
/// a minute); the refused call itself is not repeated, see [`Retrying`](super::Retrying).
#[derive(Debug, Clone)]
pub struct RateLimited {
    inner: Arc<dyn LlmProvider>,
    gate: Gate,
}

#[derive(Debug, Clone)]
struct Gate {
    turnstile: Arc<Mutex<Turnstile>>,
    clock: Arc<dyn Clock>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Turnstile> {
        // Every change is whole before anything can panic.
        self.turnstile
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl RateLimited {
    /// Keeps calls of `inner` below `limit`, on `clock`.
    #[must_use]
    pub fn new(inner: Arc<dyn LlmProvider>, limit: RateLimit, clock: Arc<dyn Clock>) -> Self {
        let turnstile = Arc::new(Mutex::new(Turnstile::new(limit, clock.now())));
        Self {
            inner,
            gate: Gate { turnstile, clock },
        }
    }

    /// Waits for a call's turn.
    async fn wait(&self, group: Arc<str>, tokens: u64) -> Result<(), LlmError> {
        let gate = &self.gate;
        let joined = gate.lock().join(&group, tokens, gate.clock.now());
        let (number, wake) = joined.map_err(|wait| {
            let mut error = LlmError::unbilled(
                LlmErrorKind::RateLimited,
                "too many calls wait for the rate limit set here; nothing was sent",
            );
            error.retry_after_ms = u64::try_from(wait.as_millis()).ok();
            error
        })?;
        let _place = Place {
            gate: gate.clone(),
            group,
            number,
        };
        loop {
            let turn = gate.lock().turn(number, gate.clock.now());
            match turn {
                Turn::Go => return Ok(()),
                Turn::Later => wake.notified().await,
                // Tokens that come back early end the wait early.
                Turn::After(wait) => tokio::select! {
                    biased;
                    () = gate.clock.sleep(wait) => {}
                    () = wake.notified() => {}
                },
            }
        }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.gate.lock().waiting()
    }
}

impl LlmProvider for RateLimited {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let bytes = prompt_bytes(&request, Some(IMAGE_BYTES));
        let prompt = bytes.saturating_mul(2).div_ceil(7);
        let call = Call {
            limited: self.clone(),
            estimate: prompt.saturating_add(request.max_output_tokens.into()),
            phase: Phase::New(Box::new(request)),
        };
        LlmStream::new(stream::unfold(call, Call::next))
    }

    fn models(&self) -> BoxFuture<Result<Vec<Model>, LlmError>> {
        self.inner.models()
    }
}

/// A place in the queue, given up when dropped.
struct Place {
    gate: Gate,
    group: Arc<str>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.lock().leave(&self.group, self.number);
    }
}

struct Call {
    limited: RateLimited,
    estimate: u64,
    phase: Phase,
}

enum Phase {
    New(Box<LlmRequest>),
    On(LlmStream),
    Ended,
}

impl Call {
    async fn next(mut self) -> Option<(LlmEvent, Self)> {
        let mut stream = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::New(request) => {
                let group = request.options.group.clone().unwrap_or_default();
                match self.limited.wait(group, self.estimate).await {
                    Ok(()) => self.limited.inner.stream(*request),
                    Err(error) => {
                        let message = MessageBuilder::new(self.limited.id(), &request.model.id)
                            .into_message(StopReason::Error);
                        return Some((LlmEvent::Error { error, message }, self));
                    }
                }
            }
            Phase::On(stream) => stream,
            Phase::Ended => return None,
        };
        let event = stream.next().await?;
        self.account(&event);
        self.phase = Phase::On(stream);
        Some((event, self))
    }

    /// Corrects the estimate once the call is over.
    fn account(&self, event: &LlmEvent) {
        let gate = &self.limited.gate;
        let actual = match event {
            LlmEvent::Done { message, .. } => message.usage.total(),
            LlmEvent::Error { error, .. } => {
                let now = gate.clock.now();
                if error.kind == LlmErrorKind::RateLimited
                    && let Some(pause) = error.retry_after()
                {
                    gate.lock().close(pause.min(PAUSE_MAX), now);
                }
                match error.billing {
                    Billing::None => 0,
                    Billing::Known(usage) | Billing::Reported { usage, .. } => usage.total(),
                    Billing::Unknown => return,
                }
            }
            _ => return,
        };
        gate.lock().correct(self.estimate, actual, gate.clock.now());
    }
}
