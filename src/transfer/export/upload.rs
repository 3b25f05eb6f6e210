//! The last stage of an export: stores finished packs, several at once, and writes index files about those that are stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ExportError;
use crate::repository::tree::PackedTree;
use crate::repository::{IndexWriter, LockGuard, Pack, PackRecord, Repository, RepositoryError};
use crate::transfer::progress::Progress;

/// How often a long export makes sure that its lock still holds, so that it does not go on for hours for nothing. Far below the
/// 22.5 minutes after which a lock that is not refreshed counts as lost.
const LOCK_CHECK: Duration = Duration::from_secs(300);

/// A finished pack and its share of the bytes in flight.
struct InFlight {
    pack: Pack,
    share: OwnedSemaphorePermit,
}

/// The workers' end of the queue.
#[derive(Clone)]
pub(super) struct Finished {
    room: Arc<Semaphore>,
    room_bytes: u32,
    queue: mpsc::UnboundedSender<InFlight>,
    runtime: Handle,
}

/// The uploader's end of the queue.
pub(super) struct Packs(mpsc::UnboundedReceiver<InFlight>);

/// A queue of packs of at most `room_bytes` together, those being stored included. To be made on the runtime that drives the
/// uploader.
pub(super) fn queue(room_bytes: u64) -> (Finished, Packs) {
    let room_bytes = u32::try_from(room_bytes).unwrap_or(u32::MAX);
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(room_bytes as usize));
    (Finished { room, room_bytes, queue: sender, runtime: Handle::current() }, Packs(receiver))
}

impl Finished {
    /// Waits for room and hands `pack` over. For worker threads: it blocks.
    pub(super) fn send(&self, pack: Pack, stop: &CancellationToken) -> Result<(), ExportError> {
        let bytes = u32::try_from(pack.bytes.len()).unwrap_or(u32::MAX).min(self.room_bytes);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes);
        let share = self.runtime.block_on(stop.run_until_cancelled(room));
        let Some(Ok(share)) = share else { return Err(ExportError::Cancelled) };
        // A closed queue means that the uploader failed, and says why itself.
        self.queue.send(InFlight { pack, share }).map_err(|_| ExportError::Cancelled)
    }
}

/// Stores packs.
pub(super) struct Uploader {
    repository: Repository,
    uploads: usize,
    progress: Progress,
}

/// What was stored, and the index about it that is not written yet.
pub(super) struct Uploaded {
    repository: Repository,
    writer: IndexWriter,
    stored_bytes: u64,
}

impl Uploader {
    pub(super) fn new(repository: Repository, uploads: usize, progress: Progress) -> Self {
        Self { repository, uploads, progress }
    }

    /// Stores everything that comes through `packs`, until the workers have closed it. When it returns, no request of it is
    /// running.
    pub(super) async fn run(self, mut packs: Packs, lock: &LockGuard, stop: &CancellationToken) -> Result<Uploaded, ExportError> {
        let mut running = JoinSet::new();
        let result = stop.run_until_cancelled(self.drive(&mut packs, &mut running, lock)).await;
        running.shutdown().await;
        result.unwrap_or(Err(ExportError::Cancelled))
    }

    async fn drive(
        self,
        packs: &mut Packs,
        running: &mut JoinSet<Result<(PackRecord, u64), RepositoryError>>,
        lock: &LockGuard,
    ) -> Result<Uploaded, ExportError> {
        let mut uploaded = Uploaded::new(self.repository.clone());
        let mut lock_checked = Instant::now();
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                Some(ended) = running.join_next(), if !running.is_empty() => {
                    let (record, bytes) = ended.map_err(|error| ExportError::Inside(error.to_string()))??;
                    self.progress.stored(bytes);
                    uploaded.note(record, bytes).await?;
                    if lock_checked.elapsed() >= LOCK_CHECK {
                        lock.check().await?;
                        lock_checked = Instant::now();
                    }
                }
                pack = packs.0.recv(), if open && running.len() < self.uploads => match pack {
                    Some(pack) => {
                        running.spawn(store(self.repository.clone(), pack));
                    }
                    None => open = false,
                },
                else => return Ok(uploaded),
            }
        }
    }
}

async fn store(repository: Repository, InFlight { pack, share }: InFlight) -> Result<(PackRecord, u64), RepositoryError> {
    repository.put_pack(&pack).await?;
    let bytes = pack.bytes.len() as u64;
    drop(share);
    Ok((pack.record, bytes))
}

impl Uploaded {
    fn new(repository: Repository) -> Self {
        let writer = IndexWriter::new(repository.clone());
        Self { repository, writer, stored_bytes: 0 }
    }

    /// A pack is stored: blobs of it may be referred to by index files from now on.
    async fn note(&mut self, record: PackRecord, bytes: u64) -> Result<(), ExportError> {
        self.stored_bytes += bytes;
        self.writer.add(record).await?;
        Ok(())
    }

    /// Stores one more pack.
    pub(super) async fn store(&mut self, pack: Pack, progress: &Progress) -> Result<(), ExportError> {
        self.repository.put_pack(&pack).await?;
        let bytes = pack.bytes.len() as u64;
        progress.stored(bytes);
        self.note(pack.record, bytes).await
    }

    /// Stores a tree.
    pub(super) async fn store_tree(&mut self, tree: PackedTree, progress: &Progress) -> Result<(), ExportError> {
        self.repository.put_tree(&tree).await?;
        let bytes = tree.bytes.len();
        progress.stored(bytes);
        self.note(tree.record, bytes).await
    }

    /// Writes the last index file.
    pub(super) async fn finish_index(&mut self) -> Result<(), ExportError> {
        let writer = std::mem::replace(&mut self.writer, IndexWriter::new(self.repository.clone()));
        writer.finish().await?;
        Ok(())
    }

    /// Bytes of all packs stored.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::Id;

    fn pack(length: usize) -> Pack {
        Pack { record: PackRecord { id: Id::of(&[]), blobs: Vec::new() }, bytes: vec![0; length].into() }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn packs_wait_until_others_are_stored_and_a_stop_ends_the_wait() {
        let (finished, mut packs) = queue(100);
        let stop = CancellationToken::new();
        // A pack that is larger than the room gets all of it.
        let blocking = |length| {
            let (finished, stop) = (finished.clone(), stop.clone());
            tokio::task::spawn_blocking(move || finished.send(pack(length), &stop).is_ok())
        };
        assert!(blocking(60).await.unwrap());
        let second = blocking(150);
        let first = packs.0.recv().await.unwrap();
        assert!(packs.0.try_recv().is_err(), "the second has no room yet");
        drop(first);
        assert!(second.await.unwrap());
        let third = blocking(1);
        stop.cancel();
        assert!(!third.await.unwrap());
    }
}
