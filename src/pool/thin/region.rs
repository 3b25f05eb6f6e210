//! The catalogue's region of a device: a file of changing length in a run of bytes of fixed length.
//!
//! ```text
//! [slot 0: 4096][slot 1: 4096][content: what the length in the newer slot covers, then nothing that counts]
//! ```
//!
//! The database expects of its storage what a file offers: a length that it sets, zeros where it grew, and after a power cut
//! everything that was there at the last sync. A slot is 4096 bytes: magic (16), format (4), CRC-32C over all of it with this
//! field as zero (4), generation (8), length (8), zeros. Slots are written in turn, so that a torn write leaves the other.
//!
//! Order of durable steps:
//!
//! * **A new length is durable at once**, before anything can be written that counts on it. Growing makes first the zeros behind the old
//!   length durable (a former life of the bytes must not show), then the slot; shrinking makes the slot durable before anything can be
//!   written or zeroed behind the new length. A power cut between shows the old length, whose content nothing has touched. It must not wait
//!   for the next sync: the database writes its own layout into its header, and one that names more than the slot
//!   would be refused as cut off.
//! * **Writing** reaches the device at once and is durable after the next sync. Bytes within the durable length change by the
//!   database's own writes only.
//!
//! Growing beyond the region is [`io::ErrorKind::StorageFull`], before anything was written, as of a full file system.
//! After an error of a write or sync it is not known what is on the device: the database refuses everything from then on,
//! and opening anew reads what is there.
//!
//! Writes go through the page cache, so that the pages of a commit reach the disk together at the sync and not one after another. That cache
//! is the device's own and lives no longer than it; whoever reads the disk beneath does so when nobody has the region open. Exclusion is
//! the caller's: it holds the device.

mod slot;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;
use zerocopy::{FromZeros, IntoBytes};

use crate::block::{BlockSink, BlockSource, device};
use crate::types::{ByteRange, LogicalBlockSize};

use super::label::BLOCK;
use slot::{Length, Slot, newer};

/// Where the content begins.
const CONTENT_AT: u64 = 2 * BLOCK;
/// Zeros that are written at once.
const ZEROS: usize = 1 << 20;

/// Where the content lies and how much of it there is.
pub struct Region {
    source: Box<dyn BlockSource>,
    sink: Option<Box<dyn BlockSink>>,
    range: ByteRange,
    state: Mutex<Length>,
    gauge: Gauge,
}

/// How full a region is. A clone tells of the same region.
#[derive(Debug, Clone)]
pub struct Gauge {
    capacity: u64,
    length: Arc<AtomicU64>,
}

