//! Two files, byte for byte. What is a hole in both is passed over.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::unistd::{Whence, lseek};

use crate::error::{BenchError, While};

const BLOCK: usize = 1 << 20;

/// Compares `one` with `other`.
///
/// # Errors
/// When they differ, which says where, or cannot be read.
pub fn same(one: &Path, other: &Path) -> Result<(), BenchError> {
    let what = || format!("comparing {} with {}", one.display(), other.display());
    let (first, second) = (File::open(one).while_doing(what)?, File::open(other).while_doing(what)?);
    let size = first.metadata().while_doing(what)?.len();
    let other_size = second.metadata().while_doing(what)?.len();
    if size != other_size {
        return Err(BenchError::new(format!("{}: they have {size} and {other_size} bytes", what())));
    }
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut position = 0;
    while let Some(data) = next_data(&first, &second, position).while_doing(what)? {
        let length = (size - data).min(BLOCK as u64) as usize;
        first.read_exact_at(&mut left[..length], data).while_doing(what)?;
        second.read_exact_at(&mut right[..length], data).while_doing(what)?;
        if left[..length] != right[..length] {
            return Err(BenchError::new(format!("{}: they differ within {length} bytes at {data}", what())));
        }
        position = data + length as u64;
    }
    Ok(())
}

/// Where the next data of either file begin.
fn next_data(one: &File, other: &File, position: u64) -> io::Result<Option<u64>> {
    let next = [seek_data(one, position)?, seek_data(other, position)?];
    Ok(next.into_iter().flatten().min())
}

fn seek_data(file: &File, position: u64) -> io::Result<Option<u64>> {
    match lseek(file, position.cast_signed(), Whence::SeekData) {
        Ok(offset) => Ok(Some(offset.cast_unsigned())),
        Err(nix::Error::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_same_when_every_byte_is_whether_hole_or_zero() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| (folder.path().join(name), File::create_new(folder.path().join(name)).unwrap());
        let ((a, holes), (b, zeros)) = (file("a"), file("b"));
        holes.set_len(5 << 20).unwrap();
        zeros.write_all_at(&vec![0; 5 << 20], 0).unwrap();
        same(&a, &b).unwrap();
        zeros.write_all_at(&[1], (5 << 20) - 1).unwrap();
        assert!(same(&a, &b).unwrap_err().chain().contains("differ"));
        assert!(same(&b, &a).is_err());
        holes.write_all_at(&[1], (5 << 20) - 1).unwrap();
        same(&a, &b).unwrap();
        holes.set_len(6 << 20).unwrap();
        assert!(same(&a, &b).unwrap_err().chain().contains("bytes"));
    }
}
