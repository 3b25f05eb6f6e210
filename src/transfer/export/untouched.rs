//! The part of an earlier list that an export takes over: the chunks that no change touches.

use super::touched::Touched;
use crate::repository::Id;
use crate::repository::tree::IdList;
use crate::scratch::{Scratch, ScratchError, Sorter};
use crate::transfer::content::ContentBuilder;
use crate::transfer::zeros;

/// Why a parent's list is not taken over.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It does not fit the volume or the repository.
    Problem(String),
    /// It could not be read, or the new one not be kept: no export is possible.
    Scratch(ScratchError),
}

impl From<ScratchError> for Unfit {
    fn from(error: ScratchError) -> Self {
        Self::Scratch(error)
    }
}

/// Tells the length of a blob that is stored.
pub(super) type Has<'a> = &'a mut dyn FnMut(&Id) -> Result<Option<u64>, ScratchError>;

/// The chunks in the list `content` of a file of `size_bytes` that are not touched, as the beginning of the list of the volume that
/// `touched` is about. `has` tells the length of a blob that is stored, and is asked in ascending order of the ids: of a list of
/// millions, in the order in which they follow one another, each would be another page of the index. Without it all are known to be
/// stored.
///
/// Runs of zeros are blobs of their own sizes, which need not end where chunks do; but data begins on the grid of chunks, and is a
/// chunk long. A list that does not follow that was not made by an export in chunks of this size.
pub(super) fn untouched(
    scratch: &Scratch,
    content: &IdList,
    size_bytes: u64,
    touched: &Touched,
    has: Option<Has<'_>>,
) -> Result<ContentBuilder, Unfit> {
    let problem = |text: String| Err(Unfit::Problem(text));
    let chunk_size = touched.chunk_size();
    let mut chunks = ContentBuilder::new(scratch, touched.volume_bytes(), chunk_size);
    let mut wanted = Sorter::new(scratch);
    let mut position = 0_u64;
    for id in content.iter() {
        let id = id?;
        let left = size_bytes.saturating_sub(position);
        if let Some(length) = zeros::length_of(&id) {
            position += length;
            continue;
        }
        if left < zeros::SMALLEST_BYTES && id == zeros::id(left) {
            position += left;
            continue;
        }
        let length = chunk_size.bytes().min(left);
        let number = position / chunk_size.bytes();
        let index = u32::try_from(number).ok().filter(|_| position.is_multiple_of(chunk_size.bytes()) && length > 0);
        let Some(index) = index else { return problem(format!("the blob at byte {position} does not begin a chunk")) };
        if !touched.contains(number) {
            chunks.data(index, id)?;
            if has.is_some() {
                wanted.push(Wanted { id, index, length: length as u32 }.to_row())?;
            }
        }
        position += length;
    }
    if position != size_bytes {
        return problem(format!("its blobs add up to {position} bytes, not {size_bytes}"));
    }
    let Some(has) = has else { return Ok(chunks) };
    for row in wanted.finish_runs()?.iter() {
        let Wanted { id, index, length } = Wanted::of_row(&row?);
        let position = u64::from(index) * chunk_size.bytes();
        match has(&id)? {
            Some(found) if found == u64::from(length) => {}
            Some(found) => return problem(format!("blob {id} at byte {position} has {found} bytes, not {length}")),
            None => return problem(format!("blob {id} at byte {position} is in no index")),
        }
    }
    Ok(chunks)
}

/// A chunk that is taken over, if the repository has it in this length. A row of a list that is sorted by ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) id: Id,
    pub(super) index: u32,
    pub(super) length: u32,
}

impl Wanted {
    pub(super) const BYTES: usize = Id::LENGTH + 8;

    pub(super) fn to_row(self) -> [u8; Self::BYTES] {
        let mut row = [0; Self::BYTES];
        row[..Id::LENGTH].copy_from_slice(self.id.as_bytes());
        row[Id::LENGTH..Id::LENGTH + 4].copy_from_slice(&self.index.to_be_bytes());
        row[Id::LENGTH + 4..].copy_from_slice(&self.length.to_be_bytes());
        row
    }

