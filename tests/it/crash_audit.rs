//! What must be true of a database file at any moment, and of one whose swarms have ended.

#![cfg(test)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use dash::event::{Event, EventKind};
use dash::ids::{AgentId, BudgetId};
use dash::model::budget::ReservationState;
use dash::model::{
    Agent, Budget, Entry, Reservation, SideEffect, Step, StepKind, StepState, Swarm, Task, Ticket,
};
use dash::store::{
    AgentFilter, BudgetFilter, EventFilter, Page, ReservationFilter, SqliteStore, StepFilter,
    Store as _, StoreError, SwarmFilter, TaskFilter, TicketFilter,
};
use rusqlite::Connection;

use crate::crash_conversations::check_conversations;

/// Everything of a run that is compared.
#[derive(Debug, PartialEq)]
pub(crate) struct Records {
    pub(crate) events: Vec<Event>,
    pub(crate) steps: Vec<Step>,
    pub(crate) budgets: Vec<Budget>,
    pub(crate) reservations: Vec<Reservation>,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) swarms: Vec<Swarm>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) tasks: Vec<Task>,
    /// The conversation of each agent, oldest entry first.
    pub(crate) paths: HashMap<AgentId, Vec<Entry>>,
}

/// Entries and rows that a read asks for at once.
const PAGE: usize = 1_000;

/// Reads every page of a list.
macro_rules! all {
    ($store:expr, $list:ident, $filter:expr, $id:expr) => {{
        let mut all = Vec::new();
        let mut page = Page::first(PAGE);
        loop {
            let read = $store.$list(&$filter, page).await?;
            let is_last = read.len() < PAGE;
            page.after = read.last().map($id);
            all.extend(read);
            if is_last {
                break all;
            }
        }
    }};
}

/// Audits a copy of `dir/run.db`, which no process has open, and so leaves the file as it was.
pub(crate) async fn audit(db: &Path) -> Records {
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("run.db");
    let wal = |path: &Path| path.with_extension("db-wal");
    std::fs::copy(db, &path).unwrap();
    if wal(db).exists() {
        std::fs::copy(wal(db), wal(&path)).unwrap();
    }
    // SQLite's own `integrity_check` and the hash of every event.
    let events = SqliteStore::verify(&path).await.unwrap();
    check_with_sql(&path, events);
    let store = SqliteStore::open(&path).await.unwrap();
    let records = read(&store).await.unwrap();
    check_events(&records.events, events);
    check_ledger(&records);
    check_journal(&records);
    check_conversations(&records);
    store.close().await.unwrap();
    records
}

/// Reads all that a store holds.
pub(crate) async fn read(store: &SqliteStore) -> Result<Records, StoreError> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let after = events.last().map_or(0, |event| event.seq);
        let filter = EventFilter::default();
        let read = store.list_events(&filter, after, PAGE).await?;
        let is_last = read.len() < PAGE;
        events.extend(read);
        if is_last {
            break;
        }
    }
    let by_key = |s: &Step| (s.agent_id, s.key);
    let agents = all!(store, list_agents, AgentFilter::default(), |a: &Agent| a.id);
    let mut paths = HashMap::new();
    for agent in &agents {
        let path = match agent.head {
            Some(head) => store.list_path(head, 10_000).await?,
            None => Vec::new(),
        };
        paths.insert(agent.id, path);
    }
    Ok(Records {
        tasks: all!(store, list_tasks, TaskFilter::default(), |t: &Task| t.id),
        agents,
        paths,
        tickets: all!(
            store,
            list_tickets,
            TicketFilter::default(),
            |t: &Ticket| t.id
        ),
        swarms: all!(store, list_swarms, SwarmFilter::default(), |s: &Swarm| s.id),
        events,
        steps: all!(store, list_steps, StepFilter::default(), by_key),
        budgets: all!(
            store,
            list_budgets,
            BudgetFilter::default(),
            |b: &Budget| b.id
        ),
        reservations: all!(
            store,
            list_reservations,
            ReservationFilter::default(),
            |r: &Reservation| r.id
        ),
    })
}

