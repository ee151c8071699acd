//! Agents in this process: the model-and-tools loop.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::run::{Action, Run, with_unique_call_ids};
use super::task::{AbortOnDrop, panic_text};
use super::{
    Advance, AgentContext, AttemptFailure, EngineTool, Grant, ModelIntent, Next, Outcome,
    SpawnRequest, Spawner, ToolIntent,
};
use crate::env::UnixMillis;
use crate::event::DeltaKind;
use crate::llm::{
    LlmError, LlmErrorKind, LlmEvent, LlmRequest, RequestOptions, ToolChoice, ToolSpec,
};
use crate::model::{
    Amount, AssistantMessage, ContentBlock, Message, SideEffect, StepKey, ToolCall,
    ToolResultMessage,
};
use crate::tool::{ExecutionMode, Tool, ToolContext, ToolError, ToolOutput, limit_output};

/// Runs agents as tasks of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalSpawner;

impl Spawner for LocalSpawner {
    fn name(&self) -> &'static str {
        "local"
    }

    // What `async fn` would become, by hand: its arguments would stay in the future to its end,
    // beside the session that is made of them.
    fn run<'a, 'b>(
        &'a self,
        request: SpawnRequest,
        cx: AgentContext,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let cancel = cx.cancel.clone();
        let session = Box::new(Session::new(request, cx));
        Box::pin(async move {
            // Dropping the session's future closes the model's stream and aborts its tools.
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = session.drive() => {}
            }
        })
    }
}

/// Tokens that a server's template may add around tools and the conversation, at most.
const TEMPLATE_OVERHEAD: u64 = 1_024;

struct Session {
    request: SpawnRequest,
    cx: AgentContext,
    run: Run,
    /// Upper bound of the tokens of the system prompt and the tools.
    fixed_tokens: u64,
    active_left: Duration,
}

/// What to do after a step.
enum Flow {
    GoOn,
    End,
}

impl Session {
    fn new(mut request: SpawnRequest, cx: AgentContext) -> Self {
        let history = std::mem::take(&mut request.history);
        let run = Run::new(history, request.turns_done, request.turns_left);
        // Templates may show a tool twice: in the list and in an example.
        let bytes = |spec: &ToolSpec| {
            2 * (spec.name.len() + spec.description.len() + spec.parameters.to_string().len() + 64)
        };
        let tools: usize = request.specs.iter().map(bytes).sum();
        let fixed_tokens = (tools + request.system.len()) as u64 + TEMPLATE_OVERHEAD;
        let active_left = request.timeout;
        Self {
            request,
            cx,
            run,
            fixed_tokens,
            active_left,
        }
    }

    async fn drive(mut self: Box<Self>) {
        let mut outcomes = Vec::new();
        loop {
            let reported = std::mem::take(&mut outcomes);
            let flow = match self.run.next_action() {
                Action::Model { turn } => self.model_turn(turn, reported, &mut outcomes).await,
                Action::Tools { turn, calls, cut } => {
                    Box::pin(self.tool_turn(turn, calls, cut, reported, &mut outcomes)).await
                }
                Action::Complete { result } => {
                    self.finish(reported, Next::Complete { result }).await
                }
                Action::TurnLimit => {
                    let error =
                        format!("no end after {} model calls", self.request.config.max_turns);
                    let failure = AttemptFailure {
                        error,
                        retryable: false,
                        retry_after: None,
                    };
                    self.finish(reported, Next::Fail(failure)).await
                }
            };
            if matches!(flow, Flow::End) {
                return;
            }
        }
    }

    /// Reports and asks; an engine that is gone is an end.
    async fn advance(&self, outcomes: Vec<Outcome>, next: Next) -> Option<Grant> {
        self.cx.port.advance(Advance { outcomes, next }).await.ok()
    }

    async fn finish(&mut self, outcomes: Vec<Outcome>, next: Next) -> Flow {
        match self.advance(outcomes, next).await {
            Some(Grant::Continue { delivered }) => {
                delivered
                    .into_iter()
                    .for_each(|message| self.run.push(message));
                Flow::GoOn
            }
            _ => Flow::End,
        }
    }

