//! What is fetched of a repository and where it goes. Decides only.
//!
//! The list of a file says in which order its blobs follow one another; the index says where each lies. From both come pieces
//! (a blob, where it lies, where it goes), sorted by pack and offset, and from those the requests: neighbouring blobs of a
//! pack are fetched together, with what lies between them if that is little.
//!
//! The list is walked once before anything is fetched, to see that it makes a whole file. Then it is walked in [windows](Window) of
//! so many entries that their pieces take a few MiB, however long the list is. A blob that occurs in several windows is
//! fetched for each.
//!
//! The length of a blob that is in no index is unknown, and so is where all blobs go that follow it. It is an error, unless
//! [lost blobs are left out](Lost::Leave): then it is a hole, whose length follows from how the file was cut, if it was cut into chunks of
//! one size, or from the file's size, if all such blobs follow one another. Both must add up to the size; otherwise it is an error all the
//! same.

mod error;
mod lost;
mod window;

use std::sync::Arc;

use crate::repository::tree::IdList;
use crate::repository::{BlobLocation, Id};
use crate::scratch::ScratchError;
use crate::transfer::zeros;
use crate::types::ByteRange;
use lost::{Gap, Missing};
use window::{Entry, WindowBuilder};

pub use error::PlanError;
pub use lost::{Cut, Lost};
pub use window::{GAP_BYTES, Occurrences, Request, Window};

/// Entries of a window: 64 GiB in chunks of 1 MiB, and 4 MB of pieces. Two windows are in memory at a time as a rule: one that is
/// being fetched, and the one before it whose last blobs are being written.
const WINDOW_ENTRIES: u64 = 1 << 16;

/// Entries between two places of the list whose positions are remembered, for reads at random: 8 bytes of memory for so many, and as
/// many are walked over to find a position.
const CHECKPOINT_ENTRIES: u64 = 64;

/// The index: where the blob lies, if it is stored.
pub type Locate = dyn Fn(&Id) -> Result<Option<BlobLocation>, ScratchError> + Send + Sync;

/// How a file is restored.
pub struct RestorePlan {
    content: IdList,
    locate: Box<Locate>,
    image_bytes: u64,
    sink_bytes: u64,
    data_bytes: u64,
    largest_blob_bytes: u64,
    window_entries: u64,
    /// Where the first of each [`CHECKPOINT_ENTRIES`] entries lies in the file.
    checkpoints: Vec<u64>,
    gap: Gap,
}

impl RestorePlan {
    /// The plan for a file of the blobs `content` and the recorded size `image_bytes`, into a sink of `sink_bytes`. Looks every blob
    /// up: not for an async thread.
    ///
    /// # Errors
    /// [`PlanError`] when a blob is missing or the sizes disagree.
    pub fn new(content: IdList, image_bytes: u64, sink_bytes: u64, lost: Lost, locate: Box<Locate>) -> Result<Self, PlanError> {
        let mut plan = Self {
            content,
            locate,
            image_bytes,
            sink_bytes,
            data_bytes: 0,
            largest_blob_bytes: 0,
            window_entries: WINDOW_ENTRIES,
            checkpoints: Vec::new(),
            gap: if lost == Lost::Refuse { Gap::Refuse } else { Gap::Unknown },
        };
        let (mut found, missing) = plan.survey()?;
        if let (Lost::Leave(cut), Some((_, id, position))) = (lost, missing.first) {
            let mismatch = PlanError::SizeMismatch { recorded: image_bytes, found };
            let bytes = image_bytes.checked_sub(found).ok_or(mismatch)?;
            plan.gap = missing.gap(cut, bytes, plan.content.len()).ok_or(PlanError::UnknownLength { id, position })?;
            (found, _) = plan.survey()?;
        }
        if found == image_bytes { Ok(plan) } else { Err(PlanError::SizeMismatch { recorded: image_bytes, found }) }
    }

