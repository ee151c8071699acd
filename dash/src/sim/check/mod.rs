//! What must hold of every run, whatever goes wrong: each invariant is a function of its name.
//!
//! `history` keeps what is known to be true, `rows` has what holds at every commit, `ends` what
//! holds when all is over.

use std::fmt;

pub mod ends;
pub mod history;
pub mod rows;

pub use history::{Ack, Bill, History, Run};

/// The names of the invariants.
pub const INVARIANTS: &[&str] = &[
    "acknowledged_writes_are_kept",
    "a_stop_leaves_nothing_running",
    "commits_are_accepted",
    "everything_ends",
    "moves_are_legal",
    "no_agent_is_orphaned",
    "no_step_is_done_twice",
    "nothing_is_told_before_its_commit",
    "once_effects_run_at_most_once_or_are_in_doubt",
    "requests_are_whole",
    "reservations_sum_to_zero_at_the_end",
    "seq_has_no_gap",
    "spent_is_within_caps",
    "tasks_of_finished_swarms_are_terminal",
];

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which one, one of [`INVARIANTS`].
    pub invariant: &'static str,
    /// What was found.
    pub detail: String,
}

impl Broken {
    /// An invariant that did not hold, and what was found.
    #[must_use]
    pub fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self {
            invariant,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// What a check finds.
pub type Found = Result<(), Broken>;
