//! Which blob lies in which pack.
//!
//! In memory a stored blob costs 48 bytes (an entry in a sorted list); one that this process added since costs about twice
//! that (a hash table), which is why there are two. The same blob may lie in several packs, when two writers stored it at once:
//! all are kept, the first is used.
//!
//! On the store, an index file names packs and their blobs. Packs are written before the index that names them, and the index
//! before a snapshot that refers to them. Readers go the other way: snapshots first, then indexes.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
use super::crypto::OVERHEAD;
use super::error::{Damage, RepositoryError};
use super::id::Id;
use super::open::Repository;
use super::store::{Key, Kind};

/// Blobs of an index file; restic writes as many.
const BLOBS_PER_FILE: usize = 50_000;
/// How old a pack may become before an index names it: what an interrupted export loses.
const FLUSH_EVERY: Duration = Duration::from_secs(5 * 60);
/// Index files fetched at once: each has at most a few megabytes.
const PARALLEL_LOADS: usize = 8;

/// A stored blob, in the compact form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) id: Id,
    /// Position in [`Index::packs`].
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) uncompressed_length: Option<NonZeroU32>,
}

/// Every blob of the repository that an index names, plus what this process added since. Shared between threads.
#[derive(Debug, Default)]
pub struct Index {
    packs: Vec<Id>,
    data: Vec<Entry>,
    trees: Vec<Entry>,
    added: Mutex<Added>,
}

#[derive(Debug, Default)]
struct Added {
    stored: HashMap<(BlobKind, Id), BlobLocation>,
    claimed: HashSet<(BlobKind, Id)>,
}

/// What came of an attempt to be the one who stores a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is stored, or someone in this process is storing it: only refer to it.
    Known,
    /// It is the caller's now to store.
    Yours,
}

impl Index {
    /// The index of these packs.
    pub(super) fn of(records: impl IntoIterator<Item = PackRecord>) -> Self {
        let (mut index, mut positions) = (Self::default(), HashMap::new());
        for record in records {
            let next = index.packs.len() as u32;
            let pack = *positions.entry(record.id).or_insert(next);
            if pack == next {
                index.packs.push(record.id);
            }
            for PackedBlob { id, kind, offset, length, uncompressed_length } in record.blobs {
                index.entries_mut(kind).push(Entry { id, pack, offset, length, uncompressed_length });
            }
        }
        for entries in [&mut index.data, &mut index.trees] {
            entries.sort_unstable();
            // Two index files may name the same pack.
            entries.dedup();
            entries.shrink_to_fit();
        }
        index
    }

    /// Where the blob lies; `None` when no index names it and no pack added here holds it.
    pub fn get(&self, kind: BlobKind, id: &Id) -> Option<BlobLocation> {
        match self.position(kind, id) {
            Some(position) => Some(self.location(&self.entries(kind)[position])),
            None => self.added().stored.get(&(kind, *id)).copied(),
        }
    }

    /// True when the blob is stored.
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        self.position(kind, id).is_some() || self.added().stored.contains_key(&(kind, *id))
    }

    /// Decides who stores a blob, so that each new one is stored once however many workers meet it. A claim lasts until the
    /// index is dropped: a worker that cannot store what it claimed must fail its whole export.
    pub fn claim(&self, kind: BlobKind, id: &Id) -> Claim {
        if self.position(kind, id).is_some() {
            return Claim::Known;
        }
        let mut added = self.added();
        if added.stored.contains_key(&(kind, *id)) || !added.claimed.insert((kind, *id)) { Claim::Known } else { Claim::Yours }
    }

    /// Adds a pack that has been stored.
    pub fn add(&self, record: &PackRecord) {
        let mut added = self.added();
        for &PackedBlob { id, kind, offset, length, uncompressed_length } in &record.blobs {
            added.claimed.remove(&(kind, id));
            added.stored.insert((kind, id), BlobLocation { pack: record.id, offset, length, uncompressed_length });
        }
    }

    /// Number of blobs.
    pub fn len(&self) -> usize {
        self.data.len() + self.trees.len() + self.added().stored.len()
    }

    /// True when it names nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Packs that were named when it was loaded.
    pub(super) fn packs(&self) -> &[Id] {
        &self.packs
    }

    /// Blobs that were named when it was loaded, in ascending order of ids.
    pub(super) fn entries(&self, kind: BlobKind) -> &[Entry] {
        match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        }
    }

    /// Position of the first entry of this blob in [`Index::entries`].
    pub(super) fn position(&self, kind: BlobKind, id: &Id) -> Option<usize> {
        let entries = self.entries(kind);
        let position = entries.partition_point(|entry| entry.id < *id);
        entries.get(position).is_some_and(|entry| entry.id == *id).then_some(position)
    }

    pub(super) fn location(&self, entry: &Entry) -> BlobLocation {
        let &Entry { pack, offset, length, uncompressed_length, .. } = entry;
        BlobLocation { pack: self.packs[pack as usize], offset, length, uncompressed_length }
    }

    fn entries_mut(&mut self, kind: BlobKind) -> &mut Vec<Entry> {
        match kind {
            BlobKind::Data => &mut self.data,
            BlobKind::Tree => &mut self.trees,
        }
    }

    fn added(&self) -> MutexGuard<'_, Added> {
        // No code panics while it holds the lock, and the tables are whole at each step anyway.
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An index file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct IndexFile {
    packs: Vec<PackRecord>,
}

