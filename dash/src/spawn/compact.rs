//! Summing a conversation up: when, where it is cut, and what the model is asked. Pure.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::model::{
    AssistantBlock, Compaction, CompactionConfig, ContentBlock, Message, MessageOrigin,
};

/// Tokens are guessed at one for 3.5 characters, as English and code come to.
const CHARS_PER_TOKEN_TIMES_TWO: u64 = 7;

/// Characters that an image counts for.
const IMAGE_CHARS: u64 = 4_800;

/// Tokens that a message costs besides its text.
const MESSAGE_TOKENS: u64 = 4;

/// Characters of one tool result that the summariser reads.
const RESULT_CHARS_MAX: usize = 2_000;

/// The most tokens a summary may have.
const SUMMARY_TOKENS_MAX: u32 = 8_192;

/// The least room for a summary.
const SUMMARY_TOKENS_MIN: u32 = 128;

/// What a model that sums up is told.
pub(super) const SUMMARY_SYSTEM: &str = "You sum up the work of an agent so that it can go on \
without the conversation itself. You do not do the work and do not talk to anyone. Write plain \
text under these headings, in this order, leaving out those that are empty:\n\
Goal\nConstraints\nNext steps\nFacts needed to go on (names, numbers, paths, exact texts)\n\
Files changed\nDoing\nBlocked\nDecisions (each with its reason)\nDone\nFiles read\n\
Keep every fact that a next step needs. If there is a summary of what came before, carry over \
what still holds.";

/// A guess at a message's tokens.
pub(super) fn tokens(message: &Message) -> u64 {
    let block = |block: &ContentBlock| match block {
        ContentBlock::Text { text } => text.chars().count() as u64,
        ContentBlock::Image { .. } => IMAGE_CHARS,
    };
    let chars: u64 = match message {
        Message::User(user) => user.content.iter().map(block).sum(),
        Message::ToolResult(result) => result.content.iter().map(block).sum(),
        Message::Assistant(answer) => answer.content.iter().map(said).sum(),
    };
    of_chars(chars) + MESSAGE_TOKENS
}

/// A guess at the tokens of so many characters.
pub(super) const fn of_chars(chars: u64) -> u64 {
    (chars * 2).div_ceil(CHARS_PER_TOKEN_TIMES_TWO)
}

fn said(block: &AssistantBlock) -> u64 {
    let chars = |text: &str| text.chars().count() as u64;
    match block {
        AssistantBlock::Text { text, .. } => chars(text),
        // Only some models are sent their thinking again, and then a server may leave it out.
        AssistantBlock::Thinking { text, .. } => chars(text),
        AssistantBlock::ToolCall(call) => {
            chars(&call.name) + call.arguments.to_string().len() as u64
        }
    }
}

/// The limits of a model's window for a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Tokens of context above which the conversation is summed up; `None` = the window is unknown.
    pub(super) context_max: Option<u64>,
    /// Tokens of the newest messages that stay.
    pub(super) keep: u64,
    /// Tokens of the summary, at most.
    pub(super) summary_max: u32,
    /// Bytes of the conversation that the summariser reads, at most.
    pub(super) read_bytes_max: usize,
}

impl Limits {
    /// Tokens that the newest answer and its results may have to stay whatever `keep` says: a model
    /// must see what it has asked for.
    pub(super) const fn newest_max(&self) -> u64 {
        match self.context_max {
            Some(max) => max / 2,
            None => 0,
        }
    }
}

/// Window assumed for what a summariser reads when the model's is unknown. A server with a smaller
/// one refuses, and the agent fails with that.
const WINDOW_ASSUMED: u32 = 8_192;

