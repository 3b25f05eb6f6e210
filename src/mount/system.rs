//! The mount table of this machine.
//!
//! * **Never lazily**: an unmount that cannot be done now is an error. A lazy one would free the volume while it is written.
//! * **Repeatable**: what is mounted already as asked for is success. What is mounted, mountinfo says; nothing is remembered, so
//!   a crash between any two calls leaves nothing to repair here.
//! * **Clones beside their source**: XFS refuses a second file system with the same UUID unless told (`nouuid`); Btrfs gets
//!   a new UUID before its first mount ([`Mounter::renew_identity`]); ext4 does not care.
//! * **Sound before mounted**: an ext4 that recorded errors is checked first ([`Mounter::check`]); see `mount::check`.
//! * **Read-only devices** (snapshots) cannot replay a journal. A snapshot cut under a freeze has nothing to replay, except that
//!   XFS always leaves a record in its log; so a mount that fails because of it is tried once more without recovery. A
//!   snapshot that was cut without a freeze of ours then shows the state before the last journal entries.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;

use super::options::{self, MountOptions};
use super::path::through_descriptor;
use super::{
    FileSystemStats, Formatting, MountEntry, MountError, MountRequest, MountedFileSystem, Mounter, Probe, btrfs_identity, check,
    mkfs, mounted, mountinfo, topmost,
};
use crate::block::probe::{self, Finding};
use crate::block::{FileSource, bind, device, mount_options};
use crate::failpoint;
use crate::types::error::chain;
use crate::types::poll::{self, Patience};
use crate::types::{Access, FsType, LogicalBlockSize};

/// How long an unmount waits for those who are about to leave: a program that was started holds copies of all descriptors of
/// this process for a moment, and monitoring looks into every mount. The kernel offers no event for it.
const VISITORS: Patience = Patience { limit: Duration::from_millis(300), every: Duration::from_millis(10) };

/// When a mount was ended.
enum Unmounted {
    Now,
    Before,
}

/// [`Mounter`] over the kernel and the file systems' own programs. Needs CAP_SYS_ADMIN.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemMounter;

impl SystemMounter {
    /// The mounter of this process's mount namespace.
    pub fn new() -> Self {
        Self
    }

    fn mounted_at(&self, target: &Path) -> Result<Option<MountEntry>, MountError> {
        let target = real_target(target);
        let entries = self.mounts()?;
        Ok(topmost(&entries).get(target.as_path()).map(|&entry| entry.clone()))
    }
}

impl Mounter for SystemMounter {
    fn mounts(&self) -> Result<Vec<MountEntry>, MountError> {
        mountinfo::read()
    }

    fn device_number(&self, device: &Path) -> Result<(u32, u32), MountError> {
        device::number(device).map_err(|source| path_error("device number of", device, source))
    }

    fn probe(&self, device: &Path) -> Result<Probe, MountError> {
        examine(device).map(Probe::from)
    }

    fn make_file_system(&self, device: &Path, fs_type: FsType, over: Formatting) -> Result<(), MountError> {
        let finding = examine(device)?;
        if !mkfs::may_write_over(&finding, fs_type, over) {
            let found = match Probe::from(finding) {
                Probe::Blank => "nothing".to_owned(),
                Probe::FileSystem(found) => format!("a file system ({found})"),
                Probe::Other(name) => name,
            };
            return Err(MountError::NotBlank { device: device.to_owned(), found });
        }
        failpoint::around("mount.mkfs", || {
            mkfs::make(device, fs_type, over)?;
            // The programs sync before they end; this makes sure that what the probe reads past the cache is what they wrote.
            self.flush_device(device)
        })?;
        tracing::info!(device = %device.display(), %fs_type, "made a file system");
        Ok(())
    }

    fn check(&self, device: &Path, fs_type: FsType) -> Result<(), MountError> {
        if fs_type != FsType::Ext4 || is_read_only(device)? {
            return Ok(());
        }
        let number = self.device_number(device)?;
        if self.mounts()?.iter().any(|entry| entry.is_of(device, number)) {
            return Err(MountError::Busy(device.to_owned()));
        }
        let look = || {
            let file = File::open(device)?;
            let mut superblock = [0; check::SUPERBLOCK.1];
            file.read_exact_at(&mut superblock, check::SUPERBLOCK.0)?;
            Ok((check::is_asked_for(&superblock), device::size(&file)?))
        };
        let (is_asked_for, bytes) = look().map_err(|error| path_error("look at", device, error))?;
        if is_asked_for {
            failpoint::around("mount.check", || {
                check::mend_ext4(device, bytes)?;
                self.flush_device(device)
            })?;
            tracing::warn!(device = %device.display(), %fs_type, "checked a file system that had errors; it is sound now");
        }
        Ok(())
    }

