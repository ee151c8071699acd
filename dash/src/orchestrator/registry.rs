//! The components an orchestrator was built with, by name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::llm::{LlmProvider, Model};
use crate::model::{Strategy, SwarmConfig};
use crate::spawn::{AgentHooks, EngineTool, Spawner};
use crate::tool::{Fence, Tool, check_name};
use crate::{Error, ErrorKind, Result};

/// Models, providers, tools and the spawner. Fixed once the orchestrator has started.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) providers: HashMap<String, Arc<dyn LlmProvider>>,
    pub(crate) models: Arc<HashMap<String, Arc<Model>>>,
    pub(crate) tools: Vec<Arc<dyn Tool>>,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) hooks: Option<Arc<dyn AgentHooks>>,
    default_model: Option<String>,
}

impl Registry {
    pub(crate) fn new(
        providers: Vec<Arc<dyn LlmProvider>>,
        models: Vec<Model>,
        tools: Vec<Arc<dyn Tool>>,
        spawner: Arc<dyn Spawner>,
        hooks: Option<Arc<dyn AgentHooks>>,
        default_model: &str,
    ) -> Result<Self> {
        let mut by_id = HashMap::new();
        for provider in providers {
            let id = provider.id().to_owned();
            if by_id.insert(id.clone(), provider).is_some() {
                return Err(Error::invalid("provider", format!("`{id}` is there twice")));
            }
        }
        let mut by_name = HashMap::new();
        for model in models {
            let id = model.id.clone();
            if !by_id.contains_key(&model.provider) {
                let issue = format!("`{id}` needs the provider `{}`", model.provider);
                return Err(Error::invalid("model", issue));
            }
            if model.max_output_tokens == 0 {
                return Err(Error::invalid(
                    "model",
                    format!("`{id}` may answer nothing"),
                ));
            }
            if by_name.insert(id.clone(), Arc::new(model)).is_some() {
                return Err(Error::invalid("model", format!("`{id}` is there twice")));
            }
        }
        check_tools(&tools)?;
        let default_model = match default_model {
            "" if by_name.len() == 1 => by_name.keys().next().cloned(),
            "" => None,
            name if by_name.contains_key(name) => Some(name.to_owned()),
            name => {
                return Err(Error::invalid(
                    "defaultModel",
                    format!("`{name}` is unknown"),
                ));
            }
        };
        Ok(Self {
            providers: by_id,
            models: Arc::new(by_name),
            tools,
            spawner,
            hooks,
            default_model,
        })
    }

    /// The id of a model: the one asked for, or the default.
    pub(crate) fn resolve_model(&self, field: &str, asked: &str) -> Result<String> {
        if asked.is_empty() {
            return self.default_model.clone().ok_or_else(|| {
                Error::invalid(field, "is empty and there is no default model: name one")
            });
        }
        if self.models.contains_key(asked) {
            return Ok(asked.to_owned());
        }
        let mut known: Vec<&str> = self.models.keys().map(String::as_str).collect();
        known.sort_unstable();
        let known = known.join(", ");
        Err(Error::invalid(
            field,
            format!("`{asked}` is not registered; there are: {known}"),
        ))
    }

    pub(crate) fn model(&self, id: &str) -> Result<(Arc<Model>, Arc<dyn LlmProvider>)> {
        let gone = || {
            Error::new(
                ErrorKind::NotFound,
                format!("no model `{id}` is registered"),
            )
        };
        let model = self.models.get(id).ok_or_else(gone)?;
        let provider = self.providers.get(&model.provider).ok_or_else(gone)?;
        Ok((Arc::clone(model), Arc::clone(provider)))
    }

    /// Checks the models, tools and directories that a swarm's settings name.
    pub(crate) fn check_config(&self, config: &SwarmConfig) -> Result<()> {
        self.check_tool_names("config.tools", config.tools.as_deref())?;
        for model in &config.escalation {
            self.resolve_model("config.escalation", model)?;
        }
        let mut names: HashSet<&str> = ENGINE_TOOLS.into_iter().collect();
        names.extend(self.tools.iter().map(|tool| tool.spec().name.as_str()));
        for (i, profile) in config.profiles.iter().enumerate() {
            let field = |of: &str| format!("config.profiles[{i}].{of}");
            check_name(&profile.name)?;
            if !names.insert(&profile.name) {
                let issue = format!("`{}` is taken by a tool or another profile", profile.name);
                return Err(Error::invalid(field("name"), issue));
            }
            if !profile.model.is_empty() {
                self.resolve_model(&field("model"), &profile.model)?;
            }
            self.check_tool_names(&field("tools"), profile.tools.as_deref())?;
        }
        match Fence::open(&config.workspace) {
            Ok(_) => Ok(()),
            Err(err) => Err(Error::invalid("config.workspace", err.to_string()).with_source(err)),
        }
    }

    fn check_tool_names(&self, field: &str, names: Option<&[String]>) -> Result<()> {
        for name in names.unwrap_or_default() {
            let known = self.tools.iter().any(|tool| tool.spec().name == *name);
            if !known && !ENGINE_TOOLS.contains(&name.as_str()) {
                return Err(Error::invalid(field, format!("there is no tool `{name}`")));
            }
        }
        Ok(())
    }

    /// The tools of these names, or all.
    pub(crate) fn tools_for(&self, names: Option<&[String]>) -> Arc<[Arc<dyn Tool>]> {
        let wanted =
            |tool: &&Arc<dyn Tool>| names.is_none_or(|names| names.contains(&tool.spec().name));
        self.tools.iter().filter(wanted).map(Arc::clone).collect()
    }

    /// The engine's tools that an agent at `depth` of its tree gets, whose tools are these; `profiled`
    /// if it is the list of its profile.
    pub(crate) fn engine_tools_for(
        config: &SwarmConfig,
        names: Option<&[String]>,
        profiled: bool,
        strategy: Strategy,
        depth: u32,
    ) -> Vec<EngineTool> {
        let mut tools = Vec::new();
        let reports = names.is_none_or(|names| names.iter().any(|n| n == REPORT_PROGRESS));
        if reports {
            tools.push(EngineTool::ReportProgress);
        }
        if depth >= config.tree_depth_max {
            return tools;
        }
        // A tree is nothing without it, so a swarm's list of tools need not name it; a profile's must.
        let is_named = names.is_some_and(|names| names.iter().any(|n| n == DELEGATE));
        if strategy == Strategy::Tree && (is_named || !profiled) {
            tools.push(EngineTool::Delegate);
        }
        let profiles = config.profiles.iter().cloned();
        tools.extend(profiles.map(|profile| EngineTool::Agent(Arc::new(profile))));
        tools
    }
}

const REPORT_PROGRESS: &str = "report_progress";
const DELEGATE: &str = "delegate";
const ENGINE_TOOLS: [&str; 2] = [REPORT_PROGRESS, DELEGATE];

fn check_tools(tools: &[Arc<dyn Tool>]) -> Result<()> {
    let mut names: HashSet<&str> = ENGINE_TOOLS.into_iter().collect();
    for tool in tools {
        let spec = tool.spec();
        check_name(&spec.name)?;
        if !names.insert(&spec.name) {
            let issue = format!("the name `{}` is taken", spec.name);
            return Err(Error::invalid("tool", issue));
        }
        if !spec.parameters.is_object() {
            let issue = format!(
                "the arguments of `{}` are not a JSON Schema object",
                spec.name
            );
            return Err(Error::invalid("tool", issue));
        }
    }
    Ok(())
}
