//! The scripted model server as a program: agents that count, see [`dash_model_server::counting`].
//!
//! ```text
//! cargo run --release -p dash-model-server -- --address 127.0.0.1:4010
//! ```
//!
//! The first line of standard output is its URL. Serves until it is killed, or with
//! `--until-stdin-closes` as long as its parent holds the other end.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use clap::Parser;
use dash_model_server::{ModelServer, Options, counting};

/// A scripted model server on loopback that speaks Chat Completions.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// End when standard input closes.
    #[arg(long)]
    until_stdin_closes: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let arguments = Arguments::parse();
    // Each stream is a connection.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let options = Options {
            address: arguments.address,
            requests_kept: 0,
        };
        let server = ModelServer::start_with(options, counting).await?;
        writeln!(std::io::stdout().lock(), "{}", server.url())?;
        if arguments.until_stdin_closes {
            let read = || std::io::stdin().lock().read_to_end(&mut Vec::new());
            tokio::task::spawn_blocking(read).await??;
        } else {
            std::future::pending::<()>().await;
        }
        Ok(())
    })
}