/// The same questions once more, past the engine's own code.
fn check_with_sql(path: &Path, events: u64) {
    let events = i64::try_from(events).unwrap();
    let conn = Connection::open(path).unwrap();
    let text = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, String>(0));
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(text("PRAGMA integrity_check").unwrap(), "ok");
    let orphans = conn.query_row("PRAGMA foreign_key_check", [], |_| Ok(()));
    assert_eq!(orphans, Err(rusqlite::Error::QueryReturnedNoRows));
    assert_eq!(number("SELECT count(*) FROM events"), events);
    assert_eq!(number("SELECT coalesce(max(seq), 0) FROM events"), events);
    assert_eq!(number("SELECT coalesce(min(seq), 1) FROM events"), 1);
    let settled =
        number("SELECT coalesce(sum(actual_usd), 0) FROM reservations WHERE state = 'settled'");
    let spent = number("SELECT coalesce(sum(spent), 0) FROM budgets WHERE scope = 'project'");
    assert_eq!(settled, spent, "what the project spent is what was settled");
}

fn check_events(events: &[Event], count: u64) {
    let numbers: Vec<u64> = events.iter().map(|event| event.seq).collect();
    let expected: Vec<u64> = (1..=count).collect();
    assert_eq!(numbers, expected, "no number is missing");
    let ids: HashSet<_> = events.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), events.len(), "ids are unique");
    let in_order = events.is_sorted_by_key(|event| event.at);
    assert!(in_order, "time does not go back");
}

/// Every budget is exactly the sum of the reservations below it, and within its cap.
fn check_ledger(records: &Records) {
    let parents: HashMap<BudgetId, Option<BudgetId>> = records
        .budgets
        .iter()
        .map(|b| (b.id, b.parent_id))
        .collect();
    let mut sums: HashMap<BudgetId, [i64; 3]> = HashMap::new();
    for r in &records.reservations {
        let mut node = Some(r.budget_id);
        while let Some(id) = node {
            let sum = sums.entry(id).or_default();
            match r.state {
                ReservationState::Settled => sum[0] += r.actual.unwrap().usd.0,
                ReservationState::Uncertain => sum[1] += r.held.usd.0,
                ReservationState::Held => sum[2] += r.held.usd.0,
                ReservationState::Released => {}
            }
            node = parents[&id];
        }
    }
    for b in &records.budgets {
        let sum = sums.get(&b.id).copied().unwrap_or_default();
        let row = [b.spent, b.uncertain, b.reserved];
        assert_eq!(row, sum, "spent, uncertain and reserved of {b:?}");
        let cap = b.allocated.unwrap_or(i64::MAX);
        assert!(b.charged() + b.reserved <= cap, "{b:?}");
    }
}

