//! Reads a sealed tree: twice over its sealed bytes, which may be in scratch space, and once over its text, which is never held as a
//! whole.

use std::cmp::Ordering;
use std::io::{self, BufReader, Read};

use super::error::ReadError;
use super::node::Node;
use super::parse;
use crate::repository::blob::BlobLocation;
use crate::repository::crypto::{CODE_BYTES, COUNTER_BYTES, Sealer};
use crate::repository::damage::Damage;
use crate::repository::id::{Id, IdHasher};
use crate::scratch::{Scratch, Spill};

/// Bytes that are decrypted at once.
const STEP_BYTES: usize = 64 << 10;

/// The plain bytes of the sealed blob at `start` of `sealed`, once its code was verified, as a stream of at most one byte more
/// than `location` promises.
fn plain_reader<'a>(
    sealer: &Sealer,
    location: &BlobLocation,
    sealed: &'a Spill,
    start: u64,
) -> Result<Box<dyn Read + 'a>, ReadError> {
    let damaged = |error| ReadError::of(error);
    let length = u64::from(location.length);
    let end = start.saturating_add(length);
    if end > sealed.len() {
        return Err(Damage::TooShort.into());
    }
    let counter = sealer.authenticate_stream(sealed.reader(start), length).map_err(damaged)??;
    let body = sealed.reader(start + COUNTER_BYTES as u64).up_to(end - CODE_BYTES as u64);
    let opened = sealer.decrypting(&counter, body);
    let limit = u64::from(location.plain_length()) + 1;
    Ok(match location.uncompressed_length {
        None => Box::new(opened),
        Some(_) => {
            let buffered = BufReader::with_capacity(STEP_BYTES, opened);
            Box::new(zstd::stream::read::Decoder::with_buffer(buffered).map_err(damaged)?.take(limit))
        }
    })
}

/// Verifies the sealed blob `id` at `start` of `sealed`.
pub(super) fn verify(sealer: &Sealer, id: &Id, location: &BlobLocation, sealed: &Spill, start: u64) -> Result<(), ReadError> {
    HashingReader::new(plain_reader(sealer, location, sealed, start)?).expect(id, location.plain_length().into())
}

/// The nodes of the tree `id`, whose sealed bytes are `sealed`; lists of blobs go to `scratch`.
pub(super) fn parse_sealed(
    scratch: &Scratch,
    sealer: &Sealer,
    id: &Id,
    location: &BlobLocation,
    sealed: &Spill,
) -> Result<Vec<Node>, ReadError> {
    let mut reader = HashingReader::new(plain_reader(sealer, location, sealed, 0)?);
    let parsed = parse::tree(scratch, &mut reader);
    // A wrong hash explains every error of the parser, but not a failure of scratch space.
    match parsed {
        Err(error @ ReadError::Scratch(_)) => Err(error),
        parsed => reader.expect(id, location.plain_length().into()).and(parsed),
    }
}

/// Hashes and counts what passes through.
struct HashingReader<R> {
    inner: R,
    hasher: IdHasher,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: IdHasher::new(), bytes: 0 }
    }

    /// Reads to the end and compares.
    fn expect(mut self, id: &Id, bytes: u64) -> Result<(), ReadError> {
        let mut step = vec![0; STEP_BYTES];
        loop {
            match self.read(&mut step) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::of(error)),
            }
        }
        // No more than one byte beyond is ever read of it.
        match self.bytes.cmp(&bytes) {
            Ordering::Less => return Err(Damage::Length { expected: bytes, found: self.bytes }.into()),
            Ordering::Greater => return Err(Damage::TooLong { limit: bytes }.into()),
            Ordering::Equal => {}
        }
        match self.hasher.finish() {
            found if found == *id => Ok(()),
            found => Err(Damage::WrongHash { found }.into()),
        }
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}