    pub(super) fn of_row(row: &[u8; Self::BYTES]) -> Self {
        let (mut id, mut numbers) = ([0; Id::LENGTH], [0; 2]);
        id.copy_from_slice(&row[..Id::LENGTH]);
        for (number, bytes) in numbers.iter_mut().zip(row[Id::LENGTH..].as_chunks::<4>().0) {
            *number = u32::from_be_bytes(*bytes);
        }
        Self { id: Id::from_bytes(id), index: numbers[0], length: numbers[1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::tree::Content;
    use crate::transfer::chunk_size::ChunkSize;
    use crate::types::ByteRange;
    use proptest::prelude::*;

    fn id(number: u32) -> Id {
        Id::of(&number.to_le_bytes())
    }

    proptest! {
        #[test]
        fn the_chunks_of_a_list_are_found_again_whatever_zeros_lie_between(
            volume in 1_u64..200 << 20,
            indexes in proptest::collection::btree_set(0_u32..800, 0..60),
            changed in proptest::collection::vec((0_u64..200 << 20, 1_u64..3 << 20), 0..5),
            exponent in 0_u32..4,
        ) {
            let chunk_size = ChunkSize::new(ChunkSize::MIN.bytes() << exponent).unwrap();
            let indexes: Vec<_> = indexes.into_iter().filter(|&index| u64::from(index) < chunk_size.count(volume)).collect();
            let scratch = Scratch::of_process();
            let mut builder = ContentBuilder::new(&scratch, volume, chunk_size);
            indexes.iter().for_each(|&index| builder.data(index, id(index)).unwrap());
            let content = builder.finish(indexes.len() as u64).unwrap();
            let content = IdList::from_ids(&scratch, &content.ids().collect::<Result<Vec<_>, _>>().unwrap()).unwrap();
            let mut length = |wanted: &Id| {
                let index = indexes.iter().find(|&&index| id(index) == *wanted);
                Ok(index.map(|&index| chunk_size.bytes().min(volume - u64::from(index) * chunk_size.bytes())))
            };
            let mut touched = Touched::none(volume, chunk_size);
            changed.iter().for_each(|&(offset, length)| touched.add(ByteRange::new(offset, length).unwrap()));
            let mut found = untouched(&scratch, &content, volume, &touched, Some(&mut length)).unwrap();
            let mut remembered = untouched(&scratch, &content, volume, &touched, None).unwrap();
            let mut expected = ContentBuilder::new(&scratch, volume, chunk_size);
            for &index in indexes.iter().filter(|&&index| !touched.contains(index.into())) {
                expected.data(index, id(index)).unwrap();
            }
            let count = expected.chunks();
            let ids = |builder: &mut ContentBuilder| builder.finish(count).unwrap().ids().collect::<Result<Vec<_>, _>>().unwrap();
            let expected = ids(&mut expected);
            prop_assert_eq!(&ids(&mut found), &expected);
            prop_assert_eq!(&ids(&mut remembered), &expected);
            let missing = untouched(&scratch, &content, volume, &touched, Some(&mut |_| Ok(None)));
            prop_assert_eq!(missing.is_err(), count > 0);
        }
    }

    #[test]
    fn a_list_that_was_cut_otherwise_is_refused() {
        let (size, chunk) = (ChunkSize::MIN, ChunkSize::MIN.bytes());
        let none = Touched::none(4 * chunk, size);
        let scratch = Scratch::of_process();
        let list = |content: &[Id], bytes| {
            let content = IdList::from_ids(&scratch, content).unwrap();
            untouched(&scratch, &content, bytes, &none, Some(&mut |_| Ok(Some(chunk))))
        };
        assert!(list(&[id(1), id(2)], 2 * chunk).is_ok());
        assert!(list(&[id(1), id(2)], 2 * chunk + 1).is_err(), "a blob that is too long for its place");
        assert!(list(&[zeros::id(4096), id(2)], chunk + 4096).is_err(), "data off the grid");
        assert!(list(&[id(1)], 2 * chunk).is_err(), "too short");
        assert!(list(&[id(1), id(2), id(3)], 2 * chunk).is_err(), "too long");
        assert!(list(&[zeros::id(zeros::LARGEST_BYTES)], chunk).is_err(), "zeros beyond the end");
    }
}
