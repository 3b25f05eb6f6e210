//! The control node of device-mapper, made if it is not there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::error::DmError;

const CONTROL: &str = "/dev/mapper/control";

/// Its number: that of "miscellaneous" devices, and the minor that the kernel keeps for device-mapper, by which it also loads the
/// module when the node is opened.
const CONTROL_NUMBER: (u64, u64) = (10, 236);

/// That the kernel lacks something, and which module may have it.
pub(super) fn unavailable(what: &str, module: &str, source: io::Error) -> DmError {
    DmError::Unavailable { what: what.to_owned(), module: module.to_owned(), source }
}

/// Opens the control node, made if it is not there (a container's /dev does not follow the host's). One that was made in vain is
/// taken away again.
pub(super) fn open_control() -> Result<File, DmError> {
    let open = || OpenOptions::new().read(true).write(true).open(CONTROL);
    let (opened, made) = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_control().map_err(DmError::io(format!("make {CONTROL}")))?;
            (open(), Made::Now)
        }
        other => (other, Made::Before),
    };
    match opened {
        Ok(control) => {
            let metadata = control.metadata().map_err(DmError::io(format!("look at {CONTROL}")))?;
            let is_it = metadata.file_type().is_char_device() && nix::sys::stat::major(metadata.rdev()) == CONTROL_NUMBER.0;
            if is_it { Ok(control) } else { Err(DmError::io(CONTROL)(io::Error::other("is not the node of device-mapper"))) }
        }
        Err(error) => {
            if made == Made::Now {
                let _ = fs::remove_file(CONTROL);
            }
            match error.raw_os_error() {
                Some(libc::ENODEV | libc::ENXIO) => Err(unavailable("device-mapper", "dm_mod", error)),
                _ => Err(DmError::io(format!("open {CONTROL}"))(error)),
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Now,
    Before,
}

fn make_control() -> io::Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    if let Some(directory) = Path::new(CONTROL).parent() {
        fs::create_dir_all(directory)?;
    }
    let number = makedev(CONTROL_NUMBER.0, CONTROL_NUMBER.1);
    match mknod(CONTROL, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, number) {
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
