//! What every [`Spawner`] must do, as runnable cases: the suite plays the engine, the model and a
//! tool, all of them strict.
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! use std::sync::Arc;
//!
//! use dash::spawn::LocalSpawner;
//! use dash::testing::spawner_suite;
//!
//! spawner_suite::run_all(Arc::new(LocalSpawner)).await;
//! # });
//! ```
//!
//! Each case is one attempt of an agent, or two. At every call of the port the suite checks the rules
//! of [`dash::spawn`](crate::spawn); a case adds what it is about. A finding in one implementation
//! becomes a case here.

use std::sync::Arc;

use super::verdict::{Broken, judge, unknown};
use crate::spawn::Spawner;
use lab::Lab;

mod book;
mod ends;
mod lab;
mod resumes;
mod steps;
#[cfg(test)]
mod tests;

/// The rules, in the words of the contract.
mod rules {
    pub(super) const ASKS_FIRST: &str =
        "an agent does nothing with an effect before it was granted";
    pub(super) const REPORTS_ONCE: &str =
        "every granted step ends in one outcome of a later `advance`, under its key";
    pub(super) const REPORTS_WHAT_CAME: &str = "an outcome is what came of its step";
    pub(super) const FAILURE_ENDS: &str =
        "a failed model call goes with `Next::Fail` or `Next::Summary`";
    pub(super) const STOPS: &str = "`Grant::Stop`, a closed engine and `cancel` mean: end now, \
                                    without further effects";
    pub(super) const RETURNS_AT_ITS_END: &str =
        "`run` returns when the agent has ended or was stopped";
    pub(super) const ENDS_ONCE: &str = "an agent that has ended asks for nothing more";
    pub(super) const LEAVES_NOTHING_RUNNING: &str =
        "the end of `run`, dropped or not, is the end of its effects";
    pub(super) const GOES_ON_FROM_ITS_CONVERSATION: &str =
        "what an agent does next follows from its conversation";
    pub(super) const ASKS_FOR_ITS_NEXT: &str = "an agent with nothing under way asks for its next";
    pub(super) const WITHIN_LIMITS: &str =
        "an agent stays within its grants and the limits of its request";
    pub(super) const TELLS_THE_MODEL: &str =
        "the model is told the conversation, with what was delivered";
    pub(super) const CONTAINED: &str =
        "a tool that fails, panics, hangs or is not there gives a result, and the agent goes on";
    pub(super) const DELEGATES: &str =
        "the engine's own tools are carried out by the port, under their step";
}

macro_rules! cases {
    ($($module:ident::$case:ident),* $(,)?) => {
        /// The names of the cases, in the order in which they run.
        pub const CASES: &[&str] = &[$(stringify!($case)),*];

        /// Runs one case by its name.
        ///
        /// # Errors
        ///
        /// The rule that is broken, or that there is no such case.
        pub async fn run_case(name: &str, spawner: Arc<dyn Spawner>) -> Result<(), Broken> {
            let lab = Lab { spawner };
            match name {
                $(stringify!($case) => judge("spawner", name, Box::pin($module::$case(&lab))).await,)*
                _ => Err(unknown("spawner", name, CASES)),
            }
        }
    };
}

cases!(
    steps::one_answer_completes_with_its_text,
    steps::nothing_is_called_before_it_is_granted,
    steps::tools_run_once_each_after_their_grant,
    steps::results_are_told_in_the_order_of_their_calls,
    steps::what_a_call_used_is_reported,
    steps::grants_bound_the_calls,
    steps::tools_run_side_by_side_within_the_limit,
    steps::long_results_are_cut,
    steps::a_tool_that_fails_or_panics_is_answered,
    steps::a_tool_that_is_not_there_is_answered,
    steps::a_tool_that_hangs_is_stopped,
    steps::progress_and_delegation_go_through_the_port,
    steps::steering_enters_before_the_next_call,
    steps::a_message_at_the_end_makes_it_go_on,
    ends::a_failed_call_ends_the_attempt,
    ends::a_call_that_may_have_cost_is_reported_so,
    ends::the_turn_limit_ends_the_attempt,
    ends::the_time_limit_ends_the_attempt,
    ends::stopped_before_a_call_it_makes_none,
    ends::stopped_before_tools_it_runs_none,
    ends::a_closed_engine_ends_it,
    ends::cancelled_while_held_it_ends,
    ends::cancelled_during_a_call_it_ends,
    ends::cancelled_during_a_tool_it_ends,
    ends::dropped_during_a_call_nothing_goes_on,
    ends::dropped_during_a_tool_nothing_goes_on,
    ends::one_that_hangs_does_not_hold_another,
    resumes::open_calls_of_the_last_answer_come_first,
    resumes::answered_calls_are_not_made_again,
    resumes::a_whole_conversation_completes_without_a_call,
    resumes::a_second_try_is_told_to_the_tool,
    resumes::an_idempotency_key_survives_a_restart,
    resumes::a_second_attempt_goes_on,
);

/// Runs every case.
///
/// Needs a tokio runtime with time.
///
/// # Panics
///
/// If the spawner breaks a rule, with the case and the rule.
#[expect(clippy::panic, reason = "a suite fails by panicking")]
pub async fn run_all(spawner: Arc<dyn Spawner>) {
    for case in CASES {
        if let Err(broken) = run_case(case, Arc::clone(&spawner)).await {
            panic!("{broken}");
        }
    }
}
