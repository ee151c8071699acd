//! The one task that owns the state: drain inputs → decide → commit once → tell.
//!
//! ```text
//!  messages ──▶ load what they refer to ──▶ decide (pure) ──▶ commit ──▶ sinks, answers, effects
//! ```
//!
//! While a commit runs, what comes in meanwhile is decided already; all of it is the next commit, one
//! transaction, begun when the one before has ended well. So there is one commit at a time, in the
//! order of the decisions, and nobody is told anything before the commit that makes it true. What a
//! commit ended is forgotten after it, unless the next one changes it again. While the disk is full the
//! pending commit is tried again and again: callers get an error at once, agents wait. So do the callers
//! whose commands were decided before that was known, with that commit or for the next: what they asked
//! for may still be done. After a commit whose outcome is unknown nothing is written any more; recovery
//! decides at the next start.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, MaybeDone, maybe_done};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::decide::Decision;
use super::effect::{Command, Effect, Input, Reply, ReplyId};
use super::executor::{Executor, Shared};
use super::message::{Message, ReplySender};
use super::state::{OpenWork, Output, State};
use super::{load, watch::Closed};
use crate::api::BudgetOwner;
use crate::env::IdSource;
use crate::event::{Event, SystemError};
use crate::ids::{AgentId, SwarmId};
use crate::model::Agent;
use crate::mutation::{self, Mutation};
use crate::sink::{EventSink, SLOW_SINK};
use crate::store::{Committed, StoreError};
use crate::{Error, ErrorKind, Result};

/// Messages decided and committed together at most; enough for a few thousand busy agents, small
/// enough that one transaction stays in the milliseconds.
const BATCH_MAX: usize = 512;

pub(crate) struct Coordinator {
    pub(crate) state: State,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) sinks: Vec<SinkSlot>,
    pub(crate) executor: Executor,
    pub(crate) inbox: mpsc::Receiver<Message>,
    pub(crate) stop: CancellationToken,
    pub(crate) closed: Arc<Closed>,
    /// By number: when the engine stops, callers are told in the order they asked.
    replies: BTreeMap<u64, ReplySender>,
    next_reply: u64,
    /// Messages that came in while the disk was full.
    waiting: VecDeque<Message>,
    /// Whether recovery is over: before, a full disk is an error of the start.
    started: bool,
    /// What was loaded for a message and may be forgotten again.
    loaded: Ended,
    /// The commit under way.
    writing: Option<Writing>,
    /// Messages decided since it began.
    decided: usize,
}

/// A commit that the store is at.
struct Writing {
    result: MaybeDone<BoxFuture<'static, Result<Committed, StoreError>>>,
    pending: Pending,
}

impl Writing {
    /// Waits for the store's answer, and takes it.
    async fn end(&mut self) -> Result<Committed, StoreError> {
        (&mut self.result).await;
        let result = Pin::new(&mut self.result).take_output();
        // Nobody takes it twice: whoever waits here then takes the whole commit away.
        result.unwrap_or(Err(StoreError::Closed))
    }
}

/// What follows a commit.
struct Pending {
    out: Output,
    /// The agents that its effects start, as it leaves them.
    starts: VecDeque<Option<(Agent, OpenWork)>>,
    ended: Ended,
}

/// What the coordinator has to do next.
enum Turn {
    /// Decide the messages of the batch.
    Decide,
    /// The commit under way has ended.
    Committed(Result<Committed, StoreError>),
    /// Nothing more comes in.
    End,
}

/// A sink and whether it still works.
#[derive(Debug)]
pub(crate) struct SinkSlot {
    sink: Arc<dyn EventSink>,
    dead: bool,
    slow: bool,
}

impl SinkSlot {
    pub(crate) fn new(sink: Arc<dyn EventSink>) -> Self {
        Self {
            sink,
            dead: false,
            slow: false,
        }
    }
}

impl Coordinator {
    pub(crate) fn new(
        state: State,
        shared: Arc<Shared>,
        ids: Arc<dyn IdSource>,
        sinks: Vec<SinkSlot>,
        inbox: mpsc::Receiver<Message>,
        stop: CancellationToken,
        closed: Arc<Closed>,
    ) -> Self {
        Self {
            state,
            executor: Executor::new(Arc::clone(&shared)),
            shared,
            ids,
            sinks,
            inbox,
            stop,
            closed,
            replies: BTreeMap::new(),
            next_reply: 0,
            waiting: VecDeque::new(),
            started: false,
            loaded: Ended::default(),
            writing: None,
            decided: 0,
        }
    }

