//! Giving back the space of zeros, in the background.
//!
//! A volume that is filled as a raw device (a restore by a backup program's mover, above all) gets the zeros of its source written like
//! anything else, and takes all its size where the source was sparse. So after the first time that it was given out so, when nobody uses it any
//! more, its stored ranges are read once, and those that hold nothing but zeros give their space back: holes in a file, unmapped blocks of a
//! thin device. What is read there is zeros before and after, so nobody can tell the difference, and no step needs an intent:
//!
//! | interrupted | what is there | what follows |
//! |---|---|---|
//! | before, between or after any pieces | the same content, part of the space given back | the record still says [`Zeros::Kept`]: at the next start, or when the volume is next let go of, it begins anew |
//! | after the last, before the record | all of it given back | one more pass, which finds nothing |
//!
//! * *Only while nobody can write to it.* The volume's lock is held all the time, in the yielding way, and no device may be attached: so
//!   no writer comes while a piece is between its reading and its giving back. Whoever wants the volume (to attach, cut, copy, grow
//!   or delete it) makes this give way within a piece, and it is tried again [`RETRY`] later unless the volume is attached then.
//! * *Not of a copy within the pool.* Its zeros are its source's, with which it shares their space: nothing would come free, and all of the
//!   source would be read, of a copy that a backup program makes to read it once.
//! * *Once.* Later zeros are what the volume's user wrote on purpose, or will write again.
//! * A snapshot that shares the space keeps it. A cut afterwards reports these ranges as changed, which they may be.
//! * Nothing waits for it, and its failure is a line in the log. What it freed is too.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::background::VolumeQueue;
use super::pool::OwnedPool;
use crate::block::{AlignedBuffer, BlockSource, FileSource};
use crate::failpoint;
use crate::pool::PoolError;
use crate::pool::locks::{Key, Yielding};
use crate::pool::record::{Volume, Zeros};
use crate::types::error::chain;
use crate::types::{Access, ByteRange, Object, VolumeId};

/// Bytes read at once, or a granule of the pool if that is more. Whoever wants the volume waits for no more than this.
const PIECE: u64 = 4 << 20;
/// When work that gave way is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What one pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Nothing is to be given back: it was done, or there is no such volume.
    NotDue,
    /// The volume is in use.
    InUse,
    /// It gave way, or was stopped.
    Interrupted,
    /// All was looked at, and so many bytes were given back.
    Done {
        /// Bytes that held nothing but zeros.
        bytes: u64,
    },
}

impl OwnedPool {
    /// Gives the space of a volume's zeros back, if that is due and nobody uses it: soon, in the background. Returns at once.
    pub fn give_zeros_back_soon(&self, volume: VolumeId) {
        if let Some(zeros) = &self.zeros {
            zeros.push(volume);
        }
    }

    /// Starts the work, with what an earlier process left. It holds a reference to the pool that has no threads of its own.
    pub(super) fn start_zeros(&self) -> Result<VolumeQueue, PoolError> {
        let pool = self.shared();
        let zeros = VolumeQueue::start("pool-zeros", move |arriving, stop| pool.give_zeros_back(arriving, stop));
        zeros.map_err(|error| PoolError::io("start to give zeros back", error))
    }

