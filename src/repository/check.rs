//! Verification of a repository.

use super::error::RepositoryError;
use super::open::Repository;

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Snapshots, trees and indexes; packs by presence and size.
    Structure,
    /// Every byte of every pack too.
    ReadData,
}

/// What was looked at and what was found wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Snapshots read.
    pub snapshots: u64,
    /// Trees read.
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
    /// What is wrong, each naming its object. Empty when the repository is whole.
    pub errors: Vec<String>,
}

impl CheckReport {
    /// True when nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }
}

impl Repository {
    /// Checks everything, to the `depth` asked for, and reports all that is wrong rather than the first. `progress` is told
    /// the packs done and in all.
    ///
    /// # Errors
    /// Only when the check itself cannot go on (the store fails, the repository is locked).
    pub async fn check(&self, depth: Depth, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<CheckReport, RepositoryError> {
        let _ = (depth, progress);
        unimplemented!()
    }
}
