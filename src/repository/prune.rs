//! Freeing the space of what no snapshot needs.
//!
//! # Steps
//! Under a **shared** lock, beside exports and restores, for as long as it takes:
//! 1. [inventory]: snapshots are listed, then index files and packs read; the blobs that the snapshots' trees refer to are [collected](used);
//! 2. [plan]: which packs stay, which go, which are repacked, and which index files are superseded. If anything that a snapshot needs is
//!    not there, all ends here ([`PruneError::Missing`]) and nothing is changed. A dry run ends here too. Of a blob that several packs
//!    have, the copy that stays is read before any other goes;
//! 3. [repack]: what is needed of packs that go is copied, verified, into new packs; index files that name the new packs, and the packs that stay of
//!    superseded files, are stored, as full as restic's. This only adds.
//!
//! Then under an **exclusive** lock, for as long as the deletes take:
//!
//! 4. [commit]: snapshots and index files are listed again. Where someone else pruned meanwhile, nothing is deleted, and all begins
//!    anew, [three times](ATTEMPTS) at most. A pack that a snapshot stored meanwhile needs stays, and an index file is stored that names it;
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
//! An export that found packs absent, short or damaged stored again what it met of them, beside the old rows of the index. Here those rows go:
//! index files that name a pack which is not there, or not whole, or of which nothing is needed that no sound pack has, are superseded
//! by files that do not, and what there is of the pack is deleted. So a repository that exports have healed passes `restic check` after this.
//! What only a damaged pack may have stays, and so does what the check says of it, until the snapshots that need it are forgotten.
//!
//! # Memory
//! Tables of blobs are in scratch space: 77 bytes for each copy, twice while they are sorted, and 33 for each id that is needed. In memory are a bit for
//! each copy, some 200 bytes for each pack, 8 MiB for each of four reads, and two packs.
//!
//! # Cancellation
//! is looked at between any two objects. What was copied is named by an index file first, so that the next prune need not copy it again.
//! Dropping the future is as a crash.
//!
//! # What this never does
//! Delete what the present snapshots need; delete anything without having held the lock just before; trust a blob that it copies without
//! verifying it; let one of two copies go without having verified the other; let a pack go for being in no index while anyone else holds a lock.

mod commit;
mod decide;
mod inventory;
mod plan;
mod repack;
mod row;
mod used;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use self::decide::{Action, Pack};
use self::plan::Plan;
use self::row::{BlobCopy, BlobKey, ROW_BYTES, of_blob_key};
use super::blob::BlobKind;
use super::error::RepositoryError;
use super::id::Id;
use super::lock::ahead::look_again;
use super::lock::{LockGuard, LockMode};
use super::open::Repository;
use super::store::Kind;
use crate::scratch::{ScratchError, SortedRows};

pub use decide::MaxUnused;

/// How often a plan is made when someone else prunes at the same time; each time the other has done most of the work.
const ATTEMPTS: u32 = 3;
/// How long newcomers are kept out at a time while those are waited for who work. Exports wait longer than that for anyone.
const KEEP_OUT: Duration = Duration::from_secs(60);
/// Missing blobs that are named one by one.
const NAMED_MISSING: usize = 10;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PruneOptions {
    /// How much that no snapshot needs may stay.
    pub max_unused: MaxUnused,
    /// How far to go.
    pub extent: Extent,
}

/// How far a prune goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extent {
    /// To the end.
    #[default]
    Prune,
    /// Only the plan is made.
    DryRun,
}

/// Where a prune is; with it goes how many there are, where that is known, and how many are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Snapshots are read.
    Snapshots,
    /// Blobs are copied.
    Repack,
    /// Objects are deleted.
    Delete,
}

/// Is told the progress of a prune.
pub type PruneProgress<'a> = &'a (dyn Fn(Stage, u64, u64) + Send + Sync);

/// What a prune found and did, or would do. Counts are of objects, `bytes_…` of their sizes.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PruneStats {
    /// Packs that index files name.
    pub packs: u64,
    /// Of these, those that stay.
    pub packs_kept: u64,
    /// Of these, those of which something is copied before they go.
    pub packs_repacked: u64,
    /// Of these, those that go as they are.
    pub packs_removed: u64,
    /// Of these, those that are not there, not whole, or known to be damaged, and of which nothing is needed that no sound pack has.
    pub packs_damaged: u64,
    /// Of these, those that are known to be damaged, and of which snapshots need what no sound pack has.
    pub packs_doubted: u64,
    /// Packs that no index file names.
    pub packs_unnamed: u64,
    /// Blobs that are copied.
    pub blobs_copied: u64,
    /// What snapshots need, each blob once.
    pub bytes_used: u64,
    /// What they do not need, and second copies of what they do.
    pub bytes_unused: u64,
    /// What is copied.
    pub bytes_copied: u64,
    /// What packs have that no index file names.
    pub bytes_unnamed: u64,
    /// What is freed, less what the copies take.
    pub bytes_freed: u64,
    /// Of `bytes_unused`, what stays.
    pub bytes_unused_kept: u64,
    /// Index files.
    pub index_files: u64,
    /// Of these, those whose place others take.
    pub index_files_superseded: u64,
    /// Packs that were to go, and that a snapshot stored meanwhile needs.
    pub packs_rescued: u64,
}

