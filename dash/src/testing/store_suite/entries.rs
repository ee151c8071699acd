//! Bodies of any size, and paths through the conversation tree.

use std::sync::Arc;

use super::super::samples::{message, new};
use super::{WORLD, seed};
use crate::model::EntryBody;
use crate::store::{Changeset, Store};

/// Text that no compressor shortens.
fn noise(len: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut out = String::with_capacity(len);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.push(char::from(u8::try_from(33 + state % 90).unwrap_or(b'x')));
    }
    out
}

pub(super) async fn bodies_survive_a_round_trip(store: &Arc<dyn Store>) {
    seed(store).await;
    let bodies = [
        message(""),
        message("ünï🦀\u{0}\"\\\n"),
        EntryBody::Label {
            text: "a label".to_owned(),
        },
        message(&"a".repeat(511)),
        message(&"spam and eggs ".repeat(10_000)),
        message(&noise(100_000)),
        EntryBody::Label { text: noise(600) },
    ];
    let mut entries = Vec::new();
    for (n, body) in (1..).zip(bodies) {
        entries.push(WORLD.entry(n, body));
    }
    let changeset = Changeset {
        entries: entries.clone(),
        ..Changeset::default()
    };
    store.commit(changeset).await.unwrap();
    let head = entries.last().map(|entry| entry.id).unwrap();
    assert_eq!(store.list_path(head, 100).await.unwrap(), entries);
}

pub(super) async fn equal_bodies_may_be_stored_twice(store: &Arc<dyn Store>) {
    seed(store).await;
    let body = message(&"again ".repeat(500));
    let entries: Vec<_> = (1..=3).map(|n| WORLD.entry(n, body.clone())).collect();
    for entry in entries.clone() {
        store
            .commit(Changeset {
                entries: vec![entry],
                ..Changeset::default()
            })
            .await
            .unwrap();
    }
    assert_eq!(store.list_path(entries[2].id, 100).await.unwrap(), entries);
}

pub(super) async fn a_path_is_in_order_and_cut_to_the_newest(store: &Arc<dyn Store>) {
    seed(store).await;
    let count: usize = 1_500;
    let mut entries = Vec::with_capacity(count);
    for n in 1..=1_500_u128 {
        entries.push(WORLD.entry(n, message(&n.to_string())));
    }
    let changeset = Changeset {
        entries: entries.clone(),
        ..Changeset::default()
    };
    store.commit(changeset).await.unwrap();
    let head = entries[count - 1].id;
    assert_eq!(
        store.list_path(head, usize::MAX).await.unwrap(),
        entries,
        "no page limit"
    );
    assert_eq!(
        store.list_path(head, 3).await.unwrap(),
        entries[count - 3..]
    );
    assert_eq!(store.list_path(head, 0).await.unwrap(), []);
    assert_eq!(
        store.list_path(entries[1].id, 9).await.unwrap(),
        entries[..2]
    );
}

pub(super) async fn a_fork_shares_its_path(store: &Arc<dyn Store>) {
    seed(store).await;
    let child = WORLD.child(1);
    let trunk: Vec<_> = (1..=3).map(|n| WORLD.entry(n, message("trunk"))).collect();
    let mut branch = WORLD.entry(9, message("branch"));
    branch.parent_id = Some(trunk[1].id);
    branch.agent_id = child.id;
    let mut entries = trunk.clone();
    entries.push(branch.clone());
    let agents = vec![new(child)];
    store
        .commit(Changeset {
            agents,
            entries,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let expected = [trunk[0].clone(), trunk[1].clone(), branch.clone()];
    assert_eq!(store.list_path(branch.id, 9).await.unwrap(), expected);
    assert_eq!(store.list_path(trunk[2].id, 9).await.unwrap(), trunk);
}
