//! `windlass pool create`.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum};
use serde::Serialize;

use crate::pool::properties::{DeletedSpace, OverprovisionRatio, PoolProperties, Reserve};
use crate::pool::thin::format::{CreateOptions, DataBlockSize, DevicePaths, Others};
use crate::types::{FsType, PoolId, PoolName};

use super::properties::reserve;
use crate::cli::exit::{CliError, Exit};
use crate::cli::format::Format;
use crate::cli::open_pool;
use crate::cli::output::{print_json, print_text};
use crate::cli::size::ByteSize;

/// Arguments of `pool create`.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("place").required(true).args(["directory", "image", "device", "metadata_device"])),
    group(ArgGroup::new("devices").args(["device", "metadata_device"]))
)]
pub struct CreateArgs {
    /// Directory of the pool; made if it does not exist
    directory: Option<PathBuf>,
    /// Name by which StorageClasses choose the pool (`pool: NAME`); pools of several nodes may have one [default: default]
    #[arg(long, default_value_t, hide_default_value = true)]
    name: PoolName,
    /// By how much the sizes promised to volumes may exceed the size of the pool, from 1 to 1000
    #[arg(long, value_name = "RATIO", default_value_t)]
    overprovision_ratio: OverprovisionRatio,
    /// How much is kept free of new volumes: `5%`, a size, or `automatic` (2 %, at least 1 GiB, at most a tenth) [default: automatic]
    #[arg(long, value_name = "RESERVE", value_parser = reserve)]
    reserve: Option<Reserve>,
    /// Make an image file with a file system in it, and the pool in that
    #[arg(long, value_name = "PATH", requires = "size")]
    image: Option<PathBuf>,
    /// Size of the image file
    #[arg(long, requires = "image")]
    size: Option<ByteSize>,
    /// File system of the image: btrfs cuts snapshots in constant time, xfs is what most hosts run [default: xfs]
    #[arg(long, requires = "image", value_enum)]
    filesystem: Option<PoolFileSystem>,
    /// Make a thin pool of a whole block device: a disk, a partition, a logical volume
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// Make a thin pool on two block devices: this one for its metadata ...
    #[arg(long, value_name = "PATH", requires = "data_device")]
    metadata_device: Option<PathBuf>,
    /// ... and this one for its data
    #[arg(long, value_name = "PATH", requires = "metadata_device")]
    data_device: Option<PathBuf>,
    /// Take a device although there is something on it. What is there is lost
    #[arg(long, requires = "devices")]
    force: bool,
    /// Take a device although there is this pool on it. The pool and all its volumes are lost
    #[arg(long, value_name = "POOL_ID", requires = "devices")]
    replace_pool: Option<String>,
    /// Size of the blocks that volumes and snapshots share, a multiple of 64 KiB; it cannot be changed later [default: 64 KiB, more above 15 TiB]
    #[arg(long, value_name = "SIZE", requires = "devices")]
    block_size: Option<ByteSize>,
    /// Size of the metadata [default: a thousandth of the device, at least 16 MiB]
    #[arg(long, value_name = "SIZE", requires = "device", conflicts_with = "metadata_device")]
    metadata_size: Option<ByteSize>,
    /// `discarded` gives the space of what is deleted back to the disk, in the background: for one that is thin itself, or wears [default: kept]
    #[arg(long, value_name = "kept|discarded", requires = "devices", default_value_t, hide_default_value = true)]
    deleted_space: DeletedSpace,
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

/// Where a pool is made, and how.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Directory(PathBuf),
    Image { path: PathBuf, bytes: u64, file_system: PoolFileSystem },
    Devices(CreateOptions),
}

impl Place {
    /// What a node is told to serve.
    fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Image { path, .. } => path,
            Self::Devices(options) => match &options.devices {
                DevicePaths::One(path) | DevicePaths::Two { metadata: path, .. } => path,
            },
        }
    }

    fn create(&self, properties: &PoolProperties) -> Result<PoolId, CliError> {
        match self {
            Self::Directory(path) => open_pool::create_in_directory(path, properties),
            Self::Image { path, bytes, file_system } => {
                open_pool::create_in_image(path, *bytes, file_system.fs_type(), properties)
            }
            Self::Devices(options) => open_pool::create_on_devices(options, properties),
        }
    }
}

