//! How an export that was cut goes on: what it found is kept beside the volume, and another attempt does not read it again.
//!
//! **What is kept** ([`repository::checkpoint`](crate::repository::checkpoint)): of each chunk that was read, its number and the id of its
//! bytes, or that it is zeros. Chunks come in any order, so it is a set and not a length. All of that is true of the volume's snapshot for
//! ever, since a snapshot never changes, whatever the parent, the index or the store: a checkpoint is *of* a repository, a snapshot's
//! handle, a size and a chunk size, and of nothing else. An export of something without a handle has none.
//!
//! **What makes it a durable point.** Ids go to the checkpoint before the index file that names their blobs is stored. An id alone is
//! worth nothing: the next attempt takes a chunk over only if the index of that time, read under its lock, names a blob of that id and of
//! the chunk's length, as it does with the chunks of a parent, and packs in doubt are out of sight there as well. So a chunk whose pack
//! was not stored, or not indexed, or that a prune removed meanwhile (nothing refers to the packs of an unfinished export), is read
//! again; and a checkpoint that was lost, cut or damaged, or that is of another export, makes an attempt read more and never another
//! volume.
//!
//! **What is read twice at most**, of an export that was cut: what came after the last index file (50 000 blobs or 5 minutes), when
//! the process was killed; when it was cancelled or failed while its store answers, what lay in unfinished packs and in packs under
//! way, which are the bytes of the [budget](crate::transfer::budget).
//!
//! **When it is written**: after [`ROWS_AT_ONCE`] chunks or [`WRITE_EVERY`], by the worker that comes to that; before each index file, and
//! at an early end, made durable then. **It goes** when the snapshot is stored.
//!
//! An export that could not keep it goes on without.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::options::ExportOptions;
use super::touched::Touched;
use super::untouched::Wanted;
use crate::repository::checkpoint::MAX_BODY_BYTES;
use crate::repository::{BlobKind, Checkpoint, Id, Index, PackSet, Repository};
use crate::scratch::{Scratch, ScratchError, Sorter};
use crate::transfer::content::ContentBuilder;

/// Chunks that are written at once: a gigabyte of small ones. 144 KiB.
const ROWS_AT_ONCE: usize = 4096;
/// How long a chunk that was found waits to be written, if any comes after it.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// The number of a chunk, and its id.
const ROW_BYTES: usize = 4 + Id::LENGTH;
/// In place of the id of a chunk that is zeros. No bytes are known that hash to it.
const ZEROS: [u8; Id::LENGTH] = [0; Id::LENGTH];

const _: () = assert!(ROWS_AT_ONCE * ROW_BYTES <= MAX_BODY_BYTES);

/// What an export has found, on its way to its checkpoint. Shared by its workers.
pub(super) struct Findings {
    kept: Option<Checkpoint>,
    pending: Mutex<Pending>,
}

struct Pending {
    rows: Vec<u8>,
    written: Instant,
}

/// The name of the checkpoints of all exports of a snapshot.
fn name(snapshot_handle: &str) -> Id {
    Id::of(format!("checkpoint of {snapshot_handle}").as_bytes())
}

/// Removes what is kept of an export of a snapshot that is deleted.
pub async fn forget_checkpoint(repository: &Repository, snapshot_handle: &str) {
    let name = name(snapshot_handle);
    if let Some(kept) = repository.checkpoint(name, name) {
        blocking(move || kept.remove()).await;
    }
}

impl Findings {
    /// Nothing is found yet by the export with these options.
    pub(super) fn of(repository: &Repository, options: &ExportOptions, volume_bytes: u64) -> Arc<Self> {
        let kept = options.metadata.snapshot_handle.as_ref().and_then(|handle| {
            let chunk_bytes = options.chunk_size.bytes();
            let of = format!("{} {handle} {volume_bytes} bytes in chunks of {chunk_bytes}", repository.id());
            repository.checkpoint(name(handle), Id::of(of.as_bytes()))
        });
        Arc::new(Self { kept, pending: Mutex::new(Pending { rows: Vec::new(), written: Instant::now() }) })
    }

    /// Notes that a chunk holds a blob. May write: for worker threads.
    pub(super) fn data(&self, index: u32, id: &Id) {
        self.add(index, id.as_bytes());
    }

