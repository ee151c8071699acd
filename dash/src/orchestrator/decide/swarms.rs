//! Swarms: creation, pause, scale, the end.

use std::collections::HashSet;

use super::super::effect::Reply;
use super::tasks::because_of;
use super::{Decision, cut};
use crate::api::{BudgetRequest, CreateSwarm};
use crate::event::{
    SwarmCompleted, SwarmCreated, SwarmDestroyed, SwarmFailed, SwarmPaused, SwarmResumed,
    SwarmScaled,
};
use crate::ids::{AgentId, BudgetId, ProjectId, SwarmId, TaskId};
use crate::model::{
    AgentStatus, Budget, BudgetScope, Project, Strategy, Swarm, SwarmStatus, Task, TaskRole,
    TaskStatus,
};
use crate::mutation::{self, Mutation};
use crate::strategy::{self, Goal, PlannedTask};
use crate::{Error, ErrorKind, Result};

/// Why agents are held when their whole swarm is.
pub(super) const SWARM_PAUSED: &str = "its swarm is paused";

/// Why tasks are cancelled when their swarm has failed; a retry reopens exactly these.
pub(super) const SWARM_FAILED: &str = "the swarm has failed";

const RESULT_PREVIEW: usize = 2_000;

impl Decision<'_> {
    pub(super) fn create_swarm(&mut self, request: CreateSwarm) -> Result<Reply> {
        let id = request.id.unwrap_or_else(|| SwarmId::from_u128(self.id()));
        if self.state.swarms.get(id).is_some() {
            return Err(Error::conflict(format!("there is a swarm `{id}` already")));
        }
        self.admit(request.initial_agents)?;
        if !self.state.models.contains_key(&request.config.model) {
            return Err(Error::invalid("config.model", "is not a registered model"));
        }
        let graph: Vec<PlannedTask> = request.tasks.into_iter().map(Into::into).collect();
        let goal = Goal {
            task: &request.task,
            agents: request.initial_agents,
            parts: &request.parts,
            graph: &graph,
        };
        let planned = strategy::plan(request.strategy, &goal)?;

        let name = request
            .project
            .unwrap_or_else(|| self.state.settings.project.clone());
        let (project_id, project_budget) = self.project(&name);
        let budget_id = self.add_budget(
            BudgetScope::Swarm,
            id.to_string(),
            Some(project_budget),
            request.budget,
        );
        self.state.swarms.insert(Swarm {
            id,
            project_id,
            name: request.name.clone(),
            status: SwarmStatus::Active,
            task: request.task,
            strategy: request.strategy,
            config: request.config,
            budget_id,
            agent_count: 0,
            target_agent_count: request.initial_agents,
            result: None,
            error: None,
            created_at: self.now,
            updated_at: self.now,
            completed_at: None,
            version: 1,
        });
        self.state.plans.entry(id).or_default();
        let created = SwarmCreated {
            swarm_id: id,
            name: request.name,
            strategy: request.strategy,
            agent_count: request.initial_agents,
        };
        self.emit_swarm(id, created);
        self.add_planned(id, planned);
        self.state.to_schedule.insert(id);
        self.swarm_reply(id)
    }

    /// Refuses what would let more agents live than the settings allow.
    fn admit(&self, agents: u32) -> Result<()> {
        let promised: u64 = self
            .state
            .swarms
            .iter()
            .filter(|s| !s.status.is_terminal())
            .map(|s| u64::from(s.target_agent_count))
            .sum();
        let max = u64::from(self.state.settings.agents_total_max);
        if promised + u64::from(agents) > max {
            return Err(Error::new(
                ErrorKind::RateLimited,
                format!(
                    "{promised} of {max} agents are promised to swarms, {agents} more do not fit: \
                     wait for a swarm to end or raise `agentsTotalMax`"
                ),
            ));
        }
        Ok(())
    }

    /// The project of this name and its budget, made if it is not there.
    pub(in crate::orchestrator) fn project(&mut self, name: &str) -> (ProjectId, BudgetId) {
        if let Some(project) = self.state.projects.get(name) {
            return (project.id, project.budget_id);
        }
        let id = ProjectId::from_u128(self.id());
        let budget_id = self.add_budget(BudgetScope::Project, id.to_string(), None, None);
        let project = Project {
            id,
            name: name.to_owned(),
            budget_id,
            created_at: self.now,
        };
        self.state.out.changes.projects.push(project.clone());
        self.state.projects.insert(name.to_owned(), project);
        (id, budget_id)
    }

    pub(super) fn add_budget(
        &mut self,
        scope: BudgetScope,
        entity_id: String,
        parent_id: Option<BudgetId>,
        request: Option<BudgetRequest>,
    ) -> BudgetId {
        let id = BudgetId::from_u128(self.id());
        self.state.budget_of.insert(entity_id.clone(), id);
        self.state.budgets.insert(Budget {
            id,
            scope,
            entity_id,
            parent_id,
            currency: request.map(|r| r.currency).unwrap_or_default(),
            allocated: request.map(|r| r.allocated),
            spent: 0,
            uncertain: 0,
            reserved: 0,
            overrun: 0,
            thresholds: request.map(|r| r.thresholds).unwrap_or_default(),
            fired: 0,
            created_at: self.now,
            updated_at: self.now,
            version: 1,
        });
        id
    }

    pub(super) fn pause_swarm(&mut self, id: SwarmId, reason: &str) -> Result<Reply> {
        let swarm = self.swarm(id)?;
        if swarm.status == SwarmStatus::Paused {
            return self.swarm_reply(id);
        }
        swarm.status.check_move(SwarmStatus::Paused)?;
        self.edit_swarm(id, |s| s.status = SwarmStatus::Paused);
        self.emit_swarm(
            id,
            SwarmPaused {
                swarm_id: id,
                reason: reason.to_owned(),
            },
        );
        for agent in self.agents_of(id) {
            if self.agent(agent)?.status.can_become(AgentStatus::Paused) {
                self.pause_agent(agent, SWARM_PAUSED)?;
            }
        }
        self.swarm_reply(id)
    }

    pub(super) fn resume_swarm(&mut self, id: SwarmId) -> Result<Reply> {
        let swarm = self.swarm(id)?;
        if swarm.status == SwarmStatus::Active {
            return self.swarm_reply(id);
        }
        if swarm.status != SwarmStatus::Paused {
            swarm.status.check_move(SwarmStatus::Paused)?;
        }
        self.edit_swarm(id, |s| s.status = SwarmStatus::Active);
        self.emit_swarm(id, SwarmResumed { swarm_id: id });
        for agent in self.agents_of(id) {
            let row = self.agent(agent)?;
            let by_swarm = row.pause_reason.as_deref() == Some(SWARM_PAUSED);
            // What the first agents go on to do may pause the swarm again.
            if row.status == AgentStatus::Paused && by_swarm && self.state.is_active(id) {
                self.resume_agent(agent)?;
            }
        }
        self.state.to_schedule.insert(id);
        self.swarm_reply(id)
    }

    /// More agents may work at once from now on, or fewer: those at work finish what they do. A
    /// parallel swarm without parts also gets one more task for each agent more.
    pub(super) fn scale_swarm(&mut self, id: SwarmId, agents: u32) -> Result<Reply> {
        let max = self.state.settings.agents_per_swarm_max;
        crate::settings::check("agents", agents.into(), 1, max.into())?;
        let swarm = self.swarm(id)?;
        if swarm.status.is_terminal() {
            return Err(Error::conflict(format!(
                "a swarm that is `{}` cannot be scaled",
                swarm.status
            )));
        }
        let (from, strategy, goal) = (swarm.target_agent_count, swarm.strategy, swarm.task.clone());
        if agents == from {
            return self.swarm_reply(id);
        }
        if agents > from {
            self.admit(agents - from)?;
        }
        self.edit_swarm(id, |s| s.target_agent_count = agents);
        self.emit_swarm(
            id,
            SwarmScaled {
                swarm_id: id,
                from,
                to: agents,
            },
        );
        let numbered = self.state.plans.get(&id).is_some_and(|plan| {
            let first = plan.by_key.get("work/1").and_then(|t| self.task(*t).ok());
            first.is_some_and(|task| strategy::is_numbered(&goal, &task.prompt))
        });
        if strategy == Strategy::Parallel && numbered && agents > from {
            let taken = |d: &Self, index: u32| {
                let key = format!("work/{index}");
                d.state
                    .plans
                    .get(&id)
                    .is_some_and(|plan| plan.by_key.contains_key(&key))
            };
            let more = (from + 1..=agents)
                .filter(|index| !taken(self, *index))
                .map(|index| strategy::parallel_task(&goal, index, agents))
                .collect();
            self.add_planned(id, more);
        }
        self.state.to_schedule.insert(id);
        self.swarm_reply(id)
    }

    pub(super) fn destroy_swarm(&mut self, id: SwarmId) -> Result<Reply> {
        let swarm = self.swarm(id)?;
        if swarm.status == SwarmStatus::Destroyed {
            return self.swarm_reply(id);
        }
        swarm.status.check_move(SwarmStatus::Destroyed)?;
        self.end_swarm(id, SwarmStatus::Destroyed, "its swarm was destroyed");
        self.emit_swarm(id, SwarmDestroyed { swarm_id: id });
        self.swarm_reply(id)
    }

    pub(super) fn fail_swarm(&mut self, id: SwarmId, error: &str) {
        let may = self
            .swarm(id)
            .is_ok_and(|s| s.status.can_become(SwarmStatus::Failed));
        if !may {
            return;
        }
        self.end_swarm(id, SwarmStatus::Failed, SWARM_FAILED);
        self.edit_swarm(id, |s| s.error = Some(error.to_owned()));
        self.emit_swarm(
            id,
            SwarmFailed {
                swarm_id: id,
                error: error.to_owned(),
            },
        );
    }

    /// The status first, so that nothing that follows from it starts anything new.
    fn end_swarm(&mut self, id: SwarmId, status: SwarmStatus, reason: &str) {
        let now = self.now;
        self.edit_swarm(id, |s| {
            s.status = status;
            s.completed_at = Some(s.completed_at.unwrap_or(now));
        });
        self.state.budget_waiters.remove(&id);
        if !mutation::active(Mutation::LeaveAgents) {
            for agent in self.agents_of(id) {
                self.kill_agent(agent, reason);
            }
        }
        if !mutation::active(Mutation::LeaveTasks) {
            for task in self.open_tasks_of(id) {
                self.cancel_task(task, reason);
            }
        }
    }

    /// Ends a swarm whose tasks have all ended.
    pub(super) fn finish_swarm(&mut self, id: SwarmId) {
        let Ok(swarm) = self.swarm(id) else { return };
        if swarm.status.is_terminal() {
            return;
        }
        let (strategy, policy) = (swarm.strategy, swarm.config.failure_policy);
        let tasks = self.planned_tasks(id);
        let needed: HashSet<TaskId> = tasks.iter().flat_map(|t| &t.depends_on).copied().collect();
        let is_sink = |t: &&Task| !needed.contains(&t.id);
        let sinks: Vec<TaskStatus> = tasks
            .iter()
            .copied()
            .filter(is_sink)
            .map(|t| t.status)
            .collect();
        if strategy::succeeded(policy, &sinks) {
            let result = strategy::fold_result(strategy, &tasks);
            let now = self.now;
            self.edit_swarm(id, |s| {
                s.status = SwarmStatus::Completed;
                s.result = Some(result.clone());
                s.completed_at = Some(now);
            });
            for agent in self.agents_of(id) {
                self.kill_agent(agent, "its swarm has completed");
            }
            let result = cut(&result, RESULT_PREVIEW);
            self.emit_swarm(
                id,
                SwarmCompleted {
                    swarm_id: id,
                    result,
                },
            );
        } else {
            let failed = |t: &&&Task| t.status == TaskStatus::Failed;
            let first = tasks.iter().find(failed).or_else(|| tasks.first());
            let why = first.and_then(|t| Some(because_of(&t.key, t.error.as_ref()?)));
            let ended = |t: &&&Task| t.status == TaskStatus::Completed;
            let completed = tasks.iter().filter(ended).count();
            let error = format!(
                "{}; {completed} of {} tasks completed",
                why.unwrap_or_else(|| "too few tasks to go on".to_owned()),
                tasks.len(),
            );
            self.fail_swarm(id, &error);
        }
    }

    /// The tasks of the plan, delegated ones left out.
    fn planned_tasks(&self, id: SwarmId) -> Vec<&Task> {
        let Some(plan) = self.state.plans.get(&id) else {
            return Vec::new();
        };
        plan.tasks
            .iter()
            .filter_map(|task| self.state.tasks.get(*task))
            .filter(|task| task.role != TaskRole::Delegated)
            .collect()
    }

    pub(super) fn agents_of(&self, id: SwarmId) -> Vec<AgentId> {
        self.state
            .plans
            .get(&id)
            .map(|p| p.agents.iter().copied().collect())
            .unwrap_or_default()
    }

    fn open_tasks_of(&self, id: SwarmId) -> Vec<TaskId> {
        let Some(plan) = self.state.plans.get(&id) else {
            return Vec::new();
        };
        let open = |t: &&TaskId| self.task(**t).is_ok_and(|t| !t.status.is_terminal());
        plan.tasks.iter().filter(open).copied().collect()
    }
}
