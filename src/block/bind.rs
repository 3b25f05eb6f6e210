//! Bind mounts that are never visible with other attributes than their own.
//!
//! mount(2) makes a bind mount writable first and restricts it by a second call; between the two, and for good after a crash
//! there, a pod could write to what it was to read. The newer calls copy the mount aside, set its attributes, and then put
//! it in place in one step. Linux 5.12 has them all.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{
    AT_EMPTY_PATH, AT_FDCWD, MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME, MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_SYMLINKS,
    OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE, c_int, c_long, mount_attr,
};
use nix::mount::MsFlags;

const _: () = assert!(size_of::<mount_attr>() == 32);

/// Binds the file or directory `source` (and what it is the root of, not what is mounted below) on `target`.
///
/// It is writable exactly if `flags` lack `MS_RDONLY`. Of the other flags nosuid, nodev, noexec and those of access times are
/// added to what the mount of `source` has.
///
/// # Errors
/// `NotFound`; `Unsupported` before Linux 5.12.
pub fn bind(source: &Path, target: &Path, flags: MsFlags) -> io::Result<()> {
    let source = c_string(source)?;
    let target = c_string(target)?;
    let open_flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    // SAFETY: open_tree reads a zero-terminated path, which lives for the call, and returns a descriptor or an error.
    let opened = unsafe { libc::syscall(libc::SYS_open_tree, AT_FDCWD, source.as_ptr(), open_flags) };
    let number = c_int::try_from(check(opened)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor, and nothing else owns it. Closing it unmounts the copy if it is not in
    // place by then.
    let copy = unsafe { OwnedFd::from_raw_fd(number) };
    let mut attributes = attributes(flags);
    // SAFETY: mount_setattr reads an empty zero-terminated path and one `mount_attr`, whose size it is told.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            copy.as_raw_fd(),
            c"".as_ptr(),
            AT_EMPTY_PATH,
            std::ptr::from_mut(&mut attributes),
            size_of::<mount_attr>(),
        )
    })?;
    let move_flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS;
    // SAFETY: move_mount reads two zero-terminated paths, which live for the call.
    check(unsafe { libc::syscall(libc::SYS_move_mount, copy.as_raw_fd(), c"".as_ptr(), AT_FDCWD, target.as_ptr(), move_flags) })?;
    Ok(())
}

fn attributes(flags: MsFlags) -> mount_attr {
    let mut attributes = mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    if flags.contains(MsFlags::MS_RDONLY) {
        attributes.attr_set |= MOUNT_ATTR_RDONLY;
    } else {
        attributes.attr_clr |= MOUNT_ATTR_RDONLY;
    }
    for (flag, attribute) in [
        (MsFlags::MS_NOSUID, MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, MOUNT_ATTR_NOEXEC),
        (MsFlags::MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
    ] {
        if flags.contains(flag) {
            attributes.attr_set |= attribute;
        }
    }
    // The three ways to keep access times are one field, which is cleared as a whole; relatime is its zero.
    if flags.intersects(MsFlags::MS_NOATIME | MsFlags::MS_STRICTATIME | MsFlags::MS_RELATIME) {
        attributes.attr_clr |= MOUNT_ATTR__ATIME;
    }
    if flags.contains(MsFlags::MS_NOATIME) {
        attributes.attr_set |= MOUNT_ATTR_NOATIME;
    } else if flags.contains(MsFlags::MS_STRICTATIME) {
        attributes.attr_set |= MOUNT_ATTR_STRICTATIME;
    }
    attributes
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
