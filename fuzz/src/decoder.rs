//! What holds for every decoder, whatever a server sends.

use std::sync::Arc;

use bytes::Bytes;
use dash::llm::dialect::Dialect;
use dash::llm::{LlmEvent, Model};
use dash::testing::provider_suite::check_grammar;
use dash::testing::sse::{decode, pieces};

/// Bytes of a line or event, at most: small, so that the limit is met too.
const LINE_BYTES_MAX: usize = 4_096;

/// The last byte says how the others are cut.
pub(super) fn check(dialect: &dyn Dialect, input: &[u8]) {
    let (seed, body) = input
        .split_last()
        .map_or((0, input), |(last, body)| (*last, body));
    let body = Bytes::copy_from_slice(body);
    let model = Arc::new(Model::free("m", "p"));
    let read = |pieces| decode(dialect, Arc::clone(&model), pieces, LINE_BYTES_MAX);
    let whole = read(vec![body.clone()]);
    if let Err(wrong) = check_grammar(&whole) {
        panic!("{wrong}\nevents: {whole:#?}");
    }
    let ends = |event: &&LlmEvent| matches!(event, LlmEvent::Done { .. } | LlmEvent::Error { .. });
    assert_eq!(whole.iter().filter(ends).count(), 1, "events: {whole:#?}");
    assert_eq!(read(pieces(&body, seed)), whole, "cut by {seed}");
}
