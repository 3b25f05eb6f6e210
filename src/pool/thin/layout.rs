//! What lies where on the device of a pool: planned once when it is made, and again when the device grew.
//!
//! ```text
//! one device:   [label][catalogue][metadata][data ..............................][label]
//! grown:        [label][catalogue][metadata][data ..............................|data |metadata |data ....][label]
//! two devices:  [label][catalogue][metadata ......][label]      [label][data ...............................][label]
//! ```
//!
//! * Everything is cut at multiples of 1 MiB, which is the alignment of any disk, and each label has 1 MiB for itself.
//! * **Metadata is sized for snapshots**, since a thin pool that runs out of it stops and must be repaired offline. A mapping
//!   takes about 20 bytes (4 KiB leaves with 206 to 240 of them, measured), and each snapshot whose origin goes on being written
//!   takes those leaves again: 1 GiB for each TiB of 64 KiB blocks is three times what one mapping of everything takes. The
//!   kernel takes at most 16320 MiB; where the rule asks for more, data blocks are larger by default, which cost
//!   more to copy when a shared one is written to and fewer mappings.
//! * **The catalogue's region** is a power of two and one MiB: its database begins with some 90 KB and doubles.
//! * **Growth** leaves every segment where it is and only lengthens the last of data, or adds new ones over what the second
//!   label freed. The planner is asked again with the same sizes after a crash and gives the same answer; until the new
//!   label is written nothing refers to the new space.
//!
//! Pure functions; no I/O.

use crate::dm::units::DataBlockSize;

use super::label::{MAX_SEGMENTS, RESERVED, Role, Segment, Segments, usable_bytes};

const MIB: u64 = 1 << 20;

/// Everything is cut at multiples of this many bytes.
pub const ALIGNMENT: u64 = MIB;
/// Least metadata that is given without being asked: 4096 blocks.
pub const METADATA_DEFAULT_MIN: u64 = 16 * MIB;
/// Least metadata in bytes that a thin pool works with.
pub const METADATA_MIN: u64 = 2 * MIB;
/// Most metadata in bytes that the kernel uses: 255 bitmaps of 16384 blocks of 4 KiB.
pub const METADATA_MAX: u64 = 255 * 16384 * 4096;
/// Least data in bytes that make a pool worth its name.
pub const DATA_MIN: u64 = 64 * MIB;
/// Fewest data blocks of a pool, whatever their size.
const DATA_BLOCKS_MIN: u64 = 64;
/// Bytes of metadata that one mapping takes, at the least; see the header.
const MAPPING_BYTES: u64 = 20;
/// Largest device that is taken: beyond, offsets do not fit into what the system's calls take.
const DEVICE_MAX: u64 = i64::MAX as u64;

/// What whoever makes the pool asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayoutOptions {
    /// Size of data blocks; otherwise 64 KiB, and more for pools above 15.9 TiB.
    pub block_size: Option<DataBlockSize>,
    /// Bytes of metadata, rounded up to whole MiB; otherwise by the size of the pool. Not for a pool on two devices, where
    /// it is the size of the first.
    pub metadata_bytes: Option<u64>,
}

/// Whether the metadata that a pool has are enough for what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetadataNeed {
    /// As far as is known.
    #[default]
    BySize,
    /// They are nearly used up, whatever the data: by many snapshots.
    Short,
}

/// Why a pool cannot be laid out so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The device does not hold what is wanted of it.
    #[error("{have} bytes are too few: {what} needs at least {need}")]
    TooSmall {
        /// What it would hold.
        what: &'static str,
        /// Bytes of the device.
        have: u64,
        /// Bytes that it must have.
        need: u64,
    },
    /// Larger than can be addressed.
    #[error("a device of {0} bytes is too large")]
    TooLarge(u64),
    /// A size of metadata that does not work, with the reason.
    #[error("metadata of {bytes} bytes: {reason}")]
    Metadata {
        /// What was asked for or is there.
        bytes: u64,
        /// Why not.
        reason: String,
    },
    /// The device grew so often that its label has no room for another segment.
    #[error("the label has no room for another segment after {MAX_SEGMENTS}")]
    Segments,
}

/// A pool on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Size of data blocks.
    pub block_size: DataBlockSize,
    /// What lies where.
    pub segments: Segments,
}

/// A pool on two devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairPlan {
    /// Size of data blocks.
    pub block_size: DataBlockSize,
    /// What lies where on the device of the metadata.
    pub metadata: Segments,
    /// What lies where on the device of the data.
    pub data: Segments,
}

