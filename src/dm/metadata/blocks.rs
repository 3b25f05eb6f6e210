//! The blocks that metadata consists of, and where they are read from.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Bytes of a block of metadata.
pub const BLOCK_BYTES: usize = 4096;

/// Number of a block of metadata: below 255 * 2^14, what the kernel uses of a device however large it is (15.9 GiB).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetadataBlock(u32);

impl MetadataBlock {
    /// How many there may be.
    pub const LIMIT: u64 = 255 << 14;
    /// The superblock's.
    pub const SUPERBLOCK: Self = Self(0);

    /// The block of this number; `None` when there can be none.
    pub const fn new(number: u64) -> Option<Self> {
        #[allow(clippy::cast_possible_truncation, reason = "below 2^22")]
        if number < Self::LIMIT { Some(Self(number as u32)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0 as u64
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for MetadataBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where blocks of metadata are read from. May be used by several threads at once.
pub trait MetadataSource: Send + Sync {
    /// How many blocks there are.
    fn count(&self) -> u64;

    /// Fills `buffer`, whose length is a multiple of [`BLOCK_BYTES`] and whose address is aligned to it, from the block
    /// `first` on.
    ///
    /// # Errors
    /// Whatever the device reports; `UnexpectedEof` when it ends before.
    fn read(&self, first: MetadataBlock, buffer: &mut [u8]) -> io::Result<()>;
}

/// A device or file of metadata, read past the page cache: what the kernel writes to a pool's metadata does not pass through
/// the cache of the device, so that what is there may be long out of date.
#[derive(Debug)]
pub struct MetadataFile {
    file: File,
    /// Blocks when it was opened.
    at_first: u64,
}

impl MetadataFile {
    /// A file that is open for reading. Its open file description is set to direct I/O; a regular file on a file system that has
    /// none is read through the cache, which for files is never out of date.
    pub fn new(file: File) -> io::Result<Self> {
        let at_first = count_of(&file)?;
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        let direct = fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT));
        if let Err(error) = direct
            && file.metadata()?.file_type().is_block_device()
        {
            return Err(error.into());
        }
        Ok(Self { file, at_first })
    }
}

impl MetadataSource for MetadataFile {
    /// Asked anew each time: metadata grow while their pool is live. They never shrink, so what there was is there whatever
    /// becomes of the question.
    fn count(&self) -> u64 {
        count_of(&self.file).unwrap_or(self.at_first)
    }

    fn read(&self, first: MetadataBlock, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, first.number() * BLOCK_BYTES as u64)
    }
}

/// Whole blocks of a file or device.
fn count_of(mut file: &File) -> io::Result<u64> {
    Ok(file.seek(SeekFrom::End(0))? / BLOCK_BYTES as u64)
}

/// Metadata in memory, for tests.
#[cfg(any(test, feature = "doubles"))]
#[derive(Debug, Clone, Default)]
pub struct MemoryBlocks(Vec<u8>);

#[cfg(any(test, feature = "doubles"))]
impl MemoryBlocks {
    /// What these bytes hold; what follows the last whole block is left out.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

#[cfg(any(test, feature = "doubles"))]
impl MetadataSource for MemoryBlocks {
    fn count(&self) -> u64 {
        (self.0.len() / BLOCK_BYTES) as u64
    }

    fn read(&self, first: MetadataBlock, buffer: &mut [u8]) -> io::Result<()> {
        let start = first.index() * BLOCK_BYTES;
        let bytes = self.0.get(start..).and_then(|rest| rest.get(..buffer.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::block::AlignedBuffer;

    #[test]
    fn a_file_that_grows_has_its_new_blocks() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 2 * BLOCK_BYTES + 5]).unwrap();
        let blocks = MetadataFile::new(file.try_clone().unwrap()).unwrap();
        assert_eq!(blocks.count(), 2);
        file.set_len(4 * BLOCK_BYTES as u64).unwrap();
        assert_eq!(blocks.count(), 4);
        let mut buffer = AlignedBuffer::zeroed(2 * BLOCK_BYTES);
        blocks.read(MetadataBlock::new(1).unwrap(), &mut buffer).unwrap();
        assert_eq!((buffer[0], buffer[BLOCK_BYTES + 5]), (1, 0));
        assert!(blocks.read(MetadataBlock::new(3).unwrap(), &mut buffer).is_err());
    }

    #[test]
    fn there_are_as_many_numbers_as_the_kernel_uses_blocks() {
        assert_eq!(MetadataBlock::new(MetadataBlock::LIMIT), None);
        assert_eq!(MetadataBlock::new(MetadataBlock::LIMIT - 1).map(MetadataBlock::number), Some(MetadataBlock::LIMIT - 1));
    }
}
