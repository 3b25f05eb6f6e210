//! A set of chunks of a volume: one bit for each, since they may come in any number. 512 KiB for 16 TiB in chunks of 4 MiB, 8 MiB for
//! the longest list there can be.

/// A set of chunks, by their numbers.
#[derive(Debug, Clone)]
pub(super) struct ChunkSet {
    words: Vec<u64>,
    count: u64,
}

/// Whether a chunk is in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Membership {
    In,
    Out,
}

impl ChunkSet {
    /// The empty set of a volume of `count` chunks.
    pub(super) fn none(count: u64) -> Self {
        Self { words: vec![0; count.div_ceil(64) as usize], count }
    }

    /// All chunks of a volume of `count` chunks.
    pub(super) fn all(count: u64) -> Self {
        let mut words = vec![u64::MAX; count.div_ceil(64) as usize];
        if let Some(last) = words.last_mut() {
            *last >>= (64 - count % 64) % 64;
        }
        Self { words, count }
    }

    /// Takes a chunk out.
    pub(super) fn remove(&mut self, chunk: u64) {
        if let Some(word) = self.words.get_mut((chunk / 64) as usize) {
            *word &= !(1 << (chunk % 64));
        }
    }

    /// Adds a chunk, and says whether it was in or out before. One that the volume does not have counts as in.
    pub(super) fn insert(&mut self, chunk: u64) -> Membership {
        if chunk >= self.count {
            return Membership::In;
        }
        let (word, bit) = (&mut self.words[(chunk / 64) as usize], 1 << (chunk % 64));
        let before = if *word & bit == 0 { Membership::Out } else { Membership::In };
        *word |= bit;
        before
    }

    /// Whether a chunk is in the set.
    pub(super) fn contains(&self, chunk: u64) -> bool {
        self.words.get((chunk / 64) as usize).is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    /// The first chunk from `first` on that is in the set, or out of it; the count when there is none.
    pub(super) fn next(&self, first: u64, wanted: Membership) -> u64 {
        self.next_before(first, wanted, self.count)
    }

    /// The same, looked for before the chunk `end`; one from there on, or the count, when there is none.
    pub(super) fn next_before(&self, first: u64, wanted: Membership, end: u64) -> u64 {
        let mut chunk = first;
        while chunk < self.count.min(end) {
            let word = self.words[(chunk / 64) as usize];
            let word = if wanted == Membership::In { word } else { !word };
            if word >> (chunk % 64) != 0 {
                return (chunk + u64::from((word >> (chunk % 64)).trailing_zeros())).min(self.count);
            }
            chunk = (chunk / 64 + 1) * 64;
        }
        self.count.min(chunk)
    }

    pub(super) fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The chunks in the set, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let chunk = self.next(next, Membership::In);
            next = chunk + 1;
            (chunk < self.count).then_some(chunk)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_answers_as_a_tree_of_numbers_does(count in 0_u64..300, numbers in prop::collection::vec(0_u64..320, 0..200)) {
            let (mut set, mut model) = (ChunkSet::none(count), BTreeSet::new());
            for number in numbers {
                let expected = if number >= count || !model.insert(number) { Membership::In } else { Membership::Out };
                prop_assert_eq!(set.insert(number), expected);
            }
            prop_assert_eq!(set.len(), model.len() as u64);
            let mut rest = ChunkSet::all(count);
            model.iter().for_each(|&number| rest.remove(number));
            prop_assert!(rest.iter().eq((0..count).filter(|number| !model.contains(number))));
            prop_assert_eq!(rest.len(), count - model.len() as u64);
            prop_assert!(set.iter().eq(model.iter().copied()));
            for first in 0..=count {
                prop_assert_eq!(set.contains(first), model.contains(&first));
                prop_assert_eq!(set.next(first, Membership::In), model.range(first..).next().copied().unwrap_or(count));
                prop_assert_eq!(set.next(first, Membership::Out), (first..count).find(|chunk| !model.contains(chunk)).unwrap_or(count));
                for end in [first, first + 1, first + 70] {
                    let (found, all) = (set.next_before(first, Membership::In, end), set.next(first, Membership::In));
                    prop_assert!(found == all || found >= end.min(count) && all >= end.min(count), "{} before {}: {}", first, end, found);
                }
            }
        }
    }
}
