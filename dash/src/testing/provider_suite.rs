//! What every [`LlmProvider`] must do, whatever serves it.
//!
//! A provider's own test calls [`run_all`] with a few requests; each finding about a provider
//! becomes a check here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;

use crate::llm::{LlmEvent, LlmProvider, LlmRequest, MessageBuilder};
use crate::model::{AssistantBlock, AssistantMessage, StopReason};

/// How long a count may take to become what it must be. Only a failing provider waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// A provider and what its test can see of the far side.
#[derive(Debug)]
pub struct ProviderUnderTest {
    /// The provider.
    pub provider: Arc<dyn LlmProvider>,
    /// Requests it answers, well or with an error, within a short time.
    pub requests: Vec<LlmRequest>,
    /// A request whose answer begins and then never ends.
    pub endless: LlmRequest,
    /// How many calls the far side has seen begin.
    pub started: watch::Receiver<usize>,
    /// How many calls the far side still serves; `None` if there is no far side to see.
    pub open: Option<watch::Receiver<usize>>,
}

/// Runs every check.
///
/// # Panics
///
/// If the provider breaks the contract of [`dash::llm`](crate::llm).
pub async fn run_all(subject: ProviderUnderTest) {
    is_lazy(&subject).await;
    events_obey_the_grammar(&subject).await;
    dropping_cancels(subject).await;
}

/// A stream that is never polled asks nothing.
async fn is_lazy(subject: &ProviderUnderTest) {
    let before = *subject.started.borrow();
    for request in &subject.requests {
        drop(subject.provider.stream(request.clone()));
    }
    tokio::task::yield_now().await;
    assert_eq!(
        *subject.started.borrow(),
        before,
        "a stream asked before it was polled"
    );
}

async fn events_obey_the_grammar(subject: &ProviderUnderTest) {
    for request in &subject.requests {
        let mut stream = subject.provider.stream(request.clone());
        let mut events = Vec::new();
        while let Some(event) = stream.next().await {
            events.push(event);
        }
        let verdict = check_grammar(&events);
        assert_eq!(verdict, Ok(()), "events: {events:#?}");
        if let Some(LlmEvent::Done { message, .. } | LlmEvent::Error { message, .. }) =
            events.last()
        {
            assert_eq!(message.provider, subject.provider.id());
            assert_eq!(message.model, request.model.id);
            assert_eq!(message.cost, request.model.price.cost(message.usage));
        }
    }
}

