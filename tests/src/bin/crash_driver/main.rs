//! A program that is made to be killed: 32 agents in four swarms on one database file.
//!
//! ```text
//! crash_driver DIR [CAP]     CAP: dollars each swarm may spend
//! ```
//!
//! Started on a fresh directory it creates the swarms, started again it goes on. Every tool notes
//! each run of it in a ledger file, `DIR/<side effect>.ledger`, one flushed line `KEY TRY` each:
//! the effect that tests compare with the journal. A step in doubt is settled by asking its ledger.
//!
//! Requests are noted too: `DIR/asked.log` has a line `KEY FINGERPRINT` for each.
//!
//! Standard output tells, line by line and flushed: `event SEQ ID` after the commit of an event,
//! `effect KEY` after a line of a ledger, `ticket ID` after a message was queued, `swarm NAME
//! STATUS` at the end. Exit code 0: all swarms have ended; 1: standard error says why not.

mod ladder;

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use dash::api::{BudgetRequest, CreateSwarm, Resolution};
use dash::event::{Event, EventKind};
use dash::ids::{AgentId, SwarmId};
use dash::llm::{LlmRequest, Model, ModelPrice, ScriptedReply};
use dash::model::budget::{ThresholdAction, Thresholds};
use dash::model::{Message, NanoUsd, SideEffect, StepKey, Strategy};
use dash::sink::EventSink;
use dash::store::{EventFilter, SqliteStore, Store as _};
use dash::tool::{Tool, ToolContext, ToolError, ToolOutput, tool_fn};
use dash::{ErrorKind, Orchestrator, Result, Settings};
use serde_json::json;

use ladder::LADDERS;

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
    let mut args = std::env::args().skip(1);
    let (Some(dir), cap) = (args.next(), args.next()) else {
        complain("usage: crash_driver DIR [CAP]");
        return ExitCode::from(2);
    };
    match run(Path::new(&dir), cap.as_deref().unwrap_or("100")).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            complain(&err.chain());
            ExitCode::FAILURE
        }
    }
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

/// Creates a swarm unless an earlier run has.
async fn create(dash: &Orchestrator, request: CreateSwarm) -> Result<()> {
    match dash.create_swarm(request).await {
        Err(err) if err.kind() == ErrorKind::Conflict => Ok(()),
        other => other.map(drop),
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

// ---- tools and their ledgers ----

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Call {
    /// `raw` is refused: a hook was to rewrite it.
    #[serde(default)]
    said: Option<String>,
}

/// A tool of this class that notes each run of it.
fn tool(ledgers: &Arc<Ledgers>, class: SideEffect) -> Arc<dyn Tool> {
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
struct Ledgers {
    dir: PathBuf,
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
async fn settle_doubts(dash: &Orchestrator, ledgers: &Ledgers) -> Result<()> {
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

// ---- what others are told ----

/// Prints the numbers of events, after their commit.
#[derive(Debug)]
struct Tell;

impl EventSink for Tell {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn emit(&self, events: &[Arc<Event>]) {
        let line = |event: &Arc<Event>| format!("event {} {}", event.seq, event.id);
        let lines: Vec<String> = events.iter().map(line).collect();
        say(&lines.join("\n"));
    }
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
    let _gone = writeln!(std::io::stderr(), "crash_driver: {text}");
}

/// Prints what the engine logs as an error.
#[derive(Debug)]
struct Troubles;

impl tracing::Subscriber for Troubles {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        complain(&format!("error:{}", fields.0));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        // Writing to a string cannot fail.
        let _written = write!(self.0, " {field}={value:?}");
    }
}
