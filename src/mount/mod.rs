//! File systems on devices: probe, make, mount, freeze, grow, and what is mounted where.
//!
//! [`Mounter`] is the one door to the mount table; `csi` holds it as a trait object so that the Node service is tested
//! without root over a double (`memory`). mountinfo is the truth for mounts: nothing here remembers what it mounted.
//! All calls block.

mod btrfs_identity;
mod check;
pub mod image;
#[cfg(any(test, feature = "doubles"))]
pub mod memory;
pub mod mkfs;
mod mounted;
pub mod mountinfo;
pub mod options;
pub mod path;
mod program;
pub mod system;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block::probe::Finding;
use crate::types::{Access, ForbiddenOption, FsType};

/// What a direct look at a device's superblocks found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// No signature of any kind: every probed place reads as zeros or as nothing known.
    Blank,
    /// A file system that can be mounted here.
    FileSystem(FsType),
    /// Something else; the text names it (a partition table, LVM, swap, a foreign file system, ...).
    Other(String),
}

impl From<Finding> for Probe {
    fn from(finding: Finding) -> Self {
        match finding {
            Finding::Blank => Self::Blank,
            Finding::FileSystem(fs_type) => Self::FileSystem(fs_type),
            other @ (Finding::Unfinished(_) | Finding::Foreign(_) | Finding::Unknown) => Self::Other(other.to_string()),
        }
    }
}

/// Why a mount operation failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The path does not exist.
    #[error("{0}: does not exist")]
    NotFound(PathBuf),
    /// The path or device is in use.
    #[error("{0}: is busy")]
    Busy(PathBuf),
    /// The path leaves the configured root, has a symbolic link in it, or is not absolute.
    #[error("{path}: {reason}")]
    Path {
        /// The path as it was given.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A mount option that is not known or not allowed.
    #[error(transparent)]
    Option(#[from] ForbiddenOption),
    /// A mount option that the kernel refuses.
    #[error("mount option `{option}` is refused by the kernel: {message}")]
    OptionRefused {
        option: String,
        /// The kernel's words.
        message: String,
    },
    /// The device already has content where a file system was to be made.
    #[error("{device}: holds {found}; it was not formatted")]
    NotBlank {
        device: PathBuf,
        /// What was found.
        found: String,
    },
    /// A file system that must not be used as it is; an administrator has to look.
    #[error("{place}: {reason}")]
    Unsound {
        /// The device, or where it is mounted.
        place: PathBuf,
        /// What is wrong, and what helps.
        reason: String,
    },
    /// A program of the system failed; the text is its last lines.
    #[error("{program} failed: {output}")]
    Program {
        program: &'static str,
        /// The end of what it printed.
        output: String,
    },
    /// A call of the system failed.
    #[error("{action}")]
    Io {
        /// What was attempted, with its path.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl MountError {
    /// Wraps a system error with what was attempted.
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Whether the pool beneath had no room for what a file system must write to be made, mounted or grown.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            // Programs say it in the words of the system; they are run with `LC_ALL=C`.
            Self::Program { output, .. } => output.contains("No space left on device"),
            _ => false,
        }
    }
}

/// One line of mountinfo, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Mount id.
    pub id: u64,
    /// Device number of the file system (major, minor).
    pub device: (u32, u32),
    /// The directory or file within the file system that is mounted (`/`, or a path for bind mounts).
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Options of the mount itself.
    pub options: Vec<String>,
    /// The group of mounts that it shares what is mounted beneath it with; `None` when that is not seen elsewhere (a private mount, or one
    /// that only receives).
    pub peer_group: Option<u64>,
    /// File system type.
    pub fs_type: String,
    /// Source, usually a device path.
    pub source: PathBuf,
    /// Options of the file system.
    pub super_options: Vec<String>,
}

/// Where it is seen what is mounted beneath a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// In every mount namespace that has the mount from the same group.
    Shared,
    /// In this mount namespace alone.
    Private,
}

impl MountEntry {
    /// Where it is seen what is mounted beneath.
    pub fn propagation(&self) -> Propagation {
        if self.peer_group.is_some() { Propagation::Shared } else { Propagation::Private }
    }

