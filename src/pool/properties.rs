//! What an administrator chose for a pool: its name, how much it may promise, how much it keeps free, and what becomes of deleted space.
//! Recorded in the pool's catalogue, so that it travels with the disk; a catalogue that says nothing has the defaults.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::PoolName;

/// By how much the sizes promised to volumes may exceed the size of the pool: from 1 (every volume can be filled) to 1000, in hundredths.
///
/// Volumes, copies among them, count with the sizes that their users see, whatever they take. Snapshots do not count: they take nothing
/// until their volume is overwritten, and what that takes is limited by what is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OverprovisionRatio {
    hundredths: u32,
}

/// A text that is no ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a number from 1 to 1000 with at most two digits after the point")]
pub struct OverprovisionRatioError;

impl OverprovisionRatio {
    /// The most that a pool of `total` bytes may promise, in bytes.
    pub fn limit(self, total: u64) -> u64 {
        u64::try_from(u128::from(total) * u128::from(self.hundredths) / 100).unwrap_or(u64::MAX)
    }
}

impl Default for OverprovisionRatio {
    /// Ten. Volumes are mostly empty at first, and copies made for tests and restores promise the whole size of their source and take
    /// almost nothing: a ratio near 1 refuses them in a pool that is almost empty. Without any limit a scheduler goes on
    /// choosing the pool until it is full of other people's promises. A pool whose promises must hold says 1.
    fn default() -> Self {
        Self { hundredths: 1000 }
    }
}

impl FromStr for OverprovisionRatio {
    type Err = OverprovisionRatioError;

    fn from_str(text: &str) -> Result<Self, OverprovisionRatioError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole, 4) || !digits(fraction, 2) {
            return Err(OverprovisionRatioError);
        }
        let hundredths: u32 = format!("{whole}{fraction:0<2}").parse().map_err(|_| OverprovisionRatioError)?;
        if (100..=100_000).contains(&hundredths) { Ok(Self { hundredths }) } else { Err(OverprovisionRatioError) }
    }
}

impl TryFrom<String> for OverprovisionRatio {
    type Error = OverprovisionRatioError;

    fn try_from(text: String) -> Result<Self, OverprovisionRatioError> {
        text.parse()
    }
}

impl From<OverprovisionRatio> for String {
    fn from(ratio: OverprovisionRatio) -> Self {
        ratio.to_string()
    }
}

impl fmt::Display for OverprovisionRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.hundredths / 100, self.hundredths % 100);
        match fraction {
            0 => write!(f, "{whole}"),
            fraction if fraction % 10 == 0 => write!(f, "{whole}.{}", fraction / 10),
            fraction => write!(f, "{whole}.{fraction:02}"),
        }
    }
}

/// How much of a pool is kept free of new volumes, so that the writers of those that exist have something left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Reserve {
    /// What suits a pool of its size (`PoolUsage::reserve_of`).
    #[default]
    Automatic,
    /// This part of the pool, in hundredths of a percent: at most [`Reserve::MOST_PERCENT`] percent.
    Share(u32),
    /// So many bytes; of a pool that is smaller than twice that, half of it.
    Bytes(u64),
}

/// A text that is no reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `automatic`, a percentage from 0% to 50% with at most two digits after the point, or a size")]
pub struct ReserveError;

impl Reserve {
    /// Largest share that may be kept free, in percent.
    pub const MOST_PERCENT: u32 = 50;

    /// What is kept free of a pool of `total` bytes; `None` for what suits it.
    pub fn of(self, total: u64) -> Option<u64> {
        let most = total / 100 * u64::from(Self::MOST_PERCENT);
        let share = |hundredths: u32| u64::try_from(u128::from(total) * u128::from(hundredths) / 10_000).unwrap_or(u64::MAX);
        match self {
            Self::Automatic => None,
            Self::Share(hundredths) => Some(share(hundredths).min(most)),
            Self::Bytes(bytes) => Some(bytes.min(most)),
        }
    }
}

/// `automatic`, a percentage such as `2.5%`, or a plain number of bytes.
impl FromStr for Reserve {
    type Err = ReserveError;

    fn from_str(text: &str) -> Result<Self, ReserveError> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if text == "automatic" {
            return Ok(Self::Automatic);
        }
        let Some(percent) = text.strip_suffix('%') else {
            return if digits(text) { text.parse().map(Self::Bytes).map_err(|_| ReserveError) } else { Err(ReserveError) };
        };
        let (whole, fraction) = percent.split_once('.').unwrap_or((percent, "0"));
        if !digits(whole) || !digits(fraction) || whole.len() > 2 || fraction.len() > 2 {
            return Err(ReserveError);
        }
        let hundredths: u32 = format!("{whole}{fraction:0<2}").parse().map_err(|_| ReserveError)?;
        if hundredths <= Self::MOST_PERCENT * 100 { Ok(Self::Share(hundredths)) } else { Err(ReserveError) }
    }
}

impl TryFrom<String> for Reserve {
    type Error = ReserveError;

