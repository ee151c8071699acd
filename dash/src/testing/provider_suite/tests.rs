//! The suite on a provider around another, and on providers that each break one rule.

use std::sync::Mutex;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, Stream, stream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::*;
use crate::env::BoxFuture;
use crate::llm::{LlmError, LlmErrorKind, LlmStream, ScriptedLlm, ScriptedReply};
use crate::model::{ContentBlock, NanoUsd, Usage};

const KEY: &str = "sk-never-shown";

/// A rule to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twist {
    HasNoName,
    AsksUnpolled,
    HasNoEnd,
    SpeaksBeforeItsStart,
    StartsTwice,
    SpeaksAfterABlockEnds,
    LeavesABlockOpen,
    LosesUsageAtTheEnd,
    EndsWithAnotherText,
    EndsWithAnotherReason,
    MixesCalls,
    SignsAsAnother,
    CountsTheCostWrong,
    DeniesTheBill,
    QuotesEverything,
    ShowsItsKey,
    GoesOnWhenDropped,
    KeepsThePlacesOfDroppedCalls,
    NamesModelsOfOthers,
}

/// Each twist with the rule that the suite must find broken.
const TWISTS: &[(Twist, &str)] = &[
    (Twist::HasNoName, rules::NAMED),
    (Twist::AsksUnpolled, rules::LAZY),
    (Twist::HasNoEnd, rules::GRAMMAR),
    (Twist::SpeaksBeforeItsStart, rules::GRAMMAR),
    (Twist::StartsTwice, rules::GRAMMAR),
    (Twist::SpeaksAfterABlockEnds, rules::GRAMMAR),
    (Twist::LeavesABlockOpen, rules::GRAMMAR),
    (Twist::LosesUsageAtTheEnd, rules::GRAMMAR),
    (Twist::EndsWithAnotherText, rules::GRAMMAR),
    (Twist::EndsWithAnotherReason, rules::GRAMMAR),
    (Twist::MixesCalls, rules::GRAMMAR),
    (Twist::SignsAsAnother, rules::SIGNED),
    (Twist::CountsTheCostWrong, rules::SIGNED),
    (Twist::DeniesTheBill, rules::BILLING),
    (Twist::QuotesEverything, rules::SHORT),
    (Twist::ShowsItsKey, rules::SECRET),
    (Twist::GoesOnWhenDropped, rules::CANCELS),
    (Twist::KeepsThePlacesOfDroppedCalls, "nothing hangs"),
    (Twist::NamesModelsOfOthers, rules::MODELS),
];

/// Calls at once of a provider that gives out places.
const PLACES: usize = 8;

/// A provider around a script, twisted.
#[derive(Debug)]
struct Twisted {
    twist: Option<Twist>,
    inner: ScriptedLlm,
    open: watch::Sender<usize>,
    places: Arc<Semaphore>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

/// A call that the far side serves.
struct Open(watch::Sender<usize>);

impl Open {
    fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|open| *open += 1);
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

fn said(request: &LlmRequest) -> &str {
    match request.messages.first().map(|message| &**message) {
        Some(Message::User(user)) => match user.content.first() {
            Some(ContentBlock::Text { text }) => text,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn reply(words: &str) -> ScriptedReply {
    let error = |kind| LlmError::billed_unknown(kind, "no more of it");
    match words {
        "endless" => ScriptedReply::text("for ever").hanging(),
        "refused" => ScriptedReply::failure(error(LlmErrorKind::Overloaded)),
        "midway" => {
            ScriptedReply::text("one two three four").failing_midway(error(LlmErrorKind::StreamCut))
        }
        "call" => ScriptedReply::tool_call("add", serde_json::json!({ "a": 1 })),
        _ => ScriptedReply::text("one two three"),
    }
}

impl Twisted {
    fn subject(twist: Option<Twist>) -> ProviderUnderTest {
        let (count, started) = watch::channel(0);
        let (open, seen) = watch::channel(0);
        let inner = ScriptedLlm::new("scripted", move |request| {
            count.send_modify(|n| *n += 1);
            reply(said(request))
        });
        let provider = Self {
            twist,
            inner,
            open,
            places: Arc::new(Semaphore::new(PLACES)),
            tasks: Arc::default(),
        };
        let words = ["text", "refused", "midway", "call"];
        let requests = words.map(|words| request("scripted", words)).to_vec();
        let endless = request("scripted", "endless");
        ProviderUnderTest {
            started: Some(started),
            open: Some(seen),
            secrets: vec![KEY.to_owned()],
            ..ProviderUnderTest::new(Arc::new(provider), requests, endless)
        }
    }

    fn is(&self, twist: Twist) -> bool {
        self.twist == Some(twist)
    }
}

impl LlmProvider for Twisted {
    fn id(&self) -> &str {
        if self.is(Twist::HasNoName) {
            ""
        } else {
            self.inner.id()
        }
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let mut inner = self.inner.stream(request);
        if self.is(Twist::AsksUnpolled) {
            let first = inner.next().now_or_never().flatten();
            inner = LlmStream::new(stream::iter(first).chain(inner));
        }
        let (twist, open, places) = (self.twist, self.open.clone(), Arc::clone(&self.places));
        let tasks = Arc::clone(&self.tasks);
        let begun = async move {
            let held = Open::new(open);
            if twist == Some(Twist::KeepsThePlacesOfDroppedCalls) {
                places.acquire().await.unwrap().forget();
            }
            // A server takes a while, in which others ask.
            tokio::task::yield_now().await;
            let others = held.0.clone();
            let events = inner.flat_map(move |event| {
                let _held = &held;
                if twist == Some(Twist::KeepsThePlacesOfDroppedCalls) && event.is_terminal() {
                    places.add_permits(1);
                }
                stream::iter(twisted(twist, event, *others.borrow()))
            });
            if twist == Some(Twist::GoesOnWhenDropped) {
                pumped(events, &tasks)
            } else {
                events.boxed()
            }
        };
        LlmStream::new(stream::once(begun).flatten())
    }

    fn models(&self) -> BoxFuture<Result<Vec<Model>, LlmError>> {
        let provider = if self.is(Twist::NamesModelsOfOthers) {
            "another"
        } else {
            self.inner.id()
        };
        let models = vec![Model::free("m", provider)];
        Box::pin(async move { Ok(models) })
    }
}

/// The events by way of a task that reads them to their end, whether or not anyone listens.
fn pumped(
    events: impl Stream<Item = LlmEvent> + Send + 'static,
    tasks: &Mutex<JoinSet<()>>,
) -> BoxStream<'static, LlmEvent> {
    let (tx, rx) = mpsc::channel(64);
    tasks.lock().unwrap().spawn(async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let _nobody_listens = tx.send(event).await;
        }
    });
    stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) }).boxed()
}

