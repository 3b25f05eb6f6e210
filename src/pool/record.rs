//! Records of the catalogue: what was promised about each object, and what may be answered to a repeated request.
//!
//! Stored as JSON, so that a record of an older version reads with defaults. No secret is ever part of a record
//! (invariant 10).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::block::Access;
use crate::dm::units::ThinId;
use crate::types::{CapacityRange, FsType, LogicalBlockSize, Object, ObjectName, SnapshotId, Timestamp, VolumeId, VolumeSize};

use super::DataChecksum;
use super::kubernetes::KubernetesNames;

/// Result of a creation: whether this call made the object, or an equal earlier one had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// Made now.
    Created(T),
    /// It was there, made from an equal request; the answer is the record's.
    Existing(T),
}

impl<T> Outcome<T> {
    /// The object, made now or earlier.
    pub fn into_inner(self) -> T {
        match self {
            Self::Created(value) | Self::Existing(value) => value,
        }
    }
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

/// A volume, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Identity.
    pub id: VolumeId,
    /// Name given by the orchestrator.
    pub name: ObjectName,
    /// Present size.
    pub size: VolumeSize,
    /// Size at creation: what a repeated creation is compared with after the volume has grown.
    pub created_size: VolumeSize,
    /// Logical block size of its device.
    pub logical_block_size: LogicalBlockSize,
    /// Mode.
    pub mode: VolumeMode,
    /// Access modes.
    pub access_modes: Vec<AccessMode>,
    /// Mount flags.
    pub mount_flags: Vec<String>,
    /// Parameters.
    pub parameters: BTreeMap<String, String>,
    /// Checksums or not.
    pub checksum: DataChecksum,
    /// Content source, if it is an object of this pool.
    pub source: Option<Object>,
    /// The handle of the snapshot that it was restored from, if its content comes from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign_source: Option<String>,
    /// What Kubernetes calls it.
    #[serde(default, skip_serializing_if = "KubernetesNames::is_empty")]
    pub kubernetes: KubernetesNames,
    /// Whether mkfs may run.
    pub format: FormatState,
    /// When it was made.
    pub created: Timestamp,
    /// What became of it since.
    #[serde(default, skip_serializing_if = "VolumeHistory::is_empty")]
    pub history: VolumeHistory,
}

/// What became of a volume since it was made, as far as it matters later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeHistory {
    /// How it was staged last, which may be otherwise than it was made for; nothing if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_as: Option<VolumeMode>,
    /// Whether the zeros that it was filled with were given back.
    #[serde(default)]
    pub zeros: Zeros,
}

impl VolumeHistory {
    /// Whether nothing became of it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The history after the volume was staged in this way.
    #[must_use]
    pub fn staged(self, mode: VolumeMode, access: Access) -> Self {
        let is_filled = mode == VolumeMode::Block && access == Access::ReadWrite && self.zeros == Zeros::NotWritten;
        Self { given_as: Some(mode), zeros: if is_filled { Zeros::Kept } else { self.zeros } }
    }
}

/// What is known of the zeros that a volume holds. Whoever fills a raw device (a restore, above all) writes them like anything else, and a
/// volume that was sparse takes all its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zeros {
    /// It was never given out as a raw device that can be written to.
    #[default]
    NotWritten,
    /// It was, and the space that its zeros take is to be given back when nobody uses it.
    Kept,
    /// That was done, once. What is written later is what its user wants there.
    GivenBack,
}

impl Volume {
    /// How it is given out: as it was last, or, if it never was, as it was made for.
    pub fn given_as(&self) -> VolumeMode {
        self.history.given_as.unwrap_or(self.mode)
    }

    /// How many anchors its snapshots may leave, by its parameters.
    pub fn anchor_limit(&self) -> AnchorLimit {
        // Checked when the volume was asked for; a record of another origin gets the default.
        self.parameters.get(AnchorLimit::PARAMETER).and_then(|value| AnchorLimit::parse(value)).unwrap_or_default()
    }

    /// Most access that any publication of this volume may have.
    pub fn access(&self) -> Access {
        let reads_only = |mode: &AccessMode| matches!(mode, AccessMode::MultiNodeReaderOnly | AccessMode::SingleNodeReaderOnly);
        if self.access_modes.iter().all(reads_only) { Access::ReadOnly } else { Access::ReadWrite }
    }
}

