//! How long FICLONE stops the writers of what it clones: estimated before, measured after.
//!
//! A clone takes its time for each extent of its source, and cannot be ended before it is done. What an extent takes depends on
//! machine and load: 9 us of processor time, 14 to 24 us on a quiet machine by the clock, 31 to 46 us beside busy writers. So the pool
//! learns it: each clone of some size, timed, raises the figure at once or lowers it by and by, and without clones it returns to
//! [`START`]. A cut whose estimate exceeds its limit is refused before anybody is stopped.
//!
//! An estimate can be wrong. A cut that outlived its limit has stopped its writers for nothing; so that no retry does so again, what it
//! took counts for its volumes for [`REMEMBERED`], whatever others take meanwhile. If by then they have fewer extents, or an hour has
//! passed, they are tried again.
//!
//! Hints of layout do not shorten a cut (measured, 4 KiB random writes on 512 MiB): with an extent size hint of 64 KiB or 1 MiB a sparse file
//! has more extents than without, 38,000 to 43,000 instead of 23,000 after 25,000 writes, and five times the space; with a copy-on-write
//! hint of 1 MiB as many, 20,900 after 12,000 writes to shared data. A set of smaller steps would not be of one moment.
//!
//! Extents are counted once, before the freeze; the clone takes the count from here. A source that nobody writes to is not counted,
//! not refused and not learnt from: nobody waits for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::pool::PoolError;
use crate::types::Object;

/// What an extent takes as long as nothing is known: between what was measured on a quiet machine and on a busy one.
const START: f64 = 20e-6;
/// Clones of fewer extents tell more about their fixed costs than about extents.
const LEARNT_FROM: u64 = 2000;
/// How far a clone that was faster pulls the figure down to its own.
const EASING: f64 = 0.25;
/// In this time the figure comes half of the way back to [`START`].
const HALF_LIFE: Duration = Duration::from_secs(3600);
/// How long a cut that outlived its limit is held against its volumes.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// What a pool knows about the stalls of its clones.
#[derive(Debug)]
pub(super) struct Stalls {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Seconds of an extent, as of the last clone that was learnt from.
    learnt: f64,
    when: Instant,
    /// Seconds of an extent in the last cut of a volume, if that outlived its limit, and when. At most one for each volume.
    outlived: BTreeMap<Object, (f64, Instant)>,
    /// Extents that were counted for a cut about to be made. At most one for each volume.
    counted: BTreeMap<Object, u64>,
    /// Extents as they were last counted. At most one for each volume.
    last: BTreeMap<Object, u64>,
}

impl Stalls {
    pub(super) fn new() -> Self {
        let state = State {
            learnt: START,
            when: Instant::now(),
            outlived: BTreeMap::new(),
            counted: BTreeMap::new(),
            last: BTreeMap::new(),
        };
        Self { state: Mutex::new(state) }
    }

    /// Refuses a set whose clones, made one after the other, are estimated to stop writers for longer than `limit`; names the one
    /// with the most extents. Keeps the counts for [`Stalls::took`].
    pub(super) fn check(&self, counts: &[(Object, u64)], limit: Duration) -> Result<(), PoolError> {
        let mut state = self.state();
        state.last.extend(counts.iter().copied());
        let estimate = state.estimate(counts, Instant::now());
        match counts.iter().max_by_key(|(_, extents)| extents) {
            Some(&(object, extents)) if estimate > limit => Err(PoolError::TooSlow { object, extents, estimate, limit }),
            _ => {
                state.counted.extend(counts.iter().copied());
                Ok(())
            }
        }
    }

    /// Learns from the clones of a set, which took this long together.
    ///
    /// # Errors
    /// [`PoolError::TooSlow`] when somebody waited for them, and for longer than `limit`: the cut is to be thrown away.
    pub(super) fn took(&self, sources: &[Object], elapsed: Duration, limit: Duration) -> Result<(), PoolError> {
        let mut state = self.state();
        let counts: Vec<(Object, u64)> =
            sources.iter().filter_map(|source| state.counted.remove(source).map(|extents| (*source, extents))).collect();
        let all: u64 = counts.iter().map(|(_, extents)| extents).sum();
        let Some(&(object, extents)) = counts.iter().max_by_key(|(_, extents)| extents) else { return Ok(()) };
        if all == 0 || counts.len() < sources.len() {
            return Ok(());
        }
        let now = Instant::now();
        let each = elapsed.as_secs_f64() / all as f64;
        if all >= LEARNT_FROM {
            state.learn(each, now);
        }
        if elapsed <= limit {
            state.outlived.retain(|object, _| !sources.contains(object));
            return Ok(());
        }
        state.outlived.extend(counts.iter().map(|(source, _)| (*source, (each, now))));
        Err(PoolError::TooSlow { object, extents, estimate: elapsed, limit })
    }

    /// Extents of each volume as they were last counted.
    pub(super) fn last_counts(&self) -> Vec<(Object, u64)> {
        self.state().last.iter().map(|(object, extents)| (*object, *extents)).collect()
    }

