//! A program that is made to be killed while it works on one database file.
//!
//! ```text
//! crash_driver DIR [CAP]             32 agents in four swarms; their models are scripts
//! crash_driver DIR CAP URL           20 agents in one swarm; URL serves their model
//! crash_driver --migrate DIR [STOP]  opens the file and closes it
//! ```
//!
//! CAP: dollars each swarm may spend. Started on a fresh directory it creates the swarms, started
//! again it goes on. Every tool notes each run of it in a ledger file, `DIR/<side effect>.ledger`,
//! one flushed line `KEY TRY` each: the effect that tests compare with the journal. A step in doubt
//! is settled by asking its ledger. Requests of scripted models are noted too: `DIR/asked.log` has a
//! line `KEY FINGERPRINT` for each.
//!
//! Standard output tells, line by line and flushed: `open` once it has the file, `ready` once the
//! engine has started, `event SEQ ID` after the commit of an event, `effect KEY` after a line of a
//! ledger, `ticket ID` after a message was queued, `swarm NAME STATUS` at the end. With `--migrate`
//! it tells `stopped VERSION STATEMENT` and waits to be killed once STOP statements are done.
//!
//! Exit code 0: all swarms have ended; 1: standard error says why not; 2: wrong arguments.

mod ladder;
mod ledger;
mod migrate;
mod served;
mod tell;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use dash::api::{BudgetRequest, CreateSwarm};
use dash::ids::SwarmId;
use dash::llm::{LlmRequest, Model, ModelPrice, ScriptedReply};
use dash::model::budget::{ThresholdAction, Thresholds};
use dash::model::{Message, NanoUsd, SideEffect, Strategy};
use dash::store::{SqliteStore, Store as _};
use dash::{ErrorKind, Orchestrator, Result, Settings};
use serde_json::json;

use ladder::LADDERS;
use ledger::{Ledgers, settle_doubts, tool};
use tell::{Tell, Troubles, complain, say};

/// The swarms' ids; fixed, so that a restart finds what it has created.
const PARALLEL: SwarmId = SwarmId::from_u128(1);
const MAP_REDUCE: SwarmId = SwarmId::from_u128(2);

/// Agents of the parallel swarm.
const WORKERS: u32 = 12;
/// Map tasks of the other one; one agent more reduces.
const PARTS: u32 = 7;

/// How long a tool works before and after its effect.
const WORK: Duration = Duration::from_millis(2);

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    // Without it the reasons that the engine logs would be lost. Fails only if done twice.
    drop(tracing::subscriber::set_global_default(Troubles));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match *args.as_slice() {
        ["--migrate", dir] => migrate::run(Path::new(dir), None).await,
        ["--migrate", dir, stop] => match stop.parse() {
            Ok(stop) => migrate::run(Path::new(dir), Some(stop)).await,
            Err(_) => return usage(),
        },
        [dir] => run(Path::new(dir), "100").await,
        [dir, cap] => run(Path::new(dir), cap).await,
        [dir, cap, url] => served::run(Path::new(dir), cap, url).await,
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            complain(&err.chain());
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    complain("usage: crash_driver DIR [CAP [URL]] | --migrate DIR [STOP]");
    ExitCode::from(2)
}

