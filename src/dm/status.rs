//! Status lines: the state of a thin pool and of a thin volume.

use std::fmt;
use std::str::FromStr;

use super::blocks::{DataBlocks, HeldRoot, MetadataBlocks, TransactionId};
use super::line::{LineError, Words, number, unknown};
use super::table::{Discard, NoSpace};
use super::units::Sectors;

/// State of a thin pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinPoolStatus {
    /// It works, at least for reading.
    Running(PoolState),
    /// Its metadata cannot be written nor relied on: nothing works until it was made anew, after a check.
    Failed,
    /// Its metadata could not be read when it was asked.
    Unreadable,
}

/// State of a thin pool that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolState {
    /// Its owner's number.
    pub transaction_id: TransactionId,
    /// Blocks of metadata that are taken.
    pub metadata_used: MetadataBlocks,
    /// Blocks of metadata that there are.
    pub metadata_total: MetadataBlocks,
    /// Data blocks that are taken.
    pub data_used: DataBlocks,
    /// Data blocks that there are.
    pub data_total: DataBlocks,
    /// Where the superblock of the metadata snapshot is, while there is one.
    pub held_root: Option<HeldRoot>,
    /// What it does.
    pub mode: PoolMode,
    /// What becomes of discards: as asked for, unless the data device takes none.
    pub discard: Discard,
    /// What becomes of writes without space.
    pub no_space: NoSpace,
    /// Whether its metadata must be checked offline before they are written to again.
    pub needs_check: bool,
    /// An event is sent when fewer blocks of metadata than these are free. Old kernels do not say.
    pub metadata_low_water: Option<MetadataBlocks>,
}

/// What a working pool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    ReadWrite,
    /// Everything but allocate data blocks: none is free.
    OutOfDataSpace,
    /// Nothing changes: it is out of metadata, something failed, or it was loaded so.
    ReadOnly,
}

impl ThinPoolStatus {
    /// The state of one that works.
    pub fn running(&self) -> Option<&PoolState> {
        match self {
            Self::Running(state) => Some(state),
            Self::Failed | Self::Unreadable => None,
        }
    }
}

impl PoolState {
    /// Data blocks that are free.
    pub fn data_free(&self) -> DataBlocks {
        self.data_total.less(self.data_used)
    }

    /// Blocks of metadata that are free.
    pub fn metadata_free(&self) -> MetadataBlocks {
        self.metadata_total.less(self.metadata_used)
    }
}

const FAIL: &str = "Fail";
const ERROR: &str = "Error";
const NONE: &str = "-";
const NEEDS_CHECK: &str = "needs_check";

impl FromStr for ThinPoolStatus {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        match line.trim() {
            FAIL => return Ok(Self::Failed),
            ERROR => return Ok(Self::Unreadable),
            _ => {}
        }
        let mut words = Words::of(line);
        let transaction_id = TransactionId::new(words.number("transaction id")?);
        let (metadata_used, metadata_total) = words.take("use of metadata", fraction)?;
        let (data_used, data_total) = words.take("use of data", fraction)?;
        let held_root = words.take("metadata snapshot", |word| if word == NONE { Some(None) } else { number(word).map(Some) })?;
        let mode = words.take("mode of a pool", mode)?;
        let discard = words.take("way with discards", discard)?;
        let no_space = words.take("way without space", |word| match word {
            "error_if_no_space" => Some(NoSpace::Error),
            "queue_if_no_space" => Some(NoSpace::Queue),
            _ => None,
        })?;
        let needs_check = words.take("need of a check", |word| match word {
            NEEDS_CHECK => Some(true),
            NONE => Some(false),
            _ => None,
        })?;
        const LOW_WATER: &str = "low water mark of metadata";
        let metadata_low_water = match words.optional() {
            None => None,
            Some(word) => Some(MetadataBlocks::new(number(word).ok_or_else(|| unknown(LOW_WATER, word))?)),
        };
        Ok(Self::Running(PoolState {
            transaction_id,
            metadata_used: MetadataBlocks::new(metadata_used),
            metadata_total: MetadataBlocks::new(metadata_total),
            data_used: DataBlocks::new(data_used),
            data_total: DataBlocks::new(data_total),
            held_root: held_root.map(HeldRoot::new),
            mode,
            discard,
            no_space,
            needs_check,
            metadata_low_water,
        }))
    }
}

