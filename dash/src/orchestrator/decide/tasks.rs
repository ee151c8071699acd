//! The plan: tasks become ready, are taken, end, and make others ready.

use super::super::effect::{Effect, Reply};
use super::Decision;
use super::swarms::SWARM_FAILED;
use crate::api::{BUDGET_EXCEEDED, CreateTask, check_output};
use crate::event::{TaskCancelled, TaskCompleted, TaskCreated, TaskFailed, TaskStarted};
use crate::ids::{AgentId, SwarmId, TaskId};
use crate::model::{
    AgentStatus, BudgetScope, EntryBody, FailurePolicy, Message, MessageOrigin, SwarmStatus, Task,
    TaskRole, TaskStatus,
};
use crate::strategy::{self, PlannedTask, Readiness};
use crate::{Error, Result};

/// Why a task is cancelled whose dependencies failed.
const TOO_FEW: &str = "too few of its dependencies completed";

/// A swarm's error that comes from a task's; an exhausted budget stays the first thing said.
pub(super) fn because_of(key: &str, error: &str) -> String {
    if error.starts_with(BUDGET_EXCEEDED) {
        format!("{error} (task `{key}`)")
    } else {
        format!("task `{key}` did not complete: {error}")
    }
}

impl Decision<'_> {
    /// Adds tasks whose dependencies are named by key, each after what it depends on or not.
    pub(super) fn add_planned(&mut self, swarm: SwarmId, planned: Vec<PlannedTask>) {
        let ids: Vec<TaskId> = planned
            .iter()
            .map(|_| TaskId::from_u128(self.id()))
            .collect();
        let new_keys: Vec<String> = planned.iter().map(|task| task.key.clone()).collect();
        for (id, task) in ids.iter().zip(planned) {
            let find = |key: &String| {
                let new = new_keys
                    .iter()
                    .position(|k| k == key)
                    .and_then(|i| ids.get(i));
                let old = self
                    .state
                    .plans
                    .get(&swarm)
                    .and_then(|plan| plan.by_key.get(key));
                new.or(old).copied()
            };
            let depends_on = task.depends_on.iter().filter_map(find).collect();
            self.add_task(swarm, *id, task.key, task.role, task.prompt, depends_on);
        }
    }

    pub(super) fn add_task(
        &mut self,
        swarm: SwarmId,
        id: TaskId,
        key: String,
        role: TaskRole,
        prompt: String,
        depends_on: Vec<TaskId>,
    ) {
        let Ok(row) = self.swarm(swarm) else { return };
        let states: Vec<TaskStatus> = depends_on
            .iter()
            .map(|d| self.task(*d).map_or(TaskStatus::Pending, |t| t.status))
            .collect();
        let ready = strategy::readiness(row.config.failure_policy, &states) == Readiness::Ready;
        let ordinal = self
            .state
            .plans
            .get(&swarm)
            .map_or(0, |plan| plan.tasks.len());
        let task = Task {
            id,
            swarm_id: swarm,
            key: key.clone(),
            role,
            prompt,
            depends_on,
            status: if ready {
                TaskStatus::Ready
            } else {
                TaskStatus::Pending
            },
            agent_id: None,
            output: None,
            error: None,
            ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
            created_at: self.now,
            updated_at: self.now,
            completed_at: None,
            version: 1,
        };
        self.state.plans.entry(swarm).or_default().add(&task);
        self.state.tasks.insert(task);
        self.emit_swarm(swarm, TaskCreated { task_id: id, key });
    }

    pub(super) fn create_task(&mut self, request: CreateTask) -> Result<Reply> {
        let swarm = self.swarm(request.swarm_id)?;
        if swarm.status.is_terminal() {
            return Err(Error::conflict(format!(
                "a swarm that is `{}` takes no more tasks",
                swarm.status
            )));
        }
        let (swarm_id, parent) = (swarm.id, swarm.budget_id);
        let plan = self.state.plans.get(&swarm_id);
        if plan.is_some_and(|plan| plan.by_key.contains_key(&request.key)) {
            return Err(Error::conflict(format!(
                "there is a task `{}` already",
                request.key
            )));
        }
        if plan.is_some_and(|plan| plan.tasks.len() >= strategy::PARTS_MAX) {
            let issue = format!("a swarm has at most {} tasks", strategy::PARTS_MAX);
            return Err(Error::invalid("swarmId", issue));
        }
        if request.key.contains('/') || ["plan", "reduce", "root"].contains(&request.key.as_str()) {
            let issue = "`plan`, `reduce`, `root` and keys with a `/` are the engine's";
            return Err(Error::invalid("key", issue));
        }
        for dependency in &request.depends_on {
            if self.task(*dependency).is_ok_and(|t| t.swarm_id == swarm_id) {
                continue;
            }
            let issue = format!("`{dependency}` is not a task of this swarm");
            return Err(Error::invalid("dependsOn", issue));
        }
        let id = TaskId::from_u128(self.id());
        if request.budget.is_some() {
            self.add_budget(
                BudgetScope::Task,
                id.to_string(),
                Some(parent),
                request.budget,
            );
        }
        let CreateTask {
            key,
            prompt,
            depends_on,
            ..
        } = request;
        self.add_task(swarm_id, id, key, TaskRole::Work, prompt, depends_on);
        self.refresh(id);
        self.state.to_schedule.insert(swarm_id);
        self.task_reply(id)
    }

    /// Gives ready tasks to agents: idle ones first, then new ones up to the swarm's target.
    pub(super) fn schedule(&mut self, swarm: SwarmId) {
        while self.state.is_active(swarm) {
            let Ok(target) = self.swarm(swarm).map(|s| s.target_agent_count as usize) else {
                return;
            };
            let Some(plan) = self.state.plans.get(&swarm) else {
                return;
            };
            let Some((_, task)) = plan.ready.first().copied() else {
                return;
            };
            if plan.busy() >= target {
                return;
            }
            let idle = plan
                .idle
                .iter()
                .find(|idle| !self.both_have_budgets(**idle, task));
            let agent = match idle {
                Some(idle) => *idle,
                None => match self.add_agent_for(swarm, task) {
                    Some(agent) => agent,
                    None => return,
                },
            };
            self.start(agent, task);
        }
    }

    /// Lets an agent take a ready task: its conversation begins with the task's prompt.
    pub(super) fn start(&mut self, agent: AgentId, task: TaskId) {
        let Ok(row) = self.task(task) else { return };
        let (swarm, key) = (row.swarm_id, row.key.clone());
        let dependencies: Vec<&Task> = row
            .depends_on
            .iter()
            .filter_map(|d| self.state.tasks.get(*d))
            .collect();
        let bytes_max = self.state.settings.task_input_bytes_max;
        let prompt = strategy::task_prompt(row, &dependencies, bytes_max);
        let ordinal = row.ordinal;
        self.edit_task(task, |t| {
            t.status = TaskStatus::Running;
            t.agent_id = Some(agent);
        });
        self.edit_agent(agent, |a| {
            a.status = AgentStatus::Spawning;
            a.task_id = Some(task);
        });
        if let Some(plan) = self.state.plans.get_mut(&swarm) {
            plan.ready.remove(&(ordinal, task));
            plan.idle.remove(&agent);
        }
        self.attach_task_budget(agent, task);
        let message = Message::user(prompt, MessageOrigin::Task).into();
        self.append(agent, None, EntryBody::Message { message });
        self.emit_swarm(
            swarm,
            TaskStarted {
                task_id: task,
                key,
                agent_id: agent,
            },
        );
        self.live(agent).attached = true;
        self.effect(Effect::Start(agent));
    }

    pub(super) fn assign_task(&mut self, task: TaskId, agent: AgentId) -> Result<Reply> {
        let (task_row, agent_row) = (self.task(task)?, self.agent(agent)?);
        if task_row.swarm_id != agent_row.swarm_id {
            return Err(Error::invalid(
                "agentId",
                "the agent belongs to another swarm",
            ));
        }
        if task_row.status != TaskStatus::Ready {
            return Err(Error::conflict(format!(
                "the task is `{}`, only a `ready` one can be assigned",
                task_row.status
            )));
        }
        if agent_row.status != AgentStatus::Idle {
            return Err(Error::conflict(format!(
                "the agent is `{}`, only an `idle` one takes a task",
                agent_row.status
            )));
        }
        if self.both_have_budgets(agent, task) {
            let issue = "the task has a budget of its own, so its agent must have none";
            return Err(Error::invalid("agentId", issue));
        }
        if !self.state.is_active(task_row.swarm_id) {
            return Err(Error::conflict("the swarm is not active"));
        }
        self.start(agent, task);
        self.task_reply(task)
    }

    pub(super) fn complete_by_caller(&mut self, id: TaskId, output: String) -> Result<Reply> {
        check_output("output", &output)?;
        let task = self.task(id)?;
        if task.agent_id.is_some() && !task.status.is_terminal() {
            return Err(Error::conflict(
                "an agent works on the task: kill the agent first",
            ));
        }
        task.status.check_move(TaskStatus::Completed)?;
        if task.role == TaskRole::Plan {
            let (swarm, row) = (task.swarm_id, self.swarm(task.swarm_id)?);
            let planned = strategy::expand_plan(&row.task, &output, row.target_agent_count);
            let planned = planned.map_err(|complaint| Error::invalid("output", complaint))?;
            self.add_planned(swarm, planned);
        }
        self.complete_task(id, output);
        self.task_reply(id)
    }

    pub(super) fn cancel_by_caller(&mut self, id: TaskId) -> Result<Reply> {
        let task = self.task(id)?;
        if task.status == TaskStatus::Cancelled {
            return self.task_reply(id);
        }
        task.status.check_move(TaskStatus::Cancelled)?;
        match task.agent_id.filter(|_| task.status != TaskStatus::Ready) {
            Some(agent) => self.kill_agent(agent, "its task was cancelled"),
            None => self.cancel_task(id, "cancelled by a caller"),
        }
        self.task_reply(id)
    }

    pub(super) fn complete_task(&mut self, id: TaskId, output: String) {
        if !self
            .task(id)
            .is_ok_and(|t| t.status.can_become(TaskStatus::Completed))
        {
            return;
        }
        let now = self.now;
        self.edit_task(id, |t| {
            t.status = TaskStatus::Completed;
            t.output = Some(output);
            t.completed_at = Some(now);
        });
        let Ok((swarm, key)) = self.task(id).map(|t| (t.swarm_id, t.key.clone())) else {
            return;
        };
        self.emit_swarm(swarm, TaskCompleted { task_id: id, key });
        self.task_ended(id);
    }

    pub(super) fn fail_task(&mut self, id: TaskId, error: &str) {
        if !self
            .task(id)
            .is_ok_and(|t| t.status.can_become(TaskStatus::Failed))
        {
            return;
        }
        let now = self.now;
        self.edit_task(id, |t| {
            t.status = TaskStatus::Failed;
            t.error = Some(error.to_owned());
            t.completed_at = Some(now);
        });
        let Ok((swarm, key)) = self.task(id).map(|t| (t.swarm_id, t.key.clone())) else {
            return;
        };
        self.emit_swarm(
            swarm,
            TaskFailed {
                task_id: id,
                key,
                error: error.to_owned(),
            },
        );
        self.task_ended(id);
    }

    pub(super) fn cancel_task(&mut self, id: TaskId, reason: &str) {
        if !self
            .task(id)
            .is_ok_and(|t| t.status.can_become(TaskStatus::Cancelled))
        {
            return;
        }
        let now = self.now;
        self.edit_task(id, |t| {
            t.status = TaskStatus::Cancelled;
            t.error = Some(reason.to_owned());
            t.completed_at = Some(now);
        });
        let Ok((swarm, key)) = self.task(id).map(|t| (t.swarm_id, t.key.clone())) else {
            return;
        };
        self.emit_swarm(
            swarm,
            TaskCancelled {
                task_id: id,
                key,
                reason: reason.to_owned(),
            },
        );
        self.task_ended(id);
    }

    /// What follows from a task's end: for those that depend on it, for the swarm, for free hands.
    fn task_ended(&mut self, id: TaskId) {
        let Ok(task) = self.task(id) else { return };
        let (swarm, status, role, ordinal) = (task.swarm_id, task.status, task.role, task.ordinal);
        let failure = task.error.clone().filter(|_| role != TaskRole::Delegated);
        let key = task.key.clone();
        let dependents = match self.state.plans.get_mut(&swarm) {
            Some(plan) => {
                plan.ready.remove(&(ordinal, id));
                plan.open_tasks = plan.open_tasks.saturating_sub(1);
                plan.dependents.get(&id).cloned().unwrap_or_default()
            }
            None => Vec::new(),
        };
        let Ok(row) = self.swarm(swarm) else { return };
        if row.status.is_terminal() {
            return;
        }
        let fail_fast = row.config.failure_policy == FailurePolicy::FailFast;
        if fail_fast
            && status != TaskStatus::Completed
            && let Some(error) = failure
        {
            self.fail_swarm(swarm, &because_of(&key, &error));
            return;
        }
        for dependent in dependents {
            self.refresh(dependent);
        }
        if self
            .state
            .plans
            .get(&swarm)
            .is_some_and(|plan| plan.open_tasks == 0)
        {
            self.finish_swarm(swarm);
        } else {
            self.state.to_schedule.insert(swarm);
        }
    }

    /// Makes a pending task ready, or cancels it, if its dependencies say so.
    pub(super) fn refresh(&mut self, id: TaskId) {
        let Ok(task) = self.task(id) else { return };
        if task.status != TaskStatus::Pending {
            return;
        }
        let (swarm, ordinal) = (task.swarm_id, task.ordinal);
        let states: Vec<TaskStatus> = task
            .depends_on
            .iter()
            .filter_map(|d| self.state.tasks.get(*d))
            .map(|t| t.status)
            .collect();
        let Ok(policy) = self.swarm(swarm).map(|s| s.config.failure_policy) else {
            return;
        };
        match strategy::readiness(policy, &states) {
            Readiness::Waits => {}
            Readiness::Ready => {
                self.edit_task(id, |t| t.status = TaskStatus::Ready);
                if let Some(plan) = self.state.plans.get_mut(&swarm) {
                    plan.ready.insert((ordinal, id));
                }
                self.state.to_schedule.insert(swarm);
            }
            Readiness::Never => self.cancel_task(id, TOO_FEW),
        }
    }

    /// Reopens a swarm for the retry of one of its failed tasks, and the tasks that were cancelled
    /// because of that failure.
    pub(super) fn reopen(&mut self, swarm: SwarmId, task: TaskId) {
        self.edit_task(task, |t| {
            t.status = TaskStatus::Running;
            t.error = None;
            t.completed_at = None;
        });
        let cancelled: Vec<TaskId> = match self.state.plans.get_mut(&swarm) {
            Some(plan) => {
                plan.open_tasks += 1;
                plan.tasks.clone()
            }
            None => Vec::new(),
        };
        let failed = self
            .swarm(swarm)
            .is_ok_and(|s| s.status == SwarmStatus::Failed);
        if failed {
            self.edit_swarm(swarm, |s| {
                s.status = SwarmStatus::Active;
                s.error = None;
                s.completed_at = None;
            });
        }
        for id in cancelled {
            let reopens = |t: &Task| {
                let why = t.error.as_deref();
                t.status == TaskStatus::Cancelled
                    && (why == Some(SWARM_FAILED) || why == Some(TOO_FEW))
            };
            if !self.task(id).is_ok_and(reopens) {
                continue;
            }
            self.edit_task(id, |t| {
                t.status = TaskStatus::Pending;
                t.agent_id = None;
                t.error = None;
                t.completed_at = None;
            });
            if let Some(plan) = self.state.plans.get_mut(&swarm) {
                plan.open_tasks += 1;
            }
            self.refresh(id);
        }
        self.state.to_schedule.insert(swarm);
    }
}
