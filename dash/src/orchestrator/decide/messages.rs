//! Steering and follow-ups: queued, delivered at their boundary.

use std::sync::Arc;

use super::super::effect::Reply;
use super::Decision;
use crate::api::{TEXT_MAX, check_text};
use crate::event::{MessageDelivered, MessageQueued};
use crate::ids::{AgentId, TicketId};
use crate::model::inbox::{Queue, Ticket, TicketState};
use crate::model::{EntryBody, Message, MessageOrigin};
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

    pub(super) fn peek(&mut self, id: AgentId, queue: Queue) -> Option<&str> {
        let inbox = &self.live(id).inbox;
        inbox
            .iter()
            .find(|ticket| ticket.queue == queue)
            .map(|ticket| ticket.text.as_str())
    }

    /// Moves the oldest message of a queue into the conversation.
    pub(super) fn deliver(&mut self, id: AgentId, queue: Queue) -> Option<Arc<Message>> {
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
        let message = Arc::new(Message::user(ticket.text.clone(), origin));
        self.append(
            id,
            None,
            EntryBody::Message {
                message: Arc::clone(&message),
            },
        );
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
