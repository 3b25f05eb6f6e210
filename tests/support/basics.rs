//! The few things that every test may need: sizes, waiting, turns, and what is asked of a pool.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "test support; no test uses all of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use windlass::pool::record::NewSnapshot;
use windlass::types::{AccessMode, CapacityRange, DataChecksum, NewVolume, VolumeId, VolumeMode, VolumeSize};

/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;
/// Bytes in a gibibyte.
pub const GIB: u64 = 1 << 30;

/// Looks at `condition` every 10 ms until it gives a value.
///
/// # Panics
/// When `bound` passes first; `what` says what was waited for.
pub fn wait_for<T>(what: &str, bound: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < bound, "waited {bound:?} in vain for {what}");
        windlass::types::poll::pause(Duration::from_millis(10));
    }
}

/// For tests of one binary that share a disk, or look at all that the kernel has of ours: one at a time.
pub fn turn() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where `e2e/setup.sh` puts a program that it builds: beside what cargo makes, wherever that is.
///
/// # Panics
/// When cargo has built this for a folder without a parent, which it does not.
pub fn tool_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("tools").join(name)
}

/// A program that `e2e/setup.sh` has built.
///
/// # Panics
/// When it is not there.
pub fn built_tool(name: &str) -> PathBuf {
    let path = tool_path(name);
    assert!(path.exists(), "{} is missing: run e2e/setup.sh", path.display());
    path
}

/// A request for an empty raw volume without checksums. What a test wants otherwise it says: `NewVolume { source, ..new_volume(…) }`.
pub fn new_volume(name: &str, bytes: u64) -> NewVolume {
    NewVolume {
        name: name.to_owned().try_into().unwrap(),
        capacity: CapacityRange::exactly(VolumeSize::new(bytes).unwrap()),
        minimum: VolumeSize::new(4096).unwrap(),
        mode: VolumeMode::Block,
        access_modes: vec![AccessMode::SingleNodeWriter],
        mount_flags: Vec::new(),
        parameters: BTreeMap::new(),
        checksum: DataChecksum::Off,
        source: None,
        foreign_source: None,
        kubernetes: Default::default(),
    }
}

/// A request for a snapshot.
pub fn new_snapshot(name: &str, source: VolumeId) -> NewSnapshot {
    NewSnapshot { name: name.to_owned().try_into().unwrap(), source, parameters: BTreeMap::new(), kubernetes: Default::default() }
}
