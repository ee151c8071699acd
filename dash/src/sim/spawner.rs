//! Runs agents as the local spawner does, in an order that the seed shuffles.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;

use crate::env::BoxFuture;
use crate::sim::world::World;
use crate::spawn::{AgentContext, LocalSpawner, SpawnRequest, Spawner};

/// The local spawner, its tasks' turns put off now and then.
#[derive(Debug)]
pub(crate) struct SimSpawner {
    world: Arc<World>,
}

impl SimSpawner {
    pub(crate) const fn new(world: Arc<World>) -> Self {
        Self { world }
    }
}

#[async_trait]
impl Spawner for SimSpawner {
    fn name(&self) -> &'static str {
        "shuffled"
    }

    async fn run(&self, request: SpawnRequest, cx: AgentContext) {
        let run: BoxFuture<()> = Box::pin(async move { LocalSpawner.run(request, cx).await });
        Shuffled {
            world: Arc::clone(&self.world),
            run,
        }
        .await;
    }
}

/// A task that now and then lets others go first.
struct Shuffled {
    world: Arc<World>,
    run: BoxFuture<()>,
}

impl Future for Shuffled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let percent = self.world.plan.shuffle;
        if self.world.with(|truth| truth.rng.chance(percent)) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.run.as_mut().poll(cx)
    }
}
