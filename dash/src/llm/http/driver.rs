//! Posts requests and streams answers.

use std::collections::VecDeque;
use std::error::Error as _;
use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, ClientBuilder, Method, Request, Response, Url, redirect};
use secrecy::{ExposeSecret as _, SecretString};

use super::HttpOptions;
use super::body::{EventReader, body_bytes};
use super::gate::LINE_BYTES_MAX;
use super::headers::{retry_after_ms, with_should_retry};
use super::hosts::{is_loopback, is_near};
use crate::env::Clock;
use crate::llm::dialect::{AnswerSetup, Decoder, Dialect, KeyHeader};
use crate::llm::failure::{ServerFailure, shown};
use crate::llm::{LlmError, LlmErrorKind, LlmEvent, LlmRequest, LlmStream};
use crate::{Error, Result};

/// How long the end of a body is waited for once the answer is whole.
const BODY_END_WAIT: Duration = Duration::from_millis(10);

/// Shorter values of headers are words that errors may use.
const SECRET_LEN_MIN: usize = 6;
/// Bytes of an error body that are read.
pub(super) const ERROR_BYTES_MAX: usize = 64 * 1024;
/// Statuses by which a gateway says that it gave up on the server behind it, which may go on and bill.
const GAVE_UP: [u16; 8] = [408, 502, 504, 520, 521, 522, 523, 524];
/// Bytes of a list of models that are read.
const MODELS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Posts requests to one server. Clones share connections.
#[derive(Clone)]
pub struct HttpDriver {
    client: Client,
    base: Url,
    /// The key, and the values of extra headers: none is shown.
    secrets: Vec<SecretString>,
    headers: HeaderMap,
    options: HttpOptions,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for HttpDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpDriver")
            .field("base", &self.base.origin().ascii_serialization())
            .field("path", &self.base.path())
            .field("secrets", &self.secrets.len())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl HttpDriver {
    /// A driver for the server at `base`; `key` goes out as said, `extra` headers with every
    /// request.
    ///
    /// For loopback and the own network, connections are reused only if the options say so.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the key cannot be a header;
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if TLS cannot be set up.
    pub fn new(
        base: Url,
        key: Option<(KeyHeader, SecretString)>,
        extra: &[(String, SecretString)],
        options: HttpOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in extra {
            let wrong = || Error::invalid("header", format!("`{name}` cannot be sent"));
            let value = HeaderValue::from_str(value.expose_secret());
            let mut value = value.or(Err(wrong()))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_str(name).or(Err(wrong()))?, value);
        }
        if let Some((header, key)) = &key {
            let (name, text) = match header {
                KeyHeader::Bearer => {
                    let bearer = format!("Bearer {}", key.expose_secret());
                    (AUTHORIZATION, bearer)
                }
                KeyHeader::Named(name) => {
                    let name = HeaderName::from_static(name);
                    (name, key.expose_secret().to_owned())
                }
            };
            let value = HeaderValue::from_str(&text);
            let mut value = value.or(Err(Error::invalid(
                "api_key",
                "it has characters a header cannot carry",
            )))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let key = key.map(|(_header, key)| key);
        let secrets = key.iter().chain(extra.iter().map(|(_name, value)| value));
        let secrets = secrets.cloned().collect();
        let builder = client(&base, &options);
        let client = builder.build().map_err(|err| {
            Error::internal("failed to set up the HTTP client").with_source(err.without_url())
        })?;
        Ok(Self {
            client,
            base,
            secrets,
            headers,
            options,
            clock,
        })
    }

    /// Starts a call in `dialect`. Does nothing until polled; dropping the stream closes the
    /// connection.
    #[must_use]
    pub fn stream(
        &self,
        dialect: Arc<dyn Dialect>,
        provider: Arc<str>,
        request: LlmRequest,
    ) -> LlmStream {
        let call = Call {
            driver: self.clone(),
            phase: Phase::New(Box::new((dialect, provider, request))),
            fresh: Vec::new(),
            ready: VecDeque::new(),
        };
        LlmStream::new(stream::unfold(call, |mut call| async move {
            let event = call.next().await?;
            Some((event, call))
        }))
    }

    /// Gets `path` below the base URL; the body as text.
    pub(super) async fn get(&self, path: &str) -> Result<String, LlmError> {
        self.fetch(Request::new(Method::GET, self.url(path))).await
    }

    /// Gets `path` where the server's own interface is: beside `/v1`; the body as text.
    pub(super) async fn get_native(&self, path: &str) -> Result<String, LlmError> {
        let request = Request::new(Method::GET, self.native_url(path));
        self.fetch(request).await
    }

    /// Posts JSON to `path` where the server's own interface is; the body as text.
    pub(super) async fn post_native(&self, path: &str, json: String) -> Result<String, LlmError> {
        let mut request = Request::new(Method::POST, self.native_url(path));
        *request.body_mut() = Some(json.into());
        self.fetch(request).await
    }

    async fn fetch(&self, mut request: Request) -> Result<String, LlmError> {
        *request.headers_mut() = self.headers.clone();
        let response = self.send(request).await?;
        let limit = self.options.response_head_timeout;
        let body = tokio::time::timeout(limit, read_capped(response, MODELS_BYTES_MAX)).await;
        body.unwrap_or_else(|_elapsed| {
            Err(LlmError::unbilled(
                LlmErrorKind::Timeout,
                "the server did not finish its answer",
            ))
        })
        .map_err(|err| self.clean(err))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let whole = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&whole);
        if !query.is_empty() {
            let query = match url.query() {
                Some(own) => format!("{own}&{query}"),
                None => query.to_owned(),
            };
            url.set_query(Some(&query));
        }
        url
    }

