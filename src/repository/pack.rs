//! Packs: many sealed blobs in one object.
//!
//! A pack is the sealed blobs one after another without gaps, then the sealed header, then the header's sealed length as four
//! bytes, low first. The header has an entry for each blob: its type (0 data, 1 tree; 2 more when compressed), its sealed
//! length, its plain length if compressed, and its id. A pack is named by its hash, so it is made whole in memory.
//!
//! A blob is copied as seldom as possible: it is compressed from where it was read into the pack's body, sealed there in place,
//! and verified from there: authenticated in place, decrypted into a buffer as large as it is when compressed, decompressed and
//! compared. The buffers are the worker's and are used for every blob.
//!
//! Everything here computes and nothing waits: it belongs on worker threads.

mod compressor;
mod header;
mod open;

use std::num::NonZeroU32;

use bytes::Bytes;

use super::blob::{BlobKind, PackRecord, PackedBlob};
use super::crypto::{OVERHEAD, Sealer, begin};
use super::damage::Damage;
use super::error::PackError;
use super::id::Id;
use header::{COMPRESSED_ENTRY_BYTES, MAX_ENTRIES, MAX_HEADER_BYTES};
use open::decompress;

pub use compressor::Compressor;
pub use header::read_header;
pub(super) use header::{HeaderAtEnd, LENGTH_BYTES, expected_bytes, header_of, read_header_at_end, read_header_of_end};
pub use open::{open_blob, open_blob_unhashed};

/// Room that a pack has beyond its target, so that its last blob can be compressed in place without moving the others: more than
/// zstd may want beyond the length of a blob of 8 MiB.
const COMPRESSION_ROOM: usize = 64 << 10;
/// Offsets have 32 bits; the room beyond this is for the header.
const MAX_BODY_BYTES: u64 = (u32::MAX as u64) - (MAX_HEADER_BYTES + LENGTH_BYTES) as u64;

/// Whether a sealed blob is decoded again before it may leave the machine, and the plain bytes hashed again. Headers of packs, index
/// files and snapshots, which are short, are always decoded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verification {
    /// Decodes and compares with what was given, which must still hash to its id: catches memory or a processor that err between hashing
    /// and sealing, before they damage a backup. restic does the same.
    #[default]
    Decode,
    /// Trusts the memory and the processor of this machine.
    Skip,
}

/// Fills one pack. Holds blobs of one kind, as version 2 demands. One worker uses it at a time.
pub struct PackBuilder {
    sealer: Sealer,
    kind: BlobKind,
    target_bytes: usize,
    verification: Verification,
    body: Vec<u8>,
    blobs: Vec<PackedBlob>,
}

impl PackBuilder {
    /// An empty pack for blobs of `kind`, expected to grow to `target_bytes`.
    pub fn new(sealer: Sealer, kind: BlobKind, target_bytes: usize, verification: Verification) -> Self {
        Self::within(Vec::new(), sealer, kind, target_bytes, verification)
    }

    /// As [`PackBuilder::new`], in memory that was used before: new memory costs time when it is first written to.
    pub fn within(memory: Vec<u8>, sealer: Sealer, kind: BlobKind, target_bytes: usize, verification: Verification) -> Self {
        let mut body = memory;
        body.clear();
        body.reserve_exact(Self::capacity(target_bytes));
        Self { sealer, kind, target_bytes, verification, body, blobs: Vec::new() }
    }

    /// Bytes of memory that a pack of `target_bytes` takes.
    pub const fn capacity(target_bytes: usize) -> usize {
        target_bytes + COMPRESSION_ROOM
    }

    /// Adds the blob `plain`, whose id the caller has computed: compressed if that makes it smaller. Returns the sealed length
    /// in bytes. That `plain` still has this id is the caller's to verify before the pack is stored ([`verify_ids`]): several at once
    /// are faster.
    ///
    /// # Errors
    /// [`PackError::TooLarge`] when it does not fit into this pack any more: finish it first. [`PackError::Corrupted`] when the
    /// sealed blob does not decode again. On any error the pack is as before.
    pub fn add(&mut self, id: Id, plain: &[u8], compressor: &mut Compressor) -> Result<u32, PackError> {
        self.make_room(plain.len())?;
        let (start, blobs) = (begin(&mut self.body), self.blobs.len());
        let result = self.add_at(start, id, plain, compressor);
        if result.is_err() {
            self.blobs.truncate(blobs);
            self.body.truncate(start);
        }
        result.map(|()| (self.body.len() - start) as u32)
    }

    fn add_at(&mut self, start: usize, id: Id, plain: &[u8], compressor: &mut Compressor) -> Result<(), PackError> {
        let uncompressed_length = compressor.append(plain, &mut self.body)?;
        self.seal(id, start, uncompressed_length)?;
        match self.verification {
            Verification::Decode => self.verify_last(plain, compressor).map_err(|damage| PackError::Corrupted { id, damage }),
            Verification::Skip => Ok(()),
        }
    }

