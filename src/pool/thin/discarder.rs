//! Deletion with discards, in the background: what becomes of deleted space in a pool that says so
//! ([`DeletedSpace::Discarded`](crate::pool::properties::DeletedSpace)).
//!
//! The kernel's deletion of a thin device tells the disk nothing. A discard *of the device* does: the kernel takes the mappings away, and
//! passes down those blocks that no other device has a share in, as their counts say at that moment. So what a snapshot or a copy still has
//! is never hit, whatever is discarded here. Discarded is only what a device has alone: the rest would be work for nothing, and would take
//! metadata, of which what is shared has to be copied first.
//!
//! In order, each step durable before the next:
//!
//! 1. one commit of the catalogue forgets the object, or keeps the map of an anchor in its place, and notes that its device is to be
//!    deleted. Whoever asked is answered then;
//! 2. the thread here finds what the device has alone, and discards it piece by piece;
//! 3. the device is deleted;
//! 4. the note is dropped.
//!
//! A crash between any two leaves the note, by which the next owner goes on: what was discarded is not mapped any more, and a device that
//! is gone was deleted. A power cut may undo the removal of mappings whose discard has reached the disk; they are then of a device that
//! nobody can open any more.
//!
//! * **Bounds.** One call discards [`PIECE`] at most, and after as much as that the thread rests for [`REST`]: 1 GiB a second. To find
//!   what a device has alone costs a walk over all of the pool's metadata, once for each device.
//! * **Given up** are discards, never deletions: where the disk takes none, after an error, and while the pool is short of data or metadata.
//!   Whoever is about to be refused something has what is noted deleted at once ([`Deletions::finish`]).
//! * It ends when the pool is dropped, with the call that runs. A device that resists stays noted, and is tried again each minute.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::health;
use super::metadata::{Found, MetadataGate, WalkError};
use super::thin_devices::ThinDevices;
use crate::block::device;
use crate::dm::metadata::ThinMetadataError;
use crate::dm::units::{DataBlockSize, ThinId};
use crate::dm::{DeviceMapper, Discard, DmError, DmName, PoolMessage};
use crate::failpoint;
use crate::pool::PoolError;
use crate::pool::catalogue::Catalogue;
use crate::pool::record::ThinObject;
use crate::types::error::chain;
use crate::types::poll::{self, Patience};
use crate::types::{Access, ByteRange, RangeStream};

/// Most bytes of one discard: a disk that takes a second for it is not kept from its other work for longer.
const PIECE: u64 = 64 << 20;
/// What a small discard counts as: a disk does some thousands in a second.
const LEAST: u64 = 256 << 10;
/// Rest after [`PIECE`].
const REST: Duration = Duration::from_millis(64);
/// Until what failed is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// Longest wait for a device without a name. One that goes with its last descriptor loses its name first, and is then taken apart
/// by the kernel in the background: some grace periods of tens of milliseconds each, more where processors are scarce. The kernel
/// offers no event for it.
const TAKEN_APART: Patience = Patience { limit: Duration::from_secs(5), every: Duration::from_millis(10) };

/// What deletes the thin devices of a pool.
#[derive(Clone)]
pub(super) struct Deletions {
    pub(super) dm: Arc<DeviceMapper>,
    pub(super) pool: DmName,
    pub(super) devices: Arc<ThinDevices>,
    pub(super) gate: Arc<MetadataGate>,
    pub(super) catalogue: Catalogue,
    pub(super) block_size: DataBlockSize,
}

/// How the discards of a device ended.
enum Discards {
    /// All that it had alone, in bytes.
    Done(u64),
    /// They were given up, and why.
    GivenUp(String),
    /// The pool is being dropped.
    Stopped,
}

impl Deletions {
    /// Deletes a thin device; absent is fine. Waits for the kernel to be done with a device that went with its last descriptor.
    ///
    /// # Errors
    /// Of the pool: [`PoolError::InUse`], [`PoolError::Io`]; of the kernel, which took the message or did not.
    pub(super) fn delete(&self, thin: &ThinObject) -> Result<Result<(), DmError>, PoolError> {
        let delete = || match self.dm.message(&self.pool, &PoolMessage::Delete { id: thin.id }) {
            Ok(()) | Err(DmError::MissingThin(_)) => Ok(Some(Ok(()))),
            Err(DmError::Busy(_)) => self.devices.check_none(thin.object).map(|()| None),
            Err(error) => Ok(Some(Err(error))),
        };
        let busy = || PoolError::InUse { object: thin.object, by: "its device".to_owned() };
        poll::until(TAKEN_APART, delete)?.ok_or_else(busy)
    }

