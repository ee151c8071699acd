//! After a restart: what was under way is settled by its class, and everything alive goes on.

use super::super::effect::Effect;
use super::super::state::Live;
use super::Decision;
use crate::event::{EventSource, StepInDoubt, SystemRecovered, TaskBlocked};
use crate::ids::AgentId;
use crate::model::{
    Agent, AgentStatus, Budget, Project, Reservation, Step, StepKey, StepState, Swarm, Task,
    TaskStatus, Ticket,
};

use crate::mutation::{self, Mutation};

/// How the reason of an agent ends that is held because of a step in doubt.
pub(super) const IS_UNKNOWN: &str = "is unknown";

/// Stored rows that belong together: everything alive, or one swarm.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) projects: Vec<Project>,
    pub(crate) budgets: Vec<Budget>,
    pub(crate) swarms: Vec<Swarm>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) agents: Vec<Agent>,
    /// Steps that are intended or in doubt.
    pub(crate) steps: Vec<Step>,
    /// Reservations that are held.
    pub(crate) reservations: Vec<Reservation>,
    /// Messages that wait.
    pub(crate) tickets: Vec<Ticket>,
}

/// What recovery did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Recovered {
    pub(crate) agents_resumed: u32,
    pub(crate) steps_rerun: u32,
    pub(crate) steps_in_doubt: u32,
    pub(crate) reservations_uncertain: u32,
}

