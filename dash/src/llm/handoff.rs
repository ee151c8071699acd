//! A conversation as another model may be told it.
//!
//! Conversations outlive models: an agent is moved up a ladder, a budget asks for a cheaper one, a
//! provider fails. [`turns`] is what every dialect's encoder reads instead of the raw messages, so
//! that the rules are kept in one place:
//!
//! 1. Images the target cannot see become a remark; adjacent ones one remark.
//! 2. Thinking is kept only for the model that thought it (same provider, dialect and model), if it
//!    is signed, withheld or has text. Another model would imitate it as visible text.
//! 3. Signatures of other models are removed.
//! 4. Ids of calls are rewritten where the target would refuse them, the same for call and result,
//!    and never twice the same in one conversation.
//! 5. Answers that failed or were cancelled are left out.
//! 6. A call without a result gets an error result; a result that answers no call is left out.
//!    Results stand in the order of their calls.
//! 7. Empty text is left out, unless it carries a signature of the same model. An answer of which
//!    nothing is left is left out.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::LlmRequest;
use crate::model::{
    AssistantBlock, AssistantMessage, ContentBlock, Message, StopReason, ToolResultMessage,
};

/// What a model is told of a call that has no result.
pub const NO_RESULT: &str = "No result provided";

/// What stands for images that the model cannot see.
pub const IMAGE_LEFT_OUT: &str = "[image left out: the model cannot see images]";

/// Which ids of tool calls a dialect takes: these characters, and at most so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallIdRule {
    /// The longest id, in bytes.
    pub len_max: usize,
    /// Whether only `A-Z a-z 0-9 _ -` may be in it.
    pub plain: bool,
}

impl CallIdRule {
    fn takes(self, id: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        !id.is_empty() && id.len() <= self.len_max && (!self.plain || id.bytes().all(plain))
    }
}

/// A piece of what a person or a tool says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<'a> {
    /// Text, not empty.
    Text(Cow<'a, str>),
    /// An image the target can see.
    Image {
        /// Base64 of the bytes.
        data: &'a str,
        /// E.g. `image/png`.
        mime_type: &'a str,
    },
}

/// A piece of what a model said.
#[derive(Debug, Clone, PartialEq)]
pub enum Part<'a> {
    /// Text; empty only if signed.
    Text {
        /// The text.
        text: &'a str,
        /// The same model's signature.
        signature: Option<&'a str>,
    },
    /// Thinking of the same model.
    Thinking {
        /// The text; may be empty.
        text: &'a str,
        /// The signature, or the encrypted payload if `redacted`.
        signature: Option<&'a str>,
        /// Whether the text was withheld.
        redacted: bool,
    },
    /// A tool call.
    Call {
        /// The id, as the target takes it.
        id: Cow<'a, str>,
        /// The id as the model gave it.
        own_id: &'a str,
        /// The tool.
        name: &'a str,
        /// The arguments, an object.
        arguments: &'a Value,
        /// The same model's signature of the thought behind it.
        signature: Option<&'a str>,
    },
}

/// The result of a tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallResult<'a> {
    /// The call's id, as the target takes it.
    pub id: Cow<'a, str>,
    /// The id as the model gave it.
    pub own_id: &'a str,
    /// The tool.
    pub name: &'a str,
    /// What came out. Empty = nothing.
    pub content: Vec<Said<'a>>,
    /// Whether the call failed.
    pub is_error: bool,
}

impl CallResult<'_> {
    /// The text pieces, joined by line breaks.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        joined(&self.content)
    }

    /// The images: base64 data and type.
    pub fn images(&self) -> impl Iterator<Item = (&str, &str)> {
        self.content.iter().filter_map(|said| match said {
            Said::Image { data, mime_type } => Some((*data, *mime_type)),
            Said::Text(_) => None,
        })
    }
}

/// The text pieces, joined by line breaks.
#[must_use]
pub fn joined<'a>(content: &'a [Said<'a>]) -> Cow<'a, str> {
    let mut texts = content.iter().filter_map(|said| match said {
        Said::Text(text) => Some(text.as_ref()),
        Said::Image { .. } => None,
    });
    let first = texts.next().unwrap_or_default();
    let Some(second) = texts.next() else {
        return Cow::Borrowed(first);
    };
    let rest: String = texts.flat_map(|text| ["\n", text]).collect();
    Cow::Owned(format!("{first}\n{second}{rest}"))
}

/// What one side said.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn<'a> {
    /// A person or a task; at least one piece.
    User(Vec<Said<'a>>),
    /// A model, and what its calls came to.
    Assistant {
        /// Whether the target said it itself.
        is_same: bool,
        /// What it said; at least one piece.
        parts: Vec<Part<'a>>,
        /// One result per call, in the order of the calls.
        results: Vec<CallResult<'a>>,
    },
}

/// The conversation as the request's model may be told it in the dialect `api`.
#[must_use]
pub fn turns<'a>(request: &'a LlmRequest, api: &str, ids: CallIdRule) -> Vec<Turn<'a>> {
    let mut out = Vec::with_capacity(request.messages.len());
    let mut telling = Telling {
        request,
        api,
        ids,
        used: HashSet::new(),
        made: HashMap::new(),
    };
    let mut rest = request.messages.as_slice();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match &**first {
            Message::User(user) => {
                let content = telling.said(&user.content);
                if !content.is_empty() {
                    out.push(Turn::User(content));
                }
            }
            Message::Assistant(answer) => out.extend(telling.answer(answer, after)),
            // Results are told with their calls.
            Message::ToolResult(_) => {}
        }
    }
    out
}

