//! Adoption of a pool of files: looking at what is there, and putting a catalogue in its place.
//!
//! In order: the pool is locked, its catalogue and the copy are read without being changed, the newer of the two that can be read is
//! compared with a scan (which, like that of any start, sweeps what interrupted operations left under temporary names), and the plan is made
//! (`pool::adopt`). Only by order it goes on: a new catalogue is made beside the old one and renamed over it, which is kept under another
//! name. A crash leaves the old catalogue or the new one. Objects are neither written nor deleted.
//!
//! The new catalogue takes 8 MiB of the pool's file system at least. Where they are not to be had, the damaged one can be moved elsewhere.

use std::path::Path;

use super::pool::ReflinkPool;
use crate::pool::adopt::{AdoptOrder, AdoptReport, Decision, NewRecords, Origin, Plan, plan};
use crate::pool::catalogue::Catalogue;
use crate::pool::catalogue::copy::{self, CopyError, Records, StoredCopy};
use crate::pool::{Pool, PoolError, Refusal};
use crate::types::Timestamp;
use crate::types::error::chain;

/// Shows what can be had back of the pool in a directory whose catalogue is lost, or takes it over: see `pool::adopt`. Nobody may be
/// serving it.
///
/// # Errors
/// [`PoolError::Owned`]; [`PoolError::Format`] when no pool was there, a part of it is of a newer format, or the order does not fit it;
/// [`PoolError::CatalogueLost`] when the order must say which pool it is; [`PoolError::NoSpace`] for the new catalogue;
/// [`PoolError::Unsupported`], [`PoolError::Io`], [`PoolError::Catalogue`].
pub fn adopt(directory: &Path, order: &AdoptOrder) -> Result<AdoptReport, PoolError> {
    let pool = ReflinkPool::open_objects(directory)?;
    let known = look(&pool, order)?;
    let new = NewRecords { block_size: pool.logical_block_size(), created: Timestamp::now() };
    let mut plan = plan(known.records, known.origin, &pool.scan()?, order, new);
    (plan.report.catalogue, plan.report.copy) = (known.catalogue, known.copy);
    if order.decision == Decision::Made && plan.report.unknown.is_empty() && plan.report.changes() {
        take_over(&pool, &plan, known.revision)?;
    } else {
        plan.report.decision = Decision::Shown;
    }
    Ok(plan.report)
}

/// What is recorded, and where.
struct Known {
    records: Records,
    origin: Origin,
    /// Of the newer of the two.
    revision: u64,
    /// What is wrong with either.
    catalogue: Option<String>,
    copy: Option<String>,
}

fn look(pool: &ReflinkPool, order: &AdoptOrder) -> Result<Known, PoolError> {
    let (catalogue, wrong) = match Catalogue::read(&pool.layout.catalogue()) {
        Ok(catalogue) => (Some((catalogue.revision()?, catalogue.records()?)), None),
        Err(PoolError::CatalogueLost(text)) => (None, Some(text)),
        Err(PoolError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            (None, Some("it is missing".to_owned()))
        }
        Err(error) => return Err(error),
    };
    let (copy, wrong_copy) = match copy::read(&pool.layout.copy()) {
        Ok(copy) => (Some(copy), None),
        Err(error @ CopyError::Newer(_)) => {
            return Err(PoolError::Format(Refusal::because(format!("{} was not changed", pool.layout.copy().display()), error)));
        }
        Err(error) => (None, Some(chain(&error))),
    };
    let ids = [
        ("its catalogue", catalogue.as_ref().map(|(_, records)| records.pool)),
        ("the second copy of its catalogue", copy.as_ref().map(|copy| copy.records.pool)),
        ("the order", order.pool),
    ];
    let mut told = ids.into_iter().filter_map(|(what, id)| id.map(|id| (what, id)));
    let Some((by, id)) = told.next() else {
        return Err(PoolError::CatalogueLost(format!(
            "{}: neither the catalogue ({}) nor its second copy ({}) says which pool this is",
            pool.layout.root().display(),
            wrong.as_deref().unwrap_or("sound"),
            wrong_copy.as_deref().unwrap_or("sound"),
        )));
    };
    if let Some((other, differs)) = told.find(|(_, other)| *other != id) {
        return Err(PoolError::Format(
            format!(
                "{}: by {by} it is the pool {id}, by {other} the pool {differs}; nothing was changed",
                pool.layout.root().display()
            )
            .into(),
        ));
    }
    let known = |records, origin, revision, catalogue| Known { records, origin, revision, catalogue, copy: wrong_copy };
    Ok(match (catalogue, copy) {
        (Some((revision, records)), copy) if copy.as_ref().is_none_or(|copy| copy.revision <= revision) => {
            known(records, Origin::Catalogue, revision, None)
        }
        (older, Some(StoredCopy { revision, written, records })) => {
            let behind = older.map(|_| "it is of an earlier moment than its second copy".to_owned());
            known(records, Origin::Copy(written), revision, wrong.or(behind))
        }
        (_, None) => known(Records::unknown(id), Origin::Nowhere, 0, wrong),
    })
}

fn take_over(pool: &ReflinkPool, plan: &Plan, revision: u64) -> Result<(), PoolError> {
    let path = pool.layout.catalogue();
    let Plan { records, new_volumes, new_snapshots, report } = plan;
    match report.origin {
        Origin::Catalogue => Catalogue::open(&path)?.commit("adopt", |change| {
            new_volumes.iter().try_for_each(|volume| change.put_volume(volume))?;
            new_snapshots.iter().try_for_each(|snapshot| change.put_snapshot(snapshot))?;
            change.skip_intents(records.next_intent)?;
            change.break_history()
        })?,
        Origin::Copy(_) | Origin::Nowhere => {
            Catalogue::rebuild(&path, &pool.layout.replaced(), records, revision.saturating_add(1))?;
        }
    }
    tracing::warn!(
        pool = %report.pool,
        volumes = records.volumes.len(),
        snapshots = records.snapshots.len(),
        "the pool's records were adopted"
    );
    Ok(())
}
