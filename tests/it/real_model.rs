//! A real language model behind a real HTTP server, driven by real agents.
//!
//! `scripts/local-llm` serves it on loopback; the first run downloads it from PyPI. What a model
//! this small says is hardly predictable, so these tests look at structure: who called what, what
//! it cost, what is left behind.

#![cfg(test)]

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dash::Orchestrator;
use dash::api::{BudgetRequest, CreateSwarm};
use dash::event::EventKind;
use dash::ids::SwarmId;
use dash::llm::http::HttpProvider;
use dash::llm::{Model, ModelPrice, api};
use dash::model::budget::{BudgetScope, ReservationState};
use dash::model::{Amount, FailurePolicy, NanoUsd, SideEffect, SwarmStatus, Usage};
use dash::store::SqliteStore;
use dash::tool::{Tool, ToolContext, ToolOutput, tool_fn};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::crash_audit::audit;
use crate::crash_child::Process;
use crate::example::Place;

/// How long downloading and starting the model may take.
const START_MAX: Duration = Duration::from_secs(600);
/// How long a swarm may take on a busy machine.
const RUN_MAX: Duration = Duration::from_secs(300);
/// The same for the example, whose seven tools make long prompts: minutes on a busy machine.
const EXAMPLE_MAX: Duration = Duration::from_secs(900);
/// How long the server may need to notice that nobody listens any more.
const HANG_UP_MAX: Duration = Duration::from_secs(20);

/// The server's name of its model.
const MODEL: &str = "smollm2-135m";

/// The dialects that the server speaks.
pub(crate) const DIALECTS: [&str; 3] = [api::OPENAI_CHAT, api::OPENAI_RESPONSES, api::ANTHROPIC];

