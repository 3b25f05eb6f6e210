//! A slot of a region as it lies on the device, which tells the length of the content. All numbers are little-endian.

use std::io;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 16] = *b"windlass region\0";
const FORMAT: u32 = 1;

/// A slot.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Slot {
    magic: [u8; 16],
    format: U32,
    /// CRC-32C over all of it, with zeros in this place.
    checksum: U32,
    generation: U64,
    length: U64,
    zeros: [u8; 4056],
}

const _: () = assert!(size_of::<Slot>() == 4096);

/// The length of the content, as it is on the device. Of two the one of the higher generation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Length {
    pub(super) generation: u64,
    pub(super) bytes: u64,
}

/// Why a slot tells nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotError {
    /// There is no magic.
    Absent,
    /// The checksum is wrong, or what it covers cannot be.
    Damaged,
    /// A later version wrote it, in this format.
    Newer(u32),
}

impl Slot {
    /// The slot that tells this length.
    pub(super) fn new(length: Length) -> Self {
        let slot = Self {
            magic: MAGIC,
            format: FORMAT.into(),
            checksum: U32::ZERO,
            generation: length.generation.into(),
            length: length.bytes.into(),
            zeros: [0; 4056],
        };
        Self { checksum: slot.expected_checksum().into(), ..slot }
    }

    /// The length that it tells, in a region whose content has at most `capacity` bytes.
    pub(super) fn read(&self, capacity: u64) -> Result<Length, SlotError> {
        if self.magic != MAGIC {
            return Err(SlotError::Absent);
        }
        if self.checksum != self.expected_checksum() {
            return Err(SlotError::Damaged);
        }
        match self.format.get() {
            FORMAT => {}
            newer if newer > FORMAT => return Err(SlotError::Newer(newer)),
            _ => return Err(SlotError::Damaged),
        }
        let length = Length { generation: self.generation.get(), bytes: self.length.get() };
        // A generation is raised by one each time; u64::MAX is out of reach but for a forger.
        if length.bytes > capacity || length.generation == 0 || length.generation == u64::MAX {
            Err(SlotError::Damaged)
        } else {
            Ok(length)
        }
    }

    fn expected_checksum(&self) -> u32 {
        crc32c::crc32c(Self { checksum: U32::ZERO, ..self.clone() }.as_bytes())
    }
}

/// The length that counts of what two slots tell.
pub(super) fn newer(slots: [Result<Length, SlotError>; 2]) -> io::Result<Length> {
    let refuse = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    // A whole slot of a later format beside one of ours: a later version was at it.
    for slot in slots {
        if let Err(SlotError::Newer(found)) = slot {
            return Err(refuse(format!(
                "the region has format {found}, and this version of windlass reads up to {FORMAT}: use a newer one"
            )));
        }
    }
    match slots.into_iter().flatten().max() {
        Some(length) => Ok(length),
        None if slots == [Err(SlotError::Absent); 2] => Err(refuse("there is no region of a catalogue".to_owned())),
        None => Err(refuse("the region's length is damaged in both places".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as version 1 wrote them.
    const WRITTEN: &[u8; 40] = b"windlass region\0\x01\0\0\0\x6a\x0c\x9f\x4d\x09\0\0\0\0\0\0\0\x88\x13\0\0\0\0\0\0";

    #[test]
    fn the_bytes_of_a_slot_do_not_change_from_version_to_version() {
        let length = Length { generation: 9, bytes: 5000 };
        let slot = Slot::new(length);
        let mut expected = [0; 4096];
        expected[..WRITTEN.len()].copy_from_slice(WRITTEN);
        assert_eq!(slot.as_bytes(), expected);
        assert_eq!(Slot::read_from_bytes(&expected).unwrap().read(5000), Ok(length));
    }
}
