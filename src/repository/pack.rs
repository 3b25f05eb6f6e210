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

use std::io::{self, Cursor, Read};
use std::num::NonZeroU32;

use bytes::Bytes;
use zstd::stream::raw::CParameter;

use super::blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
use super::crypto::{OVERHEAD, Sealer, begin};
use super::error::{Damage, PackError};
use super::id::Id;
use crate::scratch::{ScratchError, Spill};

/// Bytes of a header entry of a blob stored as it is.
const PLAIN_ENTRY_BYTES: usize = 1 + 4 + Id::LENGTH;
/// Bytes of a header entry of a compressed blob.
const COMPRESSED_ENTRY_BYTES: usize = PLAIN_ENTRY_BYTES + 4;
/// Bytes of the length at the end of a pack.
pub(super) const LENGTH_BYTES: usize = 4;
/// Room that a pack has beyond its target, so that its last blob can be compressed in place without moving the others: more than
/// zstd may want beyond the length of a blob of 8 MiB.
const COMPRESSION_ROOM: usize = 64 << 10;
/// Readers refuse headers above 16 MiB.
const MAX_HEADER_BYTES: usize = 16 << 20;
/// Longest blob whose buffer is made before it is decompressed: the longest that exports make.
const EAGER_BYTES: usize = 32 << 20;
const MAX_ENTRIES: usize = (MAX_HEADER_BYTES - OVERHEAD) / COMPRESSED_ENTRY_BYTES;
/// Offsets have 32 bits; what is kept free is for the header.
const MAX_BODY_BYTES: u64 = (u32::MAX as u64) - (MAX_HEADER_BYTES + LENGTH_BYTES) as u64;

/// A reusable zstd compressor of one worker, and its buffers for verification.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    opened: Vec<u8>,
    decoded: Vec<u8>,
}

impl Compressor {
    /// A compressor of the given zstd level (-7 to 22; 1 is the default of exports).
    ///
    /// # Errors
    /// [`PackError::Compressor`] when zstd refuses.
    pub fn new(level: i32) -> Result<Self, PackError> {
        let mut zstd = zstd::bulk::Compressor::new(level).map_err(compressor)?;
        // The code and the hash protect the contents already.
        zstd.set_parameter(CParameter::ChecksumFlag(false)).map_err(compressor)?;
        Ok(Self { zstd, opened: Vec::new(), decoded: Vec::new() })
    }

    /// Appends `plain` to `out`, compressed if that makes it shorter; then its length is returned. After an error, `out` may hold
    /// some of it.
    fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Option<NonZeroU32>, PackError> {
        let start = out.len();
        // With less room zstd would have to look at each step whether it still fits.
        out.reserve(zstd::compress_bound(plain.len()));
        let mut rest = Cursor::new(&mut *out);
        rest.set_position(start as u64);
        let compressed = self.zstd.compress_to_buffer(plain, &mut rest).map_err(compressor)?;
        if compressed < plain.len() {
            return Ok(NonZeroU32::new(plain.len() as u32));
        }
        out.truncate(start);
        out.extend_from_slice(plain);
        Ok(None)
    }
}

pub(super) fn compressor(error: io::Error) -> PackError {
    PackError::Compressor(error.to_string())
}

