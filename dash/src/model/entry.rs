//! Entries: the nodes of an agent's conversation tree. Append-only; a branch is a new child.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Message, StepKey};
use crate::env::UnixMillis;
use crate::ids::{AgentId, EntryId};

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EntryBody {
    /// A message, part of what the model sees.
    Message {
        /// The message; shared, because engine, store, agent and provider all look at it.
        message: Arc<Message>,
    },
    /// A remark for people; never sent to a model.
    Label {
        /// The remark.
        text: String,
    },
}

impl EntryBody {
    /// The message, if it is one.
    #[must_use]
    pub const fn message(&self) -> Option<&Arc<Message>> {
        match self {
            Self::Message { message } => Some(message),
            Self::Label { .. } => None,
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// The agent that added it. A fork's conversation holds entries of the agent it came from.
    pub agent_id: AgentId,
    /// The entry before it; `None` for the first.
    pub parent_id: Option<EntryId>,
    /// The step whose outcome it is.
    pub step: Option<StepKey>,
    /// What it holds.
    pub body: EntryBody,
    /// When it was added.
    pub at: UnixMillis,
}
