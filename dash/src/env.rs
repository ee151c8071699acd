//! The three things a decision may not reach for by itself: time, ids and waiting.
//!
//! They come in through the orchestrator's builder, so that tests and
//! simulations own them. `clippy.toml` bans the ambient versions everywhere else.

use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// A boxed, sendable future: the return type of object-safe async methods that need no borrow.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Milliseconds since 1970-01-01T00:00:00Z, ignoring leap seconds.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// This instant plus a duration; saturates at the end of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero if it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 text in UTC with milliseconds, e.g. `2026-02-02T10:42:01.123Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let millis = u64::try_from(self.0).unwrap_or(0).min(MAX_RFC3339_MS);
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
    }

    /// Reads RFC 3339 text; `None` if it is not one.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let at = humantime::parse_rfc3339(text).ok()?;
        let since_epoch = at.duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(since_epoch.as_millis()).ok().map(Self)
    }
}

/// 9999-12-31T23:59:59.999Z: RFC 3339 has four digits for the year.
const MAX_RFC3339_MS: u64 = 253_402_300_799_999;

/// Where the engine takes the time from, and how it waits.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> UnixMillis;

    /// Completes once `duration` has passed on this clock. Dropping the future cancels the wait.
    fn sleep(&self, duration: Duration) -> BoxFuture<()>;
}

/// The machine's clock and tokio's timer.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    fn now(&self) -> UnixMillis {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        UnixMillis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Where the engine takes ids (and, from their random bits, jitter) from.
pub trait IdSource: fmt::Debug + Send + Sync + 'static {
    /// A new 128-bit ULID for the instant `at`, greater than all it gave before.
    fn next(&self, at: UnixMillis) -> u128;
}

/// ULIDs from the machine's randomness, strictly increasing within one source.
#[derive(Debug, Default)]
pub struct UlidSource {
    last: Mutex<u128>,
}

impl IdSource for UlidSource {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that mints random ids"
    )]
    fn next(&self, at: UnixMillis) -> u128 {
        let millis = u64::try_from(at.0).unwrap_or(0);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Ulid::from_parts(millis, Ulid::generate().random()).0;
        *last = if fresh > *last {
            fresh
        } else {
            last.saturating_add(1)
        };
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_survives_rfc3339() {
        let at = UnixMillis(1_770_028_921_123);
        assert_eq!(at.to_rfc3339(), "2026-02-02T10:42:01.123Z");
        assert_eq!(
            UnixMillis::from_rfc3339("2026-02-02T10:42:01.123Z"),
            Some(at)
        );
    }

    #[test]
    fn ids_grow_even_when_the_clock_stands_or_steps_back() {
        let source = UlidSource::default();
        let mut last = 0;
        for at in [5, 5, 5, 3, 9, 1] {
            let id = source.next(UnixMillis(at));
            assert!(id > last);
            last = id;
        }
    }
}
