//! What every [`LlmProvider`] must do, whatever serves it, as runnable cases.
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! use std::sync::Arc;
//!
//! use dash::llm::{ScriptedLlm, ScriptedReply};
//! use dash::testing::provider_suite::{self, ProviderUnderTest, request};
//!
//! let llm = ScriptedLlm::new("mine", |asked| match asked.max_output_tokens {
//!     7 => ScriptedReply::text("for ever").hanging(),
//!     _ => ScriptedReply::text("Hello."),
//! });
//! let mut endless = request("mine", "Go on.");
//! endless.max_output_tokens = 7;
//! let requests = vec![request("mine", "Hello?")];
//! let subject = ProviderUnderTest::new(Arc::new(llm), requests, endless);
//! provider_suite::run_all(subject).await;
//! # });
//! ```
//!
//! Give it requests that are answered well, refused and cut in the middle; who can count calls on the
//! far side gives the counters too. Each finding about a provider becomes a case here.

use std::sync::Arc;
use std::task::Poll;

use futures_util::{StreamExt as _, future, poll};
use tokio::sync::watch;

use super::verdict::{Broken, Verdict, broken, ensure, judge, unknown};
use crate::llm::{
    Billing, LlmEvent, LlmProvider, LlmRequest, MessageBuilder, Model, RequestOptions, ToolChoice,
};
use crate::model::{AssistantBlock, AssistantMessage, Message, MessageOrigin, StopReason};

/// Characters of an error's message: 4,000 of the server's, and what stands around them.
const ERROR_CHARS_MAX: usize = 5_000;

/// A provider and what its test can see of the far side.
#[derive(Debug)]
pub struct ProviderUnderTest {
    /// The provider.
    pub provider: Arc<dyn LlmProvider>,
    /// Requests it answers, well or with an error, within a short time. Each is sent several times.
    pub requests: Vec<LlmRequest>,
    /// A request whose answer begins and then never ends.
    pub endless: LlmRequest,
    /// How many calls the far side has seen begin; `None` if there is no far side to see.
    pub started: Option<watch::Receiver<usize>>,
    /// How many calls the far side still serves; `None` if there is no far side to see.
    pub open: Option<watch::Receiver<usize>>,
    /// Keys and the like: none of them may show in an event, an error or a `Debug` text.
    pub secrets: Vec<String>,
}

impl ProviderUnderTest {
    /// A provider of whose far side nothing can be seen.
    #[must_use]
    pub fn new(
        provider: Arc<dyn LlmProvider>,
        requests: Vec<LlmRequest>,
        endless: LlmRequest,
    ) -> Self {
        Self {
            provider,
            requests,
            endless,
            started: None,
            open: None,
            secrets: Vec::new(),
        }
    }

    fn started(&self) -> usize {
        self.started.as_ref().map_or(0, |count| *count.borrow())
    }
}

/// A plain request for the model `m` of a provider: one message, 100 tokens.
#[must_use]
pub fn request(provider: &str, text: &str) -> LlmRequest {
    LlmRequest {
        model: Arc::new(Model::free("m", provider)),
        system: "".into(),
        messages: vec![Arc::new(Message::user(text, MessageOrigin::Task))],
        tools: Arc::new([]),
        tool_choice: ToolChoice::Auto,
        max_output_tokens: 100,
        temperature: None,
        response_schema: None,
        idempotency_key: "step-1".to_owned(),
        options: RequestOptions::default(),
    }
}

/// The rules, in the words of the contract.
mod rules {
    pub(super) const NAMED: &str = "a provider has a name, always the same";
    pub(super) const LAZY: &str = "`stream` does nothing until the stream is polled";
    pub(super) const GRAMMAR: &str =
        "events obey the grammar, with one terminal event whose message is what was streamed";
    pub(super) const SIGNED: &str =
        "the terminal message names the provider, the model, and the cost of its usage";
    pub(super) const BILLING: &str =
        "`Billing::None` is said only if the request cannot have been billed";
    pub(super) const SHORT: &str = "the server's text is cut";
    pub(super) const SECRET: &str = "keys show nowhere";
    pub(super) const CANCELS: &str = "dropping the stream cancels the call, connection included";
    pub(super) const MODELS: &str = "the models of a provider are its own";
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        /// The names of the cases, in the order in which they run.
        pub const CASES: &[&str] = &[$(stringify!($case)),*];

