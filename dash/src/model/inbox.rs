//! Messages on their way to an agent: steering and follow-ups, each with a ticket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::env::UnixMillis;
use crate::ids::{AgentId, TicketId};

status! {
    /// What became of a queued message.
    TicketState, "message" {
        /// Waits.
        Queued = "queued" => [Delivered, Dropped];
        /// Is part of the conversation.
        Delivered = "delivered" => [] terminal;
        /// Its agent ended first, or a caller took it back.
        Dropped = "dropped" => [] terminal;
    }
}

/// When a queued message is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// At the next boundary: after the whole tool batch under way, before the next model call.
    Steer,
    /// Only when the agent would otherwise stop.
    FollowUp,
}

impl Queue {
    /// The wire and SQL form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Steer => "steer",
            Self::FollowUp => "follow_up",
        }
    }
}

/// How many messages of a queue are delivered at a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueMode {
    /// The oldest; the next one follows after the model has answered.
    #[default]
    OneAtATime,
    /// All that wait.
    All,
}

/// One queued message's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ticket {
    /// Its id; ids grow, so they are also the order of delivery.
    pub id: TicketId,
    /// The agent it is for.
    pub agent_id: AgentId,
    /// When it is delivered.
    pub queue: Queue,
    /// The text.
    pub text: String,
    /// What became of it.
    pub state: TicketState,
    /// When it was queued.
    pub created_at: UnixMillis,
}
