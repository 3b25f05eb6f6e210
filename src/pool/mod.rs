//! Storage pools: where volumes and snapshots live, and the record of what was promised about them.
//!
//! Two things, one above the other:
//!
//! * [`Pool`], a handful of verbs on stored objects, each one durable kernel operation that is safe to repeat. It knows ids
//!   and sizes, no names and no promises. Implementations: files that share extents (`reflink`), a device-mapper thin pool (`thin`),
//!   in memory (`memory`). What a pool must remember about an object goes into the catalogue, in the commits of the owner.
//! * [`OwnedPool`](owned::OwnedPool), a pool that this process owns: lock held, catalogue open, recovered. It runs every
//!   change as intent, act, commit; answers repeated requests from the record (`Created | Existing`); and carries the verbs of
//!   the internal Blocks service: lease, hidden restore target with commit, export records. It keeps deleted snapshots that
//!   somebody may ask for the changes since (anchors).
//! * [`PoolSet`](set::PoolSet), the pools of a node, each of which may fail and come back without the others.
//!
//! All calls block; the layers above run them on blocking threads.

pub mod adopt;
pub mod catalogue;
pub mod idempotent;
pub mod intent;
pub mod kernel_devices;
pub mod locks;
pub mod memory;
pub mod owned;
pub mod properties;
pub mod quiesce;
pub mod record;
pub mod reflink;
pub mod set;
pub mod stopped;
pub mod thin;

pub use quiesce::{Held, Quiesce, QuiesceError, Release};

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::catalogue::Change;
use self::properties::Reserve;
use crate::block::{file_ops, writers};
use crate::types::{Access, ByteRange, DataChecksum, LogicalBlockSize, Object, RangeStream, SnapshotId, VolumeId, VolumeSize};

/// Longest time a file system stays frozen for a cut (DESIGN, invariant 4).
pub const FREEZE_DEADLINE: Duration = Duration::from_secs(10);

/// Which implementation a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolKind {
    /// Files that share extents, on Btrfs or XFS.
    Reflink,
    /// A device-mapper thin pool on a block device.
    Thin,
    /// Memory of this process, for tests.
    Memory,
}

impl fmt::Display for PoolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reflink => "reflink",
            Self::Thin => "thin",
            Self::Memory => "memory",
        })
    }
}

/// Physical properties of a new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSpec {
    /// Size.
    pub size: VolumeSize,
    /// Checksums or not.
    pub checksum: DataChecksum,
}

/// One member of a set of snapshots cut together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The volume that is cut.
    pub source: VolumeId,
    /// The id of the new snapshot.
    pub snapshot: SnapshotId,
}

/// A device made for an object; exactly one at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Path of the device node.
    pub device: PathBuf,
    /// What it allows.
    pub access: Access,
}

/// Space of a pool, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUsage {
    /// Size of the pool.
    pub total: u64,
    /// Free, the reserve included.
    pub free: u64,
    /// Kept free of new volumes: they are refused once `free` is at most this.
    pub reserve: u64,
    /// Kept free of new snapshots too: at most `reserve`.
    pub snapshot_reserve: u64,
    /// Space of the pool's own metadata, where that is apart.
    pub metadata: Option<MetadataUsage>,
}

/// Space of a thin pool's metadata, in bytes. A pool that runs out of it stops, and must be repaired before it can be enlarged;
/// so new objects are refused long before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataUsage {
    /// Size of the metadata.
    pub total: u64,
    /// Free.
    pub free: u64,
}

impl MetadataUsage {
    /// New volumes are refused once this part of the metadata is used.
    pub const VOLUME_PERCENT: u64 = 75;
    /// New snapshots are refused once this part of it is used: later than volumes, since backups are made of them.
    pub const SNAPSHOT_PERCENT: u64 = 80;

    /// Whether there is room for new objects that are refused at `percent`.
    fn has_room(&self, percent: u64) -> bool {
        let used = self.total.saturating_sub(self.free);
        u128::from(used) * 100 < u128::from(self.total) * u128::from(percent)
    }
}

/// What is asked to be made, as far as it matters for the room it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// A volume, empty, copied or restored.
    Volume,
    /// A snapshot.
    Snapshot,
}

