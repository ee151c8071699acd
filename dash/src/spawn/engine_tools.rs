//! The tools that the engine itself carries out: `report_progress` and `delegate`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{AgentPort, Delegation, EngineTool};
use crate::llm::ToolSpec;
use crate::model::{NanoUsd, Progress, SideEffect, StepKey};
use crate::tool::{ToolError, ToolOutput, parameters_of, parse_arguments};
use crate::{Error, ErrorKind};

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

#[derive(Deserialize, JsonSchema)]
struct CallAgent {
    /// What the agent shall do. It sees nothing else, so say all it needs.
    task: String,
    /// The most it may spend, in US dollars, e.g. "0.25". Leave out for no own cap.
    #[serde(default)]
    budget_usd: Option<String>,
}

impl EngineTool {
    /// The tool's name.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::ReportProgress => "report_progress",
            Self::Delegate => "delegate",
            Self::Agent(profile) => &profile.name,
        }
    }

    /// Whether it hands work to a child.
    pub(super) const fn is_delegation(&self) -> bool {
        matches!(self, Self::Delegate | Self::Agent(_))
    }

    /// What may be done with it after a crash: progress may be reported again, and a delegated
    /// task is found again by its step.
    pub(super) const fn side_effect(&self) -> SideEffect {
        match self {
            Self::ReportProgress => SideEffect::Idempotent,
            Self::Delegate | Self::Agent(_) => SideEffect::Reconcilable,
        }
    }

    /// The tool as models see it.
    pub(crate) fn spec(&self) -> ToolSpec {
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
            Self::Agent(profile) => (profile.description.as_str(), parameters_of::<CallAgent>()),
        };
        ToolSpec {
            name: self.name().to_owned(),
            description: description.to_owned(),
            parameters,
        }
    }

    /// Carries it out. `None` if the engine stops first: then there is no answer to record.
    pub(super) async fn call(
        &self,
        port: &dyn AgentPort,
        step: StepKey,
        arguments: &serde_json::Value,
    ) -> Option<Result<ToolOutput, ToolError>> {
        match self.try_call(port, step, arguments).await {
            Ok(output) => Some(Ok(output)),
            Err(CallError::Closed) => None,
            Err(CallError::Tool(err)) => Some(Err(err)),
        }
    }

    async fn try_call(
        &self,
        port: &dyn AgentPort,
        step: StepKey,
        arguments: &serde_json::Value,
    ) -> Result<ToolOutput, CallError> {
        match self {
            Self::ReportProgress => {
                let ReportProgress { current, total } = parse_arguments(arguments)?;
                let reported = port.report_progress(Progress { current, total }).await;
                reported?;
                Ok(ToolOutput::text("noted"))
            }
            Self::Delegate => {
                let Delegate {
                    name,
                    task,
                    budget_usd,
                } = parse_arguments(arguments)?;
                let delegation = Delegation {
                    name,
                    task,
                    budget_nanos: nanos(budget_usd)?,
                    profile: None,
                };
                hand_over(port, step, delegation).await
            }
            Self::Agent(profile) => {
                let CallAgent { task, budget_usd } = parse_arguments(arguments)?;
                let delegation = Delegation {
                    name: profile.name.clone(),
                    task,
                    budget_nanos: nanos(budget_usd)?,
                    profile: Some(profile.name.clone()),
                };
                hand_over(port, step, delegation).await
            }
        }
    }
}

fn nanos(budget_usd: Option<String>) -> Result<Option<i64>, ToolError> {
    let Some(text) = budget_usd else {
        return Ok(None);
    };
    let parsed: crate::Result<NanoUsd> = text.trim().trim_start_matches('$').parse();
    match parsed {
        Ok(budget) => Ok(Some(budget.0)),
        Err(err) => Err(ToolError::new(err.chain())),
    }
}

async fn hand_over(
    port: &dyn AgentPort,
    step: StepKey,
    delegation: Delegation,
) -> Result<ToolOutput, CallError> {
    match port.delegate(step, delegation).await?.outcome {
        Ok(text) => Ok(ToolOutput::text(text)),
        Err(why) => Err(ToolError::new(format!("the child did not finish: {why}")).into()),
    }
}

/// Why the engine did not carry a call out.
enum CallError {
    /// It stops.
    Closed,
    /// Something that the model is told.
    Tool(ToolError),
}

impl From<ToolError> for CallError {
    fn from(err: ToolError) -> Self {
        Self::Tool(err)
    }
}

impl From<Error> for CallError {
    fn from(err: Error) -> Self {
        match err.kind() {
            ErrorKind::Closed => Self::Closed,
            _ => Self::Tool(ToolError::new(err.chain())),
        }
    }
}
