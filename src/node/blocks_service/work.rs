//! Work that goes on when whoever asked for it has gone, and that the node waits for before it closes its pools.

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The work of a service. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Work {
    tasks: TaskTracker,
    /// Streams may be dropped anywhere.
    runtime: Handle,
}

impl Work {
    /// None yet. Must be called within the runtime.
    pub(super) fn new() -> Self {
        Self { tasks: TaskTracker::new(), runtime: Handle::current() }
    }

    /// Runs a task to its end.
    pub(super) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn_on(task.in_current_span(), &self.runtime)
    }

    /// Drops what closes files, or does more, on a thread that may wait for them.
    pub(super) fn let_go(&self, held: impl Send + 'static) {
        self.tasks.spawn_blocking_on(move || drop(held), &self.runtime);
    }

    /// Waits until all of it has ended.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
