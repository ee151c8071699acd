//! Ends: by failure, by a limit, on demand.

use super::super::verdict::{Verdict, broken, ensure};
use super::book::{Book, End, Gate};
use super::lab::{self, Lab, Setup, calls};
use super::rules;
use super::steps::completed;
use crate::llm::{Billing, LlmError, LlmErrorKind, ScriptedReply};
use crate::spawn::{AttemptFailure, Outcome};

fn last() -> ScriptedReply {
    ScriptedReply::text("all is done")
}

/// The failure that the attempt ended with.
fn failed(book: &Book) -> Verdict<&AttemptFailure> {
    match &book.end {
        Some(End::Failed(failure)) => Ok(failure),
        end => broken(rules::FAILURE_ENDS, format!("it ended with {end:?}")),
    }
}

/// What was reported of the one failed call.
fn failed_call(book: &Book) -> Verdict<&Billing> {
    match book.outcomes.as_slice() {
        [Outcome::ModelFailed { billing, .. }] => Ok(billing),
        other => broken(rules::REPORTS_ONCE, format!("reported was {other:?}")),
    }
}

pub(super) async fn a_failed_call_ends_the_attempt(lab: &Lab) -> Verdict {
    for (kind, retryable) in [
        (LlmErrorKind::Overloaded, true),
        (LlmErrorKind::Auth, false),
    ] {
        let refused = ScriptedReply::failure(LlmError::unbilled(kind, "refused"));
        let book = lab.run(Setup::new(vec![refused])).await?;
        let failure = failed(&book)?;
        let what = format!("{kind:?} became {failure:?}");
        ensure(failure.retryable == retryable, rules::FAILURE_ENDS, what)?;
        let billing = failed_call(&book)?;
        let what = format!("a refusal was reported as {billing:?}");
        let is_so = *billing == Billing::None;
        ensure(is_so, rules::REPORTS_WHAT_CAME, what)?;
    }
    Ok(())
}

pub(super) async fn a_call_that_may_have_cost_is_reported_so(lab: &Lab) -> Verdict {
    let cut = LlmError::billed_unknown(LlmErrorKind::StreamCut, "cut");
    let cut = ScriptedReply::text("one two three four").failing_midway(cut);
    let book = lab.run(Setup::new(vec![cut])).await?;
    failed(&book)?;
    let billing = failed_call(&book)?;
    let what = format!("a cut answer was reported as {billing:?}");
    let is_so = *billing == Billing::Unknown;
    ensure(is_so, rules::REPORTS_WHAT_CAME, what)
}

pub(super) async fn the_turn_limit_ends_the_attempt(lab: &Lab) -> Verdict {
    let mut setup = Setup::new(vec![calls(&["one"])]);
    setup.turns_left = 2;
    let book = lab.run(setup).await?;
    failed(&book)?;
    let what = format!("the model was asked {} times", book.requests.len());
    ensure(book.requests.len() == 2, rules::WITHIN_LIMITS, what)
}

pub(super) async fn the_time_limit_ends_the_attempt(lab: &Lab) -> Verdict {
    let running = lab.start(Setup::new(vec![ScriptedReply::text("for ever").hanging()]));
    asked(&running).await;
    let is_over = |book: &Book| book.end.is_some();
    running.pass(lab::ATTEMPT_TIMEOUT, is_over).await;
    let slept = running.clock.slept();
    let book = running.finish().await?;
    failed(&book)?;
    let billing = failed_call(&book)?;
    let what = format!("a call that was given up was reported as {billing:?}");
    let is_so = *billing == Billing::Unknown;
    ensure(is_so, rules::REPORTS_WHAT_CAME, what)?;
    let what = format!("it waited for {slept:?}");
    let is_so = slept.iter().all(|wait| *wait <= lab::ATTEMPT_TIMEOUT);
    ensure(is_so, rules::WITHIN_LIMITS, what)
}

pub(super) async fn stopped_before_a_call_it_makes_none(lab: &Lab) -> Verdict {
    for turn in [1, 2] {
        let mut setup = Setup::new(vec![calls(&["one"]), last()]);
        setup.orders.stop = Some(Gate::Model(turn));
        let book = lab.run(setup).await?;
        nothing_after_the_stop(&book, turn - 1, turn - 1)?;
    }
    Ok(())
}

