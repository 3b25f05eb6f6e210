//! A pool in figures: taken by whoever watches over it, at each look, so that those who want them afterwards wait for no disk.
//!
//! Taken from the kernel's answer about space and from the records, of which each kind is read once; no extent is listed. What a count of
//! extents for a cut has told (`Pool::counted_extents`) is passed on as it was then.

use std::collections::BTreeMap;

use super::pool::OwnedPool;
use super::promise::Promises;
use crate::pool::{PoolError, PoolHealth, PoolKind, PoolUsage};
use crate::types::{Copies, NamespacedName, Object, PoolName, TaskState, Timestamp, VolumeId};

/// What a pool has, holds and owes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFigures {
    pub name: PoolName,
    pub kind: PoolKind,
    pub usage: PoolUsage,
    pub promises: Promises,
    pub health: PoolHealth,
    /// Hidden restores left out.
    pub volumes: usize,
    pub snapshots: usize,
    /// Deleted snapshots that are kept.
    pub anchors: usize,
    pub restores: usize,
    /// Those that nobody goes on with now.
    pub kept_restores: usize,
    pub quarantined: usize,
    pub damaged: usize,
    pub exports: ExportFigures,
    /// Volumes of claims, by ascending names.
    pub claims: Vec<ClaimFigures>,
    /// Most extents that any volume had when it was last cut; `None` when none was counted.
    pub most_extents: Option<u64>,
}

/// Exports that snapshot classes asked for and that are not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportFigures {
    /// Those that wait or run.
    pub pending: usize,
    /// Those whose last attempt has failed.
    pub failed: usize,
    /// When the oldest of both was asked for.
    pub oldest: Option<Timestamp>,
}

/// A volume of a PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimFigures {
    pub claim: NamespacedName,
    /// When its last complete export was finished, to whichever repository.
    pub last_export: Option<Timestamp>,
    /// Extents when it was last cut.
    pub extents: Option<u64>,
}

impl ExportFigures {
    /// Of these snapshots.
    fn of<'a>(copies: impl Iterator<Item = &'a Copies>) -> Self {
        let mut figures = Self::default();
        for task in copies.filter_map(|copies| copies.task.as_ref()) {
            match task.state {
                TaskState::Finished => continue,
                TaskState::Failed { .. } => figures.failed += 1,
                TaskState::Pending | TaskState::Running => figures.pending += 1,
            }
            figures.oldest = Some(figures.oldest.map_or(task.asked, |oldest| oldest.min(task.asked)));
        }
        figures
    }
}

impl OwnedPool {
    /// The pool in figures.
    ///
    /// # Errors
    /// [`PoolError::Io`], [`PoolError::Catalogue`].
    pub fn figures(&self) -> Result<PoolFigures, PoolError> {
        let (volumes, snapshots) = (self.catalogue.volumes()?, self.catalogue.snapshots()?);
        let mut last_exports: BTreeMap<VolumeId, Timestamp> = BTreeMap::new();
        for export in self.catalogue.all_exports()? {
            let last = last_exports.entry(export.volume).or_insert(export.finished);
            *last = (*last).max(export.finished);
        }
        let counted: BTreeMap<Object, u64> = self.pool.counted_extents().into_iter().collect();
        let extents = |id: VolumeId| counted.get(&Object::Volume(id)).copied();
        let mut claims: Vec<ClaimFigures> = volumes
            .iter()
            .filter_map(|volume| {
                let claim = volume.kubernetes.claim.clone()?;
                Some(ClaimFigures { claim, last_export: last_exports.get(&volume.id).copied(), extents: extents(volume.id) })
            })
            .collect();
        claims.sort_by_cached_key(|claim| claim.claim.to_string());
        let (properties, usage) = (self.properties()?, self.usage()?);
        let limit = properties.overprovision_ratio.limit(usage.total);
        Ok(PoolFigures {
            name: properties.name,
            kind: self.kind(),
            usage,
            promises: Promises { promised: self.catalogue.promised()?, limit },
            health: self.health()?,
            volumes: volumes.len(),
            snapshots: snapshots.len(),
            anchors: self.catalogue.anchors()?.len(),
            restores: self.restoring().len(),
            kept_restores: self.kept().len(),
            quarantined: self.quarantined.len(),
            damaged: self.damaged().len(),
            exports: ExportFigures::of(snapshots.iter().map(|snapshot| &snapshot.copies)),
            claims,
            most_extents: volumes.iter().filter_map(|volume| extents(volume.id)).max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ExportTask;

    #[test]
    fn exports_that_are_not_complete_are_told_by_how_they_stand_and_since_when() {
        let at = |seconds| Timestamp { seconds, nanoseconds: 0 };
        let task = |state, asked| {
            let task = ExportTask { state, ..ExportTask::new("s3:a/b".to_owned(), at(asked)) };
            Copies { task: Some(task), ..Copies::default() }
        };
        let all = [
            Copies::default(),
            task(TaskState::Finished, 1),
            task(TaskState::Pending, 9),
            task(TaskState::failed("so", at(8)), 5),
            task(TaskState::Running, 7),
        ];
        assert_eq!(ExportFigures::of(all.iter()), ExportFigures { pending: 2, failed: 1, oldest: Some(at(5)) });
        assert_eq!(ExportFigures::of(all[..2].iter()), ExportFigures::default());
    }
}
