//! Steps: the journaled effects of an agent.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::env::UnixMillis;
use crate::ids::{AgentId, EntryId, ReservationId};

status! {
    /// Where a step is.
    StepState, "step" {
        /// Committed as about to happen.
        Intended = "intended" => [Done, Failed, InDoubt];
        /// Happened; its outcome is stored.
        Done = "done" => [] terminal;
        /// Ended without an outcome that counts.
        Failed = "failed" => [] terminal;
        /// The engine died while it ran and it may not be repeated; someone must decide.
        InDoubt = "in_doubt" => [Resolved, Intended];
        /// Someone decided.
        Resolved = "resolved" => [] terminal;
    }
}

/// What kind of effect a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// A model call.
    Model,
    /// A tool call.
    Tool,
    /// A model call that sums up the conversation, so that it fits the model's window again.
    Summary,
}

impl StepKind {
    /// The wire and SQL form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Tool => "tool",
            Self::Summary => "summary",
        }
    }

    /// Whether it is a call of a model: paid, and made again after a crash.
    #[must_use]
    pub const fn is_model_call(self) -> bool {
        matches!(self, Self::Model | Self::Summary)
    }
}

/// What may be done with a step whose outcome is unknown after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SideEffect {
    /// It changes nothing: run it again.
    Pure,
    /// Repeating it with the same idempotency key changes nothing more: run it again.
    Idempotent,
    /// It can be asked what happened, by its idempotency key; it is called again and must look.
    Reconcilable,
    /// It must not be repeated: in doubt, until someone decides. The default for a new tool.
    #[default]
    Once,
}

impl SideEffect {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Pure, Self::Idempotent, Self::Reconcilable, Self::Once];

    /// The wire and SQL form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Idempotent => "idempotent",
            Self::Reconcilable => "reconcilable",
            Self::Once => "once",
        }
    }

    /// Whether the engine itself may run such a step again after a crash.
    #[must_use]
    pub const fn may_run_again(self) -> bool {
        !matches!(self, Self::Once)
    }
}

/// A step's place in its agent's work: structural, never by order of completion.
///
/// Text form: `t3/m` is the model call of turn 3, `t3/m.2` the same in the agent's third attempt
/// (counted from 0), `t3/c0` the first tool call that the answer of turn 3 asked for, `t3/s` the
/// summary that was made in turn 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepKey {
    /// The model call of a turn.
    Model {
        /// The turn, from 1.
        turn: u32,
        /// The agent's attempt, from 0.
        attempt: u32,
    },
    /// A tool call of a turn.
    Tool {
        /// The turn, from 1.
        turn: u32,
        /// The call's place in the answer, from 0.
        index: u32,
    },
    /// The model call that sums up the conversation before the model call of a turn. It is a turn
    /// of its own: the turn it comes before gets the next number.
    Summary {
        /// The turn, from 1.
        turn: u32,
        /// The agent's attempt, from 0.
        attempt: u32,
    },
}

impl StepKey {
    /// The turn the step belongs to.
    #[must_use]
    pub const fn turn(self) -> u32 {
        match self {
            Self::Model { turn, .. } | Self::Tool { turn, .. } | Self::Summary { turn, .. } => turn,
        }
    }

    /// The kind of step.
    #[must_use]
    pub const fn kind(self) -> StepKind {
        match self {
            Self::Model { .. } => StepKind::Model,
            Self::Tool { .. } => StepKind::Tool,
            Self::Summary { .. } => StepKind::Summary,
        }
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Model { turn, attempt: 0 } => write!(f, "t{turn}/m"),
            Self::Model { turn, attempt } => write!(f, "t{turn}/m.{attempt}"),
            Self::Tool { turn, index } => write!(f, "t{turn}/c{index}"),
            Self::Summary { turn, attempt: 0 } => write!(f, "t{turn}/s"),
            Self::Summary { turn, attempt } => write!(f, "t{turn}/s.{attempt}"),
        }
    }
}

impl std::str::FromStr for StepKey {
    type Err = crate::Error;

    fn from_str(text: &str) -> crate::Result<Self> {
        let parse = || -> Option<Self> {
            let (turn, rest) = text.strip_prefix('t')?.split_once('/')?;
            let turn = turn.parse().ok()?;
            if rest == "m" {
                return Some(Self::Model { turn, attempt: 0 });
            }
            if let Some(attempt) = rest.strip_prefix("m.") {
                return Some(Self::Model {
                    turn,
                    attempt: attempt.parse().ok()?,
                });
            }
            if rest == "s" {
                return Some(Self::Summary { turn, attempt: 0 });
            }
            if let Some(attempt) = rest.strip_prefix("s.") {
                return Some(Self::Summary {
                    turn,
                    attempt: attempt.parse().ok()?,
                });
            }
            Some(Self::Tool {
                turn,
                index: rest.strip_prefix('c')?.parse().ok()?,
            })
        };
        parse().ok_or_else(|| {
            crate::Error::invalid(
                "step",
                format!("`{text}` is not a step key such as `t3/c0`"),
            )
        })
    }
}

impl Serialize for StepKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StepKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for StepKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StepKey".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^t[0-9]+/([ms](\\.[0-9]+)?|c[0-9]+)$" })
    }
}

/// One step's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The agent whose effect it is.
    pub agent_id: AgentId,
    /// Its place in the agent's work; unique per agent.
    pub key: StepKey,
    /// Where it is.
    pub state: StepState,
    /// What may be done with it after a crash.
    pub side_effect: SideEffect,
    /// The tool's name, or the model's id.
    pub name: String,
    /// How often it was started. 2 or more: the engine died in between.
    pub tries: u32,
    /// The call's id in the model's answer, for a tool call.
    pub call_id: Option<String>,
    /// What it holds of the budgets, for a model call.
    pub reservation_id: Option<ReservationId>,
    /// The entry that holds its outcome.
    pub entry_id: Option<EntryId>,
    /// Why it failed, or how it was resolved.
    pub note: Option<String>,
    /// When it was first intended.
    pub created_at: UnixMillis,
    /// When it left `intended` for good.
    pub finished_at: Option<UnixMillis>,
}

impl Step {
    /// The idempotency key handed to tools and servers: the same over every try of this step.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.agent_id, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_text() {
        for text in ["t1/m", "t12/m.3", "t4/c0", "t4/c17", "t2/s", "t2/s.1"] {
            assert_eq!(text.parse::<StepKey>().unwrap().to_string(), text);
        }
        for text in ["", "t1", "t/m", "t1/x", "t1/c", "m"] {
            assert!(text.parse::<StepKey>().is_err(), "{text}");
        }
    }
}