async fn run(dir: &Path, cap: &str) -> Result<()> {
    let store = Arc::new(SqliteStore::open(dir.join("run.db")).await?);
    say("open");
    let ledgers = Arc::new(Ledgers {
        dir: dir.to_owned(),
    });
    let [first, second] = ladder::models()?;
    let script = |request: &LlmRequest| ladder::answer(request).unwrap_or_else(|| answer(request));
    let known = store.head_seq().await.map_err(dash::Error::from)?;
    let dash = Orchestrator::builder(Arc::clone(&store) as Arc<dyn dash::store::Store>)
        .settings(settings())
        .add_provider(ladder::provider(dir.to_owned(), script))
        .add_model(model()?)
        .add_model(first)
        .add_model(second)
        .with_hooks(Arc::new(ladder::Rewrite))
        .with_tools(SideEffect::ALL.map(|class| tool(&ledgers, class)).into())
        .add_sink(Arc::new(Tell))
        .start()
        .await?;
    say("ready");
    create(&dash, parallel(cap.parse()?)).await?;
    create(&dash, map_reduce(cap.parse()?)).await?;
    // They work longer, so a tight cap is to stop them later.
    let cap: NanoUsd = cap.parse()?;
    for (id, name, parts, mode) in LADDERS {
        let request = swarm(id, name, NanoUsd(3 * cap.0 / 2));
        create(&dash, ladder::swarm(request, parts, mode)).await?;
    }
    let ended = async {
        let [all_at_once, slow] = LADDERS.map(|(id, ..)| id);
        for id in [PARALLEL, MAP_REDUCE, all_at_once, slow] {
            let swarm = dash.wait_swarm(id).await?.swarm;
            say(&format!("swarm {} {}", swarm.name, swarm.status));
        }
        Ok::<(), dash::Error>(())
    };
    tokio::select! {
        ended = ended => ended?,
        failed = settle_doubts(&dash, &ledgers) => failed?,
        failed = ladder::steer(&dash, known) => failed?,
    }
    dash.shutdown(Duration::from_secs(5)).await
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.store_retry_ms = 50;
    settings.retry_base_ms = 5;
    settings.retry_cap_ms = 20;
    settings.default_model = "scripted".to_owned();
    settings
}

/// Creates a swarm, unless it is there. The disk may be full meanwhile: the id is the same each time,
/// so nothing is made twice.
async fn create(dash: &Orchestrator, request: CreateSwarm) -> Result<()> {
    loop {
        match dash.create_swarm(request.clone()).await {
            Err(err) if err.kind() == ErrorKind::Conflict => return Ok(()),
            Err(err) if err.kind() == ErrorKind::Unavailable => tokio::time::sleep(WORK).await,
            other => return other.map(drop),
        }
    }
}

fn swarm(id: SwarmId, name: &str, cap: NanoUsd) -> CreateSwarm {
    let mut request = CreateSwarm::new(name, "Use the tools, then stop.");
    request.id = Some(id);
    // Nobody watches, so 90 % is only reported.
    let thresholds = Thresholds {
        critical_action: ThresholdAction::Notify,
        ..Thresholds::default()
    };
    request.budget = Some(BudgetRequest::usd(cap).with_thresholds(thresholds));
    request
}

fn parallel(cap: NanoUsd) -> CreateSwarm {
    let mut request = swarm(PARALLEL, "parallel", cap);
    request.initial_agents = WORKERS;
    request
}

fn map_reduce(cap: NanoUsd) -> CreateSwarm {
    let mut request = swarm(MAP_REDUCE, "map-reduce", cap);
    request.strategy = Strategy::MapReduce;
    request.initial_agents = PARTS;
    request.parts = (1..=PARTS).map(|n| format!("part {n}")).collect();
    request
}

fn model() -> Result<Model> {
    let mut model = Model::free("scripted", "script");
    model.max_output_tokens = 300;
    model.price = ModelPrice {
        input: "0.25".parse()?,
        output: "2.00".parse()?,
        ..ModelPrice::default()
    };
    Ok(model)
}

/// Four turns: three with tools, one with words.
fn answer(request: &LlmRequest) -> ScriptedReply {
    let is_answer = |m: &&Arc<Message>| matches!(m.as_ref(), Message::Assistant(_));
    let turn = request.messages.iter().filter(is_answer).count();
    let calls: &[&str] = match turn {
        0 => &["pure", "idempotent", "once"],
        1 => &["reconcilable", "once"],
        2 => &["once", "pure"],
        _ => return ScriptedReply::text("Done.").first_delay(WORK),
    };
    let reply = calls.iter().fold(ScriptedReply::new(), |reply, name| {
        reply.add_tool_call(*name, json!({}))
    });
    reply.first_delay(WORK * 2)
}
