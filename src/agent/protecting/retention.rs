//! Which exports of a volume are not kept. Pure, and decided by the repository's own policy, on the records of the pool: each export of a
//! protection has one, which goes after the export went.

use std::collections::BTreeMap;

use crate::blocks::ProtectionSnapshot;
use crate::repository::forget::{Count, Policy};
use crate::repository::time::rfc3339;
use crate::repository::{Id, Snapshot, StoredSnapshot};
use crate::types::{Retention, SnapshotHandle, Timestamp};

/// Those of the `finished` exports of one volume that the policy lets go, as of `now`. The newest is never among them.
pub(super) fn surplus<'a>(
    finished: impl IntoIterator<Item = &'a ProtectionSnapshot>,
    retention: Retention,
    now: Timestamp,
) -> Vec<SnapshotHandle> {
    let known: BTreeMap<Id, (SnapshotHandle, Timestamp)> = finished
        .into_iter()
        .map(|cut| (Id::of(cut.copies.snapshot.to_string().as_bytes()), (cut.copies.snapshot, cut.created)))
        .collect();
    let stored = known.iter().map(|(id, (_, created))| stored(*id, *created)).collect();
    let Retention { hourly, daily, weekly, monthly } = retention;
    let newest_of = [hourly, daily, weekly, monthly, 0].map(Count::Of);
    let policy = Policy { last: Count::Of(1), newest_of, ..Policy::default() };
    let removed = policy.apply(stored, now).remove;
    removed.iter().filter_map(|stored| known.get(&stored.id).map(|(handle, _)| *handle)).collect()
}

/// A snapshot as the policy looks at it: its time counts.
fn stored(id: Id, created: Timestamp) -> StoredSnapshot {
    let snapshot = Snapshot {
        time: rfc3339(created),
        tree: id,
        paths: Vec::new(),
        hostname: String::new(),
        username: String::new(),
        tags: Vec::new(),
        parent: None,
        original: None,
        program_version: String::new(),
        summary: None,
    };
    StoredSnapshot { id, snapshot }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::SnapshotCopies;
    use crate::types::{Copies, PoolId, SnapshotId};

    const DAY: u64 = 24 * 3600;
    /// A Monday at midnight.
    const MONDAY: u64 = 1_699_833_600;

    fn cut(seconds: u64) -> ProtectionSnapshot {
        let snapshot = SnapshotHandle { pool: PoolId::from_bytes([1; 16]), snapshot: SnapshotId::random() };
        ProtectionSnapshot {
            name: format!("cut-{seconds}").try_into().unwrap(),
            created: Timestamp { seconds, nanoseconds: 0 },
            copies: SnapshotCopies { snapshot, order: None, copies: Copies::default() },
        }
    }

    fn kept(cuts: &[ProtectionSnapshot], retention: Retention, now: u64) -> Vec<u64> {
        let gone = surplus(cuts, retention, Timestamp { seconds: now, nanoseconds: 0 });
        cuts.iter().filter(|cut| !gone.contains(&cut.copies.snapshot)).map(|cut| cut.created.seconds).collect()
    }

    #[test]
    fn of_a_week_of_hours_the_newest_of_so_many_hours_and_days_stay() {
        let cuts: Vec<_> = (0..7 * 24).map(|hour| cut(MONDAY + hour * 3600 + 600)).collect();
        let now = MONDAY + 7 * DAY;
        let retention = Retention { hourly: 6, daily: 3, ..Retention::default() };
        let last = MONDAY + 6 * DAY + 23 * 3600 + 600;
        let mut expected: Vec<u64> = (0..6).map(|hour| last - hour * 3600).chain([last - DAY, last - 2 * DAY]).collect();
        expected.sort_unstable();
        assert_eq!(kept(&cuts, retention, now), expected);
        // What was decided once is decided again when it was done in part, or not at all.
        let left: Vec<_> = cuts.into_iter().filter(|cut| expected.contains(&cut.created.seconds)).collect();
        assert_eq!(kept(&left, retention, now), expected);
    }

    #[test]
    fn the_newest_stays_whatever_the_clock_says() {
        let cuts = [cut(MONDAY), cut(MONDAY + 60), cut(MONDAY + 120)];
        for now in [0, MONDAY - DAY, MONDAY + 60, MONDAY + 900 * DAY] {
            let kept = kept(&cuts, Retention { monthly: 1, ..Retention::default() }, now);
            assert!(kept.contains(&(MONDAY + 120)), "{kept:?}");
        }
        assert!(surplus(&[], Retention { daily: 1, ..Retention::default() }, Timestamp::now()).is_empty());
    }
}
