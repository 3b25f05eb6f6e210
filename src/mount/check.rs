//! Looking after file systems that say of themselves that they are damaged, before they are mounted.
//!
//! A mount succeeds on an ext4 that recorded errors, and reads then fail one by one. So its superblock is asked each time before it is mounted
//! (one read), and `e2fsck -p` mends what can be mended without losing anything; where that does not suffice, somebody has to decide, and
//! the volume is refused. A file system that only was in use when the machine stopped needs no check: its journal is replayed by mounting.
//! XFS and Btrfs keep no such mark: both replay by mounting, and refuse the mount when what they replay or read first is damaged.
//!
//! Never on what is mounted, nor on a device that cannot be written. A check that is killed, or that dies with the machine, leaves the mark where it
//! was: the next attempt begins anew.

use std::path::Path;
use std::time::Duration;

use super::{MountError, program};

/// Where the superblock of an ext4 is, and how much of it is looked at, in bytes.
pub(super) const SUPERBLOCK: (u64, usize) = (1024, 1024);

const STATE: usize = 0x3a;
const INCOMPAT: usize = 0x60;
/// `EXT4_VALID_FS`: unmounted cleanly, or has a journal.
const IS_VALID: u16 = 0x1;
/// `EXT4_ERROR_FS`: the kernel has found errors.
const HAS_ERRORS: u16 = 0x2;
/// `EXT4_FEATURE_INCOMPAT_RECOVER`: the journal is to be replayed.
const IS_TO_BE_REPLAYED: u32 = 0x4;

/// Whether the superblock of an ext4 (1024 bytes) asks for a check: errors were found, or it was in use and has no journal to replay.
pub(super) fn is_asked_for(superblock: &[u8; SUPERBLOCK.1]) -> bool {
    let state = u16::from_le_bytes([superblock[STATE], superblock[STATE + 1]]);
    let incompat = u32::from_le_bytes(std::array::from_fn(|index| superblock[INCOMPAT + index]));
    state & HAS_ERRORS != 0 || state & IS_VALID == 0 && incompat & IS_TO_BE_REPLAYED == 0
}

/// Longest check of an ext4 on a device of this many bytes. It reads all inode tables (256 bytes for each 16 KiB as it is made here, so 1/64 of the
/// device) and about as much again in directories, extent blocks and bitmaps: that at 50 MiB/s, slower than any disk of the last
/// ten years, and a quarter of an hour for what does not grow with the size. 1 TiB: 26 minutes, 16 TiB: 3.2 hours.
fn longest(bytes: u64) -> Duration {
    const BYTES_EACH_SECOND: u64 = 50 << 20;
    Duration::from_secs(900 + bytes / 64 * 2 / BYTES_EACH_SECOND)
}

/// Checks an unmounted ext4 on a device or in a file of this many bytes, and mends what can be mended without losing anything.
///
/// # Errors
/// [`MountError::Unsound`] when that does not suffice or takes too long; [`MountError::Io`].
pub(super) fn mend_ext4(device: &Path, bytes: u64) -> Result<(), MountError> {
    // 1: errors were corrected, and the file system is sound now.
    let result = program::run_within(longest(bytes), "e2fsck", ["-p".as_ref(), device.as_os_str()], &[0, 1]);
    result.map_err(|error| match error {
        MountError::Program { output, .. } => MountError::Unsound {
            place: device.to_owned(),
            reason: format!(
                "its file system has errors that `e2fsck -p` does not mend; it is not mounted until somebody has run `e2fsck` on it, or \
                 restored a snapshot. e2fsck: {output}"
            ),
        },
        error => error,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::*;

    fn run(program: &str, arguments: &[&str], image: &Path) {
        let output = Command::new(program).args(arguments).arg(image).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn made(arguments: &[&str]) -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(32 << 20).unwrap();
        run("mkfs.ext4", &[&["-q", "-F", "-b", "4096"], arguments].concat(), image.path());
        image
    }

    fn debug(image: &tempfile::NamedTempFile, request: &str) {
        run("debugfs", &["-w", "-R", request], image.path());
    }

    fn asks(image: &tempfile::NamedTempFile) -> bool {
        let mut superblock = [0; SUPERBLOCK.1];
        image.as_file().read_exact_at(&mut superblock, SUPERBLOCK.0).unwrap();
        is_asked_for(&superblock)
    }

    #[test]
    fn a_clean_one_and_one_to_be_replayed_ask_for_nothing() {
        let image = made(&[]);
        assert!(!asks(&image));
        debug(&image, "feature needs_recovery");
        assert!(!asks(&image));
    }

    #[test]
    fn one_with_errors_asks_and_is_mended_where_nothing_is_lost() {
        let image = made(&[]);
        debug(&image, "set_super_value state 3");
        // A wrong counter: what a crash in the middle of an error leaves.
        debug(&image, "set_super_value free_blocks_count 5");
        assert!(asks(&image));
        mend_ext4(image.path(), 32 << 20).unwrap();
        assert!(!asks(&image));
        run("e2fsck", &["-f", "-n"], image.path());
    }

    #[test]
    fn one_without_a_journal_asks_when_it_was_in_use() {
        let image = made(&["-O", "^has_journal"]);
        assert!(!asks(&image));
        debug(&image, "set_super_value state 0");
        assert!(asks(&image));
        mend_ext4(image.path(), 32 << 20).unwrap();
        assert!(!asks(&image));
    }

    #[test]
    fn what_cannot_be_mended_without_somebody_is_refused_with_the_programs_words_and_asks_again() {
        let image = made(&[]);
        debug(&image, "set_super_value state 2");
        debug(&image, "clri <2>");
        for _ in 0..2 {
            let error = mend_ext4(image.path(), 32 << 20).unwrap_err();
            assert!(matches!(&error, MountError::Unsound { reason, .. } if reason.contains("RUN fsck MANUALLY")), "{error}");
            assert!(asks(&image));
        }
    }
}
