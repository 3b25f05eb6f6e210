//! The report of a check.

use crate::repository::error::RepositoryError;
use crate::repository::store::StoreError;
use crate::types::error::chain;

/// Errors that are kept in words; a repository that was hit hard has millions.
const MAX_ERRORS: usize = 1000;

/// Counts of what a check looked at, and what it found wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    pub snapshots: u64,
    pub trees: u64,
    /// Blobs that some snapshot refers to, each counted once.
    pub blobs_used: u64,
    /// Blobs that the indexes name.
    pub blobs_indexed: u64,
    /// Packs that the indexes name.
    pub packs: u64,
    /// Packs that no index names: left by an interrupted export, harmless.
    pub packs_unindexed: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// The first thousand errors, each naming its object. Empty when the repository is whole.
    pub errors: Vec<String>,
    /// Number of errors that are not in `errors`.
    pub errors_omitted: u64,
}

impl CheckReport {
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    pub(super) fn error(&mut self, text: impl ToString) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(text.to_string());
        } else {
            self.errors_omitted += 1;
        }
    }

    /// Notes an error about the repository's contents; passes on one that ends the check.
    pub(super) fn note<T>(&mut self, result: Result<T, RepositoryError>) -> Result<Option<T>, RepositoryError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.note_error(error, "").map(|()| None),
        }
    }

    /// Notes an error, with the words that come `behind` it.
    pub(super) fn note_error(&mut self, error: RepositoryError, behind: &str) -> Result<(), RepositoryError> {
        match error {
            RepositoryError::Damaged { .. }
            | RepositoryError::MissingBlob { .. }
            | RepositoryError::Store(StoreError::NotFound { .. } | StoreError::Truncated { .. }) => {
                self.error(format!("{}{behind}", chain(&error)));
                Ok(())
            }
            error => Err(error),
        }
    }
}
