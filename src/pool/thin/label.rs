//! The label of a pool's device: whose it is, and what lies where on it.
//!
//! A label is one block of 4096 bytes, little-endian, and the same on every device of a pool but for what lies there:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 16 | magic |
//! | 16 | 4 | format version |
//! | 20 | 4 | length: the bytes from 0 on that mean something; the rest is zero |
//! | 24 | 4 | CRC-32C of all 4096 bytes, with these four as zero |
//! | 28 | 1, 1, 2 | role, state, zero |
//! | 32 | 16 | pool id |
//! | 48 | 8 | generation |
//! | 56 | 8 | bytes of the device |
//! | 64 | 4 | bytes of a data block |
//! | 68 | 2, 2, 2 | numbers of catalogue, metadata and data segments |
//! | 74 | 6 | the epoch of the pool, one more than it is; zero where none was written, as by the first versions, which read over it |
//! | 80 | 16 | link: random, the same on the devices of one pool |
//! | 96 | 16 each | the segments: offset and length in bytes |
//!
//! Magic, version, length and checksum stay where they are in every later format, so that a label of one is told from a
//! damaged label and refused by its number.
//!
//! It lies on the device twice: at 0, in a reserved run of 1 MiB, and in the last block of 4096 bytes, in another. Every rewrite
//! raises the generation and writes the second copy first ([`second_offset`] of the *new* size), each followed by a flush: so
//! at any moment one of the two is whole, and the one with the highest generation that is whole is the one that counts. Which that
//! is, is decided in [`super::devices`]. Nothing here does I/O.

mod on_disk;

use std::fmt;

use on_disk::{DiskLabel, DiskSegment, MAGIC};

use crate::dm::units::DataBlockSize;
use crate::types::{ByteRange, PoolId};

/// Bytes of a label, and the unit in which everything on a device is laid out.
pub const BLOCK: u64 = 4096;
/// Bytes kept free at each end of a device for a label and whatever later formats put beside it.
pub const RESERVED: u64 = 1 << 20;
/// Most segments of metadata, and most of data. Growth lengthens the last where it can, and where it cannot (metadata
/// lies between) it doubles the metadata: some ten would do.
pub const MAX_SEGMENTS: usize = 64;
/// Format version that this program writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// Epochs are below this: six bytes hold one more than an epoch. A pool taken over once in a millisecond would last 8,900 years.
pub const EPOCH_LIMIT: u64 = (1 << 48) - 1;

/// A label as it lies on the device.
pub type LabelBlock = [u8; on_disk::BYTES];

/// Why a block is no label that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// There is no magic: never a label, or overwritten by something else.
    #[error("there is no label of a pool")]
    Absent,
    /// There is the magic, and the checksum or the content is wrong.
    #[error("the label is damaged: {0}")]
    Damaged(String),
    /// Written by a later version of this program.
    #[error("the label has format {found}, and this version of windlass reads up to {FORMAT}: use a newer one")]
    Newer {
        /// Its format.
        found: u32,
    },
}

/// What part of a pool a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// All of it.
    Whole,
    /// Catalogue and metadata; the data is on the device with the same pool id and [`Role::Data`].
    Metadata,
    Data,
}

impl Role {
    /// In a word, for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Metadata => "metadata",
            Self::Data => "data",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "all of a pool",
            Self::Metadata => "the metadata of a pool",
            Self::Data => "the data of a pool",
        })
    }
}

/// How far the making of the pool came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It is being made, or its making was interrupted. Nothing in it was ever promised to anybody.
    Making,
    /// It is made. From here on nothing formats it.
    Ready,
}

impl State {
    /// In a word, for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Ready => "ready",
        }
    }
}

/// A run of bytes on a device: offset and length are multiples of 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Segment(ByteRange);

impl Segment {
    /// The segment over this range; `None` when it is not made of whole blocks.
    pub const fn new(range: ByteRange) -> Option<Self> {
        if range.offset().is_multiple_of(BLOCK) && range.length().is_multiple_of(BLOCK) { Some(Self(range)) } else { None }
    }

    /// The segment from `start` up to, not including, `end`, in bytes; `None` when that is empty or not made of whole blocks.
    pub const fn between(start: u64, end: u64) -> Option<Self> {
        match ByteRange::between(start, end) {
            Some(range) => Self::new(range),
            None => None,
        }
    }

    /// Where it lies on its device, in bytes.
    pub const fn range(self) -> ByteRange {
        self.0
    }
}

/// What lies on a device, each list in the order in which its parts are joined to one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Segments {
    /// The region of the catalogue. On the device with the metadata.
    pub catalogue: Option<Segment>,
    /// The metadata of the thin pool.
    pub metadata: Vec<Segment>,
    pub data: Vec<Segment>,
}

