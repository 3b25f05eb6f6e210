//! Work that goes on when whoever asked for it has gone, and that the node waits for before it closes its pools.
//!
//! What is held takes no thread while it is held. To begin it, and for each message of a list of ranges, it takes one; of all that agents do here,
//! [`THREADS`] may run at once, and the rest waits. So the calls that hold something need not be counted with those that take a thread
//! each (`csi::allowance`), however many they are. What they read lies on the same disks, which more threads would not make faster.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Threads at once.
const THREADS: usize = 16;

/// The work of a service. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Work {
    tasks: TaskTracker,
    /// Streams may be dropped anywhere.
    runtime: Handle,
    threads: Arc<Semaphore>,
}

impl Work {
    /// None yet. Must be called within the runtime.
    pub(super) fn new() -> Self {
        Self { tasks: TaskTracker::new(), runtime: Handle::current(), threads: Arc::new(Semaphore::new(THREADS)) }
    }

    /// Waits for a thread. `None` never: there are threads as long as there is work.
    pub(super) async fn thread(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.threads).acquire_owned().await.ok()
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
