//! What the kernel says of block devices, read in sysfs alone.
//!
//! Nothing is opened but files of sysfs: no device, and no file behind one. So a look at all devices neither waits for a file system that
//! does not answer nor fails because of one that is dead, whosever device is on it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const SYSFS: &str = "/sys";
/// What the kernel puts behind the path of a file that has no name any more.
pub(super) const DELETED: &[u8] = b" (deleted)";

/// What a block device stands upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beneath {
    /// A loop device: the path of its file, as it was reached. For people and for comparison: another file may be there by now.
    File(PathBuf),
    /// A device of device-mapper.
    Mapped { name: String, uuid: String },
}

/// A loop device that is attached, or a device of device-mapper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackedDevice {
    /// The kernel's name: `loop7`, `dm-3`.
    pub name: String,
    /// Major and minor number.
    pub number: (u32, u32),
    /// What is beneath.
    pub beneath: Beneath,
}

impl StackedDevice {
    /// The number in the name of a loop device.
    pub fn loop_number(&self) -> Option<u32> {
        self.name.strip_prefix("loop")?.parse().ok()
    }
}

/// All loop devices with a file behind them, and all devices of device-mapper. One that comes or goes meanwhile may be missed or not.
pub fn stacked_devices() -> io::Result<Vec<StackedDevice>> {
    stacked_in(Path::new(SYSFS))
}

/// What is beneath a block device; `None` for a loop device without a file, for any other kind of device, and for one that is gone.
pub fn beneath((major, minor): (u32, u32)) -> io::Result<Option<Beneath>> {
    look(&Path::new(SYSFS).join(format!("dev/block/{major}:{minor}")))
}

/// What is beneath the loop device with this number, as for [`beneath`].
pub(super) fn beneath_loop(number: u32) -> io::Result<Option<Beneath>> {
    look(&loop_device(number))
}

/// The path of the file of the loop device with this number, with the mark that the kernel puts behind one that has no name any more;
/// `None` when there is none.
pub(super) fn file_of_loop(number: u32) -> io::Result<Option<PathBuf>> {
    Ok(backing_file(&loop_device(number))?.map(|path| OsString::from_vec(path).into()))
}

fn loop_device(number: u32) -> PathBuf {
    Path::new(SYSFS).join(format!("block/loop{number}"))
}

fn backing_file(device: &Path) -> io::Result<Option<Vec<u8>>> {
    attribute(&device.join("loop/backing_file"))
}

fn stacked_in(sysfs: &Path) -> io::Result<Vec<StackedDevice>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(sysfs.join("block"))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !(name.starts_with("loop") || name.starts_with("dm-")) {
            continue;
        }
        if let Some(beneath) = look(&entry.path())?
            && let Some(number) = attribute(&entry.path().join("dev"))?.as_deref().and_then(device_number)
        {
            found.push(StackedDevice { name, number, beneath });
        }
    }
    Ok(found)
}

fn look(device: &Path) -> io::Result<Option<Beneath>> {
    if let Some(path) = backing_file(device)? {
        let path = path.strip_suffix(DELETED).unwrap_or(&path);
        return Ok(Some(Beneath::File(OsStr::from_bytes(path).into())));
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match (attribute(&device.join("dm/name"))?, attribute(&device.join("dm/uuid"))?) {
        (Some(name), Some(uuid)) => Ok(Some(Beneath::Mapped { name: text(name), uuid: text(uuid) })),
        _ => Ok(None),
    }
}

/// An attribute without the newline that ends it; `None` when it, or its device, is not there.
fn attribute(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(mut bytes) => {
            bytes.pop_if(|last| *last == b'\n');
            Ok(Some(bytes))
        }
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// Whether an error of sysfs says that the attribute, or its device, is not there. EINVAL is what device-mapper's attributes answer while
/// their device is being removed (`dm_attr_show` of the kernel); nothing of this module asks for anything else that is invalid.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ENXIO | libc::EINVAL))
}

fn device_number(text: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A path without what the kernel's mount table puts behind the name of a file that was removed while it was mounted.
pub fn without_deletion_mark(path: &Path) -> Option<PathBuf> {
    let bytes = path.as_os_str().as_bytes().strip_suffix(b"//deleted")?;
    Some(OsString::from_vec(bytes.to_vec()).into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn device(sysfs: &Path, name: &str, number: &str, attributes: &[(&str, &[u8])]) {
        let device = sysfs.join("block").join(name);
        fs::create_dir_all(device.join("loop")).unwrap();
        fs::create_dir_all(device.join("dm")).unwrap();
        fs::write(device.join("dev"), number).unwrap();
        for (attribute, value) in attributes {
            fs::write(device.join(attribute), value).unwrap();
        }
    }

    #[test]
    fn devices_are_told_by_what_is_beneath_them() {
        let sysfs = tempfile::tempdir().unwrap();
        device(sysfs.path(), "loop0", "7:0\n", &[("loop/backing_file", b"/pool/volumes/a b\n")]);
        device(sysfs.path(), "loop1", "7:1\n", &[]);
        device(sysfs.path(), "loop2", "7:2\n", &[("loop/backing_file", b"/pool/volumes/gone (deleted)\n")]);
        device(sysfs.path(), "dm-0", "253:0\n", &[("dm/name", b"one\n"), ("dm/uuid", b"WINDLASS-one\n")]);
        device(sysfs.path(), "sda", "8:0\n", &[("loop/backing_file", b"/never\n")]);
        let mut found = stacked_in(sysfs.path()).unwrap();
        found.sort_by_key(|device| device.number);
        let file = |path: &str| Beneath::File(path.into());
        let mapped = Beneath::Mapped { name: "one".to_owned(), uuid: "WINDLASS-one".to_owned() };
        let seen: Vec<_> = found.iter().map(|device| (device.name.as_str(), device.number, device.beneath.clone())).collect();
        assert_eq!(
            seen,
            [
                ("loop0", (7, 0), file("/pool/volumes/a b")),
                ("loop2", (7, 2), file("/pool/volumes/gone")),
                ("dm-0", (253, 0), mapped)
            ]
        );
        assert_eq!(found[1].loop_number(), Some(2));
        assert_eq!(found[2].loop_number(), None);
    }

    #[test]
    fn a_device_that_is_being_removed_is_gone_and_no_error() {
        for code in [libc::ENOENT, libc::ENOTDIR, libc::ENODEV, libc::ENXIO, libc::EINVAL] {
            assert!(is_absent(&io::Error::from_raw_os_error(code)), "{code}");
        }
        for code in [libc::EIO, libc::EACCES, libc::EMFILE] {
            assert!(!is_absent(&io::Error::from_raw_os_error(code)), "{code}");
        }
    }

    #[test]
    fn the_mark_of_a_deleted_file_is_taken_off() {
        assert_eq!(without_deletion_mark(Path::new("/windlass/x//deleted")), Some("/windlass/x".into()));
        assert_eq!(without_deletion_mark(Path::new("/windlass/x")), None);
    }

    #[test]
    fn the_devices_of_this_machine_can_be_listed() {
        for device in stacked_devices().unwrap() {
            assert!(matches!(beneath(device.number), Ok(None)) || beneath(device.number).unwrap() == Some(device.beneath));
        }
    }
}
