//! Random changesets against a simple model, on every store: whatever is written in whatever order,
//! a store takes what the model takes, refuses what it refuses for the same reason, and holds the same
//! rows and events, also after it was closed and opened again.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::{
    AgentFilter, BudgetFilter, EventFilter, MemoryStore, Page, ReservationFilter, RowWrite,
    StepFilter, Store, StoreError, TicketFilter,
};
use crate::event::NewEvent;
use crate::ids::{AgentId, EntryId, ReservationId, TicketId};
use crate::model::budget::ReservationState;
use crate::model::{
    Agent, Budget, Entry, Reservation, Step, StepKey, StepState, Ticket, TicketState,
};
use crate::store::Changeset;
use crate::testing::samples::{World, message};

const WORLD: World = World::new(1);
/// Agents besides the first, entries, steps and the like that a case is about.
const FEW: u8 = 4;

/// The version that a write is based on.
#[derive(Debug, Clone, Copy)]
enum Base {
    /// The stored one, or an insert where there is none.
    Right,
    /// An insert, whether there is a row or not.
    Insert,
    /// One less or one more than is stored.
    Stale(bool),
}

/// One thing to write.
#[derive(Debug, Clone)]
enum Wish {
    Agent { n: u8, base: Base, turns: u32 },
    Budget { base: Base, spent: i64 },
    Entry { n: u8, parent: u8, text: u8 },
    Step { index: u8, has_entry: bool },
    Reservation { n: u8 },
    Ticket { n: u8 },
    Events { n: u8, count: u8 },
}

/// One operation on the store.
#[derive(Debug, Clone)]
enum Op {
    /// Everything in one changeset.
    Commit(Vec<Wish>),
    /// Two commits at once.
    Both(Vec<Wish>, Vec<Wish>),
    /// Close it and open it again, where that keeps anything.
    Reopen,
    /// Compare everything.
    Compare,
}

fn base() -> impl Strategy<Value = Base> {
    prop_oneof![
        6 => Just(Base::Right),
        1 => Just(Base::Insert),
        1 => any::<bool>().prop_map(Base::Stale),
    ]
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        (0..FEW, base(), 0..9_u32).prop_map(|(n, base, turns)| Wish::Agent { n, base, turns }),
        (base(), 900..1_010_i64).prop_map(|(base, spent)| Wish::Budget { base, spent }),
        (1..=FEW, 0..=FEW, 0..3_u8).prop_map(|(n, parent, text)| Wish::Entry { n, parent, text }),
        (0..FEW, any::<bool>()).prop_map(|(index, has_entry)| Wish::Step { index, has_entry }),
        (1..=FEW).prop_map(|n| Wish::Reservation { n }),
        (1..=FEW).prop_map(|n| Wish::Ticket { n }),
        (0..FEW, 1..4_u8).prop_map(|(n, count)| Wish::Events { n, count }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let wishes = || prop::collection::vec(wish(), 1..5);
    prop_oneof![
        12 => wishes().prop_map(Op::Commit),
        2 => (wishes(), wishes()).prop_map(|(a, b)| Op::Both(a, b)),
        1 => Just(Op::Reopen),
        1 => Just(Op::Compare),
    ]
}

/// Why the model refuses a changeset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Conflict,
    Constraint,
    /// One row breaks two rules.
    Either,
}

/// The rows and events, as plainly as can be.
#[derive(Debug, Clone, Default)]
struct Model {
    budget: Option<Budget>,
    agents: BTreeMap<AgentId, Agent>,
    entries: BTreeMap<EntryId, Entry>,
    steps: BTreeMap<StepKey, Step>,
    reservations: BTreeMap<ReservationId, Reservation>,
    tickets: BTreeMap<TicketId, Ticket>,
    events: Vec<NewEvent>,
}

fn agent(n: u8) -> Agent {
    match n {
        0 => WORLD.agent(),
        n => WORLD.child(u128::from(n)),
    }
}

impl Model {
    fn seeded() -> Self {
        Self {
            budget: Some(WORLD.budget()),
            agents: BTreeMap::from([(WORLD.agent_id, WORLD.agent())]),
            ..Self::default()
        }
    }

