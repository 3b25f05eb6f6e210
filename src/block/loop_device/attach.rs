//! Attaching a file to a free loop device.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::model::{BackingFile, DirectIo, LoopDevice, LoopError, LoopOptions};
use super::node::{describe, node_path};
use super::raw::{self, LoopConfig};
use super::search::{self, find_named};
use crate::block::device;
use crate::failpoint;
use crate::types::Access;

/// Free devices tried before giving up: another thread or process may take each between the question and the answer, and each
/// that does has its device then. This process has 512 threads that may block; as many again are left to others.
const RACES: u32 = 1024;

/// The files that are being attached. One for each thread at most.
static ATTACHING: LazyLock<Mutex<HashSet<BackingFile>>> = LazyLock::new(Mutex::default);

/// Attaches a file, open for what `options` ask, to a free loop device. The file is known by its own name alone.
///
/// # Errors
/// [`LoopError::Attached`] when it is attached already; [`LoopError::Attaching`], [`LoopError::NoDirectIo`],
/// [`LoopError::Size`], [`LoopError::WrongNode`], [`LoopError::Io`].
pub fn attach(file: &File, options: &LoopOptions<'_>) -> Result<LoopDevice, LoopError> {
    attach_named(file, &search::name_of(file)?, options)
}

/// Like [`attach`], of a file whose path ends in `tail` for whoever looks at it; see [`find_named`].
pub fn attach_named(file: &File, tail: &Path, options: &LoopOptions<'_>) -> Result<LoopDevice, LoopError> {
    let size = device::size(file).map_err(LoopError::io("size of the backing file"))?;
    let block_size = options.block_size.bytes();
    if size == 0 || !size.is_multiple_of(block_size.into()) {
        return Err(LoopError::Size { size, block_size });
    }
    let expected = BackingFile::of(file).map_err(LoopError::io("state of the backing file"))?;
    let _claim = Claim::on(expected)?;
    if let Some(attached) = find_named(file, tail)?.into_iter().next() {
        return Err(LoopError::Attached(Box::new(attached)));
    }
    failpoint::around("block.attach", || attach_unattached(file, expected, options))
}

/// Attaches a file that is attached nowhere.
fn attach_unattached(file: &File, expected: BackingFile, options: &LoopOptions<'_>) -> Result<LoopDevice, LoopError> {
    let (number, path, node) = configure(file, options)?;
    let undo = |error| {
        // Ours alone so far: nobody was told of it. If this fails too, the next `find` by inode comes upon it.
        let _ = raw::clear(node.as_fd());
        error
    };
    let info = raw::status(node.as_fd()).map_err(|source| undo(LoopError::io(format!("state of {}", path.display()))(source)))?;
    let attached = describe(number, path, &info);
    if attached.backing != expected {
        let source = io::Error::other("another file is behind it");
        return Err(undo(LoopError::io(format!("attach {}", attached.path.display()))(source)));
    }
    if !attached.direct_io && options.direct_io == DirectIo::Required {
        return Err(undo(LoopError::NoDirectIo { device: attached.path, block_size: options.block_size.bytes() }));
    }
    search::remember(expected, attached.number);
    Ok(attached)
}

/// The right to attach a file, which one thread has at a time.
struct Claim(BackingFile);

impl Claim {
    fn on(file: BackingFile) -> Result<Self, LoopError> {
        if attaching().insert(file) { Ok(Self(file)) } else { Err(LoopError::Attaching) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        attaching().remove(&self.0);
    }
}

fn attaching() -> MutexGuard<'static, HashSet<BackingFile>> {
    ATTACHING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of an attempt to attach a file to a certain device.
enum Attempt {
    /// It is open here.
    Attached(u32, PathBuf, File),
    /// Somebody else was faster.
    Taken,
    /// Its name in /dev is another device's.
    WrongNode(PathBuf),
}

fn configure(file: &File, options: &LoopOptions<'_>) -> Result<(u32, PathBuf, File), LoopError> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control");
    let control = control.map_err(LoopError::io("open /dev/loop-control (is the kernel module `loop` loaded?)"))?;
    let mut config = LoopConfig::new(file.as_raw_fd(), options);
    for _ in 0..RACES {
        let number = raw::free_device(control.as_fd()).map_err(LoopError::io("find a free loop device"))?;
        match configure_one(number, options.access, &mut config)? {
            Attempt::Attached(number, path, node) => return Ok((number, path, node)),
            Attempt::Taken => {}
            Attempt::WrongNode(_) => return configure_another(&control, options.access, &mut config),
        }
    }
    let last = io::Error::from_raw_os_error(libc::EBUSY);
    Err(LoopError::io(format!("{RACES} free loop devices were taken by others in turn"))(last))
}

/// The kernel calls a device free whose name in /dev is another's, and would for ever. So what else is free is tried, once
/// each, and at last a new device.
fn configure_another(control: &File, access: Access, config: &mut LoopConfig) -> Result<(u32, PathBuf, File), LoopError> {
    for number in search::unattached()? {
        if let Attempt::Attached(number, path, node) = configure_one(number, access, config)? {
            return Ok((number, path, node));
        }
    }
    let number = raw::add_device(control.as_fd()).map_err(LoopError::io("add a loop device"))?;
    match configure_one(number, access, config)? {
        Attempt::Attached(number, path, node) => Ok((number, path, node)),
        Attempt::Taken => Err(LoopError::io(format!("attach /dev/loop{number}"))(io::Error::from_raw_os_error(libc::EBUSY))),
        Attempt::WrongNode(path) => Err(LoopError::WrongNode(path)),
    }
}

fn configure_one(number: u32, access: Access, config: &mut LoopConfig) -> Result<Attempt, LoopError> {
    let path = match node_path(number) {
        Ok(path) => path,
        Err(LoopError::WrongNode(path)) => return Ok(Attempt::WrongNode(path)),
        // Removed meanwhile.
        Err(LoopError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(Attempt::Taken),
        Err(error) => return Err(error),
    };
    let node = match OpenOptions::new().read(true).write(access == Access::ReadWrite).open(&path) {
        Ok(node) => node,
        Err(error) if is_race(&error) => return Ok(Attempt::Taken),
        Err(error) => return Err(LoopError::io(format!("open {}", path.display()))(error)),
    };
    match raw::configure(node.as_fd(), config) {
        Ok(()) => Ok(Attempt::Attached(number, path, node)),
        Err(error) if is_race(&error) => Ok(Attempt::Taken),
        Err(error) => Err(LoopError::io(format!("attach {}", path.display()))(error)),
    }
}

fn is_race(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINTR | libc::ENXIO | libc::ENODEV))
}
