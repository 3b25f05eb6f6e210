//! The threads of a restore: decode, verify, write; and before, where the target may hold something, [look](look) for it.
//!
//! A worker decodes as many neighbouring blobs as its memory holds, straight into the aligned memory they are written from,
//! hashes all of them at once, and writes them only then.
//!
//! A blob that does not read is fetched once more and then from other packs that hold it ([`copies`](crate::repository::copies)), by
//! one worker at a time: the blob is in memory twice then, beyond the budget. What does not read from any is an error, or a
//! [hole](super::holes) where holes are wanted.

mod look;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bytes::BytesMut;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::error::RestoreError;
use super::holes::HoleList;
use super::jobs::{Fetched, Job, Queue};
use super::options::Target;
use super::plan::{Occurrences, RestorePlan};
use crate::block::buffer::ALIGNMENT;
use crate::block::{AlignedBuffer, BlockSink};
use crate::repository::copies::is_of_copy;
use crate::repository::pack::open_blob_unhashed;
use crate::repository::{BlobKind, Damage, Id, Index, Repository, Sealer};
use crate::transfer::progress::Progress;
use crate::transfer::stages::{self, Workers};
use crate::transfer::{hash, zeros};
use crate::types::ByteRange;
use crate::types::error::chain;

/// Runs of zeros within a blob become holes in steps of this many bytes, on multiples of it. Smaller holes would only scatter
/// a file.
const HOLE_BYTES: u64 = 64 << 10;

/// Why a blob is lost that no index names.
const IN_NO_INDEX: &str = "it is in no index";

/// What the workers of a restore share.
pub(super) struct Work {
    pub(super) repository: Repository,
    pub(super) index: Arc<Index>,
    pub(super) runtime: Handle,
    /// Held while a blob is looked for elsewhere.
    pub(super) mending: Mutex<()>,
    pub(super) sealer: Sealer,
    pub(super) sink: Arc<dyn BlockSink>,
    pub(super) target: Target,
    /// Takes down what does not read; `None` where that is an error.
    pub(super) holes: Option<Arc<HoleList>>,
    /// Memory of a worker for blobs in plain; as large as the largest at least.
    pub(super) batch_bytes: usize,
    pub(super) progress: Progress,
    pub(super) stop: CancellationToken,
    pub(super) tally: Tally,
}

/// What was done, to be compared with the plan.
#[derive(Default)]
pub(super) struct Tally {
    data_bytes: AtomicU64,
    present_bytes: AtomicU64,
}

impl Tally {
    /// Counts bytes that the sink held already.
    fn present(&self, bytes: u64) {
        self.present_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Bytes that the sink held already.
    pub(super) fn present_bytes(&self) -> u64 {
        self.present_bytes.load(Ordering::Acquire)
    }

    /// Makes sure that everything the plan wanted was done.
    pub(super) fn check(&self, plan: &RestorePlan) -> Result<(), RestoreError> {
        let (expected, found) = (plan.data_bytes(), self.data_bytes.load(Ordering::Acquire));
        if expected == found {
            Ok(())
        } else {
            Err(RestoreError::Inside(format!("of {expected} bytes {found} were restored").into()))
        }
    }
}

pub(super) fn start(work: &Arc<Work>, queue: Queue, count: usize) -> Workers<RestoreError> {
    stages::start("restore", count, &work.stop, || {
        let (work, queue) = (Arc::clone(work), Arc::clone(&queue));
        move || {
            let plain = AlignedBuffer::zeroed(work.batch_bytes);
            Worker { work, plain, ids: Vec::new() }.run(&queue)
        }
    })
}

struct Worker {
    work: Arc<Work>,
    /// The blobs of a batch, each at a multiple of 4096.
    plain: AlignedBuffer,
    ids: Vec<Id>,
}

impl Worker {
    fn run(mut self, queue: &Queue) -> Result<(), RestoreError> {
        loop {
            // The queue closes when the fetcher has ended, well or not, so nobody waits here for ever.
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            self.check_stop()?;
            match job {
                Ok(Job::Blobs(fetched)) => self.blobs(fetched)?,
                Ok(Job::Look(request, answer)) => {
                    let missing = self.look(&request)?;
                    // Nobody waits for it when the restore is being stopped.
                    let _ = answer.send(missing);
                }
                Ok(Job::Zeros(range)) => {
                    self.write_zeros(range)?;
                    self.work.progress.done(range.length());
                }
                Ok(Job::Hole(range, blob)) => {
                    // One that is longer than any blob is of several.
                    let found = usize::try_from(range.length()).ok().and_then(|length| self.plain.get_mut(..length));
                    if !found.is_some_and(|found| self.work.is_present(range.offset(), &blob, found)) {
                        self.leave_hole(range, blob, None, IN_NO_INDEX)?;
                    }
                    // In a fresh target it counts as done from the beginning, as zeros do.
                    if self.work.target.wants_zeros() {
                        self.work.progress.done(range.length());
                    }
                }
                Err(mpsc::RecvError) => return Ok(()),
            }
        }
    }

