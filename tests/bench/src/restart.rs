//! From a start on a large store to the first agent at work.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dash::env::UnixMillis;
use dash::event::{AgentProgress, CostSoFar, EventSource, NewEvent, ProgressReport};
use dash::ids::{AgentId, BudgetId, EntryId, EventId, ProjectId, SwarmId, TaskId};
use dash::model::{
    Agent, AgentStatus, Budget, BudgetScope, Currency, Entry, EntryBody, Message, MessageOrigin,
    NanoUsd, Progress, Project, SideEffect, Step, StepKey, StepState, Strategy, Swarm, SwarmConfig,
    SwarmStatus, Task, TaskRole, TaskStatus, Thresholds, Usage,
};
use dash::spawn::{AgentContext, SpawnRequest, Spawner};
use dash::store::{Changeset, RowWrite, Store};
use tokio::sync::mpsc;

use crate::engine::{self, DEADLINE};
use crate::measure::{now, status_kib};
use crate::report::{Figure, Target};
use crate::{Options, Result};

/// Agents of one swarm.
const SWARM_AGENTS: u32 = 1_000;
/// Entries of each agent's conversation.
const ENTRIES: u32 = 4;
/// Agents or events of one commit while the store is filled.
const CHUNK: u32 = 5_000;
/// Where the time of the rows begins.
const AT: UnixMillis = UnixMillis(1_770_000_000_000);

/// Counts the agents it is given; each then waits for its end.
#[derive(Debug)]
struct Count {
    seen: AtomicU32,
    messages: AtomicU32,
    told: mpsc::Sender<u32>,
    all: u32,
}

#[async_trait]
impl Spawner for Count {
    fn name(&self) -> &'static str {
        "count"
    }

    async fn run(&self, request: SpawnRequest, cx: AgentContext) {
        let messages = u32::try_from(request.history.len()).unwrap_or(u32::MAX);
        self.messages.fetch_add(messages, Ordering::Relaxed);
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen == 1 || seen == self.all {
            // The measurement waits for these two.
            let _sent = self.told.send(seen).await;
        }
        cx.cancel.cancelled().await;
    }
}

/// Fills a store, closes it, opens it again.
pub(crate) async fn run(options: &Options, dir: &Path) -> Result<Vec<Figure>> {
    let path = dir.join("dash.db");
    let agents = options.n.unwrap_or(10_000);
    let began = now();
    let store = engine::store(&path).await?;
    fill(store.as_ref(), agents, options.events).await?;
    store.close().await?;
    drop(store);
    let filled = began.elapsed().as_secs_f64();

    let (told, mut seen) = mpsc::channel(2);
    let spawner = Arc::new(Count {
        seen: AtomicU32::new(0),
        messages: AtomicU32::new(0),
        told,
        all: agents,
    });
    let began = now();
    let store = engine::store(&path).await?;
    let opened = began.elapsed().as_secs_f64();
    let dash = engine::builder(store, engine::no_model())
        .with_spawner(Arc::<Count>::clone(&spawner))
        .start()
        .await?;
    let started = began.elapsed().as_secs_f64();
    seen.recv().await.ok_or("no agent was started")?;
    let first = began.elapsed().as_secs_f64();
    if agents > 1 {
        seen.recv().await.ok_or("not all agents were started")?;
    }
    let all = began.elapsed().as_secs_f64();
    if spawner.messages.load(Ordering::Relaxed) != agents * ENTRIES {
        return Err("the conversations are not whole".into());
    }
    let resident = status_kib("VmRSS") / 1_024.0;
    dash.shutdown(DEADLINE.min(Duration::from_millis(100)))
        .await?;
    Ok(vec![
        Figure::new("open and start to the first agent", "s", first).target(Target::AtMost(3.0)),
        Figure::new("to all agents", "s", all),
        Figure::new("of it: opening the store", "s", opened),
        Figure::new("of it: recovery", "s", started - opened),
        Figure::new("resident with all agents", "MB", resident),
        Figure::new("filling the store (not part)", "s", filled),
    ])
}

const fn id(kind: u32, number: u32) -> u128 {
    // A ULID of 2026, told apart by kind and number.
    (0x019c_0000_0000_u128 << 80) | ((kind as u128) << 64) | (number as u128 + 1)
}

const fn insert<T>(row: T) -> RowWrite<T> {
    RowWrite {
        row,
        expected: None,
    }
}

async fn fill(store: &dyn Store, agents: u32, events: u32) -> Result<()> {
    let mut first = Changeset {
        projects: vec![Project {
            id: ProjectId::from_u128(id(1, 0)),
            name: "default".to_owned(),
            budget_id: BudgetId::from_u128(id(2, 0)),
            created_at: AT,
        }],
        ..Changeset::default()
    };
    let project = ProjectId::from_u128(id(1, 0)).to_string();
    first
        .budgets
        .push(insert(budget(0, BudgetScope::Project, project)));
    let swarms = agents.div_ceil(SWARM_AGENTS);
    for number in 0..swarms {
        let entity = SwarmId::from_u128(id(3, number)).to_string();
        first
            .budgets
            .push(insert(budget(number + 1, BudgetScope::Swarm, entity)));
        first.swarms.push(insert(swarm(number)));
    }
    store.commit(first).await?;
    let numbers: Vec<u32> = (0..agents).collect();
    for chunk in numbers.chunks(CHUNK as usize) {
        let mut changes = Changeset::default();
        for number in chunk {
            add_agent(&mut changes, *number);
        }
        store.commit(changes).await?;
    }
    let mut next = 0;
    while next < events {
        let end = events.min(next + CHUNK);
        let changes = Changeset {
            events: (next..end).map(|number| event(number, agents)).collect(),
            ..Changeset::default()
        };
        store.commit(changes).await?;
        next = end;
    }
    Ok(())
}

