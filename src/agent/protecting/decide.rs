//! What is to be done about a protected volume. Pure: decided from its records, the time, and which exports run in this process.

use std::time::Duration;

use crate::blocks::{ProtectedVolume, Protection, ProtectionSnapshot};
use crate::types::{ScheduleOrder, SnapshotHandle, TaskState, Timestamp};

use super::retention;
use super::slot::Slot;

/// Cuts of a volume that wait for their export at most: one that is in the repository in part, perhaps, and so cannot just be deleted, and
/// one that is newer.
const WAITING: usize = 2;

/// A snapshot that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// From here only.
    Local(SnapshotHandle),
    /// From the repository first.
    Everywhere(SnapshotHandle),
}

/// What is to be done about a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    /// A cut that is due.
    pub(super) cut: Option<Slot>,
    /// An attempt at the export of this one.
    pub(super) export: Option<SnapshotHandle>,
    /// These are to go.
    pub(super) leaving: Vec<Leaving>,
    /// When something else is due, if nothing happens before.
    pub(super) next: Option<Timestamp>,
}

/// What is to be done about a volume at this time.
pub(super) fn plan(volume: &ProtectedVolume, now: Timestamp, is_running: impl Fn(SnapshotHandle) -> bool) -> Plan {
    let Some(protection) = &volume.protection else { return of_the_dead(volume, is_running) };
    let Some(order) = &protection.order.exports else { return Plan::default() };
    let (finished, waiting): (Vec<_>, Vec<_>) = volume.snapshots.iter().partition(|cut| cut.copies.copies.is_task_finished());
    let runs = waiting.iter().any(|cut| is_running(cut.copies.snapshot));
    let slot = Slot::at(order.schedule, volume.volume.volume, now);
    let mut plan = Plan { next: Some(slot.next(order.schedule)), ..Plan::default() };
    let has_turn = protection.has_content() && waiting.len() < WAITING && !runs;
    plan.cut = Some(slot).filter(|slot| has_turn && *slot > last_slot(volume, protection, order, *slot));
    let surplus = retention::surplus(finished, order.retention, now);
    plan.leaving.extend(surplus.into_iter().map(Leaving::Everywhere));
    let Some((newest, older)) = waiting.split_last() else { return plan };
    let idle = older.iter().filter(|cut| !is_running(cut.copies.snapshot));
    plan.leaving.extend(idle.map(|cut| superseded(cut)));
    if !runs {
        match begins_at(newest).filter(|begins| *begins > now) {
            Some(later) => plan.next = plan.next.min(Some(later)),
            None => plan.export = Some(newest.copies.snapshot),
        }
    }
    plan
}

/// A volume that is gone leaves nothing here. What it has in the repository stays.
fn of_the_dead(volume: &ProtectedVolume, is_running: impl Fn(SnapshotHandle) -> bool) -> Plan {
    let cuts = volume.snapshots.iter().map(|cut| cut.copies.snapshot);
    Plan { leaving: cuts.filter(|cut| !is_running(*cut)).map(Leaving::Local).collect(), ..Plan::default() }
}

/// A cut that was not exported, and that a newer one follows. It may be in the repository once that was opened for it.
fn superseded(cut: &ProtectionSnapshot) -> Leaving {
    let handle = cut.copies.snapshot;
    match cut.copies.copies.task.as_ref().and_then(|task| task.repository.as_ref()) {
        Some(_) => Leaving::Everywhere(handle),
        None => Leaving::Local(handle),
    }
}

/// The last moment of the schedule up to `slot` that the volume has a cut of, or in which it was made. A cut from a later moment was made by
/// a clock that was wrong, and does not count.
fn last_slot(volume: &ProtectedVolume, protection: &Protection, order: &ScheduleOrder, slot: Slot) -> Slot {
    let id = volume.volume.volume;
    let of_cut = |cut: &ProtectionSnapshot| Slot::of_name(&cut.name, id);
    let cuts = volume.snapshots.iter().filter_map(of_cut).filter(|cut| *cut <= slot);
    // One that was made in the future, by the same clock, is not left without cuts.
    let born = Some(Slot::at(order.schedule, id, protection.created)).filter(|born| *born <= slot);
    cuts.chain(born).max().unwrap_or(Slot::BEFORE_ALL)
}

