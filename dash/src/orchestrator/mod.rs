//! The orchestrator: a cheap handle to the one task that owns all live state.
//!
//! ```text
//!  Orchestrator (handle) ──command──▶ coordinator ──▶ decide (pure) ──▶ Store::commit
//!        ▲   reads                        ▲                                  │
//!        └────────── Store ◀──────────────┼──── sinks, answers, effects ◀────┘
//!                                     executor: agents
//! ```
//!
//! * [`OrchestratorBuilder`] puts it together; [`Orchestrator`] is what callers hold.
//! * `coordinator` owns the state and the order of things; `decide` says what follows from what;
//!   `executor` carries it out; `port` is the engine as an agent sees it; `load` reads what is
//!   stored; `watch` lets others follow.
//!
//! Invariants: nothing is told before the commit that makes it true; every step is journaled as
//! intended before it is done; reads come from the store, so they see only what is committed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{
    BudgetOwner, BudgetStatus, CreateSwarm, CreateTask, Paged, Resolution, SpawnAgent, SwarmOutcome,
};
use crate::event::{Delta, Event};
use crate::ids::{AgentId, EntryId, ReservationId, SwarmId, TaskId, TicketId};
use crate::model::entry;
use crate::model::inbox::Queue;
use crate::model::{
    Agent, Budget, Entry, Reservation, Step, StepKey, Swarm, Task, Thresholds, Ticket, Usage,
    Version,
};
use crate::sink::BroadcastSink;
use crate::store::{
    AgentFilter, EventFilter, Page, ReservationFilter, StepFilter, StoreInfo, SwarmFilter,
    TaskFilter, TicketFilter,
};
use crate::{Error, ErrorKind, Result};

mod builder;
mod coordinator;
mod decide;
mod effect;
mod executor;
mod load;
mod message;
mod port;
mod registry;
mod state;
mod watch;

pub use builder::OrchestratorBuilder;
pub use watch::EventStream;

use effect::{Command, Reply};
use executor::Shared;
use message::{Message, ReplySender};

/// How long tasks get to notice that they were cancelled at the end of a shutdown.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// A running engine. Cheap to clone; all clones are the same engine.
///
/// Dropping the last handle cancels everything without waiting; [`shutdown`](Self::shutdown) ends
/// it in good order. Either way the store holds all that is needed to go on.
#[derive(Debug, Clone)]
pub struct Orchestrator {
    inner: Arc<Inner>,
    expected: Option<Version>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Message>,
    live: BroadcastSink,
    stop: CancellationToken,
    closed: Arc<watch::Closed>,
    engine: TaskTracker,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
        self.shared.cancel.cancel();
    }
}

impl Orchestrator {
    /// Begins to put an orchestrator together on a store.
    pub fn builder(store: Arc<dyn crate::store::Store>) -> OrchestratorBuilder {
        OrchestratorBuilder::new(store)
    }

