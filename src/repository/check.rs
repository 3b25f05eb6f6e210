//! Verification of a repository.
//!
//! Snapshots are read first, then indexes, then packs: the opposite of the order in which they are written. So an export that
//! runs meanwhile is no error, and a shared lock, which keeps a prune away, is all it takes.
//!
//! What is wrong with the repository goes into the report, all of it (the first thousand errors in words); what keeps the check
//! from looking (a store that does not answer or refuses, a lock) ends it with an error. Reading data holds a few packs at a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::blob::{BlobKind, BlobLocation};
use super::crypto::Sealer;
use super::error::{Damage, RepositoryError};
use super::id::Id;
use super::index::Index;
use super::lock::LockMode;
use super::open::Repository;
use super::pack::{expected_bytes, open_blob, read_header};
use super::snapshot::StoredSnapshot;
use super::store::{Key, Kind, Listed, StoreError};
use super::tree::NodeKind;

/// Packs read at once, each of up to 128 MiB by the writers' limits.
const PARALLEL_PACKS: usize = 4;
/// Index files and snapshots read at once.
const PARALLEL_DOCUMENTS: usize = 8;
/// Errors that are kept in words; a repository that was hit hard has millions.
const MAX_ERRORS: usize = 1000;

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Snapshots, trees and indexes; packs by presence and size.
    Structure,
    /// Every byte of every pack too.
    ReadData,
}

/// What was looked at and what was found wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Snapshots read.
    pub snapshots: u64,
    /// Trees read.
    pub trees: u64,
    /// Blobs that some snapshot refers to, each counted once.
    pub blobs_used: u64,
    /// Blobs that the indexes name.
    pub blobs_indexed: u64,
    /// Packs that the indexes name.
    pub packs: u64,
    /// Packs that no index names: left by an interrupted export, harmless.
    pub packs_unindexed: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// What is wrong, each naming its object; at most the first thousand. Empty when the repository is whole.
    pub errors: Vec<String>,
    /// Errors beyond those.
    pub errors_omitted: u64,
}

