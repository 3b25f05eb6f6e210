//! What a start does about the process before it; and this process about its own calls that failed (`settle`).

use std::collections::{BTreeMap, BTreeSet};

use crate::failpoint;
use crate::pool::catalogue::Catalogue;
use crate::pool::intent::{Intent, IntentId};
use crate::pool::record::{Snapshot, Volume};
use crate::pool::{Found, Pool, PoolError, Quiesce};
use crate::types::error::chain;
use crate::types::{LocalCopyPolicy, Object, OnLoss, SnapshotId, VolumeId};

/// Differences between records and objects.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) quarantined: Vec<String>,
    pub(super) damaged: BTreeMap<Object, String>,
    /// Snapshots whose local copy should be gone by now, by what their classes say.
    pub(super) overdue: Vec<SnapshotId>,
}

/// Whether anything was left for later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Nothing.
    Wholly,
    /// Some intents.
    InPart,
}

/// Ends what a dead process may have held, then finishes or undoes every interrupted change, oldest first. One that resists is
/// logged and kept for later. The holds come first, and end also when nothing can be written (invariant 4); a catalogue that can
/// be read and not be changed ends the rest, and the pool serves what needs no change. Returns the restores that are kept as they are.
pub(super) fn recover(
    pool: &dyn Pool,
    catalogue: &Catalogue,
    quiesce: &dyn Quiesce,
) -> Result<(Settled, Vec<(IntentId, Volume)>), PoolError> {
    let (mut settled, mut kept) = (Settled::Wholly, Vec::new());
    let mut released = Vec::new();
    for (id, intent) in catalogue.intents()? {
        match release(pool, quiesce, holds(&intent)) {
            Ok(()) => released.push((id, intent)),
            Err(error) => {
                tracing::error!(intent = id.0, ?intent, error = %chain(&error), "volumes of an interrupted change may still be held");
                settled = Settled::InPart;
            }
        }
    }
    for (id, intent) in released {
        if let Intent::Restore { volume, on_loss: OnLoss::Keep } = &intent
            && may_go_on(pool, volume)
        {
            tracing::info!(volume = %volume.id, name = %volume.name, "an interrupted restore is kept for the next equal one");
            kept.push((id, volume.clone()));
            continue;
        }
        if let Err(error) = recover_one(pool, catalogue, id, &intent) {
            tracing::error!(intent = id.0, ?intent, error = %chain(&error), "an interrupted change could not be recovered");
            settled = Settled::InPart;
            if matches!(error, PoolError::Catalogue(_)) {
                break;
            }
        }
    }
    Ok((settled, kept))
}

/// Whether the object of an interrupted restore is there, and as large as it was made. A device that was left is taken away, as far as nobody has it open.
fn may_go_on(pool: &dyn Pool, volume: &Volume) -> bool {
    let object = Object::Volume(volume.id);
    if let Err(error) = pool.detach(object) {
        tracing::debug!(%object, error = %chain(&error), "the device of an interrupted restore stays for now");
    }
    pool.size(object).is_ok_and(|size| size == volume.size)
}

/// Finishes or undoes one interrupted change, which nobody works on and nothing is held for.
pub(super) fn recover_one(pool: &dyn Pool, catalogue: &Catalogue, id: IntentId, intent: &Intent) -> Result<(), PoolError> {
    match intent {
        Intent::CreateVolume { volume, .. } => {
            failpoint::around("pool.recover_delete", || remove(pool, Object::Volume(volume.id)))?;
            catalogue.commit("recover.undo_volume", |change| {
                pool.unregister(change, Object::Volume(volume.id))?;
                change.drop_intent(id)
            })?;
            tracing::warn!(volume = %volume.id, name = %volume.name, "interrupted creation of a volume undone");
        }
        Intent::CreateSnapshots { snapshots, .. } => {
            for snapshot in snapshots {
                failpoint::around("pool.recover_delete", || remove(pool, Object::Snapshot(snapshot.id)))?;
            }
            catalogue.commit("recover.undo_snapshots", |change| {
                snapshots.iter().try_for_each(|snapshot| pool.unregister(change, Object::Snapshot(snapshot.id)))?;
                change.drop_intent(id)
            })?;
            let names: Vec<&str> = snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
            tracing::warn!(?names, "interrupted cut of snapshots undone");
        }
        Intent::Restore { volume, .. } => {
            failpoint::around("pool.recover_delete", || remove(pool, Object::Volume(volume.id)))?;
            catalogue.commit("recover.undo_restore", |change| {
                pool.unregister(change, Object::Volume(volume.id))?;
                change.drop_intent(id)
            })?;
            tracing::warn!(volume = %volume.id, name = %volume.name, "interrupted restore undone: it is to be begun again");
        }
        Intent::DeleteVolume { volume } => {
            failpoint::around("pool.recover_delete", || remove(pool, Object::Volume(volume.id)))?;
            catalogue.commit("recover.delete_volume", |change| {
                if !change.has_snapshots(volume.id)? {
                    change.remove_exports(volume.id)?;
                }
                pool.unregister(change, Object::Volume(volume.id))?;
                change.drop_intent(id)
            })?;
            tracing::info!(volume = %volume.id, name = %volume.name, "interrupted deletion of a volume finished");
        }
        Intent::DeleteSnapshot { snapshot } => {
            failpoint::around("pool.recover_delete", || remove(pool, Object::Snapshot(snapshot.id)))?;
            catalogue.commit("recover.delete_snapshot", |change| {
                if change.volume(snapshot.source)?.is_none() && !change.has_snapshots(snapshot.source)? {
                    change.remove_exports(snapshot.source)?;
                }
                pool.unregister(change, Object::Snapshot(snapshot.id))?;
                change.drop_intent(id)
            })?;
            tracing::info!(snapshot = %snapshot.id, name = %snapshot.name, "interrupted deletion of a snapshot finished");
        }
        Intent::Grow { volume, size } => {
            let mut stored = *size;
            if catalogue.volume(*volume)?.is_some() {
                failpoint::around("pool.recover_grow", || pool.grow(*volume, *size))?;
                stored = pool.size(Object::Volume(*volume))?;
            }
            catalogue.commit("recover.grow", |change| {
                if let Some(mut record) = change.volume(*volume)? {
                    record.size = record.size.max(stored);
                    change.put_volume(&record)?;
                }
                change.drop_intent(id)
            })?;
            tracing::info!(%volume, size = size.bytes(), "interrupted growth finished");
        }
    }
    Ok(())
}

