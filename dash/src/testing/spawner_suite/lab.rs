//! The port, the model and the tool that the suite hands to a spawner, and the runs on them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::ManualClock;
use super::super::verdict::{Fault, Verdict, broken, ensure};
use super::book::{Book, Decision, Desk, End, Gate, Made, Orders};
use super::rules;
use crate::env::UnixMillis;
use crate::event::DeltaKind;
use crate::ids::{AgentId, SwarmId};
use crate::llm::{
    LlmEvent, LlmProvider, LlmRequest, LlmStream, Model, ScriptedLlm, ScriptedReply, ToolSpec,
};
use crate::model::{Message, MessageOrigin, NanoUsd, Progress, SideEffect, StepKey, SwarmConfig};
use crate::spawn::{
    Advance, AgentContext, AgentPort, AttemptLimits, Delegation, DelegationResult, EngineTool,
    Grant, Next, SpawnRequest, Spawner,
};
use crate::tool::{Fence, Tool, ToolContext, ToolError, ToolOutput};
use crate::{Error, Result};

/// The suite's tool.
pub(super) const TOOL: &str = "work";
/// How long a tool call may take, on the suite's clock.
pub(super) const TOOL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an attempt may take, on the suite's clock.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(600);
/// Bytes of a result that reach the model.
pub(super) const OUTPUT_BYTES_MAX: usize = 2_000;
/// Tool calls side by side.
pub(super) const PARALLEL_MAX: u32 = 2;
/// What the task says.
pub(super) const TASK: &str = "Do the work.";

/// What a case is about: the spawner, and how many may be at work at once.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) spawner: Arc<dyn Spawner>,
}

/// One attempt, before it starts.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) orders: Orders,
    /// What the model says, by turn from 1; the last for every later turn.
    pub(super) script: Vec<ScriptedReply>,
    pub(super) history: Vec<Arc<Message>>,
    pub(super) attempt: u32,
    pub(super) turns_left: u32,
}

impl Setup {
    /// An attempt with its task and this script.
    pub(super) fn new(script: Vec<ScriptedReply>) -> Self {
        Self {
            orders: Orders {
                tries: 1,
                ..Orders::default()
            },
            script,
            history: vec![Arc::new(Message::user(TASK, MessageOrigin::Task))],
            attempt: 0,
            turns_left: 20,
        }
    }

    fn turns_done(&self) -> u32 {
        let answers = self.history.iter();
        let answers = answers.filter(|m| matches!(***m, Message::Assistant(_)));
        u32::try_from(answers.count()).unwrap_or(u32::MAX)
    }
}

/// A reply that calls the tool once for each action.
pub(super) fn calls(actions: &[&str]) -> ScriptedReply {
    actions.iter().fold(ScriptedReply::new(), |reply, action| {
        reply.add_tool_call(TOOL, json!({"do": action}))
    })
}

/// One attempt under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) desk: Arc<Desk>,
    pub(super) clock: ManualClock,
    pub(super) cancel: CancellationToken,
    tracker: TaskTracker,
    task: JoinSet<()>,
}

impl Lab {
    /// Starts an attempt.
    pub(super) fn start(&self, setup: Setup) -> Running {
        let desk = Arc::new(Desk::new(Book {
            orders: setup.orders.clone(),
            attempt: setup.attempt,
            turns_done: setup.turns_done(),
            turns_left: setup.turns_left + setup.turns_done(),
            conversation: setup.history.clone(),
            ..Book::default()
        }));
        let (clock, cancel) = (ManualClock::new(UnixMillis(0)), CancellationToken::new());
        let tracker = TaskTracker::new();
        let context = AgentContext {
            port: Arc::new(Port {
                desk: Arc::clone(&desk),
                cancel: cancel.clone(),
            }),
            cancel: cancel.clone(),
            tasks: tracker.clone(),
            clock: Arc::new(clock.clone()),
        };
        let request = request(setup, &desk);
        let spawner = Arc::clone(&self.spawner);
        let mut task = JoinSet::new();
        task.spawn(async move { spawner.run(request, context).await });
        Running {
            desk,
            clock,
            cancel,
            tracker,
            task,
        }
    }

