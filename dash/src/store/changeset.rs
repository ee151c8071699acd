//! What a store writes: rows with the versions they are based on, and events, all or nothing.

use crate::event::{Event, NewEvent};
use crate::model::{
    Agent, Budget, Entry, Project, Reservation, Step, Swarm, Task, Ticket, Version,
};

/// A row and the version it is based on.
#[derive(Debug, Clone, PartialEq)]
pub struct RowWrite<T> {
    /// The row as it shall be; its `version` is the new one.
    pub row: T,
    /// The version the writer read; `None` inserts a row that must not exist.
    pub expected: Option<Version>,
}

/// One atomic write.
///
/// A store applies the lists in the order of the fields, so that a row may refer to any row that
/// comes before it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changeset {
    /// New projects.
    pub projects: Vec<Project>,
    /// New and changed budgets; parents before children.
    pub budgets: Vec<RowWrite<Budget>>,
    /// New and changed swarms.
    pub swarms: Vec<RowWrite<Swarm>>,
    /// New and changed tasks.
    pub tasks: Vec<RowWrite<Task>>,
    /// New and changed agents; parents before children.
    pub agents: Vec<RowWrite<Agent>>,
    /// New and changed reservations, by id.
    pub reservations: Vec<Reservation>,
    /// New entries; parents before children.
    pub entries: Vec<Entry>,
    /// New and changed steps, by agent and key. A step's kind, side effect and name never change.
    pub steps: Vec<Step>,
    /// New and changed queued messages, by id.
    pub tickets: Vec<Ticket>,
    /// New events, in order.
    pub events: Vec<NewEvent>,
}

impl Changeset {
    /// Whether there is nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.projects.is_empty()
            && self.budgets.is_empty()
            && self.swarms.is_empty()
            && self.tasks.is_empty()
            && self.agents.is_empty()
            && self.reservations.is_empty()
            && self.entries.is_empty()
            && self.steps.is_empty()
            && self.tickets.is_empty()
            && self.events.is_empty()
    }
}

/// What became true by a commit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Committed {
    /// The changeset's events with their numbers, in order.
    pub events: Vec<Event>,
}
