//! `--pool-config`: which pools the nodes of a cluster have, and what is chosen for them, in one file for all nodes.
//!
//! A node has no access to the cluster's API, so it cannot evaluate selectors of labels: each pool of the file names its nodes by globs of
//! their names. The file is JSON, since a ConfigMap is written by a program:
//!
//! ```json
//! {"pools": [{"name": "fast", "nodes": ["node-*"], "image": "/var/lib/windlass/fast.img", "imageSize": "100Gi", "reserve": "5%"}]}
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `name` | the name by which StorageClasses choose the pool |
//! | `nodes` | globs of node names (`*`, `?`); all nodes if it is left out |
//! | `directory`, `image`, `device` | where the pool lies: exactly one, an absolute path |
//! | `imageSize`, `imageFilesystem` | of an image: its size (at least; images do not shrink) and `xfs` (default) or `btrfs` |
//! | `overprovisionRatio`, `reserve` | see `pool set`; what is left out is left as it is |
//! | `deletedSpace` | of a device: `kept` or `discarded` |
//!
//! Read as a whole before anything is done by it. Unknown fields are refused, since a misspelt one that is ignored is found out too late,
//! and each error names the pool and the field. Pure but for the reading of the file.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::mount::image::MINIMUM_BYTES;
use crate::pool::properties::{DeletedSpace, OverprovisionRatio, Reserve};
use crate::types::{FsType, PoolName};

use super::exit::{CliError, Exit};
use super::pool::reserve;
use super::size::ByteSize;

/// A ConfigMap has at most 1 MiB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// As long as a node name may be, with room for wildcards.
const MAX_GLOB_BYTES: usize = 128;

/// The pools of all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    pools: Vec<ConfiguredPool>,
}

/// One pool, as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredPool {
    pub name: PoolName,
    /// Where it lies.
    pub place: ConfiguredPlace,
    /// How much it may promise; `None` leaves it as it is.
    pub overprovision_ratio: Option<OverprovisionRatio>,
    /// How much is kept free; `None` leaves it as it is.
    pub reserve: Option<Reserve>,
    /// What becomes of deleted space; `None` leaves it as it is.
    pub deleted_space: Option<DeletedSpace>,
    nodes: Vec<NodeGlob>,
}

/// Where a pool lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfiguredPlace {
    /// In a directory.
    Directory(PathBuf),
    /// In an image file.
    Image {
        path: PathBuf,
        /// Its size in bytes, at least.
        bytes: u64,
        /// The file system that it is made with.
        file_system: FsType,
    },
    /// On a block device.
    Device(PathBuf),
}

impl ConfiguredPlace {
    /// The path that a node serves.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Image { path, .. } | Self::Device(path) => path,
        }
    }
}

/// Why a file of pools cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PoolConfigError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] std::io::Error),
    /// It is larger than any configuration.
    #[error("it has more than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// It is no JSON, or no list of pools.
    #[error("it is not a list of pools")]
    Syntax(#[from] serde_json::Error),
    /// A pool has an unknown field, or is no object.
    #[error("{pool}")]
    Pool { pool: PoolLabel, source: serde_json::Error },
    /// A field of a pool is wrong.
    #[error("{pool}: {field}: {reason}")]
    Field {
        pool: PoolLabel,
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Two pools of one node lie at one place.
    #[error("pools `{first}` and `{second}` of node `{node}` both lie at {}", .path.display())]
    SamePlace {
        node: String,
        /// One pool.
        first: PoolName,
        /// The other.
        second: PoolName,
        /// Their place.
        path: PathBuf,
    },
}

/// A pool of the file, as errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolLabel {
    /// Its place in the list, from 1.
    number: usize,
    /// What it says that it is called.
    name: Option<String>,
}

impl fmt::Display for PoolLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "pool `{}` (number {})", name.escape_debug(), self.number),
            None => write!(f, "pool number {}", self.number),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    pools: Vec<Value>,
}

/// The fields of a pool, each still to be checked, so that each error can name its field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawPool {
    name: Option<Value>,
    nodes: Option<Value>,
    directory: Option<Value>,
    image: Option<Value>,
    image_size: Option<Value>,
    image_filesystem: Option<Value>,
    device: Option<Value>,
    overprovision_ratio: Option<Value>,
    reserve: Option<Value>,
    deleted_space: Option<Value>,
}