    /// Runs an attempt to its end, where no rule was broken.
    pub(super) async fn run(&self, setup: Setup) -> Verdict<Book> {
        self.start(setup).finish().await
    }
}

impl Running {
    /// Waits for the end of the run and of all it began; gives the book, if no rule was broken.
    pub(super) async fn finish(mut self) -> Verdict<Book> {
        if let Some(Err(err)) = self.task.join_next().await
            && err.is_panic()
        {
            let what = crate::spawn::panic_message(err.into_panic().as_ref());
            return broken(rules::CONTAINED, format!("the run: {what}"));
        }
        let was_told = self.cancel.is_cancelled();
        let book = self.settle().await?;
        if book.end.is_none() && !was_told {
            let what = "`run` returned before the agent had completed, failed or was stopped";
            return broken(rules::RETURNS_AT_ITS_END, what);
        }
        if book.end != Some(End::Stopped) && !was_told {
            let open: Vec<String> = book.open.keys().map(ToString::to_string).collect();
            let what = format!("never reported: {}", open.join(", "));
            ensure(open.is_empty(), rules::REPORTS_ONCE, what)?;
        }
        Ok(book)
    }

    /// Drops the run's future, and gives the book once nothing of it is alive.
    pub(super) async fn drop_run(mut self) -> Verdict<Book> {
        self.task.abort_all();
        while self.task.join_next().await.is_some() {}
        self.settle().await
    }

    /// Waits until nothing of the run is alive any more.
    async fn settle(self) -> Verdict<Book> {
        self.tracker.close();
        let quiet = async {
            self.tracker.wait().await;
            self.desk.until(|book| book.live == 0).await;
        };
        if tokio::time::timeout(super::super::verdict::HANG / 2, quiet)
            .await
            .is_err()
        {
            let what = "a model call or a tool call went on after the end of the run";
            return broken(rules::LEAVES_NOTHING_RUNNING, what);
        }
        self.desk.with(|book| match book.fault.take() {
            Some(Fault { rule, what }) => broken(rule, what),
            None => Ok(std::mem::take(book)),
        })
    }

    /// Waits until the agent is held at a gate.
    pub(super) async fn held(&self, gate: Gate) {
        let is_over = |book: &Book| book.fault.is_some() || book.end.is_some();
        self.desk
            .until(|book| book.held_at == Some(gate) || is_over(book))
            .await;
    }

    /// Opens the gate.
    pub(super) fn release(&self) {
        self.desk.with(|book| book.is_released = true);
    }

    /// Moves the clock on by a limit, so that it is over. A few times, for a spawner whose timer was not
    /// set yet; all of them together are within the next larger limit.
    pub(super) async fn pass(&self, limit: Duration, is_so: impl Fn(&Book) -> bool) {
        for _ in 0..5 {
            self.clock.advance(limit);
            let so = self.desk.until(|book| is_so(book) || book.fault.is_some());
            if tokio::time::timeout(Duration::from_secs(1), so)
                .await
                .is_ok()
            {
                return;
            }
        }
    }
}

fn request(setup: Setup, desk: &Arc<Desk>) -> SpawnRequest {
    let (input, output) = (NanoUsd::from_usd(3), NanoUsd::from_usd(15));
    let model = Arc::new(Model::priced("suite-model", "suite", input, output));
    let turns_done = setup.turns_done();
    let tool = Work::new(Arc::clone(desk));
    let engine_tools = vec![EngineTool::ReportProgress, EngineTool::Delegate];
    let specs = std::iter::once(tool.spec.clone());
    let specs = specs.chain(engine_tools.iter().map(EngineTool::spec));
    SpawnRequest {
        agent_id: AgentId::from_u128(5),
        name: "worker".to_owned(),
        swarm_id: SwarmId::from_u128(3),
        attempt: setup.attempt,
        depth: 0,
        turns_left: setup.turns_left,
        turns_done,
        timeout: ATTEMPT_TIMEOUT,
        config: Arc::new(SwarmConfig::default()),
        system: "You are part of a test.".into(),
        provider: Arc::new(Watched::new(setup.script, Arc::clone(desk))),
        model,
        specs: specs.collect(),
        tools: Arc::new([Arc::new(tool) as Arc<dyn Tool>]),
        engine_tools,
        fence: Arc::new(Fence::none()),
        limits: AttemptLimits {
            parallel_max: PARALLEL_MAX,
            timeout: TOOL_TIMEOUT,
            output_bytes_max: OUTPUT_BYTES_MAX,
            output_tokens_floor: 16,
        },
        history: setup.history,
        stale: 0,
        summary_open: false,
        branch: Vec::new(),
        answer_schema: None,
        telemetry_contents: false,
        hooks: None,
    }
}

