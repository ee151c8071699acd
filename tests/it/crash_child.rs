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

/// Whether a command of util-linux is there. If not, says what did not run for the lack of it.
pub(crate) async fn has(name: &str, what: &str) -> bool {
    let mut command = Command::new(name);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let is_there = command.status().await.is_ok_and(|status| status.success());
    if !is_there {
        tell(&format!(
            "{what}: did NOT run, there is no `{name}` of util-linux"
        ));
    }
    is_there
}

/// A child whose standard output is read line by line. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
    /// What has been read of the line that comes next.
    part: Vec<u8>,
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
            part: Vec::new(),
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
        let read = hear(&mut self.out, &mut self.part, &mut self.said);
        let read = timeout(SILENCE_MAX, read).await;
        read.unwrap_or_else(|_| panic!("silent after {:?}", self.said.last()))
    }

    /// Waits for something, and hears meanwhile what is said on standard output: a full pipe would
    /// stop the process.
    pub(crate) async fn listening<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        beside(&mut self.out, &mut self.part, &mut self.said, wanted).await
    }

    /// Waits for a line of standard error that has these words.
    pub(crate) async fn complaint(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            let read = timeout(SILENCE_MAX, self.err.read_line(&mut line));
            let read = beside(&mut self.out, &mut self.part, &mut self.said, read).await;
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
        let part = std::mem::take(&mut self.part);
        let (mut rest, mut complaints) = (String::from_utf8(part).unwrap(), String::new());
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

/// The next whole line, which is added to what was said; `None` at the end. What is read of a line when
/// this is dropped stays in `part`.
async fn hear(
    out: &mut BufReader<ChildStdout>,
    part: &mut Vec<u8>,
    said: &mut Vec<String>,
) -> Option<String> {
    out.read_until(b'\n', part).await.unwrap();
    // What a kill has cut off was not said.
    let line = String::from_utf8(std::mem::take(part)).unwrap();
    let line = line.strip_suffix('\n')?.to_owned();
    said.push(line.clone());
    Some(line)
}

/// Waits for something while all that is said is heard.
async fn beside<T>(
    out: &mut BufReader<ChildStdout>,
    part: &mut Vec<u8>,
    said: &mut Vec<String>,
    wanted: impl Future<Output = T>,
) -> T {
    let all = async {
        while hear(out, part, said).await.is_some() {}
        std::future::pending::<T>().await
    };
    tokio::select! {
        biased;
        value = wanted => value,
        never = all => never,
    }
}
