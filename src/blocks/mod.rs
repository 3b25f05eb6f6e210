//! Blocks: what a node does for whoever moves the bytes of its volumes, in words that can cross a process border.
//!
//! The node holds the disks and has no network; who talks to repositories has the network and no privilege. Between the two stands
//! [`Blocks`]: a snapshot is *leased* (a read-only descriptor, and the ranges that matter), a volume is restored into a hidden *target*
//! (a descriptor to write to, visible to nobody until it is committed), and what was exported, or is to be, is *recorded* beside the volume
//! and the snapshot, which a repository may then hold alone. Every
//! other object is named by a handle that the node has given out; no path crosses in either direction.
//!
//! * What is held is bound to who holds it: a lease ends when it is dropped, a target with its process, unless it was committed. What becomes of
//!   a target then its beginner says ([`OnLoss`]): it is deleted, or kept for a while, hidden, for the next equal [`Blocks::begin`] in that pool, which
//!   is told that it holds something ([`TargetContent`](crate::types::TargetContent)) and must trust nothing of it. A kept target refuses nobody anything.
//! * Nothing that was handed out can write after a commit: [`Blocks::commit`] refuses while a writable descriptor exists.
//! * Only a pool that is there says that something is missing. A pool that has failed, or is not this node's, is
//!   [`BlocksError::Unavailable`].
//!
//! In one process the node's pools are called directly (`node::blocks`); [`MemoryBlocks`](memory::MemoryBlocks) is the double, as strict.
//! Between two processes stand [`BlocksClient`](client::BlocksClient) and `node::blocks_service`: [`wire`] has their words, [`descriptor`] what carries descriptors.

pub mod client;
pub mod copies;
pub mod descriptor;
pub mod error;
#[cfg(any(test, feature = "doubles"))]
pub mod memory;
pub mod pools;
pub mod protection;
pub mod snapshot;
pub mod target;
pub mod usage;
pub mod wire;

/// What is read and written through a descriptor that was handed out.
pub use crate::block::{FileSink, FileSource};
pub use copies::{SnapshotCopies, TaskPage, TaskQuery};
pub use error::BlocksError;
pub use pools::{OpenPool, PoolSpace, PoolState};
pub use protection::{ProtectedVolume, Protection, ProtectionPage, ProtectionQuery, ProtectionSnapshot};
pub use snapshot::{LeasedSnapshot, SnapshotLease};
pub use target::{CommitName, RestoreTarget, TargetStart};
pub use usage::{ObjectUsage, UsagePage, UsageQuery};

use std::sync::Arc;

use crate::types::{ExportRecord, ExportTask, NewVolume, ObjectName, OnLoss, PoolId, SnapshotHandle, VolumeHandle};

/// The service of a node for those who export its snapshots and restore its volumes.
///
/// Work that has begun goes on when the future that waits for it is dropped: what it made is held by nobody then.
#[async_trait::async_trait]
pub trait Blocks: Send + Sync {
    /// Every pool of the node: identity, space and health. Cheap enough to be polled; a pool whose disk hangs holds up no other.
    async fn state(&self) -> Vec<PoolState>;

    /// The pool that a person means: by its id, by its name if only one has it, or, with an empty text, the only one there is.
    ///
    /// # Errors
    /// [`BlocksError::Missing`], [`BlocksError::Ambiguous`]; [`BlocksError::Unavailable`] for one that has failed.
    async fn pool(&self, wanted: &str) -> Result<OpenPool, BlocksError>;

    /// The volume that has this name.
    ///
    /// # Errors
    /// [`BlocksError::Unavailable`] when a pool that cannot be asked had one of this name.
    async fn find_volume(&self, name: &ObjectName) -> Result<Option<VolumeHandle>, BlocksError>;

    /// The snapshot that has this name.
    ///
    /// # Errors
    /// [`BlocksError::Unavailable`] when no pool that can be asked has one, and another cannot be asked.
    async fn find_snapshot(&self, name: &ObjectName) -> Result<Option<SnapshotHandle>, BlocksError>;

    /// Holds a snapshot for reading until the lease is dropped. Any number of leases may be held on one.
    ///
    /// # Errors
    /// [`BlocksError::Missing`], [`BlocksError::Busy`] while it is being deleted; [`BlocksError::Unsupported`] when its local copy was given up.
    async fn lease(&self, snapshot: SnapshotHandle) -> Result<Arc<dyn SnapshotLease>, BlocksError>;

