//! Sets of packs: those of one index that a list of blobs relies upon, a bit for each, and how they are found again in another index.
//!
//! From one index to the next a pack is known by its id and by its length as an index file makes it, which is the sum of what the blobs
//! take that the file names in it. A pack that another index file names with other blobs, or with a part of them, has another
//! length; so what was found in a pack is still found there if both are the same.

use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned, transmute};

use super::{Index, IndexedPack, View};
use crate::repository::id::Id;
use crate::scratch::{Rows, ScratchError, Sorter};

/// Bytes of a pack in a list of packs.
pub(in crate::repository) const PACK_ROW_BYTES: usize = size_of::<PackLayout>();
const NUMBERED_ROW_BYTES: usize = size_of::<NumberedLayout>();

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct PackLayout {
    id: Id,
    bytes: U64,
}

/// A pack in a list of packs, with the numbers of its view and itself.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct NumberedLayout {
    pack: PackLayout,
    view: U32,
    number: U32,
}

/// A pack of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackNumber {
    pub(super) view: usize,
    pub(super) pack: u32,
}

/// Some of the packs of one index, and of no other. Shared between threads.
#[derive(Debug)]
pub struct PackSet {
    views: Vec<Vec<AtomicU64>>,
}

impl PackSet {
    fn none(views: &[View]) -> Self {
        let words = |view: &View| (0..view.segment().packs().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { views: views.iter().map(words).collect() }
    }

    fn word(&self, number: PackNumber) -> Option<(&AtomicU64, u64)> {
        let word = self.views.get(number.view)?.get(number.pack as usize / 64)?;
        Some((word, 1 << (number.pack % 64)))
    }

    pub fn insert(&self, number: PackNumber) {
        if let Some((word, bit)) = self.word(number) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn contains(&self, number: PackNumber) -> bool {
        self.word(number).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }
}

impl IndexedPack {
    fn layout(self) -> PackLayout {
        PackLayout { id: self.id, bytes: self.bytes.into() }
    }

    pub(in crate::repository) fn to_row(self) -> [u8; PACK_ROW_BYTES] {
        transmute!(self.layout())
    }
}

/// A row of a pack that an index names, and its number there.
fn numbered(pack: IndexedPack, number: PackNumber) -> [u8; NUMBERED_ROW_BYTES] {
    transmute!(NumberedLayout { pack: pack.layout(), view: (number.view as u32).into(), number: number.pack.into() })
}

fn number_of(row: [u8; NUMBERED_ROW_BYTES]) -> PackNumber {
    let NumberedLayout { view, number, .. } = transmute!(row);
    PackNumber { view: view.get() as usize, pack: number.get() }
}

/// A Bloom filter: tells most packs that are not in a set, with eight bits for each that is.
struct Filter {
    words: Vec<u64>,
}

impl Filter {
    fn of(packs: &Rows<PACK_ROW_BYTES>) -> Result<Self, ScratchError> {
        let mut filter = Self { words: vec![0; packs.len().div_ceil(8).next_power_of_two() as usize] };
        for row in packs.iter(0, u64::MAX) {
            let PackLayout { id, .. } = transmute!(row?);
            let (word, bit) = filter.place(&id);
            filter.words[word] |= bit;
        }
        Ok(filter)
    }

    /// Ids are hashes, so that any of their bits spread them evenly.
    fn place(&self, id: &Id) -> (usize, u64) {
        let hash = id.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        ((hash >> 6) as usize & (self.words.len() - 1), 1 << (hash & 63))
    }

    fn may_have(&self, id: &Id) -> bool {
        let (word, bit) = self.place(id);
        self.words[word] & bit != 0
    }
}

impl Index {
    /// An empty set of its packs.
    pub fn no_packs(&self) -> PackSet {
        PackSet::none(&self.views)
    }

    /// Gives `visit` the packs of the set.
    pub fn each_pack_of(&self, set: &PackSet, mut visit: impl FnMut(IndexedPack)) -> Result<(), ScratchError> {
        for (view, packs) in self.views.iter().enumerate() {
            packs.each_numbered_pack(|pack, row| {
                if set.contains(PackNumber { view, pack }) {
                    visit(IndexedPack { id: row.id, bytes: row.bytes });
                }
            })?;
        }
        Ok(())
    }

    /// The packs in the list, which ascends, if each of them is visible with the same length; else `None`.
    pub(in crate::repository) fn find_packs(&self, packs: &Rows<PACK_ROW_BYTES>) -> Result<Option<PackSet>, ScratchError> {
        let filter = Filter::of(packs)?;
        let mut named = Sorter::new(&self.scratch);
        for (view, visible) in self.views.iter().enumerate() {
            let mut failed = Ok(());
            visible.each_numbered_pack(|pack, row| {
                if failed.is_ok() && filter.may_have(&row.id) {
                    let row = IndexedPack { id: row.id, bytes: row.bytes };
                    failed = named.push(numbered(row, PackNumber { view, pack }));
                }
            })?;
            failed?;
        }
        let (named, found) = (named.finish_runs()?, self.no_packs());
        let mut named = named.iter();
        for wanted in packs.iter(0, u64::MAX) {
            let wanted = wanted?;
            loop {
                let Some(row) = named.next().transpose()? else { return Ok(None) };
                if row[..PACK_ROW_BYTES] > wanted[..] {
                    return Ok(None);
                }
                if row.starts_with(&wanted) {
                    found.insert(number_of(row));
                    break;
                }
            }
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;
    use crate::repository::blob::{BlobKind, PackRecord, PackedBlob};
    use crate::scratch::{RowsWriter, Scratch};
    use proptest::prelude::*;

    fn id(number: u64) -> Id {
        Id::of(&number.to_le_bytes())
    }

    /// The pack of that number with so many blobs, which only it has.
    fn record(number: u64, blobs: u64) -> PackRecord {
        let blob = |at: u64| PackedBlob {
            id: id(number * 1000 + at),
            kind: BlobKind::Data,
            offset: at as u32 * 40,
            length: 40,
            uncompressed_length: None,
        };
        PackRecord { id: id(number), blobs: (0..blobs).map(blob).collect() }
    }

    fn rows(scratch: &Scratch, packs: impl IntoIterator<Item = IndexedPack>) -> Rows<PACK_ROW_BYTES> {
        let sorted: BTreeSet<_> = packs.into_iter().map(IndexedPack::to_row).collect();
        let mut rows = RowsWriter::new(scratch);
        sorted.iter().for_each(|row| rows.push(row).unwrap());
        rows.finish().unwrap()
    }

    fn packs_of(index: &Index, set: &PackSet) -> Vec<IndexedPack> {
        let mut packs = Vec::new();
        index.each_pack_of(set, |pack| packs.push(pack)).unwrap();
        packs
    }

    proptest! {
        #[test]
        fn packs_are_found_in_another_index_if_it_names_all_of_them_alike(
            named in prop::collection::btree_map(0_u64..40, 1_u64..4, 1..40),
            wanted in prop::collection::btree_set(0_u64..40, 0..40),
            hidden in prop::option::of(0_u64..40),
            memory in 0_usize..2000,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let scratch = Scratch::new(folder.path(), 1 << 30, memory);
            let records: Vec<_> = named.iter().map(|(&number, &blobs)| record(number, blobs)).collect();
            let first = Index::of(&scratch, &records).unwrap();
            let (by_look_up, by_claim) = (first.no_packs(), first.no_packs());
            for number in wanted.iter().filter(|number| named.contains_key(number)) {
                let blob = id(number * 1000);
                let mut lookup = first.sorted_lookup(BlobKind::Data, 1);
                by_look_up.insert(lookup.find(&blob).unwrap().unwrap().pack);
                first.claim_data(&blob, &by_claim).unwrap();
            }
            let used = packs_of(&first, &by_look_up);
            prop_assert_eq!(&used, &packs_of(&first, &by_claim));
            let expected: HashSet<Id> = wanted.iter().filter(|number| named.contains_key(number)).map(|&number| id(number)).collect();
            prop_assert_eq!(used.iter().map(|pack| pack.id).collect::<HashSet<_>>(), expected.clone());

            let mut second = Index::of(&scratch, records.iter().rev()).unwrap();
            second.without_packs(&hidden.map(id).into_iter().collect()).unwrap();
            let found = second.find_packs(&rows(&scratch, used.iter().copied())).unwrap();
            let is_hidden = hidden.is_some_and(|number| expected.contains(&id(number)));
            prop_assert_eq!(found.is_none(), is_hidden);
            if let Some(found) = found {
                let found: HashSet<_> = packs_of(&second, &found).into_iter().map(|pack| pack.id).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn a_pack_of_which_an_index_names_only_a_part_is_another() {
        let scratch = Scratch::of_process();
        let mut whole = Vec::new();
        let index = Index::of(&scratch, &[record(1, 2), record(2, 2)]).unwrap();
        index.each_pack(|pack| whole.push(pack)).unwrap();
        let list = || rows(&scratch, whole.iter().copied());
        assert!(index.find_packs(&list()).unwrap().is_some());
        for others in [vec![record(1, 1), record(2, 2)], vec![record(1, 2)], Vec::new()] {
            assert!(Index::of(&scratch, &others).unwrap().find_packs(&list()).unwrap().is_none());
        }
        let both = Index::of(&scratch, &[record(1, 1), record(2, 2), record(1, 2)]).unwrap();
        assert!(both.find_packs(&list()).unwrap().is_some(), "one index file names all of it");
    }
}
