//! Data blocks that are allocated and that nothing is mapped to, found and given back, offline.
//!
//! The kernel allocates a data block, has it written, and only then maps it; a commit between the two, asked for by something else, makes
//! the allocation durable. When the power is cut before the next one, nobody has the block, and nobody ever frees it. (A discard
//! that is under way counts its blocks once more for a while, which comes to the same.) `thin_check` says nothing of such blocks:
//! versions before 1.0 compare the space map of the data with nothing.
//!
//! [`Reclaim::plan`] reads the trees of all devices, those of a metadata snapshot included, and then the space map, and says which
//! blocks of metadata are to be what; it writes nothing. What is decided for each data block:
//!
//! * mapped and counted: right, however often it is counted;
//! * mapped and not counted: damage, since the kernel would give it to somebody else. It is an error, and nothing is reclaimed;
//! * counted once or twice, and not mapped: leaked. Its count becomes zero;
//! * counted three times or more, and not mapped: no power cut does that. It is left as it is, and told ([`Reclaim::left`]).
//!
//! Where there is anything to do, every entry of the index becomes what it should be, and the superblock's number of allocated blocks
//! becomes what was counted. So a plan can be carried out in any order and be interrupted anywhere as long as the superblock comes
//! last: whoever plans anew finds that number wrong and does all that is left. The changed blocks are overwritten in their places, which
//! a pool that is active does not bear.
//!
//! Memory: a bit for each data block where any are mapped, and every block that is to be changed.

use super::bitmap;
use super::blocks::{BLOCK_BYTES, MetadataBlock, MetadataSource};
use super::check::{SUPERBLOCK_SEED, verify};
use super::damage::Damage;
use super::error::ThinMetadataError;
use super::reader::{Interrupt, Reader};
use super::space_map::{
    Bitmap, ChangedBlock, Count, IndexEntry, PER_BITMAP, SpaceMap, allocated, count, seal_bitmap, set_free, with_allocated,
};
use super::thin::ThinMetadata;
use crate::dm::DataBlocks;

/// Counts of a bitmap, as the index says them.
const ALL: u32 = PER_BITMAP as u32;

/// How the leaked data blocks of a pool are given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reclaim {
    /// By how many blocks fewer are allocated then.
    pub reclaimed: DataBlocks,
    /// Blocks that nothing is mapped to, and that stay allocated.
    pub left: DataBlocks,
    /// What is to be written, the superblock last. Nothing when nothing is leaked.
    pub changes: Vec<ChangedBlock>,
}

impl Reclaim {
    /// Looks for leaked blocks of a pool that is not active, and plans what gives them back.
    ///
    /// # Errors
    /// [`ThinMetadataError::Damaged`] where the metadata does not fit together: a mapped block that is free among others; otherwise as for
    /// [`ThinMetadata::devices`].
    pub fn plan(blocks: &dyn MetadataSource, interrupt: Interrupt<'_>) -> Result<Self, ThinMetadataError> {
        let live = ThinMetadata::live(blocks, interrupt)?;
        let held = live.superblock().held_root.map(|_| ThinMetadata::held(blocks, interrupt)).transpose()?;
        let mapped = live.mapped_data(held.as_ref())?;
        let mut reader = Reader::new(blocks, interrupt);
        let superblock = *reader.single(MetadataBlock::SUPERBLOCK)?;
        verify(&superblock, SUPERBLOCK_SEED, MetadataBlock::SUPERBLOCK)?;
        let map = SpaceMap::of(&superblock, &reader)?;
        let mut search =
            Search { mapped, met: bitmap::Bitmap::new(MetadataBlock::LIMIT), kept: 0, leaked: 0, left: 0, changes: Vec::new() };
        let index = map.each_bitmap(&mut reader, &mut |bitmap, entry| search.look_at(&bitmap, entry))?;
        let Search { kept, leaked, left, mut changes, .. } = search;
        if leaked == 0 && kept == map.allocated {
            changes.clear();
        } else {
            changes.extend(index);
            let bytes = Box::new(with_allocated(&superblock, kept));
            changes.push(ChangedBlock { place: MetadataBlock::SUPERBLOCK, bytes });
        }
        let reclaimed = DataBlocks::new(map.allocated).less(DataBlocks::new(kept));
        Ok(Self { reclaimed, left: DataBlocks::new(left), changes })
    }

    /// Whether anything is to be written.
    pub const fn is_needed(&self) -> bool {
        !self.changes.is_empty()
    }

    /// What a plan reclaims that makes the superblock `new` of `old`; `None` when they differ in anything that no plan changes.
    pub fn between(old: &[u8; BLOCK_BYTES], new: &[u8; BLOCK_BYTES]) -> Option<DataBlocks> {
        let (before, after) = (allocated(old), allocated(new));
        (with_allocated(old, after) == *new).then(|| DataBlocks::new(before).less(DataBlocks::new(after)))
    }
}

/// What was found so far.
struct Search {
    /// Data blocks that something is mapped to.
    mapped: bitmap::Bitmap,
    /// Bitmaps that were looked at.
    met: bitmap::Bitmap,
    /// Data blocks that stay allocated.
    kept: u64,
    leaked: u64,
    left: u64,
    changes: Vec<ChangedBlock>,
}

impl Search {
    fn look_at(&mut self, bitmap: &Bitmap<'_>, entry: &mut IndexEntry) -> Result<(), ThinMetadataError> {
        if self.met.put(bitmap.place.number()) {
            return Err(ThinMetadataError::damaged(bitmap.place, Damage::SharedBitmap));
        }
        let (mut leaked, mut free, mut first_free) = (Vec::new(), ALL, None);
        for block in 0..bitmap.length {
            let is_mapped = self.mapped.has(bitmap.first + block as u64);
            let is_free = match (count(bitmap.bytes, block), is_mapped) {
                (Count::Free, false) => true,
                (Count::Free, true) => {
                    return Err(ThinMetadataError::damaged(bitmap.place, Damage::MappedButFree));
                }
                (Count::Few, false) => {
                    leaked.push(block);
                    true
                }
                (Count::Many, false) => {
                    self.left += 1;
                    false
                }
                (Count::Few | Count::Many, true) => false,
            };
            if is_free {
                first_free.get_or_insert(block);
            } else {
                free -= 1;
            }
        }
        self.kept += u64::from(ALL - free);
        self.leaked += leaked.len() as u64;
        entry.free = free;
        if let Some(first_free) = first_free.and_then(|block| u32::try_from(block).ok()) {
            entry.none_free_before = entry.none_free_before.min(first_free);
        }
        if !leaked.is_empty() {
            let mut bytes = Box::new(*bitmap.bytes);
            leaked.into_iter().for_each(|block| set_free(&mut bytes, block));
            seal_bitmap(&mut bytes);
            self.changes.push(ChangedBlock { place: bitmap.place, bytes });
        }
        Ok(())
    }
}