// ---- the port ----

#[derive(Debug)]
struct Port {
    desk: Arc<Desk>,
    cancel: CancellationToken,
}

impl Port {
    /// Notes a step that is used without being granted.
    fn check_open(&self, step: StepKey, what: &str) {
        self.desk.with(|book| {
            if !book.open.contains_key(&step) {
                let what = format!("{what} of `{step}`, which is not under way");
                book.note(broken(rules::ASKS_FIRST, what));
            }
        });
    }

    async fn released(&self, next: Next) -> Result<Grant> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Error::closed()),
            () = self.desk.until(|book| book.is_released) => {
                Ok(self.desk.with(|book| book.answer(next)))
            }
        }
    }
}

#[async_trait]
impl AgentPort for Port {
    async fn advance(&self, advance: Advance) -> Result<Grant> {
        let decision = self.desk.with(|book| book.take(advance));
        match decision {
            Decision::Closed => Err(Error::closed()),
            Decision::Answer(grant) => Ok(grant),
            Decision::Hold(next) => self.released(next).await,
        }
    }

    async fn report_progress(&self, progress: Progress) -> Result<()> {
        self.desk.with(|book| book.progress.push(progress));
        Ok(())
    }

    async fn delegate(&self, step: StepKey, delegation: Delegation) -> Result<DelegationResult> {
        self.check_open(step, "a delegation");
        self.desk
            .with(|book| book.delegations.push((step, delegation)));
        Ok(DelegationResult {
            agent_id: AgentId::from_u128(6),
            outcome: Ok("the child's words".to_owned()),
        })
    }

    fn publish_delta(&self, step: StepKey, _delta: DeltaKind) {
        self.check_open(step, "a piece of the answer");
    }
}

// ---- what is alive ----

/// Counts something alive until it is dropped.
struct Alive {
    desk: Arc<Desk>,
    is_tool: bool,
}

impl Alive {
    fn new(desk: &Arc<Desk>, is_tool: bool) -> Self {
        desk.with(|book| {
            book.live += 1;
            if is_tool {
                book.tools_live += 1;
                book.tools_live_max = book.tools_live_max.max(book.tools_live);
            }
        });
        Self {
            desk: Arc::clone(desk),
            is_tool,
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let is_tool = self.is_tool;
        self.desk.with(|book| {
            book.live -= 1;
            book.tools_live -= usize::from(is_tool);
        });
    }
}

// ---- the model ----

/// A scripted model that checks whether it may be asked.
struct Watched {
    inner: ScriptedLlm,
    desk: Arc<Desk>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Watched {
    fn new(script: Vec<ScriptedReply>, desk: Arc<Desk>) -> Self {
        let book = Arc::clone(&desk);
        let inner = ScriptedLlm::new("suite", move |request| {
            book.with(|book| {
                let verdict = check_request(book, request);
                book.note(verdict);
                book.requests.push(request.clone());
            });
            let answers = request.messages.iter();
            let turn = answers
                .filter(|m| matches!(***m, Message::Assistant(_)))
                .count();
            let reply = script.get(turn).or_else(|| script.last());
            reply.cloned().unwrap_or_default()
        });
        Self { inner, desk }
    }
}

/// A model call is made as it was granted, once, and tells the model what the conversation holds.
fn check_request(book: &mut Book, request: &LlmRequest) -> Verdict {
    let Some((limit, key)) = book.call.take() else {
        return broken(rules::ASKS_FIRST, "the model was called without a grant");
    };
    let sent = (request.max_output_tokens, &request.idempotency_key);
    if sent != (limit, &key) {
        let what = format!("granted were {limit} tokens and the key {key:?}, sent were {sent:?}");
        return broken(rules::WITHIN_LIMITS, what);
    }
    let told = |messages: &[Arc<Message>]| -> Vec<Message> {
        let mut told: Vec<Message> = messages.iter().map(|m| (**m).clone()).collect();
        // Results come in any order; what they must be is checked by a case.
        told.sort_by_key(|m| match m {
            Message::ToolResult(result) => result.tool_call_id.clone(),
            Message::User(_) | Message::Assistant(_) => String::new(),
        });
        told
    };
    let (sent, known) = (told(&request.messages), told(&book.conversation));
    if sent == known {
        return Ok(());
    }
    let what = format!("the model was told {sent:#?}, the conversation is {known:#?}");
    broken(rules::TELLS_THE_MODEL, what)
}

impl LlmProvider for Watched {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        LlmStream::new(Counted {
            inner: self.inner.stream(request),
            _alive: Alive::new(&self.desk, false),
        })
    }
}

struct Counted {
    inner: LlmStream,
    _alive: Alive,
}

impl Stream for Counted {
    type Item = LlmEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LlmEvent>> {
        Pin::new(&mut self.inner).poll_next(cx)
    }
}

// ---- the tool ----

/// A tool that does as it is told, if the call was granted.
struct Work {
    spec: ToolSpec,
    desk: Arc<Desk>,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").finish_non_exhaustive()
    }
}