    /// Forgets a volume that is gone.
    pub(super) fn forget(&self, object: Object) {
        let mut state = self.state();
        state.last.remove(&object);
        state.counted.remove(&object);
        state.outlived.remove(&object);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Seconds of an extent at this time.
    fn each(&self, now: Instant) -> f64 {
        let halvings = now.saturating_duration_since(self.when).as_secs_f64() / HALF_LIFE.as_secs_f64();
        START + (self.learnt - START) * 0.5_f64.powf(halvings)
    }

    fn learn(&mut self, measured: f64, now: Instant) {
        let known = self.each(now);
        self.learnt = if measured > known { measured } else { known + (measured - known) * EASING };
        self.when = now;
    }

    fn estimate(&mut self, counts: &[(Object, u64)], now: Instant) -> Duration {
        self.outlived.retain(|_, (_, when)| now.saturating_duration_since(*when) < REMEMBERED);
        let each = self.each(now);
        let of = |(object, extents): &(Object, u64)| {
            let each = self.outlived.get(object).map_or(each, |(measured, _)| each.max(*measured));
            *extents as f64 * each
        };
        let seconds: f64 = counts.iter().map(of).sum();
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::VolumeId;

    const LIMIT: Duration = Duration::from_secs(10);

    fn volume() -> Object {
        Object::Volume(VolumeId::random())
    }

    fn after(state: &Stalls, time: Duration) -> f64 {
        let state = state.state();
        state.each(state.when + time)
    }

    #[test]
    fn a_cut_is_refused_when_all_its_clones_together_take_too_long() {
        let stalls = Stalls::new();
        let (one, two) = (volume(), volume());
        stalls.check(&[(one, 200_000), (two, 299_999)], LIMIT).unwrap();
        match stalls.check(&[(one, 200_001), (two, 300_000)], LIMIT) {
            Err(PoolError::TooSlow { object, extents, estimate, limit }) => {
                assert_eq!((object, extents, limit), (two, 300_000, LIMIT));
                assert!(estimate > limit);
            }
            other => panic!("{other:?}"),
        }
        assert!(stalls.check(&[(one, u64::MAX)], LIMIT).is_err());
        // What was counted is known whether it was cut or not, until the volume is gone.
        assert!(stalls.last_counts().contains(&(one, u64::MAX)) && stalls.last_counts().contains(&(two, 300_000)));
        stalls.forget(one);
        assert_eq!(stalls.last_counts(), [(two, 300_000)]);
    }

    #[test]
    fn what_clones_take_is_learnt_at_once_when_it_is_more_and_slowly_when_it_is_less() {
        let stalls = Stalls::new();
        let one = volume();
        let cut = |extents, seconds| {
            stalls.check(&[(one, extents)], LIMIT).unwrap();
            stalls.took(&[one], Duration::from_secs_f64(seconds), LIMIT).unwrap();
        };
        cut(1000, 9.0);
        assert!((after(&stalls, Duration::ZERO) - START).abs() < 1e-6, "too few extents to learn from");
        cut(100_000, 4.0);
        assert!((after(&stalls, Duration::ZERO) - 40e-6).abs() < 1e-6);
        assert!(stalls.check(&[(one, 300_000)], LIMIT).is_err());
        cut(100_000, 2.0);
        assert!((after(&stalls, Duration::ZERO) - 35e-6).abs() < 1e-6);
        assert!((after(&stalls, HALF_LIFE) - 27.5e-6).abs() < 1e-6);
        assert!((after(&stalls, 40 * HALF_LIFE) - START).abs() < 1e-6);
    }

    #[test]
    fn a_stall_that_outlived_its_limit_is_not_tried_again_for_an_hour_unless_the_volume_has_fewer_extents() {
        let stalls = Stalls::new();
        let (one, other) = (volume(), volume());
        stalls.check(&[(one, 400_000)], LIMIT).unwrap();
        match stalls.took(&[one], Duration::from_secs(12), LIMIT) {
            Err(PoolError::TooSlow { object, estimate, .. }) => assert_eq!((object, estimate), (one, Duration::from_secs(12))),
            other => panic!("{other:?}"),
        }
        // Others' quick cuts make the pool's figure better, but not this volume's.
        for _ in 0..20 {
            stalls.check(&[(other, 10_000)], LIMIT).unwrap();
            stalls.took(&[other], Duration::from_millis(100), LIMIT).unwrap();
        }
        stalls.check(&[(other, 400_000)], LIMIT).unwrap();
        assert!(matches!(stalls.check(&[(one, 400_000)], LIMIT), Err(PoolError::TooSlow { .. })));
        stalls.check(&[(one, 100_000)], LIMIT).unwrap();
        let later = Instant::now() + REMEMBERED;
        assert!(stalls.state().estimate(&[(one, 400_000)], later) < LIMIT);
    }

    #[test]
    fn a_cut_that_nobody_waited_for_is_neither_refused_nor_learnt_from() {
        let stalls = Stalls::new();
        stalls.took(&[volume()], Duration::from_secs(60), LIMIT).unwrap();
        assert!((after(&stalls, Duration::ZERO) - START).abs() < 1e-6);
    }
}
