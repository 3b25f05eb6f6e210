//! What a kind of pool implements: a handful of verbs on stored objects. It knows ids and sizes, no names and no promises.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalogue::Change;
use super::{ObjectUsage, PoolError, PoolHealth, PoolUsage};
use crate::block::{file_ops, writers};
use crate::types::{Access, ByteRange, DataChecksum, LogicalBlockSize, Object, RangeStream, SnapshotId, VolumeId, VolumeSize};

/// Which implementation a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolKind {
    /// Files that share extents, on Btrfs or XFS.
    Reflink,
    /// A device-mapper thin pool on a block device.
    Thin,
    /// Memory of this process, for tests.
    #[cfg(any(test, feature = "doubles"))]
    Memory,
}

impl fmt::Display for PoolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reflink => "reflink",
            Self::Thin => "thin",
            #[cfg(any(test, feature = "doubles"))]
            Self::Memory => "memory",
        })
    }
}

/// Physical properties of a new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSpec {
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

/// One thing that [`Pool::scan`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// An object with a name of ours.
    Object {
        object: Object,
        /// Its size in bytes as stored.
        size: u64,
    },
    /// Something else; the text is its path within the pool.
    Foreign(String),
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

    /// Extents that volumes had when they were last counted for a cut, as far as any were: of volumes that may be gone since, too.
    /// Nothing is looked at for it.
    fn counted_extents(&self) -> Vec<(Object, u64)> {
        Vec::new()
    }

    /// How the pool is, beyond the space it has.
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
    fn grow(&self, volume: VolumeId, size: VolumeSize) -> Result<(), PoolError>;

    /// The size of an object as it is stored. After a growth that failed it may be more than anybody was told.
    fn size(&self, object: Object) -> Result<VolumeSize, PoolError>;

    /// Makes the device of an object. Attached already with at least this access: the same device again.
    ///
    /// # Errors
    /// [`PoolError::InUse`] when it is attached with less access than asked for; [`PoolError::Io`].
    fn attach(&self, object: Object, access: Access) -> Result<Attachment, PoolError>;

    /// As [`Pool::attach`], of an object with logical blocks of a size that the pool offers.
    fn attach_in_blocks(&self, object: Object, access: Access, _size: LogicalBlockSize) -> Result<Attachment, PoolError> {
        self.attach(object, access)
    }

    /// Removes the device of an object, confirmed by looking. Not attached is success.
    ///
    /// # Errors
    /// [`PoolError::InUse`] while it is open or mounted; [`PoolError::Io`].
    fn detach(&self, object: Object) -> Result<(), PoolError>;

    /// The device of an object, if it is attached.
    fn attachment(&self, object: Object) -> Result<Option<Attachment>, PoolError>;

    /// A descriptor of an object's bytes, never a loop device's (DESIGN 1).
    fn open(&self, object: Object, access: Access) -> Result<File, PoolError>;

    /// Makes sure that nobody can write to an object any more by a descriptor that [`Pool::open`] gave: not by a copy of it in another
    /// process, a mapping, or a request that is still being served. Objects that are attached are not sealed.
    ///
    /// # Errors
    /// [`PoolError::InUse`] while somebody can; [`PoolError::Missing`], [`PoolError::Io`].
    fn seal(&self, object: Object) -> Result<(), PoolError> {
        let file = self.open(object, Access::ReadOnly)?;
        match writers::stays_open_for_writing(&file) {
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
    fn usage(&self) -> Result<PoolUsage, PoolError>;

    /// As [`Pool::usage`], after a commit where it takes one until what was freed counts as free. For whoever is about to refuse something.
    fn usage_after_commit(&self) -> Result<PoolUsage, PoolError> {
        self.usage()
    }

    /// Space of one object.
    fn object_usage(&self, object: Object) -> Result<ObjectUsage, PoolError>;

    /// Everything that is stored, for reconciliation: whole objects only. Remains of interrupted attempts are swept by this
    /// call; what carries no name of ours is reported by [`Found::Foreign`] and left alone.
    fn scan(&self) -> Result<Vec<Found>, PoolError>;
}
