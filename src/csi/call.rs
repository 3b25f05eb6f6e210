//! How a layer runs a call: the request is checked first, then the work runs on a blocking thread of its own that outlives the call. A
//! caller that goes away leaves work that ends by itself, and the repetition finds either its lock held (ABORTED) or its result.

use tonic::{Request, Response, Status};

use super::allowance;
use super::error::RequestError;
use crate::types::error::chain;

/// The thread that did the work ended without an answer: what it did is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the work ended without an answer; repeat the call")]
pub struct Lost;

/// Checks `request` with `check` and runs `work` on what comes of it; `status` makes a code of either's failure.
///
/// # Errors
/// What `status` makes of a failure.
pub async fn call<L, Q, C, A, E>(
    layer: &L,
    request: Request<Q>,
    check: impl FnOnce(Q) -> Result<C, RequestError>,
    work: impl FnOnce(&L, C) -> Result<A, E> + Send + 'static,
    status: impl Fn(E) -> Status,
) -> Result<Response<A>, Status>
where
    L: Clone + Send + 'static,
    C: Send + 'static,
    A: Send + 'static,
    E: From<RequestError> + From<Lost> + Send + 'static,
{
    let checked = check(request.into_inner()).map_err(|error| status(error.into()))?;
    let layer = layer.clone();
    detached(move || work(&layer, checked)).await.map(Response::new).map_err(status)
}

/// Runs `work` on a blocking thread, where it goes on when the caller is gone; the call counts as long.
///
/// # Errors
/// Those of the work; [`Lost`] when it panicked or the runtime is stopping.
pub async fn detached<T, E, F>(work: F) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Lost> + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    let call = allowance::current();
    let span = tracing::Span::current();
    let counted = move || {
        let _call = call;
        span.in_scope(work)
    };
    tokio::task::spawn_blocking(counted).await.unwrap_or_else(|error| {
        tracing::error!(error = %chain(&error), "the work of a call was lost");
        Err(Lost.into())
    })
}
