//! A ladder of models: if one cannot answer, the next is asked.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::{free_failure, prompt_bytes};
use crate::env::BoxFuture;
use crate::llm::failure::shown;
use crate::llm::{LlmError, LlmErrorKind, LlmEvent, LlmProvider, LlmRequest, LlmStream, Model};

/// A model and who serves it.
type Rung = (Arc<dyn LlmProvider>, Arc<Model>);

/// A provider that asks one model after the other until one answers.
///
/// The next rung is tried if nothing came but an error that cannot have been billed, of a kind for
/// which another model may help: what is worth a retry, a key, an account without money, an unknown
/// model, and a conversation that is too long if the next window is known to be larger. A refusal
/// of the request as it is, or of its content, is final.
///
/// The budget has reserved the price of the requested model: a rung that may cost more for this
/// request (at one token per byte of prompt) is skipped. The output limit is cut to what the rung
/// can give.
///
/// The answer's message names the provider and model that gave it, with its own cost.
#[derive(Debug, Clone)]
pub struct Failover {
    id: Arc<str>,
    rungs: Arc<[Rung]>,
}

impl Failover {
    /// A ladder that is known as `id`; `rungs` are tried in order. The requested model is asked
    /// only if it is one of them, usually the first.
    #[must_use]
    pub fn new(id: impl Into<String>, rungs: Vec<(Arc<dyn LlmProvider>, Arc<Model>)>) -> Self {
        Self {
            id: id.into().into(),
            rungs: rungs.into(),
        }
    }
}

impl LlmProvider for Failover {
    fn id(&self) -> &str {
        &self.id
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let climb = Climb {
            id: Arc::clone(&self.id),
            left: self.rungs.iter().cloned().collect(),
            request,
            on: None,
            window_above: 0,
            story: Vec::new(),
            last: None,
        };
        LlmStream::new(stream::unfold(climb, Climb::next))
    }

    /// The models of the ladder, which need not be asked for.
    fn models(&self) -> BoxFuture<Result<Vec<Model>, LlmError>> {
        let rungs = self.rungs.iter();
        let models = rungs.map(|(_provider, model)| (**model).clone()).collect();
        Box::pin(async { Ok(models) })
    }
}

/// The name and the model of a rung that has not begun to answer.
type Asked = (String, Arc<Model>);

struct Climb {
    id: Arc<str>,
    left: VecDeque<Rung>,
    request: LlmRequest,
    /// The rung that is asked; its name and model until it begins to answer.
    on: Option<(LlmStream, Option<Asked>)>,
    /// Windows up to this have been too small.
    window_above: u32,
    /// What became of the rungs so far.
    story: Vec<String>,
    /// The failure that is told if no rung answers.
    last: Option<LlmEvent>,
}

impl Climb {
    async fn next(mut self) -> Option<(LlmEvent, Self)> {
        loop {
            let Some((stream, asked)) = &mut self.on else {
                match self.left.pop_front() {
                    Some(rung) => self.ask(rung),
                    None => return Some((self.give_up(), self)),
                }
                continue;
            };
            let event = stream.next().await?;
            let Some((name, model)) = asked.take() else {
                return Some((event, self));
            };
            match free_failure(&event) {
                Some(error) if may_help(error.kind) => {
                    if error.kind == LlmErrorKind::ContextOverflow {
                        let window = match model.context_window {
                            0 => u32::MAX,
                            known => known,
                        };
                        self.window_above = self.window_above.max(window);
                    }
                    self.story.push(format!("{name}: {}", error.message));
                    // One that may pass says more to the caller than one that will not.
                    let may_pass = |event: &LlmEvent| {
                        free_failure(event).is_some_and(|error| error.kind.is_retryable())
                    };
                    if may_pass(&event) || !self.last.as_ref().is_some_and(may_pass) {
                        self.last = Some(event);
                    }
                    self.on = None;
                }
                Some(_) | None => return Some((self.told(event), self)),
            }
        }
    }

    /// Asks a rung, unless it is too small or too dear.
    fn ask(&mut self, (provider, model): Rung) {
        let name = format!("{}/{}", provider.id(), model.id);
        if self.window_above > 0 && model.context_window <= self.window_above {
            self.story.push(format!(
                "{name}: skipped, its window is not known to be larger"
            ));
            return;
        }
        let mut request = self.request.clone();
        if model.max_output_tokens > 0 {
            request.max_output_tokens = request.max_output_tokens.min(model.max_output_tokens);
        }
        let prompt = prompt_bytes(&request, None);
        let worst = |model: &Model, output: u32| model.price.worst_case(prompt, output.into());
        let reserved = worst(&self.request.model, self.request.max_output_tokens);
        if worst(&model, request.max_output_tokens).usd > reserved.usd {
            self.story.push(format!(
                "{name}: skipped, it may cost more than was reserved"
            ));
            return;
        }
        request.model = Arc::clone(&model);
        self.on = Some((provider.stream(request), Some((name, model))));
    }

    /// An error after others says what was tried before.
    fn told(&self, mut event: LlmEvent) -> LlmEvent {
        if let LlmEvent::Error { error, .. } = &mut event
            && !self.story.is_empty()
        {
            let text = format!("{}; before: {}", error.message, self.story.join("; "));
            error.message = shown(&text);
        }
        event
    }

    fn give_up(&mut self) -> LlmEvent {
        let text = match self.story.as_slice() {
            [] => "the ladder has no models".to_owned(),
            story => format!("no model answered: {}", story.join("; ")),
        };
        let text = shown(&text);
        match self.last.take() {
            Some(LlmEvent::Error { mut error, message }) => {
                error.message = text;
                LlmEvent::Error { error, message }
            }
            _ => {
                let error = LlmError::unbilled(LlmErrorKind::InvalidRequest, text);
                let message = crate::llm::MessageBuilder::new(&self.id, &self.request.model.id)
                    .into_message(crate::model::StopReason::Error);
                LlmEvent::Error { error, message }
            }
        }
    }
}

/// Whether another model may do what this one could not.
const fn may_help(kind: LlmErrorKind) -> bool {
    kind.is_retryable()
        || matches!(
            kind,
            LlmErrorKind::NotFound
                | LlmErrorKind::Auth
                | LlmErrorKind::Quota
                | LlmErrorKind::ContextOverflow
        )
}
