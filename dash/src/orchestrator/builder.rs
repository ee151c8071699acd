//! Puts an orchestrator together and starts it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::coordinator::{Coordinator, SinkSlot};
use super::executor::Shared;
use super::registry::Registry;
use super::state::State;
use super::watch::Closed;
use super::{Inner, Orchestrator, load};
use crate::Result;
use crate::env::{Clock, IdSource, SystemClock, UlidSource};
use crate::llm::{LlmProvider, Model};
use crate::settings::Settings;
use crate::sink::{BroadcastSink, EventSink};
use crate::spawn::{AgentHooks, LocalSpawner, Spawner};
use crate::store::{EventFilter, Store};
use crate::tool::Tool;

/// Messages that may wait for the coordinator. Senders wait when it is full, so this bounds memory
/// and not the number of agents.
const QUEUE_MAX: usize = 1_024;

/// Fragments of streaming answers kept for slow readers; they are dropped, never waited for.
const DELTAS_MAX: usize = 4_096;

/// Puts an [`Orchestrator`] together. Components go in by `with_…` and `add_…`; nothing is done
/// before [`start`](Self::start).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use dash::api::CreateSwarm;
/// use dash::llm::scripted::{ScriptedLlm, ScriptedReply};
/// use dash::llm::Model;
/// use dash::store::MemoryStore;
///
/// let dash = dash::Orchestrator::builder(Arc::new(MemoryStore::new()))
///     .add_provider(Arc::new(ScriptedLlm::new("script", |_| ScriptedReply::text("hello"))))
///     .add_model(Model::free("any", "script"))
///     .start()
///     .await?;
/// let swarm = dash.create_swarm(CreateSwarm::new("greeting", "Say hello")).await?;
/// let outcome = dash.wait_swarm(swarm.id).await?;
/// assert_eq!(outcome.result()?, "hello");
/// dash.shutdown(std::time::Duration::from_secs(5)).await?;
/// # Ok::<(), dash::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
#[must_use]
pub struct OrchestratorBuilder {
    store: Arc<dyn Store>,
    settings: Settings,
    providers: Vec<Arc<dyn LlmProvider>>,
    models: Vec<Model>,
    tools: Vec<Arc<dyn Tool>>,
    spawner: Arc<dyn Spawner>,
    hooks: Option<Arc<dyn AgentHooks>>,
    sinks: Vec<Arc<dyn EventSink>>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
}

impl OrchestratorBuilder {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            settings: Settings::default(),
            providers: Vec::new(),
            models: Vec::new(),
            tools: crate::tool::fs::all(),
            spawner: Arc::new(LocalSpawner),
            hooks: None,
            sinks: Vec::new(),
            clock: Arc::new(SystemClock),
            ids: Arc::new(UlidSource::default()),
        }
    }

    /// Limits and times.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Adds a provider; its models are added separately.
    pub fn add_provider(mut self, provider: Arc<dyn LlmProvider>) -> Self {
        self.providers.push(provider);
        self
    }

    /// Adds a model of one of the providers. With only one model, swarms need not name it.
    pub fn add_model(mut self, model: Model) -> Self {
        self.models.push(model);
        self
    }

    /// Adds a tool beside the file tools.
    pub fn add_tool(mut self, tool: Arc<dyn Tool>) -> Self {
        self.tools.push(tool);
        self
    }

    /// Replaces all tools, the file tools included. `report_progress` and `delegate` are the
    /// engine's own and stay.
    pub fn with_tools(mut self, tools: Vec<Arc<dyn Tool>>) -> Self {
        self.tools = tools;
        self
    }

    /// How agents are run; in this process by default.
    pub fn with_spawner(mut self, spawner: Arc<dyn Spawner>) -> Self {
        self.spawner = spawner;
        self
    }

    /// The host's own code around what agents do; none by default.
    pub fn with_hooks(mut self, hooks: Arc<dyn AgentHooks>) -> Self {
        self.hooks = Some(hooks);
        self
    }

    /// Adds someone who is told what happens.
    pub fn add_sink(mut self, sink: Arc<dyn EventSink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// Where the time comes from.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where ids come from.
    pub fn with_ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self
    }

    /// Starts the engine: settles what an earlier one left open and lets everything alive go on.
    /// Must be called within a tokio runtime with time enabled.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for settings out of range, doubled names or a model
    /// without its provider; the store's error if it cannot be read or written.
    pub async fn start(self) -> Result<Orchestrator> {
        self.settings.validate()?;
        let settings = Arc::new(self.settings);
        let registry = Arc::new(Registry::new(
            self.providers,
            self.models,
            self.tools,
            self.spawner,
            self.hooks,
            &settings.default_model,
        )?);
        let (sender, inbox) = mpsc::channel(QUEUE_MAX);
        let deltas = broadcast::Sender::new(DELTAS_MAX);
        let live = BroadcastSink::new(settings.broadcast_capacity);
        let mut sinks = vec![SinkSlot::new(Arc::new(live.clone()))];
        sinks.extend(self.sinks.into_iter().map(SinkSlot::new));
        let shared = Arc::new(Shared {
            store: Arc::clone(&self.store),
            registry: Arc::clone(&registry),
            settings: Arc::clone(&settings),
            clock: self.clock,
            coordinator: sender.clone(),
            deltas: deltas.clone(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            timers: CancellationToken::new(),
        });
        let stop = CancellationToken::new();
        let closed = Arc::new(Closed::new());
        let mut state = State::new(Arc::clone(&settings), Arc::clone(&registry.models));
        let head = self.store.head_seq().await?;
        live.begin_after(head);
        state.last_at = newest(self.store.as_ref(), head).await?;
        let mut coordinator = Coordinator::new(
            state,
            Arc::clone(&shared),
            self.ids,
            sinks,
            inbox,
            stop.clone(),
            Arc::clone(&closed),
        );
        let mut snapshot = load::alive(self.store.as_ref()).await?;
        if let Some((project, budget)) =
            load::project(self.store.as_ref(), &settings.project).await?
        {
            snapshot.projects.push(project);
            snapshot.budgets.push(budget);
        }
        dedupe(&mut snapshot.budgets);
        coordinator.load(snapshot);
        coordinator.recover().await?;
        let engine = TaskTracker::new();
        engine.spawn(coordinator.run());
        engine.close();
        Ok(Orchestrator {
            inner: Arc::new(Inner {
                shared,
                sender,
                live,
                stop,
                closed,
                engine,
            }),
            expected: None,
        })
    }
}

/// The time of the newest event, so that time never goes back in the log.
async fn newest(store: &dyn Store, head: u64) -> Result<crate::env::UnixMillis> {
    let last = store
        .list_events(&EventFilter::default(), head.saturating_sub(1), 1)
        .await?;
    Ok(last.first().map(|event| event.at).unwrap_or_default())
}

/// Keeps the first of each budget; parents are read once per swarm below them.
fn dedupe(budgets: &mut Vec<crate::model::Budget>) {
    let mut seen = HashMap::new();
    budgets.retain(|budget| seen.insert(budget.id, ()).is_none());
}
