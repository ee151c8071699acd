//! Carries out effects: runs agents, ends them, waits for retries. Owns no swarm state; what
//! happens goes back to the coordinator as messages.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span, info_span};

use super::message;
use super::port::EnginePort;
use super::registry::Registry;
use super::state::OpenWork;
use crate::env::{Clock, UnixMillis};
use crate::event::Delta;
use crate::ids::{AgentId, EntryId, SwarmId};
use crate::llm::ToolSpec;
use crate::model::{Agent, Message, Swarm, SwarmConfig, entry};
use crate::mutation::{self, Mutation};
use crate::settings::Settings;
use crate::spawn::{
    AgentContext, AttemptFailure, AttemptLimits, EngineTool, SpawnRequest, panic_message,
};
use crate::store::Store;
use crate::strategy::system_prompt;
use crate::telemetry;
use crate::tool::{Fence, Tool};
use crate::{Error, ErrorKind, Result};

/// What every agent's task needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) coordinator: mpsc::Sender<message::Message>,
    pub(crate) deltas: broadcast::Sender<Arc<Delta>>,
    /// Tasks of agents, their tools and timers.
    pub(crate) tasks: TaskTracker,
    /// Ends all of them at once.
    pub(crate) cancel: CancellationToken,
    /// Ends the timers of retries, which a shutdown does not wait for.
    pub(crate) timers: CancellationToken,
}

/// The longest conversation that is loaded, in entries; far above what the turn limits allow.
pub(super) const ENTRIES_MAX: usize = 1_000_000;

/// What the agents of a swarm share: directories, opened once, and settings, held once.
#[derive(Debug, Clone)]
struct Kit {
    fence: Arc<Fence>,
    config: Arc<SwarmConfig>,
    span: Span,
}

/// What is on offer to agents of one kind: what they are told, and tools.
#[derive(Debug, Clone)]
struct Offer {
    system: Arc<str>,
    tools: Arc<[Arc<dyn Tool>]>,
    engine_tools: Vec<EngineTool>,
    /// All of them as a model sees them.
    specs: Arc<[ToolSpec]>,
    /// The schema its answer must fit.
    answer_schema: Option<Arc<Value>>,
}

/// What tells the kinds of agents of a swarm apart: an agent at the bottom of a tree has no
/// `delegate`, and one whose output is not the swarm's result may answer as it likes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct AgentKind {
    depth: u32,
    profile: Option<String>,
    makes_result: bool,
}

#[derive(Debug)]
pub(crate) struct Executor {
    shared: Arc<Shared>,
    running: HashMap<AgentId, CancellationToken>,
    kits: HashMap<SwarmId, Kit>,
    offers: HashMap<SwarmId, HashMap<AgentKind, Offer>>,
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
    pub(crate) fn start(&mut self, agent: Agent, swarm: &Swarm, open: OpenWork) {
        let cancel = self.shared.cancel.child_token();
        self.running.insert(agent.id, cancel.clone());
        let kind = AgentKind {
            depth: agent.depth,
            profile: agent.profile.clone(),
            makes_result: open.makes_result,
        };
        let kit = self.kit(swarm);
        let kit = kit.map(|kit| (self.offer(swarm, &kit, kind), kit));
        let parent = kit.as_ref().ok().and_then(|(_, kit)| kit.span.id());
        let span = info_span!(
            parent: parent,
            "invoke_agent",
            otel.name = %format_args!("{} {}", telemetry::INVOKE_AGENT, agent.name),
            { telemetry::OPERATION_NAME } = telemetry::INVOKE_AGENT,
            { telemetry::AGENT_ID } = %agent.id,
            { telemetry::AGENT_NAME } = agent.name,
            { telemetry::CONVERSATION_ID } = %swarm.id,
            { telemetry::REQUEST_MODEL } = agent.model,
        );
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
        let prepared = Box::pin(prepare(Arc::clone(&shared), Box::new(agent), kit, open));
        let attempt_of = Box::pin(async move {
            let request = prepared.await?;
            let run = engine.registry.spawner.run(*request, cx);
            run.await;
            Ok::<(), Error>(())
        });
        let task = async move {
            let failure = match AssertUnwindSafe(attempt_of).catch_unwind().await {
                Ok(Ok(())) => None,
                Ok(Err(err)) => {
                    let failure = AttemptFailure::fatal(err.chain());
                    Some(match err.kind() {
                        ErrorKind::Unavailable => failure.retryable(),
                        // Its model is gone.
                        ErrorKind::NotFound => failure.other_model(),
                        _ => failure,
                    })
                }
                Err(panic) => {
                    let error = panic_message(panic.as_ref());
                    Some(AttemptFailure::fatal(error).retryable())
                }
            };
            // Agents that end with the engine have not failed; the next start goes on with them.
            if shared.cancel.is_cancelled() {
                return;
            }
            // The coordinator outlives its agents, except when it has stopped for good.
            let _sent = shared
                .coordinator
                .send(message::Message::Detached {
                    agent_id,
                    attempt,
                    failure,
                })
                .await;
        };
        self.shared.tasks.spawn(task.instrument(span));
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
        let kit = Kit {
            fence: Arc::new(fence),
            config: Arc::new(swarm.config.clone()),
            span: info_span!(
                parent: None,
                "invoke_workflow",
                otel.name = %format_args!("{} {}", telemetry::INVOKE_WORKFLOW, swarm.name),
                { telemetry::OPERATION_NAME } = telemetry::INVOKE_WORKFLOW,
                { telemetry::CONVERSATION_ID } = %swarm.id,
            ),
        };
        self.offers.remove(&swarm.id);
        self.kits.insert(swarm.id, kit.clone());
        Ok(kit)
    }

