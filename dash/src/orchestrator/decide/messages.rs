//! Steering and follow-ups: queued, delivered at their boundary.

use std::sync::Arc;

use super::super::effect::Reply;
use super::Decision;
use super::steps::MESSAGE_OVERHEAD;
use crate::api::{TEXT_MAX, check_text};
use crate::event::{MessageDelivered, MessageDropped, MessageQueued};
use crate::ids::{AgentId, TicketId};
use crate::model::inbox::{Queue, QueueMode, Ticket, TicketState};
use crate::model::{Message, MessageOrigin};
use crate::{Error, ErrorKind, Result};

impl Decision<'_> {
    pub(super) fn send(&mut self, id: AgentId, queue: Queue, text: String) -> Result<Reply> {
        check_text("text", &text, TEXT_MAX)?;
        let agent = self.agent(id)?;
        if agent.status.is_terminal() {
            return Err(Error::conflict(format!(
                "the agent is `{}` and reads no more messages",
                agent.status
            )));
        }
        let max = self.state.settings.inbox_max as usize;
        if self.live(id).inbox.len() >= max {
            return Err(Error::new(
                ErrorKind::RateLimited,
                format!("{max} messages wait for the agent already"),
            ));
        }
        let ticket = Ticket {
            id: TicketId::from_u128(self.id()),
            agent_id: id,
            queue,
            text,
            state: TicketState::Queued,
            created_at: self.now,
        };
        let ticket_id = ticket.id;
        self.state.out.changes.tickets.push(ticket.clone());
        self.live(id).inbox.push_back(ticket);
        let queue = queue.as_str().to_owned();
        self.emit_agent(
            id,
            MessageQueued {
                agent_id: id,
                ticket_id,
                queue,
            },
        );
        Ok(Reply::Ticket(ticket_id))
    }

    /// Drops the messages that wait for an agent, and returns them in their order.
    pub(super) fn drop_inbox(&mut self, id: AgentId) -> Vec<Ticket> {
        let mut dropped: Vec<Ticket> = std::mem::take(&mut self.live(id).inbox).into();
        for ticket in &mut dropped {
            ticket.state = TicketState::Dropped;
            self.state.out.changes.tickets.push(ticket.clone());
            let ticket_id = ticket.id;
            self.emit_agent(
                id,
                MessageDropped {
                    agent_id: id,
                    ticket_id,
                },
            );
        }
        dropped
    }

    /// How many messages of a queue are delivered at a boundary.
    fn due(&self, id: AgentId, queue: Queue) -> usize {
        let config = self.agent(id).and_then(|a| self.swarm(a.swarm_id));
        let mode = config.map_or(QueueMode::OneAtATime, |swarm| match queue {
            Queue::Steer => swarm.config.steer_mode,
            Queue::FollowUp => swarm.config.follow_up_mode,
        });
        match mode {
            QueueMode::OneAtATime => 1,
            QueueMode::All => usize::MAX,
        }
    }

    /// Bytes that the next delivery of a queue adds to the conversation, at most.
    pub(super) fn waiting_bytes(&mut self, id: AgentId, queue: Queue) -> u64 {
        let due = self.due(id, queue);
        let waiting = self.live(id).inbox.iter();
        let waiting = waiting.filter(|ticket| ticket.queue == queue).take(due);
        waiting
            .map(|ticket| ticket.text.len() as u64 + MESSAGE_OVERHEAD)
            .sum()
    }

    /// Moves the oldest message of a queue, or all, into the conversation.
    pub(super) fn deliver(&mut self, id: AgentId, queue: Queue) -> Vec<Arc<Message>> {
        let due = self.due(id, queue);
        let mut delivered = Vec::new();
        while delivered.len() < due {
            let Some(message) = self.deliver_one(id, queue) else {
                break;
            };
            delivered.push(message);
        }
        delivered
    }

    fn deliver_one(&mut self, id: AgentId, queue: Queue) -> Option<Arc<Message>> {
        let at = self
            .live(id)
            .inbox
            .iter()
            .position(|ticket| ticket.queue == queue)?;
        let mut ticket = self.live(id).inbox.remove(at)?;
        let origin = match queue {
            Queue::Steer => MessageOrigin::Steer,
            Queue::FollowUp => MessageOrigin::FollowUp,
        };
        let message = self.say(id, ticket.text.clone(), origin);
        ticket.state = TicketState::Delivered;
        let ticket_id = ticket.id;
        self.state.out.changes.tickets.push(ticket);
        self.emit_agent(
            id,
            MessageDelivered {
                agent_id: id,
                ticket_id,
            },
        );
        Some(message)
    }
}
