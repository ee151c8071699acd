//! Events: past-tense facts, numbered without gaps, stored, then published.
//!
//! The envelope has `id`, `seq` (the cursor), `timestamp`, `swarmId`, `source`, `type` and `data`.
//! A name once released keeps its meaning; a changed payload is a new name. Readers must expect
//! names they do not know: decoding keeps those as [`EventKind::Unknown`].

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::env::UnixMillis;
use crate::ids::{AgentId, BudgetId, EntryId, EventId, SwarmId, TaskId, TicketId};
use crate::model::budget::ThresholdAction;
use crate::model::{BudgetScope, Currency, Progress, StepKey, Strategy, Usage};

mod delta;
#[cfg(test)]
mod tests;

pub use delta::{Delta, DeltaKind};

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $wire:literal {
        $($(#[$fdoc:meta])* $field:ident: $ty:ty,)*
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
            #[serde(rename_all = "camelCase")]
            pub struct $name {
                $($(#[$fdoc])* pub $field: $ty,)*
            }

            impl From<$name> for EventKind {
                fn from(data: $name) -> Self {
                    Self::$name(data)
                }
            }
        )*

        /// What happened. One variant per event type, each with a documented payload.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[$doc])* $name($name),)*
            /// A type this version does not know, kept as it is.
            Unknown {
                /// The type's wire name.
                type_name: String,
                /// Its payload.
                data: Value,
            },
        }

        impl EventKind {
            /// The wire names of all types this version knows.
            pub const NAMES: &'static [&'static str] = &[$($wire),*];

            /// The wire name, e.g. `agent.spawned`.
            #[must_use]
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$name(_) => $wire,)*
                    Self::Unknown { type_name, .. } => type_name,
                }
            }

            /// The payload as JSON text.
            ///
            /// # Errors
            ///
            /// Only if a payload cannot be written as JSON, which the types here exclude.
            pub fn data_json(&self) -> serde_json::Result<String> {
                match self {
                    $(Self::$name(data) => serde_json::to_string(data),)*
                    Self::Unknown { data, .. } => serde_json::to_string(data),
                }
            }

            /// Reads a payload. A name this version does not know, or a payload it cannot read
            /// (written by a newer version), becomes [`EventKind::Unknown`].
            ///
            /// # Errors
            ///
            /// If `json` is not JSON at all.
            pub fn decode(type_name: &str, json: &str) -> serde_json::Result<Self> {
                let known = match type_name {
                    $($wire => serde_json::from_str(json).map(Self::$name).ok(),)*
                    _ => None,
                };
                if let Some(kind) = known {
                    return Ok(kind);
                }
                let data: Value = serde_json::from_str(json)?;
                // What names a field twice is read as its last one: as it will be once written again.
                let known = match type_name {
                    $($wire => $name::deserialize(&data).map(Self::$name).ok(),)*
                    _ => None,
                };
                Ok(known.unwrap_or_else(|| Self::Unknown {
                    type_name: type_name.to_owned(),
                    data,
                }))
            }

            /// The JSON Schema of every payload, by wire name.
            #[must_use]
            pub fn schemas() -> Vec<(&'static str, schemars::Schema)> {
                vec![$(($wire, schemars::schema_for!($name))),*]
            }
        }

        impl Serialize for EventKind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("type", self.name())?;
                match self {
                    $(Self::$name(data) => map.serialize_entry("data", data)?,)*
                    Self::Unknown { data, .. } => map.serialize_entry("data", data)?,
                }
                map.end()
            }
        }
    };
}

/// An agent's running cost, as `agent.progress` carries it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CostSoFar {
    /// Tokens so far.
    pub tokens: u64,
    /// Dollars so far; for display, the exact figure is in the agent's row.
    pub amount: f64,
}

/// Progress, as `agent.progress` carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgressReport {
    /// Steps done.
    pub current: u32,
    /// Steps in all; 0 = unknown.
    pub total: u32,
    /// Whole per cent.
    pub percentage: u32,
}

impl From<Progress> for ProgressReport {
    fn from(progress: Progress) -> Self {
        Self {
            current: progress.current,
            total: progress.total,
            percentage: progress.percentage(),
        }
    }
}

