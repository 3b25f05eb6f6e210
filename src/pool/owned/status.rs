//! What a pool says about itself.

use std::collections::BTreeSet;

use super::pool::OwnedPool;
use crate::pool::record::Anchor;
use crate::pool::{ObjectUsage, PoolError, PoolHealth, PoolKind, PoolUsage};
use crate::types::{Object, ObjectName, PoolId};

/// State of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// Identity.
    pub id: PoolId,
    /// Which implementation.
    pub kind: PoolKind,
    /// Where it is, for people.
    pub location: String,
    /// The mechanism beneath, for people (`xfs`, `btrfs`, `memory`).
    pub mechanism: &'static str,
    /// Space.
    pub usage: PoolUsage,
    /// How it is beyond that.
    pub health: PoolHealth,
    /// Number of volumes, hidden restores left out.
    pub volumes: usize,
    /// Number of snapshots.
    pub snapshots: usize,
    /// Number of anchors: deleted snapshots that are kept. See [`OwnedPool::anchor_status`].
    pub anchors: usize,
    /// Number of restores in progress.
    pub restores: usize,
    /// Number of restores that nobody goes on with now. See [`OwnedPool::kept_restores`].
    pub kept_restores: usize,
    /// Things in the pool that no record names, as found at the start. They are left alone.
    pub quarantined: Vec<String>,
    /// Recorded objects whose data is missing or cut short, with what is wrong.
    pub damaged: Vec<String>,
}

/// State of an anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorStatus {
    /// Its record.
    pub anchor: Anchor,
    /// What it takes: its exclusive part is what its eviction frees.
    pub usage: ObjectUsage,
}

impl OwnedPool {
    /// Space of the pool, with the reserve that was chosen for it.
    ///
    /// # Errors
    /// [`PoolError::Io`], [`PoolError::Catalogue`].
    pub fn usage(&self) -> Result<PoolUsage, PoolError> {
        Ok(self.pool.usage()?.with_reserve(self.catalogue.properties()?.reserve))
    }

    /// As [`OwnedPool::usage`], after a commit where it takes one until what was freed counts as free.
    pub(super) fn usage_after_commit(&self) -> Result<PoolUsage, PoolError> {
        Ok(self.pool.usage_after_commit()?.with_reserve(self.catalogue.properties()?.reserve))
    }

    /// How the pool is, beyond the space it has.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn health(&self) -> Result<PoolHealth, PoolError> {
        self.pool.health()
    }

    /// Anchors and what they take, volume by volume. Looks at the extents of each.
    pub fn anchor_status(&self) -> Result<Vec<AnchorStatus>, PoolError> {
        let mut states = Vec::new();
        for anchor in self.catalogue.anchors()? {
            match self.pool.object_usage(Object::Snapshot(anchor.snapshot.id)) {
                Ok(usage) => states.push(AnchorStatus { anchor, usage }),
                // Evicted just now.
                Err(PoolError::Missing(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(states)
    }

    /// Whether the pool can be used: its disk and its catalogue answer. A pool that takes no changes, or is full, can; one that the kernel
    /// gave up cannot.
    ///
    /// # Errors
    /// [`PoolError::Io`], [`PoolError::Catalogue`]: what is asked of it will fail, until it is opened anew.
    pub fn check(&self) -> Result<(), PoolError> {
        self.pool.health()?;
        self.pool.usage()?;
        self.catalogue.check_works()
    }

    /// The names of all volumes.
    pub fn volume_names(&self) -> Result<BTreeSet<ObjectName>, PoolError> {
        self.catalogue.volume_names()
    }

    /// State of the pool now; quarantined and damaged objects as found at the start.
    pub fn status(&self) -> Result<PoolStatus, PoolError> {
        Ok(PoolStatus {
            id: self.id(),
            kind: self.kind(),
            location: self.location(),
            mechanism: self.pool.mechanism(),
            usage: self.usage()?,
            health: self.pool.health()?,
            volumes: self.catalogue.volumes()?.len(),
            snapshots: self.catalogue.snapshots()?.len(),
            anchors: self.catalogue.anchors()?.len(),
            restores: self.restoring().len(),
            kept_restores: self.kept().len(),
            quarantined: self.quarantined.to_vec(),
            damaged: self.damaged().iter().map(|(object, what)| format!("{object}: {what}")).collect(),
        })
    }
}
