//! What a policy keeps of a group of snapshots, and why.

use std::cmp::Reverse;
use std::str::FromStr;

use super::group::TagList;
use super::period::{Period, Span};
use super::time::LocalTime;
use crate::repository::snapshot::StoredSnapshot;
use crate::types::Timestamp;

/// How many snapshots are kept by a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many; 0 means that there is no such rule.
    Of(u32),
    /// A rule without a bound keeps all that match.
    Unlimited,
}

impl Default for Count {
    fn default() -> Self {
        Self::Of(0)
    }
}

/// The text is not a [`Count`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a count: give a number, or `unlimited`")]
pub struct NotACount(String);

impl FromStr for Count {
    type Err = NotACount;

    fn from_str(text: &str) -> Result<Self, NotACount> {
        match text {
            "unlimited" => Ok(Self::Unlimited),
            text => text.parse().map(Self::Of).map_err(|_| NotACount(text.to_owned())),
        }
    }
}

impl Count {
    const fn is_spent(self) -> bool {
        matches!(self, Self::Of(0))
    }

    fn spend(&mut self) {
        if let Self::Of(number) = self {
            *number = number.saturating_sub(1);
        }
    }
}

/// What is kept. A snapshot stays if any rule says so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// So many of the newest.
    pub last: Count,
    /// The newest of each of so many hours, days, ... in which there are snapshots; in the order of [`Period::ALL`].
    pub newest_of: [Count; 5],
    /// Everything this close to the newest.
    pub within: Span,
    /// The newest of each hour, day, ... this close to the newest; in the order of [`Period::ALL`].
    pub newest_of_within: [Span; 5],
    /// Everything that has all tags of one of these lists.
    pub tags: Vec<TagList>,
}

/// A snapshot that stays, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub stored: StoredSnapshot,
    /// The rules that keep it, in restic's words.
    pub reasons: Vec<String>,
}

/// What becomes of a group; both lists have the newest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    pub keep: Vec<Kept>,
    pub remove: Vec<StoredSnapshot>,
}

/// The progress of a rule that keeps the newest of each period.
struct Newest {
    period: Period,
    last: Option<[i16; 3]>,
}

impl Newest {
    /// Whether this snapshot is the first seen of its period, or the oldest of all, which is kept as well so that the history
    /// reaches back as far as the rule can.
    fn takes(&mut self, time: &LocalTime, is_oldest: bool) -> Option<&'static str> {
        let period = Some(time.within(self.period));
        let is_first = self.last != period;
        self.last = period;
        match (is_first, is_oldest) {
            (true, _) => Some(""),
            (false, true) => Some("oldest "),
            (false, false) => None,
        }
    }
}

impl Policy {
    /// True when it has no rule.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Decides about one group, as of `now`: what lies in the future does not count as the newest.
    pub fn apply(&self, group: Vec<StoredSnapshot>, now: Timestamp) -> Verdict {
        let now = LocalTime::of(now);
        let mut verdict = Verdict::default();
        let mut dated = Vec::new();
        for stored in group {
            match LocalTime::parse(&stored.snapshot.time) {
                Some(time) => dated.push((time, stored)),
                None => verdict.keep.push(Kept { stored, reasons: vec!["its time cannot be read".to_owned()] }),
            }
        }
        // Of equal times the order must be the same each time.
        dated.sort_by_key(|(time, stored)| (Reverse(*time), stored.id));
        let newest = dated.iter().map(|(time, _)| *time).find(|time| now.is_some_and(|now| *time < now));
        let is_within = |time: &LocalTime, span: &Span| {
            // Where there is no newest, or the calendar does not reach back so far, nothing is too old.
            !span.is_empty() && newest.and_then(|newest| newest.back(span)).is_none_or(|limit| time.is_after(limit))
        };
        let mut rules = Period::ALL.map(|period| Newest { period, last: None });
        let mut rules_within = Period::ALL.map(|period| Newest { period, last: None });
        let (mut last, mut counts) = (self.last, self.newest_of);
        let oldest = dated.len().saturating_sub(1);
        for (number, (time, stored)) in dated.into_iter().enumerate() {
            let is_oldest = number == oldest;
            let mut reasons = Vec::new();
            for tags in self.tags.iter().filter(|tags| tags.are_on(&stored.snapshot)) {
                reasons.push(format!("has tags {tags}"));
            }
            if is_within(&time, &self.within) {
                reasons.push(format!("within {}", self.within));
            }
            if !last.is_spent() {
                last.spend();
                reasons.push("last snapshot".to_owned());
            }
            for (rule, count) in rules.iter_mut().zip(&mut counts).filter(|(_, count)| !count.is_spent()) {
                if let Some(which) = rule.takes(&time, is_oldest) {
                    count.spend();
                    reasons.push(format!("{which}{} snapshot", rule.period.adjective()));
                }
            }
            for (rule, span) in rules_within.iter_mut().zip(&self.newest_of_within).filter(|(_, span)| is_within(&time, span)) {
                if let Some(which) = rule.takes(&time, is_oldest) {
                    reasons.push(format!("{which}{} within {span}", rule.period.adjective()));
                }
            }
            if reasons.is_empty() {
                verdict.remove.push(stored);
            } else {
                verdict.keep.push(Kept { stored, reasons });
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_restic_s() {
        assert_eq!(("3".parse(), "unlimited".parse()), (Ok(Count::Of(3)), Ok(Count::Unlimited)));
        for text in ["", "-1", "all", "5000000000"] {
            assert_eq!(text.parse::<Count>(), Err(NotACount(text.to_owned())));
        }
    }
}
