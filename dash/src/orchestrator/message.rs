//! What travels to the coordinator: inputs with the channels their answers go to.

use tokio::sync::oneshot;

use super::effect::{Command, Reply};
use crate::Result;
use crate::ids::AgentId;
use crate::model::{Progress, StepKey, Version};
use crate::spawn::{Advance, AttemptFailure, Delegation};

pub(crate) type ReplySender = oneshot::Sender<Result<Reply>>;

/// One message to the coordinator.
#[derive(Debug)]
pub(crate) enum Message {
    Command {
        command: Command,
        expected: Option<Version>,
        reply: ReplySender,
    },
    Advance {
        agent_id: AgentId,
        attempt: u32,
        advance: Box<Advance>,
        reply: ReplySender,
    },
    Progress {
        agent_id: AgentId,
        progress: Progress,
        reply: ReplySender,
    },
    Delegate {
        agent_id: AgentId,
        step: StepKey,
        delegation: Box<Delegation>,
        reply: ReplySender,
    },
    Detached {
        agent_id: AgentId,
        attempt: u32,
        failure: Option<AttemptFailure>,
    },
    RetryDue {
        agent_id: AgentId,
        attempt: u32,
    },
    /// Stop granting steps; answered once nothing more will be granted.
    Drain {
        reply: ReplySender,
    },
}
