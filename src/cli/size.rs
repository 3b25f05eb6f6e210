//! Sizes on the command line and in tables.
//!
//! All units are binary: `1K`, `1Ki`, `1KiB` and `1024` are the same, so that a size never means something else than what the
//! block layer does with it. Decimal units (`KB`, `MB`, ...) are refused, with the reason.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Why a size was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    /// Not a number followed by a unit.
    #[error("`{0}` is not a size: give bytes, or a number with K, M, G or T (or KiB, MiB, GiB, TiB), such as 10GiB")]
    Malformed(String),
    /// A decimal unit.
    #[error("`{0}` is a decimal unit; sizes here are binary: write {1}")]
    Decimal(String, &'static str),
    /// More than fits.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// Binary units, by the power of 1024.
const UNITS: [(&str, &str, &str); 5] =
    [("K", "KiB", "KB"), ("M", "MiB", "MB"), ("G", "GiB", "GB"), ("T", "TiB", "TB"), ("P", "PiB", "PB")];

impl ByteSize {
    /// The size of so many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let malformed = || ByteSizeError::Malformed(text.to_owned());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(malformed());
        }
        let too_large = || ByteSizeError::TooLarge(text.to_owned());
        let number: u64 = number.parse().map_err(|_| too_large())?;
        let shift = match unit.trim_start() {
            "" | "B" => 0,
            unit => {
                let same = |name: &str| name.eq_ignore_ascii_case(unit);
                // `Gi`, as Kubernetes writes it.
                let half = |long: &str| long.strip_suffix('B').is_some_and(same);
                let power = UNITS.iter().position(|(short, long, _)| same(short) || same(long) || half(long));
                match (power, UNITS.iter().find(|(_, _, decimal)| same(decimal))) {
                    (Some(power), _) => 10 * (power as u32 + 1),
                    (None, Some((_, long, _))) => return Err(ByteSizeError::Decimal(unit.to_owned(), long)),
                    (None, None) => return Err(malformed()),
                }
            }
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(too_large)
    }
}

/// The largest unit that leaves a number of at least 1, with one decimal where that is exact enough: `1.5 GiB`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = (u64::BITS - self.0.leading_zeros()).saturating_sub(1) / 10;
        match power.checked_sub(1).and_then(|index| UNITS.get(index.min(4) as usize)) {
            None => f.pad(&format!("{} B", self.0)),
            Some((_, unit, _)) => f.pad(&format!("{:.1} {unit}", self.0 as f64 / (1_u64 << (10 * power.min(5))) as f64)),
        }
    }
}

/// Bytes over time: `120.3 MiB/s`; a dash when nothing was moved.
pub fn throughput(bytes: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if bytes == 0 || seconds <= 0.0 {
        return "-".to_owned();
    }
    format!("{}/s", ByteSize::new((bytes as f64 / seconds) as u64))
}

/// A time for people: `850 ms`, `12.3 s`, `3 min 05 s`.
pub fn duration(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_units_in_every_spelling_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("17B", 17),
            ("512M", 512 << 20),
            ("512MiB", 512 << 20),
            ("10GiB", 10 << 30),
            ("10Gi", 10 << 30),
            ("10 gib", 10 << 30),
            ("1t", 1 << 40),
            ("3K", 3072),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_binary_size_is_refused_with_the_reason() {
        for text in ["", "GiB", "-1", "1.5G", "10X", "1e9", "0x10", " 1", "10GiB "] {
            assert_eq!(text.parse::<ByteSize>(), Err(ByteSizeError::Malformed(text.to_owned())), "{text}");
        }
        assert_eq!("1GB".parse::<ByteSize>(), Err(ByteSizeError::Decimal("GB".to_owned(), "GiB")));
        for text in ["99999999999999999999", "16777216T"] {
            assert_eq!(text.parse::<ByteSize>(), Err(ByteSizeError::TooLarge(text.to_owned())));
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_fitting_unit() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 << 20, "1.5 GiB"), (u64::MAX, "16384.0 PiB")]
        {
            assert_eq!(ByteSize::new(bytes).to_string(), text);
        }
    }

    #[test]
    fn times_and_rates_are_short() {
        assert_eq!(duration(Duration::from_millis(850)), "850 ms");
        assert_eq!(duration(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(duration(Duration::from_secs(185)), "3 min 05 s");
        assert_eq!(throughput(200 << 20, Duration::from_secs(2)), "100.0 MiB/s");
        assert_eq!(throughput(0, Duration::from_secs(2)), "-");
    }
}
