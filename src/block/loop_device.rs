//! Loop devices: a file as a block device.
//!
//! * **One attachment a file.** The kernel would bind a second device to the same file, with a page cache of its own, and
//!   both would write. [`attach`] looks first (`search`): the path's end in sysfs narrows, the inode decides. Two processes
//!   are kept apart by the lock on the pool, two threads of this one by a claim on the file that refuses the second.
//! * **Devices of others are not opened**, for that may hang as long as a file system does; and no lock is held while
//!   anything is looked at. A hung file system stops what is asked of its own files only.
//! * **No autoclear.** A device must survive this process: pods go on while the driver restarts. Whoever starts finds the
//!   devices again.
//! * **Direct I/O** is read back after it was asked for: the kernel falls back without a word.
//! * **Detaching** is confirmed by looking. `LOOP_CLR_FD` of a device that is open elsewhere succeeds and does nothing but mark
//!   it for later, so that its file would vanish under a later mount. [`detach`] first claims the device exclusively, which a
//!   mounted or otherwise claimed one refuses; and when somebody still has it open, takes the mark back. What is in use stays
//!   exactly as it was.
//! * A crash leaves devices attached or not, never half: configuring is one call. What was attached before a crash is found by
//!   inode and either used or detached by the layer above.
//!
//! Device nodes that are missing (a container's /dev does not follow the host's) are made. A free device whose name in /dev
//! is taken by another device's node is passed over.

mod raw;
mod search;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::raw::{LoopConfig, LoopInfo};
pub use self::search::{beneath, find, find_named, recall};
use super::device;
use super::sysfs::{self, Beneath};
use crate::failpoint;
use crate::types::{Access, LogicalBlockSize};

/// How long [`detach`] waits for those who have the device open: udev and blkid look at devices for some milliseconds when
/// they change. What lasts longer than this is use.
const OPENERS_LINGER: Duration = Duration::from_millis(800);
/// How often it looks meanwhile; the kernel offers no event for it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Free devices tried before giving up: another thread or process may take each between the question and the answer, and each
/// that does has its device then. This process has 512 threads that may block; as many again are left to others.
const RACES: u32 = 1024;

/// The files that are being attached. One for each thread at most.
static ATTACHING: LazyLock<Mutex<HashSet<BackingFile>>> = LazyLock::new(Mutex::default);

/// Why a loop device operation failed.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The file is attached already; a second device would be a second cache over the same bytes.
    #[error("the file is attached already as {}", .0.path.display())]
    Attached(Box<LoopDevice>),
    /// Another thread is attaching the file at this moment.
    #[error("the file is being attached by another call")]
    Attaching,
    /// The device is mounted, claimed or open. It was left as it was.
    #[error("{}: is in use", .0.display())]
    Busy(PathBuf),
    /// The file system of the file has no direct I/O for this logical block size.
    #[error("{}: the file system beneath offers no direct I/O in blocks of {block_size} bytes", .device.display())]
    NoDirectIo {
        /// The device that was tried, free again.
        device: PathBuf,
        /// Logical block size in bytes.
        block_size: u32,
    },
    /// The file's size is zero or no multiple of the logical block size.
    #[error("{size} bytes is no multiple of the logical block size {block_size}")]
    Size {
        /// Size of the file in bytes.
        size: u64,
        /// Logical block size in bytes.
        block_size: u32,
    },
    /// The name of the device is taken in /dev.
    #[error("{}: is the node of another device", .0.display())]
    WrongNode(PathBuf),
    /// The file system of the file behind a device does not tell the file's state.
    #[error("state of {}: {source}", .device.display())]
    Silent {
        /// The device.
        device: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A call of the system failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, with its path.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl LoopError {
    fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// Which file is behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackingFile {
    /// Device number of its file system, as `stat` gives it.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl BackingFile {
    /// The identity of an open file.
    ///
    /// # Errors
    /// Whatever the system reports.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Whether direct I/O is a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectIo {
    /// An error without it.
    Required,
    /// Through the page cache where the file system has none.
    IfPossible,
    /// Through the page cache. A flush of the device is an fsync of its file either way.
    Off,
}

/// How to attach a file.
#[derive(Debug, Clone)]
pub struct LoopOptions<'a> {
    /// What the device allows.
    pub access: Access,
    /// Its logical block size.
    pub block_size: LogicalBlockSize,
    /// A name for people and for [`LoopDevice::label`]; at most 63 bytes are kept.
    pub label: &'a str,
    /// Direct I/O or not.
    pub direct_io: DirectIo,
}

