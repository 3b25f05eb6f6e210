//! What a thin pool's status means, and what to do about it. Pure.
//!
//! Which writes a pool without a free block still takes is the kernel's doing: those to blocks of a volume that were written since its last
//! snapshot was cut. All others need a block: what was never written, and what is older than the cut, for the kernel copies it
//! first. It goes by times, not by who still has a block, so that the deletion of the snapshot does not help; nor does anything
//! else: the time of a volume's last cut is in the metadata, no message takes it back, and a snapshot or copy inherits it.

use std::io;

use crate::dm::units::DataBlockSize;
use crate::dm::{DataBlocks, MetadataBlocks};
use crate::dm::{PoolMode, ThinPoolStatus};
use crate::pool::{Changes, MetadataUsage, PoolError, PoolHealth, PoolUsage};

/// Judges a status. `place` is the pool's device, for the advice.
pub(super) fn judge(status: &ThinPoolStatus, place: &str) -> PoolHealth {
    let transaction_id = match status {
        ThinPoolStatus::Running(state) => Some(state.transaction_id.number()),
        ThinPoolStatus::Failed | ThinPoolStatus::Unreadable => None,
    };
    PoolHealth { problem: problem(status, place), changes: changes(status), transaction_id }
}

/// As [`judge`], of a pool that answers at all.
///
/// # Errors
/// [`PoolError::Io`] for one that the kernel has given up: nothing of it works until it is closed and opened anew.
pub(super) fn serving(status: &ThinPoolStatus, place: &str) -> Result<PoolHealth, PoolError> {
    let health = judge(status, place);
    match (status, &health.problem) {
        (ThinPoolStatus::Running(_), _) | (_, None) => Ok(health),
        (ThinPoolStatus::Failed | ThinPoolStatus::Unreadable, Some(problem)) => {
            Err(PoolError::io(format!("use the pool at {place}"), io::Error::other(problem.clone())))
        }
    }
}

/// Whether the pool takes messages that change it. One that is only out of space does, or nothing could be deleted.
fn changes(status: &ThinPoolStatus) -> Changes {
    match status {
        ThinPoolStatus::Running(state) if state.mode != PoolMode::ReadOnly && !state.needs_check => Changes::Taken,
        ThinPoolStatus::Running(_) | ThinPoolStatus::Failed | ThinPoolStatus::Unreadable => Changes::Refused,
    }
}

/// The space that a status tells of. A pool that has failed tells of none; its health says why.
pub(super) fn usage(status: &ThinPoolStatus, block_size: DataBlockSize) -> PoolUsage {
    let Some(state) = status.running() else {
        return PoolUsage { total: 0, free: 0, reserve: 0, snapshot_reserve: 0, metadata: None };
    };
    let data = |blocks: DataBlocks| blocks.count().saturating_mul(block_size.bytes());
    let metadata = |blocks: MetadataBlocks| blocks.count().saturating_mul(MetadataBlocks::BYTES);
    let total = data(state.data_total);
    let reserve = PoolUsage::reserve_of(total);
    PoolUsage {
        total,
        free: data(state.data_free()),
        reserve,
        // Half of what is kept free of volumes is open to snapshots, so that a pool that is nearly full can be backed up.
        snapshot_reserve: reserve / 2,
        metadata: Some(MetadataUsage { total: metadata(state.metadata_total), free: metadata(state.metadata_free()) }),
    }
}

/// The problem of a pool without a free data block.
const OUT_OF_SPACE: &str = "the pool is out of space: writes fail, but those to blocks that were written since the volume's last snapshot, \
    deleted ones among them; delete volumes or snapshots, or enlarge the device, and it goes on by itself";

