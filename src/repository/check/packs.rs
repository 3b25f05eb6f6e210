//! Compares the packs with what the indexes say of them.

use std::collections::{HashMap, HashSet};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::blobs::damaged_blobs;
use super::lost::Lost;
use super::report::CheckReport;
use crate::repository::blob::{PackRecord, PackedBlob};
use crate::repository::crypto::Sealer;
use crate::repository::damage::Damage;
use crate::repository::error::RepositoryError;
use crate::repository::id::{Id, IdHasher};
use crate::repository::index::Packs;
use crate::repository::open::Repository;
use crate::repository::pack::{expected_bytes, read_header_at_end};
use crate::repository::store::{Key, Kind, Listed};
use crate::scratch::{ScratchError, Spill};
use crate::types::error::chain;

/// Packs read at once.
const PARALLEL_PACKS: usize = 4;
/// Bytes of a pack that are fetched at once.
const STEP_BYTES: u64 = 8 << 20;

/// What was found by reading packs.
pub(super) struct DamagedPacks {
    pub(super) packs: Vec<Id>,
    /// Their blobs that do not read.
    pub(super) lost: Lost,
}

impl Repository {
    /// Reads all packs that exist.
    pub(super) async fn read_packs(
        &self,
        packs: &Packs,
        stored: &[Listed],
        report: &mut CheckReport,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<DamagedPacks, RepositoryError> {
        let stored: HashMap<_, _> = stored.iter().map(|listed| (listed.id, listed.bytes)).collect();
        let mut packs = packs.iter();
        let mut reads = FuturesUnordered::new();
        let (mut done, mut ended, mut damaged, mut lost) = (0, false, Vec::new(), Lost::default());
        loop {
            while !ended && reads.len() < PARALLEL_PACKS {
                match packs.next() {
                    Some(pack) => {
                        let pack = pack?;
                        // One that is missing has been reported.
                        let Some(&bytes) = stored.get(&pack.id) else { continue };
                        let id = pack.id;
                        let repository = self.clone();
                        reads.push(async move { (id, repository.read_pack(pack, bytes).await) });
                    }
                    None => ended = true,
                }
            }
            let Some((id, read)) = reads.next().await else { return Ok(DamagedPacks { packs: damaged, lost }) };
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

    /// Reads a pack of `bytes`; returns its length and what is wrong with it. It lies in scratch space, and one step of it in memory.
    async fn read_pack(self, pack: PackRecord, bytes: u64) -> Result<(u64, PackErrors), RepositoryError> {
        let (mut sealed, mut hasher, mut offset) = (Spill::new(self.scratch()), IdHasher::new(), 0);
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

/// Reports the packs that are not as the index says, and tells which they are.
pub(super) fn compare_packs(packs: &Packs, stored: &[Listed], report: &mut CheckReport) -> Result<HashSet<Id>, ScratchError> {
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
        Err(damage) => wrong.errors.push(format!("the header of {object} is damaged: {}", chain(&damage))),
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
    for (blob, damage) in damaged_blobs(sealer, pack, bytes)? {
        wrong.errors.push(format!("{} blob {} in {object} is damaged: {}", blob.kind, blob.id, chain(&damage)));
        wrong.blobs.push(blob.id);
    }
    Ok(wrong)
}
