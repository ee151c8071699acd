//! The items of an answer as the server tells them apart.

use super::event::{Item, ItemKind};
use crate::llm::dialect::BlockHandle;

/// One text of a message.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) content_index: u64,
    pub(super) block: BlockHandle,
    /// The whole text, once the server has repeated it.
    pub(super) whole: Option<String>,
}

/// Which text of a reasoning item a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thought {
    Summary(u64),
    Content(u64),
}

/// An item.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) kind: ItemKind,
    pub(super) output_index: Option<u64>,
    pub(super) item_id: String,
    pub(super) call_id: String,
    pub(super) name: String,
    /// Of a message.
    pub(super) pieces: Vec<Piece>,
    /// Of a reasoning item.
    pub(super) thinking: Option<BlockHandle>,
    /// The texts of a reasoning item that have begun; the last one grows.
    pub(super) thoughts: Vec<Thought>,
    /// Whether the next text of a reasoning item stands apart from the one before.
    pub(super) is_apart: bool,
    /// Of a call, once its name is known.
    pub(super) call: Option<BlockHandle>,
    /// Argument text that came before the name.
    pub(super) early: String,
    /// The whole arguments, once the server has repeated them.
    pub(super) whole: Option<String>,
    /// Whether its end has come.
    pub(super) is_done: bool,
    /// Whether it was found in the final list of items.
    pub(super) is_listed: bool,
}

impl Slot {
    fn new(kind: ItemKind, output_index: Option<u64>) -> Self {
        Self {
            kind,
            output_index,
            item_id: String::new(),
            call_id: String::new(),
            name: String::new(),
            pieces: Vec::new(),
            thinking: None,
            thoughts: Vec::new(),
            is_apart: false,
            call: None,
            early: String::new(),
            whole: None,
            is_done: false,
            is_listed: false,
        }
    }

    /// Takes over what an item tells of itself.
    pub(super) fn learn(&mut self, item: &Item) {
        for (own, told) in [
            (&mut self.item_id, &item.id),
            (&mut self.call_id, &item.call_id),
            (&mut self.name, &item.name),
        ] {
            if !told.is_empty() {
                own.clone_from(told);
            }
        }
    }

    /// Whether one of the ids is its own. Servers may name an item by its call.
    fn has_id(&self, ids: [&str; 2]) -> bool {
        let is_own = |id: &str| !id.is_empty() && (self.item_id == id || self.call_id == id);
        ids.into_iter().any(is_own)
    }

    const fn has_no_marks(&self) -> bool {
        self.output_index.is_none() && self.item_id.is_empty() && self.call_id.is_empty()
    }

    /// Whether the ids are another item's.
    fn is_other(&self, ids: [&str; 2]) -> bool {
        let is_told = ids.into_iter().any(|id| !id.is_empty());
        let is_known = !self.item_id.is_empty() || !self.call_id.is_empty();
        is_told && is_known && !self.has_id(ids)
    }
}

/// All items, in the order in which they were first heard of.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<Slot>);

impl Slots {
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Slot> {
        self.0.get_mut(at)
    }

    pub(super) fn push(&mut self, kind: ItemKind, output_index: Option<u64>) -> usize {
        self.0.push(Slot::new(kind, output_index));
        self.0.len() - 1
    }

    /// The item an event is about, if it is known. Its place decides, then its id: some servers
    /// send no places, some a new id with every event, some the place 0 for all. Without both it
    /// is the last one that is not done.
    pub(super) fn find(
        &self,
        kind: ItemKind,
        output_index: Option<u64>,
        ids: [&str; 2],
    ) -> Option<usize> {
        let last = |fits: &dyn Fn(&Slot) -> bool| {
            self.0
                .iter()
                .rposition(|slot| slot.kind == kind && fits(slot))
        };
        if output_index.is_some() {
            let at_place = |slot: &Slot| slot.output_index == output_index;
            return last(&|slot| at_place(slot) && slot.has_id(ids))
                .or_else(|| last(&|slot| at_place(slot) && !(slot.is_done && slot.is_other(ids))))
                .or_else(|| last(&|slot| slot.output_index.is_none() && slot.has_id(ids)))
                .or_else(|| last(&|slot| !slot.is_done && slot.has_no_marks()));
        }
        if ids.into_iter().any(|id| !id.is_empty()) {
            return last(&|slot| slot.has_id(ids))
                .or_else(|| last(&|slot| !slot.is_done && !slot.is_other(ids)));
        }
        last(&|slot| !slot.is_done)
    }

    /// The item a new one with these marks is, if it was heard of before it was announced.
    pub(super) fn find_announced(
        &self,
        kind: ItemKind,
        output_index: Option<u64>,
        ids: [&str; 2],
    ) -> Option<usize> {
        let is_named = output_index.is_some() || ids.into_iter().any(|id| !id.is_empty());
        let at = self.find(kind, output_index, ids).filter(|_| is_named)?;
        let slot = self.0.get(at)?;
        (!slot.is_done && !slot.is_other(ids)).then_some(at)
    }

    /// The last item of a kind, for an event without place and id.
    pub(super) fn last_unless_named(
        &self,
        kind: ItemKind,
        output_index: Option<u64>,
        id: &str,
    ) -> Option<usize> {
        let is_named = output_index.is_some() || !id.is_empty();
        let last = self.0.iter().rposition(|slot| slot.kind == kind);
        last.filter(|_| !is_named)
    }

    /// The item that each of the final list is, by its id, else by its place, else by the order of
    /// its kind; new ones for those that were not streamed.
    pub(super) fn listed(&mut self, items: Vec<(u64, Item)>) -> Vec<(usize, Item)> {
        let by_id: Vec<Option<usize>> = items
            .iter()
            .map(|(_, item)| {
                let ids = [item.id.as_str(), item.call_id.as_str()];
                self.claim(item.kind, &|slot| slot.has_id(ids))
            })
            .collect();
        let paired = items.into_iter().zip(by_id);
        paired
            .map(|((place, item), known)| {
                let at = known
                    .or_else(|| self.claim(item.kind, &|s| s.output_index == Some(place)))
                    .or_else(|| self.claim(item.kind, &|s| s.output_index.is_none()))
                    .unwrap_or_else(|| {
                        let at = self.push(item.kind, Some(place));
                        if let Some(slot) = self.0.get_mut(at) {
                            slot.is_listed = true;
                        }
                        at
                    });
                (at, item)
            })
            .collect()
    }

    fn claim(&mut self, kind: ItemKind, fits: &dyn Fn(&Slot) -> bool) -> Option<usize> {
        let is_free = |slot: &Slot| slot.kind == kind && !slot.is_listed;
        let at = self.0.iter().position(|slot| is_free(slot) && fits(slot))?;
        self.0.get_mut(at)?.is_listed = true;
        Some(at)
    }
}
