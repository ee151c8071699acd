//! What every [`Store`] must do, as runnable cases.
//!
//! ```no_run
//! # async fn suite() {
//! use std::sync::Arc;
//!
//! use dash::store::{MemoryStore, Store};
//!
//! dash::testing::store_suite::run_all(|| async { Arc::new(MemoryStore::new()) as Arc<dyn Store> })
//!     .await;
//! # }
//! ```
//!
//! Each case gets a store of its own and panics with the case's name in the backtrace and what it
//! compared. A finding in one implementation becomes a case here.

#![expect(
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a suite fails by panicking, and its tasks are joined where they are spawned"
)]

use std::sync::Arc;

use super::samples::World;
use crate::store::{Store, StoreError};

mod entries;
mod events;
mod lists;
mod refusals;
mod rows;

const WORLD: World = World::new(1);

/// Runs every case, each on a fresh store from `make`.
///
/// Needs a tokio runtime. Stores are closed after their case.
///
/// # Panics
///
/// If the store does not keep the contract.
pub async fn run_all<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    macro_rules! cases {
        ($($case:path),* $(,)?) => {$(
            let store = make().await;
            $case(&store).await;
            store.close().await.unwrap();
        )*};
    }
    cases!(
        rows::a_new_store_is_empty,
        rows::rows_survive_a_round_trip,
        rows::changed_rows_survive_a_round_trip,
        rows::a_changed_step_survives_a_round_trip,
        refusals::a_stale_version_is_a_conflict,
        refusals::an_insert_of_what_exists_is_a_conflict,
        refusals::a_conflict_leaves_no_trace,
        refusals::a_missing_reference_is_refused,
        refusals::a_budget_cannot_be_overspent,
        refusals::what_a_step_is_never_changes,
        events::numbers_are_contiguous_with_failures_in_between,
        events::concurrent_commits_get_numbers_without_gaps,
        refusals::one_failure_does_not_fail_others,
        events::events_survive_a_round_trip,
        events::events_are_filtered,
        entries::bodies_survive_a_round_trip,
        entries::equal_bodies_may_be_stored_twice,
        entries::a_path_is_in_order_and_cut_to_the_newest,
        entries::a_fork_shares_its_path,
        lists::swarms_are_listed_and_paged,
        lists::agents_are_listed_and_paged,
        lists::tasks_are_listed_and_paged,
        lists::budgets_are_listed_and_paged,
        lists::steps_are_listed_in_the_order_of_their_keys,
        lists::reservations_are_listed_and_settled,
        lists::tickets_are_listed_and_delivered,
        lists::limits_are_cut,
        rows::closing_twice_is_fine_and_ends_writes,
    );
}

async fn seed(store: &Arc<dyn Store>) {
    store.commit(WORLD.all()).await.unwrap();
}

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::Conflict { .. })),
        "{result:?}"
    );
}

#[track_caller]
fn assert_constraint<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::Constraint { .. })),
        "{result:?}"
    );
}
