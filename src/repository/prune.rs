//! Prune: frees the space of what no snapshot needs.
//!
//! # Steps
//! Under a **shared** lock, beside exports and restores, for as long as it takes:
//! 1. [inventory]: snapshots are listed, then index files and packs read; the blobs that the snapshots' trees refer to are
//!    [collected](used);
//! 2. [plan]: which packs stay, which go, which are repacked, and which index files are superseded. If anything that a snapshot needs is
//!    not there, all ends here ([`PruneError::Missing`]) and nothing is changed. A dry run ends here too. Of a blob that several packs
//!    have, the copy that stays is read before any other goes;
//! 3. [repack]: what is needed of packs that go is copied, verified, into new packs; index files that name the new packs, and the packs
//!    that stay of superseded files, are stored, as full as restic's. This only adds.
//!
//! Then under an **exclusive** lock, for as long as the deletes take:
//!
//! 4. [commit]: snapshots and index files are listed again. Where someone else pruned meanwhile, nothing is deleted, and all begins
//!    anew, [three times](ATTEMPTS) at most. A pack that a snapshot stored meanwhile needs stays, and an index file is stored that
//!    names it;
//! 5. superseded index files are deleted;
//! 6. packs that go are deleted, and packs that no index file named in step 1 and names now: nobody is about to name them, since
//!    nobody else holds a lock. A pack that was stored after step 1 and is named by none is left to the next prune.
//!
//! # A crash
//! leaves after each step a repository in which every blob of every snapshot is in a pack that some index file names:
//!
//! | after | there is too much | the next prune |
//! |---|---|---|
//! | a new pack | that pack, which nobody names | removes it, and copies again |
//! | a new index file | blobs in two packs; packs named by two files, alike, which readers count once | keeps the copy in the new pack; what is named twice is dropped |
//! | some deleted index files | packs that nobody names | removes them |
//! | some deleted packs | the others | removes them |
//!
//! Index files go before the packs that they alone name, so no index file ever names a pack that this deleted.
//!
//! # What may run beside what
//! | beside | steps 1-3 (shared) | steps 4-6 (exclusive) |
//! |---|---|---|
//! | export, restic backup | yes. It may refer to blobs that the plan lets go: its snapshot is there in step 4, or it still holds its lock and there is no step 4. It may not know the new packs: it refers to blobs, and not to packs | no: it waits, then reads the new index files before it refers to anything |
//! | restore, check, list | yes: nothing goes | no |
//! | forget | yes: what was needed in step 1 is kept until the next prune | no |
//! | another prune of ours | yes: both add the same copies, the second finds the index files of its plan gone in step 4 and plans anew | no |
//! | `restic prune`, `forget`, `check`, `repair` | no: they want the repository alone. Between the two locks they may: index files are then gone, and the plan with them | no |
//! | rustic's prune, which takes no lock | **never**: it deletes what a running export refers to | **never** |
//!
//! # After healing
//! An export that found packs absent, short or damaged stored again what it met of them, beside the old rows of the index. Here
//! those rows go: index files that name a pack which is not there, or not whole, or of which nothing is needed that no sound pack
//! has, are superseded by files that do not, and what there is of the pack is deleted. So a repository that exports have healed
//! passes `restic check` after this. What only a damaged pack may have stays, and so does what the check says of it, until the
//! snapshots that need it are forgotten.
//!
//! # Memory
//! Tables of blobs are in scratch space: 77 bytes for each copy, twice while they are sorted, and 33 for each id that is needed. In memory
//! are a bit for each copy, some 200 bytes for each pack, 8 MiB for each of four reads, and two packs.
//!
//! # Cancellation
//! is looked at between any two objects. What was copied is named by an index file first, so that the next prune need not copy it again.
//! Dropping the future is as a crash.
//!
//! # What this never does
//! Delete what the present snapshots need; delete anything without having held the lock just before; trust a blob that it copies without
//! verifying it; let one of two copies go without having verified the other; let a pack go because no index names it while anyone else
//! holds a lock.

mod commit;
mod decide;
mod inventory;
mod plan;
mod repack;
mod row;
mod run;
mod stats;
mod used;

use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;

use self::plan::Plan;
use self::used::WantedError;
use super::error::RepositoryError;
use super::id::Id;
use crate::scratch::ScratchError;

pub use decide::MaxUnused;
pub use stats::{Missing, PruneStats};

/// How often a plan is made when someone else prunes at the same time; each time the other has done most of the work.
const ATTEMPTS: u32 = 3;

/// What the caller of a prune chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PruneOptions {
    /// How much that no snapshot needs may stay.
    pub max_unused: MaxUnused,
    pub extent: Extent,
}

/// How far a prune goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extent {
    /// It goes to the end.
    #[default]
    Prune,
    /// Only the plan is made.
    DryRun,
}

/// Where a prune is. It is told with how many objects there are, where that is known, and how many are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Snapshots,
    Repack,
    Delete,
}

/// Is told the progress of a prune.
pub type PruneProgress<'a> = &'a (dyn Fn(Stage, u64, u64) + Send + Sync);

/// Why a prune did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// What a snapshot needs cannot be known, since something of its tree is lost. Nothing was deleted.
    #[error("snapshot {} needs a tree that cannot be read, so nothing was deleted", snapshot.short())]
    Unreadable { snapshot: Id, source: RepositoryError },
    /// Snapshots need blobs that do not exist. Nothing was deleted.
    #[error("snapshots need {} blobs that do not exist, so nothing was deleted: {}", .0.blobs, .0.named.join("; "))]
    Missing(Missing),
    /// Another prune ran at the same time, at each attempt.
    #[error("someone else changed the repository's index meanwhile, {ATTEMPTS} times; nothing was deleted")]
    Changed,
    /// It was cancelled between two steps.
    #[error("cancelled; what is left is done by the next prune")]
    Cancelled,
}

impl From<WantedError> for PruneError {
    fn from(error: WantedError) -> Self {
        match error {
            WantedError::Unreadable { snapshot, source } => Self::Unreadable { snapshot, source },
            WantedError::Repository(error) => Self::Repository(error),
        }
    }
}

impl From<ScratchError> for PruneError {
    fn from(error: ScratchError) -> Self {
        Self::Repository(error.into())
    }
}

impl From<super::store::StoreError> for PruneError {
    fn from(error: super::store::StoreError) -> Self {
        Self::Repository(error.into())
    }
}

/// What the steps under the shared lock hand to those under the exclusive one.
struct Prepared {
    plan: Plan,
    snapshots: BTreeSet<Id>,
    new_packs: Vec<Id>,
}

/// The outcome of the exclusive part.
enum Committed {
    Done(PruneStats),
    /// The plan is void.
    Changed,
}

/// The watcher of a prune, which is told its progress and may cancel it.
#[derive(Clone, Copy)]
struct Watch<'a> {
    progress: PruneProgress<'a>,
    cancel: &'a CancellationToken,
}

impl Watch<'_> {
    fn tell(&self, stage: Stage, done: u64, all: u64) {
        (self.progress)(stage, done, all);
    }

    fn unless_cancelled(&self) -> Result<(), PruneError> {
        if self.cancel.is_cancelled() { Err(PruneError::Cancelled) } else { Ok(()) }
    }
}
