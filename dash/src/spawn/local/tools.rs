//! Tool calls.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tracing::{Instrument as _, Span};

use super::super::task::{AbortOnDrop, panic_text};
use super::super::{EngineTool, Grant, Next, Outcome, ToolAnswer, ToolGate, ToolIntent};
use super::{Flow, Session, spans};
use crate::event::DeltaKind;
use crate::model::{ContentBlock, Message, SideEffect, StepKey, ToolCall, ToolResultMessage};
use crate::tool::{
    ExecutionMode, Tool, ToolContext, ToolError, ToolOutput, ToolUpdates, limit_output,
};

impl Session {
    pub(super) async fn tool_turn(
        &mut self,
        turn: u32,
        calls: Vec<(u32, ToolCall)>,
        cut: bool,
        reported: Vec<Outcome>,
        outcomes: &mut Vec<Outcome>,
    ) -> Flow {
        let mut prepared = Vec::with_capacity(calls.len());
        for (index, call) in calls {
            let call = self.prepare(index, call, cut);
            prepared.push(self.gated(turn, call).await);
        }
        let sequential = prepared.iter().any(|p| p.kind.is_sequential());
        let delegates = prepared.iter().any(|p| p.kind.is_delegation());
        let intents = prepared.iter().map(Prepared::intent).collect();
        let granted = self
            .advance(
                reported,
                Next::Tools {
                    turn,
                    calls: intents,
                },
            )
            .await;
        let Some(Grant::Tools { steps }) = granted else {
            return Flow::End;
        };

        let began = self.cx.clock.now();
        let width = if sequential {
            1
        } else {
            self.request.limits.parallel_max.max(1) as usize
        };
        let total = prepared.len();
        let bytes_max = self.result_bytes_max(total);
        let mut done = Vec::with_capacity(total);
        // The engine stops: what has no answer is asked for again after the next start.
        let mut unanswered = false;
        {
            let this = &*self;
            let run = prepared
                .into_iter()
                .zip(steps)
                .map(|(call, (key, tries))| async move {
                    this.execute(turn, call, key, tries, bytes_max).await
                });
            // `buffered` starts calls in order; results are taken as they come.
            let mut running = stream::iter(run).buffer_unordered(width);
            let mut left = total;
            while let Some(ended) = running.next().await {
                left -= 1;
                let Some((key, message, duration)) = ended else {
                    unanswered = true;
                    continue;
                };
                done.push(Arc::clone(&message));
                let outcome = Outcome::ToolAnswered {
                    key,
                    message,
                    duration,
                };
                if left == 0 && !unanswered {
                    // The last one travels with the request for the next step: one commit.
                    outcomes.push(outcome);
                } else if !matches!(
                    this.advance(vec![outcome], Next::Nothing).await,
                    Some(Grant::Noted)
                ) {
                    return Flow::End;
                }
            }
        }
        if unanswered {
            return Flow::End;
        }
        done.into_iter().for_each(|message| self.run.push(message));
        // The time that children take is theirs.
        if !delegates {
            self.spend(began);
        }
        Flow::GoOn
    }

    /// Bytes of each result of a batch of `calls`: all of them together leave the model room to see
    /// them, if its window is known.
    fn result_bytes_max(&self, calls: usize) -> usize {
        const LEAST: usize = 1_024;
        const BYTES_PER_TOKEN: u64 = 3;
        let limit = self.request.limits.output_bytes_max;
        let newest_max = self.summary_limits().newest_max();
        if newest_max == 0 || !self.request.config.compaction.enabled {
            return limit;
        }
        let share = newest_max * BYTES_PER_TOKEN / calls.max(1) as u64;
        let share = usize::try_from(share).unwrap_or(usize::MAX);
        limit.min(share.max(LEAST))
    }

    /// Finds the tool of a call, or the reason why there is nothing to run.
    fn prepare(&self, index: u32, call: ToolCall, cut: bool) -> Prepared {
        let by_name = |tool: &&Arc<dyn Tool>| tool.spec().name == call.name;
        let kind = if cut {
            Kind::Refused(
                "Your answer was cut at the output limit, so none of its calls was run. Call \
                 again, with shorter arguments."
                    .to_owned(),
            )
        } else if let Some(error) = &call.arguments_error {
            Kind::Refused(error.clone())
        } else if let Some(tool) = self.request.tools.iter().find(by_name) {
            Kind::Tool(Arc::clone(tool))
        } else if let Some(tool) = self
            .request
            .engine_tools
            .iter()
            .find(|tool| tool.name() == call.name)
        {
            Kind::Engine(tool.clone())
        } else {
            let names: Vec<&str> = self
                .request
                .specs
                .iter()
                .map(|spec| spec.name.as_str())
                .collect();
            Kind::Refused(format!(
                "There is no tool `{}`. Available: {}.",
                call.name,
                names.join(", ")
            ))
        };
        Prepared { index, call, kind }
    }

