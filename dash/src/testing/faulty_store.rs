//! A store that fails, or waits, when it is told to.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{RwLock, watch};

use crate::event::Event;
use crate::ids::{AgentId, BudgetId, EntryId, ReservationId, SwarmId, TaskId, TicketId};
use crate::model::{
    Agent, Budget, Entry, Project, Reservation, Step, StepKey, Swarm, Task, Ticket,
};
use crate::store::{
    AgentFilter, BudgetFilter, Changeset, Committed, EventFilter, Page, ReservationFilter,
    StepFilter, Store, StoreError, StoreInfo, SwarmFilter, TaskFilter, TicketFilter,
};

/// What a commit answers instead of the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// [`StoreError::Full`]; nothing is applied.
    Full,
    /// [`StoreError::Conflict`]; nothing is applied.
    Conflict,
    /// [`StoreError::Io`]; nothing is applied, but the caller cannot know.
    IoBefore,
    /// [`StoreError::Io`]; the changeset is applied, but the caller cannot know.
    IoAfter,
}

type Rule = Box<dyn FnMut(u64, &Changeset) -> Option<Fault> + Send>;

#[derive(Default)]
struct Plan {
    commits: u64,
    next: VecDeque<Option<Fault>>,
    at: HashMap<u64, Fault>,
    rule: Option<Rule>,
}

/// A [`Store`] around another: its commits fail by plan and wait at a gate. Reads go through,
/// unless they are told to wait for commits.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
    /// Whether commits may pass.
    gate: watch::Sender<bool>,
    /// Commits that wait at the gate.
    waiting: watch::Sender<usize>,
    /// Held by commits, and waited for by reads, if reads wait.
    lock: RwLock<()>,
    reads_wait: AtomicBool,
}

impl std::fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyStore")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