/// Deletes an object nobody was told of, or was told is gone; its device, if one was left, first.
pub(super) fn remove(pool: &dyn Pool, object: Object) -> Result<(), PoolError> {
    match pool.detach(object) {
        Ok(()) | Err(PoolError::Missing(_)) => pool.delete(object),
        Err(error) => Err(error),
    }
}

/// The volumes that may be held still for it.
fn holds(intent: &Intent) -> &[VolumeId] {
    match intent {
        Intent::CreateVolume { holds, .. } | Intent::CreateSnapshots { holds, .. } => holds,
        Intent::DeleteVolume { .. } | Intent::DeleteSnapshot { .. } | Intent::Grow { .. } | Intent::Restore { .. } => &[],
    }
}

/// Ends holds that the dead process may have left.
fn release(pool: &dyn Pool, quiesce: &dyn Quiesce, holds: &[VolumeId]) -> Result<(), PoolError> {
    let mut devices = Vec::new();
    for &volume in holds {
        match pool.attachment(Object::Volume(volume)) {
            Ok(attachment) => devices.extend(attachment.map(|attachment| attachment.device)),
            Err(PoolError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    if devices.is_empty() {
        return Ok(());
    }
    failpoint::around("pool.release_leftovers", || quiesce.release_leftovers(&devices).map_err(PoolError::from))
}

/// Compares what is recorded with what is stored. Nothing is changed.
pub(super) fn compare(pool: &dyn Pool, catalogue: &Catalogue) -> Result<Findings, PoolError> {
    let mut recorded: BTreeMap<Object, u64> = BTreeMap::new();
    recorded.extend(catalogue.volumes()?.iter().map(|volume| (Object::Volume(volume.id), volume.size.bytes())));
    let here: Vec<Snapshot> = catalogue.snapshots()?.into_iter().filter(Snapshot::is_here).collect();
    recorded.extend(here.iter().map(|snapshot| (Object::Snapshot(snapshot.id), snapshot.size.bytes())));
    let anchors = catalogue.anchors()?.into_iter().map(|anchor| anchor.snapshot);
    recorded.extend(anchors.map(|snapshot| (Object::Snapshot(snapshot.id), snapshot.size.bytes())));
    let unfinished: BTreeSet<Object> = catalogue.intents()?.iter().flat_map(|(_, intent)| intent.objects()).collect();
    let mut findings = judge(&recorded, &unfinished, pool.scan()?);
    let overdue = here.iter().filter(|snapshot| snapshot.policy() == LocalCopyPolicy::Drop);
    findings.overdue = overdue.map(|snapshot| snapshot.id).collect();
    for what in &findings.quarantined {
        tracing::warn!(%what, pool = %catalogue.id(), "not recorded in the catalogue: left alone");
    }
    for (object, what) in &findings.damaged {
        tracing::error!(%object, %what, pool = %catalogue.id(), "a recorded object is damaged");
    }
    Ok(findings)
}

/// Which stored things have no record, and which records have no (whole) object. An object larger than recorded is fine:
/// what is beyond was never promised.
fn judge(recorded: &BTreeMap<Object, u64>, unfinished: &BTreeSet<Object>, found: Vec<Found>) -> Findings {
    let mut findings = Findings::default();
    let mut missing = recorded.clone();
    for thing in found {
        match thing {
            Found::Foreign(path) => findings.quarantined.push(path),
            Found::Object { object, size } => match missing.remove(&object) {
                Some(expected) if size < expected => {
                    findings.damaged.insert(object, format!("has {size} bytes instead of {expected}"));
                }
                Some(_) => {}
                None if unfinished.contains(&object) => {}
                None => findings.quarantined.push(object.to_string()),
            },
        }
    }
    findings.damaged.extend(missing.into_keys().map(|object| (object, "its data is missing from the pool".to_owned())));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_objects_are_matched_both_ways() {
        let whole = Object::Volume(VolumeId::random());
        let grown = Object::Volume(VolumeId::random());
        let short = Object::Volume(VolumeId::random());
        let gone = Object::Snapshot(SnapshotId::random());
        let unknown = Object::Snapshot(SnapshotId::random());
        let pending = Object::Volume(VolumeId::random());
        let recorded = BTreeMap::from([(whole, 8192), (grown, 8192), (short, 8192), (gone, 8192)]);
        let found = vec![
            Found::Object { object: whole, size: 8192 },
            Found::Object { object: grown, size: 12288 },
            Found::Object { object: short, size: 4096 },
            Found::Object { object: unknown, size: 4096 },
            Found::Object { object: pending, size: 0 },
            Found::Foreign("volumes/notes.txt".to_owned()),
        ];
        let findings = judge(&recorded, &BTreeSet::from([pending]), found);
        assert_eq!(findings.quarantined, vec![unknown.to_string(), "volumes/notes.txt".to_owned()]);
        assert_eq!(findings.damaged.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from([short, gone]));
    }
}
