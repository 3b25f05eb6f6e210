//! How long a call may be held.

use std::time::Duration;

use tonic::metadata::MetadataMap;

use crate::csi::remote::DEADLINE;

/// Kept of a deadline for the way back: an answer takes milliseconds, and a busy machine a second more.
const WAY_BACK: Duration = Duration::from_secs(2);

/// How long a call with this metadata may be held: to just under its deadline; not at all when it has none.
pub(in crate::agent) fn patience(metadata: &MetadataMap) -> Duration {
    let deadline = metadata.get(DEADLINE).and_then(|value| parse(value.to_str().ok()?)).unwrap_or_default();
    // Of a short one a quarter.
    deadline.saturating_sub(WAY_BACK.min(deadline / 4))
}

/// At most eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Duration {
        let mut metadata = MetadataMap::new();
        metadata.insert(DEADLINE, text.parse().unwrap());
        patience(&metadata)
    }

    #[test]
    fn a_call_is_held_to_just_under_its_deadline_and_not_at_all_without_one() {
        assert_eq!(of("120S"), Duration::from_secs(118));
        assert_eq!(of("59900m"), Duration::from_millis(57_900));
        assert_eq!(of("4S"), Duration::from_secs(3));
        assert_eq!(of("2M"), Duration::from_secs(118));
        assert_eq!(of("99999999H"), Duration::from_secs(99_999_999 * 3600 - 2));
        assert_eq!(patience(&MetadataMap::new()), Duration::ZERO);
        for text in ["", "S", "1", "-1S", "1s", "123456789S", "\u{e4}"] {
            let value = tonic::metadata::MetadataValue::try_from(text.as_bytes());
            let mut metadata = MetadataMap::new();
            if let Ok(value) = value {
                metadata.insert(DEADLINE, value);
            }
            assert_eq!(patience(&metadata), Duration::ZERO, "{text:?}");
        }
    }
}
