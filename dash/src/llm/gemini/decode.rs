//! Reads answers.

use serde_json::value::RawValue;

use super::chunk::{Candidate, Chunk, FunctionCall, Part, PromptFeedback, Said};
use crate::llm::dialect::{
    Answer, AnswerSetup, BlockHandle, CallEnd, Decoder, SseEvent, TextEnd, TextKind,
};
use crate::llm::failure::{ServerFailure, shown};
use crate::llm::{LlmError, LlmErrorKind, LlmEvent};
use crate::model::StopReason;

/// Why the server says it stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finish {
    Whole(StopReason),
    Failed {
        kind: LlmErrorKind,
        /// The server's word.
        raw: String,
        /// The server's explanation; may be empty.
        message: String,
    },
}

/// Reads the chunks of one answer.
///
/// An answer may tell several finish reasons, so the terminal event comes with the end of the body
/// (or `[DONE]`, which Google does not send); the last reason counts, but an error is not taken
/// back. A body that ends without a reason is [`LlmErrorKind::StreamCut`].
#[derive(Debug)]
pub struct GeminiDecoder {
    answer: Answer,
    finish: Option<Finish>,
    /// The block that text without a signature adds to.
    current: Option<(TextKind, BlockHandle)>,
}

impl GeminiDecoder {
    /// A decoder of one answer.
    #[must_use]
    pub fn new(setup: AnswerSetup) -> Self {
        Self {
            answer: Answer::new(setup),
            finish: None,
            current: None,
        }
    }

    fn chunk(&mut self, chunk: &Chunk<'_>, out: &mut Vec<LlmEvent>) {
        let (model, id) = (chunk.model_version.as_str(), chunk.response_id.as_str());
        self.answer.start(Some(model), Some(id), out);
        if let Some(candidate) = chunk.candidate() {
            self.candidate(&candidate, out);
        }
        if let Some(feedback) = chunk.prompt_feedback() {
            self.blocked(&feedback);
        }
        if let Some(usage) = chunk.usage() {
            // Every chunk counts anew; only the last ones are the bill.
            if self.finish.is_some() {
                self.answer.usage(usage.usage(), out);
            } else {
                self.answer.usage_so_far(usage.usage(), out);
            }
        }
    }

    fn candidate(&mut self, candidate: &Candidate<'_>, out: &mut Vec<LlmEvent>) {
        for part in candidate.parts() {
            self.part(part, out);
        }
        let word = candidate.finish_reason.as_str();
        if let Some(finish) = read_finish(word, candidate.finish_message.as_str()) {
            self.tell_finish(finish);
        }
    }

    /// The server refuses the prompt; there is no answer.
    fn blocked(&mut self, feedback: &PromptFeedback<'_>) {
        let raw = feedback.block_reason.as_str();
        if !matches!(raw, "" | "BLOCK_REASON_UNSPECIFIED") {
            self.tell_finish(Finish::Failed {
                kind: LlmErrorKind::ContentFilter,
                raw: raw.to_owned(),
                message: feedback.block_reason_message.as_str().to_owned(),
            });
        }
    }

    fn tell_finish(&mut self, finish: Finish) {
        let was_error = matches!(self.finish, Some(Finish::Failed { .. }));
        if !was_error || matches!(finish, Finish::Failed { .. }) {
            self.finish = Some(finish);
        }
    }

    fn part(&mut self, part: Part<'_>, out: &mut Vec<LlmEvent>) {
        match part.said {
            Said::Text(text) => self.text(TextKind::Text, &text, part.signature, out),
            Said::Thought(text) => self.text(TextKind::Thinking, &text, part.signature, out),
            Said::Call(call) => self.call(&call, part.signature, out),
        }
    }

    fn text(
        &mut self,
        kind: TextKind,
        text: &str,
        signature: Option<String>,
        out: &mut Vec<LlmEvent>,
    ) {
        if signature.is_some() {
            // A signature is good for exactly the part it came on.
            self.close_current(out);
            let block = self.answer.open(kind, out);
            self.answer.grow(block, text, out);
            let end = TextEnd {
                signature,
                ..TextEnd::default()
            };
            self.answer.close(block, end, out);
            return;
        }
        if text.is_empty() {
            return;
        }
        let block = match self.current {
            Some((of, block)) if of == kind => block,
            _ => {
                self.close_current(out);
                let block = self.answer.open(kind, out);
                self.current = Some((kind, block));
                block
            }
        };
        self.answer.grow(block, text, out);
    }