    fn check_stop(&self) -> Result<(), RestoreError> {
        if self.work.stop.is_cancelled() { Err(RestoreError::Cancelled) } else { Ok(()) }
    }

    fn blobs(&mut self, fetched: Fetched) -> Result<(), RestoreError> {
        let Fetched { request, bytes, share: _share } = fetched;
        let Some(bytes) = bytes else {
            return request.blobs().try_for_each(|blob| self.mend(&blob, None));
        };
        let start = request.bytes.start;
        // The bytes are nobody else's as a rule, and then they are not copied.
        let mut sealed: BytesMut = bytes.into();
        let mut blobs = request.blobs().peekable();
        while blobs.peek().is_some() {
            let mut batch = Vec::new();
            let mut filled = 0;
            let room = self.plain.len();
            while let Some(blob) = blobs.next_if(|blob| batch.is_empty() || filled + length_of(blob) <= room) {
                self.check_stop()?;
                let from = (u64::from(blob.location.offset) - start) as usize;
                let part = sealed.get_mut(from..from + blob.location.length as usize);
                let plain = self.plain.get_mut(filled..filled + length_of(&blob));
                let opened = match (part, plain) {
                    (Some(part), Some(plain)) => open_blob_unhashed(&self.work.sealer, &blob.location, part, plain),
                    _ => Err(Damage::TooShort),
                };
                match opened {
                    Ok(()) => {
                        let at = filled;
                        filled = (filled + length_of(&blob)).next_multiple_of(ALIGNMENT);
                        batch.push((at, blob));
                    }
                    Err(damage) => self.mend(&blob, Some(damage))?,
                }
            }
            self.verify_and_write(&batch)?;
        }
        Ok(())
    }

