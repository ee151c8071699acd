//! What holds at every commit, and before every effect.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::history::Ack;
use super::{Broken, Found, History};
use crate::event::{Event, EventKind};
use crate::ids::AgentId;
use crate::model::{AgentStatus, Message, SideEffect, Step, StepKey, StepState, SwarmStatus};
use crate::store::Changeset;

/// Events are numbered from 1 without a gap.
///
/// # Errors
///
/// If one is not the next.
pub fn seq_has_no_gap(history: &History, events: &[Event]) -> Found {
    let mut last = history.events.len() as u64;
    for event in events {
        if event.seq != last + 1 {
            let why = format!("event {} follows event {last}", event.seq);
            return Err(Broken::new("seq_has_no_gap", why));
        }
        last = event.seq;
    }
    Ok(())
}

macro_rules! check_move {
    ($what:literal, $id:expr, $old:expr, $new:expr) => {
        if $old != $new && !$old.can_reach($new) {
            let why = format!(
                concat!($what, " {:?} went from `{}` to `{}`"),
                $id, $old, $new
            );
            return Err(Broken::new("moves_are_legal", why));
        }
    };
}

/// Every status can be reached from the one that was stored, by the tables of legal moves.
///
/// # Errors
///
/// If one cannot.
pub fn moves_are_legal(history: &History, changes: &Changeset) -> Found {
    for row in changes.swarms.iter().map(|w| &w.row) {
        if let Some(old) = history.swarms.get(&row.id) {
            check_move!("swarm", row.id, old.status, row.status);
        }
    }
    for row in changes.tasks.iter().map(|w| &w.row) {
        if let Some(old) = history.tasks.get(&row.id) {
            check_move!("task", row.id, old.status, row.status);
        }
    }
    for row in changes.agents.iter().map(|w| &w.row) {
        if let Some(old) = history.agents.get(&row.id) {
            check_move!("agent", row.id, old.status, row.status);
        }
    }
    for row in &changes.reservations {
        if let Some(old) = history.reservations.get(&row.id) {
            check_move!("reservation", row.id, old.state, row.state);
        }
    }
    for row in &changes.tickets {
        if let Some(old) = history.tickets.get(&row.id) {
            check_move!("message", row.id, old.state, row.state);
        }
    }
    Ok(())
}

/// Where an agent may be after an event, given where it was; `None` = the event is illegal there.
const fn agent_move(from: Option<AgentStatus>, kind: &EventKind) -> Option<AgentStatus> {
    use AgentStatus::{Completed, Failed, Idle, Killed, Paused, Running, Spawning};
    match (kind, from) {
        (EventKind::AgentSpawned(_), None) => Some(Idle),
        // A new engine finds an agent at work, and takes it up again.
        (EventKind::AgentStarted(_) | EventKind::ToolStarted(_), Some(Spawning | Running)) => {
            Some(Running)
        }
        (EventKind::AgentStarted(_), Some(Paused)) => Some(Paused),
        (EventKind::AgentPaused(_), Some(Spawning | Running)) => Some(Paused),
        (EventKind::TaskStarted(_), Some(Idle))
        | (EventKind::AgentResumed(_), Some(Paused))
        | (EventKind::AgentRetrying(_) | EventKind::AgentEscalated(_), Some(Spawning | Running)) => {
            Some(Spawning)
        }
        (EventKind::AgentRetrying(_) | EventKind::AgentEscalated(_), Some(Paused)) => Some(Paused),
        (EventKind::AgentCompleted(_), Some(Running | Spawning)) => Some(Completed),
        (EventKind::AgentFailed(_), Some(Spawning | Running | Paused)) => Some(Failed),
        (EventKind::AgentKilled(_), Some(Idle | Spawning | Running | Paused)) => Some(Killed),
        (
            EventKind::AgentTurn(_)
            | EventKind::AgentTurnFailed(_)
            | EventKind::AgentCompacted(_)
            | EventKind::BranchSummarised(_)
            | EventKind::AgentBranched(_)
            | EventKind::ToolCompleted(_),
            Some(at),
        ) if !at.is_terminal() => Some(at),
        _ => None,
    }
}

