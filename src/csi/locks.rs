//! One operation for each object at a time (invariant 5).
//!
//! A lock rejects, it never queues: a second call gets ABORTED and the orchestrator calls again. The guard travels with the
//! blocking work, not with the call that began it, so a call that is cancelled leaves the lock where the work is. A guard
//! that is dropped by a panic frees its key like any other. Locks live in memory: after a crash nothing is running.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::{ObjectName, SnapshotHandle, VolumeHandle};

use super::error::RequestError;

/// What is locked. Names of volumes and of snapshots are separate spaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Volume(VolumeHandle),
    Snapshot(SnapshotHandle),
    /// The name of a volume that may not exist yet.
    VolumeName(ObjectName),
    /// The name of a snapshot that may not exist yet.
    SnapshotName(ObjectName),
    /// A look at the fill state of a volume's file system, which may hang and must not hold up anything else.
    Statistics(VolumeHandle),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(handle) => write!(f, "volume {handle}"),
            Self::Snapshot(handle) => write!(f, "snapshot {handle}"),
            Self::VolumeName(name) => write!(f, "the volume named `{name}`"),
            Self::SnapshotName(name) => write!(f, "the snapshot named `{name}`"),
            Self::Statistics(handle) => write!(f, "the file system of volume {handle}"),
        }
    }
}

/// What a holder allows beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Nobody else.
    Exclusive,
    /// Others that share: several volumes may be made from one snapshot at once.
    Shared,
}

#[derive(Debug)]
enum Holders {
    One,
    Sharing(usize),
    /// Shared by so many, and by nobody more.
    Closed(usize),
}

/// The keys that are held.
#[derive(Debug, Clone, Default)]
pub struct Locks(Arc<Mutex<HashMap<Key, Holders>>>);

fn held(map: &Mutex<HashMap<Key, Holders>>) -> MutexGuard<'_, HashMap<Key, Holders>> {
    // Nothing panics while the map is locked, and each change of it is a single call.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Locks {
    /// Takes the lock of `key`; `field` is the field of the request that named it.
    ///
    /// # Errors
    /// [`super::error::Fault::InFlight`] when it is held in a way that excludes this one.
    pub fn take(&self, field: &'static str, key: Key, hold: Hold) -> Result<Guard, RequestError> {
        let mut map = held(&self.0);
        match (map.get_mut(&key), hold) {
            (None, Hold::Exclusive) => {
                map.insert(key.clone(), Holders::One);
            }
            (None, Hold::Shared) => {
                map.insert(key.clone(), Holders::Sharing(1));
            }
            (Some(Holders::Sharing(count)), Hold::Shared) => *count += 1,
            (Some(Holders::One | Holders::Sharing(_) | Holders::Closed(_)), _) => {
                return Err(RequestError::in_flight(field, format!("another operation on {key} is running; call again")));
            }
        }
        drop(map);
        Ok(Guard { locks: self.clone(), key })
    }

    /// Admits nobody else to a key that is shared, until its present holders are gone. Nothing happens to a key that is free.
    pub fn close(&self, key: &Key) {
        if let Some(holders) = held(&self.0).get_mut(key)
            && let Holders::Sharing(count) = *holders
        {
            *holders = Holders::Closed(count);
        }
    }
}

/// Holds a key until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Guard {
    locks: Locks,
    key: Key,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut map = held(&self.locks.0);
        match map.get_mut(&self.key) {
            Some(Holders::Sharing(count) | Holders::Closed(count)) if *count > 1 => *count -= 1,
            Some(Holders::One | Holders::Sharing(_) | Holders::Closed(_)) | None => {
                map.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::VolumeName(ObjectName::try_from(name.to_owned()).unwrap())
    }

    #[test]
    fn a_second_operation_on_an_object_is_rejected_until_the_first_ends() {
        let locks = Locks::default();
        let first = locks.take("name", key("a"), Hold::Exclusive).unwrap();
        assert!(locks.take("name", key("a"), Hold::Exclusive).is_err());
        assert!(locks.take("name", key("a"), Hold::Shared).is_err());
        let other = locks.take("name", key("b"), Hold::Exclusive).unwrap();
        drop(first);
        let again = locks.take("name", key("a"), Hold::Exclusive).unwrap();
        drop((other, again));
        assert!(held(&locks.0).is_empty());
    }

    #[test]
    fn sharing_ends_with_the_last_holder() {
        let locks = Locks::default();
        let first = locks.take("name", key("a"), Hold::Shared).unwrap();
        let second = locks.take("name", key("a"), Hold::Shared).unwrap();
        drop(first);
        assert!(locks.take("name", key("a"), Hold::Exclusive).is_err());
        drop(second);
        assert!(locks.take("name", key("a"), Hold::Exclusive).is_ok());
    }

    #[test]
    fn a_closed_key_opens_again_when_its_holders_are_gone() {
        let locks = Locks::default();
        let holders = [(); 2].map(|()| locks.take("name", key("a"), Hold::Shared).unwrap());
        locks.close(&key("a"));
        assert!(locks.take("name", key("a"), Hold::Shared).is_err());
        drop(holders);
        assert!(locks.take("name", key("a"), Hold::Shared).is_ok());
    }

    #[test]
    fn a_panic_frees_what_it_held() {
        let locks = Locks::default();
        let inner = locks.clone();
        let worker = std::thread::spawn(move || {
            let _guard = inner.take("name", key("a"), Hold::Exclusive).unwrap();
            panic!("as it were");
        });
        assert!(worker.join().is_err());
        assert!(locks.take("name", key("a"), Hold::Exclusive).is_ok());
    }
}
