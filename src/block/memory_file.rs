//! Files in memory (memfds), and what differs between two: what pools and nodes in memory keep their objects in.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};

use crate::types::{Access, ByteRange};

/// Unit in which content is compared and copied, in bytes: a page, the smallest hole of a memfd.
pub const BLOCK: u64 = 4096;

/// A file in memory.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
}

impl MemoryFile {
    /// A file of `bytes` zeros. Its `name` is shown by the links to its descriptors.
    pub fn new(name: &str, bytes: u64) -> io::Result<Self> {
        let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
        file.set_len(bytes)?;
        Ok(Self { file })
    }

    /// A file with the content of `source`, and of its size unless `bytes` are asked for.
    pub fn copy_of(source: &File, name: &str, bytes: Option<u64>) -> io::Result<Self> {
        let copy = Self::new(name, bytes.unwrap_or(source.metadata()?.len()))?;
        for range in data_ranges(source)? {
            copy_range(source, &copy.file, range)?;
        }
        Ok(copy)
    }

    /// A path by which this process, and no other, can open it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// A new descriptor of it.
    pub fn open(&self, access: Access) -> io::Result<File> {
        OpenOptions::new().read(true).write(access == Access::ReadWrite).open(self.path())
    }

    /// Its size in bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Makes it at least so long.
    pub fn grow(&self, bytes: u64) -> io::Result<()> {
        if self.size()? < bytes { self.file.set_len(bytes) } else { Ok(()) }
    }

    /// The memory that it takes, in bytes.
    pub fn allocated(&self) -> io::Result<u64> {
        /// Unit of `st_blocks`, in bytes.
        const UNIT: u64 = 512;
        Ok(self.file.metadata()?.blocks() * UNIT)
    }
}

/// The parts of a file that are no holes. Moves the position of the descriptor.
pub fn data_ranges(file: &File) -> io::Result<Vec<ByteRange>> {
    let mut ranges = Vec::new();
    let mut position = 0;
    loop {
        let start = match lseek(file, position, Whence::SeekData) {
            Ok(start) => start,
            // Nothing but a hole until the end.
            Err(nix::Error::ENXIO) => return Ok(ranges),
            Err(error) => return Err(error.into()),
        };
        position = lseek(file, start, Whence::SeekHole)?;
        ranges.extend(ByteRange::between(start.unsigned_abs(), position.unsigned_abs()));
    }
}

/// The blocks in which two files differ, up to the end of `target`. What one has beyond the end of the other counts as a difference
/// unless it is zero. Moves the positions of the descriptors.
pub fn differing(base: &File, target: &File) -> io::Result<Vec<ByteRange>> {
    let mut blocks: Vec<u64> = Vec::new();
    for file in [base, target] {
        for range in data_ranges(file)? {
            blocks.extend(range.offset() / BLOCK..range.end().div_ceil(BLOCK));
        }
    }
    blocks.sort_unstable();
    blocks.dedup();
    let size = target.metadata()?.len();
    let mut changed = Vec::new();
    for block in blocks {
        if read_block(base, block)? != read_block(target, block)? {
            changed.extend(ByteRange::between(block * BLOCK, ((block + 1) * BLOCK).min(size)));
        }
    }
    Ok(changed)
}

fn copy_range(source: &File, copy: &File, range: ByteRange) -> io::Result<()> {
    let mut buffer = vec![0; 256 * BLOCK as usize];
    let mut position = range.offset();
    while position < range.end() {
        let length = (range.end() - position).min(buffer.len() as u64);
        let part = &mut buffer[..length as usize];
        source.read_exact_at(part, position)?;
        copy.write_all_at(part, position)?;
        position += length;
    }
    Ok(())
}

/// One block; zeros beyond the end.
fn read_block(file: &File, block: u64) -> io::Result<[u8; BLOCK as usize]> {
    let mut buffer = [0; BLOCK as usize];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], block * BLOCK + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(buffer)
}