const fn agent_of(kind: &EventKind) -> Option<AgentId> {
    Some(match kind {
        EventKind::AgentSpawned(e) => e.agent_id,
        EventKind::TaskStarted(e) => e.agent_id,
        EventKind::AgentStarted(e) => e.agent_id,
        EventKind::AgentPaused(e) => e.agent_id,
        EventKind::AgentResumed(e) => e.agent_id,
        EventKind::AgentRetrying(e) => e.agent_id,
        EventKind::AgentEscalated(e) => e.agent_id,
        EventKind::AgentTurn(e) => e.agent_id,
        EventKind::AgentTurnFailed(e) => e.agent_id,
        EventKind::AgentCompacted(e) => e.agent_id,
        EventKind::AgentBranched(e) => e.agent_id,
        EventKind::BranchSummarised(e) => e.agent_id,
        EventKind::ToolStarted(e) => e.agent_id,
        EventKind::ToolCompleted(e) => e.agent_id,
        EventKind::AgentCompleted(e) => e.agent_id,
        EventKind::AgentFailed(e) => e.agent_id,
        EventKind::AgentKilled(e) => e.agent_id,
        _ => return None,
    })
}

/// The same as [`moves_are_legal`] for agents, by the events alone: several moves of one commit
/// show here, one by one.
///
/// # Errors
///
/// If an event tells of something that cannot follow what was told before.
pub fn events_tell_legal_moves(history: &mut History, event: &Event) -> Found {
    let Some(id) = agent_of(&event.kind) else {
        return Ok(());
    };
    let from = history.told_agents.get(&id).copied();
    // A retry by hand has no event of its own: the agent is heard of again.
    let reopened = from == Some(AgentStatus::Failed)
        && history
            .agents
            .get(&id)
            .is_some_and(|agent| agent.attempt > 0);
    let next = agent_move(from, &event.kind).or_else(|| {
        let again = Some(AgentStatus::Spawning).filter(|_| reopened);
        again.and_then(|again| agent_move(Some(again), &event.kind))
    });
    match next {
        Some(next) => {
            history.told_agents.insert(id, next);
            Ok(())
        }
        None => {
            let why = format!(
                "event {} ({}) of an agent that is {from:?}",
                event.seq,
                event.kind.name()
            );
            Err(Broken::new("moves_are_legal", why))
        }
    }
}

/// A step that has ended is never written as anything else, and never tried again.
///
/// # Errors
///
/// If one is.
pub fn no_step_is_done_twice(history: &History, changes: &Changeset) -> Found {
    for row in &changes.steps {
        let Some(old) = history.steps.get(&(row.agent_id, row.key)) else {
            continue;
        };
        let again = old.state.is_terminal() && (row.state != old.state || row.tries != old.tries);
        if again || (old.state != row.state && !old.state.can_reach(row.state)) {
            let why = format!(
                "step {}/{} was `{}` after try {} and is `{}` in try {}",
                row.agent_id, row.key, old.state, old.tries, row.state, row.tries
            );
            return Err(Broken::new("no_step_is_done_twice", why));
        }
    }
    Ok(())
}

/// What is spent, uncertain and held stays within the cap of every budget, but for what servers
/// billed beyond their own limits.
///
/// # Errors
///
/// If it does not.
pub fn spent_is_within_caps(changes: &Changeset) -> Found {
    for row in changes.budgets.iter().map(|w| &w.row) {
        let taken = [row.spent, row.uncertain, row.reserved];
        let sum: i128 = taken.iter().map(|n| i128::from(*n)).sum();
        let cap = row
            .allocated
            .map(|cap| i128::from(cap) + i128::from(row.overrun));
        if cap.is_some_and(|cap| sum > cap) || taken.iter().any(|n| *n < 0) {
            let why = format!(
                "{} budget {}: spent {} + uncertain {} + reserved {} of {:?}, overrun {}",
                row.scope.as_str(),
                row.id,
                row.spent,
                row.uncertain,
                row.reserved,
                row.allocated,
                row.overrun
            );
            return Err(Broken::new("spent_is_within_caps", why));
        }
    }
    Ok(())
}

/// Sinks are told only what is committed already.
///
/// # Errors
///
/// If one is told of an event that is not.
pub fn nothing_is_told_before_its_commit(history: &History, told: &[Arc<Event>]) -> Found {
    for event in told {
        let at = usize::try_from(event.seq.saturating_sub(1)).unwrap_or(usize::MAX);
        if history.events.get(at) != Some(&event.id) {
            let why = format!("event {} ({}) was told first", event.seq, event.kind.name());
            return Err(Broken::new("nothing_is_told_before_its_commit", why));
        }
    }
    Ok(())
}

