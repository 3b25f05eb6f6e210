//! The volumes of protected classes, with the snapshots that their protection has made.

use std::collections::BTreeMap;

use super::copies::SnapshotCopies;
use crate::types::{FormatState, KubernetesNames, ObjectName, PoolId, ProtectionOrder, Timestamp, VolumeHandle, VolumeId};

/// A volume of a protected class; or what is left of one that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectedVolume {
    /// The volume.
    pub volume: VolumeHandle,
    /// What protects it; `None` when it is gone and only snapshots are left.
    pub protection: Option<Protection>,
    /// What its protection has cut and not taken away again, the oldest first.
    pub snapshots: Vec<ProtectionSnapshot>,
}

/// What protects a volume, as it is recorded with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protection {
    /// What its class asks for.
    pub order: ProtectionOrder,
    /// When the volume was made.
    pub created: Timestamp,
    /// Whether there is anything in it to protect.
    pub format: FormatState,
    /// What Kubernetes calls it.
    pub kubernetes: KubernetesNames,
    /// The handle of the snapshot that it was restored from, if it was.
    pub restored_from: Option<String>,
}

impl Protection {
    /// Whether the volume was ever put to use. A volume that is made of one that was not would be taken for one that has lost its content:
    /// what a restore has written is never formatted (invariant 1).
    pub fn has_content(&self) -> bool {
        matches!(self.format, FormatState::Copied | FormatState::Content)
    }
}

/// A snapshot that a protection has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectionSnapshot {
    /// Its name.
    pub name: ObjectName,
    /// When it was cut.
    pub created: Timestamp,
    /// Where its bytes are.
    pub copies: SnapshotCopies,
}

/// A page of the protected volumes of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtectionQuery {
    /// The pool.
    pub pool: PoolId,
    /// Volumes that come after this one, in ascending order; from the first one without.
    pub after: Option<VolumeId>,
    /// At most so many, and at most [`ProtectionQuery::MAX`].
    pub limit: usize,
}

impl ProtectionQuery {
    /// Volumes of a page at most.
    pub const MAX: usize = 256;
    /// After so many snapshots a page ends with its volume, which has no more than 502 (`Retention::MAX`, one that is exported and one that
    /// it follows). Each takes half a kilobyte, and some kilobytes while its export fails, which are two of a volume.
    pub const MAX_SNAPSHOTS: usize = 1000;

    /// The page of these volumes and the snapshots that protections have made.
    pub fn select(
        &self,
        volumes: impl IntoIterator<Item = (VolumeId, Protection)>,
        snapshots: impl IntoIterator<Item = (VolumeId, ProtectionSnapshot)>,
    ) -> ProtectionPage {
        let is_asked_for = |id: VolumeId| self.after.is_none_or(|after| id > after);
        let mut known: BTreeMap<VolumeId, ProtectedVolume> = BTreeMap::new();
        let empty = |id| ProtectedVolume {
            volume: VolumeHandle { pool: self.pool, volume: id },
            protection: None,
            snapshots: Vec::new(),
        };
        for (id, protection) in volumes.into_iter().filter(|(id, _)| is_asked_for(*id)) {
            known.entry(id).or_insert_with(|| empty(id)).protection = Some(protection);
        }
        for (id, snapshot) in snapshots.into_iter().filter(|(id, _)| is_asked_for(*id)) {
            known.entry(id).or_insert_with(|| empty(id)).snapshots.push(snapshot);
        }
        let limit = self.limit.clamp(1, Self::MAX);
        let (mut page, mut count, mut rest) = (Vec::new(), 0, known.into_values());
        for mut volume in rest.by_ref() {
            volume.snapshots.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
            count += volume.snapshots.len();
            page.push(volume);
            if page.len() >= limit || count >= Self::MAX_SNAPSHOTS {
                break;
            }
        }
        let next = rest.next().and_then(|_| page.last().map(|last| last.volume.volume));
        ProtectionPage { volumes: page, next }
    }
}

/// Answer to a [`ProtectionQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectionPage {
    /// Volumes, ascending.
    pub volumes: Vec<ProtectedVolume>,
    /// What to ask for next; `None` at the end.
    pub next: Option<VolumeId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Copies, SnapshotHandle, SnapshotId};

    fn protection() -> Protection {
        let parameters = BTreeMap::from([("restore".to_owned(), "latestOrEmpty".to_owned())]);
        Protection {
            order: ProtectionOrder::parse(&parameters).unwrap().unwrap(),
            created: Timestamp::now(),
            format: FormatState::Content,
            kubernetes: KubernetesNames::default(),
            restored_from: None,
        }
    }

    fn snapshot(pool: PoolId, seconds: u64) -> ProtectionSnapshot {
        let snapshot = SnapshotHandle { pool, snapshot: SnapshotId::random() };
        ProtectionSnapshot {
            name: format!("protection-{seconds}").try_into().unwrap(),
            created: Timestamp { seconds, nanoseconds: 0 },
            copies: SnapshotCopies { snapshot, order: None, copies: Copies::default() },
        }
    }

    #[test]
    fn pages_hold_every_volume_once_with_its_snapshots_in_the_order_of_their_cuts_and_what_outlives_one() {
        let pool = PoolId::random();
        let mut ids: Vec<VolumeId> = (0..12).map(|_| VolumeId::random()).collect();
        ids.sort_unstable();
        // The last one is gone.
        let volumes: Vec<_> = ids[..11].iter().map(|id| (*id, protection())).collect();
        let snapshots: Vec<_> = ids.iter().flat_map(|id| [9, 3, 5].map(|second| (*id, snapshot(pool, second)))).collect();
        for limit in [0, 1, 5, 1000] {
            let (mut query, mut seen) = (ProtectionQuery { pool, after: None, limit }, Vec::new());
            loop {
                let page = query.select(volumes.clone(), snapshots.clone());
                assert!(page.volumes.len() <= limit.max(1));
                seen.extend(page.volumes);
                let Some(next) = page.next else { break };
                query.after = Some(next);
            }
            assert!(seen.iter().map(|seen| seen.volume.volume).eq(ids.iter().copied()), "limit {limit}");
            let seconds = |seen: &ProtectedVolume| seen.snapshots.iter().map(|cut| cut.created.seconds).collect::<Vec<_>>();
            assert!(seen.iter().all(|seen| seconds(seen) == [3, 5, 9]));
            assert!(seen[11].protection.is_none() && seen[..11].iter().all(|seen| seen.protection.is_some()));
        }
    }

    #[test]
    fn a_page_ends_early_when_its_snapshots_are_many() {
        let pool = PoolId::random();
        let ids: Vec<VolumeId> = (0..4).map(|_| VolumeId::random()).collect();
        let many = ids.iter().flat_map(|id| (0..500).map(|second| (*id, snapshot(pool, second))));
        let page = ProtectionQuery { pool, after: None, limit: 100 }.select([], many);
        assert_eq!((page.volumes.len(), page.next), (2, page.volumes.last().map(|last| last.volume.volume)));
    }
}