    /// The changeset that these wishes make of what is stored. A row is written once in it.
    fn changeset(&self, wishes: &[Wish]) -> Changeset {
        let mut made = Changeset::default();
        for wish in wishes {
            self.add(wish, &mut made);
        }
        made
    }

    fn add(&self, wish: &Wish, made: &mut Changeset) {
        match *wish {
            Wish::Agent { n, base, turns } => {
                let stored = self.agents.get(&agent(n).id);
                let expected = based(base, stored.map(|agent| agent.version));
                let mut row = stored.cloned().unwrap_or_else(|| agent(n));
                row.turns = turns;
                row.version = expected.map_or(1, |version| version + 1);
                if made.agents.iter().all(|write| write.row.id != row.id) {
                    made.agents.push(RowWrite { row, expected });
                }
            }
            Wish::Budget { base, spent } => {
                let stored = self.budget.as_ref().map(|budget| budget.version);
                let expected = based(base, stored);
                let mut row = self.budget.clone().unwrap_or_else(|| WORLD.budget());
                row.spent = spent;
                row.version = expected.map_or(1, |version| version + 1);
                if made.budgets.is_empty() {
                    made.budgets.push(RowWrite { row, expected });
                }
            }
            Wish::Entry { n, parent, text } => {
                let body = message(["", "a", "\u{1F980} again and again"][usize::from(text)]);
                let mut row = WORLD.entry(u128::from(n), body);
                let above = WORLD.entry(u128::from(parent), message("")).id;
                row.parent_id = (parent > 0).then_some(above);
                made.entries.push(row);
            }
            Wish::Step { index, has_entry } => {
                let key = StepKey::Tool {
                    turn: 1,
                    index: u32::from(index),
                };
                let mut row = self.steps.get(&key).cloned();
                match &mut row {
                    Some(step) if step.state.is_terminal() => step.tries += 1,
                    Some(step) => step.state = StepState::Done,
                    None => row = Some(WORLD.step(key)),
                }
                let mut row = row.unwrap_or_else(|| WORLD.step(key));
                if has_entry {
                    row.entry_id = Some(WORLD.entry(1, message("")).id);
                }
                if made.steps.iter().all(|step| step.key != key) {
                    made.steps.push(row);
                }
            }
            Wish::Reservation { n } => {
                let mut row = WORLD.reservation(u128::from(n));
                if self.reservations.contains_key(&row.id) {
                    row.state = ReservationState::Settled;
                    row.actual = Some(row.held);
                }
                if made.reservations.iter().all(|other| other.id != row.id) {
                    made.reservations.push(row);
                }
            }
            Wish::Ticket { n } => {
                let mut row = WORLD.ticket(u128::from(n));
                if self.tickets.contains_key(&row.id) {
                    row.state = TicketState::Delivered;
                }
                if made.tickets.iter().all(|other| other.id != row.id) {
                    made.tickets.push(row);
                }
            }
            Wish::Events { n, count } => {
                for at in 0..count {
                    let mut event = WORLD.event(u32::from(at));
                    event.source = crate::event::EventSource::Agent(agent(n).id);
                    made.events.push(event);
                }
            }
        }
    }

    /// Takes a changeset whole, or says why not: the first reason in the order of the lists.
    fn commit(&mut self, changeset: Changeset) -> Result<usize, Refusal> {
        let mut next = self.clone();
        next.write(changeset)?;
        let events = next.events.len() - self.events.len();
        *self = next;
        Ok(events)
    }