fn decode(json: &[u8]) -> Result<Vec<PackRecord>, Damage> {
    let file: IndexFile = serde_json::from_slice(json).map_err(|error| Damage::Syntax(error.to_string()))?;
    for blob in file.packs.iter().flat_map(|pack| &pack.blobs) {
        if (blob.length as usize) < OVERHEAD || blob.offset.checked_add(blob.length).is_none() {
            return Err(Damage::Syntax(format!("blob {} has an impossible place", blob.id)));
        }
    }
    Ok(file.packs)
}

impl Repository {
    /// Reads all index files.
    ///
    /// # Errors
    /// When one cannot be read: with a part of the index, blobs that exist would seem to be missing.
    pub async fn load_index(&self) -> Result<Index, RepositoryError> {
        let files = self.store().list(Kind::Index).await?;
        let records: Vec<_> = futures::stream::iter(files)
            .map(|file| {
                let repository = self.clone();
                // Owns all it uses: a future that borrows from the stream is not known to be `Send`.
                async move { repository.load_index_file(file.id).await }
            })
            .buffer_unordered(PARALLEL_LOADS)
            .try_concat()
            .await?;
        Ok(tokio::task::spawn_blocking(move || Index::of(records)).await?)
    }

    pub(super) async fn load_index_file(&self, id: Id) -> Result<Vec<PackRecord>, RepositoryError> {
        let json = self.load_document(Kind::Index, id).await?;
        let decoded = tokio::task::spawn_blocking(move || decode(&json)).await?;
        decoded.map_err(|damage| RepositoryError::damaged(Key::File(Kind::Index, id), damage))
    }
}

/// Collects packs that have been stored and writes index files about them.
///
/// Only packs whose `put` returned may be added. A crash leaves packs that no index names: harmless, `restic prune` removes
/// them.
#[derive(Debug)]
pub struct IndexWriter {
    repository: Repository,
    pending: IndexFile,
    blobs: usize,
    since: Instant,
}

impl IndexWriter {
    /// A writer for `repository` with nothing to write yet.
    pub fn new(repository: Repository) -> Self {
        Self { repository, pending: IndexFile::default(), blobs: 0, since: Instant::now() }
    }

