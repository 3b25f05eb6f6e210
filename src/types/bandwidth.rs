//! How many bytes a second may be sent.

use std::fmt;

/// Bytes a second, at least [`Bandwidth::LEAST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bandwidth(u64);

impl Bandwidth {
    /// The least: a pack of 16 MiB takes four minutes then, and fewer bytes could not be told from a store that does not answer.
    pub const LEAST: Bandwidth = Bandwidth(64 << 10);

    /// So many bytes a second; `None` for fewer than the least.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes < Self::LEAST.0 { None } else { Some(Self(bytes)) }
    }

    /// A quantity as Kubernetes writes it: digits alone, or with `Ki`, `Mi` or `Gi`.
    pub fn parse(text: &str) -> Option<Self> {
        const UNITS: [(&str, u64); 3] = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)];
        let with_unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
        let (digits, unit) = with_unit.unwrap_or((text, 1));
        let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let bytes = digits.parse::<u64>().ok().filter(|_| is_plain)?.checked_mul(unit)?;
        Self::new(bytes)
    }

    /// Bytes a second.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_digits_with_a_binary_unit_or_none_and_at_least_the_least() {
        for (text, bytes) in [("65536", 64 << 10), ("64Ki", 64 << 10), ("20Mi", 20 << 20), ("1Gi", 1 << 30), ("020Mi", 20 << 20)]
        {
            assert_eq!(Bandwidth::parse(text).map(Bandwidth::bytes), Some(bytes), "{text}");
        }
        for text in [
            "",
            "Mi",
            "0",
            "63Ki",
            "20M",
            "20MiB",
            "20Mi/s",
            "-1Mi",
            "+1Mi",
            "1.5Mi",
            " 1Mi",
            "99999999999999999999",
            "17179869184Gi",
        ] {
            assert_eq!(Bandwidth::parse(text), None, "{text}");
        }
        assert_eq!(Bandwidth::parse(&Bandwidth::LEAST.to_string()), Some(Bandwidth::LEAST));
    }
}
