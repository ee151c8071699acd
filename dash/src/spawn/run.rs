//! The run machine: what an agent does next, derived from its conversation alone. Pure, so that a
//! restart, a replay and a live run agree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::compact;
use crate::model::entry::branch_message;
use crate::model::{
    AssistantBlock, AssistantMessage, Compaction, ContentBlock, Message, StopReason, ToolCall,
};

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Call the model for this turn.
    Model { turn: u32 },
    /// Run (or, if `cut`, refuse) these calls of the last answer, by their place in it.
    Tools {
        turn: u32,
        calls: Vec<(u32, ToolCall)>,
        cut: bool,
    },
    /// End well.
    Complete { result: String },
    /// End badly: the turn limit is reached.
    TurnLimit,
}

/// Tokens that a message costs besides its text, at most (role and separators).
const MESSAGE_OVERHEAD: u64 = 16;

/// A conversation and the count of turns.
#[derive(Debug)]
pub(super) struct Run {
    messages: Vec<Arc<Message>>,
    /// How many of `messages` were there when the conversation was last summed up.
    stale: usize,
    turns_done: u32,
    turns_left: u32,
    /// Upper bound of the tokens of `messages`.
    tokens_max: u64,
}

impl Run {
    pub(super) fn new(
        history: Vec<Arc<Message>>,
        stale: usize,
        turns_done: u32,
        turns_left: u32,
    ) -> Self {
        let tokens_max = history.iter().map(|message| tokens_max(message)).sum();
        Self {
            messages: history,
            stale,
            turns_done,
            turns_left,
            tokens_max,
        }
    }

    /// Adds a message that entered the conversation.
    pub(super) fn push(&mut self, message: Arc<Message>) {
        if matches!(message.as_ref(), Message::Assistant(_)) {
            self.count_turn();
        }
        self.tokens_max += tokens_max(&message);
        self.messages.push(message);
    }

    fn count_turn(&mut self) {
        self.turns_done += 1;
        self.turns_left = self.turns_left.saturating_sub(1);
    }

    /// Puts a summary in the place of what it sums up. The call that made it was a turn.
    pub(super) fn compact(&mut self, compaction: &Compaction) {
        self.count_turn();
        compaction.apply(&mut self.messages);
        self.stale = self.messages.len();
        self.tokens_max = self
            .messages
            .iter()
            .map(|message| tokens_max(message))
            .sum();
    }

    /// Adds the summary of another branch. The call that made it was a turn.
    pub(super) fn add_branch(&mut self, summary: &str) {
        self.count_turn();
        self.push(branch_message(summary));
    }

    /// The conversation in the order it came.
    pub(super) fn messages(&self) -> &[Arc<Message>] {
        &self.messages
    }

    /// The number of the turn that comes next.
    pub(super) const fn next_turn(&self) -> u32 {
        self.turns_done + 1
    }

    /// An upper bound of the conversation's tokens: no tokenizer makes more tokens than bytes.
    pub(super) const fn tokens_max(&self) -> u64 {
        self.tokens_max
    }

    /// About how many tokens the conversation has, `fixed` tokens of prompt and tools included: what
    /// the server counted for the last answer, and a guess for what followed.
    pub(super) fn tokens_estimate(&self, fixed: u64) -> u64 {
        let fresh = self.messages.iter().enumerate().skip(self.stale).rev();
        let counted = fresh
            .filter_map(|(at, message)| match message.as_ref() {
                Message::Assistant(answer) if answer.usage.total() > 0 => {
                    Some((at, answer.usage.total()))
                }
                _ => None,
            })
            .next();
        let (from, base) = counted.map_or((0, fixed), |(at, total)| (at + 1, total));
        let rest = self.messages.iter().skip(from);
        base + rest.map(|message| compact::tokens(message)).sum::<u64>()
    }