    // ---- the model ----

    async fn model_turn(
        &mut self,
        turn: u32,
        reported: Vec<Outcome>,
        outcomes: &mut Vec<Outcome>,
    ) -> Flow {
        if self.active_left.is_zero() {
            // A call that would be cut at once would still have to be paid.
            let failure = AttemptFailure {
                error: format!("the attempt took longer than {:?}", self.request.timeout),
                retryable: true,
                retry_after: None,
            };
            return self.finish(reported, Next::Fail(failure)).await;
        }
        let intent = self.intent();
        let granted = self.advance(reported, Next::Model { turn, intent }).await;
        let Some(Grant::Model {
            key,
            max_output_tokens,
            idempotency_key,
            delivered,
        }) = granted
        else {
            return Flow::End;
        };
        delivered
            .into_iter()
            .for_each(|message| self.run.push(message));
        let request = self.llm_request(max_output_tokens, idempotency_key);
        // Boxed, as are tool calls below: an agent that waits for its grant needs none of it.
        match Box::pin(self.call_model(key, request)).await {
            Ok(answer) => {
                let mut answer = with_unique_call_ids(answer);
                answer.usage = answer.usage.clamped();
                answer.cost = self.request.model.price.cost(answer.usage);
                let used = Amount {
                    usd: answer.cost,
                    tokens: answer.usage.total(),
                };
                let message = Arc::new(Message::Assistant(answer));
                self.run.push(Arc::clone(&message));
                outcomes.push(Outcome::Answered { key, message, used });
                Flow::GoOn
            }
            Err(err) => {
                let failure = AttemptFailure {
                    error: format!("the model call failed: {err}"),
                    retryable: err.kind.is_retryable(),
                    retry_after: err.retry_after(),
                };
                let failed = Outcome::ModelFailed {
                    key,
                    error: err.message,
                    billing: err.billing,
                };
                self.finish(vec![failed], Next::Fail(failure)).await
            }
        }
    }

    fn intent(&self) -> ModelIntent {
        let model_max = self.request.model.max_output_tokens;
        let wanted = match self.request.config.max_output_tokens {
            0 => model_max,
            n => n.min(model_max),
        };
        ModelIntent {
            input_tokens_max: self.run.tokens_max() + self.fixed_tokens,
            output_tokens: wanted,
            output_tokens_floor: self.request.limits.output_tokens_floor.min(wanted),
        }
    }

    fn llm_request(&self, max_output_tokens: u32, idempotency_key: String) -> LlmRequest {
        LlmRequest {
            model: Arc::clone(&self.request.model),
            system: Arc::clone(&self.request.system),
            messages: self.run.conversation(),
            tools: Arc::clone(&self.request.specs),
            tool_choice: ToolChoice::Auto,
            max_output_tokens,
            temperature: None,
            response_schema: None,
            idempotency_key,
            options: RequestOptions::default(),
        }
    }

