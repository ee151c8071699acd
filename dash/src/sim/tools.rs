//! Tools of a simulated run, one of each class. What they really do goes into a ledger that
//! outlives every crash.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::env::Clock as _;
use crate::llm::ToolSpec;
use crate::model::SideEffect;
use crate::sim::check::{Run, rows};
use crate::sim::rng::Rng;
use crate::sim::world::World;
use crate::tool::{ExecutionMode, Tool, ToolContext, ToolError, ToolOutput};

/// A tool that answers, fails, panics, hangs and talks too much by seed.
#[derive(Debug)]
pub(crate) struct SimTool {
    world: Arc<World>,
    spec: ToolSpec,
    class: SideEffect,
}

/// One tool of each class.
pub(crate) fn all(world: &Arc<World>) -> Vec<Arc<dyn Tool>> {
    let tool = |name: &str, class| -> Arc<dyn Tool> {
        Arc::new(SimTool {
            world: Arc::clone(world),
            spec: ToolSpec {
                name: name.to_owned(),
                description: "Does something.".to_owned(),
                parameters: json!({ "type": "object" }),
            },
            class,
        })
    };
    vec![
        tool("look", SideEffect::Pure),
        tool("put", SideEffect::Idempotent),
        tool("book", SideEffect::Reconcilable),
        tool("send", SideEffect::Once),
    ]
}

#[async_trait]
impl Tool for SimTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn side_effect(&self) -> SideEffect {
        self.class
    }

    fn execution_mode(&self) -> ExecutionMode {
        if self.class == SideEffect::Reconcilable {
            ExecutionMode::Sequential
        } else {
            ExecutionMode::Parallel
        }
    }

    async fn call(&self, cx: ToolContext, _arguments: Value) -> Result<ToolOutput, ToolError> {
        let world = &self.world;
        let key = cx.idempotency_key;
        let what = format!("the tool {} {key}", self.spec.name);
        let _running = world.runs(what, Some(cx.agent_id), Some(cx.swarm_id));
        let mut rng = Rng::of(world.plan.seed, &format!("{key}@{}", cx.try_number));
        world.effect("a tool begins").await;
        let wait = Duration::from_millis(rng.between(0, 200));
        world.clock.sleep(wait).await;
        let granted =
            world.with(|truth| rows::effect_was_granted(&truth.history, &key, Some(cx.try_number)));
        world.check(granted.map(|_| ()));
        world.note(
            "tool",
            &format!("{} {key} try {}", self.spec.name, cx.try_number),
        );
        let run = Run {
            tool: self.spec.name.clone(),
            class: self.class,
            try_number: cx.try_number,
        };
        let found = world.with(|truth| {
            truth.history.runs.entry(key.clone()).or_default().push(run);
            rows::once_effects_run_at_most_once_or_are_in_doubt(&truth.history, &key)
        });
        world.check(found);
        world.effect("a tool has had its effect").await;
        let faults = if world.is_healing() {
            0
        } else {
            world.plan.faults
        };
        if !rng.chance(faults) {
            let length = rng.between(1, 200);
            return Ok(ToolOutput::text(
                "done ".repeat(usize::try_from(length).unwrap_or(1)),
            ));
        }
        match rng.between(0, 4) {
            0 => Err(ToolError::new("it did not work")),
            // As a panic, but without the report that one prints.
            1 => std::panic::resume_unwind(Box::new("the tool's own fault")),
            2 => {
                cx.cancel.cancelled().await;
                Err(ToolError::new("stopped"))
            }
            3 => {
                world
                    .clock
                    .sleep(Duration::from_millis(rng.between(500, 8_000)))
                    .await;
                Ok(ToolOutput::text("late"))
            }
            _ => Ok(ToolOutput::text("much ".repeat(1_000))),
        }
    }
}