/// A step that is about to have an effect was committed as intended, and has not ended.
///
/// # Errors
///
/// If it was not, or has.
pub fn effect_was_granted(
    history: &History,
    key: &str,
    try_number: Option<u32>,
) -> Result<Option<(AgentId, StepKey)>, Broken> {
    let Some(at) = History::step_of(key) else {
        let why = format!("an effect has the key `{key}`, which names no step");
        return Err(Broken::new("nothing_is_told_before_its_commit", why));
    };
    let known = |step: &&Step| try_number.is_none_or(|number| step.tries >= number);
    let Some(step) = history.steps.get(&at).filter(known) else {
        let why = format!("the effect of {key} came before its intention was committed");
        return Err(Broken::new("nothing_is_told_before_its_commit", why));
    };
    if matches!(step.state, StepState::Done | StepState::Resolved) {
        let why = format!("{key} is `{}` and has another effect", step.state);
        return Err(Broken::new("no_step_is_done_twice", why));
    }
    Ok(Some(at))
}

/// In what a model is told, each call of an answer has one result, before the next answer; and no
/// result is there without its call.
///
/// # Errors
///
/// If a result is missing, there twice, or without a call.
pub fn requests_are_whole(key: &str, messages: &[Arc<Message>]) -> Found {
    let broken = |why: String| Err(Broken::new("requests_are_whole", format!("{key}: {why}")));
    let mut open: BTreeSet<&str> = BTreeSet::new();
    for message in messages {
        match message.as_ref() {
            Message::Assistant(answer) => {
                if let Some(call) = open.first() {
                    return broken(format!("the call {call} has no result"));
                }
                open.extend(answer.tool_calls().map(|call| call.id.as_str()));
            }
            Message::ToolResult(result) => {
                if !open.remove(result.tool_call_id.as_str()) {
                    return broken(format!(
                        "{} has no call, or two results",
                        result.tool_call_id
                    ));
                }
            }
            Message::User(_) => {}
        }
    }
    match open.first() {
        Some(call) => broken(format!("the call {call} has no result")),
        None => Ok(()),
    }
}

/// A tool that may run once has run once, but for retries that someone has decided on.
///
/// # Errors
///
/// If it has run more often.
pub fn once_effects_run_at_most_once_or_are_in_doubt(history: &History, key: &str) -> Found {
    let runs = history.runs.get(key).map_or(&[][..], Vec::as_slice);
    let once = runs
        .iter()
        .filter(|run| run.class == SideEffect::Once)
        .count();
    let retries = History::step_of(key).and_then(|at| history.retries.get(&at));
    let allowed = 1 + retries.copied().unwrap_or(0) as usize;
    if once > allowed {
        let why = format!("{key} ran {once} times, {allowed} may");
        return Err(Broken::new(
            "once_effects_run_at_most_once_or_are_in_doubt",
            why,
        ));
    }
    Ok(())
}

/// What a caller was told is committed.
///
/// # Errors
///
/// If it is not.
pub fn acknowledged_write_is_there(history: &History, ack: Ack) -> Found {
    let is_there = match ack {
        Ack::Swarm(id) => history.swarms.contains_key(&id),
        Ack::Agent(id) => history.agents.contains_key(&id),
        Ack::Task(id) => history.tasks.contains_key(&id),
        Ack::Ticket(id) => history.tickets.contains_key(&id),
        Ack::Resolved(agent, key) => history.steps.get(&(agent, key)).is_some_and(|step| {
            step.state == StepState::Resolved
                || step.tries > 1
                || history.retries.contains_key(&(agent, key))
        }),
        Ack::Destroyed(id) => history
            .swarms
            .get(&id)
            .is_some_and(|swarm| swarm.status == SwarmStatus::Destroyed),
        Ack::Killed(id) => history
            .agents
            .get(&id)
            .is_some_and(|agent| agent.status == AgentStatus::Killed),
    };
    if is_there {
        Ok(())
    } else {
        Err(Broken::new(
            "acknowledged_writes_are_kept",
            format!("{ack:?} is not there"),
        ))
    }
}
