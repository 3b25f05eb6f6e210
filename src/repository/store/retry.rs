//! When a call to a store is repeated and how many run at a time: decisions, without I/O and without a clock of their own.
//!
//! * [`Patience`]: how long to wait before the next try, and when to give up. Pauses are anything between none and a ceiling that
//!   doubles ("full jitter"), so that the machines of a cluster do not come back all at once.
//! * [`Presence`]: since when a store has not answered anybody, and what is worth a line in the log: one when it has been away for a
//!   while, one when it is back, however many calls wait for it.
//! * [`Crowd`]: how many calls of a kind run at a time. Half of them when the store says that it is too busy, one more after as many
//!   successes as run at a time (additive increase, multiplicative decrease).

use std::time::Duration;

use tokio::time::Instant;

/// How long a failing call is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Longest pause before the second try; doubled for each one more.
    pub first_pause: Duration,
    /// Longest pause of all.
    pub longest_pause: Duration,
    /// Time from the first failure after which no other try is made.
    pub limit: Duration,
}

impl Default for Patience {
    /// A quarter of an hour, as restic: a node of the store that restarts, a load balancer that moves, or an episode of `SlowDown` are
    /// shorter. It is also shorter than the time for which a lock outlives its last refresh.
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            limit: Duration::from_secs(15 * 60),
        }
    }
}

impl Patience {
    /// The pause after `failures` of them in a row, of which the last came `failing` after the first; `None`: give up. `chance` lies
    /// between 0 and 1. The last pause ends at the limit, so that what is back just before it is found.
    pub fn pause(&self, failures: u32, failing: Duration, chance: f64) -> Option<Duration> {
        let left = self.limit.checked_sub(failing).filter(|left| !left.is_zero())?;
        let doublings = failures.saturating_sub(1).min(16);
        let ceiling = self.first_pause.saturating_mul(1 << doublings).min(self.longest_pause);
        Some(ceiling.mul_f64(chance.clamp(0.0, 1.0)).min(left))
    }
}

/// News about a store that is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It has not answered for this long.
    Away(Duration),
    /// It answers again, after this long.
    Back(Duration),
}

/// Whether a store answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presence {
    away: Option<Away>,
}

#[derive(Debug, Clone, Copy)]
struct Away {
    since: Instant,
    last: Instant,
    said: bool,
}

/// Failures for a shorter time are not news: every store has some.
const NEWS_AFTER: Duration = Duration::from_secs(5);

impl Presence {
    /// Notes that a call got no answer. Failures that are further apart than `apart`, with no call between them, say nothing of
    /// the time between.
    pub fn failed(&mut self, now: Instant, apart: Duration) -> Option<News> {
        let away = match &mut self.away {
            Some(away) if now.duration_since(away.last) <= apart => away,
            other => other.insert(Away { since: now, last: now, said: false }),
        };
        away.last = now;
        let lasting = now.duration_since(away.since);
        (!away.said && lasting >= NEWS_AFTER).then(|| {
            away.said = true;
            News::Away(lasting)
        })
    }

    /// Notes that a call was answered.
    pub fn answered(&mut self, now: Instant) -> Option<News> {
        self.away.take().filter(|away| away.said).map(|away| News::Back(now.duration_since(away.since)))
    }

    /// Since when it has not answered.
    pub fn away_since(&self) -> Option<Instant> {
        self.away.map(|away| away.since)
    }
}

/// How many calls of a kind run at a time.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    most: usize,
    room: usize,
    running: usize,
    /// Successes since `room` was last changed.
    successes: usize,
    /// How often `room` was lowered.
    cuts: u64,
}

/// A call that runs. To be given back to [`Crowd::leave`].
#[derive(Debug)]
#[must_use]
pub struct Place {
    cuts: u64,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It succeeded.
    Well,
    /// The store or the line to it had too much to do.
    Busy,
    /// In another way, or it was dropped: that tells nothing about how much the store bears.
    Otherwise,
}

impl Crowd {
    /// Begins with `most` calls at a time, which is the most it ever allows.
    pub fn new(most: usize) -> Self {
        Self { most, room: most, running: 0, successes: 0, cuts: 0 }
    }