/// Makes the pool.
pub async fn run(args: CreateArgs, format: Format) -> Result<(), CliError> {
    let properties = PoolProperties {
        name: args.name.clone(),
        overprovision_ratio: args.overprovision_ratio,
        deleted_space: args.deleted_space,
        reserve: args.reserve.unwrap_or_default(),
    };
    let place = place(args)?;
    let work = move || place.create(&properties).map(|id| (place.path().to_owned(), id));
    let made = tokio::task::spawn_blocking(work).await;
    let (path, id) = made.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "the pool was not made", error)))?;
    match format {
        Format::Text => {
            print_text(&format!("made the pool {id}; serve it: windlass node --standalone --pool {}", path.display()))
        }
        Format::Json => print_json(&Made { pool_id: id.to_string(), path: &path.to_string_lossy() }),
    }
}

/// The new pool as it is printed.
#[derive(Debug, Serialize)]
struct Made<'a> {
    pool_id: String,
    path: &'a str,
}

fn place(args: CreateArgs) -> Result<Place, CliError> {
    let devices = match (args.directory, args.image, args.size) {
        (Some(directory), _, _) => return Ok(Place::Directory(directory)),
        (None, Some(path), Some(size)) => {
            let file_system = args.filesystem.unwrap_or(PoolFileSystem::Xfs);
            return Ok(Place::Image { path, bytes: size.bytes(), file_system });
        }
        _ => match (args.device, args.metadata_device, args.data_device) {
            (Some(device), _, _) => DevicePaths::One(device),
            (None, Some(metadata), Some(data)) => DevicePaths::Two { metadata, data },
            _ => return Err(CliError::usage("give a directory, --image PATH and --size SIZE, or --device PATH")),
        },
    };
    Ok(Place::Devices(CreateOptions {
        devices,
        others: if args.force { Others::GivenUp } else { Others::Kept },
        given_up_pool: args.replace_pool.as_deref().map(pool_id).transpose()?,
        block_size: args.block_size.map(block_size).transpose()?,
        metadata_bytes: args.metadata_size.map(ByteSize::bytes),
    }))
}

fn pool_id(text: &str) -> Result<PoolId, CliError> {
    let unknown = |_| {
        CliError::usage(format!("`{text}` is not the id of a pool")).advise("`windlass pool import` lists pools with their ids")
    };
    text.parse().map_err(unknown)
}

fn block_size(size: ByteSize) -> Result<DataBlockSize, CliError> {
    DataBlockSize::from_bytes(size.bytes())
        .ok_or_else(|| CliError::usage(format!("--block-size {size}: it must be a multiple of 64 KiB, up to 1 GiB")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn parsed(line: &str) -> Result<Place, CliError> {
        place(Line::try_parse_from(format!("create {line}").split_whitespace()).unwrap().args)
    }

    #[test]
    fn devices_are_taken_as_they_are_given() {
        let id = PoolId::random();
        let line = format!("--device /dev/sdb --force --replace-pool {id} --block-size 128KiB --metadata-size 1GiB");
        let expected = CreateOptions {
            devices: DevicePaths::One("/dev/sdb".into()),
            others: Others::GivenUp,
            given_up_pool: Some(id),
            block_size: DataBlockSize::from_bytes(128 << 10),
            metadata_bytes: Some(1 << 30),
        };
        assert_eq!(parsed(&line).unwrap(), Place::Devices(expected));
        let two = parsed("--metadata-device /dev/vg/meta --data-device /dev/vg/data").unwrap();
        assert_eq!(two.path(), Path::new("/dev/vg/meta"));
        assert!(matches!(two, Place::Devices(CreateOptions { others: Others::Kept, given_up_pool: None, .. })));
    }

    #[test]
    fn values_that_cannot_be_are_usage_errors() {
        for line in
            ["--device /dev/sdb --block-size 100KiB", "--device /dev/sdb --block-size 2GiB", "--device /dev/sdb --replace-pool x"]
        {
            assert_eq!(parsed(line).unwrap_err().exit(), Exit::Usage, "{line}");
        }
    }
}
