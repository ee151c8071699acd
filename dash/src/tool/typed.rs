//! x
/// x
pub fn tool_fn() {}