    /// Adds a blob as another pack of the repository holds it, where the caller has verified it.
    ///
    /// # Errors
    /// [`PackError::TooLarge`] when it does not fit into this pack any more.
    pub(super) fn add_sealed(&mut self, blob: &PackedBlob, sealed: &[u8]) -> Result<(), PackError> {
        self.make_room(sealed.len())?;
        let too_large = |_| PackError::TooLarge { what: "pack", bytes: self.body.len() as u64 };
        let offset = u32::try_from(self.body.len()).map_err(too_large)?;
        self.body.extend_from_slice(sealed);
        self.blobs.push(PackedBlob { kind: self.kind, offset, ..*blob });
        Ok(())
    }

    /// Fails when a blob of `plain_bytes` does not fit any more.
    fn make_room(&self, plain_bytes: usize) -> Result<(), PackError> {
        if plain_bytes as u64 + OVERHEAD as u64 > MAX_BODY_BYTES {
            return Err(PackError::TooLarge { what: "blob", bytes: plain_bytes as u64 });
        }
        let bytes = (self.body.len() + plain_bytes + OVERHEAD) as u64;
        if bytes > MAX_BODY_BYTES || self.blobs.len() >= MAX_ENTRIES {
            return Err(PackError::TooLarge { what: "pack", bytes });
        }
        Ok(())
    }

    /// Seals what was appended since `start` as the blob `id`.
    fn seal(&mut self, id: Id, start: usize, uncompressed_length: Option<NonZeroU32>) -> Result<(), PackError> {
        self.sealer.finish(&mut self.body, start)?;
        let too_large = |_| PackError::TooLarge { what: "pack", bytes: self.body.len() as u64 };
        let offset = u32::try_from(start).map_err(too_large)?;
        let length = u32::try_from(self.body.len() - start).map_err(too_large)?;
        self.blobs.push(PackedBlob { id, kind: self.kind, offset, length, uncompressed_length });
        Ok(())
    }

    fn verify_last(&self, plain: &[u8], compressor: &mut Compressor) -> Result<(), Damage> {
        let Some(blob) = self.blobs.last() else { return Ok(()) };
        let opened = self.sealer.open_into(&self.body[blob.offset as usize..], &mut compressor.opened)?;
        let decoded = match blob.uncompressed_length {
            None => opened,
            Some(length) => {
                decompress(opened, length.get(), &mut compressor.decoded)?;
                &compressor.decoded
            }
        };
        if decoded == plain { Ok(()) } else { Err(Damage::WrongHash { found: Id::of(decoded) }) }
    }

    /// True when a blob of `plain_bytes` fits below the pack's target even if it does not compress, the header included.
    pub fn fits(&self, plain_bytes: u64) -> bool {
        let entries = (self.blobs.len() + 1) * (OVERHEAD + COMPRESSED_ENTRY_BYTES) + OVERHEAD + LENGTH_BYTES;
        (self.body.len() + entries) as u64 + plain_bytes <= self.target_bytes as u64
    }

    /// Sealed bytes so far.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// True when it has reached its target or can hold no more entries.
    pub fn is_full(&self) -> bool {
        self.body.len() >= self.target_bytes || self.blobs.len() >= MAX_ENTRIES
    }

    /// Appends the sealed header and names the pack. `None` when nothing was added.
    pub fn finish(self) -> Result<Option<Pack>, PackError> {
        Ok(self.finish_unnamed()?.map(|pack| {
            let id = Id::of(pack.bytes());
            pack.named(id)
        }))
    }

    /// Appends the sealed header, and leaves it to the caller to hash the pack: several at once are faster. `None` when nothing
    /// was added.
    pub fn finish_unnamed(mut self) -> Result<Option<UnnamedPack>, PackError> {
        if self.blobs.is_empty() {
            return Ok(None);
        }
        let header = header_of(&self.sealer, &self.blobs)?;
        self.body.extend_from_slice(&header);
        Ok(Some(UnnamedPack { bytes: self.body, blobs: self.blobs }))
    }
}

/// A pack that is whole and has yet to be named by the hash of its bytes.
#[derive(Debug)]
pub struct UnnamedPack {
    bytes: Vec<u8>,
    blobs: Vec<PackedBlob>,
}

impl UnnamedPack {
    /// All bytes of the pack, to be hashed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The pack under the name `id`, which is the hash of [`UnnamedPack::bytes`]. A pack under another name would be found
    /// damaged by its first reader.
    pub fn named(self, id: Id) -> Pack {
        Pack { record: PackRecord { id, blobs: self.blobs }, bytes: self.bytes.into() }
    }
}

/// A finished pack, ready to be stored.
#[derive(Debug, Clone)]
pub struct Pack {
    /// Name and contents, as they go into the index.
    pub record: PackRecord,
    pub bytes: Bytes,
}

impl Pack {
    /// The record, and the pack's memory for another one, if nobody else holds it.
    pub fn recycle(self) -> (PackRecord, Option<Vec<u8>>) {
        let memory = self.bytes.is_unique().then(|| Vec::from(self.bytes));
        (self.record, memory)
    }
}

/// Makes sure that what was packed as these blobs still has the ids it was packed under, now that it has been packed: `found` are its
/// hashes of now. A bit that flipped after the first hash would be stored under a wrong id, and taken for the right blob for ever.
pub fn verify_ids(packed: &[Id], found: &[Id]) -> Result<(), PackError> {
    match packed.iter().zip(found).find(|(id, found)| id != found) {
        Some((&id, &found)) => Err(PackError::Corrupted { id, damage: Damage::WrongHash { found } }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
