//! RFC 3339 text of points in time, as Go writes and reads it.
//!
//! Byte for byte as Go writes it, which drops the zeros at the end of a second's fraction: restic's `rewrite` refuses what it reads
//! and would write otherwise.

use crate::types::Timestamp;

/// `2026-11-23T05:37:00.12Z`: UTC, as many digits of the second's fraction as say something.
pub fn rfc3339(time: Timestamp) -> String {
    let seconds = i64::try_from(time.seconds).unwrap_or(i64::MAX);
    // What is later than the year 9999 has no such text.
    let time = jiff::Timestamp::new(seconds, time.nanoseconds.cast_signed()).unwrap_or(jiff::Timestamp::MAX);
    time.to_string()
}

/// Reads RFC 3339 text with any offset and up to nine digits of a second's fraction. `None` when it is something else or lies
/// before 1970.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    // More than this is accepted below: other punctuation, a time zone's name.
    let is_plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'T' | b't' | b'Z' | b'z' | b'-' | b'+' | b':' | b'.');
    let has_shape = text.len() >= "2026-11-23T05:37:00Z".len() && text.as_bytes()[10].eq_ignore_ascii_case(&b'T');
    if !has_shape || !text.bytes().all(is_plain) {
        return None;
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    let nanoseconds = u32::try_from(time.subsec_nanosecond()).ok()?;
    Some(Timestamp { seconds: u64::try_from(time.as_second()).ok()?, nanoseconds })
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

        /// What Go's `time.RFC3339Nano` says, in its own way.
        #[test]
        fn a_fraction_ends_with_its_last_digit_that_is_not_zero(nanoseconds in 0_u32..1_000_000_000, zeros in 0_u32..9) {
            let nanoseconds = nanoseconds / 10_u32.pow(zeros) * 10_u32.pow(zeros);
            let text = rfc3339(Timestamp { seconds: 951_827_696, nanoseconds });
            let fraction = format!("{nanoseconds:09}");
            let fraction = fraction.trim_end_matches('0');
            let dot = if fraction.is_empty() { "" } else { "." };
            prop_assert_eq!(text, format!("2000-02-29T12:34:56{dot}{fraction}Z"));
        }
    }

    #[test]
    fn known_times_are_written_and_read() {
        let seconds = |text| parse_rfc3339(text).map(|time| time.seconds);
        assert_eq!(rfc3339(Timestamp { seconds: 951_827_696, nanoseconds: 7 }), "2000-02-29T12:34:56.000000007Z");
        assert_eq!(rfc3339(Timestamp { seconds: 0, nanoseconds: 0 }), "1970-01-01T00:00:00Z");
        assert_eq!(seconds("2000-02-29T12:34:56Z"), Some(951_827_696));
        assert_eq!(seconds("2000-02-29T14:34:56.5+02:00"), Some(951_827_696));
        assert_eq!(seconds("2000-02-29T07:04:56-05:30"), Some(951_827_696));
        assert_eq!(parse_rfc3339("2023-01-01T00:00:00.25Z").map(|time| time.nanoseconds), Some(250_000_000));
    }

    #[test]
    fn a_time_that_has_no_text_is_written_as_the_last_that_has() {
        assert!(rfc3339(Timestamp { seconds: u64::MAX, nanoseconds: 0 }).starts_with("9999-12-30T"));
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
            "2001-01-01T00:00:00",
            "2001-01-01 00:00:00Z",
            "2001-01-01T00:00:00Z[UTC]",
            "0001-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
