//! The names around an image, and its lock.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::error::ImageError;

pub(super) fn lock(file: File, path: &Path) -> Result<Flock<File>, ImageError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::Error::EWOULDBLOCK => ImageError::Locked(path.to_owned()),
        error => ImageError::io("lock", path)(error.into()),
    })
}

pub(super) fn split(path: &Path) -> Result<(PathBuf, OsString), ImageError> {
    let name = path.file_name().ok_or_else(|| ImageError::io("use", path)(io::ErrorKind::InvalidInput.into()))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((parent.to_owned(), name.to_owned()))
}

pub(super) fn with_affixes(before: &str, name: &OsString, after: &str) -> OsString {
    let mut affixed = OsString::from(before);
    affixed.push(name);
    affixed.push(after);
    affixed
}