/// The model's server; ends when this is dropped, because its standard input closes then.
pub(crate) struct Server {
    child: Child,
    url: String,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/local-llm");
        let mut child = Command::new(script)
            .args(["run", "--eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("{script}: {err}; it needs Python 3.10 or newer"));
        let mut url = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let read = timeout(START_MAX, out.read_line(&mut url)).await;
        if !matches!(read, Ok(Ok(1..))) {
            drop(child.stdin.take());
            let mut why = String::new();
            let mut err = child.stderr.take().unwrap();
            drop(timeout(HANG_UP_MAX, err.read_to_string(&mut why)).await);
            panic!("the local model did not start (is PyPI reachable?): {why}");
        }
        let url = url.trim().to_owned();
        Self { child, url }
    }

    /// The provider for a dialect; its id is the dialect's name.
    pub(crate) fn provider(&self, dialect: &str) -> Arc<HttpProvider> {
        let url = self.url.clone();
        let builder = match dialect {
            api::OPENAI_CHAT => HttpProvider::openai_chat(url),
            api::OPENAI_RESPONSES => HttpProvider::openai_responses(url),
            api::ANTHROPIC => HttpProvider::anthropic(url),
            other => panic!("the server does not speak {other}"),
        };
        Arc::new(builder.id(dialect).build().unwrap())
    }

    /// How many calls the server works on.
    pub(crate) async fn busy(&self) -> usize {
        let host = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).await.unwrap();
        let request = format!("GET /slots HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (start, end) = (answer.find('[').unwrap(), answer.rfind(']').unwrap());
        let slots: serde_json::Value = serde_json::from_str(&answer[start..=end]).unwrap();
        let slots = slots.as_array().unwrap().iter();
        slots.filter(|slot| slot["is_processing"] == true).count()
    }

    /// Waits until the server works on exactly so many calls.
    pub(crate) async fn wait_for_busy(&self, wanted: usize) {
        let asked = async {
            while self.busy().await != wanted {
                // The server tells nobody when this changes, so it is asked.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = timeout(HANG_UP_MAX, asked).await;
        assert!(in_time.is_ok(), "the server does not get to {wanted} calls");
    }

    pub(crate) async fn stop(mut self) {
        drop(self.child.stdin.take());
        let ended = timeout(HANG_UP_MAX, self.child.wait()).await;
        ended.expect("the server ends with its input").unwrap();
    }
}

/// The model at a made-up price, asked in a dialect, whose name is its id.
pub(crate) fn model(dialect: &str) -> Model {
    let mut model = Model::free(dialect, dialect);
    model.wire_id = Some(MODEL.to_owned());
    model.context_window = 8_192;
    model.price = ModelPrice {
        input: "0.25".parse().unwrap(),
        cache_read: "0.10".parse().unwrap(),
        output: "2.00".parse().unwrap(),
        ..ModelPrice::default()
    };
    model
}

async fn engine(db: &Path, server: &Server, tools: Vec<Arc<dyn Tool>>) -> Orchestrator {
    let store = Arc::new(SqliteStore::open(db).await.unwrap());
    let mut builder = Orchestrator::builder(store).with_tools(tools);
    for dialect in DIALECTS {
        builder = builder
            .add_provider(server.provider(dialect))
            .add_model(model(dialect));
    }
    builder.start().await.unwrap()
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct City {
    /// The city.
    city: String,
}

/// A tool that notes for which cities it was asked.
pub(crate) fn get_weather(asked: &Arc<Mutex<Vec<String>>>) -> Arc<dyn Tool> {
    let asked = Arc::clone(asked);
    let run = move |_: ToolContext, City { city }| {
        asked.lock().unwrap().push(city.clone());
        std::future::ready(Ok(ToolOutput::text(format!(
            "Sunny in {city}, 21 degrees."
        ))))
    };
    tool_fn(
        "get_weather",
        "Tells the weather of a city.",
        SideEffect::Pure,
        run,
    )
}

fn swarm(dialect: &str, prompt: &str, agents: u32, tool: &str) -> CreateSwarm {
    let mut request = CreateSwarm::new(dialect, prompt);
    request.config.model = dialect.to_owned();
    request.initial_agents = agents;
    request.budget = Some(BudgetRequest::usd(NanoUsd(1_000_000_000)));
    request.config.temperature = Some(0.0);
    request.config.max_turns = 3;
    request.config.max_retries = 0;
    request.config.failure_policy = FailurePolicy::Continue;
    request.config.tools = Some(vec![tool.to_owned()]);
    request
}

#[tokio::test]
async fn real_agents_call_a_tool_and_cost_what_they_used() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("run.db");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let dash = engine(&db, &server, vec![get_weather(&asked)]).await;
    let mut swarms = Vec::new();
    for dialect in DIALECTS {
        let mut request = swarm(dialect, "What is the weather in Paris?", 1, "get_weather");
        request.config.max_output_tokens = 60;
        swarms.push(dash.create_swarm(request).await.unwrap().id);
    }
    for id in &swarms {
        let outcome = timeout(RUN_MAX, dash.wait_swarm(*id)).await;
        let outcome = outcome.expect("the swarm ends").unwrap();
        assert!(outcome.swarm.status.is_terminal());
        eprintln!("{}: {}", outcome.swarm.name, outcome.swarm.status);
    }
    dash.shutdown(Duration::from_secs(5)).await.unwrap();
    server.stop().await;

    let records = audit(&db).await;
    let asked = asked.lock().unwrap().clone();
    eprintln!("the tool was asked for {asked:?}");
    for id in &swarms {
        let of_swarm = records.events.iter().filter(|e| e.swarm_id == Some(*id));
        let called = of_swarm.filter(|e| e.kind.name() == "tool.completed");
        assert!(called.count() > 0, "no agent of {id} called the tool");
    }
    let answered = records.events.iter().filter(|event| {
        matches!(&event.kind, EventKind::ToolCompleted(e) if e.tool == "get_weather" && !e.is_error)
    });
    assert_eq!(
        answered.count(),
        asked.len(),
        "each run of the tool is told once"
    );
    assert!(asked.iter().all(|city| !city.is_empty()), "{asked:?}");

    let mut turns = 0;
    let mut spent: HashMap<Option<SwarmId>, i64> = HashMap::new();
    for event in &records.events {
        let EventKind::AgentTurn(turn) = &event.kind else {
            continue;
        };
        turns += 1;
        assert!(turn.usage.prompt() > 0 && turn.usage.output > 0, "{turn:?}");
        check_cost(turn.usage, NanoUsd(turn.cost_nanos));
        let held = records
            .reservations
            .iter()
            .find(|r| r.agent_id == turn.agent_id && r.step == turn.step);
        let actual = Amount {
            usd: NanoUsd(turn.cost_nanos),
            tokens: turn.usage.total(),
        };
        let held = held.unwrap();
        assert_eq!(
            (held.state, held.actual),
            (ReservationState::Settled, Some(actual))
        );
        assert!(
            held.held.usd >= actual.usd && held.held.tokens >= actual.tokens,
            "{held:?}"
        );
        *spent.entry(event.swarm_id).or_default() += turn.cost_nanos;
    }
    assert!(turns >= 3, "each agent had a turn");
    for budget in &records.budgets {
        let of_swarm =
            |id: &Option<SwarmId>| id.is_some_and(|id| budget.entity_id == id.to_string());
        let is_project = budget.scope == BudgetScope::Project;
        let below = spent.iter().filter(|(id, _)| is_project || of_swarm(id));
        let sum: i64 = below.map(|(_, nanos)| nanos).sum();
        assert_eq!((budget.spent, budget.reserved), (sum, 0), "{budget:?}");
        assert_eq!((budget.uncertain, budget.overrun), (0, 0), "{budget:?}");
    }
}

/// Usage times price, to the nano-dollar, computed apart from the engine's code.
fn check_cost(usage: Usage, cost: NanoUsd) {
    let per_million = [
        (usage.input, 250),
        (usage.cache_read, 100),
        (usage.output, 2_000),
    ];
    let nanos: u64 = per_million
        .iter()
        .map(|(tokens, price)| tokens * price)
        .sum();
    assert_eq!(u64::try_from(cost.0).unwrap(), nanos, "{usage:?}");
    assert_eq!(usage.cache_write, 0);
}

#[tokio::test]
async fn a_destroyed_swarm_hangs_up() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("run.db");
    let dash = engine(&db, &server, Vec::new()).await;
    for dialect in DIALECTS {
        // Without tools and with room for much, it talks until it is stopped.
        let mut request = swarm(dialect, "Tell a very long story about a fox.", 3, "none");
        request.config.tools = Some(Vec::new());
        request.config.max_output_tokens = 1_500;
        let mut deltas = dash.subscribe_deltas();
        let swarm = dash.create_swarm(request).await.unwrap();
        for _ in 0..5 {
            let delta = timeout(RUN_MAX, deltas.recv()).await;
            delta.expect("the model says something").unwrap();
        }
        assert!(server.busy().await > 0, "it still talks");
        dash.destroy_swarm(swarm.id).await.unwrap();
        let outcome = timeout(RUN_MAX, dash.wait_swarm(swarm.id)).await;
        let status = outcome.expect("it has ended").unwrap().swarm.status;
        assert_eq!(status, SwarmStatus::Destroyed);
        server.wait_for_busy(0).await;
    }
    dash.shutdown(Duration::from_secs(5)).await.unwrap();
    server.stop().await;

    let records = audit(&db).await;
    let uncertain = |b: &&dash::model::Budget| b.uncertain > 0 && b.reserved == 0;
    assert_eq!(
        records.budgets.iter().filter(uncertain).count(),
        records.budgets.len()
    );
    let turns = records
        .events
        .iter()
        .filter(|e| e.kind.name() == "agent.turn");
    assert_eq!(turns.count(), 0, "a call that was hung up on is no turn");
}

#[tokio::test]
async fn the_example_ends_by_itself_whatever_a_real_model_says() {
    let server = Server::start().await;
    let place = Place::new();
    let args = [
        "--base-url",
        &server.url,
        "--model",
        MODEL,
        "--strategy",
        "map-reduce",
    ];
    let mut command = place.command(&args).await;
    // A tiny model may never come to an end by itself.
    command.args(["--agents", "1", "--max-output", "60"]);
    command.arg("--db").arg(place.db());
    let (status, lines, complaints) = Process::start(&mut command).end_within(EXAMPLE_MAX).await;
    let code = status.code();
    assert!(matches!(code, Some(0 | 1)), "{status}: {complaints}");
    assert!(
        lines.iter().any(|line| line.contains("tokens")),
        "{lines:?}"
    );
    let records = audit(&place.db()).await;
    assert!(records.budgets.iter().all(|b| b.reserved == 0));
    server.stop().await;
}