/// Lays out a pool on a device of `device_bytes` bytes.
pub fn plan(device_bytes: u64, options: LayoutOptions) -> Result<Plan, LayoutError> {
    let end = space_end(device_bytes)?;
    let catalogue_end = RESERVED + catalogue_bytes(device_bytes);
    // Metadata is sized by what could be data, itself included: a little more than needed.
    let space = end.saturating_sub(catalogue_end);
    let block_size = options.block_size.unwrap_or_else(|| default_block_size(space));
    let metadata = match options.metadata_bytes {
        None => metadata_for(space, block_size),
        Some(bytes) => checked_metadata(bytes)?,
    };
    let metadata_end = catalogue_end + metadata;
    let need = metadata_end + data_min(block_size);
    if end < need {
        return Err(LayoutError::TooSmall { what: "a pool", have: device_bytes, need: need + RESERVED });
    }
    check_coverage(metadata, end - metadata_end, block_size)?;
    let segments = Segments {
        catalogue: Segment::between(RESERVED, catalogue_end),
        metadata: Segment::between(catalogue_end, metadata_end).into_iter().collect(),
        data: Segment::between(metadata_end, end).into_iter().collect(),
    };
    Ok(Plan { block_size, segments })
}

/// Lays out a pool on a device for its metadata and one for its data.
pub fn plan_pair(metadata_bytes: u64, data_bytes: u64, block_size: Option<DataBlockSize>) -> Result<PairPlan, LayoutError> {
    let (metadata_end, data_end) = (space_end(metadata_bytes)?, space_end(data_bytes)?);
    let data_space = data_end.saturating_sub(RESERVED);
    let block_size = block_size.unwrap_or_else(|| default_block_size(data_space));
    let least = data_min(block_size);
    if data_space < least {
        let need = least + 2 * RESERVED;
        return Err(LayoutError::TooSmall { what: "the data of a pool", have: data_bytes, need });
    }
    let catalogue_end = RESERVED + catalogue_bytes(data_bytes);
    let metadata_space = metadata_end.saturating_sub(catalogue_end).min(METADATA_MAX);
    let least = METADATA_MIN.max(covering(data_space, block_size));
    if metadata_space < least {
        let need = catalogue_end + least.next_multiple_of(ALIGNMENT) + RESERVED;
        return Err(LayoutError::TooSmall { what: "the metadata of this pool", have: metadata_bytes, need });
    }
    let metadata = Segments {
        catalogue: Segment::between(RESERVED, catalogue_end),
        metadata: Segment::between(catalogue_end, catalogue_end + metadata_space).into_iter().collect(),
        data: Vec::new(),
    };
    let data = Segments { data: Segment::between(RESERVED, data_end).into_iter().collect(), ..Segments::default() };
    Ok(PairPlan { block_size, metadata, data })
}

/// What lies where after a device with `segments` grew to `device_bytes` bytes. `None` when there is no use for the new
/// space: less than 1 MiB of it, or metadata that is as large as the kernel takes.
///
/// Of a pool on one device the metadata grows first, if it has less than three quarters of what the grown pool should have; then to
/// twice of that, so that growing by small steps does not cut the device into small pieces, and by no more than half of
/// the new space. Metadata that are `need`ed although they are as many as the rule asks for are doubled.
///
/// # Errors
/// [`LayoutError::TooLarge`], [`LayoutError::Segments`]; [`LayoutError::TooSmall`] for a device smaller than its segments.
pub fn grow(
    role: Role,
    segments: &Segments,
    block_size: DataBlockSize,
    device_bytes: u64,
    need: MetadataNeed,
) -> Result<Option<Segments>, LayoutError> {
    let end = space_end(device_bytes)?;
    let used = segments.all().map(|segment| segment.range().end()).max().unwrap_or(RESERVED);
    // Segments are cut at whole MiB; of a later version's, which might not be, nothing is lost but the rest of one.
    let start = used.next_multiple_of(ALIGNMENT);
    if end < used {
        return Err(LayoutError::TooSmall { what: "what is on it", have: device_bytes, need: used + RESERVED });
    }
    let space = end.saturating_sub(start);
    if space == 0 {
        return Ok(None);
    }
    let metadata = match role {
        Role::Whole => metadata_growth(segments.metadata_bytes(), segments.data_bytes() + space, block_size, space, need),
        Role::Metadata => space.min(METADATA_MAX.saturating_sub(segments.metadata_bytes())),
        Role::Data => 0,
    };
    let data = match role {
        Role::Whole | Role::Data => space - metadata,
        Role::Metadata => 0,
    };
    if metadata + data == 0 {
        return Ok(None);
    }
    let mut grown = segments.clone();
    append(&mut grown.metadata, start, metadata)?;
    append(&mut grown.data, start + metadata, data)?;
    Ok(Some(grown))
}