/// A dropped stream ends the call on the far side.
async fn dropping_cancels(subject: ProviderUnderTest) {
    let mut stream = subject.provider.stream(subject.endless.clone());
    let first = stream.next().await;
    assert!(
        matches!(first, Some(LlmEvent::Start { .. })),
        "the endless answer began with {first:?}"
    );
    if let Some(mut open) = subject.open {
        assert!(
            *open.borrow() > 0,
            "the far side does not serve the call it began"
        );
        drop(stream);
        let closed = tokio::time::timeout(PATIENCE, open.wait_for(|open| *open == 0)).await;
        assert!(
            matches!(closed, Ok(Ok(_))),
            "the call went on after its stream was dropped"
        );
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Text(Phase),
    Thinking(Phase),
    Call(Phase),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Closed,
}

/// Checks a whole stream of events against the grammar of [`LlmEvent`]: `Start` first, unless the
/// stream is a lone error; blocks opened at the next free index, grown only while open, and closed
/// before `Done`; one terminal event, at the end; the fold of the events is the final message.
///
/// # Errors
///
/// What is wrong, in words.
pub fn check_grammar(events: &[LlmEvent]) -> Result<(), String> {
    let Some((terminal, body)) = events.split_last() else {
        return Err("no event".to_owned());
    };
    let message = match terminal {
        LlmEvent::Done { message, .. } | LlmEvent::Error { message, .. } => message,
        other => return Err(format!("the last event is {other:?}")),
    };
    let is_done = matches!(terminal, LlmEvent::Done { .. });
    if is_done && body.is_empty() {
        return Err("`Done` without `Start`".to_owned());
    }
    let mut blocks = Vec::new();
    let mut fold = MessageBuilder::new(&message.provider, &message.model);
    for (at, event) in body.iter().enumerate() {
        if matches!(event, LlmEvent::Start { .. }) != (at == 0) {
            return Err(format!(
                "event {at} is {event:?}; `Start` comes first and once"
            ));
        }
        step(&mut blocks, event)?;
        fold.apply(event);
    }
    let is_open = |block: &Block| {
        matches!(
            block,
            Block::Text(Phase::Open) | Block::Thinking(Phase::Open) | Block::Call(Phase::Open)
        )
    };
    if is_done && blocks.iter().any(is_open) {
        return Err("`Done` while a block is open".to_owned());
    }
    check_message(terminal, message, fold.message())
}

fn check_message(
    terminal: &LlmEvent,
    message: &AssistantMessage,
    fold: &AssistantMessage,
) -> Result<(), String> {
    let of = |m: &AssistantMessage| {
        (
            m.content.clone(),
            m.response_id.clone(),
            m.response_model.clone(),
        )
    };
    if of(message) != of(fold) {
        return Err(format!(
            "the fold {fold:#?} is not the message {message:#?}"
        ));
    }
    let fits = match terminal {
        LlmEvent::Done { reason, message } => {
            let calls = message.tool_calls().count();
            *reason == message.stop_reason
                && fold.usage == message.usage
                && match reason {
                    StopReason::Stop => calls == 0,
                    StopReason::ToolUse => calls > 0,
                    StopReason::Length => true,
                    StopReason::Error | StopReason::Aborted => false,
                }
        }
        _ => matches!(message.stop_reason, StopReason::Error | StopReason::Aborted),
    };
    let objects = message.content.iter().all(|block| match block {
        AssistantBlock::ToolCall(call) => call.arguments.is_object(),
        AssistantBlock::Text { .. } | AssistantBlock::Thinking { .. } => true,
    });
    if fits && objects {
        Ok(())
    } else {
        Err(format!("the end does not fit: {terminal:#?}"))
    }
}

fn step(blocks: &mut Vec<Block>, event: &LlmEvent) -> Result<(), String> {
    let (index, needs, becomes) = match event {
        LlmEvent::TextStart { index } => (*index, None, Block::Text(Phase::Open)),
        LlmEvent::ThinkingStart { index } => (*index, None, Block::Thinking(Phase::Open)),
        LlmEvent::ToolCallStart { index, .. } => (*index, None, Block::Call(Phase::Open)),
        LlmEvent::TextDelta { index, .. } => keep(*index, Block::Text(Phase::Open)),
        LlmEvent::ThinkingDelta { index, .. } => keep(*index, Block::Thinking(Phase::Open)),
        LlmEvent::ToolCallDelta { index, .. } => keep(*index, Block::Call(Phase::Open)),
        LlmEvent::TextEnd { index, .. } => (
            *index,
            Some(Block::Text(Phase::Open)),
            Block::Text(Phase::Closed),
        ),
        LlmEvent::ThinkingEnd { index, .. } => (
            *index,
            Some(Block::Thinking(Phase::Open)),
            Block::Thinking(Phase::Closed),
        ),
        LlmEvent::ToolCallEnd { index, .. } => (
            *index,
            Some(Block::Call(Phase::Open)),
            Block::Call(Phase::Closed),
        ),
        LlmEvent::Start { .. } | LlmEvent::Usage { .. } | LlmEvent::Heartbeat => return Ok(()),
        LlmEvent::Done { .. } | LlmEvent::Error { .. } => {
            return Err(format!("{event:?} is not the last event"));
        }
    };
    let place = usize::try_from(index).unwrap_or(usize::MAX);
    let is_next = place == blocks.len();
    match (needs, blocks.get_mut(place)) {
        (None, None) if is_next => blocks.push(becomes),
        (Some(needed), Some(block)) if *block == needed => *block = becomes,
        (_, block) => return Err(format!("{event:?} meets {block:?} at its index")),
    }
    Ok(())
}

const fn keep(index: u32, block: Block) -> (u32, Option<Block>, Block) {
    (index, Some(block), block)
}
