//! Model calls.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _};
use tracing::Instrument as _;

use super::super::run::{tokens_max, with_unique_call_ids};
use super::super::{Grant, ModelIntent, Next, Outcome};
use super::{Flow, Session, fixed_tokens, spans};
use crate::event::DeltaKind;
use crate::llm::{
    LlmError, LlmErrorKind, LlmEvent, LlmRequest, LlmStream, RequestOptions, ToolChoice,
};
use crate::model::{Amount, AssistantMessage, Message, StepKey, Usage};
use crate::mutation::{self, Mutation};

/// Tokens of the window that stay free beside an answer: at most these, at most an eighth of it.
const WINDOW_MARGIN: u32 = 4_096;

/// Events of an answer that are taken after its time is up, if they are there already; more than one
/// piece from a server's socket holds, few enough that a server that never pauses is cut.
const LATE_EVENTS_MAX: usize = 1_024;

impl Session {
    pub(super) async fn model_turn(
        &mut self,
        turn: u32,
        reported: Vec<Outcome>,
        outcomes: &mut Vec<Outcome>,
    ) -> Flow {
        if let Some(end) = self.out_of_time() {
            return self.finish(reported, end).await;
        }
        // Boxed, as are requests and calls below: an agent that waits for its grant needs little.
        let prepared = match self.request.hooks {
            Some(_) => Box::pin(self.prepared_by_hooks(turn)).await,
            None => None,
        };
        let intent = self.intent(prepared.as_deref());
        match self.advance(reported, Next::Model { turn, intent }).await {
            Some(grant @ Grant::Model { .. }) => {
                Box::pin(self.granted_turn(grant, prepared, outcomes)).await
            }
            _ => Flow::End,
        }
    }

    async fn granted_turn(
        &mut self,
        grant: Grant,
        prepared: Option<Box<LlmRequest>>,
        outcomes: &mut Vec<Outcome>,
    ) -> Flow {
        let Grant::Model {
            key,
            max_output_tokens,
            idempotency_key,
            delivered,
        } = grant
        else {
            return Flow::End;
        };
        for message in &delivered {
            self.run.push(Arc::clone(message));
        }
        let request = self.granted_request(prepared, delivered, max_output_tokens, idempotency_key);
        match self.call_model(key, request).await {
            Ok(answer) => {
                let mut answer = with_unique_call_ids(answer);
                let used = self.settle(&mut answer);
                let message = Arc::new(Message::Assistant(answer));
                self.run.push(Arc::clone(&message));
                self.has_overflowed = false;
                outcomes.push(Outcome::Answered { key, message, used });
                Flow::GoOn
            }
            Err(err) if err.kind == LlmErrorKind::ContextOverflow => {
                Box::pin(self.overflowed(key, err, outcomes)).await
            }
            Err(err) => self.give_up(key, err).await,
        }
    }

    /// Makes what an answer says it used fit for the ledger, and returns it. What a server billed, or
    /// another model than the one asked for cost, is taken as it is said; the rest is reckoned anew.
    pub(super) fn settle(&self, answer: &mut AssistantMessage) -> Amount {
        answer.usage = answer.usage.clamped();
        let model = &self.request.model;
        let is_own = answer.model == model.id && answer.provider == model.provider;
        if is_own && !answer.cost_reported {
            answer.cost = model.price.cost(answer.usage);
        }
        amount(answer)
    }

    /// The request of a call that was granted.
    fn granted_request(
        &self,
        prepared: Option<Box<LlmRequest>>,
        delivered: Vec<Arc<Message>>,
        max_output_tokens: u32,
        idempotency_key: String,
    ) -> Box<LlmRequest> {
        let mut request = match prepared {
            Some(mut request) => {
                request.messages.extend(delivered);
                request
            }
            None => Box::new(self.llm_request(max_output_tokens)),
        };
        if mutation::active(Mutation::DropResults) {
            request
                .messages
                .retain(|message| !matches!(message.as_ref(), Message::ToolResult(_)));
        }
        request.max_output_tokens = max_output_tokens;
        request.idempotency_key = idempotency_key;
        request
    }

    /// The request as the hooks want it; `None` without hooks.
    async fn prepared_by_hooks(&self, turn: u32) -> Option<Box<LlmRequest>> {
        let hooks = self.request.hooks.as_ref()?;
        let mut request = Box::new(self.llm_request(self.output_wanted()));
        let (model, limit) = (Arc::clone(&request.model), request.max_output_tokens);
        let context = self.hook_context(turn);
        hooks.before_request(context, &mut request).await;
        request.model = model;
        request.max_output_tokens = request.max_output_tokens.clamp(1, limit);
        Some(request)
    }

    fn intent(&self, prepared: Option<&LlmRequest>) -> ModelIntent {
        let (input_tokens_max, wanted) = match prepared {
            Some(request) => {
                let said = request.messages.iter().map(|m| tokens_max(m)).sum::<u64>();
                let (fixed, _) = fixed_tokens(&request.system, &request.tools);
                (
                    said + fixed + extra_bytes(request),
                    request.max_output_tokens,
                )
            }
            None => (
                self.run.tokens_max() + self.fixed_tokens + self.schema_bytes(),
                self.output_wanted(),
            ),
        };
        ModelIntent {
            input_tokens_max,
            output_tokens: wanted,
            output_tokens_floor: self.request.limits.output_tokens_floor.min(wanted),
        }
    }

