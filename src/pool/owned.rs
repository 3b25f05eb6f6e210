//! A pool that this process owns: lock held, catalogue open, recovered.
//!
//! Every change is three durable steps: commit the *intent* (everything needed to finish or undo it, fresh ids included), *act*
//! (one verb of the [`Pool`], itself durable), *commit* the result and drop the intent. Deletes go the other way round: the
//! intent takes the object out of sight, the act removes it, the last commit forgets it. A crash between any two:
//!
//! | interrupted | seen at the next start | what is done |
//! |---|---|---|
//! | creation, copy, set of snapshots | an intent, perhaps objects that no record names | undone; nobody was told, and a retry makes it anew |
//! | restore target | likewise, perhaps half filled | undone, for the transfer died too |
//! | deletion, eviction of an anchor | an intent, no record | finished |
//! | deletion into an anchor | the snapshot, or the anchor | nothing: one commit |
//! | growth | an intent beside the record | finished |
//! | anything under a hold | the volumes that we may hold are in the intent | the hold is ended first |
//!
//! The last row has a gap that the kernel leaves: a freeze carries no owner, and only an attempt to freeze tells that somebody else
//! did. So an intent names the volumes that are about to be held; those that turn out to be frozen by somebody else are taken from it
//! in a commit of its own before the cut begins. If the process dies between these two commits (a write-out and one ioctl lie between them),
//! the next start ends that foreign freeze.
//!
//! An act that fails is undone at once; if that fails too, or the process is told to stop meanwhile, the intent stays. A *commit* that
//! fails is never undone by its call: it may have reached the disk. What either leaves is found out before the next change, once the catalogue
//! works again (`settle`), and else by the next start. Nothing here is cancelled half way: callers run these methods on threads that
//! outlive the request.
//!
//! * Answers to repeated requests come from the record (`idempotent`), never from the request.
//! * One operation per object and name; a second gets [`PoolError::Busy`]. Sources are pinned, so that many copies may be
//!   made of one snapshot at a time.
//! * A deleted snapshot that somebody used is kept as an anchor (`anchors`): invisible, a base for what changed since, and
//!   evicted before anything is refused for want of space, and while writers have no more than the reserve left (`watch`).
//! * Objects that no record names are quarantined: reported by [`OwnedPool::status`], never touched. Records whose object is
//!   missing or cut short stay, are reported as damaged, and refuse to be used: they are never taken for deleted.
//! * A volume that was filled as a raw device gives the space of its zeros back when nobody uses it (`zeros`): background work that needs no
//!   intent, and gives way to any operation.
//! * It never sees a mount: whether a volume may be formatted is recorded here and decided above.

mod anchors;
mod attach;
mod create;
mod delete;
mod grow;
mod lease;
mod promise;
mod recovery;
mod restore;
mod retention;
mod settle;
mod snapshots;
mod status;
mod volumes;
mod watch;
mod zeros;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::lease::Lease;
pub use self::promise::Promises;
use self::restore::Restoring;
pub use self::restore::{RestoreStart, RestoreTarget};
use self::settle::Leftovers;
pub use self::status::{AnchorStatus, PoolStatus};
pub(in crate::pool) use self::volumes::boot_id;
use self::watch::Watch;
pub use self::zeros::Pass;
use self::zeros::ZeroReclaimer;
use super::catalogue::Catalogue;
use super::catalogue::copy::CopyKeeper;
use super::intent::{Intent, IntentId};
use super::locks::{Key, Locked, OperationLocks};
use super::{Demand, FREEZE_DEADLINE, Held, Pool, PoolError, PoolKind, Quiesce, Release};
use crate::failpoint;
use crate::types::{Access, DataChecksum, LogicalBlockSize, Object, PoolId, SnapshotId, VolumeId, VolumeSize};

/// A pool with its catalogue. All methods block and may be called from several threads.
pub struct OwnedPool {
    // Ended before all else goes.
    watch: Option<Watch>,
    // Ended likewise: nothing is given back beside a last copy.
    zeros: Option<ZeroReclaimer>,
    // Ended likewise, with a last copy.
    keeper: Option<CopyKeeper>,
    // Dropped before the pool, on whose device it may lie.
    catalogue: Catalogue,
    pool: Arc<dyn Pool>,
    quiesce: Arc<dyn Quiesce>,
    locks: OperationLocks,
    restoring: Arc<Mutex<BTreeMap<VolumeId, Restoring>>>,
    quarantined: Arc<[String]>,
    /// Objects that a record names and that are missing or too short, each with what is wrong.
    damaged: Arc<Mutex<Damaged>>,
    /// Anchors that could not be reduced when it was tried: those of a pool that took no changes then.
    unreduced: Arc<Mutex<BTreeSet<SnapshotId>>>,
    /// What failed calls may have left.
    leftovers: Arc<Leftovers>,
}

