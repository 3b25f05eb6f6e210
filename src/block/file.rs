//! Regular files and block devices as sources and sinks.
//!
//! Both read and write past the page cache (O_DIRECT) where the file system has that: a volume's bytes are needed once, and
//! caching them would push out what pods use. The flag belongs to the open file description, so every duplicate of the
//! descriptor gets it; open the file anew for other uses. Requests that are not aligned go through an aligned buffer; for
//! writes that is read, modify, write of the blocks at both ends, one such write at a time, so that neighbours in one
//! block do not undo each other. Where O_DIRECT is refused, or the size is not a multiple of 4096, I/O goes through the cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};

use super::buffer::{ALIGNMENT, AlignedBuffer, is_aligned};
use super::{BlockSink, BlockSource, device, file_ops};
use crate::types::{ByteRange, LogicalBlockSize};

/// Largest piece that goes through an aligned buffer at once, in bytes. Bounds the memory of an unaligned request.
const BOUNCE: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Io {
    Direct,
    Buffered,
}

/// A file or device that is read.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    size: u64,
    block: LogicalBlockSize,
    io: Io,
}

impl FileSource {
    /// The first `size` bytes of a file or block device that is open for reading.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file is shorter than `size`.
    pub fn new(file: File, size: u64, block: LogicalBlockSize) -> io::Result<Self> {
        check_size(&file, size)?;
        let io = choose_io(&file, size)?;
        Ok(Self { file, size, block, io })
    }
}

impl BlockSource for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn logical_block_size(&self) -> LogicalBlockSize {
        self.block
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if !lies_within(self.size, offset, buffer.len() as u64) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read(&self.file, self.io, offset, buffer)
    }
}

/// A file or device that is written.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    size: u64,
    block: LogicalBlockSize,
    io: Io,
    is_device: bool,
    unaligned: Mutex<()>,
}

impl FileSink {
    /// The first `size` bytes of a file or block device that is open for reading and writing.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file is shorter than `size`.
    pub fn new(file: File, size: u64, block: LogicalBlockSize) -> io::Result<Self> {
        check_size(&file, size)?;
        let io = choose_io(&file, size)?;
        let is_device = file.metadata()?.file_type().is_block_device();
        Ok(Self { file, size, block, io, is_device, unaligned: Mutex::new(()) })
    }

    /// The smallest unit the device writes.
    pub fn logical_block_size(&self) -> LogicalBlockSize {
        self.block
    }

    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        if lies_within(self.size, offset, length) { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Has the file system make a hole. It zeroes a part of a block itself, which an unaligned write of the same block would undo.
    fn punch(&self, range: ByteRange) -> io::Result<()> {
        let is_whole = [range.offset(), range.end()].into_iter().all(|at| at.is_multiple_of(ALIGNMENT as u64));
        let _guard = (!is_whole).then(|| self.unaligned.lock().unwrap_or_else(PoisonError::into_inner));
        file_ops::punch_hole(&self.file, range)
    }

    fn zero_by_writing(&self, range: ByteRange) -> io::Result<()> {
        let zeros = AlignedBuffer::zeroed(BOUNCE);
        let mut offset = range.offset();
        while offset < range.end() {
            // The first piece ends on a boundary, so that the following ones are aligned.
            let until = (offset - offset % BOUNCE as u64).saturating_add(BOUNCE as u64).min(range.end());
            self.write_at(offset, &zeros[..(until - offset) as usize])?;
            offset = until;
        }
        Ok(())
    }
}

impl BlockSink for FileSink {
    fn size(&self) -> u64 {
        self.size
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len() as u64)?;
        if self.io == Io::Buffered || is_aligned(offset, data.len(), data.as_ptr()) {
            return self.file.write_all_at(data, offset);
        }
        for piece in pieces(offset, data.len()) {
            let part = &data[piece.at..piece.at + piece.length];
            let mut bounce = AlignedBuffer::zeroed(piece.aligned_length);
            if piece.length == piece.aligned_length {
                bounce.copy_from_slice(part);
                self.file.write_all_at(&bounce, piece.aligned_offset)?;
                continue;
            }
            // An aligned write of the same block at the same time would overlap this one, which no caller may do; two
            // unaligned ones may share a block without overlapping, and exclude each other here.
            let _guard = self.unaligned.lock().unwrap_or_else(PoisonError::into_inner);
            self.file.read_exact_at(&mut bounce, piece.aligned_offset)?;
            bounce[piece.head..piece.head + piece.length].copy_from_slice(part);
            self.file.write_all_at(&bounce, piece.aligned_offset)?;
        }
        Ok(())
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if !lies_within(self.size, offset, buffer.len() as u64) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read(&self.file, self.io, offset, buffer)
    }

