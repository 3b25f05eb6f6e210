//! `windlass pool`: make pools, and look at those of a running node.

use std::fmt;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use csi_proto::windlass::v1 as windlass;
use serde_json::json;

use crate::types::FsType;

use super::client::Node;
use super::endpoint::EndpointArgs;
use super::exit::{CliError, Exit};
use super::open_pool;
use super::output::{Align, Format, Table, print_json, print_text};
use super::size::ByteSize;

/// Verbs on pools.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool: in a directory whose file system shares extents (XFS, Btrfs), or in an image file that holds one
    Create(CreateArgs),
    /// Show the pools of a running node: their space, and what takes it
    Status(StatusArgs),
}

/// Arguments of `pool create`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").required(true).args(["directory", "image"])))]
pub struct CreateArgs {
    /// Directory of the pool; made if it does not exist
    directory: Option<PathBuf>,
    /// Make an image file with a file system in it, and the pool in that
    #[arg(long, value_name = "PATH", requires = "size")]
    image: Option<PathBuf>,
    /// Size of the image file
    #[arg(long, requires = "image")]
    size: Option<ByteSize>,
    /// File system of the image: btrfs cuts snapshots in constant time, xfs is what most hosts run [default: xfs]
    #[arg(long, requires = "image", value_enum)]
    filesystem: Option<PoolFileSystem>,
}

/// File systems that a pool image may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolFileSystem {
    /// XFS
    Xfs,
    /// Btrfs
    Btrfs,
}

impl PoolFileSystem {
    /// The same as a file system.
    pub fn fs_type(self) -> FsType {
        match self {
            Self::Xfs => FsType::Xfs,
            Self::Btrfs => FsType::Btrfs,
        }
    }
}

impl fmt::Display for PoolFileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fs_type().fmt(f)
    }
}

/// Arguments of `pool status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Runs one verb.
///
/// # Errors
/// [`CliError`].
pub async fn run(command: PoolCommand, format: Format) -> Result<(), CliError> {
    match command {
        PoolCommand::Create(args) => create(args, format).await,
        PoolCommand::Status(args) => status(&args, format).await,
    }
}

async fn create(args: CreateArgs, format: Format) -> Result<(), CliError> {
    let work = move || match (args.directory, args.image, args.size) {
        (Some(directory), _, _) => open_pool::create_in_directory(&directory).map(|id| (directory, id)),
        (None, Some(image), Some(size)) => {
            let file_system = args.filesystem.unwrap_or(PoolFileSystem::Xfs);
            open_pool::create_in_image(&image, size.bytes(), file_system.fs_type()).map(|id| (image, id))
        }
        _ => Err(CliError::usage("give a directory, or --image PATH and --size SIZE")),
    };
    let made = tokio::task::spawn_blocking(work).await;
    let (path, id) = made.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "the pool was not made", error)))?;
    match format {
        Format::Text => {
            print_text(&format!("made the pool {id}; serve it: windlass node --standalone --pool {}", path.display()))
        }
        Format::Json => print_json(&json!({ "pool_id": id.to_string(), "path": path })),
    }
}

async fn status(args: &StatusArgs, format: Format) -> Result<(), CliError> {
    let pools = Node::connect(&args.endpoint.endpoint()).await?.pools().await?;
    match format {
        Format::Text => print_text(&pools.iter().map(describe).collect::<Vec<_>>().join("\n")),
        Format::Json => print_json(&json!({ "pools": pools.iter().map(to_json).collect::<Vec<_>>() })),
    }
}

/// A pool for people: what it is, its space, and a table of what takes it.
fn describe(pool: &windlass::PoolStatus) -> String {
    let size = |bytes: u64| ByteSize::new(bytes).to_string();
    let available = pool.free_bytes.saturating_sub(pool.reserve_bytes);
    let place = if pool.path.is_empty() { String::new() } else { format!(" at {} ({})", pool.path, pool.filesystem) };
    let mut text = format!(
        "pool {} {}{place}: {}\n  {} of {} available, {} kept free; {} volumes, {} snapshots\n",
        pool.pool_id,
        pool.kind,
        pool.state,
        size(available),
        size(pool.total_bytes),
        size(pool.reserve_bytes),
        pool.volume_count,
        pool.snapshot_count,
    );
    for found in &pool.quarantined {
        text.push_str(&format!("  not ours, left alone: {found}\n"));
    }
    if !pool.objects.is_empty() {
        let mut table = Table::new(&[
            ("KIND", Align::Left),
            ("HANDLE", Align::Left),
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("ALLOCATED", Align::Right),
            ("EXCLUSIVE", Align::Right),
            ("EXTENTS", Align::Right),
        ]);
        for object in &pool.objects {
            table.row([
                object.kind.clone(),
                object.handle.clone(),
                object.name.clone(),
                size(object.size_bytes),
                size(object.allocated_bytes),
                size(object.exclusive_bytes),
                object.extent_count.to_string(),
            ]);
        }
        text.push_str(&table.render());
    }
    text
}

fn to_json(pool: &windlass::PoolStatus) -> serde_json::Value {
    let object = |object: &windlass::ObjectUsage| {
        json!({
            "handle": object.handle,
            "name": object.name,
            "kind": object.kind,
            "size_bytes": object.size_bytes,
            "allocated_bytes": object.allocated_bytes,
            "exclusive_bytes": object.exclusive_bytes,
            "extent_count": object.extent_count,
        })
    };
    json!({
        "pool_id": pool.pool_id,
        "kind": pool.kind,
        "path": pool.path,
        "filesystem": pool.filesystem,
        "state": pool.state,
        "total_bytes": pool.total_bytes,
        "free_bytes": pool.free_bytes,
        "reserve_bytes": pool.reserve_bytes,
        "volume_count": pool.volume_count,
        "snapshot_count": pool.snapshot_count,
        "quarantined": pool.quarantined,
        "objects": pool.objects.iter().map(object).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_described_with_its_space_and_what_takes_it() {
        let pool = windlass::PoolStatus {
            pool_id: "p".to_owned(),
            kind: "reflink".to_owned(),
            path: "/srv".to_owned(),
            filesystem: "xfs".to_owned(),
            total_bytes: 10 << 30,
            free_bytes: 5 << 30,
            reserve_bytes: 1 << 30,
            volume_count: 1,
            quarantined: vec!["volumes/lost".to_owned()],
            state: "ready".to_owned(),
            objects: vec![windlass::ObjectUsage { handle: "v-1".to_owned(), name: "data".to_owned(), ..Default::default() }],
            ..Default::default()
        };
        let text = describe(&pool);
        assert!(text.starts_with("pool p reflink at /srv (xfs): ready\n  4.0 GiB of 10.0 GiB available, 1.0 GiB kept"), "{text}");
        assert!(text.contains("left alone: volumes/lost\n") && text.contains("v-1"), "{text}");
        assert_eq!(to_json(&pool)["objects"][0]["name"], "data");
    }
}