struct Waiting<'a>(&'a watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl FaultyStore {
    /// Wraps a store; without a plan it changes nothing.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            plan: Mutex::default(),
            gate: watch::Sender::new(true),
            waiting: watch::Sender::new(0),
            lock: RwLock::new(()),
            reads_wait: AtomicBool::new(false),
        }
    }

    /// Lets commit number `nth` (from 1, counted over the life of this store) fail.
    pub fn fail_at(&self, nth: u64, fault: Fault) {
        self.with_plan(|plan| plan.at.insert(nth, fault));
    }

    /// Adds the fate of the next commit that has none yet: `None` lets it pass.
    pub fn push(&self, fate: Option<Fault>) {
        self.with_plan(|plan| plan.next.push_back(fate));
    }

    /// Asks `rule` about every commit that has no other fate; it gets the commit's number.
    pub fn fail_when(&self, rule: impl FnMut(u64, &Changeset) -> Option<Fault> + Send + 'static) {
        self.with_plan(|plan| plan.rule = Some(Box::new(rule)));
    }

    /// Holds every commit that comes from now on.
    pub fn hold(&self) {
        self.gate.send_replace(false);
    }

    /// Lets held commits pass, and those that follow.
    pub fn release(&self) {
        self.gate.send_replace(true);
    }

    /// From now on a read waits for the end of a commit that has begun, held or not, as in a store that
    /// has one lock for both.
    pub fn reads_wait(&self) {
        self.reads_wait.store(true, Ordering::SeqCst);
    }

    async fn read_turn(&self) {
        if self.reads_wait.load(Ordering::SeqCst) {
            drop(self.lock.read().await);
        }
    }

    /// Waits until `count` commits are held.
    pub async fn wait_for_held(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _seen = waiting.wait_for(|n| *n == count).await;
    }

    /// How many commits were asked for.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.with_plan(|plan| plan.commits)
    }

    fn with_plan<T>(&self, f: impl FnOnce(&mut Plan) -> T) -> T {
        f(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn fate(&self, changeset: &Changeset) -> Option<Fault> {
        self.with_plan(|plan| {
            plan.commits += 1;
            if let Some(fault) = plan.at.remove(&plan.commits) {
                return Some(fault);
            }
            if let Some(fate) = plan.next.pop_front() {
                return fate;
            }
            let commits = plan.commits;
            plan.rule.as_mut().and_then(|rule| rule(commits, changeset))
        })
    }
}

fn io() -> StoreError {
    StoreError::Io {
        detail: "a fault was injected".to_owned(),
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }

    async fn commit(&self, changeset: Changeset) -> Result<Committed, StoreError> {
        let fate = self.fate(&changeset);
        let _lock = match self.reads_wait.load(Ordering::SeqCst) {
            true => Some(self.lock.write().await),
            false => None,
        };
        self.waiting.send_modify(|n| *n += 1);
        let held = Waiting(&self.waiting);
        let mut gate = self.gate.subscribe();
        drop(gate.wait_for(|is_open| *is_open).await);
        drop(held);
        match fate {
            None => self.inner.commit(changeset).await,
            Some(Fault::Full) => Err(StoreError::Full),
            Some(Fault::Conflict) => Err(StoreError::Conflict {
                what: "row",
                id: "injected".to_owned(),
            }),
            Some(Fault::IoBefore) => Err(io()),
            Some(Fault::IoAfter) => {
                self.inner.commit(changeset).await?;
                Err(io())
            }
        }
    }

    async fn find_project(&self, name: &str) -> Result<Option<Project>, StoreError> {
        self.read_turn().await;
        self.inner.find_project(name).await
    }

    async fn find_swarm(&self, id: SwarmId) -> Result<Option<Swarm>, StoreError> {
        self.read_turn().await;
        self.inner.find_swarm(id).await
    }

    async fn list_swarms(
        &self,
        filter: &SwarmFilter,
        page: Page<SwarmId>,
    ) -> Result<Vec<Swarm>, StoreError> {
        self.read_turn().await;
        self.inner.list_swarms(filter, page).await
    }

    async fn find_agent(&self, id: AgentId) -> Result<Option<Agent>, StoreError> {
        self.read_turn().await;
        self.inner.find_agent(id).await
    }

    async fn list_agents(
        &self,
        filter: &AgentFilter,
        page: Page<AgentId>,
    ) -> Result<Vec<Agent>, StoreError> {
        self.read_turn().await;
        self.inner.list_agents(filter, page).await
    }

    async fn find_task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.read_turn().await;
        self.inner.find_task(id).await
    }

    async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: Page<TaskId>,
    ) -> Result<Vec<Task>, StoreError> {
        self.read_turn().await;
        self.inner.list_tasks(filter, page).await
    }

    async fn find_budget(&self, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        self.read_turn().await;
        self.inner.find_budget(id).await
    }

    async fn list_budgets(
        &self,
        filter: &BudgetFilter,
        page: Page<BudgetId>,
    ) -> Result<Vec<Budget>, StoreError> {
        self.read_turn().await;
        self.inner.list_budgets(filter, page).await
    }

    async fn find_step(&self, agent: AgentId, key: StepKey) -> Result<Option<Step>, StoreError> {
        self.read_turn().await;
        self.inner.find_step(agent, key).await
    }

    async fn list_steps(
        &self,
        filter: &StepFilter,
        page: Page<(AgentId, StepKey)>,
    ) -> Result<Vec<Step>, StoreError> {
        self.read_turn().await;
        self.inner.list_steps(filter, page).await
    }

    async fn list_reservations(
        &self,
        filter: &ReservationFilter,
        page: Page<ReservationId>,
    ) -> Result<Vec<Reservation>, StoreError> {
        self.read_turn().await;
        self.inner.list_reservations(filter, page).await
    }

    async fn list_tickets(
        &self,
        filter: &TicketFilter,
        page: Page<TicketId>,
    ) -> Result<Vec<Ticket>, StoreError> {
        self.read_turn().await;
        self.inner.list_tickets(filter, page).await
    }

    async fn list_path(&self, head: EntryId, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.read_turn().await;
        self.inner.list_path(head, limit).await
    }

    async fn list_events(
        &self,
        filter: &EventFilter,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        self.read_turn().await;
        self.inner.list_events(filter, after, limit).await
    }

    async fn head_seq(&self) -> Result<u64, StoreError> {
        self.read_turn().await;
        self.inner.head_seq().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use crate::testing::samples::World;

    const WORLD: World = World::new(1);

    async fn seeded() -> FaultyStore {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        store.commit(WORLD.all()).await.unwrap();
        store
    }

    #[tokio::test]
    async fn commits_fail_by_number_by_queue_and_by_rule() {
        let store = seeded().await;
        store.fail_at(3, Fault::Full);
        store.push(None);
        store.push(Some(Fault::Conflict));
        store.fail_when(|nth, _| (nth == 6).then_some(Fault::IoBefore));
        let mut found = Vec::new();
        for _ in 2..=7 {
            found.push(
                store
                    .commit(WORLD.events(1))
                    .await
                    .err()
                    .map(|err| err.to_string()),
            );
        }
        let failed: Vec<bool> = found.iter().map(Option::is_some).collect();
        assert_eq!(failed, [false, true, true, false, true, false], "{found:?}");
        assert_eq!(store.head_seq().await.unwrap(), 3);
        assert_eq!(store.commits(), 7);
    }

    #[tokio::test]
    async fn a_fault_after_the_fact_has_applied_the_changeset() {
        let store = seeded().await;
        store.push(Some(Fault::IoAfter));
        let err = store.commit(WORLD.events(1)).await.unwrap_err();
        assert!(err.is_unknown(), "{err}");
        assert_eq!(store.head_seq().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn held_commits_wait_for_their_release() {
        let store = seeded().await;
        store.hold();
        let release = async {
            store.wait_for_held(2).await;
            assert_eq!(store.head_seq().await.unwrap(), 0);
            store.release();
        };
        let (first, second, ()) = tokio::join!(
            store.commit(WORLD.events(1)),
            store.commit(WORLD.events(1)),
            release
        );
        assert_eq!(
            first.unwrap().events.len() + second.unwrap().events.len(),
            2
        );
    }
}
