//! Reads index files.

use serde::{Deserialize, Serialize};

use crate::repository::blob::PackRecord;
use crate::repository::crypto::OVERHEAD;
use crate::repository::damage::Damage;

/// The JSON of an index file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IndexFile {
    pub(super) packs: Vec<PackRecord>,
}

/// Reads the JSON of an index file.
pub(in crate::repository) fn decode(json: &[u8]) -> Result<Vec<PackRecord>, Damage> {
    let file: IndexFile = serde_json::from_slice(json).map_err(Damage::json)?;
    for blob in file.packs.iter().flat_map(|pack| &pack.blobs) {
        if (blob.length as usize) < OVERHEAD || blob.offset.checked_add(blob.length).is_none() {
            return Err(Damage::Syntax(format!("blob {} has an impossible place", blob.id)));
        }
    }
    Ok(file.packs)
}
