//! The heart: what follows from an input. Synchronous and deterministic; time and ids come in.
//!
//! One file per concern: `swarms`, `agents`, `attempts` (that fail), `delegate` (their children), `messages` (to them),
//! `tasks` (the plan), `steps` (the journal), `slots` (calls under way), `budgets` (the ledger), `allocate`
//! (what callers ask of it),
//! `recover` (after a restart), `doubt` (what only a person can settle). All are methods of [`Decision`], which reads and
//! changes the [`State`] and collects what must be written, answered and done.

use super::effect::{Command, Effect, Input, Reply, ReplyId};
use super::state::{Live, State};
use crate::env::{IdSource, UnixMillis};
use crate::event::{EventKind, EventSource, NewEvent};
use crate::ids::{AgentId, EventId, SwarmId};
use crate::model::{Agent, Swarm, Task, Version};
use crate::spawn::Grant;
use crate::{Error, Result};

mod agents;
mod allocate;
mod attempts;
mod budgets;
mod delegate;
mod doubt;
mod messages;
mod recover;
mod slots;
mod steps;
mod swarms;
mod tasks;
#[cfg(test)]
mod tests;

pub(crate) use recover::Snapshot;

/// Decisions at one instant.
pub(crate) struct Decision<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) now: UnixMillis,
    ids: &'a dyn IdSource,
}

impl<'a> Decision<'a> {
    /// Decisions at `now`, or at the time of the newest event if the clock went back.
    pub(crate) fn new(state: &'a mut State, now: UnixMillis, ids: &'a dyn IdSource) -> Self {
        let now = now.max(state.last_at);
        state.last_at = now;
        Self { state, now, ids }
    }

    /// Decides one input and all that follows from it.
    pub(crate) fn decide(&mut self, input: Input) {
        match input {
            Input::Command {
                command,
                expected,
                reply,
            } => {
                let answer = self.command(command, expected);
                self.reply(reply, answer);
            }
            Input::Advance {
                agent_id,
                attempt,
                advance,
                reply,
            } => {
                self.advance(agent_id, attempt, *advance, reply);
            }
            Input::Progress {
                agent_id,
                progress,
                reply,
            } => {
                self.progress(agent_id, progress);
                self.reply(reply, Ok(Reply::Done));
            }
            Input::Delegate {
                agent_id,
                step,
                delegation,
                reply,
            } => {
                if let Err(err) = self.delegate(agent_id, step, *delegation, reply) {
                    self.reply(reply, Err(err));
                }
            }
            Input::Detached {
                agent_id,
                attempt,
                failure,
            } => {
                self.detached(agent_id, attempt, failure);
            }
            Input::RetryDue { agent_id, attempt } => self.retry_due(agent_id, attempt),
        }
        self.follow_up();
    }

    /// Starts a shutdown: outcomes are still recorded, nothing new is granted, and who waits for a
    /// step is sent home. Rows stay as they are, so that the next start goes on from them.
    pub(crate) fn drain(&mut self) {
        self.state.draining = true;
        let mut waiting = Vec::new();
        for (id, live) in &mut self.state.live {
            if let Some(parked) = live.parked.take() {
                waiting.push((*id, parked.reply));
            }
        }
        waiting.sort_unstable_by_key(|(id, _)| *id);
        for (_, reply) in waiting {
            let reason = "the engine is shutting down".to_owned();
            self.reply(reply, Ok(Reply::Grant(Box::new(Grant::Stop { reason }))));
        }
        // Who waits for a child would wait for ever: it goes on waiting after the next start.
        let mut parents = Vec::new();
        for (id, live) in &mut self.state.live {
            if let Some(reply) = live.delegator.take() {
                parents.push((*id, reply));
            }
        }
        parents.sort_unstable_by_key(|(id, _)| *id);
        for (_, reply) in parents {
            self.reply(reply, Err(Error::closed()));
        }
    }

    /// Notes something that went wrong in the engine itself.
    pub(crate) fn trouble(&mut self, what: crate::event::SystemError) {
        self.emit(None, EventSource::System, what);
    }

