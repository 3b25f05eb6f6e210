//! Making and growing file systems: which program with which arguments.
//!
//! Every file system gets 4 KiB sectors and blocks, whatever the device under it has, so that a copy of it mounts on any
//! pool (a file system with 512-byte sectors does not mount on a device with 4096-byte ones).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Formatting, MountError, program};
use crate::block::device;
use crate::block::probe::Finding;
use crate::types::FsType;

/// Whether a file system of `fs_type` may be made where `finding` was found.
///
/// Over an unfinished attempt of our own: its half-written remains, recognised or not, but nothing that carries another
/// owner's signature.
pub(super) fn may_write_over(finding: &Finding, fs_type: FsType, over: Formatting) -> bool {
    match (finding, over) {
        (Finding::Blank, _) => true,
        (_, Formatting::Blank) | (Finding::Foreign(_), Formatting::Unfinished) => false,
        (Finding::FileSystem(found) | Finding::Unfinished(found), Formatting::Unfinished) => *found == fs_type,
        (Finding::Unknown, Formatting::Unfinished) => true,
    }
}

/// Makes a file system on a device or image file.
pub(super) fn make(device: &Path, fs_type: FsType, over: Formatting) -> Result<(), MountError> {
    let storage = match over {
        Formatting::Blank => Storage::Zeroed,
        Formatting::Unfinished => Storage::Unknown,
    };
    match make_on(device, fs_type, storage, over) {
        // mke2fs before 1.46.6. It reads its options before it writes anything.
        Err(MountError::Program { output, .. }) if output.contains(PREZEROED) => make_on(device, fs_type, Storage::Unknown, over),
        result => result,
    }
}

/// What the program may assume of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    /// It reads as zeros.
    Zeroed,
    Unknown,
}

const PREZEROED: &str = "assume_storage_prezeroed";

fn make_on(device: &Path, fs_type: FsType, storage: Storage, over: Formatting) -> Result<(), MountError> {
    let (program, arguments) = make_command(fs_type, storage, over);
    program::run(program, arguments.iter().map(|argument| argument.as_ref()).chain([device.as_os_str()]))
}

fn make_command(fs_type: FsType, storage: Storage, over: Formatting) -> (&'static str, Vec<&'static str>) {
    let force = (over == Formatting::Unfinished).then_some("-f");
    match fs_type {
        FsType::Ext4 => {
            // A fresh volume reads as zeros, so the inode tables need not be written, now or later by the kernel, and take no
            // space in the pool. Over remains of an earlier attempt they are written at once.
            let extended = match storage {
                Storage::Zeroed => "nodiscard,assume_storage_prezeroed=1",
                Storage::Unknown => "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
            };
            // -F: mke2fs would ask about files that are no devices. -m 0: a volume has no root user to keep a reserve for.
            ("mkfs.ext4", vec!["-q", "-F", "-b", "4096", "-m", "0", "-E", extended])
        }
        FsType::Xfs => {
            let arguments = ["-q", "-K", "-s", "size=4096", "-b", "size=4096", "-m", "reflink=1"];
            ("mkfs.xfs", arguments.into_iter().chain(force).collect())
        }
        FsType::Btrfs => ("mkfs.btrfs", ["-q", "-K", "-s", "4096"].into_iter().chain(force).collect()),
    }
}

/// Grows a mounted file system to its device.
pub(super) fn grow(device: &Path, mount_point: &Path, fs_type: FsType) -> Result<(), MountError> {
    match fs_type {
        FsType::Ext4 => program::run("resize2fs", [device]).map_err(|error| match error {
            MountError::Program { program, output } if output.contains("Permission denied to resize") => MountError::Program {
                program,
                output: "the kernel lets only a process with CAP_SYS_RESOURCE grow a mounted ext4 (or it has recorded errors: \
                         see the kernel log)"
                    .to_owned(),
            },
            error => error,
        }),
        FsType::Xfs => program::run("xfs_growfs", ["-d".as_ref(), mount_point.as_os_str()]),
        // The kernel resizes no Btrfs to less than 256 MiB, not even to the size that it has.
        FsType::Btrfs if fills_as_btrfs(device).unwrap_or(false) => Ok(()),
        FsType::Btrfs => {
            program::run("btrfs", ["filesystem", "resize", "max"].map(AsRef::as_ref).into_iter().chain([mount_point.as_os_str()]))
        }
    }
}

