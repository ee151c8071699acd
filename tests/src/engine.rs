//! Starting an engine on a store, and following it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use dash::api::{BudgetOwner, CreateSwarm};
use dash::env::Clock;
use dash::event::Event;
use dash::ids::{AgentId, SwarmId};
use dash::llm::{LlmRequest, Model, ModelPrice, ScriptedReply};
use dash::model::{Agent, Budget, NanoUsd, Reservation, Step, Swarm, Task};
use dash::sink::EventSink;
use dash::spawn::{AgentHooks, Spawner};
use dash::store::{
    AgentFilter, EventFilter, MemoryStore, Page, ReservationFilter, StepFilter, Store, TaskFilter,
};
use dash::testing::FaultyStore;
use dash::tool::Tool;
use dash::{Orchestrator, Result, Settings};

use crate::{Desk, Door};

/// How long anything may take before a test is called hung. Never reached by a test that passes.
const HUNG: Duration = Duration::from_secs(20);

/// Waits for `what`, and fails the test if it never comes.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HUNG, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// The same store, for an engine.
#[must_use]
pub fn shared(store: &Arc<FaultyStore>) -> Arc<dyn Store> {
    let store: Arc<FaultyStore> = Arc::clone(store);
    store
}

/// A model of the desk that costs $1 per million tokens in and $2 out: 1,000 and 2,000 nano-dollars
/// a token.
#[must_use]
pub fn priced() -> Model {
    Model {
        price: ModelPrice {
            input: NanoUsd(1_000_000_000),
            output: NanoUsd(2_000_000_000),
            ..ModelPrice::default()
        },
        max_output_tokens: 1_000,
        ..Model::free("m", "desk")
    }
}

/// A swarm of `agents` that may not be retried.
#[must_use]
pub fn create(task: &str, agents: u32) -> CreateSwarm {
    let mut request = CreateSwarm::new("a swarm", task);
    request.initial_agents = agents;
    request.config.max_retries = 0;
    request
}

/// What an engine is started with; the same setup may be started again on the same store.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The provider `desk`.
    pub desk: Desk,
    /// The model `m`.
    pub model: Model,
    /// Limits; retries wait 1 ms.
    pub settings: Settings,
    tools: Vec<Arc<dyn Tool>>,
    sinks: Vec<Arc<dyn EventSink>>,
    clock: Option<Arc<dyn Clock>>,
    spawner: Option<Arc<dyn Spawner>>,
    hooks: Option<Arc<dyn AgentHooks>>,
    other_models: Vec<Model>,
}

impl Setup {
    /// A memory store, a model that costs nothing and answers with `script`, no tools.
    pub fn new(script: impl Fn(&LlmRequest) -> ScriptedReply + Send + Sync + 'static) -> Self {
        let mut settings = Settings::default();
        (settings.retry_base_ms, settings.retry_cap_ms) = (1, 1);
        Self {
            store: Arc::new(MemoryStore::new()),
            desk: Desk::new(script),
            model: Model::free("m", "desk"),
            settings,
            tools: Vec::new(),
            sinks: Vec::new(),
            clock: None,
            spawner: None,
            hooks: None,
            other_models: Vec::new(),
        }
    }

    /// The same with the model of [`priced`].
    #[must_use]
    pub fn priced(mut self) -> Self {
        self.model = priced();
        self
    }

    /// The same with one model more. Swarms then must name theirs, unless the settings do.
    #[must_use]
    pub fn also(mut self, model: Model) -> Self {
        self.settings.default_model.clone_from(&self.model.id);
        self.other_models.push(model);
        self
    }

    /// The same with hooks.
    #[must_use]
    pub fn hooks(mut self, hooks: Arc<dyn AgentHooks>) -> Self {
        self.hooks = Some(hooks);
        self
    }

    /// The same on another store.
    #[must_use]
    pub fn on(mut self, store: Arc<dyn Store>) -> Self {
        self.store = store;
        self
    }

    /// The same with one tool more.
    #[must_use]
    pub fn door(self, door: &Arc<Door>) -> Self {
        let door: Arc<Door> = Arc::clone(door);
        self.tool(door)
    }

    /// The same with one tool more.
    #[must_use]
    pub fn tool(mut self, tool: Arc<dyn Tool>) -> Self {
        self.tools.push(tool);
        self
    }

    /// The same with a sink.
    #[must_use]
    pub fn sink(mut self, sink: Arc<dyn EventSink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// The same on another clock, the desk's delays included.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.desk = self.desk.with_clock(Arc::clone(&clock));
        self.clock = Some(clock);
        self
    }

    /// The same with another spawner.
    #[must_use]
    pub fn spawner(mut self, spawner: Arc<dyn Spawner>) -> Self {
        self.spawner = Some(spawner);
        self
    }

    /// Starts an engine.
    ///
    /// # Errors
    ///
    /// What [`dash::OrchestratorBuilder::start`] answers.
    pub async fn try_start(&self) -> Result<Engine> {
        let mut builder = Orchestrator::builder(Arc::clone(&self.store))
            .settings(self.settings.clone())
            .add_provider(Arc::new(self.desk.clone()))
            .add_model(self.model.clone())
            .with_tools(self.tools.clone());
        for model in &self.other_models {
            builder = builder.add_model(model.clone());
        }
        if let Some(hooks) = &self.hooks {
            builder = builder.with_hooks(Arc::clone(hooks));
        }
        for sink in &self.sinks {
            builder = builder.add_sink(Arc::clone(sink));
        }
        if let Some(clock) = &self.clock {
            builder = builder.with_clock(Arc::clone(clock));
        }
        if let Some(spawner) = &self.spawner {
            builder = builder.with_spawner(Arc::clone(spawner));
        }
        Ok(Engine {
            orchestrator: builder.start().await?,
            store: Arc::clone(&self.store),
            desk: self.desk.clone(),
        })
    }

