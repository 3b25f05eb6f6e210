//! The set of a node's pools, each with a state of its own: the failure domain is the pool.
//!
//! A pool is given by its place and opened from there, by a thread that watches over it for as long as the set is. What a member can
//! be:
//!
//! | state | left when |
//! |---|---|
//! | being opened | it opens or fails |
//! | open | a look at it fails: it is closed, and failed |
//! | failed, with the reason | it opens when it is tried again |
//!
//! * **Looks.** An open pool is looked at every 10 s ([`OwnedPool::check`]), and at once when somebody found it failing
//!   ([`PoolSet::suspect`]). While a look has not come back for 15 s the pool counts as failed, without being closed: its disk hangs,
//!   and nothing that waits for it could be closed. It counts again when the look comes back well.
//! * **Closing.** A failed pool is dropped, so that its locks and descriptors go and whoever repairs the file system can unmount it. Calls
//!   that run keep theirs until they end; until then it is not opened anew, which its own lock would refuse. Nothing is unmounted by
//!   force and no device is taken away: volumes in use keep what they have. What is beneath the pool (an image whose file system shut
//!   down must be unmounted and mounted again) is the business of the [`PoolSource`], at the next attempt.
//! * **Trying again.** After a second, then after twice as long each time, at most after a minute: a disk that comes back is noticed
//!   within a minute, and one that never does costs an attempt a minute. At once when somebody asks for it ([`PoolSet::suspect`]): a volume
//!   was taken down that may have been all that held what has to be made anew beneath the pool. What opens joins without a restart of the
//!   process, and is recovered like at any start; a restart at any point finds the same.
//! * **One pool, one place.** A second place with the id of an open member is refused: one of the two is a copy of the disk, and which
//!   of them is right is not for this program to say. At the start the earlier place wins, since places are opened in their order;
//!   later the one that serves.
//! * **Names.** A name is unique over the pools of a node, but a failed pool cannot be asked. What it held when it was last looked
//!   at is remembered here ([`PoolSet::failed_owner`]), and such a name is answered by nobody until the pool is back. Of a pool that this
//!   process never had open nothing is known: a new volume is then made elsewhere, since the other choice is that no volume is
//!   made anywhere as long as a disk is missing. It is a choice between two faults, and the smaller one: an orchestrator's names are made of
//!   its objects' unique ids and asked for again only until they were answered, so two pools have one name only if the pool died
//!   between making a volume and its answer and the process ended before it came back. The older one then is a
//!   volume that nobody was told of; both are kept, and a warning names them.
//!
//! The set never deletes, formats or repairs anything. All methods but [`PoolSet::start`] and [`PoolSet::close`] return at once: no state is
//! guarded by a lock that is held while a disk is waited for.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::owned::OwnedPool;
use crate::types::{ObjectName, PoolId, Timestamp};

pub mod offer;
#[cfg(test)]
pub(crate) mod tests;

/// A place where a pool is, or will be once its disk is there.
pub trait PoolSource: Send {
    /// The place, for people.
    fn place(&self) -> String;

    /// Opens the pool and recovers it; also when an earlier one of this place was closed because it failed. Blocks.
    ///
    /// # Errors
    /// Why not, in a sentence for people.
    fn open(&self) -> Result<OpenedPool, String>;
}

/// An opened pool and what it stands on. Dropping it closes it.
pub struct OpenedPool {
    /// The pool. Dropped first.
    pub pool: Arc<OwnedPool>,
    /// What must be held as long as the pool is open: the lock of an image.
    pub foundation: Box<dyn Send>,
}

/// How long the set waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks at an open pool.
    pub look: Duration,
    /// A look that takes longer means that the disk hangs.
    pub answer: Duration,
    /// From a failure to the first new attempt; doubled after each that fails.
    pub retry: Duration,
    /// Longest time between two attempts.
    pub retry_most: Duration,
    /// How long the start waits for one pool before it goes on to the next: longer than the recovery of any pool that is well. One
    /// that hangs keeps the others, whose leftovers may be frozen, from no more than that.
    pub start: Duration,
    /// How long [`PoolSet::close`] waits for looks and attempts that run.
    pub close: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            // As often as a kubelet probes.
            look: Duration::from_secs(10),
            // A disk that is only busy answers a read within that.
            answer: Duration::from_secs(15),
            retry: Duration::from_secs(1),
            retry_most: Duration::from_secs(60),
            start: Duration::from_secs(30),
            close: Duration::from_secs(10),
        }
    }
}

/// A member of the set that cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedPool {
    /// Its place.
    pub place: String,
    /// Its id, if it is known.
    pub id: Option<PoolId>,
    /// Why it cannot be used.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it is tried again; nothing while it is being tried.
    pub next_attempt: Option<Duration>,
}

