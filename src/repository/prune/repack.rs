//! Copies what is needed of packs that go, and names what stays in index files. Only adds.
//!
//! All that is copied is verified, and so is a copy that stays while another one goes: of a pack that was damaged and healed by an export,
//! the index names both, and the bad one must not be the one that is left. A pack of which something does not read is noted as damaged,
//! and the prune is planned anew without relying on it.

use std::collections::HashSet;

use futures::{Stream, StreamExt};

use super::decide::{Action, PACK_BYTES};
use super::plan::{Plan, find};
use super::row::{BlobCopy, ROW_BYTES};
use super::{PruneError, Stage, Watch};
use crate::repository::blob::BlobKind;
use crate::repository::copies::is_of_copy;
use crate::repository::crypto::Sealer;
use crate::repository::error::RepositoryError;
use crate::repository::id::Id;
use crate::repository::index::IndexWriter;
use crate::repository::lock::LockGuard;
use crate::repository::open::Repository;
use crate::repository::pack::{Pack, PackBuilder, Verification, open_blob};
use crate::repository::read::damaged_blob;
use crate::repository::store::{Key, Kind};
use crate::scratch::{ScratchError, SortedRows};
use crate::types::error::chain;

/// Bytes that are read at once, one blob at least.
const READ_BYTES: u64 = 8 << 20;
/// Reads under way: as many as hide the latency of a distant store behind the copying.
const PARALLEL_READS: usize = 4;

/// Blobs of one pack that are read at once, in order.
type Batch = Vec<BlobCopy>;

/// Cuts copies, which are in order of packs and offsets, into what is read at once.
fn batches(copies: impl Iterator<Item = Result<BlobCopy, ScratchError>>) -> impl Iterator<Item = Result<Batch, ScratchError>> {
    let mut copies = copies.peekable();
    std::iter::from_fn(move || {
        let first = match copies.next()? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let fits = |next: &Result<BlobCopy, ScratchError>| {
            next.as_ref().is_ok_and(|next| {
                let span = next.location.end().saturating_sub(first.location.offset.into());
                next.location.pack == first.location.pack && span <= READ_BYTES
            })
        };
        let mut batch = vec![first];
        while let Some(Ok(next)) = copies.next_if(fits) {
            batch.push(next);
        }
        Some(Ok(batch))
    })
}

/// A copy with its sealed bytes, which were verified.
type Verified = Vec<(BlobCopy, Vec<u8>)>;

/// A batch that was read: what was verified, or the pack of which something does not read.
type BatchRead = Result<Verified, Id>;

fn verify(sealer: &Sealer, batch: Batch, bytes: &[u8]) -> Result<Verified, RepositoryError> {
    let start = batch.first().map_or(0, |first| first.location.offset as usize);
    let mut plain = Vec::new();
    let mut verified = Vec::with_capacity(batch.len());
    for copy in batch {
        let at = copy.location.offset as usize - start;
        let sealed = &bytes[at..at + copy.location.length as usize];
        open_blob(sealer, &copy.id, &copy.location, &mut sealed.to_vec(), &mut plain)
            .map_err(|damage| damaged_blob(copy.kind, &copy.id, &copy.location, damage))?;
        verified.push((copy, sealed.to_vec()));
    }
    Ok(verified)
}

/// New packs in the making, one for each kind.
struct Packer {
    sealer: Sealer,
    data: PackBuilder,
    trees: PackBuilder,
}

fn builder(sealer: &Sealer, kind: BlobKind) -> PackBuilder {
    PackBuilder::new(sealer.clone(), kind, PACK_BYTES as usize, Verification::Decode)
}

impl Packer {
    fn new(sealer: Sealer) -> Self {
        Self { data: builder(&sealer, BlobKind::Data), trees: builder(&sealer, BlobKind::Tree), sealer }
    }

    /// Adds what was verified; returns packs that became full.
    fn add(&mut self, verified: Verified) -> Result<Vec<Pack>, RepositoryError> {
        let mut full = Vec::new();
        for (copy, sealed) in verified {
            let into = match copy.kind {
                BlobKind::Data => &mut self.data,
                BlobKind::Tree => &mut self.trees,
            };
            into.add_sealed(&copy.packed(), &sealed)?;
            if into.is_full() {
                full.extend(std::mem::replace(into, builder(&self.sealer, copy.kind)).finish()?);
            }
        }
        Ok(full)
    }

    fn finish(self) -> Result<Vec<Pack>, RepositoryError> {
        Ok([self.data.finish()?, self.trees.finish()?].into_iter().flatten().collect())
    }
}

/// Stores packs and names them in index files.
struct Adder<'a> {
    repository: &'a Repository,
    lock: &'a LockGuard,
    index: IndexWriter,
    new_packs: Vec<Id>,
}

impl Adder<'_> {
    async fn store(&mut self, packs: Vec<Pack>) -> Result<(), PruneError> {
        for pack in packs {
            // What this relies on is what a lock of others would take away.
            self.lock.check().await?;
            self.repository.put_pack(&pack).await?;
            self.new_packs.push(pack.record.id);
            self.index.add(pack.record).await?;
        }
        Ok(())
    }
}

