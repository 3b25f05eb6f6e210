//! The set as its users see it.

use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread;
use std::time::Instant;

use super::member::{Absent, FailedPool, Member, MemberFigures, OpenedPool, Pace, PoolSource};
use super::state::{Condition, Entry, KnownNames, Shared, State};
use super::watcher::Watcher;
use crate::pool::owned::OwnedPool;
use crate::types::{ObjectName, PoolId, Timestamp};

/// The pools of a node. Clones are the same set.
#[derive(Clone)]
pub struct PoolSet {
    pub(super) shared: Arc<Shared>,
}

impl Default for PoolSet {
    /// No pools.
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl From<Vec<Arc<OwnedPool>>> for PoolSet {
    /// These pools, which nobody watches: for a process that has opened them itself.
    fn from(pools: Vec<Arc<OwnedPool>>) -> Self {
        let set = Self::with_pace(Pace::default());
        let mut state = set.shared.state();
        for pool in pools {
            state.entries.push(Entry {
                place: pool.location(),
                id: Some(pool.id()),
                condition: Condition::Open(OpenedPool { pool, foundation: Box::new(()) }),
                names: KnownNames::default(),
                figures: None,
                busy_since: None,
                due: Instant::now(),
                is_watched: false,
                is_tried: true,
            });
        }
        drop(state);
        set
    }
}

impl std::fmt::Debug for PoolSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.members()).finish()
    }
}

impl PoolSet {
    fn with_pace(pace: Pace) -> Self {
        Self { shared: Arc::new(Shared { pace, state: Mutex::default(), changed: Condvar::new() }) }
    }

    /// Opens the pools of these places, one after the other, and watches over them until the set is closed. One that does not open
    /// keeps no other from it. Blocks until each was tried once, or for [`Pace::start`] each.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(sources: Vec<Box<dyn PoolSource>>, pace: Pace) -> std::io::Result<Self> {
        let set = Self::with_pace(pace);
        for source in sources {
            let place = source.place();
            let mut state = set.shared.state();
            let index = state.entries.len();
            state.entries.push(Entry {
                place,
                id: None,
                condition: Condition::Failed {
                    reason: "it is being opened".to_owned(),
                    since: Timestamp::now(),
                    closed: Weak::new(),
                },
                names: KnownNames::default(),
                figures: None,
                busy_since: Some(Instant::now()),
                due: Instant::now(),
                is_watched: true,
                is_tried: false,
            });
            state.watching += 1;
            drop(state);
            let watcher = Watcher { shared: Arc::clone(&set.shared), index, source, failures: 0 };
            let spawned = thread::Builder::new().name("pool-member".to_owned()).spawn(move || watcher.run());
            if let Err(error) = spawned {
                set.shared.state().watching -= 1;
                set.close();
                return Err(error);
            }
            let deadline = Instant::now() + pace.start;
            let mut state = set.shared.state();
            while state.entries.get(index).is_some_and(|entry| entry.busy_since.is_some()) {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    tracing::warn!(place = source_place(&state, index), "a pool takes long to open; it joins when it is open");
                    break;
                }
                state = set.shared.wait(state, left);
            }
        }
        Ok(set)
    }

    /// The members, in the order of their places.
    pub fn members(&self) -> Vec<Member> {
        self.shared.state().entries.iter().map(|entry| entry.member(&self.shared.pace)).collect()
    }

    /// What was seen of each member when it was last looked at, in the order of their places. Of one that cannot be used now that is what it
    /// was before.
    pub fn figures(&self) -> Vec<MemberFigures> {
        let state = self.shared.state();
        let of = |entry: &Entry| MemberFigures {
            place: entry.place.clone(),
            id: entry.id,
            is_open: entry.open(&self.shared.pace).is_some(),
            figures: entry.figures.clone(),
        };
        state.entries.iter().map(of).collect()
    }

    /// The pools that are open, in the order of their places.
    pub fn pools(&self) -> Vec<Arc<OwnedPool>> {
        self.shared.state().entries.iter().filter_map(|entry| entry.open(&self.shared.pace)).cloned().collect()
    }

    /// Whether each member has been opened, or could not be, at least once.
    pub fn is_tried(&self) -> bool {
        self.shared.state().entries.iter().all(|entry| entry.is_tried)
    }

    /// The members that cannot be used now.
    pub fn failed(&self) -> Vec<FailedPool> {
        let failed = self.members().into_iter().filter_map(|member| match member {
            Member::Open(_) => None,
            Member::Failed(failed) => Some(failed),
        });
        failed.collect()
    }

    /// Ids of all members whose id is known, open or not.
    pub fn known_ids(&self) -> Vec<PoolId> {
        self.shared.state().entries.iter().filter_map(|entry| entry.id).collect()
    }

    /// The pool with this id.
    ///
    /// # Errors
    /// [`Absent`]: whether something exists in it cannot be said here.
    pub fn get(&self, id: PoolId) -> Result<Arc<OwnedPool>, Absent> {
        let state = self.shared.state();
        let mut failed = None;
        for entry in state.entries.iter().filter(|entry| entry.id == Some(id)) {
            match entry.member(&self.shared.pace) {
                Member::Open(pool) => return Ok(pool),
                Member::Failed(reason) => failed = Some(reason),
            }
        }
        Err(failed.map_or(Absent::Elsewhere { id }, Absent::Failed))
    }

    /// Looks at a pool now: somebody found it failing. One that failed is tried again: what was in its way may be gone.
    pub fn suspect(&self, id: PoolId) {
        let mut state = self.shared.state();
        for entry in state.entries.iter_mut().filter(|entry| entry.id == Some(id)) {
            entry.due = Instant::now();
        }
        self.shared.changed.notify_all();
    }

    /// Remembers that a volume of this name was made in a pool.
    pub fn made(&self, id: PoolId, name: &ObjectName) {
        let mut state = self.shared.state();
        for entry in state.entries.iter_mut().filter(|entry| entry.id == Some(id)) {
            // Of a pool that nobody watches no look ever takes the names up, and it never fails.
            if entry.is_watched {
                entry.names.made.insert(name.clone());
            }
        }
    }

    /// The member that cannot be used now and had a volume of this name when it was last looked at.
    pub fn failed_owner(&self, name: &ObjectName) -> Option<FailedPool> {
        let state = self.shared.state();
        let had = state.entries.iter().filter(|entry| entry.names.contains(name));
        had.filter_map(|entry| match entry.member(&self.shared.pace) {
            Member::Open(_) => None,
            Member::Failed(failed) => Some(failed),
        })
        .next()
    }

    /// Closes all pools and watches no more. Waits for looks and attempts that run, for at most [`Pace::close`]; whatever hangs beyond
    /// that ends with the process. Blocks.
    pub fn close(&self) {
        let mut state = self.shared.state();
        state.closing = true;
        self.shared.changed.notify_all();
        let mut closed = Vec::new();
        for entry in &mut state.entries {
            closed.extend(entry.fail("the node is stopping".to_owned()));
        }
        drop(state);
        // Not under the lock: the last reference closes files.
        drop(closed);
        let deadline = Instant::now() + self.shared.pace.close;
        let mut state = self.shared.state();
        while state.watching > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!("a pool does not answer; it is left behind");
                return;
            }
            state = self.shared.wait(state, left);
        }
    }
}

fn source_place(state: &State, index: usize) -> &str {
    state.entries.get(index).map_or("", |entry| &entry.place)
}
