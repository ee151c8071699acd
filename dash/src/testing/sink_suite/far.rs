//! The far side of a sink, as the suite sees it: what arrives, and a way to hold it up.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::watch;

use crate::event::Event;

/// Where a sink under test delivers to. Cheap to clone; all clones are the same far side.
///
/// Whoever receives the sink's events calls [`FarSide::arrive`] for each. A sink that writes lines of
/// JSON can be given the far side itself: it implements [`Write`].
#[derive(Debug, Clone, Default)]
pub struct FarSide {
    inner: Arc<Inner>,
    /// What was written and is no whole line yet.
    line: Vec<u8>,
}

#[derive(Debug)]
struct Inner {
    arrived: watch::Sender<Vec<Event>>,
    state: Mutex<State>,
    changed: Condvar,
    rings: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Open,
    /// It takes nothing for now.
    Stalled,
    /// It is gone.
    Gone,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            arrived: watch::Sender::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            rings: watch::Sender::default(),
        }
    }
}

impl FarSide {
    /// Takes an event; waits in this thread while the far side is held up. False = it is gone.
    pub fn arrive(&self, event: Event) -> bool {
        let state = self.inner.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        while *state == State::Stalled {
            let woken = self.inner.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        self.take(*state, event)
    }

    /// The same for a receiver that is a task.
    pub async fn arrive_async(&self, event: Event) -> bool {
        let mut rings = self.inner.rings.subscribe();
        // The sender lives as long as `self`.
        let open = rings.wait_for(|state| *state != State::Stalled).await;
        let state = open.map_or(State::Gone, |state| *state);
        self.take(state, event)
    }

    fn take(&self, state: State, event: Event) -> bool {
        if state == State::Gone {
            return false;
        }
        self.inner.arrived.send_modify(|all| all.push(event));
        true
    }

    pub(super) fn stall(&self) {
        self.set(State::Stalled);
    }

    pub(super) fn resume(&self) {
        self.set(State::Open);
    }

    pub(super) fn hang_up(&self) {
        self.set(State::Gone);
    }

    fn set(&self, new: State) {
        *self
            .inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = new;
        self.inner.changed.notify_all();
        self.inner.rings.send_replace(new);
    }

    /// Waits until what arrived is so, and gives it.
    pub(super) async fn until(&self, is_so: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        let mut arrived = self.inner.arrived.subscribe();
        // The sender lives as long as `self`.
        let seen = arrived.wait_for(|all| is_so(all)).await;
        seen.map(|all| all.clone()).unwrap_or_default()
    }

    /// Whether something behind this event has arrived.
    pub(super) fn is_past(&self, seq: u64) -> bool {
        let arrived = self.inner.arrived.borrow();
        arrived.iter().rev().any(|event| event.seq > seq)
    }

    /// What has arrived so far, in the order it came.
    pub(super) fn arrived(&self) -> Vec<Event> {
        self.inner.arrived.borrow().clone()
    }
}

impl Write for FarSide {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let rest = self.line.split_off(end + 1);
            let line = std::mem::replace(&mut self.line, rest);
            let event = serde_json::from_slice(&line)?;
            if !self.arrive(event) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
