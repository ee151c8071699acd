//! Carries out effects: runs agents, ends them, waits for retries. Owns no swarm state; what
//! happens goes back to the coordinator as messages.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::message::Message;
use super::port::EnginePort;
use super::registry::Registry;
use crate::env::{Clock, UnixMillis};
use crate::event::Delta;
use crate::ids::{AgentId, SwarmId};
use crate::llm::ToolSpec;
use crate::model::{Agent, Swarm, SwarmConfig};
use crate::settings::Settings;
use crate::spawn::{
    AgentContext, AttemptFailure, AttemptLimits, EngineTool, SpawnRequest, panic_message,
};
use crate::store::Store;
use crate::strategy::SYSTEM_PROMPT;
use crate::tool::{Fence, Tool};
use crate::{Error, Result};

/// What every agent's task needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) coordinator: mpsc::Sender<Message>,
    pub(crate) deltas: broadcast::Sender<Arc<Delta>>,
    /// Tasks of agents, their tools and timers.
    pub(crate) tasks: TaskTracker,
    /// Ends all of them at once.
    pub(crate) cancel: CancellationToken,
}

/// The longest conversation that is loaded, in entries; far above what the turn limits allow.
const ENTRIES_MAX: usize = 1_000_000;

/// What the agents of a swarm share: directories, opened once, and settings and tools, held once.
#[derive(Debug, Clone)]
struct Kit {
    fence: Arc<Fence>,
    config: Arc<SwarmConfig>,
    tools: Arc<[Arc<dyn Tool>]>,
    system: Arc<str>,
}

/// The engine's tools of an agent, and all its tools as a model sees them.
type Offer = (Vec<EngineTool>, Arc<[ToolSpec]>);

#[derive(Debug)]
pub(crate) struct Executor {
    shared: Arc<Shared>,
    running: HashMap<AgentId, CancellationToken>,
    kits: HashMap<SwarmId, Kit>,
    /// By depth: an agent at the bottom of a tree has no `delegate`.
    offers: HashMap<SwarmId, HashMap<u32, Offer>>,
}