    fn mount(&self, request: &MountRequest) -> Result<(), MountError> {
        let MountRequest { device, target, fs_type, options, access } = request;
        let options = options::parse(options, *fs_type, *access)?;
        let number = self.device_number(device)?;
        if let Some(entry) = self.mounted_at(target)? {
            let same = entry.shows(device, number) && entry.access() == options.access();
            return if same { Ok(()) } else { Err(MountError::Busy(target.clone())) };
        }
        failpoint::around("mount.mount", || mount_device(device, target, *fs_type, &options))?;
        tracing::info!(device = %device.display(), target = %real_target(target).display(), %fs_type, "mounted");
        Ok(())
    }

    fn bind(&self, source: &Path, target: &Path, access: Access, options: &[String]) -> Result<(), MountError> {
        let flags = options::parse_bind(options, access)?;
        let wanted = if flags.contains(MsFlags::MS_RDONLY) { Access::ReadOnly } else { Access::ReadWrite };
        let look = |path: &Path| std::fs::metadata(path).map_err(|error| path_error("look at", path, error));
        let from = look(source)?;
        look(target)?;
        if let Some(entry) = self.mounted_at(target)? {
            // By its name: a descriptor may be older than the mount and show what lies beneath.
            let to = look(&real_target(target))?;
            let same_content = (from.dev(), from.ino()) == (to.dev(), to.ino());
            let mount_access =
                if entry.options.iter().any(|option| option == "ro") { Access::ReadOnly } else { Access::ReadWrite };
            return if same_content && mount_access == wanted { Ok(()) } else { Err(MountError::Busy(target.to_owned())) };
        }
        failpoint::around("mount.bind", || bind::bind(source, target, flags))
            .map_err(|error| path_error(&format!("bind {} on", source.display()), target, error))?;
        tracing::info!(source = %real_target(source).display(), target = %real_target(target).display(), ?wanted, "bound");
        Ok(())
    }

    fn unmount(&self, target: &Path) -> Result<(), MountError> {
        let unmount = || match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(Some(Unmounted::Now)),
            Err(nix::Error::ENOENT) => Ok(Some(Unmounted::Before)),
            Err(nix::Error::EINVAL) if self.mounted_at(target)?.is_none() => Ok(Some(Unmounted::Before)),
            Err(nix::Error::EBUSY) => Ok(None),
            Err(error) => Err(path_error("unmount", target, error.into())),
        };
        let busy = || path_error("unmount", target, nix::Error::EBUSY.into());
        match failpoint::around("mount.unmount", || poll::until(VISITORS, unmount)?.ok_or_else(busy))? {
            Unmounted::Now => tracing::info!(target = %real_target(target).display(), "unmounted"),
            Unmounted::Before => {}
        }
        Ok(())
    }

    fn grow(&self, device: &Path, mount_point: &Path, fs_type: FsType) -> Result<(), MountError> {
        failpoint::around("mount.grow", || mkfs::grow(device, &real_target(mount_point), fs_type))?;
        tracing::info!(device = %device.display(), %fs_type, "grew a file system");
        Ok(())
    }

    fn grow_unmounted(&self, device: &Path, fs_type: FsType) -> Result<(), MountError> {
        if fs_type != FsType::Ext4 {
            return Ok(());
        }
        let number = self.device_number(device)?;
        if self.mounts()?.iter().any(|entry| entry.shows(device, number)) {
            return Err(MountError::Busy(device.to_owned()));
        }
        failpoint::around("mount.grow", || {
            mkfs::grow_unmounted_ext4(device)?;
            self.flush_device(device)
        })?;
        tracing::info!(device = %device.display(), %fs_type, "grew an unmounted file system");
        Ok(())
    }

    fn renew_identity(&self, device: &Path, fs_type: FsType) -> Result<(), MountError> {
        match fs_type {
            FsType::Ext4 | FsType::Xfs => Ok(()),
            FsType::Btrfs => {
                failpoint::around("mount.identity", || {
                    btrfs_identity::renew(device)?;
                    self.flush_device(device)
                })?;
                tracing::info!(device = %device.display(), "gave a copied file system an identity of its own");
                Ok(())
            }
        }
    }

    fn stats(&self, path: &Path) -> Result<FileSystemStats, MountError> {
        let stats = statvfs(path).map_err(|error| path_error("fill state of", path, error.into()))?;
        let unit = stats.fragment_size();
        Ok(FileSystemStats {
            total_bytes: stats.blocks() * unit,
            available_bytes: stats.blocks_available() * unit,
            used_bytes: stats.blocks().saturating_sub(stats.blocks_free()) * unit,
            total_inodes: stats.files(),
            available_inodes: stats.files_available(),
        })
    }

    fn open_mounted(&self, device: &Path) -> Result<Option<Arc<dyn MountedFileSystem>>, MountError> {
        let opened = mounted::open(device, self.device_number(device)?)?;
        Ok(opened.map(|opened| Arc::new(opened) as Arc<dyn MountedFileSystem>))
    }

    fn flush_device(&self, device: &Path) -> Result<(), MountError> {
        let file = File::open(device).map_err(|error| path_error("open", device, error))?;
        file.sync_all().and_then(|()| device::flush_buffers(&file)).map_err(|error| path_error("flush", device, error))
    }
}

