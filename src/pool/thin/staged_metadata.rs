//! Metadata in a file, written over those of a pool, such that an interruption anywhere can be gone on from.
//!
//! The file lies in scratch space under a name of the pool's. In order, each step durable before the next:
//!
//! 1. whole metadata is made in it, and checked, by whoever makes it. Then a last block is added to it: the pool's first block as
//!    step 2 makes it. So it says which metadata it was made from, and that it is complete;
//! 2. the pool is *closed*: the checksum of its first block is inverted, which neither the kernel nor a tool nor [`open_pool`] takes for a
//!    superblock. From here on nobody reads or changes metadata that are half of one and half of the other. (A first block that is
//!    damaged needs nothing for that);
//! 3. everything but the first block;
//! 4. the first block, which opens the pool again;
//! 5. the file is removed.
//!
//! Whether an earlier repair was interrupted is told by the pool, and never by a file that is there: that may be left of a repair long
//! ago, of metadata that have changed since, and to write it would lose what was done since. A pool that is not closed either was not
//! touched or was written completely; a file is of no use then, and removed ([`finish`]). A pool that is closed is gone on with if the
//! file was made for exactly it. If that is lost (scratch space need not outlive a reboot), the old first block is put back, and what
//! comes of it is for the check to say.
//!
//! Only a block whose content differs is written: giving back a few blocks of data changes a few of metadata.
//!
//! [`open_pool`]: super::open_pool

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::block::AlignedBuffer;
use crate::dm::DataBlocks;
use crate::dm::metadata::{
    BLOCK_BYTES, ChangedBlock, MetadataBlock, MetadataFile, MetadataSource, Reclaim, SUPERBLOCK_SEED, checksum,
};
use crate::failpoint;
use crate::pool::PoolError;
use crate::scratch::Scratch;
use crate::types::PoolId;

/// Bytes that are copied at once.
const STEP: usize = 1 << 20;

/// A first block of metadata.
type First = [u8; BLOCK_BYTES];

/// What an earlier repair had begun to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EarlierRepair {
    Nothing,
    /// Something that cannot be gone on with, since its file is not there. The old first block is put back.
    Lost,
    /// Metadata in which so many data blocks were given back. They are written now.
    Reclaimed(DataBlocks),
    /// Metadata that were rebuilt. They are written now.
    Rebuilt,
}

/// Metadata in the making.
pub(super) struct StagedMetadata {
    path: PathBuf,
    file: File,
    bytes: u64,
}

/// Where the file of a pool is.
pub(super) fn path_of(pool: PoolId) -> PathBuf {
    Scratch::directory_of_process().join(format!("windlass-repair-{pool}.metadata"))
}

/// Finishes what an earlier repair had begun to write over the metadata on `node`, and removes the file at `path`.
pub(super) fn finish(path: &Path, node: &Path) -> Result<EarlierRepair, PoolError> {
    let reading = |error| PoolError::io(format!("read {}", node.display()), error);
    let first = first_of(node).map_err(reading)?;
    let found = StagedMetadata::find(path).map_err(|error| PoolError::io(format!("read {}", path.display()), error))?;
    let made_for = found.as_ref().map(|(_, made_for)| made_for);
    let finished = match (Standing::of(&first, made_for), found) {
        (Standing::Half { old }, Some((staged, _))) => {
            let mut new = [0; BLOCK_BYTES];
            staged.file.read_exact_at(&mut new, 0).map_err(|error| PoolError::io(format!("read {}", path.display()), error))?;
            tracing::warn!(node = %node.display(), "going on with a repair that was interrupted");
            staged.write_rest(node).map_err(|error| PoolError::io(format!("write {}", node.display()), error))?;
            Reclaim::between(&old, &new).map_or(EarlierRepair::Rebuilt, EarlierRepair::Reclaimed)
        }
        (Standing::Half { old } | Standing::Abandoned { old }, _) => {
            tracing::warn!(node = %node.display(), "what an interrupted repair was writing is lost");
            write_first(node, &old).map_err(|error| PoolError::io(format!("write {}", node.display()), error))?;
            EarlierRepair::Lost
        }
        (Standing::Whole, _) => EarlierRepair::Nothing,
    };
    remove(path)?;
    Ok(finished)
}

/// How the metadata of a pool stand.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// Nobody is writing over them.
    Whole,
    /// They are half written, of the file that is there.
    Half { old: Box<First> },
    /// They are half written, of a file that is not there.
    Abandoned { old: Box<First> },
}