    fn try_from(text: String) -> Result<Self, ReserveError> {
        text.parse()
    }
}

impl From<Reserve> for String {
    fn from(reserve: Reserve) -> Self {
        reserve.to_string()
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Automatic => f.write_str("automatic"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Share(hundredths) => match (hundredths / 100, hundredths % 100) {
                (whole, 0) => write!(f, "{whole}%"),
                (whole, fraction) if fraction % 10 == 0 => write!(f, "{whole}.{}%", fraction / 10),
                (whole, fraction) => write!(f, "{whole}.{fraction:02}%"),
            },
        }
    }
}

/// What becomes of the space of what is deleted in a thin pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeletedSpace {
    /// It is free for the pool's volumes, and the disk is told nothing: the default, since many disks have nothing of it, and some do
    /// little else while they discard.
    #[default]
    Kept,
    /// It goes down to the disk as discards before it is free: for a disk that is thin itself, or wears.
    Discarded,
}

/// A text that is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `kept` or `discarded`")]
pub struct DeletedSpaceError;

impl FromStr for DeletedSpace {
    type Err = DeletedSpaceError;

    fn from_str(text: &str) -> Result<Self, DeletedSpaceError> {
        [Self::Kept, Self::Discarded].into_iter().find(|known| known.to_string() == text).ok_or(DeletedSpaceError)
    }
}

impl fmt::Display for DeletedSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "kept",
            Self::Discarded => "discarded",
        })
    }
}

/// What was chosen for a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolProperties {
    /// Its name.
    #[serde(default)]
    pub name: PoolName,
    /// How much it may promise.
    #[serde(default)]
    pub overprovision_ratio: OverprovisionRatio,
    /// What becomes of the space of what is deleted. Of thin pools only.
    #[serde(default)]
    pub deleted_space: DeletedSpace,
    /// How much is kept free of new volumes.
    #[serde(default)]
    pub reserve: Reserve,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_read_back_as_it_was_written_and_leaves_half_of_the_pool_at_least() {
        for (text, total, kept) in [
            ("automatic", 1000, None),
            ("0%", 1000, Some(0)),
            ("5%", 1000, Some(50)),
            ("2.5%", 1000, Some(25)),
            ("0.05%", 1 << 40, Some((1 << 40) / 2000)),
            ("50%", 1000, Some(500)),
            ("300", 1000, Some(300)),
            ("1073741824", 1000, Some(500)),
        ] {
            let reserve: Reserve = text.parse().unwrap();
            assert_eq!((reserve.to_string().as_str(), reserve.of(total)), (text, kept));
            let stored = serde_json::to_string(&PoolProperties { reserve, ..PoolProperties::default() }).unwrap();
            assert_eq!(serde_json::from_str::<PoolProperties>(&stored).unwrap().reserve, reserve);
        }
        assert_eq!(Reserve::Share(5000).of(u64::MAX), Some(u64::MAX / 100 * 50));
        for bad in ["", "%", "51%", "50.01%", "5.123%", "-1%", "+5%", "5 %", "1e3", "10GB", "99999999999999999999"] {
            assert_eq!(bad.parse::<Reserve>(), Err(ReserveError), "{bad}");
        }
    }

    #[test]
    fn what_becomes_of_deleted_space_is_read_back_and_is_kept_where_nothing_is_said() {
        for choice in [DeletedSpace::Kept, DeletedSpace::Discarded] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
            let text = serde_json::to_string(&PoolProperties { deleted_space: choice, ..PoolProperties::default() }).unwrap();
            assert_eq!(serde_json::from_str::<PoolProperties>(&text).unwrap().deleted_space, choice);
        }
        assert_eq!("discard".parse::<DeletedSpace>(), Err(DeletedSpaceError));
        assert_eq!(serde_json::from_str::<PoolProperties>("{}").unwrap(), PoolProperties::default());
    }

    #[test]
    fn a_ratio_is_read_back_as_it_was_written_and_multiplies() {
        for (text, total, limit) in [("1", 100, 100), ("1.5", 100, 150), ("2.05", 100, 205), ("1000", 1 << 40, 1000 << 40)] {
            let ratio: OverprovisionRatio = text.parse().unwrap();
            assert_eq!((ratio.to_string().as_str(), ratio.limit(total)), (text, limit));
            assert_eq!(serde_json::from_str::<OverprovisionRatio>(&serde_json::to_string(&ratio).unwrap()).unwrap(), ratio);
        }
        assert_eq!("1.50".parse::<OverprovisionRatio>().unwrap().to_string(), "1.5");
        assert_eq!(OverprovisionRatio::default().limit(u64::MAX), u64::MAX);
        for bad in ["", "0", "0.99", "1.", ".5", "1.234", "-2", "+2", "1e3", "1000.01", "10000", "unlimited", "2,5"] {
            assert_eq!(bad.parse::<OverprovisionRatio>(), Err(OverprovisionRatioError), "{bad}");
        }
    }
}
