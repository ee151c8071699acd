//! Settings of an orchestrator: plain data with defaults and one check. Components (store,
//! providers, clock, …) are code and go in through the builder.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Limits and times of an orchestrator. Every limit is named here and bounded by
/// [`Settings::validate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Settings {
    /// The project that swarms belong to unless they name one.
    pub project: String,
    /// The model of swarms that name none; empty = the only registered one.
    pub default_model: String,
    /// Agents one swarm may have at work at the same time (1 to 100,000).
    pub agents_per_swarm_max: u32,
    /// Agents that may be alive in all (1 to 1,000,000).
    pub agents_total_max: u32,
    /// Model calls under way per provider at the same time (1 to 100,000). Waiting calls are
    /// served round robin over the swarms.
    pub calls_per_provider_max: u32,
    /// Tool calls of one answer that run side by side (1 to 64).
    pub tools_parallel_max: u32,
    /// How long one tool call may take, ms (1 to 3,600,000).
    pub tool_timeout_ms: u64,
    /// Bytes of one tool result that reach the model and the store (1,024 to 16 MiB).
    pub tool_output_bytes_max: usize,
    /// Output tokens below which a call is refused rather than shrunk to fit a budget (1 to
    /// 100,000).
    pub output_tokens_floor: u32,
    /// Bytes of one dependency's output that a dependent task's prompt may hold (1,024 to 16 MiB).
    pub task_input_bytes_max: usize,
    /// Messages that may wait for one agent (1 to 10,000).
    pub inbox_max: u32,
    /// First delay before an agent's retry, ms (1 to 300,000); doubles each time.
    pub retry_base_ms: u64,
    /// Longest delay before an agent's retry, ms (1 to 300,000).
    pub retry_cap_ms: u64,
    /// How long the engine waits between attempts to write to a full disk, ms (10 to 60,000).
    pub store_retry_ms: u64,
    /// Events that a slow in-process subscriber may fall behind before it re-reads from the store
    /// (16 to 1,000,000). As many are kept in memory, once for all, while there is a subscriber.
    pub broadcast_capacity: usize,
    /// Whether telemetry spans carry what models and tools are told and say. It may be private.
    pub telemetry_contents: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            project: "default".to_owned(),
            default_model: String::new(),
            agents_per_swarm_max: 100,
            agents_total_max: 10_000,
            calls_per_provider_max: 64,
            tools_parallel_max: 8,
            tool_timeout_ms: 120_000,
            tool_output_bytes_max: 50 * 1_024,
            output_tokens_floor: 256,
            task_input_bytes_max: 64 * 1_024,
            inbox_max: 100,
            retry_base_ms: 1_000,
            retry_cap_ms: 300_000,
            store_retry_ms: 1_000,
            broadcast_capacity: 32_768,
            telemetry_contents: false,
        }
    }
}

impl Settings {
    /// Checks every limit against its range.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) with the name of the first field out of its range.
    pub fn validate(&self) -> Result<()> {
        check("project", self.project.chars().count() as u64, 1, 100)?;
        check(
            "agentsPerSwarmMax",
            self.agents_per_swarm_max.into(),
            1,
            100_000,
        )?;
        check("agentsTotalMax", self.agents_total_max.into(), 1, 1_000_000)?;
        check(
            "callsPerProviderMax",
            self.calls_per_provider_max.into(),
            1,
            100_000,
        )?;
        check("toolsParallelMax", self.tools_parallel_max.into(), 1, 64)?;
        check("toolTimeoutMs", self.tool_timeout_ms, 1, 3_600_000)?;
        check(
            "toolOutputBytesMax",
            self.tool_output_bytes_max as u64,
            1_024,
            16 << 20,
        )?;
        check(
            "outputTokensFloor",
            self.output_tokens_floor.into(),
            1,
            100_000,
        )?;
        check(
            "taskInputBytesMax",
            self.task_input_bytes_max as u64,
            1_024,
            16 << 20,
        )?;
        check("inboxMax", self.inbox_max.into(), 1, 10_000)?;
        check("retryBaseMs", self.retry_base_ms, 1, 300_000)?;
        check("retryCapMs", self.retry_cap_ms, 1, 300_000)?;
        check("storeRetryMs", self.store_retry_ms, 10, 60_000)?;
        check(
            "broadcastCapacity",
            self.broadcast_capacity as u64,
            16,
            1_000_000,
        )
    }

    /// [`Settings::tool_timeout_ms`] as a duration.
    #[must_use]
    pub const fn tool_timeout(&self) -> Duration {
        Duration::from_millis(self.tool_timeout_ms)
    }
}

/// Checks that a number lies in its range.
pub(crate) fn check(field: &str, value: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        format!("must be between {min} and {max}, is {value}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Settings::default().validate().unwrap();
    }

    #[test]
    fn a_limit_out_of_range_is_named() {
        let settings = Settings {
            tools_parallel_max: 0,
            ..Settings::default()
        };
        assert_eq!(
            settings.validate().unwrap_err().field(),
            Some("toolsParallelMax")
        );
    }
}