impl Standing {
    /// Of metadata with this first block; the file, if it is there and complete, was made for that one.
    fn of(first: &First, made_for: Option<&First>) -> Self {
        match opened(first) {
            _ if is_superblock(first) => Self::Whole,
            old if made_for == Some(first) => Self::Half { old: Box::new(old.unwrap_or(*first)) },
            Some(old) => Self::Abandoned { old: Box::new(old) },
            None => Self::Whole,
        }
    }
}

/// Whether anybody takes a first block for a superblock.
fn is_superblock(first: &First) -> bool {
    with_checksum(first, checksum(first, SUPERBLOCK_SEED)) == *first
}

/// The first block as it is while the metadata is written over. One that is no superblock, being damaged, is closed as it is: to open
/// one that was closed otherwise would give it the checksum that it must not have.
fn closed(first: &First) -> First {
    if is_superblock(first) { with_checksum(first, !checksum(first, SUPERBLOCK_SEED)) } else { *first }
}

/// The superblock that was closed; `None` for a block that is not.
fn opened(first: &First) -> Option<First> {
    let opened = with_checksum(first, checksum(first, SUPERBLOCK_SEED));
    (opened != *first && closed(&opened) == *first).then_some(opened)
}

fn with_checksum(first: &First, sum: u32) -> First {
    let mut bytes = *first;
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

impl StagedMetadata {
    /// A file for this many bytes of metadata, in place of any that is there.
    pub(super) fn make(path: PathBuf, bytes: u64) -> Result<Self, PoolError> {
        remove(&path)?;
        // Beyond is what the kernel does not use.
        let bytes = bytes.min(MetadataBlock::LIMIT * BLOCK_BYTES as u64);
        let io = |error| PoolError::io(format!("make {}", path.display()), error);
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = file.map_err(io)?;
        file.set_len(bytes).map_err(io)?;
        Ok(Self { path, file, bytes })
    }

    /// The one that an earlier repair completed, and the first block that it was made for.
    fn find(path: &Path) -> io::Result<Option<(Self, First)>> {
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            outcome => outcome?,
        };
        let length = file.metadata()?.len();
        let Some(bytes) = length.checked_sub(BLOCK_BYTES as u64).filter(|bytes| *bytes > 0) else { return Ok(None) };
        let mut made_for = [0; BLOCK_BYTES];
        file.read_exact_at(&mut made_for, bytes)?;
        Ok(Some((Self { path: path.to_owned(), file, bytes }, made_for)))
    }

    /// The file itself, for whoever makes metadata in it.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Makes it what the metadata on `node` are, but for some blocks.
    pub(super) fn copy(&self, node: &Path, changes: &[ChangedBlock]) -> Result<(), PoolError> {
        self.try_copy(node, changes)
            .map_err(|error| PoolError::io(format!("copy {} to {}", node.display(), self.path.display()), error))
    }

    fn try_copy(&self, node: &Path, changes: &[ChangedBlock]) -> io::Result<()> {
        let source = MetadataFile::new(File::open(node)?)?;
        let mut buffer = AlignedBuffer::zeroed(STEP);
        for (position, length) in pieces(0, self.bytes) {
            read(&source, position, &mut buffer[..length])?;
            // The file is zeros as it is made. Most metadata is never used.
            if buffer[..length].iter().any(|byte| *byte != 0) {
                self.file.write_all_at(&buffer[..length], position)?;
            }
        }
        for change in changes {
            self.file.write_all_at(&change.bytes[..], change.place.number() * BLOCK_BYTES as u64)?;
        }
        Ok(())
    }

    /// Writes it over the metadata on `node`, from which it was made, and removes it.
    ///
    /// # Errors
    /// [`PoolError::Io`]; another repair goes on then.
    pub(super) fn replace(self, node: &Path) -> Result<(), PoolError> {
        let closed = self.complete(node).map_err(|error| PoolError::io(format!("complete {}", self.path.display()), error))?;
        failpoint::hit("thin.repair.before_write");
        write_first(node, &closed)
            .and_then(|()| {
                failpoint::hit("thin.repair.closed");
                self.write_rest(node)
            })
            .map_err(|error| PoolError::io(format!("write {}", node.display()), error))?;
        remove(&self.path)
    }

    /// Adds the last block, which it returns.
    fn complete(&self, node: &Path) -> io::Result<First> {
        let closed = closed(&first_of(node)?);
        // What is in it is durable before it says so.
        self.file.sync_all()?;
        self.file.write_all_at(&closed, self.bytes)?;
        self.file.sync_all()?;
        // As is its name.
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())?;
        Ok(closed)
    }

    /// Writes everything to a closed pool, the first block last.
    fn write_rest(&self, node: &Path) -> io::Result<()> {
        let present = MetadataFile::new(File::open(node)?)?;
        let target = OpenOptions::new().write(true).open(node)?;
        let (mut wanted, mut there) = (vec![0; STEP], AlignedBuffer::zeroed(STEP));
        for (position, length) in pieces(BLOCK_BYTES as u64, self.bytes) {
            self.file.read_exact_at(&mut wanted[..length], position)?;
            // What cannot be read is written: that may be what is wrong with it.
            if read(&present, position, &mut there[..length]).is_err() || wanted[..length] != there[..length] {
                target.write_all_at(&wanted[..length], position)?;
            }
        }
        target.sync_all()?;
        failpoint::hit("thin.repair.before_superblock");
        let mut first = [0; BLOCK_BYTES];
        self.file.read_exact_at(&mut first, 0)?;
        write_first(node, &first)?;
        failpoint::hit("thin.repair.after_superblock");
        Ok(())
    }
}

