//! The copies of a blob: one that does not read where it was looked for first is fetched once more, and then from the other packs that
//! hold it.
//!
//! Bytes may be damaged only on their way, and two writers that stored the same blob at once left two copies of it. A copy that does not
//! read is a line in the log, with the pack and the blob. Only when no copy reads it is an error: that of the first.

use super::blob::{BlobKind, BlobLocation};
use super::error::RepositoryError;
use super::id::Id;
use super::index::Index;
use super::store::{Key, Kind, StoreError};
use crate::types::error::chain;

/// Whether the error is about the object that was read, so that it says nothing about another copy, rather than about the store.
pub(crate) fn is_of_copy(error: &RepositoryError) -> bool {
    match error {
        RepositoryError::Damaged { .. } => true,
        RepositoryError::Store(error) => is_of_object(error),
        _ => false,
    }
}

/// Whether the error is about one object rather than about the store.
pub(crate) fn is_of_object(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. } | StoreError::Truncated { .. } | StoreError::Io { .. })
}

/// The places where a blob may be read, one after another: where the index says first, there once more, then its other copies.
pub(super) struct Copies<'a> {
    index: &'a Index,
    kind: BlobKind,
    id: Id,
    left: Remaining,
    /// The error of the first place.
    failed: Option<RepositoryError>,
}

enum Remaining {
    Untried,
    /// The first did not read; the others are not looked up yet.
    All,
    /// The places that are left, the next one last.
    Some(Vec<BlobLocation>),
}

impl<'a> Copies<'a> {
    /// All places of the blob.
    pub(super) fn new(index: &'a Index, kind: BlobKind, id: &Id) -> Self {
        Self { index, kind, id: *id, left: Remaining::Untried, failed: None }
    }

    /// All places of the blob, of which the first did not read once.
    pub(super) fn again(index: &'a Index, kind: BlobKind, id: &Id) -> Self {
        Self { left: Remaining::All, ..Self::new(index, kind, id) }
    }

    /// Takes the next place.
    ///
    /// # Errors
    /// When no place is left: the error of the first.
    pub(super) fn next(&mut self) -> Result<BlobLocation, RepositoryError> {
        let next = match &mut self.left {
            Remaining::Untried => {
                self.left = Remaining::All;
                self.index.get(self.kind, &self.id)?
            }
            Remaining::All => {
                let mut all = self.index.locations(self.kind, &self.id)?;
                all.reverse();
                let next = all.pop();
                self.left = Remaining::Some(all);
                next
            }
            Remaining::Some(left) => left.pop(),
        };
        next.ok_or_else(|| self.failed.take().unwrap_or(RepositoryError::MissingBlob { kind: self.kind, id: self.id }))
    }

    /// Notes that the blob does not read there.
    ///
    /// # Errors
    /// `error` itself when another copy would not help.
    pub(super) fn failed(&mut self, location: &BlobLocation, error: RepositoryError) -> Result<(), RepositoryError> {
        if !is_of_copy(&error) {
            return Err(error);
        }
        let pack = Key::File(Kind::Data, location.pack);
        tracing::warn!(blob = %self.id, kind = %self.kind, %pack, error = %chain(&error), "a copy of a blob does not read");
        self.failed.get_or_insert(error);
        Ok(())
    }
}
