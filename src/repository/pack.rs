//! Packs: many sealed blobs in one object.
//!
//! A pack is the sealed blobs one after another without gaps, then the sealed header, then the header's sealed length as four
//! bytes, low first. The header has an entry for each blob: its type (0 data, 1 tree; 2 more when compressed), its sealed
//! length, its plain length if compressed, and its id. A pack is named by its hash, so it is made whole in memory.
//!
//! Everything here computes and nothing waits: it belongs on worker threads.

use std::io::Read;
use std::num::NonZeroU32;

use bytes::Bytes;
use zstd::stream::raw::CParameter;

use super::blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
use super::crypto::{OVERHEAD, Sealer, begin};
use super::error::{Damage, PackError};
use super::id::Id;

/// Bytes of a header entry of a blob stored as it is.
const PLAIN_ENTRY_BYTES: usize = 1 + 4 + Id::LENGTH;
/// Bytes of a header entry of a compressed blob.
const COMPRESSED_ENTRY_BYTES: usize = PLAIN_ENTRY_BYTES + 4;
/// Bytes of the length at the end of a pack.
pub(super) const LENGTH_BYTES: usize = 4;
/// Readers refuse headers above 16 MiB.
const MAX_HEADER_BYTES: usize = 16 << 20;
/// Longest blob whose buffer is made before it is decompressed: the longest that exports make.
const EAGER_BYTES: usize = 32 << 20;
const MAX_ENTRIES: usize = (MAX_HEADER_BYTES - OVERHEAD) / COMPRESSED_ENTRY_BYTES;
/// Offsets have 32 bits; what is kept free is for the header.
const MAX_BODY_BYTES: u64 = (u32::MAX as u64) - (MAX_HEADER_BYTES + LENGTH_BYTES) as u64;

/// A reusable zstd compressor of one worker.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    compressed: Vec<u8>,
    /// Only for verification.
    decoded: Vec<u8>,
    sealed: Vec<u8>,
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
        Ok(Self { zstd, compressed: Vec::new(), decoded: Vec::new(), sealed: Vec::new() })
    }

    fn compress(&mut self, plain: &[u8]) -> Result<&[u8], PackError> {
        self.compressed.clear();
        self.compressed.reserve(zstd::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.compressed).map_err(compressor)?;
        Ok(&self.compressed)
    }
}

pub(super) fn compressor(error: std::io::Error) -> PackError {
    PackError::Compressor(error.to_string())
}