/// No step ends twice, and a step's state is what its events say.
fn check_journal(records: &Records) {
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    let mut turns: BTreeMap<String, usize> = BTreeMap::new();
    let mut called = HashSet::new();
    let mut costs = 0;
    for event in &records.events {
        match &event.kind {
            EventKind::ToolCompleted(e) => {
                *ends
                    .entry(format!("{}/{}", e.agent_id, e.step))
                    .or_default() += 1;
            }
            EventKind::StepResolved(e) if e.resolution != "retry" => {
                *ends
                    .entry(format!("{}/{}", e.agent_id, e.step))
                    .or_default() += 1;
            }
            EventKind::AgentTurn(e) => {
                called.insert((e.agent_id, e.step));
                let turn = format!("{}/{}", e.agent_id, e.step.turn());
                *turns.entry(turn).or_default() += 1;
                costs += e.cost_nanos;
            }
            // A summary is a turn of its own.
            EventKind::AgentCompacted(e) => {
                called.insert((e.agent_id, e.step));
                let turn = format!("{}/{}", e.agent_id, e.step.turn());
                *turns.entry(turn).or_default() += 1;
                costs += e.cost_nanos;
            }
            _ => {}
        }
    }
    for (what, times) in ends.iter().chain(&turns) {
        assert_eq!(*times, 1, "{what} ended more than once");
    }
    let done: HashSet<_> = records
        .steps
        .iter()
        .filter(|s| s.state == StepState::Done)
        .map(|s| (s.agent_id, s.key))
        .collect();
    let settled: i64 = records
        .reservations
        .iter()
        .filter(|r| done.contains(&(r.agent_id, r.step)))
        .filter_map(|r| r.actual)
        .map(|actual| actual.usd.0)
        .sum();
    assert_eq!(costs, settled, "what the turns cost is what was settled");
    for agent in &records.agents {
        let own = records.reservations.iter();
        let own = own.filter(|r| r.agent_id == agent.id);
        let (mut usd, mut tokens) = (0, 0);
        for actual in own.filter_map(|r| r.actual) {
            usd += actual.usd.0;
            tokens += actual.tokens;
        }
        let counted = (agent.cost.0, agent.usage.total());
        assert_eq!(counted, (usd, tokens), "cost and tokens of {agent:?}");
    }
    for step in &records.steps {
        let key = step.idempotency_key();
        let has_ended = matches!(step.state, StepState::Done | StepState::Resolved);
        let told = match step.key.kind() {
            StepKind::Tool => ends.contains_key(&key),
            StepKind::Model | StepKind::Summary => called.contains(&(step.agent_id, step.key)),
        };
        assert_eq!(told, has_ended, "{step:?}");
        // So is one that was under way then. Either leaves an entry for the model to read.
        let is_answered = step.key.kind() == StepKind::Tool && step.state.is_terminal();
        assert_eq!(
            step.entry_id.is_some(),
            has_ended || is_answered,
            "{step:?}"
        );
    }
}

/// Every event and every ticket a process told of is there, events unchanged.
pub(crate) fn check_told(records: &Records, said: &[String]) {
    for line in said.iter().filter_map(|line| line.strip_prefix("event ")) {
        let (seq, id) = line.split_once(' ').unwrap();
        let seq: usize = seq.parse().unwrap();
        let stored = records
            .events
            .get(seq - 1)
            .map(|event| event.id.to_string());
        assert_eq!(stored.as_deref(), Some(id), "event {seq} was told");
    }
    let tickets: HashSet<String> = records.tickets.iter().map(|t| t.id.to_string()).collect();
    for id in said.iter().filter_map(|line| line.strip_prefix("ticket ")) {
        assert!(tickets.contains(id), "ticket {id} was told");
    }
}

/// Effects against the journal: each was intended before it happened, no try ran twice, and what
/// may happen once has happened at most once.
pub(crate) fn check_effects(dir: &Path, records: &Records) {
    let steps: HashMap<String, &Step> = records
        .steps
        .iter()
        .map(|step| (step.idempotency_key(), step))
        .collect();
    let mut retries: HashMap<String, u32> = HashMap::new();
    for event in &records.events {
        if let EventKind::StepResolved(e) = &event.kind
            && e.resolution == "retry"
        {
            *retries
                .entry(format!("{}/{}", e.agent_id, e.step))
                .or_default() += 1;
        }
    }
    for class in SideEffect::ALL {
        let path = dir.join(format!("{}.ledger", class.as_str()));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut seen = HashSet::new();
        let mut happened: HashMap<&str, u32> = HashMap::new();
        for line in text.lines() {
            assert!(
                seen.insert(line),
                "{class:?}: `{line}` ran twice as one try"
            );
            let (key, number) = line.split_once(' ').unwrap();
            *happened.entry(key).or_default() += 1;
            let step = steps
                .get(key)
                .unwrap_or_else(|| panic!("{key} was never intended"));
            assert_eq!(step.side_effect, class);
            assert!(
                number.parse::<u32>().unwrap() <= step.tries,
                "{line}: {step:?}"
            );
        }
        for (key, times) in &happened {
            let at_most_once = matches!(class, SideEffect::Once | SideEffect::Reconcilable);
            assert!(
                *times == 1 || !at_most_once,
                "{class:?}: {key} happened {times} times"
            );
        }
        // Tools of the engine, which have other names, note nothing.
        let noted = |s: &&&Step| s.key.kind() == StepKind::Tool && s.name == class.as_str();
        for step in steps.values().filter(noted) {
            assert_eq!(step.side_effect, class, "{step:?}");
            let key = step.idempotency_key();
            let happened_says_step =
                step.state == StepState::Done || step.note.as_deref() == Some("result");
            if happened_says_step {
                assert!(
                    happened.contains_key(key.as_str()),
                    "{step:?} left no effect"
                );
            }
            if class == SideEffect::Once {
                let allowed = 1 + retries.get(&key).copied().unwrap_or_default();
                assert!(
                    step.tries <= allowed,
                    "run again without a decision: {step:?}"
                );
            }
        }
    }
}

