//! The suite on stores around others, and on stores that each break one rule.

use async_trait::async_trait;

use super::*;
use crate::event::Event;
use crate::ids::{AgentId, BudgetId, EntryId, ReservationId, SwarmId, TaskId, TicketId};
use crate::model::{
    Agent, Budget, Entry, Project, Reservation, Step, StepKey, Swarm, Task, Ticket,
};
use crate::store::{
    AgentFilter, BudgetFilter, Changeset, Committed, EventFilter, MemoryStore, Page,
    ReservationFilter, StepFilter, StoreInfo, SwarmFilter, TaskFilter, TicketFilter,
};
use crate::testing::FaultyStore;

#[tokio::test]
async fn a_store_around_another_passes() {
    run_all(|| async {
        let inner = Arc::new(MemoryStore::new());
        Arc::new(FaultyStore::new(inner)) as Arc<dyn Store>
    })
    .await;
    run_all(|| async { Arc::new(Twisted::new(None)) as Arc<dyn Store> }).await;
}

/// A rule to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twist {
    WritesNothing,
    IgnoresVersions,
    Overwrites,
    KeepsAPart,
    NumbersByTwo,
    ForgetsTheNewestEvent,
    IgnoresEventFilters,
    TurnsPathsRound,
    IgnoresThePathsLimit,
    IgnoresTheCursor,
    IgnoresStates,
    LosesAColumn,
    LiftsTheCap,
    WritesWhenClosed,
}

/// Which twist which case must find.
const TWISTS: &[(Twist, &str)] = &[
    (Twist::WritesNothing, "rows_survive_a_round_trip"),
    (Twist::IgnoresVersions, "a_stale_version_is_a_conflict"),
    (Twist::Overwrites, "an_insert_of_what_exists_is_a_conflict"),
    (Twist::KeepsAPart, "a_conflict_leaves_no_trace"),
    (
        Twist::NumbersByTwo,
        "numbers_are_contiguous_with_failures_in_between",
    ),
    (Twist::ForgetsTheNewestEvent, "events_survive_a_round_trip"),
    (Twist::IgnoresEventFilters, "events_are_filtered"),
    (
        Twist::TurnsPathsRound,
        "a_path_is_in_order_and_cut_to_the_newest",
    ),
    (
        Twist::IgnoresThePathsLimit,
        "a_path_is_in_order_and_cut_to_the_newest",
    ),
    (Twist::IgnoresTheCursor, "swarms_are_listed_and_paged"),
    (Twist::IgnoresStates, "tickets_are_listed_and_delivered"),
    (Twist::LosesAColumn, "rows_survive_a_round_trip"),
    (Twist::LiftsTheCap, "a_budget_cannot_be_overspent"),
    (
        Twist::WritesWhenClosed,
        "closing_twice_is_fine_and_ends_writes",
    ),
];

#[tokio::test]
async fn a_store_that_breaks_a_rule_is_found() {
    for (twist, case) in TWISTS {
        let store = Arc::new(Twisted::new(Some(*twist)));
        let broken = run_case(case, store).await;
        let broken = broken.map_or_else(|broken| broken, |()| panic!("{twist:?} passed `{case}`"));
        assert_eq!(broken.rule, case.replace('_', " "), "{broken}");
        assert!(!broken.what.is_empty(), "{broken:?}");
    }
}

/// The store in memory, twisted or, without a twist, only wrapped.
#[derive(Debug)]
struct Twisted {
    inner: MemoryStore,
    twist: Option<Twist>,
}

impl Twisted {
    fn new(twist: Option<Twist>) -> Self {
        Self {
            inner: MemoryStore::new(),
            twist,
        }
    }

    fn is(&self, twist: Twist) -> bool {
        self.twist == Some(twist)
    }

    /// Bases every agent on the version that is stored.
    async fn rebase(&self, changeset: &mut Changeset, also_new: bool) {
        for write in &mut changeset.agents {
            let stored = self.inner.find_agent(write.row.id).await.unwrap();
            if write.expected.is_some() || also_new {
                write.expected = stored.map(|agent| agent.version);
                write.row.version = write.expected.map_or(1, |version| version + 1);
            }
        }
    }
}

