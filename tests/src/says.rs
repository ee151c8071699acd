//! Short questions that scripts ask of a request.

use std::sync::Arc;

use dash::llm::LlmRequest;
use dash::model::{ContentBlock, Message};

fn joined(blocks: &[ContentBlock]) -> String {
    let text = |block: &ContentBlock| match block {
        ContentBlock::Text { text } => text.clone(),
        ContentBlock::Image { .. } => String::new(),
    };
    blocks.iter().map(text).collect()
}

/// The text of every message, in order.
#[must_use]
pub fn texts(request: &LlmRequest) -> Vec<String> {
    let text = |message: &Message| match message {
        Message::User(user) => joined(&user.content),
        Message::Assistant(answer) => answer.text(),
        Message::ToolResult(result) => result.text(),
    };
    request.messages.iter().map(|m| text(m)).collect()
}

/// The first message: the task and what it depends on.
#[must_use]
pub fn task_of(request: &LlmRequest) -> String {
    texts(request).into_iter().next().unwrap_or_default()
}

/// How many answers the conversation holds.
#[must_use]
pub fn turn(request: &LlmRequest) -> usize {
    let answers = request.messages.iter();
    answers
        .filter(|m| matches!(m.as_ref(), Message::Assistant(_)))
        .count()
}

/// The tool results of the conversation: tool, text, whether it is an error.
#[must_use]
pub fn results(request: &LlmRequest) -> Vec<(String, String, bool)> {
    let result = |message: &Message| match message {
        Message::ToolResult(r) => Some((r.tool_name.clone(), r.text(), r.is_error)),
        Message::User(_) | Message::Assistant(_) => None,
    };
    request.messages.iter().filter_map(|m| result(m)).collect()
}

/// The number of the turn that a request is for.
#[must_use]
pub fn turn_number(request: &LlmRequest) -> u32 {
    let (_, step) = request.idempotency_key.split_once('/').unwrap_or_default();
    let number = step.trim_start_matches('t').split('/').next();
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether a request asks to sum a conversation up.
#[must_use]
pub fn is_summary(request: &LlmRequest) -> bool {
    request.system.starts_with("You sum up")
}

/// A short text that is the same for the same messages, in any process (FNV-1a of their JSON).
#[must_use]
pub fn fingerprint(messages: &[Arc<Message>]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for message in messages {
        let json = serde_json::to_string(message).unwrap();
        for byte in json.bytes().chain([b'\n']) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}