impl Decision<'_> {
    /// Takes stored rows into the state.
    pub(crate) fn load(&mut self, snapshot: Snapshot) {
        for project in snapshot.projects {
            self.state.projects.insert(project.name.clone(), project);
        }
        for budget in snapshot.budgets {
            self.state
                .budget_of
                .insert(budget.entity_id.clone(), budget.id);
            self.state.budgets.load(budget);
        }
        for swarm in snapshot.swarms {
            self.state.plans.entry(swarm.id).or_default();
            self.state.swarms.load(swarm);
        }
        for task in snapshot.tasks {
            if self.state.tasks.get(task.id).is_none() {
                self.state
                    .plans
                    .entry(task.swarm_id)
                    .or_default()
                    .add(&task);
                self.state.tasks.load(task);
            }
        }
        for agent in snapshot.agents {
            self.load_agent(agent);
        }
        for step in snapshot.steps {
            self.live(step.agent_id).steps.insert(step.key, step);
        }
        for reservation in snapshot.reservations {
            self.live(reservation.agent_id)
                .held
                .insert(reservation.id, reservation);
        }
        for ticket in snapshot.tickets {
            self.live(ticket.agent_id).inbox.push_back(ticket);
        }
    }

    fn load_agent(&mut self, agent: Agent) {
        if self.state.agents.get(agent.id).is_some() {
            return;
        }
        let (id, swarm, parent) = (agent.id, agent.swarm_id, agent.parent_id);
        let task = agent.task_id;
        let alive = !agent.status.is_terminal();
        if let Some(plan) = self.state.plans.get_mut(&swarm).filter(|_| alive) {
            plan.agents.insert(id);
            if agent.status == AgentStatus::Idle {
                plan.idle.insert(id);
            }
        }
        self.state.agents.load(agent);
        let of = |text: String| self.state.budget_of.get(&text).copied();
        let own = task
            .and_then(|t| of(t.to_string()))
            .or_else(|| of(id.to_string()));
        let above = parent
            .and_then(|p| self.state.live.get(&p))
            .and_then(|live| live.budget_id);
        let swarms = self.state.swarms.get(swarm).map(|s| s.budget_id);
        self.state.live.insert(
            id,
            Box::new(Live {
                budget_id: own.or(above).or(swarms),
                ..Live::default()
            }),
        );
    }

    /// Settles what an earlier engine left open and starts what is alive.
    pub(crate) fn recover(&mut self) -> Recovered {
        let mut done = Recovered::default();
        let mut alive: Vec<AgentId> = self
            .state
            .agents
            .iter()
            .filter(|a| !a.status.is_terminal())
            .map(|a| a.id)
            .collect();
        alive.sort_unstable();
        for id in &alive {
            self.settle_open(*id, &mut done);
        }
        for id in &alive {
            if self.go_on(*id) {
                done.agents_resumed += 1;
            }
        }
        let swarms: Vec<_> = self.state.plans.keys().copied().collect();
        self.state.to_schedule.extend(swarms);
        if done != Recovered::default() {
            self.emit(
                None,
                EventSource::System,
                SystemRecovered {
                    agents_resumed: done.agents_resumed,
                    steps_rerun: done.steps_rerun,
                    steps_in_doubt: done.steps_in_doubt,
                    reservations_uncertain: done.reservations_uncertain,
                },
            );
        }
        self.follow_up();
        done
    }

    fn settle_open(&mut self, id: AgentId, done: &mut Recovered) {
        for (key, state, may_run_again) in self.open_steps(id) {
            if self.held_by(id, key).is_some() {
                // The call may have been billed; it is charged and made again.
                self.settle_step(id, key, None);
                done.reservations_uncertain += 1;
            }
            if state == StepState::InDoubt {
                done.steps_in_doubt += 1;
            } else if key.kind().is_model_call()
                || may_run_again
                || mutation::active(Mutation::RerunOnce)
            {
                done.steps_rerun += 1;
            } else {
                self.doubt(id, key);
                done.steps_in_doubt += 1;
            }
        }
    }

    /// Marks a step whose outcome nobody knows and that may not be repeated; its agent is held.
    pub(super) fn doubt(&mut self, id: AgentId, key: StepKey) {
        let Some(step) = self.live(id).steps.get_mut(&key) else {
            return;
        };
        step.state = StepState::InDoubt;
        let (tool, step) = (step.name.clone(), step.clone());
        self.state.out.changes.steps.push(step);
        self.emit_agent(
            id,
            StepInDoubt {
                agent_id: id,
                step: key,
                tool: tool.clone(),
            },
        );
        let reason = format!("the outcome of `{tool}` ({key}) {IS_UNKNOWN}");
        match self.agent(id).map(|a| a.status) {
            // It waits for more than its swarm now. Another pause outlasts the doubt.
            Ok(AgentStatus::Paused) => self.edit_agent(id, |a| {
                if a.pause_reason.as_deref() == Some(super::swarms::SWARM_PAUSED) {
                    a.pause_reason = Some(reason.clone());
                }
            }),
            // Just checked, so it cannot fail.
            Ok(status) if status.can_become(AgentStatus::Paused) => {
                drop(self.pause_agent(id, &reason));
            }
            _ => {}
        }
        let Some(task) = self.agent(id).ok().and_then(|a| a.task_id) else {
            return;
        };
        if !self
            .task(task)
            .is_ok_and(|t| t.status.can_become(TaskStatus::Blocked))
        {
            return;
        }
        self.edit_task(task, |t| {
            t.status = TaskStatus::Blocked;
            t.error = Some(reason.clone());
        });
        let Ok((swarm, key)) = self.task(task).map(|t| (t.swarm_id, t.key.clone())) else {
            return;
        };
        self.emit_swarm(
            swarm,
            TaskBlocked {
                task_id: task,
                key,
                reason,
            },
        );
    }

    /// Starts an agent that was at work, or its retry timer. True if it goes on by itself.
    fn go_on(&mut self, id: AgentId) -> bool {
        let Ok(agent) = self.agent(id) else {
            return false;
        };
        if !matches!(agent.status, AgentStatus::Running | AgentStatus::Spawning) {
            return false;
        }
        let (attempt, retry_at) = (agent.attempt, agent.retry_at);
        if agent.status == AgentStatus::Running {
            self.edit_agent(id, |a| a.status = AgentStatus::Spawning);
        }
        match retry_at.filter(|at| *at > self.now) {
            Some(at) => self.effect(Effect::RetryAt {
                agent_id: id,
                attempt,
                at,
            }),
            None => self.attach(id),
        }
        true
    }
}