events! {
    /// An agent was created.
    AgentSpawned = "agent.spawned" {
        /// The agent.
        agent_id: AgentId,
        /// Its name.
        name: String,
        /// Its swarm.
        swarm_id: SwarmId,
        /// The agent that delegated to it.
        parent_id: Option<AgentId>,
        /// The task it was created for, if any.
        task_id: Option<TaskId>,
        /// What it is to do, at most 200 characters of it.
        task: String,
    }
    /// An agent began (or, after a restart of the engine, went on) to work.
    AgentStarted = "agent.started" {
        /// The agent.
        agent_id: AgentId,
        /// Which start this is, from 0.
        attempt: u32,
        /// Whether it goes on with a conversation that was there before.
        resumed: bool,
    }
    /// An agent reported progress.
    AgentProgress = "agent.progress" {
        /// The agent.
        agent_id: AgentId,
        /// How far it says it is.
        progress: ProgressReport,
        /// What it has cost so far.
        cost: CostSoFar,
    }
    /// A model call of an agent finished.
    AgentTurn = "agent.turn" {
        /// The agent.
        agent_id: AgentId,
        /// The step.
        step: StepKey,
        /// Tokens of the call.
        usage: Usage,
        /// Nano-dollars of the call.
        cost_nanos: i64,
        /// Tool calls it asked for.
        tool_calls: u32,
    }
    /// A model call of an agent failed.
    AgentTurnFailed = "agent.turn_failed" {
        /// The agent.
        agent_id: AgentId,
        /// The step.
        step: StepKey,
        /// Why.
        error: String,
    }
    /// An agent's conversation was summed up, so that it fits the model's window again.
    AgentCompacted = "agent.compacted" {
        /// The agent.
        agent_id: AgentId,
        /// The step.
        step: StepKey,
        /// Tokens of the context before, estimated.
        tokens_before: u64,
        /// Messages that stay word for word.
        kept: u32,
        /// Tokens of the call that summed up.
        usage: Usage,
        /// Nano-dollars of that call.
        cost_nanos: i64,
    }
    /// A failed agent was sent back to an earlier point of its conversation.
    AgentBranched = "agent.branched" {
        /// The agent.
        agent_id: AgentId,
        /// The entry it goes on from.
        entry_id: EntryId,
        /// The newest entry of the branch that was abandoned.
        abandoned: EntryId,
    }
    /// A branch that an agent had abandoned was summed up.
    BranchSummarised = "agent.branch_summarised" {
        /// The agent.
        agent_id: AgentId,
        /// The step.
        step: StepKey,
        /// Tokens of the call that summed up.
        usage: Usage,
        /// Nano-dollars of that call.
        cost_nanos: i64,
    }
    /// An agent failed with its model and goes on with the next one of its swarm's ladder.
    AgentEscalated = "agent.escalated" {
        /// The agent.
        agent_id: AgentId,
        /// The model it failed with.
        from: String,
        /// The model it goes on with.
        to: String,
        /// Why it failed.
        error: String,
    }
    /// An agent finished its task.
    AgentCompleted = "agent.completed" {
        /// The agent.
        agent_id: AgentId,
        /// The text it finished with, at most 2,000 characters of it.
        result: String,
        /// What it cost in all.
        cost: CostSoFar,
    }
    /// An agent gave up.
    AgentFailed = "agent.failed" {
        /// The agent.
        agent_id: AgentId,
        /// Why.
        error: String,
        /// Automatic retries it made.
        retry_count: u32,
    }
    /// An attempt failed; another follows after a delay.
    AgentRetrying = "agent.retrying" {
        /// The agent.
        agent_id: AgentId,
        /// Why the attempt failed.
        error: String,
        /// Which retry follows, from 1.
        retry_count: u32,
        /// Milliseconds until it starts.
        delay_ms: u64,
    }
    /// An agent was stopped for good.
    AgentKilled = "agent.killed" {
        /// The agent.
        agent_id: AgentId,
        /// Why.
        reason: String,
    }
    /// An agent was held at the gate between two steps.
    AgentPaused = "agent.paused" {
        /// The agent.
        agent_id: AgentId,
        /// Why.
        reason: String,
    }
    /// A held agent was let go on.
    AgentResumed = "agent.resumed" {
        /// The agent.
        agent_id: AgentId,
    }
    /// A steering or follow-up message was queued.
    MessageQueued = "message.queued" {
        /// The agent it is for.
        agent_id: AgentId,
        /// The message's ticket.
        ticket_id: TicketId,
        /// `steer` or `follow_up`.
        queue: String,
    }
    /// A queued message entered the conversation.
    MessageDelivered = "message.delivered" {
        /// The agent.
        agent_id: AgentId,
        /// The message's ticket.
        ticket_id: TicketId,
    }
    /// A queued message will never be delivered: its agent ended first, or a caller took it back.
    MessageDropped = "message.dropped" {
        /// The agent.
        agent_id: AgentId,
        /// The message's ticket.
        ticket_id: TicketId,
    }
    /// A tool call is about to run.
    ToolStarted = "tool.started" {
        /// The agent.
        agent_id: AgentId,
        /// The step.
        step: StepKey,
        /// The tool.
        tool: String,
    }
    /// A tool call ended, well or not.
    ToolCompleted = "tool.completed" {
        /// The agent.
        agent_id: AgentId,
        /// The step.
        step: StepKey,
        /// The tool.
        tool: String,
        /// Whether its answer is an error.
        is_error: bool,
        /// How long it took.
        duration_ms: u64,
    }
    /// The engine died while a step ran that may not be repeated. Someone must resolve it.
    StepInDoubt = "step.in_doubt" {
        /// The agent.
        agent_id: AgentId,
        /// The step.
        step: StepKey,
        /// The tool.
        tool: String,
    }
    /// A step in doubt was resolved.
    StepResolved = "step.resolved" {
        /// The agent.
        agent_id: AgentId,
        /// The step.
        step: StepKey,
        /// `retry`, `skip`, `result`, or `abandoned` because its agent ended.
        resolution: String,
    }
    /// A swarm was created.
    SwarmCreated = "swarm.created" {
        /// The swarm.
        swarm_id: SwarmId,
        /// Its name.
        name: String,
        /// Its strategy.
        strategy: Strategy,
        /// Agents that may work at the same time.
        agent_count: u32,
    }
    /// A swarm may have more or fewer agents at work.
    SwarmScaled = "swarm.scaled" {
        /// The swarm.
        swarm_id: SwarmId,
        /// Before.
        from: u32,
        /// Now.
        to: u32,
    }
    /// A swarm was paused.
    SwarmPaused = "swarm.paused" {
        /// The swarm.
        swarm_id: SwarmId,
        /// Why.
        reason: String,
    }
    /// A paused swarm was resumed, or a failed one reopened by a retry.
    SwarmResumed = "swarm.resumed" {
        /// The swarm.
        swarm_id: SwarmId,
    }
    /// A swarm's plan is done.
    SwarmCompleted = "swarm.completed" {
        /// The swarm.
        swarm_id: SwarmId,
        /// The result, at most 2,000 characters of it.
        result: String,
    }
    /// A swarm's plan cannot be done.
    SwarmFailed = "swarm.failed" {
        /// The swarm.
        swarm_id: SwarmId,
        /// Why.
        error: String,
    }
    /// A swarm was stopped for good by a caller.
    SwarmDestroyed = "swarm.destroyed" {
        /// The swarm.
        swarm_id: SwarmId,
    }
    /// A task entered the plan.
    TaskCreated = "task.created" {
        /// The task.
        task_id: TaskId,
        /// Its place in the plan.
        key: String,
    }
    /// An agent took a task.
    TaskStarted = "task.started" {
        /// The task.
        task_id: TaskId,
        /// Its place in the plan.
        key: String,
        /// The agent.
        agent_id: AgentId,
    }
    /// A task is done.
    TaskCompleted = "task.completed" {
        /// The task.
        task_id: TaskId,
        /// Its place in the plan.
        key: String,
    }
    /// A task failed.
    TaskFailed = "task.failed" {
        /// The task.
        task_id: TaskId,
        /// Its place in the plan.
        key: String,
        /// Why.
        error: String,
    }
    /// A task will not be done.
    TaskCancelled = "task.cancelled" {
        /// The task.
        task_id: TaskId,
        /// Its place in the plan.
        key: String,
        /// Why.
        reason: String,
    }
    /// A task waits for a person.
    TaskBlocked = "task.blocked" {
        /// The task.
        task_id: TaskId,
        /// Its place in the plan.
        key: String,
        /// Why.
        reason: String,
    }
    /// A blocked task goes on.
    TaskUnblocked = "task.unblocked" {
        /// The task.
        task_id: TaskId,
        /// Its place in the plan.
        key: String,
    }
    /// A budget crossed a threshold. Amounts in dollars (or tokens), for display.
    BudgetThreshold = "budget.threshold" {
        /// The swarm, if the budget is a swarm's or below one.
        swarm_id: Option<SwarmId>,
        /// The budget.
        budget_id: BudgetId,
        /// Whose it is.
        scope: BudgetScope,
        /// What it counts.
        currency: Currency,
        /// The level crossed, per cent.
        threshold: u32,
        /// What was done about it.
        action: ThresholdAction,
        /// Charged so far.
        spent: f64,
        /// The cap.
        allocated: f64,
        /// The predicted final cost at the present burn rate.
        projected: f64,
    }
    /// A call did not fit what a budget has left and was refused. Amounts in dollars (or tokens), for
    /// display.
    BudgetExceeded = "budget.exceeded" {
        /// The swarm, if the budget is a swarm's or below one.
        swarm_id: Option<SwarmId>,
        /// The budget.
        budget_id: BudgetId,
        /// Whose it is.
        scope: BudgetScope,
        /// What it counts.
        currency: Currency,
        /// The agent whose call was refused.
        agent_id: AgentId,
        /// What the call would have needed at least.
        requested: f64,
        /// Charged so far.
        spent: f64,
        /// The cap.
        allocated: f64,
        /// The predicted final cost at the present burn rate.
        projected: f64,
    }
    /// A budget's cap was set.
    BudgetAllocated = "budget.allocated" {
        /// The budget.
        budget_id: BudgetId,
        /// Whose it is.
        scope: BudgetScope,
        /// The cap, in nano-dollars or tokens; none = no cap.
        allocated: Option<i64>,
    }
    /// A charge whose call's outcome was lost was replaced by what the call really used.
    BudgetReconciled = "budget.reconciled" {
        /// The agent whose call it was.
        agent_id: AgentId,
        /// The step.
        step: StepKey,
        /// Nano-dollars charged at worst case until now.
        uncertain_nanos: i64,
        /// Nano-dollars charged from now on.
        actual_nanos: i64,
    }
    /// A server reported more usage than the worst case that was reserved.
    BudgetOverrun = "budget.overrun" {
        /// The agent whose call it was.
        agent_id: AgentId,
        /// The step.
        step: StepKey,
        /// Nano-dollars above the reservation.
        excess_nanos: i64,
    }
    /// The engine started on this store and settled what an earlier run left open.
    SystemRecovered = "system.recovered" {
        /// Agents that go on.
        agents_resumed: u32,
        /// Steps that will run again.
        steps_rerun: u32,
        /// Steps that someone must resolve.
        steps_in_doubt: u32,
        /// Reservations charged at worst case because their call's outcome was lost.
        reservations_uncertain: u32,
    }
    /// Something of the engine itself went wrong.
    SystemError = "system.error" {
        /// The part concerned, e.g. `store` or `sink`.
        component: String,
        /// What went wrong.
        error: String,
    }
}

