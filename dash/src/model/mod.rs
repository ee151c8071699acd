//! Plain data: what the engine knows about projects, swarms, tasks, agents, steps, conversations
//! and money. No IO, no async, no clock.
//!
//! Every status is an enum with one table of legal moves, made by the `status!` macro below; the
//! SQL `CHECK`s and the docs are tested against these tables.

macro_rules! status {
    (
        $(#[$doc:meta])*
        $name:ident, $what:literal {
            $($(#[$vdoc:meta])* $variant:ident = $text:literal => [$($next:ident),*] $($terminal:ident)?;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord,
            serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Every value, in the order of a usual life.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The wire and SQL form.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The states this one may become: the one table of legal moves.
            #[must_use]
            pub const fn moves(self) -> &'static [Self] {
                match self { $(Self::$variant => &[$(Self::$next),*],)* }
            }

            /// Whether a move to `next` is legal.
            #[must_use]
            pub fn can_become(self, next: Self) -> bool {
                self.moves().contains(&next)
            }

            /// Whether `next` can be reached from here by one or more legal moves. A commit may
            /// carry several: the store sees only the first and the last state.
            #[must_use]
            pub fn can_reach(self, next: Self) -> bool {
                let mut seen = vec![self];
                let mut at = 0;
                while let Some(state) = seen.get(at).copied() {
                    if state.can_become(next) {
                        return true;
                    }
                    for follower in state.moves() {
                        if !seen.contains(follower) {
                            seen.push(*follower);
                        }
                    }
                    at += 1;
                }
                false
            }

            /// Whether work has ended in this state (a caller may still reopen some of them).
            #[must_use]
            pub const fn is_terminal(self) -> bool {
                match self { $(Self::$variant => status!(@terminal $($terminal)?),)* }
            }

            /// Checks a move.
            ///
            /// # Errors
            ///
            /// [`Conflict`](crate::ErrorKind::Conflict), naming both states, if it is not legal.
            pub fn check_move(self, next: Self) -> crate::Result<()> {
                if self.can_become(next) {
                    return Ok(());
                }
                Err(crate::Error::conflict(format!(
                    concat!("a ", $what, " that is `{}` cannot become `{}`"),
                    self.as_str(), next.as_str(),
                )))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::Error;

            fn from_str(text: &str) -> crate::Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(crate::Error::invalid(
                        "status",
                        format!(concat!("`{}` is not a ", $what, " status"), text),
                    )),
                }
            }
        }
    };
    (@terminal terminal) => { true };
    (@terminal) => { false };
}

pub mod agent;
pub mod budget;
pub mod compat;
pub mod entry;
pub mod inbox;
pub mod message;
pub mod money;
pub mod pricing;
pub mod step;
pub mod swarm;
pub mod task;
pub mod thinking;

pub use agent::{Agent, AgentProfile, AgentStatus, Progress};
pub use budget::{
    Amount, Budget, BudgetScope, Currency, Reservation, ReservationState, Thresholds,
};
pub use entry::{Compaction, CompactionConfig, Entry, EntryBody};
pub use inbox::{Queue, QueueMode, Ticket, TicketState};
pub use message::{
    AssistantBlock, AssistantMessage, ContentBlock, Message, MessageOrigin, StopReason, ToolCall,
    ToolResultMessage, Usage, UserMessage,
};
pub use money::NanoUsd;
pub use step::{SideEffect, Step, StepKey, StepKind, StepState};
pub use swarm::{FailurePolicy, Project, Strategy, Swarm, SwarmConfig, SwarmStatus};
pub use task::{Task, TaskRole, TaskStatus};
pub use thinking::{ThinkingLevel, ThinkingMode, ThinkingSupport};

/// How often a row has been written; a writer that read an older one gets a conflict.
pub type Version = u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn walk<T: Copy + PartialEq + std::fmt::Debug>(
        start: T,
        all: &[T],
        moves: fn(T) -> &'static [T],
    ) {
        let mut seen = vec![start];
        let mut at = 0;
        while at < seen.len() {
            for next in moves(seen[at]) {
                if !seen.contains(next) {
                    seen.push(*next);
                }
            }
            at += 1;
        }
        for status in all {
            assert!(seen.contains(status), "{status:?} cannot be reached");
        }
    }

    #[test]
    fn every_status_can_be_reached_from_the_first() {
        walk(AgentStatus::Idle, AgentStatus::ALL, AgentStatus::moves);
        walk(SwarmStatus::Creating, SwarmStatus::ALL, SwarmStatus::moves);
        walk(TaskStatus::Pending, TaskStatus::ALL, TaskStatus::moves);
        walk(StepState::Intended, StepState::ALL, StepState::moves);
    }

    #[test]
    fn an_illegal_move_names_both_states() {
        let err = AgentStatus::Completed
            .check_move(AgentStatus::Running)
            .unwrap_err();
        assert_eq!(err.kind(), crate::ErrorKind::Conflict);
        assert!(err.to_string().contains("completed") && err.to_string().contains("running"));
    }

    #[test]
    fn status_text_round_trips() {
        for status in AgentStatus::ALL {
            assert_eq!(status.as_str().parse::<AgentStatus>().unwrap(), *status);
            assert_eq!(
                serde_json::to_string(status).unwrap(),
                format!("\"{status}\"")
            );
        }
    }
}