    /// A handle whose next commands on a swarm or agent are carried out only if its row is at this
    /// version; otherwise they fail with [`Conflict`](ErrorKind::Conflict).
    #[must_use]
    pub fn expecting(&self, version: Version) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            expected: Some(version),
        }
    }

    /// What the store is.
    #[must_use]
    pub fn store_info(&self) -> StoreInfo {
        self.inner.shared.store.info()
    }

    async fn send<T: TryFrom<Reply, Error = Error>>(
        &self,
        message: impl FnOnce(ReplySender) -> Message,
    ) -> Result<T> {
        if let Some(err) = self.inner.closed.error() {
            return Err(err);
        }
        let (reply, answer) = oneshot::channel();
        let gone = || self.inner.closed.error().unwrap_or_else(Error::closed);
        if self.inner.sender.send(message(reply)).await.is_err() {
            return Err(gone());
        }
        tokio::select! {
            biased;
            answer = answer => match answer {
                Ok(answer) => answer.and_then(T::try_from),
                Err(_) => Err(gone()),
            },
            () = self.inner.closed.wait() => Err(gone()),
        }
    }

    async fn ask<T: TryFrom<Reply, Error = Error>>(&self, command: Command) -> Result<T> {
        let expected = self.expected;
        self.send(|reply| Message::Command {
            command,
            expected,
            reply,
        })
        .await
    }

    // ---- swarms ----

    /// Creates a swarm; its agents start to work at once.
    ///
    /// Emits `swarm.created`, `task.created` and what follows.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) with the field that breaks a rule;
    /// [`Conflict`](ErrorKind::Conflict) if the id is taken;
    /// [`RateLimited`](ErrorKind::RateLimited) if more agents do not fit the settings.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the command queued: the swarm may still be created.
    pub async fn create_swarm(&self, mut request: CreateSwarm) -> Result<Swarm> {
        request.validate(self.inner.shared.settings.agents_per_swarm_max)?;
        let registry = &self.inner.shared.registry;
        request.config.model = registry.resolve_model("config.model", &request.config.model)?;
        for model in &mut request.config.escalation {
            *model = registry.resolve_model("config.escalation", model)?;
        }
        registry.check_config(&request.config)?;
        self.ask(Command::CreateSwarm(Box::new(request))).await
    }

    /// One swarm.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); the store's error if it cannot be read.
    pub async fn get_swarm(&self, id: SwarmId) -> Result<Swarm> {
        let found = self.inner.shared.store.find_swarm(id).await?;
        found.ok_or_else(|| Error::not_found("swarm", id))
    }

    /// Swarms in order of creation.
    ///
    /// # Errors
    ///
    /// The store's error if it cannot be read.
    pub async fn list_swarms(
        &self,
        filter: &SwarmFilter,
        page: Page<SwarmId>,
    ) -> Result<Paged<Swarm, SwarmId>> {
        let items = self.inner.shared.store.list_swarms(filter, page).await?;
        Ok(paged(items, page.size(), |swarm| swarm.id))
    }

    /// Holds all agents of a swarm at the gate before their next step. Calls under way finish and
    /// are recorded. Pausing a paused swarm does nothing.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if it has ended.
    pub async fn pause_swarm(&self, id: SwarmId) -> Result<Swarm> {
        self.ask(Command::PauseSwarm(id)).await
    }

    /// Lets a paused swarm go on; agents that were paused one by one stay paused.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if it has ended.
    pub async fn resume_swarm(&self, id: SwarmId) -> Result<Swarm> {
        self.ask(Command::ResumeSwarm(id)).await
    }

    /// Sets how many agents of a swarm may work at the same time. Fewer: those at work finish what
    /// they do. More: waiting tasks start, and a parallel swarm gets a task for each agent more.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) outside 1 to `agentsPerSwarmMax`;
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if it has ended;
    /// [`RateLimited`](ErrorKind::RateLimited) above `agentsTotalMax`.
    pub async fn scale_swarm(&self, id: SwarmId, agents: u32) -> Result<Swarm> {
        self.ask(Command::ScaleSwarm(id, agents)).await
    }

    /// Stops a swarm for good: its agents are killed, its tasks cancelled. Its rows stay.
    /// Destroying a destroyed swarm does nothing.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound).
    pub async fn destroy_swarm(&self, id: SwarmId) -> Result<Swarm> {
        self.ask(Command::DestroySwarm(id)).await
    }

    /// Waits until a swarm has completed, failed or been destroyed. A swarm that is paused (by a
    /// caller, or by its budget at 90 % unless its thresholds say otherwise) or that has a step in
    /// doubt waits for someone, and so does this call: follow the events, or set
    /// `critical_action` to `notify`, where nobody watches.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Closed`](ErrorKind::Closed) if the engine stops first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is harmless.
    pub async fn wait_swarm(&self, id: SwarmId) -> Result<SwarmOutcome> {
        let filter = EventFilter {
            swarm_id: Some(id),
            ..EventFilter::default()
        };
        // Following begins before the row is read, so that the end cannot slip in between.
        let head = self.inner.shared.store.head_seq().await?;
        let mut events = self.subscribe(filter, head);
        loop {
            let swarm = self.get_swarm(id).await?;
            if swarm.status.is_terminal() {
                return Ok(SwarmOutcome { swarm });
            }
            loop {
                let Some(event) = events.next().await? else {
                    return Err(self.inner.closed.error().unwrap_or_else(Error::closed));
                };
                let name = event.kind.name();
                if matches!(name, "swarm.completed" | "swarm.failed" | "swarm.destroyed") {
                    break;
                }
            }
        }
    }

    // ---- agents ----

    /// Adds an agent to a swarm, outside its strategy's plan.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) with the field; [`NotFound`](ErrorKind::NotFound);
    /// [`Conflict`](ErrorKind::Conflict) if the swarm is not active;
    /// [`RateLimited`](ErrorKind::RateLimited) above the limits.
    pub async fn spawn_agent(&self, mut request: SpawnAgent) -> Result<Agent> {
        request.validate()?;
        if let Some(model) = &request.model {
            let registry = &self.inner.shared.registry;
            request.model = Some(registry.resolve_model("model", model)?);
        }
        self.ask(Command::SpawnAgent(Box::new(request))).await
    }

    /// One agent.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); the store's error if it cannot be read.
    pub async fn get_agent(&self, id: AgentId) -> Result<Agent> {
        let found = self.inner.shared.store.find_agent(id).await?;
        found.ok_or_else(|| Error::not_found("agent", id))
    }

    /// Agents in order of creation.
    ///
    /// # Errors
    ///
    /// The store's error if it cannot be read.
    pub async fn list_agents(
        &self,
        filter: &AgentFilter,
        page: Page<AgentId>,
    ) -> Result<Paged<Agent, AgentId>> {
        let items = self.inner.shared.store.list_agents(filter, page).await?;
        Ok(paged(items, page.size(), |agent| agent.id))
    }

    /// Holds an agent at the gate before its next step. Pausing a paused agent does nothing.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if it is not at work.
    pub async fn pause_agent(&self, id: AgentId) -> Result<Agent> {
        self.ask(Command::PauseAgent(id)).await
    }

    /// Lets a paused agent go on.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if it has ended, its
    /// swarm is paused, or one of its steps is in doubt.
    pub async fn resume_agent(&self, id: AgentId) -> Result<Agent> {
        self.ask(Command::ResumeAgent(id)).await
    }

    /// Stops an agent and all below it, now. What its calls under way may have cost stays charged
    /// (`uncertain`) until it is known. Its task is cancelled, which under the default failure policy
    /// fails the swarm. Killing a killed agent does nothing.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if it has ended.
    pub async fn kill_agent(&self, id: AgentId) -> Result<Agent> {
        self.ask(Command::KillAgent(id)).await
    }

    /// Starts a failed agent again, on its conversation as it is. A swarm that failed because of
    /// it is reopened.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) unless it has failed, or
    /// if its parent has ended: then nobody waits for it.
    pub async fn retry_agent(&self, id: AgentId) -> Result<Agent> {
        self.ask(Command::RetryAgent(id)).await
    }

    /// Starts a failed agent again from an earlier entry of its conversation. What followed stays in
    /// the store as a branch of its own; with `summarise` the model is told what came of it, by a
    /// summary that is made, and paid, first. What tools have done is not undone.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such agent, or the entry is not of its
    /// conversation; [`Invalid`](ErrorKind::Invalid) if a model could not go on from the entry, since
    /// a call would be without its result or nothing was said after an answer;
    /// [`Conflict`](ErrorKind::Conflict) unless the agent has failed.
    pub async fn retry_agent_from(
        &self,
        agent_id: AgentId,
        entry_id: EntryId,
        summarise: bool,
    ) -> Result<Agent> {
        let agent = self.get_agent(agent_id).await?;
        let store = &self.inner.shared.store;
        let path = match agent.head {
            Some(head) => store.list_path(head, executor::ENTRIES_MAX).await?,
            None => Vec::new(),
        };
        let at = path.iter().position(|entry| entry.id == entry_id);
        let at = at.ok_or_else(|| Error::not_found("entry of the agent", entry_id))?;
        let kept = path.iter().take(at + 1).map(|entry| &entry.body);
        if !entry::context(kept).awaits_model() {
            let issue =
                "a model could not go on from it: take an entry after which nothing is open";
            return Err(Error::invalid("entryId", issue));
        }
        self.ask(Command::RetryAgentFrom {
            agent_id,
            entry_id,
            summarise,
        })
        .await
    }

    /// Sends a message that the agent reads before its next model call, after the tool batch under
    /// way; one message a call, the oldest first, or all, as its swarm's `steer_mode` says. The ticket tells what became of it.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for an empty or too long text;
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if it has ended;
    /// [`RateLimited`](ErrorKind::RateLimited) if too many messages wait.
    pub async fn steer(&self, agent_id: AgentId, text: impl Into<String>) -> Result<TicketId> {
        self.ask(Command::Send {
            agent_id,
            queue: Queue::Steer,
            text: text.into(),
        })
        .await
    }

    /// Sends a message that the agent reads when it would otherwise stop.
    ///
    /// # Errors
    ///
    /// As [`steer`](Self::steer).
    pub async fn follow_up(&self, agent_id: AgentId, text: impl Into<String>) -> Result<TicketId> {
        self.ask(Command::Send {
            agent_id,
            queue: Queue::FollowUp,
            text: text.into(),
        })
        .await
    }

    /// Drops the messages that wait for an agent, and returns them, oldest first, so that a screen can
    /// offer them again.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound).
    pub async fn clear_inbox(&self, agent_id: AgentId) -> Result<Vec<Ticket>> {
        self.ask(Command::ClearInbox(agent_id)).await
    }

    /// Messages sent to agents and what became of them, in order.
    ///
    /// # Errors
    ///
    /// The store's error if it cannot be read.
    pub async fn list_tickets(
        &self,
        filter: &TicketFilter,
        page: Page<TicketId>,
    ) -> Result<Paged<Ticket, TicketId>> {
        let items = self.inner.shared.store.list_tickets(filter, page).await?;
        Ok(paged(items, page.size(), |ticket| ticket.id))
    }

    /// An agent's conversation, first entry first; at most the newest `limit` entries.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); the store's error if it cannot be read.
    pub async fn list_entries(&self, id: AgentId, limit: usize) -> Result<Vec<Entry>> {
        match self.get_agent(id).await?.head {
            Some(head) => self.entries_to(head, limit).await,
            None => Ok(Vec::new()),
        }
    }

    async fn entries_to(&self, head: EntryId, limit: usize) -> Result<Vec<Entry>> {
        Ok(self.inner.shared.store.list_path(head, limit).await?)
    }

    /// Journaled steps, by agent and key.
    ///
    /// # Errors
    ///
    /// The store's error if it cannot be read.
    pub async fn list_steps(
        &self,
        filter: &StepFilter,
        page: Page<(AgentId, StepKey)>,
    ) -> Result<Paged<Step, (AgentId, StepKey)>> {
        let items = self.inner.shared.store.list_steps(filter, page).await?;
        Ok(paged(items, page.size(), |step| (step.agent_id, step.key)))
    }

    /// Settles a step in doubt; its agent goes on once none is left.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if it is not in doubt.
    pub async fn resolve_step(
        &self,
        agent_id: AgentId,
        key: StepKey,
        resolution: Resolution,
    ) -> Result<Agent> {
        self.ask(Command::ResolveStep {
            agent_id,
            key,
            resolution,
        })
        .await
    }

    // ---- tasks ----

    /// Adds a task to a swarm's plan.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) with the field, also for dependencies that do not exist;
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if the key is taken or
    /// the swarm has ended.
    pub async fn create_task(&self, request: CreateTask) -> Result<Task> {
        request.validate()?;
        self.ask(Command::CreateTask(Box::new(request))).await
    }

    /// One task.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); the store's error if it cannot be read.
    pub async fn get_task(&self, id: TaskId) -> Result<Task> {
        let found = self.inner.shared.store.find_task(id).await?;
        found.ok_or_else(|| Error::not_found("task", id))
    }

    /// Tasks in order of creation.
    ///
    /// # Errors
    ///
    /// The store's error if it cannot be read.
    pub async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: Page<TaskId>,
    ) -> Result<Paged<Task, TaskId>> {
        let items = self.inner.shared.store.list_tasks(filter, page).await?;
        Ok(paged(items, page.size(), |task| task.id))
    }

    /// Gives a ready task to an idle agent.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if the task is not
    /// ready, the agent not idle or the swarm not active.
    pub async fn assign_task(&self, task_id: TaskId, agent_id: AgentId) -> Result<Task> {
        self.ask(Command::AssignTask { task_id, agent_id }).await
    }

    /// Completes a ready task that no agent works on.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if an agent works on it
    /// or it is not ready.
    pub async fn complete_task(&self, id: TaskId, output: impl Into<String>) -> Result<Task> {
        self.ask(Command::CompleteTask {
            task_id: id,
            output: output.into(),
        })
        .await
    }

    /// Cancels a task; an agent that works on it is killed. Under the default failure policy that
    /// fails the swarm.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) if it has ended.
    pub async fn cancel_task(&self, id: TaskId) -> Result<Task> {
        self.ask(Command::CancelTask(id)).await
    }

    // ---- budgets ----

    /// A budget with its burn rate, projection and time to exhaustion.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound), also for an agent or task without a budget of its own.
    pub async fn get_budget(&self, owner: BudgetOwner) -> Result<BudgetStatus> {
        self.ask(Command::BudgetStatus(owner)).await
    }

    /// Sets a cap, in the budget's unit: nano-dollars, or tokens if it was made to count tokens
    /// (a project's counts dollars); `None` removes it. A project that is not there is made. Calls that waited for it go on; a
    /// swarm that its budget has paused must be resumed.
    ///
    /// Emits `budget.allocated`.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) below what is charged and held already, below zero or above
    /// [`NanoUsd::MAX_BUDGET`](crate::model::NanoUsd::MAX_BUDGET); [`NotFound`](ErrorKind::NotFound).
    pub async fn allocate(&self, owner: BudgetOwner, allocated: Option<i64>) -> Result<Budget> {
        self.ask(Command::Allocate { owner, allocated }).await
    }

    /// Sets the levels and actions of a budget. Levels reached already fire now.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) with the field; [`NotFound`](ErrorKind::NotFound), but a
    /// project that is not there is made.
    pub async fn set_thresholds(
        &self,
        owner: BudgetOwner,
        thresholds: Thresholds,
    ) -> Result<Budget> {
        self.ask(Command::SetThresholds { owner, thresholds }).await
    }

    /// Replaces the worst case that a lost model call was charged at (`uncertain`) by what its
    /// provider's bill says it used, at the model's present price. With several lost tries of one
    /// step, the oldest.
    ///
    /// Emits `budget.reconciled`.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if the step has no such charge;
    /// [`Conflict`](ErrorKind::Conflict) if the agent's model is not registered.
    pub async fn reconcile(
        &self,
        agent_id: AgentId,
        key: StepKey,
        usage: Usage,
    ) -> Result<Reservation> {
        self.ask(Command::Reconcile {
            agent_id,
            key,
            usage,
        })
        .await
    }

    /// Reservations, by id: the ledger behind the budgets.
    ///
    /// # Errors
    ///
    /// The store's error if it cannot be read.
    pub async fn list_reservations(
        &self,
        filter: &ReservationFilter,
        page: Page<ReservationId>,
    ) -> Result<Paged<Reservation, ReservationId>> {
        let items = self
            .inner
            .shared
            .store
            .list_reservations(filter, page)
            .await?;
        Ok(paged(items, page.size(), |reservation| reservation.id))
    }

    // ---- events ----

    /// Stored events with a `seq` above `after`.
    ///
    /// # Errors
    ///
    /// The store's error if it cannot be read.
    pub async fn list_events(
        &self,
        filter: &EventFilter,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>> {
        Ok(self
            .inner
            .shared
            .store
            .list_events(filter, after, limit)
            .await?)
    }

    /// Follows events with a `seq` above `after`: stored ones first, then live ones. Give the last
    /// `seq` seen to go on after a break; 0 for all.
    #[must_use]
    pub fn subscribe(&self, filter: EventFilter, after: u64) -> EventStream {
        let store = Arc::clone(&self.inner.shared.store);
        let closed = Arc::clone(&self.inner.closed);
        EventStream::new(store, self.inner.live.subscribe(), closed, filter, after)
    }

    /// Follows fragments of streaming answers from now on. They are never stored; a slow reader
    /// loses some.
    #[must_use]
    pub fn subscribe_deltas(&self) -> broadcast::Receiver<Arc<Delta>> {
        self.inner.shared.deltas.subscribe()
    }

    /// The `seq` of the newest event; 0 if there is none.
    ///
    /// # Errors
    ///
    /// The store's error if it cannot be read.
    pub async fn head_seq(&self) -> Result<u64> {
        Ok(self.inner.shared.store.head_seq().await?)
    }

    // ---- the end ----

    /// Ends the engine in good order: no step starts any more, steps under way may finish and are
    /// recorded until `deadline` is over, then they are cancelled. Agents stay as they are in the
    /// store; the next start goes on from there. Idempotent.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if tasks did not end even after they were cancelled
    /// (a tool that never yields); the store's error if it cannot be closed.
    pub async fn shutdown(&self, deadline: Duration) -> Result<()> {
        let shared = &self.inner.shared;
        let drained: Result<()> = self.send(|reply| Message::Drain { reply }).await;
        if drained.is_ok() {
            shared.tasks.close();
            tokio::select! {
                biased;
                () = shared.tasks.wait() => {}
                () = shared.clock.sleep(deadline) => {}
            }
        }
        shared.cancel.cancel();
        shared.tasks.close();
        let ended = tokio::time::timeout(CANCEL_GRACE, shared.tasks.wait()).await;
        self.inner.stop.cancel();
        self.inner.engine.wait().await;
        shared.store.close().await?;
        ended.map_err(|err| {
            Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{} tasks did not end when they were cancelled",
                    shared.tasks.len()
                ),
            )
            .with_source(err)
        })
    }
}

fn paged<T, Id>(items: Vec<T>, size: usize, id: impl Fn(&T) -> Id) -> Paged<T, Id> {
    let next = if items.len() >= size {
        items.last().map(id)
    } else {
        None
    };
    Paged { items, next }
}