impl Repository {
    /// Reads these copies, which are sorted by pack, and verifies them.
    fn read_copies<'a>(
        &'a self,
        rows: &'a SortedRows<ROW_BYTES>,
    ) -> impl Stream<Item = Result<BatchRead, RepositoryError>> + Send + 'a {
        let copies = rows.iter().map(|row| row.map(|row| BlobCopy::of_row_by_pack(&row)));
        let reads = batches(copies).map(|batch| {
            let repository = self.clone();
            async move {
                let batch = batch?;
                let Some(pack) = batch.first().map(|first| first.location.pack) else { return Ok(Ok(Vec::new())) };
                match repository.read_batch(batch).await {
                    Ok(verified) => Ok(Ok(verified)),
                    Err(error) if is_of_copy(&error) => {
                        tracing::warn!(pack = %Key::File(Kind::Data, pack), error = %chain(&error), "a pack is damaged; the prune does not rely on it");
                        Ok(Err(pack))
                    }
                    Err(error) => Err(error),
                }
            }
        });
        futures::stream::iter(reads).buffered(PARALLEL_READS)
    }

    async fn read_batch(&self, batch: Batch) -> Result<Verified, RepositoryError> {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(Vec::new()) };
        let range = u64::from(first.location.offset)..last.location.end();
        let bytes = self.read_pack_range(&first.location.pack, range).await?;
        let sealer = self.sealer();
        tokio::task::spawn_blocking(move || verify(&sealer, batch, &bytes)).await?
    }

    /// The packs among those that the plan relies upon, for blobs other copies of which go, of which something does not read.
    pub(super) async fn bad_among_relied_upon(&self, plan: &Plan, watch: Watch<'_>) -> Result<HashSet<Id>, PruneError> {
        let mut bad = HashSet::new();
        let mut reads = std::pin::pin!(self.read_copies(&plan.relied_upon));
        while let Some(read) = reads.next().await {
            bad.extend(read?.err());
            watch.unless_cancelled()?;
        }
        Ok(bad)
    }

    /// Copies what the plan says, and stores index files that name the copies and what stays of superseded files; returns the new packs, or
    /// the packs of which something did not read.
    pub(super) async fn add_copies(
        &self,
        plan: &Plan,
        lock: &LockGuard,
        watch: Watch<'_>,
    ) -> Result<Result<Vec<Id>, HashSet<Id>>, PruneError> {
        let mut adder = Adder { repository: self, lock, index: IndexWriter::new(self.clone()), new_packs: Vec::new() };
        let copied = match self.copy_blobs(plan, &mut adder, watch).await {
            Ok(bad) if bad.is_empty() => self.name_what_stays(plan, &mut adder.index, watch).await.map(|()| bad),
            copied => copied,
        };
        match copied {
            Ok(_) | Err(PruneError::Cancelled) => {
                // What was copied need not be copied again.
                adder.index.finish().await?;
                copied.map(|bad| if bad.is_empty() { Ok(adder.new_packs) } else { Err(bad) })
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the packs of which something does not read; what does is copied all the same.
    async fn copy_blobs(&self, plan: &Plan, adder: &mut Adder<'_>, watch: Watch<'_>) -> Result<HashSet<Id>, PruneError> {
        let mut reads = std::pin::pin!(self.read_copies(&plan.copies));
        let mut bad = HashSet::new();
        let mut packer = Packer::new(self.sealer());
        let mut done = 0;
        while let Some(read) = reads.next().await {
            let verified = match read? {
                Ok(verified) => verified,
                Err(pack) => {
                    bad.insert(pack);
                    continue;
                }
            };
            done += verified.len() as u64;
            // Hashing a pack takes a while.
            let (returned, full) = tokio::task::spawn_blocking(move || {
                let full = packer.add(verified);
                (packer, full)
            })
            .await
            .map_err(RepositoryError::from)?;
            packer = returned;
            adder.store(full?).await?;
            watch.tell(Stage::Repack, done, plan.stats.blobs_copied);
            if watch.cancel.is_cancelled() {
                break;
            }
        }
        let rest = tokio::task::spawn_blocking(move || packer.finish()).await.map_err(RepositoryError::from)??;
        adder.store(rest).await?;
        watch.unless_cancelled().map(|()| bad)
    }

    /// Adds the packs that stay of superseded index files, each once.
    async fn name_what_stays(&self, plan: &Plan, index: &mut IndexWriter, watch: Watch<'_>) -> Result<(), PruneError> {
        let mut named = std::collections::BTreeSet::new();
        for file in &plan.superseded {
            watch.unless_cancelled()?;
            for record in self.records_of(*file).await? {
                let stays = find(&plan.packs, &record.id).is_some_and(|pack| pack.action == Action::Keep);
                if stays && named.insert(record.id) {
                    index.add(record).await?;
                }
            }
        }
        Ok(())
    }
}
