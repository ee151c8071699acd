//! The suite on the spawners there are, and on spawners that each break one rule.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use pretty_assertions::assert_eq;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::Result;
use crate::event::DeltaKind;
use crate::llm::{LlmProvider, LlmRequest, LlmStream};
use crate::model::{Amount, Message, Progress, StepKey};
use crate::spawn::{
    Advance, AgentContext, AgentPort, Delegation, DelegationResult, Grant, LocalSpawner, Next,
    Outcome, SpawnRequest,
};

/// A rule to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twist {
    CallsBeforeTheGrant,
    CallsTwice,
    RunsToolsAfterAStop,
    ReportsTwice,
    ForgetsAnOutcome,
    SwapsKeys,
    ReportsNoUse,
    GoesOnAfterAFailure,
    AsksAfterTheEnd,
    ReturnsEarly,
    IgnoresCancel,
    LivesOnWhenDropped,
    ForgetsItsConversation,
    ForgetsWhatWasDelivered,
    IgnoresTheGrantedLimit,
    IgnoresTheTurnLimit,
    IgnoresTheTimeLimit,
    IgnoresTheWidth,
    IgnoresTheLength,
    PanicsWithItsTool,
    DelegatesElsewhere,
    TellsTheFirstTry,
}

/// Which twist must be met with which rule.
const TWISTS: &[(Twist, &str)] = &[
    (Twist::CallsBeforeTheGrant, rules::ASKS_FIRST),
    (Twist::CallsTwice, rules::ASKS_FIRST),
    (Twist::RunsToolsAfterAStop, rules::ASKS_FIRST),
    (Twist::ReportsTwice, rules::REPORTS_ONCE),
    (Twist::ForgetsAnOutcome, rules::REPORTS_ONCE),
    (Twist::SwapsKeys, rules::REPORTS_WHAT_CAME),
    (Twist::ReportsNoUse, rules::REPORTS_WHAT_CAME),
    (Twist::GoesOnAfterAFailure, rules::FAILURE_ENDS),
    (Twist::AsksAfterTheEnd, rules::ENDS_ONCE),
    (Twist::ReturnsEarly, rules::RETURNS_AT_ITS_END),
    (Twist::IgnoresCancel, "nothing hangs"),
    (Twist::LivesOnWhenDropped, rules::LEAVES_NOTHING_RUNNING),
    (
        Twist::ForgetsItsConversation,
        rules::GOES_ON_FROM_ITS_CONVERSATION,
    ),
    (Twist::ForgetsWhatWasDelivered, rules::TELLS_THE_MODEL),
    (Twist::IgnoresTheGrantedLimit, rules::WITHIN_LIMITS),
    (Twist::IgnoresTheTurnLimit, rules::WITHIN_LIMITS),
    (Twist::IgnoresTheTimeLimit, "nothing hangs"),
    (Twist::IgnoresTheWidth, rules::WITHIN_LIMITS),
    (Twist::IgnoresTheLength, rules::WITHIN_LIMITS),
    (Twist::PanicsWithItsTool, rules::CONTAINED),
    (Twist::DelegatesElsewhere, rules::ASKS_FIRST),
    (Twist::TellsTheFirstTry, rules::WITHIN_LIMITS),
];

/// The local spawner, twisted or, without a twist, only wrapped.
#[derive(Debug)]
struct Twisted(Option<Twist>);

#[async_trait]
impl Spawner for Twisted {
    fn name(&self) -> &'static str {
        "twisted"
    }

    async fn run(&self, mut request: SpawnRequest, mut cx: AgentContext) {
        let port = Arc::new(TwistedPort {
            inner: Arc::clone(&cx.port),
            twist: self.0,
            has_asked: AtomicBool::new(false),
        });
        cx.port = port;
        match self.0 {
            Some(Twist::ReturnsEarly) => return,
            Some(Twist::IgnoresCancel) => cx.cancel = CancellationToken::new(),
            Some(Twist::ForgetsItsConversation) => request.history.truncate(1),
            Some(Twist::IgnoresTheTurnLimit) => request.turns_left = 100,
            Some(Twist::IgnoresTheTimeLimit) => request.timeout *= 1_000,
            Some(Twist::IgnoresTheWidth) => request.limits.parallel_max = 100,
            Some(Twist::IgnoresTheLength) => request.limits.output_bytes_max = 1 << 30,
            _ => {}
        }
        request.provider = Arc::new(TwistedLlm {
            inner: request.provider,
            twist: self.0,
        });
        let run = async move { LocalSpawner.run(request, cx).await };
        if self.0 == Some(Twist::LivesOnWhenDropped) {
            let tasks = tokio_util::task::TaskTracker::new();
            // Detached: nobody stops it.
            tasks.spawn(run).await.unwrap();
        } else {
            run.await;
        }
    }
}

#[derive(Debug)]
struct TwistedLlm {
    inner: Arc<dyn LlmProvider>,
    twist: Option<Twist>,
}

impl LlmProvider for TwistedLlm {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn stream(&self, mut request: LlmRequest) -> LlmStream {
        if self.twist == Some(Twist::IgnoresTheGrantedLimit) {
            request.max_output_tokens += 1;
        }
        if self.twist == Some(Twist::CallsTwice) {
            let first = self.inner.stream(request.clone());
            let second = self.inner.stream(request);
            let second = async move {
                first.collect::<Vec<_>>().await;
                second
            };
            return LlmStream::new(futures_util::stream::once(second).flatten());
        }
        self.inner.stream(request)
    }
}