    fn native_url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/');
        let whole = format!("{}{path}", base.strip_suffix("/v1").unwrap_or(base));
        url.set_path(&whole);
        url
    }

    async fn open(
        &self,
        dialect: &dyn Dialect,
        request: &LlmRequest,
        body: Vec<u8>,
    ) -> Result<Response, LlmError> {
        let mut post = Request::new(Method::POST, self.url(&dialect.path(request)));
        *post.headers_mut() = self.headers.clone();
        post.headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        for (name, value) in dialect.headers(request) {
            let value = HeaderValue::from_str(&value).map_err(|err| {
                let text = format!("the header `{name}` cannot be sent: {err}");
                LlmError::unbilled(LlmErrorKind::InvalidRequest, text)
            })?;
            post.headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
        if let Ok(step) = HeaderValue::from_str(&request.idempotency_key)
            && !step.is_empty()
        {
            post.headers_mut().insert("idempotency-key", step);
        }
        *post.body_mut() = Some(body.into());
        let response = self.send(post).await?;
        let kind = response
            .headers()
            .get(CONTENT_TYPE)
            .map_or(&b""[..], |value| value.as_bytes());
        if is_json_lines(kind) {
            // Only the first line: the answer may take its time, and nobody reads it.
            let body = self
                .error_body(response, |body| body.contains(&b'\n'))
                .await;
            let line = body.lines().next().unwrap_or_default();
            return Err(self.clean(json_lines(line)));
        }
        let wrong = [&b"application/json"[..], b"text/html"];
        if wrong.iter().any(|wrong| kind.starts_with(wrong)) {
            let body = self.error_body(response, |_body| false).await;
            return Err(self.clean(not_a_stream(&body)));
        }
        Ok(response)
    }

    /// Sends a request; the response's status is good.
    async fn send(&self, request: Request) -> Result<Response, LlmError> {
        let limit = self.options.response_head_timeout;
        let response = match tokio::time::timeout(limit, self.client.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(err)) => return Err(self.clean(send_error(err))),
            Err(_elapsed) => {
                let text = format!("no response within {} s", limit.as_secs_f64());
                return Err(LlmError::billed_unknown(LlmErrorKind::Timeout, text));
            }
        };
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refused(response).await)
        }
    }

    /// A refusal by status: unbilled, unless something on the way gave up waiting.
    async fn refused(&self, response: Response) -> LlmError {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = self.error_body(response, |_body| false).await;
        let failure = ServerFailure::read(Some(status), &body);
        let own = failure.kind();
        let kind = with_should_retry(own, &headers);
        let mut error = if GAVE_UP.contains(&status) {
            LlmError::billed_unknown(kind, failure.shown())
        } else {
            LlmError::unbilled(kind, failure.shown())
        };
        if own.is_retryable() && !kind.is_retryable() {
            error.message.push_str("; the server says not to retry");
        }
        error.retry_after_ms =
            retry_after_ms(&headers, self.clock.now()).or_else(|| failure.retry_after_ms());
        self.clean(error)
    }

    /// The start of an error body, until there is enough; what came in time.
    async fn error_body(&self, response: Response, is_enough: fn(&[u8]) -> bool) -> String {
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        let read = async {
            while body.len() < ERROR_BYTES_MAX
                && !is_enough(&body)
                && let Some(Ok(chunk)) = chunks.next().await
            {
                body.extend_from_slice(&chunk);
            }
        };
        // An error without its words is better than none.
        let _in_time = tokio::time::timeout(self.options.idle_timeout, read).await;
        body.truncate(ERROR_BYTES_MAX);
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Removes keys and the values of extra headers from an error.
    fn clean(&self, mut error: LlmError) -> LlmError {
        let is_long = |secret: &&str| secret.len() >= SECRET_LEN_MIN;
        let secrets = self.secrets.iter().map(|secret| secret.expose_secret());
        for secret in secrets.filter(is_long) {
            error.message = error.message.replace(secret, "[redacted]");
        }
        error
    }
}

