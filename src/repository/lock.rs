//! Locks, in restic's protocol, so that restic and we may use one repository at a time.
//!
//! A lock is a small document that says who uses the repository and how. Taking one: look for locks that exclude ours, store
//! ours, wait 200 ms, look again; whoever then finds another that excludes it takes its own away and fails. Two competitors may
//! both fail, never both succeed. A holder refreshes every 5 minutes (a new document, then the old one is deleted).
//!
//! | | export, restore, list, forget, check | prune, key removal |
//! |---|---|---|
//! | **lock** | shared | exclusive |
//! | beside a shared one | yes: they only add objects, or remove one snapshot object | no: they delete packs that others may be about to refer to |
//! | beside an exclusive one | no | no |
//!
//! # Why an export that succeeds refers to nothing that a prune deletes
//! A prune deletes only while it holds the exclusive lock, an export looks for blobs that it need not store only while it holds a
//! shared one, and the two never hold at once: of two that store their locks, one at least sees the other's 200 ms later. What
//! could break this is a lock that vanishes under its holder:
//!
//! | who may remove a lock | what follows |
//! |---|---|
//! | its holder | nothing: it no longer relies on it |
//! | we, of another, exclusive | never, whatever it says: its holder may be in another namespace, on another host of the same name, or have another clock |
//! | we, of another, shared | only of a process that is [known to be gone](owner): what it was about to refer to, it never will |
//! | restic's `unlock`, by a person, or with a clock that is half an hour off | the holder finds out before its commit ([`LockGuard::check`]) and fails |
//!
//! A lock that was not refreshed for 30 minutes may be taken for dead, so an export whose lock is 22.5 minutes old goes no further,
//! and the commit itself is given up when it is not done in what is left of the 30 ([`LockGuard::during`]). Ages are
//! measured by the holder, by the larger of its two clocks; nobody else's clock is asked.
//!
//! # Waiting
//! Whoever finds the repository locked waits, but for a prune without a lock of his own, for as long as
//! [`Repository::with_retry_lock`] says, and looks again at growing intervals, so that a prune of hours is not disturbed, and many
//! agents do not look in step. An empty lock object is none: some stores leave one behind an upload that was cut off. One that cannot
//! be read may be half written, and is looked at again for half a minute; then it is an error, since it may exclude us.
//!
//! A prune that finds no moment without exports [announces](ahead) its exclusive lock after half of its patience, for a minute at a
//! time: exports that come then wait, those that work end, and it has its turn. restic's prune has no such turn: it looks again at
//! intervals of 5 to 60 s, and beside exports that overlap for the whole of its `--retry-lock` it fails, having changed nothing. A prune
//! of ours fails so only beside an export that works for longer than that minute whenever it asks, or beside another exclusive lock.
//!
//! # Cost
//! Two listings, one put, one delete, and a read of each lock of others that this process has not read before, 32 at a time.
//!
//! # What a crash leaves
//! A lock. The next one that takes a shared lock and [knows](owner) that its holder is gone removes it: another process of the same
//! host and namespace, or the node that serves the pool it was taken for. Everybody else leaves it to `restic unlock`, which
//! takes it for dead after half an hour, or at once with `--remove-all`.
//!
//! # Reading without a lock
//! A restore and a check may do without: whatever they read is authenticated and hashed, so that a prune beside them makes them fail
//! and never wrong. They ask for a lock all the same, since that failure would come after hours.
//!
//! A restore works during those 200 ms: it changes nothing of the repository, and what it writes is not published before the lock
//! was found to hold ([`LockGuard::confirm`]). At worst it reads what a competitor is removing. Then it takes its lock back, waits for
//! the other as long as it is to wait for anyone, and begins anew.

pub(super) mod ahead;
mod document;
mod owner;
mod patience;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::error::{Damage, RepositoryError};
use super::file;
use super::id::Id;
use super::open::Repository;
use super::store::{Key, Kind, StoreError};
use document::{LockFile, Registered};

pub use document::LockHolder;
pub use owner::LockOwner;
pub(crate) use patience::Patience;
pub use patience::RETRY_LOCK;