    /// A place, if there is room.
    pub fn enter(&mut self) -> Option<Place> {
        (self.running < self.room).then(|| {
            self.running += 1;
            Place { cuts: self.cuts }
        })
    }

    /// A call has ended. The refusals of several that ran together lower the room once.
    pub fn leave(&mut self, place: Place, ended: Ended) {
        match ended {
            Ended::Well if self.room < self.most => {
                self.successes += 1;
                if self.successes >= self.room {
                    self.room += 1;
                    self.successes = 0;
                }
            }
            Ended::Busy if place.cuts == self.cuts => {
                self.room = (self.running.min(self.room) / 2).max(1);
                self.successes = 0;
                self.cuts += 1;
            }
            Ended::Well | Ended::Busy | Ended::Otherwise => {}
        }
        self.running = self.running.saturating_sub(1);
    }

    /// How many may run at a time now.
    pub fn room(&self) -> usize {
        self.room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_ceiling_and_end_at_the_limit() {
        let patience = Patience::default();
        let pause = |failures, failing, chance| patience.pause(failures, Duration::from_secs(failing), chance);
        assert_eq!(pause(1, 0, 1.0), Some(Duration::from_millis(500)));
        assert_eq!(pause(1, 0, 0.0), Some(Duration::ZERO));
        assert_eq!(pause(3, 0, 0.5), Some(Duration::from_secs(1)));
        assert_eq!(pause(40, 100, 1.0), Some(Duration::from_secs(30)));
        assert_eq!(pause(40, 890, 1.0), Some(Duration::from_secs(10)));
        assert_eq!(pause(40, 900, 0.0), None);
        assert_eq!(pause(1, 5000, 0.0), None);
    }

    #[test]
    fn a_store_that_is_away_is_news_once_and_once_when_it_is_back() {
        let (mut presence, start, apart) = (Presence::default(), Instant::now(), Duration::from_secs(60));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(presence.failed(at(0), apart), None);
        assert_eq!(presence.failed(at(6), apart), Some(News::Away(Duration::from_secs(6))));
        assert_eq!(presence.failed(at(50), apart), None);
        assert_eq!(presence.away_since(), Some(at(0)));
        assert_eq!(presence.answered(at(70)), Some(News::Back(Duration::from_secs(70))));
        assert_eq!((presence.answered(at(71)), presence.away_since()), (None, None));
        // A hiccup is none.
        assert_eq!(presence.failed(at(80), apart), None);
        assert_eq!(presence.answered(at(81)), None);
        // Nobody asked for hours: what was before says nothing.
        assert_eq!(presence.failed(at(100), apart), None);
        assert_eq!(presence.failed(at(9000), apart), None);
        assert_eq!(presence.away_since(), Some(at(9000)));
    }

    #[test]
    fn refusals_halve_the_crowd_once_for_all_that_ran_together_and_successes_let_it_grow() {
        let mut crowd = Crowd::new(16);
        let places: Vec<Place> = (0..8).filter_map(|_| crowd.enter()).collect();
        for place in places {
            crowd.leave(place, Ended::Busy);
        }
        assert_eq!(crowd.room(), 4, "half of those that ran, and one cut for all of them");
        let again: Vec<Place> = (0..8).filter_map(|_| crowd.enter()).collect();
        assert_eq!(again.len(), 4);
        for place in again {
            crowd.leave(place, Ended::Well);
        }
        assert_eq!(crowd.room(), 5);
        for _ in 0..10 {
            let place = crowd.enter().unwrap();
            crowd.leave(place, Ended::Busy);
        }
        assert_eq!(crowd.room(), 1, "one always may");
        for _ in 0..1000 {
            let place = crowd.enter().unwrap();
            crowd.leave(place, Ended::Well);
        }
        assert_eq!(crowd.room(), 16);
        let place = crowd.enter().unwrap();
        crowd.leave(place, Ended::Otherwise);
        assert_eq!(crowd.room(), 16);
    }
}