/// A client for the server at `base`.
pub(super) fn client(base: &Url, options: &HttpOptions) -> ClientBuilder {
    let mut builder = Client::builder()
        .user_agent(concat!("dash/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true);
    if is_loopback(base) {
        builder = builder.no_proxy();
    }
    if is_near(base) && !options.reuse_loopback {
        builder = builder.pool_max_idle_per_host(0);
    }
    if base.scheme() == "http" {
        // Without TLS there is no need to load the machine's certificates.
        builder = builder.tls_certs_only([]);
    }
    builder
}

fn is_json_lines(content_type: &[u8]) -> bool {
    [&b"application/x-ndjson"[..], b"application/ndjson"]
        .iter()
        .any(|lines| content_type.starts_with(lines))
}

/// A good status, but the body is lines of JSON, of which this is the first: what Ollama's own
/// interface sends.
fn json_lines(line: &str) -> LlmError {
    let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
    if value.is_some_and(|value| value.get("error").is_some()) {
        return reported(&ServerFailure::read(None, line));
    }
    let text = format!(
        "the server sent lines of JSON, not events; use its OpenAI-compatible interface, whose base \
         URL ends in `/v1`: {line}"
    );
    LlmError::billed_unknown(LlmErrorKind::Decode, shown(&text))
}

/// What a server reported after a good status.
fn reported(failure: &ServerFailure) -> LlmError {
    let mut error = LlmError::billed_unknown(failure.kind(), failure.shown());
    error.retry_after_ms = failure.retry_after_ms();
    error
}

/// The first of several lines that each are a JSON object.
fn first_of_json_lines(body: &str) -> Option<&str> {
    let mut lines = body.lines().filter(|line| !line.trim().is_empty());
    let (first, second) = (lines.next()?, lines.next()?);
    let is_object = |line: &str| {
        let value: Result<serde_json::Map<_, _>, _> = serde_json::from_str(line);
        value.is_ok()
    };
    (is_object(first) && second.trim_start().starts_with('{')).then_some(first)
}

/// A good status, but the body is a web page or one JSON text: an error, or an answer that is not
/// streamed.
pub(super) fn not_a_stream(body: &str) -> LlmError {
    let failure = ServerFailure::read(None, body);
    // Chat, Responses, Messages, Gemini.
    let answers = ["\"choices\"", "\"output\"", "\"content\"", "\"candidates\""];
    let is_answer = answers.iter().any(|key| body.contains(key));
    let unreadable = |text: String| LlmError::billed_unknown(LlmErrorKind::Decode, shown(&text));
    if body.trim_start().starts_with('<') {
        let page = failure.message;
        unreadable(format!(
            "the server sent a web page, is the base URL right? {page}"
        ))
    } else if let Some(line) = first_of_json_lines(body) {
        json_lines(line)
    } else if is_answer {
        unreadable(format!("the server does not stream its answer: {body}"))
    } else {
        reported(&failure)
    }
}

/// An error with its causes in one line; reqwest's own words are only "error sending request".
pub(super) fn with_causes(err: &reqwest::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    shown(&text)
}

/// Why there is no response, and what that may have cost.
pub(super) fn send_error(err: reqwest::Error) -> LlmError {
    let err = err.without_url();
    let text = with_causes(&err);
    if err.is_builder() {
        return LlmError::unbilled(LlmErrorKind::InvalidRequest, text);
    }
    let kind = if err.is_timeout() {
        LlmErrorKind::Timeout
    } else {
        LlmErrorKind::Network
    };
    // Without a connection nothing was sent. Later the server may have read the request.
    if err.is_connect() {
        LlmError::unbilled(kind, text)
    } else {
        LlmError::billed_unknown(kind, text)
    }
}

async fn read_capped(response: Response, bytes_max: usize) -> Result<String, LlmError> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|err| {
            LlmError::unbilled(LlmErrorKind::Network, with_causes(&err.without_url()))
        })?;
        if body.len() + chunk.len() > bytes_max {
            return Err(LlmError::unbilled(
                LlmErrorKind::Decode,
                "the answer is too long",
            ));
        }
        body.extend_from_slice(&chunk);
    }
    String::from_utf8(body)
        .map_err(|err| LlmError::unbilled(LlmErrorKind::Decode, err.utf8_error().to_string()))
}

