//! What the caller of an export chooses.

use super::error::ExportError;
use crate::repository::Verification;
use crate::transfer::budget::Budget;
use crate::transfer::chunk_size::ChunkSize;
use crate::transfer::metadata::{self, Metadata};
use crate::types::Timestamp;

/// What the caller of an export chooses.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Path that the snapshot carries, from the root: by it and the hostname `restic forget` tells one volume's snapshots from
    /// another's. The snapshot's tree has the file there, so that `restic dump` takes the path that `restic snapshots` shows.
    pub path: String,
    /// Host that the snapshot carries: the cluster, not the node, since volumes move.
    pub hostname: String,
    pub tags: Vec<String>,
    /// When the volume's snapshot was cut.
    pub time: Timestamp,
    /// Describes the volume; stored beside its image.
    pub metadata: Metadata,
    pub chunk_size: ChunkSize,
    pub budget: Budget,
    /// Whether packed blobs are decoded again before they are stored.
    pub verification: Verification,
}

pub(super) fn check(volume_bytes: u64, options: &ExportOptions) -> Result<(), ExportError> {
    let refuse = |text: String| Err(ExportError::Options(text));
    if volume_bytes == 0 {
        return refuse("the volume is empty".to_owned());
    }
    if !options.chunk_size.fits(volume_bytes) {
        return refuse(format!(
            "{volume_bytes} bytes in chunks of {} make a longer list than the format can hold; take larger chunks",
            options.chunk_size
        ));
    }
    let Some((folders, name)) = path_parts(&options.path) else {
        return refuse(format!("`{}` must be the absolute path of a file", options.path));
    };
    // One of them stands beside that file.
    if let Some(name) = [Some(&name), folders.last()].into_iter().flatten().find(|name| **name == metadata::FILE_NAME) {
        return refuse(format!("neither the volume's image nor its folder can be called `{name}`"));
    }
    Ok(())
}

/// The folders and the last part of an absolute path that names a file.
pub(super) fn path_parts(path: &str) -> Option<(Vec<&str>, &str)> {
    let mut folders: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    if folders.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('\0')) {
        return None;
    }
    let name = folders.pop()?;
    Some((folders, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_a_file_or_are_refused() {
        assert_eq!(path_parts("/v-a-b/volume.img"), Some((vec!["v-a-b"], "volume.img")));
        assert_eq!(path_parts("/volume.img"), Some((vec![], "volume.img")));
        for path in ["", "volume.img", "a/b", "/", "/a/", "/a/..", "/a/../b", "//b", "/a\0b"] {
            assert_eq!(path_parts(path), None, "{path:?}");
        }
    }
}
