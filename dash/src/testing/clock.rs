//! A clock that moves only when told to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::env::{BoxFuture, Clock, UnixMillis};

/// A [`Clock`] that stands still until [`ManualClock::advance`]. Sleepers wake when it passes
/// their time; [`ManualClock::wait_for_sleepers`] waits for them, so that tests need no real sleep.
#[derive(Debug, Clone)]
pub struct ManualClock {
    now: Arc<watch::Sender<UnixMillis>>,
    sleepers: Arc<watch::Sender<usize>>,
    log: Arc<Mutex<Vec<Duration>>>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: UnixMillis) -> Self {
        Self {
            now: Arc::new(watch::Sender::new(now)),
            sleepers: Arc::new(watch::Sender::new(0)),
            log: Arc::default(),
        }
    }

    /// Moves the clock and wakes whoever is due.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = now.plus(by));
    }

    /// Waits until exactly `count` sleeps are pending.
    pub async fn wait_for_sleepers(&self, count: usize) {
        let mut pending = self.sleepers.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _seen = pending.wait_for(|n| *n == count).await;
    }

    /// Every duration that was asked for, in order.
    #[must_use]
    pub fn slept(&self) -> Vec<Duration> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct Pending(Arc<watch::Sender<usize>>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        *self.now.borrow()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(duration);
        let due = self.now().plus(duration);
        let mut now = self.now.subscribe();
        self.sleepers.send_modify(|n| *n += 1);
        let pending = Pending(Arc::clone(&self.sleepers));
        let keep = Arc::clone(&self.now);
        Box::pin(async move {
            let _seen = now.wait_for(|now| *now >= due).await;
            drop((pending, keep));
        })
    }
}
