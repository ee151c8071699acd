//! A process that tests start, listen to and kill.

#![cfg(test)]

use std::io::Write as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// How long a process may be silent, and may take to die.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Says something on standard error whether or not the test passes: figures, and what could not run.
pub(crate) fn tell(text: &str) {
    // Not `eprintln!`, which shows only with tests that fail.
    std::io::stderr()
        .write_all(format!("{text}\n").as_bytes())
        .unwrap();
}

/// A child whose standard output is read line by line. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
    /// The whole lines that it has said.
    pub(crate) said: Vec<String>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|err| panic!("{command:?}: {err}"));
        Self {
            out: BufReader::new(child.stdout.take().unwrap()),
            err: BufReader::new(child.stderr.take().unwrap()),
            child,
            said: Vec::new(),
        }
    }

    /// The driver on the database in `dir`.
    pub(crate) fn driver(dir: &Path) -> Self {
        Self::start(Command::new(env!("CARGO_BIN_EXE_crash_driver")).arg(dir))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// The next whole line of standard output; `None` at its end.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = timeout(SILENCE_MAX, self.out.read_until(b'\n', &mut line)).await;
        read.unwrap_or_else(|_| panic!("silent after {:?}", self.said.last()))
            .unwrap();
        // What a kill has cut off was not said.
        let line = String::from_utf8(line).unwrap();
        let line = line.strip_suffix('\n')?.to_owned();
        self.said.push(line.clone());
        Some(line)
    }

    /// Waits for a line of standard error that has these words.
    pub(crate) async fn complaint(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            let read = timeout(SILENCE_MAX, self.err.read_line(&mut line)).await;
            let read = read.unwrap_or_else(|_| panic!("it does not say `{words}`"));
            assert!(read.unwrap() > 0, "it ended without saying `{words}`");
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Kills it with SIGKILL, unless it has ended by itself, and takes what it had said by then.
    pub(crate) async fn kill(mut self) -> (Vec<String>, ExitStatus) {
        self.child.start_kill().unwrap();
        while self.line().await.is_some() {}
        let status = timeout(SILENCE_MAX, self.child.wait()).await;
        (self.said, status.expect("a killed process ends").unwrap())
    }

    /// Waits for its end: exit status, lines of standard output, standard error.
    pub(crate) async fn end(self) -> (ExitStatus, Vec<String>, String) {
        self.end_within(SILENCE_MAX).await
    }

    /// The same, for one that may take longer.
    pub(crate) async fn end_within(mut self, limit: Duration) -> (ExitStatus, Vec<String>, String) {
        let (mut rest, mut complaints) = (String::new(), String::new());
        let ended = timeout(limit, async {
            let listen = self.out.read_to_string(&mut rest);
            let complain = self.err.read_to_string(&mut complaints);
            tokio::try_join!(listen, complain)?;
            self.child.wait().await
        });
        let status = ended.await.expect("it ends by itself").unwrap();
        self.said.extend(rest.lines().map(str::to_owned));
        (status, self.said, complaints)
    }
}
