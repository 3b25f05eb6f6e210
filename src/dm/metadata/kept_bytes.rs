//! A kept map as bytes: a version, the creation time, the number of runs, for each run the gap before it and its length, and a
//! checksum (CRC-32C, little-endian) of all that.
//!
//! All numbers but the checksum are of variable length: seven bits a byte, the lowest first, the high bit set where more follow. A run takes two to
//! six bytes where blocks are 64 KiB and volumes of the usual sizes.

use super::kept::KeptMap;
use super::run::BlockRun;
use crate::dm::units::ThinTime;

const VERSION: u8 = 1;
const CHECKSUM: usize = 4;

/// Bytes that are no kept map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeptMapError {
    /// Written by a later version.
    #[error("the map of a deleted snapshot has version {0}, which is not known here")]
    Version(u8),
    /// Not what was written.
    #[error("the map of a deleted snapshot is damaged")]
    Damaged,
}

impl KeptMap {
    /// The map as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        put(&mut bytes, self.creation_time().number().into());
        put(&mut bytes, self.runs().len() as u64);
        let mut position = 0;
        for run in self.runs() {
            put(&mut bytes, run.begin() - position);
            put(&mut bytes, run.length());
            position = run.end();
        }
        let sum = crc32c::crc32c(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    /// The map that these bytes are.
    ///
    /// # Errors
    /// [`KeptMapError`] when they are none, or one of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeptMapError> {
        match bytes.first() {
            Some(&VERSION) => Self::parse(bytes).ok_or(KeptMapError::Damaged),
            Some(&version) => Err(KeptMapError::Version(version)),
            None => Err(KeptMapError::Damaged),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM>()?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*sum) {
            return None;
        }
        let mut rest = content.get(1..)?;
        let creation_time = ThinTime::new(u32::try_from(take(&mut rest)?).ok()?)?;
        let count = usize::try_from(take(&mut rest)?).ok()?;
        // A run takes two bytes at least, so the input pays for the memory.
        if count > rest.len() / 2 {
            return None;
        }
        let mut runs = Vec::with_capacity(count);
        let mut position: u64 = 0;
        for _ in 0..count {
            let begin = position.checked_add(take(&mut rest)?)?;
            let run = BlockRun::new(begin, take(&mut rest)?)?;
            position = run.end();
            runs.push(run);
        }
        if !rest.is_empty() { None } else { Self::new(creation_time, runs) }
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// The number at the beginning of `rest`, in the only form that is written.
fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = *rest.split_off_first()?;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part || (byte == 0 && shift > 0) {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::super::kept::KeptMapBuilder;
    use super::*;

    fn map(time: u32, runs: &[(u64, u64)]) -> KeptMap {
        let limit = NonZeroUsize::new(1000).unwrap();
        let mut builder = KeptMapBuilder::new(ThinTime::new(time).unwrap(), limit);
        let mut position = 0;
        for &(gap, length) in runs {
            builder.push(BlockRun::new(position + gap, length).unwrap()).unwrap();
            position += gap + length;
        }
        builder.finish()
    }

    #[test]
    fn a_later_version_is_named_and_nothing_is_damage() {
        let mut bytes = map(3, &[(1, 2)]).encode();
        bytes[0] = 2;
        assert_eq!(KeptMap::decode(&bytes), Err(KeptMapError::Version(2)));
        assert_eq!(KeptMap::decode(&[]), Err(KeptMapError::Damaged));
    }

    #[test]
    fn every_changed_or_missing_byte_is_damage() {
        let bytes = map(70_000, &[(0, 5), (1 << 40, 300), (7, 1)]).encode();
        for at in 1..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x21;
            assert_eq!(KeptMap::decode(&changed), Err(KeptMapError::Damaged), "byte {at}");
            assert_eq!(KeptMap::decode(&bytes[..at]), Err(KeptMapError::Damaged), "cut at {at}");
        }
    }

    #[test]
    fn bytes_with_a_right_checksum_that_were_never_written_are_damage() {
        let sealed = |content: &[u8]| {
            let mut bytes = content.to_vec();
            bytes.extend(crc32c::crc32c(content).to_le_bytes());
            KeptMap::decode(&bytes)
        };
        assert!(sealed(&[1, 3, 1, 5, 1]).is_ok());
        // No block; more runs than bytes; runs that touch; a number in more bytes than it needs; something behind the end.
        for content in
            [&[1, 3, 1, 5, 0][..], &[1, 3, 9, 5, 1], &[1, 3, 2, 5, 1, 0, 1], &[1, 3, 1, 0x85, 0, 1], &[1, 3, 1, 5, 1, 0]]
        {
            assert_eq!(sealed(content), Err(KeptMapError::Damaged), "{content:?}");
        }
    }

    proptest! {
        #[test]
        fn a_map_is_read_as_it_was_written(
            time in 0_u32..1 << 24,
            runs in proptest::collection::vec((0_u64..1 << 50, 1_u64..1 << 50), 0..200),
        ) {
            let map = map(time, &runs);
            prop_assert_eq!(KeptMap::decode(&map.encode()), Ok(map));
        }
    }
}
