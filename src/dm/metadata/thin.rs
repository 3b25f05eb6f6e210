//! What is read of a pool: its devices, their mapped blocks, their differences.

use std::collections::BTreeMap;

use zerocopy::little_endian::U32;
use zerocopy::transmute_ref;

use super::bitmap::Bitmap;
use super::blocks::{MetadataBlock, MetadataSource};
use super::damage::Damage;
use super::difference::difference;
use super::disk::DeviceDetailsValue;
use super::error::ThinMetadataError;
use super::kept::KeptMap;
use super::node::{DETAILS, NUMBER, Node};
use super::reader::{Interrupt, Reader};
use super::run::{BlockRun, Runs};
use super::since::Since;
use super::superblock::Superblock;
use super::usage::{DeviceUsage, exclusive, mapped, usage};
use super::walk::{each_leaf, lookup};
use crate::dm::units::{ThinId, ThinTime};

/// All thin ids are below this.
const IDS: u64 = ThinId::MAX.number() as u64 + 1;

/// What a pool keeps of a thin device besides its mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceDetails {
    /// Virtual blocks that are mapped, shared ones included.
    pub mapped_blocks: u64,
    /// The pool's transaction id when the device was made.
    pub transaction_id: u64,
    /// The pool's time when the device was made; that of a snapshot was raised for it.
    pub creation_time: ThinTime,
    /// The pool's time when the last snapshot was made of it, or when it was made itself.
    pub snapshotted_time: ThinTime,
}

/// The metadata of a pool at one moment.
pub struct ThinMetadata<'a> {
    blocks: &'a dyn MetadataSource,
    interrupt: Interrupt<'a>,
    superblock: Superblock,
    /// Of the data device. From the live superblock, which says it; a pool only grows.
    data_blocks: u64,
    /// All virtual blocks are below this.
    high: u64,
}

impl<'a> ThinMetadata<'a> {
    /// The metadata of a pool that is not active.
    pub fn live(blocks: &'a dyn MetadataSource, interrupt: Interrupt<'a>) -> Result<Self, ThinMetadataError> {
        let superblock = Superblock::read(blocks)?;
        Ok(Self::of(blocks, interrupt, superblock, superblock.data_blocks))
    }

    /// The metadata as they were when the pool's metadata snapshot was made. The caller keeps that snapshot until the last walk ended.
    ///
    /// # Errors
    /// [`ThinMetadataError::NotHeld`] when there is no metadata snapshot; otherwise as for [`Superblock::read`].
    pub fn held(blocks: &'a dyn MetadataSource, interrupt: Interrupt<'a>) -> Result<Self, ThinMetadataError> {
        let live = Superblock::read(blocks)?;
        let copy = Superblock::read_at(blocks, live.held_root.ok_or(ThinMetadataError::NotHeld)?)?;
        Ok(Self::of(blocks, interrupt, copy, live.data_blocks))
    }

    fn of(blocks: &'a dyn MetadataSource, interrupt: Interrupt<'a>, superblock: Superblock, data_blocks: u64) -> Self {
        // Bytes of a device are counted with a sign by the kernel.
        let high = i64::MAX.unsigned_abs() / superblock.data_block_size.bytes();
        Self { blocks, interrupt, superblock, data_blocks, high }
    }

    /// The superblock, or the copy that the metadata snapshot has of it.
    pub const fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// All thin devices in the order of their ids.
    ///
    /// # Errors
    /// When the metadata is damaged or cannot be read, or the walk is interrupted.
    pub fn devices(&self) -> Result<Vec<(ThinId, DeviceDetails)>, ThinMetadataError> {
        let mut devices = Vec::new();
        let mut reader = self.reader();
        each_leaf(&mut reader, self.superblock.details_root, IDS, &mut |node| {
            for (key, value) in node.keys().iter().zip(node.values()) {
                // All keys were found to be below the number of ids.
                let id = u32::try_from(u64::from_le_bytes(*key)).ok().and_then(ThinId::new);
                devices.extend(id.zip(Some(self.parse_details(value)?)));
            }
            Ok::<(), ThinMetadataError>(())
        })?;
        Ok(devices)
    }

    /// What is kept of one device.
    ///
    /// # Errors
    /// [`ThinMetadataError::MissingDevice`] when there is none of this id; otherwise as for [`ThinMetadata::devices`].
    pub fn details(&self, id: ThinId) -> Result<DeviceDetails, ThinMetadataError> {
        let mut reader = self.reader();
        let value = lookup(&mut reader, self.superblock.details_root, IDS, id.number().into())?;
        self.parse_details(&value.ok_or(ThinMetadataError::MissingDevice(id))?)
    }

