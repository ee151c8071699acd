//! Sinks of a simulated run: one that checks what it is told, and one that is slow or panics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::event::Event;
use crate::sim::check::{Broken, rows};
use crate::sim::world::World;
use crate::sink::EventSink;

/// Checks that only what is committed is told, in order.
#[derive(Debug)]
pub(crate) struct CheckingSink {
    world: Arc<World>,
    /// The newest number told in this life; 0 = none yet.
    last: AtomicU64,
}

impl CheckingSink {
    pub(crate) const fn new(world: Arc<World>) -> Self {
        Self {
            world,
            last: AtomicU64::new(0),
        }
    }
}

impl EventSink for CheckingSink {
    fn name(&self) -> &'static str {
        "checking"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        let found = self
            .world
            .with(|truth| rows::nothing_is_told_before_its_commit(&truth.history, events));
        self.world.check(found);
        for event in events {
            let last = self.last.swap(event.seq, Ordering::Relaxed);
            if last != 0 && event.seq != last + 1 {
                let why = format!("a sink was told {} after {last}", event.seq);
                self.world.breaks(Broken::new("seq_has_no_gap", why));
            }
        }
    }
}

/// Blocks now and then, and panics once.
#[derive(Debug)]
pub(crate) struct RoughSink {
    world: Arc<World>,
}

impl RoughSink {
    pub(crate) const fn new(world: Arc<World>) -> Self {
        Self { world }
    }
}

impl EventSink for RoughSink {
    fn name(&self) -> &'static str {
        "rough"
    }

    fn emit(&self, _events: &[Arc<Event>]) {
        self.world.touch("a sink is told");
        let (is_slow, panics) = self.world.with(|truth| {
            let rough = self.world.plan.store_faults;
            (truth.fails(rough), truth.fails(rough / 2))
        });
        if is_slow {
            self.world.count("sink: slow");
            self.world.clock.push(Duration::from_millis(150));
        }
        if panics {
            self.world.count("sink: panic");
            // As a panic, but without the report that one prints.
            std::panic::resume_unwind(Box::new("the sink's own fault"));
        }
    }
}
