//! The plan of a prune, decided from sorted tables without a store.
//!
//! The table of copies is walked five times in the order of blobs: to know what each pack must be, what is needed of it, which pack keeps
//! a blob that several have, what is to be copied, and which copies are relied upon while others go.

use std::collections::HashSet;

use super::decide::{Action, MaxUnused, Pack, decide};
use super::inventory::{IndexFile, Named};
use super::row::{BLOB_BYTES, BlobCopy, ROW_BYTES};
use super::stats::{Missing, PruneStats};
use super::used::{RowSet, Wanted, compare};
use crate::repository::id::Id;
use crate::repository::store::Listed;
use crate::scratch::{Scratch, ScratchError, SortedRows, Sorter};

/// Blobs of an index file that restic takes for full and lets stand.
pub(super) const FULL_INDEX_BLOBS: u64 = 50_000;

/// A prune to be made.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) named: Named,
    /// First copies of the blobs that are needed.
    pub(super) needed: RowSet,
    /// The packs that index files name, in order.
    pub(super) packs: Vec<Pack>,
    /// The copies that are to be copied, sorted by pack.
    pub(super) copies: SortedRows<ROW_BYTES>,
    /// Copies that stay where they are, sorted by pack, of blobs other copies of which go.
    pub(super) relied_upon: SortedRows<ROW_BYTES>,
    /// Index files whose place others take.
    pub(super) superseded: Vec<Id>,
    /// Packs that no index file names.
    pub(super) unnamed: Vec<Id>,
    pub(super) stats: PruneStats,
}

/// The findings that a prune is planned from.
pub(super) struct Findings {
    pub(super) named: Named,
    /// The packs of the store, in order.
    pub(super) stored: Vec<Listed>,
    /// The blobs that snapshots need.
    pub(super) wanted: Wanted,
    /// Packs that are known to be damaged.
    pub(super) doubted: HashSet<Id>,
}

/// The pack `id` among packs in order.
pub(super) fn find<'a>(packs: &'a [Pack], id: &Id) -> Option<&'a Pack> {
    packs.binary_search_by_key(id, |pack| pack.id).ok().map(|at| &packs[at])
}

fn find_mut<'a>(packs: &'a mut [Pack], id: &Id) -> Option<&'a mut Pack> {
    packs.binary_search_by_key(id, |pack| pack.id).ok().map(|at| &mut packs[at])
}

/// Calls `visit` for each blob with the number of its first copy and all its copies.
pub(super) fn for_each_blob<E: From<ScratchError>>(
    copies: &SortedRows<ROW_BYTES>,
    mut visit: impl FnMut(u64, &[BlobCopy]) -> Result<(), E>,
) -> Result<(), E> {
    let mut rows = copies.iter().zip(0_u64..).peekable();
    let mut group = Vec::new();
    while let Some((row, first)) = rows.next() {
        let row = row?;
        group.clear();
        group.push(BlobCopy::of_row_by_blob(&row));
        let is_copy =
            |next: &(Result<[u8; ROW_BYTES], _>, _)| next.0.as_ref().is_ok_and(|next| next[..BLOB_BYTES] == row[..BLOB_BYTES]);
        while let Some((Ok(next), _)) = rows.next_if(is_copy) {
            group.push(BlobCopy::of_row_by_blob(&next));
        }
        visit(first, &group)?;
    }
    Ok(())
}

/// The copies that can be read, of which there is at most one in each pack.
fn whole<'a>(packs: &'a [Pack], copies: &'a [BlobCopy]) -> impl Iterator<Item = (&'a Pack, &'a BlobCopy)> + Clone {
    let found = copies.iter().zip(0_usize..).filter(|(copy, number)| {
        // A pack that has a blob twice is read where it has it first.
        *number == 0 || copies[*number - 1].location.pack != copy.location.pack
    });
    found.filter_map(|(copy, _)| find(packs, &copy.location.pack).filter(|pack| pack.is_whole()).map(|pack| (pack, copy)))
}

/// The copy that is kept.
fn keeper<'a>(packs: &'a [Pack], copies: &'a [BlobCopy]) -> Option<(&'a Pack, &'a BlobCopy)> {
    whole(packs, copies).min_by_key(|(pack, _)| pack.rank())
}

/// The copy that is left without copying one: the keeper, or else one in another pack that stays and is as sound.
pub(super) fn staying<'a>(packs: &'a [Pack], copies: &'a [BlobCopy]) -> Option<(&'a Pack, &'a BlobCopy)> {
    let stays = whole(packs, copies).filter(|(pack, _)| pack.action == Action::Keep);
    let best = keeper(packs, copies)?.0;
    stays.filter(|(pack, _)| pack.is_doubted == best.is_doubted).min_by_key(|(pack, _)| pack.rank())
}