type Job = (Arc<dyn Dialect>, Arc<str>, LlmRequest);

enum Phase {
    New(Box<Job>),
    Reading(Box<Reading>),
    Ended,
}

/// An answer that streams.
struct Reading {
    events: EventReader,
    decoder: Box<dyn Decoder>,
}

/// A call as a state machine: polled for the next event, dropped to cancel.
struct Call {
    driver: HttpDriver,
    phase: Phase,
    fresh: Vec<LlmEvent>,
    ready: VecDeque<LlmEvent>,
}

impl Call {
    async fn next(&mut self) -> Option<LlmEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            self.phase = match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::New(job) => self.begin(*job).await,
                Phase::Reading(reading) => self.read(reading).await,
                Phase::Ended => return None,
            };
            self.ready
                .extend(self.fresh.drain(..).map(|event| match event {
                    LlmEvent::Error { error, message } => LlmEvent::Error {
                        error: self.driver.clean(error),
                        message,
                    },
                    event => event,
                }));
        }
    }

    async fn begin(&mut self, (dialect, provider, request): Job) -> Phase {
        let body = dialect.encode(&request);
        // A token is at least one byte, and JSON has more bytes than a prompt's template has tokens.
        let bytes = body.as_ref().map_or(0, Vec::len);
        let setup = AnswerSetup {
            provider,
            model: Arc::clone(&request.model),
            api: dialect.api(),
            input_bound: u64::try_from(bytes).unwrap_or(u64::MAX),
            output_limit: request.max_output_tokens,
        };
        let mut decoder = dialect.decoder(setup);
        let opened = match body {
            Ok(body) => self.driver.open(&*dialect, &request, body).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(response) => {
                let body = body_bytes(response, self.driver.options.idle_timeout);
                let events = EventReader::new(Box::pin(body), LINE_BYTES_MAX);
                Phase::Reading(Box::new(Reading { events, decoder }))
            }
            Err(error) => {
                decoder.fail(error, &mut self.fresh);
                Phase::Ended
            }
        }
    }

    async fn read(&mut self, mut reading: Box<Reading>) -> Phase {
        let Reading { events, decoder } = reading.as_mut();
        match events.next().await {
            Some(Ok(event)) => decoder.feed(event, &mut self.fresh),
            Some(Err(error)) => decoder.fail(error, &mut self.fresh),
            None => decoder.eof(&mut self.fresh),
        }
        if !decoder.is_ended() {
            return Phase::Reading(reading);
        }
        if matches!(self.fresh.last(), Some(LlmEvent::Done { .. })) {
            // A body that was not read to its end costs the connection, and the next call a new one.
            let rest = async { while events.next().await.is_some_and(|event| event.is_ok()) {} };
            // Servers close the body at once; one that does not loses the connection.
            let _in_time = tokio::time::timeout(BODY_END_WAIT, rest).await;
        }
        Phase::Ended
    }
}