    /// Asks the hooks about a call that could be made.
    async fn gated(&self, turn: u32, mut prepared: Prepared) -> Prepared {
        let Some(hooks) = &self.request.hooks else {
            return prepared;
        };
        if matches!(prepared.kind, Kind::Refused(_)) {
            return prepared;
        }
        let context = self.hook_context(turn);
        match hooks.before_tool(context, &prepared.call).await {
            ToolGate::Allow => {}
            ToolGate::Rewrite(arguments) if arguments.is_object() => {
                prepared.call.arguments = arguments;
            }
            ToolGate::Rewrite(_) => {
                let why = "A hook rewrote the arguments into something that is no object.";
                prepared.kind = Kind::Refused(why.to_owned());
            }
            ToolGate::Deny(why) => prepared.kind = Kind::Refused(why),
        }
        prepared
    }

    async fn execute(
        &self,
        turn: u32,
        prepared: Prepared,
        key: StepKey,
        tries: u32,
        bytes_max: usize,
    ) -> Option<(StepKey, Arc<Message>, Duration)> {
        let began = self.cx.clock.now();
        let Prepared { call, kind, .. } = prepared;
        let span = spans::tool(&self.request, key, &call);
        let was_made = !matches!(kind, Kind::Refused(_));
        let result = match kind {
            Kind::Refused(why) => Err(ToolError::new(why)),
            // A child's time is bounded by its own attempts, not by the limit of a tool call.
            Kind::Engine(tool) => {
                let made = tool.call(self.cx.port.as_ref(), key, &call.arguments);
                made.instrument(span.clone()).await?
            }
            Kind::Tool(tool) => {
                let run = self.run_tool(tool, &call, key, tries);
                run.instrument(span.clone()).await
            }
        };
        let (output, is_error) = match result {
            Ok(output) => (output, false),
            Err(err) => (ToolOutput::text(err.message), true),
        };
        let mut answer = ToolAnswer { output, is_error };
        if let Some(hooks) = self.request.hooks.as_ref().filter(|_| was_made) {
            let context = self.hook_context(turn);
            hooks.after_tool(context, &call, &mut answer).await;
        }
        spans::record_result(&span, &answer, self.request.telemetry_contents);
        let output = limit_output(answer.output, bytes_max);
        let message = Message::ToolResult(ToolResultMessage {
            tool_call_id: call.id,
            tool_name: call.name,
            content: non_empty(output.content),
            is_error: answer.is_error,
            details: output.details,
            is_final: output.is_final && !answer.is_error,
        });
        Some((key, Arc::new(message), self.cx.clock.now().since(began)))
    }

    /// Runs a tool in a task of its own, so that one that panics or never yields cannot take the
    /// agent with it.
    async fn run_tool(
        &self,
        tool: Arc<dyn Tool>,
        call: &ToolCall,
        key: StepKey,
        tries: u32,
    ) -> Result<ToolOutput, ToolError> {
        let cancel = self.cx.cancel.child_token();
        let port = Arc::clone(&self.cx.port);
        // Kept here to the end of the call: what its tool tells later goes nowhere.
        let publish: Arc<dyn Fn(String) + Send + Sync> =
            Arc::new(move |text| port.publish_delta(key, DeltaKind::ToolUpdate(text)));
        let cx = ToolContext {
            agent_id: self.request.agent_id,
            swarm_id: self.request.swarm_id,
            call_id: call.id.clone(),
            idempotency_key: format!("{}/{key}", self.request.agent_id),
            try_number: tries,
            fence: Arc::clone(&self.request.fence),
            cancel: cancel.clone(),
            updates: ToolUpdates::new(&publish),
        };
        let arguments = call.arguments.clone();
        let limit = self.request.limits.timeout;
        let task = async move { tool.call(cx, arguments).await };
        let task = task.instrument(Span::current());
        let mut task = AbortOnDrop(self.cx.tasks.spawn(task), cancel.drop_guard());
        tokio::select! {
            // What has answered in time has answered.
            biased;
            joined = &mut task.0 => joined.unwrap_or_else(|err| {
                Err(ToolError::new(format!("the tool failed: {}", panic_text(err))))
            }),
            () = self.cx.clock.sleep(limit) => Err(ToolError::new(format!(
                "The tool did not answer within {limit:?} and was stopped. It may have done part \
                 of its work."
            ))),
        }
    }
}

fn non_empty(content: Vec<ContentBlock>) -> Vec<ContentBlock> {
    if content.is_empty() {
        vec![ContentBlock::text("(no output)")]
    } else {
        content
    }
}

struct Prepared {
    index: u32,
    call: ToolCall,
    kind: Kind,
}

enum Kind {
    Tool(Arc<dyn Tool>),
    Engine(EngineTool),
    /// Not run; the text is the answer.
    Refused(String),
}

impl Kind {
    const fn is_delegation(&self) -> bool {
        matches!(self, Self::Engine(tool) if tool.is_delegation())
    }

    fn is_sequential(&self) -> bool {
        matches!(self, Self::Tool(tool) if tool.execution_mode() == ExecutionMode::Sequential)
    }
}

impl Prepared {
    fn intent(&self) -> ToolIntent {
        let side_effect = match &self.kind {
            Kind::Tool(tool) => tool.side_effect(),
            Kind::Engine(tool) => tool.side_effect(),
            Kind::Refused(_) => SideEffect::Pure,
        };
        ToolIntent {
            index: self.index,
            call_id: self.call.id.clone(),
            tool: self.call.name.clone(),
            side_effect,
        }
    }
}