/// Whether a sealed blob is decoded again before it may leave the machine, and the plain bytes hashed again. Headers of packs, index
/// files and snapshots, which are short, are decoded again whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verification {
    /// Decode and compare with what was given, which must still hash to its id: catches memory or a processor that err between hashing
    /// and sealing, before they damage a backup. restic does the same.
    #[default]
    Decode,
    /// Trust the machine.
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

    /// Sealed bytes so far.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// True when nothing was added.
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// True when it has reached its target or can hold no more entries.
    pub fn is_full(&self) -> bool {
        self.body.len() >= self.target_bytes || self.blobs.len() >= MAX_ENTRIES
    }

    /// Appends the sealed header and names the pack. `None` when nothing was added.
    ///
    /// # Errors
    /// [`PackError::Randomness`] when the header cannot be sealed.
    pub fn finish(self) -> Result<Option<Pack>, PackError> {
        Ok(self.finish_unnamed()?.map(|pack| {
            let id = Id::of(pack.bytes());
            pack.named(id)
        }))
    }

    /// Appends the sealed header, and leaves it to the caller to hash the pack: several at once are faster. `None` when nothing
    /// was added.
    ///
    /// # Errors
    /// [`PackError::Randomness`] when the header cannot be sealed.
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
    /// The whole object, to be hashed.
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
    /// The whole object.
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
///
/// # Errors
/// [`PackError::Corrupted`].
pub fn verify_ids(packed: &[Id], found: &[Id]) -> Result<(), PackError> {
    match packed.iter().zip(found).find(|(id, found)| id != found) {
        Some((&id, &found)) => Err(PackError::Corrupted { id, damage: Damage::WrongHash { found } }),
        None => Ok(()),
    }
}

/// What follows the blobs in a pack: the sealed header and its length. It was opened again and says what it must: without it, no other
/// program could rebuild an index.
pub(super) fn header_of(sealer: &Sealer, blobs: &[PackedBlob]) -> Result<Vec<u8>, PackError> {
    let mut header = Vec::with_capacity(blobs.len() * COMPRESSED_ENTRY_BYTES + OVERHEAD + LENGTH_BYTES);
    let start = begin(&mut header);
    blobs.iter().for_each(|blob| write_entry(&mut header, blob));
    sealer.finish(&mut header, start)?;
    let corrupted = |damage| PackError::CorruptedDocument { what: "header of a pack", damage };
    match read_entries(sealer, &mut header[start..].to_vec()) {
        Ok((read, _)) if read == blobs => {}
        Ok(_) => return Err(corrupted(Damage::Header("it reads otherwise than it was written"))),
        Err(damage) => return Err(corrupted(damage)),
    }
    let length = (header.len() - start) as u32;
    header.extend_from_slice(&length.to_le_bytes());
    Ok(header)
}

fn write_entry(header: &mut Vec<u8>, blob: &PackedBlob) {
    let kind = match blob.kind {
        BlobKind::Data => 0,
        BlobKind::Tree => 1,
    };
    header.push(if blob.uncompressed_length.is_some() { kind + 2 } else { kind });
    header.extend_from_slice(&blob.length.to_le_bytes());
    if let Some(length) = blob.uncompressed_length {
        header.extend_from_slice(&length.get().to_le_bytes());
    }
    header.extend_from_slice(blob.id.as_bytes());
}

/// Bytes that a pack of these blobs must have.
pub(super) fn expected_bytes(blobs: impl Iterator<Item = (u32, Option<NonZeroU32>)>) -> u64 {
    let entry = |compressed: Option<NonZeroU32>| if compressed.is_some() { COMPRESSED_ENTRY_BYTES } else { PLAIN_ENTRY_BYTES };
    let body: u64 = blobs.map(|(length, compressed)| u64::from(length) + entry(compressed) as u64).sum();
    body + (OVERHEAD + LENGTH_BYTES) as u64
}

/// Reads the header out of the bytes of a whole pack.
///
/// # Errors
/// [`Damage`] when it does not open, does not parse, or does not describe the pack without gaps.
pub fn read_header(sealer: &Sealer, pack: &[u8]) -> Result<Vec<PackedBlob>, Damage> {
    let (rest, length) = pack.split_last_chunk::<LENGTH_BYTES>().ok_or(Damage::TooShort)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_HEADER_BYTES {
        return Err(Damage::Header("it is too long"));
    }
    let start = rest.len().checked_sub(length).ok_or(Damage::Header("it is longer than the pack"))?;
    let (blobs, end) = read_entries(sealer, &mut rest[start..].to_vec())?;
    if end as usize == start { Ok(blobs) } else { Err(Damage::Header("the lengths do not add up to the pack's")) }
}

