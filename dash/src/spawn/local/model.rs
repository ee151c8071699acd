//! Model calls.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tracing::Instrument as _;

use super::super::run::{tokens_max, with_unique_call_ids};
use super::super::{Grant, ModelIntent, Next, Outcome};
use super::{Flow, Session, fixed_tokens, telemetry};
use crate::event::DeltaKind;
use crate::llm::{LlmError, LlmErrorKind, LlmEvent, LlmRequest, RequestOptions, ToolChoice};
use crate::model::{Amount, AssistantMessage, Message, StepKey};

/// Tokens of the window that are left free beside an answer: at most these, at most an eighth of it.
const WINDOW_MARGIN: u32 = 4_096;

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
        let prepared = self.prepared_by_hooks(turn).await;
        let intent = self.intent(prepared.as_deref());
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
        let mut request = match prepared {
            Some(mut request) => {
                request.messages.extend(delivered.iter().cloned());
                *request
            }
            None => self.llm_request(),
        };
        if request.messages.len() < self.run.messages().len() + delivered.len() {
            // Changed by the hooks: what is delivered is added above.
        }
        delivered
            .into_iter()
            .for_each(|message| self.run.push(message));
        request.max_output_tokens = max_output_tokens;
        request.idempotency_key = idempotency_key;
        // Boxed, as are tool calls: an agent that waits for its grant needs none of it.
        match Box::pin(self.call_model(key, request)).await {
            Ok(answer) => {
                let message = self.accept(answer, key, outcomes);
                self.run.push(message);
                self.has_overflowed = false;
                Flow::GoOn
            }
            Err(err) if err.kind == LlmErrorKind::ContextOverflow => {
                self.overflowed(turn, key, err, outcomes).await
            }
            Err(err) => self.give_up(key, err).await,
        }
    }
