//! What the program is told.

use std::path::PathBuf;

use clap::Parser;
use dash::model::{NanoUsd, Strategy};

use crate::server::ServerFlags;

/// Runs a swarm of agents over real files and writes a report.
///
/// Without --provider it asks OpenAI if $OPENAI_API_KEY is set, the server at --base-url or
/// $OPENAI_BASE_URL if that is given, and else a scripted model; engine, store, tools and events are
/// the same.
#[derive(Debug, Parser)]
#[command(name = "swarm")]
pub(crate) struct Options {
    /// The folder to work on [default: this repository's docs/ and README.md]
    #[arg(long, value_name = "DIR")]
    pub(crate) path: Option<PathBuf>,

    /// parallel, map-reduce, pipeline or tree
    #[arg(long, default_value = "map-reduce", value_parser = strategy)]
    pub(crate) strategy: Strategy,

    /// Agents that work at the same time
    #[arg(
        long,
        default_value_t = 4,
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub(crate) agents: u32,

    /// The most the swarm may spend, in dollars
    #[arg(
        long,
        default_value = "1.00",
        value_name = "USD",
        allow_negative_numbers = true
    )]
    pub(crate) budget: NanoUsd,

    /// The database file [default: a new one in a temporary folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Option<PathBuf>,

    /// Finish the swarm that an earlier run with the same --db left unfinished
    #[arg(long, requires = "db")]
    pub(crate) resume: bool,

    #[command(flatten)]
    pub(crate) server: ServerFlags,

    /// Output tokens one answer may have
    #[arg(long, default_value_t = 4_096, value_name = "N")]
    pub(crate) max_output: u32,

    /// How long the scripted model waits before each answer, in milliseconds
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) pace: u64,
}

fn strategy(text: &str) -> Result<Strategy, String> {
    match text.parse() {
        Ok(Strategy::Dag) | Err(_) => Err("use parallel, map-reduce, pipeline or tree".to_owned()),
        Ok(strategy) => Ok(strategy),
    }
}
