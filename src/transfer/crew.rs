//! Threads that work on one transfer and are waited for from async code.
//!
//! Workers are threads and not tasks, since they compute and block. Each ends by itself when its work is done or its
//! [`CancellationToken`](tokio_util::sync::CancellationToken) says so; the crew never abandons one that it was asked to join. A
//! worker that panics is an error of the crew, not of the process.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

/// Why workers give no results of their own.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    #[error("a worker thread could not be started")]
    Start(#[source] io::Error),
    /// A worker panicked.
    #[error("a worker thread died")]
    Died,
}

/// Running workers whose results are of type `T`.
pub struct Crew<T> {
    workers: Vec<(JoinHandle<()>, oneshot::Receiver<T>)>,
}

impl<T: Send + 'static> Crew<T> {
    /// Starts `count` threads called `name`; `work` makes the job of each.
    ///
    /// # Errors
    /// When a thread cannot be started. The others end as their jobs do; nobody waits for them, so the caller must make them
    /// stop.
    pub fn start<J: FnOnce() -> T + Send + 'static>(
        name: &str,
        count: usize,
        mut work: impl FnMut() -> J,
    ) -> Result<Self, CrewError> {
        let mut workers = Vec::with_capacity(count);
        for number in 0..count {
            let (report, result) = oneshot::channel();
            let job = work();
            let span = tracing::Span::current();
            let thread = std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                // The caller may have stopped waiting; the thread ends all the same.
                let _ = report.send(span.in_scope(job));
            });
            workers.push((thread.map_err(CrewError::Start)?, result));
        }
        Ok(Self { workers })
    }

    /// Waits for all workers, and gives their results in the order of their numbers.
    pub async fn join(self) -> Vec<Result<T, CrewError>> {
        let mut results = Vec::with_capacity(self.workers.len());
        for (thread, result) in self.workers {
            let result = result.await;
            // The thread has reported or is unwinding: what is left of it takes no time.
            let ended = thread.join();
            results.push(ended.ok().and(result.ok()).ok_or(CrewError::Died));
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_come_back_in_order_and_a_panic_is_an_error() {
        let mut number = 0;
        let crew = Crew::start("test", 3, || {
            number += 1;
            let number = number;
            move || {
                assert_ne!(number, 2, "on purpose");
                number
            }
        });
        assert!(matches!(crew.unwrap().join().await[..], [Ok(1), Err(CrewError::Died), Ok(3)]));
    }
}
