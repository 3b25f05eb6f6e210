//! Images of a logged disk at the moments at which the power could have been cut.
//!
//! One file follows the log from durable entry to durable entry; each image is a clone of it that shares its extents, so it costs
//! what the log changed, not the disk's size. The caller may write to an image as it likes. Two kinds of cut:
//!
//! * *flushed*: everything up to a durable entry is there, nothing after it;
//! * *torn*: a random part of what was under way before a durable entry is there too, each write or the beginning of it, but not
//!   that entry itself. What stands between two durable entries may reach the disk in any order.
//!
//! Durable entries that change nothing but marks make no moment of their own: the one before them is taken with their marks, so
//! with all the promises that were made while the disk was as it is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use windlass::block::{file_ops, reflink};
use windlass::types::ByteRange;

use super::log::{Action, Durability, WriteLog};
use super::mark;

/// What disks write as a whole: a write may end after any number of these.
const ATOMIC: u64 = 4096;
/// Bytes copied at a time.
const PIECE: usize = 1 << 20;

/// What of the writes under way is in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutKind {
    /// None: the image is the disk as of a durable entry.
    Flushed,
    /// A part of them.
    Torn {
        /// Number of writes under way.
        under_way: usize,
    },
}

/// One moment, with its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The durable entry that the image ends with, or before which it was torn.
    pub entry: usize,
    /// What of the writes under way is there.
    pub kind: CutKind,
    /// The last mark that is on the disk.
    pub mark: Option<u64>,
}

/// How a log is replayed.
#[derive(Debug, Clone, Copy)]
pub struct ReplayOptions {
    /// Size of the disk in bytes.
    pub disk: u64,
    /// Where on it the marks are.
    pub marks: u64,
    /// Of how many moments with writes under way one is torn as well.
    pub torn_of: u32,
    /// Of the random choices.
    pub seed: u64,
}

/// What an entry is to the disk's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It changes nothing.
    Nothing,
    /// It is the mark with this number.
    Mark(u64),
    /// It changes the disk.
    Change,
}

/// A log on its way.
#[derive(Debug)]
pub struct Replay<'a> {
    log: &'a WriteLog,
    options: ReplayOptions,
    effects: Vec<Effect>,
    random: StdRng,
    disk: File,
    image: PathBuf,
    /// Number of entries that are in `disk`.
    done: usize,
    mark: Option<u64>,
    /// Whether the next durable entry has had its chance of a torn image.
    torn: bool,
}

impl<'a> Replay<'a> {
    /// Begins with a blank disk. `directory` is on a file system whose files can share extents.
    ///
    /// # Errors
    /// Whatever the system reports.
    pub fn new(log: &'a WriteLog, directory: &Path, options: ReplayOptions) -> io::Result<Self> {
        let disk = OpenOptions::new().read(true).write(true).create_new(true).open(directory.join("disk"))?;
        disk.set_len(options.disk)?;
        let effects = log.entries().iter().map(|entry| effect(log, entry.action, options.marks)).collect::<io::Result<_>>()?;
        let random = StdRng::seed_from_u64(options.seed);
        Ok(Self { log, options, effects, random, disk, image: directory.join("image"), done: 0, mark: None, torn: false })
    }

    /// Where the image of the last cut is.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Makes the image of the next moment; `None` at the end of the log. What was done last and not flushed yet makes no moment.
    ///
    /// # Errors
    /// Whatever the system reports.
    pub fn next_cut(&mut self) -> io::Result<Option<Cut>> {
        let Some(mut entry) = self.next_durable() else { return Ok(None) };
        let is_change = |number: &usize| self.effects[*number] == Effect::Change;
        let under_way: Vec<usize> = (self.done..entry).filter(is_change).collect();
        if !self.torn && !under_way.is_empty() {
            self.torn = true;
            if self.random.random_range(0..self.options.torn_of) == 0 {
                let image = self.clone_disk()?;
                for number in &under_way {
                    self.tear(&image, *number)?;
                }
                let kind = CutKind::Torn { under_way: under_way.len() };
                return Ok(Some(Cut { entry, kind, mark: self.mark }));
            }
        }
        self.torn = false;
        self.advance(entry)?;
        while let Some(quiet) = self.next_durable()
            && !self.effects[self.done..=quiet].contains(&Effect::Change)
        {
            entry = quiet;
            self.advance(entry)?;
        }
        self.clone_disk()?;
        Ok(Some(Cut { entry, kind: CutKind::Flushed, mark: self.mark }))
    }

    fn next_durable(&self) -> Option<usize> {
        let entries = self.log.entries();
        (self.done..entries.len()).find(|number| entries[*number].durability == Durability::Durable)
    }

    /// Brings the disk to where it was after an entry.
    fn advance(&mut self, entry: usize) -> io::Result<()> {
        for number in self.done..=entry {
            self.apply(&self.disk, self.log.entries()[number].action, u64::MAX)?;
            if let Effect::Mark(mark) = self.effects[number] {
                self.mark = Some(mark);
            }
        }
        self.done = entry + 1;
        Ok(())
    }

    /// A fresh image of the disk as it is.
    fn clone_disk(&self) -> io::Result<File> {
        let image = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&self.image)?;
        reflink::clone_file(&self.disk, &image)?;
        Ok(image)
    }

    /// Applies a write that is under way: all of it, its beginning, or nothing.
    fn tear(&mut self, image: &File, number: usize) -> io::Result<()> {
        let action = self.log.entries()[number].action;
        match (self.random.random_range(0..8), action) {
            (0..4, _) => Ok(()),
            (4, Action::Write { range, .. }) => {
                let most = self.random.random_range(0..=range.length() / ATOMIC) * ATOMIC;
                self.apply(image, action, most)
            }
            _ => self.apply(image, action, u64::MAX),
        }
    }

    /// Does to `disk` what an entry did, of a write at most the first `most` bytes.
    fn apply(&self, disk: &File, action: Action, most: u64) -> io::Result<()> {
        match action {
            Action::Nothing => Ok(()),
            // What is read after a discard is the disk's choice: here, zeros.
            Action::Discard(range) => self.clear(disk, range),
            Action::Write { range, data } => {
                let mut buffer = vec![0; PIECE];
                let length = range.length().min(most);
                let mut at = 0;
                while at < length {
                    let piece = &mut buffer[..(length - at).min(PIECE as u64) as usize];
                    self.log.read(piece, data + at)?;
                    let place = range.offset() + at;
                    match ByteRange::new(place, piece.len() as u64) {
                        // Blank journals and the like take no space.
                        Some(place) if piece.iter().all(|byte| *byte == 0) => self.clear(disk, place)?,
                        _ => disk.write_all_at(piece, place)?,
                    }
                    at += piece.len() as u64;
                }
                Ok(())
            }
        }
    }

    fn clear(&self, disk: &File, range: ByteRange) -> io::Result<()> {
        let whole = ByteRange::new(0, self.options.disk).and_then(|disk| disk.intersection(range));
        whole.map_or(Ok(()), |range| file_ops::punch_hole(disk, range))
    }
}

fn effect(log: &WriteLog, action: Action, marks: u64) -> io::Result<Effect> {
    match action {
        Action::Nothing => Ok(Effect::Nothing),
        Action::Write { range, data } if range.offset() == marks && range.length() == mark::BYTES => {
            let mut block = vec![0; mark::BYTES as usize];
            log.read(&mut block, data)?;
            Ok(mark::recognise(&block).map_or(Effect::Change, Effect::Mark))
        }
        Action::Write { .. } | Action::Discard(_) => Ok(Effect::Change),
    }
}
