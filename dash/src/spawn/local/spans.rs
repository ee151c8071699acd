//! Telemetry of model and tool calls: `tracing` spans with the names of [`telemetry`].

use serde_json::Value;
use tracing::field::{Empty, display};
use tracing::{Span, info_span};

use super::super::{SpawnRequest, ToolAnswer};
use crate::llm::{LlmError, LlmRequest};
use crate::model::{AssistantMessage, StepKey, StopReason, ToolCall};
use crate::telemetry;

/// The span of a model call.
pub(super) fn chat(agent: &SpawnRequest, step: StepKey, request: &LlmRequest) -> Span {
    let span = info_span!(
        "chat",
        otel.name = %format_args!("{} {}", telemetry::CHAT, agent.model.id),
        otel.kind = "client",
        { telemetry::OPERATION_NAME } = telemetry::CHAT,
        { telemetry::PROVIDER_NAME } = agent.model.provider,
        { telemetry::REQUEST_MODEL } = agent.model.id,
        { telemetry::CONVERSATION_ID } = %agent.swarm_id,
        { telemetry::AGENT_ID } = %agent.agent_id,
        { telemetry::AGENT_NAME } = agent.name,
        dash.step = %step,
        { telemetry::RESPONSE_MODEL } = Empty,
        { telemetry::RESPONSE_ID } = Empty,
        { telemetry::RESPONSE_FINISH_REASONS } = Empty,
        { telemetry::USAGE_INPUT_TOKENS } = Empty,
        { telemetry::USAGE_OUTPUT_TOKENS } = Empty,
        { telemetry::USAGE_CACHE_READ_INPUT_TOKENS } = Empty,
        { telemetry::USAGE_CACHE_CREATION_INPUT_TOKENS } = Empty,
        { telemetry::ERROR_TYPE } = Empty,
        { telemetry::INPUT_MESSAGES } = Empty,
        { telemetry::OUTPUT_MESSAGES } = Empty,
    );
    if agent.telemetry_contents && !span.is_disabled() {
        let told = serde_json::to_string(&request.messages).unwrap_or_default();
        span.record(telemetry::INPUT_MESSAGES, told);
    }
    span
}

/// What a model call came to.
pub(super) fn record_answer(
    span: &Span,
    answer: &Result<AssistantMessage, LlmError>,
    contents: bool,
) {
    if span.is_disabled() {
        return;
    }
    let answer = match answer {
        Ok(answer) => answer,
        Err(err) => {
            span.record(telemetry::ERROR_TYPE, word(&err.kind));
            return;
        }
    };
    let model = answer.response_model.as_ref().unwrap_or(&answer.model);
    span.record(telemetry::RESPONSE_MODEL, model);
    if let Some(id) = &answer.response_id {
        span.record(telemetry::RESPONSE_ID, id);
    }
    let reason = match answer.stop_reason {
        StopReason::Stop => "stop",
        StopReason::Length => "length",
        StopReason::ToolUse => "tool_call",
        StopReason::Error | StopReason::Aborted => "error",
    };
    span.record(
        telemetry::RESPONSE_FINISH_REASONS,
        display(format_args!("[{reason:?}]")),
    );
    let usage = answer.usage;
    for (name, tokens) in [
        (telemetry::USAGE_INPUT_TOKENS, usage.prompt()),
        (telemetry::USAGE_OUTPUT_TOKENS, usage.output),
        (telemetry::USAGE_CACHE_READ_INPUT_TOKENS, usage.cache_read),
        (
            telemetry::USAGE_CACHE_CREATION_INPUT_TOKENS,
            usage.cache_write,
        ),
    ] {
        span.record(name, tokens);
    }
    if contents {
        let said = serde_json::to_string(&answer.content).unwrap_or_default();
        span.record(telemetry::OUTPUT_MESSAGES, said);
    }
}

/// The span of a tool call.
pub(super) fn tool(agent: &SpawnRequest, step: StepKey, call: &ToolCall) -> Span {
    let span = info_span!(
        "execute_tool",
        otel.name = %format_args!("{} {}", telemetry::EXECUTE_TOOL, call.name),
        { telemetry::OPERATION_NAME } = telemetry::EXECUTE_TOOL,
        { telemetry::TOOL_NAME } = call.name,
        { telemetry::TOOL_TYPE } = "function",
        { telemetry::TOOL_CALL_ID } = call.id,
        { telemetry::CONVERSATION_ID } = %agent.swarm_id,
        { telemetry::AGENT_ID } = %agent.agent_id,
        { telemetry::AGENT_NAME } = agent.name,
        dash.step = %step,
        { telemetry::ERROR_TYPE } = Empty,
        { telemetry::TOOL_CALL_ARGUMENTS } = Empty,
        { telemetry::TOOL_CALL_RESULT } = Empty,
    );
    if agent.telemetry_contents {
        span.record(telemetry::TOOL_CALL_ARGUMENTS, display(&call.arguments));
    }
    span
}

/// What a tool call came to.
pub(super) fn record_result(span: &Span, answer: &ToolAnswer, contents: bool) {
    if answer.is_error {
        span.record(telemetry::ERROR_TYPE, "tool_error");
    }
    if contents && !span.is_disabled() {
        let said = serde_json::to_string(&answer.output.content).unwrap_or_default();
        span.record(telemetry::TOOL_CALL_RESULT, said);
    }
}

/// A kind of error as it is written in JSON.
fn word(kind: &crate::llm::LlmErrorKind) -> String {
    match serde_json::to_value(kind) {
        Ok(Value::String(word)) => word,
        _ => "_OTHER".to_owned(),
    }
}