/// Time for a competitor's lock to become visible.
const SETTLE: Duration = Duration::from_millis(200);
const REFRESH_EVERY: Duration = Duration::from_secs(5 * 60);
/// How often the refresh task looks whether it is time, which bounds how late a failed refresh is repeated.
const REFRESH_TICK: Duration = Duration::from_secs(60);
/// Others may take a lock of this age for dead.
const STALE_AFTER: Duration = Duration::from_secs(30 * 60);
/// 30 minutes less one and a half refreshes.
const LOST_AFTER: Duration = Duration::from_secs(22 * 60 + 30);
/// A commit that is under way is given up when the lock has this age: the minute is for a request that is cut off to end at the store.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(29 * 60);
/// How often the lock's age is looked at during a commit.
const COMMIT_TICK: Duration = Duration::from_secs(1);
/// How long a removal is waited for by work that was cancelled, which is to end within a second.
const LET_GO_WITHIN: Duration = Duration::from_millis(500);
/// Leftovers of puts that are swept: far older than any put takes.
const SWEEP_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Locks fetched at once: each has a few hundred bytes.
const PARALLEL_LOADS: usize = 32;

/// How a repository is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Beside others: export, restore, forget of one snapshot, listing, checking.
    Shared,
    /// Alone: whatever deletes blobs.
    Exclusive,
}

/// Whether work that only reads locks the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locking {
    /// A shared lock, where one can be stored: nobody prunes meanwhile.
    #[default]
    Shared,
    /// None. A prune meanwhile makes a restore fail, and a check report what the prune removed; what is read is never wrong.
    None,
}

/// The document that stands for a held lock, and when it was stored.
#[derive(Debug)]
struct Stored {
    registered: Registered,
    at: Instant,
    by_clock: SystemTime,
}

impl Stored {
    fn new(registered: Registered) -> Self {
        Self { registered, at: Instant::now(), by_clock: SystemTime::now() }
    }

    fn id(&self) -> Id {
        self.registered.id()
    }

    /// The longer of what the two clocks say: one stands still while the machine sleeps, the other may be set.
    fn age(&self) -> Duration {
        self.at.elapsed().max(self.by_clock.elapsed().unwrap_or_default())
    }
}

/// A held lock, shared by its guard and its refresh. The turn is held over requests that replace or remove the document, so that
/// none is stored after it was released; what is stored may be looked at meanwhile.
#[derive(Debug)]
struct Held {
    turn: tokio::sync::Mutex<()>,
    stored: Mutex<Stored>,
}

impl Held {
    fn stored(&self) -> MutexGuard<'_, Stored> {
        // It is only ever replaced as a whole.
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock that is held and refreshed until it is released. Dropping it before [`release`](LockGuard::release) has ended removes it in
/// the background if a runtime is there, else leaves it.
pub struct LockGuard {
    repository: Repository,
    mode: LockMode,
    held: Arc<Held>,
    refresh: JoinHandle<()>,
    released: bool,
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("repository", &self.repository.id()).finish_non_exhaustive()
    }
}

impl LockGuard {
    /// The second half of taking a lock: waits until a competitor's lock would show, and looks for one. Until this has
    /// succeeded the lock protects nothing: what was read meanwhile may have been about to be removed.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] naming the other; the lock is then to be released.
    pub async fn confirm(&self) -> Result<(), RepositoryError> {
        let (own, age) = {
            let stored = self.held.stored();
            (stored.id(), stored.at.elapsed())
        };
        // Nothing announces a competitor's lock: the protocol is to wait this long and look.
        let _ = tokio::time::timeout(SETTLE.saturating_sub(age), std::future::pending::<()>()).await;
        self.repository.refuse_if_excluded(self.mode, Some(own)).await
    }

    /// Makes sure that the lock still holds. To be called before every step that relies on nobody having removed anything.
    ///
    /// # Errors
    /// [`RepositoryError::LockLost`] when it was removed, or not refreshed for 22.5 minutes.
    pub async fn check(&self) -> Result<(), RepositoryError> {
        loop {
            let (id, age) = {
                let stored = self.held.stored();
                (stored.id(), stored.age())
            };
            if age > LOST_AFTER {
                return Err(RepositoryError::LockLost("it could not be refreshed in time"));
            }
            if self.repository.store().size(Key::File(Kind::Lock, id)).await?.is_some() {
                return Ok(());
            }
            // It may have been replaced meanwhile; each refresh lets this look once more.
            if self.held.stored().id() == id {
                return Err(RepositoryError::LockLost("someone removed it"));
            }
        }
    }

