//! Which blob lies in which pack.
//!
//! An index is some [segments](segment): files of blobs sorted by id, 51 bytes each, of which a fifth of a byte is in memory. They are
//! kept in a [cache](shelf) from one transfer to the next, shared by all transfers and processes of a machine, and merged as they
//! become many; where there is no cache they are made in [scratch space](crate::scratch) each time, of which the first 4 MiB are in
//! memory. The same blob may lie in several packs, when two writers stored it at once: all are kept, [`Index::get`] tells the first
//! and [`Index::locations`] all.
//!
//! **Claims.** Blobs that a transfer stores are claimed first, so that its workers store each once; the claims, 32 bytes each, are a set
//! that spills as well. Claims are those of one index, and so of one transfer: another transfer that relied on them would refer to
//! blobs that are not stored if this one failed. What one has stored, others see once an index file names it.
//!
//! On the store, an index file names packs and their blobs. Packs are written before the index that names them, and the index
//! before a snapshot that refers to them. Readers go the other way: snapshots first, then indexes.

mod build;
mod entry;
mod file;
mod layout;
mod load;
mod pack_set;
mod packs;
mod page;
mod salvage;
mod scan;
mod segment;
mod shelf;
mod view;
mod walk;
mod writer;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::blob::{BlobKind, BlobLocation, PackRecord};
use super::id::Id;
use crate::scratch::{Inserted, KeySet, Scratch, ScratchError};
use entry::{BlobRow, PackRow};
use segment::Enough;
use view::View;

pub(super) use build::IndexBuilder;
pub(super) use file::decode;
pub(super) use pack_set::PACK_ROW_BYTES;
pub use pack_set::{PackNumber, PackSet};
pub(super) use packs::Packs;
pub use walk::{FoundBlob, SortedLookup};
pub use writer::IndexWriter;

/// Every blob of the repository that an index names, and those that this process is storing. Shared between threads.
#[derive(Debug)]
pub struct Index {
    scratch: Scratch,
    views: Vec<View>,
    claims: Mutex<Claims>,
}

#[derive(Debug)]
struct Claims {
    data: KeySet,
    /// Claimed trees: a handful for each snapshot that is made.
    trees: HashSet<Id>,
}

impl Claims {
    fn new(scratch: &Scratch) -> Self {
        Self { data: KeySet::new(scratch), trees: HashSet::new() }
    }
}

/// The answer to a claim: who stores a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is stored, or another worker is storing it: the caller may refer to it.
    Known,
    /// The caller must store it.
    Yours,
}

/// A pack that index files name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedPack {
    pub id: Id,
    /// How long it must be, in bytes, to hold the blobs that an index file names.
    pub bytes: u64,
}

impl IndexedPack {
    /// The pack as an index file with this record will name it.
    pub fn of(record: &PackRecord) -> Self {
        let PackRow { id, bytes, .. } = PackRow::of(record, 0);
        Self { id, bytes }
    }
}

impl IndexBuilder {
    /// An index of what was added, in scratch space.
    pub(super) fn into_index(self) -> Result<Index, ScratchError> {
        let (scratch, sorted) = (self.scratch().clone(), self.finish()?);
        let view = View::new(Arc::new(sorted.write_to_scratch()?), |_| true)?;
        Ok(Index::new(&scratch, vec![view]))
    }
}

impl Index {
    fn new(scratch: &Scratch, views: Vec<View>) -> Self {
        Self { scratch: scratch.clone(), views, claims: Mutex::new(Claims::new(scratch)) }
    }

