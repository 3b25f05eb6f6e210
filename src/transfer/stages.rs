//! The scaffold of an export and of a restore: worker threads, and beside them the requests to the store.
//!
//! A failure of one side stops the other, and both are waited for. Of several errors the real one is told: being stopped is what
//! happens to one because another failed.

use tokio_util::sync::CancellationToken;

use super::crew::{Crew, CrewError};

/// What the scaffold has to know of a transfer's errors.
pub(super) trait StageError: From<CrewError> + Send + 'static {
    /// True when it only says that the transfer was told to stop.
    fn is_cancelled(&self) -> bool;
}

/// The workers of a transfer, or why not all of them could be started.
pub(super) type Workers<E> = Result<Crew<Result<(), E>>, E>;

/// Starts `count` threads called `name`; `work` makes the job of each. One that fails or panics stops the others at once.
pub(super) fn start<E: StageError, J: FnOnce() -> Result<(), E> + Send + 'static>(
    name: &str,
    count: usize,
    stop: &CancellationToken,
    mut work: impl FnMut() -> J,
) -> Workers<E> {
    let crew = Crew::start(name, count, || {
        let (stop, job) = (stop.clone(), work());
        move || {
            let stop_others = stop.drop_guard();
            let result = job();
            if result.is_ok() {
                stop_others.disarm();
            }
            result
        }
    });
    crew.map_err(E::from)
}

/// Waits for the workers and for `requests`. The first to fail stops the other by `stop`.
///
/// # Errors
/// The error of either; of two, the real one.
pub(super) async fn join<T, E: StageError>(
    workers: Workers<E>,
    requests: impl Future<Output = Result<T, E>>,
    stop: &CancellationToken,
) -> Result<T, E> {
    let workers = async { stop_if_failed(join_workers(workers).await, stop) };
    let requests = async { stop_if_failed(requests.await, stop) };
    match tokio::join!(workers, requests) {
        (Ok(()), result) => result,
        (Err(worker), Err(request)) => Err(real(worker, request)),
        (Err(error), Ok(_)) => Err(error),
    }
}

async fn join_workers<E: StageError>(workers: Workers<E>) -> Result<(), E> {
    let results = workers?.join().await;
    let errors = results.into_iter().filter_map(|result| match result {
        Ok(result) => result.err(),
        Err(died) => Some(died.into()),
    });
    errors.reduce(real).map_or(Ok(()), Err)
}

fn stop_if_failed<T, E>(result: Result<T, E>, stop: &CancellationToken) -> Result<T, E> {
    if result.is_err() {
        stop.cancel();
    }
    result
}

/// The one of two errors that says more.
fn real<E: StageError>(first: E, second: E) -> E {
    if first.is_cancelled() { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Failure {
        Cancelled,
        Died,
        Thread,
        Real(usize),
    }

    impl From<CrewError> for Failure {
        fn from(error: CrewError) -> Self {
            match error {
                CrewError::Start(_) => Self::Thread,
                CrewError::Died => Self::Died,
            }
        }
    }

    impl StageError for Failure {
        fn is_cancelled(&self) -> bool {
            *self == Self::Cancelled
        }
    }

    /// A thread that ends when it is stopped.
    fn until_stopped(stop: &CancellationToken) -> Result<(), Failure> {
        futures::executor::block_on(stop.cancelled());
        Err(Failure::Cancelled)
    }

    #[tokio::test]
    async fn a_worker_that_fails_stops_everything_and_its_error_is_told() {
        let stop = CancellationToken::new();
        let mut number = 0;
        let workers = start("test", 3, &stop, || {
            number += 1;
            let (number, stop) = (number, stop.clone());
            move || if number == 2 { Err(Failure::Real(2)) } else { until_stopped(&stop) }
        });
        let requests = async {
            stop.cancelled().await;
            Err::<(), _>(Failure::Cancelled)
        };
        assert_eq!(join(workers, requests, &stop).await, Err(Failure::Real(2)));
    }

    #[tokio::test]
    async fn a_worker_that_panics_stops_everything() {
        let stop = CancellationToken::new();
        let workers = start("test", 1, &stop, || || -> Result<(), Failure> { panic!("on purpose") });
        let requests = async {
            stop.cancelled().await;
            Err::<(), _>(Failure::Cancelled)
        };
        assert_eq!(join(workers, requests, &stop).await, Err(Failure::Died));
    }

    #[tokio::test]
    async fn a_request_that_fails_stops_the_workers_and_its_error_is_told() {
        let stop = CancellationToken::new();
        let workers = start("test", 2, &stop, || {
            let stop = stop.clone();
            move || until_stopped(&stop)
        });
        assert_eq!(join(workers, async { Err::<(), _>(Failure::Real(7)) }, &stop).await, Err(Failure::Real(7)));
    }

    #[tokio::test]
    async fn a_thread_that_does_not_start_stops_the_requests() {
        let stop = CancellationToken::new();
        let workers: Workers<Failure> = Err(Failure::Thread);
        let requests = async {
            stop.cancelled().await;
            Err::<(), _>(Failure::Cancelled)
        };
        assert_eq!(join(workers, requests, &stop).await, Err(Failure::Thread));
    }

    #[tokio::test]
    async fn what_ends_well_stops_nothing() {
        let stop = CancellationToken::new();
        let workers = start("test", 2, &stop, || || Ok::<(), Failure>(()));
        assert_eq!(join(workers, async { Ok(5) }, &stop).await, Ok(5));
        assert!(!stop.is_cancelled());
    }
}
