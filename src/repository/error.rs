//! What may go wrong with a repository.

use super::blob::BlobKind;
use super::damage::Damage;
use super::id::Id;
use super::key_file::KeyFileError;
use super::lock::holder::LockHolder;
use super::random::NoRandomness;
use super::store::StoreError;
use crate::scratch::ScratchError;

/// Why something could not be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The blob or the pack would exceed what the format can express.
    #[error("{bytes} bytes exceed what the format can hold in one {what}")]
    TooLarge {
        /// `blob` or `pack`.
        what: &'static str,
        /// The size that was asked for.
        bytes: u64,
    },
    /// The compressor failed.
    #[error("compression failed: {0}")]
    Compressor(String),
    /// A sealed blob did not decode to what went in: memory or processor corrupted it. It was not uploaded.
    #[error("blob {id} did not survive packing ({damage}); this points to faulty memory")]
    Corrupted {
        /// The blob.
        id: Id,
        /// What decoding found.
        damage: Damage,
    },
    /// What describes packs or snapshots did not decode to what went in. It was not uploaded.
    #[error("the {what} did not survive sealing ({damage}); this points to faulty memory")]
    CorruptedDocument {
        /// What it is.
        what: &'static str,
        /// What decoding found.
        damage: Damage,
    },
    /// The source of a blob gave other bytes the second time it was read.
    #[error("the contents of a blob changed while it was packed")]
    Unstable,
    /// A file name that cannot be stored as it is, or that occurs twice.
    #[error("`{0}` cannot be the name of a file in a tree")]
    Name(String),
    /// No random numbers.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// A list or a blob that does not fit the memory could not be kept.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}

/// Why an operation on a repository failed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The place holds no repository.
    #[error("there is no repository here: its `config` does not exist")]
    NoRepository,
    /// The place holds a repository already; nothing was changed.
    #[error("there is a repository here already; it was not touched")]
    AlreadyInitialized,
    /// No key of the repository opens with this password.
    #[error("wrong password, or no key of this repository fits it")]
    WrongPassword,
    /// The repository has a format that this version does not speak.
    #[error("the repository has format version {found}; only version {supported} is supported{hint}", hint = version_hint(*found, *supported))]
    UnsupportedVersion {
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// A lock that cannot be read, and may exclude ours.
    #[error("{object} cannot be read, and may be the lock of someone who excludes others: {damage}")]
    UnreadableLock {
        /// Path of the lock in the repository.
        object: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// Someone else holds a lock that excludes ours.
    #[error("the repository is locked {holder}")]
    Locked {
        /// Who.
        holder: Box<LockHolder>,
    },
    /// Our lock vanished or could not be refreshed in time, so others may have removed what we rely on.
    #[error("the lock on the repository was lost ({0}); nothing further was written")]
    LockLost(&'static str),
    /// An object is not what it must be.
    #[error("{object} is damaged: {damage}")]
    Damaged {
        /// Which object.
        object: String,
        /// In what way.
        damage: Damage,
    },
    /// A blob is referred to and in no index.
    #[error("{kind} blob {id} is in no index")]
    MissingBlob {
        /// What it holds.
        kind: BlobKind,
        /// Which.
        id: Id,
    },
    /// Packing failed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A list or a table that does not fit the memory could not be kept.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// No snapshot is meant by this text.
    #[error("no snapshot matches `{0}`")]
    NoSuchSnapshot(String),
    /// Several snapshots begin with this text.
    #[error("several snapshots begin with `{0}`; give more digits")]
    AmbiguousSnapshot(String),
    /// The newest snapshot was asked for, and there are several volumes.
    #[error("`latest` may be of any of several volumes: {volumes}")]
    SeveralVolumes {
        /// Which.
        volumes: String,
    },
    /// Several files of a folder have this name, as names are shown that are no UTF-8.
    #[error("the snapshot holds several files `{0}`")]
    AmbiguousFile(String),
    /// The snapshot holds no such file.
    #[error("the snapshot holds no file `{0}`")]
    NoSuchFile(String),
    /// A file had to be chosen and there is none.
    #[error("the snapshot holds no regular file")]
    NoFile,
    /// A file had to be chosen and there are several.
    #[error("the snapshot holds several regular files, `{first}` and `{second}` among them; name one")]
    SeveralFiles {
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// There are keys but no `config`: it was lost, or this is no place for a new repository.
    #[error("this place holds parts of a repository ({found}) but no `config`; it was not touched")]
    ConfigLost {
        /// What was found.
        found: &'static str,
    },
    /// No random numbers.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// No key file could be made.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A document could not be written as JSON.
    #[error("the {what} could not be written as JSON")]
    Json {
        /// What it is.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A worker task ended early.
    #[error("a worker task failed")]
    Task(#[from] tokio::task::JoinError),
}

impl RepositoryError {
    /// The error that `key` is damaged in this way.
    pub(super) fn damaged(key: super::store::Key, damage: Damage) -> Self {
        Self::Damaged { object: key.path(), damage }
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
