//! Why a tree does not read.

use std::io;

use crate::repository::damage::Damage;
use crate::scratch::ScratchError;

/// Why a tree does not read.
#[derive(Debug)]
pub(super) enum ReadError {
    Damage(Damage),
    /// Scratch space, in which it is kept meanwhile, failed.
    Scratch(ScratchError),
}

impl From<Damage> for ReadError {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

impl From<ScratchError> for ReadError {
    fn from(error: ScratchError) -> Self {
        Self::Scratch(error)
    }
}

impl ReadError {
    /// The meaning of an error of the layers of readers: scratch space failed beneath, or the tree does not decompress.
    pub(super) fn of(error: io::Error) -> Self {
        match ScratchError::within(&error) {
            Some(scratch) => Self::Scratch(scratch.clone()),
            None => Self::Damage(Damage::compression(error)),
        }
    }

    /// The meaning of an error of the parser: the text is malformed, or the reader failed.
    pub(super) fn of_parser(error: serde_json::Error) -> Self {
        if error.is_io() { Self::of(error.into()) } else { Self::Damage(Damage::json(error)) }
    }
}