/// Agents of the driver's two plain swarms.
const PLAIN_AGENTS: usize = 20;
/// Agents of its two ladders that have a part, and those that each of them calls as a tool.
const PARTS: usize = 6;

/// What holds once so many swarms have ended, with one of these statuses.
fn check_ended(records: &Records, statuses: &[&str], swarms: usize) {
    for b in &records.budgets {
        assert_eq!(b.reserved, 0, "nothing is held: {b:?}");
    }
    for agent in &records.agents {
        assert!(agent.status.is_terminal(), "{agent:?}");
    }
    assert_eq!(records.swarms.len(), swarms);
    for swarm in &records.swarms {
        let status = swarm.status.as_str();
        assert!(statuses.contains(&status), "{swarm:?}");
    }
}

/// What holds of the agents that do what every plain agent does, once all have completed.
fn check_plain(records: &Records, plain: &[&Agent]) {
    let open = |s: &&Step| matches!(s.state, StepState::Intended | StepState::InDoubt);
    assert_eq!(records.steps.iter().find(open), None);
    assert_eq!(plain.len(), PLAIN_AGENTS);
    for agent in plain {
        let of_tool = |s: &&Step| s.agent_id == agent.id && s.key.kind() == StepKind::Tool;
        let calls = records.steps.iter().filter(of_tool).count();
        assert_eq!((agent.turns, calls), (4, 7), "{agent:?}");
    }
    for event in &records.events {
        if let EventKind::ToolCompleted(e) = &event.kind {
            assert!(!e.is_error, "a call that no hook has rewritten: {e:?}");
        }
    }
}

/// What holds once the driver's served swarm has completed.
pub(crate) fn check_end_served(records: &Records) {
    check_ended(records, &["completed"], 1);
    let all: Vec<&Agent> = records.agents.iter().collect();
    check_plain(records, &all);
}

/// What holds once all of the driver's scripted swarms have ended, with one of these statuses.
pub(crate) fn check_end(records: &Records, statuses: &[&str]) {
    check_ended(records, statuses, 4);
    if statuses != ["completed"] {
        return;
    }
    let ladders = records.swarms.iter();
    let ladders = ladders.filter(|s| s.name.starts_with("ladder"));
    let ladders: HashSet<_> = ladders.map(|s| s.id).collect();
    let is_plain = |a: &&Agent| !ladders.contains(&a.swarm_id);
    let plain: Vec<&Agent> = records.agents.iter().filter(is_plain).collect();
    check_plain(records, &plain);
    let others = records.agents.iter().filter(|a| !is_plain(a));
    let (children, workers): (Vec<_>, Vec<_>) = others.partition(|a| a.parent_id.is_some());
    assert_eq!((children.len(), workers.len()), (PARTS, PARTS));
    for child in children {
        assert_eq!(child.profile.as_deref(), Some("helper"), "{child:?}");
    }
    for (number, worker) in (1..).zip(workers) {
        // Those with an even part fail with their first model.
        let model = if number % 2 == 0 { "second" } else { "first" };
        assert_eq!(worker.model, model, "{worker:?}");
        assert_eq!(
            worker.result.as_deref(),
            Some(r#"{"total":3}"#),
            "{worker:?}"
        );
        let summaries = records.steps.iter().filter(|s| {
            s.agent_id == worker.id
                && s.key.kind() == StepKind::Summary
                && s.state == StepState::Done
        });
        assert!(summaries.count() >= 1, "{worker:?}");
    }
}
