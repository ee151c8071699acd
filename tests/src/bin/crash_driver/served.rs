//! One swarm of 20 agents whose model is asked over HTTP, as any server of Chat Completions is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dash::api::CreateSwarm;
use dash::ids::SwarmId;
use dash::llm::Model;
use dash::llm::http::HttpProvider;
use dash::llm::layer::{RetryOptions, Retrying};
use dash::model::{NanoUsd, SideEffect};
use dash::store::{SqliteStore, Store};
use dash::{Orchestrator, Result};

use super::ledger::{Ledgers, settle_doubts, tool};
use super::tell::{Tell, say};
use super::{create, model, settings, swarm};

/// Fixed, so that a restart finds what it has created.
const SERVED: SwarmId = SwarmId::from_u128(5);
/// Agents of the swarm.
const AGENTS: u32 = 20;
/// The provider's id.
const PROVIDER: &str = "served";
/// The name that the server is asked for.
const MODEL: &str = "served-model";

/// Works until the swarm has ended.
pub(crate) async fn run(dir: &Path, cap: &str, url: &str) -> Result<()> {
    let store = Arc::new(SqliteStore::open(dir.join("run.db")).await?);
    say("open");
    let ledgers = Arc::new(Ledgers {
        dir: dir.to_owned(),
    });
    let mut settings = settings();
    MODEL.clone_into(&mut settings.default_model);
    let provider = HttpProvider::openai_chat(url).id(PROVIDER).build()?;
    // The server says how long to wait; without a word from it, not long.
    let retries = RetryOptions {
        base: Duration::from_millis(5),
        cap: Duration::from_millis(20),
        ..RetryOptions::default()
    };
    let dash = Orchestrator::builder(store as Arc<dyn Store>)
        .settings(settings)
        .add_provider(Arc::new(Retrying::new(Arc::new(provider), retries)))
        .add_model(served_model()?)
        .with_tools(SideEffect::ALL.map(|class| tool(&ledgers, class)).into())
        .add_sink(Arc::new(Tell))
        .start()
        .await?;
    say("ready");
    create(&dash, request(cap.parse()?)).await?;
    let ended = async {
        let swarm = dash.wait_swarm(SERVED).await?.swarm;
        say(&format!("swarm {} {}", swarm.name, swarm.status));
        Ok::<(), dash::Error>(())
    };
    tokio::select! {
        ended = ended => ended?,
        failed = settle_doubts(&dash, &ledgers) => failed?,
    }
    dash.shutdown(Duration::from_secs(5)).await
}

fn request(cap: NanoUsd) -> CreateSwarm {
    let mut request = swarm(SERVED, "served", cap);
    request.initial_agents = AGENTS;
    // A stream that was cut ends an attempt, and the server cuts some of each agent's.
    request.config.max_retries = 10;
    request
}

fn served_model() -> Result<Model> {
    let mut model = model()?;
    MODEL.clone_into(&mut model.id);
    PROVIDER.clone_into(&mut model.provider);
    Ok(model)
}