    /// Passes on the runs of blocks that a device has, in ascending order, each as long as it can be.
    ///
    /// # Errors
    /// Those of the sink; [`ThinMetadataError::MissingDevice`]; otherwise as for [`ThinMetadata::devices`]. What was passed on before an
    /// error is not the whole.
    pub fn mapped<E: From<ThinMetadataError>>(
        &self,
        id: ThinId,
        sink: &mut dyn FnMut(BlockRun) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = self.reader();
        let root = self.root(&mut reader, id)?;
        let mut runs = Runs::new(sink);
        each_leaf(&mut reader, root, self.high, &mut |node: Node<'_, NUMBER>| {
            let keys = node.keys();
            match (keys.first(), keys.last()) {
                // Without a gap in the whole leaf, which is usual.
                (Some(first), Some(last)) if u64::from_le_bytes(*last) - u64::from_le_bytes(*first) == keys.len() as u64 - 1 => {
                    runs.extend(u64::from_le_bytes(*first), u64::from_le_bytes(*last) + 1)
                }
                _ => keys.iter().try_for_each(|key| runs.push(u64::from_le_bytes(*key))),
            }
        })?;
        runs.finish()
    }

    /// Passes on the runs of blocks whose data may differ between two devices: those that one of them has and the other has not, and those
    /// that both have in different places. Ascending, each as long as it can be. Equal to what `thin_delta` says.
    pub fn changed<E: From<ThinMetadataError>>(
        &self,
        base: ThinId,
        target: ThinId,
        sink: &mut dyn FnMut(BlockRun) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = self.reader();
        let roots = [self.root(&mut reader, base)?, self.root(&mut reader, target)?];
        difference(&mut reader, roots, self.high, sink)
    }

    /// Passes on the runs of blocks whose data may differ between a device and a snapshot that came before it and was deleted:
    /// what the device has that was written since, and what the snapshot had that the device has not. Ascending, each as long as it can
    /// be. The device descends from the snapshot, or from the snapshot's origin as it was then or later; of others this says nothing
    /// that could be relied on.
    pub fn changed_since<E: From<ThinMetadataError>>(
        &self,
        base: &KeptMap,
        target: ThinId,
        sink: &mut dyn FnMut(BlockRun) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = self.reader();
        let root = self.root(&mut reader, target)?;
        let mut since = Since::new(base, Runs::new(sink));
        each_leaf(&mut reader, root, self.high, &mut |node| since.leaf(node))?;
        since.finish()
    }

    /// How many blocks each device has, and how many of them nobody else has: what deleting it would free.
    pub fn usage(&self) -> Result<BTreeMap<ThinId, DeviceUsage>, ThinMetadataError> {
        let mut reader = self.reader();
        let roots = self.roots(&mut reader)?;
        let devices = self.devices()?;
        if devices.len() != roots.len() {
            let tree = self.superblock.data_mapping_root;
            return Err(ThinMetadataError::damaged(tree, Damage::OtherDevices));
        }
        let exclusive = usage(&mut reader, &roots, self.high, self.data_blocks)?;
        let usage = |((id, details), exclusive_blocks): ((_, DeviceDetails), _)| {
            (id, DeviceUsage { mapped_blocks: details.mapped_blocks, exclusive_blocks })
        };
        Ok(devices.into_iter().zip(exclusive).map(usage).collect())
    }

    /// Passes on the runs of blocks of a device whose data no other device has: what deleting it would free. Ascending, each as long as it
    /// can be. Costs as much as [`ThinMetadata::usage`].
    pub fn exclusive<E: From<ThinMetadataError>>(
        &self,
        id: ThinId,
        sink: &mut dyn FnMut(BlockRun) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = self.reader();
        let roots = self.roots(&mut reader)?;
        let place = self.devices()?.iter().position(|(device, _)| *device == id);
        let root = place.and_then(|place| roots.get(place).copied()).ok_or(ThinMetadataError::MissingDevice(id))?;
        exclusive(&mut reader, &roots, self.high, self.data_blocks)?.of(&mut reader, root, sink)
    }

    /// The data blocks that any device maps to, of these metadata or of `others`, which are of the same pool.
    pub(super) fn mapped_data(&self, others: Option<&Self>) -> Result<Bitmap, ThinMetadataError> {
        let mut reader = self.reader();
        let mut roots = self.roots(&mut reader)?;
        if let Some(others) = others {
            roots.extend(others.roots(&mut reader)?);
        }
        mapped(&mut reader, &roots, self.high, self.data_blocks)
    }

    /// Roots of all devices' own trees, in the order of the devices' ids.
    fn roots(&self, reader: &mut Reader<'_>) -> Result<Vec<MetadataBlock>, ThinMetadataError> {
        let tree = self.superblock.data_mapping_root;
        let mut numbers = Vec::new();
        each_leaf(reader, tree, IDS, &mut |node| {
            numbers.extend(node.values().iter().map(|value: &[u8; NUMBER]| u64::from_le_bytes(*value)));
            Ok::<(), ThinMetadataError>(())
        })?;
        numbers.into_iter().map(|number| reader.pointer(tree, number)).collect()
    }

    fn reader(&self) -> Reader<'a> {
        Reader::new(self.blocks, self.interrupt)
    }

    /// Root of a device's own tree.
    fn root(&self, reader: &mut Reader<'_>, id: ThinId) -> Result<MetadataBlock, ThinMetadataError> {
        let tree = self.superblock.data_mapping_root;
        let number = lookup(reader, tree, IDS, id.number().into())?.ok_or(ThinMetadataError::MissingDevice(id))?;
        reader.pointer(tree, u64::from_le_bytes(number))
    }

    fn parse_details(&self, value: &[u8; DETAILS]) -> Result<DeviceDetails, ThinMetadataError> {
        let details: &DeviceDetailsValue = transmute_ref!(value);
        let time = |time: U32| {
            ThinTime::new(time.get()).ok_or(ThinMetadataError::damaged(self.superblock.details_root, Damage::TimeOutOfRange))
        };
        Ok(DeviceDetails {
            mapped_blocks: details.mapped_blocks.get(),
            transaction_id: details.transaction_id.get(),
            creation_time: time(details.creation_time)?,
            snapshotted_time: time(details.snapshotted_time)?,
        })
    }
}
