//! What the program says: commits, effects and troubles, each line flushed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use dash::event::Event;
use dash::sink::EventSink;

/// Prints the numbers of events, after their commit.
#[derive(Debug)]
pub(crate) struct Tell;

impl EventSink for Tell {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        let line = |event: &Arc<Event>| format!("event {} {}", event.seq, event.id);
        let lines: Vec<String> = events.iter().map(line).collect();
        say(&lines.join("\n"));
    }
}

pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever started this may have gone; then nobody needs to be told.
    let _gone = out
        .write_all(format!("{text}\n").as_bytes())
        .and_then(|()| out.flush());
}

pub(crate) fn complain(text: &str) {
    // As above.
    let _gone = writeln!(std::io::stderr(), "crash_driver: {text}");
}

/// Prints what the engine logs as an error.
#[derive(Debug)]
pub(crate) struct Troubles;

impl tracing::Subscriber for Troubles {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        complain(&format!("error:{}", fields.0));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        // Writing to a string cannot fail.
        let _written = write!(self.0, " {field}={value:?}");
    }
}
