//! Names of objects, and what a listing tells of them.

use std::fmt;

use crate::repository::id::Id;

/// Kinds of objects that are named by their hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Password-protected copies of the master key.
    Key,
    Snapshot,
    /// Which blob lies in which pack.
    Index,
    /// Who uses the repository.
    Lock,
    /// Packs of blobs.
    Data,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Key, Self::Snapshot, Self::Index, Self::Lock, Self::Data];

    /// The folder they lie in.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Key => "keys",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Lock => "locks",
            Self::Data => "data",
        }
    }
}

/// The name of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The one object that makes a store a repository.
    Config,
    /// An object named by its hash.
    File(Kind, Id),
}

impl Key {
    /// The path below the root of the repository, with `/` between its parts.
    pub fn path(&self) -> String {
        match self {
            Self::Config => "config".to_owned(),
            Self::File(Kind::Data, id) => {
                let id = id.to_string();
                format!("data/{}/{id}", &id[..2])
            }
            Self::File(kind, id) => format!("{}/{id}", kind.folder()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// What `put` does when the object exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Replaces it. Right for objects named by their hash: the bytes are the same.
    Overwrite,
    /// Fails with [`StoreError::AlreadyExists`] and leaves it as it is.
    IfAbsent,
}

/// An object found by listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name within its kind.
    pub id: Id,
    /// Its length in bytes.
    pub bytes: u64,
}
