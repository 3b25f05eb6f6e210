//! Locks, in restic's protocol, so that restic and we may use one repository at a time.
//!
//! A lock is a small document that says who uses the repository and how. Taking one: look for locks that exclude ours, store
//! ours, wait 200 ms, look again; whoever then finds another that excludes it takes its own away and fails. Two competitors may
//! both fail, never both succeed. A holder refreshes every 5 minutes (a new document, then the old one is deleted). A lock that
//! is 30 minutes old, or whose process is dead on this host, is stale: anyone may remove it. A holder that could not
//! refresh for 22.5 minutes must therefore stop relying on it, long before others stop respecting it.
//!
//! | | export, restore, list, forget, check | prune (restic's), key removal |
//! |---|---|---|
//! | **lock** | shared | exclusive |
//! | beside a shared one | yes: they only add objects, or remove one snapshot object | no: they delete packs that others may be about to refer to |
//! | beside an exclusive one | no | no |
//!
//! restic asks whether a lock's process is alive by sending it SIGHUP, which would end a process that does not expect it. So
//! taking a lock makes this process survive SIGHUP from then on, as restic does itself.
//!
//! A restore works during those 200 ms: it changes nothing of the repository, and what it writes is not published before the lock
//! was found to hold ([`LockGuard::confirm`]). At worst it reads what a competitor is removing, and fails.
//!
//! An export checks its lock before it stores its snapshot ([`LockGuard::check`]): with the lock held all along, nothing that
//! the snapshot refers to was removed. A crash leaves a lock that becomes stale by itself.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::error::RepositoryError;
use super::id::Id;
use super::open::Repository;
use super::store::{Key, Kind, StoreError};
use super::time::{parse_rfc3339, rfc3339};
use crate::types::Timestamp;

/// Time for a competitor's lock to become visible.
const SETTLE: Duration = Duration::from_millis(200);
const REFRESH_EVERY: Duration = Duration::from_secs(5 * 60);
/// How often the refresh task looks whether it is time, which bounds how late a failed refresh is repeated.
const REFRESH_TICK: Duration = Duration::from_secs(60);
const STALE_AFTER: Duration = Duration::from_secs(30 * 60);
/// 30 minutes less one and a half refreshes.
const LOST_AFTER: Duration = Duration::from_secs(22 * 60 + 30);
/// How long a removal is waited for by work that was cancelled, which is to end within a second.
const LET_GO_WITHIN: Duration = Duration::from_millis(500);
/// Leftovers of other puts that are swept with the stale locks: far longer than any put takes.
const SWEEP_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How a repository is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Beside others: export, restore, forget of one snapshot, listing, checking.
    Shared,
    /// Alone: whatever deletes blobs.
    Exclusive,
}

/// In whose name locks are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOwner {
    /// The machine. Must be unique to it, since a process id of an equal host name is looked up here.
    pub hostname: String,
    /// The user's name.
    pub username: String,
    /// The process's id on that machine.
    pub process: u32,
}

impl LockOwner {
    /// This process on this host.
    pub fn of_this_process() -> Self {
        let hostname = nix::sys::utsname::uname().map(|name| name.nodename().to_string_lossy().into_owned()).unwrap_or_default();
        let user = nix::unistd::Uid::effective();
        let username = nix::unistd::User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name);
        Self { hostname, username, process: std::process::id() }
    }
}

/// Who holds a lock, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// How.
    pub mode: LockMode,
    /// On which machine.
    pub hostname: String,
    /// Which user.
    pub username: String,
    /// Which process.
    pub process: u32,
    /// Since when, RFC 3339.
    pub since: String,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            LockMode::Shared => "by",
            LockMode::Exclusive => "exclusively by",
        };
        write!(f, "{mode} {}@{} (process {}) since {}", self.username, self.hostname, self.process, self.since)
    }
}

