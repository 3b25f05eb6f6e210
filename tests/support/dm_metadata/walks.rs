//! What the reader says, as sets of blocks.

use std::collections::{BTreeMap, BTreeSet};

use windlass::dm::metadata::{BlockRun, KeptMap, ThinMetadata, ThinMetadataError};
use windlass::dm::units::ThinId;

/// Blocks of runs, which must ascend and not touch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    pub blocks: BTreeSet<u64>,
    end: Option<u64>,
}

impl Blocks {
    pub fn add(&mut self, run: BlockRun) {
        assert!(self.end.is_none_or(|end| end < run.begin()), "{run:?} after the end {:?}", self.end);
        self.end = Some(run.end());
        self.blocks.extend(run.begin()..run.end());
    }
}

pub fn id(number: u32) -> ThinId {
    ThinId::new(number).unwrap()
}

pub fn mapped(metadata: &ThinMetadata<'_>, device: u32) -> Result<BTreeSet<u64>, ThinMetadataError> {
    let mut blocks = Blocks::default();
    metadata.mapped(id(device), &mut |run| {
        blocks.add(run);
        Ok::<(), ThinMetadataError>(())
    })?;
    Ok(blocks.blocks)
}

pub fn changed(metadata: &ThinMetadata<'_>, base: u32, target: u32) -> Result<BTreeSet<u64>, ThinMetadataError> {
    let mut blocks = Blocks::default();
    metadata.changed(id(base), id(target), &mut |run| {
        blocks.add(run);
        Ok::<(), ThinMetadataError>(())
    })?;
    Ok(blocks.blocks)
}

pub fn changed_since(metadata: &ThinMetadata<'_>, base: &KeptMap, target: u32) -> Result<BTreeSet<u64>, ThinMetadataError> {
    let mut blocks = Blocks::default();
    metadata.changed_since(base, id(target), &mut |run| {
        blocks.add(run);
        Ok::<(), ThinMetadataError>(())
    })?;
    Ok(blocks.blocks)
}

pub fn exclusive(metadata: &ThinMetadata<'_>, device: u32) -> Result<BTreeSet<u64>, ThinMetadataError> {
    let mut blocks = Blocks::default();
    metadata.exclusive(id(device), &mut |run| {
        blocks.add(run);
        Ok::<(), ThinMetadataError>(())
    })?;
    Ok(blocks.blocks)
}

/// For each device its mapped and its exclusive blocks.
pub fn usage(metadata: &ThinMetadata<'_>) -> Result<BTreeMap<u32, (u64, u64)>, ThinMetadataError> {
    let usage = metadata.usage()?;
    Ok(usage.into_iter().map(|(id, usage)| (id.number(), (usage.mapped_blocks, usage.exclusive_blocks))).collect())
}

/// Every walk there is over the first devices; nothing when all came to their end.
pub fn everything(metadata: &ThinMetadata<'_>) -> Result<(), ThinMetadataError> {
    let devices = metadata.devices()?;
    for (device, _) in &devices {
        metadata.details(*device)?;
        mapped(metadata, device.number())?;
        exclusive(metadata, device.number())?;
    }
    for pair in devices.windows(2) {
        changed(metadata, pair[0].0.number(), pair[1].0.number())?;
    }
    usage(metadata).map(drop)
}