/// A request to cut one snapshot, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Name given by the orchestrator.
    pub name: ObjectName,
    /// The volume to cut.
    pub source: VolumeId,
    /// VolumeSnapshotClass parameters that matter (`csi.storage.k8s.io/` keys removed).
    pub parameters: BTreeMap<String, String>,
    /// What Kubernetes calls it.
    pub kubernetes: KubernetesNames,
}

/// Who read a snapshot and may come back for what changed since.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consumer {
    /// It was exported to the repository with this id (its config's id, 64 hexadecimal digits).
    Repository(String),
    /// A client of the CSI SnapshotMetadata service read its ranges.
    MetadataClient,
    /// A volume was made from it.
    Source,
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

/// A snapshot, as recorded. Everything but who used it is as it was at the cut, also after its source has grown or gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Identity.
    pub id: SnapshotId,
    /// Name given by the orchestrator.
    pub name: ObjectName,
    /// The volume it was cut from.
    pub source: VolumeId,
    /// Size of the volume at the cut.
    pub size: VolumeSize,
    /// Logical block size.
    pub logical_block_size: LogicalBlockSize,
    /// Mode of the volume.
    pub mode: VolumeMode,
    /// Whether the volume had content.
    pub format: FormatState,
    /// Checksums or not.
    pub checksum: DataChecksum,
    /// Parameters.
    pub parameters: BTreeMap<String, String>,
    /// When it was cut: the same on every answer.
    pub created: Timestamp,
    /// Number of the cut: ascends over the cuts of a pool, whatever the clock does. Zero in records of the first versions.
    #[serde(default)]
    pub serial: u64,
    /// How many anchors its volume may leave.
    #[serde(default)]
    pub anchor_limit: AnchorLimit,
    /// Who used it and may ask what changed since.
    #[serde(default)]
    pub used_by: BTreeSet<Consumer>,
    /// What Kubernetes calls it, and called its volume at the cut.
    #[serde(default, skip_serializing_if = "KubernetesNames::is_empty")]
    pub kubernetes: KubernetesNames,
}

/// A deleted snapshot whose data is kept, so that what changed since can still be told. Nobody sees it, and its name is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The record as it was.
    pub snapshot: Snapshot,
    /// When it was deleted.
    pub deleted: Timestamp,
}

/// Where a volume is staged or published. Void after another boot; mountinfo is the truth for mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// The path, as given in the request.
    pub path: PathBuf,
    /// Staging or target path.
    pub kind: PublicationKind,
    /// Mode it was given in.
    pub mode: VolumeMode,
    /// The access mode of the request.
    pub access_mode: AccessMode,
    /// Mount flags of the request.
    pub mount_flags: Vec<String>,
    /// Access given.
    pub access: Access,
    /// Boot in which this holds (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

/// What a publication's path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublicationKind {
    /// A staging path.
    Staged,
    /// A target path.
    Published,
}

/// What a thin pool remembers about an object: its number in the pool's metadata, which knows no names and no sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThinObject {
    /// The object.
    pub object: Object,
    /// Its number, which no other object of the pool ever had or will have.
    pub id: ThinId,
    /// Its size. A volume's follows its growth.
    pub size: VolumeSize,
    /// What is stored of it.
    pub stored: ThinStored,
}

/// What a thin pool stores of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinStored {
    /// A thin device: there now, or about to be made or deleted under an intent.
    Device,
    /// The map of what a deleted snapshot held, in the catalogue. The thin device is gone, or about to be.
    Map,
}

/// What is known of the exports of a volume to one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// Id of the repository (its config's id, 64 hexadecimal digits).
    pub repository: String,
    /// The volume.
    pub volume: VolumeId,
    /// The snapshot that was exported.
    pub snapshot: SnapshotId,
    /// The repository snapshot that holds it (64 hexadecimal digits).
    pub repository_snapshot: String,
    /// Size at the export.
    pub size: VolumeSize,
    /// Chunk size in bytes.
    pub chunk_size: u64,
    /// When it was finished.
    pub finished: Timestamp,
}
