//! Finds the blobs that snapshots need.
//!
//! The ids that trees refer to are sorted in scratch space and then compared with the table of copies in one walk along both, so that
//! a list of millions of ids costs no look-up for each. Trees are read once, however many snapshots share them.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};

use super::row::{BLOB_BYTES, BlobKey, ROW_BYTES, blob_key};
use crate::repository::blob::BlobKind;
use crate::repository::error::RepositoryError;
use crate::repository::id::Id;
use crate::repository::index::Index;
use crate::repository::open::Repository;
use crate::repository::store::StoreError;
use crate::repository::tree::{Node, NodeKind};
use crate::scratch::{Inserted, KeySet, Scratch, ScratchError, SortedRows, Sorter};

/// Snapshots whose trees are read at the same time.
const PARALLEL_SNAPSHOTS: usize = 4;
/// Ids that are collected before those that occur several times are dropped: half a GB of scratch space.
const UNSORTED_IDS: u64 = 16 << 20;

/// Blobs that are needed, each once, in order.
pub(super) type Wanted = SortedRows<BLOB_BYTES>;

/// Why it is not known what the snapshots need.
#[derive(Debug, thiserror::Error)]
pub(super) enum WantedError {
    /// Something of a snapshot's tree is lost.
    #[error("snapshot {} needs a tree that cannot be read", snapshot.short())]
    Unreadable { snapshot: Id, source: RepositoryError },
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl From<ScratchError> for WantedError {
    fn from(error: ScratchError) -> Self {
        Self::Repository(error.into())
    }
}

/// Collects ids as they come.
struct Collector {
    scratch: Scratch,
    trees: KeySet,
    sorter: Sorter<BLOB_BYTES>,
    unsorted: u64,
    limit: u64,
}

impl Collector {
    fn new(scratch: &Scratch) -> Self {
        Self {
            scratch: scratch.clone(),
            trees: KeySet::new(scratch),
            sorter: Sorter::new(scratch),
            unsorted: 0,
            limit: UNSORTED_IDS,
        }
    }

    fn want(&mut self, key: BlobKey) -> Result<(), ScratchError> {
        if self.unsorted >= self.limit {
            let sorted = std::mem::replace(&mut self.sorter, Sorter::new(&self.scratch)).finish()?;
            sorted.iter().try_for_each(|key| self.sorter.push(key?))?;
            // What is needed by now is carried along; as much again may come before the next time, so that ids are sorted about twice.
            (self.unsorted, self.limit) = (sorted.len(), UNSORTED_IDS.max(2 * sorted.len()));
        }
        self.unsorted += 1;
        self.sorter.push(key)
    }

    /// Whether a tree has yet to be read.
    fn meet(&mut self, tree: &Id) -> Result<Inserted, ScratchError> {
        let inserted = self.trees.insert(*tree.as_bytes())?;
        if inserted == Inserted::New {
            self.want(blob_key(BlobKind::Tree, tree))?;
        }
        Ok(inserted)
    }

    /// Takes what a tree refers to; returns the trees in it that have yet to be read.
    fn take(&mut self, nodes: Vec<Node>) -> Result<Vec<Id>, ScratchError> {
        let mut folders = Vec::new();
        for node in nodes {
            match node.kind {
                NodeKind::Folder(tree) => {
                    if self.meet(&tree)? == Inserted::New {
                        folders.push(tree);
                    }
                }
                NodeKind::File(content) => content.iter().try_for_each(|id| self.want(blob_key(BlobKind::Data, &id?)))?,
                NodeKind::Other(_) => {}
            }
        }
        Ok(folders)
    }
}

impl Repository {
    /// Finds every blob that these snapshots need. A snapshot that is gone needs nothing. `done` is told each snapshot that was read.
    pub(super) async fn wanted_by(
        &self,
        snapshots: Vec<Id>,
        index: Arc<Index>,
        done: &(dyn Fn() + Send + Sync),
    ) -> Result<Wanted, WantedError> {
        let collector = Arc::new(Mutex::new(Collector::new(self.scratch())));
        futures::stream::iter(snapshots)
            .map(|snapshot| {
                let (repository, index, collector) = (self.clone(), Arc::clone(&index), Arc::clone(&collector));
                async move { repository.collect(snapshot, &index, collector).await }
            })
            .buffer_unordered(PARALLEL_SNAPSHOTS)
            .try_for_each(|()| {
                done();
                std::future::ready(Ok(()))
            })
            .await?;
        let scratch = self.scratch().clone();
        let sorted = tokio::task::spawn_blocking(move || {
            let mut collector = collector.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut collector.sorter, Sorter::new(&scratch)).finish()
        });
        Ok(sorted.await.map_err(RepositoryError::from)??)
    }

