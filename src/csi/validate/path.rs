//! Paths of requests.
//!
//! The text only: that a path lies beneath the root, with no symbolic link on the way, is found out where it is opened
//! (`mount::path`).

use std::path::PathBuf;

use crate::csi::error::RequestError;

/// Longest path, as of PATH_MAX: its terminating byte included.
const MAX_PATH_BYTES: usize = 4096;

/// An absolute path, without repeated or trailing slashes.
///
/// # Errors
/// Invalid when it is empty, too long, relative, or has a NUL, `.` or `..` in it.
pub fn absolute(field: &'static str, value: &str) -> Result<PathBuf, RequestError> {
    let refuse = |reason: &str| Err(RequestError::invalid(field, reason));
    let path = any(field, value)?;
    if !value.starts_with('/') {
        return refuse("must be an absolute path");
    }
    if value.split('/').any(|part| part == "." || part == "..") {
        return refuse("must not contain `.` or `..`");
    }
    Ok(path.components().collect())
}

/// A path that is only looked at, to find out whether a volume is there. At one that is not plain, none is.
///
/// # Errors
/// Invalid when it is empty, too long or has a NUL in it.
pub fn any(field: &'static str, value: &str) -> Result<PathBuf, RequestError> {
    let refuse = |reason: &str| Err(RequestError::invalid(field, reason));
    if value.is_empty() {
        return refuse("must not be empty");
    }
    if value.len() >= MAX_PATH_BYTES {
        return refuse("must have at most 4095 bytes");
    }
    if value.contains('\0') {
        return refuse("must not contain NUL");
    }
    Ok(PathBuf::from(value))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn paths_that_are_not_plain_are_refused() {
        let check = |text: &str| absolute("target_path", text);
        assert_eq!(check("/var/lib/kubelet//pods/x/").unwrap(), Path::new("/var/lib/kubelet/pods/x"));
        for text in ["", "pods/x", "/var/../x", "/var/./x", "/var/a\0b"] {
            assert!(check(text).is_err(), "{text:?}");
        }
        assert!(check(&format!("/{}", "x/".repeat(2100))).is_err());
    }
}
