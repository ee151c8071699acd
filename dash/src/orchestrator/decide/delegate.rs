//! Children: work handed to them, found again after a crash.

use super::super::effect::{Reply, ReplyId};
use super::Decision;
use super::agents::NewAgent;
use crate::api::{BUDGET_EXCEEDED, BudgetRequest, TEXT_MAX, check_text};
use crate::ids::{AgentId, TaskId};
use crate::model::{NanoUsd, StepKey, TaskRole, TaskStatus};
use crate::spawn::{Delegation, DelegationResult};
use crate::{Error, ErrorKind, Result};

impl Decision<'_> {
    /// Makes (or finds again) the child of a `delegate` step, and answers at its end.
    pub(super) fn delegate(
        &mut self,
        id: AgentId,
        step: StepKey,
        delegation: Delegation,
        reply: ReplyId,
    ) -> Result<()> {
        let parent = self.agent(id)?;
        let (swarm_id, depth) = (parent.swarm_id, parent.depth + 1);
        let mut model = parent.model.clone();
        let inherited = parent.profile.clone();
        let key = format!("delegated/{id}/{step}");
        let known = self
            .state
            .plans
            .get(&swarm_id)
            .and_then(|p| p.by_key.get(&key))
            .copied();
        if let Some(task) = known {
            self.rejoin(task, reply);
            return Ok(());
        }
        check_text("task", &delegation.task, TEXT_MAX)?;
        check_text("name", &delegation.name, crate::api::NAME_MAX)?;
        let swarm = self.swarm(swarm_id)?;
        if swarm.status.is_terminal() || parent.status.is_terminal() {
            return Err(Error::conflict("the swarm has ended"));
        }
        let config = &swarm.config;
        if let Some(name) = &delegation.profile {
            let profile = config.profile(name).ok_or_else(|| {
                Error::invalid("profile", format!("the swarm has no profile `{name}`"))
            })?;
            if !profile.model.is_empty() {
                model.clone_from(&profile.model);
            }
        }
        if depth > config.tree_depth_max {
            let issue = format!("the tree is {} levels deep already", config.tree_depth_max);
            return Err(Error::invalid("delegate", issue));
        }
        let prefix = format!("delegated/{id}/");
        let children = self.state.plans.get(&swarm_id).map_or(0, |plan| {
            plan.by_key
                .keys()
                .filter(|key| key.starts_with(&prefix))
                .count()
        });
        if children >= config.tree_fanout_max as usize {
            let issue = format!("it has {children} children already, the most allowed");
            return Err(Error::invalid("delegate", issue));
        }
        self.check_room(swarm_id)?;
        let budget = match delegation.budget_nanos {
            Some(nanos) => Some(self.carve(id, nanos)?),
            None => None,
        };
        let task_id = TaskId::from_u128(self.id());
        let role = TaskRole::Delegated;
        self.add_task(swarm_id, task_id, key, role, delegation.task, Vec::new());
        let name = delegation.name;
        let (parent_id, task) = (Some(id), Some(task_id));
        let new = NewAgent {
            swarm_id,
            name,
            model,
            parent_id,
            depth,
            task_id: task,
            budget,
            profile: delegation.profile.or(inherited),
        };
        let child = self.add_agent(new);
        self.start(child, task_id);
        self.live(child).delegator = Some(reply);
        if !self.state.is_active(swarm_id) {
            // A tool batch that was granted before the pause runs on; what it starts waits.
            self.pause_agent(child, super::swarms::SWARM_PAUSED)?;
        }
        Ok(())
    }

    /// A child's cap: what was asked for, if the parent's path has it.
    fn carve(&self, parent: AgentId, nanos: i64) -> Result<BudgetRequest> {
        let request = BudgetRequest::usd(NanoUsd(nanos));
        request.validate()?;
        for budget in self.path_of(parent) {
            let left = budget
                .available()
                .filter(|_| budget.currency == request.currency);
            if left.is_some_and(|left| nanos > left) {
                let issue = format!("{BUDGET_EXCEEDED}: less than {} is left", NanoUsd(nanos));
                return Err(Error::new(ErrorKind::BudgetExceeded, issue));
            }
        }
        Ok(request)
    }

    /// Waits again for a child made before a crash, or answers with how it ended.
    fn rejoin(&mut self, task: TaskId, reply: ReplyId) {
        let Ok(row) = self.task(task) else { return };
        let Some(child) = row.agent_id else { return };
        let outcome = match row.status {
            TaskStatus::Completed => Ok(row.output.clone().unwrap_or_default()),
            TaskStatus::Failed | TaskStatus::Cancelled => {
                Err(row.error.clone().unwrap_or_default())
            }
            _ => {
                if let Some(earlier) = self.live(child).delegator.replace(reply) {
                    self.reply(
                        earlier,
                        Err(Error::conflict("a newer attempt waits for it")),
                    );
                }
                return;
            }
        };
        let result = DelegationResult {
            agent_id: child,
            outcome,
        };
        self.reply(reply, Ok(Reply::Delegated(Box::new(result))));
    }
}
