//! Doubles of devices in memory.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{BlockSink, BlockSource};
use crate::types::{ByteRange, LogicalBlockSize};

/// Bytes of this process as a source.
#[derive(Debug, Clone)]
pub struct MemorySource {
    bytes: Vec<u8>,
    block: LogicalBlockSize,
}

impl MemorySource {
    /// A source with this content and a logical block size of 4096.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::with_block_size(bytes, LogicalBlockSize::B4096)
    }

    /// A source with this content and logical block size.
    pub fn with_block_size(bytes: Vec<u8>, block: LogicalBlockSize) -> Self {
        Self { bytes, block }
    }
}

impl BlockSource for MemorySource {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn logical_block_size(&self) -> LogicalBlockSize {
        self.block
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let part = slice_of(self.bytes.len(), offset, buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(&self.bytes[part]);
        Ok(())
    }
}

#[derive(Debug)]
struct SinkState {
    bytes: Vec<u8>,
    written: Vec<ByteRange>,
    zeroed: Vec<ByteRange>,
    flushes: u64,
    calls: u64,
    failure: Option<(u64, io::ErrorKind)>,
    unreadable: Vec<ByteRange>,
}

/// Bytes of this process as a sink. Remembers what was called, and fails when told to.
#[derive(Debug)]
pub struct MemorySink {
    size: u64,
    state: Mutex<SinkState>,
}

impl MemorySink {
    /// A sink of `length` zero bytes.
    pub fn new(length: usize) -> Self {
        Self::holding(vec![0; length])
    }

    /// A sink that holds these bytes.
    pub fn holding(bytes: Vec<u8>) -> Self {
        let size = bytes.len() as u64;
        let state = SinkState {
            bytes,
            written: Vec::new(),
            zeroed: Vec::new(),
            flushes: 0,
            calls: 0,
            failure: None,
            unreadable: Vec::new(),
        };
        Self { size, state: Mutex::new(state) }
    }

    /// Lets every read fail that touches the range.
    pub fn fail_reads_of(&self, range: ByteRange) {
        self.state().unreadable.push(range);
    }

    /// Lets the `call`-th call from now on that writes, zeroes or flushes (1 is the next) and every later one fail.
    pub fn fail_from(&self, call: u64, kind: io::ErrorKind) {
        let mut state = self.state();
        state.failure = Some((state.calls + call, kind));
    }

    /// A copy of the content.
    pub fn content(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// The ranges given to `write_at`, in order of the calls.
    pub fn written(&self) -> Vec<ByteRange> {
        self.state().written.clone()
    }

    /// The ranges given to `write_zeros`, in order of the calls.
    pub fn zeroed(&self) -> Vec<ByteRange> {
        self.state().zeroed.clone()
    }

    /// How often it was flushed.
    pub fn flushes(&self) -> u64 {
        self.state().flushes
    }

    fn state(&self) -> MutexGuard<'_, SinkState> {
        // Every change of the state is complete before anything in its guard's scope can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> io::Result<MutexGuard<'_, SinkState>> {
        let mut state = self.state();
        state.calls += 1;
        match state.failure {
            Some((call, kind)) if state.calls >= call => Err(kind.into()),
            _ => Ok(state),
        }
    }
}

impl BlockSink for MemorySink {
    fn size(&self) -> u64 {
        self.size
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.begin()?;
        let part = slice_of(state.bytes.len(), offset, data.len()).ok_or(io::ErrorKind::InvalidInput)?;
        state.bytes[part].copy_from_slice(data);
        state.written.extend(ByteRange::new(offset, data.len() as u64));
        Ok(())
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let part = slice_of(state.bytes.len(), offset, buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let wanted = ByteRange::new(offset, buffer.len() as u64);
        if state.unreadable.iter().any(|bad| wanted.is_some_and(|wanted| bad.intersection(wanted).is_some())) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        buffer.copy_from_slice(&state.bytes[part]);
        Ok(())
    }

    fn write_zeros(&self, range: ByteRange) -> io::Result<()> {
        let mut state = self.begin()?;
        let length = usize::try_from(range.length()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let part = slice_of(state.bytes.len(), range.offset(), length).ok_or(io::ErrorKind::InvalidInput)?;
        state.bytes[part].fill(0);
        state.zeroed.push(range);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.begin()?.flushes += 1;
        Ok(())
    }
}

fn slice_of(size: usize, offset: u64, length: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(length)?;
    (end <= size).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_refuses_what_lies_outside() {
        let source = MemorySource::new(vec![7; 10]);
        let mut buffer = [0; 4];
        source.read_at(6, &mut buffer).unwrap();
        assert_eq!(buffer, [7; 4]);
        assert_eq!(source.read_at(7, &mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(source.read_at(u64::MAX, &mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_sink_remembers_its_calls_and_fails_from_the_one_named() {
        let sink = MemorySink::new(16);
        sink.write_at(4, &[1; 8]).unwrap();
        sink.write_zeros(ByteRange::new(6, 2).unwrap()).unwrap();
        assert_eq!(sink.content()[4..12], [1, 1, 0, 0, 1, 1, 1, 1]);
        assert_eq!(sink.write_at(10, &[1; 8]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        sink.fail_from(2, io::ErrorKind::StorageFull);
        sink.flush().unwrap();
        assert_eq!(sink.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(sink.write_at(0, &[1]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!((sink.flushes(), sink.written().len(), sink.zeroed().len()), (1, 1, 1));
        let mut found = [9; 4];
        sink.read_back(4, &mut found).unwrap();
        assert_eq!(found, [1, 1, 0, 0]);
        assert_eq!(sink.read_back(14, &mut found).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        sink.fail_reads_of(ByteRange::new(7, 1).unwrap());
        assert_eq!(sink.read_back(4, &mut found).unwrap_err().raw_os_error(), Some(libc::EIO));
        sink.read_back(8, &mut found).unwrap();
    }
}
