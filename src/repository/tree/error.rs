//! Why a tree is not read.

use std::io;

use crate::repository::damage::Damage;
use crate::scratch::ScratchError;

/// Why a tree was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// What an error of the layers of readers means: scratch space failed beneath, or the tree does not read, in the way that
    /// `damage` says.
    pub(super) fn of(error: io::Error, damage: impl FnOnce(String) -> Damage) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<ScratchError>()) {
            Some(scratch) => Self::Scratch(scratch.clone()),
            None => Self::Damage(damage(error.to_string())),
        }
    }
}