    /// Walks the list once. Returns what its blobs add up to, and which of them are in no index.
    fn survey(&mut self) -> Result<(u64, Missing), PlanError> {
        let (mut position, mut data_bytes, mut largest, mut missing) = (0_u64, 0_u64, 0, Missing::default());
        let mut checkpoints = Vec::with_capacity(self.content.len().div_ceil(CHECKPOINT_ENTRIES) as usize);
        for (number, id) in (0_u64..).zip(self.content.iter()) {
            let id = id?;
            let entry = self.entry(number, &id, position)?;
            if number.is_multiple_of(CHECKPOINT_ENTRIES) {
                checkpoints.push(position);
            }
            match &entry {
                Entry::Blob(location) => {
                    data_bytes += u64::from(location.plain_length());
                    largest = largest.max(location.plain_length()).max(location.length);
                }
                Entry::Hole(_) => missing.add(number, &id, position),
                Entry::Zeros(_) => {}
            }
            position = position.checked_add(entry.length()).ok_or(PlanError::TooMany)?;
        }
        (self.data_bytes, self.largest_blob_bytes, self.checkpoints) = (data_bytes, largest.into(), checkpoints);
        Ok((position, missing))
    }

    fn entry(&self, number: u64, id: &Id, position: u64) -> Result<Entry, PlanError> {
        if let Some(length) = zeros::length_of(id) {
            return Ok(Entry::Zeros(length));
        }
        if let Some(location) = (self.locate)(id)? {
            return Ok(Entry::Blob(location));
        }
        match self.gap {
            Gap::Refuse => Err(PlanError::MissingBlob { id: *id, position }),
            Gap::Unknown => Ok(Entry::Hole(0)),
            Gap::Chunks(bytes) => Ok(Entry::Hole(bytes.min(self.image_bytes.saturating_sub(position)))),
            Gap::Run { first, bytes } => Ok(Entry::Hole(if number == first { bytes } else { 0 })),
        }
    }

    /// A cursor before the first window.
    pub fn start(&self) -> Cursor {
        Cursor { entry: 0, position: 0 }
    }

    /// The window at `cursor`, which moves on; `None` after the last one. Looks blobs up: not for an async thread.
    ///
    /// # Errors
    /// Also when the list is no longer what the survey found.
    pub fn next_window(&self, cursor: &mut Cursor) -> Result<Option<Arc<Window>>, PlanError> {
        if cursor.entry > self.content.len() {
            return Ok(None);
        }
        let mut window = WindowBuilder::default();
        let end = cursor.entry.saturating_add(self.window_entries).min(self.content.len());
        for (number, id) in (cursor.entry..end).zip(self.content.iter_from(cursor.entry)) {
            let id = id?;
            let entry = self.entry(number, &id, cursor.position)?;
            window.add(id, cursor.position, &entry);
            cursor.position = cursor.position.checked_add(entry.length()).ok_or(PlanError::TooMany)?;
        }
        cursor.entry = end;
        if end == self.content.len() {
            // What lies beyond the file belongs to the last window, and there is none after it.
            cursor.entry = u64::MAX;
            if cursor.position != self.image_bytes {
                return Err(PlanError::SizeMismatch { recorded: self.image_bytes, found: cursor.position });
            }
            window.add_zeros(self.image_bytes, self.sink_bytes.saturating_sub(self.image_bytes));
        }
        Ok(Some(Arc::new(window.finish())))
    }

    /// The part of the list that `range` of the file touches, as a window of its own. Looks blobs up: not for an async thread.
    pub fn window_of(&self, range: ByteRange) -> Result<Arc<Window>, PlanError> {
        let mut window = WindowBuilder::default();
        let checkpoint = self.checkpoints.partition_point(|position| *position <= range.offset()).saturating_sub(1);
        let mut position = self.checkpoints.get(checkpoint).copied().unwrap_or(0);
        let from = checkpoint as u64 * CHECKPOINT_ENTRIES;
        for (number, id) in (from..).zip(self.content.iter_from(from)) {
            if position >= range.end() {
                break;
            }
            let id = id?;
            let entry = self.entry(number, &id, position)?;
            let end = position.checked_add(entry.length()).ok_or(PlanError::TooMany)?;
            if end > range.offset() {
                window.add(id, position, &entry);
            }
            position = end;
        }
        Ok(Arc::new(window.finish()))
    }

    /// Bytes of the file that come out of packs.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// Length in plain bytes of the largest blob, or its length as stored if that is more.
    pub fn largest_blob_bytes(&self) -> u64 {
        self.largest_blob_bytes
    }
}

/// How far the list has been walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    entry: u64,
    position: u64,
}

#[cfg(test)]
mod tests;
