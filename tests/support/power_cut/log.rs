//! Logs of dm-log-writes, read.
//!
//! A log begins with a superblock; entries follow, in the order in which the disk had done them: one header sector each, then the
//! data of a write. A write that was done but not flushed yet is entered together with the flush that covers it, before it. So
//! whatever stands before an entry that flushes, or that was written through the cache, had reached the disk when that was done.
//!
//! Nothing is taken on trust: entries beyond the end of the log, or with flags that are not known, are errors.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use windlass::types::ByteRange;

/// `WRITE_LOG_MAGIC` of the kernel.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;
const METADATA: u64 = 1 << 4;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It does not begin as a log does.
    #[error("this is no log of dm-log-writes: {0}")]
    NotALog(String),
    /// An entry says what cannot be.
    #[error("entry {number} of the log: {what}")]
    Entry {
        /// Its number, from 0.
        number: usize,
        /// What is wrong.
        what: String,
    },
    /// It could not be read.
    #[error("read the log: {0}")]
    Io(#[from] io::Error),
}

/// What an entry did to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing: a flush alone, or a mark.
    Nothing,
    /// Wrote the data that lie at this offset of the log.
    Write {
        /// Where on the disk.
        range: ByteRange,
        /// Offset of the data within the log, in bytes.
        data: u64,
    },
    /// Discarded this range.
    Discard(ByteRange),
}

/// What is known about the disk's cache once an entry is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing.
    Volatile,
    /// Everything up to this entry, itself included, is on the disk.
    Durable,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it did.
    pub action: Action,
    /// What it made durable.
    pub durability: Durability,
}

/// A log: its entries in memory, the data in its file.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads the entries of the log in a file or on a disk.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let file = File::open(path)?;
        let size = windlass::block::device::size(&file)?;
        let mut first = [0; 28];
        file.read_exact_at(&mut first, 0)?;
        let superblock = Superblock::parse(&first)?;
        let mut entries = Vec::new();
        let mut at = superblock.sector;
        let mut header = [0; 32];
        for number in 0..superblock.entries {
            let number = usize::try_from(number).map_err(|_| LogError::NotALog("more entries than memory".to_owned()))?;
            file.read_exact_at(&mut header, at)?;
            let data = at + superblock.sector;
            let (entry, next) =
                parse_entry(&header, superblock.sector, data, size).map_err(|what| LogError::Entry { number, what })?;
            entries.push(entry);
            at = next;
        }
        Ok(Self { file, entries })
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Fills `buffer` with data at this offset of the log.
    ///
    /// # Errors
    /// Whatever the system reports.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Superblock {
    entries: u64,
    /// Bytes of a sector, in which the log counts.
    sector: u64,
}

impl Superblock {
    fn parse(bytes: &[u8; 28]) -> Result<Self, LogError> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        if word(0) != MAGIC {
            return Err(LogError::NotALog(format!("it begins with {:#x}", word(0))));
        }
        if word(8) != VERSION {
            return Err(LogError::NotALog(format!("it is of version {}", word(8))));
        }
        let sector = u64::from(u32::from_le_bytes(bytes[24..28].try_into().unwrap()));
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
            return Err(LogError::NotALog(format!("its sectors have {sector} bytes")));
        }
        Ok(Self { entries: word(16), sector })
    }
}

/// The entry with this header, and the offset of the header after it. `data` is where its data begin, `size` the log's end.
fn parse_entry(header: &[u8; 32], sector: u64, data: u64, size: u64) -> Result<(Entry, u64), String> {
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
    let (start, count, flags) = (word(0), word(8), word(16));
    if flags & !(FLUSH | FUA | DISCARD | MARK | METADATA) != 0 {
        return Err(format!("unknown flags {flags:#x}"));
    }
    let range = || {
        let bytes = |sectors: u64| sectors.checked_mul(sector);
        let range = bytes(start).zip(bytes(count)).and_then(|(offset, length)| ByteRange::new(offset, length));
        range.ok_or_else(|| format!("{count} sectors at {start} are no range"))
    };
    let durability = if flags & (FLUSH | FUA) == 0 { Durability::Volatile } else { Durability::Durable };
    let entry = |action| Entry { action, durability };
    if flags & MARK != 0 || count == 0 {
        return Ok((entry(Action::Nothing), data));
    }
    let range = range()?;
    if flags & DISCARD != 0 {
        return Ok((entry(Action::Discard(range)), data));
    }
    match data.checked_add(range.length()) {
        Some(next) if next <= size => Ok((entry(Action::Write { range, data }), next)),
        _ => Err(format!("its {} bytes at {data} lie beyond the end of the log at {size}", range.length())),
    }
}

/// A log made by hand, in sectors of 512 bytes: start, length and flags of each entry as the kernel writes them, and its data.
#[cfg(test)]
pub fn made_by_hand(entries: &[([u64; 3], &[u8])]) -> tempfile::NamedTempFile {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut sector = |words: [u64; 4], data: &[u8]| {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(512, 0);
        file.write_all(&bytes).unwrap();
        file.write_all(data).unwrap();
    };
    sector([MAGIC, VERSION, entries.len() as u64, 512], &[]);
    for ([start, length, flags], data) in entries {
        sector([*start, *length, *flags, 0], data);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_in_their_order_with_what_they_made_durable() {
        let file = made_by_hand(&[
            ([8, 16, METADATA], &[1; 8192]),
            ([0, 0, FLUSH], &[]),
            ([0, 8, DISCARD], &[]),
            ([1, 1, FUA], &[2; 512]),
        ]);
        let log = WriteLog::open(file.path()).unwrap();
        let range = |offset, length| ByteRange::new(offset, length).unwrap();
        let entry = |action, durability| Entry { action, durability };
        assert_eq!(
            log.entries(),
            [
                entry(Action::Write { range: range(4096, 8192), data: 1024 }, Durability::Volatile),
                entry(Action::Nothing, Durability::Durable),
                entry(Action::Discard(range(0, 4096)), Durability::Volatile),
                entry(Action::Write { range: range(512, 512), data: 1024 + 8192 + 3 * 512 }, Durability::Durable),
            ]
        );
    }

    #[test]
    fn what_is_no_whole_log_is_refused() {
        let refused =
            |entry: [u64; 3], data: &[u8]| WriteLog::open(made_by_hand(&[(entry, data)]).path()).unwrap_err().to_string();
        assert!(refused([8, 16, 0], &[1; 8191]).contains("beyond the end of the log"));
        assert!(refused([0, 0, 1 << 5], &[]).contains("unknown flags"));
        assert!(refused([u64::MAX, 1, 0], &[1; 512]).contains("are no range"));
        let short = made_by_hand(&[([0, 0, FLUSH], &[])]);
        short.as_file().set_len(520).unwrap();
        assert!(matches!(WriteLog::open(short.path()), Err(LogError::Io(_))));
        short.as_file().write_all_at(b"another thing", 0).unwrap();
        assert!(matches!(WriteLog::open(short.path()), Err(LogError::NotALog(_))));
    }
}
