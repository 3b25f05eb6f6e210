//! The last stage of an export: names finished packs, stores them, several at once, and writes index files about those that are
//! stored.
//!
//! A pack is named by its hash, and hashing several at once is faster ([`hash::pack_lanes`](crate::transfer::hash::pack_lanes)). So
//! finished packs of all workers wait for each other; the worker that brings the last of a group hashes all of it. Nobody waits
//! for a group to become full: a worker that finds no room for its pack, and one that ends, hash what is there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::checkpoint::Findings;
use super::error::ExportError;
use crate::repository::tree::PackedTree;
use crate::repository::{IndexWriter, LockGuard, Pack, PackRecord, Repository, RepositoryError, UnnamedPack, UsedPacks};
use crate::transfer::hash;
use crate::transfer::progress::Progress;
use crate::types::error::chain;

/// How long an export that did not come to its end tries to name what it stored: a store that answers takes far less for an index file
/// of 25 000 blobs (2.5 MB), and the caller that cancelled waits for it.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

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
pub(super) struct PackSender {
    room: Arc<Semaphore>,
    room_bytes: u32,
    /// Packs that wait to be hashed together.
    group: Arc<Mutex<Vec<(UnnamedPack, OwnedSemaphorePermit)>>>,
    group_packs: usize,
    queue: mpsc::UnboundedSender<InFlight>,
    spare: PackBuffers,
    runtime: Handle,
}

/// Buffers of packs that are stored, for the next ones. There are never more than packs were in flight or being filled at one
/// time, for each pack takes one before it makes one.
type PackBuffers = Arc<Mutex<Vec<Vec<u8>>>>;

/// The uploader's end of the queue.
pub(super) struct PackReceiver {
    queue: mpsc::UnboundedReceiver<InFlight>,
    spare: PackBuffers,
}

/// A queue of packs of at most `room_bytes` together, those being stored included, which are hashed in groups of `group_packs`. The first
/// packs get the buffers in `spare`. To be made on the runtime that drives the uploader.
pub(super) fn queue(room_bytes: u64, group_packs: usize, spare: Vec<Vec<u8>>) -> (PackSender, PackReceiver) {
    let room_bytes = u32::try_from(room_bytes).unwrap_or(u32::MAX);
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(room_bytes as usize));
    let (spare, runtime) = (PackBuffers::new(Mutex::new(spare)), Handle::current());
    let packs = PackReceiver { queue: receiver, spare: Arc::clone(&spare) };
    (PackSender { room, room_bytes, group: Arc::default(), group_packs, queue: sender, spare, runtime }, packs)
}

impl PackSender {
    /// A buffer for a pack: that of one that is stored, if there is any.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Waits for room and hands `pack` over. For worker threads: it blocks, and it may hash a group.
    pub(super) fn send(&self, pack: UnnamedPack, stop: &CancellationToken) -> Result<(), ExportError> {
        let share = self.share(pack.bytes().len(), stop)?;
        let group = {
            let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
            group.push((pack, share));
            if group.len() < self.group_packs { Vec::new() } else { std::mem::take(&mut *group) }
        };
        self.hash_and_queue(group)
    }

    /// Hands over the packs that wait for others. To be called by each worker that ends.
    pub(super) fn flush(&self) -> Result<(), ExportError> {
        let group = std::mem::take(&mut *self.group.lock().unwrap_or_else(PoisonError::into_inner));
        self.hash_and_queue(group)
    }

    fn share(&self, bytes: usize, stop: &CancellationToken) -> Result<OwnedSemaphorePermit, ExportError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.room_bytes);
        if let Ok(share) = Arc::clone(&self.room).try_acquire_many_owned(bytes) {
            return Ok(share);
        }
        // What waits to be hashed takes room that only becomes free when it is stored.
        self.flush()?;
        let room = Arc::clone(&self.room).acquire_many_owned(bytes);
        match self.runtime.block_on(stop.run_until_cancelled(room)) {
            Some(Ok(share)) => Ok(share),
            Some(Err(_)) | None => Err(ExportError::Cancelled),
        }
    }

    fn hash_and_queue(&self, group: Vec<(UnnamedPack, OwnedSemaphorePermit)>) -> Result<(), ExportError> {
        let inputs: Vec<&[u8]> = group.iter().map(|(pack, _)| pack.bytes()).collect();
        let mut ids = Vec::new();
        hash::sha256_many(&inputs, &mut ids);
        for ((pack, share), id) in group.into_iter().zip(ids) {
            // A closed queue means that the uploader failed, and says why itself.
            self.queue.send(InFlight { pack: pack.named(id), share }).map_err(|_| ExportError::Cancelled)?;
        }
        Ok(())
    }
}

