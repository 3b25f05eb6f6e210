//! Verification of a repository.
//!
//! Snapshots are read first, then indexes, then packs: the opposite of the order in which they are written. So an export that
//! runs meanwhile is no error, and a shared lock, which keeps a prune away, is all it takes.
//!
//! What is wrong with the repository goes into the report, all of it (the first thousand errors in words); what keeps the check
//! from looking (a store that does not answer or refuses, a lock) ends it with an error. Reading data holds a few packs at a time.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
use super::crypto::Sealer;
use super::error::{Damage, RepositoryError};
use super::id::Id;
use super::index::{Index, IndexBuilder, Packs};
use super::lock::LockMode;
use super::open::Repository;
use super::pack::{expected_bytes, open_blob, read_header};
use super::snapshot::StoredSnapshot;
use super::store::{Key, Kind, Listed, StoreError};
use super::tree::{IdList, NodeKind};
use crate::scratch::ScratchError;

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
        // It is the store that is checked.
        let checked = self.without_cache().check_locked(depth, progress).await;
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
        let stored = self.store().list(Kind::Data).await?;
        let indexed = Arc::clone(&index);
        let packs = tokio::task::spawn_blocking(move || indexed.packs()).await??;
        report.snapshots = snapshots.len() as u64;
        report.blobs_indexed = index.len();
        compare_packs(&packs, &stored, &mut report)?;
        self.check_trees(&index, &snapshots, &mut report).await?;
        if depth == Depth::ReadData {
            self.read_packs(&packs, &stored, &mut report, progress).await?;
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
        let builder = Arc::new(Mutex::new(IndexBuilder::new(self.scratch())));
        let mut loads = futures::stream::iter(listed)
            .map(|listed| self.load_index_file(listed.id, Arc::clone(&builder)))
            .buffer_unordered(PARALLEL_DOCUMENTS);
        while let Some(loaded) = loads.next().await {
            report.note(loaded)?;
        }
        drop(loads);
        self.finish_index(builder).await
    }

    async fn check_trees(
        &self,
        index: &Index,
        snapshots: &[StoredSnapshot],
        report: &mut CheckReport,
    ) -> Result<(), RepositoryError> {
        let mut seen = HashSet::new();
        let mut used = Used::new(index.count(BlobKind::Data));
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
                        NodeKind::File(content) => {
                            check_content(index, stored, &node.name, &content, &mut used, report)?;
                        }
                        NodeKind::Other(_) => {}
                    }
                }
            }
        }
        report.blobs_used = report.trees + used.count();
        Ok(())
    }

    async fn read_packs(
        &self,
        packs: &Packs,
        stored: &[Listed],
        report: &mut CheckReport,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<(), RepositoryError> {
        let stored: HashSet<_> = stored.iter().map(|listed| listed.id).collect();
        // Those that are missing have been reported.
        let mut packs = packs.iter().filter(|pack| pack.as_ref().map_or(true, |pack| stored.contains(&pack.id)));
        let mut reads = FuturesUnordered::new();
        let (mut done, mut ended) = (0, false);
        loop {
            while !ended && reads.len() < PARALLEL_PACKS {
                match packs.next() {
                    Some(pack) => reads.push(self.clone().read_pack(pack?)),
                    None => ended = true,
                }
            }
            let Some(read) = reads.next().await else { return Ok(()) };
            if let Some((bytes, errors)) = report.note(read)? {
                report.bytes_read += bytes;
                errors.into_iter().for_each(|error| report.error(error));
            }
            done += 1;
            progress(done, report.packs);
        }
    }

    /// Length of a pack, and what is wrong with it.
    async fn read_pack(self, pack: PackRecord) -> Result<(u64, Vec<String>), RepositoryError> {
        let bytes = self.store().get(Key::File(Kind::Data, pack.id)).await?;
        let (sealer, length) = (self.sealer(), bytes.len() as u64);
        let found = tokio::task::spawn_blocking(move || pack_errors(&sealer, &pack, bytes)).await?;
        Ok((length, found))
    }
}

/// Which blobs some snapshot refers to: a bit for each.
struct Used(Vec<u64>);

impl Used {
    fn new(blobs: u64) -> Self {
        Self(vec![0; blobs.div_ceil(64) as usize])
    }

    fn set(&mut self, number: u64) {
        self.0[(number / 64) as usize] |= 1 << (number % 64);
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
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
    content: &IdList,
    used: &mut Used,
    report: &mut CheckReport,
) -> Result<(), ScratchError> {
    let mut missing = 0_u64;
    let mut first = None;
    for id in content.iter() {
        let id = id?;
        match index.find(BlobKind::Data, &id)? {
            Some((number, _)) => used.set(number),
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
    Ok(())
}

fn compare_packs(packs: &Packs, stored: &[Listed], report: &mut CheckReport) -> Result<(), ScratchError> {
    let mut sizes: HashMap<_, _> = stored.iter().map(|listed| (listed.id, listed.bytes)).collect();
    for pack in packs.iter() {
        let pack = pack?;
        report.packs += 1;
        let object = Key::File(Kind::Data, pack.id);
        let expected = expected_bytes(pack.blobs.iter().map(|blob| (blob.length, blob.uncompressed_length)));
        match sizes.remove(&pack.id) {
            None => report.error(format!("{object} is in the index and does not exist")),
            Some(found) if found != expected => {
                report.error(format!("{object} has {found} bytes where the index says {expected}"));
            }
            Some(_) => {}
        }
    }
    report.packs_unindexed = sizes.len() as u64;
    Ok(())
}

/// What is wrong with the bytes of a pack that should hold the blobs that its record names.
fn pack_errors(sealer: &Sealer, pack: &PackRecord, bytes: Bytes) -> Vec<String> {
    let object = Key::File(Kind::Data, pack.id);
    let found = Id::of(&bytes);
    let mut errors = Vec::new();
    if found != pack.id {
        errors.push(format!("{object} is damaged: {}", Damage::WrongHash { found }));
    }
    let mut expected: HashSet<_> = pack.blobs.iter().collect();
    match read_header(sealer, &bytes) {
        Err(damage) => errors.push(format!("the header of {object} is damaged: {damage}")),
        Ok(blobs) => {
            for blob in blobs {
                if !expected.remove(&blob) {
                    errors.push(format!("{} blob {} at byte {} of {object} is in no index", blob.kind, blob.id, blob.offset));
                }
                let (offset, length, uncompressed_length) = (blob.offset, blob.length, blob.uncompressed_length);
                let location = BlobLocation { pack: pack.id, offset, length, uncompressed_length };
                let mut sealed = bytes[blob.offset as usize..location.end() as usize].to_vec();
                if let Err(damage) = open_blob(sealer, &blob.id, &location, &mut sealed, &mut Vec::new()) {
                    errors.push(format!("{} blob {} in {object} is damaged: {damage}", blob.kind, blob.id));
                }
            }
            errors.extend(expected.iter().map(|PackedBlob { kind, id, offset, .. }| {
                format!("{kind} blob {id} is not at byte {offset} of {object}, where an index says it is")
            }));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
