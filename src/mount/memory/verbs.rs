//! The double as what it stands for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::MsFlags;

use super::mounter::MemoryMounter;
use super::state::{Verb, number_of, words};
use crate::mount::path::through_descriptor;
use crate::mount::{
    FileSystemStats, Formatting, Freeze, MountEntry, MountError, MountRequest, MountedFileSystem, Mounter, Probe, options,
};
use crate::types::{Access, FsType};

/// A file system that was mounted when it was opened.
#[derive(Debug)]
struct Opened {
    mounter: MemoryMounter,
    device: PathBuf,
    mount_point: PathBuf,
}

impl Mounter for MemoryMounter {
    fn mounts(&self) -> Result<Vec<MountEntry>, MountError> {
        Ok(self.begin(Verb::Mounts, Path::new(""))?.mounts.clone())
    }

    fn device_number(&self, device: &Path) -> Result<(u32, u32), MountError> {
        let state = self.begin(Verb::DeviceNumber, device)?;
        // A path on which a device node is bound is that device.
        let bound = state.top(&through_descriptor(device)).filter(|entry| entry.fs_type == "devtmpfs");
        Ok(number_of(bound.map_or(device, |entry| &entry.source)))
    }

    fn probe(&self, device: &Path) -> Result<Probe, MountError> {
        Ok(self.begin(Verb::Probe, device)?.device(device).content.clone())
    }

    fn make_file_system(&self, device: &Path, fs_type: FsType, over: Formatting) -> Result<(), MountError> {
        let mut state = self.begin(Verb::MakeFileSystem, device)?;
        let last_id = state.last_id;
        if state.mounts.iter().any(|entry| entry.source == through_descriptor(device)) {
            return Err(MountError::Busy(device.to_owned()));
        }
        let held = state.device(device);
        let found = match (&held.content, over) {
            (Probe::Blank, _) => None,
            (Probe::FileSystem(found), Formatting::Unfinished) if *found == fs_type => None,
            (Probe::FileSystem(found), _) => Some(format!("a file system ({found})")),
            (Probe::Other(name), Formatting::Unfinished) if name == "unknown data" => None,
            (Probe::Other(name), _) => Some(name.clone()),
        };
        if let Some(found) = found {
            return Err(MountError::NotBlank { device: device.to_owned(), found });
        }
        held.content = Probe::FileSystem(fs_type);
        held.file_system_bytes = held.device_bytes;
        held.identity = last_id + 1;
        state.last_id += 1;
        Ok(())
    }

    fn check(&self, device: &Path, _: FsType) -> Result<(), MountError> {
        let state = self.begin(Verb::Check, device)?;
        if state.mounts.iter().any(|entry| entry.source == through_descriptor(device)) {
            return Err(MountError::Busy(device.to_owned()));
        }
        Ok(())
    }

    fn mount(&self, request: &MountRequest) -> Result<(), MountError> {
        let mut state = self.begin(Verb::Mount, &request.target)?;
        let options = options::parse(&request.options, request.fs_type, request.access)?;
        let (device, target) = (through_descriptor(&request.device), through_descriptor(&request.target));
        if !target.is_dir() {
            return Err(MountError::NotFound(target));
        }
        if let Some(entry) = state.top(&target) {
            let same = entry.shows(&device, number_of(&device)) && entry.access() == options.access();
            return if same { Ok(()) } else { Err(MountError::Busy(target)) };
        }
        let held = state.device(&device).clone();
        if held.content != Probe::FileSystem(request.fs_type) {
            return Err(MountError::io(format!("mount {}", device.display()))(io::ErrorKind::InvalidInput.into()));
        }
        if request.fs_type == FsType::Btrfs {
            let twin = state.devices.iter().any(|(path, other)| {
                *path != device && other.identity == held.identity && state.mounts.iter().any(|entry| entry.source == *path)
            });
            if twin {
                return Err(MountError::io(format!("mount {}", device.display()))(io::ErrorKind::AlreadyExists.into()));
            }
        }
        state.push(MountEntry {
            id: 0,
            device: number_of(&device),
            root: PathBuf::from("/"),
            peer_group: None,
            mount_point: target,
            options: words(options.access(), options.flags),
            fs_type: request.fs_type.name().to_owned(),
            source: device,
            super_options: options.data,
        });
        Ok(())
    }

