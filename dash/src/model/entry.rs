//! Entries: the nodes of an agent's conversation tree. Append-only; a branch is a new child.

use std::collections::HashSet;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::message::MessageOrigin;
use super::{Message, StepKey};
use crate::env::UnixMillis;
use crate::ids::{AgentId, EntryId};

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EntryBody {
    /// A message, part of what the model sees.
    Message {
        /// The message; shared, because engine, store, agent and provider all look at it.
        message: Arc<Message>,
    },
    /// A remark for people; never sent to a model.
    Label {
        /// The remark.
        text: String,
    },
    /// From here on the model sees a summary instead of most of what came before; see
    /// [`context`].
    Compaction {
        /// What is seen of it.
        compaction: Compaction,
    },
    /// The agent was sent back to the entry before this one. What followed it first is another
    /// branch, which the model does not see.
    Branch {
        /// The newest entry of that branch.
        abandoned: EntryId,
        /// Whether the model is told what came of it, by a [`BranchSummary`](Self::BranchSummary).
        summarise: bool,
    },
    /// What came of a branch that was abandoned.
    BranchSummary {
        /// The summary, in the model's words.
        summary: String,
    },
}

impl EntryBody {
    /// The message, if it is one.
    #[must_use]
    pub const fn message(&self) -> Option<&Arc<Message>> {
        match self {
            Self::Message { message } => Some(message),
            Self::Label { .. }
            | Self::Compaction { .. }
            | Self::Branch { .. }
            | Self::BranchSummary { .. } => None,
        }
    }
}

/// What is left of a conversation that was summed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compaction {
    /// The summary, in the model's words.
    pub summary: String,
    /// Whether the first message, the task, is still seen word for word before the summary.
    pub keeps_task: bool,
    /// How many of the newest messages are still seen word for word after the summary.
    pub kept: u32,
    /// Tokens of the context before, estimated.
    pub tokens_before: u64,
}

/// How the summary is introduced to the model.
const SUMMARY_INTRO: &str = "The conversation before this point was summed up, because it had \
     become too long for the model:";

impl Compaction {
    /// The summary as the model sees it.
    #[must_use]
    pub fn message(&self) -> Arc<Message> {
        let text = format!("{SUMMARY_INTRO}\n\n{}", self.summary);
        Arc::new(Message::user(text, MessageOrigin::Summary))
    }

    /// Takes from a context what is no longer seen and puts the summary there.
    pub fn apply(&self, messages: &mut Vec<Arc<Message>>) {
        let kept = messages
            .len()
            .saturating_sub(usize::try_from(self.kept).unwrap_or(usize::MAX));
        let first = usize::from(self.keeps_task).min(kept);
        messages.splice(first..kept, [self.message()]);
    }
}

/// What a model sees of a conversation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Context {
    /// The messages, oldest first.
    pub messages: Vec<Arc<Message>>,
    /// How many of them were there when the conversation was last summed up: token counts of
    /// answers among these tell nothing about the context any more.
    pub stale: usize,
}

/// Derives what a model sees from the entries of a path, oldest first.
#[must_use]
pub fn context<'a>(path: impl IntoIterator<Item = &'a EntryBody>) -> Context {
    let mut context = Context::default();
    for body in path {
        match body {
            EntryBody::Message { message } => context.messages.push(Arc::clone(message)),
            EntryBody::Compaction { compaction } => {
                compaction.apply(&mut context.messages);
                context.stale = context.messages.len();
            }
            EntryBody::BranchSummary { summary } => {
                context.messages.push(branch_message(summary));
            }
            EntryBody::Label { .. } | EntryBody::Branch { .. } => {}
        }
    }
    context
}

impl Context {
    /// Whether a model may be asked next: something was said to it, and no call of its last answer
    /// waits for a result.
    #[must_use]
    pub fn awaits_model(&self) -> bool {
        let is_answer = |m: &Arc<Message>| matches!(m.as_ref(), Message::Assistant(_));
        let Some(last) = self.messages.iter().rposition(is_answer) else {
            return !self.messages.is_empty();
        };
        let after = self.messages.get(last + 1..).unwrap_or_default();
        let answered: HashSet<&str> = after
            .iter()
            .filter_map(|message| match message.as_ref() {
                Message::ToolResult(result) => Some(result.tool_call_id.as_str()),
                Message::User(_) | Message::Assistant(_) => None,
            })
            .collect();
        let mut calls = match self.messages.get(last).map(Arc::as_ref) {
            Some(Message::Assistant(answer)) => answer.tool_calls().collect(),
            _ => Vec::new(),
        }
        .into_iter();
        !after.is_empty() && calls.all(|call| answered.contains(call.id.as_str()))
    }
}

