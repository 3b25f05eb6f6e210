//! The target path of a publication, on which nothing is mounted.

use std::path::Path;

use crate::csi::error::RequestError;
use crate::failpoint;
use crate::mount::MountError;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;

use super::fields::TARGET_PATH;
use super::refusal::at_field;

/// Removes an empty directory or file, and nothing else. Absent is success.
pub(super) fn remove(layer: &NodeLayer, path: &Path) -> Result<(), CallError> {
    let found = match layer.root.resolve(path) {
        Err(MountError::NotFound(_)) => return Ok(()),
        found => at_field(TARGET_PATH, found)?,
    };
    let metadata = found.file().metadata().map_err(MountError::io(format!("look at {}", path.display())))?;
    if !(metadata.is_dir() || metadata.is_file() && metadata.len() == 0) {
        let reason = format!("{} is neither a directory nor an empty file; it is left as it is", path.display());
        return Err(RequestError::precondition(TARGET_PATH, reason).into());
    }
    drop(found);
    at_field(TARGET_PATH, failpoint::around("node.rmdir", || layer.root.remove(path)))
}