    fn write_zeros(&self, range: ByteRange) -> io::Result<()> {
        self.check(range.offset(), range.length())?;
        if !self.is_device {
            return match self.punch(range) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.zero_by_writing(range),
                result => result,
            };
        }
        let unit = ALIGNMENT as u64;
        let start = range.offset().next_multiple_of(unit);
        let end = range.end() - range.end() % unit;
        let Some(whole) = ByteRange::between(start, end) else { return self.zero_by_writing(range) };
        for edge in [ByteRange::between(range.offset(), start), ByteRange::between(end, range.end())].into_iter().flatten() {
            self.zero_by_writing(edge)?;
        }
        device::zero_out(&self.file, whole)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Reads a range of a file, through an aligned buffer where that must be.
fn read(file: &File, io: Io, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    if io == Io::Buffered || is_aligned(offset, buffer.len(), buffer.as_ptr()) {
        return file.read_exact_at(buffer, offset);
    }
    for piece in pieces(offset, buffer.len()) {
        let mut bounce = AlignedBuffer::zeroed(piece.aligned_length);
        file.read_exact_at(&mut bounce, piece.aligned_offset)?;
        buffer[piece.at..piece.at + piece.length].copy_from_slice(&bounce[piece.head..piece.head + piece.length]);
    }
    Ok(())
}

fn check_size(file: &File, size: u64) -> io::Result<()> {
    let stored = device::size(file)?;
    if stored < size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{stored} bytes, {size} expected")));
    }
    Ok(())
}

fn choose_io(file: &File, size: u64) -> io::Result<Io> {
    if !size.is_multiple_of(ALIGNMENT as u64) {
        return Ok(Io::Buffered);
    }
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    match fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)) {
        Ok(_) => {}
        Err(nix::Error::EINVAL) => return Ok(Io::Buffered),
        Err(error) => return Err(error.into()),
    }
    // An overlay takes the flag whatever is beneath, and refuses every later call if that has no direct I/O. This is one that
    // changes nothing.
    match posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_NORMAL) {
        Err(nix::Error::EINVAL) => {
            fcntl(file, FcntlArg::F_SETFL(flags))?;
            Ok(Io::Buffered)
        }
        _ => Ok(Io::Direct),
    }
}

fn lies_within(size: u64, offset: u64, length: u64) -> bool {
    offset.checked_add(length).is_some_and(|end| end <= size)
}

/// One step of an unaligned request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Where it begins in the request's memory.
    at: usize,
    /// Its length there.
    length: usize,
    /// Offset of the aligned run around it.
    aligned_offset: u64,
    /// Length of that run.
    aligned_length: usize,
    /// Bytes of the run before the piece.
    head: usize,
}

