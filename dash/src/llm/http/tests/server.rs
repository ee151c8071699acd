//! A server on loopback that answers with given bytes and sees when its client hangs up.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What to answer to a request.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) then: Then,
}

/// What to do after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Close,
    /// Keep the connection until the client closes it.
    Hold,
    /// Keep the connection as if for more, and close it as soon as it is used again.
    CloseWhenUsed,
}

impl Answer {
    /// A head with a status and more headers, and a body that ends with the connection.
    pub(super) fn new(head: &str, body: impl AsRef<[u8]>) -> Self {
        let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
        Self {
            bytes: [head.as_bytes(), body.as_ref()].concat(),
            then: Then::Close,
        }
    }

    /// A chunked stream of events in chunks of `size` bytes, with its end.
    pub(super) fn sse(body: impl AsRef<[u8]>, size: usize) -> Self {
        let mut this = Self::open_sse(body, size);
        this.bytes.extend_from_slice(b"0\r\n\r\n");
        this.then = Then::Close;
        this
    }

    /// The same without an end: the connection stays open, silent.
    pub(super) fn open_sse(body: impl AsRef<[u8]>, size: usize) -> Self {
        let head = "200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked";
        let mut bytes = format!("HTTP/1.1 {head}\r\n\r\n").into_bytes();
        for chunk in body.as_ref().chunks(size) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        Self {
            bytes,
            then: Then::Hold,
        }
    }

    pub(super) fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

/// The server; dropped, it ends.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: String,
    /// The requests it read, head and body.
    pub(super) requests: Arc<Mutex<Vec<String>>>,
    /// How many requests it read.
    pub(super) started: watch::Receiver<usize>,
    /// How many connections it serves.
    pub(super) open: watch::Receiver<usize>,
    _task: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (started, open) = (watch::Sender::new(0), watch::Sender::new(0));
        let seen = (started.subscribe(), open.subscribe());
        let log = Arc::clone(&requests);
        let answer = Arc::new(answer);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _peer)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                let (started, open) = (started.clone(), open.clone());
                connections.spawn(async move {
                    open.send_modify(|n| *n += 1);
                    serve(socket, &log, &*answer, &started).await;
                    open.send_modify(|n| *n -= 1);
                });
            }
        });
        Self {
            url,
            requests,
            started: seen.0,
            open: seen.1,
            _task: task,
        }
    }
}

async fn serve(
    mut socket: TcpStream,
    log: &Mutex<Vec<String>>,
    answer: &(impl Fn(&str) -> Answer + ?Sized),
    started: &watch::Sender<usize>,
) {
    let Some(request) = read_request(&mut socket).await else {
        return;
    };
    let answer = answer(&request);
    log.lock().unwrap().push(request);
    started.send_modify(|n| *n += 1);
    // A client that hung up is seen below.
    let _written = socket.write_all(&answer.bytes).await;
    let mut byte = [0];
    match answer.then {
        Then::Close => {}
        Then::Hold => while let Ok(1..) = socket.read(&mut byte).await {},
        Then::CloseWhenUsed => {
            let _used = socket.read(&mut byte).await;
        }
    }
}

/// The request's head and body; none if the client hangs up before its end.
pub(super) async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