impl Limits {
    /// The limits for a window of `window` tokens (0 = unknown) and answers of up to `output_max`.
    /// `seen` tokens have passed through it: it is no smaller.
    pub(super) fn new(config: CompactionConfig, window: u32, output_max: u32, seen: u32) -> Self {
        let known = Some(window).filter(|window| *window > 0);
        let quarter = known.map_or(u32::MAX, |window| window / 4);
        let reserve = config.reserve_tokens.min(quarter);
        let window_read = known.unwrap_or_else(|| WINDOW_ASSUMED.max(seen));
        let summary_max = output_max
            .min(SUMMARY_TOKENS_MAX)
            .min(window_read / 4)
            .max(SUMMARY_TOKENS_MIN)
            .min(output_max);
        // Half a window of text at three bytes a token leaves room for a template and for text that
        // has more tokens than usual.
        let read_tokens = window_read.saturating_sub(summary_max);
        Self {
            context_max: known.map(|window| u64::from(window - reserve)),
            keep: u64::from(config.keep_tokens.min(quarter)),
            summary_max,
            read_bytes_max: usize::try_from(read_tokens).unwrap_or(usize::MAX) / 2 * 3,
        }
    }
}

/// What is to be summed up, and what stays.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// Whether the task stays word for word.
    pub(super) keeps_task: bool,
    /// How many of the newest messages stay.
    pub(super) kept: usize,
    /// What the summariser reads.
    pub(super) text: String,
}

/// Plans a compaction that leaves about `limits.keep` tokens of the newest messages. `None` if there
/// is nothing to sum up.
pub(super) fn plan(messages: &[Arc<Message>], limits: Limits) -> Option<Plan> {
    let is_task = |message: &Arc<Message>| match message.as_ref() {
        Message::User(user) => user.origin == MessageOrigin::Task,
        Message::Assistant(_) | Message::ToolResult(_) => false,
    };
    // A task that is itself long is summed up with the rest.
    let small_task = |message: &&Arc<Message>| is_task(message) && tokens(message) <= limits.keep;
    let keeps_task = messages.first().filter(small_task).is_some();
    let head = usize::from(keeps_task);
    let newest = newest_tokens(messages);
    let keep = if newest <= limits.newest_max() {
        limits.keep.max(newest)
    } else {
        limits.keep
    };
    let first_kept = cut(messages, head, keep);
    let old = messages.get(head..first_kept)?;
    let is_summary = |message: &Arc<Message>| match message.as_ref() {
        Message::User(user) => user.origin == MessageOrigin::Summary,
        Message::Assistant(_) | Message::ToolResult(_) => false,
    };
    // To sum a summary up again would gain nothing.
    if old.iter().all(is_summary) {
        return None;
    }
    Some(Plan {
        keeps_task,
        kept: messages.len() - first_kept,
        text: render(messages.get(..first_kept)?, limits.read_bytes_max),
    })
}

/// The tokens of the newest answer and what came after it.
fn newest_tokens(messages: &[Arc<Message>]) -> u64 {
    let is_answer = |message: &Arc<Message>| matches!(message.as_ref(), Message::Assistant(_));
    let from = messages
        .iter()
        .rposition(is_answer)
        .unwrap_or(messages.len());
    let newest = messages.iter().skip(from);
    newest.map(|message| tokens(message)).sum()
}

/// The place of the first message that stays: as early as `keep` allows, never at a tool result,
/// which would be without its call. If not even the newest part fits, nothing stays.
fn cut(messages: &[Arc<Message>], head: usize, keep: u64) -> usize {
    let mut first_kept = messages.len();
    let mut sum = 0;
    for (at, message) in messages.iter().enumerate().skip(head).rev() {
        sum += tokens(message);
        if sum > keep {
            break;
        }
        if !matches!(message.as_ref(), Message::ToolResult(_)) {
            first_kept = at;
        }
    }
    first_kept
}

