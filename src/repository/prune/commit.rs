//! The exclusive part of a prune: looks once more, then deletes.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::decide::Action;
use super::inventory::Named;
use super::plan::{Plan, find, for_each_blob};
use super::row::BLOB_BYTES;
use super::stats::Missing;
use super::used::{RowSet, Wanted, compare};
use super::{Committed, Prepared, PruneError, Stage, Watch};
use crate::repository::id::Id;
use crate::repository::index::IndexWriter;
use crate::repository::lock::LockGuard;
use crate::repository::open::Repository;
use crate::repository::store::Kind;
use crate::scratch::{Scratch, ScratchError, Sorter};

/// Deletes that run at the same time.
const PARALLEL_DELETES: usize = 16;
/// Objects that are deleted between two looks at the lock: some seconds on a distant store.
const DELETES_PER_CHECK: usize = 256;

/// True when what the plan relies on is still so: no index file of its time is gone, so nobody deleted a pack; and each pack that
/// stays, old or new, is named by a file that stays.
fn still_holds(prepared: &Prepared, present: &BTreeSet<Id>, fresh: &Named) -> bool {
    let plan = &prepared.plan;
    let superseded: BTreeSet<_> = plan.superseded.iter().collect();
    let staying = plan.named.files.iter().filter(|file| !superseded.contains(&file.id));
    let named: BTreeSet<_> = staying.chain(&fresh.files).flat_map(|file| &file.packs).collect();
    let kept = plan.packs.iter().filter(|pack| pack.action == Action::Keep).map(|pack| &pack.id);
    plan.named.files.iter().all(|file| present.contains(&file.id))
        && kept.chain(&prepared.new_packs).all(|pack| named.contains(pack))
}

/// The packs that were to go and that new snapshots need, for the blobs `wanted`; or those of these blobs that do not exist.
fn rescued(
    scratch: &Scratch,
    plan: &Plan,
    fresh: &Named,
    wanted: &Wanted,
) -> Result<Result<BTreeSet<Id>, Missing>, ScratchError> {
    let mut needed = RowSet::of(plan.named.copies.len());
    let mut unknown: Sorter<BLOB_BYTES> = Sorter::new(scratch);
    let mut missing = Missing::default();
    // What exporters have stored meanwhile counts before what is to go.
    let mut elsewhere: Sorter<BLOB_BYTES> = Sorter::new(scratch);
    compare(wanted, &fresh.copies, |_| {}, |key| elsewhere.push(key))?;
    let elsewhere = elsewhere.finish()?;
    compare(&elsewhere, &plan.named.copies, |row| needed.insert(row), |key| unknown.push(key))?;
    for key in unknown.finish()?.iter() {
        missing.add(&key?);
    }
    let mut rescued = BTreeSet::new();
    for_each_blob(&plan.named.copies, |first, copies| {
        // What was needed before is in a pack that stays, or was copied.
        if !needed.contains(first) || plan.needed.contains(first) {
            return Ok::<_, ScratchError>(());
        }
        let whole = copies.iter().filter_map(|copy| find(&plan.packs, &copy.location.pack)).filter(|pack| pack.is_whole());
        // Sound packs before doubted ones, and of these those that stay anyway.
        match whole.min_by_key(|pack| (pack.is_doubted, pack.action != Action::Keep && !rescued.contains(&pack.id))) {
            Some(pack) if pack.action == Action::Keep => {}
            Some(pack) => drop(rescued.insert(pack.id)),
            None => missing.add_in_pack(&copies[0]),
        }
        Ok(())
    })?;
    Ok(if missing.is_empty() { Ok(rescued) } else { Err(missing) })
}

impl Repository {
    pub(super) async fn commit_prune(
        &self,
        prepared: Prepared,
        lock: &LockGuard,
        watch: Watch<'_>,
    ) -> Result<Committed, PruneError> {
        let snapshots = self.store().list(Kind::Snapshot).await?;
        let new: Vec<_> = snapshots.into_iter().map(|listed| listed.id).filter(|id| !prepared.snapshots.contains(id)).collect();
        let present: BTreeSet<_> = self.index_files().await?.into_iter().collect();
        let planned: BTreeSet<_> = prepared.plan.named.files.iter().map(|file| file.id).collect();
        let fresh = self.named_by(present.difference(&planned).copied().collect()).await?;
        if !still_holds(&prepared, &present, &fresh) {
            return Ok(Committed::Changed);
        }
        let mut plan = prepared.plan;
        let mut fresh_packs: BTreeSet<_> = fresh.packs().into_iter().collect();
        if !new.is_empty() {
            let wanted = self.wanted_by(new, Arc::new(self.load_index().await?), &|| {}).await?;
            let scratch = self.scratch().clone();
            let looked = tokio::task::spawn_blocking(move || {
                let rescued = rescued(&scratch, &plan, &fresh, &wanted);
                (plan, rescued)
            });
            let (returned, found) = looked.await.map_err(crate::repository::RepositoryError::from)?;
            plan = returned;
            let rescued = found?.map_err(PruneError::Missing)?;
            self.name_rescued(&plan, &rescued).await?;
            plan.stats.packs_rescued = rescued.len() as u64;
            fresh_packs.extend(rescued);
        }
        self.delete_all(Kind::Index, &plan.superseded, lock, watch).await?;
        let going = plan.packs.iter().filter(|pack| pack.action != Action::Keep).map(|pack| pack.id);
        let going = going.chain(plan.unnamed.iter().copied()).filter(|id| !fresh_packs.contains(id));
        self.delete_all(Kind::Data, &going.collect::<Vec<_>>(), lock, watch).await?;
        Ok(Committed::Done(plan.stats))
    }

    /// Stores an index file about packs that only superseded files name, and that stay after all.
    async fn name_rescued(&self, plan: &Plan, rescued: &BTreeSet<Id>) -> Result<(), PruneError> {
        let mut index = IndexWriter::new(self.clone());
        let mut left = rescued.clone();
        for file in &plan.superseded {
            if left.is_empty() {
                break;
            }
            for record in self.records_of(*file).await? {
                if left.remove(&record.id) {
                    index.add(record).await?;
                }
            }
        }
        Ok(index.finish().await?)
    }

    /// Deletes these objects, and makes sure every so often that the lock holds.
    async fn delete_all(&self, kind: Kind, ids: &[Id], lock: &LockGuard, watch: Watch<'_>) -> Result<(), PruneError> {
        let mut done = 0;
        for some in ids.chunks(DELETES_PER_CHECK) {
            watch.unless_cancelled()?;
            lock.check().await?;
            let deletes = futures::stream::iter(some.to_vec()).map(|id| {
                let repository = self.clone();
                async move { repository.delete_object(kind, id).await }
            });
            deletes.buffer_unordered(PARALLEL_DELETES).try_collect::<()>().await?;
            done += some.len() as u64;
            watch.tell(Stage::Delete, done, ids.len() as u64);
        }
        Ok(())
    }
}
