//! The kernel's structures and the call.
//!
//! The layouts are those of `linux/dm-ioctl.h`, interface 4. Requests are written as bytes at their offsets, and of
//! replies they are copies, so that nothing but the call itself is unsafe.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use zerocopy::FromBytes;

/// `struct dm_ioctl`, at the beginning of every request and reply.
#[derive(Debug, FromBytes)]
#[repr(C)]
pub(super) struct Header {
    pub(super) version: [u32; 3],
    pub(super) data_size: u32,
    pub(super) data_start: u32,
    pub(super) target_count: u32,
    pub(super) open_count: i32,
    pub(super) flags: u32,
    pub(super) event_nr: u32,
    pub(super) padding: u32,
    pub(super) dev: u64,
    pub(super) name: [u8; 128],
    pub(super) uuid: [u8; 129],
    pub(super) data: [u8; 7],
}

/// `struct dm_target_spec`, before the text of each target of a table.
#[derive(Debug, FromBytes)]
#[repr(C)]
pub(super) struct TargetSpec {
    pub(super) sector_start: u64,
    pub(super) length: u64,
    pub(super) status: i32,
    pub(super) next: u32,
    pub(super) target_type: [u8; 16],
}

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = size_of::<Header>();
/// Bytes of a target's head.
pub(super) const SPEC_BYTES: usize = size_of::<TargetSpec>();
/// What follows a header, and each entry of a list, begins at a multiple of this.
pub(super) const ALIGNMENT: usize = 8;

const _: () = assert!(HEADER_BYTES == 312 && HEADER_BYTES.is_multiple_of(ALIGNMENT));
const _: () = assert!(SPEC_BYTES == 40);
// A reply without data says that it ends here.
const _: () = assert!(offset_of!(Header, data) == 305);
const _: () = assert!(offset_of!(Header, dev) == 40 && offset_of!(Header, uuid) == 176);
const _: () = assert!(offset_of!(TargetSpec, next) == 20 && offset_of!(TargetSpec, target_type) == 24);

/// What can be asked of device-mapper, with the numbers of its ioctls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Verb {
    Version = 0,
    ListDevices = 2,
    Create = 3,
    Remove = 4,
    Suspend = 6,
    Status = 7,
    TableLoad = 9,
    TableClear = 10,
    TableStatus = 12,
    Message = 14,
    ArmPoll = 16,
    TargetVersion = 17,
}

/// Flags of requests and replies.
pub(super) mod flag {
    pub(in crate::dm) const READ_ONLY: u32 = 1;
    pub(in crate::dm) const SUSPEND: u32 = 1 << 1;
    pub(in crate::dm) const STATUS_TABLE: u32 = 1 << 4;
    pub(in crate::dm) const LIVE_TABLE: u32 = 1 << 5;
    pub(in crate::dm) const INACTIVE_TABLE: u32 = 1 << 6;
    pub(in crate::dm) const BUFFER_FULL: u32 = 1 << 8;
    pub(in crate::dm) const SKIP_FREEZE: u32 = 1 << 10;
    pub(in crate::dm) const NO_FLUSH: u32 = 1 << 11;
    pub(in crate::dm) const WITH_UUID: u32 = 1 << 14;
    pub(in crate::dm) const DEFERRED_REMOVE: u32 = 1 << 17;
}

/// Told to udev with each event of a device of ours: no rules for device-mapper's subsystem (0x0002), for disks (0x0004) or
/// of others (0x0008), at low priority (0x0010), no nodes made by libdevmapper in its stead (0x0020); and this comes from who
/// drives the device (0x0040), without which udev takes the rest for stale. The lower half, the number of a semaphore, is
/// zero: nobody waits.
pub(super) const UDEV_LEAVE_ALONE: u32 = (0x0002 | 0x0004 | 0x0008 | 0x0010 | 0x0020 | 0x0040) << 16;

/// Asks the kernel for what `buffer` says (a header and what follows), and lets it write its reply there.
///
/// # Errors
/// Whatever the kernel reports; `InvalidInput` for a buffer that holds no header or that is longer than 4 GiB.
pub(super) fn call(control: BorrowedFd<'_>, verb: Verb, buffer: &mut [u8]) -> io::Result<()> {
    let size = u32::try_from(buffer.len()).ok().filter(|_| buffer.len() >= HEADER_BYTES);
    let size = size.ok_or(io::ErrorKind::InvalidInput)?;
    buffer[offset_of!(Header, data_size)..][..4].copy_from_slice(&size.to_ne_bytes());
    let request: libc::Ioctl = nix::request_code_readwrite!(0xfd, verb as u8, HEADER_BYTES);
    // SAFETY: the descriptor is open for the borrow's lifetime. Of the pointer's target the kernel reads and writes at most
    // `data_size` bytes (it copies them in, works on its copy, and copies back no more), which was just set to the length of this
    // live, exclusive slice; and it keeps no pointer to it. Any bytes are valid there before and after.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), request, buffer.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
