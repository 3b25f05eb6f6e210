//! The first stage of a restore: fetches ranges of packs, several at once, and hands them to the workers.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plan::{Request, RestorePlan};
use super::worker::{Job, Jobs};
use super::{RestoreError, Target};
use crate::repository::{Repository, RepositoryError};
use crate::transfer::budget::RestoreBounds;
use crate::transfer::progress::Progress;
use crate::types::ByteRange;

/// Zeros that are written by one call, in bytes: a sink that has to write them takes a second for so many at worst, and a
/// cancelled restore waits for one call.
const ZERO_STEP_BYTES: u64 = 256 << 20;

/// Fetches.
pub(super) struct Fetcher {
    pub(super) repository: Repository,
    pub(super) plan: Arc<RestorePlan>,
    pub(super) bounds: RestoreBounds,
    pub(super) target: Target,
}

/// Bytes of a pack, and their share of the bytes in flight.
pub(super) struct Fetched {
    pub(super) request: Request,
    pub(super) bytes: Bytes,
    /// Given back when the last blob is written.
    pub(super) share: OwnedSemaphorePermit,
}

impl Fetcher {
    /// Hands out all work and ends when the workers have it; closes the queue by dropping `jobs`. When it returns, no request of
    /// it is running.
    pub(super) async fn run(self, jobs: Jobs, progress: &Progress, stop: &CancellationToken) -> Result<(), RestoreError> {
        if self.target == Target::Dirty {
            for range in self.plan.zeros().iter().flat_map(|&range| steps(range)) {
                jobs.give(Job::Zeros(range))?;
            }
        }
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
    ) -> Result<(), RestoreError> {
        let room_bytes = u32::try_from(self.bounds.in_flight_bytes).unwrap_or(u32::MAX);
        let room = Arc::new(Semaphore::new(room_bytes as usize));
        let mut requests = self.plan.requests(self.bounds.request_bytes).peekable();
        loop {
            let length = requests.peek().map(Request::length);
            let share = u32::try_from(length.unwrap_or(0)).unwrap_or(u32::MAX).min(room_bytes);
            tokio::select! {
                biased;
                Some(ended) = running.join_next(), if !running.is_empty() => {
                    let fetched = ended.map_err(|error| RestoreError::Inside(error.to_string()))??;
                    progress.stored(fetched.bytes.len() as u64);
                    jobs.give(Job::Blobs(fetched))?;
                }
                share = Arc::clone(&room).acquire_many_owned(share), if length.is_some() && running.len() < self.bounds.downloads => {
                    let share = share.map_err(|_| RestoreError::Cancelled)?;
                    if let Some(request) = requests.next() {
                        running.spawn(fetch(self.repository.clone(), request, share));
                    }
                }
                else => return Ok(()),
            }
        }
    }
}

async fn fetch(repository: Repository, request: Request, share: OwnedSemaphorePermit) -> Result<Fetched, RepositoryError> {
    let bytes = repository.read_pack_range(&request.pack, request.bytes.clone()).await?;
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
