//! What the demo is to show.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli::exit::CliError;
use crate::cli::output::Format;
use crate::cli::pool::PoolFileSystem;
use crate::types::FsType;

use super::place::Keep;

/// Kinds of pools to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum PoolChoice {
    /// Files that share extents
    #[default]
    Reflink,
    /// A device-mapper thin pool
    Thin,
}

/// The pool that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DemoPool {
    /// A reflink pool in an image with this file system.
    Image(PoolFileSystem),
    /// A thin pool on a loop device.
    Thin,
}

impl DemoPool {
    pub(super) fn chosen(choice: PoolChoice, file_system: Option<PoolFileSystem>) -> Result<Self, CliError> {
        match (choice, file_system) {
            (PoolChoice::Reflink, file_system) => Ok(Self::Image(file_system.unwrap_or(PoolFileSystem::Xfs))),
            (PoolChoice::Thin, None) => Ok(Self::Thin),
            (PoolChoice::Thin, Some(_)) => Err(CliError::usage("a thin pool lies in no file system: leave out --filesystem")),
        }
    }
}

impl fmt::Display for DemoPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(file_system) => file_system.fmt(f),
            Self::Thin => f.write_str("thin"),
        }
    }
}

/// What the demo is to show.
#[derive(Debug, Clone)]
pub(super) struct DemoOptions {
    pub(super) pool: DemoPool,
    pub(super) volume: FsType,
    pub(super) bytes: u64,
    pub(super) sources: Vec<PathBuf>,
    pub(super) keep: Keep,
    pub(super) format: Format,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    #[test]
    fn the_pool_of_before_is_the_default_and_a_thin_one_has_no_file_system() {
        assert_eq!(DemoPool::chosen(PoolChoice::default(), None).unwrap(), DemoPool::Image(PoolFileSystem::Xfs));
        assert_eq!(
            DemoPool::chosen(PoolChoice::Reflink, Some(PoolFileSystem::Btrfs)).unwrap(),
            DemoPool::Image(PoolFileSystem::Btrfs)
        );
        assert_eq!(DemoPool::chosen(PoolChoice::Thin, None).unwrap().to_string(), "thin");
        let refused = DemoPool::chosen(PoolChoice::Thin, Some(PoolFileSystem::Xfs)).unwrap_err();
        assert_eq!(refused.exit(), Exit::Usage);
    }
}
