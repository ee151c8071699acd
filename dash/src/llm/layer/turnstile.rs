//! Who may call when: two buckets and a fair queue. No IO; the clock's readings come in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::rate_limited::RateLimit;
use crate::env::UnixMillis;

const MINUTE_MS: i128 = 60_000;

/// How much may be taken: refilled evenly, full after a minute. Counted in 60,000ths of a unit, so
/// that every millisecond adds a whole number.
#[derive(Debug)]
struct Bucket {
    per_minute: i128,
    level: i128,
}

impl Bucket {
    const fn full(per_minute: i128) -> Self {
        Self {
            per_minute,
            level: per_minute * MINUTE_MS,
        }
    }

    const fn capacity(&self) -> i128 {
        self.per_minute * MINUTE_MS
    }

    fn refill(&mut self, elapsed_ms: i128) {
        self.add(self.per_minute.saturating_mul(elapsed_ms));
    }

    fn add(&mut self, scaled: i128) {
        self.level = self.level.saturating_add(scaled).min(self.capacity());
    }

    /// How long until `amount` may be taken. More than a minute's worth waits for a full bucket and
    /// then leaves a debt, so that the rate holds over time.
    fn wait_ms(&self, amount: u64) -> u64 {
        let need = (i128::from(amount) * MINUTE_MS).min(self.capacity());
        self.until(need)
    }

    /// How long until the level is `need`, ms, rounded up.
    fn until(&self, need: i128) -> u64 {
        let missing = need.saturating_sub(self.level).max(0);
        let ms = (missing + self.per_minute - 1) / self.per_minute;
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    fn take(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(i128::from(amount) * MINUTE_MS);
    }
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    tokens: u64,
    wake: Arc<Notify>,
}

/// What a waiter is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It may call; it has left the queue.
    Go,
    /// It is the first; the buckets are full enough after this.
    After(Duration),
    /// Others are before it; it is woken when that changes.
    Later,
}

/// The queue and the buckets.
///
/// Groups take turns: the front of `rotation` is next, and moves to the back once it was served.
/// The first waiter therefore stays the first until it goes or is dropped, and only it watches the
/// clock. Whenever another becomes first, it is woken; a wake-up that comes early is kept.
#[derive(Debug)]
pub(super) struct Turnstile {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    at: UnixMillis,
    /// Nobody goes before this.
    closed_until: UnixMillis,
    rotation: VecDeque<Arc<str>>,
    queues: BTreeMap<Arc<str>, VecDeque<Waiter>>,
    waiting: usize,
    waiting_max: usize,
    waiting_tokens: u64,
    next_number: u64,
}

impl Turnstile {
    pub(super) fn new(limit: RateLimit, now: UnixMillis) -> Self {
        let requests = limit.requests_per_minute;
        let tokens = limit.tokens_per_minute;
        Self {
            requests: requests.map(|n| Bucket::full(i128::from(n.get()))),
            tokens: tokens.map(|n| Bucket::full(i128::from(n.get()))),
            at: now,
            closed_until: now,
            rotation: VecDeque::new(),
            queues: BTreeMap::new(),
            waiting: 0,
            waiting_max: limit.waiting_max,
            waiting_tokens: 0,
            next_number: 0,
        }
    }

    fn refill(&mut self, now: UnixMillis) {
        let elapsed = i128::try_from(now.since(self.at).as_millis()).unwrap_or(0);
        self.at = self.at.max(now);
        for bucket in [&mut self.requests, &mut self.tokens].into_iter().flatten() {
            bucket.refill(elapsed);
        }
    }

    /// Joins the queue; the waiter's number and what wakes it. If the queue is full: how long until
    /// those before would be served.
    pub(super) fn join(
        &mut self,
        group: &Arc<str>,
        tokens: u64,
        now: UnixMillis,
    ) -> Result<(u64, Arc<Notify>), Duration> {
        self.refill(now);
        // A queue of none still lets a call through that need not wait.
        let may_pass = self.waiting == 0 && self.wait(tokens).is_zero();
        if self.waiting >= self.waiting_max && !may_pass {
            return Err(self.wait_for_all(tokens));
        }
        let number = self.next_number;
        self.next_number += 1;
        let wake = Arc::new(Notify::new());
        if !self.queues.contains_key(group) {
            self.rotation.push_back(Arc::clone(group));
        }
        let queue = self.queues.entry(Arc::clone(group)).or_default();
        queue.push_back(Waiter {
            number,
            tokens,
            wake: Arc::clone(&wake),
        });
        self.waiting += 1;
        self.waiting_tokens = self.waiting_tokens.saturating_add(tokens);
        Ok((number, wake))
    }

