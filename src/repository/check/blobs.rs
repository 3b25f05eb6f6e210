//! The blobs of a pack, opened and hashed many at a time, which is several times as fast as one after the other.
//!
//! A batch takes [`BATCH_BYTES`] of memory for sealed bytes and as much for plain ones. A blob that alone is longer (a list of files, or
//! another program's chunk) is opened as a stream.

use crate::hash::sha256_many;
use crate::repository::blob::{BlobLocation, PackRecord, PackedBlob};
use crate::repository::crypto::{OVERHEAD, Sealer};
use crate::repository::damage::Damage;
use crate::repository::id::Id;
use crate::repository::pack::open_blob_unhashed;
use crate::repository::tree::verify_blob;
use crate::scratch::{ScratchError, Spill};

/// Plain bytes that are hashed together: sixteen chunks of the smallest size, as many as the widest kernel has lanes.
const BATCH_BYTES: usize = 4 << 20;

/// Those of a pack's `bytes` that are not what their `record` says, and why.
///
/// # Errors
/// [`ScratchError`] when the bytes cannot be read.
pub(super) fn damaged_blobs<'a>(
    sealer: &Sealer,
    record: &'a PackRecord,
    bytes: &Spill,
) -> Result<Vec<(&'a PackedBlob, Damage)>, ScratchError> {
    let mut damaged = Vec::new();
    let mut batch = Batch { sealer, bytes, sealed: Vec::new(), plain: vec![0; BATCH_BYTES], filled: 0, opened: Vec::new() };
    for blob in &record.blobs {
        let location = location(record, blob);
        if location.plain_length() as usize > BATCH_BYTES || blob.length as usize > BATCH_BYTES + OVERHEAD {
            damaged.extend(verify_blob(sealer, &blob.id, &location, bytes)?.map(|damage| (blob, damage)));
            continue;
        }
        if batch.filled + location.plain_length() as usize > BATCH_BYTES {
            damaged.extend(batch.hash());
        }
        damaged.extend(batch.open(blob, &location)?.map(|damage| (blob, damage)));
    }
    damaged.extend(batch.hash());
    Ok(damaged)
}

fn location(record: &PackRecord, blob: &PackedBlob) -> BlobLocation {
    BlobLocation { pack: record.id, offset: blob.offset, length: blob.length, uncompressed_length: blob.uncompressed_length }
}

/// Blobs that are open and not hashed yet.
struct Batch<'a, 'b> {
    sealer: &'b Sealer,
    bytes: &'b Spill,
    sealed: Vec<u8>,
    plain: Vec<u8>,
    /// How much of `plain` is taken.
    filled: usize,
    /// Each with where it begins there.
    opened: Vec<(usize, &'a PackedBlob)>,
}

impl<'a> Batch<'a, '_> {
    /// Opens a blob for which there is room; says what is wrong with it.
    fn open(&mut self, blob: &'a PackedBlob, location: &BlobLocation) -> Result<Option<Damage>, ScratchError> {
        if location.end() > self.bytes.len() {
            return Ok(Some(Damage::TooShort));
        }
        self.sealed.resize(blob.length as usize, 0);
        self.bytes.read_at(blob.offset.into(), &mut self.sealed)?;
        let end = self.filled + location.plain_length() as usize;
        match open_blob_unhashed(self.sealer, location, &mut self.sealed, &mut self.plain[self.filled..end]) {
            Ok(()) => {
                self.opened.push((self.filled, blob));
                self.filled = end;
                Ok(None)
            }
            Err(damage) => Ok(Some(damage)),
        }
    }

    /// Hashes what is open, and says which of it is not what its id says. The batch is empty then.
    fn hash(&mut self) -> Vec<(&'a PackedBlob, Damage)> {
        let ends = self.opened.iter().skip(1).map(|(start, _)| *start).chain([self.filled]);
        let inputs: Vec<&[u8]> = self.opened.iter().zip(ends).map(|((start, _), end)| &self.plain[*start..end]).collect();
        let mut digests = vec![[0; Id::LENGTH]; inputs.len()];
        sha256_many(&inputs, &mut digests);
        let found = digests.into_iter().map(Id::from_bytes);
        self.filled = 0;
        let hashed = self.opened.drain(..).zip(found);
        hashed
            .filter(|((_, blob), found)| blob.id != *found)
            .map(|((_, blob), found)| (blob, Damage::WrongHash { found }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::blob::BlobKind;
    use crate::repository::crypto::Secrets;
    use crate::repository::pack::{Compressor, PackBuilder, Verification};
    use crate::scratch::Scratch;

    /// Does not compress, and differs for each number.
    fn plain(number: usize, length: usize) -> Vec<u8> {
        let mut state = number as u64 + 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn damage_is_found_in_each_batch_and_in_what_is_longer_than_one_and_in_nothing_else() {
        let sealer = Sealer::new(Secrets::random().unwrap());
        let mut builder = PackBuilder::new(sealer.clone(), BlobKind::Data, 64 << 20, Verification::Skip);
        let mut compressor = Compressor::new(3).unwrap();
        let lengths = [1, 1 << 20, 3 << 20, (1 << 20) + 1, 100, 5 << 20, 4 << 20, 7];
        for (number, &length) in lengths.iter().enumerate() {
            let mut plain = plain(number, length);
            if number == 3 {
                plain.fill(7);
            }
            builder.add(Id::of(&plain), &plain, &mut compressor).unwrap();
        }
        let pack = builder.finish().unwrap().unwrap();
        let blobs = &pack.record.blobs;
        let spilled = |bytes: &[u8]| {
            let mut spill = Spill::new(&Scratch::default());
            spill.append(bytes).unwrap();
            spill
        };
        let damaged = |record: &PackRecord, bytes: &[u8]| -> Vec<Id> {
            damaged_blobs(&sealer, record, &spilled(bytes)).unwrap().into_iter().map(|(blob, _)| blob.id).collect()
        };
        assert_eq!(damaged(&pack.record, &pack.bytes), []);
        for blob in blobs {
            let mut bytes = pack.bytes.to_vec();
            bytes[(blob.offset + blob.length / 2) as usize] ^= 1;
            assert_eq!(damaged(&pack.record, &bytes), [blob.id]);
            // It opens, and is another's.
            let mut record = pack.record.clone();
            let renamed = record.blobs.iter_mut().find(|other| other.id == blob.id).unwrap();
            renamed.id = Id::of(b"another");
            assert_eq!(damaged(&record, &pack.bytes), [Id::of(b"another")]);
        }
        let cut = &pack.bytes[..blobs[6].offset as usize + 100];
        assert_eq!(damaged(&pack.record, cut), [blobs[6].id, blobs[7].id]);
    }
}
