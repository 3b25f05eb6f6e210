//! How a protection does, for people.

use crate::blocks::ProtectedVolume;
use crate::types::{NamespacedName, TaskState, Timestamp, VolumeHandle};

use super::slot::Slot;

/// How the protection of one volume does. It is told from the records, so it is the same after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectionStatus {
    /// The volume.
    pub volume: VolumeHandle,
    /// Its claim, if that is known.
    pub claim: Option<NamespacedName>,
    /// From one cut to the next, in seconds.
    pub interval_seconds: u64,
    /// When the newest export was cut that the repository holds: what would be restored now.
    pub last_success: Option<Timestamp>,
    /// Exports that are kept.
    pub exports: usize,
    /// When the next cut is due.
    pub next: Timestamp,
    /// Why the last attempt failed and when, if nothing has succeeded since.
    pub failure: Option<(String, Timestamp)>,
    /// The snapshot that the volume was restored from, if it was.
    pub restored_from: Option<String>,
}

impl ProtectionStatus {
    /// That of a volume; `None` for one without a schedule, and for one that is gone.
    pub(super) fn of(volume: &ProtectedVolume, now: Timestamp) -> Option<Self> {
        let protection = volume.protection.as_ref()?;
        let schedule = protection.order.exports.as_ref()?.schedule;
        let finished = || volume.snapshots.iter().filter(|cut| cut.copies.copies.is_task_finished());
        let last = volume.snapshots.last().and_then(|cut| cut.copies.copies.task.as_ref());
        let failure = last.and_then(|task| match &task.state {
            TaskState::Failed { reason, at } => Some((reason.clone(), *at)),
            TaskState::Pending | TaskState::Running | TaskState::Finished => None,
        });
        Some(Self {
            volume: volume.volume,
            claim: protection.kubernetes.claim.clone(),
            interval_seconds: schedule.seconds(),
            last_success: finished().map(|cut| cut.created).max(),
            exports: finished().count(),
            next: Slot::at(schedule, volume.volume.volume, now).next(schedule),
            failure,
            restored_from: protection.restored_from.clone(),
        })
    }

    /// Whether what would be restored is older than two intervals: one may be running late, two have gone wrong.
    pub fn is_late(&self, now: Timestamp) -> bool {
        let allowed = self.interval_seconds.saturating_mul(2);
        self.last_success.is_none_or(|last| now.seconds.saturating_sub(last.seconds) > allowed)
    }
}
