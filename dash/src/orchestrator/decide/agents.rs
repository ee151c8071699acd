//! Agents: birth, pause, retry, the end.

use super::super::effect::{Effect, Reply};
use super::{Decision, cut};
use crate::api::{BudgetRequest, SpawnAgent};
use crate::event::{
    AgentBranched, AgentCompleted, AgentFailed, AgentKilled, AgentPaused, AgentProgress,
    AgentResumed, AgentSpawned, CostSoFar, SwarmResumed,
};
use crate::ids::{AgentId, BudgetId, EntryId, SwarmId, TaskId};
use crate::model::{
    Agent, AgentStatus, BudgetScope, EntryBody, NanoUsd, Progress, StepState, Strategy, Swarm,
    SwarmStatus, TaskRole, Usage,
};
use crate::mutation::{self, Mutation};
use crate::spawn::{AttemptFailure, DelegationResult, Grant};
use crate::{Error, ErrorKind, Result};

/// How much of a task an event shows, in characters.
const TASK_PREVIEW: usize = 200;

/// How much of a result an event shows, in characters.
const RESULT_PREVIEW: usize = 2_000;

pub(super) struct NewAgent {
    pub(super) swarm_id: SwarmId,
    pub(super) name: String,
    pub(super) model: String,
    pub(super) parent_id: Option<AgentId>,
    pub(super) depth: u32,
    pub(super) task_id: Option<TaskId>,
    pub(super) budget: Option<BudgetRequest>,
    pub(super) profile: Option<String>,
}

