//! One operation per object: locks that reject and do not queue.
//!
//! Three kinds, in one table. An exclusive lock is for an operation that changes an object or claims a name; a second one on
//! the same key fails at once. A pin is shared, and keeps a snapshot from being deleted while it is read or copied. A *yielding* lock is
//! for work in the background that nobody waits for: whoever wants an exclusive lock of its key makes it give way, and waits for that as long
//! as one step of the work takes ([`YIELD_BOUND`] at most). All are guards, freed on drop, so that no path of an operation forgets them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::PoolError;
use crate::types::{Object, ObjectName, SnapshotId};

/// Longest wait for work in the background to give way: it looks whether it is wanted after each step, of a few MiB of I/O.
pub const YIELD_BOUND: Duration = Duration::from_secs(10);

/// What can be locked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Object(Object),
    /// A name of a volume.
    VolumeName(ObjectName),
    /// A name of a snapshot.
    SnapshotName(ObjectName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(object) => object.fmt(f),
            Self::VolumeName(name) => write!(f, "the volume named `{name}`"),
            Self::SnapshotName(name) => write!(f, "the snapshot named `{name}`"),
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    locked: BTreeSet<Key>,
    pinned: BTreeMap<SnapshotId, u32>,
    yielding: BTreeSet<Key>,
    /// Those of them that somebody waits for.
    wanted: BTreeSet<Key>,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    yielded: Condvar,
}

/// The table of one pool. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct OperationLocks {
    shared: Arc<Shared>,
}

/// Exclusive locks, held until dropped.
#[derive(Debug)]
#[must_use]
pub struct Locked {
    keys: Vec<Key>,
    locks: OperationLocks,
}

/// A lock that gives way, held until dropped.
#[derive(Debug)]
#[must_use]
pub struct Yielding {
    key: Key,
    locks: OperationLocks,
}

impl Yielding {
    /// Whether somebody wants the key: the work is to end soon.
    pub fn is_wanted(&self) -> bool {
        self.locks.table().wanted.contains(&self.key)
    }
}

/// A pin on a snapshot, held until dropped.
#[derive(Debug)]
#[must_use]
pub struct Pin {
    snapshot: SnapshotId,
    locks: OperationLocks,
}

impl OperationLocks {
    /// Locks all keys, or none. A key named twice is locked once. Waits for work in the background that has one of them, and for nothing else.
    ///
    /// # Errors
    /// [`PoolError::Busy`] when one of them is locked.
    pub fn lock(&self, keys: impl IntoIterator<Item = Key>) -> Result<Locked, PoolError> {
        let keys: BTreeSet<Key> = keys.into_iter().collect();
        let deadline = Instant::now() + YIELD_BOUND;
        let mut table = self.table();
        loop {
            if let Some(taken) = keys.iter().find(|key| table.locked.contains(key)) {
                return Err(PoolError::Busy(taken.to_string()));
            }
            let held: Vec<Key> = keys.intersection(&table.yielding).cloned().collect();
            let Some(first) = held.first() else { break };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(PoolError::Busy(first.to_string()));
            }
            table.wanted.extend(held);
            table = self.shared.yielded.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        table.locked.extend(keys.iter().cloned());
        Ok(Locked { keys: keys.into_iter().collect(), locks: self.clone() })
    }

    /// Locks a key for work that gives way to everybody else.
    ///
    /// # Errors
    /// [`PoolError::Busy`] when it is locked in any way.
    pub fn lock_yielding(&self, key: Key) -> Result<Yielding, PoolError> {
        let mut table = self.table();
        if table.locked.contains(&key) || !table.yielding.insert(key.clone()) {
            return Err(PoolError::Busy(key.to_string()));
        }
        Ok(Yielding { key, locks: self.clone() })
    }

    /// Pins a snapshot.
    ///
    /// # Errors
    /// [`PoolError::Busy`] while it is locked: it may be on its way out.
    pub fn pin(&self, snapshot: SnapshotId) -> Result<Pin, PoolError> {
        let mut table = self.table();
        let key = Key::Object(Object::Snapshot(snapshot));
        if table.locked.contains(&key) {
            return Err(PoolError::Busy(key.to_string()));
        }
        *table.pinned.entry(snapshot).or_default() += 1;
        Ok(Pin { snapshot, locks: self.clone() })
    }

    /// Whether anything pins the snapshot. Steady while the caller holds its lock.
    pub fn is_pinned(&self, snapshot: SnapshotId) -> bool {
        self.table().pinned.contains_key(&snapshot)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is consistent after every statement, so a panic elsewhere does not spoil it.
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Yielding {
    fn drop(&mut self) {
        let mut table = self.locks.table();
        table.yielding.remove(&self.key);
        table.wanted.remove(&self.key);
        drop(table);
        self.locks.shared.yielded.notify_all();
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let mut table = self.locks.table();
        for key in &self.keys {
            table.locked.remove(key);
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut table = self.locks.table();
        if let Some(count) = table.pinned.get_mut(&self.snapshot) {
            *count -= 1;
            if *count == 0 {
                table.pinned.remove(&self.snapshot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::VolumeId;

    fn volume() -> Key {
        Key::Object(Object::Volume(VolumeId::random()))
    }

    #[test]
    fn a_second_lock_on_a_key_is_refused_until_the_first_is_dropped() {
        let locks = OperationLocks::default();
        let (one, two) = (volume(), volume());
        let held = locks.lock([one.clone()]).unwrap();
        assert!(matches!(locks.lock([two.clone(), one.clone()]), Err(PoolError::Busy(_))));
        // The refused call took nothing.
        drop(locks.lock([two.clone(), two]).unwrap());
        drop(held);
        drop(locks.lock([one]).unwrap());
    }

    #[test]
    fn work_in_the_background_gives_way_to_whoever_wants_its_key() {
        let locks = OperationLocks::default();
        let (one, two) = (volume(), volume());
        let yielding = locks.lock_yielding(one.clone()).unwrap();
        assert!(locks.lock_yielding(one.clone()).is_err(), "nor is it shared");
        drop(locks.lock([two.clone()]).unwrap());
        assert!(!yielding.is_wanted());
        let (others, key) = (locks.clone(), one.clone());
        let waiter = std::thread::spawn(move || others.lock([key, two]).map(drop));
        while !yielding.is_wanted() {
            std::thread::yield_now();
        }
        drop(yielding);
        waiter.join().unwrap().unwrap();
        let held = locks.lock([one.clone()]).unwrap();
        assert!(locks.lock_yielding(one.clone()).is_err(), "it waits for nobody itself");
        drop(held);
        assert!(!locks.lock_yielding(one).unwrap().is_wanted());
    }

    #[test]
    fn pins_are_counted_and_refused_while_the_snapshot_is_locked() {
        let locks = OperationLocks::default();
        let snapshot = SnapshotId::random();
        let (first, second) = (locks.pin(snapshot).unwrap(), locks.pin(snapshot).unwrap());
        drop(first);
        assert!(locks.is_pinned(snapshot));
        drop(second);
        assert!(!locks.is_pinned(snapshot));
        let _held = locks.lock([Key::Object(Object::Snapshot(snapshot))]).unwrap();
        assert!(matches!(locks.pin(snapshot), Err(PoolError::Busy(_))));
    }
}