    async fn call_model(
        &mut self,
        key: StepKey,
        request: LlmRequest,
    ) -> Result<AssistantMessage, LlmError> {
        let began = self.cx.clock.now();
        let mut stream = self.request.provider.stream(request);
        let mut deadline = self.cx.clock.sleep(self.active_left);
        let answer = loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = &mut deadline => break Err(LlmError::billed_unknown(
                    LlmErrorKind::Timeout,
                    format!("the attempt took longer than {:?}", self.request.timeout),
                )),
            };
            match event {
                Some(LlmEvent::Done { message, .. }) => break Ok(message),
                Some(LlmEvent::Error { error, .. }) => break Err(error),
                Some(event) => self.publish(key, event),
                None => {
                    break Err(LlmError::billed_unknown(
                        LlmErrorKind::StreamCut,
                        "the answer ended in the middle",
                    ));
                }
            }
        };
        self.spend(began);
        answer
    }

    fn publish(&self, key: StepKey, event: LlmEvent) {
        let delta = match event {
            LlmEvent::TextDelta { delta, .. } => DeltaKind::Text(delta),
            LlmEvent::ThinkingDelta { delta, .. } => DeltaKind::Thinking(delta),
            LlmEvent::ToolCallStart { name, .. } => DeltaKind::ToolCall(name),
            _ => return,
        };
        self.cx.port.publish_delta(key, delta);
    }

    /// Takes the time since `began` off what the attempt may still take.
    fn spend(&mut self, began: UnixMillis) {
        let spent = self.cx.clock.now().since(began);
        self.active_left = self.active_left.saturating_sub(spent);
    }

    // ---- tools ----

    async fn tool_turn(
        &mut self,
        turn: u32,
        calls: Vec<(u32, ToolCall)>,
        cut: bool,
        reported: Vec<Outcome>,
        outcomes: &mut Vec<Outcome>,
    ) -> Flow {
        let prepared: Vec<Prepared> = calls
            .into_iter()
            .map(|(index, call)| self.prepare(index, call, cut))
            .collect();
        let sequential = prepared.iter().any(|p| p.kind.is_sequential());
        let delegates = prepared.iter().any(|p| p.kind.is_delegation());
        let intents = prepared.iter().map(Prepared::intent).collect();
        let granted = self
            .advance(
                reported,
                Next::Tools {
                    turn,
                    calls: intents,
                },
            )
            .await;
        let Some(Grant::Tools { steps }) = granted else {
            return Flow::End;
        };

        let began = self.cx.clock.now();
        let width = if sequential {
            1
        } else {
            self.request.limits.parallel_max.max(1) as usize
        };
        let total = prepared.len();
        let mut done = Vec::with_capacity(total);
        // The engine stops: what has no answer is asked for again after the next start.
        let mut unanswered = false;
        {
            let this = &*self;
            let run = prepared
                .into_iter()
                .zip(steps)
                .map(|(call, (key, tries))| async move { this.execute(call, key, tries).await });
            // `buffered` starts calls in order; results are taken as they come.
            let mut running = stream::iter(run).buffer_unordered(width);
            let mut left = total;
            while let Some(ended) = running.next().await {
                left -= 1;
                let Some((key, message, duration)) = ended else {
                    unanswered = true;
                    continue;
                };
                done.push(Arc::clone(&message));
                let outcome = Outcome::ToolAnswered {
                    key,
                    message,
                    duration,
                };
                if left == 0 && !unanswered {
                    // The last one travels with the request for the next step: one commit.
                    outcomes.push(outcome);
                } else if !matches!(
                    this.advance(vec![outcome], Next::Nothing).await,
                    Some(Grant::Noted)
                ) {
                    return Flow::End;
                }
            }
        }
        if unanswered {
            return Flow::End;
        }
        done.into_iter().for_each(|message| self.run.push(message));
        // The time that children take is theirs.
        if !delegates {
            self.spend(began);
        }
        Flow::GoOn
    }

    /// Finds the tool of a call, or the reason why there is nothing to run.
    fn prepare(&self, index: u32, call: ToolCall, cut: bool) -> Prepared {
        let by_name = |tool: &&Arc<dyn Tool>| tool.spec().name == call.name;
        let kind = if cut {
            Kind::Refused(
                "Your answer was cut at the output limit, so none of its calls was run. Call \
                 again, with shorter arguments."
                    .to_owned(),
            )
        } else if let Some(error) = &call.arguments_error {
            Kind::Refused(error.clone())
        } else if let Some(tool) = self.request.tools.iter().find(by_name) {
            Kind::Tool(Arc::clone(tool))
        } else if let Some(tool) = self
            .request
            .engine_tools
            .iter()
            .find(|tool| tool.name() == call.name)
        {
            Kind::Engine(*tool)
        } else {
            let names: Vec<&str> = self
                .request
                .specs
                .iter()
                .map(|spec| spec.name.as_str())
                .collect();
            Kind::Refused(format!(
                "There is no tool `{}`. Available: {}.",
                call.name,
                names.join(", ")
            ))
        };
        Prepared { index, call, kind }
    }

    async fn execute(
        &self,
        prepared: Prepared,
        key: StepKey,
        tries: u32,
    ) -> Option<(StepKey, Arc<Message>, Duration)> {
        let began = self.cx.clock.now();
        let Prepared { call, kind, .. } = prepared;
        let (id, name) = (call.id.clone(), call.name.clone());
        let result = match kind {
            Kind::Refused(why) => Err(ToolError::new(why)),
            // A child's time is bounded by its own attempts, not by the limit of a tool call.
            Kind::Engine(tool) => {
                tool.call(self.cx.port.as_ref(), key, &call.arguments)
                    .await?
            }
            Kind::Tool(tool) => self.run_tool(tool, call, key, tries).await,
        };
        let (output, is_error) = match result {
            Ok(output) => (output, false),
            Err(err) => (ToolOutput::text(err.message), true),
        };
        let output = limit_output(output, self.request.limits.output_bytes_max);
        let message = Message::ToolResult(ToolResultMessage {
            tool_call_id: id,
            tool_name: name,
            content: non_empty(output.content),
            is_error,
            details: output.details,
        });
        Some((key, Arc::new(message), self.cx.clock.now().since(began)))
    }

    /// Runs a tool in a task of its own, so that one that panics or never yields cannot take the
    /// agent with it.
    async fn run_tool(
        &self,
        tool: Arc<dyn Tool>,
        call: ToolCall,
        key: StepKey,
        tries: u32,
    ) -> Result<ToolOutput, ToolError> {
        let cancel = self.cx.cancel.child_token();
        let cx = ToolContext {
            agent_id: self.request.agent_id,
            swarm_id: self.request.swarm_id,
            call_id: call.id,
            idempotency_key: format!("{}/{key}", self.request.agent_id),
            try_number: tries,
            fence: Arc::clone(&self.request.fence),
            cancel: cancel.clone(),
        };
        let arguments: Value = call.arguments;
        let limit = self.request.limits.timeout;
        let task = async move { tool.call(cx, arguments).await };
        let mut task = AbortOnDrop(self.cx.tasks.spawn(task), cancel.drop_guard());
        tokio::select! {
            joined = &mut task.0 => joined.unwrap_or_else(|err| {
                Err(ToolError::new(format!("the tool failed: {}", panic_text(err))))
            }),
            () = self.cx.clock.sleep(limit) => Err(ToolError::new(format!(
                "The tool did not answer within {limit:?} and was stopped. It may have done part \
                 of its work."
            ))),
        }
    }
}

fn non_empty(content: Vec<ContentBlock>) -> Vec<ContentBlock> {
    if content.is_empty() {
        vec![ContentBlock::text("(no output)")]
    } else {
        content
    }
}

struct Prepared {
    index: u32,
    call: ToolCall,
    kind: Kind,
}

enum Kind {
    Tool(Arc<dyn Tool>),
    Engine(EngineTool),
    /// Not run; the text is the answer.
    Refused(String),
}

impl Kind {
    const fn is_delegation(&self) -> bool {
        matches!(self, Self::Engine(EngineTool::Delegate))
    }

    fn is_sequential(&self) -> bool {
        matches!(self, Self::Tool(tool) if tool.execution_mode() == ExecutionMode::Sequential)
    }
}

impl Prepared {
    fn intent(&self) -> ToolIntent {
        let side_effect = match &self.kind {
            Kind::Tool(tool) => tool.side_effect(),
            Kind::Engine(tool) => tool.side_effect(),
            Kind::Refused(_) => SideEffect::Pure,
        };
        ToolIntent {
            index: self.index,
            call_id: self.call.id.clone(),
            tool: self.call.name.clone(),
            side_effect,
        }
    }
}
