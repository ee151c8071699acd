use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Mutex;

use futures_util::FutureExt as _;
use futures_util::stream::FuturesUnordered;
use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::*;
use crate::env::Clock as _;
use crate::llm::layer::{RateLimit, RateLimited};
use crate::model::Usage;

fn per_minute(requests: u32, tokens: u64) -> RateLimit {
    RateLimit {
        requests_per_minute: NonZeroU32::new(requests),
        tokens_per_minute: NonZeroU64::new(tokens),
        ..RateLimit::default()
    }
}

/// When each call began, ms, and what it said.
type Log = Arc<Mutex<Vec<(i64, String)>>>;

fn limited(limit: RateLimit, clock: &ManualClock, reply: ScriptedReply) -> (RateLimited, Log) {
    let log = Log::default();
    let (seen, now) = (Arc::clone(&log), clock.clone());
    let llm = ScriptedLlm::new("p", move |request| {
        seen.lock().unwrap().push((now.now().0, said(request)));
        reply.clone()
    });
    let clock = Arc::new(clock.clone());
    (RateLimited::new(Arc::new(llm), limit, clock), log)
}

fn of(group: &str, text: &str) -> LlmRequest {
    let mut request = request(text);
    request.options.group = Some(group.into());
    request
}

async fn run_all(llm: &RateLimited, clock: &ManualClock, requests: Vec<LlmRequest>) {
    let calls: FuturesUnordered<_> = requests
        .into_iter()
        .map(|request| llm.stream(request).finish())
        .collect();
    let all = async {
        let outcomes: Vec<_> = calls.collect().await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    };
    driven(clock, Duration::from_millis(10), all).await;
}

#[tokio::test]
async fn the_provider_suite_passes() {
    passes_the_suite(true, |inner| {
        Arc::new(RateLimited::new(
            inner,
            RateLimit::default(),
            Arc::new(clock()),
        ))
    })
    .await;
}

#[tokio::test]
async fn calls_go_at_the_rate_after_the_first_minutes_worth() {
    let clock = clock();
    let (llm, log) = limited(per_minute(60, 0), &clock, ScriptedReply::text("x"));
    run_all(&llm, &clock, (0..70).map(|_| request("x")).collect()).await;
    let times: Vec<i64> = log.lock().unwrap().iter().map(|(at, _)| *at).collect();
    assert!(times[..60].iter().all(|at| *at == 0), "{times:?}");
    let later: Vec<i64> = (1..=10).map(|n| n * 1_000).collect();
    assert_eq!(times[60..], later);
}

#[tokio::test]
async fn groups_take_turns_and_each_is_served_in_order() {
    let clock = clock();
    let (llm, log) = limited(per_minute(1, 0), &clock, ScriptedReply::text("x"));
    let mut requests = vec![of("a", "first")];
    requests.extend((0..4).map(|n| of("a", &format!("a{n}"))));
    requests.extend((0..2).map(|n| of("b", &format!("b{n}"))));
    requests.push(of("c", "c0"));
    let mut streams: Vec<_> = requests.into_iter().map(|r| llm.stream(r)).collect();
    for stream in &mut streams {
        let _first = stream.next().now_or_never();
    }
    let rest: FuturesUnordered<_> = streams.into_iter().map(|stream| stream.finish()).collect();
    driven(&clock, Duration::from_secs(1), rest.collect::<Vec<_>>()).await;
    let order: Vec<String> = log
        .lock()
        .unwrap()
        .iter()
        .map(|(_, who)| who.clone())
        .collect();
    assert_eq!(order, ["first", "a0", "b0", "c0", "a1", "b1", "a2", "a3"]);
}

#[tokio::test]
async fn a_dropped_waiter_leaves_no_hole_and_no_sleeper() {
    let clock = clock();
    let (llm, log) = limited(per_minute(1, 0), &clock, ScriptedReply::text("x"));
    llm.stream(request("0")).finish().await.unwrap();
    let mut streams: Vec<_> = ["1", "2", "3"].map(|text| llm.stream(request(text))).into();
    for stream in &mut streams {
        assert!(stream.next().now_or_never().is_none());
    }
    assert_eq!(llm.waiting(), 3);
    // The first, which watches the clock, and one in the middle.
    streams.remove(0);
    streams.remove(0);
    assert_eq!(llm.waiting(), 1);
    clock.wait_for_sleepers(0).await;
    let last = streams.pop().unwrap().finish();
    driven(&clock, Duration::from_secs(1), last).await.unwrap();
    assert_eq!(
        *log.lock().unwrap(),
        [(0, "0".to_owned()), (60_000, "3".to_owned())]
    );
    assert_eq!(llm.waiting(), 0);
}

