//! Following what happens.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dash::event::Event;
use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::SideEffect;
use dash::sink::JsonLinesSink;
use dash::store::{EventFilter, SqliteStore};
use dash_tests::{Door, Engine, Setup, audit, create, turn, within};
use pretty_assertions::assert_eq;
use serde_json::json;

fn acts_once(request: &LlmRequest) -> ScriptedReply {
    match turn(request) {
        0 => ScriptedReply::tool_call("act", json!({})),
        _ => ScriptedReply::text("end"),
    }
}

/// Reads from `after` up to the end of the swarm.
async fn read(engine: &Engine, filter: EventFilter, after: u64, last: u64) -> Vec<u64> {
    let mut events = engine.subscribe(filter, after);
    let mut seen = Vec::new();
    within("all events", async {
        while seen.last() != Some(&last) {
            seen.push(events.next().await.unwrap().unwrap().seq);
        }
    })
    .await;
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_sees_every_event_once_wherever_it_begins() {
    let door = Door::new("act", SideEffect::Pure);
    let engine = Setup::new(acts_once).door(&door).start().await;
    let mut live = engine.subscribe(EventFilter::default(), 0);
    let swarm = engine.create_swarm(create("go", 20)).await.unwrap();
    let mut seen: Vec<Event> = Vec::new();
    within("the end", async {
        loop {
            let event = live.next().await.unwrap().unwrap();
            let ended = event.kind.name() == "swarm.completed";
            seen.push(event.as_ref().clone());
            if ended {
                break;
            }
        }
    })
    .await;
    engine.finish(swarm.id).await;
    assert_eq!(seen, engine.events().await);
    let last = seen.last().unwrap().seq;
    for after in [0, 1, last / 2, last - 1] {
        let expected: Vec<u64> = (after + 1..=last).collect();
        assert_eq!(
            read(&engine, EventFilter::default(), after, last).await,
            expected
        );
    }
    audit(&engine).await;
}

#[tokio::test]
async fn a_reader_that_falls_behind_reads_the_rest_from_the_store() {
    let door = Door::new("act", SideEffect::Pure);
    let mut setup = Setup::new(acts_once).door(&door);
    setup.settings.broadcast_capacity = 16;
    let engine = setup.start().await;
    let mut slow = engine.subscribe(EventFilter::default(), 0);
    // Past the stored ones, into the live ones.
    engine.run(create("go", 1)).await;
    let first = slow.next().await.unwrap().unwrap().seq;
    assert_eq!(first, 1);
    for _ in 0..10 {
        engine.run(create("go", 10)).await;
    }
    let last = engine.head_seq().await.unwrap();
    assert!(last > 500);
    within("the rest", async {
        for seq in 2..=last {
            assert_eq!(slow.next().await.unwrap().unwrap().seq, seq);
        }
    })
    .await;
    audit(&engine).await;
}

#[tokio::test]
async fn a_reader_of_an_engine_that_has_nothing_to_do_gets_what_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dash.db");
    let door = Door::new("act", SideEffect::Pure);
    let setup = Setup::new(acts_once).door(&door);
    let open = async || Arc::new(SqliteStore::open(&path).await.unwrap());
    let engine = setup.clone().on(open().await).start().await;
    engine.run(create("go", 2)).await;
    engine.shutdown(Duration::from_secs(60)).await.unwrap();
    drop(engine);
    let engine = setup.on(open().await).start().await;
    let last = engine.head_seq().await.unwrap();
    let expected: Vec<u64> = (1..=last).collect();
    let seen = read(&engine, EventFilter::default(), 0, last).await;
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn filters_let_only_what_is_wanted_through_live_and_stored() {
    let door = Door::new("act", SideEffect::Pure);
    let engine = Setup::new(acts_once).door(&door).start().await;
    let types = EventFilter {
        types: vec!["agent.turn".to_owned(), "swarm.completed".to_owned()],
        ..EventFilter::default()
    };
    let mut live = engine.subscribe(types.clone(), 0);
    let first = engine.run(create("go", 2)).await;
    let second = engine.run(create("go", 1)).await;
    let all = engine.events().await;
    let wanted: Vec<u64> = all
        .iter()
        .filter(|e| types.matches(e))
        .map(|e| e.seq)
        .collect();
    assert_eq!(wanted.len(), 8);
    for seq in &wanted {
        let event = within("an event", live.next()).await.unwrap().unwrap();
        assert_eq!(event.seq, *seq);
    }
    let last = *wanted.last().unwrap();
    assert_eq!(read(&engine, types, 0, last).await, wanted);
    for swarm in [&first, &second] {
        let filter = EventFilter {
            swarm_id: Some(swarm.id),
            ..EventFilter::default()
        };
        let found = engine.list_events(&filter, 0, 1_000).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|e| e.swarm_id == Some(swarm.id)));
    }
    let agent = engine.agent(second.id).await;
    let source = Some(agent.id.to_string());
    let filter = EventFilter {
        source,
        ..EventFilter::default()
    };
    let found = engine.list_events(&filter, 0, 1_000).await.unwrap();
    let names: Vec<&str> = found.iter().map(|e| e.kind.name()).collect();
    let expected = [
        "agent.spawned",
        "agent.started",
        "agent.turn",
        "tool.started",
        "tool.completed",
        "agent.turn",
        "agent.completed",
    ];
    assert_eq!(names, expected);
    audit(&engine).await;
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn json_lines_hold_every_event() {
    let buffer = Buffer::default();
    let sink = Arc::new(JsonLinesSink::new(buffer.clone()).unwrap());
    let door = Door::new("act", SideEffect::Pure);
    let setup = Setup::new(acts_once).door(&door);
    let engine = setup.sink(Arc::<JsonLinesSink>::clone(&sink)).start().await;
    engine.run(create("go", 5)).await;
    sink.close();
    let bytes = buffer.0.lock().unwrap().clone();
    let lines = String::from_utf8(bytes).unwrap();
    let written: Vec<Event> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(written, engine.events().await);
    audit(&engine).await;
}

#[tokio::test]
async fn deltas_stream_what_the_model_says() {
    let script = |_: &LlmRequest| ScriptedReply::text("one two three");
    let engine = Setup::new(script).start().await;
    let mut deltas = engine.subscribe_deltas();
    engine.run(create("go", 1)).await;
    let mut text = String::new();
    while let Ok(delta) = deltas.try_recv() {
        if let dash::event::DeltaKind::Text(more) = &delta.kind {
            text.push_str(more);
        }
    }
    assert_eq!(text, "one two three");
    audit(&engine).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_engine() {
    let engine = Setup::new(acts_once).start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    within("the end", engine.wait_swarm(swarm.id))
        .await
        .unwrap();
    let head = engine.head_seq().await.unwrap();
    let mut events = engine.subscribe(EventFilter::default(), head - 1);
    assert!(within("the last", events.next()).await.unwrap().is_some());
    engine.shutdown(Duration::from_secs(5)).await.unwrap();
    assert!(within("the end", events.next()).await.unwrap().is_none());
}