type Damaged = BTreeMap<Object, String>;

/// Volumes that somebody may be writing to, with their devices.
type Written = BTreeMap<VolumeId, PathBuf>;

impl std::fmt::Debug for OwnedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnedPool").field("id", &self.id()).field("location", &self.location()).finish_non_exhaustive()
    }
}

impl OwnedPool {
    /// Takes over a pool with its catalogue: ends holds that an earlier process left, finishes or undoes what it was about
    /// to do, and compares records with objects.
    ///
    /// # Errors
    /// [`PoolError::Io`], [`PoolError::Catalogue`] when pool or catalogue cannot be read. A catalogue that takes no changes is no error
    /// ([`OwnedPool::check_catalogue`] says so), nor is an interrupted change that can be neither finished nor undone: it is logged and
    /// tried again before the next change, and at the next start.
    pub fn open(pool: Arc<dyn Pool>, catalogue: Catalogue, quiesce: Arc<dyn Quiesce>) -> Result<Self, PoolError> {
        let settled = recovery::recover(pool.as_ref(), &catalogue, quiesce.as_ref())?;
        let findings = recovery::compare(pool.as_ref(), &catalogue)?;
        let owned = Self {
            watch: None,
            zeros: None,
            keeper: None,
            pool,
            catalogue,
            quiesce,
            locks: OperationLocks::default(),
            restoring: Arc::default(),
            quarantined: findings.quarantined.into(),
            damaged: Arc::new(Mutex::new(findings.damaged)),
            unreduced: Arc::default(),
            leftovers: Arc::new(Leftovers::of(settled)),
        };
        owned.evict_leftovers()?;
        Ok(owned)
    }

    /// Watches the pool's space from now on, until it is dropped: anchors give way to writers (`watch`), and volumes that were filled as raw
    /// devices give their zeros back (`zeros`).
    ///
    /// # Errors
    /// [`PoolError::Io`] when no thread can be started.
    pub fn watched(mut self) -> Result<Self, PoolError> {
        self.watch = Some(Watch::start(self.shared())?);
        self.zeros = Some(ZeroReclaimer::start(self.shared())?);
        Ok(self)
    }

    /// Keeps a second copy of the catalogue at `path` from now on, until it is dropped.
    ///
    /// # Errors
    /// [`PoolError::Io`] when no thread can be started.
    pub(in crate::pool) fn copied_to(mut self, path: PathBuf) -> Result<Self, PoolError> {
        self.keeper = Some(CopyKeeper::start(self.catalogue.clone(), path)?);
        Ok(self)
    }

    /// Another reference to the same open pool, without its watch.
    fn shared(&self) -> Self {
        Self {
            watch: None,
            zeros: None,
            keeper: None,
            catalogue: self.catalogue.clone(),
            pool: Arc::clone(&self.pool),
            quiesce: Arc::clone(&self.quiesce),
            locks: self.locks.clone(),
            restoring: Arc::clone(&self.restoring),
            quarantined: Arc::clone(&self.quarantined),
            damaged: Arc::clone(&self.damaged),
            unreduced: Arc::clone(&self.unreduced),
            leftovers: Arc::clone(&self.leftovers),
        }
    }

    /// The pool's identity.
    pub fn id(&self) -> PoolId {
        self.catalogue.id()
    }

    /// Which implementation it is.
    pub fn kind(&self) -> PoolKind {
        self.pool.kind()
    }

    /// Where it is, for people.
    pub fn location(&self) -> String {
        self.pool.location()
    }

    /// Whether it can make volumes with this setting.
    pub fn supports(&self, checksum: DataChecksum) -> bool {
        self.pool.supports(checksum)
    }

    /// Whether it can make volumes with logical blocks of this size.
    pub fn offers(&self, size: LogicalBlockSize) -> bool {
        self.pool.offers(size)
    }

    /// Logical block size of its volumes' devices.
    pub fn logical_block_size(&self) -> LogicalBlockSize {
        self.pool.logical_block_size()
    }

    fn restoring(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Restoring>> {
        self.restoring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self) -> MutexGuard<'_, Damaged> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_objects(&self, objects: impl IntoIterator<Item = Object>) -> Result<Locked, PoolError> {
        self.locks.lock(objects.into_iter().map(Key::Object))
    }

    /// Refuses objects whose data is known to be missing.
    fn check_sound(&self, object: Object) -> Result<(), PoolError> {
        check_sound(&self.damaged, object)
    }