/// An attached loop device, as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopDevice {
    /// Its node.
    pub path: PathBuf,
    /// Its number: 7 for `/dev/loop7`.
    pub number: u32,
    /// The file behind it.
    pub backing: BackingFile,
    /// What it allows.
    pub access: Access,
    /// Whether it passes the page cache of the file system beneath.
    pub direct_io: bool,
    /// Whether it will vanish at its last close: someone detached it while it was open.
    pub vanishing: bool,
    /// The name it was given.
    pub label: String,
}

/// Attaches a file, open for what `options` ask, to a free loop device. The file is known by its own name alone.
///
/// # Errors
/// [`LoopError::Attached`] when it is attached already; [`LoopError::Attaching`], [`LoopError::NoDirectIo`],
/// [`LoopError::Size`], [`LoopError::WrongNode`], [`LoopError::Io`].
pub fn attach(file: &File, options: &LoopOptions<'_>) -> Result<LoopDevice, LoopError> {
    attach_named(file, &search::name_of(file)?, options)
}

/// Like [`attach`], of a file whose path ends in `tail` for whoever looks at it; see [`find_named`].
///
/// # Errors
/// As [`attach`].
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
    failpoint::hit("block.attach.before");
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
        return Err(undo(LoopError::NoDirectIo { device: attached.path, block_size }));
    }
    search::remember(expected, attached.number);
    failpoint::hit("block.attach.after");
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