/// Who an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventSource {
    /// An agent.
    Agent(AgentId),
    /// A swarm.
    Swarm(SwarmId),
    /// The engine.
    System,
}

impl fmt::Display for EventSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(id) => id.fmt(f),
            Self::Swarm(id) => id.fmt(f),
            Self::System => f.pad("system"),
        }
    }
}

/// An event before it is committed: it has no number yet.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Its id.
    pub id: EventId,
    /// When it happened; never before an earlier event.
    pub at: UnixMillis,
    /// The swarm concerned, if one is.
    pub swarm_id: Option<SwarmId>,
    /// Who it is about.
    pub source: EventSource,
    /// What happened.
    pub kind: EventKind,
}

/// A committed event.
///
/// Wire form:
///
/// ```json
/// {"id":"01K…","seq":12,"timestamp":"2026-02-02T10:42:01.123Z","swarmId":"01K…",
///  "source":"01K…","type":"agent.started","data":{"agentId":"01K…","attempt":0,"resumed":false}}
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its number: 1 for the first event of a store, then without a gap. The cursor of watchers.
    pub seq: u64,
    /// Its id.
    pub id: EventId,
    /// When it happened.
    pub at: UnixMillis,
    /// The swarm concerned, if one is.
    pub swarm_id: Option<SwarmId>,
    /// Who it is about: an agent's id, a swarm's id, or `system`.
    pub source: Cow<'static, str>,
    /// What happened.
    pub kind: EventKind,
}