    /// Refuses everything that makes or changes objects while the pool takes no changes, with what to do about that.
    fn check_working(&self) -> Result<(), PoolError> {
        self.pool.health()?.check_changes(&self.location())
    }

    /// Refuses what would take space from a pool that has none to give, even without its anchors.
    fn check_room(&self, demand: Demand, what: &str) -> Result<(), PoolError> {
        self.check_working()?;
        self.condense_left();
        let usage = self.make_room(demand)?;
        if usage.available_to(demand) > 0 {
            return Ok(());
        }
        let reserve = match demand {
            Demand::Volume => usage.reserve,
            Demand::Snapshot => usage.snapshot_reserve,
        };
        Err(PoolError::NoSpace(match usage.metadata {
            Some(metadata) if usage.free > reserve => format!(
                "no {what} while only {} of the {} bytes of the pool's metadata are free, for the rest is kept for the volumes that exist",
                metadata.free, metadata.total
            ),
            _ => format!("no {what} while only {} bytes are free, for {reserve} are kept for the volumes that exist", usage.free),
        }))
    }

    /// Refuses sizes that the pool could never hold. Below that volumes may be promised more than there is: they are sparse.
    fn check_fits(&self, size: VolumeSize) -> Result<(), PoolError> {
        self.check_working()?;
        let total = self.pool.usage()?.total;
        if size.bytes() <= total {
            return Ok(());
        }
        Err(PoolError::NoSpace(format!("a volume of {} bytes is larger than the whole pool of {total} bytes", size.bytes())))
    }

    /// The devices of those volumes that somebody may be writing to.
    fn written_devices(&self, volumes: &BTreeSet<VolumeId>) -> Result<Written, PoolError> {
        let mut devices = Written::new();
        for &volume in volumes {
            if let Some(attachment) = self.pool.attachment(Object::Volume(volume))?
                && attachment.access == Access::ReadWrite
            {
                devices.insert(volume, attachment.device);
            }
        }
        Ok(devices)
    }

    /// Runs `cut`, which `intent` is about, while the devices are held still. An error means that whatever the cut made must be thrown
    /// away.
    fn while_held<T>(
        &self,
        devices: &Written,
        intent: (IntentId, &Intent),
        cut: impl FnOnce() -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        if devices.is_empty() {
            return cut();
        }
        let paths: Vec<PathBuf> = devices.values().cloned().collect();
        failpoint::hit("pool.hold.before");
        let held = self.quiesce.hold(&paths, FREEZE_DEADLINE)?;
        failpoint::hit("pool.hold.after");
        let result = self.disown(held.as_ref(), devices, intent).and_then(|()| cut());
        failpoint::hit("pool.release.before");
        let released = held.release();
        failpoint::hit("pool.release.after");
        match (result, released) {
            (Err(error), _) => Err(error),
            (Ok(value), Release::InTime) => Ok(value),
            (Ok(_), Release::Expired) => {
                let limit = FREEZE_DEADLINE.as_secs();
                Err(PoolError::Quiesce(format!(
                    "the cut took longer than {limit} s and its volumes were released before it was done"
                )))
            }
        }
    }

    /// Takes those volumes from the intent that somebody else holds: should this process die in the cut, the next start leaves them.
    fn disown(&self, held: &dyn Held, devices: &Written, (id, intent): (IntentId, &Intent)) -> Result<(), PoolError> {
        let is_foreign = |(_, device): &(&VolumeId, &PathBuf)| held.foreign().contains(*device);
        let foreign: BTreeSet<VolumeId> = devices.iter().filter(is_foreign).map(|(&volume, _)| volume).collect();
        if foreign.is_empty() {
            return Ok(());
        }
        self.catalogue.commit("hold.foreign", |change| change.replace_intent(id, &intent.without_holds(&foreign)))
    }
}

fn check_sound(damaged: &Mutex<Damaged>, object: Object) -> Result<(), PoolError> {
    match damaged.lock().unwrap_or_else(PoisonError::into_inner).get(&object) {
        Some(what) => Err(PoolError::io(format!("use {object}"), io::Error::new(io::ErrorKind::InvalidData, what.clone()))),
        None => Ok(()),
    }
}

/// Failpoints around one verb of the pool.
fn act<T>(name: &str, verb: impl FnOnce() -> Result<T, PoolError>) -> Result<T, PoolError> {
    if failpoint::ENABLED {
        failpoint::hit(&format!("pool.{name}.before"));
    }
    let value = verb()?;
    if failpoint::ENABLED {
        failpoint::hit(&format!("pool.{name}.after"));
    }
    Ok(value)
}

#[cfg(test)]
pub(crate) mod tests;
