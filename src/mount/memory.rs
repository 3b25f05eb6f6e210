//! A double of the mount table, for tests without root.
//!
//! It keeps what a kernel would: which device is formatted how, what is mounted where and in which order, what is frozen. Targets
//! are real files and directories (of a temporary folder), so that what makes and removes them is tested too; devices are
//! paths that need not exist. It is as strict as the kernel: a busy device is busy, a blank one does not mount.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::mount::MsFlags;

use super::options;
use super::path::through_descriptor;
use super::{
    FileSystemStats, Formatting, Freeze, MountEntry, MountError, MountRequest, MountedFileSystem, Mounter, Probe, topmost,
};
use crate::types::{Access, FsType};

/// The verbs of [`Mounter`], for [`MemoryMounter::fail_next`] and [`MemoryMounter::calls`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named like the methods")]
pub enum Verb {
    Mounts,
    DeviceNumber,
    Probe,
    MakeFileSystem,
    Check,
    Mount,
    Bind,
    Unmount,
    Grow,
    GrowUnmounted,
    RenewIdentity,
    Stats,
    OpenMounted,
    Sync,
    FlushDevice,
    Freeze,
    Thaw,
}

/// How an injected failure looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// [`MountError::Busy`]
    Busy,
    /// [`MountError::NotFound`]
    NotFound,
    /// [`MountError::Program`]
    Program,
    /// [`MountError::Unsound`]
    Unsound,
    /// [`MountError::Io`] of this kind.
    Io(io::ErrorKind),
}

/// One call that was made: the verb and the device or path it was about.
pub type Call = (Verb, PathBuf);

#[derive(Debug, Default)]
struct State {
    devices: BTreeMap<PathBuf, Device>,
    mounts: Vec<MountEntry>,
    last_id: u64,
    failures: Vec<(Verb, Failure)>,
    calls: Vec<Call>,
}

#[derive(Debug, Clone)]
struct Device {
    content: Probe,
    device_bytes: u64,
    file_system_bytes: u64,
    identity: u64,
    frozen: bool,
}

impl Default for Device {
    fn default() -> Self {
        Self { content: Probe::Blank, device_bytes: 1 << 30, file_system_bytes: 1 << 30, identity: 0, frozen: false }
    }
}

/// A [`Mounter`] in memory. Clones are of the same one.
#[derive(Debug, Clone, Default)]
pub struct MemoryMounter {
    state: Arc<Mutex<State>>,
}

/// A file system that was mounted when it was opened.
#[derive(Debug)]
struct Opened {
    mounter: MemoryMounter,
    device: PathBuf,
    mount_point: PathBuf,
}

impl MemoryMounter {
    /// No mounts, every device blank and 1 GiB large.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next call of a verb fail. Several failures of one verb are used up in order.
    pub fn fail_next(&self, verb: Verb, failure: Failure) {
        self.state().failures.push((verb, failure));
    }

    /// What was called, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How often a verb was called.
    pub fn count(&self, verb: Verb) -> usize {
        self.state().calls.iter().filter(|(called, _)| *called == verb).count()
    }

    /// Puts content on a device.
    pub fn set_content(&self, device: &Path, content: Probe) {
        self.state().device(device).content = content;
    }

    /// Copies one device's content to another, its identity included, as a snapshot does.
    pub fn copy_content(&self, from: &Path, to: &Path) {
        let mut state = self.state();
        let mut copy = state.device(from).clone();
        copy.frozen = false;
        copy.device_bytes = state.device(to).device_bytes;
        *state.device(to) = copy;
    }

    /// Sets the size of a device; a file system on it keeps its own until it is grown.
    pub fn set_device_size(&self, device: &Path, bytes: u64) {
        let mut state = self.state();
        let device = state.device(device);
        device.device_bytes = bytes;
        if device.content == Probe::Blank {
            device.file_system_bytes = bytes;
        }
    }

    /// Size of the file system on a device.
    pub fn file_system_size(&self, device: &Path) -> u64 {
        self.state().device(device).file_system_bytes
    }