pub(super) async fn stopped_before_tools_it_runs_none(lab: &Lab) -> Verdict {
    let mut setup = Setup::new(vec![calls(&["one", "two"]), last()]);
    setup.orders.stop = Some(Gate::Tools(1));
    let book = lab.run(setup).await?;
    nothing_after_the_stop(&book, 1, 0)
}

pub(super) async fn a_closed_engine_ends_it(lab: &Lab) -> Verdict {
    for (gate, calls_made) in [(Gate::Model(1), 0), (Gate::Tools(1), 1)] {
        let mut setup = Setup::new(vec![calls(&["one"]), last()]);
        setup.orders.close = Some(gate);
        let book = lab.run(setup).await?;
        nothing_after_the_stop(&book, calls_made, 0)?;
    }
    Ok(())
}

fn nothing_after_the_stop(book: &Book, requests: u32, made: u32) -> Verdict {
    let seen = (book.requests.len(), book.made.len());
    let what = format!("it made {} model calls and {} tool calls", seen.0, seen.1);
    let as_expected = seen == (requests as usize, made as usize);
    ensure(
        as_expected && book.end == Some(End::Stopped),
        rules::STOPS,
        what,
    )
}

/// Waits until the model is asked, or something went wrong before.
async fn asked(running: &lab::Running) {
    let is_so = |book: &Book| !book.requests.is_empty() || book.fault.is_some();
    running.desk.until(is_so).await;
}

/// Waits until the tool is called, or something went wrong before.
async fn made(running: &lab::Running) {
    let is_so = |book: &Book| !book.made.is_empty() || book.fault.is_some();
    running.desk.until(is_so).await;
}

pub(super) async fn cancelled_while_held_it_ends(lab: &Lab) -> Verdict {
    for (gate, requests) in [(Gate::Model(1), 0), (Gate::Tools(1), 1)] {
        let mut setup = Setup::new(vec![calls(&["one"]), last()]);
        setup.orders.hold = Some(gate);
        let running = lab.start(setup);
        running.held(gate).await;
        running.cancel.cancel();
        let book = running.finish().await?;
        let seen = (book.requests.len(), book.made.len());
        let what = format!("it made {} model calls and {} tool calls", seen.0, seen.1);
        ensure(seen == (requests, 0), rules::STOPS, what)?;
    }
    Ok(())
}

pub(super) async fn cancelled_during_a_call_it_ends(lab: &Lab) -> Verdict {
    let running = lab.start(Setup::new(vec![ScriptedReply::text("for ever").hanging()]));
    asked(&running).await;
    running.cancel.cancel();
    let book = running.finish().await?;
    let what = format!("it made {} model calls", book.requests.len());
    ensure(book.requests.len() == 1, rules::STOPS, what)
}

pub(super) async fn cancelled_during_a_tool_it_ends(lab: &Lab) -> Verdict {
    let running = lab.start(Setup::new(vec![calls(&["hang"]), last()]));
    made(&running).await;
    running.cancel.cancel();
    let book = running.finish().await?;
    let what = format!("it made {} model calls", book.requests.len());
    ensure(book.requests.len() == 1, rules::STOPS, what)
}

pub(super) async fn dropped_during_a_call_nothing_goes_on(lab: &Lab) -> Verdict {
    let running = lab.start(Setup::new(vec![ScriptedReply::text("for ever").hanging()]));
    asked(&running).await;
    running.drop_run().await.map(drop)
}

pub(super) async fn dropped_during_a_tool_nothing_goes_on(lab: &Lab) -> Verdict {
    let running = lab.start(Setup::new(vec![calls(&["hang"]), last()]));
    made(&running).await;
    running.drop_run().await.map(drop)
}

pub(super) async fn one_that_hangs_does_not_hold_another(lab: &Lab) -> Verdict {
    let hangs = lab.start(Setup::new(vec![calls(&["hang"]), last()]));
    made(&hangs).await;
    completed(&lab.run(Setup::new(vec![calls(&["one"]), last()])).await?)?;
    hangs.cancel.cancel();
    hangs.finish().await.map(drop)
}
