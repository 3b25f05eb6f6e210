//! Parts of rows of tables: one behind another without gaps, numbers high byte first, so that rows sorted as bytes are sorted by what
//! they mean. Each table declares its row as a struct of these, whose size the compiler compares with that of the row.

use std::num::NonZeroU32;

use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned};

use super::blob::BlobKind;

/// The byte that stands for a kind.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(transparent)]
pub(super) struct KindByte(u8);

impl From<BlobKind> for KindByte {
    fn from(kind: BlobKind) -> Self {
        Self(matches!(kind, BlobKind::Tree).into())
    }
}

impl From<KindByte> for BlobKind {
    fn from(KindByte(byte): KindByte) -> Self {
        if byte == 0 { Self::Data } else { Self::Tree }
    }
}

/// Sealed length and plain length of a blob.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Lengths {
    sealed: U32,
    /// 0 for a blob that is stored as it is: a compressed one is never empty.
    plain: U32,
}

impl Lengths {
    pub(super) fn new(sealed: u32, plain: Option<NonZeroU32>) -> Self {
        Self { sealed: sealed.into(), plain: plain.map_or(0, NonZeroU32::get).into() }
    }

    /// Bytes of the sealed blob.
    pub(super) fn sealed(self) -> u32 {
        self.sealed.get()
    }

    /// Bytes after decompression; `None` when it is stored as it is.
    pub(super) fn uncompressed(self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.plain.get())
    }
}