    /// Adds a word to the options of a device's mounted file system, as the kernel does when the file system gives up.
    pub fn add_super_option(&self, device: &Path, word: &str) {
        let number = number_of(device);
        for entry in self.state().mounts.iter_mut().filter(|entry| entry.is_of(device, number)) {
            entry.super_options.push(word.to_owned());
        }
    }

    /// Freezes the file system of a device as somebody else would.
    pub fn freeze_by_others(&self, device: &Path) {
        self.state().device(device).frozen = true;
    }

    /// Whether the file system of a device is frozen.
    pub fn is_frozen(&self, device: &Path) -> bool {
        self.state().device(device).frozen
    }

    /// Mounts a device above whatever is at `target`, as somebody else may.
    pub fn mount_by_others(&self, device: &Path, target: &Path, fs_type: FsType) {
        self.state().push(MountEntry {
            id: 0,
            device: number_of(device),
            root: PathBuf::from("/"),
            peer_group: None,
            mount_point: target.to_owned(),
            options: words(Access::ReadWrite, MsFlags::empty()),
            fs_type: fs_type.name().to_owned(),
            source: device.to_owned(),
            super_options: Vec::new(),
        });
    }

    /// Forgets mounts and freezes, as a new boot of the machine does.
    pub fn reboot(&self) {
        let mut state = self.state();
        state.mounts.clear();
        state.devices.values_mut().for_each(|device| device.frozen = false);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panics in one thread shall see what the others did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, verb: Verb, subject: &Path) -> Result<MutexGuard<'_, State>, MountError> {
        let subject = through_descriptor(subject);
        let mut state = self.state();
        state.calls.push((verb, subject.clone()));
        match state.failures.iter().position(|(failing, _)| *failing == verb) {
            None => Ok(state),
            Some(at) => Err(match state.failures.remove(at).1 {
                Failure::Busy => MountError::Busy(subject),
                Failure::NotFound => MountError::NotFound(subject),
                Failure::Unsound => MountError::Unsound { place: subject, reason: "injected".to_owned() },
                Failure::Program => MountError::Program { program: "test", output: "injected".to_owned() },
                Failure::Io(kind) => MountError::io(format!("{verb:?} {}", subject.display()))(kind.into()),
            }),
        }
    }
}

impl State {
    fn device(&mut self, path: &Path) -> &mut Device {
        self.devices.entry(through_descriptor(path)).or_default()
    }

    fn top(&self, target: &Path) -> Option<&MountEntry> {
        topmost(&self.mounts).get(target).copied()
    }

    /// The mount that a path lies in or is.
    fn containing(&self, path: &Path) -> Result<&MountEntry, MountError> {
        let path = through_descriptor(path);
        path.ancestors()
            .find_map(|ancestor| self.top(ancestor))
            .ok_or_else(|| MountError::io(format!("{}: nothing is mounted", path.display()))(io::ErrorKind::InvalidInput.into()))
    }

    fn push(&mut self, entry: MountEntry) {
        self.last_id += 1;
        self.mounts.push(MountEntry { id: self.last_id, ..entry });
    }
}

fn number_of(device: &Path) -> (u32, u32) {
    let mut hasher = DefaultHasher::new();
    through_descriptor(device).hash(&mut hasher);
    // Minor numbers have 20 bits.
    (7, (hasher.finish() & 0xf_ffff) as u32)
}