    /// Calls come whole, mostly without an id.
    fn call(
        &mut self,
        call: &FunctionCall<'_>,
        signature: Option<String>,
        out: &mut Vec<LlmEvent>,
    ) {
        self.close_current(out);
        let id = self.answer.unique_call_id(call.id.as_str());
        let block = self.answer.call_start(&id, call.name.as_str(), out);
        self.answer.call_delta(block, &call.arguments(), out);
        let end = CallEnd {
            signature,
            ..CallEnd::default()
        };
        self.answer.call_close(block, end, out);
    }

    fn close_current(&mut self, out: &mut Vec<LlmEvent>) {
        if let Some((_, block)) = self.current.take() {
            self.answer.close(block, TextEnd::default(), out);
        }
    }

    fn finish(&mut self, out: &mut Vec<LlmEvent>) {
        if self.answer.is_ended() {
            return;
        }
        match self.finish.take() {
            Some(Finish::Whole(reason)) => self.answer.done(reason, out),
            Some(Finish::Failed { kind, raw, message }) => {
                self.answer.raw_stop_reason(&raw);
                let mut text = match kind {
                    LlmErrorKind::ContentFilter => {
                        format!("the provider's filter withheld the answer: `{raw}`")
                    }
                    _ => format!("the server ended the answer with `{raw}`"),
                };
                if !message.is_empty() {
                    text.push_str(": ");
                    text.push_str(&message);
                }
                self.fail_with(kind, &shown(&text), out);
            }
            None => self.cut(out),
        }
    }

    fn cut(&mut self, out: &mut Vec<LlmEvent>) {
        self.fail_with(
            LlmErrorKind::StreamCut,
            "the answer ended in the middle",
            out,
        );
    }

    fn fail_with(&mut self, kind: LlmErrorKind, text: &str, out: &mut Vec<LlmEvent>) {
        self.answer.error(LlmError::billed_unknown(kind, text), out);
    }

    fn server_error(&mut self, data: &str, out: &mut Vec<LlmEvent>) {
        let failure = ServerFailure::read(None, data);
        let mut error = LlmError::billed_unknown(failure.kind(), failure.shown());
        error.retry_after_ms = failure.retry_after_ms();
        self.answer.error(error, out);
    }

    fn one(&mut self, data: &str, out: &mut Vec<LlmEvent>) {
        match serde_json::from_str::<Chunk<'_>>(data) {
            Ok(chunk) if chunk.is_error() => self.server_error(data, out),
            Ok(chunk) => self.chunk(&chunk, out),
            // A body that breaks off leaves half a chunk.
            Err(err) if err.is_eof() => self.cut(out),
            Err(err) => {
                let text = format!("the server sent a chunk that cannot be read ({err}): {data}");
                self.fail_with(LlmErrorKind::Decode, &shown(&text), out);
            }
        }
    }
}

impl Decoder for GeminiDecoder {
    fn feed(&mut self, event: SseEvent<'_>, out: &mut Vec<LlmEvent>) {
        if self.answer.is_ended() {
            return;
        }
        let data = event.data.trim();
        if data.is_empty() {
            return self.answer.heartbeat(out);
        }
        if data == "[DONE]" {
            return self.finish(out);
        }
        if event.name == "error" {
            return self.server_error(data, out);
        }
        // Errors also come as a list of one.
        match serde_json::from_str::<Vec<&RawValue>>(data) {
            Ok(chunks) => {
                for chunk in chunks {
                    if !self.answer.is_ended() {
                        self.one(chunk.get(), out);
                    }
                }
            }
            Err(_) => self.one(data, out),
        }
    }

    fn eof(&mut self, out: &mut Vec<LlmEvent>) {
        self.finish(out);
    }

    fn fail(&mut self, error: LlmError, out: &mut Vec<LlmEvent>) {
        self.answer.error(error, out);
    }

    fn is_ended(&self) -> bool {
        self.answer.is_ended()
    }
}

/// What a finish reason means; `None` if it tells nothing.
fn read_finish(word: &str, message: &str) -> Option<Finish> {
    let kind = match word {
        "" | "FINISH_REASON_UNSPECIFIED" => return None,
        "STOP" => return Some(Finish::Whole(StopReason::Stop)),
        "MAX_TOKENS" => return Some(Finish::Whole(StopReason::Length)),
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "MODEL_ARMOR"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => LlmErrorKind::ContentFilter,
        // The conversation lacks what the model signed; it will be refused again.
        "MISSING_THOUGHT_SIGNATURE" => LlmErrorKind::InvalidRequest,
        // Among them MALFORMED_FUNCTION_CALL, UNEXPECTED_TOOL_CALL, TOO_MANY_TOOL_CALLS and OTHER:
        // the model failed, and may do better next time.
        _ => LlmErrorKind::Server,
    };
    Some(Finish::Failed {
        kind,
        raw: word.to_owned(),
        message: message.to_owned(),
    })
}
