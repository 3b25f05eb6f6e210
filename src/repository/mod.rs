//! restic repository format on an object store.

pub mod blob;
pub mod check;
pub mod config;
pub mod crypto;
pub mod environment;
pub mod error;
mod file;
pub mod id;
pub mod index;
pub mod key_file;
pub mod location;
pub mod lock;
pub mod open;
pub mod pack;
pub mod password;
mod polynomial;
pub mod snapshot;
pub mod store;
pub mod time;
pub mod tree;

pub use blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
pub use crypto::Sealer;
pub use environment::Environment;
pub use error::{Damage, PackError, RepositoryError};
pub use id::Id;
pub use index::{Claim, Index, IndexWriter};
pub use key_file::KdfCost;
pub use location::Location;
pub use lock::{LockGuard, LockMode, LockOwner};
pub use open::Repository;
pub use pack::{Compressor, Pack, PackBuilder, Verification};
pub use password::Password;
pub use snapshot::{Snapshot, StoredSnapshot};
pub use store::{Store, StoreError, connect};
