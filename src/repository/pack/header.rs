//! The header at the end of a pack, which names its blobs.

use std::num::NonZeroU32;

use crate::repository::blob::{BlobKind, PackedBlob};
use crate::repository::crypto::{OVERHEAD, Sealer, begin};
use crate::repository::damage::Damage;
use crate::repository::error::PackError;
use crate::repository::id::Id;
use crate::scratch::{ScratchError, Spill};

/// Bytes of a header entry of a blob stored as it is.
const PLAIN_ENTRY_BYTES: usize = 1 + 4 + Id::LENGTH;
/// Bytes of a header entry of a compressed blob.
pub(super) const COMPRESSED_ENTRY_BYTES: usize = PLAIN_ENTRY_BYTES + 4;
/// Bytes of the length at the end of a pack.
pub(in crate::repository) const LENGTH_BYTES: usize = 4;
/// Readers refuse headers above 16 MiB.
pub(super) const MAX_HEADER_BYTES: usize = 16 << 20;
/// Most blobs of a pack: a header of them is one that readers accept.
pub(super) const MAX_ENTRIES: usize = (MAX_HEADER_BYTES - OVERHEAD) / COMPRESSED_ENTRY_BYTES;

/// Makes what follows the blobs in a pack: the sealed header and its length. The header is opened again and compared: without a sound
/// one, no program could rebuild an index.
pub(in crate::repository) fn header_of(sealer: &Sealer, blobs: &[PackedBlob]) -> Result<Vec<u8>, PackError> {
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
pub(in crate::repository) fn expected_bytes(blobs: impl Iterator<Item = (u32, Option<NonZeroU32>)>) -> u64 {
    let entry = |compressed: Option<NonZeroU32>| if compressed.is_some() { COMPRESSED_ENTRY_BYTES } else { PLAIN_ENTRY_BYTES };
    let body: u64 = blobs.map(|(length, compressed)| u64::from(length) + entry(compressed) as u64).sum();
    body + (OVERHEAD + LENGTH_BYTES) as u64
}

/// Reads the header out of the bytes of a whole pack.
///
/// # Errors
/// The header must open, parse, and describe the pack without gaps.
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
pub(in crate::repository) fn read_header_at_end(
    sealer: &Sealer,
    pack: &Spill,
) -> Result<Result<Vec<PackedBlob>, Damage>, ScratchError> {
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
pub(in crate::repository) enum HeaderAtEnd {
    /// The whole header, which names these blobs.
    Read(Vec<PackedBlob>),
    /// The last so many bytes of the pack are needed to read it.
    Needs(u64),
}

/// As [`read_header`], of a pack of `pack_bytes` of which `end` is the end.
pub(in crate::repository) fn read_header_of_end(sealer: &Sealer, end: &[u8], pack_bytes: u64) -> Result<HeaderAtEnd, Damage> {
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
