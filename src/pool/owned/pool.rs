//! The pool that is owned: its parts, how it is opened, and what each of its verbs asks first.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::background::{Repeating, VolumeQueue};
use super::leftovers::Leftovers;
use super::recovery;
use super::restoring::{Kept, KeptTargets, Restoring};
use crate::pool::catalogue::Catalogue;
use crate::pool::catalogue::copy::CopyKeeper;
use crate::pool::locks::{Key, Locked, OperationLocks};
use crate::pool::{Demand, Pool, PoolError, PoolKind, Quiesce};
use crate::types::{DataChecksum, LogicalBlockSize, Object, OnLoss, PoolId, SnapshotId, VolumeId, VolumeSize};

/// A pool with its catalogue. All methods block and may be called from several threads.
pub struct OwnedPool {
    // Ended before all else goes.
    pub(super) watch: Option<Repeating>,
    // Ended likewise: nothing is given back beside a last copy.
    pub(super) zeros: Option<VolumeQueue>,
    // Ended likewise, with a last copy.
    pub(super) keeper: Option<CopyKeeper>,
    // Dropped before the pool, on whose device it may lie.
    pub(super) catalogue: Catalogue,
    pub(super) pool: Arc<dyn Pool>,
    pub(super) quiesce: Arc<dyn Quiesce>,
    pub(super) locks: OperationLocks,
    pub(super) restoring: Arc<Mutex<BTreeMap<VolumeId, Restoring>>>,
    pub(super) kept: Arc<Mutex<KeptTargets>>,
    pub(super) quarantined: Arc<[String]>,
    /// Objects that a record names and that are missing or too short, each with what is wrong.
    pub(super) damaged: Arc<Mutex<Damaged>>,
    /// Anchors that could not be reduced when it was tried: those of a pool that took no changes then.
    pub(super) unreduced: Arc<Mutex<BTreeSet<SnapshotId>>>,
    /// What failed calls may have left.
    pub(super) leftovers: Arc<Leftovers>,
}

pub(super) type Damaged = BTreeMap<Object, String>;

impl std::fmt::Debug for OwnedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnedPool").field("id", &self.id()).field("location", &self.location()).finish_non_exhaustive()
    }
}

impl OwnedPool {
    /// Takes over a pool with its catalogue: ends holds that an earlier process left, finishes or undoes what it was about
    /// to do, but for restores that are to be kept, and compares records with objects.
    ///
    /// # Errors
    /// [`PoolError::Io`], [`PoolError::Catalogue`] when pool or catalogue cannot be read. A catalogue that takes no changes is no error
    /// ([`OwnedPool::check_catalogue`] says so), nor is an interrupted change that can be neither finished nor undone: it is logged and
    /// tried again before the next change, and at the next start.
    pub fn open(pool: Arc<dyn Pool>, catalogue: Catalogue, quiesce: Arc<dyn Quiesce>) -> Result<Self, PoolError> {
        let (settled, kept) = recovery::recover(pool.as_ref(), &catalogue, quiesce.as_ref())?;
        let kept = kept.into_iter().map(|(intent, volume)| (volume.id, Kept::new(intent, volume))).collect();
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
            kept: Arc::new(Mutex::new(kept)),
            quarantined: findings.quarantined.into(),
            damaged: Arc::new(Mutex::new(findings.damaged)),
            unreduced: Arc::default(),
            leftovers: Arc::new(Leftovers::of(settled)),
        };
        owned.keep_no_more_than(OnLoss::MOST_KEPT);
        owned.evict_leftovers()?;
        owned.drop_copies(&findings.overdue);
        Ok(owned)
    }

    /// Watches the pool's space from now on, until it is dropped: anchors give way to writers (`watch`), and volumes that were filled as raw
    /// devices give their zeros back (`zeros`).
    ///
    /// # Errors
    /// [`PoolError::Io`] when no thread can be started.
    pub fn watched(mut self) -> Result<Self, PoolError> {
        self.watch = Some(self.start_watch()?);
        self.zeros = Some(self.start_zeros()?);
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
    pub(super) fn shared(&self) -> Self {
        Self {
            watch: None,
            zeros: None,
            keeper: None,
            catalogue: self.catalogue.clone(),
            pool: Arc::clone(&self.pool),
            quiesce: Arc::clone(&self.quiesce),
            locks: self.locks.clone(),
            restoring: Arc::clone(&self.restoring),
            kept: Arc::clone(&self.kept),
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

    pub(super) fn restoring(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Restoring>> {
        self.restoring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn damaged(&self) -> MutexGuard<'_, Damaged> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_objects(&self, objects: impl IntoIterator<Item = Object>) -> Result<Locked, PoolError> {
        self.locks.lock(objects.into_iter().map(Key::Object))
    }

    /// Refuses objects whose data is known to be missing.
    pub(super) fn check_sound(&self, object: Object) -> Result<(), PoolError> {
        check_sound(&self.damaged, object)
    }

    /// Refuses everything that makes or changes objects while the pool takes no changes, with what to do about that.
    pub(super) fn check_working(&self) -> Result<(), PoolError> {
        self.pool.health()?.check_changes(&self.location())
    }

    /// Refuses what would take space from a pool that has none to give, even without its anchors.
    pub(super) fn check_room(&self, demand: Demand, what: &str) -> Result<(), PoolError> {
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
    pub(super) fn check_fits(&self, size: VolumeSize) -> Result<(), PoolError> {
        self.check_working()?;
        let total = self.pool.usage()?.total;
        if size.bytes() <= total {
            return Ok(());
        }
        Err(PoolError::NoSpace(format!("a volume of {} bytes is larger than the whole pool of {total} bytes", size.bytes())))
    }
}

pub(super) fn check_sound(damaged: &Mutex<Damaged>, object: Object) -> Result<(), PoolError> {
    match damaged.lock().unwrap_or_else(PoisonError::into_inner).get(&object) {
        Some(what) => Err(PoolError::io(format!("use {object}"), io::Error::new(io::ErrorKind::InvalidData, what.clone()))),
        None => Ok(()),
    }
}