impl PoolConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Exit::NotFound`] when there is none, [`Exit::Usage`] for one that is wrong. Blocks.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let read = || -> Result<Self, PoolConfigError> {
            let mut text = String::new();
            std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
            if text.len() as u64 > MAX_FILE_BYTES {
                return Err(PoolConfigError::TooLarge);
            }
            text.parse()
        };
        read().map_err(|error| config_error(path, error))
    }

    /// The pools of one node, in the order of the file.
    pub fn of_node(&self, node: &str) -> Result<Vec<ConfiguredPool>, PoolConfigError> {
        let own: Vec<ConfiguredPool> =
            self.pools.iter().filter(|pool| pool.nodes.iter().any(|glob| glob.matches(node))).cloned().collect();
        for (index, pool) in own.iter().enumerate() {
            if let Some(first) = own[..index].iter().find(|other| other.place.path() == pool.place.path()) {
                return Err(PoolConfigError::SamePlace {
                    node: node.to_owned(),
                    first: first.name.clone(),
                    second: pool.name.clone(),
                    path: pool.place.path().to_owned(),
                });
            }
        }
        Ok(own)
    }
}

/// The error of a file as a command reports it.
pub fn config_error(path: &Path, error: PoolConfigError) -> CliError {
    let exit = match &error {
        PoolConfigError::Read(source) if source.kind() == std::io::ErrorKind::NotFound => Exit::NotFound,
        PoolConfigError::Read(_) => Exit::Failed,
        _ => Exit::Usage,
    };
    CliError::because(exit, format!("--pool-config {}", path.display()), error)
}

impl FromStr for PoolConfig {
    type Err = PoolConfigError;

    fn from_str(text: &str) -> Result<Self, PoolConfigError> {
        let file: RawFile = serde_json::from_str(text)?;
        let pools = file.pools.into_iter().enumerate().map(|(index, value)| pool(index + 1, value));
        Ok(Self { pools: pools.collect::<Result<_, _>>()? })
    }
}

/// The fields of one pool that are being checked.
struct Fields {
    label: PoolLabel,
}

impl Fields {
    fn wrong(&self, field: &'static str, reason: impl fmt::Display) -> PoolConfigError {
        PoolConfigError::Field { pool: self.label.clone(), field, reason: reason.to_string() }
    }

    fn typed<T: DeserializeOwned>(
        &self,
        field: &'static str,
        value: Option<Value>,
        kind: &str,
    ) -> Result<Option<T>, PoolConfigError> {
        value.map(|value| serde_json::from_value(value).map_err(|_| self.wrong(field, format!("must be {kind}")))).transpose()
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(
        &self,
        field: &'static str,
        value: Option<Value>,
    ) -> Result<Option<T>, PoolConfigError> {
        let text: Option<String> = self.typed(field, value, "a text")?;
        text.map(|text| text.parse().map_err(|error| self.wrong(field, error))).transpose()
    }

    fn path(&self, field: &'static str, value: Option<Value>) -> Result<Option<PathBuf>, PoolConfigError> {
        let Some(text) = self.typed::<String>(field, value, "a path")? else { return Ok(None) };
        let path = PathBuf::from(&text);
        let is_plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if path.is_absolute() && is_plain && path.parent().is_some() && !text.contains('\0') {
            // Two spellings of one path are one place.
            Ok(Some(path.components().collect()))
        } else {
            Err(self.wrong(field, format!("`{}` must be an absolute path without `..`", text.escape_debug())))
        }
    }

    /// A text, or a number that was written without quotes.
    fn text_or_number(&self, field: &'static str, value: Option<Value>) -> Result<Option<String>, PoolConfigError> {
        match value {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(self.wrong(field, "must be a text or a number")),
        }
    }
}

fn pool(number: usize, value: Value) -> Result<ConfiguredPool, PoolConfigError> {
    let name = value.get("name").and_then(Value::as_str).map(str::to_owned);
    let fields = Fields { label: PoolLabel { number, name } };
    let raw: RawPool =
        serde_json::from_value(value).map_err(|source| PoolConfigError::Pool { pool: fields.label.clone(), source })?;

    let name = fields.parsed("name", raw.name)?.ok_or_else(|| fields.wrong("name", "must be given"))?;
    let nodes = match fields.typed::<Vec<String>>("nodes", raw.nodes, "a list of node names, with `*` and `?` for what varies")? {
        None => vec![NodeGlob("*".to_owned())],
        Some(globs) if globs.is_empty() => {
            return Err(fields.wrong("nodes", "must name at least one node; leave it out for all nodes"));
        }
        Some(globs) => {
            let checked = globs.into_iter().map(|glob| glob.parse().map_err(|error| fields.wrong("nodes", error)));
            checked.collect::<Result<_, _>>()?
        }
    };

    let size = fields.text_or_number("imageSize", raw.image_size)?;
    let size = size.map(|text| text.parse::<ByteSize>().map_err(|error| fields.wrong("imageSize", error))).transpose()?;
    let file_system: Option<String> = fields.typed("imageFilesystem", raw.image_filesystem, "`xfs` or `btrfs`")?;
    let (directory, image, device) =
        (fields.path("directory", raw.directory)?, fields.path("image", raw.image)?, fields.path("device", raw.device)?);
    if image.is_none() {
        let of_image = [("imageSize", size.is_some()), ("imageFilesystem", file_system.is_some())];
        if let Some((field, _)) = of_image.into_iter().find(|(_, given)| *given) {
            return Err(fields.wrong(field, "belongs to a pool in an `image`"));
        }
    }
    let place = match (directory, image, device) {
        (Some(path), None, None) => ConfiguredPlace::Directory(path),
        (None, Some(path), None) => {
            let size = size.ok_or_else(|| fields.wrong("imageSize", "must be given with `image`"))?;
            if size.bytes() < MINIMUM_BYTES || !size.bytes().is_multiple_of(4096) {
                let reason = format!("must be at least {} and a multiple of 4096 bytes", ByteSize::new(MINIMUM_BYTES));
                return Err(fields.wrong("imageSize", reason));
            }
            let file_system = match file_system.as_deref() {
                None | Some("xfs") => FsType::Xfs,
                Some("btrfs") => FsType::Btrfs,
                Some(_) => return Err(fields.wrong("imageFilesystem", "must be `xfs` or `btrfs`")),
            };
            ConfiguredPlace::Image { path, bytes: size.bytes(), file_system }
        }
        (None, None, Some(path)) => ConfiguredPlace::Device(path),
        (None, None, None) => return Err(fields.wrong("device", "is missing: give one of `directory`, `image` and `device`")),
        (directory, image, _) => {
            let given = match (directory.is_some(), image.is_some()) {
                (true, true) => ["directory", "image"],
                (true, false) => ["directory", "device"],
                (false, _) => ["image", "device"],
            };
            return Err(fields.wrong(given[1], format!("cannot be given together with `{}`", given[0])));
        }
    };

    let ratio = fields.text_or_number("overprovisionRatio", raw.overprovision_ratio)?;
    let ratio = ratio.map(|text| text.parse().map_err(|error| fields.wrong("overprovisionRatio", error))).transpose()?;
    let kept = fields.text_or_number("reserve", raw.reserve)?;
    let kept = kept.map(|text| reserve(&text).map_err(|error| fields.wrong("reserve", error))).transpose()?;
    let deleted_space = fields.parsed("deletedSpace", raw.deleted_space)?;
    if deleted_space.is_some() && !matches!(place, ConfiguredPlace::Device(_)) {
        return Err(fields.wrong("deletedSpace", "belongs to a pool on a `device`"));
    }
    Ok(ConfiguredPool { name, place, overprovision_ratio: ratio, reserve: kept, deleted_space, nodes })
}

/// A pattern of node names: `*` stands for any characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeGlob(String);

/// A text that is no pattern of node names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a pattern of node names: one may have letters, digits, `-`, `_`, `.`, and `*` and `?` for what varies", .0.escape_debug())]
struct NodeGlobError(String);

impl FromStr for NodeGlob {
    type Err = NodeGlobError;

    fn from_str(text: &str) -> Result<Self, NodeGlobError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*' | b'?');
        if !text.is_empty() && text.len() <= MAX_GLOB_BYTES && text.bytes().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NodeGlobError(text.to_owned()))
        }
    }
}

impl NodeGlob {
    /// In time proportional to the product of both lengths: after a mismatch only the last `*` takes more.
    fn matches(&self, name: &str) -> bool {
        let (glob, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut seen, mut star) = (0, 0, None);
        while seen < name.len() {
            match glob.get(at) {
                Some(b'*') => {
                    star = Some((at, seen));
                    at += 1;
                }
                Some(&byte) if byte == b'?' || byte == name[seen] => {
                    at += 1;
                    seen += 1;
                }
                _ => match star {
                    Some((star_at, taken)) => {
                        star = Some((star_at, taken + 1));
                        at = star_at + 1;
                        seen = taken + 1;
                    }
                    None => return false,
                },
            }
        }
        glob[at..].iter().all(|&byte| byte == b'*')
    }
}

#[cfg(test)]
mod tests;
