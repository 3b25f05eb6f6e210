//! Verification of a repository.
//!
//! Snapshots are read first, then indexes, then packs: the opposite of the order in which they are written. So an export that
//! runs meanwhile is no error, and a shared lock, which keeps a prune away, is all it takes.
//!
//! What is wrong with the repository goes into the report, all of it (the first thousand errors in words); what keeps the check
//! from looking (a store that does not answer or refuses, a lock) ends it with an error.
//!
//! **Memory.** Packs are read in steps of 8 MiB, four at once, into [scratch space](crate::scratch), hashed on their way, and their
//! blobs are opened from there as streams: however long a pack or a blob is, it takes no more memory than a step. A bit for each blob, and
//! 48 bytes for each pack that is listed.
//!
//! What it finds absent or damaged is [doubted](super::doubts): exports of this machine store it again.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
use super::crypto::Sealer;
use super::doubts::Whole;
use super::error::{Damage, RepositoryError};
use super::id::{Hasher, Id};
use super::index::{Index, IndexBuilder, Packs};
use super::open::Repository;
use super::pack::{expected_bytes, read_header_at_end};
use super::snapshot::StoredSnapshot;
use super::store::{Key, Kind, Listed, StoreError};
use super::tree::{IdList, NodeKind, verify_blob};
use crate::scratch::{ScratchError, Spill};

