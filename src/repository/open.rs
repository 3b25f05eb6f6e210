//! An opened repository, and how one is made and opened.
//!
//! # Making one, exactly once
//! 1. nothing is there: no `config`, no keys (else see below);
//! 2. the key file is stored;
//! 3. `config` is stored on condition that there is none, and read back. This is the commit.
//!
//! Of several competitors one wins step 3; the others take their own key file away again, unless the winner's `config` is sealed by it: it
//! may have found that key and taken it for the remains of an interrupted attempt. A crash between 2 and 3 leaves a key
//! without a `config`: the next attempt with the same password takes that key over and goes on, one with another password
//! is refused. Where snapshots or indexes exist without a `config`, it was lost, and nothing is touched.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::cache::{Cache, RepositoryCache};
use super::config::Config;
use super::crypto::{Sealer, Secrets};
use super::damage::Damage;
use super::error::RepositoryError;
use super::id::Id;
use super::key_file::{self, Author, KdfCost, Unlocked};
use super::lock::mode::Locking;
use super::lock::owner::LockOwner;
use super::pace::Pace;
use super::password::Password;
use super::store::{Key, Kind, Listed, PutMode, Store, StoreError};
use super::time::rfc3339;
use crate::failpoint;
use crate::scratch::Scratch;
use crate::types::Timestamp;

/// How old a pack may become before an index file names it, unless somebody says otherwise: what an interrupted export loses.
const INDEX_EVERY: Duration = Duration::from_secs(5 * 60);
/// Most keys that are tried, as in restic: each costs a derivation.
const MAX_KEYS: usize = 20;

/// A repository whose master key is known. Cheap to clone; all clones are the same repository.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    store: Arc<dyn Store>,
    sealer: Sealer,
    id: Id,
    owner: LockOwner,
    /// How long a lock in the way is waited for.
    retry_lock: Duration,
    locking: Locking,
    scratch: Scratch,
    cache: Option<RepositoryCache>,
    doubts: Option<RepositoryCache>,
    segments: Option<RepositoryCache>,
    /// How old a pack may become before an index file names it.
    index_every: Duration,
    /// How fast packs are sent.
    pace: Option<Arc<Pace>>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("id", &self.0.id).field("store", &self.0.store).finish()
    }
}

impl Repository {
    /// Makes a repository in `store`, exactly once: of several competitors one wins and the others get
    /// [`RepositoryError::AlreadyInitialized`].
    ///
    /// # Errors
    /// [`RepositoryError::ConfigLost`] and [`RepositoryError::WrongPassword`] when parts of a repository exist already. Nothing is
    /// changed then.
    pub async fn init(store: Arc<dyn Store>, password: &Password, cost: KdfCost) -> Result<Self, RepositoryError> {
        if store.size(Key::Config).await?.is_some() {
            return Err(RepositoryError::AlreadyInitialized);
        }
        failpoint::hit("repository.prepare.before");
        store.prepare().await?;
        failpoint::hit("repository.prepare.after");
        let owner = LockOwner::of_this_process();
        let (sealer, own_key) = match interrupted_init(&*store, password).await? {
            Some(sealer) => (sealer, None),
            None => {
                let (sealer, key) = store_new_key(&*store, password, cost, &owner).await?;
                (sealer, Some(key))
            }
        };
        let config = Config::random()?;
        let sealed = Bytes::from(config.seal(&sealer)?);
        match commit_config(&*store, sealed).await {
            Ok(()) => {}
            Err(RepositoryError::AlreadyInitialized) => {
                // Ours would open with the same password and not fit the winner's `config`.
                if let Some(key) = own_key
                    && !fits_config(&*store, &sealer).await?
                {
                    failpoint::hit("repository.key_withdrawn.before");
                    store.delete(key).await?;
                    failpoint::hit("repository.key_withdrawn.after");
                }
                return Err(RepositoryError::AlreadyInitialized);
            }
            Err(error) => return Err(error),
        }
        tracing::info!(repository = %config.id, "repository initialised");
        Ok(Self(Arc::new(Inner {
            store,
            sealer,
            id: config.id,
            owner,
            retry_lock: Duration::ZERO,
            locking: Locking::Shared,
            scratch: Scratch::default(),
            cache: None,
            doubts: None,
            segments: None,
            index_every: INDEX_EVERY,
            pace: None,
        })))
    }

