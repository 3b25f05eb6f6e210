//! Space: of a pool, of its metadata, of one object; what is kept for the volumes that exist, and what is refused for it.

use super::properties::Reserve;

/// Space of a pool, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUsage {
    /// Size of the pool.
    pub total: u64,
    /// Free, the reserve included.
    pub free: u64,
    /// Kept free of new volumes: they are refused once `free` is at most this.
    pub reserve: u64,
    /// Kept free of new snapshots too: at most `reserve`.
    pub snapshot_reserve: u64,
    /// Space of the pool's own metadata, where that is apart.
    pub metadata: Option<MetadataUsage>,
}

impl PoolUsage {
    /// Space of a pool that keeps the same free of volumes and of snapshots, and has no metadata of its own.
    pub const fn new(total: u64, free: u64) -> Self {
        let reserve = Self::reserve_of(total);
        Self { total, free, reserve, snapshot_reserve: reserve, metadata: None }
    }

    /// The same space with the reserve that was chosen for the pool. Where snapshots may go on longer than volumes they still do.
    #[must_use]
    pub fn with_reserve(self, chosen: Reserve) -> Self {
        let Some(reserve) = chosen.of(self.total) else { return self };
        let snapshot_reserve = if self.snapshot_reserve == self.reserve { reserve } else { reserve / 2 };
        Self { reserve, snapshot_reserve, ..self }
    }

    /// What new volumes may still take.
    pub fn available(&self) -> u64 {
        self.available_to(Demand::Volume)
    }

    /// What new objects of a kind may still take; none are made when this is zero.
    pub fn available_to(&self, demand: Demand) -> u64 {
        let (reserve, percent) = match demand {
            Demand::Volume => (self.reserve, MetadataUsage::VOLUME_PERCENT),
            Demand::Snapshot => (self.snapshot_reserve, MetadataUsage::SNAPSHOT_PERCENT),
        };
        if self.metadata.is_some_and(|metadata| !metadata.has_room(percent)) {
            return 0;
        }
        self.free.saturating_sub(reserve)
    }

    /// What is short and what is refused for it, in a sentence that says what to do; `None` while there is room for everything.
    pub fn shortage(&self) -> Option<String> {
        let refused = match (self.available_to(Demand::Volume), self.available_to(Demand::Snapshot)) {
            (1.., _) => return None,
            (0, 1..) => "new volumes are refused",
            (0, 0) => "new volumes and snapshots are refused",
        };
        let cure = "delete volumes or snapshots, or enlarge what the pool lies on";
        Some(match self.metadata {
            Some(metadata) if self.free > self.reserve => format!(
                "the pool's metadata is nearly full, {} of {} bytes are free: {refused}; {cure}",
                metadata.free, metadata.total
            ),
            _ => format!("the pool is nearly full, {} bytes are free: {refused}; {cure}", self.free),
        })
    }

    /// What a pool of `total` bytes keeps free: 2 % of it, and at least 1 GiB, unless that is more than a tenth of the pool.
    ///
    /// Volumes are sparse and snapshots share, so existing volumes go on taking space after the last creation: the reserve
    /// is what their writers live on until somebody reacts. A pool that runs out loses the writes that its volumes hold in
    /// their caches; hence a floor that a small pool notices, capped so that a small pool is usable at all.
    pub const fn reserve_of(total: u64) -> u64 {
        const FLOOR: u64 = 1 << 30;
        let (share, cap) = (total / 50, total / 10);
        let floor = if FLOOR < cap { FLOOR } else { cap };
        if share > floor { share } else { floor }
    }
}

/// Space of a thin pool's metadata, in bytes. A pool that runs out of it stops, and must be repaired before it can be enlarged;
/// so new objects are refused long before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataUsage {
    /// Size of the metadata.
    pub total: u64,
    pub free: u64,
}

impl MetadataUsage {
    /// New volumes are refused once this part of the metadata is used.
    pub const VOLUME_PERCENT: u64 = 75;
    /// New snapshots are refused once this part of it is used: later than volumes, since backups are made of them.
    pub const SNAPSHOT_PERCENT: u64 = 80;

    /// Whether there is room for new objects that are refused at `percent`.
    fn has_room(&self, percent: u64) -> bool {
        let used = self.total.saturating_sub(self.free);
        u128::from(used) * 100 < u128::from(self.total) * u128::from(percent)
    }
}

/// What is asked to be made, as far as it matters for the room it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// A volume, empty, copied or restored.
    Volume,
    Snapshot,
}

/// Space of one object, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectUsage {
    /// Everything the object refers to, shared or not.
    pub allocated: u64,
    /// What only this object refers to: a lower bound of what its deletion frees.
    pub exclusive: u64,
    /// Number of extents, of which a cut by FICLONE takes some 20 us each; of a thin pool, of data blocks.
    pub extents: u64,
}
