//! Ways to break the engine on purpose, so that the simulator can show that it would see them.
//!
//! Without the feature `mutations` nothing here can be set, `active` is `false` at compile time
//! and no trace is left in the code. With it, a test breaks the engine for its own thread only.
#![cfg_attr(
    not(feature = "mutations"),
    expect(unreachable_pub, reason = "public only with the feature `mutations`")
)]

/// A part of the engine that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Sinks are told before the commit.
    TellBeforeCommit,
    /// Callers are answered before the commit.
    AnswerBeforeCommit,
    /// Agents are granted steps before the commit.
    GrantBeforeCommit,
    /// What a refused call held is not given back.
    KeepReservation,
    /// Caps are not looked at.
    IgnoreCaps,
    /// A call whose outcome was lost is not charged.
    UncertainIsFree,
    /// A tool that may run once runs again after a crash.
    RerunOnce,
    /// Agents of a swarm that ends are left alone.
    LeaveAgents,
    /// Children of an agent that ends are left alone.
    LeaveChildren,
    /// Tasks of a swarm that ends are left alone.
    LeaveTasks,
    /// An agent that was killed is not stopped.
    IgnoreCancel,
    /// A number is left out between two events.
    SkipSeq,
    /// What a tool answered is not kept.
    ForgetResult,
    /// Agents may be paused whatever they are.
    PauseAnything,
    /// Retries never become due.
    ForgetRetry,
    /// A model is not told what its tools answered.
    DropResults,
    /// A row keeps its version when it is written.
    KeepVersion,
}

#[cfg(feature = "mutations")]
impl Mutation {
    /// Every mutation, with the invariant that it breaks.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::TellBeforeCommit, "nothing_is_told_before_its_commit"),
        (Self::AnswerBeforeCommit, "acknowledged_writes_are_kept"),
        (Self::GrantBeforeCommit, "nothing_is_told_before_its_commit"),
        (Self::KeepReservation, "reservations_sum_to_zero_at_the_end"),
        (Self::IgnoreCaps, "spent_is_within_caps"),
        (Self::UncertainIsFree, "spent_is_within_caps"),
        (
            Self::RerunOnce,
            "once_effects_run_at_most_once_or_are_in_doubt",
        ),
        (Self::LeaveAgents, "no_agent_is_orphaned"),
        (Self::LeaveChildren, "no_agent_is_orphaned"),
        (Self::LeaveTasks, "tasks_of_finished_swarms_are_terminal"),
        (Self::IgnoreCancel, "a_stop_leaves_nothing_running"),
        (Self::SkipSeq, "seq_has_no_gap"),
        (Self::ForgetResult, "no_step_is_done_twice"),
        (Self::PauseAnything, "moves_are_legal"),
        (Self::ForgetRetry, "everything_ends"),
        (Self::DropResults, "requests_are_whole"),
        (Self::KeepVersion, "commits_are_accepted"),
    ];
}

#[cfg(feature = "mutations")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Breaks the engine on this thread, or mends it.
#[cfg(feature = "mutations")]
pub fn set(mutation: Option<Mutation>) {
    ACTIVE.set(mutation);
}

/// Whether the engine is broken in this way on this thread.
#[cfg(feature = "mutations")]
pub(crate) fn active(mutation: Mutation) -> bool {
    ACTIVE.get() == Some(mutation)
}

/// The engine is never broken.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn active(_mutation: Mutation) -> bool {
    false
}
