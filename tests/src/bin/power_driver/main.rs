//! A program whose writes are recorded, to be cut off or made to fail.
//!
//! ```text
//! power_driver swarm DIR            three agents with tools, on the whole engine
//! power_driver rows DIR             many producers, straight on the store, with checkpoints
//! power_driver rows-unflushed DIR   the same on a store that does not flush its commits
//! ```
//!
//! All use the file `DIR/run.db`. Started on a fresh directory it begins, started again it goes on.
//! Standard output tells, line by line, what has been acknowledged: `open`; `event SEQ ID`; `row
//! PRODUCER NUMBER`; `swarm NAME STATUS`. Exit code 0: all is done; 1: standard error says why not.

mod rows;
mod swarm;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ended = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["swarm", dir] => swarm::run(&file(dir)).await,
        ["rows", dir] => rows::run(&file(dir), rows::Flushes::Every).await,
        ["rows-unflushed", dir] => rows::run(&file(dir), rows::Flushes::Few).await,
        _ => {
            complain("usage: power_driver swarm|rows|rows-unflushed DIR");
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            complain(&err.chain());
            ExitCode::FAILURE
        }
    }
}

fn file(dir: &str) -> PathBuf {
    Path::new(dir).join("run.db")
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever started this may have gone; then nobody needs to be told.
    let _gone = out
        .write_all(format!("{text}\n").as_bytes())
        .and_then(|()| out.flush());
}

fn complain(text: &str) {
    // As above.
    let _gone = writeln!(std::io::stderr(), "power_driver: {text}");
}