impl PruneStats {
    fn of(packs: &[Pack], copies: &SortedRows<ROW_BYTES>) -> Result<Self, ScratchError> {
        let mut stats = Self { packs: packs.len() as u64, blobs_copied: copies.len(), ..Self::default() };
        for row in copies.iter() {
            stats.bytes_copied += u64::from(BlobCopy::of_row_by_pack(&row?).location.length);
        }
        let mut going = 0;
        for pack in packs {
            stats.bytes_used += pack.used();
            stats.bytes_unused += pack.unused();
            stats.packs_damaged += u64::from(!pack.is_whole() || pack.is_doubted && pack.action == Action::Remove);
            stats.packs_doubted += u64::from(pack.is_doubted && pack.action == Action::Keep);
            match pack.action {
                Action::Keep => {
                    stats.packs_kept += 1;
                    stats.bytes_unused_kept += pack.unused();
                }
                Action::Repack => stats.packs_repacked += 1,
                Action::Remove => stats.packs_removed += 1,
            }
            if pack.action != Action::Keep {
                going += pack.stored.unwrap_or_default();
            }
        }
        stats.bytes_freed = going.saturating_sub(stats.bytes_copied);
        Ok(stats)
    }

    /// True when there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.packs_repacked + self.packs_removed + self.packs_unnamed + self.index_files_superseded == 0
    }
}

/// Blobs that snapshots need and that are not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// How many.
    pub blobs: u64,
    /// The first ten, and what is known of each.
    pub named: Vec<String>,
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.blobs == 0
    }

    fn name(&mut self, text: impl FnOnce() -> String) {
        self.blobs += 1;
        if self.named.len() < NAMED_MISSING {
            self.named.push(text());
        }
    }

    fn add(&mut self, key: &BlobKey) {
        let (kind, id): (BlobKind, Id) = of_blob_key(key);
        self.name(|| format!("{kind} blob {id}, in no index"));
    }

    fn add_in_pack(&mut self, copy: &BlobCopy) {
        self.name(|| {
            format!(
                "{} blob {}, in pack {}, which is absent or not as long as it must be",
                copy.kind, copy.id, copy.location.pack
            )
        });
    }
}

/// Why a prune did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Snapshots need what is not there. Nothing was deleted.
    #[error("snapshots need {} blobs that are not there, so nothing was deleted: {}", .0.blobs, .0.named.join("; "))]
    Missing(Missing),
    /// Someone else pruned meanwhile, each time.
    #[error("someone else changed the repository's index meanwhile, {ATTEMPTS} times; nothing was deleted")]
    Changed,
    /// As was asked for, between two steps.
    #[error("cancelled; what is left is done by the next prune")]
    Cancelled,
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

/// What the steps under the shared lock left to the exclusive one.
struct Prepared {
    plan: Plan,
    snapshots: BTreeSet<Id>,
    new_packs: Vec<Id>,
}

/// What came of the exclusive part.
enum Committed {
    Done(PruneStats),
    /// The plan is void.
    Changed,
}

fn unless_cancelled(cancel: &CancellationToken) -> Result<(), PruneError> {
    if cancel.is_cancelled() { Err(PruneError::Cancelled) } else { Ok(()) }
}

