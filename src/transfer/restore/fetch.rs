//! The first stage of a restore: goes through the plan, hands zeros and holes to the workers, and the rest to the [flow](Flow) of requests.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::RestoreError;
use super::flow::Flow;
use super::jobs::{Job, Jobs};
use super::options::Target;
use super::plan::{Cursor, RestorePlan, Window};
use crate::repository::Repository;
use crate::transfer::budget::RestoreBounds;
use crate::transfer::progress::Progress;
use crate::types::ByteRange;

/// Zeros that are written by one call, in bytes: a sink that has to write them takes a second for so many at worst, and a
/// cancelled restore waits for one call.
const ZERO_STEP_BYTES: u64 = 256 << 20;

/// The side of a restore that asks the store.
pub(super) struct Fetcher {
    pub(super) repository: Repository,
    pub(super) plan: Arc<RestorePlan>,
    pub(super) bounds: RestoreBounds,
    pub(super) target: Target,
}

impl Fetcher {
    /// Hands out all work and ends when the workers have it; closes the queue by dropping `jobs`. When it returns, none of its requests
    /// is running. Returns how many different blobs were fetched, counted window by window.
    pub(super) async fn run(self, jobs: Jobs, progress: &Progress, stop: &CancellationToken) -> Result<u64, RestoreError> {
        let mut flow = Flow::new(self.repository.clone(), self.bounds, self.target, &jobs, progress);
        let result = stop.run_until_cancelled(self.drive(&mut flow, &jobs)).await;
        flow.shut_down().await;
        result.unwrap_or(Err(RestoreError::Cancelled))
    }

    async fn drive(&self, flow: &mut Flow<'_>, jobs: &Jobs) -> Result<u64, RestoreError> {
        let mut cursor = self.plan.start();
        while let Some(window) = next_window(&self.plan, &mut cursor).await? {
            if self.target.wants_zeros() {
                for range in window.zeros().iter().flat_map(|&range| steps(range)) {
                    jobs.give(Job::Zeros(range))?;
                }
            }
            for (range, blob) in window.holes() {
                jobs.give(Job::Hole(*range, *blob))?;
            }
            // The last requests of a window go on while the next one is planned and begun.
            for request in window.requests(self.bounds.request_bytes) {
                flow.take(request).await?;
            }
        }
        flow.end().await
    }
}

/// Looks a window's blobs up, off the async threads.
async fn next_window(plan: &Arc<RestorePlan>, cursor: &mut Cursor) -> Result<Option<Arc<Window>>, RestoreError> {
    let (plan, mut moved) = (Arc::clone(plan), *cursor);
    let planned = tokio::task::spawn_blocking(move || plan.next_window(&mut moved).map(|window| (window, moved))).await;
    let (window, moved) = planned.map_err(|error| RestoreError::Inside(error.into()))??;
    *cursor = moved;
    Ok(window)
}

fn steps(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let mut left = Some(range);
    std::iter::from_fn(move || {
        let range = left?;
        let end = range.end().min(range.offset().saturating_add(ZERO_STEP_BYTES));
        left = ByteRange::between(end, range.end());
        ByteRange::between(range.offset(), end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_the_range() {
        let range = ByteRange::new(5, 2 * ZERO_STEP_BYTES + 7).unwrap();
        let all: Vec<_> = steps(range).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all.iter().map(|step| step.length()).sum::<u64>(), range.length());
        assert!(all.windows(2).all(|pair| pair[0].end() == pair[1].offset()));
    }
}
