//! x
/// x
#[derive(Debug)]
pub struct JsonLinesSink;