impl Decision<'_> {
    /// A new agent for a task of the plan.
    pub(super) fn add_agent_for(&mut self, swarm: SwarmId, task: TaskId) -> Option<AgentId> {
        let model = self.swarm(swarm).ok()?.config.model.clone();
        let name = self.task(task).ok()?.key.clone();
        let (parent_id, task_id, budget) = (None, Some(task), None);
        let new = NewAgent {
            swarm_id: swarm,
            name,
            model,
            parent_id,
            depth: 0,
            task_id,
            budget,
            profile: None,
        };
        Some(self.add_agent(new))
    }

    pub(super) fn add_agent(&mut self, new: NewAgent) -> AgentId {
        let id = AgentId::from_u128(self.id());
        let max_retries = self.swarm(new.swarm_id).map_or(0, |s| s.config.max_retries);
        let parent_budget = self.parent_budget(&new);
        let budget_id = match new.budget {
            Some(request) => {
                let entity = id.to_string();
                Some(self.add_budget(BudgetScope::Agent, entity, parent_budget, Some(request)))
            }
            None => parent_budget,
        };
        let task = new.task_id.and_then(|t| self.state.tasks.get(t));
        let preview = task
            .map(|t| cut(&t.prompt, TASK_PREVIEW))
            .unwrap_or_default();
        self.state.agents.insert(Agent {
            id,
            name: new.name.clone(),
            status: AgentStatus::Idle,
            swarm_id: new.swarm_id,
            parent_id: new.parent_id,
            depth: new.depth,
            task_id: None,
            model: new.model,
            profile: new.profile,
            head: None,
            turns: 0,
            tool_calls: 0,
            progress: Progress::default(),
            usage: Usage::default(),
            cost: NanoUsd::ZERO,
            pause_reason: None,
            result: None,
            error: None,
            retry_count: 0,
            max_retries,
            attempt: 0,
            attempt_turns: 0,
            retry_at: None,
            created_at: self.now,
            updated_at: self.now,
            started_at: None,
            completed_at: None,
            version: 1,
        });
        self.live(id).budget_id = budget_id;
        let plan = self.state.plans.entry(new.swarm_id).or_default();
        plan.agents.insert(id);
        plan.idle.insert(id);
        self.edit_swarm(new.swarm_id, |s| s.agent_count += 1);
        self.emit_agent(
            id,
            AgentSpawned {
                agent_id: id,
                name: new.name,
                swarm_id: new.swarm_id,
                parent_id: new.parent_id,
                task_id: new.task_id,
                task: preview,
            },
        );
        id
    }

    /// The budget a new agent's own would hang below: its parent agent's, else its swarm's.
    fn parent_budget(&self, new: &NewAgent) -> Option<BudgetId> {
        let above = new
            .parent_id
            .and_then(|p| self.state.live.get(&p))
            .and_then(|l| l.budget_id);
        above.or_else(|| self.swarm(new.swarm_id).ok().map(|s| s.budget_id))
    }

    pub(super) fn spawn_agent(&mut self, request: SpawnAgent) -> Result<Reply> {
        let swarm_id = request.swarm_id;
        let swarm = self.swarm(swarm_id)?;
        if swarm.status != SwarmStatus::Active {
            return Err(Error::conflict(format!(
                "a swarm that is `{}` takes no agents",
                swarm.status
            )));
        }
        let model = request.model.unwrap_or_else(|| swarm.config.model.clone());
        if !self.state.models.contains_key(&model) {
            return Err(Error::invalid(
                "model",
                format!("`{model}` is not a registered model"),
            ));
        }
        self.check_room(swarm_id)?;
        let task_id = request.task.is_some().then(|| TaskId::from_u128(self.id()));
        if let (Some(id), Some(prompt)) = (task_id, request.task) {
            let key = format!("agent/{id}");
            self.add_task(swarm_id, id, key, TaskRole::Work, prompt, Vec::new());
        }
        let new = NewAgent {
            swarm_id,
            name: request.name,
            model,
            parent_id: None,
            depth: 0,
            task_id,
            budget: request.budget,
            profile: None,
        };
        let id = self.add_agent(new);
        match task_id {
            Some(task) => self.start(id, task),
            None => {
                self.state.to_schedule.insert(swarm_id);
            }
        }
        self.agent_reply(id)
    }

    /// Refuses an agent above the limits of its swarm or of the engine.
    pub(super) fn check_room(&self, swarm: SwarmId) -> Result<()> {
        let settings = &self.state.settings;
        let in_swarm = self
            .state
            .plans
            .get(&swarm)
            .map_or(0, |plan| plan.agents.len());
        for (have, max, name) in [
            (in_swarm, settings.agents_per_swarm_max, "agentsPerSwarmMax"),
            (
                self.state.agents_alive(),
                settings.agents_total_max,
                "agentsTotalMax",
            ),
        ] {
            if have >= max as usize {
                return Err(Error::new(
                    ErrorKind::RateLimited,
                    format!("{have} agents are alive, `{name}` is {max}: wait for one to end"),
                ));
            }
        }
        Ok(())
    }

    // ---- pause and resume ----

    pub(super) fn pause_agent(&mut self, id: AgentId, reason: &str) -> Result<Reply> {
        let agent = self.agent(id)?;
        if agent.status == AgentStatus::Paused {
            return self.agent_reply(id);
        }
        if !mutation::active(Mutation::PauseAnything) {
            agent.status.check_move(AgentStatus::Paused)?;
        }
        self.edit_agent(id, |a| {
            a.status = AgentStatus::Paused;
            a.pause_reason = Some(reason.to_owned());
        });
        self.emit_agent(
            id,
            AgentPaused {
                agent_id: id,
                reason: reason.to_owned(),
            },
        );
        self.agent_reply(id)
    }

    pub(super) fn resume_agent(&mut self, id: AgentId) -> Result<Reply> {
        let agent = self.agent(id)?;
        if matches!(agent.status, AgentStatus::Running | AgentStatus::Spawning) {
            return self.agent_reply(id);
        }
        if agent.status != AgentStatus::Paused {
            agent.status.check_move(AgentStatus::Paused)?;
        }
        if !self.state.is_active(agent.swarm_id) {
            return Err(Error::conflict(
                "the agent's swarm is paused: resume the swarm",
            ));
        }
        let in_doubt = self
            .live(id)
            .steps
            .values()
            .find(|s| s.state == StepState::InDoubt);
        if let Some(step) = in_doubt {
            let key = step.key;
            return Err(Error::conflict(format!(
                "step `{key}` is in doubt: resolve it first"
            )));
        }
        self.let_go(id);
        self.agent_reply(id)
    }

    /// Ends a pause: carries on with what was held, or starts the agent.
    pub(super) fn let_go(&mut self, id: AgentId) {
        let attached = self.live(id).attached;
        let announced = self.live(id).announced;
        let status = if attached && announced {
            AgentStatus::Running
        } else {
            AgentStatus::Spawning
        };
        let mut retry_at = None;
        let mut attempt = 0;
        self.edit_agent(id, |a| {
            a.status = status;
            a.pause_reason = None;
            retry_at = a.retry_at;
            attempt = a.attempt;
        });
        self.emit_agent(id, AgentResumed { agent_id: id });
        if let Some(parked) = self.live(id).parked.take() {
            self.proceed(id, parked.next, parked.reply);
        } else if let Some(at) = retry_at.filter(|at| *at > self.now) {
            self.effect(Effect::RetryAt {
                agent_id: id,
                attempt,
                at,
            });
        } else if attached {
            // If an earlier attempt still winds up, `detached` starts the next one.
            self.edit_agent(id, |a| a.retry_at = None);
        } else {
            self.attach(id);
        }
    }

    /// Has the shell run the agent.
    pub(super) fn attach(&mut self, id: AgentId) {
        self.edit_agent(id, |a| a.retry_at = None);
        let live = self.live(id);
        live.attached = true;
        live.announced = false;
        self.effect(Effect::Start(id));
    }

    // ---- the end ----

    pub(super) fn complete_agent(&mut self, id: AgentId, result: String) {
        // A spawner that ends with a step under way has given up on it.
        self.abandon_steps(id, "the agent completed");
        self.release_slot(id);
        // What that cost may have used its budget up, and so ended the agent.
        if !self
            .agent(id)
            .is_ok_and(|a| a.status.can_become(AgentStatus::Completed))
        {
            return;
        }
        let now = self.now;
        self.edit_agent(id, |a| {
            a.status = AgentStatus::Completed;
            a.result = Some(result.clone());
            a.completed_at = Some(now);
        });
        let Ok(agent) = self.agent(id) else { return };
        let (cost, task, swarm) = (cost_so_far(agent), agent.task_id, agent.swarm_id);
        let preview = cut(&result, RESULT_PREVIEW);
        self.emit_agent(
            id,
            AgentCompleted {
                agent_id: id,
                result: preview,
                cost,
            },
        );
        self.agent_ended(id, Ok(result.clone()));
        if let Some(task) = task {
            self.complete_task(task, result);
        }
        // One that was retried by hand after its parent had been told that it failed. Last: what its
        // calls may have cost can end the swarm.
        self.kill_children(id, swarm, "its parent has completed");
    }

    pub(super) fn retry_due(&mut self, id: AgentId, attempt: u32) {
        let due = |a: &Agent| a.status == AgentStatus::Spawning && a.attempt == attempt;
        if self.agent(id).is_ok_and(due) {
            if self.live(id).attached {
                // The earlier attempt's task has not wound up yet; `detached` starts the next one.
                self.edit_agent(id, |a| a.retry_at = None);
            } else {
                self.attach(id);
            }
        }
    }

    pub(super) fn fail_agent(&mut self, id: AgentId, error: &str) {
        if !self
            .agent(id)
            .is_ok_and(|a| a.status.can_become(AgentStatus::Failed))
        {
            return;
        }
        let now = self.now;
        self.edit_agent(id, |a| {
            a.status = AgentStatus::Failed;
            a.error = Some(error.to_owned());
            a.completed_at = Some(now);
        });
        let Ok(agent) = self.agent(id) else { return };
        let (retry_count, task, swarm) = (agent.retry_count, agent.task_id, agent.swarm_id);
        self.kill_children(id, swarm, "its parent failed");
        self.abandon_steps(id, "the agent failed");
        self.emit_agent(
            id,
            AgentFailed {
                agent_id: id,
                error: error.to_owned(),
                retry_count,
            },
        );
        self.agent_ended(id, Err(error.to_owned()));
        if let Some(task) = task {
            self.fail_task(task, error);
        }
    }

    pub(super) fn kill_by_caller(&mut self, id: AgentId) -> Result<Reply> {
        let agent = self.agent(id)?;
        if agent.status != AgentStatus::Killed {
            agent.status.check_move(AgentStatus::Killed)?;
            self.kill_agent(id, "killed by a caller");
        }
        self.agent_reply(id)
    }

    /// Ends an agent and all below it, now. What its calls may have cost stays charged.
    pub(super) fn kill_agent(&mut self, id: AgentId, reason: &str) {
        let Ok(agent) = self.agent(id) else { return };
        if !agent.status.can_become(AgentStatus::Killed) {
            return;
        }
        let (swarm, task) = (agent.swarm_id, agent.task_id);
        let now = self.now;
        self.edit_agent(id, |a| {
            a.status = AgentStatus::Killed;
            a.error = Some(reason.to_owned());
            a.completed_at = Some(now);
        });
        self.kill_children(id, swarm, "its parent was killed");
        self.abandon_steps(id, reason);
        self.emit_agent(
            id,
            AgentKilled {
                agent_id: id,
                reason: reason.to_owned(),
            },
        );
        if self.live(id).attached {
            self.effect(Effect::Cancel(id));
        }
        self.agent_ended(id, Err(format!("it was killed: {reason}")));
        if let Some(task) = task {
            self.cancel_task(task, reason);
        }
    }

    /// Ends all below an agent that goes no further.
    fn kill_children(&mut self, parent: AgentId, swarm: SwarmId, reason: &str) {
        // Only these have children; the others need not be searched.
        let may_have = |s: &Swarm| s.strategy == Strategy::Tree || !s.config.profiles.is_empty();
        if !self.swarm(swarm).is_ok_and(may_have) || mutation::active(Mutation::LeaveChildren) {
            return;
        }
        for other in self.agents_of(swarm) {
            if self.agent(other).is_ok_and(|a| a.parent_id == Some(parent)) {
                self.kill_agent(other, reason);
            }
        }
    }

    /// What every end has in common: messages are dropped, waiters are told.
    fn agent_ended(&mut self, id: AgentId, outcome: std::result::Result<String, String>) {
        if let Some(swarm) = self.agent(id).ok().map(|a| a.swarm_id) {
            if let Some(plan) = self.state.plans.get_mut(&swarm) {
                plan.agents.remove(&id);
                plan.idle.remove(&id);
            }
            self.state.to_schedule.insert(swarm);
        }
        self.drop_inbox(id);
        if let Some(parked) = self.live(id).parked.take() {
            let reason = outcome.as_ref().err().cloned().unwrap_or_default();
            self.reply(
                parked.reply,
                Ok(Reply::Grant(Box::new(Grant::Stop { reason }))),
            );
        }
        if let Some(waiter) = self.live(id).delegator.take() {
            let result = DelegationResult {
                agent_id: id,
                outcome,
            };
            self.reply(waiter, Ok(Reply::Delegated(Box::new(result))));
        }
    }

    /// A spawner's task is over. If its agent should go on, that was unexpected.
    pub(super) fn detached(&mut self, id: AgentId, attempt: u32, failure: Option<AttemptFailure>) {
        let Ok(agent) = self.agent(id) else { return };
        let (status, current) = (agent.status, agent.attempt);
        let retry_at = agent.retry_at;
        self.live(id).attached = false;
        self.release_slot(id);
        if let Some(parked) = self.live(id).parked.take() {
            let reason = "its task has ended".to_owned();
            self.reply(
                parked.reply,
                Ok(Reply::Grant(Box::new(Grant::Stop { reason }))),
            );
        }
        if status.is_terminal() || self.state.draining {
            return;
        }
        if current == attempt {
            let failure = failure.unwrap_or_else(|| {
                AttemptFailure::fatal("the spawner ended without a result").retryable()
            });
            self.fail_attempt(id, failure);
        } else if status == AgentStatus::Spawning && retry_at.is_none() {
            self.attach(id);
        }
    }

    // ---- what callers and agents ask ----

    pub(super) fn retry_agent(&mut self, id: AgentId) -> Result<Reply> {
        let agent = self.agent(id)?;
        let (swarm, task) = (agent.swarm_id, agent.task_id);
        agent.status.check_move(AgentStatus::Spawning)?;
        if agent.status != AgentStatus::Failed {
            return Err(Error::conflict(format!(
                "the agent is `{}`, only a `failed` one can be retried",
                agent.status
            )));
        }
        let has_ended = |parent| self.agent(parent).map_or(true, |p| p.status.is_terminal());
        if agent.parent_id.is_some_and(has_ended) {
            // Nobody would take what it answers. One that lives is in memory.
            return Err(Error::conflict("its parent has ended: retry the parent"));
        }
        let reopened = match self.swarm(swarm)?.status {
            SwarmStatus::Failed => true,
            SwarmStatus::Active => false,
            status => {
                return Err(Error::conflict(format!("its swarm is `{status}`")));
            }
        };
        self.edit_agent(id, |a| {
            a.status = AgentStatus::Spawning;
            a.retry_count = 0;
            a.attempt += 1;
            a.attempt_turns = a.turns;
            a.retry_at = None;
            a.error = None;
            a.completed_at = None;
        });
        self.live(id).announced = false;
        self.state.plans.entry(swarm).or_default().agents.insert(id);
        if let Some(task) = task {
            self.reopen(swarm, task);
        }
        if reopened {
            self.emit_swarm(swarm, SwarmResumed { swarm_id: swarm });
        }
        if !self.live(id).attached {
            self.attach(id);
        }
        self.agent_reply(id)
    }

    /// The same from an earlier entry: what followed it becomes a branch that is left behind.
    pub(super) fn retry_agent_from(
        &mut self,
        id: AgentId,
        entry_id: EntryId,
        summarise: bool,
    ) -> Result<Reply> {
        self.retry_agent(id)?;
        if let Some(abandoned) = self.agent(id)?.head.filter(|head| *head != entry_id) {
            self.edit_agent(id, |a| a.head = Some(entry_id));
            let branch = EntryBody::Branch {
                abandoned,
                summarise,
            };
            self.append(id, None, branch);
            self.emit_agent(
                id,
                AgentBranched {
                    agent_id: id,
                    entry_id,
                    abandoned,
                },
            );
        }
        self.agent_reply(id)
    }

    pub(super) fn progress(&mut self, id: AgentId, progress: Progress) {
        if self.agent(id).map_or(true, |a| a.status.is_terminal()) {
            return;
        }
        self.edit_agent(id, |a| a.progress = progress);
        let Ok(cost) = self.agent(id).map(cost_so_far) else {
            return;
        };
        self.emit_agent(
            id,
            AgentProgress {
                agent_id: id,
                progress: progress.into(),
                cost,
            },
        );
    }
}

fn cost_so_far(agent: &Agent) -> CostSoFar {
    CostSoFar {
        tokens: agent.usage.total(),
        amount: agent.cost.as_usd_f64(),
    }
}
