//! Stretches of time by the calendar.

use std::fmt;
use std::str::FromStr;

/// A part of a calendar. A rule keeps one snapshot of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Hour,
    Day,
    /// A week by ISO 8601, from Monday on.
    Week,
    Month,
    Year,
}

impl Period {
    /// All of them, the shortest first.
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    pub(super) const fn adjective(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// A stretch of time by the calendar, as restic writes it: `1y5m7d2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub years: u32,
    pub months: u32,
    pub days: u32,
    pub hours: u32,
}

/// The text is not a [`Span`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: give numbers with y, m, d and h, such as 1y5m7d2h")]
pub struct NotASpan(String);

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        let malformed = || NotASpan(text.to_owned());
        let mut span = Self::default();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, unit) = rest.split_at(digits);
            let number = number.parse().map_err(|_| malformed())?;
            let mut unit = unit.chars();
            match unit.next() {
                Some('y') => span.years = number,
                Some('m') => span.months = number,
                Some('d') => span.days = number,
                Some('h') => span.hours = number,
                _ => return Err(malformed()),
            }
            rest = unit.as_str();
        }
        Ok(span)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')];
        parts.iter().filter(|(number, _)| *number > 0).try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

impl Span {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_restic_s() {
        let span = |years, months, days, hours| Span { years, months, days, hours };
        assert_eq!("1y5m7d2h".parse(), Ok(span(1, 5, 7, 2)));
        assert_eq!(" 2h3h ".parse(), Ok(span(0, 0, 0, 3)));
        assert_eq!("".parse(), Ok(Span::default()));
        assert_eq!(span(1, 0, 7, 0).to_string(), "1y7d");
        for text in ["1", "h", "1w", "-1d", "99999999999d", "1d 2h"] {
            assert_eq!(text.parse::<Span>(), Err(NotASpan(text.to_owned())));
        }
    }
}
