//! Records calls to a cassette.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::cassette::{CASSETTE_BYTES_MAX, LINE_BYTES_MAX, Line, event_bytes, readable};
use crate::env::BoxFuture;
use crate::llm::{LlmError, LlmEvent, LlmProvider, LlmRequest, LlmStream, Model};
use crate::{Error, Result};

/// A provider that writes down what is asked and answered, for [`Replayer`](super::Replayer).
///
/// One line of JSON per call, written at its end and before its last event is handed on, by a
/// thread for blocking work: a call that was seen to end is in the file, and no poll waits for a
/// disk. A call that is dropped is written as far as it came. Keys are removed. A call of more than
/// 16 MiB is left out, as is everything once the cassette has 256 MiB.
///
/// A recording that fails does not fail the call, which may have cost money;
/// [`check`](Self::check) tells. Clones write to the same cassette. Needs tokio's runtime.
#[derive(Debug, Clone)]
pub struct Recorder {
    inner: Arc<dyn LlmProvider>,
    tape: Arc<Mutex<Tape>>,
}

struct Tape {
    out: Box<dyn Write + Send>,
    bytes: u64,
    fault: Option<String>,
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tape")
            .field("bytes", &self.bytes)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl Tape {
    fn write(&mut self, call: Recorded) {
        let written = call.line().and_then(|line| {
            let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
            if self.bytes.saturating_add(bytes) > CASSETTE_BYTES_MAX {
                return Err("the cassette is full".to_owned());
            }
            self.bytes += bytes;
            let io = self.out.write_all(&line).and_then(|()| self.out.flush());
            io.map_err(|err| format!("the cassette cannot be written: {err}"))
        });
        if let Err(fault) = written {
            tracing::warn!(fault, "a model call was not recorded");
            self.fault.get_or_insert(fault);
        }
    }
}

impl Recorder {
    /// Records calls of `inner` to `out`.
    #[must_use]
    pub fn new(inner: Arc<dyn LlmProvider>, out: impl Write + Send + 'static) -> Self {
        let tape = Tape {
            out: Box::new(out),
            bytes: 0,
            fault: None,
        };
        Self {
            inner,
            tape: Arc::new(Mutex::new(tape)),
        }
    }

    /// Records calls of `inner` to a new file. Blocks while it is made.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the file cannot be made, or is there
    /// already: recordings are never written over.
    pub fn create(inner: Arc<dyn LlmProvider>, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|err| {
            let issue = format!("`{}` cannot be made: {err}", path.display());
            Error::invalid("cassette", issue).with_source(err)
        })?;
        Ok(Self::new(inner, file))
    }

    /// Whether every call so far was written.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) with the first failure.
    pub fn check(&self) -> Result<()> {
        let tape = self.tape.lock().unwrap_or_else(PoisonError::into_inner);
        match &tape.fault {
            Some(fault) => Err(Error::internal(fault.clone())),
            None => Ok(()),
        }
    }
}

impl LlmProvider for Recorder {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let call = Call {
            recorder: self.clone(),
            request: Some(request),
            stream: None,
            log: None,
        };
        LlmStream::new(stream::unfold(call, Call::next))
    }

    fn models(&self) -> BoxFuture<Result<Vec<Model>, LlmError>> {
        self.inner.models()
    }
}

/// A call as it is written down.
struct Recorded {
    provider: String,
    request: Value,
    events: Vec<LlmEvent>,
    bytes: usize,
}

impl Recorded {
    fn add(&mut self, event: &LlmEvent) {
        self.bytes = self.bytes.saturating_add(event_bytes(event));
        if self.bytes > LINE_BYTES_MAX {
            self.events = Vec::new();
        } else {
            self.events.push(event.clone());
        }
    }

    fn line(self) -> Result<Vec<u8>, String> {
        let too_long = || Err("a call was too long to be recorded".to_owned());
        if self.bytes > LINE_BYTES_MAX {
            return too_long();
        }
        match Line::write(&self.provider, &self.request, self.events) {
            Ok(line) if line.len() > LINE_BYTES_MAX => too_long(),
            Ok(line) => Ok(line),
            Err(err) => Err(format!("a call cannot be written as JSON: {err}")),
        }
    }
}

struct Call {
    recorder: Recorder,
    request: Option<LlmRequest>,
    stream: Option<LlmStream>,
    log: Option<Recorded>,
}

impl Call {
    async fn next(mut self) -> Option<(LlmEvent, Self)> {
        if let Some(request) = self.request.take() {
            self.log = Some(Recorded {
                provider: self.recorder.id().to_owned(),
                request: readable(&request),
                events: Vec::new(),
                bytes: 0,
            });
            self.stream = Some(self.recorder.inner.stream(request));
        }
        let event = self.stream.as_mut()?.next().await?;
        if let Some(log) = &mut self.log {
            log.add(&event);
        }
        if event.is_terminal()
            && let Some(written) = self.write()
        {
            // Fails only if the runtime ends, and then nobody waits.
            let _written = written.await;
        }
        Some((event, self))
    }

    /// Hands the call over to be written.
    fn write(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        let log = self.log.take()?;
        let tape = Arc::clone(&self.recorder.tape);
        let write = move || {
            tape.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write(log);
        };
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        Some(runtime.spawn_blocking(write))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // What is dropped has nobody to wait for it.
        drop(self.write());
    }
}