fn mount_device(device: &Path, target: &Path, fs_type: FsType, options: &MountOptions) -> Result<(), MountError> {
    let attempt = |data: &str| mount(Some(device), target, Some(fs_type.name()), options.flags, Some(data));
    let data = options.data();
    let mut result = attempt(&data);
    // EROFS from a read-only mount: the journal wants to be replayed and the device cannot be written.
    if matches!(result, Err(nix::Error::EROFS | nix::Error::EIO)) && options.access() == Access::ReadOnly && is_read_only(device)?
    {
        let without_recovery = match fs_type {
            FsType::Ext4 => "noload",
            FsType::Xfs => "norecovery",
            FsType::Btrfs => "rescue=nologreplay",
        };
        result = attempt([data.as_str(), without_recovery].join(",").trim_start_matches(','));
    }
    result.map_err(|error| {
        match error {
            nix::Error::EINVAL => refused_option(fs_type, options),
            _ => None,
        }
        .unwrap_or_else(|| path_error(&format!("mount {} on", device.display()), target, error.into()))
    })
}

/// The option because of which the kernel refuses a mount, if it can be found.
fn refused_option(fs_type: FsType, options: &MountOptions) -> Option<MountError> {
    // Labels are the security module's, and quoted.
    let own = options.data.iter().map(String::as_str).filter(|option| !option.contains("context="));
    match mount_options::first_refused(fs_type.name(), own) {
        Ok(refusal) => refusal.map(|refusal| MountError::OptionRefused { option: refusal.option, message: refusal.message }),
        Err(error) => {
            tracing::debug!(%fs_type, error = %chain(&error), "the kernel does not say which option it refuses");
            None
        }
    }
}

/// Whether the kernel lets nobody write to the device.
fn is_read_only(device: &Path) -> Result<bool, MountError> {
    let (major, minor) = device::number(device).map_err(|error| path_error("device number of", device, error))?;
    let path = format!("/sys/dev/block/{major}:{minor}/ro");
    let text = std::fs::read_to_string(&path).map_err(MountError::io(path))?;
    Ok(text.trim() == "1")
}

pub(super) fn examine(path: &Path) -> Result<Finding, MountError> {
    let attempt = || {
        let file = File::open(path)?;
        // What is dirty in the cache is content too; what is clean there may be stale.
        file.sync_all()?;
        device::flush_buffers(&file)?;
        let size = device::size(&file)?;
        probe::examine(&FileSource::new(file, size, LogicalBlockSize::B4096)?)
    };
    attempt().map_err(|error| path_error("look at", path, error))
}

/// The path as mountinfo shows it: descriptors and symbolic links resolved, except in the last component.
fn real_target(path: &Path) -> PathBuf {
    let path = through_descriptor(path);
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

fn path_error(action: &str, path: &Path, source: io::Error) -> MountError {
    let path = real_target(path);
    match source.raw_os_error() {
        Some(libc::ENOENT) => MountError::NotFound(path),
        Some(libc::EBUSY) => MountError::Busy(path),
        _ => MountError::Io { action: format!("{action} {}", path.display()), source },
    }
}