    /// Makes the hidden target of a restore, or goes on with one that was kept, if the request is equal and this one is to be kept too. Its name
    /// is claimed in its pool until it is committed, aborted or let go of.
    ///
    /// # Errors
    /// [`BlocksError::NameTaken`], [`BlocksError::Size`], [`BlocksError::NoSpace`], [`BlocksError::Unsupported`],
    /// [`BlocksError::Busy`] while another request has the name.
    async fn begin(&self, pool: PoolId, volume: NewVolume, on_loss: OnLoss) -> Result<TargetStart, BlocksError>;

    /// Makes a target durable and visible, in one step.
    ///
    /// # Errors
    /// [`BlocksError::InUse`] while anybody can write to it; [`BlocksError::Size`] when it no longer has its size;
    /// [`BlocksError::NameTaken`] and [`BlocksError::Busy`] for another name that is not free; [`BlocksError::Missing`] when there is no
    /// such target. After an error it is still hidden: commit again or abort.
    async fn commit(&self, volume: VolumeHandle, name: CommitName) -> Result<(), BlocksError>;

    /// Deletes a target that was not committed. No such target is success, and so is one that was let go of, which stays as it is.
    ///
    /// # Errors
    /// [`BlocksError`] of any kind: repeat it, or leave it to the node's next start.
    async fn abort(&self, volume: VolumeHandle) -> Result<(), BlocksError>;

    /// Lets go of a target that was not committed, as the end of this process would: it is deleted or kept, as its beginner said. No such
    /// target is success. Over a wire it may take a moment until that is done.
    ///
    /// # Errors
    /// [`BlocksError::InUse`] while anybody can write to it, and others: repeat it, abort, or leave it to the end of the process.
    async fn let_go(&self, volume: VolumeHandle) -> Result<(), BlocksError>;

    /// Records an export. The next export of the volume to that repository builds upon its snapshot, of which what that needs is kept
    /// when it is deleted.
    ///
    /// # Errors
    /// [`BlocksError::Missing`] when neither the volume nor the snapshot is there.
    async fn put_export(&self, pool: PoolId, record: ExportRecord) -> Result<(), BlocksError>;

    /// The last export of a volume to the repository with this id.
    ///
    /// # Errors
    /// [`BlocksError`] when it cannot be told.
    async fn last_export(&self, volume: VolumeHandle, repository: &str) -> Result<Option<ExportRecord>, BlocksError>;

    /// Where the bytes of a snapshot are, and how far the export has come that its class asked for.
    ///
    /// # Errors
    /// [`BlocksError::Missing`].
    async fn copies(&self, snapshot: SnapshotHandle) -> Result<SnapshotCopies, BlocksError>;

    /// Records how far the export of a snapshot has come.
    ///
    /// # Errors
    /// [`BlocksError::Missing`]; [`BlocksError::NoSpace`].
    async fn put_task(&self, snapshot: SnapshotHandle, task: ExportTask) -> Result<(), BlocksError>;

    /// The snapshots of a pool whose export was asked for, one page at a time.
    ///
    /// # Errors
    /// [`BlocksError`] when they cannot be told.
    async fn tasks(&self, query: TaskQuery) -> Result<TaskPage, BlocksError>;

    /// The volumes of a pool that are of a protected class, with what their protection has cut, one page at a time.
    ///
    /// # Errors
    /// [`BlocksError`] when they cannot be told.
    async fn protected(&self, query: ProtectionQuery) -> Result<ProtectionPage, BlocksError>;

    /// Gives the local copy of an exported snapshot up; what its volume's next export needs of it is kept. Given up already is success.
    ///
    /// # Errors
    /// [`BlocksError::Unsupported`] while no repository holds it; [`BlocksError::InUse`] while it is leased or copied;
    /// [`BlocksError::Busy`], [`BlocksError::Missing`].
    async fn give_up_local_copy(&self, snapshot: SnapshotHandle) -> Result<(), BlocksError>;

    /// What the objects of a pool take, one page at a time: it walks their extents.
    ///
    /// # Errors
    /// [`BlocksError`] when it cannot be told.
    async fn usage(&self, query: UsageQuery) -> Result<UsagePage, BlocksError>;
}
