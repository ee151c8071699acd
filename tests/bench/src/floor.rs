//! The floor: the least that this workload takes in Rust with every step durable. A loop made by
//! hand for this one workload, no engine: no budgets, no recovery, no pause, one tool.
//!
//! It asks with `reqwest`, reads lines and typed JSON, and hands each step to a thread that commits
//! whatever waits in one transaction (`synchronous=FULL`) and only then answers: the model's answer
//! before its tool runs, the tool's result before the next request. Three events and two writes of
//! the agent's row a turn; two and one in the last.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::BufRead as _;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::Client;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use rusqlite::{Connection, params};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::measure::{Cost, file_bytes};
use crate::model_server::ModelServer;
use crate::turns::{Ran, models, size};
use crate::{Options, Result};

/// Steps that may wait for the writer.
const WAITING_MAX: usize = 8_192;
/// Steps in one transaction.
const GROUP_MAX: usize = 1_024;
/// Events that subscribers may lag behind.
const EVENTS_KEPT: usize = 65_536;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA temp_store = MEMORY;
    CREATE TABLE agents (id TEXT PRIMARY KEY, swarm TEXT NOT NULL, status TEXT NOT NULL,
        turn INTEGER NOT NULL, tokens INTEGER NOT NULL, version INTEGER NOT NULL,
        updated_at INTEGER NOT NULL);
    CREATE TABLE events (id INTEGER PRIMARY KEY, swarm TEXT NOT NULL, agent TEXT NOT NULL,
        number INTEGER NOT NULL, type TEXT NOT NULL, at INTEGER NOT NULL, data TEXT NOT NULL);
    CREATE INDEX events_by_agent ON events (agent, number);
    CREATE INDEX events_by_swarm ON events (swarm, id);";

const INSERT: &str = "INSERT INTO events (swarm, agent, number, type, at, data) \
     VALUES ('swarm-1', ?1, ?2, ?3, ?4, ?5)";
const UPSERT: &str = "INSERT INTO agents VALUES (?1, 'swarm-1', ?2, ?3, ?4, 1, ?5) \
     ON CONFLICT (id) DO UPDATE SET status = ?2, turn = ?3, tokens = tokens + ?4, \
     version = version + 1, updated_at = ?5";

const TOOLS: &str = r#"[{"type":"function","function":{"name":"add_one","description":"Adds one to n.","parameters":{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}}}]"#;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    usage: Option<Used>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Delta<'a>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<CallDelta<'a>>>,
}

#[derive(Deserialize)]
struct CallDelta<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    arguments: Option<Cow<'a, str>>,
}

#[derive(Deserialize, Default)]
struct Used {
    prompt_tokens: i64,
    completion_tokens: i64,
}

#[derive(Deserialize)]
struct AddOne {
    n: i64,
}

