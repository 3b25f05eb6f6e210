//! Threads that keep a file system busy, and know what they made durable.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Files whose content and name were durable at some moment, with their sizes.
pub type Durable = Vec<(PathBuf, u64)>;

/// Bytes of each file: every byte is the low byte of the file's number.
const FILE_BYTES: usize = 6000;

/// Files kept by each thread: older ones are removed, so that the file system does not fill.
const KEPT: u64 = 200;

/// Writers of one directory; they stop when dropped.
pub struct Writers {
    stop: Arc<AtomicBool>,
    steps: Arc<AtomicU64>,
    durable: Vec<Arc<Mutex<Durable>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts `count` threads that create, fsync, rename, append and remove files beneath `directory`.
    pub fn start(directory: &Path, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let steps = Arc::new(AtomicU64::new(0));
        let mut durable = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count {
            let own = directory.join(format!("writer-{number}"));
            fs::create_dir_all(&own).unwrap();
            let list = Arc::new(Mutex::new(Durable::new()));
            durable.push(Arc::clone(&list));
            let (stop, steps) = (Arc::clone(&stop), Arc::clone(&steps));
            threads.push(std::thread::spawn(move || write(&own, &list, &stop, &steps)));
        }
        Self { stop, steps, durable, threads }
    }

    /// Steps done so far by all threads.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    /// What is durable now: it must be in every snapshot cut from here on, unless it was removed meanwhile. Only the last
    /// few of each thread, which are not removed soon.
    pub fn durable(&self) -> Durable {
        self.durable
            .iter()
            .flat_map(|list| {
                let list = list.lock().unwrap();
                list[list.len().saturating_sub(20)..].to_vec()
            })
            .collect()
    }

    /// Stops the threads and waits for them.
    pub fn finish(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.join();
    }
}

fn write(directory: &Path, durable: &Mutex<Durable>, stop: &AtomicBool, steps: &AtomicU64) {
    let log_path = directory.join("log");
    let mut log = OpenOptions::new().create(true).append(true).open(&log_path).unwrap();
    let parent = File::open(directory).unwrap();
    let mut number = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let temporary = directory.join("file.tmp");
        let path = directory.join(format!("file-{number}"));
        let mut file = File::create(&temporary).unwrap();
        file.write_all(&vec![low_byte(number); FILE_BYTES]).unwrap();
        file.sync_all().unwrap();
        fs::rename(&temporary, &path).unwrap();
        parent.sync_all().unwrap();
        durable.lock().unwrap().push((path, FILE_BYTES as u64));
        log.write_all(b"one more line\n").unwrap();
        if let Some(old) = number.checked_sub(KEPT) {
            fs::remove_file(directory.join(format!("file-{old}"))).unwrap();
        }
        number += 1;
        steps.fetch_add(1, Ordering::SeqCst);
    }
}

fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

/// Checks that every durable file is whole beneath another mount of the same file system.
///
/// # Panics
/// When one is missing or has other content.
pub fn assert_whole(durable: &Durable, written_at: &Path, seen_at: &Path) {
    for (path, size) in durable {
        let relative = path.strip_prefix(written_at).unwrap();
        let seen = seen_at.join(relative);
        let content = fs::read(&seen).unwrap_or_else(|error| panic!("{} was durable before the cut: {error}", seen.display()));
        assert_eq!(content.len() as u64, *size, "{}", seen.display());
        let number: u64 = relative.file_name().unwrap().to_str().unwrap().strip_prefix("file-").unwrap().parse().unwrap();
        assert!(content.iter().all(|byte| *byte == low_byte(number)), "{} has other content", seen.display());
    }
}
