//! The programs of thin-provisioning-tools, run as they are.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::block::loop_device::{self, DirectIo, LoopDevice, LoopOptions};
use crate::pool::PoolError;
use crate::types::error::chain;
use crate::types::{Access, LogicalBlockSize};

/// What a program said.
pub(super) enum Verdict {
    /// It ended well.
    Sound,
    /// It did not, and said this.
    Unsound(String),
}

impl Verdict {
    /// An error unless the program that was to do this ended well.
    pub(super) fn sound(self, action: &str) -> Result<(), PoolError> {
        match self {
            Self::Sound => Ok(()),
            Self::Unsound(text) => Err(PoolError::Format(format!("{action}: {text}").into())),
        }
    }
}

/// Runs a program to its end: a check of the largest metadata takes minutes, and whoever asked for it can stop this process.
///
/// # Errors
/// [`PoolError::Unsupported`] when it is not installed; [`PoolError::Io`].
pub(super) fn run(program: &str, arguments: &[&OsStr]) -> Result<Verdict, PoolError> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => PoolError::Unsupported(
            format!("{program} is not installed: it is part of thin-provisioning-tools (device-mapper-persistent-data)").into(),
        ),
        _ => PoolError::io(format!("run {program}"), error),
    })?;
    if output.status.success() {
        return Ok(Verdict::Sound);
    }
    let said = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&said);
    Ok(Verdict::Unsound(format!("{program} ended with {}: {}", output.status, text.trim())))
}

/// A file as a device, since the programs insist on direct I/O, which not every file system has, and some that say so have not: what is
/// written through the cache of an overlay reads as zeros past it. So the device goes through that cache, as whoever writes the file
/// does. Detached when this is dropped.
pub(super) struct Attached(LoopDevice);

impl Attached {
    /// # Errors
    /// [`PoolError::Io`] when there is no loop device.
    pub(super) fn new(file: &File) -> Result<Self, PoolError> {
        let options = LoopOptions {
            access: Access::ReadWrite,
            block_size: LogicalBlockSize::B4096,
            label: "windlass-repair",
            direct_io: DirectIo::Off,
        };
        let attached = loop_device::attach(file, &options).map(Self);
        attached.map_err(|error| PoolError::io("attach a loop device", io::Error::other(error)))
    }

    /// Its node.
    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Err(error) = loop_device::detach(&self.0) {
            tracing::warn!(error = %chain(&error), "a loop device is left");
        }
    }
}