/// As [`read_header`], of a pack whose bytes need not be in memory.
///
/// # Errors
/// [`ScratchError`] when they cannot be read.
pub(super) fn read_header_at_end(sealer: &Sealer, pack: &Spill) -> Result<Result<Vec<PackedBlob>, Damage>, ScratchError> {
    let Some(end) = pack.len().checked_sub(LENGTH_BYTES as u64) else { return Ok(Err(Damage::TooShort)) };
    let mut length = [0; LENGTH_BYTES];
    pack.read_at(end, &mut length)?;
    let length = u32::from_le_bytes(length);
    if length as usize > MAX_HEADER_BYTES {
        return Ok(Err(Damage::Header("it is too long")));
    }
    let Some(start) = end.checked_sub(length.into()) else { return Ok(Err(Damage::Header("it is longer than the pack"))) };
    let mut sealed = vec![0; length as usize];
    pack.read_at(start, &mut sealed)?;
    Ok(read_entries(sealer, &mut sealed).and_then(|(blobs, end)| {
        if u64::from(end) == start { Ok(blobs) } else { Err(Damage::Header("the lengths do not add up to the pack's")) }
    }))
}

/// A header, as far as it lies in the end of a pack.
pub(super) enum HeaderAtEnd {
    /// It says this.
    Read(Vec<PackedBlob>),
    /// The last so many bytes of the pack are needed to read it.
    Needs(u64),
}

/// As [`read_header`], of a pack of `pack_bytes` of which `end` is the end.
///
/// # Errors
/// [`Damage`], as for [`read_header`].
pub(super) fn read_header_of_end(sealer: &Sealer, end: &[u8], pack_bytes: u64) -> Result<HeaderAtEnd, Damage> {
    let (rest, length) = end.split_last_chunk::<LENGTH_BYTES>().ok_or(Damage::TooShort)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_HEADER_BYTES {
        return Err(Damage::Header("it is too long"));
    }
    let whole = (length + LENGTH_BYTES) as u64;
    let start = pack_bytes.checked_sub(whole).ok_or(Damage::Header("it is longer than the pack"))?;
    let Some(at) = rest.len().checked_sub(length) else { return Ok(HeaderAtEnd::Needs(whole)) };
    match read_entries(sealer, &mut rest[at..].to_vec())? {
        (blobs, end) if u64::from(end) == start => Ok(HeaderAtEnd::Read(blobs)),
        _ => Err(Damage::Header("the lengths do not add up to the pack's")),
    }
}

/// The blobs that a sealed header names, and where the last one ends.
fn read_entries(sealer: &Sealer, sealed: &mut [u8]) -> Result<(Vec<PackedBlob>, u32), Damage> {
    let mut entries = &*sealer.open(sealed)?;
    let mut blobs = Vec::with_capacity(entries.len() / PLAIN_ENTRY_BYTES);
    let mut offset = 0_u32;
    while !entries.is_empty() {
        let blob = read_entry(&mut entries, offset).ok_or(Damage::Header("an entry is malformed"))?;
        offset = offset.checked_add(blob.length).ok_or(Damage::Header("the lengths overflow"))?;
        blobs.push(blob);
    }
    Ok((blobs, offset))
}

fn read_entry(entries: &mut &[u8], offset: u32) -> Option<PackedBlob> {
    let (kind, rest) = entries.split_first()?;
    let (kind, compressed) = match kind {
        0 => (BlobKind::Data, false),
        1 => (BlobKind::Tree, false),
        2 => (BlobKind::Data, true),
        3 => (BlobKind::Tree, true),
        _ => return None,
    };
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    if (length as usize) < OVERHEAD {
        return None;
    }
    let (uncompressed_length, rest) = if compressed {
        let (plain, rest) = rest.split_first_chunk::<4>()?;
        (Some(NonZeroU32::new(u32::from_le_bytes(*plain))?), rest)
    } else {
        (None, rest)
    };
    let (id, rest) = rest.split_first_chunk::<{ Id::LENGTH }>()?;
    *entries = rest;
    Some(PackedBlob { id: Id::from_bytes(*id), kind, offset, length, uncompressed_length })
}

