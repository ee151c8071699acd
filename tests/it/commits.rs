//! One commit at a time, and what is decided while it runs.

use std::sync::Arc;
use std::time::Duration;

use dash::api::BudgetOwner;
use dash::env::UnixMillis;
use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::{Budget, SideEffect};
use dash::store::EventFilter;
use dash::testing::faulty_store::Fault;
use dash::testing::{FaultyStore, ManualClock};
use dash::{ErrorKind, Result};
use dash_tests::{Door, Engine, Setup, audit, create, shared, within};
use pretty_assertions::assert_eq;

const START: UnixMillis = UnixMillis(1_770_000_000_000);

fn ends(_: &LlmRequest) -> ScriptedReply {
    ScriptedReply::text("end")
}

fn project() -> BudgetOwner {
    BudgetOwner::Project("default".to_owned())
}

/// Gives everyone who is ready a turn, often enough for a message to be taken and decided.
async fn let_others_run() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Three allocations: the second and third arrive while the first is being committed, and the clock
/// goes on before that ends. What each got.
async fn three(engine: &Engine, faulty: &FaultyStore, clock: &ManualClock) -> [Result<Budget>; 3] {
    faulty.hold();
    let commits = faulty.commits();
    let first = engine.allocate(project(), Some(1_000));
    let later = async {
        faulty.wait_for_held(1).await;
        let second = engine.allocate(project(), Some(2_000));
        let third = engine.allocate(project(), Some(3_000));
        let release = async {
            let_others_run().await;
            assert_eq!(faulty.commits(), commits + 1, "one commit at a time");
            clock.advance(Duration::from_secs(1));
            faulty.release();
        };
        let (second, third, ()) = tokio::join!(second, third, release);
        (second, third)
    };
    let both = async { tokio::join!(first, later) };
    let (first, (second, third)) = within("three answers", both).await;
    [first, second, third]
}

#[tokio::test]
async fn what_comes_in_during_a_commit_is_decided_meanwhile_and_is_the_next_commit() {
    let clock = ManualClock::new(START);
    let setup = Setup::new(ends).clock(Arc::new(clock.clone()));
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    let engine = setup.on(shared(&faulty)).start().await;
    let commits = faulty.commits();
    let budgets = three(&engine, &faulty, &clock).await.map(Result::unwrap);
    assert_eq!(
        budgets.each_ref().map(|b| b.allocated),
        [1_000, 2_000, 3_000].map(Some)
    );
    // Before the clock went on, so before the first commit ended.
    assert_eq!(budgets.each_ref().map(|b| b.updated_at), [START; 3]);
    assert_eq!(faulty.commits(), commits + 2);
    assert_eq!(engine.budget(project()).await, budgets[2]);
}

#[tokio::test]
async fn nothing_that_was_decided_on_a_lost_commit_is_answered_or_stored() {
    let clock = ManualClock::new(START);
    let setup = Setup::new(ends).clock(Arc::new(clock.clone()));
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    let engine = setup.clone().on(shared(&faulty)).start().await;
    let head = engine.head_seq().await.unwrap();
    faulty.push(Some(Fault::IoBefore));
    let commits = faulty.commits();
    for answer in three(&engine, &faulty, &clock).await {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Closed);
    }
    assert_eq!(faulty.commits(), commits + 1);
    let all = EventFilter::default();
    let stored = setup.store.list_events(&all, head, 9).await.unwrap();
    assert_eq!(stored, []);
}

#[tokio::test]
async fn a_swarm_that_ends_in_the_commit_that_begins_it_is_forgotten_and_read_again() {
    let door = Door::new("act", SideEffect::Pure);
    let setup = Setup::new(ends).door(&door);
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    let engine = setup.on(shared(&faulty)).start().await;
    faulty.hold();
    let swarm = engine.create_swarm(create("go", 1));
    let rest = async {
        faulty.wait_for_held(1).await;
        let mut stopped = create("stop", 1);
        stopped.id = Some(dash::ids::SwarmId::from_u128(77));
        let second = engine.create_swarm(stopped);
        let destroy = engine.destroy_swarm(dash::ids::SwarmId::from_u128(77));
        let release = async {
            let_others_run().await;
            faulty.release();
        };
        let (second, destroyed, ()) = tokio::join!(second, destroy, release);
        (second.unwrap(), destroyed.unwrap())
    };
    let both = Box::pin(async { tokio::join!(swarm, rest) });
    let (swarm, (_, destroyed)) = within("the answers", both).await;
    engine.finish(swarm.unwrap().id).await;
    // Ended and forgotten: it is read from the store again.
    let read = engine.get_swarm(destroyed.id).await.unwrap();
    assert_eq!(read, destroyed);
    let again = engine.pause_swarm(destroyed.id).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    audit(&engine).await;
}

#[tokio::test]
async fn a_store_whose_reads_wait_for_its_commits_is_waited_for() {
    let setup = Setup::new(ends);
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&setup.store)));
    let engine = setup.on(shared(&faulty)).start().await;
    faulty.reads_wait();
    faulty.hold();
    let first = engine.allocate(project(), Some(1_000));
    let rest = async {
        faulty.wait_for_held(1).await;
        // Not in memory, so it is looked for in the store, during the commit.
        let unknown = engine.pause_swarm(dash::ids::SwarmId::from_u128(77));
        let release = async {
            let_others_run().await;
            faulty.release();
        };
        tokio::join!(unknown, release).0
    };
    let both = async { tokio::join!(first, rest) };
    let (first, unknown) = within("both answers", both).await;
    assert_eq!(first.unwrap().allocated, Some(1_000));
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
}
