//! What must be true of the store of many producers at any moment.

use std::collections::BTreeMap;
use std::path::Path;

use dash::event::{EventSource, NewEvent, SystemError};
use dash::ids::{BudgetId, EventId};
use dash::store::{Changeset, SqliteStore, Store as _};
use rusqlite::Connection;

/// What a file is found to hold.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The number of each producer's row.
    numbers: BTreeMap<u64, i64>,
    /// The ids of the events, in order.
    events: Vec<u128>,
}

impl Rows {
    /// Checks a file as a whole: structure, hashes, and that each commit is there in whole.
    pub(crate) async fn audit(db: &Path) -> Self {
        let count = SqliteStore::verify(db).await.unwrap();
        // Past the engine's own code.
        let conn = Connection::open(db).unwrap();
        let mut query = conn
            .prepare("SELECT seq, id FROM events ORDER BY seq")
            .unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        let mut events = Vec::new();
        for row in rows.unwrap() {
            let (seq, id): (i64, [u8; 16]) = row.unwrap();
            events.push(u128::from_be_bytes(id));
            assert_eq!(
                usize::try_from(seq),
                Ok(events.len()),
                "a number is missing"
            );
        }
        assert_eq!(events.len() as u64, count);
        let mut query = conn
            .prepare("SELECT id, spent, version FROM budgets")
            .unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let mut numbers = BTreeMap::new();
        for row in rows.unwrap() {
            let (id, spent, version): (String, i64, i64) = row.unwrap();
            assert_eq!(spent, version, "each commit made it one more");
            let id: BudgetId = id.parse().unwrap();
            numbers.insert(u64::try_from(id.as_u128()).unwrap(), spent);
        }
        let found = Self { numbers, events };
        found.check_whole();
        found
    }

    /// Each commit wrote a row's next number and an event or two that name it.
    fn check_whole(&self) {
        let mut told: BTreeMap<u64, i64> = BTreeMap::new();
        for id in &self.events {
            let producer = u64::try_from(id >> 64).unwrap();
            let number = i64::try_from((id >> 8) & 0xffff_ffff).unwrap();
            if producer == 0 {
                // What `go_on` writes.
                continue;
            }
            let last = told.entry(producer).or_default();
            assert!(
                number == *last || number == *last + 1,
                "{producer}: {number}"
            );
            *last = number;
        }
        assert_eq!(told, self.numbers, "events and rows tell the same");
    }

    /// How many of the acknowledgements these lines tell are not true.
    pub(crate) fn lost(&self, said: &[String]) -> usize {
        let is_true = |line: &&String| {
            let mut words = line.split(' ');
            let (word, first, second) = (words.next(), words.next(), words.next());
            match (word, first, second) {
                (Some("row"), Some(producer), Some(number)) => {
                    let number: i64 = number.parse().unwrap();
                    let found = self.numbers.get(&producer.parse().unwrap());
                    found.is_some_and(|found| *found >= number)
                }
                (Some("event"), Some(seq), Some(id)) => {
                    let seq: usize = seq.parse().unwrap();
                    let id: EventId = id.parse().unwrap();
                    self.events.get(seq - 1) == Some(&id.as_u128())
                }
                _ => true,
            }
        };
        said.len() - said.iter().filter(is_true).count()
    }
}

/// Opens a file as an engine does, and writes one thing more.
pub(crate) async fn go_on(db: &Path) {
    let store = SqliteStore::open(db).await.unwrap();
    let head = store.head_seq().await.unwrap();
    let event = NewEvent {
        id: EventId::from_u128(1),
        at: dash::env::UnixMillis(i64::MAX / 2),
        swarm_id: None,
        source: EventSource::System,
        kind: SystemError {
            component: "power".to_owned(),
            error: "it is back".to_owned(),
        }
        .into(),
    };
    let changes = Changeset {
        events: vec![event],
        ..Changeset::default()
    };
    let committed = store.commit(changes).await.unwrap();
    assert_eq!(committed.events[0].seq, head + 1);
    store.close().await.unwrap();
}
