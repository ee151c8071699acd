//! Following: no gap, nothing twice, slow readers catch up; JSON lines; the wire form.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use dash::event::{Event, EventKind};
use dash::llm::ScriptedReply;
use dash::sink::{EventSink as _, JsonLinesSink};
use dash::store::EventFilter;
use dash_tests::{Setup, audit, create, turn, within};
use pretty_assertions::assert_eq;
use serde_json::json;

fn talkative() -> Setup {
    Setup::new(|request| match turn(request) {
        n if n < 3 => {
            let progress = json!({"current": n, "total": 3});
            ScriptedReply::tool_call("report_progress", progress)
        }
        _ => ScriptedReply::text("done"),
    })
}

/// Reads until the swarm's end.
async fn read_all(events: &mut dash::EventStream) -> Vec<Arc<Event>> {
    let mut all = Vec::new();
    while let Some(event) = within("an event", events.next()).await.unwrap() {
        all.push(Arc::clone(&event));
        if matches!(event.kind, EventKind::SwarmCompleted(_)) {
            break;
        }
    }
    all
}

#[tokio::test]
async fn a_follower_from_the_start_sees_every_event_once_while_they_happen() {
    let engine = talkative().start().await;
    let mut early = engine.subscribe(EventFilter::default(), 0);
    let swarm = engine.create_swarm(create("go", 5)).await.unwrap();
    let live = read_all(&mut early).await;
    let seqs: Vec<u64> = live.iter().map(|e| e.seq).collect();
    assert_eq!(seqs, (1..=live.len() as u64).collect::<Vec<_>>());
    let mut late = engine.subscribe(EventFilter::default(), 0);
    assert_eq!(
        read_all(&mut late).await,
        live,
        "stored ones read as the live ones did"
    );
    let half = live.len() as u64 / 2;
    let mut back = engine.subscribe(EventFilter::default(), half);
    assert_eq!(read_all(&mut back).await[0].seq, half + 1);
    within("the end", engine.wait_swarm(swarm.id))
        .await
        .unwrap();
    audit(&engine).await;
}

#[tokio::test]
async fn a_reader_that_falls_far_behind_misses_nothing() {
    let mut setup = talkative();
    setup.settings.broadcast_capacity = 16;
    let engine = setup.start().await;
    let mut slow = engine.subscribe(EventFilter::default(), 0);
    // It has caught up with what is stored, so that what follows must come live.
    let first = engine.create_swarm(create("first", 1)).await.unwrap();
    read_all(&mut slow).await;
    within("the end", engine.wait_swarm(first.id))
        .await
        .unwrap();
    for _ in 0..5 {
        let swarm = engine.create_swarm(create("go", 5)).await.unwrap();
        within("the end", engine.wait_swarm(swarm.id))
            .await
            .unwrap();
    }
    let head = engine.head_seq().await.unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|seq| *seq < head) {
        let event = within("an event", slow.next()).await.unwrap().unwrap();
        seen.push(event.seq);
    }
    let from = seen[0];
    assert_eq!(seen, (from..=head).collect::<Vec<_>>());
    assert!(seen.len() > 200, "more than the 16 commits that are kept");
}

#[tokio::test]
async fn a_filter_lets_only_what_it_names_through() {
    let engine = talkative().start().await;
    let one = engine.create_swarm(create("one", 2)).await.unwrap();
    let two = engine.create_swarm(create("two", 2)).await.unwrap();
    for id in [one.id, two.id] {
        within("the end", engine.wait_swarm(id)).await.unwrap();
    }
    let filter = EventFilter {
        swarm_id: Some(two.id),
        types: vec!["agent.progress".to_owned(), "swarm.completed".to_owned()],
        ..EventFilter::default()
    };
    let events = read_all(&mut engine.subscribe(filter, 0)).await;
    assert_eq!(events.len(), 2 * 3 + 1);
    assert!(events.iter().all(|e| e.swarm_id == Some(two.id)));
}

