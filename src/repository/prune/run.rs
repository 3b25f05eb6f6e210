//! The prune as a whole: its two locks, and what is done under each.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::plan::Findings;
use super::stats::PruneStats;
use super::{ATTEMPTS, Committed, Extent, Prepared, PruneError, PruneOptions, PruneProgress, Stage, Watch, plan};
use crate::repository::error::RepositoryError;
use crate::repository::id::Id;
use crate::repository::lock::ahead::look_again;
use crate::repository::lock::{LockGuard, LockMode};
use crate::repository::open::Repository;
use crate::repository::store::Kind;

/// How long transfers that come are kept out at a time, while the prune waits for those that run. Exports wait longer than that.
const KEEP_OUT: Duration = Duration::from_secs(60);

impl Repository {
    /// Frees what no snapshot needs. See the module's header for the order of steps.
    ///
    /// # Errors
    /// After any of them every snapshot has all that it had, and the next prune goes on.
    pub async fn prune(
        &self,
        options: PruneOptions,
        progress: PruneProgress<'_>,
        cancel: &CancellationToken,
    ) -> Result<PruneStats, PruneError> {
        // What this machine knows to be damaged, and what turns out to be.
        let mut doubted: HashSet<Id> = self.damaged_packs().await?;
        let watch = Watch { progress, cancel };
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            let lock = self.lock_to_plan(watch).await?;
            let prepared = self.prepare_prune(options, &mut doubted, &lock, watch).await;
            lock.let_go(cancel).await;
            // What was found damaged is not relied upon the next time, so that this ends.
            let Some(prepared) = prepared? else { continue };
            if options.extent == Extent::DryRun || prepared.plan.stats.is_idle() {
                return Ok(prepared.plan.stats);
            }
            watch.unless_cancelled()?;
            let lock = self.lock_to_delete(watch).await?;
            let committed = self.commit_prune(prepared, &lock, watch).await;
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

    /// Takes the shared lock. Only the wait is dropped when the prune is cancelled, never an attempt: see below.
    async fn lock_to_plan(&self, watch: Watch<'_>) -> Result<LockGuard, PruneError> {
        let (once, mut patience) = (self.clone().with_retry_lock(Duration::ZERO), self.patience());
        loop {
            watch.unless_cancelled()?;
            match once.lock(LockMode::Shared).await {
                Ok(guard) => return Ok(guard),
                Err(error) => {
                    watch.cancel.run_until_cancelled(patience.wait(error, &|_| {})).await.ok_or(PruneError::Cancelled)??;
                }
            }
        }
    }

    /// Takes the exclusive lock, and waits for it as long as the repository's [patience](Self::with_retry_lock) lasts: at first for
    /// a moment without others, then so that nobody new comes in between. No attempt is dropped half-way, which could leave a lock
    /// that nobody removes; whether it is cancelled is looked at between two.
    async fn lock_to_delete(&self, watch: Watch<'_>) -> Result<LockGuard, PruneError> {
        let once = self.clone().with_retry_lock(Duration::ZERO);
        let (began, limit, mut told) = (Instant::now(), self.retry_lock(), false);
        loop {
            watch.unless_cancelled()?;
            let left = limit.saturating_sub(began.elapsed());
            let taken = match left > limit / 2 || limit.is_zero() {
                true => once.lock(LockMode::Exclusive).await,
                false => once.lock_ahead(KEEP_OUT.min(left), watch.cancel).await,
            };
            match taken {
                Err(RepositoryError::Locked { holder }) if began.elapsed() < limit => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%holder, seconds = limit.as_secs(), "waiting for the repository's lock, to delete what nobody needs");
                    }
                    look_again(watch.cancel).await;
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
        watch: Watch<'_>,
    ) -> Result<Option<Prepared>, PruneError> {
        // Snapshots first: all that they need is in the index files listed after them. Packs last: all that those name were stored before.
        let snapshots: BTreeSet<_> = self.store().list(Kind::Snapshot).await?.into_iter().map(|listed| listed.id).collect();
        let index = Arc::new(self.load_index().await?);
        let named = self.named_by(self.index_files().await?).await?;
        let stored = self.stored_packs().await?;
        let (all, done) = (snapshots.len() as u64, AtomicU64::new(0));
        let count = || watch.tell(Stage::Snapshots, 1 + done.fetch_add(1, Ordering::Relaxed), all);
        let wanted = tokio::select! {
            wanted = self.wanted_by(snapshots.iter().copied().collect(), index, &count) => wanted?,
            () = watch.cancel.cancelled() => return Err(PruneError::Cancelled),
        };
        let (scratch, findings) = (self.scratch().clone(), Findings { named, stored, wanted, doubted: doubted.clone() });
        let planned = tokio::task::spawn_blocking(move || plan::plan(&scratch, findings, options.max_unused));
        let plan = planned.await.map_err(RepositoryError::from)??.map_err(PruneError::Missing)?;
        let mut new_packs = Vec::new();
        if options.extent == Extent::Prune && !plan.stats.is_idle() {
            watch.unless_cancelled()?;
            let mut bad = self.bad_among_relied_upon(&plan, watch).await?;
            if bad.is_empty() {
                match self.add_copies(&plan, lock, watch).await? {
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