impl Work {
    fn new(desk: Arc<Desk>) -> Self {
        let parameters = json!({
            "type": "object",
            "properties": {"do": {"type": "string"}},
            "required": ["do"],
        });
        let spec = ToolSpec {
            name: TOOL.to_owned(),
            description: "Does as it is told.".to_owned(),
            parameters,
        };
        Self { spec, desk }
    }
}

fn check_call(book: &Book, cx: &ToolContext, arguments: &Value) -> Verdict {
    let granted = book.open.values().flatten();
    let Some(call) = granted
        .into_iter()
        .find(|call| call.id == cx.call_id && call.name == TOOL)
    else {
        let what = format!("the tool was called for `{}` without a grant", cx.call_id);
        return broken(rules::ASKS_FIRST, what);
    };
    if book.made.iter().any(|made| made.call_id == cx.call_id) {
        let what = format!("the tool was called twice for `{}`", cx.call_id);
        return broken(rules::ASKS_FIRST, what);
    }
    if cx.try_number != book.orders.tries {
        let (told, tries) = (cx.try_number, book.orders.tries);
        let what = format!("the tool was told try {told}, granted was try {tries}");
        return broken(rules::WITHIN_LIMITS, what);
    }
    let what = format!("sent {arguments}, asked for {}", call.arguments);
    ensure(
        *arguments == call.arguments,
        rules::GOES_ON_FROM_ITS_CONVERSATION,
        what,
    )
}

#[async_trait]
impl Tool for Work {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn side_effect(&self) -> SideEffect {
        SideEffect::Idempotent
    }

    #[expect(clippy::panic, reason = "a tool that panics is one of the cases")]
    async fn call(&self, cx: ToolContext, arguments: Value) -> Result<ToolOutput, ToolError> {
        let _alive = Alive::new(&self.desk, true);
        self.desk.with(|book| {
            let verdict = check_call(book, &cx, &arguments);
            book.note(verdict);
            book.made.push(Made {
                call_id: cx.call_id.clone(),
                arguments: arguments.clone(),
                try_number: cx.try_number,
                idempotency_key: cx.idempotency_key.clone(),
            });
        });
        match arguments.get("do").and_then(Value::as_str) {
            Some("hang") => std::future::pending().await,
            Some("panic") => panic!("the tool panics"),
            Some("fail") => Err(ToolError::new("it does not work")),
            Some("much") => Ok(ToolOutput::text("x".repeat(10 * OUTPUT_BYTES_MAX))),
            Some("meet") => {
                // Others that may run meanwhile are met.
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                Ok(ToolOutput::text("met"))
            }
            other => Ok(ToolOutput::text(format!(
                "did {}",
                other.unwrap_or("nothing")
            ))),
        }
    }
}
