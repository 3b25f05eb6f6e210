//! What a restore is asked for, whether to a volume or to a file, and how it ends when not all could be read.

use clap::Args;

use super::choice::ChoiceArgs;
use super::exit::{CliError, Exit};
use super::output::{Format, print_aside};
use super::repository_access::RepositoryAccess;
use super::size::ByteSize;
use super::wait::Wait;

/// How a restore is made; each has a default.
#[derive(Debug, Clone, Default, Args)]
pub struct RestoreTuning {
    /// Number of threads
    #[arg(long, value_name = "NUMBER")]
    pub workers: Option<u32>,
    /// Memory that the restore may take, 128MiB at least [default: 256MiB, and 32MiB more for each processor beyond four, up to 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// How long locks of others in the repository, such as a prune's, are waited for [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub retry_lock: Option<Wait>,
    /// Take no lock in the repository; a prune meanwhile then makes the restore fail
    #[arg(long)]
    pub no_lock: bool,
    /// Restore what can be read, with zeros where something cannot be read, and list these holes. A result with holes is called NAME-damaged, or
    /// PATH.damaged with a list in PATH.damaged.json, and the exit code is 7
    #[arg(long)]
    pub skip_damaged: bool,
}

/// What to restore from a repository, and how it is read.
pub struct RestoreSource {
    /// The repository.
    pub access: RepositoryAccess,
    /// Id, beginning of one, or `latest`.
    pub snapshot: String,
    /// What else it must be.
    pub choice: ChoiceArgs,
    /// File in the snapshot; when this is `None`, the volume that `export` put there, or else its only file.
    pub path: Option<String>,
    pub tuning: RestoreTuning,
}

/// Lists the holes on standard error, and ends the command by saying that there are some. `what` says what there is now.
///
/// # Errors
/// [`Exit::Incomplete`] when there are any.
pub fn incomplete(
    what: String,
    holes: impl Iterator<Item = String>,
    bytes: u64,
    unlisted_bytes: u64,
    format: Format,
) -> Result<(), CliError> {
    if bytes == 0 {
        return Ok(());
    }
    // In JSON they are in the result.
    if format == Format::Text {
        holes.for_each(|hole| print_aside(&format!("hole: {hole}")));
        if unlisted_bytes > 0 {
            print_aside(&format!("hole: {} more, in too many pieces to be listed", ByteSize::new(unlisted_bytes)));
        }
    }
    Err(CliError::new(Exit::Incomplete, format!("{what}: {} could not be read", ByteSize::new(bytes))).advise(
        "holes read as zeros; check the file system read-only before you trust anything, and look for an older or newer snapshot: \
         `windlass repository check --read-data` says which are whole",
    ))
}