impl Repository {
    /// Frees what no snapshot needs. See the module's header for the order of steps.
    ///
    /// # Errors
    /// [`PruneError`]. Whatever it is, every snapshot has all that it had, and the next prune goes on.
    pub async fn prune(
        &self,
        options: PruneOptions,
        progress: PruneProgress<'_>,
        cancel: &CancellationToken,
    ) -> Result<PruneStats, PruneError> {
        // What this machine knows to be damaged, and what turns out to be.
        let mut doubted: HashSet<Id> = self.damaged_packs().await?;
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            let lock = self.lock_to_plan(cancel).await?;
            let prepared = self.prepare_prune(options, &mut doubted, &lock, progress, cancel).await;
            lock.let_go(cancel).await;
            // Whatever was found damaged is not relied upon the next time, so that this ends.
            let Some(prepared) = prepared? else { continue };
            if options.extent == Extent::DryRun || prepared.plan.stats.is_idle() {
                return Ok(prepared.plan.stats);
            }
            unless_cancelled(cancel)?;
            let lock = self.lock_to_delete(cancel).await?;
            let committed = self.commit_prune(prepared, &lock, progress, cancel).await;
            lock.let_go(cancel).await;
            match committed? {
                Committed::Done(stats) => {
                    tracing::info!(?stats, "repository pruned");
                    return Ok(stats);
                }
                Committed::Changed => {
                    attempts += 1;
                    tracing::warn!("someone else changed the repository's index; the prune is planned anew");
                }
            }
        }
        Err(PruneError::Changed)
    }

    /// Takes the shared lock. Only the wait is dropped when `cancel` is cancelled, never an attempt: see below.
    async fn lock_to_plan(&self, cancel: &CancellationToken) -> Result<LockGuard, PruneError> {
        let (once, mut patience) = (self.clone().with_retry_lock(Duration::ZERO), self.patience());
        loop {
            unless_cancelled(cancel)?;
            match once.lock(LockMode::Shared).await {
                Ok(guard) => return Ok(guard),
                Err(error) => {
                    cancel.run_until_cancelled(patience.wait(error, &|_| {})).await.ok_or(PruneError::Cancelled)??;
                }
            }
        }
    }

    /// Takes the exclusive lock, and waits for it as long as the repository is [to](Self::with_retry_lock): for a moment without others at
    /// first, then so that nobody new comes in between. No attempt is dropped half-way, which could leave a lock that nobody
    /// removes; `cancel` is looked at between two.
    async fn lock_to_delete(&self, cancel: &CancellationToken) -> Result<LockGuard, PruneError> {
        let once = self.clone().with_retry_lock(Duration::ZERO);
        let (began, limit, mut told) = (Instant::now(), self.retry_lock(), false);
        loop {
            unless_cancelled(cancel)?;
            let left = limit.saturating_sub(began.elapsed());
            let taken = match left > limit / 2 || limit.is_zero() {
                true => once.lock(LockMode::Exclusive).await,
                false => once.lock_ahead(KEEP_OUT.min(left), cancel).await,
            };
            match taken {
                Err(RepositoryError::Locked { holder }) if began.elapsed() < limit => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%holder, seconds = limit.as_secs(), "waiting for the repository's lock, to delete what nobody needs");
                    }
                    look_again(cancel).await;
                }
                taken => return Ok(taken?),
            }
        }
    }

    /// `None` when packs turned out to be damaged, which are in `doubted` then: all is to be planned anew.
    async fn prepare_prune(
        &self,
        options: PruneOptions,
        doubted: &mut HashSet<Id>,
        lock: &LockGuard,
        progress: PruneProgress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Option<Prepared>, PruneError> {
        // Snapshots first: all that they need is in the index files listed after them. Packs last: all that those name were stored before.
        let snapshots: BTreeSet<_> = self.store().list(Kind::Snapshot).await?.into_iter().map(|listed| listed.id).collect();
        let index = Arc::new(self.load_index().await?);
        let named = self.named_by(self.index_files().await?).await?;
        let stored = self.stored_packs().await?;
        let (all, done) = (snapshots.len() as u64, AtomicU64::new(0));
        let count = || progress(Stage::Snapshots, 1 + done.fetch_add(1, Ordering::Relaxed), all);
        let wanted = tokio::select! {
            wanted = self.wanted_by(snapshots.iter().copied().collect(), index, &count) => wanted?,
            () = cancel.cancelled() => return Err(PruneError::Cancelled),
        };
        let (scratch, known) = (self.scratch().clone(), doubted.clone());
        let planned =
            tokio::task::spawn_blocking(move || plan::plan(&scratch, named, &stored, &wanted, &known, options.max_unused));
        let plan = planned.await.map_err(RepositoryError::from)??.map_err(PruneError::Missing)?;
        let mut new_packs = Vec::new();
        if options.extent == Extent::Prune && !plan.stats.is_idle() {
            unless_cancelled(cancel)?;
            let mut bad = self.bad_among_relied_upon(&plan, cancel).await?;
            if bad.is_empty() {
                match self.add_copies(&plan, lock, progress, cancel).await? {
                    Ok(added) => new_packs = added,
                    Err(found) => bad = found,
                }
            }
            if !bad.is_empty() {
                // No export builds upon them either.
                self.doubt(bad.iter().copied()).await;
                doubted.extend(bad);
                return Ok(None);
            }
        }
        Ok(Some(Prepared { plan, snapshots, new_packs }))
    }
}