    fn write(&mut self, changeset: Changeset) -> Result<(), Refusal> {
        for RowWrite { row, expected } in changeset.budgets {
            let used = row.spent + row.uncertain + row.reserved;
            let fits = row.allocated.is_none_or(|cap| used <= cap + row.overrun);
            let is_right = self.budget.as_ref().map(|b| b.version) == expected;
            check(fits || is_right, Refusal::Either)?;
            check(is_right, Refusal::Conflict)?;
            check(fits, Refusal::Constraint)?;
            self.budget = Some(row);
        }
        for RowWrite { row, expected } in changeset.agents {
            let stored = self.agents.get(&row.id).map(|agent| agent.version);
            check(stored == expected, Refusal::Conflict)?;
            self.agents.insert(row.id, row);
        }
        for row in changeset.reservations {
            self.reservations.insert(row.id, row);
        }
        for row in changeset.entries {
            let is_known = row
                .parent_id
                .is_none_or(|id| self.entries.contains_key(&id));
            let is_free = !self.entries.contains_key(&row.id);
            let is_known = is_known && row.parent_id != Some(row.id);
            check(is_known || is_free, Refusal::Either)?;
            check(is_known, Refusal::Constraint)?;
            check(is_free, Refusal::Conflict)?;
            self.entries.insert(row.id, row);
        }
        for row in changeset.steps {
            let is_known = row.entry_id.is_none_or(|id| self.entries.contains_key(&id));
            check(is_known, Refusal::Constraint)?;
            self.steps.insert(row.key, row);
        }
        for row in changeset.tickets {
            self.tickets.insert(row.id, row);
        }
        for event in changeset.events {
            let is_known = match event.source {
                crate::event::EventSource::Agent(id) => self.agents.contains_key(&id),
                _ => true,
            };
            check(is_known, Refusal::Constraint)?;
            self.events.push(event);
        }
        Ok(())
    }
}

fn based(base: Base, stored: Option<u64>) -> Option<u64> {
    match (base, stored) {
        (Base::Right, stored) => stored,
        (Base::Insert, _) => None,
        (Base::Stale(is_less), stored) => {
            let version = stored.unwrap_or(1);
            Some(if is_less { version - 1 } else { version + 1 })
        }
    }
}

fn check(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

type Checked = Result<(), TestCaseError>;

/// What a store made of a changeset is what the model made of it.
fn compare_commit(
    store: Result<crate::store::Committed, StoreError>,
    model: Result<usize, Refusal>,
) -> Checked {
    match (store, model) {
        (Ok(committed), Ok(events)) => {
            prop_assert_eq!(committed.events.len(), events);
            Ok(())
        }
        (Err(StoreError::Conflict { .. }), Err(Refusal::Conflict | Refusal::Either))
        | (Err(StoreError::Constraint { .. }), Err(Refusal::Constraint | Refusal::Either)) => {
            Ok(())
        }
        (store, model) => Err(TestCaseError::fail(format!(
            "the store said {store:?}, the model {model:?}"
        ))),
    }
}

/// Everything that is stored, against the model.
async fn compare(store: &Arc<dyn Store>, model: &Model) -> Checked {
    let filter = BudgetFilter::default();
    let budgets = store.list_budgets(&filter, Page::first(100)).await;
    let budgets = budgets.unwrap();
    prop_assert_eq!(
        budgets.iter().collect::<Vec<_>>(),
        Vec::from_iter(&model.budget)
    );
    let filter = AgentFilter::default();
    let agents = store.list_agents(&filter, Page::first(100)).await;
    let agents = agents.unwrap();
    prop_assert_eq!(
        agents.iter().collect::<Vec<_>>(),
        Vec::from_iter(model.agents.values())
    );
    let filter = StepFilter::default();
    let steps = store.list_steps(&filter, Page::first(100)).await;
    let steps = steps.unwrap();
    prop_assert_eq!(
        steps.iter().collect::<Vec<_>>(),
        Vec::from_iter(model.steps.values())
    );
    let filter = ReservationFilter::default();
    let reservations = store.list_reservations(&filter, Page::first(100)).await;
    let reservations = reservations.unwrap();
    let expected = Vec::from_iter(model.reservations.values());
    prop_assert_eq!(reservations.iter().collect::<Vec<_>>(), expected);
    let filter = TicketFilter::default();
    let tickets = store.list_tickets(&filter, Page::first(100)).await;
    let tickets = tickets.unwrap();
    prop_assert_eq!(
        tickets.iter().collect::<Vec<_>>(),
        Vec::from_iter(model.tickets.values())
    );
    for entry in model.entries.values() {
        let path = store.list_path(entry.id, usize::MAX).await.unwrap();
        let mut expected = vec![entry.clone()];
        while let Some(parent) = expected.last().and_then(|entry| entry.parent_id) {
            expected.push(model.entries[&parent].clone());
        }
        expected.reverse();
        prop_assert_eq!(path, expected);
    }
    let filter = EventFilter::default();
    let events = store.list_events(&filter, 0, 1_000).await.unwrap();
    let seqs: Vec<u64> = events.iter().map(|event| event.seq).collect();
    let count = u64::try_from(model.events.len()).unwrap();
    prop_assert_eq!(seqs, Vec::from_iter(1..=count), "numbers without gaps");
    let sources: Vec<&str> = events.iter().map(|event| &*event.source).collect();
    let expected: Vec<String> = model.events.iter().map(|e| e.source.to_string()).collect();
    prop_assert_eq!(sources, expected);
    let kinds: Vec<_> = events.iter().map(|event| &event.kind).collect();
    prop_assert_eq!(
        kinds,
        Vec::from_iter(model.events.iter().map(|event| &event.kind))
    );
    prop_assert_eq!(store.head_seq().await.unwrap(), count);
    Ok(())
}

/// A place where a store can be opened again and again.
trait Home {
    async fn open(&self) -> Arc<dyn Store>;
    /// Closes the store and opens it again, if that keeps anything.
    async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store>;
}

struct InMemory;

impl Home for InMemory {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new())
    }

    async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        store
    }
}

