//! Steps in doubt: someone decides, and the agent goes on.

use super::super::effect::Reply;
use super::Decision;
use super::recover::IS_UNKNOWN;
use super::steps::UNKNOWN_OUTCOME;
use crate::api::{Resolution, check_output};
use crate::event::{StepResolved, TaskUnblocked};
use crate::ids::AgentId;
use crate::model::{Agent, AgentStatus, StepKey, StepState, TaskStatus};
use crate::{Error, Result};

impl Decision<'_> {
    pub(super) fn resolve_step(
        &mut self,
        id: AgentId,
        key: StepKey,
        resolution: Resolution,
    ) -> Result<Reply> {
        self.agent(id)?;
        let Some(step) = self.live(id).steps.get(&key).cloned() else {
            return Err(Error::not_found("open step", key));
        };
        if step.state != StepState::InDoubt {
            return Err(Error::conflict(format!(
                "step `{key}` is `{}`, not in doubt",
                step.state
            )));
        }
        let name = resolution.as_str().to_owned();
        let text = match resolution {
            Resolution::Retry => None,
            Resolution::Skip => Some((UNKNOWN_OUTCOME.to_owned(), true)),
            Resolution::Result { text } => {
                check_output("text", &text)?;
                Some((text, false))
            }
        };
        match text {
            None => {
                if let Some(step) = self.live(id).steps.get_mut(&key) {
                    step.state = StepState::Intended;
                    let step = step.clone();
                    self.state.out.changes.steps.push(step);
                }
            }
            Some((text, is_error)) => {
                let call = step.call_id.unwrap_or_default();
                let entry = self.append_result(id, key, call, step.name, &text, is_error);
                self.end_step(
                    id,
                    key,
                    StepState::Resolved,
                    Some(entry),
                    Some(name.clone()),
                );
            }
        }
        self.emit_agent(
            id,
            StepResolved {
                agent_id: id,
                step: key,
                resolution: name,
            },
        );
        self.unblock(id);
        self.agent_reply(id)
    }

    /// Lets an agent go on once none of its steps is in doubt.
    fn unblock(&mut self, id: AgentId) {
        if self
            .live(id)
            .steps
            .values()
            .any(|s| s.state == StepState::InDoubt)
        {
            return;
        }
        let Ok(agent) = self.agent(id) else { return };
        let (swarm, task) = (agent.swarm_id, agent.task_id);
        let held = agent.status == AgentStatus::Paused;
        let reason = agent.pause_reason.clone();
        if let Some(task) = task
            && self
                .task(task)
                .is_ok_and(|t| t.status == TaskStatus::Blocked)
        {
            self.edit_task(task, |t| {
                t.status = TaskStatus::Running;
                t.error = None;
            });
            let Ok(key) = self.task(task).map(|t| t.key.clone()) else {
                return;
            };
            self.emit_swarm(swarm, TaskUnblocked { task_id: task, key });
        }
        let by_doubt = reason.is_some_and(|reason| reason.ends_with(IS_UNKNOWN));
        if held && by_doubt && self.state.is_active(swarm) {
            self.let_go(id);
        } else if held && by_doubt {
            self.edit_agent(id, |a: &mut Agent| {
                a.pause_reason = Some(super::swarms::SWARM_PAUSED.to_owned());
            });
        }
    }
}