/// Adds `bytes` bytes at `start`, to the last segment if they follow it.
fn append(segments: &mut Vec<Segment>, start: u64, bytes: u64) -> Result<(), LayoutError> {
    let from = match segments.last().map(|last| last.range()) {
        Some(last) if last.end() == start => last.offset(),
        _ => start,
    };
    let Some(segment) = Segment::between(start, start + bytes) else { return Ok(()) };
    if from < start
        && let Some(longer) = Segment::between(from, start + bytes)
    {
        segments.pop();
        segments.push(longer);
    } else {
        segments.push(segment);
    }
    if segments.len() > MAX_SEGMENTS { Err(LayoutError::Segments) } else { Ok(()) }
}

/// What the metadata takes of `space` new bytes when the pool has `data` bytes with them.
fn metadata_growth(have: u64, data: u64, block_size: DataBlockSize, space: u64, need: MetadataNeed) -> u64 {
    let wanted = match need {
        MetadataNeed::BySize => metadata_for(data, block_size),
        // Whatever the rule says, it was too little.
        MetadataNeed::Short => metadata_for(data, block_size).max(have.saturating_mul(2)),
    };
    if have >= wanted / 4 * 3 || have >= METADATA_MAX {
        return 0;
    }
    let ample = wanted.saturating_mul(2).min(METADATA_MAX) - have;
    ample.min(space / 2).next_multiple_of(ALIGNMENT).min(space)
}

/// Where segments must end on a device of this size.
fn space_end(device_bytes: u64) -> Result<u64, LayoutError> {
    if device_bytes > DEVICE_MAX {
        return Err(LayoutError::TooLarge(device_bytes));
    }
    let end = usable_bytes(device_bytes).saturating_sub(RESERVED);
    Ok(end - end % ALIGNMENT)
}

/// The region of the catalogue: 257 MiB, and less on devices below 64 GiB, down to 9 MiB at 2 GiB.
///
/// An object takes two to four KiB in it, name, source, publications and exports included, so the smallest holds more than a thousand of
/// them. What takes more are the maps that are kept of deleted snapshots, one for each consumer of a volume's changes.
fn catalogue_bytes(device_bytes: u64) -> u64 {
    let share = (device_bytes / 256).clamp(8 * MIB, 256 * MIB);
    // The power of two below, or the share itself.
    (1 << share.ilog2()) + MIB
}

fn default_block_size(data: u64) -> DataBlockSize {
    let fits = |size: &DataBlockSize| metadata_wanted(data, *size) <= METADATA_MAX;
    let sizes = (0..14).filter_map(|power| DataBlockSize::from_bytes(DataBlockSize::MIN.bytes() << power));
    sizes.into_iter().find(fits).unwrap_or(DataBlockSize::MAX)
}

/// By the rule alone.
fn metadata_wanted(data: u64, block_size: DataBlockSize) -> u64 {
    // A 1024th, at the smallest block size.
    let blocks_of_default = data / 1024 / (block_size.bytes() / DataBlockSize::MIN.bytes());
    blocks_of_default.next_multiple_of(ALIGNMENT)
}

fn metadata_for(data: u64, block_size: DataBlockSize) -> u64 {
    metadata_wanted(data, block_size).clamp(METADATA_DEFAULT_MIN, METADATA_MAX)
}

fn checked_metadata(bytes: u64) -> Result<u64, LayoutError> {
    let refuse = |reason: String| LayoutError::Metadata { bytes, reason };
    if bytes < METADATA_MIN {
        return Err(refuse(format!("a thin pool needs at least {METADATA_MIN}")));
    }
    match bytes.checked_next_multiple_of(ALIGNMENT) {
        Some(rounded) if rounded <= METADATA_MAX => Ok(rounded),
        _ => Err(refuse(format!("the kernel uses at most {METADATA_MAX}"))),
    }
}

/// Refuses metadata that is full before the data is, without any snapshot.
fn check_coverage(metadata: u64, data: u64, block_size: DataBlockSize) -> Result<(), LayoutError> {
    let least = covering(data, block_size);
    if metadata >= least {
        return Ok(());
    }
    let reason = format!(
        "{data} bytes of data in blocks of {} need at least {least} to be mapped once, and more for snapshots",
        block_size.bytes()
    );
    Err(LayoutError::Metadata { bytes: metadata, reason })
}

/// Bytes of metadata that map all data once.
fn covering(data: u64, block_size: DataBlockSize) -> u64 {
    // Fewer than 2^47 blocks.
    data / block_size.bytes() * MAPPING_BYTES
}

fn data_min(block_size: DataBlockSize) -> u64 {
    (DATA_BLOCKS_MIN * block_size.bytes()).max(DATA_MIN)
}

#[cfg(test)]
mod tests;