#[cfg(feature = "sqlite")]
struct InFile(tempfile::TempDir);

#[cfg(feature = "sqlite")]
impl Home for InFile {
    async fn open(&self) -> Arc<dyn Store> {
        let path = self.0.path().join("random.db");
        Arc::new(super::SqliteStore::open(&path).await.unwrap())
    }

    async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        store.close().await.unwrap();
        drop(store);
        self.open().await
    }
}

async fn run(home: impl Home, ops: &[Op]) -> Checked {
    let mut store = home.open().await;
    let mut model = Model::seeded();
    store.commit(WORLD.all()).await.unwrap();
    for op in ops {
        match op {
            Op::Commit(wishes) => {
                let changeset = model.changeset(wishes);
                let committed = store.commit(changeset.clone()).await;
                compare_commit(committed, model.commit(changeset))?;
            }
            Op::Both(first, second) => {
                let (first, second) = (model.changeset(first), model.changeset(second));
                let both = tokio::join!(store.commit(first.clone()), store.commit(second.clone()));
                // In the order in which they were handed over.
                compare_commit(both.0, model.commit(first))?;
                compare_commit(both.1, model.commit(second))?;
            }
            Op::Reopen => store = home.reopen(store).await,
            Op::Compare => compare(&store, &model).await?,
        }
    }
    compare(&store, &model).await?;
    let store = home.reopen(store).await;
    compare(&store, &model).await
}

fn block_on(case: impl Future<Output = Checked>) -> Checked {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(case)
}

/// A sample of what the model must know, so that no wish is always refused.
#[test]
fn the_model_takes_and_refuses() {
    let mut model = Model::seeded();
    let right = Wish::Agent {
        n: 1,
        base: Base::Right,
        turns: 1,
    };
    let taken = model.changeset(&[right, Wish::Events { n: 1, count: 2 }]);
    assert_eq!(model.commit(taken), Ok(2));
    let stale = Wish::Agent {
        n: 1,
        base: Base::Stale(true),
        turns: 2,
    };
    let refused = model.changeset(&[stale, Wish::Ticket { n: 1 }]);
    assert_eq!(model.commit(refused), Err(Refusal::Conflict));
    assert!(model.tickets.is_empty(), "nothing of it was taken");
    let over = Wish::Budget {
        base: Base::Right,
        spent: 1_000,
    };
    let refused = model.changeset(&[over]);
    assert_eq!(model.commit(refused), Err(Refusal::Constraint));
}

proptest! {
    #![proptest_config(crate::testing::random::cases(200))]

    #[test]
    fn the_store_in_memory_does_what_the_model_does(
        ops in prop::collection::vec(op(), 1..40),
    ) {
        block_on(run(InMemory, &ops))?;
    }
}

#[cfg(feature = "sqlite")]
proptest! {
    #![proptest_config(crate::testing::random::cases(24))]

    #[test]
    fn the_store_in_a_file_does_what_the_model_does(
        ops in prop::collection::vec(op(), 1..40),
    ) {
        block_on(run(InFile(tempfile::tempdir().unwrap()), &ops))?;
    }
}
