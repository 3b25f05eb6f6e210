//! Records of the catalogue: what was promised about each object, and what may be answered to a repeated request.
//!
//! Stored as JSON, so that a record of an older version reads with defaults. No secret is ever part of a record
//! (invariant 10).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::dm::units::ThinId;
use crate::types::{
    Access, AccessMode, AnchorLimit, Copies, DataChecksum, ExportOrder, FormatState, KubernetesNames, LocalCopy, LocalCopyPolicy,
    LogicalBlockSize, Object, ObjectName, ProtectionOrder, SnapshotId, Timestamp, VolumeId, VolumeMode, VolumeSize,
};

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

    /// What its class protects it by, if it does.
    pub fn protection(&self) -> Option<ProtectionOrder> {
        // Checked when the volume was asked for; a record of another origin asks for nothing.
        ProtectionOrder::parse(&self.parameters).ok().flatten()
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

/// A snapshot, as recorded. Everything but who used it and where its bytes are is as it was at the cut, also after its source has grown or
/// gone. It is a logical object: without a local copy it is as good as with one, and is not damaged.
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
    /// Where its bytes are.
    #[serde(default, skip_serializing_if = "Copies::is_local_only")]
    pub copies: Copies,
}

impl Snapshot {
    /// What its class asks for, if its snapshots are exported.
    pub fn order(&self) -> Option<ExportOrder> {
        // Checked when the snapshot was asked for; a record of another origin orders nothing.
        ExportOrder::parse(&self.parameters).ok().flatten()
    }

    /// Whether its bytes are in the pool.
    pub fn is_here(&self) -> bool {
        self.copies.local == LocalCopy::Kept
    }

    /// Whether everything that was asked for is done: the cut, and the export if its class asks for one.
    pub fn is_ready(&self) -> bool {
        self.order().is_none() || self.copies.is_task_finished()
    }

    /// When its local copy may be given up: a repository must have the bytes, and the class must let them go.
    pub fn policy(&self) -> LocalCopyPolicy {
        match self.order() {
            Some(order) if self.copies.is_task_finished() => order.local_copy,
            Some(_) | None => LocalCopyPolicy::Keep,
        }
    }
}

/// A snapshot that was deleted, or whose local copy was given up, and whose data is kept, so that what changed since can still be told.
/// Nobody sees it, and the name of a deleted one is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The record as it was.
    pub snapshot: Snapshot,
    /// When it was deleted, or its local copy given up.
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