/// When the next attempt at an export begins, if one has failed.
fn begins_at(cut: &ProtectionSnapshot) -> Option<Timestamp> {
    let task = cut.copies.copies.task.as_ref()?;
    match &task.state {
        TaskState::Failed { at, .. } => {
            let pause = pause(task.attempts);
            Some(Timestamp { seconds: at.seconds.saturating_add(pause.as_secs()), nanoseconds: at.nanoseconds })
        }
        TaskState::Pending | TaskState::Running | TaskState::Finished => None,
    }
}

/// How long after a failure nothing is tried, by the attempts that were made: half a minute, doubled each time, a quarter of an hour at most.
///
/// An attempt derives a key from the password, a third of a second of a processor and 32 MiB. A hundred volumes of one class with a
/// wrong password take a thirtieth of a processor so, and a Secret that was mended is noticed within the quarter of an hour, or by the
/// next cut, which begins anew.
pub(super) fn pause(attempts: u32) -> Duration {
    const FIRST_SECONDS: u64 = 30;
    const LONGEST: Duration = Duration::from_secs(15 * 60);
    Duration::from_secs(FIRST_SECONDS << attempts.saturating_sub(1).min(5)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::blocks::SnapshotCopies;
    use crate::types::{
        Copies, ExportTask, FormatState, KubernetesNames, PoolId, ProtectionOrder, SnapshotId, VolumeHandle, VolumeId,
    };

    const HOUR: u64 = 3600;
    /// Half an hour after a moment of each hour: no delay is longer than a quarter.
    const NOW: u64 = 1_700_000_000 / HOUR * HOUR + HOUR / 2;

    fn at(seconds: u64) -> Timestamp {
        Timestamp { seconds, nanoseconds: 0 }
    }

    fn order() -> ProtectionOrder {
        let class = [("protect", "hourly"), ("keepHourly", "2"), ("repositorySecret", "a/b")];
        let class: BTreeMap<_, _> = class.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        ProtectionOrder::parse(&class).unwrap().unwrap()
    }

    fn volume(cuts: &[(u64, Option<TaskState>)]) -> ProtectedVolume {
        let (pool, id) = (PoolId::random(), VolumeId::random());
        let cut = |(seconds, state): &(u64, Option<TaskState>)| {
            let snapshot = SnapshotHandle { pool, snapshot: SnapshotId::random() };
            let task = state.clone().map(|state| ExportTask { state, attempts: 1, ..ExportTask::new("s3:a/b".into(), at(1)) });
            let copies = Copies { task, ..Copies::default() };
            let slot = Slot::at(order().exports.unwrap().schedule, id, at(*seconds));
            ProtectionSnapshot {
                name: slot.name(id).unwrap(),
                created: at(*seconds),
                copies: SnapshotCopies { snapshot, order: Some(order().export), copies },
            }
        };
        let protection = Protection {
            order: order(),
            created: at(NOW - 50 * HOUR),
            format: FormatState::Content,
            kubernetes: KubernetesNames::default(),
            restored_from: None,
        };
        ProtectedVolume {
            volume: VolumeHandle { pool, volume: id },
            protection: Some(protection),
            snapshots: cuts.iter().map(cut).collect(),
        }
    }

    fn idle(volume: &ProtectedVolume, now: u64) -> Plan {
        plan(volume, at(now), |_| false)
    }

    #[test]
    fn a_cut_is_due_at_each_moment_of_the_schedule_once_and_one_makes_up_for_many() {
        let done = Some(TaskState::Finished);
        let fresh = volume(&[(NOW, done.clone())]);
        assert_eq!(idle(&fresh, NOW).cut, None);
        let next = idle(&fresh, NOW).next.unwrap();
        assert!((NOW..NOW + HOUR).contains(&next.seconds));
        assert!(idle(&fresh, next.seconds - 1).cut.is_none() && idle(&fresh, next.seconds).cut.is_some());
        let down_for_days = volume(&[(NOW - 30 * HOUR, done)]);
        assert!(idle(&down_for_days, NOW).cut.is_some());
        let never = volume(&[]);
        assert!(idle(&never, NOW).cut.is_some());
        let mut new = volume(&[]);
        new.protection.as_mut().unwrap().created = at(NOW);
        assert_eq!(idle(&new, NOW).cut, None, "not in the interval in which it was made");
        assert!(idle(&new, NOW + HOUR).cut.is_some());
    }

    #[test]
    fn a_volume_that_was_never_used_has_nothing_to_protect() {
        let mut blank = volume(&[]);
        for (format, is_cut) in [
            (FormatState::Never, false),
            (FormatState::Formatting, false),
            (FormatState::Copied, true),
            (FormatState::Content, true),
        ] {
            blank.protection.as_mut().unwrap().format = format;
            assert_eq!(idle(&blank, NOW).cut.is_some(), is_cut, "{format:?}");
        }
    }

    #[test]
    fn a_clock_that_was_put_back_stops_no_schedule() {
        let from_the_future = volume(&[(NOW + 9000 * HOUR, Some(TaskState::Finished))]);
        assert!(idle(&from_the_future, NOW).cut.is_some());
        let mut born = volume(&[]);
        born.protection.as_mut().unwrap().created = at(NOW + 9000 * HOUR);
        assert!(idle(&born, NOW).cut.is_some());
    }

    #[test]
    fn the_newest_cut_is_exported_when_its_pause_is_over_and_an_older_one_goes() {
        let failed = |ago| Some(TaskState::failed("so", at(NOW - ago)));
        let waits = volume(&[(NOW, failed(29))]);
        let waiting = idle(&waits, NOW);
        assert_eq!((waiting.export, waiting.next), (None, Some(at(NOW + 1))));
        let tries = volume(&[(NOW, failed(30))]);
        assert_eq!(idle(&tries, NOW).export, Some(tries.snapshots[0].copies.snapshot));
        let died = volume(&[(NOW, Some(TaskState::Running))]);
        assert!(idle(&died, NOW).export.is_some());

        let mut two = volume(&[(NOW - HOUR, failed(500)), (NOW, None)]);
        let [older, newest] = [&two.snapshots[0], &two.snapshots[1]].map(|cut| cut.copies.snapshot);
        let decided = idle(&two, NOW);
        assert_eq!((decided.export, decided.leaving), (Some(newest), vec![Leaving::Local(older)]));
        two.snapshots[0].copies.copies.task.as_mut().unwrap().repository = Some("ab".into());
        assert_eq!(idle(&two, NOW).leaving, [Leaving::Everywhere(older)], "part of it may be in the repository");
        assert_eq!(idle(&two, NOW + HOUR).cut, None, "no more than two wait");
        let runs = plan(&two, at(NOW + HOUR), |snapshot| snapshot == older);
        assert_eq!((runs.cut, runs.export, runs.leaving), (None, None, vec![]), "one that runs is let to its end");
    }

    #[test]
    fn what_is_not_kept_goes_from_the_repository_and_what_a_volume_leaves_behind_from_here() {
        let done = Some(TaskState::Finished);
        let mut many = volume(&[(NOW - 2 * HOUR, done.clone()), (NOW - HOUR, done.clone()), (NOW, done)]);
        let oldest = many.snapshots[0].copies.snapshot;
        assert_eq!(idle(&many, NOW).leaving, [Leaving::Everywhere(oldest)]);
        many.protection = None;
        let left = plan(&many, at(NOW), |snapshot| snapshot == oldest);
        assert_eq!(left.leaving, [1, 2].map(|cut: usize| Leaving::Local(many.snapshots[cut].copies.snapshot)));
        assert_eq!((left.cut, left.export), (None, None));
    }

    #[test]
    fn pauses_grow_to_a_quarter_of_an_hour() {
        assert_eq!([1, 2, 5, 6, u32::MAX].map(|attempts| pause(attempts).as_secs()), [30, 60, 480, 900, 900]);
    }
}
