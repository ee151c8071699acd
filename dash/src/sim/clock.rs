//! Time and ids of a simulated run: tokio's paused time, going on where the life before ended.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::env::{BoxFuture, Clock, IdSource, UnixMillis};
use crate::sim::rng::Rng;

/// Virtual time. It jumps when everything is idle, stands still between lives and may be pushed.
#[derive(Debug)]
pub struct SimClock {
    state: Mutex<Reading>,
}

#[derive(Debug)]
struct Reading {
    /// The time when the life began, pushes included.
    base: UnixMillis,
    /// When the life began on tokio's clock; `None` between lives.
    life: Option<tokio::time::Instant>,
}

impl SimClock {
    /// A clock that stands at `at`.
    #[must_use]
    pub const fn new(at: UnixMillis) -> Self {
        Self {
            state: Mutex::new(Reading {
                base: at,
                life: None,
            }),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Reading) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a life; must be called within its runtime.
    pub fn start(&self) {
        self.with(|reading| reading.life = Some(tokio::time::Instant::now()));
    }

    /// Stops the clock where it is; must be called within the runtime of the life.
    pub fn stop(&self) {
        let now = self.now();
        self.with(|reading| {
            reading.base = now;
            reading.life = None;
        });
    }

    /// Lets time pass at once, as if something had blocked for as long.
    pub fn push(&self, by: Duration) {
        self.with(|reading| reading.base = reading.base.plus(by));
    }
}

impl Clock for SimClock {
    fn now(&self) -> UnixMillis {
        self.with(|reading| match reading.life {
            Some(began) => reading.base.plus(began.elapsed()),
            None => reading.base,
        })
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Ids from the seed, growing over all lives.
#[derive(Debug)]
pub struct SimIds {
    state: Mutex<(u128, Rng)>,
}

impl SimIds {
    /// The ids of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: Mutex::new((0, Rng::of(seed, "ids"))),
        }
    }
}

impl IdSource for SimIds {
    fn next(&self, at: UnixMillis) -> u128 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = u128::try_from(at.0).unwrap_or(0) & 0xffff_ffff_ffff;
        let fresh = (millis << 80) | u128::from(state.1.next());
        state.0 = fresh.max(state.0.saturating_add(1));
        state.0
    }
}
