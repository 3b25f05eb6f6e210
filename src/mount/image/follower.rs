//! The thread that looks whether an image was enlarged.

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the size of an image that is served is looked at: a look is one `fstat`, and somebody may be waiting.
const PERIOD: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
/// Whether the file system has the size of the image.
pub(super) enum Followed {
    Yes,
    NotYet,
}

/// The thread that looks. Dropping it ends it, when a growth that runs is done.
#[derive(Debug)]
pub(super) struct Follower {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Calls `follow` with the file's size whenever that is larger than `known`, and again each period while it fails.
    pub(super) fn start(file: File, known: u64, mut follow: impl FnMut(u64) -> Followed + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let run = move || {
            let mut known = known;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PERIOD) {
                // A file that cannot be looked at has not grown.
                let Ok(bytes) = file.metadata().map(|metadata| metadata.len()) else { continue };
                if bytes > known && follow(bytes) == Followed::Yes {
                    known = bytes;
                }
            }
        };
        let thread = thread::Builder::new().name("image-growth".to_owned()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the follower of an image's size ended by a panic");
        }
    }
}
