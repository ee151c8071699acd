//! What decisions come in as and go out as: inputs, replies, effects.

use crate::Error;
use crate::api::{BudgetOwner, BudgetStatus, CreateSwarm, CreateTask, Resolution, SpawnAgent};
use crate::env::UnixMillis;
use crate::ids::{AgentId, EntryId, SwarmId, TaskId, TicketId};
use crate::model::inbox::Queue;
use crate::model::{
    Agent, Budget, Progress, Reservation, StepKey, Swarm, Task, Thresholds, Ticket, Usage, Version,
};
use crate::spawn::{Advance, AttemptFailure, Delegation, DelegationResult, Grant};

/// Whom an answer goes to; the coordinator keeps the channel behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ReplyId(pub(crate) u64);

/// What a caller asks for.
#[derive(Debug)]
pub(crate) enum Command {
    CreateSwarm(Box<CreateSwarm>),
    PauseSwarm(SwarmId),
    ResumeSwarm(SwarmId),
    ScaleSwarm(SwarmId, u32),
    DestroySwarm(SwarmId),
    SpawnAgent(Box<SpawnAgent>),
    PauseAgent(AgentId),
    ResumeAgent(AgentId),
    KillAgent(AgentId),
    RetryAgent(AgentId),
    RetryAgentFrom {
        agent_id: AgentId,
        /// Known to be on the agent's conversation, and a place to go on from.
        entry_id: EntryId,
        summarise: bool,
    },
    ClearInbox(AgentId),
    Send {
        agent_id: AgentId,
        queue: Queue,
        text: String,
    },
    CreateTask(Box<CreateTask>),
    AssignTask {
        task_id: TaskId,
        agent_id: AgentId,
    },
    CompleteTask {
        task_id: TaskId,
        output: String,
    },
    CancelTask(TaskId),
    Allocate {
        owner: BudgetOwner,
        allocated: Option<i64>,
    },
    SetThresholds {
        owner: BudgetOwner,
        thresholds: Thresholds,
    },
    BudgetStatus(BudgetOwner),
    Reconcile {
        agent_id: AgentId,
        key: StepKey,
        usage: Usage,
    },
    ResolveStep {
        agent_id: AgentId,
        key: StepKey,
        resolution: Resolution,
    },
}

/// One thing that happened to the coordinator.
#[derive(Debug)]
pub(crate) enum Input {
    Command {
        command: Command,
        expected: Option<Version>,
        reply: ReplyId,
    },
    Advance {
        agent_id: AgentId,
        attempt: u32,
        advance: Box<Advance>,
        reply: ReplyId,
    },
    Progress {
        agent_id: AgentId,
        progress: Progress,
        reply: ReplyId,
    },
    Delegate {
        agent_id: AgentId,
        step: StepKey,
        delegation: Box<Delegation>,
        reply: ReplyId,
    },
    /// A spawner's task has ended, well or not.
    Detached {
        agent_id: AgentId,
        attempt: u32,
        failure: Option<AttemptFailure>,
    },
    /// The delay of a retry is over.
    RetryDue { agent_id: AgentId, attempt: u32 },
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Done,
    Swarm(Box<Swarm>),
    Agent(Box<Agent>),
    Task(Box<Task>),
    Budget(Box<Budget>),
    Reservation(Box<Reservation>),
    Status(Box<BudgetStatus>),
    Ticket(TicketId),
    Tickets(Vec<Ticket>),
    Grant(Box<Grant>),
    Delegated(Box<DelegationResult>),
}

macro_rules! reply_into {
    ($($variant:ident($bound:ident) => $ty:ty = $value:expr;)*) => {$(
        impl TryFrom<Reply> for $ty {
            type Error = Error;

            fn try_from(reply: Reply) -> Result<Self, Error> {
                match reply {
                    Reply::$variant($bound) => Ok($value),
                    other => Err(Error::internal(format!("an answer of the wrong kind: {other:?}"))),
                }
            }
        }
    )*};
}

reply_into! {
    Swarm(row) => Swarm = *row;
    Agent(row) => Agent = *row;
    Task(row) => Task = *row;
    Budget(row) => Budget = *row;
    Reservation(row) => Reservation = *row;
    Status(status) => BudgetStatus = *status;
    Ticket(id) => TicketId = id;
    Tickets(tickets) => Vec<Ticket> = tickets;
    Grant(grant) => Grant = *grant;
    Delegated(result) => DelegationResult = *result;
}

impl TryFrom<Reply> for () {
    type Error = Error;

    fn try_from(_: Reply) -> Result<Self, Error> {
        Ok(())
    }
}

/// What the shell does after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Run an agent (load its conversation, hand it to a spawner).
    Start(AgentId),
    /// End an agent's task now.
    Cancel(AgentId),
    /// Send [`Input::RetryDue`] at this time.
    RetryAt {
        agent_id: AgentId,
        attempt: u32,
        at: UnixMillis,
    },
}
