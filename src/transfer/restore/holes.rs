//! The parts of an image that could not be restored, where the caller would rather have the rest than nothing.
//!
//! A hole is a range of the image whose blobs do not read from any copy, or are in no index; zeros are written there. Neighbours that are
//! lost for the same reason are one hole. Holes come in the order of packs, so they are sorted as they come.
//!
//! **Memory**: [`MAX_LISTED`] holes; of further ones only the bytes are counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::repository::Id;
use crate::types::ByteRange;

/// Most holes that are listed: a megabyte of text.
pub const MAX_LISTED: usize = 5_000;

/// A range of the image that could not be restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Hole {
    pub offset: u64,
    pub length: u64,
    /// How many blobs belong there.
    pub blobs: u64,
    /// The first of those blobs.
    pub blob: Id,
    /// The pack that an index says holds them; `None` when they are in no index.
    pub pack: Option<Id>,
    /// Why they do not read, with all causes.
    pub reason: String,
}

impl Hole {
    /// The byte behind its last one.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// True when `next` goes on where this ends, for the same reason.
    fn is_continued_by(&self, next: &Self) -> bool {
        self.end() == next.offset && self.pack == next.pack && self.reason == next.reason
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, length, blobs, blob, reason, .. } = self;
        write!(f, "bytes {offset}-{}: ", self.end().saturating_sub(u64::from(*length > 0)))?;
        match blobs {
            0 | 1 => write!(f, "blob {blob}")?,
            blobs => write!(f, "{blobs} blobs, {blob} the first of them")?,
        }
        match self.pack {
            Some(pack) => write!(f, " in pack {pack}: {reason}"),
            None => write!(f, ": {reason}"),
        }
    }
}

/// All parts of an image that could not be restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Holes {
    /// Ascending by offset.
    pub listed: Vec<Hole>,
    /// Bytes of all holes.
    pub bytes: u64,
    /// Those of `bytes` that lie in holes that are not listed, because there were too many.
    pub unlisted_bytes: u64,
}

impl Holes {
    /// True when everything was restored.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// Collects the holes that several threads find.
#[derive(Debug, Default)]
pub(super) struct HoleList(Mutex<FoundHoles>);

#[derive(Debug, Default)]
struct FoundHoles {
    by_offset: BTreeMap<u64, Hole>,
    bytes: u64,
    unlisted_bytes: u64,
}

impl HoleList {
    fn lock(&self) -> MutexGuard<'_, FoundHoles> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the blob that belongs at `range` is lost.
    pub(super) fn add(&self, range: ByteRange, blob: Id, pack: Option<Id>, reason: String) {
        let mut found = self.lock();
        found.bytes += range.length();
        let mut hole = Hole { offset: range.offset(), length: range.length(), blobs: 1, blob, pack, reason };
        let end = hole.end();
        if let Some(after) = found.by_offset.get(&end).filter(|after| hole.is_continued_by(after)) {
            (hole.length, hole.blobs) = (hole.length + after.length, hole.blobs + after.blobs);
            found.by_offset.remove(&end);
        }
        let has_room = found.by_offset.len() < MAX_LISTED;
        match found.by_offset.range_mut(..hole.offset).next_back() {
            Some((_, before)) if before.is_continued_by(&hole) => {
                (before.length, before.blobs) = (before.length + hole.length, before.blobs + hole.blobs);
            }
            _ if has_room => drop(found.by_offset.insert(hole.offset, hole)),
            _ => found.unlisted_bytes += hole.length,
        }
    }

    /// Takes the holes out when all threads have ended.
    pub(super) fn take(&self) -> Holes {
        let FoundHoles { by_offset, bytes, unlisted_bytes } = std::mem::take(&mut *self.lock());
        Holes { listed: by_offset.into_values().collect(), bytes, unlisted_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).unwrap()
    }

    proptest! {
        #[test]
        fn holes_are_sorted_and_joined_in_whatever_order_they_are_found(
            order in Just((0_u64..12).collect::<Vec<_>>()).prop_shuffle(),
            packs in prop::collection::vec(0_u8..3, 12),
        ) {
            // Pack 2 stands for what is not lost.
            let list = HoleList::default();
            for at in order {
                if let Some(pack) = packs.get(at as usize).filter(|pack| **pack < 2) {
                    list.add(range(at * 10, 10), Id::of(&[at as u8]), Some(Id::of(&[*pack])), "lost".to_owned());
                }
            }
            let found = list.take();
            let mut bytes: Vec<Option<Id>> = vec![None; 12];
            for hole in &found.listed {
                prop_assert_eq!(hole.length, hole.blobs * 10);
                prop_assert_eq!(hole.blob, Id::of(&[(hole.offset / 10) as u8]), "the first blob");
                bytes[(hole.offset / 10) as usize..(hole.end() / 10) as usize].fill(hole.pack);
            }
            let expected: Vec<_> = packs.iter().map(|pack| (*pack < 2).then(|| Id::of(&[*pack]))).collect();
            prop_assert_eq!(bytes, expected);
            prop_assert!(found.listed.windows(2).all(|pair| pair[0].end() <= pair[1].offset && !pair[0].is_continued_by(&pair[1])));
            prop_assert_eq!(found.bytes, found.listed.iter().map(|hole| hole.length).sum::<u64>());
        }
    }

    #[test]
    fn of_too_many_holes_the_rest_is_counted() {
        let list = HoleList::default();
        for number in 0..MAX_LISTED as u64 + 3 {
            list.add(range(number * 10, 5), Id::of(b"x"), None, "it is in no index".to_owned());
        }
        let found = list.take();
        assert_eq!((found.listed.len(), found.unlisted_bytes), (MAX_LISTED, 15));
        assert_eq!(found.bytes, (MAX_LISTED as u64 + 3) * 5);
    }

    #[test]
    fn a_hole_says_where_what_and_why() {
        let (blob, pack) = (Id::of(b"blob"), Id::of(b"pack"));
        let hole = Hole { offset: 4096, length: 100, blobs: 1, blob, pack: Some(pack), reason: "it is too short".to_owned() };
        assert_eq!(hole.to_string(), format!("bytes 4096-4195: blob {blob} in pack {pack}: it is too short"));
        let several = Hole { blobs: 3, pack: None, reason: "in no index".to_owned(), ..hole };
        assert_eq!(several.to_string(), format!("bytes 4096-4195: 3 blobs, {blob} the first of them: in no index"));
    }
}