fn budget(number: u32, scope: BudgetScope, entity_id: String) -> Budget {
    let parent = (scope != BudgetScope::Project).then(|| BudgetId::from_u128(id(2, 0)));
    Budget {
        id: BudgetId::from_u128(id(2, number)),
        scope,
        entity_id,
        parent_id: parent,
        currency: Currency::Usd,
        allocated: None,
        spent: 0,
        uncertain: 0,
        reserved: 0,
        overrun: 0,
        thresholds: Thresholds::default(),
        fired: 0,
        created_at: AT,
        updated_at: AT,
        version: 1,
    }
}

fn swarm(number: u32) -> Swarm {
    let mut config = SwarmConfig::default();
    config.model = "model".to_owned();
    Swarm {
        id: SwarmId::from_u128(id(3, number)),
        project_id: ProjectId::from_u128(id(1, 0)),
        name: format!("swarm {number}"),
        status: SwarmStatus::Active,
        task: "count".to_owned(),
        strategy: Strategy::Parallel,
        config,
        budget_id: BudgetId::from_u128(id(2, number + 1)),
        agent_count: SWARM_AGENTS,
        target_agent_count: SWARM_AGENTS,
        result: None,
        error: None,
        created_at: AT,
        updated_at: AT,
        completed_at: None,
        version: 1,
    }
}

/// A running agent with its task, a short conversation and a tool call under way.
fn add_agent(changes: &mut Changeset, number: u32) {
    let agent_id = AgentId::from_u128(id(5, number));
    let swarm_id = SwarmId::from_u128(id(3, number / SWARM_AGENTS));
    let task_id = TaskId::from_u128(id(4, number));
    let key = format!("work/{}", number % SWARM_AGENTS + 1);
    changes.tasks.push(insert(Task {
        id: task_id,
        swarm_id,
        key: key.clone(),
        role: TaskRole::Work,
        prompt: "count".to_owned(),
        depends_on: Vec::new(),
        status: TaskStatus::Running,
        agent_id: Some(agent_id),
        output: None,
        error: None,
        ordinal: number % SWARM_AGENTS,
        created_at: AT,
        updated_at: AT,
        completed_at: None,
        version: 1,
    }));
    let head = add_conversation(changes, agent_id, number);
    changes.steps.push(Step {
        agent_id,
        key: StepKey::Tool { turn: 1, index: 0 },
        state: StepState::Intended,
        side_effect: SideEffect::Pure,
        name: engine::TOOL.to_owned(),
        tries: 1,
        call_id: Some("call_1".to_owned()),
        reservation_id: None,
        entry_id: None,
        note: None,
        created_at: AT,
        finished_at: None,
    });
    changes.agents.push(insert(Agent {
        id: agent_id,
        name: key,
        status: AgentStatus::Running,
        swarm_id,
        parent_id: None,
        depth: 0,
        task_id: Some(task_id),
        model: "model".to_owned(),
        profile: None,
        head,
        turns: 1,
        tool_calls: 0,
        progress: Progress::default(),
        usage: Usage::default(),
        cost: NanoUsd::ZERO,
        pause_reason: None,
        result: None,
        error: None,
        retry_count: 0,
        max_retries: 3,
        attempt: 0,
        attempt_turns: 0,
        retry_at: None,
        created_at: AT,
        updated_at: AT,
        started_at: Some(AT),
        completed_at: None,
        version: 1,
    }));
}

/// A short conversation; returns its last entry.
fn add_conversation(changes: &mut Changeset, agent_id: AgentId, number: u32) -> Option<EntryId> {
    let mut head = None;
    for place in 0..ENTRIES {
        let entry_id = EntryId::from_u128(id(6, number * ENTRIES + place));
        let text = format!("message {place} of agent {number}, which is not long");
        let message = Message::user(text, MessageOrigin::Task);
        changes.entries.push(Entry {
            id: entry_id,
            agent_id,
            parent_id: head,
            step: None,
            body: EntryBody::Message {
                message: Arc::new(message),
            },
            at: AT,
        });
        head = Some(entry_id);
    }
    head
}

fn event(number: u32, agents: u32) -> NewEvent {
    let agent = number % agents;
    let agent_id = AgentId::from_u128(id(5, agent));
    let current = number / agents;
    NewEvent {
        id: EventId::from_u128(id(7, number)),
        at: AT.plus(Duration::from_millis(number.into())),
        swarm_id: Some(SwarmId::from_u128(id(3, agent / SWARM_AGENTS))),
        source: EventSource::Agent(agent_id),
        kind: AgentProgress {
            agent_id,
            progress: ProgressReport {
                current,
                total: 100,
                percentage: current.min(100),
            },
            cost: CostSoFar {
                tokens: u64::from(number),
                amount: 0.25,
            },
        }
        .into(),
    }
}
