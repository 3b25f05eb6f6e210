//! What the kernel holds: mounts and loop devices beneath a directory, thin devices of a pool; and which files are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use windlass::dm::{DeviceMapper, DmError, DmName, Removal};

use super::program::{VISITORS, command, run};

/// A loop device and the file behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loop {
    /// The device node.
    pub device: PathBuf,
    /// The file; the kernel appends ` (deleted)` when it is gone.
    pub backing: String,
}

/// Mount points beneath `directory`, in kernel order, that is, later ones lie above earlier ones.
pub fn mounts_beneath(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
        .filter(|path| path.starts_with(directory))
        .collect()
}

/// Loop devices whose backing file lies beneath `directory`.
pub fn loops_beneath(directory: &Path) -> Vec<Loop> {
    let mut loops: Vec<Loop> = fs::read_dir("/sys/block")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?.trim_end().to_owned();
            Path::new(&backing)
                .starts_with(directory)
                .then(|| Loop { device: Path::new("/dev").join(entry.file_name()), backing })
        })
        .collect();
    loops.sort();
    loops
}

fn name_of(pool: &str, part: &str) -> DmName {
    DmName::new(format!("windlass-{pool}-{part}")).unwrap()
}

/// Names of all devices of a thin pool.
fn pool_devices(dm: &DeviceMapper, pool: &str) -> Vec<String> {
    let prefix = format!("windlass-{pool}-");
    dm.list().unwrap().into_iter().map(|device| device.name).filter(|name| name.starts_with(&prefix)).collect()
}

/// Thin devices of volumes and snapshots of a thin pool, but for those that go with a descriptor which somebody reads by, as the node
/// itself does in the background.
pub fn thin_devices(pool: &str) -> Vec<String> {
    let is_object = |name: &String| ["-v-", "-s-"].iter().any(|letter| name.contains(&format!("{pool}{letter}")));
    let dm = DeviceMapper::open().unwrap();
    let stays = |name: &String| dm.info(&DmName::new(name.clone()).unwrap()).unwrap().is_some_and(|info| !info.deferred_remove);
    let mut found = pool_devices(&dm, pool);
    found.retain(|name| is_object(name) && stays(name));
    found.sort();
    found
}

/// Removes all devices of a thin pool, whatever stands on it first; what could not be removed. For clean-up, so it does not panic.
pub fn remove_thin_pool(pool: &str) -> Vec<String> {
    let Ok(dm) = DeviceMapper::open() else { return vec!["device-mapper cannot be opened".to_owned()] };
    let mut left = Vec::new();
    for name in pool_devices(&dm, pool).iter().filter(|name| name.contains("-v-") || name.contains("-s-")) {
        left.extend(DmName::new(name.clone()).ok().and_then(|name| dm.remove(&name, Removal::Now).err()));
    }
    for part in ["pool", "data", "metadata", "catalogue"] {
        match dm.remove(&name_of(pool, part), Removal::Now) {
            Ok(()) | Err(DmError::Missing(_)) => {}
            Err(error) => left.push(error),
        }
    }
    left.iter().map(ToString::to_string).collect()
}

/// Unmounts everything beneath `directory`; what could not be. For clean-up, so it does not panic.
pub fn unmount_beneath(directory: &Path) -> Vec<String> {
    for mount in mounts_beneath(directory).iter().rev() {
        // A file system that a failed test left frozen would block its unmount for good.
        let _ = run(command("fsfreeze").arg("--unfreeze").arg(mount));
        let _ = run(command("umount").arg(mount));
    }
    mounts_beneath(directory).iter().map(|mount| format!("mount {}", mount.display())).collect()
}

/// Every file and directory beneath `directory`, relative to it.
pub fn files_beneath(directory: &Path) -> BTreeSet<PathBuf> {
    fn walk(directory: &Path, root: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            found.insert(entry.path().strip_prefix(root).unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), root, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(directory, directory, &mut found);
    found
}

/// Unmounts and detaches everything beneath `directory`; returns what could not be removed. For clean-up after a test, so
/// it does not panic.
pub fn tear_down(directory: &Path) -> Vec<String> {
    let mut left = Vec::new();
    // Again and again: what hides beneath a mount (a pool mounted in an image file) shows when the upper one is gone, and
    // short visitors (udev's probes) keep one busy for a moment.
    let start = Instant::now();
    while start.elapsed() < VISITORS && !(mounts_beneath(directory).is_empty() && loops_beneath(directory).is_empty()) {
        let _ = unmount_beneath(directory);
        for attached in loops_beneath(directory).iter().rev() {
            let _ = run(command("losetup").arg("--detach").arg(&attached.device));
        }
        windlass::types::poll::pause(Duration::from_millis(10));
    }
    left.extend(mounts_beneath(directory).iter().map(|mount| format!("mount {}", mount.display())));
    left.extend(loops_beneath(directory).iter().map(|attached| format!("loop {attached:?}")));
    left
}
