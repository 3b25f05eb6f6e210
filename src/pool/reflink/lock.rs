//! The lock by which a pool of files has one owner: of the inode, so mount namespaces do not matter.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::layout::Layout;
use crate::pool::PoolError;

/// The real path of a pool's directory.
pub(super) fn absolute(directory: &Path) -> Result<PathBuf, PoolError> {
    fs::canonicalize(directory).map_err(|error| PoolError::io(format!("find the directory {}", directory.display()), error))
}

/// Locks a pool, whose lock file is made if it is not there.
pub(super) fn lock(layout: &Layout) -> Result<Flock<File>, PoolError> {
    let path = layout.lock();
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    exclusive(file.map_err(|error| PoolError::io(format!("open {}", path.display()), error))?, layout)
}

/// Locks the open lock file.
pub(super) fn exclusive(file: File, layout: &Layout) -> Result<Flock<File>, PoolError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::Error::EWOULDBLOCK => PoolError::Owned(layout.root().display().to_string()),
        error => PoolError::io(format!("lock {}", layout.lock().display()), error.into()),
    })
}