impl Executor {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            running: HashMap::new(),
            kits: HashMap::new(),
            offers: HashMap::new(),
        }
    }

    /// Starts an agent's task.
    pub(crate) fn start(&mut self, agent: Agent, swarm: &Swarm) {
        let cancel = self.shared.cancel.child_token();
        self.running.insert(agent.id, cancel.clone());
        let kit = self.kit(swarm);
        let offer = match &kit {
            Ok(kit) => self.offer(swarm, kit, agent.depth),
            Err(_) => Offer::default(),
        };
        let shared = Arc::clone(&self.shared);
        let (agent_id, attempt) = (agent.id, agent.attempt);
        let port = EnginePort {
            agent_id,
            swarm_id: swarm.id,
            attempt,
            coordinator: self.shared.coordinator.clone(),
            deltas: self.shared.deltas.clone(),
            cancel: cancel.clone(),
        };
        let cx = AgentContext {
            port: Arc::new(port),
            cancel,
            tasks: self.shared.tasks.clone(),
            clock: Arc::clone(&self.shared.clock),
        };
        // What a future was given stays in it to its end, and most of an agent's time is spent
        // waiting. So the attempt is boxed before the task takes it, and what it only needs to
        // begin with is in boxes that go.
        let engine = Arc::clone(&shared);
        let prepared = Box::pin(prepare(Arc::clone(&shared), Box::new(agent), kit, offer));
        let attempt_of = Box::pin(async move {
            let request = prepared.await?;
            let run = engine.registry.spawner.run(*request, cx);
            run.await;
            Ok::<(), Error>(())
        });
        self.shared.tasks.spawn(async move {
            let failure = match AssertUnwindSafe(attempt_of).catch_unwind().await {
                Ok(Ok(())) => None,
                Ok(Err(err)) => Some(AttemptFailure {
                    retryable: err.kind() == crate::ErrorKind::Unavailable,
                    error: err.chain(),
                    retry_after: None,
                }),
                Err(panic) => Some(AttemptFailure {
                    error: panic_message(panic.as_ref()),
                    retryable: true,
                    retry_after: None,
                }),
            };
            // Agents that end with the engine have not failed; the next start goes on with them.
            if shared.cancel.is_cancelled() {
                return;
            }
            // The coordinator outlives its agents, except when it has stopped for good.
            let _sent = shared
                .coordinator
                .send(Message::Detached {
                    agent_id,
                    attempt,
                    failure,
                })
                .await;
        });
    }

    /// What a swarm's agents share, made once and kept while it lives.
    fn kit(&mut self, swarm: &Swarm) -> Result<Kit> {
        if let Some(kit) = self
            .kits
            .get(&swarm.id)
            .filter(|k| *k.config == swarm.config)
        {
            return Ok(kit.clone());
        }
        let fence = Fence::open(&swarm.config.workspace).map_err(|err| {
            let message = format!("the workspace cannot be opened: {err}");
            Error::invalid("config.workspace", message).with_source(err)
        })?;
        let system = match swarm.config.instructions.as_str() {
            "" => SYSTEM_PROMPT,
            own => own,
        };
        let kit = Kit {
            fence: Arc::new(fence),
            config: Arc::new(swarm.config.clone()),
            tools: self.shared.registry.tools_for(&swarm.config),
            system: system.into(),
        };
        self.offers.remove(&swarm.id);
        self.kits.insert(swarm.id, kit.clone());
        Ok(kit)
    }

    /// The tools on offer to an agent of a swarm.
    fn offer(&mut self, swarm: &Swarm, kit: &Kit, depth: u32) -> Offer {
        let by_depth = self.offers.entry(swarm.id).or_default();
        let make = || {
            let own = Registry::engine_tools_for(&kit.config, swarm.strategy, depth);
            let mut specs: Vec<ToolSpec> = kit.tools.iter().map(|t| t.spec().clone()).collect();
            specs.extend(own.iter().map(|tool| tool.spec()));
            (own, specs.into())
        };
        by_depth.entry(depth).or_insert_with(make).clone()
    }

    /// Ends an agent's task now.
    pub(crate) fn cancel(&self, agent: AgentId) {
        if let Some(token) = self.running.get(&agent) {
            token.cancel();
        }
    }

    /// Sends `RetryDue` at a time.
    pub(crate) fn retry_at(&self, agent_id: AgentId, attempt: u32, at: UnixMillis) {
        let shared = Arc::clone(&self.shared);
        let wait = at.since(shared.clock.now());
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = shared.clock.sleep(wait) => {
                    // The coordinator outlives its timers, except when it has stopped for good.
                    let _sent =
                        shared.coordinator.send(Message::RetryDue { agent_id, attempt }).await;
                }
                () = shared.cancel.cancelled() => {}
            }
        });
    }

    /// Forgets what has ended.
    pub(crate) fn detached(&mut self, agent: AgentId) {
        self.running.remove(&agent);
    }

    /// Forgets a swarm that has ended.
    pub(crate) fn forget_swarm(&mut self, swarm: SwarmId) {
        self.kits.remove(&swarm);
        self.offers.remove(&swarm);
    }
}

/// Loads what an agent goes on from.
async fn prepare(
    shared: Arc<Shared>,
    agent: Box<Agent>,
    kit: Result<Kit>,
    (engine_tools, specs): Offer,
) -> Result<Box<SpawnRequest>> {
    let kit = kit?;
    let (model, provider) = shared.registry.model(&agent.model)?;
    let entries = match agent.head {
        Some(head) => shared.store.list_path(head, ENTRIES_MAX).await?,
        None => Vec::new(),
    };
    let history = entries
        .iter()
        .filter_map(|e| e.body.message())
        .map(Arc::clone)
        .collect();
    let used = agent.turns.saturating_sub(agent.attempt_turns);
    let settings = &shared.settings;
    let agent = *agent;
    Ok(Box::new(SpawnRequest {
        agent_id: agent.id,
        name: agent.name,
        swarm_id: agent.swarm_id,
        attempt: agent.attempt,
        depth: agent.depth,
        turns_left: kit.config.max_turns.saturating_sub(used),
        turns_done: agent.turns,
        timeout: Duration::from_millis(kit.config.timeout_ms),
        system: kit.system,
        tools: kit.tools,
        engine_tools,
        specs,
        config: kit.config,
        model,
        provider,
        fence: kit.fence,
        limits: AttemptLimits {
            parallel_max: settings.tools_parallel_max,
            timeout: settings.tool_timeout(),
            output_bytes_max: settings.tool_output_bytes_max,
            output_tokens_floor: settings.output_tokens_floor,
        },
        history,
    }))
}