#[async_trait]
impl Store for Twisted {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }

    async fn commit(&self, mut changeset: Changeset) -> Result<Committed, StoreError> {
        match self.twist {
            Some(Twist::WritesNothing) => return Ok(Committed::default()),
            Some(Twist::IgnoresVersions) => self.rebase(&mut changeset, false).await,
            Some(Twist::Overwrites) => self.rebase(&mut changeset, true).await,
            Some(Twist::LiftsTheCap) => {
                changeset
                    .budgets
                    .iter_mut()
                    .for_each(|write| write.row.allocated = None);
            }
            _ => {}
        }
        let events = changeset.events.clone();
        let budgets = changeset.budgets.clone();
        let mut committed = self.inner.commit(changeset).await;
        if committed.is_err() && self.is(Twist::KeepsAPart) {
            let part = Changeset {
                budgets,
                events,
                ..Changeset::default()
            };
            let _kept = self.inner.commit(part).await;
        }
        if let Ok(committed) = &mut committed
            && self.is(Twist::NumbersByTwo)
        {
            committed.events.iter_mut().for_each(|event| event.seq *= 2);
        }
        committed
    }

    async fn find_project(&self, name: &str) -> Result<Option<Project>, StoreError> {
        self.inner.find_project(name).await
    }

    async fn find_swarm(&self, id: SwarmId) -> Result<Option<Swarm>, StoreError> {
        self.inner.find_swarm(id).await
    }

    async fn list_swarms(
        &self,
        filter: &SwarmFilter,
        mut page: Page<SwarmId>,
    ) -> Result<Vec<Swarm>, StoreError> {
        if self.is(Twist::IgnoresTheCursor) {
            page.after = None;
        }
        self.inner.list_swarms(filter, page).await
    }

    async fn find_agent(&self, id: AgentId) -> Result<Option<Agent>, StoreError> {
        let agent = self.inner.find_agent(id).await?;
        Ok(agent.map(|mut agent| {
            if self.is(Twist::LosesAColumn) {
                agent.error = None;
            }
            agent
        }))
    }

    async fn list_agents(
        &self,
        filter: &AgentFilter,
        page: Page<AgentId>,
    ) -> Result<Vec<Agent>, StoreError> {
        self.inner.list_agents(filter, page).await
    }

    async fn find_task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.inner.find_task(id).await
    }

    async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: Page<TaskId>,
    ) -> Result<Vec<Task>, StoreError> {
        self.inner.list_tasks(filter, page).await
    }

    async fn find_budget(&self, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        self.inner.find_budget(id).await
    }

    async fn list_budgets(
        &self,
        filter: &BudgetFilter,
        page: Page<BudgetId>,
    ) -> Result<Vec<Budget>, StoreError> {
        self.inner.list_budgets(filter, page).await
    }

    async fn find_step(&self, agent: AgentId, key: StepKey) -> Result<Option<Step>, StoreError> {
        self.inner.find_step(agent, key).await
    }

    async fn list_steps(
        &self,
        filter: &StepFilter,
        page: Page<(AgentId, StepKey)>,
    ) -> Result<Vec<Step>, StoreError> {
        self.inner.list_steps(filter, page).await
    }

    async fn list_reservations(
        &self,
        filter: &ReservationFilter,
        page: Page<ReservationId>,
    ) -> Result<Vec<Reservation>, StoreError> {
        self.inner.list_reservations(filter, page).await
    }

    async fn list_tickets(
        &self,
        filter: &TicketFilter,
        page: Page<TicketId>,
    ) -> Result<Vec<Ticket>, StoreError> {
        let mut filter = filter.clone();
        if self.is(Twist::IgnoresStates) {
            filter.state = None;
        }
        self.inner.list_tickets(&filter, page).await
    }

    async fn list_path(&self, head: EntryId, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let is_cut = !self.is(Twist::IgnoresThePathsLimit);
        let limit = if is_cut { limit } else { usize::MAX };
        let mut path = self.inner.list_path(head, limit).await?;
        if self.is(Twist::TurnsPathsRound) {
            path.reverse();
        }
        Ok(path)
    }

    async fn list_events(
        &self,
        filter: &EventFilter,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let all = EventFilter::default();
        let is_filtered = !self.is(Twist::IgnoresEventFilters);
        let filter = if is_filtered { filter } else { &all };
        let mut events = self.inner.list_events(filter, after, limit).await?;
        if self.is(Twist::ForgetsTheNewestEvent) {
            events.pop();
        }
        Ok(events)
    }

    async fn head_seq(&self) -> Result<u64, StoreError> {
        self.inner.head_seq().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        if self.is(Twist::WritesWhenClosed) {
            return Ok(());
        }
        self.inner.close().await
    }
}
