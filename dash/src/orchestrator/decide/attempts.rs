//! Attempts that fail: another one, another model, or the end.

use std::time::Duration;

use super::super::effect::Effect;
use super::Decision;
use crate::event::{AgentEscalated, AgentRetrying};
use crate::ids::AgentId;
use crate::model::{AgentStatus, MessageOrigin};
use crate::policy::retry;
use crate::spawn::AttemptFailure;

/// Characters of the errors that a model which takes over is told, the newest.
const ERRORS_CHARS_MAX: usize = 4_000;

impl Decision<'_> {
    /// Gives an attempt up: another one after a delay, then another model, then the end.
    pub(super) fn fail_attempt(&mut self, id: AgentId, failure: AttemptFailure) {
        let Ok(agent) = self.agent(id) else { return };
        if agent.status.is_terminal() {
            return;
        }
        let may_retry = failure.retryable && agent.retry_count < agent.max_retries;
        if may_retry {
            self.retry_later(id, failure);
        } else if let Some(model) = self.next_rung(id).filter(|_| failure.other_model) {
            self.escalate(id, model, &failure.error);
        } else {
            self.fail_agent(id, &failure.error);
        }
    }

    fn retry_later(&mut self, id: AgentId, failure: AttemptFailure) {
        let Ok(agent) = self.agent(id) else { return };
        let retry_count = agent.retry_count + 1;
        let settings = &self.state.settings;
        let random = u64::try_from(self.id() & u128::from(u64::MAX)).unwrap_or(0);
        let delay = retry::delay(
            retry_count,
            Duration::from_millis(settings.retry_base_ms),
            Duration::from_millis(settings.retry_cap_ms),
            failure.retry_after,
            random,
        );
        let shown = self.errors_so_far(id, &failure.error);
        self.begin_attempt(id, retry_count, delay, shown);
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let error = failure.error;
        self.emit_agent(
            id,
            AgentRetrying {
                agent_id: id,
                error,
                retry_count,
                delay_ms,
            },
        );
    }

    /// The model after the agent's own on its swarm's ladder, if it is there.
    fn next_rung(&self, id: AgentId) -> Option<String> {
        let agent = self.agent(id).ok()?;
        let ladder = &self.swarm(agent.swarm_id).ok()?.config.escalation;
        let own = ladder.iter().rposition(|rung| *rung == agent.model);
        let mut above = ladder.iter().skip(own.map_or(0, |at| at + 1));
        // One that is not registered any more is passed over.
        above
            .find(|rung| self.state.models.contains_key(*rung))
            .cloned()
    }

    /// Moves an agent up to another model. It keeps its conversation and is told what went wrong.
    fn escalate(&mut self, id: AgentId, to: String, error: &str) {
        let Ok(agent) = self.agent(id) else { return };
        let from = agent.model.clone();
        let errors = self.errors_so_far(id, error);
        self.begin_attempt(id, 0, Duration::ZERO, String::new());
        self.edit_agent(id, |a| {
            a.model.clone_from(&to);
            a.error = Some(error.to_owned());
        });
        let text = format!(
            "Another model worked on this until here and failed. You take over: go on from here, \
             and do not repeat what is done already. What went wrong:\n{errors}"
        );
        self.say(id, text, MessageOrigin::Escalation);
        let error = error.to_owned();
        self.emit_agent(
            id,
            AgentEscalated {
                agent_id: id,
                from,
                to,
                error,
            },
        );
    }

    /// The errors of the attempts with this model, the newest last. Kept in the agent's row as long
    /// as there is a ladder, so that the model that takes over can be told after a restart too.
    fn errors_so_far(&self, id: AgentId, error: &str) -> String {
        let Ok(agent) = self.agent(id) else {
            return error.to_owned();
        };
        let has_ladder = self
            .swarm(agent.swarm_id)
            .is_ok_and(|s| !s.config.escalation.is_empty());
        if !has_ladder {
            return error.to_owned();
        }
        let earlier = agent.error.as_deref().filter(|_| agent.retry_count > 0);
        let number = agent.retry_count + 1;
        let line = format!("- attempt {number} with `{}`: {error}", agent.model);
        let all = match earlier {
            Some(earlier) => format!("{earlier}\n{line}"),
            None => line,
        };
        let extra = all.chars().count().saturating_sub(ERRORS_CHARS_MAX);
        all.chars().skip(extra).collect()
    }

    fn begin_attempt(&mut self, id: AgentId, retry_count: u32, delay: Duration, error: String) {
        let at = self.now.plus(delay);
        let mut attempt = 0;
        self.edit_agent(id, |a| {
            // A paused agent stays paused; its retry begins when it is resumed.
            if a.status != AgentStatus::Paused {
                a.status = AgentStatus::Spawning;
            }
            a.retry_count = retry_count;
            a.attempt += 1;
            a.attempt_turns = a.turns;
            a.retry_at = Some(at);
            a.error = Some(error);
            attempt = a.attempt;
        });
        self.live(id).announced = false;
        self.suspend_steps(id);
        self.effect(Effect::RetryAt {
            agent_id: id,
            attempt,
            at,
        });
    }
}
