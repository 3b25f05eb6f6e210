//! Times to wait on the command line, as restic users write them: `90s`, `5m`, `1h30m`.

use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;

/// How long something is waited for; a whole number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait(u32);

impl Wait {
    /// In seconds.
    pub fn seconds(self) -> u32 {
        self.0
    }

    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = if text == "0" { Ok(SignedDuration::ZERO) } else { text.parse::<SignedDuration>() };
        let seconds = parsed.ok().and_then(|duration| u32::try_from(duration.as_secs()).ok());
        seconds.map(Self).ok_or_else(|| "write it like 90s, 5m or 1h30m".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_restic_users_write_them_and_others_refused() {
        for (text, seconds) in [("0", 0), ("0s", 0), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("1500ms", 1)] {
            assert_eq!(text.parse().map(Wait::seconds), Ok(seconds), "{text}");
        }
        for text in ["", "5", "-5m", "x", "99999999h"] {
            assert!(text.parse::<Wait>().is_err(), "{text}");
        }
    }
}
