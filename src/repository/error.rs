//! What may go wrong with a repository.

use std::io;

use super::blob::BlobKind;
use super::damage::Damage;
use super::id::Id;
use super::key_file::KeyFileError;
use super::lock::holder::LockHolder;
use super::random::NoRandomness;
use super::store::StoreError;
use crate::scratch::ScratchError;

/// Why something could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The format cannot express so long a blob or a pack, which is what `what` says.
    #[error("{bytes} bytes exceed what the format can hold in one {what}")]
    TooLarge { what: &'static str, bytes: u64 },
    #[error("compression failed")]
    Compressor(#[source] io::Error),
    /// A sealed blob did not decode to what went in: memory or processor corrupted it. It was not uploaded.
    #[error("blob {id} did not survive packing, which points to faulty memory")]
    Corrupted {
        id: Id,
        #[source]
        damage: Damage,
    },
    /// What describes packs or snapshots did not decode to what went in. It was not uploaded.
    #[error("the {what} did not survive sealing, which points to faulty memory")]
    CorruptedDocument {
        what: &'static str,
        #[source]
        damage: Damage,
    },
    /// The source of a blob gave other bytes the second time it was read.
    #[error("the contents of a blob changed while it was packed")]
    Unstable,
    /// A file name that cannot be stored as it is, or that occurs twice.
    #[error("`{0}` cannot be the name of a file in a tree")]
    Name(String),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// A list or a blob that does not fit the memory could not be kept.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}

/// Why an operation on a repository failed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no repository here: its `config` does not exist")]
    NoRepository,
    #[error("there is a repository here already; it was not touched")]
    AlreadyInitialized,
    #[error("wrong password, or no key of this repository fits it")]
    WrongPassword,
    #[error("the repository has format version {found}; only version {supported} is supported{hint}", hint = version_hint(*found, *supported))]
    UnsupportedVersion { found: u32, supported: u32 },
    #[error("{object} cannot be read, and may be the lock of someone who excludes others")]
    UnreadableLock {
        object: String,
        #[source]
        damage: Damage,
    },
    /// Someone else holds a lock that excludes ours.
    #[error("the repository is locked {holder}")]
    Locked { holder: Box<LockHolder> },
    /// Our lock vanished or could not be refreshed in time, so others may have removed what we rely on.
    #[error("the lock on the repository was lost ({0}); nothing further was written")]
    LockLost(&'static str),
    /// An object is not what it must be. `object` is its path in the repository, or says which blob of which pack it is.
    #[error("{object} is damaged")]
    Damaged {
        object: String,
        #[source]
        damage: Damage,
    },
    /// A tree or a snapshot refers to a blob that no index names.
    #[error("{kind} blob {id} is in no index")]
    MissingBlob { kind: BlobKind, id: Id },
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A list or a table that does not fit the memory could not be kept.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error("no snapshot matches `{0}`")]
    NoSuchSnapshot(String),
    #[error("several snapshots begin with `{0}`; give more digits")]
    AmbiguousSnapshot(String),
    /// The newest snapshot was asked for, and there are several volumes.
    #[error("`latest` may be of any of several volumes: {volumes}")]
    SeveralVolumes { volumes: String },
    /// Several files of a folder have this name, as names are shown that are not UTF-8.
    #[error("the snapshot holds several files `{0}`")]
    AmbiguousFile(String),
    #[error("the snapshot holds no file `{0}`")]
    NoSuchFile(String),
    /// No file was named, and the snapshot has none to choose.
    #[error("the snapshot holds no regular file")]
    NoFile,
    /// No file was named, and the snapshot has more than one to choose.
    #[error("the snapshot holds several regular files, `{first}` and `{second}` among them; name one")]
    SeveralFiles { first: String, second: String },
    /// There are keys but no `config`: it was lost, or this is not the place for a new repository.
    #[error("this place holds parts of a repository ({found}) but no `config`; it was not touched")]
    ConfigLost { found: &'static str },
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    #[error("the {what} could not be written as JSON")]
    Json { what: &'static str, source: serde_json::Error },
    /// A task of the runtime panicked, or ended with the runtime.
    #[error("a worker task failed")]
    Task(#[from] tokio::task::JoinError),
}

impl RepositoryError {
    /// The error that `key` is damaged in this way.
    pub(super) fn damaged(key: super::store::Key, damage: Damage) -> Self {
        Self::Damaged { object: key.path(), damage }
    }

    /// True when scratch space failed, wherever that was met: a list or a table that does not fit the memory could not be kept.
    pub fn is_of_scratch(&self) -> bool {
        match self {
            Self::Scratch(_) | Self::Pack(PackError::Scratch(_)) => true,
            Self::Store(StoreError::Io { source, .. }) => ScratchError::within(source).is_some(),
            _ => false,
        }
    }

    /// True when the same call may succeed later without anyone doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Locked { .. } => true,
            _ => false,
        }
    }
}

fn version_hint(found: u32, supported: u32) -> &'static str {
    if found < supported { "; `restic migrate upgrade_repo_v2` upgrades it" } else { "; it was made by a newer program" }
}

#[cfg(test)]
mod tests;