    /// Whether this is a mount of the whole file system on a device. Both the number and the path are needed: Btrfs shows a
    /// number of its own, the others may have been mounted by another path of the same device.
    pub fn shows(&self, device: &Path, number: (u32, u32)) -> bool {
        self.root == Path::new("/") && self.is_of(device, number)
    }

    /// Whether this is a mount of the file system on a device, or of a part of it.
    pub fn is_of(&self, device: &Path, number: (u32, u32)) -> bool {
        self.device == number || self.source == device
    }

    /// Whether writing through this mount is possible.
    pub fn access(&self) -> Access {
        let read_only = |options: &[String]| options.iter().any(|option| option == "ro");
        if read_only(&self.options) || read_only(&self.super_options) { Access::ReadOnly } else { Access::ReadWrite }
    }

    /// Whether the file system does what it was mounted for, as far as the mount table says. A file system that gave up stays mounted: the
    /// kernel adds `shutdown` to its options, or `emergency_ro` (since Linux 6.15; before, the file system turned `ro` under mounts
    /// that are not). XFS says nothing there: its calls fail.
    ///
    /// # Errors
    /// [`MountError::Unsound`] when nothing works any more, or nothing can be written though it was mounted for `expected`.
    pub fn check_usable(&self, expected: Access) -> Result<(), MountError> {
        let says = |word: &str| self.super_options.iter().chain(&self.options).any(|option| option == word);
        let is_ro = |options: &[String]| options.iter().any(|option| option == "ro");
        let became_read_only = says("emergency_ro") || is_ro(&self.super_options) && !is_ro(&self.options);
        let fault = match expected {
            _ if says("shutdown") => "has shut down after an error",
            Access::ReadWrite if became_read_only => "became read-only after an error",
            Access::ReadWrite | Access::ReadOnly => return Ok(()),
        };
        let reason = format!(
            "the file system on {} {fault}: see the kernel's log. It is checked when it is staged anew: stop all pods that use it",
            self.source.display()
        );
        Err(MountError::Unsound { place: self.mount_point.clone(), reason })
    }
}

/// What to mount where.
#[derive(Debug, Clone)]
pub struct MountRequest {
    /// The block device.
    pub device: PathBuf,
    /// An existing directory.
    pub target: PathBuf,
    /// Its file system.
    pub fs_type: FsType,
    /// Options as a StorageClass or capability gives them, checked by [`Mounter::mount`].
    pub options: Vec<String>,
    /// Read only or not.
    pub access: Access,
}

/// Whether a freeze took hold, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// We froze it, and we must thaw it.
    Ours,
    /// It was frozen already (EBUSY), by a backup hook or an administrator: cut, and leave it frozen.
    Foreign,
}

/// Fill state of a mounted file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystemStats {
    /// Total bytes.
    pub total_bytes: u64,
    /// Bytes available to unprivileged users.
    pub available_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Total inodes; zero where the file system has no fixed number.
    pub total_inodes: u64,
    /// Free inodes.
    pub available_inodes: u64,
}

/// The door to devices' file systems and to the mount table.
///
/// Every verb is safe to repeat. Paths were confined by the caller ([`path::Root`]).
pub trait Mounter: Send + Sync {
    /// The mount table of this mount namespace, in kernel order (later entries lie above earlier ones).
    ///
    /// # Errors
    /// [`MountError::Io`] when it cannot be read.
    fn mounts(&self) -> Result<Vec<MountEntry>, MountError>;

    /// Device number of a block device node.
    ///
    /// # Errors
    /// [`MountError::NotFound`], [`MountError::Io`]; a path that is no block device is an error.
    fn device_number(&self, device: &Path) -> Result<(u32, u32), MountError>;

    /// Looks for superblocks directly on the device, past every cache.
    ///
    /// # Errors
    /// [`MountError`]; an error never means "blank".
    fn probe(&self, device: &Path) -> Result<Probe, MountError>;

    /// Makes a file system with 4 KiB sectors and blocks.
    ///
    /// The caller has established invariant 1 (never formatted, never given out writable, no content source).
    ///
    /// # Errors
    /// [`MountError::NotBlank`] when the device holds anything but (`over` given) an unfinished file system of this type.
    fn make_file_system(&self, device: &Path, fs_type: FsType, over: Formatting) -> Result<(), MountError>;

