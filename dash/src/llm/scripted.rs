//! x
/// x
#[derive(Debug)]
pub struct ScriptedLlm;