/// Decides everything. [`Missing`] names what snapshots need and does not exist: then nothing may be deleted.
pub(super) fn plan(scratch: &Scratch, findings: Findings, max_unused: MaxUnused) -> Result<Result<Plan, Missing>, ScratchError> {
    let Findings { named, stored, wanted, doubted } = findings;
    let mut missing = Missing::default();
    let mut needed = RowSet::of(named.copies.len());
    compare(
        &wanted,
        &named.copies,
        |row| needed.insert(row),
        |key| {
            missing.add(&key);
            Ok(())
        },
    )?;
    let bytes_of = |id: &Id| stored.binary_search_by_key(id, |listed| listed.id).ok().map(|at| stored[at].bytes);
    let pack = |id: Id| {
        let mut pack = Pack::new(id, bytes_of(&id));
        pack.is_doubted = doubted.contains(&id);
        pack
    };
    let mut packs: Vec<_> = named.packs().into_iter().map(pack).collect();
    for row in named.copies.iter() {
        let copy = BlobCopy::of_row_by_blob(&row?);
        if let Some(pack) = find_mut(&mut packs, &copy.location.pack) {
            pack.add(&copy);
        }
    }
    count_needed(&named, &needed, &mut packs, &mut missing)?;
    if !missing.is_empty() {
        return Ok(Err(missing));
    }
    choose_keepers(&named, &needed, &mut packs)?;
    decide(&mut packs, max_unused);
    let copies = to_copy(scratch, &named, &needed, &packs)?;
    let relied_upon = relied_upon(scratch, &named, &needed, &packs)?;
    let superseded = superseded(&named.files, |id| find(&packs, id).is_some_and(|pack| pack.action != Action::Keep));
    let unnamed = stored.iter().filter(|listed| find(&packs, &listed.id).is_none());
    let unnamed_bytes = unnamed.clone().map(|listed| listed.bytes).sum();
    let unnamed: Vec<_> = unnamed.map(|listed| listed.id).collect();
    let mut stats = PruneStats::of(&packs, &copies)?;
    (stats.packs_unnamed, stats.bytes_unnamed) = (unnamed.len() as u64, unnamed_bytes);
    (stats.index_files, stats.index_files_superseded) = (named.files.len() as u64, superseded.len() as u64);
    Ok(Ok(Plan { named, needed, packs, copies, relied_upon, superseded, unnamed, stats }))
}

/// Counts what is needed of each pack.
fn count_needed(named: &Named, needed: &RowSet, packs: &mut [Pack], missing: &mut Missing) -> Result<(), ScratchError> {
    for_each_blob(&named.copies, |first, copies| {
        let is_needed = needed.contains(first);
        let places: Vec<_> = whole(packs, copies).map(|(pack, copy)| (pack.id, *copy)).collect();
        if is_needed && places.is_empty() {
            missing.add_in_pack(&copies[0]);
        }
        for copy in copies {
            let bytes = u64::from(copy.location.length);
            let Some(pack) = find_mut(packs, &copy.location.pack) else { continue };
            if !is_needed || !places.iter().any(|(_, place)| place == copy) {
                pack.unneeded += bytes;
            } else if places.len() == 1 {
                pack.only_here += bytes;
            } else {
                pack.duplicate += bytes;
            }
        }
        Ok(())
    })
}

/// Decides which pack keeps what several have.
fn choose_keepers(named: &Named, needed: &RowSet, packs: &mut [Pack]) -> Result<(), ScratchError> {
    for_each_blob(&named.copies, |first, copies| {
        if !needed.contains(first) || whole(packs, copies).nth(1).is_none() {
            return Ok(());
        }
        // Ranks do not depend on what was chosen so far.
        let Some((best, copy)) = keeper(packs, copies) else { return Ok(()) };
        // Of copies that are all doubted, each may be the one that reads.
        let chosen: Vec<_> = match best.is_doubted {
            false => vec![*copy],
            true => whole(packs, copies).map(|(_, copy)| *copy).collect(),
        };
        for copy in chosen {
            if let Some(pack) = find_mut(packs, &copy.location.pack) {
                pack.chosen += u64::from(copy.location.length);
            }
        }
        Ok(())
    })
}

/// What must be copied before packs may go: what is needed and is in no pack that stays.
fn to_copy(scratch: &Scratch, named: &Named, needed: &RowSet, packs: &[Pack]) -> Result<SortedRows<ROW_BYTES>, ScratchError> {
    let mut copied = Sorter::new(scratch);
    for_each_blob(&named.copies, |first, copies| {
        if needed.contains(first)
            && staying(packs, copies).is_none()
            && let Some((_, copy)) = keeper(packs, copies)
        {
            copied.push(copy.row_by_pack())?;
        }
        Ok::<_, ScratchError>(())
    })?;
    copied.finish()
}

/// The copies that stay and must be sound, since others go: one that was not verified may be the damaged one that an export replaced.
fn relied_upon(scratch: &Scratch, named: &Named, needed: &RowSet, packs: &[Pack]) -> Result<SortedRows<ROW_BYTES>, ScratchError> {
    let mut relied_upon = Sorter::new(scratch);
    for_each_blob(&named.copies, |first, copies| {
        let goes = || whole(packs, copies).any(|(pack, _)| pack.action != Action::Keep && !pack.is_doubted);
        if needed.contains(first)
            && copies.len() > 1
            && goes()
            && let Some((_, copy)) = staying(packs, copies)
        {
            relied_upon.push(copy.row_by_pack())?;
        }
        Ok::<_, ScratchError>(())
    })?;
    relied_upon.finish()
}

/// The index files that name a pack that goes; and the small ones, if they become fewer.
fn superseded(files: &[IndexFile], goes: impl Fn(&Id) -> bool) -> Vec<Id> {
    let (must, may): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.packs.iter().any(&goes));
    let small: Vec<_> = may.into_iter().filter(|file| file.blobs < FULL_INDEX_BLOBS).collect();
    let become_files = small.iter().map(|file| file.blobs).sum::<u64>().div_ceil(FULL_INDEX_BLOBS) as usize;
    let merged = if !must.is_empty() || become_files < small.len() { small } else { Vec::new() };
    must.into_iter().chain(merged).map(|file| file.id).collect()
}