    /// Notes that a chunk is zeros. May write: for worker threads.
    pub(super) fn zeros(&self, index: u32) {
        self.add(index, &ZEROS);
    }

    fn add(&self, index: u32, id: &[u8; Id::LENGTH]) {
        let Some(kept) = &self.kept else { return };
        let due = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.rows.extend_from_slice(&index.to_be_bytes());
            pending.rows.extend_from_slice(id);
            let is_due = pending.rows.len() >= ROWS_AT_ONCE * ROW_BYTES || pending.written.elapsed() >= WRITE_EVERY;
            is_due.then(|| pending.take())
        };
        if let Some(rows) = due {
            kept.append(&rows);
        }
    }

    /// Writes all that was noted. Blocks.
    fn write(&self) {
        let Some(kept) = &self.kept else { return };
        let rows = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        if !rows.is_empty() {
            kept.append(&rows);
        }
    }

    /// Writes all that was noted, so that it outlives this process.
    pub(super) async fn keep(self: &Arc<Self>) {
        let findings = Arc::clone(self);
        blocking(move || findings.write()).await;
    }

    /// Writes all that was noted, so that it outlives this machine's run.
    pub(super) async fn keep_durably(self: &Arc<Self>) {
        let findings = Arc::clone(self);
        blocking(move || {
            findings.write();
            findings.kept.iter().for_each(Checkpoint::sync);
        })
        .await;
    }

    /// Removes what is kept, since the export is stored.
    pub(super) async fn remove(self: &Arc<Self>) {
        let findings = Arc::clone(self);
        blocking(move || findings.kept.iter().for_each(Checkpoint::remove)).await;
    }

    /// Takes over what earlier attempts have found, of the chunks that are `to_read`, into the beginning of a list. Returns how many
    /// chunks need not be read. Blocks.
    ///
    /// # Errors
    /// When scratch space or the index cannot be read or written; a checkpoint that cannot is none.
    pub(super) fn take_over(&self, scratch: &Scratch, index: &Index, list: TakenUp<'_>) -> Result<u64, ScratchError> {
        let TakenUp { content, packs, to_read } = list;
        let Some(kept) = &self.kept else { return Ok(0) };
        let (mut wanted, mut count, before) = (Sorter::new(scratch), 0, to_read.len());
        kept.read(|body| {
            for row in body.as_chunks::<ROW_BYTES>().0 {
                let (number, id) = of_row(row);
                let Some(length) = to_read.length_of(number.into()).filter(|_| to_read.contains(number.into())) else { continue };
                if *id.as_bytes() == ZEROS {
                    to_read.remove(number.into());
                } else {
                    count += 1;
                    wanted.push(Wanted { id, index: number, length }.to_row())?;
                }
            }
            Ok::<_, ScratchError>(())
        })?;
        let mut lookup = index.sorted_lookup(BlobKind::Data, count);
        for row in wanted.finish_runs()?.iter() {
            let Wanted { id, index: number, length } = Wanted::of_row(&row?);
            // Asked first, so that every id is asked for in order.
            let found = lookup.find(&id)?.filter(|found| found.plain_length == length);
            if let Some(found) = found.filter(|_| to_read.contains(number.into())) {
                packs.insert(found.pack);
                content.data(number, id)?;
                to_read.remove(number.into());
            }
        }
        Ok(before - to_read.len())
    }
}

impl Pending {
    fn take(&mut self) -> Vec<u8> {
        self.written = Instant::now();
        std::mem::take(&mut self.rows)
    }
}

/// The list of a volume before anything of it is read, which a checkpoint adds to.
pub(super) struct TakenUp<'a> {
    pub(super) content: &'a mut ContentBuilder,
    /// The packs in which its chunks lie.
    pub(super) packs: &'a PackSet,
    /// The chunks that are not in it yet.
    pub(super) to_read: &'a mut Touched,
}

fn of_row(row: &[u8; ROW_BYTES]) -> (u32, Id) {
    let (mut number, mut id) = ([0; 4], [0; Id::LENGTH]);
    number.copy_from_slice(&row[..4]);
    id.copy_from_slice(&row[4..]);
    (u32::from_be_bytes(number), Id::from_bytes(id))
}

/// Runs what may wait for a disk. What panics there is logged by the runtime's hook, and nothing was kept.
async fn blocking(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::warn!(%error, "a checkpoint was not kept");
    }
}