    /// Adds a stored pack; writes an index file when enough blobs (50 000) or time (5 minutes) have come together, which is what
    /// makes an interrupted export cheap to repeat.
    ///
    /// # Errors
    /// When that index file cannot be stored; the packs are kept for the next attempt.
    pub async fn add(&mut self, record: PackRecord) -> Result<(), RepositoryError> {
        self.blobs += record.blobs.len();
        self.pending.packs.push(record);
        if self.blobs >= BLOBS_PER_FILE || self.since.elapsed() >= FLUSH_EVERY {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes what is left. To be called before the snapshot is saved.
    ///
    /// # Errors
    /// When the index file cannot be stored.
    pub async fn finish(mut self) -> Result<(), RepositoryError> {
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), RepositoryError> {
        if !self.pending.packs.is_empty() {
            let id = self.repository.save_document(Kind::Index, &self.pending).await?;
            tracing::debug!(index = %id, packs = self.pending.packs.len(), blobs = self.blobs, "index stored");
        }
        self.pending.packs.clear();
        (self.blobs, self.since) = (0, Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u64) -> Id {
        Id::of(&number.to_le_bytes())
    }

    /// Packs of blobs of one kind, some blobs in several packs.
    fn records() -> impl Strategy<Value = Vec<PackRecord>> {
        let blob = (0_u64..40, 32_u32..1000, prop::option::of(1_u32..5000));
        prop::collection::vec((any::<bool>(), prop::collection::vec(blob, 1..10)), 0..12).prop_map(|packs| {
            let packs = packs.into_iter().enumerate().map(|(number, (tree, blobs))| {
                let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
                let mut offset = 0;
                let blobs = blobs.into_iter().map(|(number, length, plain)| {
                    offset += length;
                    PackedBlob {
                        id: id(number),
                        kind,
                        offset: offset - length,
                        length,
                        uncompressed_length: plain.and_then(NonZeroU32::new),
                    }
                });
                PackRecord { id: id(1000 + number as u64), blobs: blobs.collect() }
            });
            packs.collect()
        })
    }

    proptest! {
        #[test]
        fn every_blob_is_found_where_some_pack_holds_it(records in records(), later in records()) {
            let index = Index::of(records.clone());
            for record in &later {
                index.add(record);
            }
            for kind in [BlobKind::Data, BlobKind::Tree] {
                for number in 0..50 {
                    let found = index.get(kind, &id(number));
                    let places = records.iter().chain(&later).flat_map(|record| record.blobs.iter().map(|blob| (record.id, blob)));
                    let mut places = places.filter(|(_, blob)| blob.kind == kind && blob.id == id(number)).peekable();
                    prop_assert_eq!(found.is_some(), places.peek().is_some());
                    prop_assert_eq!(index.contains(kind, &id(number)), found.is_some());
                    if let Some(found) = found {
                        let held = places.any(|(pack, &PackedBlob { offset, length, uncompressed_length, .. })| {
                            found == BlobLocation { pack, offset, length, uncompressed_length }
                        });
                        prop_assert!(held);
                    }
                }
            }
        }

        #[test]
        fn an_index_file_reads_back(records in records()) {
            let json = serde_json::to_vec(&IndexFile { packs: records.clone() }).unwrap();
            prop_assert_eq!(decode(&json), Ok(records));
        }

        #[test]
        fn a_damaged_index_file_is_read_or_refused(records in records(), position: prop::sample::Index, byte: u8) {
            let mut json = serde_json::to_vec(&IndexFile { packs: records }).unwrap();
            let position = position.index(json.len());
            json[position] = byte;
            let _ = decode(&json);
            let _ = decode(&json[..position]);
        }
    }

    #[test]
    fn naming_a_pack_twice_counts_its_blobs_once() {
        let blob = PackedBlob { id: id(1), kind: BlobKind::Data, offset: 0, length: 40, uncompressed_length: None };
        let record = PackRecord { id: id(2), blobs: vec![blob] };
        let index = Index::of([record.clone(), record]);
        assert_eq!((index.len(), index.packs().len()), (1, 1));
    }

    #[test]
    fn one_of_many_workers_gets_a_new_blob() {
        let index = Index::default();
        let yours = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8).map(|_| scope.spawn(|| index.claim(BlobKind::Data, &id(1)) == Claim::Yours)).collect();
            workers.into_iter().map(|worker| usize::from(worker.join().unwrap())).sum::<usize>()
        });
        assert_eq!(yours, 1);
        let blob = PackedBlob { id: id(1), kind: BlobKind::Data, offset: 0, length: 40, uncompressed_length: None };
        index.add(&PackRecord { id: id(2), blobs: vec![blob] });
        assert_eq!(index.claim(BlobKind::Data, &id(1)), Claim::Known);
        assert_eq!(index.claim(BlobKind::Tree, &id(1)), Claim::Yours);
    }

    #[test]
    fn impossible_places_are_refused() {
        let zero = "0".repeat(64);
        for (offset, length) in [(0, 31), (u32::MAX, 32)] {
            let json = format!(
                r#"{{"packs":[{{"id":"{zero}","blobs":[{{"id":"{zero}","type":"data","offset":{offset},"length":{length}}}]}}]}}"#
            );
            assert!(matches!(decode(json.as_bytes()), Err(Damage::Syntax(_))));
        }
        let old = format!(r#"{{"supersedes":["{zero}"],"packs":[]}}"#);
        assert_eq!(decode(old.as_bytes()), Ok(vec![]));
    }
}