    /// Deletes what is noted without discards, but for the device that is being discarded just now.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`]; [`PoolError::Io`] when the pool takes no changes.
    pub(super) fn finish(&self) -> Result<(), PoolError> {
        for thin in self.catalogue.deleted_thin()? {
            let message = PoolMessage::Delete { id: thin.id };
            match self.dm.message(&self.pool, &message) {
                Ok(()) | Err(DmError::MissingThin(_)) => self.forget(&thin)?,
                Err(DmError::Busy(_)) => {}
                Err(error) => return Err(PoolError::io(format!("send `{message}` to the pool"), io::Error::other(error))),
            }
        }
        Ok(())
    }

    fn forget(&self, thin: &ThinObject) -> Result<(), PoolError> {
        self.catalogue.commit("thin_deleted", |change| change.drop_deleted_thin(thin.id))
    }

    /// Discards and deletes one device; whether the thread may go on.
    fn discard_and_delete(&self, thin: &ThinObject, signals: &Receiver<()>) -> Result<bool, PoolError> {
        let (id, object) = (thin.id.number(), thin.object);
        match self.discard(thin, signals) {
            Ok(Discards::Stopped) => return Ok(false),
            Ok(Discards::Done(bytes)) => tracing::info!(id, %object, bytes, "deleted space was given back to the disk"),
            Ok(Discards::GivenUp(reason)) => tracing::info!(id, %object, reason, "deleted space is not given back to the disk"),
            Err(error) => tracing::warn!(id, %object, error = %chain(&error), "deleted space is not given back to the disk"),
        }
        failpoint::hit("thin.discard.before_delete");
        self.delete(thin)?.map_err(|error| PoolError::io(format!("delete the thin device {id}"), io::Error::other(error)))?;
        failpoint::hit("thin.discard.after_delete");
        self.forget(thin).map(|()| true)
    }

    fn discard(&self, thin: &ThinObject, signals: &Receiver<()>) -> Result<Discards, PoolError> {
        if let Some(reason) = self.hindrance()? {
            return Ok(Discards::GivenUp(reason));
        }
        let found = self.gate.walk(|metadata| {
            let mut found = Found::new();
            match metadata.details(thin.id) {
                Ok(_) => metadata.exclusive(thin.id, &mut |run| found.push(run))?,
                // Deleted by a process that died before it dropped the note.
                Err(ThinMetadataError::MissingDevice(_)) => {}
                Err(error) => return Err(WalkError::from(error)),
            }
            Ok(found)
        })?;
        let mut ranges = found.into_stream(self.block_size)?.peekable();
        if ranges.peek().is_none() {
            return Ok(Discards::Done(0));
        }
        let file = self.devices.open(thin, Access::ReadWrite)?;
        let discards = self.discard_ranges(thin, &file, Box::new(ranges), signals);
        drop(file);
        // The device goes with that descriptor, but not at once.
        self.devices.check_none(thin.object)?;
        discards
    }

    fn discard_ranges(
        &self,
        thin: &ThinObject,
        file: &File,
        ranges: RangeStream,
        signals: &Receiver<()>,
    ) -> Result<Discards, PoolError> {
        let io = |error| PoolError::io(format!("discard what {} had", thin.object), error);
        let (mut done, mut spent) = (0_u64, 0_u64);
        for range in ranges {
            for piece in pieces(range.map_err(io)?, thin.size.bytes()) {
                device::discard(file, piece).map_err(io)?;
                failpoint::hit("thin.discard.piece");
                done = done.saturating_add(piece.length());
                spent = spent.saturating_add(piece.length().max(LEAST));
                if spent < PIECE {
                    continue;
                }
                spent = 0;
                if signals.recv_timeout(REST) == Err(RecvTimeoutError::Disconnected) {
                    return Ok(Discards::Stopped);
                }
                if let Some(reason) = self.hindrance()? {
                    return Ok(Discards::GivenUp(reason));
                }
            }
        }
        Ok(Discards::Done(done))
    }