/// Stores the packs that workers send.
pub(super) struct Uploader {
    repository: Repository,
    uploads: usize,
    progress: Progress,
}

/// What was stored, and the index about it that is not written yet.
pub(super) struct StoredPacks {
    repository: Repository,
    writer: IndexWriter,
    /// Kept before each index file.
    findings: Arc<Findings>,
    stored_bytes: u64,
    /// The packs that the workers made.
    packs: UsedPacks,
}

impl Uploader {
    pub(super) fn new(repository: Repository, uploads: usize, progress: Progress) -> Self {
        Self { repository, uploads, progress }
    }

    /// Stores everything that comes through `packs`, until the workers have closed it. When it returns, no request of it is
    /// running, and `stored` says what was stored, however it ended.
    pub(super) async fn run(
        self,
        mut packs: PackReceiver,
        stored: &mut StoredPacks,
        lock: &LockGuard,
        stop: &CancellationToken,
    ) -> Result<(), ExportError> {
        let mut running = JoinSet::new();
        let result = stop.run_until_cancelled(self.drive(&mut packs, &mut running, stored, lock)).await;
        running.abort_all();
        while let Some(ended) = running.join_next().await {
            if let Ok(Ok((record, bytes))) = ended {
                stored.keep(record, bytes);
            }
        }
        result.unwrap_or(Err(ExportError::Cancelled))
    }

    async fn drive(
        &self,
        packs: &mut PackReceiver,
        running: &mut JoinSet<Result<(PackRecord, u64), RepositoryError>>,
        uploaded: &mut StoredPacks,
        lock: &LockGuard,
    ) -> Result<(), ExportError> {
        let mut lock_checked = Instant::now();
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                Some(ended) = running.join_next(), if !running.is_empty() => {
                    let (record, bytes) = ended.map_err(|error| ExportError::Inside(error.into()))??;
                    self.progress.stored(bytes);
                    uploaded.packs.stored(&record)?;
                    uploaded.note(record, bytes).await?;
                    if lock_checked.elapsed() >= LOCK_CHECK {
                        lock.check().await?;
                        lock_checked = Instant::now();
                    }
                }
                pack = packs.queue.recv(), if open && running.len() < self.uploads => match pack {
                    Some(pack) => {
                        running.spawn(store(self.repository.clone(), pack, Arc::clone(&packs.spare)).in_current_span());
                    }
                    None => open = false,
                },
                else => return Ok(()),
            }
        }
    }
}

