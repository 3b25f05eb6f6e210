//! Why a restore fails.

use std::io;

use super::plan::PlanError;
use crate::repository::{Damage, Id, RepositoryError};
use crate::transfer::budget::BudgetError;
use crate::transfer::crew::WorkerDied;
use crate::transfer::stages::StageError;
use crate::types::ByteRange;

/// Why a restore failed. The sink must not be used.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The image is larger than the sink. Nothing was written.
    #[error("the image has {image_bytes} bytes and the target only {sink_bytes}")]
    SinkTooSmall {
        /// Size of the image.
        image_bytes: u64,
        /// Size of the sink.
        sink_bytes: u64,
    },
    /// The list of blobs makes no whole image. Nothing was written.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A blob is damaged.
    #[error("blob {blob} in pack {pack} is damaged: {damage}")]
    Damaged {
        /// The blob.
        blob: Id,
        /// The pack it lies in.
        pack: Id,
        /// In what way.
        damage: Damage,
    },
    /// The repository or its store failed; the error names the object.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The sink could not be written.
    #[error("the target could not be written: {length} bytes at {offset}", length = range.length(), offset = range.offset())]
    Write {
        /// Where.
        range: ByteRange,
        /// Why.
        source: io::Error,
    },
    /// What was written could not be made durable.
    #[error("the target could not be flushed")]
    Flush(#[source] io::Error),
    /// Too little memory was given for the image's largest blob.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// A thread could not be started.
    #[error("a worker thread could not be started")]
    Thread(#[source] io::Error),
    /// A worker died.
    #[error("the restore failed inside: {0}")]
    Inside(String),
    /// It was cancelled.
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

    fn of_thread(error: io::Error) -> Self {
        Self::Thread(error)
    }

    fn of_dead_worker(died: WorkerDied) -> Self {
        Self::Inside(died.to_string())
    }
}