/// What becomes of an event while `open` calls are served.
fn twisted(twist: Option<Twist>, mut event: LlmEvent, open: usize) -> Vec<LlmEvent> {
    let late = |index| LlmEvent::TextDelta {
        index,
        delta: "late".to_owned(),
    };
    match (twist, &mut event) {
        (Some(Twist::HasNoEnd), event) if event.is_terminal() => return Vec::new(),
        (Some(Twist::SpeaksBeforeItsStart), LlmEvent::Start { .. }) => return vec![late(0), event],
        (Some(Twist::StartsTwice), LlmEvent::Start { .. }) => return vec![event.clone(), event],
        (Some(Twist::SpeaksAfterABlockEnds), LlmEvent::TextEnd { index, .. }) => {
            let late = late(*index);
            return vec![event, late];
        }
        (Some(Twist::LeavesABlockOpen), LlmEvent::TextEnd { .. }) => return Vec::new(),
        (Some(Twist::MixesCalls), LlmEvent::TextEnd { text, .. }) if open > 1 => {
            text.push_str(", and what another call was told");
        }
        (Some(Twist::EndsWithAnotherReason), LlmEvent::Done { reason, .. }) => {
            *reason = StopReason::Length;
        }
        (Some(twist), LlmEvent::Done { message, .. }) => twist_message(twist, message),
        (Some(twist), LlmEvent::Error { error, message }) => match twist {
            Twist::DeniesTheBill if !message.content.is_empty() => error.billing = Billing::None,
            Twist::QuotesEverything => error.message = "x".repeat(ERROR_CHARS_MAX + 1),
            Twist::ShowsItsKey => error.message = format!("refused: {KEY}"),
            twist => twist_message(twist, message),
        },
        _ => {}
    }
    vec![event]
}

/// Changes the final message, if this is such a twist.
fn twist_message(twist: Twist, message: &mut AssistantMessage) {
    match twist {
        Twist::LosesUsageAtTheEnd => message.usage = Usage::default(),
        Twist::EndsWithAnotherText => {
            if let Some(AssistantBlock::Text { text, .. }) = message.content.first_mut() {
                text.push_str(", or not");
            }
        }
        Twist::SignsAsAnother => "another".clone_into(&mut message.provider),
        Twist::CountsTheCostWrong => message.cost = NanoUsd(message.cost.0 + 1),
        _ => {}
    }
}

#[tokio::test]
async fn a_provider_around_another_passes() {
    run_all(Twisted::subject(None)).await;
}

// Time is paused, so that what hangs is found at once.
#[tokio::test(start_paused = true)]
async fn a_provider_that_breaks_a_rule_is_found() {
    for (twist, rule) in TWISTS {
        let subject = Twisted::subject(Some(*twist));
        let mut found = Vec::new();
        for case in CASES {
            if let Err(broken) = run_case(case, &subject).await {
                found.push(broken);
            }
        }
        let is_found = found.iter().any(|broken| broken.rule == *rule);
        assert!(is_found, "{twist:?} must break `{rule}`: {found:#?}");
    }
}

#[tokio::test]
async fn what_mixes_calls_is_found_only_by_calls_side_by_side() {
    let subject = Twisted::subject(Some(Twist::MixesCalls));
    for case in CASES {
        let is_good = run_case(case, &subject).await.is_ok();
        assert_eq!(is_good, *case != "calls_side_by_side_do_not_mix", "{case}");
    }
}

/// No provider can send it: an `LlmStream` ends with the first. A decoder or a recording can.
#[tokio::test]
async fn events_after_the_end_break_the_grammar() {
    let subject = Twisted::subject(None);
    let mut whole = events(&subject, &request("scripted", "text")).await;
    assert_eq!(check_grammar(&whole), Ok(()));
    let last = whole.last().cloned().unwrap();
    whole.push(last);
    let wrong = check_grammar(&whole).unwrap_err();
    assert!(wrong.contains("is not the last event"), "{wrong}");
}

#[tokio::test]
async fn a_finding_names_the_suite_the_case_and_the_rule() {
    let subject = Twisted::subject(Some(Twist::HasNoName));
    let broken = run_case("it_has_a_name", &subject).await.unwrap_err();
    let expected = "the provider suite, case `it_has_a_name`: it is called \"\"\n  broken rule: \
                    a provider has a name, always the same";
    assert_eq!(broken.to_string(), expected);
    let unknown = run_case("no_such", &subject).await.unwrap_err();
    assert!(unknown.what.contains("it_has_a_name"));
}
