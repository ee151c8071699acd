//! What travels to the coordinator: inputs with the channels their answers go to.

use tokio::sync::oneshot;

use super::effect::{Command, Reply};
use crate::ids::AgentId;
use crate::model::{Progress, StepKey, Version};
use crate::spawn::{Advance, AttemptFailure, Delegation};
use crate::{Error, Result};

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

impl Message {
    /// Answers with an error instead of carrying it out.
    pub(crate) fn refuse(self, err: Error) {
        match self {
            Self::Command { reply, .. }
            | Self::Advance { reply, .. }
            | Self::Progress { reply, .. }
            | Self::Delegate { reply, .. }
            | Self::Drain { reply } => {
                // A caller that has gone needs no answer.
                let _gone = reply.send(Err(err));
            }
            Self::Detached { .. } | Self::RetryDue { .. } => {}
        }
    }
}
