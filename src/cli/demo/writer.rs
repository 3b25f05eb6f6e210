//! A program that keeps writing while a snapshot is cut, and what of its file must be in the snapshot.
//!
//! It appends records whose content follows from their number. A snapshot that is consistent holds every record whose write
//! had returned before the snapshot was asked for, none that was begun after it was answered, and no gap or torn record
//! between them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::repository::Id;

/// Size of a record in bytes.
pub const RECORD_BYTES: usize = 4096;

/// Records written at once.
const BATCH: u64 = 2;

/// Between two batches: 8 KiB each millisecond are about 8 MB/s, so that every cut meets writes and the volume is not filled
/// while a slow machine writes out what was copied before.
const PAUSE: Duration = Duration::from_millis(1);

/// Most records that are written (256 MiB), however slow the machine is.
const MAX_RECORDS: u64 = 65_536;

/// Bounds of what a snapshot may hold, in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Written before the snapshot was asked for.
    pub at_least: u64,
    /// Begun before the snapshot was answered.
    pub at_most: u64,
}

/// The running writer.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Records whose write was begun; raised before.
    begun: AtomicU64,
    /// Records whose write has returned; raised after.
    written: AtomicU64,
}

/// The record with this number.
fn record(number: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    let mut seed = Id::of(&number.to_le_bytes());
    for piece in bytes.chunks_exact_mut(Id::LENGTH) {
        piece.copy_from_slice(seed.as_bytes());
        seed = Id::of(seed.as_bytes());
    }
    bytes
}

impl Writer {
    /// Starts to write to a new file.
    ///
    /// # Errors
    /// When the file cannot be made or the thread not be started.
    pub fn start(path: &Path) -> io::Result<Self> {
        let mut file = File::create_new(path)?;
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("demo-writer".to_owned()).spawn(move || {
            for first in (0..MAX_RECORDS).step_by(BATCH as usize) {
                if seen.stop.load(Ordering::SeqCst) {
                    break;
                }
                let batch: Vec<u8> = (first..first + BATCH).flat_map(record).collect();
                seen.begun.store(first + BATCH, Ordering::SeqCst);
                file.write_all(&batch)?;
                seen.written.store(first + BATCH, Ordering::SeqCst);
                crate::types::poll::pause(PAUSE);
            }
            Ok(())
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Records whose write has returned.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::SeqCst)
    }

    /// Records whose write was begun.
    pub fn begun(&self) -> u64 {
        self.shared.begun.load(Ordering::SeqCst)
    }

    /// Stops and closes the file. Returns the number of records written.
    ///
    /// # Errors
    /// What a write met.
    pub fn stop(mut self) -> io::Result<u64> {
        self.end()?;
        Ok(self.written())
    }

    fn end(&mut self) -> io::Result<()> {
        self.shared.stop.store(true, Ordering::SeqCst);
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|_| Err(io::Error::other("the writer ended early"))),
            None => Ok(()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Whoever drops it without asking is not interested in what it met.
        let _ = self.end();
    }
}

/// Checks the writer's file in a copy of the volume. Returns the number of its records.
///
/// # Errors
/// A text that says what is wrong.
pub fn verify(path: &Path, bounds: Bounds) -> Result<u64, String> {
    let mut file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut number = 0;
    let mut bytes = Vec::with_capacity(RECORD_BYTES);
    loop {
        bytes.clear();
        let length = (&mut file).take(RECORD_BYTES as u64).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        let expected = record(number);
        if bytes != expected[..length] {
            return Err(format!("record {number} is not what was written"));
        }
        if length < RECORD_BYTES {
            break;
        }
        number += 1;
    }
    if number < bounds.at_least {
        return Err(format!("{number} records, but {} were written before the cut was asked for", bounds.at_least));
    }
    if number > bounds.at_most {
        return Err(format!("{number} records, but only {} were begun before the cut was answered", bounds.at_most));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Bounds = Bounds { at_least: 0, at_most: u64::MAX };

    fn written() -> (tempfile::TempDir, std::path::PathBuf, u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let writer = Writer::start(&path).unwrap();
        while writer.written() < 3 * BATCH {
            std::thread::yield_now();
        }
        let count = writer.stop().unwrap();
        (folder, path, count)
    }

    #[test]
    fn what_was_written_verifies_and_its_bounds_count() {
        let (_folder, path, count) = written();
        assert_eq!(verify(&path, Bounds { at_least: count, at_most: count }), Ok(count));
        assert!(verify(&path, Bounds { at_least: count + 1, at_most: u64::MAX }).is_err());
        assert!(verify(&path, Bounds { at_least: 0, at_most: count - 1 }).is_err());
    }

    #[test]
    fn a_cut_file_is_a_prefix_and_a_torn_record_is_not() {
        let (_folder, path, _) = written();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(5 * RECORD_BYTES + 100);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(verify(&path, ANY), Ok(5));
        bytes[2 * RECORD_BYTES + 7] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(verify(&path, ANY).unwrap_err().starts_with("record 2 "));
        bytes[2 * RECORD_BYTES..].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        assert!(verify(&path, ANY).unwrap_err().starts_with("record 2 "));
    }
}
