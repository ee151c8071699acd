//! The store of a simulated run: in memory, strict, outliving every crash, and failing by seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::env::Clock as _;
use crate::event::Event;
use crate::ids::{AgentId, BudgetId, EntryId, ReservationId, SwarmId, TaskId, TicketId};
use crate::model::{
    Agent, Budget, Entry, Project, Reservation, Step, StepKey, Swarm, Task, Ticket,
};
use crate::sim::check::Broken;
use crate::sim::world::World;
use crate::store::{
    AgentFilter, BudgetFilter, Changeset, Committed, EventFilter, MemoryStore, Page,
    ReservationFilter, StepFilter, Store, StoreError, StoreInfo, SwarmFilter, TaskFilter,
    TicketFilter,
};

/// One engine's hand in the store.
#[derive(Debug)]
pub(crate) struct SimStore {
    world: Arc<World>,
    inner: Arc<MemoryStore>,
    is_closed: AtomicBool,
}

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Applied,
    Full,
    Locked,
    Conflict,
    LostBefore,
    LostAfter,
}

impl SimStore {
    pub(crate) const fn new(world: Arc<World>, inner: Arc<MemoryStore>) -> Self {
        Self {
            world,
            inner,
            is_closed: AtomicBool::new(false),
        }
    }

    fn open(&self) -> Result<(), StoreError> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        Ok(())
    }

    fn fate(&self) -> Fate {
        let faults = self.world.plan.store_faults;
        self.world.with(|truth| {
            if !truth.fails(faults) {
                return Fate::Applied;
            }
            let (fate, name) = match truth.rng.between(0, 9) {
                0..=3 => (Fate::Full, "store: full"),
                4 => (Fate::Locked, "store: locked"),
                5 => (Fate::Conflict, "store: conflict"),
                6 | 7 => (Fate::LostBefore, "store: failed before the commit"),
                _ => (Fate::LostAfter, "store: failed after the commit"),
            };
            truth.count(name);
            fate
        })
    }

    /// A read: it takes its time, and may fail.
    async fn read(&self) -> Result<(), StoreError> {
        self.open()?;
        self.world.effect("a read").await;
        let faults = self.world.plan.store_faults / 3;
        let fails = self.world.with(|truth| truth.fails(faults));
        if fails {
            self.world.count("store: failed read");
            return Err(lost());
        }
        Ok(())
    }
}

fn lost() -> StoreError {
    StoreError::Io {
        detail: "a fault of the seed".to_owned(),
    }
}

#[async_trait]
impl Store for SimStore {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }

    async fn commit(&self, changeset: Changeset) -> Result<Committed, StoreError> {
        self.open()?;
        self.world.effect("a commit").await;
        let wait = self.world.with(|truth| truth.rng.between(0, 7));
        if wait > 4 {
            self.world.clock.sleep(Duration::from_millis(wait)).await;
        }
        let fate = self.fate();
        match fate {
            Fate::Applied | Fate::LostAfter => {}
            Fate::Full => return Err(StoreError::Full),
            Fate::Locked => {
                return Err(StoreError::Locked {
                    path: "simulated".into(),
                });
            }
            Fate::Conflict => {
                return Err(StoreError::Conflict {
                    what: "row",
                    id: "of the seed".to_owned(),
                });
            }
            Fate::LostBefore => return Err(lost()),
        }
        // Applied between two effects, so that a crash comes before or after it.
        self.world.effect("a commit is applied").await;
        let committed = match self.inner.commit(changeset.clone()).await {
            Ok(committed) => committed,
            Err(err) => {
                // What is wrong with it may have a name of its own.
                let found = self
                    .world
                    .with(|truth| truth.history.clone().take(&changeset, &[]));
                self.world.check(found);
                self.world
                    .breaks(Broken::new("commits_are_accepted", err.to_string()));
                return Err(err);
            }
        };
        self.world.committed(&changeset, &committed.events);
        self.world.effect("a commit is answered").await;
        if fate == Fate::LostAfter {
            return Err(lost());
        }
        Ok(committed)
    }

    async fn find_project(&self, name: &str) -> Result<Option<Project>, StoreError> {
        self.read().await?;
        self.inner.find_project(name).await
    }

    async fn find_swarm(&self, id: SwarmId) -> Result<Option<Swarm>, StoreError> {
        self.read().await?;
        self.inner.find_swarm(id).await
    }

    async fn list_swarms(
        &self,
        filter: &SwarmFilter,
        page: Page<SwarmId>,
    ) -> Result<Vec<Swarm>, StoreError> {
        self.read().await?;
        self.inner.list_swarms(filter, page).await
    }

    async fn find_agent(&self, id: AgentId) -> Result<Option<Agent>, StoreError> {
        self.read().await?;
        self.inner.find_agent(id).await
    }

    async fn list_agents(
        &self,
        filter: &AgentFilter,
        page: Page<AgentId>,
    ) -> Result<Vec<Agent>, StoreError> {
        self.read().await?;
        self.inner.list_agents(filter, page).await
    }

    async fn find_task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.read().await?;
        self.inner.find_task(id).await
    }

    async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: Page<TaskId>,
    ) -> Result<Vec<Task>, StoreError> {
        self.read().await?;
        self.inner.list_tasks(filter, page).await
    }

    async fn find_budget(&self, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        self.read().await?;
        self.inner.find_budget(id).await
    }

    async fn list_budgets(
        &self,
        filter: &BudgetFilter,
        page: Page<BudgetId>,
    ) -> Result<Vec<Budget>, StoreError> {
        self.read().await?;
        self.inner.list_budgets(filter, page).await
    }

    async fn find_step(&self, agent: AgentId, key: StepKey) -> Result<Option<Step>, StoreError> {
        self.read().await?;
        self.inner.find_step(agent, key).await
    }

    async fn list_steps(
        &self,
        filter: &StepFilter,
        page: Page<(AgentId, StepKey)>,
    ) -> Result<Vec<Step>, StoreError> {
        self.read().await?;
        self.inner.list_steps(filter, page).await
    }

    async fn list_reservations(
        &self,
        filter: &ReservationFilter,
        page: Page<ReservationId>,
    ) -> Result<Vec<Reservation>, StoreError> {
        self.read().await?;
        self.inner.list_reservations(filter, page).await
    }

    async fn list_tickets(
        &self,
        filter: &TicketFilter,
        page: Page<TicketId>,
    ) -> Result<Vec<Ticket>, StoreError> {
        self.read().await?;
        self.inner.list_tickets(filter, page).await
    }

    async fn list_path(&self, head: EntryId, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.read().await?;
        self.inner.list_path(head, limit).await
    }

    async fn list_events(
        &self,
        filter: &EventFilter,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        self.read().await?;
        self.inner.list_events(filter, after, limit).await
    }

    async fn head_seq(&self) -> Result<u64, StoreError> {
        self.read().await?;
        self.inner.head_seq().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        // The next life opens it again; this engine is done with it.
        self.is_closed.store(true, Ordering::Relaxed);
        Ok(())
    }
}
