//! Notices that a socket has gone from a directory that others may empty.
//!
//! The kernel tells of changes (inotify), and what it tells is only a reason to look: whether the file at the path is still ours is asked
//! of the file system, each time. A look is made every [`LOOK_AGAIN`] anyway, since the kernel drops events when too many are pending,
//! and tells nothing any more when the directory itself was replaced.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// Longest time until a socket that has gone is noticed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// A watch of one directory.
#[derive(Debug)]
pub(super) struct DirectoryWatch {
    events: AsyncFd<OwnedFd>,
}

impl DirectoryWatch {
    /// Starts it. Must be called within the runtime.
    #[expect(
        deprecated,
        reason = "its successor is unsafe for the sake of types that do not keep their descriptor; this one does"
    )]
    pub(super) fn start(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let changes = AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        inotify.add_watch(directory, changes)?;
        Ok(Self { events: AsyncFd::new(OwnedFd::from(inotify))? })
    }

    /// Waits until the file at `path` is not the one with this device and inode.
    ///
    /// # Errors
    /// When the path cannot be looked at.
    pub(super) async fn until_gone(&self, path: &Path, identity: (u64, u64)) -> io::Result<()> {
        loop {
            match tokio::fs::symlink_metadata(path).await {
                Ok(found) if (found.dev(), found.ino()) == identity => {}
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
            if let Ok(changed) = tokio::time::timeout(LOOK_AGAIN, self.next_events()).await {
                changed?;
            }
        }
    }

    /// Waits for events, and takes all that are there.
    async fn next_events(&self) -> io::Result<()> {
        let mut ready = self.events.readable().await?;
        // What it says does not matter, so an event that is cut off does not either.
        let mut buffer = [0; 4096];
        loop {
            let read = ready.try_io(|events| nix::unistd::read(events.get_ref(), &mut buffer).map_err(io::Error::from));
            match read {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => return Ok(()),
            }
        }
    }
}
