//! The server: routes, counts, and the record of what was asked.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::sync::{oneshot, watch};

use crate::reply::{REPLY_BYTES_MAX, What};
use crate::{Billed, Reply, Request, render};

/// The most bytes of a request.
const REQUEST_BYTES_MAX: usize = 8 << 20;
/// The most requests under way; more get a 503.
const ACTIVE_MAX: u64 = 16_384;
/// Connections that wait to be accepted. The kernel may allow fewer.
const BACKLOG: u32 = 8_192;

/// How to serve.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where to listen; port 0 takes one that is free.
    pub address: SocketAddr,
    /// How many requests are kept for [`ModelServer::requests`], the newest ones.
    pub requests_kept: usize,
}

impl Default for Options {
    /// Loopback, a free port, 10,000 requests.
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            requests_kept: 10_000,
        }
    }
}

/// A request and what it was billed.
#[derive(Debug, Clone)]
pub struct Record {
    /// The request.
    pub request: Request,
    /// What was billed: zero for a refusal and for a raw body.
    pub billed: Billed,
    /// The status of the reply.
    pub status: u16,
}

/// Counts since the start or the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Requests that could be read.
    pub requests: u64,
    /// Answers with a tool call.
    pub tool_turns: u64,
    /// Answers without one.
    pub final_turns: u64,
    /// Answers that were streamed.
    pub streamed: u64,
    /// Requests that could not be read, or for which there is no route.
    pub bad: u64,
    /// The most requests that were under way at once.
    pub active_max: u64,
    /// Bytes of requests.
    pub bytes_in: u64,
    /// Connections.
    pub connections: u64,
    /// Tokens billed for requests.
    pub billed_input: u64,
    /// Tokens billed for answers.
    pub billed_output: u64,
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

struct Shared {
    script: Box<Script>,
    kept: usize,
    stats: Mutex<Stats>,
    active: AtomicU64,
    calls: AtomicU64,
    records: watch::Sender<VecDeque<Arc<Record>>>,
}

/// A server that runs until it is dropped. Dropping it breaks what is under way.
pub struct ModelServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

impl fmt::Debug for ModelServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl ModelServer {
    /// Serves on a free port of loopback, on the runtime of the caller.
    ///
    /// # Errors
    ///
    /// What the system says when there is no port.
    pub async fn start(
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::start_with(Options::default(), script).await
    }

    /// Serves as `options` say.
    ///
    /// # Errors
    ///
    /// What the system says when the address cannot be had.
    #[expect(
        clippy::unused_async,
        reason = "a socket can only be made within a runtime, and this says so"
    )]
    pub async fn start_with(
        options: Options,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let socket = match options.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(options.address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script: Box::new(script),
            kept: options.requests_kept,
            stats: Mutex::default(),
            active: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            records: watch::Sender::default(),
        });
        let counted = Arc::clone(&shared);
        let listener = listener.tap_io(move |socket| {
            // Without it the last tokens of an answer wait for the client's acknowledgement.
            let _best_effort = socket.set_nodelay(true);
            counted.count(|stats| stats.connections += 1);
        });
        let routes = Router::new()
            .route("/v1/chat/completions", post(complete))
            .route("/chat/completions", post(complete))
            .route("/v1/models", get(models))
            .route("/stats", get(stats))
            .route("/reset", post(reset))
            .fallback(unknown)
            .with_state(Arc::clone(&shared));
        let (stop, stopped) = oneshot::channel::<()>();
        spawn(async move {
            let serve = axum::serve(listener, routes).into_future();
            tokio::select! {
                // It serves for ever.
                _never = serve => {}
                _dropped = stopped => {}
            }
        });
        Ok(Self {
            address,
            shared,
            _stop: stop,
        })
    }

    /// Its URL, without a path and without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far, oldest first; the newest ones if there were more than are kept.
    #[must_use]
    pub fn requests(&self) -> Vec<Arc<Record>> {
        self.shared
            .records
            .borrow()
            .iter()
            .map(Arc::clone)
            .collect()
    }

    /// Waits until so many requests are kept. For ever, if they never come.
    pub async fn wait_for_requests(&self, count: usize) {
        let mut records = self.shared.records.subscribe();
        // The sender lives as long as `self`, so this ends only with what it waits for.
        let _seen = records.wait_for(|all| all.len() >= count).await;
    }

    /// The counts so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Forgets counts and requests.
    pub fn reset(&self) {
        self.shared.reset();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a server of tests, no part of the engine"
)]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    // Ends when the server is dropped.
    drop(tokio::spawn(task));
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset(&self) {
        self.count(|stats| *stats = Stats::default());
        self.records.send_modify(VecDeque::clear);
    }

    fn keep(&self, record: Record) {
        if self.kept == 0 {
            return;
        }
        self.records.send_modify(|all| {
            if all.len() >= self.kept {
                all.pop_front();
            }
            all.push_back(Arc::new(record));
        });
    }
}

/// A request under way; counted until its reply has been sent or given up.
struct Active(Arc<Shared>);

