//! A snapshot's time as a calendar shows it where the snapshot was made.
//!
//! Hours, days, weeks and years are those of the offset that the time is written with: UTC for ours, local time for restic's. restic
//! does the same, except where the offset is that of the zone it runs in: then its limits (`--keep-within`) follow that zone's summer time
//! and may differ from ours by its hour.

use chrono::{DateTime, Datelike, Duration, FixedOffset, NaiveDate, Timelike, Utc};

use super::policy::{Period, Span};
use crate::types::Timestamp;

/// A moment, and the offset of the calendar that it is seen in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LocalTime(DateTime<FixedOffset>);

impl LocalTime {
    /// Reads RFC 3339.
    pub(super) fn parse(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(Self)
    }

    /// A moment in UTC.
    pub(super) fn of(time: Timestamp) -> Self {
        Self(DateTime::<Utc>::from(std::time::SystemTime::from(time)).fixed_offset())
    }

    /// Which hour, day, ... of its calendar it lies in: equal for moments that lie in the same one.
    pub(super) fn within(&self, period: Period) -> (i32, u32) {
        let date = self.0.date_naive();
        match period {
            Period::Hour => (date.num_days_from_ce(), self.0.hour()),
            Period::Day => (date.num_days_from_ce(), 0),
            Period::Week => (date.iso_week().year(), date.iso_week().week()),
            Period::Month => (date.year(), date.month()),
            Period::Year => (date.year(), 0),
        }
    }

    /// This much earlier, by the calendar: a day that the month does not have is as many days into the next one, as Go's calendar has
    /// it. `None` before the calendar begins, which is before everything.
    pub(super) fn back(&self, span: &Span) -> Option<Self> {
        let date = self.0.date_naive();
        let months = i64::from(date.year()) * 12 + i64::from(date.month0()) - i64::from(span.years) * 12 - i64::from(span.months);
        let first = NaiveDate::from_ymd_opt(i32::try_from(months.div_euclid(12)).ok()?, months.rem_euclid(12) as u32 + 1, 1)?;
        let days = Duration::try_days(i64::from(date.day0()) - i64::from(span.days))?;
        let local = first.checked_add_signed(days)?.and_time(self.0.time());
        let moment = local.and_local_timezone(*self.0.offset()).single()?;
        moment.checked_sub_signed(Duration::try_hours(i64::from(span.hours))?).map(Self)
    }
}
