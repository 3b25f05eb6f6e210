//! Btrfs subvolumes.
//!
//! A subvolume snapshot takes milliseconds whatever the files in it look like, where FICLONE takes microseconds for each
//! extent. None of these calls is durable before [`sync`].

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs, statfs};

use super::ioctl;
use crate::types::Access;

#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

#[repr(C)]
struct VolumeArgumentsV2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

const _: () = assert!(size_of::<VolumeArguments>() == 4096);
const _: () = assert!(size_of::<VolumeArgumentsV2>() == 4096);

const SNAP_DESTROY: libc::Ioctl = nix::request_code_write!(0x94, 15, size_of::<VolumeArguments>());
const SUBVOL_CREATE: libc::Ioctl = nix::request_code_write!(0x94, 14, size_of::<VolumeArguments>());
const SNAP_CREATE_V2: libc::Ioctl = nix::request_code_write!(0x94, 23, size_of::<VolumeArgumentsV2>());
const SYNC: libc::Ioctl = nix::request_code_none!(0x94, 8);

const SUBVOL_RDONLY: u64 = 1 << 1;
/// Longest name of a subvolume (`BTRFS_VOL_NAME_MAX`), in bytes.
const NAME_MAX: usize = 255;
/// Inode number of the root directory of every subvolume.
const SUBVOLUME_ROOT_INODE: u64 = 256;

/// Whether `path` lies on Btrfs.
pub fn is_btrfs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BTRFS_SUPER_MAGIC)
}

/// Whether the open directory is the root of a subvolume.
pub fn is_subvolume(directory: &File) -> io::Result<bool> {
    let metadata = directory.metadata()?;
    Ok(metadata.is_dir() && metadata.ino() == SUBVOLUME_ROOT_INODE && fstatfs(directory)?.filesystem_type() == BTRFS_SUPER_MAGIC)
}

/// Makes an empty subvolume `name` in `parent`, an open directory.
///
/// # Errors
/// Whatever the system reports, `AlreadyExists` among it; `InvalidInput` for a name that is no file name.
pub fn create_subvolume(parent: &File, name: &OsStr) -> io::Result<()> {
    let mut arguments = VolumeArguments { fd: 0, name: [0; 4088] };
    put_name(&mut arguments.name, name)?;
    // SAFETY: BTRFS_IOC_SUBVOL_CREATE reads one `btrfs_ioctl_vol_args`, whose layout this is.
    unsafe { ioctl::with_pointer(parent.as_fd(), SUBVOL_CREATE, &mut arguments) }.map(drop)
}

/// Makes a snapshot `name` in `parent` of the subvolume whose root directory `source` is. Unwritten data of its files is
/// written out first.
///
/// # Errors
/// `AlreadyExists`, `StorageFull`, `InvalidInput` when `source` is no subvolume's root.
pub fn snapshot_subvolume(source: &File, parent: &File, name: &OsStr, access: Access) -> io::Result<()> {
    let flags = match access {
        Access::ReadOnly => SUBVOL_RDONLY,
        Access::ReadWrite => 0,
    };
    let fd = i64::from(source.as_raw_fd());
    let mut arguments = VolumeArgumentsV2 { fd, transaction: 0, flags, unused: [0; 4], name: [0; 4040] };
    put_name(&mut arguments.name, name)?;
    // SAFETY: BTRFS_IOC_SNAP_CREATE_V2 reads and writes one `btrfs_ioctl_vol_args_v2`, whose layout this is; without the
    // qgroup flag it follows no pointer in it. `source` is open for the call.
    unsafe { ioctl::with_pointer(parent.as_fd(), SNAP_CREATE_V2, &mut arguments) }.map(drop)
}

/// Deletes the subvolume `name` in `parent`, its files included. Its space is freed in the background.
///
/// # Errors
/// `NotFound`, `DirectoryNotEmpty` when it holds other subvolumes.
pub fn delete_subvolume(parent: &File, name: &OsStr) -> io::Result<()> {
    let mut arguments = VolumeArguments { fd: 0, name: [0; 4088] };
    put_name(&mut arguments.name, name)?;
    // SAFETY: BTRFS_IOC_SNAP_DESTROY reads one `btrfs_ioctl_vol_args`, whose layout this is.
    unsafe { ioctl::with_pointer(parent.as_fd(), SNAP_DESTROY, &mut arguments) }.map(drop)
}

/// Commits the running transaction: everything done so far on this file system is durable.
pub fn sync(on: &File) -> io::Result<()> {
    // SAFETY: BTRFS_IOC_SYNC takes no argument.
    unsafe { ioctl::with_value(on.as_fd(), SYNC, 0) }.map(drop)
}

fn put_name(field: &mut [u8], name: &OsStr) -> io::Result<()> {
    let bytes = name.as_bytes();
    let is_file_name = !bytes.is_empty() && bytes.len() <= NAME_MAX && bytes != b"." && bytes != b"..";
    if !is_file_name || bytes.iter().any(|&byte| byte == b'/' || byte == 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file name"));
    }
    field[..bytes.len()].copy_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_names_are_accepted() {
        let mut field = [0; 4040];
        for bad in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
            assert!(put_name(&mut field, OsStr::new(bad)).is_err(), "{bad}");
        }
        put_name(&mut field, OsStr::new("volume")).unwrap();
        assert_eq!(&field[..7], b"volume\0");
    }
}
