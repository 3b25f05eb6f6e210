//! What the fetcher of a restore hands to the workers.

use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::RestoreError;
use super::plan::{Request, Window};
use crate::repository::Id;
use crate::types::ByteRange;

/// Bytes of a pack, and their share of the bytes in flight.
pub(super) struct Fetched {
    pub(super) request: Request,
    /// `None` when the pack lacks these bytes; each blob is then looked for by itself.
    pub(super) bytes: Option<Bytes>,
    /// Returned when the last blob is written.
    pub(super) share: OwnedSemaphorePermit,
}

/// Work for one worker.
pub(super) enum Job {
    /// The blobs in these bytes are to be decoded and written.
    Blobs(Fetched),
    /// The blobs of this request are to be looked for in the sink. The answer is what it lacks.
    Look(Request, oneshot::Sender<Arc<Window>>),
    Zeros(ByteRange),
    /// A blob that is in no index belongs there.
    Hole(ByteRange, Id),
}

/// The fetcher's end of the queue. What is in it is bounded by the fetched bytes' share of the memory; all else takes next to none.
pub(super) struct Jobs(mpsc::Sender<Job>);

impl Jobs {
    /// Queues a job. Does not block.
    pub(super) fn give(&self, job: Job) -> Result<(), RestoreError> {
        // A closed queue means that every worker has ended, and they say why themselves.
        self.0.send(job).map_err(|_| RestoreError::Cancelled)
    }
}

/// The workers' end of the queue.
pub(super) type Queue = Arc<Mutex<mpsc::Receiver<Job>>>;

pub(super) fn queue() -> (Jobs, Queue) {
    let (sender, receiver) = mpsc::channel();
    (Jobs(sender), Arc::new(Mutex::new(receiver)))
}