    /// Checks an unmounted file system that says of itself that it has errors, and mends what can be mended without losing anything
    /// (ext4). Does nothing where there is no such mark. Takes as long as a full check where there is one.
    ///
    /// # Errors
    /// [`MountError::Unsound`] when it must not be mounted as it is; [`MountError::Busy`] when it is mounted; [`MountError::Io`].
    fn check(&self, device: &Path, fs_type: FsType) -> Result<(), MountError>;

    /// Mounts a device. XFS is mounted with `nouuid`, Btrfs clones beside their source (see `mount::system`).
    ///
    /// # Errors
    /// [`MountError::Option`] before anything is done, [`MountError::OptionRefused`]; [`MountError::Busy`], [`MountError::NotFound`],
    /// [`MountError::Io`].
    fn mount(&self, request: &MountRequest) -> Result<(), MountError>;

    /// Bind-mounts a directory or a device node on an existing directory or file.
    fn bind(&self, source: &Path, target: &Path, access: Access, options: &[String]) -> Result<(), MountError>;

    /// Takes the topmost mount off `target`. Nothing mounted there is success.
    ///
    /// # Errors
    /// [`MountError::Busy`] when it is in use: never lazily.
    fn unmount(&self, target: &Path) -> Result<(), MountError>;

    /// Grows the mounted file system to its device. Already that large is success.
    fn grow(&self, device: &Path, mount_point: &Path, fs_type: FsType) -> Result<(), MountError>;

    /// Grows an unmounted file system to its device where that is possible (ext4, checked first); does nothing for the
    /// others. Takes as long as a full check: for where [`Mounter::grow`] may not (growing a mounted ext4 needs
    /// CAP_SYS_RESOURCE).
    ///
    /// # Errors
    /// [`MountError::Program`], [`MountError::Io`]; [`MountError::Busy`] when it is mounted.
    fn grow_unmounted(&self, device: &Path, fs_type: FsType) -> Result<(), MountError>;

    /// Gives a copied, unmounted file system an identity of its own where the kernel needs one to mount it beside its
    /// source (Btrfs); does nothing for the others.
    ///
    /// # Errors
    /// [`MountError::Busy`] when it is mounted, [`MountError::Unsound`], [`MountError::Io`].
    fn renew_identity(&self, device: &Path, fs_type: FsType) -> Result<(), MountError>;

    /// Fill state of the file system mounted at `path`.
    fn stats(&self, path: &Path) -> Result<FileSystemStats, MountError>;

    /// Opens the file system that is mounted from a device, wherever that is; none when it is mounted nowhere.
    ///
    /// # Errors
    /// [`MountError::NotFound`] for the device, [`MountError::Unsound`] when no mount of it can be opened, [`MountError::Io`].
    fn open_mounted(&self, device: &Path) -> Result<Option<Arc<dyn MountedFileSystem>>, MountError>;

    /// Flushes a block device's page cache and write cache.
    fn flush_device(&self, device: &Path) -> Result<(), MountError>;
}

/// A mounted file system that is held open: whatever becomes of its mounts, all verbs are about this one. It stays mounted as long as
/// the value lives.
pub trait MountedFileSystem: Send + Sync {
    /// Where it was found, for people.
    fn mount_point(&self) -> &Path;

    /// Writes out everything that is dirty (`syncfs`).
    fn sync(&self) -> Result<(), MountError>;

    /// Freezes it (FIFREEZE).
    ///
    /// # Errors
    /// [`MountError::Io`]; EBUSY is not an error but [`Freeze::Foreign`].
    fn freeze(&self) -> Result<Freeze, MountError>;

    /// Thaws it (FITHAW). Not frozen is success.
    fn thaw(&self) -> Result<(), MountError>;
}

/// What [`Mounter::make_file_system`] may write over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formatting {
    /// A blank device only.
    Blank,
    /// The remains of an earlier attempt of our own: the catalogue said `formatting` before this one began.
    Unfinished,
}

/// Extra facts a caller may want in one look: mount entries by mount point, topmost only.
pub fn topmost(entries: &[MountEntry]) -> BTreeMap<&Path, &MountEntry> {
    entries.iter().map(|entry| (entry.mount_point.as_path(), entry)).collect()
}

/// The id of this boot of the machine: a new one means that every mount, loop device and freeze of before is gone.
pub fn boot_id() -> Result<String, MountError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).map_err(MountError::io(PATH))?;
    Ok(text.trim().to_owned())
}