    /// Why nothing is to be discarded now.
    fn hindrance(&self) -> Result<Option<String>, PoolError> {
        let status = self.dm.thin_pool_status_uncommitted(&self.pool);
        let status = status.map_err(|error| PoolError::io("ask for the status of the pool", io::Error::other(error)))?;
        Ok(match status.running() {
            None => Some("the pool has failed".to_owned()),
            Some(state) if state.discard != Discard::PassedDown => Some("the disk takes no discards".to_owned()),
            Some(_) => health::usage(&status, self.block_size).shortage(),
        })
    }
}

/// A range in pieces, as far as a device of `size` bytes goes: its last block may be cut short.
fn pieces(range: ByteRange, size: u64) -> impl Iterator<Item = ByteRange> {
    let end = range.end().min(size);
    let mut offset = range.offset();
    std::iter::from_fn(move || {
        let piece = ByteRange::new(offset, end.checked_sub(offset)?.min(PIECE))?;
        offset = piece.end();
        Some(piece)
    })
}

/// The thread. Dropping it ends it.
pub(super) struct Discarder {
    signals: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Discarder {
    /// Starts it: it goes on with what earlier processes noted.
    ///
    /// # Errors
    /// [`PoolError::Io`] when no thread can be started.
    pub(super) fn start(deletions: Deletions) -> Result<Self, PoolError> {
        let (signals, received) = mpsc::channel();
        let run = move || {
            let mut told = BTreeSet::new();
            while deletions.work(&received, &mut told) {
                if received.recv_timeout(AGAIN) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("pool-discarder".to_owned()).spawn(run);
        let thread = thread.map_err(|error| PoolError::io("start to discard what is deleted", error))?;
        Ok(Self { signals: Some(signals), thread: Some(thread) })
    }

    /// There is something new to be deleted.
    pub(super) fn wake(&self) {
        if let Some(signals) = &self.signals
            && signals.send(()).is_err()
        {
            tracing::error!("what is deleted is not given back to the disk any more before the next start");
        }
    }
}

impl Deletions {
    /// Deletes what is noted, as far as it can be; whether the thread may go on. `told` has the devices whose failure was told of.
    fn work(&self, signals: &Receiver<()>, told: &mut BTreeSet<ThinId>) -> bool {
        let mut resisted = BTreeSet::new();
        loop {
            let noted = match self.catalogue.deleted_thin() {
                Ok(noted) => noted,
                Err(error) => {
                    tracing::warn!(pool = %self.pool, error = %chain(&error), "what is to be deleted cannot be read");
                    return true;
                }
            };
            let Some(thin) = noted.into_iter().find(|thin| !resisted.contains(&thin.id)) else { return true };
            match self.discard_and_delete(&thin, signals) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    if told.insert(thin.id) {
                        tracing::warn!(object = %thin.object, error = %chain(&error), "what was deleted keeps its space for now");
                    }
                    resisted.insert(thin.id);
                }
            }
        }
    }
}

impl Drop for Discarder {
    fn drop(&mut self) {
        drop(self.signals.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the pool's discarder ended by a panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_is_larger_than_one_call_may_discard_and_none_reaches_beyond_the_device() {
        let of = |offset, length, size| -> Vec<(u64, u64)> {
            let range = ByteRange::new(offset, length).unwrap();
            pieces(range, size).map(|piece| (piece.offset(), piece.length())).collect()
        };
        let mib = |count: u64| count << 20;
        assert_eq!(of(mib(1), mib(2), mib(16)), [(mib(1), mib(2))]);
        assert_eq!(of(0, mib(130), mib(200)), [(0, mib(64)), (mib(64), mib(64)), (mib(128), mib(2))]);
        assert_eq!(of(mib(60), mib(10), mib(64) + 4096), [(mib(60), mib(4) + 4096)]);
        assert_eq!(of(mib(64), mib(1), mib(64)), []);
        assert_eq!(of(mib(65), mib(1), mib(64)), []);
    }
}