    async fn collect(&self, snapshot: Id, index: &Index, collector: Arc<Mutex<Collector>>) -> Result<(), WantedError> {
        let root = match self.snapshot(&snapshot).await {
            Ok(snapshot) => snapshot.tree,
            Err(RepositoryError::NoSuchSnapshot(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let is_new = collector.lock().unwrap_or_else(PoisonError::into_inner).meet(&root)? == Inserted::New;
        let mut folders: Vec<_> = is_new.then_some(root).into_iter().collect();
        while let Some(tree) = folders.pop() {
            let nodes = self.read_tree(index, &tree).await.map_err(|error| unreadable(snapshot, error))?;
            let collector = Arc::clone(&collector);
            let taken = tokio::task::spawn_blocking(move || collector.lock().unwrap_or_else(PoisonError::into_inner).take(nodes));
            folders.extend(taken.await.map_err(RepositoryError::from)??);
        }
        Ok(())
    }
}

/// The error that a tree of a snapshot could not be read: of the snapshot if the tree is lost, else of whatever failed.
fn unreadable(snapshot: Id, error: RepositoryError) -> WantedError {
    match error {
        RepositoryError::Damaged { .. }
        | RepositoryError::MissingBlob { .. }
        | RepositoryError::Store(StoreError::NotFound { .. } | StoreError::Truncated { .. }) => {
            WantedError::Unreadable { snapshot, source: error }
        }
        error => error.into(),
    }
}

/// Numbers of rows: a bit for each.
#[derive(Debug)]
pub(super) struct RowSet(Vec<u64>);

impl RowSet {
    pub(super) fn of(rows: u64) -> Self {
        Self(vec![0; rows.div_ceil(64) as usize])
    }

    pub(super) fn insert(&mut self, row: u64) {
        if let Some(word) = self.0.get_mut((row / 64) as usize) {
            *word |= 1 << (row % 64);
        }
    }

    pub(super) fn contains(&self, row: u64) -> bool {
        self.0.get((row / 64) as usize).is_some_and(|word| word & 1 << (row % 64) != 0)
    }
}

/// Walks along what is wanted and the table of copies: `found` gets the number of the first copy of each blob that is there, `absent`
/// each that is not.
pub(super) fn compare(
    wanted: &Wanted,
    copies: &SortedRows<ROW_BYTES>,
    mut found: impl FnMut(u64),
    mut absent: impl FnMut(BlobKey) -> Result<(), ScratchError>,
) -> Result<(), ScratchError> {
    let mut rows = copies.iter().zip(0_u64..).peekable();
    for key in wanted.iter() {
        let key = key?;
        // A row that could not be read ends the search, and is what comes next.
        while rows.next_if(|(row, _)| row.as_ref().is_ok_and(|row| row[..BLOB_BYTES] < key[..])).is_some() {}
        match rows.peek() {
            Some((Ok(row), number)) if row[..BLOB_BYTES] == key[..] => found(*number),
            Some((Err(error), _)) => return Err(error.clone()),
            _ => absent(key)?,
        }
    }
    Ok(())
}
