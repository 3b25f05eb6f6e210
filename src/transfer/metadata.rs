//! The metadata of a volume, stored beside its image as `meta.json`, so that a repository alone suffices to make the volume again.
//!
//! JSON with a version. Reading is tolerant: unknown fields are skipped and all but the size may be missing, so that older and
//! newer programs read each other's files. A restore needs none of it; it says what kind of volume to restore to.

use serde::{Deserialize, Serialize};

/// Name of the file in a snapshot's tree.
pub const FILE_NAME: &str = crate::repository::tree::METADATA_FILE;
/// The version written here.
pub const VERSION: u32 = 1;
/// Longest file that is read, in bytes. Written ones have a few hundred.
pub const MAX_BYTES: u64 = 1 << 20;

/// How a volume was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Block,
    Filesystem,
    /// A newer version wrote a word that this one does not know.
    #[serde(other)]
    Unknown,
}

/// Describes a volume when it was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Version of the file; reads as 0 where it is absent.
    #[serde(default)]
    pub version: u32,
    /// Size of the volume in bytes.
    pub size_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_handle: Option<String>,
    /// Handle of the snapshot that was exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_handle: Option<String>,
    /// Logical block size of its device in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical_block_bytes: Option<u32>,
    /// Size in bytes of the chunks it is cut into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_bytes: Option<u64>,
    /// How it was presented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Its file system, by the name that mount(2) uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// Whether it had never been formatted, nor given out for writing. Absent in exports of versions that did not note it: it has content.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unformatted: bool,
    /// Namespace of the PersistentVolumeClaim that the volume was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_name: Option<String>,
    /// Name of the PersistentVolume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pv_name: Option<String>,
    /// Namespace of the VolumeSnapshot that was exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_name: Option<String>,
    /// Name of its VolumeSnapshotContent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_content_name: Option<String>,
}

/// `meta.json` is not metadata of a volume.
#[derive(Debug, thiserror::Error)]
#[error("`{FILE_NAME}` does not read")]
pub struct MetadataError(#[from] serde_json::Error);

impl Metadata {
    /// Metadata that says no more than a size.
    pub fn of_size(size_bytes: u64) -> Self {
        Self {
            version: VERSION,
            size_bytes,
            volume_handle: None,
            snapshot_handle: None,
            logical_block_bytes: None,
            chunk_bytes: None,
            mode: None,
            filesystem: None,
            unformatted: false,
            pvc_namespace: None,
            pvc_name: None,
            pv_name: None,
            volume_snapshot_namespace: None,
            volume_snapshot_name: None,
            volume_snapshot_content_name: None,
        }
    }

    /// Reads a `meta.json`.
    ///
    /// # Errors
    /// The text must be a JSON object with a size, in which known fields have their types.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>, MetadataError> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_read_back_as_written() {
        let metadata = Metadata {
            volume_handle: Some("v-a-b".into()),
            logical_block_bytes: Some(512),
            mode: Some(Mode::Filesystem),
            filesystem: Some("xfs".into()),
            ..Metadata::of_size(1 << 30)
        };
        assert_eq!(Metadata::parse(&metadata.to_bytes().unwrap()).unwrap(), metadata);
        let unformatted = Metadata { unformatted: true, ..metadata };
        assert_eq!(Metadata::parse(&unformatted.to_bytes().unwrap()).unwrap(), unformatted);
    }

    #[test]
    fn an_export_that_does_not_say_that_its_volume_was_never_formatted_has_content() {
        let metadata = Metadata { filesystem: Some("xfs".into()), ..Metadata::of_size(1 << 30) };
        let older = String::from_utf8(metadata.to_bytes().unwrap()).unwrap();
        assert!(!older.contains("unformatted"), "{older}");
        assert!(!Metadata::parse(older.as_bytes()).unwrap().unformatted);
    }

    #[test]
    fn newer_and_poorer_files_are_read_too() {
        let newer = Metadata::parse(br#"{"version":9,"sizeBytes":5,"mode":"hologram","color":[1]}"#).unwrap();
        assert_eq!((newer.version, newer.size_bytes, newer.mode), (9, 5, Some(Mode::Unknown)));
        assert_eq!(Metadata::parse(br#"{"sizeBytes":5}"#).unwrap().version, 0);
        for text in ["", "[]", "{}", r#"{"sizeBytes":-1}"#] {
            assert!(Metadata::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
