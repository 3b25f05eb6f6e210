//! The node's own copy of a writable descriptor, until it was handed out or nobody may have it any more.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::blocks::descriptor;

/// The copy. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct TargetFile {
    file: Arc<Mutex<Option<File>>>,
}

impl TargetFile {
    pub(super) fn new(file: File) -> Self {
        Self { file: Arc::new(Mutex::new(Some(file))) }
    }

    /// Sends it, and closes this copy before anybody else can look at it: an agent that has it may close its own and commit at once, and
    /// must not find this one open then.
    ///
    /// # Errors
    /// Whatever the system reports; `NotFound` when it is closed.
    pub(super) fn send(&self, socket: impl AsFd) -> io::Result<()> {
        let mut file = self.lock();
        let sent = match file.take() {
            Some(file) => descriptor::send(socket, &file),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        drop(file);
        sent
    }

    /// Closes it; waits while it is being sent.
    pub(super) fn close(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        // It is there or it is not.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;
    use crate::block::writers;

    #[test]
    fn it_is_sent_once_and_no_copy_stays_here() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let target = TargetFile::new(File::options().read(true).write(true).open(named.path()).unwrap());
        let reader = File::open(named.path()).unwrap();
        let _path = named.into_temp_path();
        let (node, agent) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        target.send(&node).unwrap();
        assert_eq!(target.send(&node).unwrap_err().kind(), io::ErrorKind::NotFound);
        let received = descriptor::receive(&agent).unwrap();
        assert!(writers::is_open_for_writing(&reader).unwrap());
        drop(received);
        assert!(!writers::is_open_for_writing(&reader).unwrap());
    }
}
