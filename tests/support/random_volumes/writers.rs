//! Writers that go on while snapshots are cut.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use windlass::block::AlignedBuffer;

use super::{BLOCK, content};

/// Threads that write to a device until this is dropped, also on a panic: nothing must hold the device then.
pub struct Writers {
    progress: Arc<Progress>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    written: u64,
    is_over: bool,
}

impl Writers {
    /// One with and one without the page cache, each in its half of the first `size` bytes: where the two collide, the kernel
    /// reports an error of the device at the next flush.
    pub fn start(device: &Path, size: u64, seed: u64) -> Self {
        let progress = Arc::new(Progress::default());
        let half = size / 2 / BLOCK * BLOCK;
        let threads = [(0, 0), (libc::O_DIRECT, half)].map(|(flags, first)| {
            let device = OpenOptions::new().write(true).custom_flags(flags).open(device).unwrap();
            let (progress, mut random) = (Arc::clone(&progress), StdRng::seed_from_u64(seed ^ first));
            std::thread::spawn(move || {
                let mut buffer = AlignedBuffer::zeroed(4 * BLOCK as usize);
                while !progress.is_over() {
                    let length = random.random_range(1..=4) * BLOCK as usize;
                    buffer[..length].copy_from_slice(&content(&mut random, length));
                    let at = first + random.random_range(0..half / BLOCK - 4) * BLOCK;
                    device.write_all_at(&buffer[..length], at).unwrap();
                    progress.count();
                }
            })
        });
        Self { progress, threads: threads.into() }
    }

    /// Waits until `count` writes more are done.
    pub fn wait_for(&self, count: u64) {
        let state = self.progress.state.lock().unwrap();
        let enough = state.written + count;
        let waited = self.progress.changed.wait_timeout_while(state, Duration::from_secs(60), |state| state.written < enough);
        assert!(!waited.unwrap().1.timed_out(), "the writers do not go on");
    }

    /// How many writes were done.
    pub fn written(&self) -> u64 {
        self.progress.state.lock().unwrap().written
    }
}

impl Progress {
    fn is_over(&self) -> bool {
        self.state.lock().unwrap().is_over
    }

    fn count(&self) {
        self.state.lock().unwrap().written += 1;
        self.changed.notify_all();
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        if let Ok(mut state) = self.progress.state.lock() {
            state.is_over = true;
        }
        for thread in self.threads.drain(..) {
            let written = thread.join();
            assert!(written.is_ok() || std::thread::panicking(), "a writer failed");
        }
    }
}
