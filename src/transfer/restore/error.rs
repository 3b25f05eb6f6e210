//! Why a restore fails.

use std::error::Error;
use std::io;

use super::plan::PlanError;
use crate::repository::{Damage, Id, RepositoryError};
use crate::transfer::budget::BudgetError;
use crate::transfer::crew::CrewError;
use crate::transfer::stages::StageError;
use crate::types::ByteRange;

/// Why a restore failed. The sink must not be used.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The image is larger than the sink. Nothing was written.
    #[error("the image has {image_bytes} bytes and the target only {sink_bytes}")]
    SinkTooSmall { image_bytes: u64, sink_bytes: u64 },
    /// The list of blobs makes no whole image. Nothing was written.
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("blob {blob} in pack {pack} is damaged")]
    Damaged {
        blob: Id,
        pack: Id,
        #[source]
        damage: Damage,
    },
    /// The repository or its store failed; the error names the object.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("the target could not be written: {length} bytes at {offset}", length = range.length(), offset = range.offset())]
    Write { range: ByteRange, source: io::Error },
    /// What was written could not be made durable.
    #[error("the target could not be flushed")]
    Flush(#[source] io::Error),
    /// Too little memory was given for the image's largest blob.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    #[error("the restore's workers failed")]
    Workers(#[from] CrewError),
    /// Something that cannot be so, or a task of the runtime that ended early.
    #[error("the restore failed inside")]
    Inside(#[source] Box<dyn Error + Send + Sync>),
    #[error("the restore was cancelled")]
    Cancelled,
}

impl RestoreError {
    /// True when the same restore may succeed later without anyone doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Repository(error) if error.is_transient())
    }
}

impl StageError for RestoreError {
    fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::transfer::fit::Misfit;
    use crate::transfer::reader::ReadImageError;
    use crate::types::error::{chain, repeated};

    fn disk() -> io::Error {
        io::Error::other("the disk failed")
    }

    #[test]
    fn an_error_of_a_restore_leaves_its_cause_to_the_chain() {
        let range = ByteRange::new(4096, 4096).unwrap();
        let (blob, pack) = (Id::of(b"blob"), Id::of(b"pack"));
        let damaged = format!("blob {blob} in pack {pack} is damaged: it does not decompress: the disk failed");
        let damage = || Damage::compression(disk());
        let scratch = "scratch space in /var/tmp failed (WINDLASS_SCRATCH_DIR names another directory): the disk failed";
        let too_small = "the image has 2 bytes and the target only 1";
        let all = [
            (RestoreError::SinkTooSmall { image_bytes: 2, sink_bytes: 1 }, too_small),
            (PlanError::Scratch(Scratch::default().error(disk())).into(), scratch),
            (PlanError::TooMany.into(), "the image has more blobs than can be counted"),
            (RestoreError::Damaged { blob, pack, damage: damage() }, &damaged),
            (RepositoryError::Scratch(Scratch::default().error(disk())).into(), scratch),
            (
                RestoreError::Write { range, source: disk() },
                "the target could not be written: 4096 bytes at 4096: the disk failed",
            ),
            (RestoreError::Flush(disk()), "the target could not be flushed: the disk failed"),
            (BudgetError { given: 1, required: 2 }.into(), "1 bytes of memory are too few for a transfer: it needs at least 2"),
            (CrewError::Died.into(), "the restore's workers failed: a worker thread died"),
            (RestoreError::Inside("of 2 bytes 1 were restored".into()), "the restore failed inside: of 2 bytes 1 were restored"),
            (RestoreError::Cancelled, "the restore was cancelled"),
        ];
        for (error, told) in &all {
            assert_eq!(repeated(error), None, "{error:?}");
            assert_eq!(chain(error), *told);
        }
        // A new one belongs into the list above.
        all.iter().for_each(|(error, _)| match error {
            RestoreError::SinkTooSmall { .. } | RestoreError::Plan(_) | RestoreError::Damaged { .. } => {}
            RestoreError::Repository(_) | RestoreError::Write { .. } | RestoreError::Flush(_) | RestoreError::Budget(_) => {}
            RestoreError::Workers(_) | RestoreError::Inside(_) | RestoreError::Cancelled => {}
        });
        let read = ReadImageError::Damaged { blob, pack, damage: damage() };
        assert_eq!((repeated(&read), chain(&read)), (None, damaged));
        let misfit = Misfit::from(disk());
        assert_eq!((repeated(&misfit), chain(&misfit)), (None, "the image cannot be looked at: the disk failed".to_owned()));
    }
}
