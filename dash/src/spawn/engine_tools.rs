//! The tools that the engine itself carries out: `report_progress` and `delegate`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{AgentPort, Delegation, EngineTool};
use crate::llm::ToolSpec;
use crate::model::{NanoUsd, Progress, SideEffect, StepKey};
use crate::tool::{ToolError, ToolOutput, parameters_of, parse_arguments};

#[derive(Deserialize, JsonSchema)]
struct ReportProgress {
    /// Steps done so far.
    current: u32,
    /// Steps in all.
    total: u32,
}

#[derive(Deserialize, JsonSchema)]
struct Delegate {
    /// A short name for the child agent, e.g. `tests`.
    name: String,
    /// What the child shall do. It sees nothing else, so say all it needs.
    task: String,
    /// The most the child may spend, in US dollars, e.g. "0.25". Leave out for no own cap.
    #[serde(default)]
    budget_usd: Option<String>,
}

impl EngineTool {
    /// The tool's name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ReportProgress => "report_progress",
            Self::Delegate => "delegate",
        }
    }

    /// What may be done with it after a crash: progress may be reported again, and a delegated
    /// task is found again by its step.
    pub(super) const fn side_effect(self) -> SideEffect {
        match self {
            Self::ReportProgress => SideEffect::Idempotent,
            Self::Delegate => SideEffect::Reconcilable,
        }
    }

    /// The tool as models see it.
    pub(crate) fn spec(self) -> ToolSpec {
        let (description, parameters) = match self {
            Self::ReportProgress => (
                "Tells the people who watch how far you are.",
                parameters_of::<ReportProgress>(),
            ),
            Self::Delegate => (
                "Hands a part of your task to a child agent, waits for it and returns its result. \
                 Call it several times in one answer to have children work side by side.",
                parameters_of::<Delegate>(),
            ),
        };
        ToolSpec {
            name: self.name().to_owned(),
            description: description.to_owned(),
            parameters,
        }
    }

    /// Carries it out.
    pub(super) async fn call(
        self,
        port: &dyn AgentPort,
        step: StepKey,
        arguments: &serde_json::Value,
    ) -> Result<ToolOutput, ToolError> {
        match self {
            Self::ReportProgress => {
                let ReportProgress { current, total } = parse_arguments(arguments)?;
                let reported = port.report_progress(Progress { current, total }).await;
                reported.map_err(|err| ToolError::new(err.chain()))?;
                Ok(ToolOutput::text("noted"))
            }
            Self::Delegate => {
                let Delegate {
                    name,
                    task,
                    budget_usd,
                } = parse_arguments(arguments)?;
                let budget_nanos = match budget_usd {
                    Some(text) => {
                        let parsed: crate::Result<NanoUsd> =
                            text.trim().trim_start_matches('$').parse();
                        Some(parsed.map_err(|err| ToolError::new(err.chain()))?.0)
                    }
                    None => None,
                };
                let delegation = Delegation {
                    name,
                    task,
                    budget_nanos,
                };
                let result = port.delegate(step, delegation).await;
                let result = result.map_err(|err| ToolError::new(err.chain()))?;
                match result.outcome {
                    Ok(text) => Ok(ToolOutput::text(text)),
                    Err(why) => Err(ToolError::new(format!("the child did not finish: {why}"))),
                }
            }
        }
    }
}