    /// Does `work` while the lock holds: checks it, and gives the work up when the lock comes to the age at which others need not
    /// respect it. Work that is given up may have been done.
    ///
    /// # Errors
    /// As for [`check`](Self::check), also when the work was done too late; those of `work`.
    pub async fn during<T>(&self, work: impl Future<Output = Result<T, RepositoryError>>) -> Result<T, RepositoryError> {
        self.check().await?;
        let too_old = async {
            let mut tick = tokio::time::interval(COMMIT_TICK);
            while self.held.stored().age() <= GIVEN_UP_AFTER {
                tick.tick().await;
            }
        };
        let lost = RepositoryError::LockLost("it could not be refreshed while the last step was under way");
        tokio::select! {
            biased;
            done = work => if self.held.stored().age() > STALE_AFTER { Err(lost) } else { done },
            () = too_old => Err(lost),
        }
    }

    /// Removes the lock. Who does not wait for the store's answer and drops this leaves the removal to go on in the background, as
    /// one who drops the lock.
    ///
    /// # Errors
    /// When the store refuses; the lock then stays, and the next one that this process takes removes it.
    pub async fn release(mut self) -> Result<(), RepositoryError> {
        let held = Arc::clone(&self.held);
        // In its turn no refresh is under way, and the aborted task begins none after.
        let _turn = held.turn.lock().await;
        self.refresh.abort();
        let id = held.stored().id();
        let removed = self.repository.delete_object(Kind::Lock, id).await;
        // The refresh that was aborted may live a little longer and with it what it shares with this.
        held.stored().registered.release();
        self.released = true;
        removed
    }

    /// Removes the lock at the end of work that is done or has failed, which a lock that stays does not change: a refusal is only
    /// logged. Once `cancel` is cancelled, a store that does not answer is not waited for.
    pub async fn let_go(self, cancel: &CancellationToken) {
        let given_up = async {
            cancel.cancelled().await;
            // The time is the bound itself; nothing else is waited for.
            let _ = tokio::time::timeout(LET_GO_WITHIN, std::future::pending::<()>()).await;
        };
        tokio::select! {
            released = self.release() => if let Err(error) = released {
                tracing::warn!(%error, "the repository's lock could not be removed; the next transfer of this node removes it");
            },
            () = given_up => tracing::warn!("the store does not answer; the repository's lock may stay until the next transfer"),
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        self.refresh.abort();
        let (repository, held) = (self.repository.clone(), Arc::clone(&self.held));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _turn = held.turn.lock().await;
                let id = held.stored().id();
                if let Err(error) = repository.delete_object(Kind::Lock, id).await {
                    tracing::warn!(%error, lock = %id, "lock not removed; the next transfer of this node removes it");
                }
                held.stored().registered.release();
            });
        }
    }
}

/// Told whom or what is waited for, each time before it is looked at again.
pub type Waiting<'a> = &'a (dyn Fn(&RepositoryError) + Send + Sync);

