//! The moments of a schedule. Pure.
//!
//! A schedule of one hour has one moment in every hour, which lies as long after its beginning as the volume's id says, by a quarter of
//! the interval and by an hour at most: the volumes of a node do not all begin at once, and each one always begins at the same time.

use crate::types::{ObjectName, Schedule, Timestamp, VolumeId};

/// No moment lies later after the beginning of its interval.
const SPREAD_SECONDS: u64 = 3600;
/// What names of cuts begin with.
const PREFIX: &str = "protection";

/// A moment of a schedule, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u64);

impl Slot {
    /// Before every moment.
    pub(super) const BEFORE_ALL: Self = Self(0);

    /// The last moment of the volume's schedule that is not after `time`.
    pub(super) fn at(schedule: Schedule, volume: VolumeId, time: Timestamp) -> Self {
        let (step, delay) = (schedule.seconds(), delay(schedule, volume));
        Self(time.seconds.saturating_sub(delay) / step * step + delay)
    }

    /// The moment after it.
    pub(super) fn next(self, schedule: Schedule) -> Timestamp {
        Timestamp { seconds: self.0.saturating_add(schedule.seconds()), nanoseconds: 0 }
    }

    /// The name of the volume's cut of this moment: the same whenever it is asked for.
    pub(super) fn name(self, volume: VolumeId) -> Option<ObjectName> {
        format!("{PREFIX}-{volume}-{}", self.0).try_into().ok()
    }

    /// The moment of the cut with this name; `None` for a name that no cut of the volume has.
    pub(super) fn of_name(name: &ObjectName, volume: VolumeId) -> Option<Self> {
        let rest = name.as_str().strip_prefix(PREFIX)?.strip_prefix('-')?;
        rest.strip_prefix(&volume.to_string())?.strip_prefix('-')?.parse().ok().map(Self)
    }
}

/// How long after the beginning of an interval the volume's moment lies.
fn delay(schedule: Schedule, volume: VolumeId) -> u64 {
    let spread = (schedule.seconds() / 4).clamp(1, SPREAD_SECONDS);
    let [a, b, c, d, ..] = *volume.as_bytes();
    u64::from(u32::from_be_bytes([a, b, c, d])) % spread
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::types::ProtectionOrder;

    fn schedule(text: &str) -> Schedule {
        let parameters = [("protect", text), ("keepDaily", "1"), ("repositorySecret", "a/b")];
        let parameters: BTreeMap<_, _> = parameters.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        ProtectionOrder::parse(&parameters).unwrap().unwrap().exports.unwrap().schedule
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp { seconds, nanoseconds: 5 }
    }

    #[test]
    fn a_volume_has_one_moment_in_each_interval_always_at_the_same_time_of_it() {
        let (volume, hourly) = (VolumeId::random(), schedule("hourly"));
        let base = 1_700_000_000 / 3600 * 3600;
        let first = Slot::at(hourly, volume, at(base + 3599));
        assert!((base..base + 900).contains(&first.0), "within a quarter of an hour");
        for second in first.0..first.0 + 3600 {
            assert_eq!(Slot::at(hourly, volume, at(second)), first);
        }
        let next = first.next(hourly);
        assert_eq!(Slot::at(hourly, volume, next).0, first.0 + 3600);
        assert!(Slot::at(hourly, volume, at(first.0 - 1)) < first);
        assert_eq!(Slot::at(hourly, volume, at(0)), Slot::at(hourly, volume, at(1)), "a clock that begins in 1970");
    }

    #[test]
    fn the_volumes_of_a_node_do_not_begin_together() {
        let hourly = schedule("hourly");
        let moments: BTreeSet<u64> = (0..100).map(|_| Slot::at(hourly, VolumeId::random(), at(1_700_003_000)).0 % 3600).collect();
        assert!(moments.len() > 60, "{} moments of 100 volumes", moments.len());
        for text in ["5m", "daily", "weekly"] {
            let schedule = schedule(text);
            let spread = (schedule.seconds() / 4).min(3600);
            assert!((0..100).all(|_| delay(schedule, VolumeId::random()) < spread), "{text}");
        }
    }

    #[test]
    fn a_cut_is_known_by_its_name() {
        let (volume, other) = (VolumeId::random(), VolumeId::random());
        let slot = Slot::at(schedule("6h"), volume, at(1_700_000_000));
        let name = slot.name(volume).unwrap();
        assert_eq!(Slot::of_name(&name, volume), Some(slot));
        assert_eq!(Slot::of_name(&name, other), None);
        for text in ["nightly", "protection-1", "protection-"] {
            assert_eq!(Slot::of_name(&text.to_owned().try_into().unwrap(), volume), None);
        }
    }
}
