//! Packs: many sealed blobs in one object.

use bytes::Bytes;

use super::blob::{BlobKind, BlobLocation, PackRecord};
use super::crypto::Sealer;
use super::error::{Damage, PackError};
use super::id::Id;

/// A reusable zstd compressor of one worker.
pub struct Compressor(());

impl Compressor {
    /// A compressor of the given zstd level (-7 to 22; 1 is the default of exports).
    ///
    /// # Errors
    /// [`PackError::Compressor`] when zstd has no memory.
    pub fn new(level: i32) -> Result<Self, PackError> {
        let _ = level;
        unimplemented!()
    }
}

/// Whether a sealed blob is decoded again before it may leave the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verification {
    /// Decode and compare: catches faulty memory before it damages a backup. What restic does.
    #[default]
    Decode,
    /// Trust the machine.
    Skip,
}

/// Fills one pack. Holds blobs of one kind, as version 2 demands. Computes only; one worker uses it at a time.
pub struct PackBuilder(());

impl PackBuilder {
    /// An empty pack for blobs of `kind`, expected to grow to `target` bytes.
    pub fn new(sealer: Sealer, kind: BlobKind, target_bytes: usize, verification: Verification) -> Self {
        let _ = (sealer, kind, target_bytes, verification);
        unimplemented!()
    }

    /// Adds the blob `plain`, whose id the caller has computed: compressed if that makes it smaller. Returns the sealed length
    /// in bytes.
    ///
    /// # Errors
    /// [`PackError::TooLarge`] when it does not fit into this pack any more (then the pack is unchanged: finish it first);
    /// [`PackError::Corrupted`] when the sealed blob does not decode again.
    pub fn add(&mut self, id: Id, plain: &[u8], compressor: &mut Compressor) -> Result<u32, PackError> {
        let _ = (id, plain, compressor);
        unimplemented!()
    }

    /// Sealed bytes so far.
    pub fn bytes(&self) -> usize {
        unimplemented!()
    }

    /// True when nothing was added.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }

    /// True when it has reached its target or can hold no more entries.
    pub fn is_full(&self) -> bool {
        unimplemented!()
    }

    /// Appends the sealed header and names the pack. `None` when nothing was added.
    ///
    /// # Errors
    /// [`PackError`] when the header cannot be made.
    pub fn finish(self) -> Result<Option<Pack>, PackError> {
        unimplemented!()
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

/// Opens one blob out of the bytes of its pack: authenticates, decrypts, decompresses to at most its recorded length and
/// compares the hash. `sealed` is clobbered; `plain` is cleared and receives the blob.
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
    let _ = (sealer, id, location, sealed, plain);
    unimplemented!()
}