    /// Starts an engine.
    pub async fn start(&self) -> Engine {
        self.try_start().await.unwrap()
    }
}

/// A running engine with its store and its model.
#[derive(Debug, Clone)]
pub struct Engine {
    /// The engine.
    pub orchestrator: Orchestrator,
    /// Its store.
    pub store: Arc<dyn Store>,
    /// Its model.
    pub desk: Desk,
}

impl Deref for Engine {
    type Target = Orchestrator;

    fn deref(&self) -> &Orchestrator {
        &self.orchestrator
    }
}

/// More than any test stores.
const ALL: usize = 1_000;

impl Engine {
    /// Waits for a swarm's end.
    pub async fn finish(&self, id: SwarmId) -> Swarm {
        within("the end of a swarm", self.wait_swarm(id))
            .await
            .unwrap()
            .swarm
    }

    /// Creates a swarm and waits for its end.
    pub async fn run(&self, request: CreateSwarm) -> Swarm {
        let swarm = self.create_swarm(request).await.unwrap();
        self.finish(swarm.id).await
    }

    /// Waits for the first event that `is_it`, from the first event of all.
    pub async fn wait_for(&self, what: &str, is_it: impl Fn(&Event) -> bool) -> Arc<Event> {
        self.wait_after(0, what, is_it).await
    }

    /// Waits for the first event after `seq` that `is_it`.
    pub async fn wait_after(
        &self,
        seq: u64,
        what: &str,
        is_it: impl Fn(&Event) -> bool,
    ) -> Arc<Event> {
        let mut events = self.subscribe(EventFilter::default(), seq);
        within(what, async {
            loop {
                let event = events.next().await.unwrap();
                let event = event.unwrap_or_else(|| panic!("the engine stopped before {what}"));
                if is_it(&event) {
                    return event;
                }
            }
        })
        .await
    }

    /// Waits for the first event of a type.
    pub async fn wait_for_type(&self, name: &str) -> Arc<Event> {
        self.wait_for(name, |e| e.kind.name() == name).await
    }

    /// Waits until the engine has stopped by itself.
    pub async fn stopped(&self) {
        let mut events = self.subscribe(EventFilter::default(), 0);
        within("the engine's stop", async {
            while events.next().await.unwrap().is_some() {}
        })
        .await;
    }

    /// All events.
    pub async fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        loop {
            let after = events.last().map_or(0, |e| e.seq);
            let filter = EventFilter::default();
            let page = self.store.list_events(&filter, after, ALL).await.unwrap();
            if page.is_empty() {
                return events;
            }
            events.extend(page);
        }
    }

    /// How many events of a type there are.
    pub async fn count(&self, name: &str) -> usize {
        let events = self.events().await;
        events.iter().filter(|e| e.kind.name() == name).count()
    }

    /// The agents of a swarm.
    pub async fn agents(&self, swarm: SwarmId) -> Vec<Agent> {
        let filter = AgentFilter {
            swarm_id: Some(swarm),
            ..AgentFilter::default()
        };
        let page = Page::first(ALL);
        self.store.list_agents(&filter, page).await.unwrap()
    }

    /// The one agent of a swarm.
    pub async fn agent(&self, swarm: SwarmId) -> Agent {
        let mut agents = self.agents(swarm).await;
        assert_eq!(agents.len(), 1, "{agents:?}");
        agents.pop().unwrap()
    }

    /// The tasks of a swarm, in the order of the plan.
    pub async fn tasks(&self, swarm: SwarmId) -> Vec<Task> {
        let filter = TaskFilter {
            swarm_id: Some(swarm),
            statuses: Vec::new(),
        };
        let page = Page::first(ALL);
        let mut tasks = self.store.list_tasks(&filter, page).await.unwrap();
        tasks.sort_by_key(|task| task.ordinal);
        tasks
    }

    /// The task of a key.
    pub async fn task(&self, swarm: SwarmId, key: &str) -> Task {
        let mut tasks = self.tasks(swarm).await;
        tasks.retain(|task| task.key == key);
        tasks.pop().unwrap_or_else(|| panic!("no task {key}"))
    }

    /// The steps of an agent.
    pub async fn steps(&self, agent: AgentId) -> Vec<Step> {
        let filter = StepFilter {
            agent_id: Some(agent),
            states: Vec::new(),
        };
        let page = Page::first(ALL);
        self.store.list_steps(&filter, page).await.unwrap()
    }

    /// All reservations.
    pub async fn reservations(&self) -> Vec<Reservation> {
        let filter = ReservationFilter::default();
        let page = Page::first(ALL);
        self.store.list_reservations(&filter, page).await.unwrap()
    }

    /// The budget of an owner.
    pub async fn budget(&self, owner: BudgetOwner) -> Budget {
        self.get_budget(owner).await.unwrap().budget
    }
}