impl Gauge {
    /// Most bytes that the content may have.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes that the content has now, used by the database or not.
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("range", &self.range).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Region {
    /// Makes an empty region over the whole of a device or file, which is open for reading and writing. Durable when it returns.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for one that is not made of more than two blocks of 4096 bytes.
    pub fn create(file: File) -> io::Result<Self> {
        let (source, sink) = Cached::over_whole(file)?;
        let range = sink.range;
        Self::create_over(Box::new(source), Box::new(sink), range)
    }

    /// Opens the region that takes the whole of a device or file, which is open for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when there is no region, or none that this program reads.
    pub fn open(file: File) -> io::Result<Self> {
        let (source, sink) = Cached::over_whole(file)?;
        let range = sink.range;
        Self::open_over(Box::new(source), Some(Box::new(sink)), range)
    }

    /// Opens the region in this range of a device for reading: writing to it is an error. Of a pool that nobody uses.
    pub fn open_for_reading(source: Box<dyn BlockSource>, range: ByteRange) -> io::Result<Self> {
        Self::open_over(source, None, range)
    }

    fn create_over(source: Box<dyn BlockSource>, sink: Box<dyn BlockSink>, range: ByteRange) -> io::Result<Self> {
        check_range(range)?;
        let first = Length { generation: 1, bytes: 0 };
        // The other slot could be of a former life and of a higher generation.
        sink.write_at(slot_offset(range, 0), &[0; BLOCK as usize])?;
        sink.flush()?;
        let region = Self { source, sink: Some(sink), range, state: Mutex::new(first), gauge: gauge(range, 0) };
        region.write_slot(first)?;
        Ok(region)
    }

    fn open_over(source: Box<dyn BlockSource>, sink: Option<Box<dyn BlockSink>>, range: ByteRange) -> io::Result<Self> {
        check_range(range)?;
        let mut slots = <[Slot; 2]>::new_zeroed();
        source.read_at(range.offset(), slots.as_mut_bytes())?;
        let length = newer(slots.map(|slot| slot.read(capacity(range))))?;
        Ok(Self { source, sink, range, state: Mutex::new(length), gauge: gauge(range, length.bytes) })
    }

    /// Most bytes that the content may have.
    pub fn capacity(&self) -> u64 {
        capacity(self.range)
    }

    /// Makes the content at least twice as long as it is, with zeros behind it, if the region holds that: the whole region, or a
    /// half, a quarter, ... of it. To be called before the database opens it, which counts the new end as free pages.
    ///
    /// A database that is closed gives up whatever is unused at its end, and one that needs more doubles its length. From a length that is no such
    /// part of the region it could not double to the end of it; and once it is longer than half, it could not grow at all.
    pub fn stretch(&self) -> io::Result<()> {
        let length = self.len()?;
        let mut part = self.capacity();
        while part / 2 >= length.saturating_mul(2) && length > 0 {
            part /= 2;
        }
        let whole_pages = part - part % BLOCK;
        if length > 0 && whole_pages > length { self.set_len(whole_pages) } else { Ok(()) }
    }

    /// Tells how full it is, also when the database has it.
    pub fn gauge(&self) -> Gauge {
        self.gauge.clone()
    }

    /// Makes this length durable. What it covers must be durable before.
    fn write_slot(&self, length: Length) -> io::Result<()> {
        let sink = self.sink()?;
        sink.write_at(slot_offset(self.range, length.generation), Slot::new(length).as_bytes())?;
        sink.flush()
    }

    /// The length is changed by one thread at a time, the database's writer.
    fn with_length<T>(&self, change: impl FnOnce(&mut Length) -> io::Result<T>) -> io::Result<T> {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sink(&self) -> io::Result<&dyn BlockSink> {
        self.sink.as_deref().ok_or_else(|| io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the region is open for reading"))
    }

    /// Where these bytes of the content are on the device.
    fn place(&self, offset: u64, bytes: usize) -> io::Result<u64> {
        let length = self.len()?;
        if offset.checked_add(bytes as u64).is_none_or(|end| end > length) {
            let text = format!("{bytes} bytes at {offset} of a catalogue of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        Ok(self.range.offset() + CONTENT_AT + offset)
    }
}

impl StorageBackend for Region {
    fn len(&self) -> io::Result<u64> {
        self.with_length(|length| Ok(length.bytes))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.source.read_at(self.place(offset, out.len())?, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.capacity() {
            let text = format!("the catalogue's region holds {} bytes, and {len} are wanted", self.capacity());
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        self.with_length(|length| {
            if len == length.bytes {
                return Ok(());
            }
            if let Some(grown) = ByteRange::between(length.bytes, len) {
                let start = self.range.offset() + CONTENT_AT + grown.offset();
                // The sum lies within the region, and so does not overflow.
                if let Some(range) = ByteRange::new(start, grown.length()) {
                    let sink = self.sink()?;
                    sink.write_zeros(range)?;
                    sink.flush()?;
                }
            }
            let changed = Length { generation: length.generation + 1, bytes: len };
            self.write_slot(changed)?;
            *length = changed;
            self.gauge.length.store(len, Ordering::Relaxed);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sink()?.flush()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.sink()?.write_at(self.place(offset, data.len())?, data)
    }
}

/// A device or file, through the page cache.
#[derive(Debug)]
struct Cached {
    file: File,
    range: ByteRange,
}

impl Cached {
    /// To read and to write the whole of it.
    fn over_whole(file: File) -> io::Result<(Self, Self)> {
        let bytes = device::size(&file)?;
        let range = ByteRange::new(0, bytes - bytes % BLOCK).ok_or_else(|| too_small(bytes))?;
        Ok((Self { file: file.try_clone()?, range }, Self { file, range }))
    }
}

impl BlockSource for Cached {
    fn size(&self) -> u64 {
        self.range.length()
    }

    fn logical_block_size(&self) -> LogicalBlockSize {
        LogicalBlockSize::B4096
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

impl BlockSink for Cached {
    fn size(&self) -> u64 {
        self.range.length()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > self.range.end()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.write_all_at(data, offset)
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buffer)
    }

    fn write_zeros(&self, range: ByteRange) -> io::Result<()> {
        let zeros = vec![0; ZEROS.min(usize::try_from(range.length()).unwrap_or(ZEROS))];
        let mut offset = range.offset();
        while offset < range.end() {
            let piece = usize::try_from(range.end() - offset).unwrap_or(ZEROS).min(zeros.len());
            self.write_at(offset, &zeros[..piece])?;
            offset += piece as u64;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn check_range(range: ByteRange) -> io::Result<()> {
    if range.length() <= CONTENT_AT { Err(too_small(range.length())) } else { Ok(()) }
}

fn too_small(bytes: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{bytes} bytes are too few for a catalogue"))
}

fn gauge(range: ByteRange, length: u64) -> Gauge {
    Gauge { capacity: capacity(range), length: Arc::new(AtomicU64::new(length)) }
}

fn capacity(range: ByteRange) -> u64 {
    range.length() - CONTENT_AT
}

fn slot_offset(range: ByteRange, generation: u64) -> u64 {
    range.offset() + generation % 2 * BLOCK
}

#[cfg(test)]
mod tests;
