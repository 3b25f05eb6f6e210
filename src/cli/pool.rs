//! `windlass pool`: make and enlarge pools, look at them on their disks and in a running node, repair them, let go of them.

mod adopt;
mod close;
mod create;
mod ensure;
mod grow;
mod import;
mod manifests;
mod properties;
mod repair;
mod status;

use clap::Subcommand;

use super::exit::CliError;
use super::format::Format;

pub use create::PoolFileSystem;
pub(in crate::cli) use properties::reserve;

/// Verbs on pools.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool: on a block device, in a directory whose file system shares extents (XFS, Btrfs), or in an image file that holds one
    Create(create::CreateArgs),
    /// Make the pools that a file lists for this node, and set their properties; pools that are as the file says are left alone
    Ensure(ensure::EnsureArgs),
    /// Enlarge a pool that lies in an image file, while a node serves it or not
    Grow(grow::GrowArgs),
    /// Look at pools on block devices that came from elsewhere: what they hold, and how to serve them. Changes nothing
    Import(import::ImportArgs),
    /// Print PersistentVolumes for the volumes that a pool holds, for a cluster that has lost its own. Changes nothing
    Manifests(manifests::ManifestsArgs),
    /// Take over a pool of files whose catalogue was lost or damaged. Without --confirm, only show what would be done
    Adopt(adopt::AdoptArgs),
    /// Unmount and detach the image file of a pool, which no node may be serving
    Close(close::CloseArgs),
    /// Check and repair the metadata of a pool on a block device, which no node may be serving
    Repair(repair::RepairArgs),
    /// Give a pool of a running node another name, by which StorageClasses choose it (`pool: NAME`)
    Rename(properties::RenameArgs),
    /// Change what was chosen for a pool of a running node
    Set(properties::SetArgs),
    /// Show the pools of a running node: their space, and what takes it
    Status(status::StatusArgs),
}

/// Runs one verb.
pub async fn run(command: PoolCommand, format: Format) -> Result<(), CliError> {
    match command {
        PoolCommand::Create(args) => create::run(args, format).await,
        PoolCommand::Ensure(args) => ensure::run(args, format).await,
        PoolCommand::Grow(args) => grow::run(args, format).await,
        PoolCommand::Import(args) => import::run(args, format).await,
        PoolCommand::Manifests(args) => manifests::run(args, format).await,
        PoolCommand::Adopt(args) => adopt::run(args, format).await,
        PoolCommand::Close(args) => close::run(args, format).await,
        PoolCommand::Repair(args) => repair::run(args, format).await,
        PoolCommand::Rename(args) => properties::rename(args, format).await,
        PoolCommand::Set(args) => properties::set(args, format).await,
        PoolCommand::Status(args) => status::run(&args, format).await,
    }
}