    /// Whether it is this waiter's turn.
    pub(super) fn turn(&mut self, number: u64, now: UnixMillis) -> Turn {
        self.refill(now);
        let (group, tokens) = match self.first() {
            Some((group, first)) if first.number == number => (Arc::clone(group), first.tokens),
            _ => return Turn::Later,
        };
        let wait = self.wait(tokens);
        if !wait.is_zero() {
            return Turn::After(wait);
        }
        if let Some(bucket) = &mut self.requests {
            bucket.take(1);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(tokens);
        }
        // Every group gets its turn before this one's next.
        self.rotation.rotate_left(1);
        self.leave(&group, number);
        Turn::Go
    }

    /// Takes a waiter out of the queue and wakes who is first now. A group whose waiter gave up
    /// keeps its turn.
    pub(super) fn leave(&mut self, group: &Arc<str>, number: u64) {
        let Some(queue) = self.queues.get_mut(group) else {
            return;
        };
        let Some(at) = queue.iter().position(|waiter| waiter.number == number) else {
            return;
        };
        let gone = queue.remove(at).map_or(0, |waiter| waiter.tokens);
        self.waiting -= 1;
        self.waiting_tokens = self.waiting_tokens.saturating_sub(gone);
        if queue.is_empty() {
            self.queues.remove(group);
            self.rotation.retain(|other| other != group);
        }
        self.wake_first();
    }

    /// A call that took `estimate` tokens has used `actual`.
    pub(super) fn correct(&mut self, estimate: u64, actual: u64, now: UnixMillis) {
        self.refill(now);
        if let Some(bucket) = &mut self.tokens {
            let back = i128::from(estimate) - i128::from(actual);
            bucket.add(back.saturating_mul(MINUTE_MS));
        }
        self.wake_first();
    }

    /// The server asks all to wait.
    pub(super) fn close(&mut self, pause: Duration, now: UnixMillis) {
        self.closed_until = self.closed_until.max(now.plus(pause));
        self.wake_first();
    }

    fn first(&self) -> Option<(&Arc<str>, &Waiter)> {
        let group = self.rotation.front()?;
        Some((group, self.queues.get(group)?.front()?))
    }

    fn wake_first(&self) {
        if let Some((_group, waiter)) = self.first() {
            waiter.wake.notify_one();
        }
    }

    /// How long until one call with so many tokens may go.
    fn wait(&self, tokens: u64) -> Duration {
        let requests = self.requests.as_ref().map_or(0, |bucket| bucket.wait_ms(1));
        let tokens = self
            .tokens
            .as_ref()
            .map_or(0, |bucket| bucket.wait_ms(tokens));
        let closed = self.closed_until.since(self.at);
        Duration::from_millis(requests.max(tokens)).max(closed)
    }

    /// How long until all that wait and one more call have gone, about.
    fn wait_for_all(&self, tokens: u64) -> Duration {
        let scaled = |n: u64| i128::from(n).saturating_mul(MINUTE_MS);
        let calls = u64::try_from(self.waiting).unwrap_or(u64::MAX);
        let tokens = self.waiting_tokens.saturating_add(tokens);
        let requests = self.requests.as_ref();
        let requests = requests.map_or(0, |bucket| bucket.until(scaled(calls.saturating_add(1))));
        let bucket = self.tokens.as_ref();
        let tokens = bucket.map_or(0, |bucket| bucket.until(scaled(tokens)));
        let closed = self.closed_until.since(self.at);
        // A full queue is never empty at once.
        Duration::from_millis(requests.max(tokens).max(1)).max(closed)
    }

    #[cfg(test)]
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }
}