/// A lock as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LockFile {
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
    fn new(mode: LockMode, owner: &LockOwner) -> Self {
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

    fn mode(&self) -> LockMode {
        if self.exclusive { LockMode::Exclusive } else { LockMode::Shared }
    }

    fn holder(&self) -> LockHolder {
        LockHolder {
            mode: self.mode(),
            hostname: self.hostname.clone(),
            username: self.username.clone(),
            process: self.pid,
            since: self.time.clone(),
        }
    }

    fn excludes(&self, other: LockMode) -> bool {
        self.exclusive || other == LockMode::Exclusive
    }

    /// True when nobody refreshes it any more. `is_alive` tells whether a process of this host runs.
    fn is_stale(&self, now: SystemTime, here: &LockOwner, is_alive: impl FnOnce(u32) -> bool) -> bool {
        // A time that cannot be read is not one that has passed.
        let time = parse_rfc3339(&self.time).map(SystemTime::from);
        let old = time.is_some_and(|time| now.duration_since(time).is_ok_and(|age| age > STALE_AFTER));
        old || self.hostname == here.hostname && self.pid != here.process && !is_alive(self.pid)
    }
}

fn is_alive(process: u32) -> bool {
    let Ok(process) = i32::try_from(process) else { return false };
    // Signal none only asks; EPERM means that it runs and is someone else's.
    process > 0 && nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), None) != Err(nix::errno::Errno::ESRCH)
}

/// Replaces the default action of SIGHUP, which is to end the process; see the module's header. Whoever in this process
/// listens for SIGHUP still hears it.
fn survive_hangup() {
    // The handler stays installed when the listener is dropped.
    if let Err(error) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) {
        tracing::warn!(%error, "SIGHUP is not handled; a `restic unlock` on this host would end this process");
    }
}

/// The document that stands for a held lock, and when it was stored.
struct Held {
    id: Id,
    stored: Instant,
    stored_by_clock: SystemTime,
}

impl Held {
    fn new(id: Id) -> Self {
        Self { id, stored: Instant::now(), stored_by_clock: SystemTime::now() }
    }

    /// The longer of what the two clocks say: one stands still while the machine sleeps, the other may be set.
    fn age(&self) -> Duration {
        self.stored.elapsed().max(self.stored_by_clock.elapsed().unwrap_or_default())
    }
}

/// A lock that is held and refreshed until it is released. Dropping it before [`release`](LockGuard::release) has ended removes it in
/// the background if a runtime is there, else leaves it to become stale in 30 minutes.
pub struct LockGuard {
    repository: Repository,
    mode: LockMode,
    held: Arc<Mutex<Held>>,
    refresh: JoinHandle<()>,
    released: bool,
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("repository", &self.repository.id()).finish_non_exhaustive()
    }
}

impl LockGuard {
    /// The second half of [`Repository::lock`]: waits until a competitor's lock would show, and looks for one. Until this has
    /// succeeded the lock protects nothing: what was read meanwhile may have been about to be removed.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] naming the other; the lock is then to be released.
    pub async fn confirm(&self) -> Result<(), RepositoryError> {
        let (own, age) = {
            let held = self.held.lock().await;
            (held.id, held.stored.elapsed())
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
        let held = self.held.lock().await;
        if held.age() > LOST_AFTER {
            return Err(RepositoryError::LockLost("it could not be refreshed in time"));
        }
        match self.repository.store().size(Key::File(Kind::Lock, held.id)).await? {
            Some(_) => Ok(()),
            None => Err(RepositoryError::LockLost("someone removed it")),
        }
    }

    /// Removes the lock. Who does not wait for the store's answer and drops this leaves the removal to go on in the background, as
    /// one who drops the lock.
    ///
    /// # Errors
    /// When the store refuses; the lock then becomes stale by itself.
    pub async fn release(mut self) -> Result<(), RepositoryError> {
        let held = Arc::clone(&self.held);
        // Under the mutex no refresh is under way, and the aborted task begins none after.
        let held = held.lock().await;
        self.refresh.abort();
        let removed = self.repository.delete_object(Kind::Lock, held.id).await;
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
                tracing::warn!(%error, "the repository's lock could not be removed; it becomes stale in 30 minutes");
            },
            () = given_up => tracing::warn!("the store does not answer; the repository's lock may stay for 30 minutes"),
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
                let held = held.lock().await;
                if let Err(error) = repository.delete_object(Kind::Lock, held.id).await {
                    tracing::warn!(%error, lock = %held.id, "lock not removed; it becomes stale in 30 minutes");
                }
            });
        }
    }
}

impl Repository {
    /// Locks the repository, or says who excludes it. Does not wait for them. Stale locks in the way are removed.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] naming the other.
    pub async fn lock(&self, mode: LockMode) -> Result<LockGuard, RepositoryError> {
        let guard = self.announce_lock(mode).await?;
        match guard.confirm().await {
            Ok(()) => Ok(guard),
            Err(error) => {
                guard.release().await?;
                Err(error)
            }
        }
    }