impl std::fmt::Display for FailedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the pool at {} cannot be used now: {}", self.place, self.reason)
    }
}

/// A member of the set.
#[derive(Debug, Clone)]
pub enum Member {
    /// It is open.
    Open(Arc<OwnedPool>),
    /// It cannot be used now.
    Failed(FailedPool),
}

/// Why the set does not have a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// It is a member that cannot be used now.
    #[error("{0}")]
    Failed(FailedPool),
    /// No member is known to be it.
    #[error("belongs to pool {}, which is not on this node", .id.label())]
    Elsewhere {
        /// The pool.
        id: PoolId,
    },
}

/// The pools of a node. Clones are the same set.
#[derive(Clone)]
pub struct PoolSet {
    shared: Arc<Shared>,
}

struct Shared {
    pace: Pace,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    closing: bool,
    /// Threads that watch.
    watching: usize,
}

struct Entry {
    place: String,
    id: Option<PoolId>,
    condition: Condition,
    names: KnownNames,
    /// Since when a look or an attempt runs.
    busy_since: Option<Instant>,
    /// When the next one begins.
    due: Instant,
    is_watched: bool,
    /// Whether it has been opened, or an attempt has failed.
    is_tried: bool,
}

enum Condition {
    Open(OpenedPool),
    Failed { reason: String, since: Timestamp, closed: Weak<OwnedPool> },
}

/// The names of a pool's volumes, as far as they are known without asking it.
#[derive(Default)]
struct KnownNames {
    /// As of the last look.
    looked: BTreeSet<ObjectName>,
    /// Made since that look began.
    made: BTreeSet<ObjectName>,
}

impl KnownNames {
    fn begin_look(&mut self) {
        self.looked.append(&mut self.made);
    }

    fn contains(&self, name: &ObjectName) -> bool {
        self.looked.contains(name) || self.made.contains(name)
    }
}

impl Entry {
    /// The pool, if it can be used.
    fn open(&self, pace: &Pace) -> Option<&Arc<OwnedPool>> {
        match &self.condition {
            Condition::Open(opened) if !self.hangs(pace) => Some(&opened.pool),
            Condition::Open(_) | Condition::Failed { .. } => None,
        }
    }

    fn hangs(&self, pace: &Pace) -> bool {
        self.busy_since.is_some_and(|since| since.elapsed() > pace.answer)
    }

