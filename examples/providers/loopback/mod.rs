//! A model server on loopback that speaks one dialect: it checks that what it is asked is of that
//! dialect, and answers as it is told, in the dialect's stream of events. No model is behind it.

mod dialect;

use std::io;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(crate) use dialect::{Asked, Dialect, Saying};

/// The longest request it reads, bytes.
const REQUEST_MAX: usize = 16 << 20;

/// The server; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Loopback {
    url: String,
    _task: JoinSet<()>,
}

/// A request: its first line, its headers in lower case, its body.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Value,
}

impl Request {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        let found = all.find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Loopback {
    /// Starts a server on a free port. Where `answer` has none, the server says that it is
    /// overloaded.
    pub(crate) async fn start(
        dialect: Dialect,
        answer: impl Fn(&Asked) -> Option<Vec<Saying>> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let answer = Arc::new(answer);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _peer)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                connections.spawn(async move {
                    // A client that hangs up ends its own call only.
                    let _gone = serve(socket, dialect, &*answer).await;
                });
            }
        });
        Ok(Self { url, _task: task })
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

async fn serve(
    mut socket: TcpStream,
    dialect: Dialect,
    answer: &(impl Fn(&Asked) -> Option<Vec<Saying>> + Sync),
) -> io::Result<()> {
    let request = read(&mut socket).await?;
    let (status, kind, body) = if !dialect.has_key(&request) {
        ("401 Unauthorized", JSON, refusal("no key"))
    } else if request.line.starts_with("GET /v1/models ") {
        ("200 OK", JSON, MODELS.to_owned())
    } else {
        match dialect.read(&request) {
            Ok(asked) => match answer(&asked) {
                Some(said) => ("200 OK", SSE, dialect.write(&asked, &said)),
                None => ("503 Service Unavailable", JSON, refusal("overloaded")),
            },
            Err(why) => ("400 Bad Request", JSON, refusal(&why)),
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body.as_bytes()).await?;
    socket.shutdown().await
}

const JSON: &str = "application/json";
/// For clients that ask which models there are.
const MODELS: &str = r#"{"data": [{"id": "any", "context_window": 32768}]}"#;
const SSE: &str = "text/event-stream";

fn refusal(why: &str) -> String {
    json!({"error": {"type": "invalid_request_error", "message": why}}).to_string()
}

async fn read(socket: &mut TcpStream) -> io::Result<Request> {
    let mut bytes = Vec::new();
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            break at;
        }
        if bytes.len() > REQUEST_MAX || socket.read_buf(&mut bytes).await? == 0 {
            return Err(wrong("no head"));
        }
    };
    let mut body = bytes.split_off(head_end + 4);
    let head = String::from_utf8_lossy(&bytes);
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut request = Request {
        line,
        headers,
        body: Value::Null,
    };
    let length = request.header("content-length").map(str::parse::<usize>);
    let length = length.and_then(Result::ok).unwrap_or(0);
    while body.len() < length.min(REQUEST_MAX) {
        if socket.read_buf(&mut body).await? == 0 {
            return Err(wrong("half a body"));
        }
    }
    request.body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(request)
}