/// Packs read at once.
const PARALLEL_PACKS: usize = 4;
/// Bytes of a pack that are fetched at once.
const STEP_BYTES: u64 = 8 << 20;
/// Index files and snapshots read at once.
const PARALLEL_DOCUMENTS: usize = 8;
/// Errors that are kept in words; a repository that was hit hard has millions.
const MAX_ERRORS: usize = 1000;
/// Blobs that do not read of which each is known, 64 bytes each.
const MAX_LOST_BLOBS: usize = 200_000;
/// Ranges of a file that are named.
const MAX_RANGES: u64 = 16;

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
            Err(error) => self.note_error(error, "").map(|()| None),
        }
    }

    /// The same for an error, of which is also said what comes `behind` it.
    fn note_error(&mut self, error: RepositoryError, behind: &str) -> Result<(), RepositoryError> {
        match error {
            RepositoryError::Damaged { .. }
            | RepositoryError::MissingBlob { .. }
            | RepositoryError::Store(StoreError::NotFound { .. } | StoreError::Truncated { .. }) => {
                self.error(format!("{error}{behind}"));
                Ok(())
            }
            error => Err(error),
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
        let Some(lock) = self.lock_to_read().await? else { return self.without_cache().check_locked(depth, progress).await };
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
        let absent = compare_packs(&packs, &stored, &mut report)?;
        self.note_listing(&absent).await?;
        let mut lost = Lost { packs: absent, blobs: HashSet::new() };
        if depth == Depth::ReadData {
            let damaged = self.read_packs(&packs, &stored, &mut lost, &mut report, progress).await?;
            self.note_damaged(damaged, Whole::Yes).await?;
        }
        // Now it is known what of them is lost.
        self.check_trees(&index, &snapshots, &lost, &mut report).await?;
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
        lost: &Lost,
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
                let nodes = match self.read_tree(index, &tree).await {
                    Ok(nodes) => nodes,
                    Err(error) => {
                        report.note_error(error, &format!(", used by snapshot {}", stored.id.short()))?;
                        continue;
                    }
                };
                report.trees += 1;
                for node in nodes {
                    match node.kind {
                        NodeKind::Folder(tree) => folders.push(tree),
                        NodeKind::File(content) => {
                            check_content(index, stored, &node.name, &content, lost, &mut used, report)?;
                        }
                        NodeKind::Other(_) => {}
                    }
                }
            }
        }
        report.blobs_used = report.trees + used.count();
        Ok(())
    }

    /// Reads all packs that are there. Tells those that are damaged.
    async fn read_packs(
        &self,
        packs: &Packs,
        stored: &[Listed],
        lost: &mut Lost,
        report: &mut CheckReport,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Vec<Id>, RepositoryError> {
        let stored: HashMap<_, _> = stored.iter().map(|listed| (listed.id, listed.bytes)).collect();
        // Those that are missing have been reported.
        let mut packs = packs.iter().filter(|pack| pack.as_ref().map_or(true, |pack| stored.contains_key(&pack.id)));
        let mut reads = FuturesUnordered::new();
        let (mut done, mut ended, mut damaged) = (0, false, Vec::new());
        loop {
            while !ended && reads.len() < PARALLEL_PACKS {
                match packs.next() {
                    Some(pack) => {
                        let pack = pack?;
                        let (id, bytes) = (pack.id, stored.get(&pack.id).copied().unwrap_or(0));
                        let repository = self.clone();
                        reads.push(async move { (id, repository.read_pack(pack, bytes).await) });
                    }
                    None => ended = true,
                }
            }
            let Some((id, read)) = reads.next().await else { return Ok(damaged) };
            match report.note(read)? {
                Some((bytes, PackErrors { errors, blobs })) => {
                    report.bytes_read += bytes;
                    if !errors.is_empty() {
                        damaged.push(id);
                    }
                    errors.into_iter().for_each(|error| report.error(error));
                    lost.add(id, blobs);
                }
                None => {
                    damaged.push(id);
                    lost.packs.insert(id);
                }
            }
            done += 1;
            progress(done, report.packs);
        }
    }

    /// Length of a pack of `bytes`, and what is wrong with it. Its bytes lie in scratch space, and of those in memory there is a step.
    async fn read_pack(self, pack: PackRecord, bytes: u64) -> Result<(u64, PackErrors), RepositoryError> {
        let (mut sealed, mut hasher, mut offset) = (Spill::new(self.scratch()), Hasher::new(), 0);
        while offset < bytes {
            let end = offset.saturating_add(STEP_BYTES).min(bytes);
            let step = self.read_pack_range(&pack.id, offset..end).await?;
            let add = move || {
                hasher.update(&step);
                sealed.append(&step).map(|()| (sealed, hasher))
            };
            (sealed, hasher) = tokio::task::spawn_blocking(add).await??;
            offset = end;
        }
        let sealer = self.sealer();
        let found = tokio::task::spawn_blocking(move || pack_errors(&sealer, &pack, &sealed, hasher.finish())).await??;
        Ok((bytes, found))
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

/// What does not read.
struct Lost {
    /// Packs, with all that is in them.
    packs: HashSet<Id>,
    /// Blobs, by the pack they lie in.
    blobs: HashSet<(Id, Id)>,
}

impl Lost {
    /// The blobs of `pack` do not read. Of so many that they would not fit the memory, the whole pack counts as lost.
    fn add(&mut self, pack: Id, blobs: Vec<Id>) {
        if self.blobs.len() + blobs.len() > MAX_LOST_BLOBS {
            self.packs.insert(pack);
        } else {
            self.blobs.extend(blobs.into_iter().map(|blob| (pack, blob)));
        }
    }

    fn has(&self, blob: &Id, location: &BlobLocation) -> bool {
        self.packs.contains(&location.pack) || self.blobs.contains(&(location.pack, *blob))
    }
}

/// Ranges of a file that do not read: some of them, and how many there are.
#[derive(Default)]
struct LostRanges {
    shown: Vec<Range<u64>>,
    count: u64,
    blobs: u64,
    end: Option<u64>,
}

impl LostRanges {
    fn add(&mut self, range: Range<u64>) {
        self.blobs += 1;
        let follows = self.end == Some(range.start);
        self.end = Some(range.end);
        if !follows {
            self.count += 1;
        }
        match self.shown.last_mut() {
            Some(last) if follows && self.count <= MAX_RANGES => last.end = range.end,
            _ if self.count <= MAX_RANGES => self.shown.push(range),
            _ => {}
        }
    }

    fn report(&self, stored: &StoredSnapshot, name: &str, report: &mut CheckReport) {
        if self.count == 0 {
            return;
        }
        let ranges: Vec<String> = self.shown.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
        let more = match self.count - self.shown.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} other ranges"),
        };
        report.error(format!(
            "file `{name}` in snapshot {} cannot be read at bytes {}{more}: {} of its blobs are lost",
            stored.id.short(),
            ranges.join(", "),
            self.blobs
        ));
    }
}

