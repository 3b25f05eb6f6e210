//! Opens blobs out of the bytes of their pack.

use std::io::{self, Read};

use crate::repository::blob::BlobLocation;
use crate::repository::crypto::Sealer;
use crate::repository::damage::Damage;
use crate::repository::id::Id;

/// Longest blob whose buffer is made before it is decompressed: the longest that exports make.
pub(super) const EAGER_BYTES: usize = 32 << 20;

/// Opens one blob out of the bytes of its pack: authenticates, decrypts, decompresses to at most its recorded length and
/// compares the hash. `sealed` are the blob's bytes and are clobbered; `plain` is cleared and receives the blob.
///
/// # Errors
/// `plain` then holds nothing of use.
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
/// `plain` then holds nothing of use.
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
pub(super) fn decompress(compressed: &[u8], length: u32, plain: &mut Vec<u8>) -> Result<(), Damage> {
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
    match written.map_err(Damage::compression)? {
        written if written == expected => Ok(()),
        written => Err(Damage::Length { expected: expected as u64, found: written as u64 }),
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