    /// Runs until told to stop, or until the store fails for good.
    pub(crate) async fn run(mut self) {
        self.started = true;
        // If this task dies, nobody waits for it for ever.
        let closed = Arc::clone(&self.closed);
        let cancel = self.shared.cancel.clone();
        let _guard = EndGuard { closed, cancel };
        if let Err(err) = self.serve().await {
            self.halt(err);
            return;
        }
        self.closed.close(None);
        self.shared.cancel.cancel();
    }

    async fn serve(&mut self) -> Result<(), StoreError> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut is_open = true;
        while is_open || self.writing.is_some() {
            match self.next(&mut batch, is_open).await {
                Turn::Decide => {
                    self.decided += batch.len();
                    for message in batch.drain(..) {
                        self.take(message).await;
                    }
                }
                Turn::Committed(result) => self.committed(result).await?,
                Turn::End => is_open = false,
            }
            self.begin();
        }
        Ok(())
    }

    async fn next(&mut self, batch: &mut Vec<Message>, is_open: bool) -> Turn {
        let room = BATCH_MAX.saturating_sub(self.decided);
        if room > 0 && !self.waiting.is_empty() {
            let n = self.waiting.len().min(room);
            batch.extend(self.waiting.drain(..n));
            return Turn::Decide;
        }
        let is_idle = self.writing.is_none();
        let writing = async {
            match &mut self.writing {
                Some(writing) => writing.end().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = writing => Turn::Committed(result),
            // First what is there, then the end: a shutdown drains the queue.
            n = self.inbox.recv_many(batch, room), if is_open && room > 0 => {
                if n == 0 { Turn::End } else { Turn::Decide }
            }
            () = self.stop.cancelled(), if is_open && is_idle => Turn::End,
        }
    }

    /// Decides the recovery of a fresh start and commits it.
    pub(crate) async fn recover(&mut self) -> Result<()> {
        let project = self.state.settings.project.clone();
        let mut decision =
            Decision::new(&mut self.state, self.shared.clock.now(), self.ids.as_ref());
        decision.project(&project);
        let done = decision.recover();
        tracing::info!(
            agents_resumed = done.agents_resumed,
            steps_rerun = done.steps_rerun,
            steps_in_doubt = done.steps_in_doubt,
            reservations_uncertain = done.reservations_uncertain,
            "recovered"
        );
        self.commit().await.map_err(Error::from)
    }

    /// Decides one message, after loading what it refers to.
    async fn take(&mut self, message: Message) {
        if let Message::Drain { reply } = message {
            let id = self.register(reply);
            let now = self.shared.clock.now();
            Decision::new(&mut self.state, now, self.ids.as_ref()).drain();
            self.shared.timers.cancel();
            self.state.out.replies.push((id, Ok(Reply::Done)));
            return;
        }
        if self.state.draining
            && matches!(message, Message::Command { .. } | Message::Delegate { .. })
        {
            message.refuse(Error::closed());
            return;
        }
        if let Err(err) = self.load_for(&message).await {
            tracing::error!(error = %err.chain(), "failed to load what a message refers to");
            message.refuse(err);
            return;
        }
        if let Message::Detached { agent_id, .. } = &message {
            self.executor.detached(*agent_id);
            // What has ended may be forgotten now that nothing runs for it.
            self.loaded.agents.push(*agent_id);
            let swarm = self.state.agents.get(*agent_id).map(|a| a.swarm_id);
            self.loaded.swarms.extend(swarm);
        }
        let input = self.input(message);
        let now = self.shared.clock.now();
        if let Some(input) = input {
            Decision::new(&mut self.state, now, self.ids.as_ref()).decide(input);
        }
    }

    fn input(&mut self, message: Message) -> Option<Input> {
        Some(match message {
            Message::Command {
                command,
                expected,
                reply,
            } => Input::Command {
                command,
                expected,
                reply: self.register(reply),
            },
            Message::Advance {
                agent_id,
                attempt,
                advance,
                reply,
            } => Input::Advance {
                agent_id,
                attempt,
                advance,
                reply: self.register(reply),
            },
            Message::Progress {
                agent_id,
                progress,
                reply,
            } => Input::Progress {
                agent_id,
                progress,
                reply: self.register(reply),
            },
            Message::Delegate {
                agent_id,
                step,
                delegation,
                reply,
            } => Input::Delegate {
                agent_id,
                step,
                delegation,
                reply: self.register(reply),
            },
            Message::Detached {
                agent_id,
                attempt,
                failure,
            } => Input::Detached {
                agent_id,
                attempt,
                failure,
            },
            Message::RetryDue { agent_id, attempt } => Input::RetryDue { agent_id, attempt },
            Message::Drain { .. } => return None,
        })
    }

    fn register(&mut self, reply: ReplySender) -> ReplyId {
        self.next_reply += 1;
        self.replies.insert(self.next_reply, reply);
        ReplyId(self.next_reply)
    }

    // ---- loading what has ended and was forgotten ----

    /// Waits for a read, while the commit under way goes on: a store may hold for a commit what its
    /// reads need.
    async fn beside<T>(&mut self, read: impl Future<Output = T>) -> T {
        let mut read = pin!(read);
        std::future::poll_fn(|cx| {
            if let Some(writing) = &mut self.writing {
                // Its result is kept until it is taken.
                let _kept = Pin::new(&mut writing.result).poll(cx);
            }
            read.as_mut().poll(cx)
        })
        .await
    }

    async fn load_for(&mut self, message: &Message) -> Result<()> {
        match message {
            Message::Command { command, .. } => self.load_for_command(command).await,
            Message::Advance { agent_id, .. }
            | Message::Progress { agent_id, .. }
            | Message::Delegate { agent_id, .. } => self.load_agent(*agent_id).await,
            Message::Detached { .. } | Message::RetryDue { .. } | Message::Drain { .. } => Ok(()),
        }
    }

    async fn load_for_command(&mut self, command: &Command) -> Result<()> {
        match command {
            Command::CreateSwarm(request) => {
                if let Some(project) = &request.project {
                    self.load_project(project).await?;
                }
                match request.id {
                    Some(id) => self.load_swarm(id).await,
                    None => Ok(()),
                }
            }
            Command::PauseSwarm(id)
            | Command::ResumeSwarm(id)
            | Command::ScaleSwarm(id, _)
            | Command::DestroySwarm(id) => self.load_swarm(*id).await,
            Command::SpawnAgent(request) => self.load_swarm(request.swarm_id).await,
            Command::CreateTask(request) => self.load_swarm(request.swarm_id).await,
            Command::PauseAgent(id)
            | Command::ResumeAgent(id)
            | Command::KillAgent(id)
            | Command::RetryAgent(id)
            | Command::RetryAgentFrom { agent_id: id, .. }
            | Command::ClearInbox(id)
            | Command::Send { agent_id: id, .. }
            | Command::ResolveStep { agent_id: id, .. } => self.load_agent(*id).await,
            Command::Reconcile { agent_id, .. } => self.load_uncertain(*agent_id).await,
            Command::AssignTask { task_id, agent_id } => {
                self.load_agent(*agent_id).await?;
                self.load_task(*task_id).await
            }
            Command::CompleteTask { task_id, .. } | Command::CancelTask(task_id) => {
                self.load_task(*task_id).await
            }
            Command::Allocate { owner, .. }
            | Command::SetThresholds { owner, .. }
            | Command::BudgetStatus(owner) => match owner {
                BudgetOwner::Project(name) => self.load_project(name).await,
                BudgetOwner::Swarm(id) => self.load_swarm(*id).await,
                BudgetOwner::Agent(id) => self.load_agent(*id).await,
                BudgetOwner::Task(id) => self.load_task(*id).await,
            },
        }
    }

    async fn load_project(&mut self, name: &str) -> Result<()> {
        if self.state.projects.contains_key(name) {
            return Ok(());
        }
        let store = Arc::clone(&self.shared.store);
        let found = self.beside(load::project(store.as_ref(), name)).await?;
        if let Some((project, budget)) = found {
            let snapshot = super::decide::Snapshot {
                projects: vec![project],
                budgets: vec![budget],
                ..Default::default()
            };
            self.load(snapshot);
        }
        Ok(())
    }

    async fn load_swarm(&mut self, id: SwarmId) -> Result<()> {
        if self.state.swarms.get(id).is_some() {
            return Ok(());
        }
        let store = Arc::clone(&self.shared.store);
        let found = self.beside(load::swarm(store.as_ref(), id)).await?;
        if let Some(snapshot) = found {
            self.load(snapshot);
            self.loaded.swarms.push(id);
        }
        Ok(())
    }

    async fn load_agent(&mut self, id: AgentId) -> Result<()> {
        if self.state.agents.get(id).is_some() {
            return Ok(());
        }
        // Its parents too, from the root down: an agent without a budget of its own spends theirs.
        let store = Arc::clone(&self.shared.store);
        let mut line = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next.filter(|id| self.state.agents.get(*id).is_none()) {
            let Some(agent) = self.beside(store.find_agent(id)).await? else {
                break;
            };
            next = agent.parent_id;
            line.push(agent);
        }
        if let Some(agent) = line.first() {
            self.load_swarm(agent.swarm_id).await?;
        }
        line.reverse();
        self.loaded.agents.extend(line.iter().map(|agent| agent.id));
        self.load(super::decide::Snapshot {
            agents: line,
            ..Default::default()
        });
        Ok(())
    }

    /// An agent and its charges at worst case.
    async fn load_uncertain(&mut self, id: AgentId) -> Result<()> {
        self.load_agent(id).await?;
        if self.state.agents.get(id).is_some() {
            let store = Arc::clone(&self.shared.store);
            let found = self.beside(load::uncertain(store.as_ref(), id)).await;
            let mut reservations = found?;
            // What has been decided since is newer than the store.
            let writing = self.writing.iter().map(|writing| &writing.pending.out);
            for out in writing.chain([&self.state.out]) {
                let decided = &out.changes.reservations;
                reservations.retain(|stored| !decided.iter().any(|r| r.id == stored.id));
            }
            self.load(super::decide::Snapshot {
                reservations,
                ..Default::default()
            });
        }
        Ok(())
    }

    async fn load_task(&mut self, id: crate::ids::TaskId) -> Result<()> {
        if self.state.tasks.get(id).is_some() {
            return Ok(());
        }
        let store = Arc::clone(&self.shared.store);
        let found = self.beside(store.find_task(id)).await?;
        match found {
            Some(task) => self.load_swarm(task.swarm_id).await,
            None => Ok(()),
        }
    }

    pub(crate) fn load(&mut self, snapshot: super::decide::Snapshot) {
        let now = self.shared.clock.now();
        Decision::new(&mut self.state, now, self.ids.as_ref()).load(snapshot);
    }

    // ---- the commit and what follows ----

    /// Commits what was decided, and then what telling it has shown: each sink is reported at most
    /// twice, so this ends.
    async fn commit(&mut self) -> Result<(), StoreError> {
        self.begin();
        while let Some(writing) = &mut self.writing {
            let result = writing.end().await;
            self.committed(result).await?;
            self.begin();
        }
        Ok(())
    }

    /// Begins to commit what was decided, unless a commit is under way.
    fn begin(&mut self) {
        if self.writing.is_some() {
            return;
        }
        self.decided = 0;
        let mut out = self.state.take_output();
        let mut ended = Ended::of(&out);
        ended.append(&mut self.loaded);
        self.tell_too_early(&mut out);
        let mut starts = VecDeque::new();
        for effect in &out.effects {
            if let Effect::Start(id) = effect {
                let start = self.start_of(*id);
                // Now, and not once it is told: whoever retries it meanwhile starts it again.
                if start.is_none()
                    && let Some(live) = self.state.live.get_mut(id)
                {
                    live.attached = false;
                }
                starts.push_back(start);
            }
        }
        let pending = Pending { out, starts, ended };
        if pending.out.changes.is_empty() {
            self.tell(Vec::new(), pending);
            return;
        }
        let (store, changes) = (Arc::clone(&self.shared.store), pending.out.changes.clone());
        let commit: BoxFuture<'static, _> = Box::pin(async move { store.commit(changes).await });
        let result = maybe_done(commit);
        self.writing = Some(Writing { result, pending });
    }

    /// An agent as it is to be started; `None` if it has ended already.
    fn start_of(&self, id: AgentId) -> Option<(Agent, OpenWork)> {
        let agent = self.state.agents.get(id)?;
        if agent.status.is_terminal() {
            return None;
        }
        Some((agent.clone(), self.state.open_work(agent)))
    }

    /// Goes on after the store has answered; a full disk is waited out.
    async fn committed(&mut self, result: Result<Committed, StoreError>) -> Result<(), StoreError> {
        let Some(Writing { pending, .. }) = self.writing.take() else {
            return Ok(());
        };
        let committed = match result {
            Ok(committed) => committed,
            Err(err) => self.write_again(&pending.out, err).await?,
        };
        self.tell(committed.events, pending);
        Ok(())
    }

    /// What follows a commit: events go out, callers get their answers, effects are carried out.
    fn tell(&mut self, events: Vec<Event>, pending: Pending) {
        let Pending {
            mut out,
            mut starts,
            ended,
        } = pending;
        let events: Vec<Arc<Event>> = events.into_iter().map(Arc::new).collect();
        self.publish(&events);
        self.answer(std::mem::take(&mut out.replies));
        for effect in out.effects {
            let start = match effect {
                Effect::Start(_) => starts.pop_front().flatten(),
                _ => None,
            };
            if !self.state.draining || matches!(effect, Effect::Cancel(_)) {
                self.carry_out(&effect, start);
            }
        }
        for swarm in self.state.evict(&ended.agents, &ended.swarms) {
            self.loaded.swarms.push(swarm);
        }
        for swarm in ended.swarms {
            let row = self.state.swarms.get(swarm);
            if row.is_none_or(|swarm| swarm.status.is_terminal()) {
                self.executor.forget_swarm(swarm);
            }
        }
    }

    fn answer(&mut self, replies: Vec<(ReplyId, Result<Reply>)>) {
        for (id, answer) in replies {
            if let Some(reply) = self.replies.remove(&id.0) {
                // A caller that has gone needs no answer; what it asked for is done.
                let _gone = reply.send(answer);
            }
        }
    }

    /// Does nothing, unless a test breaks the order of things.
    fn tell_too_early(&mut self, out: &mut Output) {
        if mutation::active(Mutation::TellBeforeCommit) {
            let events = out.changes.events.iter().cloned();
            let events = events.map(|event| Arc::new(Event::committed(0, event)));
            self.publish(&events.collect::<Vec<_>>());
        }
        let grants = mutation::active(Mutation::GrantBeforeCommit);
        if grants || mutation::active(Mutation::AnswerBeforeCommit) {
            let is_grant = |answer: &Result<Reply>| matches!(answer, Ok(Reply::Grant(_)));
            let replies = std::mem::take(&mut out.replies).into_iter();
            let (early, due) = replies.partition(|(_, answer)| is_grant(answer) == grants);
            out.replies = due;
            self.answer(early);
        }
    }

    /// Tries a commit again until there is space; every other trouble is for good.
    async fn write_again(
        &mut self,
        out: &Output,
        mut err: StoreError,
    ) -> Result<Committed, StoreError> {
        let mut reported = false;
        loop {
            // Both say that nothing was applied, and both pass.
            if !self.started || !matches!(err, StoreError::Full | StoreError::Locked { .. }) {
                return Err(err);
            }
            if !std::mem::replace(&mut reported, true) {
                tracing::error!(error = %err, "nothing is written until that has passed");
            }
            if self.state.draining || !self.wait_for_space(&err).await {
                return Err(StoreError::Closed);
            }
            match self.shared.store.commit(out.changes.clone()).await {
                Ok(committed) => return Ok(committed),
                Err(again) => err = again,
            }
        }
    }

    /// Lets some time pass. Callers are refused meanwhile, agents wait. False = stop.
    async fn wait_for_space(&mut self, trouble: &StoreError) -> bool {
        let retry = Duration::from_millis(self.state.settings.store_retry_ms);
        let mut pause = self.shared.clock.sleep(retry);
        loop {
            tokio::select! {
                // The end first; then the next try, which a stream of messages must not put off.
                biased;
                () = self.stop.cancelled() => return false,
                () = &mut pause => return true,
                message = self.inbox.recv() => match message {
                    Some(message @ Message::Command { .. }) => {
                        let err = Error::new(ErrorKind::Unavailable, trouble.to_string());
                        message.refuse(err);
                    }
                    // A shutdown does not wait for space: what is pending is recovered.
                    Some(Message::Drain { .. }) => return false,
                    // Bounded by the agents alive: each has at most a few messages under way.
                    Some(other) => self.waiting.push_back(other),
                    None => return false,
                },
            }
        }
    }

    fn publish(&mut self, events: &[Arc<Event>]) {
        if events.is_empty() {
            return;
        }
        let mut troubles = Vec::new();
        for slot in self.sinks.iter_mut().filter(|slot| !slot.dead) {
            let began = self.shared.clock.now();
            let emitted = std::panic::catch_unwind(AssertUnwindSafe(|| slot.sink.emit(events)));
            let name = slot.sink.name();
            if let Err(panic) = emitted {
                slot.dead = true;
                let why = crate::spawn::panic_message(panic.as_ref());
                troubles.push(format!("sink `{name}` is not told any more: {why}"));
            } else if self.shared.clock.now().since(began) > SLOW_SINK
                && !std::mem::replace(&mut slot.slow, true)
            {
                troubles.push(format!(
                    "sink `{name}` holds every commit up: it took over {SLOW_SINK:?}"
                ));
            }
        }
        for error in troubles {
            tracing::error!(%error, "event sink");
            let now = self.shared.clock.now();
            let mut decision = Decision::new(&mut self.state, now, self.ids.as_ref());
            decision.trouble(SystemError {
                component: "sink".to_owned(),
                error,
            });
        }
    }

    fn carry_out(&mut self, effect: &Effect, start: Option<(Agent, OpenWork)>) {
        match *effect {
            Effect::Start(_) => {
                let swarm = start.as_ref().map(|(agent, _)| agent.swarm_id);
                let swarm = swarm.and_then(|id| self.state.swarms.get(id));
                // Nothing to start: it ended in the same commit.
                if let (Some((agent, open)), Some(swarm)) = (start, swarm) {
                    self.executor.start(agent, swarm, open);
                }
            }
            Effect::Cancel(id) => self.executor.cancel(id),
            Effect::RetryAt {
                agent_id,
                attempt,
                at,
            } => {
                self.executor.retry_at(agent_id, attempt, at);
            }
        }
    }

    /// The store has failed: nothing is written any more, everything ends.
    fn halt(&mut self, err: StoreError) {
        let err = Error::from(err);
        tracing::error!(error = %err.chain(), "the engine stops");
        self.inbox.close();
        self.closed.close(Some(err.chain()));
        self.shared.cancel.cancel();
        for reply in std::mem::take(&mut self.replies).into_values() {
            let stopped = Error::new(ErrorKind::Closed, "the orchestrator has stopped")
                .with_source(Error::new(err.kind(), err.chain()));
            // A caller that has gone needs no answer.
            let _gone = reply.send(Err(stopped));
        }
    }
}

/// Says that the engine has stopped, however its task ends.
struct EndGuard {
    closed: Arc<Closed>,
    cancel: CancellationToken,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        // After a good end this changes nothing: the first reason stays.
        self.closed
            .close(Some("the coordinator has died".to_owned()));
        self.cancel.cancel();
    }
}

/// Rows that a commit ended.
#[derive(Default)]
struct Ended {
    agents: Vec<AgentId>,
    swarms: Vec<SwarmId>,
}

impl Ended {
    fn append(&mut self, more: &mut Self) {
        self.agents.append(&mut more.agents);
        self.swarms.append(&mut more.swarms);
    }

    fn of(out: &Output) -> Self {
        let agents = out
            .changes
            .agents
            .iter()
            .filter(|w| w.row.status.is_terminal());
        let swarms = out
            .changes
            .swarms
            .iter()
            .filter(|w| w.row.status.is_terminal());
        Self {
            agents: agents.map(|w| w.row.id).collect(),
            swarms: swarms.map(|w| w.row.id).collect(),
        }
    }
}
