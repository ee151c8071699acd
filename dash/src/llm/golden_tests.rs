//! Every dialect on every golden: the bytes of real and odd answers through gate, parser and
//! decoder, cut everywhere. A golden is a file `goldens/*.sse` in a dialect's folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use pretty_assertions::assert_eq;

use super::anthropic::AnthropicDialect;
use super::dialect::{AnswerSetup, Dialect, SseEvent};
use super::gemini::GeminiDialect;
use super::http::sse_events;
use super::openai_chat::ChatDialect;
use super::openai_responses::ResponsesDialect;
use super::{LlmEvent, Model};
use crate::testing::provider_suite::check_grammar;

/// A dialect's folder, how it reads, and the texts of which one is in every answer that is whole.
pub(super) struct Reader {
    pub(super) folder: &'static str,
    pub(super) dialect: fn() -> Arc<dyn Dialect>,
    ends: &'static [&'static str],
}

/// One line per dialect.
#[rustfmt::skip]
pub(super) const READERS: &[Reader] = &[
    Reader { folder: "openai_chat", dialect: || Arc::new(ChatDialect::default()), ends: &["\"finish_reason\":\"", "[DONE]"] },
    Reader { folder: "openai_responses", dialect: || Arc::new(ResponsesDialect::default()), ends: &["response.completed", "response.incomplete", "response.done"] },
    Reader { folder: "anthropic", dialect: || Arc::new(AnthropicDialect::default()), ends: &["message_stop"] },
    Reader { folder: "gemini", dialect: || Arc::new(GeminiDialect::default()), ends: &["\"finishReason\""] },
];

pub(super) fn decode(reader: &Reader, pieces: Vec<Bytes>) -> Vec<LlmEvent> {
    let dialect = (reader.dialect)();
    let mut decoder = dialect.decoder(AnswerSetup {
        provider: "p".into(),
        model: Arc::new(Model::free("m", "p")),
        api: dialect.api(),
        input_bound: 1_000,
        output_limit: 0,
    });
    let mut out = Vec::new();
    let body = stream::iter(pieces.into_iter().map(Ok));
    let read = async {
        let mut events = std::pin::pin!(sse_events(body, 1 << 20));
        while !decoder.is_ended() {
            match events.next().await {
                Some(Ok((name, data))) => {
                    let (name, data) = (&*name, &*data);
                    decoder.feed(SseEvent { name, data }, &mut out);
                }
                Some(Err(error)) => decoder.fail(error, &mut out),
                None => decoder.eof(&mut out),
            }
        }
    };
    read.now_or_never().unwrap();
    out
}

pub(super) fn goldens() -> Vec<(&'static Reader, PathBuf, Bytes)> {
    let llm = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/llm");
    let mut found = Vec::new();
    for entry in fs::read_dir(llm).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(files) = fs::read_dir(folder.join("goldens")) else {
            continue;
        };
        let name = folder.file_name().unwrap().to_str().unwrap();
        let reader = READERS.iter().find(|reader| reader.folder == name);
        let reader = reader.unwrap_or_else(|| panic!("no reader for the goldens of `{name}`"));
        for file in files {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|end| end == "sse") {
                let bytes = fs::read(&path).unwrap();
                found.push((reader, path, Bytes::from(bytes)));
            }
        }
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    for reader in READERS {
        assert!(
            found.iter().any(|(of, ..)| of.folder == reader.folder),
            "`{}` has no goldens",
            reader.folder
        );
    }
    found
}

#[test]
fn goldens_give_the_same_events_however_they_are_cut() {
    for (reader, path, bytes) in goldens() {
        let whole = decode(reader, vec![bytes.clone()]);
        let name = path.display();
        assert_eq!(check_grammar(&whole), Ok(()), "{name}: {whole:#?}");
        let single = (0..bytes.len()).map(|at| bytes.slice(at..=at)).collect();
        assert_eq!(decode(reader, single), whole, "{name}, byte by byte");
        for at in 1..bytes.len() {
            let pieces = vec![bytes.slice(..at), bytes.slice(at..)];
            assert_eq!(decode(reader, pieces), whole, "{name}, cut at {at}");
        }
    }
}

/// Ends that a decoder adds when an answer breaks off, and signs of life: they say nothing.
const fn is_closer(event: &LlmEvent) -> bool {
    matches!(
        event,
        LlmEvent::TextEnd { .. }
            | LlmEvent::ThinkingEnd { .. }
            | LlmEvent::ToolCallEnd { .. }
            | LlmEvent::Usage { .. }
            | LlmEvent::Heartbeat
    )
}

#[test]
fn goldens_cut_short_end_once_and_keep_what_came() {
    for (reader, path, bytes) in goldens() {
        let whole = decode(reader, vec![bytes.clone()]);
        let mut kept_before = 0;
        for at in 0..bytes.len() {
            let place = format!("{}, ended at {at}", path.display());
            let events = decode(reader, vec![bytes.slice(..at)]);
            assert_eq!(check_grammar(&events), Ok(()), "{place}: {events:#?}");
            let (last, body) = events.split_last().unwrap();
            let same = body.iter().zip(&whole).take_while(|(a, b)| a == b).count();
            let only_ends = body[same..].iter().all(is_closer);
            assert!(
                only_ends,
                "{place}: {:#?} is not of the whole answer",
                &body[same..]
            );
            let kept = body[..same]
                .iter()
                .filter(|event| !is_closer(event))
                .count();
            assert!(kept >= kept_before, "{place}: less than before");
            kept_before = kept;
            if matches!(last, LlmEvent::Done { .. }) {
                let text = String::from_utf8_lossy(&bytes[..at]).replace(' ', "");
                let has_end = reader.ends.iter().any(|end| text.contains(end));
                assert!(has_end, "{place}: done without an end");
            }
        }
    }
}