        /// Runs one case by its name.
        ///
        /// # Errors
        ///
        /// The rule that is broken, or that there is no such case.
        pub async fn run_case(name: &str, subject: &ProviderUnderTest) -> Result<(), Broken> {
            match name {
                $(stringify!($case) => judge("provider", name, Box::pin($case(subject))).await,)*
                _ => Err(unknown("provider", name, CASES)),
            }
        }
    };
}

cases!(
    it_has_a_name,
    a_stream_that_is_not_polled_asks_nothing,
    events_obey_the_grammar,
    calls_side_by_side_do_not_mix,
    an_error_says_what_it_may_have_cost,
    keys_show_nowhere,
    a_stream_dropped_at_once_ends_its_call,
    a_stream_dropped_in_the_middle_ends_its_call,
    after_dropped_calls_it_still_answers,
    models_are_its_own,
);

/// Runs every case.
///
/// Needs a tokio runtime with time.
///
/// # Panics
///
/// If the provider breaks the contract of [`dash::llm`](crate::llm), with the case and the rule.
#[expect(clippy::panic, reason = "a suite fails by panicking")]
pub async fn run_all(subject: ProviderUnderTest) {
    for case in CASES {
        if let Err(broken) = run_case(case, &subject).await {
            panic!("{broken}");
        }
    }
}

/// The whole answer to a request.
async fn events(subject: &ProviderUnderTest, request: &LlmRequest) -> Vec<LlmEvent> {
    subject.provider.stream(request.clone()).collect().await
}

async fn it_has_a_name(subject: &ProviderUnderTest) -> Verdict {
    let name = subject.provider.id().to_owned();
    for request in &subject.requests {
        events(subject, request).await;
    }
    let is_good = !name.is_empty() && name == subject.provider.id();
    ensure(is_good, rules::NAMED, format!("it is called {name:?}"))
}

async fn a_stream_that_is_not_polled_asks_nothing(subject: &ProviderUnderTest) -> Verdict {
    let Some(request) = subject.requests.first() else {
        return broken(rules::GRAMMAR, "no request to try it with");
    };
    let before = subject.started();
    events(subject, request).await;
    let alone = subject.started() - before;
    // While another call runs to its end, the streams that nobody polls have their chance.
    let before = subject.started();
    let idle: Vec<_> = subject
        .requests
        .iter()
        .chain([&subject.endless])
        .map(|request| subject.provider.stream(request.clone()))
        .collect();
    events(subject, request).await;
    let started = subject.started() - before;
    drop(idle);
    let what = format!("{started} calls began, {alone} begin without the streams not polled");
    ensure(started == alone, rules::LAZY, what)
}

async fn events_obey_the_grammar(subject: &ProviderUnderTest) -> Verdict {
    for request in &subject.requests {
        check_answer(subject, request, &events(subject, request).await)?;
    }
    Ok(())
}

fn check_answer(subject: &ProviderUnderTest, request: &LlmRequest, events: &[LlmEvent]) -> Verdict {
    if let Err(wrong) = check_grammar(events) {
        return broken(rules::GRAMMAR, format!("{wrong}\nevents: {events:#?}"));
    }
    let Some(LlmEvent::Done { message, .. } | LlmEvent::Error { message, .. }) = events.last()
    else {
        return broken(rules::GRAMMAR, "no terminal event");
    };
    let is_own = message.provider == subject.provider.id() && message.model == request.model.id;
    let cost = request.model.price.cost(message.usage);
    let fits = message.cost_reported || message.cost == cost;
    let what = format!("its usage costs {cost}, and the message is {message:#?}");
    ensure(is_own && fits, rules::SIGNED, what)
}

