use pretty_assertions::assert_eq;

use super::*;
use crate::llm::layer::{RetryOptions, Retrying};
use crate::testing::CountingIds;

const MINUTE: Duration = Duration::from_secs(60);

fn retrying(inner: Arc<dyn LlmProvider>, clock: &ManualClock) -> Retrying {
    Retrying::new(inner, RetryOptions::default())
        .with_clock(Arc::new(clock.clone()))
        .with_ids(Arc::new(CountingIds::default()))
}

#[tokio::test]
async fn the_provider_suite_passes() {
    passes_the_suite(true, |inner| Arc::new(retrying(inner, &clock()))).await;
}

#[tokio::test]
async fn refusals_that_may_pass_are_tried_again_with_growing_delays() {
    let mut told = unbilled(LlmErrorKind::RateLimited);
    told.retry_after_ms = Some(20_000);
    let (llm, calls) = series(
        "p",
        vec![
            ScriptedReply::failure(unbilled(LlmErrorKind::Overloaded)),
            ScriptedReply::failure(unbilled(LlmErrorKind::Network)),
            ScriptedReply::failure(told),
            ScriptedReply::text("at last"),
        ],
    );
    let clock = clock();
    let llm = retrying(llm, &clock);
    let answer = driven(&clock, MINUTE, llm.stream(request("Hi")).finish()).await;
    assert_eq!(answer.unwrap().text(), "at last");
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    let slept: Vec<u128> = clock.slept().iter().map(Duration::as_millis).collect();
    let [first, second, third] = slept.as_slice() else {
        panic!("{slept:?}")
    };
    assert!((375..=500).contains(first), "{slept:?}");
    assert!((750..=1_000).contains(second), "{slept:?}");
    assert_eq!(*third, 20_000, "the server's wish wins");
}

#[tokio::test]
async fn what_may_have_cost_or_cannot_pass_is_never_tried_again() {
    let billed = LlmError::billed_unknown(LlmErrorKind::Timeout, "silence");
    let cut = LlmError::billed_unknown(LlmErrorKind::StreamCut, "cut");
    for reply in [
        ScriptedReply::failure(billed),
        ScriptedReply::text("one two").failing_midway(cut),
        ScriptedReply::text("one two").failing_midway(unbilled(LlmErrorKind::Overloaded)),
        ScriptedReply::failure(unbilled(LlmErrorKind::Quota)),
        ScriptedReply::failure(unbilled(LlmErrorKind::Auth)),
        ScriptedReply::failure(unbilled(LlmErrorKind::InvalidRequest)),
        ScriptedReply::failure(unbilled(LlmErrorKind::ContextOverflow)),
        ScriptedReply::failure(unbilled(LlmErrorKind::ContentFilter)),
        ScriptedReply::failure(unbilled(LlmErrorKind::Cancelled)),
    ] {
        let (llm, calls) = series("p", vec![reply.clone(), ScriptedReply::text("again")]);
        let clock = clock();
        let llm = retrying(llm, &clock);
        let outcome = driven(&clock, MINUTE, llm.stream(request("Hi")).finish()).await;
        assert!(outcome.is_err(), "{reply:?}");
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{reply:?}");
        assert!(clock.slept().is_empty());
    }
}

#[tokio::test]
async fn a_wait_that_is_too_long_fails_at_once_and_is_told() {
    let mut error = unbilled(LlmErrorKind::RateLimited);
    error.retry_after_ms = Some(61_000);
    let (llm, calls) = series("p", vec![ScriptedReply::failure(error)]);
    let clock = clock();
    let (error, _) = failure(&retrying(llm, &clock), request("Hi")).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(error.retry_after_ms, Some(61_000));
    assert!(
        error.message.contains("61 s, longer than the 60 s"),
        "{error}"
    );
}

#[tokio::test]
async fn the_last_error_says_how_often_it_was_tried() {
    let replies = vec![ScriptedReply::failure(unbilled(LlmErrorKind::Server))];
    let (llm, calls) = series("p", replies);
    let clock = clock();
    let llm = retrying(llm, &clock);
    let (error, _) = driven(&clock, MINUTE, failure(&llm, request("Hi"))).await;
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    assert_eq!(error.message, "Server it is (tried 4 times)");
}

#[tokio::test]
async fn dropping_the_stream_ends_the_wait() {
    let replies = vec![ScriptedReply::failure(unbilled(LlmErrorKind::Server))];
    let (llm, calls) = series("p", replies);
    let clock = clock();
    let mut stream = retrying(llm, &clock).stream(request("Hi"));
    assert!(futures_util::poll!(stream.next()).is_pending());
    clock.wait_for_sleepers(1).await;
    drop(stream);
    clock.wait_for_sleepers(0).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}
