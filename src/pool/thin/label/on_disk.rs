//! A label as it lies on a device, field by field; the header of [`super`] says what each means. All numbers are little-endian.

use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute, transmute_ref};

/// Bytes of a label.
pub(super) const BYTES: usize = size_of::<DiskLabel>();
/// What begins with every label, of whatever format.
pub(super) const MAGIC: [u8; 16] = *b"windlass pool\r\n\0";
/// Segments that there is room for.
const SEGMENTS: usize = 250;

/// A label.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DiskLabel {
    pub(super) magic: [u8; 16],
    pub(super) format: U32,
    pub(super) length: U32,
    pub(super) checksum: U32,
    pub(super) role: u8,
    pub(super) state: u8,
    pub(super) zero: [u8; 2],
    pub(super) pool: [u8; 16],
    pub(super) generation: U64,
    pub(super) device_bytes: U64,
    pub(super) block_bytes: U32,
    pub(super) catalogue_segments: U16,
    pub(super) metadata_segments: U16,
    pub(super) data_segments: U16,
    pub(super) epoch: [u8; 6],
    pub(super) link: [u8; 16],
    pub(super) segments: [DiskSegment; SEGMENTS],
}

/// A run of bytes. One of no bytes is no segment.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DiskSegment {
    pub(super) offset: U64,
    pub(super) length: U64,
}

// The table in the header of the module, where a field that is put in or taken out would shift what follows.
const _: () = {
    assert!(offset_of!(DiskLabel, checksum) == 24);
    assert!(offset_of!(DiskLabel, role) == 28);
    assert!(offset_of!(DiskLabel, generation) == 48);
    assert!(offset_of!(DiskLabel, block_bytes) == 64);
    assert!(offset_of!(DiskLabel, epoch) == 74);
    assert!(offset_of!(DiskLabel, segments) == 96);
    assert!(BYTES == 4096);
};

impl DiskLabel {
    /// No segments, of which the label has as many as fit.
    pub(super) const NO_SEGMENTS: [DiskSegment; SEGMENTS] = [DiskSegment { offset: U64::ZERO, length: U64::ZERO }; SEGMENTS];

    /// The label that these bytes are.
    pub(super) fn of(block: &[u8; BYTES]) -> &Self {
        transmute_ref!(block)
    }

    /// Its bytes, with the checksum that they must have.
    pub(super) fn sealed(self) -> [u8; BYTES] {
        let checksum = self.expected_checksum().into();
        transmute!(Self { checksum, ..self })
    }

    /// The checksum of a label that is whole: over all of it, with zeros in the checksum's place.
    pub(super) fn expected_checksum(&self) -> u32 {
        crc32c::crc32c(Self { checksum: U32::ZERO, ..self.clone() }.as_bytes())
    }

    /// The bytes from the first on that mean something in a label of so many segments, if it has room for them.
    pub(super) fn length_with(segments: usize) -> Option<u32> {
        let bytes = offset_of!(Self, segments) + segments * size_of::<DiskSegment>();
        if segments > SEGMENTS { None } else { u32::try_from(bytes).ok() }
    }
}