/// The conversation as plain text, cut in the middle to `bytes_max`.
fn render(messages: &[Arc<Message>], bytes_max: usize) -> String {
    let mut out = String::new();
    for message in messages {
        match message.as_ref() {
            Message::User(user) => {
                out.push_str("[told]\n");
                push_content(&mut out, &user.content, usize::MAX);
            }
            Message::ToolResult(result) => {
                let mark = if result.is_error { " failed" } else { "" };
                // Writing to a string cannot fail.
                let _written = writeln!(out, "[result of {}{mark}]", result.tool_name);
                push_content(&mut out, &result.content, RESULT_CHARS_MAX);
            }
            Message::Assistant(answer) => {
                let text = answer.text();
                if !text.is_empty() {
                    let _written = writeln!(out, "[agent]\n{text}");
                }
                for call in answer.tool_calls() {
                    let _written = writeln!(out, "[call] {} {}", call.name, call.arguments);
                }
            }
        }
        out.push('\n');
    }
    cut_middle(&out, bytes_max)
}

fn push_content(out: &mut String, content: &[ContentBlock], chars_max: usize) {
    for block in content {
        match block {
            ContentBlock::Text { text } => match text.char_indices().nth(chars_max) {
                Some((end, _)) => {
                    out.push_str(text.get(..end).unwrap_or_default());
                    out.push_str(" […]");
                }
                None => out.push_str(text),
            },
            ContentBlock::Image { .. } => out.push_str("[an image]"),
        }
        out.push('\n');
    }
}

/// The start and the end of a text, with a mark where the middle was.
fn cut_middle(text: &str, bytes_max: usize) -> String {
    const MARK: &str = "\n[… left out …]\n";
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let half = bytes_max.saturating_sub(MARK.len()) / 2;
    let end = text.floor_char_boundary(half);
    let start = text.ceil_char_boundary(text.len() - half);
    let (head, tail) = (text.get(..end), text.get(start..));
    format!(
        "{}{MARK}{}",
        head.unwrap_or_default(),
        tail.unwrap_or_default()
    )
}

/// What the summariser is asked of a conversation that goes on.
pub(super) fn request_text(plan: &Plan) -> String {
    format!(
        "<conversation>\n{}</conversation>\n\nSum this conversation up.",
        plan.text
    )
}

/// What the summariser is asked of a branch that was given up.
pub(super) fn branch_request_text(messages: &[Arc<Message>], limits: Limits) -> String {
    format!(
        "<branch>\n{}</branch>\n\nThis way was given up, and the work goes on from before it. Sum \
         up what was tried, what was found out, what was changed and why it failed, so that it is \
         not tried again.",
        render(messages, limits.read_bytes_max)
    )
}

