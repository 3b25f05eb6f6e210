//! A snapshot's time as a calendar shows it where the snapshot was made.
//!
//! Hours, days, weeks and years are those of the offset that the time is written with: UTC for ours, local time for restic's. restic
//! does the same, except where the offset is that of the zone it runs in: then its limits (`--keep-within`) follow that zone's summer time
//! and may differ from ours by its hour.

use jiff::civil::{Date, DateTime};
use jiff::fmt::temporal::Pieces;
use jiff::tz::Offset;
use jiff::{SignedDuration, Span as Days};

use super::period::{Period, Span};
use crate::types::Timestamp;

/// A moment, with what calendar and clock show in its time zone. Moments of different zones compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LocalTime {
    moment: jiff::Timestamp,
    shown: DateTime,
    offset: Offset,
}

impl LocalTime {
    fn shown_at(shown: DateTime, offset: Offset) -> Option<Self> {
        Some(Self { moment: offset.to_timestamp(shown).ok()?, shown, offset })
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let pieces = Pieces::parse(text).ok()?;
        Self::shown_at(pieces.date().to_datetime(pieces.time()?), pieces.to_numeric_offset()?)
    }

    /// A moment in UTC.
    pub(super) fn of(time: Timestamp) -> Option<Self> {
        let moment = jiff::Timestamp::new(i64::try_from(time.seconds).ok()?, time.nanoseconds.cast_signed()).ok()?;
        Some(Self { moment, shown: Offset::UTC.to_datetime(moment), offset: Offset::UTC })
    }

    /// Which hour, day, ... of its calendar it lies in: equal for moments that lie in the same one.
    pub(super) fn within(&self, period: Period) -> [i16; 3] {
        let date = self.shown.date();
        match period {
            Period::Hour => [date.year(), date.day_of_year(), self.shown.hour().into()],
            Period::Day => [date.year(), date.day_of_year(), 0],
            Period::Week => [date.iso_week_date().year(), date.iso_week_date().week().into(), 0],
            Period::Month => [date.year(), date.month().into(), 0],
            Period::Year => [date.year(), 0, 0],
        }
    }

    /// This much earlier, by the calendar: a day that the month does not have is as many days into the next one, as Go's calendar has
    /// it. `None` before the calendar begins, which is before everything.
    pub(super) fn back(&self, span: &Span) -> Option<jiff::Timestamp> {
        let date = self.shown.date();
        let months =
            i64::from(date.year()) * 12 + i64::from(date.month()) - 1 - i64::from(span.years) * 12 - i64::from(span.months);
        let first = Date::new(i16::try_from(months.div_euclid(12)).ok()?, months.rem_euclid(12) as i8 + 1, 1).ok()?;
        let days = Days::new().try_days(i64::from(date.day()) - 1 - i64::from(span.days)).ok()?;
        let shown = first.checked_add(days).ok()?.to_datetime(self.shown.time());
        let moment = self.offset.to_timestamp(shown).ok()?;
        moment.checked_sub(SignedDuration::from_hours(span.hours.into())).ok()
    }

    pub(super) fn is_after(&self, limit: jiff::Timestamp) -> bool {
        self.moment > limit
    }
}
