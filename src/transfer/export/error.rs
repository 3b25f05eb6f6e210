//! Why an export fails.

use std::io;

use crate::repository::{PackError, RepositoryError};
use crate::scratch::ScratchError;
use crate::transfer::budget::BudgetError;
use crate::transfer::content::ContentError;
use crate::transfer::crew::WorkerDied;
use crate::transfer::metadata::MetadataError;
use crate::transfer::stages::StageError;
use crate::types::ByteRange;

/// Why an export failed. Nothing is visible of it, [`ExportError::Repository`] while the snapshot is stored excepted.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The source could not be read.
    #[error("the volume could not be read: {length} bytes at {offset}", length = range.length(), offset = range.offset())]
    Read {
        /// Where.
        range: ByteRange,
        /// Why.
        source: io::Error,
    },
    /// What is allocated could not be found out.
    #[error("the volume's allocated ranges could not be read")]
    Extents(#[source] io::Error),
    /// The repository or its store failed; the error names the object.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A pack could not be made.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The options make no export.
    #[error("the export cannot be made: {0}")]
    Options(String),
    /// Too little memory was given.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The metadata cannot be written.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A list that does not fit the memory could not be kept.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// A thread could not be started.
    #[error("a worker thread could not be started")]
    Thread(#[source] io::Error),
    /// A worker died.
    #[error("the export failed inside: {0}")]
    Inside(String),
    /// It was cancelled.
    #[error("the export was cancelled")]
    Cancelled,
}

impl From<ContentError> for ExportError {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Incomplete { .. } => Self::Inside(error.to_string()),
            ContentError::Scratch(error) => Self::Scratch(error),
        }
    }
}

impl ExportError {
    /// True when the same export may succeed later without anyone doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Repository(error) if error.is_transient())
    }
}

impl StageError for ExportError {
    fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }

    fn of_thread(error: io::Error) -> Self {
        Self::Thread(error)
    }

    fn of_dead_worker(died: WorkerDied) -> Self {
        Self::Inside(died.to_string())
    }
}