    fn bind(&self, source: &Path, target: &Path, access: Access, options: &[String]) -> Result<(), MountError> {
        let mut state = self.begin(Verb::Bind, target)?;
        let flags = options::parse_bind(options, access)?;
        let wanted = if flags.contains(MsFlags::MS_RDONLY) { Access::ReadOnly } else { Access::ReadWrite };
        let (source, target) = (through_descriptor(source), through_descriptor(target));
        if !target.exists() {
            return Err(MountError::NotFound(target));
        }
        // A directory is bound from the mount it lies in; anything else is a device node of /dev.
        let entry = match state.containing(&source) {
            Ok(within) => {
                let below = source.strip_prefix(&within.mount_point).unwrap_or(Path::new(""));
                let root = if below.as_os_str().is_empty() { within.root.clone() } else { within.root.join(below) };
                MountEntry { root, mount_point: target.clone(), options: words(wanted, flags), ..within.clone() }
            }
            Err(_) => MountEntry {
                id: 0,
                device: (0, 5),
                peer_group: None,
                root: Path::new("/").join(source.file_name().unwrap_or_default()),
                mount_point: target.clone(),
                options: words(wanted, flags),
                fs_type: "devtmpfs".to_owned(),
                source: source.clone(),
                super_options: vec!["rw".to_owned()],
            },
        };
        if let Some(top) = state.top(&target) {
            let same = (&top.root, top.device, &top.source) == (&entry.root, entry.device, &entry.source);
            return if same && top.options == entry.options { Ok(()) } else { Err(MountError::Busy(target)) };
        }
        state.push(entry);
        Ok(())
    }

    fn unmount(&self, target: &Path) -> Result<(), MountError> {
        let mut state = self.begin(Verb::Unmount, target)?;
        let target = through_descriptor(target);
        let Some(top) = state.mounts.iter().rposition(|entry| entry.mount_point == target) else { return Ok(()) };
        let covers_others =
            state.mounts.iter().any(|entry| entry.mount_point != target && entry.mount_point.starts_with(&target));
        if covers_others {
            return Err(MountError::Busy(target));
        }
        state.mounts.remove(top);
        Ok(())
    }

    fn grow(&self, device: &Path, mount_point: &Path, fs_type: FsType) -> Result<(), MountError> {
        let mut state = self.begin(Verb::Grow, device)?;
        let entry = state.containing(mount_point)?;
        if entry.fs_type != fs_type.name() || entry.access() == Access::ReadOnly {
            return Err(MountError::Program { program: "grow", output: "not mounted for writing as such".to_owned() });
        }
        let held = state.device(device);
        held.file_system_bytes = held.file_system_bytes.max(held.device_bytes);
        Ok(())
    }

    fn grow_unmounted(&self, device: &Path, fs_type: FsType) -> Result<(), MountError> {
        let mut state = self.begin(Verb::GrowUnmounted, device)?;
        if state.mounts.iter().any(|entry| entry.source == through_descriptor(device)) {
            return Err(MountError::Busy(device.to_owned()));
        }
        if fs_type == FsType::Ext4 {
            let held = state.device(device);
            held.file_system_bytes = held.file_system_bytes.max(held.device_bytes);
        }
        Ok(())
    }

    fn renew_identity(&self, device: &Path, fs_type: FsType) -> Result<(), MountError> {
        let mut state = self.begin(Verb::RenewIdentity, device)?;
        if fs_type == FsType::Btrfs {
            if state.mounts.iter().any(|entry| entry.source == through_descriptor(device)) {
                return Err(MountError::Busy(device.to_owned()));
            }
            state.last_id += 1;
            state.device(device).identity = state.last_id;
        }
        Ok(())
    }

    fn stats(&self, path: &Path) -> Result<FileSystemStats, MountError> {
        let mut state = self.begin(Verb::Stats, path)?;
        if !through_descriptor(path).exists() {
            return Err(MountError::NotFound(path.to_owned()));
        }
        let source = state.containing(path)?.source.clone();
        let total_bytes = state.device(&source).file_system_bytes;
        let used_bytes = total_bytes / 16;
        Ok(FileSystemStats {
            total_bytes,
            available_bytes: total_bytes - used_bytes,
            used_bytes,
            total_inodes: 1000,
            available_inodes: 990,
        })
    }

    fn open_mounted(&self, device: &Path) -> Result<Option<Arc<dyn MountedFileSystem>>, MountError> {
        let state = self.begin(Verb::OpenMounted, device)?;
        let device = through_descriptor(device);
        let entry = state.mounts.iter().find(|entry| entry.is_of(&device, number_of(&device)));
        Ok(entry.map(|entry| {
            let (mounter, mount_point) = (self.clone(), entry.mount_point.clone());
            Arc::new(Opened { mounter, device, mount_point }) as Arc<dyn MountedFileSystem>
        }))
    }

    fn flush_device(&self, device: &Path) -> Result<(), MountError> {
        self.begin(Verb::FlushDevice, device).map(drop)
    }
}

impl MountedFileSystem for Opened {
    fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    fn sync(&self) -> Result<(), MountError> {
        self.mounter.begin(Verb::Sync, &self.mount_point).map(drop)
    }

    fn freeze(&self) -> Result<Freeze, MountError> {
        let mut state = self.mounter.begin(Verb::Freeze, &self.mount_point)?;
        let frozen = std::mem::replace(&mut state.device(&self.device).frozen, true);
        Ok(if frozen { Freeze::Foreign } else { Freeze::Ours })
    }

    fn thaw(&self) -> Result<(), MountError> {
        self.mounter.begin(Verb::Thaw, &self.mount_point)?.device(&self.device).frozen = false;
        Ok(())
    }
}
