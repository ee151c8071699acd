//! x
/// x
#[derive(Debug)]
pub struct LocalSpawner;
