//! Tries again before the first byte.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::free_failure;
use crate::env::{BoxFuture, Clock, IdSource, SystemClock, UlidSource};
use crate::llm::{LlmError, LlmEvent, LlmProvider, LlmRequest, LlmStream, Model};
use crate::policy::retry;

/// How often and how fast [`Retrying`] tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryOptions {
    /// Calls in all, the first included; 0 counts as 1.
    pub attempts_max: u32,
    /// The delay before the second call; it doubles each time.
    pub base: Duration,
    /// The longest such delay.
    pub cap: Duration,
    /// The longest wait that a server may ask for. If it asks for more, the call fails at once.
    pub delay_max: Duration,
}

impl RetryOptions {
    /// Default of [`attempts_max`](Self::attempts_max).
    pub const ATTEMPTS_MAX: u32 = 4;
    /// Default of [`base`](Self::base).
    pub const BASE: Duration = Duration::from_millis(500);
    /// Default of [`cap`](Self::cap).
    pub const CAP: Duration = Duration::from_secs(8);
    /// Default of [`delay_max`](Self::delay_max).
    pub const DELAY_MAX: Duration = Duration::from_secs(60);
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            attempts_max: Self::ATTEMPTS_MAX,
            base: Self::BASE,
            cap: Self::CAP,
            delay_max: Self::DELAY_MAX,
        }
    }
}

/// A provider that calls again if nothing came but an error that may pass.
///
/// Only for kinds that are [retryable](crate::llm::LlmErrorKind::is_retryable), so never for keys,
/// money or refusals, and only if the call cannot have been billed: the budget has reserved one
/// call, so one that may have cost is not repeated. That leaves refusals (429, 5xx) and connections
/// that were never made; a time limit or a connection that broke later is its caller's to judge.
///
/// The wait is what the server asks for, else doubles from [`RetryOptions::base`], less up to a
/// quarter by chance. Dropping the stream ends it. Every call has the same idempotency key.
#[derive(Debug, Clone)]
pub struct Retrying {
    inner: Arc<dyn LlmProvider>,
    options: RetryOptions,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
}

impl Retrying {
    /// Tries calls of `inner` again; on tokio's timer and the machine's randomness.
    #[must_use]
    pub fn new(inner: Arc<dyn LlmProvider>, options: RetryOptions) -> Self {
        Self {
            inner,
            options,
            clock: Arc::new(SystemClock),
            ids: Arc::new(UlidSource::default()),
        }
    }

    /// The clock that waits run on.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where the randomness of delays comes from.
    #[must_use]
    pub fn with_ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self
    }

    /// How long to wait after call number `tries` failed; else the error in its final words.
    fn delay(&self, tries: u32, error: &LlmError) -> Result<Duration, LlmError> {
        let give_up = |why: String| {
            let mut error = error.clone();
            error.message = format!("{} ({why})", error.message);
            error
        };
        if !error.kind.is_retryable() {
            return Err(error.clone());
        }
        if tries >= self.options.attempts_max {
            return Err(match tries {
                1 => error.clone(),
                _ => give_up(format!("tried {tries} times")),
            });
        }
        match error.retry_after() {
            Some(wish) if wish > self.options.delay_max => Err(give_up(format!(
                "the server asks to wait {} s, longer than the {} s that are waited",
                wish.as_secs_f64(),
                self.options.delay_max.as_secs_f64()
            ))),
            Some(wish) => Ok(wish),
            None => {
                let id = self.ids.next(self.clock.now());
                let random = u64::try_from(id & u128::from(u64::MAX)).unwrap_or(0);
                let RetryOptions { base, cap, .. } = self.options;
                Ok(retry::delay(tries, base, cap, None, random))
            }
        }
    }
}

impl LlmProvider for Retrying {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let call = Call {
            retrying: self.clone(),
            request,
            stream: None,
            tries: 0,
            has_begun: false,
        };
        LlmStream::new(stream::unfold(call, Call::next))
    }

    fn models(&self) -> BoxFuture<Result<Vec<Model>, LlmError>> {
        self.inner.models()
    }
}

struct Call {
    retrying: Retrying,
    request: LlmRequest,
    stream: Option<LlmStream>,
    tries: u32,
    has_begun: bool,
}

impl Call {
    async fn next(mut self) -> Option<(LlmEvent, Self)> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.tries += 1;
                self.stream = Some(self.retrying.inner.stream(self.request.clone()));
                continue;
            };
            let mut event = stream.next().await?;
            if self.has_begun {
                return Some((event, self));
            }
            self.has_begun = true;
            if let Some(error) = free_failure(&event) {
                match self.retrying.delay(self.tries, error) {
                    Ok(delay) => {
                        self.has_begun = false;
                        // The failed call holds nothing while the next one waits.
                        self.stream = None;
                        self.retrying.clock.sleep(delay).await;
                        continue;
                    }
                    Err(last) => {
                        if let LlmEvent::Error { error, .. } = &mut event {
                            *error = last;
                        }
                    }
                }
            }
            return Some((event, self));
        }
    }
}
