//! Bytes at offsets, in memory while they are few and in a file from then on.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use super::{Scratch, ScratchError};

/// A file of bytes that stays in memory while it is short. Bytes before its end that were never written are zeros, and take no room on
/// the disk.
#[derive(Debug)]
pub struct Spill {
    scratch: Scratch,
    backing: Backing,
    length: u64,
}

#[derive(Debug)]
enum Backing {
    Memory(Vec<u8>),
    File(File),
}

impl Spill {
    /// An empty spill, which uses `scratch` when it becomes long.
    pub fn new(scratch: &Scratch) -> Self {
        Self { scratch: scratch.clone(), backing: Backing::Memory(Vec::new()), length: 0 }
    }

    pub fn len(&self) -> u64 {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All bytes, while they are in memory.
    pub fn in_memory(&self) -> Option<&[u8]> {
        match &self.backing {
            Backing::Memory(bytes) => Some(bytes),
            Backing::File(_) => None,
        }
    }

    /// Writes `bytes` at `offset`, beyond the end too.
    ///
    /// # Errors
    /// The bytes there may then be anything.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ScratchError> {
        let end = offset.checked_add(bytes.len() as u64).ok_or_else(|| self.scratch.error("an offset is out of range"))?;
        if end > self.length {
            self.lengthen(end)?;
        }
        match &mut self.backing {
            Backing::Memory(memory) => {
                memory[offset as usize..end as usize].copy_from_slice(bytes);
                Ok(())
            }
            Backing::File(file) => file.write_all_at(bytes, offset).map_err(|error| self.scratch.error(error)),
        }
    }

    /// Writes `bytes` at the end.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ScratchError> {
        self.write_at(self.length, bytes)
    }

    /// Fills `buffer` from `offset` on. The bytes must not end before.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ScratchError> {
        match &self.backing {
            Backing::Memory(memory) => {
                let found = usize::try_from(offset).ok().and_then(|start| memory.get(start..start.checked_add(buffer.len())?));
                buffer.copy_from_slice(found.ok_or_else(|| self.scratch.error("it was read beyond its end"))?);
                Ok(())
            }
            Backing::File(file) => file.read_exact_at(buffer, offset).map_err(|error| self.scratch.error(error)),
        }
    }

    /// Reads from `offset` to the end.
    pub fn reader(&self, offset: u64) -> SpillReader<'_> {
        SpillReader { spill: self, position: offset, end: self.length }
    }

    fn lengthen(&mut self, length: u64) -> Result<(), ScratchError> {
        match &mut self.backing {
            Backing::Memory(memory) if length <= self.scratch.0.memory_bytes as u64 => {
                // Doubling beyond the bound would take what is not there to be taken.
                let wanted = (2 * memory.capacity()).max(length as usize).min(self.scratch.0.memory_bytes);
                memory.reserve_exact(wanted.saturating_sub(memory.len()));
                memory.resize(length as usize, 0);
            }
            Backing::Memory(memory) => {
                let file = tempfile::tempfile_in(&self.scratch.0.directory).map_err(|error| self.scratch.error(error))?;
                self.scratch.reserve(length)?;
                let moved = file.write_all_at(memory, 0).and_then(|()| file.set_len(length));
                self.backing = Backing::File(file);
                // From here on the space is this file's, and given back with it.
                self.length = length;
                moved.map_err(|error| self.scratch.error(error))?;
            }
            Backing::File(file) => {
                self.scratch.reserve(length - self.length)?;
                self.length = length;
                file.set_len(length).map_err(|error| self.scratch.error(error))?;
            }
        }
        self.length = length;
        Ok(())
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if matches!(self.backing, Backing::File(_)) {
            self.scratch.release(self.length);
        }
    }
}

/// Writes at the end.
impl Write for Spill {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a [`Spill`] from front to back; not buffered.
#[derive(Debug, Clone)]
pub struct SpillReader<'a> {
    spill: &'a Spill,
    position: u64,
    end: u64,
}

impl SpillReader<'_> {
    /// Ends the reading at `end` bytes, or at the end of the spill when that is earlier.
    #[must_use]
    pub fn up_to(self, end: u64) -> Self {
        Self { end: end.min(self.end), ..self }
    }
}

impl Read for SpillReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.end.saturating_sub(self.position).min(buffer.len() as u64) as usize;
        self.spill.read_at(self.position, &mut buffer[..length])?;
        self.position += length as u64;
        Ok(length)
    }
}