/// Whether a sealed blob is decoded again before it may leave the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verification {
    /// Decode and compare with what was given: catches memory or a processor that err while compressing and sealing, before they
    /// damage a backup. restic does the same.
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
        Self { sealer, kind, target_bytes, verification, body: Vec::with_capacity(target_bytes), blobs: Vec::new() }
    }

    /// Adds the blob `plain`, whose id the caller has computed: compressed if that makes it smaller. Returns the sealed length
    /// in bytes.
    ///
    /// # Errors
    /// [`PackError::TooLarge`] when it does not fit into this pack any more: finish it first. [`PackError::Corrupted`] when the
    /// sealed blob does not decode again. On any error the pack is as before.
    pub fn add(&mut self, id: Id, plain: &[u8], compressor: &mut Compressor) -> Result<u32, PackError> {
        self.make_room(plain.len())?;
        let compressed = compressor.compress(plain)?;
        let start = begin(&mut self.body);
        let uncompressed_length = if compressed.len() < plain.len() {
            self.body.extend_from_slice(compressed);
            NonZeroU32::new(plain.len() as u32)
        } else {
            self.body.extend_from_slice(plain);
            None
        };
        self.seal(id, start, uncompressed_length)?;
        if self.verification == Verification::Decode
            && let Err(damage) = self.verify_last(plain, compressor)
        {
            self.blobs.pop();
            self.body.truncate(start);
            return Err(PackError::Corrupted { id, damage });
        }
        Ok((self.body.len() - start) as u32)
    }

    /// Fails when a blob of `plain_bytes` does not fit any more.
    pub(super) fn make_room(&self, plain_bytes: usize) -> Result<(), PackError> {
        if plain_bytes as u64 + OVERHEAD as u64 > MAX_BODY_BYTES {
            return Err(PackError::TooLarge { what: "blob", bytes: plain_bytes as u64 });
        }
        let bytes = (self.body.len() + plain_bytes + OVERHEAD) as u64;
        if bytes > MAX_BODY_BYTES || self.blobs.len() >= MAX_ENTRIES {
            return Err(PackError::TooLarge { what: "pack", bytes });
        }
        Ok(())
    }

    /// Where sealed bytes go; what is appended after [`begin`] is passed to [`PackBuilder::seal`].
    pub(super) fn body(&mut self) -> &mut Vec<u8> {
        &mut self.body
    }

    /// Seals what was appended since `start` as the blob `id`.
    pub(super) fn seal(&mut self, id: Id, start: usize, uncompressed_length: Option<NonZeroU32>) -> Result<(), PackError> {
        self.sealer.finish(&mut self.body, start)?;
        let too_large = |_| PackError::TooLarge { what: "pack", bytes: self.body.len() as u64 };
        let offset = u32::try_from(start).map_err(too_large)?;
        let length = u32::try_from(self.body.len() - start).map_err(too_large)?;
        self.blobs.push(PackedBlob { id, kind: self.kind, offset, length, uncompressed_length });
        Ok(())
    }

    fn verify_last(&self, plain: &[u8], compressor: &mut Compressor) -> Result<(), Damage> {
        let Some(blob) = self.blobs.last() else { return Ok(()) };
        compressor.sealed.clear();
        compressor.sealed.extend_from_slice(&self.body[blob.offset as usize..]);
        let opened = self.sealer.open(&mut compressor.sealed)?;
        let decoded = match blob.uncompressed_length {
            None => &*opened,
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
    pub fn finish(mut self) -> Result<Option<Pack>, PackError> {
        if self.blobs.is_empty() {
            return Ok(None);
        }
        let start = begin(&mut self.body);
        for blob in &self.blobs {
            write_entry(&mut self.body, blob);
        }
        self.sealer.finish(&mut self.body, start)?;
        let header_bytes = (self.body.len() - start) as u32;
        self.body.extend_from_slice(&header_bytes.to_le_bytes());
        let record = PackRecord { id: Id::of(&self.body), blobs: self.blobs };
        Ok(Some(Pack { record, bytes: self.body.into() }))
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
    let mut sealed = rest[start..].to_vec();
    let mut entries = &*sealer.open(&mut sealed)?;
    let mut blobs = Vec::with_capacity(entries.len() / PLAIN_ENTRY_BYTES);
    let mut offset = 0_u32;
    while !entries.is_empty() {
        let blob = read_entry(&mut entries, offset).ok_or(Damage::Header("an entry is malformed"))?;
        offset = offset.checked_add(blob.length).ok_or(Damage::Header("the lengths overflow"))?;
        blobs.push(blob);
    }
    if offset as usize == start { Ok(blobs) } else { Err(Damage::Header("the lengths do not add up to the pack's")) }
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

/// Decompresses to exactly `length` bytes, never more. The length comes from the repository: memory for a long one is taken as the
/// bytes come, so that one that is not true costs nothing.
fn decompress(compressed: &[u8], length: u32, plain: &mut Vec<u8>) -> Result<(), Damage> {
    thread_local! {
        // A context costs 100 KiB and some time to make: one for each worker thread.
        static CONTEXT: std::cell::RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { std::cell::RefCell::new(None) };
    }
    let compression = |error: std::io::Error| Damage::Compression(error.to_string());
    plain.clear();
    if length as usize > EAGER_BYTES {
        let decoder = zstd::stream::read::Decoder::with_buffer(compressed).map_err(compression)?;
        let written = decoder.take(u64::from(length) + 1).read_to_end(plain).map_err(compression)?;
        return exactly(length, written);
    }
    plain.reserve_exact(length as usize);
    // The buffer may be larger than asked for: the frame's own length is checked afterwards.
    let written = CONTEXT.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(zstd::bulk::Decompressor::new()?),
        };
        context.decompress_to_buffer(compressed, plain)
    });
    exactly(length, written.map_err(compression)?)
}

fn exactly(length: u32, written: usize) -> Result<(), Damage> {
    match written {
        written if written == length as usize => Ok(()),
        written => Err(Damage::Compression(format!("{length} bytes expected, {written} found"))),
    }
}

#[cfg(test)]
mod tests;