impl Repository {
    /// Locks the repository, or says who excludes it after it has waited for them as long as it is [to](Self::with_retry_lock).
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] naming the other; [`RepositoryError::UnreadableLock`].
    pub async fn lock(&self, mode: LockMode) -> Result<LockGuard, RepositoryError> {
        self.lock_or_wait(mode, &|_| {}).await
    }

    /// [`lock`](Self::lock), telling `waiting` what is waited for.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub async fn lock_or_wait(&self, mode: LockMode, waiting: Waiting<'_>) -> Result<LockGuard, RepositoryError> {
        let mut patience = Patience::new(self.retry_lock());
        loop {
            let error = match self.announce(mode).await {
                Ok(guard) => match guard.confirm().await {
                    Ok(()) => return Ok(guard),
                    Err(error) => {
                        guard.release().await?;
                        error
                    }
                },
                Err(error) => error,
            };
            patience.wait(error, waiting).await?;
        }
    }

    /// The patience of one who waits for this repository's lock, from now on.
    pub(crate) fn patience(&self) -> Patience {
        Patience::new(self.retry_lock())
    }

    /// Announces a shared lock for work that only reads, if that is [to lock](Self::with_locking). `None` without one, which is said in a
    /// warning where one was wanted: a medium, a full disk or credentials that take no lock must not keep anybody from what they hold, nor a lock that nobody
    /// can read. The lock holds if [`LockGuard::confirm`] says so.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock), [`RepositoryError::UnreadableLock`] excepted.
    pub(crate) async fn announce_to_read(
        &self,
        patience: &mut Patience,
        waiting: Waiting<'_>,
    ) -> Result<Option<LockGuard>, RepositoryError> {
        if self.locking() == Locking::None {
            return Ok(None);
        }
        let failure = loop {
            let error = match self.announce(LockMode::Shared).await {
                Ok(guard) => return Ok(Some(guard)),
                Err(error) => error,
            };
            if let Err(error) = patience.wait(error, waiting).await {
                break error;
            }
        };
        if !cannot_be_taken(&failure) {
            return Err(failure);
        }
        tracing::warn!(error = %failure, "the repository is read without a lock; a prune meanwhile would end this with an error");
        Ok(None)
    }

    /// The same, for a lock that holds.
    ///
    /// # Errors
    /// As for [`announce_to_read`](Self::announce_to_read).
    pub(super) async fn lock_to_read(&self) -> Result<Option<LockGuard>, RepositoryError> {
        let mut patience = self.patience();
        loop {
            let Some(guard) = self.announce_to_read(&mut patience, &|_| {}).await? else { return Ok(None) };
            match guard.confirm().await {
                Ok(()) => return Ok(Some(guard)),
                Err(error) => {
                    guard.release().await?;
                    patience.wait(error, &|_| {}).await?;
                }
            }
        }
    }

    async fn announce(&self, mode: LockMode) -> Result<LockGuard, RepositoryError> {
        self.refuse_if_excluded(mode, None).await?;
        self.hold(mode).await
    }

    /// Stores a lock, whoever excludes it.
    async fn hold(&self, mode: LockMode) -> Result<LockGuard, RepositoryError> {
        let stored = self.store_lock(mode).await?;
        // From here on the guard's drop takes it away again.
        let held = Arc::new(Held { turn: tokio::sync::Mutex::new(()), stored: Mutex::new(stored) });
        let refresh = tokio::spawn(refresh(self.clone(), mode, Arc::clone(&held), REFRESH_TICK));
        Ok(LockGuard { repository: self.clone(), mode, held, refresh, released: false })
    }

    /// Removes old leftovers of puts that were cut off, once a day for each process; returns how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sweep_leftovers(&self) -> Result<u64, RepositoryError> {
        if document::sweep_is_due(self.id(), SWEEP_AFTER) { Ok(self.store().sweep(SWEEP_AFTER).await?) } else { Ok(0) }
    }

    /// Stores a lock. This process counts as its holder before it can be listed.
    async fn store_lock(&self, mode: LockMode) -> Result<Stored, RepositoryError> {
        let json = serde_json::to_vec(&LockFile::new(mode, self.lock_owner())).map_err(|error| RepositoryError::Damaged {
            object: Kind::Lock.folder().to_owned(),
            damage: Damage::Syntax(error.to_string()),
        })?;
        let sealed = file::encode(&self.sealer(), &json)?;
        let stored = Stored::new(Registered::new(Id::of(&sealed)));
        self.put_object(Kind::Lock, stored.id(), Bytes::from(sealed)).await?;
        Ok(stored)
    }

    /// Looks for locks other than `own` that exclude one of this mode. On the way shared ones are removed whose holders are gone.
    async fn refuse_if_excluded(&self, mode: LockMode, own: Option<Id>) -> Result<(), RepositoryError> {
        let listed = self.store().list(Kind::Lock).await?;
        let ids: BTreeSet<Id> =
            listed.iter().filter(|listed| listed.bytes > 0 && Some(listed.id) != own).map(|listed| listed.id).collect();
        let mut locks = document::remembered(self.id(), &ids);
        let unread: Vec<Id> = ids.iter().filter(|id| !locks.contains_key(id)).copied().collect();
        // Futures that own all they use: see `Repository::snapshots`.
        let loads = futures::stream::iter(unread).map(|id| {
            let repository = self.clone();
            async move { (id, repository.load_lock(id).await) }
        });
        let mut failure = None;
        for (id, loaded) in loads.buffer_unordered(PARALLEL_LOADS).collect::<Vec<_>>().await {
            match loaded {
                Ok(Some(lock)) => {
                    document::remember(self.id(), id, &lock);
                    locks.insert(id, lock);
                }
                // Released meanwhile.
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        let mut excluding: Option<LockFile> = None;
        for (id, lock) in locks {
            if self.is_abandoned(&id, &lock) && self.remove_abandoned(id, &lock).await {
                continue;
            }
            // Of several, an exclusive one says most.
            if lock.excludes(mode) && excluding.as_ref().is_none_or(|found| found.mode() == LockMode::Shared) {
                excluding = Some(lock);
            }
        }
        match (excluding, failure) {
            (Some(lock), _) => Err(RepositoryError::Locked { holder: Box::new(lock.holder()) }),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(()),
        }
    }

    /// Whether a lock is a shared one that certainly nobody holds.
    fn is_abandoned(&self, id: &Id, lock: &LockFile) -> bool {
        let (own, other) = (self.lock_owner(), lock.owner());
        let gone = || if own.is_same_process(&other) { !document::is_held(id) } else { own.knows_gone(&other, owner::look) };
        lock.mode() == LockMode::Shared && gone()
    }

    async fn remove_abandoned(&self, id: Id, lock: &LockFile) -> bool {
        tracing::info!(lock = %id, holder = %lock.holder(), "removing a shared lock whose process is gone");
        match self.delete_object(Kind::Lock, id).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(lock = %id, %error, "a lock whose process is gone could not be removed");
                false
            }
        }
    }

    /// `None` when it was released meanwhile.
    async fn load_lock(&self, id: Id) -> Result<Option<LockFile>, RepositoryError> {
        let unreadable = |damage| RepositoryError::UnreadableLock { object: Key::File(Kind::Lock, id).path(), damage };
        match self.load_document(Kind::Lock, id).await {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|error| unreadable(Damage::Syntax(error.to_string()))),
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => Ok(None),
            Err(RepositoryError::Damaged { damage, .. }) => Err(unreadable(damage)),
            Err(error) => Err(error),
        }
    }
}