impl CheckReport {
    /// True when nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    fn error(&mut self, text: impl ToString) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(text.to_string());
        } else {
            self.errors_omitted += 1;
        }
    }

    /// Takes down an error about the repository's contents; passes on one that ends the check.
    fn note<T>(&mut self, result: Result<T, RepositoryError>) -> Result<Option<T>, RepositoryError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(
                error @ (RepositoryError::Damaged { .. }
                | RepositoryError::MissingBlob { .. }
                | RepositoryError::Store(StoreError::NotFound { .. } | StoreError::Truncated { .. })),
            ) => {
                self.error(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Repository {
    /// Checks everything, to the `depth` asked for, and reports all that is wrong rather than the first. `progress` is told
    /// the packs done and in all.
    ///
    /// # Errors
    /// Only when the check itself cannot go on (the store fails, the repository is locked).
    pub async fn check(&self, depth: Depth, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<CheckReport, RepositoryError> {
        let lock = self.lock(LockMode::Shared).await?;
        let checked = self.check_locked(depth, progress).await;
        // Packs that a prune removed meanwhile would have been reported as missing.
        let held = lock.check().await;
        lock.release().await?;
        let report = checked?;
        held?;
        Ok(report)
    }

    async fn check_locked(
        &self,
        depth: Depth,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<CheckReport, RepositoryError> {
        let mut report = CheckReport::default();
        let snapshots = self.readable_snapshots(&mut report).await?;
        let index = Arc::new(self.readable_index(&mut report).await?);
        let packs = self.store().list(Kind::Data).await?;
        let contents = PackContents::of(&index);
        report.snapshots = snapshots.len() as u64;
        report.blobs_indexed = index.len() as u64;
        report.packs = index.packs().len() as u64;
        compare_packs(&index, &contents, &packs, &mut report);
        self.check_trees(&index, &snapshots, &mut report).await?;
        if depth == Depth::ReadData {
            self.read_packs(&index, &contents, &packs, &mut report, progress).await?;
        }
        Ok(report)
    }

    async fn readable_snapshots(&self, report: &mut CheckReport) -> Result<Vec<StoredSnapshot>, RepositoryError> {
        let listed = self.store().list(Kind::Snapshot).await?;
        let mut loads = futures::stream::iter(listed)
            .map(async |listed| (listed.id, self.snapshot(&listed.id).await))
            .buffer_unordered(PARALLEL_DOCUMENTS);
        let mut snapshots = Vec::new();
        while let Some((id, loaded)) = loads.next().await {
            // One that was forgotten meanwhile is none.
            if !matches!(loaded, Err(RepositoryError::NoSuchSnapshot(_)))
                && let Some(snapshot) = report.note(loaded)?
            {
                snapshots.push(StoredSnapshot { id, snapshot });
            }
        }
        Ok(snapshots)
    }

    async fn readable_index(&self, report: &mut CheckReport) -> Result<Index, RepositoryError> {
        let listed = self.store().list(Kind::Index).await?;
        let mut loads =
            futures::stream::iter(listed).map(|listed| self.load_index_file(listed.id)).buffer_unordered(PARALLEL_DOCUMENTS);
        let mut records = Vec::new();
        while let Some(loaded) = loads.next().await {
            records.extend(report.note(loaded)?.unwrap_or_default());
        }
        Ok(tokio::task::spawn_blocking(move || Index::of(records)).await?)
    }

    async fn check_trees(
        &self,
        index: &Index,
        snapshots: &[StoredSnapshot],
        report: &mut CheckReport,
    ) -> Result<(), RepositoryError> {
        let mut seen = HashSet::new();
        let mut used = vec![false; index.entries(BlobKind::Data).len()];
        for stored in snapshots {
            let mut folders = vec![stored.snapshot.tree];
            while let Some(tree) = folders.pop() {
                if !seen.insert(tree) {
                    continue;
                }
                let read = self.read_tree(index, &tree).await;
                let Some(nodes) = report.note(read.map_err(|error| in_snapshot(error, &stored.id)))? else { continue };
                report.trees += 1;
                for node in nodes {
                    match node.kind {
                        NodeKind::Folder(tree) => folders.push(tree),
                        NodeKind::File(content) => check_content(index, stored, &node.name, &content, &mut used, report),
                        NodeKind::Other(_) => {}
                    }
                }
            }
        }
        report.blobs_used = report.trees + used.into_iter().map(u64::from).sum::<u64>();
        Ok(())
    }

    async fn read_packs(
        &self,
        index: &Arc<Index>,
        contents: &PackContents,
        stored: &[Listed],
        report: &mut CheckReport,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<(), RepositoryError> {
        let stored: HashSet<_> = stored.iter().map(|listed| listed.id).collect();
        // Those that are missing have been reported.
        let packs: Vec<_> = index.packs().iter().enumerate().filter(|(_, id)| stored.contains(id)).collect();
        let total = packs.len() as u64;
        let reads = packs.into_iter().map(|(pack, id)| {
            let expected: HashSet<_> = contents.blobs(index, pack).collect();
            let id = *id;
            async move {
                let bytes = self.store().get(Key::File(Kind::Data, id)).await?;
                let (sealer, length) = (self.sealer(), bytes.len() as u64);
                let found = tokio::task::spawn_blocking(move || pack_errors(&sealer, &id, bytes, expected)).await?;
                Ok::<_, RepositoryError>((length, found))
            }
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(PARALLEL_PACKS).into_stream();
        let mut done = 0;
        while let Some(read) = reads.next().await {
            if let Some((bytes, errors)) = report.note(read)? {
                report.bytes_read += bytes;
                errors.into_iter().for_each(|error| report.error(error));
            }
            done += 1;
            progress(done, total);
        }
        Ok(())
    }
}

/// Says which snapshot led to the damaged or missing tree.
fn in_snapshot(error: RepositoryError, snapshot: &Id) -> RepositoryError {
    match error {
        RepositoryError::Damaged { object, damage } => {
            RepositoryError::Damaged { object: format!("{object}, used by snapshot {}", snapshot.short()), damage }
        }
        other => other,
    }
}

fn check_content(
    index: &Index,
    stored: &StoredSnapshot,
    name: &str,
    content: &[Id],
    used: &mut [bool],
    report: &mut CheckReport,
) {
    let mut missing = 0_u64;
    let mut first = None;
    for id in content {
        match index.position(BlobKind::Data, id) {
            Some(position) => used[position] = true,
            None => {
                missing += 1;
                first.get_or_insert(id);
            }
        }
    }
    if let Some(first) = first {
        report.error(format!(
            "{missing} blobs of file `{name}` in snapshot {} are in no index, data blob {first} the first of them",
            stored.id.short()
        ));
    }
}

/// Which entries of the index lie in which pack.
struct PackContents {
    /// Position of the pack, kind of the blob, position of the blob's entry; sorted.
    places: Vec<(u32, BlobKind, u32)>,
}

impl PackContents {
    fn of(index: &Index) -> Self {
        let of_kind =
            |kind| index.entries(kind).iter().enumerate().map(move |(position, entry)| (entry.pack, kind, position as u32));
        let mut places: Vec<_> = of_kind(BlobKind::Data).chain(of_kind(BlobKind::Tree)).collect();
        places.sort_unstable();
        Self { places }
    }

    fn blobs<'a>(&'a self, index: &'a Index, pack: usize) -> impl Iterator<Item = (BlobKind, Id, BlobLocation)> + 'a {
        let start = self.places.partition_point(|place| (place.0 as usize) < pack);
        self.places[start..].iter().take_while(move |place| place.0 as usize == pack).map(|&(_, kind, position)| {
            let entry = &index.entries(kind)[position as usize];
            (kind, entry.id, index.location(entry))
        })
    }
}

fn compare_packs(index: &Index, contents: &PackContents, stored: &[Listed], report: &mut CheckReport) {
    let mut sizes: HashMap<_, _> = stored.iter().map(|listed| (listed.id, listed.bytes)).collect();
    for (pack, id) in index.packs().iter().enumerate() {
        let object = Key::File(Kind::Data, *id);
        let expected =
            expected_bytes(contents.blobs(index, pack).map(|(_, _, location)| (location.length, location.uncompressed_length)));
        match sizes.remove(id) {
            None => report.error(format!("{object} is in the index and does not exist")),
            Some(found) if found != expected => {
                report.error(format!("{object} has {found} bytes where the index says {expected}"));
            }
            Some(_) => {}
        }
    }
    report.packs_unindexed = sizes.len() as u64;
}

/// What is wrong with the bytes of a pack that should hold the blobs `expected`.
fn pack_errors(sealer: &Sealer, id: &Id, bytes: Bytes, mut expected: HashSet<(BlobKind, Id, BlobLocation)>) -> Vec<String> {
    let object = Key::File(Kind::Data, *id);
    let found = Id::of(&bytes);
    let mut errors = Vec::new();
    if found != *id {
        errors.push(format!("{object} is damaged: {}", Damage::WrongHash { found }));
    }
    match read_header(sealer, &bytes) {
        Err(damage) => errors.push(format!("the header of {object} is damaged: {damage}")),
        Ok(blobs) => {
            for blob in blobs {
                let location = BlobLocation {
                    pack: *id,
                    offset: blob.offset,
                    length: blob.length,
                    uncompressed_length: blob.uncompressed_length,
                };
                if !expected.remove(&(blob.kind, blob.id, location)) {
                    errors.push(format!("{} blob {} at byte {} of {object} is in no index", blob.kind, blob.id, blob.offset));
                }
                let mut sealed = bytes[blob.offset as usize..location.end() as usize].to_vec();
                if let Err(damage) = open_blob(sealer, &blob.id, &location, &mut sealed, &mut Vec::new()) {
                    errors.push(format!("{} blob {} in {object} is damaged: {damage}", blob.kind, blob.id));
                }
            }
            errors.extend(expected.iter().map(|(kind, id, location)| {
                format!("{kind} blob {id} is not at byte {} of {object}, where an index says it is", location.offset)
            }));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
