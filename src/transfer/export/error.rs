//! Why an export fails.

use std::error::Error;
use std::io;

use crate::repository::{PackError, RepositoryError};
use crate::scratch::ScratchError;
use crate::transfer::budget::BudgetError;
use crate::transfer::content::ContentError;
use crate::transfer::crew::CrewError;
use crate::transfer::metadata::MetadataError;
use crate::transfer::stages::StageError;
use crate::types::ByteRange;

/// Why an export failed. Nothing of it is visible, except after an [`ExportError::Repository`] while its snapshot is stored.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the volume could not be read: {length} bytes at {offset}", length = range.length(), offset = range.offset())]
    Read { range: ByteRange, source: io::Error },
    #[error("the volume's allocated ranges could not be read")]
    Extents(#[source] io::Error),
    /// The repository or its store failed; the error names the object.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Pack(#[from] PackError),
    /// No export can have these options.
    #[error("the export cannot be made: {0}")]
    Options(String),
    #[error(transparent)]
    Budget(#[from] BudgetError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A list that does not fit the memory could not be kept.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error("the export's workers failed")]
    Workers(#[from] CrewError),
    /// Something that cannot be so, or a task of the runtime that ended early.
    #[error("the export failed inside")]
    Inside(#[source] Box<dyn Error + Send + Sync>),
    #[error("the export was cancelled")]
    Cancelled,
}

impl From<ContentError> for ExportError {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Incomplete { .. } => Self::Inside(error.into()),
            ContentError::Scratch(error) => Self::Scratch(error),
        }
    }
}

impl ExportError {
    /// True when scratch space failed: a list that does not fit the memory could not be kept.
    pub fn is_of_scratch(&self) -> bool {
        match self {
            Self::Scratch(_) | Self::Pack(PackError::Scratch(_)) => true,
            Self::Repository(error) => error.is_of_scratch(),
            _ => false,
        }
    }

    /// True when the same export may succeed later without anyone doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Repository(error) if error.is_transient())
    }
}

impl StageError for ExportError {
    fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::types::error::{chain, repeated};

    #[test]
    fn an_error_of_an_export_leaves_its_cause_to_the_chain() {
        let disk = || io::Error::other("the disk failed");
        let scratch = || Scratch::default().error(disk());
        let range = ByteRange::new(4096, 4096).unwrap();
        let all = [
            (ExportError::Read { range, source: disk() }, "the volume could not be read: 4096 bytes at 4096: the disk failed"),
            (ExportError::Extents(disk()), "the volume's allocated ranges could not be read: the disk failed"),
            (PackError::Compressor(disk()).into(), "compression failed: the disk failed"),
            (RepositoryError::Pack(PackError::Compressor(disk())).into(), "compression failed: the disk failed"),
            (ExportError::Options("it has no path".to_owned()), "the export cannot be made: it has no path"),
            (BudgetError { given: 1, required: 2 }.into(), "1 bytes of memory are too few for a transfer: it needs at least 2"),
            (
                ContentError::Scratch(scratch()).into(),
                "scratch space in /var/tmp failed (WINDLASS_SCRATCH_DIR names another directory): the disk failed",
            ),
            (
                ContentError::Incomplete { expected: 3, found: 2 }.into(),
                "the export failed inside: of 3 chunks only 2 were accounted for",
            ),
            (
                CrewError::Start(disk()).into(),
                "the export's workers failed: a worker thread could not be started: the disk failed",
            ),
            (CrewError::Died.into(), "the export's workers failed: a worker thread died"),
            (ExportError::Cancelled, "the export was cancelled"),
        ];
        for (error, told) in &all {
            assert_eq!(repeated(error), None, "{error:?}");
            assert_eq!(chain(error), *told);
        }
        let of_scratch = [PackError::Scratch(scratch()).into(), ContentError::Scratch(scratch()).into()];
        assert!(of_scratch.iter().all(ExportError::is_of_scratch) && !ExportError::Cancelled.is_of_scratch());
        let metadata = ExportError::from(crate::transfer::metadata::Metadata::parse(b"{").unwrap_err());
        assert!(repeated(&metadata).is_none() && chain(&metadata).contains("does not read: EOF"), "{}", chain(&metadata));
        // A new one belongs into one of the lists above.
        all.iter().for_each(|(error, _)| match error {
            ExportError::Read { .. } | ExportError::Extents(_) | ExportError::Repository(_) | ExportError::Pack(_) => {}
            ExportError::Options(_) | ExportError::Budget(_) | ExportError::Metadata(_) | ExportError::Scratch(_) => {}
            ExportError::Workers(_) | ExportError::Inside(_) | ExportError::Cancelled => {}
        });
    }
}