    /// The first half of [`lock`](Self::lock): the lock is stored, and holds if [`LockGuard::confirm`] says so.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub async fn announce_lock(&self, mode: LockMode) -> Result<LockGuard, RepositoryError> {
        survive_hangup();
        self.refuse_if_excluded(mode, None).await?;
        let id = self.save_document(Kind::Lock, &LockFile::new(mode, self.lock_owner())).await?;
        // From here on the guard's drop takes it away again.
        let held = Arc::new(Mutex::new(Held::new(id)));
        let refresh = tokio::spawn(refresh(self.clone(), mode, Arc::clone(&held)));
        Ok(LockGuard { repository: self.clone(), mode, held, refresh, released: false })
    }

    /// Removes locks that nobody refreshes any more, and old leftovers of puts that were cut off; returns how many locks.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remove_stale_locks(&self) -> Result<u64, RepositoryError> {
        let mut removed = 0;
        for listed in self.store().list(Kind::Lock).await? {
            if let Some(lock) = self.load_lock(listed.id).await?
                && lock.is_stale(SystemTime::now(), self.lock_owner(), is_alive)
            {
                self.remove_stale(listed.id, &lock).await?;
                removed += 1;
            }
        }
        self.store().sweep(SWEEP_AFTER).await?;
        Ok(removed)
    }

    async fn refuse_if_excluded(&self, mode: LockMode, own: Option<Id>) -> Result<(), RepositoryError> {
        for listed in self.store().list(Kind::Lock).await? {
            if Some(listed.id) == own {
                continue;
            }
            let Some(lock) = self.load_lock(listed.id).await?.filter(|lock| lock.excludes(mode)) else { continue };
            if !lock.is_stale(SystemTime::now(), self.lock_owner(), is_alive) {
                return Err(RepositoryError::Locked { holder: Box::new(lock.holder()) });
            }
            self.remove_stale(listed.id, &lock).await?;
        }
        Ok(())
    }

    async fn remove_stale(&self, id: Id, lock: &LockFile) -> Result<(), RepositoryError> {
        tracing::info!(lock = %id, holder = %lock.holder(), "removing a stale lock");
        self.delete_object(Kind::Lock, id).await
    }

    /// `None` when it was released meanwhile.
    async fn load_lock(&self, id: Id) -> Result<Option<LockFile>, RepositoryError> {
        match self.load_document(Kind::Lock, id).await {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|error| {
                RepositoryError::damaged(Key::File(Kind::Lock, id), super::error::Damage::Syntax(error.to_string()))
            }),
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

async fn refresh(repository: Repository, mode: LockMode, held: Arc<Mutex<Held>>) {
    let mut ticks = tokio::time::interval(REFRESH_TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut held = held.lock().await;
        if held.age() < REFRESH_EVERY {
            continue;
        }
        if held.age() > LOST_AFTER {
            // A fresh document would hide that others were free to remove what we rely on.
            tracing::error!(lock = %held.id, "lock lost: it could not be refreshed in time");
            return;
        }
        match renew(&repository, mode, &held).await {
            Ok(renewed) => *held = renewed,
            Err(error @ RepositoryError::LockLost(_)) => {
                tracing::error!(%error, lock = %held.id, "lock lost");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, lock = %held.id, age_seconds = held.age().as_secs(), "lock not refreshed; trying again")
            }
        }
    }
}

async fn renew(repository: &Repository, mode: LockMode, held: &Held) -> Result<Held, RepositoryError> {
    // One that was removed must not come back: whoever removed it no longer minds us.
    if repository.store().size(Key::File(Kind::Lock, held.id)).await?.is_none() {
        return Err(RepositoryError::LockLost("someone removed it"));
    }
    let renewed = Held::new(repository.save_document(Kind::Lock, &LockFile::new(mode, repository.lock_owner())).await?);
    if let Err(error) = repository.delete_object(Kind::Lock, held.id).await {
        tracing::warn!(%error, lock = %held.id, "previous lock not removed; it becomes stale in 30 minutes");
    }
    Ok(renewed)
}

#[cfg(test)]
mod tests;
