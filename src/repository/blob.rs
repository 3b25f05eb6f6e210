//! Blobs: what a pack is made of, and where in it each one lies.

use std::fmt;
use std::num::NonZeroU32;

use super::id::Id;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A piece of a file.
    Data,
    /// A list of files.
    Tree,
}

impl fmt::Display for BlobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Tree => "tree",
        })
    }
}

/// A blob inside a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PackedBlob {
    /// SHA-256 of the plain bytes.
    pub id: Id,
    #[serde(rename = "type")]
    pub kind: BlobKind,
    /// Where its sealed bytes begin in the pack.
    pub offset: u32,
    /// How many sealed bytes there are.
    pub length: u32,
    /// Length in bytes after decompression; `None` when it is stored as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncompressed_length: Option<NonZeroU32>,
}

/// A pack and what lies in it, in ascending order of offsets.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PackRecord {
    /// SHA-256 of the whole pack.
    pub id: Id,
    pub blobs: Vec<PackedBlob>,
}

/// Where one blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobLocation {
    pub pack: Id,
    /// Where its sealed bytes begin in the pack.
    pub offset: u32,
    /// How many sealed bytes there are.
    pub length: u32,
    /// Length in bytes after decompression; `None` when it is stored as it is.
    pub uncompressed_length: Option<NonZeroU32>,
}

impl BlobLocation {
    /// Length of the blob's plain bytes.
    pub fn plain_length(&self) -> u32 {
        match self.uncompressed_length {
            Some(length) => length.get(),
            None => self.length.saturating_sub(super::crypto::OVERHEAD as u32),
        }
    }

    /// The byte of the pack after the last one of the blob.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length)
    }
}
