//! What is said of a volume, in a request and in the catalogue: how it is presented, who may use it how, whether it has content.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CapacityRange, FsType, KubernetesNames, Object, ObjectName, VolumeSize};

/// What may be done with what is opened, attached or mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Access {
    /// Read only.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// How a volume is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeMode {
    /// A device node.
    Block,
    /// A mounted file system of this type.
    Filesystem(FsType),
}

/// Access modes of CSI that a node-local volume supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AccessMode {
    /// SINGLE_NODE_WRITER: one target path at a time.
    SingleNodeWriter,
    /// SINGLE_NODE_READER_ONLY.
    SingleNodeReaderOnly,
    /// MULTI_NODE_READER_ONLY: any number of readers; from a snapshot, and never writable.
    MultiNodeReaderOnly,
    /// SINGLE_NODE_SINGLE_WRITER: exactly one target path.
    SingleNodeSingleWriter,
    /// SINGLE_NODE_MULTI_WRITER: any number of target paths on the node.
    SingleNodeMultiWriter,
}

/// Whether a volume was ever formatted (invariant 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FormatState {
    /// Never formatted, never given out writable, and no content but that of a source of which the same is true: mkfs may run.
    Never,
    /// mkfs was begun: only it, and only while the volume is not mounted, may run again.
    Formatting,
    /// Has content copied from elsewhere, with its identity (a file system's UUID), and was not given out yet: mkfs never
    /// runs, but a file system of it may need an identity of its own before it is first mounted.
    Copied,
    /// Has content: mkfs never runs again.
    Content,
}

/// Whether the pool's file system keeps checksums of a volume's data (StorageClass parameter `checksum`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DataChecksum {
    /// No checksums: overwrites go in place, direct I/O stays direct. The default.
    #[default]
    Off,
    /// Checksums by the pool's file system (Btrfs only; refused elsewhere).
    On,
}

/// How many anchors a volume may leave (StorageClass parameter `deltaAnchors`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AnchorLimit(u8);

impl AnchorLimit {
    /// Key of the StorageClass parameter.
    pub const PARAMETER: &'static str = "deltaAnchors";
    /// Largest limit.
    pub const MAX: u8 = 32;
    /// No anchors: a deleted snapshot is gone at once.
    pub const NONE: Self = Self(0);

    /// A limit of `count` anchors; `None` above [`AnchorLimit::MAX`].
    pub fn new(count: u8) -> Option<Self> {
        (count <= Self::MAX).then_some(Self(count))
    }

    /// The value of the parameter: a decimal number from 0 to [`AnchorLimit::MAX`].
    pub fn parse(value: &str) -> Option<Self> {
        let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        if plain { value.parse().ok().and_then(Self::new) } else { None }
    }

    /// Number of anchors.
    pub fn count(self) -> usize {
        usize::from(self.0)
    }
}

impl Default for AnchorLimit {
    /// Four: a few repositories and a metadata client, each with its last snapshot.
    fn default() -> Self {
        Self(4)
    }
}

/// What becomes of the hidden target of a restore that nobody holds any more before it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLoss {
    /// It is deleted.
    #[default]
    Delete,
    /// It is kept for a while, for the next request that is equal.
    Keep,
}

impl OnLoss {
    /// For how long a target is kept that nobody holds.
    pub const KEPT_FOR: Duration = Duration::from_secs(3600);
    /// How many targets of a pool are kept.
    pub const MOST_KEPT: usize = 32;
}

/// What the hidden target of a restore holds when it is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetContent {
    /// Zeros.
    Zeros,
    /// Whatever an earlier restore has written to it, which may be anything.
    Partial,
}

/// A request to make a volume, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Name given by the orchestrator: the key of idempotency.
    pub name: ObjectName,
    /// Sizes accepted.
    pub capacity: CapacityRange,
    /// Smallest size that the mode needs (a file system's minimum); the source's size is added by the pool.
    pub minimum: VolumeSize,
    /// Mode: of the capabilities, all of which agree.
    pub mode: VolumeMode,
    /// All access modes asked for, ascending, without repetition.
    pub access_modes: Vec<AccessMode>,
    /// Mount flags asked for.
    pub mount_flags: Vec<String>,
    /// StorageClass parameters that matter to the volume (`csi.storage.k8s.io/` keys removed).
    pub parameters: BTreeMap<String, String>,
    /// Checksums or not.
    pub checksum: DataChecksum,
    /// Where its content comes from, if from an object of this pool.
    pub source: Option<Object>,
    /// The handle of the snapshot that it is restored from, if its content comes from elsewhere: another pool, or a repository. The text as it
    /// is named in requests.
    pub foreign_source: Option<String>,
    /// What Kubernetes calls it.
    pub kubernetes: KubernetesNames,
}
