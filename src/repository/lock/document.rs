//! A lock as it is stored: restic's JSON, and what this process remembers of the ones it has read.
//!
//! A lock's document never changes, since its name is the hash of its bytes; so each is read once by a process, however often it is
//! listed. What is remembered are the locks that the last listing of a repository showed, and the ids of those that this process holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::holder::LockHolder;
use super::mode::LockMode;
use super::owner::{self, LockOwner};
use crate::repository::id::Id;
use crate::repository::time::rfc3339;
use crate::types::Timestamp;

/// A lock as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LockFile {
    time: String,
    exclusive: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    pid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    uid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    gid: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl LockFile {
    pub(super) fn new(mode: LockMode, owner: &LockOwner) -> Self {
        Self {
            time: rfc3339(Timestamp::now()),
            exclusive: mode == LockMode::Exclusive,
            hostname: owner.hostname.clone(),
            username: owner.username.clone(),
            pid: owner.process,
            uid: nix::unistd::Uid::effective().as_raw(),
            gid: nix::unistd::Gid::effective().as_raw(),
        }
    }

    /// The same lock, taken at another time.
    #[cfg(test)]
    pub(super) fn dated(self, time: &str) -> Self {
        Self { time: time.to_owned(), ..self }
    }

    pub(super) fn mode(&self) -> LockMode {
        if self.exclusive { LockMode::Exclusive } else { LockMode::Shared }
    }

    pub(super) fn owner(&self) -> LockOwner {
        LockOwner { hostname: self.hostname.clone(), username: self.username.clone(), process: self.pid }
    }

    pub(super) fn holder(&self) -> LockHolder {
        LockHolder {
            mode: self.mode(),
            hostname: owner::name(&self.hostname).to_owned(),
            username: self.username.clone(),
            process: self.pid,
            since: self.time.clone(),
        }
    }

    pub(super) fn excludes(&self, other: LockMode) -> bool {
        self.exclusive || other == LockMode::Exclusive
    }
}

/// Locks that this process has read or holds.
static KNOWN: Mutex<Known> = Mutex::new(Known { read: BTreeMap::new(), held: BTreeSet::new(), swept: BTreeMap::new() });

struct Known {
    /// Locks of others that were read, by repository and id.
    read: BTreeMap<(Id, Id), LockFile>,
    /// Ids of the locks that this process has stored, or is about to, and has not removed.
    held: BTreeSet<Id>,
    /// When leftovers were last looked for, by repository.
    swept: BTreeMap<Id, Instant>,
}

fn known<T>(work: impl FnOnce(&mut Known) -> T) -> T {
    // Every change is one insertion or removal: a panic elsewhere leaves the maps whole.
    work(&mut KNOWN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Forgets the locks of a repository that are not among `listed`, and returns those of the others that are known.
pub(super) fn remembered(repository: Id, listed: &BTreeSet<Id>) -> BTreeMap<Id, LockFile> {
    known(|known| {
        known.read.retain(|(of, id), _| *of != repository || listed.contains(id));
        listed.iter().filter_map(|id| Some((*id, known.read.get(&(repository, *id))?.clone()))).collect()
    })
}

/// Remembers a lock that was read.
pub(super) fn remember(repository: Id, id: Id, lock: &LockFile) {
    known(|known| known.read.insert((repository, id), lock.clone()));
}

/// Whether this process holds the lock `id`.
pub(super) fn is_held(id: &Id) -> bool {
    known(|known| known.held.contains(id))
}

/// True once in each `interval`, when leftovers are to be looked for.
pub(super) fn sweep_is_due(repository: Id, interval: Duration) -> bool {
    known(|known| {
        known.swept.retain(|_, last| last.elapsed() < interval);
        let due = !known.swept.contains_key(&repository);
        if due {
            known.swept.insert(repository, Instant::now());
        }
        due
    })
}

/// The record that this process holds the lock `id`, until it is released or dropped.
#[derive(Debug)]
pub(super) struct Registered(Id);

impl Registered {
    pub(super) fn new(id: Id) -> Self {
        known(|known| known.held.insert(id));
        Self(id)
    }

    pub(super) fn id(&self) -> Id {
        self.0
    }

    /// From now on any process that finds the lock may remove it.
    pub(super) fn release(&self) {
        known(|known| known.held.remove(&self.0));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.release();
    }
}
