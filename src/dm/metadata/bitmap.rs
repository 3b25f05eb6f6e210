//! Sets of numbers below a bound, a bit each, with memory only where there are any.

/// Numbers of a page: 4 KiB of bits, for 2 GiB of data where data blocks are 64 KiB.
const PAGE: u64 = 1 << 15;
const WORDS: usize = (PAGE / 64) as usize;

/// A set of numbers.
#[derive(Debug)]
pub(super) struct Bitmap {
    pages: Vec<Option<Box<[u64; WORDS]>>>,
}

impl Bitmap {
    /// An empty set of numbers below `bound`; takes 8 bytes for each page of them.
    pub(super) fn new(bound: u64) -> Self {
        let pages = usize::try_from(bound.div_ceil(PAGE)).unwrap_or(usize::MAX);
        Self { pages: std::iter::repeat_with(|| None).take(pages).collect() }
    }

    /// Adds a number below the bound; whether it was there already.
    pub(super) fn put(&mut self, number: u64) -> bool {
        let Some(page) = self.pages.get_mut(page_of(number)) else { return false };
        let word = &mut page.get_or_insert_with(|| Box::new([0; WORDS]))[word_of(number)];
        let bit = 1 << (number % 64);
        let was_there = *word & bit != 0;
        *word |= bit;
        was_there
    }

    /// Whether a number is there.
    pub(super) fn has(&self, number: u64) -> bool {
        let page = self.pages.get(page_of(number)).and_then(Option::as_ref);
        page.is_some_and(|page| page[word_of(number)] & (1 << (number % 64)) != 0)
    }
}

fn page_of(number: u64) -> usize {
    usize::try_from(number / PAGE).unwrap_or(usize::MAX)
}

#[allow(clippy::cast_possible_truncation, reason = "below WORDS")]
const fn word_of(number: u64) -> usize {
    (number % PAGE / 64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bitmap_is_a_set(numbers in proptest::collection::vec(0_u64..200_000, 0..500), asked in 0_u64..200_000) {
            let mut bitmap = Bitmap::new(200_000);
            let mut set = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(bitmap.put(number), !set.insert(number));
                prop_assert!(bitmap.has(number));
            }
            prop_assert_eq!(bitmap.has(asked), set.contains(&asked));
        }
    }
}
