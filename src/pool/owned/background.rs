//! The threads of an open pool: one that looks again and again, one that works on volumes as they are named. They know no pool, for
//! it is the pool that has them; whoever starts one says what it runs. Dropping one ends it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::types::VolumeId;

/// Volumes that may wait in a [`VolumeQueue`]; one that finds no place is found at the next start.
const WAITING: usize = 1024;

/// Looks, waits as long as that look says, and looks again.
pub(super) struct Repeating {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Repeating {
    /// Starts a thread of this name.
    pub(super) fn start(name: &str, mut look: impl FnMut() -> Duration + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let run = move || {
            loop {
                let pause = look();
                match stopped.recv_timeout(pause) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Repeating {
    fn drop(&mut self) {
        drop(self.stop.take());
        join(self.thread.take());
    }
}

/// Volumes on their way to a thread that works on them. The work ends when it sees its stop flag, or that no more volumes can arrive.
pub(super) struct VolumeQueue {
    stop: Arc<AtomicBool>,
    queue: Option<SyncSender<VolumeId>>,
    thread: Option<JoinHandle<()>>,
}

impl VolumeQueue {
    /// Starts a thread of this name.
    pub(super) fn start(name: &str, work: impl FnOnce(&Receiver<VolumeId>, &AtomicBool) + Send + 'static) -> io::Result<Self> {
        let (queue, arriving) = mpsc::sync_channel(WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(&arriving, &stopped))?;
        Ok(Self { stop, queue: Some(queue), thread: Some(thread) })
    }

    /// Names a volume to the thread. Returns at once.
    pub(super) fn push(&self, volume: VolumeId) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(volume)) = queue.try_send(volume) {
            tracing::debug!(%volume, "too many volumes wait to be worked on; this one is found at the next start");
        }
    }
}

impl Drop for VolumeQueue {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        drop(self.queue.take());
        join(self.thread.take());
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    let Some(thread) = thread else { return };
    let name = thread.thread().name().unwrap_or_default().to_owned();
    if thread.join().is_err() {
        tracing::error!(thread = name, "a thread of the pool ended by a panic");
    }
}