#[derive(Debug)]
struct TwistedPort {
    inner: Arc<dyn AgentPort>,
    twist: Option<Twist>,
    has_asked: AtomicBool,
}

impl TwistedPort {
    fn is(&self, twist: Twist) -> bool {
        self.twist == Some(twist)
    }

    fn asks_once_more(&self) -> bool {
        self.is(Twist::AsksAfterTheEnd) && !self.has_asked.swap(true, Ordering::SeqCst)
    }

    /// Changes what is reported.
    fn twist(&self, advance: &mut Advance) {
        for outcome in &mut advance.outcomes {
            match outcome {
                Outcome::Answered { used, .. } if self.is(Twist::ReportsNoUse) => {
                    *used = Amount::default();
                }
                Outcome::ToolAnswered {
                    key: StepKey::Tool { index, .. },
                    ..
                } if self.is(Twist::SwapsKeys) && *index < 2 => *index = 1 - *index,
                Outcome::ToolAnswered { message, .. } if self.is(Twist::PanicsWithItsTool) => {
                    if let Message::ToolResult(result) = message.as_ref() {
                        assert!(!result.is_error, "the tool failed");
                    }
                }
                _ => {}
            }
        }
        if self.is(Twist::ReportsTwice)
            && let Some(last) = advance.outcomes.last()
        {
            advance.outcomes.push(last.clone());
        }
        if self.is(Twist::ForgetsAnOutcome) {
            let is_kept = |o: &Outcome| !matches!(o, Outcome::ToolAnswered { .. });
            advance.outcomes.retain(is_kept);
        }
    }
}

#[async_trait]
impl AgentPort for TwistedPort {
    async fn advance(&self, mut advance: Advance) -> Result<Grant> {
        self.twist(&mut advance);
        if self.is(Twist::CallsBeforeTheGrant)
            && let Next::Model { turn, intent } = &advance.next
        {
            return Ok(Grant::Model {
                key: StepKey::Model {
                    turn: *turn,
                    attempt: 0,
                },
                max_output_tokens: intent.output_tokens,
                idempotency_key: "mine".to_owned(),
                delivered: Vec::new(),
            });
        }
        if self.is(Twist::GoesOnAfterAFailure) && matches!(advance.next, Next::Fail(_)) {
            let outcomes = std::mem::take(&mut advance.outcomes);
            let next = Next::Nothing;
            self.inner.advance(Advance { outcomes, next }).await?;
        }
        let wanted = advance.next.clone();
        let mut grant = self.inner.advance(advance).await?;
        match (&mut grant, wanted) {
            (Grant::Stop { .. }, Next::Tools { turn, calls })
                if self.is(Twist::RunsToolsAfterAStop) =>
            {
                let step = |call: &crate::spawn::ToolIntent| {
                    let index = call.index;
                    (StepKey::Tool { turn, index }, 1)
                };
                let steps = calls.iter().map(step).collect();
                return Ok(Grant::Tools { steps });
            }
            (Grant::Ended, next) if self.asks_once_more() => {
                let outcomes = Vec::new();
                return self.inner.advance(Advance { outcomes, next }).await;
            }
            (Grant::Model { delivered, .. }, _) if self.is(Twist::ForgetsWhatWasDelivered) => {
                delivered.clear();
            }
            (Grant::Tools { steps }, _) if self.is(Twist::TellsTheFirstTry) => {
                for (_, tries) in steps {
                    *tries = 1;
                }
            }
            _ => {}
        }
        Ok(grant)
    }

    async fn report_progress(&self, progress: Progress) -> Result<()> {
        self.inner.report_progress(progress).await
    }

    async fn delegate(&self, step: StepKey, delegation: Delegation) -> Result<DelegationResult> {
        let step = match step {
            StepKey::Tool { turn, index } if self.is(Twist::DelegatesElsewhere) => StepKey::Tool {
                turn,
                index: index + 7,
            },
            step => step,
        };
        self.inner.delegate(step, delegation).await
    }

    fn publish_delta(&self, step: StepKey, delta: DeltaKind) {
        self.inner.publish_delta(step, delta);
    }
}

#[tokio::test]
async fn the_local_spawner_passes() {
    run_all(Arc::new(LocalSpawner)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_spawner_passes_on_two_threads() {
    run_all(Arc::new(LocalSpawner)).await;
}

#[tokio::test]
async fn a_spawner_around_another_passes() {
    run_all(Arc::new(Twisted(None))).await;
}

#[tokio::test(start_paused = true)]
async fn a_spawner_that_breaks_a_rule_is_found() {
    for (twist, rule) in TWISTS {
        let mut found = Vec::new();
        for case in CASES {
            if let Err(broken) = run_case(case, Arc::new(Twisted(Some(*twist)))).await {
                found.push(broken);
            }
        }
        let is_found = found.iter().any(|broken| broken.rule == *rule);
        assert!(is_found, "{twist:?} must break `{rule}`: {found:#?}");
    }
}

#[tokio::test]
async fn a_finding_names_the_suite_the_case_and_the_rule() {
    let twisted = Arc::new(Twisted(Some(Twist::ReturnsEarly)));
    let broken = run_case(CASES[0], twisted).await.unwrap_err();
    let text = broken.to_string();
    let expected = "the spawner suite, case `one_answer_completes_with_its_text`: `run` returned \
                    before the agent had completed, failed or was stopped\n  broken rule: `run` \
                    returns when the agent has ended or was stopped";
    assert_eq!(text, expected);
    let unknown = run_case("no_such", Arc::new(LocalSpawner)).await;
    assert!(unknown.unwrap_err().what.contains("one_answer_completes"));
}