/// `USED/TOTAL`, of which the first is the smaller.
fn fraction(word: &str) -> Option<(u64, u64)> {
    let (used, total) = word.split_once('/')?;
    let (used, total) = (number(used)?, number(total)?);
    (used <= total).then_some((used, total))
}

fn mode(word: &str) -> Option<PoolMode> {
    match word {
        "rw" => Some(PoolMode::ReadWrite),
        "ro" => Some(PoolMode::ReadOnly),
        "out_of_data_space" => Some(PoolMode::OutOfDataSpace),
        _ => None,
    }
}

fn discard(word: &str) -> Option<Discard> {
    match word {
        "discard_passdown" => Some(Discard::PassedDown),
        "no_discard_passdown" => Some(Discard::Kept),
        "ignore_discard" => Some(Discard::Ignored),
        _ => None,
    }
}

impl fmt::Display for ThinPoolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(state) => state.fmt(f),
            Self::Failed => f.write_str(FAIL),
            Self::Unreadable => f.write_str(ERROR),
        }
    }
}

impl fmt::Display for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{} ", self.transaction_id, self.metadata_used, self.metadata_total)?;
        write!(f, "{}/{} ", self.data_used, self.data_total)?;
        match self.held_root {
            Some(root) => write!(f, "{root} ")?,
            None => write!(f, "{NONE} ")?,
        }
        let mode = match self.mode {
            PoolMode::ReadWrite => "rw",
            PoolMode::OutOfDataSpace => "out_of_data_space",
            PoolMode::ReadOnly => "ro",
        };
        let discard = match self.discard {
            Discard::PassedDown => "discard_passdown",
            Discard::Kept => "no_discard_passdown",
            Discard::Ignored => "ignore_discard",
        };
        let no_space = match self.no_space {
            NoSpace::Error => "error_if_no_space",
            NoSpace::Queue => "queue_if_no_space",
        };
        write!(f, "{mode} {discard} {no_space} {}", if self.needs_check { NEEDS_CHECK } else { NONE })?;
        match self.metadata_low_water {
            Some(blocks) => write!(f, " {blocks}"),
            None => Ok(()),
        }
    }
}

/// State of a thin volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinStatus {
    /// It works.
    Running {
        /// How much of it has blocks, shared ones among them.
        mapped: Sectors,
        /// The last sector that has one.
        highest: Option<Sectors>,
    },
    /// Its pool failed.
    Failed,
    /// Its pool's metadata could not be read when it was asked.
    Unreadable,
}

impl FromStr for ThinStatus {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        match line.trim() {
            FAIL => return Ok(Self::Failed),
            ERROR => return Ok(Self::Unreadable),
            _ => {}
        }
        let mut words = Words::of(line);
        let sectors = |word: &str| Sectors::new(number(word)?);
        let mapped = words.take("number of mapped sectors", sectors)?;
        let highest =
            words.take("highest mapped sector", |word| if word == NONE { Some(None) } else { sectors(word).map(Some) })?;
        Ok(Self::Running { mapped, highest })
    }
}

