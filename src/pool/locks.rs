//! One operation per object: locks that reject and do not queue.
//!
//! Two kinds, in one table. An exclusive lock is for an operation that changes an object or claims a name; a second one on
//! the same key fails at once. A pin is shared, and keeps a snapshot from being deleted while it is read or copied. Both are
//! guards, freed on drop, so that no path of an operation forgets them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::PoolError;
use crate::types::{Object, ObjectName, SnapshotId};

/// What can be locked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// An object.
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
}

/// The table of one pool. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct OperationLocks {
    table: Arc<Mutex<Table>>,
}

/// Exclusive locks, held until dropped.
#[derive(Debug)]
#[must_use]
pub struct Locked {
    keys: Vec<Key>,
    locks: OperationLocks,
}

/// A pin on a snapshot, held until dropped.
#[derive(Debug)]
#[must_use]
pub struct Pin {
    snapshot: SnapshotId,
    locks: OperationLocks,
}

impl OperationLocks {
    /// Locks all keys, or none. A key named twice is locked once.
    ///
    /// # Errors
    /// [`PoolError::Busy`] when one of them is locked.
    pub fn lock(&self, keys: impl IntoIterator<Item = Key>) -> Result<Locked, PoolError> {
        let keys: BTreeSet<Key> = keys.into_iter().collect();
        let mut table = self.table();
        if let Some(taken) = keys.iter().find(|key| table.locked.contains(key)) {
            return Err(PoolError::Busy(taken.to_string()));
        }
        table.locked.extend(keys.iter().cloned());
        Ok(Locked { keys: keys.into_iter().collect(), locks: self.clone() })
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
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