/// Whether a Btrfs is as large as its device, as far as its superblock on the disk says, which it does since the last growth.
fn fills_as_btrfs(device: &Path) -> io::Result<bool> {
    // Of a superblock at 64 KiB: the magic, and behind it the size of all devices.
    const MAGIC: (u64, &[u8; 8]) = (0x1_0040, b"_BHRfS_M");
    const TOTAL_BYTES: u64 = 0x1_0070;
    let device = File::open(device)?;
    let field = |at| {
        let mut bytes = [0; 8];
        device.read_exact_at(&mut bytes, at).map(|()| bytes)
    };
    Ok(field(MAGIC.0)? == *MAGIC.1 && u64::from_le_bytes(field(TOTAL_BYTES)?) == device::size(&device)?)
}

/// Checks an unmounted ext4, replaying its journal, and grows it to its device.
pub(super) fn grow_unmounted_ext4(device: &Path) -> Result<(), MountError> {
    // resize2fs insists on a full check first. 1: something was repaired, as -p does only where nothing can be lost.
    program::run_accepting("e2fsck", ["-f".as_ref(), "-p".as_ref(), device.as_os_str()], &[0, 1])?;
    program::run("resize2fs", [device])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_ext4_has_a_journal() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(FsType::Ext4.minimum_bytes()).unwrap();
        make(image.path(), FsType::Ext4, Formatting::Blank).unwrap();
        let output = std::process::Command::new("dumpe2fs").arg("-h").arg(image.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let features = text.lines().find(|line| line.starts_with("Filesystem features:")).unwrap();
        assert!(features.contains("has_journal"), "{features}");
    }

    #[test]
    fn only_a_blank_device_is_formatted_the_first_time() {
        for fs_type in FsType::ALL {
            assert!(may_write_over(&Finding::Blank, fs_type, Formatting::Blank));
            for finding in [
                Finding::FileSystem(fs_type),
                Finding::Unfinished(fs_type),
                Finding::Unknown,
                Finding::Foreign("swap space".to_owned()),
            ] {
                assert!(!may_write_over(&finding, fs_type, Formatting::Blank), "{finding:?}");
            }
        }
    }

    #[test]
    fn a_btrfs_as_large_as_its_device_is_not_grown() {
        const SIZE: u64 = 160 << 20;
        let file = tempfile::NamedTempFile::new().unwrap();
        let fills = || fills_as_btrfs(file.path()).unwrap();
        file.as_file().set_len(SIZE).unwrap();
        file.as_file().write_all_at(&SIZE.to_le_bytes(), 0x1_0070).unwrap();
        assert!(!fills(), "it is no Btrfs");
        file.as_file().write_all_at(b"_BHRfS_M", 0x1_0040).unwrap();
        assert!(fills());
        file.as_file().set_len(SIZE + 4096).unwrap();
        assert!(!fills());
        file.as_file().set_len(4096).unwrap();
        assert!(fills_as_btrfs(file.path()).is_err());
    }

    #[test]
    fn an_unfinished_attempt_is_formatted_again_but_nothing_of_others() {
        let over = Formatting::Unfinished;
        for finding in [Finding::FileSystem(FsType::Xfs), Finding::Unfinished(FsType::Xfs), Finding::Unknown, Finding::Blank] {
            assert!(may_write_over(&finding, FsType::Xfs, over), "{finding:?}");
        }
        for finding in [
            Finding::FileSystem(FsType::Ext4),
            Finding::Unfinished(FsType::Btrfs),
            Finding::Foreign("a GPT partition table".to_owned()),
        ] {
            assert!(!may_write_over(&finding, FsType::Xfs, over), "{finding:?}");
        }
    }
}