impl Segments {
    /// Bytes of metadata.
    pub fn metadata_bytes(&self) -> u64 {
        total(&self.metadata)
    }

    /// Bytes of data.
    pub fn data_bytes(&self) -> u64 {
        total(&self.data)
    }

    /// All of them, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = Segment> {
        self.catalogue.iter().chain(&self.metadata).chain(&self.data).copied()
    }

    /// Says what is wrong with them on a device of this role and size, if anything is.
    fn check(&self, role: Role, device_bytes: u64) -> Result<(), String> {
        let (has_catalogue, has_metadata, has_data) =
            (self.catalogue.is_some(), !self.metadata.is_empty(), !self.data.is_empty());
        let fits = match role {
            Role::Whole => has_catalogue && has_metadata && has_data,
            Role::Metadata => has_catalogue && has_metadata && !has_data,
            Role::Data => !has_catalogue && !has_metadata && has_data,
        };
        if !fits {
            return Err(format!("its segments are not those of {role}"));
        }
        if self.metadata.len() > MAX_SEGMENTS || self.data.len() > MAX_SEGMENTS {
            return Err(format!("more than {MAX_SEGMENTS} segments of a kind"));
        }
        let last = device_bytes.checked_sub(RESERVED).ok_or_else(|| format!("a device of {device_bytes} bytes"))?;
        let mut free_from = RESERVED;
        let mut ranges: Vec<ByteRange> = self.all().map(Segment::range).collect();
        ranges.sort_unstable();
        for range in ranges {
            if range.offset() < free_from || range.end() > last {
                return Err(format!(
                    "its segment of {} bytes at {} lies over another, or over what is reserved at an end of {device_bytes} bytes",
                    range.length(),
                    range.offset()
                ));
            }
            free_from = range.end();
        }
        Ok(())
    }
}

fn total(segments: &[Segment]) -> u64 {
    // They do not overlap on one device, so the sum fits.
    segments.iter().map(|segment| segment.range().length()).sum()
}

/// What the labels on the devices of one pool have in common besides its id. The id is on every handle, so whoever may write to a device
/// of this machine, a user of a volume among them, could label it as the missing part of a pool; this he cannot know.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link([u8; 16]);

impl Link {
    /// A fresh random one.
    pub fn random() -> Self {
        Self(*uuid::Uuid::new_v4().as_bytes())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link(..)")
    }
}

/// The label of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub pool: PoolId,
    /// With the pool's id what tells that two devices belong together.
    pub link: Link,
    /// Raised by every rewrite; starts at 1.
    pub generation: u64,
    /// The epoch in which whoever owned the pool last began: the same as its catalogue's, and below [`EPOCH_LIMIT`]. `None` in labels of
    /// the first versions.
    pub epoch: Option<u64>,
    /// Which part of the pool this is.
    pub role: Role,
    /// How far it was made.
    pub state: State,
    /// Size in bytes of the device as laid out, a multiple of 4096. The device itself may have been made larger since.
    pub device_bytes: u64,
    /// The thin pool's data blocks; never changes.
    pub block_size: DataBlockSize,
    /// What lies where.
    pub segments: Segments,
}

/// Offset in bytes of the second copy on a device of `device_bytes` bytes: its last whole block. `None` for a device that has no
/// room for the two reserved ends.
pub const fn second_offset(device_bytes: u64) -> Option<u64> {
    let usable = usable_bytes(device_bytes);
    if usable < 2 * RESERVED { None } else { Some(usable - BLOCK) }
}

/// What of a device is laid out: its whole blocks of 4096 bytes.
pub const fn usable_bytes(device_bytes: u64) -> u64 {
    device_bytes - device_bytes % BLOCK
}

