//! A scripted model behind a desk: requests are noted and can be held.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dash::env::Clock;
use dash::llm::{LlmEvent, LlmProvider, LlmRequest, LlmStream, ScriptedLlm, ScriptedReply};
use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;

use crate::engine::within;

struct Book {
    requests: watch::Sender<Vec<LlmRequest>>,
    /// Calls that may pass; the others wait.
    open: watch::Sender<usize>,
    dropped: watch::Sender<usize>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

/// A scripted provider that notes every request, can hold answers back, and knows which streams
/// were dropped before their end.
#[derive(Clone)]
pub struct Desk {
    llm: ScriptedLlm,
    book: Arc<Book>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// A call under way.
struct Visit {
    book: Arc<Book>,
    ended: bool,
}

impl Visit {
    const fn saw(&mut self, event: &LlmEvent) {
        self.ended |= event.is_terminal();
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.book.under_way.fetch_sub(1, Ordering::SeqCst);
        if !self.ended {
            self.book.dropped.send_modify(|n| *n += 1);
        }
    }
}

impl Desk {
    /// A desk that answers with what `script` says.
    pub fn new(script: impl Fn(&LlmRequest) -> ScriptedReply + Send + Sync + 'static) -> Self {
        Self {
            llm: ScriptedLlm::new("desk", script),
            book: Arc::new(Book {
                requests: watch::Sender::new(Vec::new()),
                open: watch::Sender::new(usize::MAX),
                dropped: watch::Sender::new(0),
                under_way: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
            }),
        }
    }

    /// The same with delays on another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.llm = self.llm.with_clock(clock);
        self
    }

    /// Lets only the first `calls` calls (counted from the first of all) be answered.
    pub fn hold_after(&self, calls: usize) {
        self.book.open.send_replace(calls);
    }

    /// Answers everything.
    pub fn release(&self) {
        self.hold_after(usize::MAX);
    }

    /// The requests so far, in the order they came.
    #[must_use]
    pub fn requests(&self) -> Vec<LlmRequest> {
        self.book.requests.borrow().clone()
    }

    /// How many requests came.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.book.requests.borrow().len()
    }

    /// Waits until `count` requests have come.
    pub async fn wait_for_calls(&self, count: usize) {
        let mut requests = self.book.requests.subscribe();
        within("model calls", requests.wait_for(|r| r.len() >= count))
            .await
            .unwrap();
    }

    /// Waits until `count` streams were dropped before their end.
    pub async fn wait_for_dropped(&self, count: usize) {
        let mut dropped = self.book.dropped.subscribe();
        within("dropped streams", dropped.wait_for(|n| *n >= count))
            .await
            .unwrap();
    }

    /// How many calls are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.book.under_way.load(Ordering::SeqCst)
    }

    /// The most calls that were under way at the same time.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        self.book.most.load(Ordering::SeqCst)
    }
}

impl LlmProvider for Desk {
    fn id(&self) -> &'static str {
        "desk"
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let Self { llm, book } = self.clone();
        let call = async move {
            let at_once = book.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            book.most.fetch_max(at_once, Ordering::SeqCst);
            let mut visit = Visit {
                book: Arc::clone(&book),
                ended: false,
            };
            let mut number = 0;
            book.requests.send_modify(|requests| {
                requests.push(request.clone());
                number = requests.len();
            });
            let mut open = book.open.subscribe();
            open.wait_for(|open| number <= *open).await.unwrap();
            llm.stream(request).map(move |event| {
                visit.saw(&event);
                event
            })
        };
        LlmStream::new(stream::once(call).flatten())
    }
}