impl PoolUsage {
    /// Space of a pool that keeps the same free of volumes and of snapshots, and has no metadata of its own.
    pub const fn new(total: u64, free: u64) -> Self {
        let reserve = Self::reserve_of(total);
        Self { total, free, reserve, snapshot_reserve: reserve, metadata: None }
    }

    /// The same space with the reserve that was chosen for the pool. Where snapshots may go on longer than volumes they still do.
    #[must_use]
    pub fn with_reserve(self, chosen: Reserve) -> Self {
        let Some(reserve) = chosen.of(self.total) else { return self };
        let snapshot_reserve = if self.snapshot_reserve == self.reserve { reserve } else { reserve / 2 };
        Self { reserve, snapshot_reserve, ..self }
    }

    /// What new volumes may still take.
    pub fn available(&self) -> u64 {
        self.available_to(Demand::Volume)
    }

    /// What new objects of a kind may still take; none are made when this is zero.
    pub fn available_to(&self, demand: Demand) -> u64 {
        let (reserve, percent) = match demand {
            Demand::Volume => (self.reserve, MetadataUsage::VOLUME_PERCENT),
            Demand::Snapshot => (self.snapshot_reserve, MetadataUsage::SNAPSHOT_PERCENT),
        };
        if self.metadata.is_some_and(|metadata| !metadata.has_room(percent)) {
            return 0;
        }
        self.free.saturating_sub(reserve)
    }

    /// What is short and what is refused for it, in a sentence that says what to do; `None` while there is room for everything.
    pub fn shortage(&self) -> Option<String> {
        let refused = match (self.available_to(Demand::Volume), self.available_to(Demand::Snapshot)) {
            (1.., _) => return None,
            (0, 1..) => "new volumes are refused",
            (0, 0) => "new volumes and snapshots are refused",
        };
        let cure = "delete volumes or snapshots, or enlarge what the pool lies on";
        Some(match self.metadata {
            Some(metadata) if self.free > self.reserve => format!(
                "the pool's metadata are nearly full, {} of {} bytes are free: {refused}; {cure}",
                metadata.free, metadata.total
            ),
            _ => format!("the pool is nearly full, {} bytes are free: {refused}; {cure}", self.free),
        })
    }

    /// What a pool of `total` bytes keeps free: 2 % of it, and at least 1 GiB, unless that is more than a tenth of the pool.
    ///
    /// Volumes are sparse and snapshots share, so existing volumes go on taking space after the last creation: the reserve
    /// is what their writers live on until somebody reacts. A pool that runs out loses the writes that its volumes hold in
    /// their caches; hence a floor that a small pool notices, capped so that a small pool is usable at all.
    pub const fn reserve_of(total: u64) -> u64 {
        const FLOOR: u64 = 1 << 30;
        let (share, cap) = (total / 50, total / 10);
        let floor = if FLOOR < cap { FLOOR } else { cap };
        if share > floor { share } else { floor }
    }
}

/// Space of one object, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectUsage {
    /// Everything the object refers to, shared or not.
    pub allocated: u64,
    /// What only this object refers to: a lower bound of what its deletion frees.
    pub exclusive: u64,
    /// Number of extents, of which a cut by FICLONE takes some 20 us each; of a thin pool, of data blocks.
    pub extents: u64,
}

/// The verbs of a pool on its stored objects.
///
/// Each verb that changes something is one durable kernel operation: done, and safe from a power cut, when it returns `Ok`;
/// without visible effect when it does not. Each may be repeated with the same arguments after a crash. The caller has
/// written its intent before and excludes concurrent calls on one object.
pub trait Pool: Send + Sync {
    /// Which implementation this is.
    fn kind(&self) -> PoolKind;

    /// Notes whatever this pool must remember about new objects, as part of the commit of the intent to make them. Nothing is
    /// made yet. Said again of the same objects, it keeps what was noted.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`], [`PoolError::Catalogue`]: the intent is not committed.
    fn register(&self, _change: &mut Change<'_>, _objects: &[(Object, VolumeSize)]) -> Result<(), PoolError> {
        Ok(())
    }