/// Cuts an unaligned request into pieces whose aligned surroundings are at most [`BOUNCE`] long.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == length {
            return None;
        }
        let start = offset + at as u64;
        let head = (start % ALIGNMENT as u64) as usize;
        let piece_length = (BOUNCE - head).min(length - at);
        let piece = Piece {
            at,
            length: piece_length,
            aligned_offset: start - head as u64,
            aligned_length: (head + piece_length).next_multiple_of(ALIGNMENT),
            head,
        };
        at += piece_length;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use proptest::prelude::*;

    fn file_with(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    proptest! {
        #[test]
        fn pieces_cover_the_request_in_order(offset in 0_u64..1 << 40, length in 1_usize..3 << 20) {
            let mut at = 0;
            for piece in pieces(offset, length) {
                prop_assert_eq!(piece.at, at);
                prop_assert_eq!(piece.aligned_offset + piece.head as u64, offset + at as u64);
                prop_assert!(piece.aligned_offset.is_multiple_of(ALIGNMENT as u64));
                prop_assert!(piece.aligned_length.is_multiple_of(ALIGNMENT) && piece.aligned_length <= BOUNCE);
                prop_assert!(piece.head + piece.length <= piece.aligned_length);
                at += piece.length;
            }
            prop_assert_eq!(at, length);
        }
    }

    #[test]
    fn reads_are_right_whatever_their_alignment() {
        for size in [3 << 20, (3 << 20) + 100] {
            let bytes = pattern(size);
            let file = file_with(&bytes);
            let sink = FileSink::new(file.try_clone().unwrap(), size as u64, LogicalBlockSize::B4096).unwrap();
            let source = FileSource::new(file, size as u64, LogicalBlockSize::B4096).unwrap();
            for (offset, length) in [(0, size), (1, size - 1), (4096, 8192), (5000, 3), (size - 10, 10), (100, 2 << 20)] {
                let mut plain = vec![0; length];
                source.read_at(offset as u64, &mut plain).unwrap();
                assert!(plain == bytes[offset..offset + length], "{offset} {length}");
                let mut aligned = AlignedBuffer::zeroed(length);
                source.read_at(offset as u64, &mut aligned).unwrap();
                assert!(*aligned == bytes[offset..offset + length], "{offset} {length}");
                for buffer in [&mut plain[..], &mut aligned[..]] {
                    buffer.fill(0xee);
                    sink.read_back(offset as u64, buffer).unwrap();
                    assert!(*buffer == bytes[offset..offset + length], "read back: {offset} {length}");
                }
            }
            let beyond = source.read_at(size as u64 - 1, &mut [0; 2]).unwrap_err();
            assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
            let beyond = sink.read_back(size as u64 - 1, &mut [0; 2]).unwrap_err();
            assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn writes_and_zeros_are_right_whatever_their_alignment() {
        for size in [3 << 20, (3 << 20) + 100] {
            let mut expected = pattern(size);
            let file = file_with(&expected);
            let sink = FileSink::new(file.try_clone().unwrap(), size as u64, LogicalBlockSize::B4096).unwrap();
            for (step, (offset, length)) in
                [(0, 4096), (1, 1), (4095, 2), (8192, 1 << 20), (12_345, (1 << 20) + 7), (size - 5, 5)].into_iter().enumerate()
            {
                let data = vec![0xa0 + step as u8; length];
                sink.write_at(offset as u64, &data).unwrap();
                expected[offset..offset + length].copy_from_slice(&data);
            }
            for (offset, length) in [(100, 50), (4096, 4096), (10_000, 100_000), (size - 3, 3)] {
                sink.write_zeros(ByteRange::new(offset as u64, length as u64).unwrap()).unwrap();
                expected[offset..offset + length].fill(0);
            }
            sink.flush().unwrap();
            let mut content = AlignedBuffer::zeroed(size);
            FileSource::new(file, size as u64, LogicalBlockSize::B4096).unwrap().read_at(0, &mut content).unwrap();
            assert!(*content == *expected);
            assert_eq!(sink.write_at(size as u64, &[1]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn unaligned_writers_of_one_block_keep_each_others_bytes() {
        let file = file_with(&[0; 8192]);
        let sink = Arc::new(FileSink::new(file.try_clone().unwrap(), 8192, LogicalBlockSize::B4096).unwrap());
        std::thread::scope(|scope| {
            for writer in 0..4_u64 {
                let sink = Arc::clone(&sink);
                scope.spawn(move || {
                    for slot in 0..256 {
                        sink.write_at((slot * 4 + writer) * 8, &[writer as u8 + 1; 8]).unwrap();
                    }
                });
            }
        });
        let mut content = AlignedBuffer::zeroed(8192);
        FileSource::new(file, 8192, LogicalBlockSize::B4096).unwrap().read_at(0, &mut content).unwrap();
        for (at, &byte) in content.iter().enumerate() {
            assert_eq!(byte as usize, at / 8 % 4 + 1, "byte {at}");
        }
    }

    #[test]
    fn unaligned_writes_and_zeros_of_one_block_keep_each_others_bytes() {
        let file = file_with(&[9; 8192]);
        let sink = Arc::new(FileSink::new(file.try_clone().unwrap(), 8192, LogicalBlockSize::B4096).unwrap());
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let sink = Arc::clone(&sink);
                scope.spawn(move || {
                    for slot in 0..256 {
                        let offset = (slot * 4 + thread) * 8;
                        match thread % 2 {
                            0 => sink.write_at(offset, &[thread as u8 + 1; 8]).unwrap(),
                            _ => sink.write_zeros(ByteRange::new(offset, 8).unwrap()).unwrap(),
                        }
                    }
                });
            }
        });
        let mut content = AlignedBuffer::zeroed(8192);
        sink.read_back(0, &mut content).unwrap();
        for (at, &byte) in content.iter().enumerate() {
            assert_eq!(byte, [1, 0, 3, 0][at / 8 % 4], "byte {at}");
        }
    }

    #[test]
    fn zeros_free_the_space_of_a_file() {
        use std::os::unix::fs::MetadataExt;
        let file = file_with(&vec![1; 1 << 20]);
        file.sync_all().unwrap();
        let sink = FileSink::new(file.try_clone().unwrap(), 1 << 20, LogicalBlockSize::B4096).unwrap();
        sink.write_zeros(ByteRange::new(0, 1 << 20).unwrap()).unwrap();
        sink.flush().unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 < 64 << 10);
    }

    #[test]
    fn a_file_shorter_than_promised_is_refused() {
        let error = FileSource::new(file_with(&[0; 100]), 4096, LogicalBlockSize::B4096).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
