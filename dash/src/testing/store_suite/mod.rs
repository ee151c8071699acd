//! What every [`Store`] must do, as runnable cases.
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! use std::sync::Arc;
//!
//! use dash::store::{MemoryStore, Store};
//!
//! use dash::testing::store_suite;
//!
//! store_suite::run_all(|| async { Arc::new(MemoryStore::new()) as Arc<dyn Store> }).await;
//! # });
//! ```
//!
//! Each case gets a store of its own; its name is the rule it checks. A finding in one implementation
//! becomes a case here.

#![expect(
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a suite fails by panicking, and its tasks are joined where they are spawned"
)]

use std::sync::Arc;

use super::samples::World;
use super::verdict::{Broken, judge, unknown};
use crate::store::{Store, StoreError};

mod entries;
mod events;
mod lists;
mod refusals;
mod rows;
#[cfg(test)]
mod tests;

const WORLD: World = World::new(1);

macro_rules! cases {
    ($($module:ident::$case:ident),* $(,)?) => {
        /// The names of the cases, in the order in which they run. Each is the rule it checks.
        pub const CASES: &[&str] = &[$(stringify!($case)),*];

        async fn run(name: &str, store: &Arc<dyn Store>) -> Result<(), Broken> {
            match name {
                $(stringify!($case) => {
                    let case = async {
                        $module::$case(store).await;
                        store.close().await.unwrap();
                        Ok(())
                    };
                    judge("store", name, Box::pin(case)).await
                })*
                _ => Err(unknown("store", name, CASES)),
            }
        }
    };
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
    refusals::nothing_is_its_own_parent,
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

/// Runs one case by its name, on a fresh store, which is closed after it.
///
/// # Errors
///
/// The rule that is broken, or that there is no such case.
pub async fn run_case(name: &str, store: Arc<dyn Store>) -> Result<(), Broken> {
    let found = run(name, &store).await;
    found.map_err(|mut broken| {
        if CASES.contains(&name) {
            broken.rule = name.replace('_', " ");
        }
        broken
    })
}

/// Runs every case, each on a fresh store from `make`.
///
/// Needs a tokio runtime with time. Stores are closed after their case.
///
/// # Panics
///
/// If the store does not keep the contract, with the case and what it compared.
#[expect(clippy::panic, reason = "a suite fails by panicking")]
pub async fn run_all<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    for case in CASES {
        if let Err(broken) = run_case(case, make().await).await {
            panic!("{broken}");
        }
    }
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