    /// Writes the blobs whose hashes are their ids; those of which that is not so are mended.
    fn verify_and_write(&mut self, batch: &[(usize, Occurrences<'_>)]) -> Result<(), RestoreError> {
        let inputs: Vec<&[u8]> = batch.iter().map(|(at, blob)| &self.plain[*at..*at + length_of(blob)]).collect();
        hash::sha256_many(&inputs, &mut self.ids);
        for (((_, blob), &found), data) in batch.iter().zip(&self.ids).zip(inputs) {
            self.check_stop()?;
            if found == blob.id {
                self.write(blob, data)?;
            } else {
                self.mend(blob, Some(Damage::WrongHash { found }))?;
            }
        }
        Ok(())
    }

    /// Writes a blob that did not read where it was looked for first. `damage` says what was wrong with it there, if it was there.
    fn mend(&self, blob: &Occurrences<'_>, damage: Option<Damage>) -> Result<(), RestoreError> {
        let damaged = |damage| RestoreError::Damaged { blob: blob.id, pack: blob.location.pack, damage };
        if let Some(damage) = &damage {
            tracing::warn!(blob = %blob.id, pack = %blob.location.pack, damage = %chain(damage), "a blob is damaged; it is fetched again");
        }
        let work = &self.work;
        // The lock protects no data that a panic could leave half changed.
        let _one_at_a_time = work.mending.lock().unwrap_or_else(PoisonError::into_inner);
        let read = work.repository.read_blob_again(&work.index, BlobKind::Data, &blob.id);
        let found = work.runtime.block_on(work.stop.run_until_cancelled(read)).ok_or(RestoreError::Cancelled)?;
        let error = match (found, damage) {
            (Ok(plain), _) if plain.len() == length_of(blob) => return self.write(blob, &plain),
            (Ok(_), _) => damaged(Damage::TooShort),
            (Err(error), Some(damage)) if is_of_copy(&error) => damaged(damage),
            (Err(error), _) => error.into(),
        };
        match &work.holes {
            Some(_) => self.give_up(blob, error),
            None => Err(error),
        }
    }

    /// Leaves holes where a blob goes. An error that is not about the blob is passed on.
    fn give_up(&self, blob: &Occurrences<'_>, error: RestoreError) -> Result<(), RestoreError> {
        let reason = match error {
            RestoreError::Damaged { damage, .. } => chain(&damage),
            RestoreError::Repository(error) if is_of_copy(&error) => chain(&error),
            error => return Err(error),
        };
        let length = length_of(blob);
        let mut found = AlignedBuffer::zeroed(length);
        for range in blob.positions().filter_map(|position| ByteRange::new(position, length as u64)) {
            // The sink may hold it there, and at another place not.
            if !self.work.is_present(range.offset(), &blob.id, &mut found) {
                self.leave_hole(range, blob.id, Some(blob.location.pack), &reason)?;
            }
        }
        self.dealt_with(blob);
        Ok(())
    }

    /// Writes zeros where a blob belongs that is lost, and takes that down.
    fn leave_hole(&self, range: ByteRange, blob: Id, pack: Option<Id>, reason: &str) -> Result<(), RestoreError> {
        self.write_zeros(range)?;
        // Where holes are an error, the plan has none.
        if let Some(holes) = &self.work.holes {
            holes.add(range, blob, pack, reason.to_owned());
        }
        Ok(())
    }

    /// Counts a blob as written everywhere.
    fn dealt_with(&self, blob: &Occurrences<'_>) {
        let bytes = length_of(blob) as u64 * blob.positions().count() as u64;
        self.work.progress.done(bytes);
        self.work.tally.data_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Writes the decoded blob everywhere it goes.
    fn write(&self, blob: &Occurrences<'_>, data: &[u8]) -> Result<(), RestoreError> {
        for position in blob.positions() {
            for part in parts(position, data) {
                match part {
                    Part::Data(range) => self.write_data(range, within(data, position, range))?,
                    Part::Zeros(range) if self.work.target.wants_zeros() => self.write_zeros(range)?,
                    Part::Zeros(_) => {}
                }
            }
        }
        self.dealt_with(blob);
        Ok(())
    }

    fn write_data(&self, range: ByteRange, data: &[u8]) -> Result<(), RestoreError> {
        self.work.sink.write_at(range.offset(), data).map_err(|source| RestoreError::Write { range, source })?;
        self.work.progress.moved(range.length());
        Ok(())
    }

    fn write_zeros(&self, range: ByteRange) -> Result<(), RestoreError> {
        self.work.sink.write_zeros(range).map_err(|source| RestoreError::Write { range, source })
    }
}

fn length_of(blob: &Occurrences<'_>) -> usize {
    blob.location.plain_length() as usize
}

fn within(data: &[u8], position: u64, range: ByteRange) -> &[u8] {
    &data[(range.offset() - position) as usize..(range.end() - position) as usize]
}

/// A part of a blob at its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Data(ByteRange),
    Zeros(ByteRange),
}

/// Tells data and zeros at `position` apart, in steps of the grid of [`HOLE_BYTES`]; neighbours of a kind are one part.
fn parts(position: u64, data: &[u8]) -> impl Iterator<Item = Part> {
    let end = position + data.len() as u64;
    let step_at = move |start: u64| {
        let step_end = (start - start % HOLE_BYTES).saturating_add(HOLE_BYTES).min(end);
        ByteRange::between(start, step_end).map(|range| (range, zeros::is_zero(within(data, position, range))))
    };
    let mut next = step_at(position);
    std::iter::from_fn(move || {
        let (first, is_zero) = next?;
        let mut until = first.end();
        next = step_at(until);
        while let Some((range, _)) = next.filter(|&(_, kind)| kind == is_zero) {
            until = range.end();
            next = step_at(until);
        }
        let range = ByteRange::between(first.offset(), until)?;
        Some(if is_zero { Part::Zeros(range) } else { Part::Data(range) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_cover_the_blob_and_leave_out_only_zeros(position in 0_u64..1 << 20, runs in proptest::collection::vec((0_usize..100_000, 0_u8..2), 0..12)) {
            let data: Vec<u8> = runs.iter().flat_map(|&(length, value)| std::iter::repeat_n(value, length)).collect();
            let mut at = position;
            for part in parts(position, &data) {
                let range = match part {
                    Part::Data(range) => range,
                    Part::Zeros(range) => {
                        prop_assert!(within(&data, position, range).iter().all(|&byte| byte == 0));
                        range
                    }
                };
                prop_assert_eq!(range.offset(), at);
                at = range.end();
            }
            prop_assert_eq!(at, position + data.len() as u64);
        }
    }
}