    /// Carries on what an input made possible, until nothing more follows.
    pub(crate) fn follow_up(&mut self) {
        while !self.state.draining {
            if let Some(provider) = self.state.to_wake.pop_first() {
                self.wake_callers(&provider);
            } else if std::mem::take(&mut self.state.money_freed) {
                self.wake_budget_waiters();
            } else if let Some(swarm) = self.state.to_schedule.pop_first() {
                self.schedule(swarm);
            } else {
                break;
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm per command")]
    fn command(&mut self, command: Command, expected: Option<Version>) -> Result<Reply> {
        match command {
            Command::CreateSwarm(request) => self.create_swarm(*request),
            Command::PauseSwarm(id) => {
                self.expect_swarm(id, expected)?;
                self.pause_swarm(id, "paused by a caller")
            }
            Command::ResumeSwarm(id) => {
                self.expect_swarm(id, expected)?;
                self.resume_swarm(id)
            }
            Command::ScaleSwarm(id, agents) => {
                self.expect_swarm(id, expected)?;
                self.scale_swarm(id, agents)
            }
            Command::DestroySwarm(id) => {
                self.expect_swarm(id, expected)?;
                self.destroy_swarm(id)
            }
            Command::SpawnAgent(request) => {
                self.expect_swarm(request.swarm_id, expected)?;
                self.spawn_agent(*request)
            }
            Command::PauseAgent(id) => {
                self.expect_agent(id, expected)?;
                self.pause_agent(id, "paused by a caller")
            }
            Command::ResumeAgent(id) => {
                self.expect_agent(id, expected)?;
                self.resume_agent(id)
            }
            Command::KillAgent(id) => {
                self.expect_agent(id, expected)?;
                self.kill_by_caller(id)
            }
            Command::RetryAgent(id) => {
                self.expect_agent(id, expected)?;
                self.retry_agent(id)
            }
            Command::RetryAgentFrom {
                agent_id,
                entry_id,
                summarise,
            } => {
                self.expect_agent(agent_id, expected)?;
                self.retry_agent_from(agent_id, entry_id, summarise)
            }
            Command::ClearInbox(id) => {
                self.expect_agent(id, expected)?;
                Ok(Reply::Tickets(self.drop_inbox(id)))
            }
            Command::Send {
                agent_id,
                queue,
                text,
            } => {
                self.expect_agent(agent_id, expected)?;
                self.send(agent_id, queue, text)
            }
            Command::CreateTask(request) => {
                self.expect_swarm(request.swarm_id, expected)?;
                self.create_task(*request)
            }
            Command::AssignTask { task_id, agent_id } => self.assign_task(task_id, agent_id),
            Command::CompleteTask { task_id, output } => self.complete_by_caller(task_id, output),
            Command::CancelTask(id) => self.cancel_by_caller(id),
            Command::Allocate { owner, allocated } => self.allocate(&owner, allocated),
            Command::SetThresholds { owner, thresholds } => self.set_thresholds(&owner, thresholds),
            Command::BudgetStatus(owner) => self.budget_status(&owner),
            Command::Reconcile {
                agent_id,
                key,
                usage,
            } => self.reconcile_by_caller(agent_id, key, usage),
            Command::ResolveStep {
                agent_id,
                key,
                resolution,
            } => {
                self.expect_agent(agent_id, expected)?;
                self.resolve_step(agent_id, key, resolution)
            }
        }
    }

    // ---- what all concerns share ----

    fn id(&self) -> u128 {
        self.ids.next(self.now)
    }

    fn reply(&mut self, to: ReplyId, answer: Result<Reply>) {
        self.state.out.replies.push((to, answer));
    }

    fn effect(&mut self, effect: Effect) {
        self.state.out.effects.push(effect);
    }

    fn emit(&mut self, swarm: Option<SwarmId>, source: EventSource, kind: impl Into<EventKind>) {
        let id = EventId::from_u128(self.id());
        let event = NewEvent {
            id,
            at: self.now,
            swarm_id: swarm,
            source,
            kind: kind.into(),
        };
        self.state.out.changes.events.push(event);
    }

    fn emit_agent(&mut self, agent: AgentId, kind: impl Into<EventKind>) {
        let swarm = self.state.agents.get(agent).map(|a| a.swarm_id);
        self.emit(swarm, EventSource::Agent(agent), kind);
    }

    fn emit_swarm(&mut self, swarm: SwarmId, kind: impl Into<EventKind>) {
        self.emit(Some(swarm), EventSource::Swarm(swarm), kind);
    }

    fn swarm(&self, id: SwarmId) -> Result<&Swarm> {
        self.state
            .swarms
            .get(id)
            .ok_or_else(|| Error::not_found("swarm", id))
    }

    fn agent(&self, id: AgentId) -> Result<&Agent> {
        self.state
            .agents
            .get(id)
            .ok_or_else(|| Error::not_found("agent", id))
    }

    fn task(&self, id: crate::ids::TaskId) -> Result<&Task> {
        self.state
            .tasks
            .get(id)
            .ok_or_else(|| Error::not_found("task", id))
    }

    fn edit_swarm(&mut self, id: SwarmId, change: impl FnOnce(&mut Swarm)) {
        if let Some(row) = self.state.swarms.edit(id, self.now) {
            change(row);
        }
    }

    fn edit_agent(&mut self, id: AgentId, change: impl FnOnce(&mut Agent)) {
        if let Some(row) = self.state.agents.edit(id, self.now) {
            change(row);
        }
    }

    fn edit_task(&mut self, id: crate::ids::TaskId, change: impl FnOnce(&mut Task)) {
        if let Some(row) = self.state.tasks.edit(id, self.now) {
            change(row);
        }
    }

    fn live(&mut self, id: AgentId) -> &mut Live {
        self.state.live.entry(id).or_default()
    }

    fn swarm_reply(&self, id: SwarmId) -> Result<Reply> {
        Ok(Reply::Swarm(Box::new(self.swarm(id)?.clone())))
    }

    fn agent_reply(&self, id: AgentId) -> Result<Reply> {
        Ok(Reply::Agent(Box::new(self.agent(id)?.clone())))
    }

    fn task_reply(&self, id: crate::ids::TaskId) -> Result<Reply> {
        Ok(Reply::Task(Box::new(self.task(id)?.clone())))
    }

    fn expect_swarm(&self, id: SwarmId, expected: Option<Version>) -> Result<()> {
        check_version("swarm", self.swarm(id)?.version, expected)
    }

    fn expect_agent(&self, id: AgentId, expected: Option<Version>) -> Result<()> {
        check_version("agent", self.agent(id)?.version, expected)
    }
}

fn check_version(what: &str, version: Version, expected: Option<Version>) -> Result<()> {
    match expected {
        Some(expected) if expected != version => Err(Error::conflict(format!(
            "the {what} is at version {version}, not {expected}: read it again"
        ))),
        _ => Ok(()),
    }
}

/// The first `max` characters of a text.
fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}
