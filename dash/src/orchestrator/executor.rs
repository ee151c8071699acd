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
use crate::model::{Agent, Swarm};
use crate::settings::Settings;
use crate::spawn::{AgentContext, AttemptFailure, AttemptLimits, SpawnRequest, panic_message};
use crate::store::Store;
use crate::strategy::SYSTEM_PROMPT;
use crate::tool::Fence;
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

#[derive(Debug)]
pub(crate) struct Executor {
    shared: Arc<Shared>,
    running: HashMap<AgentId, CancellationToken>,
    fences: HashMap<SwarmId, Arc<Fence>>,
}

impl Executor {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            running: HashMap::new(),
            fences: HashMap::new(),
        }
    }

    /// Starts an agent's task.
    pub(crate) fn start(&mut self, agent: Agent, swarm: &Swarm) {
        let cancel = self.shared.cancel.child_token();
        self.running.insert(agent.id, cancel.clone());
        let fence = self.fence(swarm);
        let config = Arc::new(swarm.config.clone());
        let strategy = swarm.strategy;
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
        let engine_tools = Registry::engine_tools_for(&config, strategy, agent.depth);
        self.shared.tasks.spawn(async move {
            let attempt_of = async {
                let fence = fence?;
                let mut request = prepare(&shared, agent, config, fence).await?;
                request.engine_tools = engine_tools;
                shared.registry.spawner.run(request, cx).await;
                Ok::<(), Error>(())
            };
            // Boxed: the future of a whole agent is large, and most of the time it waits.
            let guarded = Box::pin(AssertUnwindSafe(attempt_of).catch_unwind());
            let failure = match guarded.await {
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

    /// The directories of a swarm, opened once and kept while it lives.
    fn fence(&mut self, swarm: &Swarm) -> Result<Arc<Fence>> {
        if let Some(fence) = self.fences.get(&swarm.id) {
            return Ok(Arc::clone(fence));
        }
        match Fence::open(&swarm.config.workspace) {
            Ok(fence) => {
                let fence = Arc::new(fence);
                self.fences.insert(swarm.id, Arc::clone(&fence));
                Ok(fence)
            }
            Err(err) => {
                let message = format!("the workspace cannot be opened: {err}");
                Err(Error::invalid("config.workspace", message).with_source(err))
            }
        }
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
        self.fences.remove(&swarm);
    }
}

/// Loads what an agent goes on from.
async fn prepare(
    shared: &Shared,
    agent: Agent,
    config: Arc<crate::model::SwarmConfig>,
    fence: Arc<Fence>,
) -> Result<SpawnRequest> {
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
    let system = match config.instructions.as_str() {
        "" => SYSTEM_PROMPT,
        own => own,
    };
    let used = agent.turns.saturating_sub(agent.attempt_turns);
    let settings = &shared.settings;
    Ok(SpawnRequest {
        agent_id: agent.id,
        name: agent.name,
        swarm_id: agent.swarm_id,
        attempt: agent.attempt,
        depth: agent.depth,
        turns_left: config.max_turns.saturating_sub(used),
        turns_done: agent.turns,
        timeout: Duration::from_millis(config.timeout_ms),
        system: system.into(),
        tools: shared.registry.tools_for(&config),
        engine_tools: Vec::new(),
        config,
        model,
        provider,
        fence,
        limits: AttemptLimits {
            parallel_max: settings.tools_parallel_max,
            timeout: settings.tool_timeout(),
            output_bytes_max: settings.tool_output_bytes_max,
            output_tokens_floor: settings.output_tokens_floor,
        },
        history,
    })
}