/// Offsets and lengths of what is copied at once, between two offsets.
fn pieces(begin: u64, end: u64) -> impl Iterator<Item = (u64, usize)> {
    (begin..end)
        .step_by(STEP)
        .map(move |position| (position, usize::try_from(end - position).map_or(STEP, |left| left.min(STEP))))
}

fn read(blocks: &MetadataFile, position: u64, buffer: &mut [u8]) -> io::Result<()> {
    let first = MetadataBlock::new(position / BLOCK_BYTES as u64).ok_or(io::ErrorKind::InvalidInput)?;
    blocks.read(first, buffer)
}

/// Reads the first block, past the page cache.
fn first_of(node: &Path) -> io::Result<First> {
    let mut buffer = AlignedBuffer::zeroed(BLOCK_BYTES);
    read(&MetadataFile::new(File::open(node)?)?, 0, &mut buffer)?;
    let mut first = [0; BLOCK_BYTES];
    first.copy_from_slice(&buffer);
    Ok(first)
}

fn write_first(node: &Path, first: &First) -> io::Result<()> {
    let target = OpenOptions::new().write(true).open(node)?;
    target.write_all_at(first, 0)?;
    target.sync_all()
}

/// Removes what was made and is not to be written.
pub(super) fn discard(path: &Path) -> Result<(), PoolError> {
    remove(path)
}