async fn store(
    repository: Repository,
    InFlight { pack, share }: InFlight,
    spare: PackBuffers,
) -> Result<(PackRecord, u64), RepositoryError> {
    repository.put_pack(&pack).await?;
    let bytes = pack.bytes.len() as u64;
    let (record, memory) = pack.recycle();
    if let Some(memory) = memory {
        spare.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
    // Only now: the worker that waited for the room takes the memory.
    drop(share);
    Ok((record, bytes))
}

impl StoredPacks {
    /// Nothing is stored yet.
    pub(super) fn new(repository: Repository, findings: Arc<Findings>) -> Self {
        let (writer, packs) = (IndexWriter::new(repository.clone()), UsedPacks::none(repository.scratch()));
        Self { repository, writer, findings, stored_bytes: 0, packs }
    }

    /// Notes that a pack is stored: index files may refer to its blobs from now on.
    async fn note(&mut self, record: PackRecord, bytes: u64) -> Result<(), ExportError> {
        self.keep(record, bytes);
        if self.writer.is_due() {
            self.findings.keep_durably().await;
            self.writer.flush().await?;
        }
        Ok(())
    }

    /// Notes a pack for the next index file, without writing one that is due.
    fn keep(&mut self, record: PackRecord, bytes: u64) {
        self.stored_bytes += bytes;
        self.writer.keep(record);
    }

    /// Stores a pack that no worker made.
    pub(super) async fn store(&mut self, pack: Pack, progress: &Progress) -> Result<(), ExportError> {
        self.repository.put_pack(&pack).await?;
        let bytes = pack.bytes.len() as u64;
        progress.stored(bytes);
        self.note(pack.record, bytes).await
    }

    /// Stores the pack of a tree.
    pub(super) async fn store_tree(&mut self, tree: PackedTree, progress: &Progress) -> Result<(), ExportError> {
        self.repository.put_tree(&tree).await?;
        let bytes = tree.bytes.len();
        progress.stored(bytes);
        self.note(tree.record, bytes).await
    }

    /// Writes the last index file.
    pub(super) async fn finish_index(&mut self) -> Result<(), ExportError> {
        // An export that is killed while its snapshot is stored reads nothing again; nearly all others remove it at once.
        self.findings.keep().await;
        Ok(self.writer.flush().await?)
    }

    /// Names what is stored by an index file although the export is over, so that the next one need not store it again. Not without
    /// the lock: a prune may have removed packs that no index named.
    pub(super) async fn leave(mut self, lock: &LockGuard) {
        self.findings.keep_durably().await;
        if self.writer.is_empty() {
            return;
        }
        let named = async {
            lock.check().await?;
            self.writer.flush().await
        };
        match tokio::time::timeout(LEAVE_WITHIN, named).await {
            Ok(Ok(())) => tracing::info!(stored_bytes = self.stored_bytes, "what the export stored is indexed"),
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "what the export stored last is not indexed and is stored again by the next")
            }
            Err(_) => tracing::warn!("the store does not answer; what the export stored last is not indexed and is stored again"),
        }
    }

    /// The packs in which the chunks lie that the workers stored.
    pub(super) fn into_packs(self) -> UsedPacks {
        self.packs
    }

    /// Bytes of all packs stored.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::store::memory::MemoryStore;
    use crate::repository::{BlobKind, Compressor, Id, KdfCost, PackBuilder, Password, Sealer, Verification};

    async fn sealer() -> Sealer {
        let password = Password::new("test").unwrap();
        Repository::init(Arc::new(MemoryStore::new()), &password, KdfCost::TEST).await.unwrap().sealer()
    }

    /// A pack of `length` bytes and some more.
    fn pack(sealer: &Sealer, length: usize) -> UnnamedPack {
        let mut builder = PackBuilder::new(sealer.clone(), BlobKind::Data, length, Verification::Skip);
        let plain: Vec<u8> = (0..length).map(|_| rand::random()).collect();
        builder.add(Id::of(&plain), &plain, &mut Compressor::new(1).unwrap()).unwrap();
        builder.finish_unnamed().unwrap().unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn packs_wait_until_others_are_stored_and_a_stop_ends_the_wait() {
        let sealer = sealer().await;
        for group_packs in [1, 4] {
            let (finished, mut packs) = queue(1000, group_packs, Vec::new());
            let stop = CancellationToken::new();
            // A pack that is larger than the room gets all of it.
            let blocking = |length| {
                let (finished, stop, pack) = (finished.clone(), stop.clone(), pack(&sealer, length));
                tokio::task::spawn_blocking(move || finished.send(pack, &stop).is_ok())
            };
            assert!(blocking(600).await.unwrap());
            let second = blocking(1500);
            // Whether or not it waited for a group: the second pushes it out.
            let first = packs.queue.recv().await.unwrap();
            assert!(packs.queue.try_recv().is_err(), "the second has no room yet");
            drop(first);
            assert!(second.await.unwrap());
            let third = blocking(1);
            stop.cancel();
            assert!(!third.await.unwrap());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn packs_are_named_in_groups_by_their_hashes_and_the_rest_at_the_end() {
        let sealer = sealer().await;
        let (finished, mut packs) = queue(1 << 20, 3, Vec::new());
        let made: Vec<UnnamedPack> = (1..=5).map(|number| pack(&sealer, number * 700)).collect();
        let hashes: Vec<Id> = made.iter().map(|pack| Id::of(pack.bytes())).collect();
        let stop = CancellationToken::new();
        let mut seen = Vec::new();
        for (number, pack) in made.into_iter().enumerate() {
            finished.send(pack, &stop).unwrap();
            while let Ok(arrived) = packs.queue.try_recv() {
                assert_eq!(Id::of(&arrived.pack.bytes), arrived.pack.record.id);
                seen.push(arrived.pack.record.id);
            }
            assert_eq!(seen.len(), (number + 1) / 3 * 3);
        }
        finished.flush().unwrap();
        while let Ok(arrived) = packs.queue.try_recv() {
            seen.push(arrived.pack.record.id);
        }
        assert_eq!(seen, hashes);
    }
}