/// Opens one blob out of the bytes of its pack: authenticates, decrypts, decompresses to at most its recorded length and
/// compares the hash. `sealed` are the blob's bytes and are clobbered; `plain` is cleared and receives the blob.
///
/// # Errors
/// [`Damage`] when any of that fails; `plain` then holds nothing of use.
pub fn open_blob(
    sealer: &Sealer,
    id: &Id,
    location: &BlobLocation,
    sealed: &mut [u8],
    plain: &mut Vec<u8>,
) -> Result<(), Damage> {
    plain.clear();
    if sealed.len() != location.length as usize {
        return Err(Damage::TooShort);
    }
    let opened = sealer.open(sealed)?;
    match location.uncompressed_length {
        None => plain.extend_from_slice(opened),
        Some(length) => decompress(opened, length.get(), plain)?,
    }
    match Id::of(plain) {
        found if found == *id => Ok(()),
        found => Err(Damage::WrongHash { found }),
    }
}

/// As [`open_blob`], but leaves the hash to the caller, who must compare it before the blob is used: several at once are faster.
/// `plain` must have the blob's recorded length and is filled.
///
/// # Errors
/// [`Damage`] when the blob cannot be authenticated or decompressed, or is not as long as recorded; `plain` then holds nothing of
/// use.
pub fn open_blob_unhashed(sealer: &Sealer, location: &BlobLocation, sealed: &mut [u8], plain: &mut [u8]) -> Result<(), Damage> {
    if sealed.len() != location.length as usize || plain.len() != location.plain_length() as usize {
        return Err(Damage::TooShort);
    }
    let opened = sealer.open(sealed)?;
    match location.uncompressed_length {
        None => plain.copy_from_slice(opened),
        Some(_) => decompress_into(opened, plain)?,
    }
    Ok(())
}

/// Decompresses to exactly `length` bytes, never more. The length comes from the repository: memory for a long one is taken as the
/// bytes come, so that one that is not true costs nothing.
fn decompress(compressed: &[u8], length: u32, plain: &mut Vec<u8>) -> Result<(), Damage> {
    plain.clear();
    if length as usize > EAGER_BYTES {
        let decoder = zstd::stream::read::Decoder::with_buffer(compressed);
        let written = decoder.and_then(|decoder| decoder.take(u64::from(length) + 1).read_to_end(plain));
        return exactly(length as usize, written);
    }
    plain.reserve_exact(length as usize);
    // The buffer may be larger than asked for: the frame's own length is checked afterwards.
    exactly(length as usize, with_decompressor(|context| context.decompress_to_buffer(compressed, plain)))
}

/// Decompresses to exactly as many bytes as `plain` has.
fn decompress_into(compressed: &[u8], plain: &mut [u8]) -> Result<(), Damage> {
    exactly(plain.len(), with_decompressor(|context| context.decompress_to_buffer(compressed, plain)))
}

fn exactly(expected: usize, written: io::Result<usize>) -> Result<(), Damage> {
    match written.map_err(|error| Damage::Compression(error.to_string()))? {
        written if written == expected => Ok(()),
        written => Err(Damage::Compression(format!("{expected} bytes expected, {written} found"))),
    }
}

type Decompressor = zstd::bulk::Decompressor<'static>;

fn with_decompressor(work: impl FnOnce(&mut Decompressor) -> io::Result<usize>) -> io::Result<usize> {
    thread_local! {
        // A context costs 100 KiB and some time to make: one for each worker thread.
        static CONTEXT: std::cell::RefCell<Option<Decompressor>> = const { std::cell::RefCell::new(None) };
    }
    CONTEXT.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(Decompressor::new()?),
        };
        work(context)
    })
}

#[cfg(test)]
mod tests;
