//! A real tree of files: copied with a hash of each, and compared against those hashes later.
//!
//! What is hashed are the bytes as they were copied, so a source that changes meanwhile does no harm.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::repository::Id;
use crate::repository::id::IdHasher;

use crate::cli::exit::{CliError, Exit};

/// Where there are real files on about every machine, the most varied first.
pub const DEFAULT_SOURCES: [&str; 7] = ["/usr/share", "/usr/lib", "/usr/bin", "/usr/include", "/usr/src", "/usr/local", "/opt"];

/// Read and written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedFile {
    /// Path relative to the target.
    pub path: PathBuf,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub hash: Id,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Files with equal length and hash.
    pub equal: u64,
    /// Each file that differs, with how.
    pub different: Vec<String>,
    /// Bytes read.
    pub bytes: u64,
}

/// Copies regular files from `sources` into `target` until `limit_bytes` are reached or nothing is left. Symbolic links,
/// other file systems and what cannot be read are left out. `show` is told the bytes so far.
///
/// # Errors
/// When `target` cannot be written; [`Exit::Interrupted`].
pub fn copy(
    sources: &[PathBuf],
    target: &Path,
    limit_bytes: u64,
    interrupt: &CancellationToken,
    show: &mut dyn FnMut(u64),
) -> Result<Vec<CopiedFile>, CliError> {
    let mut copied = Vec::new();
    let mut bytes = 0;
    let mut buffer = vec![0; BUFFER_BYTES];
    for source in sources {
        let Ok(device) = fs::metadata(source).map(|metadata| metadata.dev()) else { continue };
        let mut folders = vec![source.clone()];
        while let Some(folder) = folders.pop() {
            for (path, metadata) in entries(&folder) {
                if bytes >= limit_bytes {
                    return Ok(copied);
                }
                if interrupt.is_cancelled() {
                    return Err(CliError::interrupted("the copy was interrupted"));
                }
                if metadata.is_dir() && metadata.dev() == device {
                    folders.push(path);
                } else if metadata.is_file() {
                    let Ok(input) = File::open(&path) else { continue };
                    let relative = path.strip_prefix("/").unwrap_or(&path).to_owned();
                    let file = copy_file(input, target, relative, &mut buffer)?;
                    bytes += file.bytes;
                    copied.push(file);
                    show(bytes);
                }
            }
        }
    }
    Ok(copied)
}

/// Entries of a folder by name, without following links. What vanishes or cannot be read is left out.
fn entries(folder: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .collect();
    entries.sort_by(|(left, _), (right, _)| left.cmp(right));
    entries
}

fn copy_file(mut input: File, target: &Path, relative: PathBuf, buffer: &mut [u8]) -> Result<CopiedFile, CliError> {
    let path = target.join(&relative);
    let failed = |error: io::Error| CliError::because(Exit::Failed, format!("cannot copy to {}", path.display()), error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut output = File::create(&path).map_err(failed)?;
    let mut hasher = IdHasher::new();
    let mut bytes = 0;
    loop {
        match input.read(buffer) {
            Ok(0) => break,
            Ok(length) => {
                output.write_all(&buffer[..length]).map_err(failed)?;
                hasher.update(&buffer[..length]);
                bytes += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // An unreadable rest: what was copied is a file too.
            Err(_) => break,
        }
    }
    Ok(CopiedFile { path: relative, bytes, hash: hasher.finish() })
}

/// Reads every file beneath `folder` again and compares length and hash. `show` is told the bytes so far.
///
/// # Errors
/// [`Exit::Interrupted`] only: a file that cannot be read differs.
pub fn compare(
    files: &[CopiedFile],
    folder: &Path,
    interrupt: &CancellationToken,
    show: &mut dyn FnMut(u64),
) -> Result<Comparison, CliError> {
    let mut comparison = Comparison::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    for file in files {
        if interrupt.is_cancelled() {
            return Err(CliError::interrupted("the comparison was interrupted"));
        }
        match hash_of(&folder.join(&file.path), &mut buffer) {
            Ok((bytes, hash)) if (bytes, hash) == (file.bytes, file.hash) => {
                comparison.equal += 1;
                comparison.bytes += bytes;
            }
            Ok((bytes, _)) if bytes != file.bytes => {
                comparison.different.push(format!("{}: {bytes} bytes instead of {}", file.path.display(), file.bytes));
            }
            Ok(_) => comparison.different.push(format!("{}: another content", file.path.display())),
            Err(error) => comparison.different.push(format!("{}: {error}", file.path.display())),
        }
        show(comparison.bytes);
    }
    Ok(comparison)
}

fn hash_of(path: &Path, buffer: &mut [u8]) -> io::Result<(u64, Id)> {
    let mut input = File::open(path)?;
    let mut hasher = IdHasher::new();
    let mut bytes = 0;
    loop {
        match input.read(buffer) {
            Ok(0) => return Ok((bytes, hasher.finish())),
            Ok(length) => {
                hasher.update(&buffer[..length]);
                bytes += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(target: &Path, source: &Path, limit: u64) -> Vec<CopiedFile> {
        copy(&[source.to_owned()], target, limit, &CancellationToken::new(), &mut |_| {}).unwrap()
    }

    fn compared(files: &[CopiedFile], target: &Path) -> Comparison {
        compare(files, target, &CancellationToken::new(), &mut |_| {}).unwrap()
    }

    fn tree() -> tempfile::TempDir {
        let source = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("sub")).unwrap();
        fs::write(source.path().join("a"), "first").unwrap();
        fs::write(source.path().join("sub/b"), "second").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", source.path().join("link")).unwrap();
        source
    }

    #[test]
    fn a_copied_tree_compares_equal_and_links_are_left_out() {
        let (source, target) = (tree(), tempfile::tempdir().unwrap());
        let files = copied(target.path(), source.path(), u64::MAX);
        assert_eq!(files.len(), 2);
        assert_eq!(compared(&files, target.path()), Comparison { equal: 2, different: vec![], bytes: 11 });
    }

    #[test]
    fn a_changed_a_cut_and_a_missing_file_differ() {
        let (source, target) = (tree(), tempfile::tempdir().unwrap());
        fs::write(source.path().join("c"), "third").unwrap();
        let files = copied(target.path(), source.path(), u64::MAX);
        fs::write(target.path().join(&files[0].path), "FIRST").unwrap();
        fs::write(target.path().join(&files[1].path), "thi").unwrap();
        fs::remove_file(target.path().join(&files[2].path)).unwrap();
        let comparison = compared(&files, target.path());
        assert_eq!((comparison.equal, comparison.different.len()), (0, 3));
        assert!(comparison.different[0].ends_with("another content"), "{comparison:?}");
        assert!(comparison.different[1].ends_with("3 bytes instead of 5"), "{comparison:?}");
    }

    #[test]
    fn a_copy_ends_when_it_has_enough_or_is_interrupted() {
        let (source, target) = (tree(), tempfile::tempdir().unwrap());
        assert_eq!(copied(target.path(), source.path(), 1).len(), 1);
        let interrupt = CancellationToken::new();
        interrupt.cancel();
        let result = copy(&[source.path().to_owned()], target.path(), 9, &interrupt, &mut |_| {});
        assert_eq!(result.unwrap_err().exit(), Exit::Interrupted);
    }
}
