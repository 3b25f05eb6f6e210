//! Why a tree is not read.

use std::io;

use crate::repository::damage::Damage;
use crate::scratch::ScratchError;

/// Why a tree was not read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It is not what it must be.
    Damage(Damage),
    /// It could not be kept meanwhile.
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
    /// What an error of the layers of readers means: scratch space failed beneath, or the tree does not decompress.
    pub(super) fn of(error: io::Error) -> Self {
        match ScratchError::within(&error) {
            Some(scratch) => Self::Scratch(scratch.clone()),
            None => Self::Damage(Damage::compression(error)),
        }
    }

    /// What an error of the parser means: the text is none, or what reads it failed.
    pub(super) fn of_parser(error: serde_json::Error) -> Self {
        if error.is_io() { Self::of(error.into()) } else { Self::Damage(Damage::json(error)) }
    }
}