    /// What is on offer to an agent of a swarm.
    fn offer(&mut self, swarm: &Swarm, kit: &Kit, kind: AgentKind) -> Offer {
        let registry = Arc::clone(&self.shared.registry);
        let of_swarm = self.offers.entry(swarm.id).or_default();
        let made = of_swarm.entry(kind).or_insert_with_key(|kind| {
            let config = &kit.config;
            let profile = kind
                .profile
                .as_deref()
                .and_then(|name| config.profile(name));
            let instructions = profile
                .map(|profile| profile.instructions.as_str())
                .filter(|own| !own.is_empty())
                .unwrap_or(&config.instructions);
            let schema = config.answer_schema.as_ref().filter(|_| kind.makes_result);
            let own = profile.and_then(|profile| profile.tools.as_deref());
            let profiled = own.is_some();
            let names = own.or(config.tools.as_deref());
            let tools = registry.tools_for(names);
            let own =
                Registry::engine_tools_for(config, names, profiled, swarm.strategy, kind.depth);
            let mut specs: Vec<ToolSpec> = tools.iter().map(|t| t.spec().clone()).collect();
            specs.extend(own.iter().map(EngineTool::spec));
            Offer {
                system: system_prompt(instructions, schema).into(),
                tools,
                engine_tools: own,
                specs: specs.into(),
                answer_schema: schema.cloned().map(Arc::new),
            }
        });
        made.clone()
    }

    /// Ends an agent's task now.
    pub(crate) fn cancel(&self, agent: AgentId) {
        if mutation::active(Mutation::IgnoreCancel) {
            return;
        }
        if let Some(token) = self.running.get(&agent) {
            token.cancel();
        }
    }

    /// Sends `RetryDue` at a time.
    pub(crate) fn retry_at(&self, agent_id: AgentId, attempt: u32, at: UnixMillis) {
        if mutation::active(Mutation::ForgetRetry) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let wait = at.since(shared.clock.now());
        self.shared.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = shared.cancel.cancelled() => {}
                () = shared.timers.cancelled() => {}
                () = shared.clock.sleep(wait) => {
                    // The coordinator outlives its timers, except when it has stopped for good.
                    let _sent =
                        shared.coordinator.send(message::Message::RetryDue { agent_id, attempt }).await;
                }
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
    kit: Result<(Offer, Kit)>,
    open: OpenWork,
) -> Result<Box<SpawnRequest>> {
    let (offer, kit) = kit?;
    let (model, provider) = shared.registry.model(&agent.model)?;
    let entries = match agent.head {
        Some(head) => shared.store.list_path(head, ENTRIES_MAX).await?,
        None => Vec::new(),
    };
    let context = entry::context(entries.iter().map(|entry| &entry.body));
    let branch = match entry::open_branch(&entries) {
        Some((below, abandoned)) => abandoned_branch(&*shared.store, below, abandoned).await?,
        None => Vec::new(),
    };
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
        system: offer.system,
        tools: offer.tools,
        engine_tools: offer.engine_tools,
        specs: offer.specs,
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
        history: context.messages,
        stale: context.stale,
        summary_open: open.summary_open && branch.is_empty(),
        branch,
        answer_schema: offer.answer_schema,
        telemetry_contents: settings.telemetry_contents,
        hooks: shared.registry.hooks.clone(),
    }))
}

/// What was said below an entry on the way to the newest one of another branch.
async fn abandoned_branch(
    store: &dyn Store,
    below: Option<EntryId>,
    newest: EntryId,
) -> Result<Vec<Arc<Message>>> {
    let path = store.list_path(newest, ENTRIES_MAX).await?;
    let from = path.iter().position(|entry| Some(entry.id) == below);
    let own = path.iter().skip(from.map_or(0, |at| at + 1));
    Ok(entry::context(own.map(|entry| &entry.body)).messages)
}