/// One commit of an agent.
struct Step {
    agent: Arc<str>,
    number: u32,
    status: &'static str,
    tokens: i64,
    events: Vec<(&'static str, String)>,
    done: oneshot::Sender<()>,
}

/// What an agent asks, writes to and tells.
#[derive(Clone)]
struct Shared {
    http: Client,
    url: Arc<str>,
    writer: mpsc::Sender<Step>,
    bus: broadcast::Sender<Arc<str>>,
}

/// Runs the warm-up, then the agents, and prints the line.
pub(crate) async fn print(options: &Options) -> Result<()> {
    let (n, k) = size(options);
    let (main, warm) = models(options);
    let server = ModelServer::for_kit(options.base.as_deref());
    let dir = tempfile::tempdir()?;
    let path = options.db_or(dir.path());
    let conn = Connection::open(&path)?;
    conn.execute_batch(SCHEMA)?;
    let (writer, waiting) = mpsc::channel(WAITING_MAX);
    let thread = std::thread::spawn(move || {
        write(&conn, waiting).map_err(|err| err.to_string())?;
        let count = |what| conn.query_row(what, [], |row| row.get::<_, i64>(0));
        count("SELECT count(*) FROM events").map_err(|err| err.to_string())
    });
    let (bus, mut events) = broadcast::channel(EVENTS_KEPT);
    // Someone always listens, as in an engine.
    let listener = crate::spawn(async move { while events.recv().await.is_ok() {} });
    let http = Client::builder().no_proxy().tcp_nodelay(true);
    let shared = Shared {
        http: http.tls_certs_only([]).build()?,
        url: format!("{}/v1/chat/completions", server.url()).into(),
        writer,
        bus,
    };
    batch(options.warmup, k, "w", &warm, &shared).await?;
    let bytes = file_bytes(&path);
    let meter = Cost::begin()?;
    let errors = batch(n, k, "", &main, &shared).await?;
    let cost = meter.end()?;
    let grown = file_bytes(&path).saturating_sub(bytes);
    drop(shared);
    listener.await?;
    let events = thread.join().map_err(|_panic| "the writer panicked")??;
    let ran = Ran {
        peer: "floor",
        persist: "sqlite-full".to_owned(),
        cost,
        db_bytes: i64::try_from(grown)?,
        rows: json!({"events": events, "closed_file_bytes": file_bytes(&path)}),
        errors,
    };
    ran.print(options)
}

/// Runs agents at once; answers what went wrong.
async fn batch(
    agents: u32,
    k: u32,
    prefix: &str,
    model: &str,
    shared: &Shared,
) -> Result<Vec<String>> {
    let tasks: Vec<_> = (0..agents)
        .map(|number| {
            let (id, model) = (format!("{prefix}{number}"), model.to_owned());
            crate::spawn(agent(id, model, shared.clone()))
        })
        .collect();
    let mut errors = Vec::new();
    for task in tasks {
        match task.await? {
            Ok((calls, text)) if calls + 1 == k && !text.is_empty() => {}
            Ok((calls, text)) => errors.push(format!("tools={calls} text={text}")),
            Err(err) => errors.push(err.to_string()),
        }
    }
    Ok(errors)
}

/// One agent; how many calls it made, and its last text.
async fn agent(id: String, model: String, shared: Shared) -> Result<(u32, String)> {
    let mut messages = format!(
        r#"{{"role":"system","content":"You count."}},{{"role":"user","content":"agent {id}: count"}}"#
    );
    let id: Arc<str> = id.into();
    let (mut calls, mut turn) = (0, 0);
    loop {
        turn += 1;
        let body = format!(
            r#"{{"model":"{model}","stream":true,"stream_options":{{"include_usage":true}},"tools":{TOOLS},"messages":[{messages}]}}"#
        );
        let answer = ask(&shared, body).await?;
        let is_last = answer.call.is_empty();
        let status = if is_last { "done" } else { "running" };
        let (text, arguments) = (quoted(&answer.text)?, quoted(&answer.arguments)?);
        let (call, name) = (&answer.call, &answer.name);
        let mut events = vec![(
            "llm.completed",
            format!(
                r#"{{"text":{text},"call":"{call}","name":"{name}","args":{arguments},"in":{},"out":{}}}"#,
                answer.used.prompt_tokens, answer.used.completion_tokens
            ),
        )];
        let mut tokens = answer.used.prompt_tokens + answer.used.completion_tokens;
        if !is_last {
            let answered = std::mem::take(&mut events);
            let number = turn * 2;
            commit(
                &shared,
                &id,
                number,
                "tool",
                std::mem::take(&mut tokens),
                answered,
            )
            .await?;
            let AddOne { n } = serde_json::from_str(&answer.arguments)?;
            let result = n + 1;
            calls += 1;
            write!(
                messages,
                r#",{{"role":"assistant","content":{text},"tool_calls":[{{"id":"{call}","type":"function","function":{{"name":"{name}","arguments":{arguments}}}}}]}},{{"role":"tool","tool_call_id":"{call}","content":"{result}"}}"#
            )?;
            let event = format!(r#"{{"call":"{call}","result":"{result}"}}"#);
            events.push(("tool.completed", event));
        }
        let event = format!(r#"{{"turn":{turn},"status":"{status}"}}"#);
        events.push(("turn.ended", event));
        commit(&shared, &id, turn * 2 + 1, status, tokens, events).await?;
        if is_last {
            return Ok((calls, answer.text));
        }
    }
}

fn quoted(text: &str) -> Result<String> {
    Ok(serde_json::to_string(text)?)
}

/// Tells who listens, and waits until it is on disk.
async fn commit(
    shared: &Shared,
    agent: &Arc<str>,
    number: u32,
    status: &'static str,
    tokens: i64,
    events: Vec<(&'static str, String)>,
) -> Result<()> {
    for (_, data) in &events {
        // The listener lives as long as the agents.
        let _told = shared.bus.send(data.as_str().into());
    }
    let (done, answer) = oneshot::channel();
    let step = Step {
        agent: Arc::clone(agent),
        number,
        status,
        tokens,
        events,
        done,
    };
    shared.writer.send(step).await?;
    Ok(answer.await?)
}

#[derive(Default)]
struct Answer {
    text: String,
    call: String,
    name: String,
    arguments: String,
    used: Used,
}

async fn ask(shared: &Shared, body: String) -> Result<Answer> {
    let post = shared.http.post(&*shared.url);
    let post = post
        .header(CONTENT_TYPE, "application/json")
        .header(AUTHORIZATION, "Bearer x");
    let mut response = post.body(body).send().await?.error_for_status()?;
    let mut answer = Answer::default();
    let mut held: Vec<u8> = Vec::new();
    while let Some(piece) = response.chunk().await? {
        let bytes = if held.is_empty() {
            piece
        } else {
            held.extend_from_slice(&piece);
            Bytes::from(std::mem::take(&mut held))
        };
        let mut rest: &[u8] = &bytes;
        while !rest.is_empty() {
            let all = rest;
            let length = rest.skip_until(b'\n')?;
            let line = all.get(..length).unwrap_or(all);
            if line.ends_with(b"\n") {
                answer.read(line)?;
            } else {
                held = line.to_vec();
            }
        }
    }
    Ok(answer)
}

impl Answer {
    fn read(&mut self, line: &[u8]) -> Result<()> {
        let Some(data) = line.strip_prefix(b"data: ") else {
            return Ok(());
        };
        if data == b"[DONE]\n" {
            return Ok(());
        }
        let chunk: Chunk<'_> = serde_json::from_slice(data)?;
        if let Some(used) = chunk.usage {
            self.used = used;
        }
        for choice in chunk.choices {
            self.text
                .push_str(&choice.delta.content.unwrap_or_default());
            for call in choice.delta.tool_calls.into_iter().flatten() {
                if let Some(id) = call.id {
                    self.call = id.into_owned();
                }
                let Some(function) = call.function else {
                    continue;
                };
                if let Some(name) = function.name {
                    self.name = name.into_owned();
                }
                self.arguments
                    .push_str(&function.arguments.unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// Writes whatever waits as one commit, then answers.
fn write(conn: &Connection, mut waiting: mpsc::Receiver<Step>) -> Result<()> {
    let mut insert = conn.prepare(INSERT)?;
    let mut upsert = conn.prepare(UPSERT)?;
    let mut group: Vec<Step> = Vec::with_capacity(GROUP_MAX);
    let mut at = 0_i64;
    while waiting.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        for step in &group {
            // A number in place of the time costs the same.
            at += 1;
            for (index, (kind, data)) in (0..).zip(&step.events) {
                let number = step.number * 8 + index;
                insert.execute(params![step.agent, number, kind, at, data])?;
            }
            let row = params![step.agent, step.status, step.number, step.tokens, at];
            upsert.execute(row)?;
        }
        conn.execute_batch("COMMIT")?;
        for step in group.drain(..) {
            // An agent that has gone needs no answer.
            let _gone = step.done.send(());
        }
    }
    Ok(())
}
