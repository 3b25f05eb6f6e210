//! Which of a file system's options the kernel refuses, and why.
//!
//! mount(2) says EINVAL for a wrong option, a wrong value, a wrong superblock and more. The newer calls take the options one by one
//! (Linux 5.2), before there is a device, and have words for what they refuse. They are used to find the culprit, not to mount.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{c_int, c_long};

const FSOPEN_CLOEXEC: c_int = 1;
const FSCONFIG_SET_FLAG: c_int = 0;
const FSCONFIG_SET_STRING: c_int = 1;
/// Longest message that is read, in bytes. The kernel's are a line.
const LONGEST_MESSAGE: usize = 1024;

/// An option that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// As it was given.
    pub option: String,
    /// The kernel's words; empty where it has none.
    pub message: String,
}

/// Finds the first of `options` (`name` or `name=value`) that a file system of this type refuses by itself. None where each of
/// them is fine, and where the kernel does not tell.
///
/// # Errors
/// `Unsupported` before Linux 5.2, ENODEV for a type that it does not know.
pub fn first_refused<'a>(fs_type: &str, options: impl IntoIterator<Item = &'a str>) -> io::Result<Option<Refusal>> {
    let name = CString::new(fs_type)?;
    // SAFETY: fsopen reads a zero-terminated name, which lives for the call, and returns a descriptor or an error.
    let opened = check(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) })?;
    let number = c_int::try_from(opened).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor, and nothing else owns it.
    let context = File::from(unsafe { OwnedFd::from_raw_fd(number) });
    for option in options {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(CString::new(value)?)),
            None => (option, None),
        };
        let name = CString::new(name)?;
        let command = if value.is_some() { FSCONFIG_SET_STRING } else { FSCONFIG_SET_FLAG };
        let value = value.as_ref().map_or(ptr::null(), |value| value.as_ptr());
        // SAFETY: fsconfig reads two zero-terminated strings, which live for the call; none is NULL, as a flag wants it.
        let set = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, name.as_ptr(), value, 0) };
        if check(set).is_err() {
            return Ok(Some(Refusal { option: option.to_owned(), message: message(&context) }));
        }
    }
    Ok(None)
}

/// What the kernel says, without the letter of its severity.
fn message(mut context: &File) -> String {
    let mut words = Vec::new();
    let mut line = [0; LONGEST_MESSAGE];
    // One message each time, until there is none (ENODATA).
    while let Ok(length @ 1..) = context.read(&mut line) {
        let text = String::from_utf8_lossy(&line[..length]);
        let words_alone = text.split_once(' ').map_or(text.as_ref(), |(_severity, words)| words);
        words.push(words_alone.trim().to_owned());
    }
    words.join("; ")
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
