//! `windlass repository`: make, list, check and thin out repositories, in this process. One file for each verb.

mod check;
mod forget;
mod init;
mod manifests;
mod open_args;
mod prune;
mod snapshot_view;
mod snapshots;

use clap::Subcommand;
use tokio_util::sync::CancellationToken;

use super::exit::CliError;
use super::interruptible::unless;
use super::output::Format;

pub use check::checked;

use open_args::OpenArgs;

/// Verbs on repositories.
#[derive(Debug, Subcommand)]
pub enum RepositoryCommand {
    /// Make a repository; a place that holds one already is not touched
    Init(OpenArgs),
    /// List what a repository holds, oldest first
    Snapshots(OpenArgs),
    /// Print Kubernetes objects (VolumeSnapshotContents, VolumeSnapshots) for what a repository holds, to apply in a new cluster
    Manifests(Box<manifests::ManifestsArgs>),
    /// Check that everything in a repository is whole
    Check(check::CheckArgs),
    /// Forget snapshots, by name or by what a policy does not keep; `prune` frees their space
    Forget(Box<forget::ForgetArgs>),
    /// Free the space of what no snapshot needs; only its deletes wait for others, and make them wait
    Prune(prune::PruneArgs),
}

/// Runs one verb. Those that change a repository end in their own order once `interrupt` is cancelled.
pub async fn run(command: RepositoryCommand, format: Format, interrupt: &CancellationToken) -> Result<(), CliError> {
    match command {
        RepositoryCommand::Init(args) => unless(interrupt, init::run(&args, format)).await,
        RepositoryCommand::Snapshots(args) => unless(interrupt, snapshots::run(&args, format)).await,
        RepositoryCommand::Manifests(args) => unless(interrupt, manifests::run(&args, format)).await,
        RepositoryCommand::Check(args) => unless(interrupt, check::run(&args, format)).await,
        RepositoryCommand::Forget(args) => forget::run(&args, format, interrupt).await,
        RepositoryCommand::Prune(args) => prune::run(&args, format, interrupt).await,
    }
}
