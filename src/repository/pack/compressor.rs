//! The compressor of blobs.

use std::io::Cursor;
use std::num::NonZeroU32;

use zstd::stream::raw::CParameter;

use crate::repository::error::PackError;

/// A reusable zstd compressor of one worker, and its buffers for verification.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    pub(super) opened: Vec<u8>,
    pub(super) decoded: Vec<u8>,
}

impl Compressor {
    /// A compressor of the given zstd level (-7 to 22; 1 is the default of exports).
    pub fn new(level: i32) -> Result<Self, PackError> {
        let mut zstd = zstd::bulk::Compressor::new(level).map_err(PackError::Compressor)?;
        // The code and the hash protect the contents already.
        zstd.set_parameter(CParameter::ChecksumFlag(false)).map_err(PackError::Compressor)?;
        Ok(Self { zstd, opened: Vec::new(), decoded: Vec::new() })
    }

    /// Appends `plain` to `out`. Returns the plain length if it was compressed, which is so if that makes it shorter. After an error,
    /// `out` may hold some of it.
    pub(super) fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Option<NonZeroU32>, PackError> {
        let start = out.len();
        // With less room zstd would have to look at each step whether it still fits.
        out.reserve(zstd::compress_bound(plain.len()));
        let mut rest = Cursor::new(&mut *out);
        rest.set_position(start as u64);
        let compressed = self.zstd.compress_to_buffer(plain, &mut rest).map_err(PackError::Compressor)?;
        if compressed < plain.len() {
            return Ok(NonZeroU32::new(plain.len() as u32));
        }
        out.truncate(start);
        out.extend_from_slice(plain);
        Ok(None)
    }
}