/// Whether a lock failed for what its taker may not or cannot do, rather than for one who excludes it.
fn cannot_be_taken(error: &RepositoryError) -> bool {
    match error {
        RepositoryError::UnreadableLock { .. } => true,
        RepositoryError::Store(StoreError::Denied { object, .. } | StoreError::Io { object, .. }) => {
            object.starts_with(Kind::Lock.folder())
        }
        _ => false,
    }
}

async fn refresh(repository: Repository, mode: LockMode, held: Arc<Held>, tick: Duration) {
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (id, age) = {
            let stored = held.stored();
            (stored.id(), stored.age())
        };
        if age < REFRESH_EVERY {
            continue;
        }
        if age > LOST_AFTER {
            // A fresh document would hide that others were free to remove what we rely on.
            tracing::error!(lock = %id, "lock lost: it could not be refreshed in time");
            return;
        }
        match renew(&repository, mode, &held).await {
            Ok(()) => {}
            Err(error @ RepositoryError::LockLost(_)) => {
                tracing::error!(%error, lock = %id, "lock lost");
                return;
            }
            Err(error) => tracing::warn!(%error, lock = %id, age_seconds = age.as_secs(), "lock not refreshed; trying again"),
        }
    }
}

async fn renew(repository: &Repository, mode: LockMode, held: &Held) -> Result<(), RepositoryError> {
    let _turn = held.turn.lock().await;
    let id = held.stored().id();
    // One that was removed must not come back: whoever removed it no longer minds us.
    if repository.store().size(Key::File(Kind::Lock, id)).await?.is_none() {
        return Err(RepositoryError::LockLost("someone removed it"));
    }
    let renewed = repository.store_lock(mode).await?;
    // Registered until its document is removed, or is known to stay.
    let before = std::mem::replace(&mut *held.stored(), renewed);
    if let Err(error) = repository.delete_object(Kind::Lock, before.id()).await {
        tracing::warn!(%error, lock = %before.id(), "previous lock not removed; the next transfer of this node removes it");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