fn remove(path: &Path) -> Result<(), PoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PoolError::io(format!("remove {}", path.display()), error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: usize = 600;

    /// Metadata whose blocks hold their numbers and `content`, and a first block that is a superblock as far as its checksum goes.
    fn image(content: u8) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..BLOCKS).flat_map(|number| [number as u8, content].repeat(BLOCK_BYTES / 2)).collect();
        let first: First = bytes[..BLOCK_BYTES].try_into().unwrap();
        bytes[..BLOCK_BYTES].copy_from_slice(&with_checksum(&first, checksum(&first, SUPERBLOCK_SEED)));
        bytes
    }

    fn first(image: &[u8]) -> First {
        image[..BLOCK_BYTES].try_into().unwrap()
    }

    struct Ground {
        directory: tempfile::TempDir,
        old: Vec<u8>,
        new: Vec<u8>,
    }

    impl Ground {
        /// A pool with the old metadata, and a complete staged with the new.
        fn new() -> (Self, StagedMetadata) {
            let ground = Self { directory: tempfile::tempdir().unwrap(), old: image(1), new: image(2) };
            fs::write(ground.node(), &ground.old).unwrap();
            let staged = StagedMetadata::make(ground.path(), ground.old.len() as u64).unwrap();
            staged.file().write_all_at(&ground.new, 0).unwrap();
            (ground, staged)
        }

        fn node(&self) -> PathBuf {
            self.directory.path().join("node")
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("staged")
        }

        fn finish(&self) -> EarlierRepair {
            let finished = finish(&self.path(), &self.node()).unwrap();
            assert!(!self.path().exists(), "it is of no more use");
            finished
        }

        /// As a write that was interrupted after some of the blocks.
        fn half_write(&self) {
            let file = OpenOptions::new().write(true).open(self.node()).unwrap();
            file.write_all_at(&closed(&first(&self.old)), 0).unwrap();
            file.write_all_at(&self.new[BLOCK_BYTES..5 * BLOCK_BYTES], BLOCK_BYTES as u64).unwrap();
        }
    }

    #[test]
    fn a_closed_block_is_no_superblock_and_can_be_opened_again() {
        let superblock = first(&image(1));
        let closed = closed(&superblock);
        assert_ne!(checksum(&closed, SUPERBLOCK_SEED).to_le_bytes(), closed[..4]);
        assert_eq!(opened(&closed), Some(superblock));
        assert_eq!(opened(&superblock), None);
        assert_eq!(opened(&[0; BLOCK_BYTES]), None);
    }

    #[test]
    fn a_damaged_first_block_never_gets_a_checksum_that_fits() {
        let (ground, staged) = Ground::new();
        let mut damaged = ground.old.clone();
        damaged[100] ^= 1;
        fs::write(ground.node(), &damaged).unwrap();
        assert_eq!(staged.complete(&ground.node()).unwrap(), first(&damaged));
        let half = |ground: &Ground| {
            let file = OpenOptions::new().write(true).open(ground.node()).unwrap();
            file.write_all_at(&ground.new[BLOCK_BYTES..5 * BLOCK_BYTES], BLOCK_BYTES as u64).unwrap();
        };
        half(&ground);
        assert_eq!(ground.finish(), EarlierRepair::Rebuilt);
        assert_eq!(fs::read(ground.node()).unwrap(), ground.new);
        // The same, with the file lost.
        fs::write(ground.node(), &damaged).unwrap();
        half(&ground);
        assert_eq!(ground.finish(), EarlierRepair::Nothing);
        assert_eq!(first(&fs::read(ground.node()).unwrap()), first(&damaged));
    }

    #[test]
    fn metadata_are_replaced_whole() {
        let (ground, staged) = Ground::new();
        staged.replace(&ground.node()).unwrap();
        assert_eq!(fs::read(ground.node()).unwrap(), ground.new);
        assert!(!ground.path().exists());
    }

    #[test]
    fn what_was_interrupted_is_finished() {
        let (ground, staged) = Ground::new();
        staged.complete(&ground.node()).unwrap();
        ground.half_write();
        assert_eq!(ground.finish(), EarlierRepair::Rebuilt);
        assert_eq!(fs::read(ground.node()).unwrap(), ground.new);
        assert_eq!(ground.finish(), EarlierRepair::Nothing);
    }

    #[test]
    fn a_file_that_was_left_is_never_written_over_metadata_that_nobody_was_writing() {
        let (ground, staged) = Ground::new();
        staged.complete(&ground.node()).unwrap();
        let complete = fs::read(ground.path()).unwrap();
        // What was not touched; what was, and has changed since; what was written to its end.
        for metadata in [&ground.old, &image(3), &ground.new] {
            for length in [0, BLOCK_BYTES, complete.len() - BLOCK_BYTES, complete.len()] {
                fs::write(ground.path(), &complete[..length]).unwrap();
                fs::write(ground.node(), metadata).unwrap();
                assert_eq!(ground.finish(), EarlierRepair::Nothing);
                assert_eq!(fs::read(ground.node()).unwrap(), *metadata);
            }
        }
    }

    #[test]
    fn half_written_metadata_without_their_file_are_opened_for_the_check() {
        let (ground, staged) = Ground::new();
        staged.complete(&ground.node()).unwrap();
        ground.half_write();
        // One of other metadata is as good as none.
        let mut other = image(3);
        other.extend(closed(&first(&other)));
        fs::write(ground.path(), other).unwrap();
        assert_eq!(ground.finish(), EarlierRepair::Lost);
        let found = fs::read(ground.node()).unwrap();
        assert_eq!(first(&found), first(&ground.old));
        assert_eq!(found[BLOCK_BYTES..5 * BLOCK_BYTES], ground.new[BLOCK_BYTES..5 * BLOCK_BYTES]);
    }

    #[test]
    fn a_copy_is_the_metadata_but_for_what_was_changed() {
        let (ground, staged) = Ground::new();
        drop(staged);
        let staged = StagedMetadata::make(ground.path(), ground.old.len() as u64).unwrap();
        let place = MetadataBlock::new(77).unwrap();
        staged.copy(&ground.node(), &[ChangedBlock { place, bytes: Box::new([9; BLOCK_BYTES]) }]).unwrap();
        let mut expected = ground.old.clone();
        expected[77 * BLOCK_BYTES..78 * BLOCK_BYTES].fill(9);
        assert_eq!(fs::read(ground.path()).unwrap(), expected);
    }
}