struct Telling<'a, 'b> {
    request: &'a LlmRequest,
    api: &'b str,
    ids: CallIdRule,
    used: HashSet<Cow<'a, str>>,
    /// How many names were made of an id so far.
    made: HashMap<&'a str, u32>,
}

impl<'a> Telling<'a, '_> {
    fn said(&self, content: &'a [ContentBlock]) -> Vec<Said<'a>> {
        let sees = self.request.model.images;
        let mut out: Vec<Said<'a>> = Vec::with_capacity(content.len());
        for block in content {
            let said = match block {
                ContentBlock::Text { text } if text.is_empty() => continue,
                ContentBlock::Text { text } => Said::Text(Cow::Borrowed(text)),
                ContentBlock::Image { data, mime_type } if sees => Said::Image { data, mime_type },
                ContentBlock::Image { .. } => Said::Text(Cow::Borrowed(IMAGE_LEFT_OUT)),
            };
            let is_remark =
                |said: &Said<'_>| matches!(said, Said::Text(text) if text == IMAGE_LEFT_OUT);
            if !(is_remark(&said) && out.last().is_some_and(is_remark)) {
                out.push(said);
            }
        }
        out
    }

    fn answer(
        &mut self,
        answer: &'a AssistantMessage,
        after: &'a [Arc<Message>],
    ) -> Option<Turn<'a>> {
        if matches!(answer.stop_reason, StopReason::Error | StopReason::Aborted) {
            return None;
        }
        let model = &self.request.model;
        let is_same = answer.provider == model.provider
            && answer.model == model.id
            && (answer.api.is_empty() || answer.api == self.api);
        let own = |signature: &'a Option<String>| signature.as_deref().filter(|_| is_same);
        let mut parts = Vec::with_capacity(answer.content.len());
        let mut ids = Vec::new();
        for block in &answer.content {
            match block {
                AssistantBlock::Text { text, signature } => {
                    let signature = own(signature);
                    if !text.is_empty() || signature.is_some() {
                        parts.push(Part::Text { text, signature });
                    }
                }
                AssistantBlock::Thinking {
                    text,
                    signature,
                    redacted,
                } => {
                    let signature = own(signature);
                    let redacted = *redacted;
                    let is_worth = signature.is_some() || (!redacted && !text.is_empty());
                    if is_same && is_worth {
                        parts.push(Part::Thinking {
                            text,
                            signature,
                            redacted,
                        });
                    }
                }
                AssistantBlock::ToolCall(call) => {
                    let id = self.call_id(&call.id);
                    ids.push((call, id.clone()));
                    parts.push(Part::Call {
                        id,
                        own_id: &call.id,
                        name: &call.name,
                        arguments: &call.arguments,
                        signature: own(&call.thought_signature),
                    });
                }
            }
        }
        if parts.is_empty() {
            return None;
        }
        let turn = after
            .iter()
            .take_while(|message| !matches!(***message, Message::Assistant(_)));
        let mut found: VecDeque<&ToolResultMessage> = turn
            .filter_map(|message| match &**message {
                Message::ToolResult(result) => Some(result),
                Message::User(_) | Message::Assistant(_) => None,
            })
            .collect();
        let results = ids.into_iter().map(|(call, id)| {
            let at = found.iter().position(|r| r.tool_call_id == call.id);
            let (content, is_error) = match at.and_then(|at| found.remove(at)) {
                Some(result) => (self.said(&result.content), result.is_error),
                None => (vec![Said::Text(Cow::Borrowed(NO_RESULT))], true),
            };
            CallResult {
                id,
                own_id: &call.id,
                name: &call.name,
                content,
                is_error,
            }
        });
        let results = results.collect();
        Some(Turn::Assistant {
            is_same,
            parts,
            results,
        })
    }

    /// An id that the target takes and that no other call of the conversation has. One that must
    /// change is replaced by a hash, so that it is the same in every request.
    fn call_id(&mut self, id: &'a str) -> Cow<'a, str> {
        let mut told = Cow::Borrowed(id);
        let mut n = self.made.get(id).copied().unwrap_or(0);
        while !self.ids.takes(&told) || self.used.contains(&told) {
            let mut hasher = blake3::Hasher::new();
            hasher.update(id.as_bytes());
            hasher.update(&n.to_le_bytes());
            let hash = hasher.finalize().to_hex();
            let digits = self.ids.len_max.saturating_sub("call_".len()).min(32);
            told = Cow::Owned(format!("call_{}", hash.get(..digits).unwrap_or_default()));
            n += 1;
        }
        if n > 0 {
            self.made.insert(id, n);
        }
        self.used.insert(told.clone());
        told
    }
}
