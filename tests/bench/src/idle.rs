//! Memory of agents that wait for their turn at the model.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use dash::llm::scripted::ScriptedReply;
use dash::model::AgentStatus;
use dash::store::{AgentFilter, Page};
use tokio::sync::mpsc;

use crate::engine;
use crate::measure::{float, now, status_kib};
use crate::report::{Figure, Target};
use crate::{Options, Result};

/// After this long without a change everything has settled.
const QUIET: Duration = Duration::from_millis(1_500);

/// Text that a bare task of the yardstick holds, as an agent's conversation would.
const STATE_BYTES: usize = 2_048;

/// Measures in processes of their own: memory that one run gave back would be used again by the
/// next.
pub(crate) fn run(options: &Options, dir: &Path) -> Result<Vec<Figure>> {
    let agents = options.n.unwrap_or(10_000);
    let bare = *elsewhere("bare", agents, dir)?.first().ok_or("no figure")?;
    let parked = elsewhere("parked", agents, dir)?;
    let [before, after, settled] = *parked.as_slice() else {
        return Err("not three figures".into());
    };
    let per_agent = (after - before) / f64::from(agents);
    Ok(vec![
        Figure::new("resident in all", "MB", after / 1_024.0).target(Target::AtMost(100.0)),
        Figure::new("resident before", "MB", before / 1_024.0),
        Figure::new("an agent that waits", "KB", per_agent)
            .beside("a bare task with 2 KB and an inbox", bare)
            .target(Target::AtMost(8.0)),
        Figure::new("until all wait, at most", "s", settled),
    ])
}

/// Figures that this program prints when it measures something else.
fn elsewhere(what: &str, agents: u32, dir: &Path) -> Result<Vec<f64>> {
    let mut child = std::process::Command::new(std::env::current_exe()?);
    child
        .args([what, "--n", &agents.to_string(), "--dir"])
        .arg(dir);
    let output = child.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let numbers = text.split_whitespace().map(str::parse);
    Ok(numbers.collect::<std::result::Result<_, _>>()?)
}

/// One call hangs for ever, all other agents wait at the gate. Prints KiB before and with them, and
/// seconds.
pub(crate) async fn print_parked(options: &Options) -> Result<()> {
    let agents = options.n.unwrap_or(10_000);
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::tempdir_in(dir)?;
    let mut settings = engine::settings();
    settings.calls_per_provider_max = 1;
    let store = engine::store(&dir.path().join("dash.db")).await?;
    let provider = engine::scripted(|_| ScriptedReply::new().hanging());
    let builder = engine::builder(store, provider).settings(settings);
    let dash = builder.start().await?;
    tokio::time::sleep(QUIET).await;
    let before = status_kib("VmRSS");
    let began = now();
    let mut request = engine::swarm(agents);
    request.config.timeout_ms = 3_600_000;
    dash.create_swarm(request).await?;
    let mut head = 0;
    loop {
        tokio::time::sleep(QUIET).await;
        let next = dash.head_seq().await?;
        if next == head {
            break;
        }
        head = next;
    }
    let settled = began.elapsed().as_secs_f64() - 2.0 * QUIET.as_secs_f64();
    let after = status_kib("VmRSS");
    let running = AgentFilter {
        statuses: vec![AgentStatus::Running],
        ..AgentFilter::default()
    };
    let some = dash.list_agents(&running, Page::first(1_000)).await?;
    if some.items.len() < agents.min(1_000) as usize {
        return Err("not all agents wait".into());
    }
    // The call that hangs would hold the end up.
    dash.shutdown(Duration::from_millis(100)).await?;
    let settled = settled.max(0.0);
    writeln!(std::io::stdout().lock(), "{before} {after} {settled}")?;
    Ok(())
}

/// Prints what a bare task takes.
pub(crate) async fn print_bare(options: &Options) -> Result<()> {
    let bare = bare_tasks(options.n.unwrap_or(10_000)).await;
    writeln!(std::io::stdout().lock(), "{bare}")?;
    Ok(())
}

/// KiB of a task that holds some text and waits for a message.
async fn bare_tasks(count: u32) -> f64 {
    let before = status_kib("VmRSS");
    let mut inboxes = Vec::with_capacity(count as usize);
    let mut tasks = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let (sender, mut inbox) = mpsc::channel::<String>(8);
        inboxes.push(sender);
        tasks.push(crate::spawn(async move {
            let state = "s".repeat(STATE_BYTES);
            inbox.recv().await.map_or(0, |text| text.len()) + state.len()
        }));
    }
    tokio::time::sleep(QUIET).await;
    let after = status_kib("VmRSS");
    drop(inboxes);
    for task in tasks {
        // It only returns a length.
        drop(task.await);
    }
    (after - before) / float(i64::from(count))
}