    fn member(&self, pace: &Pace) -> Member {
        if let Some(pool) = self.open(pace) {
            return Member::Open(Arc::clone(pool));
        }
        let next_attempt = self.busy_since.is_none().then(|| self.due.saturating_duration_since(Instant::now()));
        let (reason, since) = match &self.condition {
            Condition::Failed { reason, since, .. } => (reason.clone(), *since),
            Condition::Open(_) => {
                let waited = self.busy_since.map_or(Duration::ZERO, |since| since.elapsed());
                let since = std::time::SystemTime::now().checked_sub(waited).unwrap_or(std::time::UNIX_EPOCH);
                (format!("its disk has not answered for more than {} s", pace.answer.as_secs()), Timestamp::from(since))
            }
        };
        Member::Failed(FailedPool { place: self.place.clone(), id: self.id, reason, since, next_attempt })
    }
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

impl Entry {
    /// Takes the pool out, to be dropped when the lock is not held. What failed already keeps the time since when.
    fn fail(&mut self, reason: String) -> Option<OpenedPool> {
        let (since, closed) = match &self.condition {
            Condition::Failed { since, closed, .. } => (*since, Weak::clone(closed)),
            Condition::Open(opened) => (Timestamp::now(), Arc::downgrade(&opened.pool)),
        };
        match std::mem::replace(&mut self.condition, Condition::Failed { reason, since, closed }) {
            Condition::Open(opened) => Some(opened),
            Condition::Failed { .. } => None,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, bound: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, bound).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The thread that watches over one place.
struct Watcher {
    shared: Arc<Shared>,
    index: usize,
    source: Box<dyn PoolSource>,
    /// Attempts that failed since the pool was last open.
    failures: u32,
}

/// What the watcher does next.
enum Task {
    Look(Arc<OwnedPool>),
    Open,
    /// Calls that began before the pool was closed still have it.
    Linger,
}

impl Watcher {
    fn run(mut self) {
        while let Some(task) = self.next_task() {
            match task {
                Task::Look(pool) => self.look(pool),
                Task::Open => self.open(),
                Task::Linger => self.postpone(),
            }
        }
        self.shared.state().watching -= 1;
        self.shared.changed.notify_all();
    }

    /// Waits until something is due; nothing when the set is closing.
    fn next_task(&self) -> Option<Task> {
        let mut state = self.shared.state();
        loop {
            if state.closing {
                return None;
            }
            let entry = state.entries.get_mut(self.index)?;
            let left = entry.due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let task = match &entry.condition {
                    Condition::Open(opened) => {
                        entry.names.begin_look();
                        Task::Look(Arc::clone(&opened.pool))
                    }
                    Condition::Failed { closed, .. } if closed.strong_count() > 0 => Task::Linger,
                    Condition::Failed { .. } => Task::Open,
                };
                entry.busy_since.get_or_insert_with(Instant::now);
                return Some(task);
            }
            state = self.shared.wait(state, left);
        }
    }

    fn look(&mut self, pool: Arc<OwnedPool>) {
        let looked = guarded(|| {
            pool.check()?;
            pool.volume_names()
        });
        match looked {
            Ok(Ok(names)) => {
                drop(pool);
                self.settle(|entry| entry.names.looked = names);
            }
            Ok(Err(error)) => self.failed(Some(pool), error.to_string()),
            Err(panicked) => self.failed(Some(pool), panicked),
        }
    }

    fn open(&mut self) {
        let opened = match guarded(|| self.source.open()) {
            Ok(Ok(opened)) => opened,
            Ok(Err(reason)) | Err(reason) => return self.failed(None, reason),
        };
        let names = match guarded(|| opened.pool.volume_names()) {
            Ok(Ok(names)) => names,
            Ok(Err(error)) => return self.failed(None, error.to_string()),
            Err(panicked) => return self.failed(None, panicked),
        };
        let id = opened.pool.id();
        let state = self.shared.state();
        if state.closing {
            // `opened` is dropped after the guard.
            drop(state);
            return;
        }
        let twin =
            state.entries.iter().enumerate().find(|(index, entry)| {
                *index != self.index && entry.id == Some(id) && matches!(entry.condition, Condition::Open(_))
            });
        if let Some((_, twin)) = twin {
            let reason =
                format!("it is the same pool {id} as the one at {}, which is open; one of the two is a copy", twin.place);
            drop(state);
            drop(opened);
            return self.failed(None, reason);
        }
        let shared_names = state.entries.iter().enumerate().filter(|(index, _)| *index != self.index);
        for (_, other) in shared_names {
            for name in names.iter().filter(|name| other.names.contains(name)) {
                tracing::warn!(%name, place = self.source.place(), other = other.place, "two pools have a volume of one name");
            }
        }
        drop(state);
        tracing::info!(pool = %id, place = self.source.place(), "a pool is open");
        self.settle(move |entry| {
            entry.id = Some(id);
            entry.condition = Condition::Open(opened);
            entry.names = KnownNames { looked: names, made: BTreeSet::new() };
        });
    }

    /// The end of what went well.
    fn settle(&mut self, change: impl FnOnce(&mut Entry)) {
        self.failures = 0;
        let look = self.shared.pace.look;
        let mut state = self.shared.state();
        let closing = state.closing;
        if let Some(entry) = state.entries.get_mut(self.index) {
            // What is closed stays so.
            if !closing {
                change(entry);
            }
            entry.busy_since = None;
            entry.is_tried = true;
            entry.due = Instant::now() + look;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// What failed is still held by calls, and cannot be opened yet. Looking whether they have ended costs nothing, so the wait does not
    /// grow.
    fn postpone(&self) {
        let retry = self.shared.pace.retry;
        if let Some(entry) = self.shared.state().entries.get_mut(self.index) {
            entry.busy_since = None;
            entry.due = Instant::now() + retry;
        }
        self.shared.changed.notify_all();
    }

    /// The end of what did not; `pool` is what was looked at.
    fn failed(&mut self, pool: Option<Arc<OwnedPool>>, reason: String) {
        let wait = delay(&self.shared.pace, self.failures);
        self.failures = self.failures.saturating_add(1);
        let place = self.source.place();
        let mut state = self.shared.state();
        let closing = state.closing;
        let mut closed = None;
        if let Some(entry) = state.entries.get_mut(self.index) {
            let known = matches!(&entry.condition, Condition::Failed { reason: known, .. } if *known == reason);
            if !known && !closing {
                // Once for each reason, not for each attempt.
                tracing::warn!(place, reason, "a pool cannot be used now; it is tried again");
            }
            if !closing {
                closed = entry.fail(reason);
            }
            entry.busy_since = None;
            entry.is_tried = true;
            entry.due = Instant::now() + wait;
        }
        drop(state);
        // Not under the lock: the last reference closes files.
        drop((pool, closed));
        self.shared.changed.notify_all();
    }
}

/// How long to wait after so many failures in a row.
fn delay(pace: &Pace, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    pace.retry.saturating_mul(factor).min(pace.retry_most)
}

/// A panic in one pool is the failure of that pool.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| "looking at it panicked; see the log".to_owned())
}