/// What is left, once the summary is there.
pub(super) fn compaction(plan: &Plan, summary: String, tokens_before: u64) -> Compaction {
    Compaction {
        summary,
        keeps_task: plan.keeps_task,
        kept: u32::try_from(plan.kept).unwrap_or(u32::MAX),
        tokens_before,
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;
    use crate::model::{AssistantMessage, ToolCall, ToolResultMessage};

    fn limits(keep: u64) -> Limits {
        Limits {
            keep,
            context_max: None,
            ..Limits::new(CompactionConfig::default(), 8_000, 1_000, 0)
        }
    }

    fn told(origin: MessageOrigin, chars: usize) -> Arc<Message> {
        Arc::new(Message::user("x".repeat(chars), origin))
    }

    fn called(ids: &[&str]) -> Arc<Message> {
        let mut answer = AssistantMessage::new("p", "m");
        answer.content = ids
            .iter()
            .map(|id| {
                AssistantBlock::ToolCall(ToolCall {
                    id: (*id).to_owned(),
                    name: "read".to_owned(),
                    arguments: serde_json::json!({"path": "a"}),
                    arguments_error: None,
                    thought_signature: None,
                })
            })
            .collect();
        Arc::new(Message::Assistant(answer))
    }

    fn result(id: &str, chars: usize) -> Arc<Message> {
        Arc::new(Message::ToolResult(ToolResultMessage {
            tool_call_id: id.to_owned(),
            tool_name: "read".to_owned(),
            content: vec![ContentBlock::text("y".repeat(chars))],
            is_error: false,
            details: serde_json::Value::Null,
            is_final: false,
        }))
    }

    #[test]
    fn the_newest_messages_stay_and_no_result_without_its_call() {
        let messages = [
            told(MessageOrigin::Task, 35),
            called(&["a", "b"]),
            result("a", 350),
            result("b", 350),
            called(&["c"]),
            result("c", 350),
        ];
        // The last call with its result: about 10 + 104 tokens.
        let plan_150 = plan(&messages, limits(150)).unwrap();
        assert_eq!((plan_150.keeps_task, plan_150.kept), (true, 2));
        // Room for one result more is no use: its call would be missing.
        assert_eq!(plan(&messages, limits(250)).unwrap().kept, 2);
        // Not even the last result fits: nothing stays.
        assert_eq!(plan(&messages, limits(50)).unwrap().kept, 0);
        // Unless the window has room for the newest answer and its results: they stay.
        let roomy = Limits {
            context_max: Some(300),
            ..limits(50)
        };
        assert_eq!(plan(&messages, roomy).unwrap().kept, 2);
        // All fits: nothing to sum up.
        assert_eq!(plan(&messages, limits(5_000)), None);
    }

    #[test]
    fn a_long_task_is_summed_up_too_and_a_summary_alone_is_not() {
        let messages = [
            told(MessageOrigin::Task, 3_500),
            called(&["a"]),
            result("a", 10),
        ];
        let long = plan(&messages, limits(100)).unwrap();
        assert_eq!((long.keeps_task, long.kept), (false, 2));
        let again = [
            told(MessageOrigin::Task, 35),
            told(MessageOrigin::Summary, 3_500),
            called(&["a"]),
            result("a", 10),
        ];
        assert_eq!(plan(&again, limits(100)), None);
    }

    #[test]
    fn what_is_read_is_bounded_and_keeps_both_ends() {
        let text = cut_middle(&format!("start{}end", "é".repeat(5_000)), 1_000);
        assert!(text.len() <= 1_000);
        assert!(text.starts_with("start") && text.ends_with("end"), "{text}");
        assert!(text.contains("left out"));
        let rendered = render(&[result("a", 9_000)], usize::MAX);
        assert!(rendered.chars().count() < 2_100, "{}", rendered.len());
    }

    #[test]
    fn small_windows_keep_a_quarter_free() {
        let small = Limits::new(CompactionConfig::default(), 2_048, 4_096, 0);
        assert_eq!(small.context_max, Some(1_536));
        assert_eq!((small.keep, small.summary_max), (512, 512));
        let large = Limits::new(CompactionConfig::default(), 200_000, 64_000, 0);
        assert_eq!(large.context_max, Some(200_000 - 16_384));
        assert_eq!((large.keep, large.summary_max), (20_000, 8_192));
        let unknown = Limits::new(CompactionConfig::default(), 0, 4_096, 0);
        assert_eq!(unknown.context_max, None);
    }

    proptest! {
        /// Whatever is cut, what stays begins with no result, and there is less than before.
        #[test]
        fn a_plan_is_always_sound(
            kinds in proptest::collection::vec((0_u8..4, 0_usize..900), 1..40), keep in 0_u64..900
        ) {
            let mut messages = vec![told(MessageOrigin::Task, 20)];
            for (n, (kind, chars)) in kinds.iter().enumerate() {
                let id = n.to_string();
                match kind {
                    0 => messages.push(told(MessageOrigin::Steer, *chars)),
                    1 => messages.push(told(MessageOrigin::Summary, *chars)),
                    _ => messages.extend([called(&[&id]), result(&id, *chars)]),
                }
            }
            let before = messages.len();
            let Some(plan) = plan(&messages, limits(keep)) else { return Ok(()) };
            let compaction = compaction(&plan, "s".to_owned(), 0);
            compaction.apply(&mut messages);
            prop_assert!(messages.len() <= before);
            let head = usize::from(plan.keeps_task);
            let first = messages.get(head + 1);
            prop_assert!(!first.is_some_and(|m| matches!(m.as_ref(), Message::ToolResult(_))));
            let kept: u64 = messages.iter().skip(head + 1).map(|m| tokens(m)).sum();
            prop_assert!(kept <= keep);
        }
    }
}
