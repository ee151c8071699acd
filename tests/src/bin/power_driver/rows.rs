//! Many producers on one store, which is closed and opened again meanwhile.

use std::path::Path;
use std::sync::Arc;

use dash::Result;
use dash::env::{Clock as _, SystemClock};
use dash::event::{EventSource, NewEvent, SystemError};
use dash::ids::{BudgetId, EventId, ProjectId};
use dash::model::budget::Thresholds;
use dash::model::{Budget, BudgetScope, Currency, Project};
use dash::store::{Changeset, EventFilter, RowWrite, SqliteStore, Store, StoreError};
use dash_tests::Dice;

use super::say;

/// Those that commit at the same time.
const PRODUCERS: u32 = 12;
/// The store is opened so often, and closed when each producer has committed so many times in all.
/// The first time its log outgrows what starts a checkpoint between commits.
const LIVES: [i64; 3] = [40, 46, 52];
/// The longest text of an event: some go over several pages.
const TEXT_MAX: usize = 24_000;

/// When the store flushes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Flushes {
    Every,
    Few,
}

/// Writes until each producer's row has the number that it is to have at the end.
pub(crate) async fn run(file: &Path, flushes: Flushes) -> Result<()> {
    for last in LIVES {
        let store: Arc<dyn Store> = Arc::new(match flushes {
            Flushes::Every => SqliteStore::open(file).await?,
            Flushes::Few => SqliteStore::open_losing_power_cuts(file).await?,
        });
        say("open");
        let mut producers = tokio::task::JoinSet::new();
        for producer in 1..=PRODUCERS {
            let store = Arc::clone(&store);
            producers.spawn(async move { produce(store.as_ref(), producer, last).await });
        }
        while let Some(ended) = producers.join_next().await {
            ended.map_err(|err| dash::Error::internal(err.to_string()))??;
        }
        store.close().await?;
    }
    Ok(())
}

async fn produce(store: &dyn Store, producer: u32, last: i64) -> Result<(), StoreError> {
    let mut dice = Dice::new(u64::from(producer));
    let id = BudgetId::from_u128(producer.into());
    let mut row = store.find_budget(id).await?;
    loop {
        let number = row.as_ref().map_or(0, |row| row.spent) + 1;
        if number > last {
            return Ok(());
        }
        let changes = changes(producer, row.take(), &mut dice);
        row = changes.budgets.first().map(|write| write.row.clone());
        let committed = store.commit(changes).await?;
        let mut lines = vec![format!("row {producer} {number}")];
        let events = committed.events.iter();
        lines.extend(events.map(|event| format!("event {} {}", event.seq, event.id)));
        say(&lines.join("\n"));
        // Readers keep the log from being begun again.
        if dice.below(4) == 0 {
            let filter = EventFilter::default();
            drop(store.list_events(&filter, 0, 5).await?);
        }
    }
}

/// One more for the row, and an event or two.
fn changes(producer: u32, row: Option<Budget>, dice: &mut Dice) -> Changeset {
    let now = SystemClock.now();
    let mut changes = Changeset::default();
    let expected = row.as_ref().map(|row| row.version);
    let id = BudgetId::from_u128(producer.into());
    let project_id = ProjectId::from_u128(producer.into());
    let mut row = row.unwrap_or_else(|| Budget {
        id,
        scope: BudgetScope::Project,
        entity_id: project_id.to_string(),
        parent_id: None,
        currency: Currency::Usd,
        allocated: None,
        spent: 0,
        uncertain: 0,
        reserved: 0,
        overrun: 0,
        thresholds: Thresholds::default(),
        fired: 0,
        created_at: now,
        updated_at: now,
        version: 0,
    });
    if expected.is_none() {
        changes.projects.push(Project {
            id: project_id,
            name: format!("producer {producer}"),
            budget_id: id,
            created_at: now,
        });
    }
    row.spent += 1;
    row.version += 1;
    let number = row.spent;
    changes.budgets.push(RowWrite { row, expected });
    for n in 0..=dice.below(2) {
        // Digits that do not repeat, so that nothing is to be compressed.
        let words = dice.below(TEXT_MAX) / 16;
        let error: String = (0..words)
            .map(|_| format!("{:016x}", dice.roll()))
            .collect();
        let id = u128::from(producer) << 64 | u128::from(number.unsigned_abs()) << 8 | n as u128;
        changes.events.push(NewEvent {
            id: EventId::from_u128(id),
            at: now,
            swarm_id: None,
            source: EventSource::System,
            kind: SystemError {
                component: "power".to_owned(),
                error,
            }
            .into(),
        });
    }
    changes
}
