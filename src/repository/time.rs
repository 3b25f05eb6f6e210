//! RFC 3339 text of points in time, as Go writes and reads it.

use crate::types::Timestamp;

const SECONDS_A_DAY: u64 = 86_400;

/// `2026-11-23T05:37:00.123456789Z`: UTC, nanoseconds.
pub fn rfc3339(time: Timestamp) -> String {
    let (year, month, day) = date_of((time.seconds / SECONDS_A_DAY) as i64);
    let second = time.seconds % SECONDS_A_DAY;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", time.nanoseconds)
}

/// Reads RFC 3339 text with any offset and up to nine digits of a second's fraction (more are cut off). `None` when it is
/// something else or lies before 1970.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once(['T', 't'])?;
    let [year, month, day] = numbers(date, '-')?;
    if date.len() != 10 || !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    let (time, offset_seconds) = match time.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 0),
        None => {
            let at = time.rfind(['+', '-'])?;
            let [hours, minutes] = numbers(&time[at + 1..], ':')?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = (hours * 3600 + minutes * 60) as i64;
            (&time[..at], if time[at..].starts_with('-') { -offset } else { offset })
        }
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = numbers(time, ':')?;
    // 60 is a leap second; it reads as the first second after it.
    if hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds =
        fraction.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    let seconds = days_before(year as i64, month, day) * SECONDS_A_DAY as i64 + (hour * 3600 + minute * 60 + second) as i64;
    Some(Timestamp { seconds: u64::try_from(seconds - offset_seconds).ok()?, nanoseconds })
}

fn numbers<const N: usize>(text: &str, separator: char) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for number in &mut numbers {
        let part =
            parts.next().filter(|part| !part.is_empty() && part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

// Both conversions count years from March, so that the leap day is a year's last, and in cycles of 400 years (146 097 days).

fn days_before(year: i64, month: u64, day: u64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (cycle, of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month as i64 + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day as i64 - 1;
    cycle * 146_097 + of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + day_of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (cycle, of_cycle) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_cycle - of_cycle / 1460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let day_of_year = of_cycle - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year + cycle * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_reads_back_from_its_text(seconds in 0_u64..250_000_000_000, nanoseconds in 0_u32..1_000_000_000) {
            let time = Timestamp { seconds, nanoseconds };
            prop_assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = parse_rfc3339(&text);
        }

        #[test]
        fn almost_times_are_read_or_refused(text in "[0-9TtZz:.+-]{0,40}") {
            let _ = parse_rfc3339(&text);
        }
    }

    #[test]
    fn known_times_are_written_and_read() {
        let seconds = |text| parse_rfc3339(text).map(|time| time.seconds);
        assert_eq!(rfc3339(Timestamp { seconds: 951_827_696, nanoseconds: 7 }), "2000-02-29T12:34:56.000000007Z");
        assert_eq!(seconds("2000-02-29T12:34:56Z"), Some(951_827_696));
        assert_eq!(seconds("2000-02-29T14:34:56.5+02:00"), Some(951_827_696));
        assert_eq!(seconds("2000-02-29T07:04:56-05:30"), Some(951_827_696));
        assert_eq!(parse_rfc3339("2023-01-01T00:00:00.25Z").map(|time| time.nanoseconds), Some(250_000_000));
    }

    #[test]
    fn impossible_times_are_refused() {
        for text in [
            "",
            "2001-02-29T00:00:00Z",
            "2001-13-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2001-01-01T24:00:00Z",
            "2001-01-01",
            "0001-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