#[tokio::test]
async fn a_stream_ends_with_its_engine() {
    let engine = talkative().start().await;
    let swarm = engine.create_swarm(create("go", 1)).await.unwrap();
    within("the end", engine.wait_swarm(swarm.id))
        .await
        .unwrap();
    let head = engine.head_seq().await.unwrap();
    let mut events = engine.subscribe(EventFilter::default(), head - 1);
    assert!(within("the last", events.next()).await.unwrap().is_some());
    engine
        .shutdown(std::time::Duration::from_secs(5))
        .await
        .unwrap();
    assert!(within("the end", events.next()).await.unwrap().is_none());
}

/// A writer that keeps what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
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
    let kept = Kept::default();
    let sink = Arc::new(JsonLinesSink::new(kept.clone()).unwrap());
    let engine = talkative()
        .sink(Arc::clone(&sink) as Arc<dyn dash::sink::EventSink>)
        .start()
        .await;
    let swarm = engine.create_swarm(create("go", 3)).await.unwrap();
    within("the end", engine.wait_swarm(swarm.id))
        .await
        .unwrap();
    let head = engine.head_seq().await.unwrap();
    engine
        .shutdown(std::time::Duration::from_secs(5))
        .await
        .unwrap();
    sink.close();
    sink.emit(&[]);
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let events: Vec<Event> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let seqs: Vec<u64> = events.iter().map(|e| e.seq).collect();
    assert_eq!(seqs, (1..=head).collect::<Vec<_>>());
}

/// A value for every field of a payload's schema, so that its wire form can be pinned.
fn sample(schema: &serde_json::Value, root: &serde_json::Value) -> serde_json::Value {
    if let Some(path) = schema["$ref"].as_str() {
        let target = root.pointer(path.trim_start_matches('#')).unwrap();
        return sample(target, root);
    }
    if let Some(first) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        return sample(&first[0], root);
    }
    if let Some(fixed) = schema.get("const") {
        return fixed.clone();
    }
    if let Some(values) = schema["enum"].as_array() {
        return values[0].clone();
    }
    let kind = schema["type"]
        .as_str()
        .or_else(|| schema["type"][0].as_str());
    match (kind, schema["pattern"].as_str()) {
        (Some("string"), Some(pattern)) if pattern.contains("HJKMNP") => {
            json!("01ARZ3NDEKTSV4RRFFQ69G5FAV")
        }
        (Some("string"), Some(_)) => json!("t1/c0"),
        (Some("string"), None) => json!("text"),
        (Some("integer"), _) => json!(7),
        (Some("number"), _) => json!(0.5),
        (Some("boolean"), _) => json!(true),
        (Some("object"), _) => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            fields
                .map(|(name, field)| (name.clone(), sample(field, root)))
                .collect()
        }
        other => panic!("no sample for {other:?}: {schema}"),
    }
}

/// The wire form of every event, pinned: an accidental change is a red diff here.
/// `DASH_UPDATE_WIRE=1` writes the file anew.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the one switch of this test is a variable"
)]
fn the_wire_form_of_every_event_is_pinned() {
    let mut forms = BTreeMap::new();
    for (name, schema) in EventKind::schemas() {
        let schema = schema.to_value();
        let data = sample(&schema, &schema);
        let kind = EventKind::decode(name, &data.to_string()).unwrap();
        assert!(!matches!(kind, EventKind::Unknown { .. }), "{name}: {data}");
        let written: serde_json::Value = serde_json::from_str(&kind.data_json().unwrap()).unwrap();
        assert_eq!(written, data, "{name} is written as it was read");
        forms.insert(name, written);
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("it/wire.json");
    let now = serde_json::to_string_pretty(&forms).unwrap() + "\n";
    if std::env::var("DASH_UPDATE_WIRE").is_ok() {
        std::fs::write(&path, &now).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), now);
}

#[tokio::test]
async fn deltas_stream_what_the_model_says() {
    let script = |_: &dash::llm::LlmRequest| ScriptedReply::text("one two three");
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