    /// Forgets what was noted about an object that is gone, as part of the commit that drops the intent.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    fn unregister(&self, _change: &mut Change<'_>, _object: Object) -> Result<(), PoolError> {
        Ok(())
    }

    /// Reduces a deleted snapshot, which is kept as an anchor, to what [`Pool::changed`] needs of it as a base. Reduced already is
    /// success. A pool that can tell what changed only from the snapshot itself keeps it as it is.
    ///
    /// # Errors
    /// [`PoolError::InUse`], [`PoolError::NoSpace`], [`PoolError::Io`], [`PoolError::Catalogue`]: the snapshot is still whole, and
    /// serves as a base as before.
    fn condense(&self, _snapshot: SnapshotId) -> Result<(), PoolError> {
        Ok(())
    }

    /// How the pool is, beyond the space it has.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    fn health(&self) -> Result<PoolHealth, PoolError> {
        Ok(PoolHealth::default())
    }

    /// Where it is, for people.
    fn location(&self) -> String;

    /// The file system or mechanism beneath, for people (`xfs`, `btrfs`, `memory`).
    fn mechanism(&self) -> &'static str;

    /// Logical block size of the devices it attaches.
    fn logical_block_size(&self) -> LogicalBlockSize;

    /// Whether it can make volumes with this setting. A pool keeps no checksums unless it says so.
    fn supports(&self, checksum: DataChecksum) -> bool {
        checksum == DataChecksum::Off
    }

    /// Whether it attaches objects with logical blocks of this size.
    fn offers(&self, size: LogicalBlockSize) -> bool {
        size == self.logical_block_size()
    }

    /// Makes an empty volume. It exists already with this size: success.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`], [`PoolError::Unsupported`] (checksums), [`PoolError::Io`].
    fn create(&self, volume: VolumeId, spec: ObjectSpec) -> Result<(), PoolError>;

    /// Cuts snapshots of a set of volumes, read only, all within one call. A member that exists already from an
    /// interrupted attempt is made anew: nobody was told of it.
    ///
    /// Write-order consistency over the set is the caller's (freeze all, cut all, thaw all). On an error no member is left.
    ///
    /// # Errors
    /// [`PoolError::TooSlow`] when it blocked writers for longer than `stall` all the same, though [`Pool::check_stall`] had been asked;
    /// [`PoolError::NoSpace`], [`PoolError::Io`].
    fn snapshot(&self, cuts: &[Cut], stall: Duration) -> Result<(), PoolError>;

    /// Whether cuts of all these would block their writers for longer than `stall`. Asked before anybody is stopped for a cut;
    /// also takes what work it can out of the cut.
    ///
    /// # Errors
    /// [`PoolError::TooSlow`], [`PoolError::Missing`], [`PoolError::Io`].
    fn check_stall(&self, _sources: &[Object], _stall: Duration) -> Result<(), PoolError> {
        Ok(())
    }

    /// Makes a volume with the content of another object, at least as large as it; the rest reads as zeros. An existing
    /// copy from an interrupted attempt is made anew.
    ///
    /// # Errors
    /// As for [`Pool::create`]; [`PoolError::TooSlow`] as for [`Pool::snapshot`].
    fn copy(&self, source: Object, volume: VolumeId, spec: ObjectSpec, stall: Duration) -> Result<(), PoolError>;

    /// Deletes an object and the remains of interrupted attempts at it. Absent is success.
    ///
    /// # Errors
    /// [`PoolError::InUse`] while it is attached; [`PoolError::Io`].
    fn delete(&self, object: Object) -> Result<(), PoolError>;

    /// Grows a volume, attached or not; its device follows. Already that large is success.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`], [`PoolError::Io`].
    fn grow(&self, volume: VolumeId, size: VolumeSize) -> Result<(), PoolError>;

    /// The size of an object as it is stored. After a growth that failed it may be more than anybody was told.
    ///
    /// # Errors
    /// [`PoolError::Missing`], [`PoolError::Io`].
    fn size(&self, object: Object) -> Result<VolumeSize, PoolError>;

    /// Makes the device of an object. Attached already with at least this access: the same device again.
    ///
    /// # Errors
    /// [`PoolError::InUse`] when it is attached with less access than asked for; [`PoolError::Io`].
    fn attach(&self, object: Object, access: Access) -> Result<Attachment, PoolError>;

    /// As [`Pool::attach`], of an object with logical blocks of a size that the pool offers.
    ///
    /// # Errors
    /// As [`Pool::attach`].
    fn attach_in_blocks(&self, object: Object, access: Access, _size: LogicalBlockSize) -> Result<Attachment, PoolError> {
        self.attach(object, access)
    }

    /// Removes the device of an object, confirmed by looking. Not attached is success.
    ///
    /// # Errors
    /// [`PoolError::InUse`] while it is open or mounted; [`PoolError::Io`].
    fn detach(&self, object: Object) -> Result<(), PoolError>;

    /// The device of an object, if it is attached.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    fn attachment(&self, object: Object) -> Result<Option<Attachment>, PoolError>;

    /// A descriptor of an object's bytes, never a loop device's (DESIGN 1).
    ///
    /// # Errors
    /// [`PoolError::Missing`], [`PoolError::Io`].
    fn open(&self, object: Object, access: Access) -> Result<File, PoolError>;

    /// Makes sure that nobody can write to an object any more by a descriptor that [`Pool::open`] gave: not by a copy of it in another
    /// process, a mapping, or a request that is still being served. Objects that are attached are not sealed.
    ///
    /// # Errors
    /// [`PoolError::InUse`] while somebody can; [`PoolError::Missing`], [`PoolError::Io`].
    fn seal(&self, object: Object) -> Result<(), PoolError> {
        let file = self.open(object, Access::ReadOnly)?;
        match writers::is_open_for_writing(&file) {
            Ok(false) => Ok(()),
            Ok(true) => Err(PoolError::InUse { object, by: "a descriptor that can write to it".to_owned() }),
            Err(error) => Err(PoolError::io(format!("look whether {object} is open for writing"), error)),
        }
    }

    /// The ranges of a snapshot that may hold anything but zeros.
    ///
    /// # Errors
    /// [`PoolError::Missing`], [`PoolError::Io`]; the stream may fail later.
    fn allocated(&self, snapshot: SnapshotId) -> Result<RangeStream, PoolError>;

    /// The ranges of a volume that take space, whether anything but zeros was written there or not. Asked while nobody writes to it.
    ///
    /// # Errors
    /// As for [`Pool::allocated`].
    fn stored(&self, volume: VolumeId) -> Result<RangeStream, PoolError>;

    /// The smallest piece of a volume whose space can be given back by itself and is worth it, in bytes; its offset is a multiple of that.
    fn granule(&self) -> u64;

    /// Gives the space of a range of a volume back, which reads as zeros before and afterwards. `file` is [`Pool::open`]'s, for writing. Whoever
    /// calls this excludes everybody who might write there.
    ///
    /// # Errors
    /// [`PoolError::Io`]: part of it may have been given back, which is no harm.
    fn give_back(&self, file: &File, range: ByteRange) -> Result<(), PoolError> {
        file_ops::punch_hole(file, range).map_err(|error| PoolError::io("give space back", error))
    }

    /// The ranges in which `target` may differ from `base`, an older snapshot of the same volume. May over-report, never
    /// under-report.
    ///
    /// # Errors
    /// As for [`Pool::allocated`]; [`PoolError::Unsupported`] when it cannot be told, since the base is not older and all that is
    /// left of it is what [`Pool::condense`] kept.
    fn changed(&self, base: SnapshotId, target: SnapshotId) -> Result<RangeStream, PoolError>;

    /// Space of the pool.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    fn usage(&self) -> Result<PoolUsage, PoolError>;

    /// As [`Pool::usage`], after a commit where it takes one until what was freed counts as free. For whoever is about to refuse something.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    fn usage_after_commit(&self) -> Result<PoolUsage, PoolError> {
        self.usage()
    }

    /// Space of one object.
    ///
    /// # Errors
    /// [`PoolError::Missing`], [`PoolError::Io`].
    fn object_usage(&self, object: Object) -> Result<ObjectUsage, PoolError>;

    /// Everything that is stored, for reconciliation: whole objects only. Remains of interrupted attempts are swept by this
    /// call; what carries no name of ours is reported by [`Found::Foreign`] and left alone.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    fn scan(&self) -> Result<Vec<Found>, PoolError>;
}

