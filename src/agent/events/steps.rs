//! When something is said of a transfer that runs. Pure: it is told the time.

use std::time::Duration;

use tokio::time::Instant;

use crate::transfer::ProgressSnapshot;

/// Between two remarks on a transfer at least: more than a person reads is only work for the API server.
const APART: Duration = Duration::from_secs(30);

/// How much of a transfer makes a step.
const STEPS: u64 = 4;

/// What is to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remark {
    /// So much is done, in hundredths.
    Progress(u64),
    /// It waits, for this reason.
    Waiting(String),
}

/// What was said of a transfer.
#[derive(Debug)]
pub(super) struct Steps {
    at: Instant,
    step: u64,
    is_waiting_told: bool,
}

impl Steps {
    /// Of one that begins now, which was said.
    pub(super) fn begin(now: Instant) -> Self {
        Self { at: now, step: 0, is_waiting_told: false }
    }

    /// What is to be said of a transfer with these counters, which waits for this reason.
    pub(super) fn look(&mut self, counters: &ProgressSnapshot, waiting: Option<String>, now: Instant) -> Option<Remark> {
        if waiting.is_none() {
            self.is_waiting_told = false;
        }
        if now.saturating_duration_since(self.at) < APART {
            return None;
        }
        let remark = match waiting {
            Some(_) if self.is_waiting_told => return None,
            Some(reason) => {
                self.is_waiting_told = true;
                Remark::Waiting(reason)
            }
            None => {
                let hundredths = hundredths(counters);
                let step = hundredths * STEPS / 100;
                if step <= self.step || step >= STEPS {
                    return None;
                }
                self.step = step;
                Remark::Progress(hundredths)
            }
        };
        self.at = now;
        Some(remark)
    }
}

fn hundredths(counters: &ProgressSnapshot) -> u64 {
    let share = u128::from(counters.done_bytes) * 100;
    // What is not known yet is nothing.
    let share = share.checked_div(u128::from(counters.total_bytes)).unwrap_or(0);
    u64::try_from(share).unwrap_or(100).min(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Phase;

    fn counters(done_bytes: u64) -> ProgressSnapshot {
        ProgressSnapshot {
            phase: Phase::Transferring,
            total_bytes: 1000,
            done_bytes,
            moved_bytes: 0,
            new_bytes: 0,
            stored_bytes: 0,
        }
    }

    #[test]
    fn a_quarter_is_told_once_and_not_sooner_than_half_a_minute_after_the_last_remark() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut steps = Steps::begin(start);
        assert_eq!(steps.look(&counters(0), None, at(60)), None);
        assert_eq!(steps.look(&counters(249), None, at(61)), None);
        assert_eq!(steps.look(&counters(300), None, at(70)), Some(Remark::Progress(30)));
        assert_eq!(steps.look(&counters(600), None, at(99)), None, "too soon");
        assert_eq!(steps.look(&counters(600), None, at(100)), Some(Remark::Progress(60)));
        assert_eq!(steps.look(&counters(700), None, at(200)), None, "the same quarter");
        assert_eq!(steps.look(&counters(1000), None, at(300)), None, "its end is told otherwise");
        let unknown = ProgressSnapshot { total_bytes: 0, ..counters(5) };
        assert_eq!(Steps::begin(start).look(&unknown, None, at(40)), None);
    }

    #[test]
    fn a_transfer_that_waits_says_so_once_each_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let away = || Some("away".to_owned());
        let mut steps = Steps::begin(start);
        assert_eq!(steps.look(&counters(0), away(), at(29)), None, "it may be over in a moment");
        assert_eq!(steps.look(&counters(0), away(), at(30)), Some(Remark::Waiting("away".to_owned())));
        assert_eq!(steps.look(&counters(0), away(), at(500)), None);
        assert_eq!(steps.look(&counters(100), None, at(501)), None);
        assert_eq!(steps.look(&counters(100), away(), at(502)), Some(Remark::Waiting("away".to_owned())));
    }
}