/// What is wrong, the gravest first; `None` when all is well.
fn problem(status: &ThinPoolStatus, place: &str) -> Option<String> {
    let repair = || format!("stop the node and run `windlass pool repair --device {place}`");
    match status {
        ThinPoolStatus::Failed => Some(format!(
            "the pool has failed and takes no more I/O: its metadata could not be read or written; when the disk is well again and what \
             was mounted of it is unmounted, it is opened anew; if that is refused, {}",
            repair()
        )),
        ThinPoolStatus::Unreadable => Some(format!("the kernel cannot tell the pool's status; {}", repair())),
        ThinPoolStatus::Running(state) if state.needs_check => Some(format!(
            "the pool is read-only and its metadata must be checked, most likely because they ran full; {}, which checks them and \
             makes the pool writable again, and enlarge the device so that there are more of them",
            repair()
        )),
        ThinPoolStatus::Running(state) => match state.mode {
            // The kernel notices it with the next write that fails.
            PoolMode::ReadWrite if state.data_total.count() > 0 && state.data_free().count() == 0 => Some(OUT_OF_SPACE.to_owned()),
            PoolMode::ReadWrite if state.metadata_total.count() > 0 && state.metadata_free().count() == 0 => Some(
                "the pool's metadata is used up, and it goes read-only with the next change; enlarge the device, or delete snapshots"
                    .to_owned(),
            ),
            PoolMode::ReadWrite => None,
            PoolMode::ReadOnly => Some(format!(
                "the pool is read-only, most likely because its metadata is used up; enlarge the device, and it goes on by itself, or \
                 else {}",
                repair()
            )),
            PoolMode::OutOfDataSpace => Some(OUT_OF_SPACE.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(line: &str) -> ThinPoolStatus {
        line.parse().unwrap()
    }

    #[test]
    fn each_state_of_a_pool_says_what_to_do_and_whether_changes_are_taken() {
        for (line, changes, words) in [
            ("7 10/4096 100/16384 - rw discard_passdown error_if_no_space - 1024", Changes::Taken, None),
            (
                "7 10/4096 16384/16384 - out_of_data_space discard_passdown error_if_no_space - 1024",
                Changes::Taken,
                Some("delete"),
            ),
            // As after a restart: nobody has written yet.
            ("7 10/4096 16384/16384 - rw discard_passdown error_if_no_space - 1024", Changes::Taken, Some("out of space")),
            ("7 4096/4096 10/16384 - rw discard_passdown error_if_no_space - 1024", Changes::Taken, Some("metadata is used up")),
            (
                "7 4096/4096 10/16384 - ro discard_passdown error_if_no_space needs_check 1024",
                Changes::Refused,
                Some("pool repair"),
            ),
            ("7 40/4096 10/16384 - ro discard_passdown error_if_no_space - 1024", Changes::Refused, Some("pool repair")),
            ("Fail", Changes::Refused, Some("pool repair")),
            ("Error", Changes::Refused, Some("pool repair")),
        ] {
            let health = judge(&status(line), "/dev/sdx");
            assert_eq!(health.changes, changes, "{line}");
            let is_given_up = matches!(line, "Fail" | "Error");
            assert_eq!(serving(&status(line), "/dev/sdx").is_err(), is_given_up, "{line}");
            match (words, &health.problem) {
                (None, None) => {}
                (Some(words), Some(problem)) => assert!(problem.contains(words), "{problem}"),
                (words, problem) => panic!("{line}: {words:?}, {problem:?}"),
            }
        }
    }

    #[test]
    fn the_space_of_a_pool_is_that_of_its_status() {
        let line = "7 3072/4096 100/16384 - rw discard_passdown error_if_no_space - 1024";
        let usage = usage(&status(line), DataBlockSize::MIN);
        assert_eq!((usage.total, usage.free), (16384 << 16, 16284 << 16));
        assert_eq!(usage.metadata, Some(MetadataUsage { total: 4096 << 12, free: 1024 << 12 }));
        // Three quarters of the metadata are used: volumes are refused, snapshots not yet.
        assert_eq!(usage.available(), 0);
        assert!(usage.available_to(crate::pool::Demand::Snapshot) > 0);
    }

    #[test]
    fn a_pool_that_refuses_something_says_what_it_is_short_of() {
        let shortage = |metadata: u64, data: u64| {
            let line = format!("7 {metadata}/4096 {data}/16384 - rw discard_passdown error_if_no_space - 1024");
            usage(&status(&line), DataBlockSize::MIN).shortage().unwrap_or_default()
        };
        assert_eq!(shortage(3071, 100), "");
        for (metadata, data, what, refused) in [
            (3072, 100, "metadata is nearly full", "new volumes are refused"),
            (3300, 100, "metadata is nearly full", "new volumes and snapshots are refused"),
            (10, 15000, "pool is nearly full", "new volumes are refused"),
            (10, 16384, "pool is nearly full", "new volumes and snapshots are refused"),
        ] {
            let text = shortage(metadata, data);
            assert!(text.contains(what) && text.contains(refused), "{metadata} {data}: {text}");
        }
    }
}
