//! Tools whose effects outlive the process: each notes every run of it in a flushed file.

use std::error::Error as StdError;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use dash::api::Resolution;
use dash::event::EventKind;
use dash::ids::AgentId;
use dash::model::{SideEffect, StepKey};
use dash::store::EventFilter;
use dash::tool::{Tool, ToolContext, ToolError, ToolOutput, tool_fn};
use dash::{ErrorKind, Orchestrator, Result};

use super::WORK;
use super::tell::say;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Call {
    /// `raw` is refused: a hook was to rewrite it.
    #[serde(default)]
    said: Option<String>,
}

/// A tool of this class that notes each run of it.
pub(crate) fn tool(ledgers: &Arc<Ledgers>, class: SideEffect) -> Arc<dyn Tool> {
    let ledgers = Arc::clone(ledgers);
    let run = move |cx: ToolContext, Call { said }| {
        let ledgers = Arc::clone(&ledgers);
        async move {
            if said.as_deref() == Some("raw") {
                return Err(ToolError::new("no hook has seen this call"));
            }
            tokio::time::sleep(WORK).await;
            let key = cx.idempotency_key;
            let noted = key.clone();
            let note = move || {
                // The contract of this class: called again, it looks.
                if class == SideEffect::Reconcilable && ledgers.has(class, &noted)? {
                    return Ok(());
                }
                ledgers.note(class, &noted, cx.try_number)
            };
            let noted: std::result::Result<(), Box<dyn StdError + Send + Sync>> =
                match tokio::task::spawn_blocking(note).await {
                    Ok(noted) => noted.map_err(Into::into),
                    Err(err) => Err(err.into()),
                };
            noted.map_err(|err| ToolError::new(err.to_string()))?;
            say(&format!("effect {key}"));
            tokio::time::sleep(WORK).await;
            Ok(ToolOutput::text("noted"))
        }
    };
    tool_fn(class.as_str(), "Notes that it ran.", class, run)
}

#[derive(Debug)]
pub(crate) struct Ledgers {
    pub(crate) dir: PathBuf,
}

impl Ledgers {
    fn path(&self, class: SideEffect) -> PathBuf {
        self.dir.join(format!("{}.ledger", class.as_str()))
    }

    /// Adds a line, in one write and flushed.
    fn note(&self, class: SideEffect, key: &str, try_number: u32) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).open(self.path(class))?;
        file.write_all(format!("{key} {try_number}\n").as_bytes())?;
        file.sync_data()
    }

    fn has(&self, class: SideEffect, key: &str) -> std::io::Result<bool> {
        let text = match std::fs::read_to_string(self.path(class)) {
            Ok(text) => text,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(err) => return Err(err),
        };
        let mut keys = text.lines().filter_map(|line| line.split(' ').next());
        Ok(keys.any(|found| found == key))
    }
}

/// Settles steps in doubt for as long as it is polled: what is in the ledger has happened, what is
/// not has not.
pub(crate) async fn settle_doubts(dash: &Orchestrator, ledgers: &Ledgers) -> Result<()> {
    let filter = EventFilter {
        types: vec!["step.in_doubt".to_owned()],
        ..EventFilter::default()
    };
    let mut doubts = dash.subscribe(filter, 0);
    while let Some(event) = doubts.next().await? {
        if let EventKind::StepInDoubt(doubt) = &event.kind {
            settle_doubt(dash, ledgers, doubt.agent_id, doubt.step).await?;
        }
    }
    Err(dash::Error::closed())
}

async fn settle_doubt(
    dash: &Orchestrator,
    ledgers: &Ledgers,
    agent: AgentId,
    step: StepKey,
) -> Result<()> {
    let key = format!("{agent}/{step}");
    let has = ledgers.has(SideEffect::Once, &key);
    let has = has.map_err(|err| dash::Error::internal(format!("the ledger: {err}")))?;
    let resolution = if has {
        let text = "noted, says the ledger".to_owned();
        Resolution::Result { text }
    } else {
        Resolution::Retry
    };
    match dash.resolve_step(agent, step, resolution).await {
        // An earlier run of this program has settled it.
        Err(err) if matches!(err.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => Ok(()),
        other => other.map(drop),
    }
}