    /// Opens the repository in `store`, which must have the one version that is supported, with a password that opens one of its keys.
    pub async fn open(store: Arc<dyn Store>, password: &Password) -> Result<Self, RepositoryError> {
        let config = match store.get(Key::Config).await {
            Err(StoreError::NotFound { .. }) => return Err(RepositoryError::NoRepository),
            other => other?,
        };
        let mut refused = None;
        for sealer in unlock(&*store, password).await? {
            match Config::open(&config, &sealer) {
                Ok(config) => {
                    let owner = LockOwner::of_this_process();
                    let scratch = Scratch::default();
                    return Ok(Self(Arc::new(Inner {
                        store,
                        sealer,
                        id: config.id,
                        owner,
                        retry_lock: Duration::ZERO,
                        locking: Locking::Shared,
                        scratch,
                        cache: None,
                        doubts: None,
                        segments: None,
                        index_every: INDEX_EVERY,
                        pace: None,
                    })));
                }
                Err(error @ RepositoryError::UnsupportedVersion { .. }) => return Err(error),
                // A key that an interrupted initialisation left; another one may fit.
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or(RepositoryError::WrongPassword))
    }

    /// The same repository, whose locks name `owner`.
    pub fn with_lock_owner(self, owner: LockOwner) -> Self {
        Self(Arc::new(Inner { owner, ..(*self.0).clone() }))
    }

    /// The same repository, which waits that long for locks of others instead of failing at once.
    pub fn with_retry_lock(self, limit: Duration) -> Self {
        Self(Arc::new(Inner { retry_lock: limit, ..(*self.0).clone() }))
    }

    /// The same repository, whose long lists and tables lie in `scratch` rather than in space of its own.
    pub fn with_scratch(self, scratch: Scratch) -> Self {
        Self(Arc::new(Inner { scratch, ..(*self.0).clone() }))
    }

    /// The same repository, whose index files and trees are kept in `cache` as well, and the segments of a long index.
    pub fn with_cache(self, cache: &Cache) -> Self {
        let cache = Some(cache.of_repository(&self.0.id));
        Self(Arc::new(Inner { doubts: cache.clone(), segments: cache.clone(), cache, ..(*self.0).clone() }))
    }

    /// The same repository, of which only the doubts about packs and the segments of a long index are kept in `cache`, since its store is
    /// near.
    pub fn with_doubts_in(self, cache: &Cache) -> Self {
        let doubts = Some(cache.of_repository(&self.0.id));
        Self(Arc::new(Inner { segments: doubts.clone(), doubts, ..(*self.0).clone() }))
    }

    pub(super) fn doubts(&self) -> Option<&RepositoryCache> {
        self.0.doubts.as_ref()
    }

    /// The same repository, which reads everything from its store.
    pub(super) fn without_cache(&self) -> Self {
        Self(Arc::new(Inner { cache: None, segments: None, ..(*self.0).clone() }))
    }

    /// Whether trees are kept in a cache and read from there.
    pub fn caches_trees(&self) -> bool {
        self.0.cache.is_some()
    }

    /// The cache of index files and trees.
    pub(super) fn cache(&self) -> Option<&RepositoryCache> {
        self.0.cache.as_ref()
    }

    /// The cache of segments of the index.
    pub(super) fn segments(&self) -> Option<&RepositoryCache> {
        self.0.segments.as_ref()
    }

    pub fn scratch(&self) -> &Scratch {
        &self.0.scratch
    }

    /// The repository's id, the same wherever it is copied to.
    pub fn id(&self) -> Id {
        self.0.id
    }

    /// The master key, for workers that seal or open.
    pub fn sealer(&self) -> Sealer {
        self.0.sealer.clone()
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// The name that our locks bear.
    pub fn lock_owner(&self) -> &LockOwner {
        &self.0.owner
    }

    /// The same repository, with the locking of work that only reads.
    pub fn with_locking(self, locking: Locking) -> Self {
        Self(Arc::new(Inner { locking, ..(*self.0).clone() }))
    }

    pub(super) fn locking(&self) -> Locking {
        self.0.locking
    }

    /// The same repository, whose writers let no pack become older than this before an index file names it. Less makes an export that is
    /// killed cheaper to repeat, and more index files.
    #[must_use]
    pub fn with_index_every(self, index_every: Duration) -> Self {
        Self(Arc::new(Inner { index_every, ..(*self.0).clone() }))
    }

    /// The same repository, to which packs are sent at this pace.
    #[must_use]
    pub fn with_pace(self, pace: Arc<Pace>) -> Self {
        Self(Arc::new(Inner { pace: Some(pace), ..(*self.0).clone() }))
    }

    /// Returns when a pack of so many bytes may be sent.
    pub(super) async fn keep_pace(&self, bytes: u64) {
        if let Some(pace) = &self.0.pace {
            pace.take(bytes).await;
        }
    }

    pub(super) fn index_every(&self) -> Duration {
        self.0.index_every
    }

    pub(super) fn retry_lock(&self) -> Duration {
        self.0.retry_lock
    }
}

/// Whether the `config` that is there is sealed by this master key.
async fn fits_config(store: &dyn Store, sealer: &Sealer) -> Result<bool, RepositoryError> {
    let config = store.get(Key::Config).await?;
    Ok(Config::open(&config, sealer).is_ok())
}

/// The master key that an interrupted initialisation left, if there was one.
async fn interrupted_init(store: &dyn Store, password: &Password) -> Result<Option<Sealer>, RepositoryError> {
    for (kind, found) in [(Kind::Snapshot, "snapshots"), (Kind::Index, "indexes")] {
        if !store.list(kind).await?.is_empty() {
            return Err(RepositoryError::ConfigLost { found });
        }
    }
    // A key that was listed may be that of a competitor, who takes it away again. Each look more needs one more of those.
    for _ in 0..MAX_KEYS {
        let keys = store.list(Kind::Key).await?;
        if keys.is_empty() {
            return Ok(None);
        }
        if let Some(sealer) = unlock(store, password).await?.into_iter().next() {
            return Ok(Some(sealer));
        }
        if is_there(store, &keys).await? {
            break;
        }
    }
    Err(RepositoryError::WrongPassword)
}

/// Whether all of these keys are there still.
async fn is_there(store: &dyn Store, keys: &[Listed]) -> Result<bool, RepositoryError> {
    let now = store.list(Kind::Key).await?;
    Ok(keys.iter().all(|key| now.iter().any(|other| other.id == key.id)))
}

async fn store_new_key(
    store: &dyn Store,
    password: &Password,
    cost: KdfCost,
    owner: &LockOwner,
) -> Result<(Sealer, Key), RepositoryError> {
    let sealer = Sealer::new(Secrets::random()?);
    let (master, password, owner) = (sealer.clone(), password.clone(), owner.clone());
    let file = tokio::task::spawn_blocking(move || {
        let created = rfc3339(Timestamp::now());
        key_file::encode(
            &master,
            &password,
            cost,
            Author { username: &owner.username, hostname: owner.name(), created: &created },
        )
    })
    .await??;
    let key = Key::File(Kind::Key, Id::of(&file));
    failpoint::hit("repository.key.before");
    store.put(key, file.into(), PutMode::Overwrite).await?;
    failpoint::hit("repository.key.after");
    Ok((sealer, key))
}

/// Stores `config` if there is none, and makes sure that it is ours that stays.
async fn commit_config(store: &dyn Store, sealed: Bytes) -> Result<(), RepositoryError> {
    failpoint::hit("repository.config.before");
    let put = store.put(Key::Config, sealed.clone(), PutMode::IfAbsent).await;
    failpoint::hit("repository.config.after");
    match put {
        // The answer to a put may be lost, and its repetition then finds what it made itself: only reading tells.
        Ok(()) | Err(StoreError::AlreadyExists { .. } | StoreError::Unavailable { .. }) => match store.get(Key::Config).await {
            Ok(found) if found == sealed => Ok(()),
            Ok(_) => Err(RepositoryError::AlreadyInitialized),
            Err(error) => Err(put.err().unwrap_or(error).into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// The master keys that `password` opens: none, one, or rarely several.
async fn unlock(store: &dyn Store, password: &Password) -> Result<Vec<Sealer>, RepositoryError> {
    let mut keys = store.list(Kind::Key).await?;
    keys.sort_unstable();
    let (mut opened, mut damaged, mut others) = (Vec::new(), None, 0_u64);
    for listed in keys.into_iter().take(MAX_KEYS) {
        let key = Key::File(Kind::Key, listed.id);
        let bytes = match store.get(key).await {
            // Removed meanwhile.
            Err(StoreError::NotFound { .. }) => continue,
            other => other?,
        };
        let password = password.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            let found = Id::of(&bytes);
            if found == listed.id { key_file::decode(&bytes, &password) } else { Err(Damage::WrongHash { found }) }
        });
        match decoded.await? {
            Ok(Unlocked::Master(sealer)) => opened.push(sealer),
            Ok(Unlocked::OtherPassword) => others += 1,
            Err(damage) => {
                tracing::warn!(object = %key, %damage, "key file skipped");
                damaged = Some(RepositoryError::damaged(key, damage));
            }
        }
    }
    match damaged {
        // Not the password's fault, if no sound key was there to try it on.
        Some(error) if opened.is_empty() && others == 0 => Err(error),
        _ => Ok(opened),
    }
}

#[cfg(test)]
mod tests;