    /// The most tokens that one call of this conversation has had.
    pub(super) fn largest_call(&self) -> u32 {
        let answers = self.messages.iter().filter_map(|m| match m.as_ref() {
            Message::Assistant(answer) => Some(answer.usage.total()),
            Message::User(_) | Message::ToolResult(_) => None,
        });
        u32::try_from(answers.max().unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// The last answer and what came after it.
    pub(super) fn last_turn(&self) -> Option<(&AssistantMessage, &[Arc<Message>])> {
        let last = self.messages.iter().rposition(is_assistant)?;
        match self.messages.get(last).map(Arc::as_ref) {
            Some(Message::Assistant(answer)) => {
                let after = self.messages.get(last + 1..).unwrap_or_default();
                Some((answer, after))
            }
            _ => None,
        }
    }

    /// The conversation with tool results in the order of the calls they answer, whatever order
    /// they came in.
    pub(super) fn conversation(&self) -> Vec<Arc<Message>> {
        let mut ordered = Vec::with_capacity(self.messages.len());
        let mut at = 0;
        while let Some(message) = self.messages.get(at) {
            ordered.push(Arc::clone(message));
            at += 1;
            let Message::Assistant(answer) = message.as_ref() else {
                continue;
            };
            let order: HashMap<&str, usize> = answer
                .tool_calls()
                .enumerate()
                .map(|(i, call)| (call.id.as_str(), i))
                .collect();
            if order.is_empty() {
                continue;
            }
            let end = self.messages.iter().skip(at).position(is_assistant);
            let end = end.map_or(self.messages.len(), |offset| at + offset);
            let following = self.messages.get(at..end).unwrap_or_default();
            let (mut results, others): (Vec<_>, Vec<_>) = following
                .iter()
                .cloned()
                .partition(|m| matches!(**m, Message::ToolResult(_)));
            results.sort_by_key(|m| match m.as_ref() {
                Message::ToolResult(result) => order.get(result.tool_call_id.as_str()).copied(),
                Message::User(_) | Message::Assistant(_) => None,
            });
            ordered.extend(results);
            ordered.extend(others);
            at = end;
        }
        ordered
    }

    /// What comes next.
    pub(super) fn next_action(&self) -> Action {
        let Some((answer, after)) = self.last_turn() else {
            return self.model();
        };
        let answered: HashSet<&str> = after
            .iter()
            .filter_map(|m| match m.as_ref() {
                Message::ToolResult(result) => Some(result.tool_call_id.as_str()),
                Message::User(_) | Message::Assistant(_) => None,
            })
            .collect();
        let calls: Vec<(u32, ToolCall)> = (0..)
            .zip(answer.tool_calls())
            .filter(|(_, call)| !answered.contains(call.id.as_str()))
            .map(|(index, call)| (index, call.clone()))
            .collect();
        if !calls.is_empty() {
            let cut = answer.stop_reason == StopReason::Length;
            return Action::Tools {
                turn: self.turns_done,
                calls,
                cut,
            };
        }
        if after.is_empty() {
            Action::Complete {
                result: answer.text(),
            }
        } else if let Some(result) = final_text(answer, after) {
            Action::Complete { result }
        } else {
            self.model()
        }
    }

    const fn model(&self) -> Action {
        if self.turns_left == 0 {
            Action::TurnLimit
        } else {
            Action::Model {
                turn: self.next_turn(),
            }
        }
    }
}

/// The texts of a batch of results in the order of its calls, if all of them say that nothing is left
/// to do and nothing was said since.
fn final_text(answer: &AssistantMessage, after: &[Arc<Message>]) -> Option<String> {
    let results = after.iter().map(|message| match message.as_ref() {
        Message::ToolResult(result) if result.is_final => {
            Some((result.tool_call_id.as_str(), result.text()))
        }
        _ => None,
    });
    let mut texts: HashMap<&str, String> = results.collect::<Option<_>>()?;
    let in_order = answer
        .tool_calls()
        .filter_map(|c| texts.remove(c.id.as_str()));
    Some(in_order.collect::<Vec<String>>().join("\n"))
}

fn is_assistant(message: &Arc<Message>) -> bool {
    matches!(message.as_ref(), Message::Assistant(_))
}

/// An upper bound of a message's tokens.
pub(super) fn tokens_max(message: &Message) -> u64 {
    let block = |block: &ContentBlock| match block {
        ContentBlock::Text { text } => text.len(),
        ContentBlock::Image { data, mime_type } => data.len() + mime_type.len(),
    };
    let bytes = match message {
        Message::User(user) => user.content.iter().map(block).sum(),
        Message::ToolResult(result) => {
            result.content.iter().map(block).sum::<usize>()
                + result.tool_call_id.len()
                + result.tool_name.len()
        }
        Message::Assistant(answer) => answer.content.iter().map(assistant_bytes).sum(),
    };
    bytes as u64 + MESSAGE_OVERHEAD
}

fn assistant_bytes(block: &AssistantBlock) -> usize {
    match block {
        AssistantBlock::Text { text, signature }
        | AssistantBlock::Thinking {
            text, signature, ..
        } => text.len() + signature.as_ref().map_or(0, String::len),
        AssistantBlock::ToolCall(call) => {
            // Quotes and backslashes are escaped once more on the wire, and wrapped by templates.
            call.id.len() + call.name.len() + 2 * call.arguments.to_string().len() + 32
        }
    }
}

/// Makes the ids of an answer's calls unique, so that results can be told apart.
pub(super) fn with_unique_call_ids(mut answer: AssistantMessage) -> AssistantMessage {
    let mut seen = HashSet::new();
    for block in &mut answer.content {
        let AssistantBlock::ToolCall(call) = block else {
            continue;
        };
        if call.id.is_empty() {
            "call".clone_into(&mut call.id);
        }
        let mut id = call.id.clone();
        let mut n = 2_u32;
        while !seen.insert(id.clone()) {
            id = format!("{}-{n}", call.id);
            n += 1;
        }
        call.id = id;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MessageOrigin, NanoUsd, ToolResultMessage, Usage};
    use proptest::prelude::*;

    fn user(text: &str) -> Arc<Message> {
        Arc::new(Message::user(text, MessageOrigin::Task))
    }

    fn answer(text: &str, calls: &[&str], stop: StopReason) -> Arc<Message> {
        let mut content = vec![AssistantBlock::Text {
            text: text.to_owned(),
            signature: None,
        }];
        for id in calls {
            content.push(AssistantBlock::ToolCall(ToolCall {
                id: (*id).to_owned(),
                name: "read".to_owned(),
                arguments: serde_json::json!({}),
                arguments_error: None,
                thought_signature: None,
            }));
        }
        Arc::new(Message::Assistant(AssistantMessage {
            content,
            provider: "p".to_owned(),
            model: "m".to_owned(),
            api: String::new(),
            cost_reported: false,
            response_model: None,
            response_id: None,
            usage: Usage::default(),
            cost: NanoUsd::ZERO,
            stop_reason: stop,
            raw_stop_reason: None,
        }))
    }

    fn result(id: &str) -> Arc<Message> {
        Arc::new(Message::ToolResult(ToolResultMessage {
            tool_call_id: id.to_owned(),
            tool_name: "read".to_owned(),
            content: vec![ContentBlock::text("x")],
            is_error: false,
            details: serde_json::Value::Null,
            is_final: false,
        }))
    }

    fn indexes(action: &Action) -> Vec<u32> {
        match action {
            Action::Tools { calls, .. } => calls.iter().map(|(i, _)| *i).collect(),
            _ => panic!("{action:?}"),
        }
    }

    #[test]
    fn a_task_leads_to_a_call_tools_to_results_and_text_to_the_end() {
        let mut run = Run::new(vec![user("go")], 0, 0, 5);
        assert_eq!(run.next_action(), Action::Model { turn: 1 });
        run.push(answer("", &["a", "b"], StopReason::ToolUse));
        assert_eq!(indexes(&run.next_action()), [0, 1]);
        run.push(result("b"));
        assert_eq!(indexes(&run.next_action()), [0]);
        run.push(result("a"));
        assert_eq!(run.next_action(), Action::Model { turn: 2 });
        run.push(answer("done", &[], StopReason::Stop));
        assert_eq!(
            run.next_action(),
            Action::Complete {
                result: "done".to_owned()
            }
        );
        run.push(user("one more thing"));
        assert_eq!(run.next_action(), Action::Model { turn: 3 });
    }

    #[test]
    fn results_that_are_all_final_end_the_run_in_the_order_of_their_calls() {
        let last = |id: &str, is_final: bool| {
            let mut message = result(id).as_ref().clone();
            if let Message::ToolResult(result) = &mut message {
                result.is_final = is_final;
                result.content = vec![ContentBlock::text(format!("said {id}"))];
            }
            Arc::new(message)
        };
        let ends = |second: bool, also: Option<Arc<Message>>| {
            let mut run = Run::new(vec![user("go")], 0, 0, 1);
            run.push(answer("", &["a", "b"], StopReason::ToolUse));
            run.push(last("b", second));
            run.push(last("a", true));
            also.into_iter().for_each(|message| run.push(message));
            run.next_action()
        };
        let result = "said a\nsaid b".to_owned();
        assert_eq!(ends(true, None), Action::Complete { result });
        assert_eq!(ends(false, None), Action::TurnLimit);
        assert_eq!(ends(true, Some(user("wait"))), Action::TurnLimit);
    }

    #[test]
    fn calls_of_a_cut_answer_are_marked() {
        let run = Run::new(
            vec![user("go"), answer("", &["a"], StopReason::Length)],
            0,
            1,
            5,
        );
        assert!(matches!(
            run.next_action(),
            Action::Tools {
                cut: true,
                turn: 1,
                ..
            }
        ));
    }

    #[test]
    fn the_turn_limit_ends_the_run() {
        let mut run = Run::new(vec![user("go")], 0, 0, 1);
        run.push(answer("", &["a"], StopReason::ToolUse));
        run.push(result("a"));
        assert_eq!(run.next_action(), Action::TurnLimit);
    }

    #[test]
    fn results_are_sent_in_the_order_of_their_calls() {
        let run = Run::new(
            vec![
                user("go"),
                answer("", &["a", "b"], StopReason::ToolUse),
                result("b"),
                result("a"),
            ],
            0,
            1,
            5,
        );
        let ids: Vec<String> = run
            .conversation()
            .iter()
            .filter_map(|m| match m.as_ref() {
                Message::ToolResult(r) => Some(r.tool_call_id.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn double_call_ids_are_told_apart() {
        let Message::Assistant(twice) = answer("", &["a", "a", ""], StopReason::ToolUse)
            .as_ref()
            .clone()
        else {
            panic!()
        };
        let ids: Vec<String> = with_unique_call_ids(twice)
            .tool_calls()
            .map(|c| c.id.clone())
            .collect();
        assert_eq!(ids, ["a", "a-2", "call"]);
    }

    proptest! {
        /// Wherever a run is cut, going on from the stored messages does what it would have done.
        #[test]
        fn a_resumed_run_does_what_the_uncut_one_would_have(
            turns in proptest::collection::vec(0_usize..3, 1..6), cut in 0_usize..20
        ) {
            let mut log = vec![user("go")];
            for (n, calls) in turns.iter().enumerate() {
                let ids: Vec<String> = (0..*calls).map(|c| format!("{n}-{c}")).collect();
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                log.push(answer("t", &ids, StopReason::ToolUse));
                log.extend(ids.iter().map(|id| result(id)));
            }
            let cut = cut.min(log.len() - 1) + 1;
            let mut live = Run::new(vec![Arc::clone(&log[0])], 0, 0, 100);
            for message in &log[1..cut] {
                live.push(Arc::clone(message));
            }
            let done = log[..cut].iter().filter(|m| is_assistant(m)).count();
            let done = u32::try_from(done).unwrap();
            let resumed = Run::new(log[..cut].to_vec(), 0, done, 100 - done);
            prop_assert_eq!(live.next_action(), resumed.next_action());
            prop_assert_eq!(live.tokens_max(), resumed.tokens_max());
        }
    }
}
