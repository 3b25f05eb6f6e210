//! The file of a copy: two slots, written in turn and in place. Bytes and a checksum; what they mean is `text`.
//!
//! A slot begins with a line of text that says what follows, its length, and a checksum over that line and the rest. The one with the higher
//! generation counts, if it is whole; half of one that a crash left does not match its checksum. The slots are the two halves of the
//! file.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::block::file_ops;
use crate::pool::catalogue::allocated;
use crate::types::{ByteRange, Timestamp};

const MAGIC: &str = "windlass-catalogue-copy";
/// Format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// Bytes of the smallest slot: some 2,000 records.
pub(super) const SLOT_MIN: u64 = 1 << 20;
/// Bytes of the longest first line: its numbers have at most 20 digits.
const LINE_MAX: usize = 256;

/// Why there is nothing to be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::pool) enum CopyError {
    /// There is none.
    #[error("there is none")]
    Absent,
    /// It is damaged; the text says how.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A later version wrote it.
    #[error("it has format {0}, and this version of windlass reads up to {FORMAT}: use a newer one")]
    Newer(u32),
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the newer of two slots holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) generation: u64,
    /// Revision of the catalogue.
    pub(super) revision: u64,
    /// Seconds since 1970.
    pub(super) written: u64,
    pub(super) body: Vec<u8>,
}

/// Where a larger copy is made before it has its name.
fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("copy-new")
}

/// Reads the newer slot that is whole.
pub(super) fn read(path: &Path) -> Result<Slot, CopyError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CopyError::Absent,
        _ => CopyError::Io(error),
    })?;
    let slot_bytes = slot_bytes(file.metadata()?.len());
    let [first, second] = [0, slot_bytes].map(|start| read_slot(&file, start, slot_bytes));
    match (first, second) {
        // A later version was at it, whatever the other slot says.
        (Err(CopyError::Newer(format)), _) | (_, Err(CopyError::Newer(format))) => Err(CopyError::Newer(format)),
        (Ok(first), Ok(second)) => Ok(if first.generation > second.generation { first } else { second }),
        (Ok(slot), Err(_)) | (Err(_), Ok(slot)) => Ok(slot),
        (Err(error), Err(_)) => Err(error),
    }
}

fn slot_bytes(file_bytes: u64) -> u64 {
    file_bytes / 2
}

fn read_slot(file: &File, start: u64, slot_bytes: u64) -> Result<Slot, CopyError> {
    let damaged = |what: &str| CopyError::Damaged(what.to_owned());
    let mut head = [0; LINE_MAX];
    let head = &mut head[..LINE_MAX.min(usize::try_from(slot_bytes).unwrap_or(LINE_MAX))];
    file.read_exact_at(head, start)?;
    let end = head.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("it does not begin as a copy does"))?;
    let line = std::str::from_utf8(&head[..end]).map_err(|_| damaged("it does not begin as a copy does"))?;
    let (said, checksum) = line.rsplit_once(' ').ok_or_else(|| damaged("it does not begin as a copy does"))?;
    let mut words = said.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(damaged("it does not begin as a copy does"));
    }
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).ok_or_else(|| damaged("its first line is spoilt"));
    let format = u32::try_from(number()?).map_err(|_| damaged("its first line is spoilt"))?;
    if format > FORMAT {
        return Err(CopyError::Newer(format));
    }
    let (generation, revision, written, length) = (number()?, number()?, number()?, number()?);
    let length = usize::try_from(length).ok().filter(|&length| (end + 1 + length) as u64 <= slot_bytes);
    let mut body = vec![0; length.ok_or_else(|| damaged("it was cut off"))?];
    file.read_exact_at(&mut body, start + end as u64 + 1)?;
    if checksum != sum(said, &body) {
        return Err(damaged("its checksum does not match"));
    }
    Ok(Slot { generation, revision, written, body })
}

fn sum(said: &str, body: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c_append(crc32c::crc32c(said.as_bytes()), body))
}

fn encode(slot: &Slot) -> Vec<u8> {
    let Slot { generation, revision, written, body } = slot;
    let said = format!("{MAGIC} {FORMAT} {generation} {revision} {written} {}", body.len());
    let mut bytes = format!("{said} {}\n", sum(&said, body)).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A copy that is written to.
#[derive(Debug)]
pub(super) struct CopyFile {
    path: PathBuf,
    /// The file with the bytes of a slot, unless there is none that can be used.
    file: Option<(File, u64)>,
    generation: u64,
    /// What was written last.
    body: Option<Vec<u8>>,
}

impl CopyFile {
    /// The one at `path`, which is made by the first write if it is missing, damaged or not allocated.
    ///
    /// # Errors
    /// [`CopyError::Newer`]: it is to be left alone. [`CopyError::Io`].
    pub(super) fn open(path: &Path) -> Result<Self, CopyError> {
        let mut copy = Self { path: path.to_owned(), file: None, generation: 0, body: None };
        match read(path) {
            Ok(slot) => {
                let file = File::options().read(true).write(true).open(path)?;
                (copy.generation, copy.body) = (slot.generation, Some(slot.body));
                let bytes = slot_bytes(file.metadata()?.len());
                match allocated::check_own_space(&file, path) {
                    Ok(()) => copy.file = Some((file, bytes)),
                    Err(why) => tracing::debug!(why, "the second copy of the catalogue is made anew"),
                }
            }
            Err(CopyError::Absent | CopyError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        // What an interrupted enlargement left.
        allocated::remove(&unfinished(path))?;
        Ok(copy)
    }

    /// Makes this the durable content, of that revision, unless it is already. When this fails, what was there is there.
    ///
    /// # Errors
    /// Whatever the system reports; `StorageFull` when a file that is large enough does not fit.
    pub(super) fn write(&mut self, revision: u64, body: Vec<u8>) -> io::Result<()> {
        if self.file.is_some() && self.body.as_ref() == Some(&body) {
            return Ok(());
        }
        let slot = Slot { generation: self.generation + 1, revision, written: Timestamp::now().seconds, body };
        let bytes = encode(&slot);
        match &self.file {
            Some((file, slot_bytes)) if bytes.len() as u64 <= *slot_bytes => {
                // The older of the two.
                file.write_all_at(&bytes, slot.generation % 2 * slot_bytes)?;
                file.sync_data()?;
            }
            _ => self.file = Some(replace(&self.path, &bytes, slot.generation)?),
        }
        (self.generation, self.body) = (slot.generation, Some(slot.body));
        Ok(())
    }
}

/// A file with room for twice as much in each slot, in place of the one that there is.
fn replace(path: &Path, bytes: &[u8], generation: u64) -> io::Result<(File, u64)> {
    let slot_bytes = (bytes.len() as u64).saturating_mul(2).max(SLOT_MIN).next_power_of_two();
    let directory = path.parent().unwrap_or(Path::new("/"));
    allocated::check_spare(&File::open(directory)?, 2 * slot_bytes)?;
    let unfinished = unfinished(path);
    allocated::remove(&unfinished)?;
    let fill = || -> io::Result<File> {
        let file = allocated::new_file(&unfinished)?;
        if let Some(whole) = ByteRange::new(0, 2 * slot_bytes) {
            allocated::write_zeros(&file, whole)?;
        }
        file.write_all_at(bytes, generation % 2 * slot_bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        file_ops::sync_dir(directory)?;
        Ok(file)
    };
    fill().map(|file| (file, slot_bytes)).inspect_err(|_| drop(allocated::remove(&unfinished)))
}
