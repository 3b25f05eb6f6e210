//! From requests to checked values.
//!
//! Pure functions: nothing here touches a pool, a path or a lock. Each takes the spelling of the field it checks, so that every
//! refusal names it. What passes is a value of a type that need not be checked again.

pub mod capability;
pub mod parameters;
pub mod path;
pub mod size;
pub mod source;

use std::collections::HashMap;

use crate::types::span::Subject;
use crate::types::{ObjectName, SnapshotHandle, VolumeHandle};

use super::error::RequestError;

/// Longest string of CSI in bytes, where no other limit is given.
pub const MAX_STRING_BYTES: usize = 128;
/// Largest map of CSI, and the largest list of mount flags: keys and values together, in bytes.
pub const MAX_MAP_BYTES: usize = 4096;

/// Checks a string's length.
///
/// # Errors
/// Invalid when it has more than 128 bytes.
pub fn text(field: &'static str, value: &str) -> Result<(), RequestError> {
    if value.len() > MAX_STRING_BYTES {
        return Err(RequestError::invalid(field, format!("must have at most {MAX_STRING_BYTES} bytes, has {}", value.len())));
    }
    Ok(())
}

/// Checks the length of a string that must be there.
///
/// # Errors
/// Invalid when it is empty or has more than 128 bytes.
pub fn required(field: &'static str, value: &str) -> Result<(), RequestError> {
    if value.is_empty() {
        return Err(RequestError::invalid(field, "must not be empty"));
    }
    text(field, value)
}

/// Checks a map's size. The content is never part of the refusal: the map may hold secrets.
///
/// # Errors
/// Invalid when keys and values have more than 4 KiB together.
pub fn map(field: &'static str, map: &HashMap<String, String>) -> Result<(), RequestError> {
    let size: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > MAX_MAP_BYTES {
        return Err(RequestError::invalid(field, format!("must have at most {MAX_MAP_BYTES} bytes, has {size}")));
    }
    Ok(())
}

/// A name given by the orchestrator.
///
/// # Errors
/// Invalid when it is empty, too long or has a control character that CSI forbids.
pub fn name(field: &'static str, value: &str) -> Result<ObjectName, RequestError> {
    ObjectName::try_from(value.to_owned()).map_err(|error| RequestError::invalid(field, error.to_string()))
}

/// A volume handle; `None` when the text is no handle of ours, which is the handle of nothing.
///
/// # Errors
/// Invalid when it is empty or too long.
pub fn volume_handle(field: &'static str, value: &str) -> Result<Option<VolumeHandle>, RequestError> {
    required(field, value)?;
    Ok(value.parse().ok().inspect(|&handle| Subject::Volume(handle).note()))
}

/// A snapshot handle; `None` when the text is no handle of ours, which is the handle of nothing.
///
/// # Errors
/// Invalid when it is empty or too long.
pub fn snapshot_handle(field: &'static str, value: &str) -> Result<Option<SnapshotHandle>, RequestError> {
    required(field, value)?;
    Ok(value.parse().ok().inspect(|&handle| Subject::Snapshot(handle).note()))
}

/// Refuses mutable parameters: there are none yet.
///
/// # Errors
/// Invalid when the map is not empty.
pub fn no_mutable_parameters(parameters: &HashMap<String, String>) -> Result<(), RequestError> {
    match parameters.keys().min() {
        Some(key) => {
            let key: String = key.chars().take(MAX_STRING_BYTES).collect();
            Err(RequestError::invalid(
                "mutable_parameters",
                format!("`{key}` is not known: a volume has no parameters that can change"),
            ))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted_in_bytes() {
        assert!(text("f", &"a".repeat(128)).is_ok());
        assert!(text("f", &"ä".repeat(65)).is_err());
        assert!(required("f", "").is_err());
        let big = HashMap::from([("k".to_owned(), "v".repeat(4096))]);
        assert!(map("secrets", &big).is_err());
        assert!(!map("secrets", &big).unwrap_err().to_string().contains("vv"));
    }

    #[test]
    fn a_text_that_is_no_handle_is_the_handle_of_nothing() {
        assert_eq!(volume_handle("volume_id", "../etc").unwrap(), None);
        assert!(volume_handle("volume_id", "").is_err());
        assert!(snapshot_handle("snapshot_id", &"s".repeat(129)).is_err());
    }
}