/// The branch of a path that was abandoned and whose summary is still to be made: the entry it
/// begins below, and its newest one.
#[must_use]
pub fn open_branch(path: &[Entry]) -> Option<(Option<EntryId>, EntryId)> {
    let newest = path.iter().rev().find(|entry| {
        matches!(
            entry.body,
            EntryBody::Branch { .. } | EntryBody::BranchSummary { .. }
        )
    })?;
    match newest.body {
        EntryBody::Branch {
            abandoned,
            summarise: true,
        } => Some((newest.parent_id, abandoned)),
        _ => None,
    }
}

/// How the summary of a branch is introduced to the model.
const BRANCH_INTRO: &str = "From here another way was tried before and given up. What came of it:";

/// The summary of a branch as the model sees it.
#[must_use]
pub fn branch_message(summary: &str) -> Arc<Message> {
    let text = format!("{BRANCH_INTRO}\n\n{summary}");
    Arc::new(Message::user(text, MessageOrigin::Summary))
}

/// When a conversation is summed up, and how much of it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CompactionConfig {
    /// Whether it is done at all. Without it, an agent whose conversation outgrows the window fails.
    pub enabled: bool,
    /// Tokens of the model's window that are kept free: the conversation is summed up when less is
    /// left (256 to 1,000,000). At most a quarter of the window counts.
    pub reserve_tokens: u32,
    /// Tokens of the newest messages that stay word for word (0 to 1,000,000). At most a quarter of
    /// the window counts.
    pub keep_tokens: u32,
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            reserve_tokens: 16_384,
            keep_tokens: 20_000,
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// The agent that added it. A fork's conversation holds entries of the agent it came from.
    pub agent_id: AgentId,
    /// The entry before it; `None` for the first.
    pub parent_id: Option<EntryId>,
    /// The step whose outcome it is.
    pub step: Option<StepKey>,
    /// What it holds.
    pub body: EntryBody,
    /// When it was added.
    pub at: UnixMillis,
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn said(text: &str) -> EntryBody {
        EntryBody::Message {
            message: Arc::new(Message::user(text, MessageOrigin::Task)),
        }
    }

    fn summed_up(keeps_task: bool, kept: u32) -> EntryBody {
        EntryBody::Compaction {
            compaction: Compaction {
                summary: format!("sum {kept}"),
                keeps_task,
                kept,
                tokens_before: 9,
            },
        }
    }

    fn texts(path: &[EntryBody]) -> (Vec<String>, usize) {
        let context = context(path);
        let text = |message: &Arc<Message>| match message.as_ref() {
            Message::User(user) => match user.content.as_slice() {
                [super::super::ContentBlock::Text { text }] => {
                    text.rsplit('\n').next().unwrap_or_default().to_owned()
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        (context.messages.iter().map(text).collect(), context.stale)
    }

    #[test]
    fn a_summary_stands_for_all_but_the_task_and_the_newest() {
        let label = EntryBody::Label {
            text: "for people".to_owned(),
        };
        let mut path = vec![said("task"), label, said("a"), said("b"), said("c")];
        assert_eq!(texts(&path).0, ["task", "a", "b", "c"]);
        path.push(summed_up(true, 1));
        path.push(said("d"));
        assert_eq!(
            texts(&path),
            (["task", "sum 1", "c", "d"].map(str::to_owned).to_vec(), 3)
        );
        path.push(summed_up(true, 2));
        assert_eq!(
            texts(&path),
            (["task", "sum 2", "c", "d"].map(str::to_owned).to_vec(), 4)
        );
        path.push(summed_up(false, 0));
        assert_eq!(texts(&path), (vec!["sum 0".to_owned()], 1));
    }

    #[test]
    fn a_summary_that_claims_to_keep_more_than_there_is_keeps_all() {
        let path = [said("task"), said("a"), summed_up(true, 9)];
        assert_eq!(texts(&path).0, ["sum 9", "task", "a"]);
    }
}