/// How a pool is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolHealth {
    /// What is wrong, in a sentence that says what to do about it; `None` when all is well.
    pub problem: Option<String>,
    /// Whether objects can be made, changed and deleted all the same.
    pub changes: Changes,
    /// Transaction id of a thin pool's metadata.
    pub transaction_id: Option<u64>,
}

impl PoolHealth {
    /// Refuses a change of a pool that takes none, with what is wrong and what to do about it. `location` names the pool.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn check_changes(self, location: &str) -> Result<(), PoolError> {
        match self.changes {
            Changes::Taken => Ok(()),
            Changes::Refused => {
                let problem = self.problem.unwrap_or_else(|| "it takes no changes".to_owned());
                Err(PoolError::io(format!("change the pool at {location}"), io::Error::other(problem)))
            }
        }
    }
}

/// Whether a pool takes changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Changes {
    /// It does.
    #[default]
    Taken,
    /// It does not, until what is wrong is repaired. What it holds can still be read, as far as the disk can be.
    Refused,
}

/// One thing that [`Pool::scan`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// An object with a name of ours.
    Object {
        /// Which.
        object: Object,
        /// Its size in bytes as stored.
        size: u64,
    },
    /// Something else; the text is its path within the pool.
    Foreign(String),
}

/// Why a pool operation failed. The variants are what callers act on; codes are chosen per RPC in `csi`.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// There is no such object in this pool.
    #[error("there is no {0} in this pool")]
    Missing(Object),
    /// The source of a snapshot or copy does not exist in this pool.
    #[error("the source {0} does not exist")]
    SourceMissing(Object),
    /// The name is taken by an object made from another request; the text says what differs.
    #[error("`{name}` exists already with another {difference}")]
    NameTaken {
        /// The name.
        name: String,
        /// What differs (`capacity`, `content source`, ...).
        difference: &'static str,
    },
    /// No size lies within the requested range, or the size asked for is smaller than it may be.
    #[error("size: {0}")]
    Size(String),
    /// The object is attached, mounted, leased or being restored.
    #[error("{object} is in use: {by}")]
    InUse {
        /// The object.
        object: Object,
        /// By what.
        by: String,
    },
    /// Another operation on the same object or name is running.
    #[error("another operation on {0} is running")]
    Busy(String),
    /// The pool has no room for this; the text says for what.
    #[error("the pool is full: {0}")]
    NoSpace(String),
    /// The file system under the pool cannot do this; the text says what and what to do instead.
    #[error("{0}")]
    Unsupported(String),
    /// The cut would block writers for longer than the deadline.
    #[error("a cut of {object} would block its writers for about {estimate:?}, longer than {limit:?}: it has {extents} extents")]
    TooSlow {
        /// The volume.
        object: Object,
        /// Its extents.
        extents: u64,
        /// Estimated stall.
        estimate: Duration,
        /// Longest allowed.
        limit: Duration,
    },
    /// The freeze could not be made, or its deadline passed before the cut returned; nothing was kept.
    #[error("the volume could not be held still: {0}")]
    Quiesce(String),
    /// The volume's file system cannot be held still, and that will not change by itself; nothing was kept.
    #[error("the volume cannot be held still: {0}")]
    CannotQuiesce(String),
    /// Another process owns the pool.
    #[error("{0}: the pool is in use by another process")]
    Owned(String),
    /// The catalogue or pool is of a newer format, or not one at all.
    #[error("{0}")]
    Format(String),
    /// The catalogue is missing or damaged, or one of an earlier moment lies in its place. The objects may be well, and nothing was changed.
    #[error("{0}")]
    CatalogueLost(String),
    /// The catalogue failed.
    #[error("catalogue: {0}")]
    Catalogue(String),
    /// It failed for the reason told, and what it had made could not be taken back yet: it stays hidden, and is undone before the next
    /// change. Whatever the reason, the answer must not be a final one.
    #[error("{0}; what it had made could not be taken back yet")]
    Unfinished(String),
    /// A call of the system failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, with its path.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl PoolError {
    /// Wraps a system error with what was attempted; out-of-space becomes [`PoolError::NoSpace`].
    pub fn io(action: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(action.into()),
            _ => Self::Io { action: action.into(), source },
        }
    }
}
