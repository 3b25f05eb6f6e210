//! Tables: what a device is made of.
//!
//! A target's text is what the kernel takes and gives back, word for word; a table that says anything that is not modelled
//! here is refused when it is read. (A thin volume of a pool that failed says `Fail` instead of its table, which is an error
//! too.)

use std::fmt;
use std::str::FromStr;

use super::blocks::DataBlocks;
use super::line::{LineError, Words, number, unknown};
use super::name::DeviceNumber;
use super::units::{DataBlockSize, Sectors, ThinId};
use crate::types::Access;

/// A stretch of a device and what is there. Written `START LENGTH TYPE PARAMETERS`, in sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it begins on the device: the end of the target before it.
    pub start: Sectors,
    /// How long it is; not zero.
    pub length: Sectors,
    /// What is there.
    pub kind: TargetKind,
}

/// What a stretch of a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetKind {
    /// A stretch of another device.
    Linear {
        device: DeviceNumber,
        /// Where on it.
        offset: Sectors,
    },
    /// A thin pool. Loading it formats a metadata device whose first block is all zeros.
    ThinPool {
        /// Where its metadata is.
        metadata: DeviceNumber,
        /// Where its data is.
        data: DeviceNumber,
        /// What it allocates. For good.
        block_size: DataBlockSize,
        /// An event is sent when fewer blocks than these are free.
        low_water: DataBlocks,
        /// How it behaves.
        features: PoolFeatures,
    },
    /// A thin volume.
    Thin {
        pool: DeviceNumber,
        /// Which of the pool's.
        id: ThinId,
    },
    /// Every read and write fails.
    Error,
}

/// How a thin pool behaves. The default is that of our pools: blocks are zeroed before anybody sees them, discards reach the
/// disk, and writes fail at once when there is no space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolFeatures {
    /// What a newly allocated block holds.
    pub zeroing: Zeroing,
    /// What becomes of discards.
    pub discard: Discard,
    /// Whether anything may change.
    pub access: Access,
    /// What becomes of writes without space.
    pub no_space: NoSpace,
}

impl Default for PoolFeatures {
    fn default() -> Self {
        Self { zeroing: Zeroing::On, discard: Discard::PassedDown, access: Access::ReadWrite, no_space: NoSpace::Error }
    }
}

/// What a newly allocated block holds where it was not written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeroing {
    On,
    /// Whatever was there, of another volume maybe.
    Skipped,
}

/// What becomes of discards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// They free blocks, and reach the disk.
    PassedDown,
    /// They free blocks.
    Kept,
    /// They do nothing.
    Ignored,
}

/// What becomes of writes when no block is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSpace {
    /// They fail at once.
    Error,
    /// They wait for space, by default a minute, and then fail.
    Queue,
}

const SKIP_ZEROING: &str = "skip_block_zeroing";
const IGNORE_DISCARD: &str = "ignore_discard";
const NO_PASSDOWN: &str = "no_discard_passdown";
const READ_ONLY: &str = "read_only";
const ERROR_IF_NO_SPACE: &str = "error_if_no_space";
/// Each of the features once: more is no list of features.
const MOST_FEATURES: u64 = 5;

impl PoolFeatures {
    /// The words for what differs from the kernel's defaults, in the kernel's order.
    fn words(self) -> Vec<&'static str> {
        let mut words = Vec::new();
        if self.zeroing == Zeroing::Skipped {
            words.push(SKIP_ZEROING);
        }
        match self.discard {
            Discard::PassedDown => {}
            Discard::Kept => words.push(NO_PASSDOWN),
            Discard::Ignored => words.push(IGNORE_DISCARD),
        }
        if self.access == Access::ReadOnly {
            words.push(READ_ONLY);
        }
        if self.no_space == NoSpace::Error {
            words.push(ERROR_IF_NO_SPACE);
        }
        words
    }

    fn parse(words: &mut Words<'_>) -> Result<Self, LineError> {
        const FEATURE: &str = "feature of a thin pool";
        let count = words.take("number of features", |word| number(word).filter(|&count| count <= MOST_FEATURES))?;
        // The kernel's own defaults.
        let mut features =
            Self { zeroing: Zeroing::On, discard: Discard::PassedDown, access: Access::ReadWrite, no_space: NoSpace::Queue };
        for _ in 0..count {
            let word = words.word(FEATURE)?;
            let before = features;
            match word {
                SKIP_ZEROING => features.zeroing = Zeroing::Skipped,
                // Discards that do nothing are not passed down either way.
                IGNORE_DISCARD => features.discard = Discard::Ignored,
                NO_PASSDOWN if features.discard == Discard::PassedDown => features.discard = Discard::Kept,
                READ_ONLY => features.access = Access::ReadOnly,
                ERROR_IF_NO_SPACE => features.no_space = NoSpace::Error,
                _ => return Err(unknown(FEATURE, word)),
            }
            if before == features {
                // The same word a second time.
                return Err(unknown(FEATURE, word));
            }
        }
        Ok(features)
    }
}

