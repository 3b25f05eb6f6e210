//! The kernel's structures and calls for loop devices.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use super::model::{BackingFile, DirectIo, LoopOptions};
use crate::block::ioctl;
use crate::types::Access;

const CLR_FD: libc::Ioctl = 0x4c01;
const SET_STATUS64: libc::Ioctl = 0x4c04;
const GET_STATUS64: libc::Ioctl = 0x4c05;
const SET_CAPACITY: libc::Ioctl = 0x4c07;
const SET_DIRECT_IO: libc::Ioctl = 0x4c08;
const CONFIGURE: libc::Ioctl = 0x4c0a;
const CTL_ADD: libc::Ioctl = 0x4c80;
const CTL_GET_FREE: libc::Ioctl = 0x4c82;

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone)]
pub(super) struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
pub(super) struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);

impl LoopInfo {
    const EMPTY: LoopInfo = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };

    pub(super) fn backing(&self) -> BackingFile {
        BackingFile { device: self.device, inode: self.inode }
    }

    pub(super) fn access(&self) -> Access {
        if self.flags & READ_ONLY != 0 { Access::ReadOnly } else { Access::ReadWrite }
    }

    pub(super) fn direct_io(&self) -> bool {
        self.flags & DIRECT_IO != 0
    }

    pub(super) fn vanishing(&self) -> bool {
        self.flags & AUTOCLEAR != 0
    }

    pub(super) fn set_vanishing(&mut self, vanishing: bool) {
        if vanishing { self.flags |= AUTOCLEAR } else { self.flags &= !AUTOCLEAR }
    }

    pub(super) fn label(&self) -> String {
        let end = self.file_name.iter().position(|&byte| byte == 0).unwrap_or(self.file_name.len());
        String::from_utf8_lossy(&self.file_name[..end]).into_owned()
    }
}

impl LoopConfig {
    pub(super) fn new(fd: RawFd, options: &LoopOptions<'_>) -> Self {
        let mut info = LoopInfo::EMPTY;
        info.flags = match options.access {
            Access::ReadOnly => READ_ONLY,
            Access::ReadWrite => 0,
        };
        info.flags |= match options.direct_io {
            DirectIo::Required | DirectIo::IfPossible => DIRECT_IO,
            DirectIo::Off => 0,
        };
        put_label(&mut info.file_name, options.label);
        Self { fd: fd.cast_unsigned(), block_size: options.block_size.bytes(), info, reserved: [0; 8] }
    }
}

/// Keeps as many whole characters as fit, and the zero byte at the end.
fn put_label(field: &mut [u8; 64], label: &str) {
    let label = &label[..label.floor_char_boundary(field.len() - 1)];
    field[..label.len()].copy_from_slice(label.as_bytes());
}

pub(super) fn free_device(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    let number = unsafe { ioctl::with_value(control, CTL_GET_FREE, 0) }?;
    u32::try_from(number).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Makes a device with a number that is not used.
pub(super) fn add_device(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: LOOP_CTL_ADD takes the number by value; -1 asks for any.
    let number = unsafe { ioctl::with_value(control, CTL_ADD, libc::c_ulong::MAX) }?;
    u32::try_from(number).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The descriptor in `config` must be open; the kernel takes a reference of its own to its file.
pub(super) fn configure(node: BorrowedFd<'_>, config: &mut LoopConfig) -> io::Result<()> {
    // SAFETY: LOOP_CONFIGURE reads one `loop_config`, whose layout this is.
    unsafe { ioctl::with_pointer(node, CONFIGURE, config) }.map(drop)
}

pub(super) fn status(node: BorrowedFd<'_>) -> io::Result<LoopInfo> {
    let mut info = LoopInfo::EMPTY;
    // SAFETY: LOOP_GET_STATUS64 writes one `loop_info64`, whose layout this is.
    unsafe { ioctl::with_pointer(node, GET_STATUS64, &mut info) }?;
    Ok(info)
}

pub(super) fn set_status(node: BorrowedFd<'_>, info: &mut LoopInfo) -> io::Result<()> {
    // SAFETY: LOOP_SET_STATUS64 reads one `loop_info64`, whose layout this is.
    unsafe { ioctl::with_pointer(node, SET_STATUS64, info) }.map(drop)
}

pub(super) fn clear(node: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: LOOP_CLR_FD ignores its argument.
    unsafe { ioctl::with_value(node, CLR_FD, 0) }.map(drop)
}

pub(super) fn refresh_capacity(node: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: LOOP_SET_CAPACITY ignores its argument.
    unsafe { ioctl::with_value(node, SET_CAPACITY, 0) }.map(drop)
}

pub(super) fn end_direct_io(node: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: LOOP_SET_DIRECT_IO takes a number by value.
    unsafe { ioctl::with_value(node, SET_DIRECT_IO, 0) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_labels_keep_whole_characters_and_their_terminator() {
        let mut info = LoopInfo::EMPTY;
        put_label(&mut info.file_name, &"ü".repeat(40));
        assert_eq!(info.label(), "ü".repeat(31));
        put_label(&mut info.file_name, "");
        assert_eq!(info.file_name[63], 0);
    }
}
