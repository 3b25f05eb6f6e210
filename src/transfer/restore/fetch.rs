//! The first stage of a restore: fetches ranges of packs, several at once, and hands them to the workers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::error::RestoreError;
use super::holes::HoleList;
use super::jobs::{Fetched, Job, Jobs};
use super::options::Target;
use super::plan::{Cursor, Request, RestorePlan, Window};
use crate::repository::copies::is_of_copy;
use crate::repository::{Repository, RepositoryError};
use crate::transfer::budget::RestoreBounds;
use crate::transfer::progress::Progress;
use crate::types::ByteRange;
use crate::types::error::chain;

/// Zeros that are written by one call, in bytes: a sink that has to write them takes a second for so many at worst, and a
/// cancelled restore waits for one call.
const ZERO_STEP_BYTES: u64 = 256 << 20;

/// Why a blob is lost that no index names.
const IN_NO_INDEX: &str = "it is in no index";

/// The side of a restore that asks the store.
pub(super) struct Fetcher {
    pub(super) repository: Repository,
    pub(super) plan: Arc<RestorePlan>,
    pub(super) bounds: RestoreBounds,
    pub(super) target: Target,
    /// Takes down what is in no index.
    pub(super) holes: Option<Arc<HoleList>>,
}

impl Fetcher {
    /// Hands out all work and ends when the workers have it; closes the queue by dropping `jobs`. When it returns, none of its requests
    /// is running. Returns how many different blobs were fetched, counted window by window.
    pub(super) async fn run(self, jobs: Jobs, progress: &Progress, stop: &CancellationToken) -> Result<u64, RestoreError> {
        let mut running = JoinSet::new();
        let result = stop.run_until_cancelled(self.drive(&jobs, &mut running, progress)).await;
        running.shutdown().await;
        result.unwrap_or(Err(RestoreError::Cancelled))
    }

    async fn drive(
        &self,
        jobs: &Jobs,
        running: &mut JoinSet<Result<Fetched, RepositoryError>>,
        progress: &Progress,
    ) -> Result<u64, RestoreError> {
        let room_bytes = u32::try_from(self.bounds.in_flight_bytes).unwrap_or(u32::MAX);
        let room = Arc::new(Semaphore::new(room_bytes as usize));
        let (mut cursor, mut blobs) = (self.plan.start(), 0);
        while let Some(window) = next_window(&self.plan, &mut cursor).await? {
            if self.target.wants_zeros() {
                for range in window.zeros().iter().flat_map(|&range| steps(range)) {
                    jobs.give(Job::Zeros(range))?;
                }
            }
            for (range, blob) in window.holes() {
                // Where holes are an error, the plan has none.
                if let Some(holes) = &self.holes {
                    holes.add(*range, *blob, None, IN_NO_INDEX.to_owned());
                }
                jobs.give(Job::Hole(*range))?;
            }
            blobs += window.blob_count();
            let mut requests = window.requests(self.bounds.request_bytes).peekable();
            // The last requests of a window go on while the next one is planned and begun.
            while let Some(length) = requests.peek().map(Request::length) {
                let share = u32::try_from(length).unwrap_or(u32::MAX).min(room_bytes);
                tokio::select! {
                    biased;
                    Some(ended) = running.join_next(), if !running.is_empty() => hand_over(ended, jobs, progress)?,
                    share = Arc::clone(&room).acquire_many_owned(share), if running.len() < self.bounds.downloads => {
                        let share = share.map_err(|_| RestoreError::Cancelled)?;
                        if let Some(request) = requests.next() {
                            running.spawn(fetch(self.repository.clone(), request, share).in_current_span());
                        }
                    }
                }
            }
        }
        while let Some(ended) = running.join_next().await {
            hand_over(ended, jobs, progress)?;
        }
        Ok(blobs)
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

fn hand_over(
    ended: Result<Result<Fetched, RepositoryError>, JoinError>,
    jobs: &Jobs,
    progress: &Progress,
) -> Result<(), RestoreError> {
    let fetched = ended.map_err(|error| RestoreError::Inside(error.into()))??;
    progress.stored(fetched.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64));
    jobs.give(Job::Blobs(fetched))
}

async fn fetch(repository: Repository, request: Request, share: OwnedSemaphorePermit) -> Result<Fetched, RepositoryError> {
    let bytes = match repository.read_pack_range(&request.pack, request.bytes.clone()).await {
        Ok(bytes) => Some(bytes),
        Err(error) if is_of_copy(&error) => {
            tracing::warn!(pack = %request.pack, error = %chain(&error), "a part of a pack does not read; other copies of its blobs are looked for");
            None
        }
        Err(error) => return Err(error),
    };
    Ok(Fetched { request, bytes, share })
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
