//! Zeros: how they are found, and how runs of them are written down without being stored.
//!
//! A run of zeros becomes a few blobs of zeros, the largest 32 MiB (readers of the format never cache a blob above 64 MiB).
//! Their sizes are powers of two, so a handful of constant ids names all of them, and a repository holds each once, compressed
//! to next to nothing. `restic restore --sparse` makes holes only in a file whose list names the blob of 512 KiB of zeros, so
//! the first run that is long enough begins with it.

use crate::repository::Id;
use crate::repository::id::IdHasher;

/// The zero blob that makes stock restic restore a file sparsely: the smallest chunk of its own chunker.
pub const SPARSE_HINT_BYTES: u64 = 512 << 10;
/// The largest zero blob, in bytes.
pub const LARGEST_BYTES: u64 = 32 << 20;
/// The smallest zero blob with a constant id; what is left of a run after it, at the end of a volume, is one blob of its own.
pub const SMALLEST_BYTES: u64 = 4096;

const SIZES: usize = (LARGEST_BYTES.trailing_zeros() - SMALLEST_BYTES.trailing_zeros() + 1) as usize;

pub fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    // Comparing slices is memcmp: vector instructions, and an end at the first block that holds anything.
    bytes.chunks(ZEROS.len()).all(|block| *block == ZEROS[..block.len()])
}

/// SHA-256 of as many zeros as [`SMALLEST_BYTES`], and of twice as many each time. They are written down since they take longer to
/// compute (64 MiB of zeros on one thread) than the rest of a small increment.
const IDS: [Id; SIZES] = [
    constant("ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7"),
    constant("9f1dcbc35c350d6027f98be0f5c8b43b42ca52b7604459c0c42be3aa88913d47"),
    constant("4fe7b59af6de3b665b67788cc2f99892ab827efae3a467342b3bb4e3bc8e5bfe"),
    constant("c35020473aed1b4642cd726cad727b63fff2824ad68cedd7ffb73c7cbd890479"),
    constant("de2f256064a0af797747c2b97505dc0b9f3df0de4f489eac731c23ae9ca9cc31"),
    constant("fa43239bcee7b97ca62f007cc68487560a39e19f74f3dde7486db3f98df8e471"),
    constant("8a39d2abd3999ab73c34db2476849cddf303ce389b35826850f9a700589b4a90"),
    constant("07854d2fef297a06ba81685e660c332de36d5d18d546927d30daad6d7fda1541"),
    constant("30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"),
    constant("5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee"),
    constant("bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8"),
    constant("2daeb1f36095b44b318410b3f4e8b5d989dcc7bb023d1426c492dab0a3053e74"),
    constant("080acf35a507ac9849cfcba47dc2ad83e01b75663a516279c8b9d243b719643e"),
    constant("83ee47245398adee79bd9c0a8bc57b821e92aba10f5f9ade8a5d1fae4d8c4302"),
];

/// The id with these digits; the compiler or the test finds digits that are not one.
const fn constant(digits: &str) -> Id {
    const fn value(digit: u8) -> u8 {
        if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 }
    }
    let (digits, mut bytes, mut at) = (digits.as_bytes(), [0; Id::LENGTH], 0);
    while at < Id::LENGTH {
        bytes[at] = value(digits[2 * at]) << 4 | value(digits[2 * at + 1]);
        at += 1;
    }
    Id::from_bytes(bytes)
}

fn id_of_zeros(mut length: u64) -> Id {
    let (block, mut hasher) = ([0; 16 << 10], IdHasher::new());
    while length > 0 {
        let step = length.min(block.len() as u64);
        hasher.update(&block[..step as usize]);
        length -= step;
    }
    hasher.finish()
}

/// The id of `length` zero bytes. Quick for the sizes of [`Run`].
pub fn id(length: u64) -> Id {
    if length.is_power_of_two() && (SMALLEST_BYTES..=LARGEST_BYTES).contains(&length) {
        IDS[(length.trailing_zeros() - SMALLEST_BYTES.trailing_zeros()) as usize]
    } else {
        id_of_zeros(length)
    }
}

/// How many zero bytes `id` names; `None` when it names none of the constant sizes.
pub fn length_of(id: &Id) -> Option<u64> {
    IDS.iter().position(|constant| constant == id).map(|exponent| SMALLEST_BYTES << exponent)
}

/// Whether a run of zeros begins with the blob that restic looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// This run does, if it is long enough.
    Lead,
    /// An earlier run did.
    Given,
}

/// The lengths of the blobs of a run of zeros, in order; they add up to the run.
#[derive(Debug, Clone)]
pub struct Run {
    left: u64,
    hint: Hint,
}

/// Cuts a run of `length` zero bytes into blobs.
pub fn run(length: u64, hint: Hint) -> Run {
    Run { left: length, hint }
}

impl Iterator for Run {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let blob = match self.left {
            0 => return None,
            left if self.hint == Hint::Lead && left >= SPARSE_HINT_BYTES => SPARSE_HINT_BYTES,
            left if left >= LARGEST_BYTES => LARGEST_BYTES,
            left if left >= SMALLEST_BYTES => 1 << left.ilog2(),
            left => left,
        };
        self.hint = Hint::Given;
        self.left -= blob;
        Some(blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_run_is_covered_exactly_by_few_blobs_of_few_sizes(length in 1_u64..1 << 34) {
            let blobs: Vec<_> = run(length, Hint::Given).collect();
            prop_assert_eq!(blobs.iter().sum::<u64>(), length);
            prop_assert!(blobs.len() as u64 <= length / LARGEST_BYTES + SIZES as u64 + 1);
            prop_assert!(blobs.iter().all(|&blob| blob < SMALLEST_BYTES || blob.is_power_of_two() && blob <= LARGEST_BYTES));
        }

        #[test]
        fn the_first_run_leads_with_the_hint(length in SPARSE_HINT_BYTES..1 << 34) {
            let blobs: Vec<_> = run(length, Hint::Lead).collect();
            prop_assert_eq!(blobs[0], SPARSE_HINT_BYTES);
            prop_assert_eq!(blobs.iter().sum::<u64>(), length);
        }

        #[test]
        fn one_byte_anywhere_is_seen(length in 1_usize..2000, at: prop::sample::Index, value in 1_u8..) {
            let mut bytes = vec![0; length];
            prop_assert!(is_zero(&bytes));
            bytes[at.index(length)] = value;
            prop_assert!(!is_zero(&bytes));
        }
    }

    #[test]
    fn the_id_of_the_hint_is_the_one_restic_looks_for() {
        // SHA-256 of 512 KiB of zeros, as in restic's source.
        assert_eq!(id(SPARSE_HINT_BYTES).to_string(), "07854d2fef297a06ba81685e660c332de36d5d18d546927d30daad6d7fda1541");
        assert_eq!(length_of(&id(SPARSE_HINT_BYTES)), Some(SPARSE_HINT_BYTES));
    }

    #[test]
    fn ids_of_zeros_are_the_hashes_of_zeros() {
        let constant = (0..SIZES).map(|exponent| SMALLEST_BYTES << exponent);
        for length in [1, 4095, (1 << 20) + 5].into_iter().chain(constant.clone()) {
            assert_eq!(id(length), Id::of(&vec![0; length as usize]));
        }
        for length in constant {
            assert_eq!(length_of(&id(length)), Some(length));
        }
        assert_eq!(length_of(&Id::of(b"other")), None);
    }
}
