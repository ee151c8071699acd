//! The engine as an agent sees it: messages to the coordinator.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::effect::Reply;
use super::message::{Message, ReplySender};
use crate::event::{Delta, DeltaKind};
use crate::ids::{AgentId, SwarmId};
use crate::model::{Progress, StepKey};
use crate::spawn::{Advance, AgentPort, Delegation, DelegationResult, Grant};
use crate::{Error, Result};

#[derive(Debug)]
pub(crate) struct EnginePort {
    pub(crate) agent_id: AgentId,
    pub(crate) swarm_id: SwarmId,
    pub(crate) attempt: u32,
    pub(crate) coordinator: mpsc::Sender<Message>,
    pub(crate) deltas: broadcast::Sender<Arc<Delta>>,
    pub(crate) cancel: CancellationToken,
}

impl EnginePort {
    /// Sends a message and waits for its answer, or for the end of the agent.
    async fn ask<T: TryFrom<Reply, Error = Error>>(
        &self,
        message: impl FnOnce(ReplySender) -> Message,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        if self.coordinator.send(message(reply)).await.is_err() {
            return Err(Error::closed());
        }
        tokio::select! {
            // An answer that is there tells of a commit: it counts more than the end.
            biased;
            answer = answer => match answer {
                Ok(answer) => answer.and_then(T::try_from),
                Err(_) => Err(Error::closed()),
            },
            () = self.cancel.cancelled() => Err(Error::closed()),
        }
    }
}

#[async_trait]
impl AgentPort for EnginePort {
    async fn advance(&self, advance: Advance) -> Result<Grant> {
        let (agent_id, attempt, advance) = (self.agent_id, self.attempt, Box::new(advance));
        self.ask(|reply| Message::Advance {
            agent_id,
            attempt,
            advance,
            reply,
        })
        .await
    }

    async fn report_progress(&self, progress: Progress) -> Result<()> {
        let agent_id = self.agent_id;
        self.ask(|reply| Message::Progress {
            agent_id,
            progress,
            reply,
        })
        .await
    }

    async fn delegate(&self, step: StepKey, delegation: Delegation) -> Result<DelegationResult> {
        let (agent_id, delegation) = (self.agent_id, Box::new(delegation));
        self.ask(|reply| Message::Delegate {
            agent_id,
            step,
            delegation,
            reply,
        })
        .await
    }

    fn publish_delta(&self, step: StepKey, kind: DeltaKind) {
        if self.deltas.receiver_count() == 0 {
            return;
        }
        let (agent_id, swarm_id) = (self.agent_id, self.swarm_id);
        // An error means that the last reader has just gone.
        let _gone = self.deltas.send(Arc::new(Delta {
            agent_id,
            swarm_id,
            step,
            kind,
        }));
    }
}