    fn give_zeros_back(&self, arriving: &Receiver<VolumeId>, stop: &AtomicBool) {
        let mut waiting: VecDeque<VolumeId> = match self.catalogue.volumes() {
            Ok(volumes) => volumes.iter().filter(|volume| is_due(volume)).map(|volume| volume.id).collect(),
            Err(error) => {
                tracing::warn!(pool = %self.id(), error = %chain(&error), "it is not known which volumes have zeros to give back");
                VecDeque::new()
            }
        };
        let mut pause = false;
        while !stop.load(Ordering::Acquire) {
            let next = match (waiting.pop_front(), pause) {
                (Some(volume), false) => volume,
                (Some(volume), true) => {
                    waiting.push_front(volume);
                    match arriving.recv_timeout(RETRY) {
                        Ok(volume) => volume,
                        Err(RecvTimeoutError::Timeout) => {
                            pause = false;
                            continue;
                        }
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
                (None, _) => match arriving.recv() {
                    Ok(volume) => volume,
                    Err(_disconnected) => return,
                },
            };
            waiting.retain(|volume| *volume != next);
            match self.give_back_zeros_of(next, stop) {
                Ok(Pass::Interrupted) => {
                    waiting.push_back(next);
                    pause = true;
                }
                Ok(Pass::NotDue | Pass::InUse | Pass::Done { .. }) => {}
                Err(error) => tracing::warn!(volume = %next, error = %chain(&error), "a volume's zeros keep their space"),
            }
        }
    }

    /// One pass over a volume, until `stop` is set or somebody wants the volume.
    ///
    /// # Errors
    /// [`PoolError::Io`], [`PoolError::Catalogue`]: part may have been given back, and the rest still is to be.
    pub fn give_back_zeros_of(&self, id: VolumeId, stop: &AtomicBool) -> Result<Pass, PoolError> {
        let object = Object::Volume(id);
        let lock = match self.locks.lock_yielding(Key::Object(object)) {
            Ok(lock) => lock,
            Err(PoolError::Busy(_)) => return Ok(Pass::Interrupted),
            Err(error) => return Err(error),
        };
        let Some(volume) = self.catalogue.volume(id)?.filter(is_due) else { return Ok(Pass::NotDue) };
        if self.check_sound(object).is_err() {
            return Ok(Pass::NotDue);
        }
        if self.attachment(object)?.is_some() {
            return Ok(Pass::InUse);
        }
        let before = self.pool.object_usage(object)?.allocated;
        let Some(bytes) = self.scan_for_zeros(&volume, &lock, stop)? else { return Ok(Pass::Interrupted) };
        self.catalogue.commit("zeros_given_back", |change| {
            let Some(mut volume) = change.volume(id)? else { return Ok(()) };
            volume.history.zeros = Zeros::GivenBack;
            change.put_volume(&volume)
        })?;
        let after = self.pool.object_usage(object)?.allocated;
        tracing::info!(volume = %id, allocated_before = before, allocated_after = after, zeros = bytes,
            "the zeros of a volume that was filled as a raw device have given their space back");
        Ok(Pass::Done { bytes })
    }

    /// Reads what is stored and gives back what is zero; the bytes of that, or nothing when it was interrupted.
    fn scan_for_zeros(&self, volume: &Volume, lock: &Yielding, stop: &AtomicBool) -> Result<Option<u64>, PoolError> {
        let object = Object::Volume(volume.id);
        let io = |error| PoolError::io(format!("read {object}"), error);
        // Dropped before the lock is: a thin device goes with its last descriptor.
        let file = self.pool.open(object, Access::ReadWrite)?;
        let size = volume.size.bytes();
        let source = FileSource::new(file.try_clone().map_err(io)?, size, volume.logical_block_size).map_err(io)?;
        let granule = self.pool.granule();
        let piece = PIECE.next_multiple_of(granule);
        let mut buffer = AlignedBuffer::zeroed(usize::try_from(piece).map_err(|error| io(std::io::Error::other(error)))?);
        let mut given_back = 0_u64;
        let mut position = 0;
        for stored in self.pool.stored(volume.id)? {
            let stored = stored.map_err(|error| PoolError::io(format!("list what is stored of {object}"), error))?;
            position = position.max(stored.offset() / granule * granule);
            let end = stored.end().next_multiple_of(granule).min(size);
            while position < end {
                if stop.load(Ordering::Acquire) || lock.is_wanted() {
                    return Ok(None);
                }
                let length = piece.min(end - position);
                let read = &mut buffer[..usize::try_from(length).unwrap_or(usize::MAX)];
                source.read_at(position, read).map_err(io)?;
                for zeros in zero_runs(read, granule) {
                    let Some(range) = ByteRange::new(position + zeros.offset(), zeros.length()) else { continue };
                    failpoint::around("pool.give_back", || self.pool.give_back(&file, range))?;
                    given_back += range.length();
                }
                position += length;
            }
        }
        // What was given back stays so: a record that says it was done should be right after a power cut too.
        file.sync_all().map_err(io)?;
        Ok(Some(given_back))
    }
}

/// A copy within the pool is never due: nobody filled it.
fn is_due(volume: &Volume) -> bool {
    volume.history.zeros == Zeros::Kept && volume.source.is_none()
}

/// The runs of granules that are all zeros; the last granule may be cut short.
fn zero_runs(bytes: &[u8], granule: u64) -> Vec<ByteRange> {
    let step = usize::try_from(granule).unwrap_or(usize::MAX);
    let mut runs: Vec<ByteRange> = Vec::new();
    let mut offset = 0_u64;
    for piece in bytes.chunks(step) {
        let length = piece.len() as u64;
        if is_zero(piece) {
            match runs.last_mut() {
                Some(last) if last.end() == offset => {
                    if let Some(longer) = ByteRange::new(last.offset(), last.length() + length) {
                        *last = longer;
                    }
                }
                _ => runs.extend(ByteRange::new(offset, length)),
            }
        }
        offset += length;
    }
    runs
}

/// By comparing the bytes with themselves, one further: as fast as memory.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|first| *first == 0) && bytes[1.min(bytes.len())..] == bytes[..bytes.len().saturating_sub(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_zeros_are_found_by_whole_granules() {
        let mut bytes = vec![0_u8; 40];
        let range = |offset, length| ByteRange::new(offset, length).unwrap();
        assert_eq!(zero_runs(&bytes, 16), [range(0, 40)]);
        bytes[17] = 1;
        assert_eq!(zero_runs(&bytes, 16), [range(0, 16), range(32, 8)]);
        bytes[39] = 1;
        assert_eq!(zero_runs(&bytes, 16), [range(0, 16)]);
        assert_eq!(zero_runs(&[], 16), []);
        bytes[0] = 1;
        assert_eq!(zero_runs(&bytes, 16), []);
    }

    #[test]
    fn one_byte_anywhere_is_seen() {
        for at in [0, 1, 511, 4094, 4095] {
            let mut bytes = vec![0_u8; 4096];
            assert!(is_zero(&bytes));
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes), "{at}");
        }
        assert!(is_zero(&[]) && is_zero(&[0]) && !is_zero(&[1]) && !is_zero(&[1, 1]));
    }
}