impl TargetKind {
    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::ThinPool { .. } => "thin-pool",
            Self::Thin { .. } => "thin",
            Self::Error => "error",
        }
    }

    /// Its parameters as text, as the kernel takes them.
    pub fn parameters(&self) -> String {
        match self {
            Self::Linear { device, offset } => format!("{device} {offset}"),
            Self::ThinPool { metadata, data, block_size, low_water, features } => {
                let words = features.words();
                let mut text = format!("{metadata} {data} {} {low_water} {}", block_size.sectors(), words.len());
                for word in words {
                    text.push(' ');
                    text.push_str(word);
                }
                text
            }
            Self::Thin { pool, id } => format!("{pool} {id}"),
            Self::Error => String::new(),
        }
    }

    /// The target of this type with these parameters.
    ///
    /// # Errors
    /// [`LineError`]: a type or a word that is not modelled.
    pub fn parse(type_name: &str, parameters: &str) -> Result<Self, LineError> {
        let mut words = Words::of(parameters);
        let kind = match type_name {
            "linear" => Self::Linear { device: device(&mut words)?, offset: sectors(&mut words)? },
            "thin-pool" => Self::ThinPool {
                metadata: device(&mut words)?,
                data: device(&mut words)?,
                block_size: words
                    .take("size of data blocks", |word| DataBlockSize::from_bytes(Sectors::new(number(word)?)?.bytes()))?,
                low_water: DataBlocks::new(words.number("low water mark")?),
                features: PoolFeatures::parse(&mut words)?,
            },
            "thin" => Self::Thin {
                pool: device(&mut words)?,
                id: words.take("thin id", |word| ThinId::new(u32::try_from(number(word)?).ok()?))?,
            },
            "error" => Self::Error,
            other => return Err(unknown("type of target", other)),
        };
        words.end()?;
        Ok(kind)
    }
}

fn device(words: &mut Words<'_>) -> Result<DeviceNumber, LineError> {
    words.take("device number", |word| word.parse().ok())
}

fn sectors(words: &mut Words<'_>) -> Result<Sectors, LineError> {
    words.take("number of sectors", |word| Sectors::new(number(word)?))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.start, self.length, self.kind)
    }
}

impl FromStr for Target {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        let mut words = Words::of(line);
        let (start, length) = (sectors(&mut words)?, sectors(&mut words)?);
        Ok(Self { start, length, kind: kind(words)? })
    }
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())?;
        let parameters = self.parameters();
        if parameters.is_empty() { Ok(()) } else { write!(f, " {parameters}") }
    }
}

impl FromStr for TargetKind {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        kind(Words::of(line))
    }
}