    /// The index of these packs.
    pub fn of<'a>(scratch: &Scratch, records: impl IntoIterator<Item = &'a PackRecord>) -> Result<Self, ScratchError> {
        let mut builder = IndexBuilder::new(scratch);
        let file = Id::of(b"no file");
        records.into_iter().try_for_each(|record| builder.add(file, std::slice::from_ref(record)))?;
        builder.into_index()
    }

    /// Takes all blobs out of sight that lie in `packs`, for packs that do not exist or are damaged.
    ///
    /// # Errors
    /// The index must then not be used.
    pub fn without_packs(&mut self, packs: &HashSet<Id>) -> Result<(), ScratchError> {
        self.views.iter_mut().try_for_each(|view| view.without_packs(packs))
    }

    /// Gives `visit` every pack, as often as index files name it, in no order. Quick: packs are fewer than blobs by far.
    pub fn each_pack(&self, mut visit: impl FnMut(IndexedPack)) -> Result<(), ScratchError> {
        let mut visit = |PackRow { id, bytes, .. }| visit(IndexedPack { id, bytes });
        self.views.iter().try_for_each(|view| view.each_pack(&mut visit))
    }

    /// Where the blob lies; `None` when no index named it when this was loaded.
    pub fn get(&self, kind: BlobKind, id: &Id) -> Result<Option<BlobLocation>, ScratchError> {
        Ok(self.find(kind, id)?.map(|(_, location)| location))
    }

    /// As [`Index::get`], with the number of the blob among those of its kind, below [`Index::count`].
    pub(super) fn find(&self, kind: BlobKind, id: &Id) -> Result<Option<(u64, BlobLocation)>, ScratchError> {
        match self.first(kind, id)? {
            Some(FirstRow { number, view, blob }) => Ok(Some((number, location(&self.views[view], blob)?))),
            None => Ok(None),
        }
    }

    /// Everywhere the blob lies, each place once: first where [`Index::get`] says, then its other copies.
    pub fn locations(&self, kind: BlobKind, id: &Id) -> Result<Vec<BlobLocation>, ScratchError> {
        let mut locations = Vec::new();
        for view in &self.views {
            let mut blobs = Vec::new();
            view.segment().find(kind, id, |_, blob| {
                blobs.extend(view.has_pack(blob.pack).then_some(blob));
                Enough::No
            })?;
            for blob in blobs {
                let location = location(view, blob)?;
                if !locations.contains(&location) {
                    locations.push(location);
                }
            }
        }
        Ok(locations)
    }

    /// The first row of a blob that is visible.
    fn first(&self, kind: BlobKind, id: &Id) -> Result<Option<FirstRow>, ScratchError> {
        let mut before = 0;
        for (at, view) in self.views.iter().enumerate() {
            let mut found = None;
            view.segment().find(kind, id, |number, blob| {
                if !view.has_pack(blob.pack) {
                    return Enough::No;
                }
                found = Some(FirstRow { number: before + number, view: at, blob });
                Enough::Yes
            })?;
            if found.is_some() {
                return Ok(found);
            }
            before += view.segment().len(kind);
        }
        Ok(None)
    }

    /// A look-up of about `count` ids in ascending order, quicker than as many calls of [`Index::get`].
    pub fn sorted_lookup(&self, kind: BlobKind, count: u64) -> SortedLookup<'_> {
        SortedLookup::new(&self.views, kind, count)
    }

    /// Decides who stores a blob, so that each new one is stored once however many workers meet it. A claim lasts until the
    /// index is dropped: a worker that cannot store what it claimed must fail its whole export.
    pub fn claim(&self, kind: BlobKind, id: &Id) -> Result<Claim, ScratchError> {
        if self.first(kind, id)?.is_some() { Ok(Claim::Known) } else { self.claim_new(kind, id) }
    }

    /// As [`Index::claim`] of data; the pack that has the blob, if one does, is added to `used`.
    pub fn claim_data(&self, id: &Id, used: &PackSet) -> Result<Claim, ScratchError> {
        match self.first(BlobKind::Data, id)? {
            Some(FirstRow { view, blob, .. }) => {
                used.insert(PackNumber { view, pack: blob.pack });
                Ok(Claim::Known)
            }
            None => self.claim_new(BlobKind::Data, id),
        }
    }

    /// Claims a blob that no index names.
    fn claim_new(&self, kind: BlobKind, id: &Id) -> Result<Claim, ScratchError> {
        // A thread that panicked while it held the lock ends its export with an error; what it left is not used.
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = match kind {
            BlobKind::Data => claims.data.insert(*id.as_bytes())? == Inserted::New,
            BlobKind::Tree => claims.trees.insert(*id),
        };
        Ok(if is_new { Claim::Yours } else { Claim::Known })
    }

    /// A bound of the numbers of blobs of `kind`.
    pub(super) fn count(&self, kind: BlobKind) -> u64 {
        self.views.iter().map(|view| view.segment().len(kind)).sum()
    }

    /// Number of blobs, counted as often as index files name them.
    pub fn len(&self) -> u64 {
        self.views.iter().map(View::live_blobs).sum()
    }

    /// True when it names no blob.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The packs that it names, with their blobs.
    pub(super) fn packs(&self) -> Result<Packs, ScratchError> {
        let mut packs = packs::Builder::new(&self.scratch);
        for view in &self.views {
            for kind in [BlobKind::Data, BlobKind::Tree] {
                for row in view.segment().rows(kind) {
                    let blob = BlobRow::of_row(&row?);
                    if view.has_pack(blob.pack) {
                        packs.add(kind, blob.in_pack(view.segment().pack(blob.pack)?.id))?;
                    }
                }
            }
        }
        packs.finish()
    }
}

/// The first visible row of a blob.
struct FirstRow {
    /// Its number among the rows of its kind.
    number: u64,
    /// The number of the view that it lies in.
    view: usize,
    blob: BlobRow,
}

/// Where a blob lies, whose row is one of the view's.
fn location(view: &View, blob: BlobRow) -> Result<BlobLocation, ScratchError> {
    Ok(blob.in_pack(view.segment().pack(blob.pack)?.id).location)
}

#[cfg(test)]
mod tests;