fn words(access: Access, flags: MsFlags) -> Vec<String> {
    let mut words = vec![if access == Access::ReadOnly { "ro" } else { "rw" }];
    let known = [
        (MsFlags::MS_NOSUID, "nosuid"),
        (MsFlags::MS_NODEV, "nodev"),
        (MsFlags::MS_NOEXEC, "noexec"),
        (MsFlags::MS_NOATIME, "noatime"),
    ];
    words.extend(known.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, word)| word));
    words.into_iter().map(str::to_owned).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        directory: tempfile::TempDir,
        mounter: MemoryMounter,
    }

    impl Fixture {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap(), mounter: MemoryMounter::new() }
        }

        fn target(&self, name: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        }

        fn mount(&self, device: &str, target: &Path, fs_type: FsType) -> Result<(), MountError> {
            let (device, target) = (device.into(), target.to_owned());
            self.mounter.mount(&MountRequest { device, target, fs_type, options: Vec::new(), access: Access::ReadWrite })
        }
    }

    const DEVICE: &str = "/dev/volume-a";

    #[test]
    fn a_volume_is_made_staged_published_and_taken_down() {
        let fixture = Fixture::new();
        let (stage, publish) = (fixture.target("stage"), fixture.target("publish"));
        assert!(fixture.mount(DEVICE, &stage, FsType::Ext4).is_err());
        fixture.mounter.make_file_system(Path::new(DEVICE), FsType::Ext4, Formatting::Blank).unwrap();
        for _ in 0..2 {
            fixture.mount(DEVICE, &stage, FsType::Ext4).unwrap();
            fixture.mounter.bind(&stage, &publish, Access::ReadOnly, &[]).unwrap();
        }
        let mounts = fixture.mounter.mounts().unwrap();
        assert_eq!(mounts.len(), 2);
        let number = fixture.mounter.device_number(Path::new(DEVICE)).unwrap();
        assert!(mounts.iter().all(|entry| entry.shows(Path::new(DEVICE), number)));
        assert_eq!((mounts[0].access(), mounts[1].access()), (Access::ReadWrite, Access::ReadOnly));
        let opened = fixture.mounter.open_mounted(Path::new(DEVICE)).unwrap().unwrap();
        assert_eq!(opened.freeze().unwrap(), Freeze::Ours);
        assert_eq!(opened.freeze().unwrap(), Freeze::Foreign);
        opened.thaw().unwrap();
        for _ in 0..2 {
            fixture.mounter.unmount(&publish).unwrap();
            fixture.mounter.unmount(&stage).unwrap();
        }
        assert!(fixture.mounter.mounts().unwrap().is_empty());
        assert!(fixture.mounter.open_mounted(Path::new(DEVICE)).unwrap().is_none());
    }

    #[test]
    fn a_device_with_content_is_not_formatted() {
        let mounter = MemoryMounter::new();
        let device = Path::new(DEVICE);
        mounter.set_content(device, Probe::Other("swap space".to_owned()));
        for over in [Formatting::Blank, Formatting::Unfinished] {
            assert!(matches!(mounter.make_file_system(device, FsType::Xfs, over), Err(MountError::NotBlank { .. })));
        }
    }

    #[test]
    fn a_btrfs_copy_mounts_beside_its_source_only_with_an_identity_of_its_own() {
        let fixture = Fixture::new();
        let copy = "/dev/volume-b";
        fixture.mounter.make_file_system(Path::new(DEVICE), FsType::Btrfs, Formatting::Blank).unwrap();
        fixture.mounter.copy_content(Path::new(DEVICE), Path::new(copy));
        fixture.mount(DEVICE, &fixture.target("a"), FsType::Btrfs).unwrap();
        assert!(fixture.mount(copy, &fixture.target("b"), FsType::Btrfs).is_err());
        fixture.mounter.renew_identity(Path::new(copy), FsType::Btrfs).unwrap();
        fixture.mount(copy, &fixture.target("b"), FsType::Btrfs).unwrap();
    }

    #[test]
    fn injected_failures_are_used_up_in_order() {
        let fixture = Fixture::new();
        let target = fixture.target("a");
        fixture.mounter.fail_next(Verb::Unmount, Failure::Busy);
        fixture.mounter.fail_next(Verb::Unmount, Failure::Io(io::ErrorKind::Other));
        assert!(matches!(fixture.mounter.unmount(&target), Err(MountError::Busy(_))));
        assert!(matches!(fixture.mounter.unmount(&target), Err(MountError::Io { .. })));
        fixture.mounter.unmount(&target).unwrap();
        assert_eq!(fixture.mounter.count(Verb::Unmount), 3);
    }
}