    /// Bytes of the schema that a request carries beside the prompt.
    fn schema_bytes(&self) -> u64 {
        let schema = self.request.answer_schema.as_deref();
        let sent = schema.filter(|_| self.request.specs.is_empty());
        sent.map_or(0, |schema| schema.to_string().len() as u64)
    }

    /// Output tokens that the swarm allows and the model can.
    pub(super) fn output_max(&self) -> u32 {
        let max = self.request.model.max_output_tokens;
        match self.request.config.max_output_tokens {
            0 => max,
            n => n.min(max),
        }
    }

    /// Output tokens of a call: at most those, and what the window has room for.
    fn output_wanted(&self) -> u32 {
        let model = &self.request.model;
        let wanted = self.output_max();
        if model.context_window == 0 {
            return wanted;
        }
        let margin = WINDOW_MARGIN.min(model.context_window / 8);
        let taken = self.run.tokens_estimate(self.fixed_estimate);
        let taken = u32::try_from(taken).unwrap_or(u32::MAX);
        let room = model.context_window.saturating_sub(margin);
        let room = room.saturating_sub(taken);
        // With no room at all the server shall say so: the estimate may be wrong.
        wanted.min(room.max(self.request.limits.output_tokens_floor))
    }

    fn llm_request(&self, max_output_tokens: u32) -> LlmRequest {
        let config = &self.request.config;
        let schema = self.request.answer_schema.as_deref();
        LlmRequest {
            model: Arc::clone(&self.request.model),
            system: Arc::clone(&self.request.system),
            messages: self.run.conversation(),
            tools: Arc::clone(&self.request.specs),
            tool_choice: ToolChoice::Auto,
            max_output_tokens,
            temperature: config.temperature,
            // Servers that hold a model to a schema do not let it call tools meanwhile.
            response_schema: schema.filter(|_| self.request.specs.is_empty()).cloned(),
            idempotency_key: String::new(),
            options: RequestOptions {
                thinking: config.thinking,
                cache_key: Some(self.request.agent_id.to_string().into()),
                group: Some(self.request.swarm_id.to_string().into()),
                ..RequestOptions::default()
            },
        }
    }

    /// Makes a call within a span of its own.
    pub(super) async fn call_model(
        &mut self,
        key: StepKey,
        request: Box<LlmRequest>,
    ) -> Result<AssistantMessage, LlmError> {
        let span = spans::chat(&self.request, key, &request);
        let answer = self.stream_answer(key, request).instrument(span.clone());
        let answer = answer.await;
        spans::record_answer(&span, &answer, self.request.telemetry_contents);
        answer
    }

    async fn stream_answer(
        &mut self,
        key: StepKey,
        request: Box<LlmRequest>,
    ) -> Result<AssistantMessage, LlmError> {
        let began = self.cx.clock.now();
        let mut stream = self.request.provider.stream(*request);
        let mut deadline = self.cx.clock.sleep(self.active_left);
        let answer = loop {
            let event = tokio::select! {
                // The limit first: a server that never pauses is cut too.
                biased;
                () = &mut deadline => break self.last_of(stream, key),
                event = stream.next() => event,
            };
            if let Some(answer) = self.heard(key, event) {
                break answer;
            }
        };
        self.spend(began);
        answer
    }

    /// What an event of an answer ends it with, if it does.
    fn heard(
        &self,
        key: StepKey,
        event: Option<LlmEvent>,
    ) -> Option<Result<AssistantMessage, LlmError>> {
        match event {
            Some(LlmEvent::Done { message, .. }) => Some(Ok(message)),
            Some(LlmEvent::Error { error, .. }) => Some(Err(error)),
            Some(event) => {
                self.publish(key, event);
                None
            }
            None => Some(Err(LlmError::billed_unknown(
                LlmErrorKind::StreamCut,
                "the answer ended in the middle",
            ))),
        }
    }

    /// The end of an answer whose time is up. If the rest of it is there already, it is taken: it is
    /// paid for.
    fn last_of(&self, mut stream: LlmStream, key: StepKey) -> Result<AssistantMessage, LlmError> {
        for _ in 0..LATE_EVENTS_MAX {
            let Some(event) = stream.next().now_or_never() else {
                break;
            };
            if let Some(answer) = self.heard(key, event) {
                return answer;
            }
        }
        Err(LlmError::billed_unknown(
            LlmErrorKind::Timeout,
            format!("the attempt took longer than {:?}", self.request.timeout),
        ))
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
}

pub(super) const fn amount(answer: &AssistantMessage) -> Amount {
    Amount {
        usd: answer.cost,
        tokens: Usage::total(answer.usage),
    }
}

/// Bytes of what a request carries beside its messages, system prompt and tools: servers may count
/// them as prompt.
pub(super) fn extra_bytes(request: &LlmRequest) -> u64 {
    let schema = request.response_schema.as_ref();
    let schema = schema.map_or(0, |schema| schema.to_string().len());
    let extra = request.options.extra.iter();
    let extra: usize = extra
        .map(|(key, value)| key.len() + value.to_string().len())
        .sum();
    (schema + extra) as u64
}
