//! Export and restore: pipelines between block sources or sinks and repositories.
//!
//! Owns the way of the bytes and nothing that stays: no volume, no repository, no descriptor outlives a call. Knows no pool and
//! no CSI: it is given a [`BlockSource`](crate::block::BlockSource) with the ranges that are allocated or changed, or a
//! [`BlockSink`](crate::block::BlockSink), so that it can live in a process that may open neither.
//!
//! The stages are separate so that each can be made faster by itself: [`plan`] decides what is read, [`zeros`] and [`content`]
//! how unread and zero bytes are written down, [`hash`] names chunks, [`budget`] derives every queue's bound from one number of
//! bytes, [`crew`] runs the threads. [`mod@export`] and [`mod@restore`] connect them.
//!
//! An export that ended early, however it ended, leaves objects that nothing refers to and no snapshot; the next one finds those
//! of them that an index names, does not store them again, and reads nothing again that this machine remembers of them. A restore that ended early leaves a sink that its owner must not
//! publish. Neither ever returns success for less than everything.

pub mod budget;
mod chunk_set;
pub mod chunk_size;
pub mod content;
pub mod crew;
pub mod export;
pub mod fit;
pub mod hash;
pub mod image;
pub mod metadata;
pub mod plan;
pub mod progress;
pub mod reader;
pub mod restore;
mod stages;
pub mod zeros;

pub use budget::{Budget, BudgetError};
pub use chunk_size::{ChunkSize, ChunkSizeError};
pub use export::{
    ExportError, ExportMode, ExportOptions, ExportReport, ExportSource, FullReason, Parent, Scope, export, forget_checkpoint,
};
pub use fit::Misfit;
pub use image::{Image, Locking, OnDamage, Reading};
pub use metadata::Metadata;
pub use progress::{Phase, Progress, ProgressSnapshot};
pub use reader::{ImageReader, ReadImageError};
pub use restore::holes::{Hole, Holes};
pub use restore::{RestoreError, RestoreOptions, RestoreReport, Target, restore};
