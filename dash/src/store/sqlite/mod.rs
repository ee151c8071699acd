//! x
/// x
#[derive(Debug)]
pub struct SqliteStore;