impl fmt::Display for ThinStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running { mapped, highest: Some(highest) } => write!(f, "{mapped} {highest}"),
            Self::Running { mapped, highest: None } => write!(f, "{mapped} {NONE}"),
            Self::Failed => f.write_str(FAIL),
            Self::Unreadable => f.write_str(ERROR),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_a_real_kernel_are_understood_and_said_again() {
        for line in [
            "0 141/2048 0/512 - rw discard_passdown error_if_no_space - 1024",
            "7 141/2048 512/512 172 out_of_data_space no_discard_passdown queue_if_no_space - 1024",
            "18446744073709551615 2048/2048 3/512 - ro ignore_discard error_if_no_space needs_check",
            "Fail",
            "Error",
        ] {
            assert_eq!(line.parse::<ThinPoolStatus>().unwrap().to_string(), line);
            // The kernel puts a blank at the end.
            assert_eq!(format!("{line} ").parse::<ThinPoolStatus>().unwrap().to_string(), line);
        }
        for line in ["0 -", "2048 4095", "Fail", "Error"] {
            assert_eq!(line.parse::<ThinStatus>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn free_space_is_what_is_not_used() {
        let status: ThinPoolStatus = "0 48/2048 500/512 - rw discard_passdown error_if_no_space - 1024".parse().unwrap();
        let state = status.running().unwrap();
        assert_eq!((state.data_free().count(), state.metadata_free().count()), (12, 2000));
    }

    #[test]
    fn words_that_newer_kernels_add_at_the_end_are_read_over() {
        let line = "0 141/2048 0/512 - rw discard_passdown error_if_no_space - 1024";
        assert_eq!(format!("{line} new 7").parse::<ThinPoolStatus>(), line.parse());
        assert_eq!("5 6 7".parse::<ThinStatus>(), "5 6".parse());
    }

    #[test]
    fn words_that_are_not_known_or_missing_are_errors() {
        for line in [
            "",
            "0",
            "0 141 0/512 - rw discard_passdown error_if_no_space - 1024",
            "0 141/2048 513/512 - rw discard_passdown error_if_no_space - 1024",
            "0 141/2048 0/512 x rw discard_passdown error_if_no_space - 1024",
            "0 141/2048 0/512 - wr discard_passdown error_if_no_space - 1024",
            "0 141/2048 0/512 - rw discard error_if_no_space - 1024",
            "0 141/2048 0/512 - rw discard_passdown error - 1024",
            "0 141/2048 0/512 - rw discard_passdown error_if_no_space check 1024",
            "0 141/2048 0/512 - rw discard_passdown error_if_no_space - -",
            "Fail 0",
            "fail",
        ] {
            assert!(line.parse::<ThinPoolStatus>().is_err(), "{line}");
        }
        for line in ["", "5", "- -", "5 x", "-", "36028797018963968 -"] {
            assert!(line.parse::<ThinStatus>().is_err(), "{line}");
        }
    }

    fn states() -> impl Strategy<Value = PoolState> {
        let mode = prop_oneof![Just(PoolMode::ReadWrite), Just(PoolMode::OutOfDataSpace), Just(PoolMode::ReadOnly)];
        let discard = prop_oneof![Just(Discard::PassedDown), Just(Discard::Kept), Just(Discard::Ignored)];
        let no_space = prop_oneof![Just(NoSpace::Error), Just(NoSpace::Queue)];
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
        (numbers, any::<Option<u64>>(), mode, discard, no_space, any::<bool>(), any::<Option<u64>>()).prop_map(
            |((id, a, b, c, d), root, mode, discard, no_space, needs_check, low)| PoolState {
                transaction_id: TransactionId::new(id),
                metadata_used: MetadataBlocks::new(a.min(b)),
                metadata_total: MetadataBlocks::new(a.max(b)),
                data_used: DataBlocks::new(c.min(d)),
                data_total: DataBlocks::new(c.max(d)),
                held_root: root.map(HeldRoot::new),
                mode,
                discard,
                no_space,
                needs_check,
                metadata_low_water: low.map(MetadataBlocks::new),
            },
        )
    }

    proptest! {
        #[test]
        fn a_state_reads_as_it_was_written(state in states()) {
            prop_assert_eq!(state.to_string().parse(), Ok(ThinPoolStatus::Running(state)));
        }

        #[test]
        fn a_volumes_state_reads_as_it_was_written(
            mapped in 0..=u64::MAX / 512,
            highest in proptest::option::of(0..=u64::MAX / 512),
        ) {
            let sectors = |count| Sectors::new(count).unwrap();
            let status = ThinStatus::Running { mapped: sectors(mapped), highest: highest.map(sectors) };
            prop_assert_eq!(status.to_string().parse(), Ok(status));
        }
    }
}
