//! Compares what an index says of packs with the store. An index that names a pack which is gone or damaged would make every later export
//! refer to what nobody can restore, since a blob that an index names is not stored again.
//!
//! **Packs that are doubted** are taken out of the index that an export looks into ([`Index::without_packs`]). It stores their
//! blobs again if it meets them, in other packs; an increment that would have inherited one of them reads everything. Nothing is
//! deleted and nothing of the repository rewritten: restores try every copy of a blob, and find the new one. So the next export of
//! a volume heals all that the volume still has. The old rows stay until a [prune](super::prune) drops them.
//!
//! What a machine remembers of lists whose blobs it looked up once ([`checked_tree`](super::checked_tree)) is believed only while each of
//! their packs is in this index, so that a doubt about one of them reaches every list that relies upon it.
//!
//! Where doubts come from:
//! * **A listing of `data/`**: packs that an index names and that are absent, or not as long as their blobs make them. An export lists
//!   when the last listing by this machine is [`LIST_EVERY`] old, or a check or a restore failed since. It costs a request for 1000
//!   packs: 16 TiB in packs of 16 MiB are a million packs, 1000 requests, half a cent. Where no time of a listing can be kept, every
//!   export lists.
//! * **`check --read-data`** and restores: packs whose bytes are not what they were. A check that reads everything replaces the list.
//! * **A sample**: with each listing [`SAMPLE_PACKS`] packs that an index names, drawn by lot, are read whole and hashed; at most
//!   [`SAMPLE_BYTES`]. With one volume exported hourly that is 256 MiB a day for each machine and repository: it finds damage by
//!   chance, and does not replace a check.
//!
//! **Kept** in the cache directory of this machine, in a folder for the repository, as two small files (the last listing, and what was
//! found damaged), each replaced as a whole. They are disposable: without them, an export lists, and damage waits for the next check.
//! They are not shared between machines: the open format has no place for them that restic would leave alone; `restic repair index`
//! and `restic repair packs` tell everybody by rewriting the index. Of two processes that write at once one wins, and the next listing or
//! check repeats the other's finding.
//!
//! **Memory**: 40 bytes for each pack while a listing is compared, and at most [`MAX_DOUBTS`] names of packs.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::cache::{Cached, RepositoryCache};
use super::error::RepositoryError;
use super::id::{Id, IdHasher};
use super::index::{Index, IndexedPack};
use super::open::Repository;
use super::store::{Key, Kind, Listed, StoreError};
use crate::scratch::ScratchError;
use crate::types::error::chain;

/// How old a listing may be for an export to rely on it.
pub const LIST_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Packs that are read back with each listing.
pub const SAMPLE_PACKS: usize = 4;
/// Bytes that are read back at most; a pack of ours has 16 MiB.
pub const SAMPLE_BYTES: u64 = 64 << 20;
/// Names that are kept, of 67 bytes each. A repository with more damage than that is listed by every export.
const MAX_DOUBTS: usize = 50_000;
/// A file of names and a time, with some room.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Bytes of a pack that are fetched at once.
const STEP_BYTES: u64 = 8 << 20;

/// What the last listing found.
#[derive(Debug, Default, Serialize, Deserialize)]
struct LastListing {
    /// When it was made, in seconds since the epoch.
    seconds: u64,
    /// Packs that an index named and that were not there, or not whole.
    absent: Vec<Id>,
}

impl LastListing {
    /// A listing that lies in the future is from before the clock was set.
    fn is_recent(&self, now: u64) -> bool {
        now.checked_sub(self.seconds).is_some_and(|age| age < LIST_EVERY.as_secs())
    }
}

/// Packs that were found damaged.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Damaged {
    packs: Vec<Id>,
}

/// The result of comparing an index with a listing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Compared {
    /// Packs that are not there, or not as long as any index file makes them.
    absent: HashSet<Id>,
    /// Some of the others, drawn by lot, with their lengths in bytes.
    sample: Vec<IndexedPack>,
}