impl Label {
    /// The label as it is written.
    ///
    /// # Errors
    /// [`LabelError::Damaged`] when it would not read back: it contradicts itself.
    pub fn encode(&self) -> Result<LabelBlock, LabelError> {
        self.check()?;
        let mut segments = DiskLabel::NO_SEGMENTS;
        for (place, segment) in segments.iter_mut().zip(self.segments.all()) {
            *place = DiskSegment { offset: segment.range().offset().into(), length: segment.range().length().into() };
        }
        let length = DiskLabel::length_with(self.segments.all().count()).ok_or_else(|| damaged("it has too many segments"))?;
        let count = |list: &[Segment]| u16::try_from(list.len()).map_err(|_| damaged("it has too many segments"));
        let block_bytes = u32::try_from(self.block_size.bytes()).map_err(|_| damaged("its data blocks are too large"))?;
        // Below 2^48 as it was checked, and so the last two bytes are zero.
        let [a, b, c, d, e, f, _, _] = self.epoch.map_or(0, |epoch| epoch + 1).to_le_bytes();
        let label = DiskLabel {
            magic: MAGIC,
            format: FORMAT.into(),
            length: length.into(),
            checksum: 0.into(),
            role: role_code(self.role),
            state: state_code(self.state),
            zero: [0; 2],
            pool: *self.pool.as_bytes(),
            generation: self.generation.into(),
            device_bytes: self.device_bytes.into(),
            block_bytes: block_bytes.into(),
            catalogue_segments: u16::from(self.segments.catalogue.is_some()).into(),
            metadata_segments: count(&self.segments.metadata)?.into(),
            data_segments: count(&self.segments.data)?.into(),
            epoch: [a, b, c, d, e, f],
            link: self.link.0,
            segments,
        };
        Ok(label.sealed())
    }

    /// Reads a label.
    pub fn decode(block: &LabelBlock) -> Result<Self, LabelError> {
        let label = DiskLabel::of(block);
        if label.magic != MAGIC {
            return Err(LabelError::Absent);
        }
        if label.checksum != label.expected_checksum() {
            return Err(damaged("its checksum is wrong"));
        }
        let format = label.format.get();
        if format > FORMAT {
            return Err(LabelError::Newer { found: format });
        }
        if format != FORMAT {
            return Err(damaged(format!("it has the unknown format {format}")));
        }
        let role = role_of(label.role).ok_or_else(|| damaged(format!("it has the unknown role {}", label.role)))?;
        let state = state_of(label.state).ok_or_else(|| damaged(format!("it has the unknown state {}", label.state)))?;
        let block_bytes = label.block_bytes.get();
        let block_size = DataBlockSize::from_bytes(u64::from(block_bytes))
            .ok_or_else(|| damaged(format!("it has data blocks of {block_bytes} bytes")))?;
        let counts = [label.catalogue_segments, label.metadata_segments, label.data_segments];
        let [catalogue, metadata, data] = counts.map(|count| usize::from(count.get()));
        if catalogue > 1 || DiskLabel::length_with(catalogue + metadata + data) != Some(label.length.get()) {
            return Err(damaged("its length is not that of its segments"));
        }
        let mut stored = label.segments.iter();
        let mut list = |count: usize| stored.by_ref().take(count).map(segment).collect::<Result<Vec<Segment>, LabelError>>();
        let segments = Segments { catalogue: list(catalogue)?.pop(), metadata: list(metadata)?, data: list(data)? };
        let [a, b, c, d, e, f] = label.epoch;
        let label = Self {
            pool: PoolId::from_bytes(label.pool),
            link: Link(label.link),
            generation: label.generation.get(),
            epoch: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]).checked_sub(1),
            role,
            state,
            device_bytes: label.device_bytes.get(),
            block_size,
            segments,
        };
        label.check()?;
        Ok(label)
    }

    fn check(&self) -> Result<(), LabelError> {
        if !self.device_bytes.is_multiple_of(BLOCK) {
            return Err(damaged(format!("its device of {} bytes is not made of whole blocks", self.device_bytes)));
        }
        if self.epoch.is_some_and(|epoch| epoch >= EPOCH_LIMIT) {
            return Err(damaged("its epoch is beyond all epochs"));
        }
        if self.generation == 0 {
            return Err(damaged("it has no generation"));
        }
        self.segments.check(self.role, self.device_bytes).map_err(LabelError::Damaged)
    }
}

fn damaged(what: impl Into<String>) -> LabelError {
    LabelError::Damaged(what.into())
}

fn segment(stored: &DiskSegment) -> Result<Segment, LabelError> {
    let (offset, length) = (stored.offset.get(), stored.length.get());
    ByteRange::new(offset, length)
        .and_then(Segment::new)
        .ok_or_else(|| damaged(format!("{length} bytes at {offset} are not a segment")))
}

fn role_code(role: Role) -> u8 {
    match role {
        Role::Whole => 1,
        Role::Metadata => 2,
        Role::Data => 3,
    }
}

fn role_of(code: u8) -> Option<Role> {
    [Role::Whole, Role::Metadata, Role::Data].into_iter().find(|&role| role_code(role) == code)
}

fn state_code(state: State) -> u8 {
    match state {
        State::Making => 1,
        State::Ready => 2,
    }
}

fn state_of(code: u8) -> Option<State> {
    [State::Making, State::Ready].into_iter().find(|&state| state_code(state) == code)
}

#[cfg(test)]
mod tests;
