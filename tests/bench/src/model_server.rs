//! The model server that agents ask, in a process of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use dash_model_server::Options as ServerOptions;
use serde::Deserialize;

use crate::Result;

/// Where the kit's server listens unless it is said otherwise.
const KIT_BASE: &str = "http://127.0.0.1:4010";

/// A server that does not tell its counts within this time hangs.
const HUNG: Duration = Duration::from_secs(30);

/// A server, started here or elsewhere.
#[derive(Debug)]
pub(crate) struct ModelServer {
    url: String,
    /// The process and the pipe whose end ends it.
    own: Option<(Child, Option<ChildStdin>)>,
}

/// What a server counts.
#[derive(Debug, Deserialize)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) tool_turns: u64,
}

impl ModelServer {
    /// A server that runs already.
    pub(crate) fn at(base: &str) -> Self {
        Self {
            url: base.trim_end_matches('/').to_owned(),
            own: None,
        }
    }

    /// The server of a runner of the kit.
    pub(crate) fn for_kit(base: Option<&str>) -> Self {
        Self::at(base.unwrap_or(KIT_BASE))
    }

    /// Starts this program as a server.
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve-model")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("no pipe from the model server")?;
        let mut url = String::new();
        BufReader::new(stdout).read_line(&mut url)?;
        if !url.starts_with("http://") {
            return Err("the model server did not start".into());
        }
        Ok(Self {
            url: url.trim_end().to_owned(),
            own: Some((child, stdin)),
        })
    }

    /// Without a slash at the end.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its counts.
    pub(crate) fn stats(&self) -> Result<Counts> {
        let address = self.url.strip_prefix("http://");
        let address = address.ok_or("the model server's URL does not begin with http://")?;
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(HUNG))?;
        let request =
            format!("GET /stats HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no body of /stats")?;
        Ok(serde_json::from_str(body)?)
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        if let Some((child, stdin)) = &mut self.own {
            drop(stdin.take());
            // It is gone as soon as it reads the end; if it is not, the system ends it with us.
            drop(child.wait());
        }
    }
}

/// Serves until standard input closes.
pub(crate) async fn serve() -> Result<()> {
    let options = ServerOptions {
        requests_kept: 0,
        ..ServerOptions::default()
    };
    let counting = dash_model_server::counting;
    let server = dash_model_server::ModelServer::start_with(options, counting).await?;
    writeln!(std::io::stdout().lock(), "{}", server.url())?;
    let end = || std::io::stdin().lock().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(end).await??;
    Ok(())
}