/// What is attached as the loop device with this number; `None` when nothing is.
fn look(number: u32) -> Result<Option<LoopDevice>, LoopError> {
    let path = match node_path(number) {
        Ok(path) => path,
        // Removed since it was listed.
        Err(LoopError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let node = match File::open(&path) {
        Ok(node) => node,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(LoopError::io(format!("open {}", path.display()))(error)),
    };
    match raw::status(node.as_fd()) {
        Ok(info) => Ok(Some(describe(number, path, &info))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(LoopError::Silent { device: path, source }),
    }
}

/// Detaches a device, confirmed by looking. Nothing or another file attached there by now is success.
///
/// # Errors
/// [`LoopError::Busy`] when it is mounted, claimed or open, after a wait of at most 800 ms for short visitors; it is left as it
/// was. [`LoopError::Io`].
pub fn detach(device: &LoopDevice) -> Result<(), LoopError> {
    let deadline = Instant::now() + OPENERS_LINGER;
    failpoint::hit("block.detach.before");
    loop {
        match detach_once(device)? {
            Detached::Gone => {
                search::forget(device.backing);
                failpoint::hit("block.detach.after");
                return Ok(());
            }
            Detached::InUse if Instant::now() >= deadline => return Err(LoopError::Busy(device.path.clone())),
            Detached::InUse => std::thread::park_timeout(LOOK_AGAIN),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detached {
    Gone,
    InUse,
}

fn detach_once(device: &LoopDevice) -> Result<Detached, LoopError> {
    let io = |what: &str| LoopError::io(format!("{what} {}", device.path.display()));
    // A claim: mounts, other exclusive openers and device-mapper refuse it, and are refused while it is held.
    let node = match OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(&device.path) {
        Ok(node) => node,
        Err(error) if is_gone(&error) => return Ok(Detached::Gone),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            return Ok(if is_attached(device)? { Detached::InUse } else { Detached::Gone });
        }
        Err(error) => return Err(io("open")(error)),
    };
    match raw::status(node.as_fd()) {
        Ok(info) if info.backing() == device.backing => {}
        Ok(_) => return Ok(Detached::Gone),
        Err(error) if is_gone(&error) => return Ok(Detached::Gone),
        Err(error) => return Err(io("state of")(error)),
    }
    match raw::clear(node.as_fd()) {
        Ok(()) => {}
        Err(error) if is_gone(&error) => return Ok(Detached::Gone),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(Detached::InUse),
        Err(error) => return Err(io("detach")(error)),
    }
    match raw::status(node.as_fd()) {
        // Others have it open: it is marked to vanish at its last close, which may be days from now. Take the mark back.
        Ok(mut info) if info.backing() == device.backing => {
            info.set_vanishing(device.vanishing);
            match raw::set_status(node.as_fd(), &mut info) {
                Ok(()) => return Ok(Detached::InUse),
                // It went in that moment.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(io("keep")(error)),
            }
        }
        Ok(_) => return Ok(Detached::Gone),
        // Only we have it open, and the kernel lets nobody in any more: it goes when we close it.
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(io("state of")(error)),
    }
    drop(node);
    Ok(if is_attached(device)? { Detached::InUse } else { Detached::Gone })
}

fn is_attached(device: &LoopDevice) -> Result<bool, LoopError> {
    Ok(look(device.number)?.is_some_and(|now| now.backing == device.backing))
}

/// Detaches the loop device with this number from the file of this path, as the kernel keeps it, without asking the file's file system:
/// that may be dead, or not be mounted any more. Nothing or another file attached there by now is success.
///
/// # Errors
/// [`LoopError::Busy`] when it is mounted, claimed or open, after a wait as of [`detach`]. Where it is only open, it goes when it is
/// closed. [`LoopError::Io`].
pub fn detach_from(number: u32, backing: &Path) -> Result<(), LoopError> {
    let path = node_path(number)?;
    let is_behind = || match sysfs::beneath_loop(number) {
        Ok(found) => Ok(found == Some(Beneath::File(backing.to_owned()))),
        Err(error) => Err(LoopError::io(format!("file of {}", path.display()))(error)),
    };
    let deadline = Instant::now() + OPENERS_LINGER;
    failpoint::hit("block.detach.before");
    while is_behind()? {
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(&path) {
            // While it is claimed nobody attaches another file to it.
            Ok(node) if is_behind()? => match raw::clear(node.as_fd()) {
                Ok(()) => {}
                Err(error) if is_gone(&error) || error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(LoopError::io(format!("detach {}", path.display()))(error)),
            },
            Ok(_) => break,
            Err(error) if is_gone(&error) => break,
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(LoopError::io(format!("open {}", path.display()))(error)),
        }
        if !is_behind()? {
            break;
        }
        if Instant::now() >= deadline {
            return Err(LoopError::Busy(path));
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
    failpoint::hit("block.detach.after");
    Ok(())
}

/// Lets the device take the size its file has now.
///
/// # Errors
/// [`LoopError::Io`], also when the device does not have the size afterwards.
pub fn refresh_capacity(device: &LoopDevice) -> Result<(), LoopError> {
    let action = || format!("new size of {}", device.path.display());
    let node = File::open(&device.path).map_err(LoopError::io(action()))?;
    let info = raw::status(node.as_fd()).map_err(LoopError::io(action()))?;
    if info.backing() != device.backing {
        return Err(LoopError::io(action())(io::Error::other("another file is behind it")));
    }
    raw::refresh_capacity(node.as_fd()).map_err(LoopError::io(action()))
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

/// Lets the device go through the page cache of the file system beneath from now on. It may be in use.
///
/// # Errors
/// [`LoopError::Io`].
pub fn end_direct_io(device: &LoopDevice) -> Result<(), LoopError> {
    let action = || format!("end direct I/O of {}", device.path.display());
    let node = File::open(&device.path).map_err(LoopError::io(action()))?;
    let info = raw::status(node.as_fd()).map_err(LoopError::io(action()))?;
    if info.backing() != device.backing {
        return Err(LoopError::io(action())(io::Error::other("another file is behind it")));
    }
    raw::end_direct_io(node.as_fd()).map_err(LoopError::io(action()))
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

fn describe(number: u32, path: PathBuf, info: &LoopInfo) -> LoopDevice {
    LoopDevice {
        path,
        number,
        backing: info.backing(),
        access: info.access(),
        direct_io: info.direct_io(),
        vanishing: info.vanishing(),
        label: info.label(),
    }
}

/// Path of the device node, made if it is not there.
fn node_path(number: u32) -> Result<PathBuf, LoopError> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let action = || format!("device node {}", path.display());
    let wanted = expected_number(number).map_err(LoopError::io(action()))?;
    match rdev(&path) {
        Ok(Some(found)) if found == wanted => return Ok(path),
        Ok(_) => return Err(LoopError::WrongNode(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(LoopError::io(action())(error)),
    }
    use nix::sys::stat::{Mode, SFlag, mknod};
    match mknod(&path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, wanted) {
        // udev may have been faster.
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(error) => return Err(LoopError::io(action())(error.into())),
    }
    match rdev(&path) {
        Ok(Some(found)) if found == wanted => Ok(path),
        Ok(_) => Err(LoopError::WrongNode(path)),
        Err(error) => Err(LoopError::io(action())(error)),
    }
}

/// The number of the block device whose node this is; `None` when it is anything else.
fn rdev(path: &Path) -> io::Result<Option<u64>> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok(metadata.file_type().is_block_device().then(|| metadata.rdev()))
}

/// The device number that sysfs gives; partitions of loop devices shift the minors, so it is not always 7:N.
fn expected_number(number: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/sys/block/loop{number}/dev"))?;
    let parsed = text.trim().split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let (major, minor) = parsed.ok_or(io::ErrorKind::InvalidData)?;
    Ok(nix::sys::stat::makedev(major, minor))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV))
}

fn is_race(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINTR | libc::ENXIO | libc::ENODEV))
}
