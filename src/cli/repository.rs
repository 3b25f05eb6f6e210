//! `windlass repository`: make, list and check repositories, in this process. One file for each verb.

mod check;
mod init;
mod snapshots;

use clap::{Args, Subcommand};

use super::exit::CliError;
use super::output::Format;
use super::repository_access::RepositoryArgs;

pub use check::checked;

/// Verbs on repositories.
#[derive(Debug, Subcommand)]
pub enum RepositoryCommand {
    /// Make a repository; a place that holds one already is not touched
    Init(OpenArgs),
    /// List what a repository holds, oldest first
    Snapshots(OpenArgs),
    /// Check that everything in a repository is whole
    Check(check::CheckArgs),
}

/// Arguments of verbs without any of their own.
#[derive(Debug, Args)]
pub struct OpenArgs {
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// Runs one verb.
///
/// # Errors
/// [`CliError`] with the exit code that the repository's failure means.
pub async fn run(command: RepositoryCommand, format: Format) -> Result<(), CliError> {
    match command {
        RepositoryCommand::Init(args) => init::run(&args, format).await,
        RepositoryCommand::Snapshots(args) => snapshots::run(&args, format).await,
        RepositoryCommand::Check(args) => check::run(&args, format).await,
    }
}
