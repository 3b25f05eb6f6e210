//! The checkers of the file systems themselves, run read only.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::types::FsType;

/// Lines of a checker's output that are worth showing.
const SHOWN_LINES: usize = 5;

/// The program and arguments that look at a device without changing it.
fn checker(fs_type: FsType) -> (&'static str, &'static [&'static str], &'static str) {
    match fs_type {
        FsType::Ext4 => ("e2fsck", &["-f", "-n"], "e2fsprogs"),
        FsType::Xfs => ("xfs_repair", &["-n"], "xfsprogs"),
        FsType::Btrfs => ("btrfs", &["check", "--readonly"], "btrfs-progs"),
    }
}

/// Checks the file system on a device that is not mounted. All three programs end with 0 only when nothing is wrong; that of
/// XFS reads no log, so the file system must have been unmounted since it was last written.
///
/// # Errors
/// A text with the end of what the checker said, or with the package that it is missing from.
pub async fn check(fs_type: FsType, device: &Path) -> Result<(), String> {
    let (program, arguments, package) = checker(fs_type);
    let output = Command::new(program).args(arguments).arg(device).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| format!("{program} cannot be run ({error}); install {package}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("; ");
    Err(format!("{program} ended with {}: {shown}", output.status))
}
