//! The requests of a restore on their way: looked at, where the sink may hold what they ask for; fetched; handed to the workers.
//!
//! A look is a worker's job like any other. So many are ahead of the store that every worker has one and finds another when that is
//! done; what they leave to be fetched counts among them, so that a slow store holds them up, not the memory. In turn, the store is asked
//! while workers look.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinError, JoinSet};
use tracing::Instrument;

use super::error::RestoreError;
use super::jobs::{Fetched, Job, Jobs};
use super::options::Target;
use super::plan::{Request, Window};
use crate::repository::copies::is_of_copy;
use crate::repository::{Repository, RepositoryError};
use crate::transfer::budget::RestoreBounds;
use crate::transfer::progress::Progress;
use crate::types::error::chain;

/// Looks ahead of the store, for each worker.
const LOOKS: usize = 2;

/// All requests that were begun and are not with the workers yet.
pub(super) struct Flow<'a> {
    repository: Repository,
    bounds: RestoreBounds,
    target: Target,
    jobs: &'a Jobs,
    progress: &'a Progress,
    /// Bytes in flight.
    room: Arc<Semaphore>,
    room_bytes: u32,
    /// Answers that workers owe, the oldest first.
    looks: VecDeque<oneshot::Receiver<Arc<Window>>>,
    /// What is to be fetched next.
    ready: VecDeque<Request>,
    running: JoinSet<Result<Fetched, RepositoryError>>,
    /// Blobs that were asked for.
    blobs: u64,
}

impl<'a> Flow<'a> {
    pub(super) fn new(
        repository: Repository,
        bounds: RestoreBounds,
        target: Target,
        jobs: &'a Jobs,
        progress: &'a Progress,
    ) -> Self {
        let room_bytes = u32::try_from(bounds.in_flight_bytes).unwrap_or(u32::MAX);
        let room = Arc::new(Semaphore::new(room_bytes as usize));
        let (looks, ready, running) = (VecDeque::new(), VecDeque::new(), JoinSet::new());
        Self { repository, bounds, target, jobs, progress, room, room_bytes, looks, ready, running, blobs: 0 }
    }

    /// Begins a request; returns when there is room for another.
    pub(super) async fn take(&mut self, request: Request) -> Result<(), RestoreError> {
        let ahead = match self.target {
            Target::Fresh | Target::Dirty => {
                self.ready.push_back(request);
                0
            }
            Target::Partial => {
                let (answer, look) = oneshot::channel();
                self.jobs.give(Job::Look(request, answer))?;
                self.looks.push_back(look);
                LOOKS * self.bounds.workers
            }
        };
        while self.looks.len() + self.ready.len() > ahead {
            self.step().await?;
        }
        Ok(())
    }

    /// Brings all requests to their end. Returns how many blobs were fetched.
    pub(super) async fn end(&mut self) -> Result<u64, RestoreError> {
        while self.step().await? {}
        Ok(self.blobs)
    }

    /// Drops the requests that are running, and waits until they are gone.
    pub(super) async fn shut_down(mut self) {
        self.running.shutdown().await;
    }

    /// Waits for the next thing to happen, and deals with it. False when nothing is under way.
    async fn step(&mut self) -> Result<bool, RestoreError> {
        let length = self.ready.front().map(Request::length);
        let share = length.map(|length| u32::try_from(length).unwrap_or(u32::MAX).min(self.room_bytes));
        tokio::select! {
            biased;
            Some(ended) = self.running.join_next(), if !self.running.is_empty() => self.hand_over(ended)?,
            Some(missing) = next(&mut self.looks), if !self.looks.is_empty() => {
                // Without an answer the worker has ended, and says why itself.
                let missing = missing.map_err(|_| RestoreError::Cancelled)?;
                self.ready.extend(missing.requests(self.bounds.request_bytes));
            }
            share = Arc::clone(&self.room).acquire_many_owned(share.unwrap_or(0)),
                if share.is_some() && self.running.len() < self.bounds.downloads =>
            {
                let share = share.map_err(|_| RestoreError::Cancelled)?;
                if let Some(request) = self.ready.pop_front() {
                    self.blobs += request.blobs().count() as u64;
                    self.running.spawn(fetch(self.repository.clone(), request, share).in_current_span());
                }
            }
            else => return Ok(false),
        }
        Ok(true)
    }

    fn hand_over(&self, ended: Result<Result<Fetched, RepositoryError>, JoinError>) -> Result<(), RestoreError> {
        let fetched = ended.map_err(|error| RestoreError::Inside(error.into()))??;
        self.progress.stored(fetched.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64));
        self.jobs.give(Job::Blobs(fetched))
    }
}

/// Waits for the oldest answer and takes it out. Nothing is lost when this is dropped.
async fn next(looks: &mut VecDeque<oneshot::Receiver<Arc<Window>>>) -> Option<Result<Arc<Window>, oneshot::error::RecvError>> {
    let answer = looks.front_mut()?.await;
    looks.pop_front();
    Some(answer)
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