/// The type and the parameters in the rest of a line.
fn kind(mut words: Words<'_>) -> Result<TargetKind, LineError> {
    let type_name = words.word("type of target")?;
    let mut parameters = String::new();
    while let Some(word) = words.optional() {
        parameters.push_str(word);
        parameters.push(' ');
    }
    TargetKind::parse(type_name, &parameters)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn devices() -> impl Strategy<Value = DeviceNumber> {
        any::<u32>().prop_map(|encoded| DeviceNumber::from_encoded(encoded.into()).unwrap())
    }

    fn lengths() -> impl Strategy<Value = Sectors> {
        (0..=u64::MAX / 512).prop_map(|count| Sectors::new(count).unwrap())
    }

    fn features() -> impl Strategy<Value = PoolFeatures> {
        let zeroing = prop_oneof![Just(Zeroing::On), Just(Zeroing::Skipped)];
        let discard = prop_oneof![Just(Discard::PassedDown), Just(Discard::Kept), Just(Discard::Ignored)];
        let access = prop_oneof![Just(Access::ReadOnly), Just(Access::ReadWrite)];
        let no_space = prop_oneof![Just(NoSpace::Error), Just(NoSpace::Queue)];
        (zeroing, discard, access, no_space).prop_map(|(zeroing, discard, access, no_space)| PoolFeatures {
            zeroing,
            discard,
            access,
            no_space,
        })
    }

    fn kinds() -> impl Strategy<Value = TargetKind> {
        prop_oneof![
            (devices(), lengths()).prop_map(|(device, offset)| TargetKind::Linear { device, offset }),
            (devices(), devices(), 1_u64..=1 << 14, any::<u64>(), features()).prop_map(
                |(metadata, data, size, low_water, features)| TargetKind::ThinPool {
                    metadata,
                    data,
                    block_size: DataBlockSize::from_bytes(size << 16).unwrap(),
                    low_water: DataBlocks::new(low_water),
                    features,
                }
            ),
            (devices(), 0_u32..1 << 24).prop_map(|(pool, id)| TargetKind::Thin { pool, id: ThinId::new(id).unwrap() }),
            Just(TargetKind::Error),
        ]
    }

    #[test]
    fn lines_of_a_real_kernel_are_understood_and_said_again() {
        for line in [
            "0 2048 linear 254:16 384",
            "0 262144 thin-pool 254:1 254:2 128 100 1 error_if_no_space",
            "0 262144 thin-pool 254:1 254:2 128 0 3 skip_block_zeroing no_discard_passdown read_only",
            "0 262144 thin-pool 254:1 254:2 2048 0 2 ignore_discard error_if_no_space",
            "0 262144 thin-pool 254:1 254:2 128 0 0",
            "0 20971520 thin 254:3 16777215",
            "2048 8 error",
            "0 1 error",
        ] {
            assert_eq!(line.parse::<Target>().unwrap().to_string(), line);
        }
        // As the kernel has it, with a blank at the end.
        let read = TargetKind::parse("thin-pool", "254:1 254:2 128 100 1 error_if_no_space ").unwrap();
        assert_eq!(read.parameters(), "254:1 254:2 128 100 1 error_if_no_space");
    }

    #[test]
    fn words_that_are_not_known_missing_or_too_many_are_errors() {
        let unknown = |what, word: &str| LineError::Unknown { what, word: word.to_owned() };
        for (line, error) in [
            ("0 8 linear 254:0", LineError::Missing("number of sectors")),
            ("0 8 linear /dev/sda 0", unknown("device number", "/dev/sda")),
            ("0 8 linear 254:0 0 0", LineError::Extra("0".to_owned())),
            ("0 8 striped 1 254:0 0", unknown("type of target", "striped")),
            ("0 8 thin 254:0 16777216", unknown("thin id", "16777216")),
            ("0 8 thin 254:0 1 254:9", LineError::Extra("254:9".to_owned())),
            ("0 8 thin Fail", unknown("device number", "Fail")),
            ("0 8 thin-pool 254:0 254:1 127 0 0", unknown("size of data blocks", "127")),
            ("0 8 thin-pool 254:0 254:1 128 0 1 fast", unknown("feature of a thin pool", "fast")),
            ("0 8 thin-pool 254:0 254:1 128 0 2 read_only read_only", unknown("feature of a thin pool", "read_only")),
            ("0 8 thin-pool 254:0 254:1 128 0 2 read_only", LineError::Missing("feature of a thin pool")),
            ("0 8 thin-pool 254:0 254:1 128 0 0 read_only", LineError::Extra("read_only".to_owned())),
            ("0 8 thin-pool 254:0 254:1 128 0 6", unknown("number of features", "6")),
            ("0 -8 error", unknown("number of sectors", "-8")),
            ("0 36028797018963968 error", unknown("number of sectors", "36028797018963968")),
            ("0 8", LineError::Missing("type of target")),
        ] {
            assert_eq!(line.parse::<Target>(), Err(error), "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_target_reads_as_it_was_written(start in lengths(), length in lengths(), kind in kinds()) {
            let target = Target { start, length, kind };
            prop_assert_eq!(target.to_string().parse(), Ok(target.clone()));
            prop_assert_eq!(TargetKind::parse(target.kind.type_name(), &target.kind.parameters()), Ok(target.kind.clone()));
            prop_assert_eq!(target.kind.to_string().parse(), Ok(target.kind));
        }

        #[test]
        fn what_is_understood_is_said_again_and_the_rest_is_an_error(
            words in proptest::collection::vec("[0-9]{1,4}|[0-9]{1,3}:[0-9]{1,3}|thin|linear|thin-pool|read_only|[a-z_]{3}", 0..10),
        ) {
            let line = words.join(" ");
            if let Ok(target) = line.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse(), Ok(target));
            }
        }
    }
}