impl Active {
    fn begin(shared: &Arc<Shared>) -> Option<Self> {
        let active = shared.active.fetch_add(1, Relaxed) + 1;
        let this = Self(Arc::clone(shared));
        shared.count(|stats| stats.active_max = stats.active_max.max(active));
        (active <= ACTIVE_MAX).then_some(this)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

fn refuse(shared: &Shared, status: StatusCode, message: &str) -> Response<Body> {
    shared.count(|stats| stats.bad += 1);
    as_json(status, render::error(status.as_u16(), message))
}

fn as_json(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

async fn complete(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    let Some(active) = Active::begin(&shared) else {
        let text = format!("more than {ACTIVE_MAX} requests are under way");
        return refuse(&shared, StatusCode::SERVICE_UNAVAILABLE, &text);
    };
    let body = match to_bytes(body, REQUEST_BYTES_MAX).await {
        Ok(body) => body,
        Err(err) => {
            let text = format!("the body ends early or has over {REQUEST_BYTES_MAX} bytes: {err}");
            return refuse(&shared, StatusCode::BAD_REQUEST, &text);
        }
    };
    let request = match Request::read(headers, &body) {
        Ok(request) => request,
        Err(text) => return refuse(&shared, StatusCode::BAD_REQUEST, &text),
    };
    let reply = (shared.script)(&request);
    let (status, content_type, frames, billed) = written(&shared, &reply, &request);
    if frames.iter().map(String::len).sum::<usize>() > REPLY_BYTES_MAX {
        let text = format!("the reply has over {REPLY_BYTES_MAX} bytes");
        return refuse(&shared, StatusCode::INTERNAL_SERVER_ERROR, &text);
    }
    shared.count(|stats| {
        stats.requests += 1;
        stats.bytes_in += request.body.len() as u64;
        stats.billed_input += billed.input;
        stats.billed_output += billed.output;
        if let What::Answer(answer) = &reply.what {
            let calls = !answer.calls.is_empty();
            stats.tool_turns += u64::from(calls);
            stats.final_turns += u64::from(!calls);
            stats.streamed += u64::from(request.stream);
        }
    });
    shared.keep(Record {
        request,
        billed,
        status,
    });
    send(reply, status, &content_type, frames, active)
        .await
        .unwrap_or_else(|text| refuse(&shared, StatusCode::INTERNAL_SERVER_ERROR, &text))
}

/// Status, type and frames of the reply, and what it costs.
fn written(
    shared: &Shared,
    reply: &Reply,
    request: &Request,
) -> (u16, String, Vec<String>, Billed) {
    match &reply.what {
        What::Answer(answer) => {
            let id = |_| format!("call_{:016x}", shared.calls.fetch_add(1, Relaxed));
            let ids: Vec<String> = answer.calls.iter().map(id).collect();
            let billed = render::billed(answer, request);
            if request.stream {
                let events = render::events(answer, request, &ids);
                let kind = "text/event-stream; charset=utf-8".to_owned();
                (200, kind, events, billed)
            } else {
                let whole = render::whole(answer, request, &ids);
                (200, "application/json".to_owned(), vec![whole], billed)
            }
        }
        What::Refusal { status, message } => {
            let body = render::error(*status, message);
            let kind = "application/json".to_owned();
            (*status, kind, vec![body], Billed::default())
        }
        What::Raw { content_type, body } => {
            let body = vec![body.clone()];
            (200, content_type.clone(), body, Billed::default())
        }
    }
}

async fn send(
    reply: Reply,
    status: u16,
    content_type: &str,
    frames: Vec<String>,
    active: Active,
) -> Result<Response<Body>, String> {
    let status = StatusCode::from_u16(status).map_err(|err| format!("status {status}: {err}"))?;
    let mut headers = HeaderMap::new();
    let extra = reply.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    for (name, value) in [("content-type", content_type)].into_iter().chain(extra) {
        let key = HeaderName::try_from(name).map_err(|err| format!("header {name}: {err}"))?;
        let value = HeaderValue::try_from(value).map_err(|err| format!("header {name}: {err}"))?;
        headers.insert(key, value);
    }
    if !reply.after.is_zero() {
        tokio::time::sleep(reply.after).await;
    }
    let pieces = render::pieces(&reply, frames);
    let body = Sending {
        pieces,
        gap: reply.gap,
        first: true,
        cut: reply.cut.is_some(),
        hangs: reply.hangs,
        _active: active,
    };
    let mut response = Response::new(Body::from_stream(stream::unfold(body, Sending::next)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// A body on its way.
struct Sending {
    pieces: VecDeque<Bytes>,
    gap: Duration,
    first: bool,
    cut: bool,
    hangs: bool,
    _active: Active,
}

impl Sending {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if let Some(piece) = self.pieces.pop_front() {
            if !self.first && !self.gap.is_zero() {
                tokio::time::sleep(self.gap).await;
            }
            self.first = false;
            return Some((Ok(piece), self));
        }
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if self.cut {
            self.cut = false;
            // An error throws away what has not been flushed; while this waits, it is.
            tokio::task::yield_now().await;
            let broken = io::Error::from(io::ErrorKind::ConnectionReset);
            return Some((Err(broken), self));
        }
        None
    }
}

async fn models() -> Response<Body> {
    let list = json!({"object": "list", "data": [{"id": "mock-k5", "object": "model"}]});
    as_json(StatusCode::OK, list.to_string())
}

async fn stats(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let stats = shared.stats();
    let body = json!({
        "requests": stats.requests, "tool_turns": stats.tool_turns,
        "final_turns": stats.final_turns, "streamed": stats.streamed, "bad": stats.bad,
        "active": shared.active.load(Relaxed), "max_active": stats.active_max,
        "bytes_in": stats.bytes_in, "conns": stats.connections,
        "billed_input": stats.billed_input, "billed_output": stats.billed_output,
    });
    as_json(StatusCode::OK, body.to_string())
}

async fn reset(State(shared): State<Arc<Shared>>) -> Response<Body> {
    shared.reset();
    as_json(StatusCode::OK, "{}".to_owned())
}

async fn unknown(
    State(shared): State<Arc<Shared>>,
    uri: axum::http::Uri,
    method: axum::http::Method,
) -> Response<Body> {
    let text = format!("no route: {method} {}", uri.path());
    refuse(&shared, StatusCode::NOT_FOUND, &text)
}
