//! Which ranges two files do not share: a merge of their extents, made while they are listed.

use std::io;

use crate::block::fiemap::FileExtent;
use crate::types::ByteRange;

/// The ranges in which two files, both unchanging, may differ. Extents ascend; what has none is a hole.
///
/// The same physical place at the same offset is the same content; two holes are the same; everything else, and every extent
/// whose place says nothing, is reported. An error of either list ends the stream.
pub fn compare(
    base: impl Iterator<Item = io::Result<FileExtent>>,
    target: impl Iterator<Item = io::Result<FileExtent>>,
) -> impl Iterator<Item = io::Result<ByteRange>> {
    let (mut base, mut target) = (Side::new(base), Side::new(target));
    let mut failed = false;
    std::iter::from_fn(move || {
        while !failed {
            let step = base.current().and_then(|one| target.current().map(|other| (one, other)));
            let (one, other) = match step {
                Ok(pair) => pair,
                Err(error) => {
                    failed = true;
                    return Some(Err(error));
                }
            };
            let (start, changed) = match (one, other) {
                (None, None) => return None,
                (Some(only), None) | (None, Some(only)) => (only.logical, true),
                (Some(one), Some(other)) if one.logical == other.logical => (one.logical, !is_shared(one, other)),
                (Some(one), Some(other)) => (one.logical.min(other.logical), true),
            };
            // Up to the next place where either side begins or ends.
            let end = [one, other].into_iter().flatten().map(|extent| edge_after(extent, start)).min().unwrap_or(start);
            base.advance_to(end);
            target.advance_to(end);
            if changed && let Some(range) = ByteRange::between(start, end) {
                return Some(Ok(range));
            }
        }
        None
    })
}

/// Ranges cut at `size`.
pub fn up_to(ranges: impl Iterator<Item = io::Result<ByteRange>>, size: u64) -> impl Iterator<Item = io::Result<ByteRange>> {
    ranges.filter_map(move |range| match range {
        Ok(range) => ByteRange::between(range.offset(), range.end().min(size)).map(Ok),
        Err(error) => Some(Err(error)),
    })
}

fn is_shared(one: FileExtent, other: FileExtent) -> bool {
    one.physical == other.physical && !one.flags.is_opaque() && !other.flags.is_opaque()
}

/// The first offset after `start` at which an extent begins or ends.
fn edge_after(extent: FileExtent, start: u64) -> u64 {
    if extent.logical > start { extent.logical } else { extent.logical.saturating_add(extent.length) }
}

/// One list, with its extent in hand cut to what was not compared yet.
struct Side<I> {
    extents: I,
    current: Option<FileExtent>,
}

impl<I: Iterator<Item = io::Result<FileExtent>>> Side<I> {
    fn new(extents: I) -> Self {
        Self { extents, current: None }
    }

    fn current(&mut self) -> io::Result<Option<FileExtent>> {
        if self.current.is_none() {
            self.current = self.extents.next().transpose()?;
        }
        Ok(self.current)
    }

    fn advance_to(&mut self, offset: u64) {
        self.current = self.current.and_then(|extent| extent.within(ByteRange::between(offset, u64::MAX)?));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::fiemap::ExtentFlags;
    use crate::types::range::coalesce;

    const OPAQUE: u32 = 0x2;

    /// One block of a model file: no extent, an extent at a place, or one whose place is unknown.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Block {
        Hole,
        At(u64),
        Opaque,
    }

    fn block() -> impl Strategy<Value = Block> {
        prop_oneof![3 => Just(Block::Hole), 8 => (0_u64..24).prop_map(Block::At), 1 => Just(Block::Opaque)]
    }

    /// Extents of a model file; neighbours that continue each other are joined where `join` says so.
    fn extents(blocks: &[Block], join: &[bool]) -> Vec<io::Result<FileExtent>> {
        let mut extents: Vec<FileExtent> = Vec::new();
        for (logical, block) in (0_u64..).zip(blocks) {
            let (physical, bits) = match *block {
                Block::Hole => continue,
                Block::At(place) => (place, 0),
                Block::Opaque => (0, OPAQUE),
            };
            match extents.last_mut() {
                Some(last)
                    if join[logical as usize]
                        && last.logical + last.length == logical
                        && bits == 0
                        && last.flags.bits() == 0
                        && last.physical + last.length == physical =>
                {
                    last.length += 1;
                }
                _ => extents.push(FileExtent { logical, physical, length: 1, flags: ExtentFlags::from_bits(bits) }),
            }
        }
        extents.into_iter().map(Ok).collect()
    }

    proptest! {
        #[test]
        fn changed_blocks_are_those_that_are_not_the_same_place_in_both(
            base in proptest::collection::vec(block(), 0..64),
            target in proptest::collection::vec(block(), 0..64),
            copied in proptest::collection::vec(any::<bool>(), 64),
            join in proptest::collection::vec(any::<bool>(), 64),
        ) {
            // Most of a target is what the base had.
            let target: Vec<Block> = target.iter().enumerate()
                .map(|(index, block)| if copied[index] { base.get(index).copied().unwrap_or(*block) } else { *block }).collect();
            let at = |blocks: &[Block], index: usize| blocks.get(index).copied().unwrap_or(Block::Hole);
            let expected: Vec<bool> = (0..64).map(|index| match (at(&base, index), at(&target, index)) {
                (Block::Hole, Block::Hole) => false,
                (Block::At(one), Block::At(other)) => one != other,
                _ => true,
            }).collect();
            let reversed: Vec<bool> = join.iter().map(|join| !join).collect();
            let ranges: Vec<ByteRange> =
                coalesce(compare(extents(&base, &join).into_iter(), extents(&target, &reversed).into_iter()))
                    .collect::<io::Result<_>>().unwrap();
            let mut found = vec![false; 64];
            let mut position = 0;
            for range in ranges {
                prop_assert!(range.offset() >= position);
                position = range.end() + 1;
                (range.offset()..range.end()).for_each(|block| found[block as usize] = true);
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_error_of_either_list_ends_the_stream_with_it() {
        let good = || vec![Ok(FileExtent { logical: 0, physical: 9, length: 4, flags: ExtentFlags::from_bits(0) })];
        let bad = || vec![Err(io::Error::other("gone"))];
        for (base, target) in [(good(), bad()), (bad(), good())] {
            let results: Vec<_> = compare(base.into_iter(), target.into_iter()).collect();
            assert_eq!(results.len(), 1);
            assert!(results[0].is_err());
        }
    }

    #[test]
    fn what_lies_beyond_the_size_is_cut_off() {
        let ranges = [(0, 10), (20, 10), (40, 10)].map(|(offset, length)| Ok(ByteRange::new(offset, length).unwrap()));
        let cut: Vec<ByteRange> = up_to(ranges.into_iter(), 25).collect::<io::Result<_>>().unwrap();
        assert_eq!(cut, vec![ByteRange::new(0, 10).unwrap(), ByteRange::new(20, 5).unwrap()]);
    }
}