#[tokio::test]
async fn tokens_are_taken_before_and_corrected_after() {
    let clock = clock();
    let used = |input, output| Usage {
        input,
        output,
        ..Usage::default()
    };
    // Each call may use 100 tokens of output; with its prompt it is estimated at 108.
    let reply = ScriptedReply::text("x").usage(used(5, 5));
    let (llm, log) = limited(per_minute(0, 120), &clock, reply);
    for _ in 0..2 {
        llm.stream(request("x")).finish().await.unwrap();
    }
    assert!(clock.slept().is_empty(), "what was not used came back");
    // 100 are left, 8 are missing: two a second.
    run_all(&llm, &clock, vec![request("x")]).await;
    assert_eq!(log.lock().unwrap().last().unwrap().0, 4_000);
    // A call that uses more than a minute's worth leaves a debt.
    let reply = ScriptedReply::text("x").usage(used(300, 60));
    let (llm, log) = limited(per_minute(0, 120), &clock, reply);
    let began = clock.now().0;
    llm.stream(request("x")).finish().await.unwrap();
    run_all(&llm, &clock, vec![request("x")]).await;
    // 120 - 360 + 2 a second = 108.
    assert_eq!(log.lock().unwrap().last().unwrap().0 - began, 174_000);
}

#[tokio::test]
async fn a_call_above_a_minutes_worth_still_goes() {
    let clock = clock();
    let (llm, log) = limited(per_minute(0, 10), &clock, ScriptedReply::text("x"));
    run_all(&llm, &clock, vec![request("x"), request("x")]).await;
    assert_eq!(log.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn one_more_than_may_wait_is_refused_and_told_when_to_come_back() {
    let clock = clock();
    let limit = RateLimit {
        waiting_max: 1,
        ..per_minute(60, 0)
    };
    let (llm, log) = limited(limit, &clock, ScriptedReply::text("x"));
    for _ in 0..60 {
        llm.stream(request("x")).finish().await.unwrap();
    }
    let mut waiting = llm.stream(request("x"));
    assert!(waiting.next().now_or_never().is_none());
    let (error, message) = failure(&llm, request("x")).await;
    assert_eq!(
        (error.kind, error.retry_after_ms, error.billing),
        (
            LlmErrorKind::RateLimited,
            Some(2_000),
            crate::llm::Billing::None
        )
    );
    assert_eq!(message.provider, "p");
    assert_eq!(log.lock().unwrap().len(), 60);
}

#[tokio::test]
async fn a_refusal_keeps_everybody_waiting_as_long_as_the_server_says() {
    let clock = clock();
    let mut busy = unbilled(LlmErrorKind::RateLimited);
    busy.retry_after_ms = Some(7_000);
    let (inner, calls) = series(
        "p",
        vec![ScriptedReply::failure(busy), ScriptedReply::text("x")],
    );
    let llm = RateLimited::new(inner, RateLimit::default(), Arc::new(clock.clone()));
    failure(&llm, request("x")).await;
    let other = llm.clone();
    let call = other.stream(request("x")).finish();
    driven(&clock, Duration::from_millis(10), call)
        .await
        .unwrap();
    assert_eq!(
        (clock.now(), calls.load(Ordering::SeqCst)),
        (UnixMillis(7_000), 2)
    );
}

proptest! {
    /// Whatever joins, leaves and when: nobody waits for ever, and no minute has too many calls.
    #[test]
    fn whatever_comes_all_are_served_within_the_rate(
        calls in proptest::collection::vec((0..4_u8, any::<bool>(), 0..3_000_u64), 1..40),
        rate in 1..20_u32,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let clock = clock();
            let (llm, log) = limited(per_minute(rate, 0), &clock, ScriptedReply::text("x"));
            let mut streams = Vec::new();
            let mut kept = 0;
            for (group, is_dropped, pause) in calls {
                let mut stream = llm.stream(of(&group.to_string(), "x"));
                let began = stream.next().now_or_never().is_some();
                if is_dropped {
                    kept += usize::from(began);
                } else {
                    kept += 1;
                    streams.push(stream.finish());
                }
                clock.advance(Duration::from_millis(pause));
            }
            let rest: FuturesUnordered<_> = streams.into_iter().collect();
            driven(&clock, Duration::from_millis(250), rest.collect::<Vec<_>>()).await;
            let times: Vec<i64> = log.lock().unwrap().iter().map(|(at, _)| *at).collect();
            assert_eq!((times.len(), llm.waiting()), (kept, 0));
            let burst = usize::try_from(rate).unwrap();
            for (first, last) in times.iter().zip(times.iter().skip(burst)) {
                // One more than the burst needs the time to earn one.
                assert!(*last > *first, "{times:?}");
            }
            for window in times.windows(2 * burst + 2) {
                assert!(window[2 * burst + 1] - window[0] > 60_000, "{times:?}");
            }
        });
    }
}
