//! What the sink holds already, in a [partial](Target::Partial) target.
//!
//! Every place of a blob is read and hashed, as many at once as the worker's memory holds; the blob is there if all of them have its
//! id. So nothing counts that somebody says was written: bytes at another place, of another image or of nothing known are only what is
//! written over. Zeros are told apart before they are hashed: a target of which nothing was written yet costs the reading alone.
//!
//! What cannot be read is not there. It is fetched and written, and it is the write that fails if it must.

use std::sync::Arc;

use super::{Target, Work, Worker, length_of};
use crate::block::buffer::ALIGNMENT;
use crate::repository::Id;
use crate::transfer::restore::error::RestoreError;
use crate::transfer::restore::plan::{Request, Window};
use crate::transfer::{hash, zeros};

/// A place of a blob that was read.
struct Place {
    /// Where its bytes are in the worker's memory, and how many.
    at: usize,
    length: usize,
    /// The number of the blob in its request.
    blob: usize,
    id: Id,
}

impl Worker {
    /// Finds out which blobs of a request the sink lacks at one of their places. The others are done with.
    pub(super) fn look(&mut self, request: &Request) -> Result<Arc<Window>, RestoreError> {
        let mut is_missing = vec![false; request.blobs().count()];
        let (mut batch, mut filled) = (Vec::new(), 0);
        for (number, blob) in request.blobs().enumerate() {
            let length = length_of(&blob);
            for position in blob.positions() {
                self.check_stop()?;
                if filled + length > self.plain.len() {
                    self.compare(&mut batch, &mut is_missing);
                    filled = 0;
                }
                // One place is enough.
                if is_missing[number] {
                    break;
                }
                let plain = self.plain.get_mut(filled..filled + length);
                if plain.is_some_and(|plain| self.work.holds_data(position, plain)) {
                    batch.push(Place { at: filled, length, blob: number, id: blob.id });
                    filled = (filled + length).next_multiple_of(ALIGNMENT);
                } else {
                    is_missing[number] = true;
                }
            }
        }
        self.compare(&mut batch, &mut is_missing);
        for (blob, is_missing) in request.blobs().zip(&is_missing) {
            if !is_missing {
                self.work.tally.present(length_of(&blob) as u64 * blob.positions().count() as u64);
                self.dealt_with(&blob);
            }
        }
        Ok(request.narrowed(&is_missing))
    }

    /// Hashes the places of a batch, which is empty then, and takes down which blobs are not there.
    fn compare(&mut self, batch: &mut Vec<Place>, is_missing: &mut [bool]) {
        batch.retain(|place| !is_missing[place.blob]);
        let inputs: Vec<&[u8]> = batch.iter().map(|place| &self.plain[place.at..place.at + place.length]).collect();
        hash::sha256_many(&inputs, &mut self.ids);
        for (place, found) in batch.drain(..).zip(&self.ids) {
            is_missing[place.blob] |= place.id != *found;
        }
    }
}

impl Work {
    /// Whether the sink is partial and holds a blob at this place, which is as long as `buffer`.
    pub(super) fn is_present(&self, position: u64, blob: &Id, buffer: &mut [u8]) -> bool {
        let is_present = self.target == Target::Partial && self.holds_data(position, buffer) && Id::of(buffer) == *blob;
        if is_present {
            self.tally.present(buffer.len() as u64);
        }
        is_present
    }

    /// Fills `buffer` with what the sink holds. False when that is zeros, or cannot be read.
    fn holds_data(&self, position: u64, buffer: &mut [u8]) -> bool {
        match self.sink.read_back(position, buffer) {
            Ok(()) => !zeros::is_zero(buffer),
            Err(error) => {
                tracing::warn!(position, bytes = buffer.len(), %error, "a part of the target cannot be read; it is written anew");
                false
            }
        }
    }
}