/// Compares the packs that an index names with those that the store has.
fn compare(index: &Index, stored: Vec<Listed>) -> Result<Compared, ScratchError> {
    let stored: HashMap<Id, u64> = stored.into_iter().map(|listed| (listed.id, listed.bytes)).collect();
    let (mut absent, mut whole, mut sample) = (HashSet::new(), 0_u64, Vec::with_capacity(SAMPLE_PACKS));
    index.each_pack(|pack| match stored.get(&pack.id) {
        Some(found) if *found == pack.bytes => {
            // Each has the same chance, however many there are.
            match rand::random_range(0..=whole) {
                _ if sample.len() < SAMPLE_PACKS => sample.push(pack),
                place if place < SAMPLE_PACKS as u64 => sample[place as usize] = pack,
                _ => {}
            }
            whole += 1;
        }
        _ => {
            absent.insert(pack.id);
        }
    })?;
    if !absent.is_empty() {
        // Two index files may name a pack, and one of them only a part of it.
        index.each_pack(|pack| {
            if stored.get(&pack.id) == Some(&pack.bytes) {
                absent.remove(&pack.id);
            }
        })?;
    }
    Ok(Compared { absent, sample })
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Repository {
    /// The index for an export: without what packs hold that are absent, short or known to be damaged. Lists the packs when that is due,
    /// and reads some of them.
    ///
    /// # Errors
    /// When the index cannot be read or the packs cannot be listed.
    pub async fn load_trusted_index(&self) -> Result<Index, RepositoryError> {
        // Packs are stored before an index names them, so that all that this index names is in a listing that comes later.
        let mut index = self.load_index().await?;
        let last = self.last_listing().await?;
        let mut doubted: HashSet<Id> = match last {
            Some(last) => last.absent.into_iter().collect(),
            None => {
                let compared;
                (index, compared) = self.list_packs(index).await?;
                self.read_back(compared.sample).await?;
                compared.absent
            }
        };
        doubted.extend(self.damaged().await?.packs);
        if !doubted.is_empty() {
            tracing::warn!(
                packs = doubted.len(),
                first = doubted.iter().min().map(Id::to_string),
                "packs are absent, short or damaged; what the export meets of their contents is stored again"
            );
            index.without_packs(&doubted)?;
        }
        Ok(index)
    }

    /// Notes that this machine found these packs damaged: all that are, or some of them.
    pub(super) async fn note_damaged(&self, packs: impl IntoIterator<Item = Id>, whole: Whole) -> Result<(), RepositoryError> {
        let known = match whole {
            Whole::Yes => Vec::new(),
            Whole::No => self.damaged().await?.packs,
        };
        let mut packs: Vec<Id> = packs.into_iter().chain(known).collect();
        packs.sort_unstable();
        packs.dedup();
        if packs.len() > MAX_DOUBTS {
            tracing::warn!(packs = packs.len(), kept = MAX_DOUBTS, "more packs are damaged than are remembered");
            packs.truncate(MAX_DOUBTS);
        }
        self.keep_doubts(Cached::Damaged, &Damaged { packs }).await
    }

    /// A restore met damage in these packs: no export builds upon them, and the next one lists all packs.
    pub(crate) async fn doubt(&self, packs: impl IntoIterator<Item = Id>) {
        let packs: HashSet<Id> = packs.into_iter().collect();
        let noted = async {
            self.keep_doubts(Cached::Listing, &LastListing::default()).await?;
            if packs.is_empty() { Ok(()) } else { self.note_damaged(packs, Whole::No).await }
        };
        if let Err(error) = noted.await {
            tracing::debug!(error = %chain(&error), "damaged packs could not be noted");
        }
    }

    /// Keeps what a listing of all packs found.
    pub(super) async fn note_listing(&self, absent: &HashSet<Id>) -> Result<(), RepositoryError> {
        // What is too long to be kept is listed again.
        let listing = match absent.len() {
            0..=MAX_DOUBTS => LastListing { seconds: now(), absent: absent.iter().copied().collect() },
            _ => LastListing::default(),
        };
        self.keep_doubts(Cached::Listing, &listing).await
    }

    async fn last_listing(&self) -> Result<Option<LastListing>, RepositoryError> {
        let last: Option<LastListing> = self.kept_doubts(Cached::Listing).await?;
        Ok(last.filter(|last| last.is_recent(now())))
    }

    /// Packs that this machine has found damaged.
    pub(super) async fn damaged_packs(&self) -> Result<HashSet<Id>, RepositoryError> {
        Ok(self.damaged().await?.packs.into_iter().collect())
    }

    async fn damaged(&self) -> Result<Damaged, RepositoryError> {
        Ok(self.kept_doubts(Cached::Damaged).await?.unwrap_or_default())
    }

    /// Lists all packs and compares them with the index.
    async fn list_packs(&self, index: Index) -> Result<(Index, Compared), RepositoryError> {
        let stored = self.store().list(Kind::Data).await?;
        let compared = tokio::task::spawn_blocking(move || compare(&index, stored).map(|compared| (index, compared)));
        let (index, compared) = compared.await??;
        self.note_listing(&compared.absent).await?;
        Ok((index, compared))
    }

    /// Reads packs whole, and notes those that are damaged. Where nothing can be noted nothing is read.
    async fn read_back(&self, packs: Vec<IndexedPack>) -> Result<(), RepositoryError> {
        let mut left = SAMPLE_BYTES;
        for pack in packs.into_iter().filter(|_| self.doubts().is_some()) {
            left = match left.checked_sub(pack.bytes) {
                Some(left) => left,
                None => break,
            };
            if !self.is_sound(&pack).await? {
                let key = Key::File(Kind::Data, pack.id);
                tracing::warn!(pack = %key, "a pack that was read back is damaged; nothing builds upon it any more");
                self.note_damaged([pack.id], Whole::No).await?;
            }
        }
        Ok(())
    }

    /// Whether the bytes of a pack hash to its name.
    async fn is_sound(&self, pack: &IndexedPack) -> Result<bool, RepositoryError> {
        let (mut hasher, mut offset) = (IdHasher::new(), 0);
        while offset < pack.bytes {
            let end = (offset + STEP_BYTES).min(pack.bytes);
            match self.read_pack_range(&pack.id, offset..end).await {
                Ok(step) => {
                    let add = move || {
                        hasher.update(&step);
                        hasher
                    };
                    hasher = tokio::task::spawn_blocking(add).await?;
                }
                Err(RepositoryError::Store(StoreError::Truncated { .. } | StoreError::NotFound { .. })) => return Ok(false),
                Err(error) => return Err(error),
            }
            offset = end;
        }
        Ok(hasher.finish() == pack.id)
    }

    async fn keep_doubts(&self, what: Cached, document: &impl Serialize) -> Result<(), RepositoryError> {
        let Some(doubts) = self.doubts().cloned() else { return Ok(()) };
        // Numbers and names always serialise.
        let Ok(json) = serde_json::to_vec(document) else { return Ok(()) };
        Ok(tokio::task::spawn_blocking(move || doubts.put(what, |file| file.write_all(&json))).await?)
    }

    /// Reads a file of the cache; `None` when it does not read.
    async fn kept_doubts<T: for<'a> Deserialize<'a> + Send + 'static>(&self, what: Cached) -> Result<Option<T>, RepositoryError> {
        let Some(doubts) = self.doubts().cloned() else { return Ok(None) };
        Ok(tokio::task::spawn_blocking(move || read(&doubts, what)).await?)
    }
}

/// Whether a list of damaged packs leaves none out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// All packs were read.
    Yes,
    /// Others may be damaged too.
    No,
}

fn read<T: for<'a> Deserialize<'a>>(doubts: &RepositoryCache, what: Cached) -> Option<T> {
    let mut json = Vec::new();
    doubts.open(what)?.take(MAX_FILE_BYTES).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}
