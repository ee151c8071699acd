//! Answers from a cassette.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream;
use serde_json::Value;

use super::cassette::{CASSETTE_BYTES_MAX, Line, VERSION, difference, fingerprint, readable};
use crate::llm::{
    LlmError, LlmErrorKind, LlmEvent, LlmProvider, LlmRequest, LlmStream, MessageBuilder,
};
use crate::model::StopReason;
use crate::{Error, Result};

/// A provider that answers as a [`Recorder`](super::Recorder) has heard it, event by event and
/// without delay.
///
/// A call is found by its request: model, prompt, messages, tools and options, but neither the
/// agent, the swarm nor the step that asks. Equal requests are answered in the order of their
/// recordings, each once. A recorded call that was dropped before its end begins and is silent. A
/// request that was not recorded is an error that names the nearest one. Clones share what is left.
#[derive(Debug, Clone)]
pub struct Replayer {
    id: Arc<str>,
    name: Arc<str>,
    tape: Arc<Mutex<Tape>>,
}

#[derive(Debug)]
struct Tape {
    calls: Vec<Recorded>,
    /// What is left to be answered, by fingerprint.
    left: HashMap<String, VecDeque<usize>>,
}

#[derive(Debug)]
struct Recorded {
    line: usize,
    request: Value,
    events: Vec<LlmEvent>,
}

impl Replayer {
    /// Reads a cassette. Blocks while it does. A last line that was cut in the middle, as by a
    /// process that was killed, is left out.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): the file cannot be read, has more than
    /// 256 MiB, or has another line that is no recorded call.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let unreadable = |err: std::io::Error| {
            Error::invalid("cassette", format!("`{name}` cannot be read: {err}")).with_source(err)
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        let mut capped = file.take(CASSETTE_BYTES_MAX + 1);
        capped.read_to_end(&mut bytes).map_err(unreadable)?;
        if capped.limit() == 0 {
            return Err(Error::invalid("cassette", format!("`{name}` is too long")));
        }
        Self::read(&name, &bytes)
    }

    /// Reads a cassette's text; `name` is for errors.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self> {
        let mut tape = Tape {
            calls: Vec::new(),
            left: HashMap::new(),
        };
        let mut id = None;
        for (at, text) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let is_whole = text.ends_with(b"\n");
            if text.trim_ascii().is_empty() {
                continue;
            }
            let number = at + 1;
            let line: Line = match serde_json::from_slice(text) {
                Ok(line) => line,
                Err(_cut) if !is_whole => break,
                Err(err) => {
                    let issue = format!("line {number} of `{name}` is no recorded call: {err}");
                    return Err(Error::invalid("cassette", issue));
                }
            };
            if line.v != VERSION {
                let issue = format!("line {number} of `{name}` has version {}", line.v);
                return Err(Error::invalid("cassette", issue));
            }
            id.get_or_insert(line.provider);
            let queue = tape.left.entry(line.fingerprint).or_default();
            queue.push_back(tape.calls.len());
            tape.calls.push(Recorded {
                line: number,
                request: line.request,
                events: line.events,
            });
        }
        Ok(Self {
            id: id.unwrap_or_else(|| "replayed".to_owned()).into(),
            name: name.into(),
            tape: Arc::new(Mutex::new(tape)),
        })
    }

    /// Answers as `id` instead of the first recorded provider.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into().into();
        self
    }

    /// How many recorded calls have not been asked for.
    #[must_use]
    pub fn remaining(&self) -> usize {
        let tape = self.tape.lock().unwrap_or_else(PoisonError::into_inner);
        tape.left.values().map(VecDeque::len).sum()
    }

    fn events(&self, request: &LlmRequest) -> Vec<LlmEvent> {
        let asked = readable(request);
        let print = fingerprint(&asked);
        let mut tape = self.tape.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = tape.left.get_mut(&print);
        let why = match queue.map(VecDeque::pop_front) {
            Some(Some(at)) => {
                let recorded = tape.calls.get_mut(at);
                return recorded.map_or_else(Vec::new, |call| std::mem::take(&mut call.events));
            }
            Some(None) => "every recording of this request has been used".to_owned(),
            None => tape.nearest(&asked),
        };
        drop(tape);
        let text = format!(
            "the cassette `{}` has no answer: {why}; to record it, put a `Recorder` around the \
             real provider",
            self.name
        );
        let error = LlmError::unbilled(LlmErrorKind::InvalidRequest, text);
        let message =
            MessageBuilder::new(&self.id, &request.model.id).into_message(StopReason::Error);
        vec![LlmEvent::Error { error, message }]
    }
}

impl Tape {
    fn nearest(&self, asked: &Value) -> String {
        let compared = self.calls.iter().map(|call| {
            let (alike, place) = difference(asked, &call.request);
            (alike, std::cmp::Reverse(call.line), place)
        });
        match compared.max() {
            Some((_alike, line, place)) => {
                format!("the nearest request, line {}, differs in `{place}`", line.0)
            }
            None => "it is empty".to_owned(),
        }
    }
}

impl LlmProvider for Replayer {
    fn id(&self) -> &str {
        &self.id
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let start = Play::New(self.clone(), Box::new(request));
        LlmStream::new(stream::unfold(start, Play::next))
    }
}

enum Play {
    New(Replayer, Box<LlmRequest>),
    On(std::vec::IntoIter<LlmEvent>),
}

impl Play {
    async fn next(self) -> Option<(LlmEvent, Self)> {
        let mut events = match self {
            Self::New(replayer, request) => replayer.events(&request).into_iter(),
            Self::On(events) => events,
        };
        match events.next() {
            Some(event) => Some((event, Self::On(events))),
            // The recorded caller heard no more than this.
            None => std::future::pending().await,
        }
    }
}