impl Event {
    /// A committed event from what was given to the store and the number it got.
    #[must_use]
    pub fn committed(seq: u64, event: NewEvent) -> Self {
        let source = match event.source {
            EventSource::System => Cow::Borrowed("system"),
            EventSource::Agent(_) | EventSource::Swarm(_) => Cow::Owned(event.source.to_string()),
        };
        Self {
            seq,
            id: event.id,
            at: event.at,
            swarm_id: event.swarm_id,
            source,
            kind: event.kind,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeOut<'a> {
    id: EventId,
    seq: u64,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    swarm_id: Option<SwarmId>,
    source: &'a str,
    #[serde(flatten)]
    kind: &'a EventKind,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        EnvelopeOut {
            id: self.id,
            seq: self.seq,
            timestamp: self.at.to_rfc3339(),
            swarm_id: self.swarm_id,
            source: &self.source,
            kind: &self.kind,
        }
        .serialize(serializer)
    }
}

/// Two steps, because an adjacently tagged enum refuses unknown types that carry data.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeIn {
    id: EventId,
    seq: u64,
    timestamp: String,
    swarm_id: Option<SwarmId>,
    source: String,
    #[serde(rename = "type")]
    type_name: String,
    data: Box<serde_json::value::RawValue>,
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = EnvelopeIn::deserialize(deserializer)?;
        let Some(at) = UnixMillis::from_rfc3339(&raw.timestamp) else {
            return Err(serde::de::Error::custom("timestamp is not RFC 3339"));
        };
        let kind =
            EventKind::decode(&raw.type_name, raw.data.get()).map_err(serde::de::Error::custom)?;
        Ok(Self {
            seq: raw.seq,
            id: raw.id,
            at,
            swarm_id: raw.swarm_id,
            source: Cow::Owned(raw.source),
            kind,
        })
    }
}