fn check_content(
    index: &Index,
    stored: &StoredSnapshot,
    name: &str,
    content: &IdList,
    lost: &Lost,
    used: &mut Used,
    report: &mut CheckReport,
) -> Result<(), ScratchError> {
    let (mut missing, mut first, mut position, mut ranges) = (0_u64, None, 0_u64, LostRanges::default());
    for id in content.iter() {
        let id = id?;
        match index.find(BlobKind::Data, &id)? {
            Some((number, location)) => {
                used.set(number);
                let end = position.saturating_add(location.plain_length().into());
                let is_lost = lost.has(&id, &location)
                    && index.locations(BlobKind::Data, &id)?.iter().all(|location| lost.has(&id, location));
                if is_lost {
                    ranges.add(position..end);
                }
                position = end;
            }
            None => {
                missing += 1;
                first.get_or_insert((id, position));
            }
        }
    }
    if let Some((first, position)) = first {
        report.error(format!(
            "{missing} blobs of file `{name}` in snapshot {} are in no index, data blob {first} at byte {position} the first of them",
            stored.id.short()
        ));
    } else {
        // Behind a blob whose length nobody knows, there are no positions.
        ranges.report(stored, name, report);
    }
    Ok(())
}

/// Reports the packs that are not as the index says, and tells which they are.
fn compare_packs(packs: &Packs, stored: &[Listed], report: &mut CheckReport) -> Result<HashSet<Id>, ScratchError> {
    let mut odd = HashSet::new();
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
            Some(_) => continue,
        }
        odd.insert(pack.id);
    }
    report.packs_unindexed = sizes.len() as u64;
    Ok(odd)
}

/// What is wrong with a pack.
#[derive(Default)]
struct PackErrors {
    errors: Vec<String>,
    /// Blobs that an index says it holds, and that do not read.
    blobs: Vec<Id>,
}

/// What is wrong with the bytes of a pack, which hash to `found`, and that should hold the blobs that its record names.
fn pack_errors(sealer: &Sealer, pack: &PackRecord, bytes: &Spill, found: Id) -> Result<PackErrors, ScratchError> {
    let object = Key::File(Kind::Data, pack.id);
    let mut wrong = PackErrors::default();
    if found != pack.id {
        wrong.errors.push(format!("{object} is damaged: {}", Damage::WrongHash { found }));
    }
    let mut expected: HashSet<_> = pack.blobs.iter().collect();
    match read_header_at_end(sealer, bytes)? {
        Err(damage) => wrong.errors.push(format!("the header of {object} is damaged: {damage}")),
        Ok(blobs) => {
            for blob in blobs.iter().filter(|blob| !expected.remove(*blob)) {
                let PackedBlob { kind, id, offset, .. } = blob;
                wrong.errors.push(format!("{kind} blob {id} at byte {offset} of {object} is in no index"));
            }
            wrong.errors.extend(expected.iter().map(|PackedBlob { kind, id, offset, .. }| {
                format!("{kind} blob {id} is not at byte {offset} of {object}, where an index says it is")
            }));
        }
    }
    // What an index names can be read even if the header cannot.
    for blob in &pack.blobs {
        let (offset, length, uncompressed_length) = (blob.offset, blob.length, blob.uncompressed_length);
        let location = BlobLocation { pack: pack.id, offset, length, uncompressed_length };
        if let Some(damage) = verify_blob(sealer, &blob.id, &location, bytes)? {
            wrong.errors.push(format!("{} blob {} in {object} is damaged: {damage}", blob.kind, blob.id));
            wrong.blobs.push(blob.id);
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests;
