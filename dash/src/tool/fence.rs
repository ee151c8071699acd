//! x
/// x
#[derive(Debug)]
pub struct Fence;
/// x
#[derive(Debug)]
pub struct FenceError;