async fn calls_side_by_side_do_not_mix(subject: &ProviderUnderTest) -> Verdict {
    let requests = subject.requests.iter().chain(&subject.requests);
    let calls = requests.map(|request| async move { (request, events(subject, request).await) });
    for (request, events) in future::join_all(calls).await {
        check_answer(subject, request, &events)?;
    }
    Ok(())
}

async fn an_error_says_what_it_may_have_cost(subject: &ProviderUnderTest) -> Verdict {
    for request in &subject.requests {
        let events = events(subject, request).await;
        let Some(LlmEvent::Error { error, message }) = events.last() else {
            continue;
        };
        let has_content = !message.content.is_empty();
        let what = format!("{error:?} after {message:#?}");
        let is_good = !has_content || error.billing != Billing::None;
        ensure(is_good, rules::BILLING, what)?;
        let chars = error.message.chars().count();
        let what = format!("an error of {chars} characters");
        let is_good = (1..=ERROR_CHARS_MAX).contains(&chars);
        ensure(is_good, rules::SHORT, what)?;
    }
    Ok(())
}

async fn keys_show_nowhere(subject: &ProviderUnderTest) -> Verdict {
    for request in &subject.requests {
        let shown = format!(
            "{:?} {:?}",
            events(subject, request).await,
            subject.provider
        );
        for secret in &subject.secrets {
            let is_good = !shown.contains(secret.as_str());
            ensure(is_good, rules::SECRET, "a key shows")?;
        }
    }
    Ok(())
}

async fn a_stream_dropped_at_once_ends_its_call(subject: &ProviderUnderTest) -> Verdict {
    let mut stream = subject.provider.stream(subject.endless.clone());
    if let Poll::Ready(None) = poll!(stream.next()) {
        return broken(rules::GRAMMAR, "the endless answer ended at once");
    }
    drop(stream);
    none_is_open(subject).await
}

async fn a_stream_dropped_in_the_middle_ends_its_call(subject: &ProviderUnderTest) -> Verdict {
    let mut stream = subject.provider.stream(subject.endless.clone());
    let first = stream.next().await;
    let what = format!("the endless answer began with {first:?}");
    let is_good = matches!(first, Some(LlmEvent::Start { .. }));
    ensure(is_good, rules::GRAMMAR, what)?;
    if let Some(open) = &subject.open {
        let what = "the far side does not serve the call it began";
        ensure(*open.borrow() > 0, rules::CANCELS, what)?;
    }
    drop(stream);
    none_is_open(subject).await
}

/// The far side serves nothing any more, after a while.
async fn none_is_open(subject: &ProviderUnderTest) -> Verdict {
    let Some(open) = &subject.open else {
        return Ok(());
    };
    let mut open = open.clone();
    let closed = open.wait_for(|open| *open == 0);
    match tokio::time::timeout(super::verdict::HANG / 2, closed).await {
        Ok(Ok(_)) => Ok(()),
        _ => broken(
            rules::CANCELS,
            "the call went on after its stream was dropped",
        ),
    }
}

async fn after_dropped_calls_it_still_answers(subject: &ProviderUnderTest) -> Verdict {
    for _ in 0..20 {
        let mut stream = subject.provider.stream(subject.endless.clone());
        let _first = poll!(stream.next());
    }
    events_obey_the_grammar(subject).await
}

async fn models_are_its_own(subject: &ProviderUnderTest) -> Verdict {
    // Who cannot be asked may say so.
    let models = subject.provider.models().await.unwrap_or_default();
    let is_own = |model: &Model| model.provider == subject.provider.id() && !model.id.is_empty();
    let foreign = models.iter().find(|model| !is_own(model));
    let what = format!("it names {foreign:?}");
    ensure(foreign.is_none(), rules::MODELS, what)
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
