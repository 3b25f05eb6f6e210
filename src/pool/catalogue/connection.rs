//! The open database of a catalogue, opened again when it failed.
//!
//! After any error of its storage the database refuses everything; only opening it again tells what is on the disk. So each error
//! *latches* the storage it came from ([`Latch`]), as the database itself does, and whoever wants the database next opens it again: one at
//! a time, the others are told that it failed. The old storage is retired first, so that nothing that still holds the old
//! database can write beside the new one.
//!
//! A catalogue that can be read but not opened for writing (a full or read-only file system under a catalogue without space of its own)
//! is served from a copy in memory, until a change, or the question whether it works, finds that it can be written again.
//!
//! It is one attempt for each call, and as costly as a start: the whole catalogue is read and examined, some megabytes.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use redb::{Builder, Database, StorageBackend};

use super::allocated::AllocatedFile;
use super::commits::Commits;
use super::examine;
use super::index;
use super::room::Room;
use super::tables::failed;
use crate::pool::thin::region::Region;
use crate::pool::{CatalogueFault, PoolError, Refusal};
use crate::types::PoolId;
use crate::types::error::chain;

/// Cache of the database in bytes: all of an ordinary catalogue.
const CACHE_BYTES: usize = 16 << 20;

/// Where a catalogue lies.
pub(super) enum Home {
    /// In a file.
    File(PathBuf),
    /// In the region on a device, which the owner holds; the text names it in errors.
    Device(File, String),
    /// Nowhere: it ends with its database.
    Memory,
    /// Wherever a test says.
    #[cfg(test)]
    Test(String, Box<dyn Fn() -> Box<dyn StorageBackend> + Send + Sync>),
}

/// An open database.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) database: Arc<Database>,
    pub(super) room: Option<Arc<Room>>,
    latch: Arc<Latch>,
    /// Why it is a copy in memory, if it is one.
    copy: Option<Arc<PoolError>>,
}

/// The database of one catalogue, whichever time it is opened.
pub(super) struct Connection {
    home: Home,
    id: PoolId,
    opened: RwLock<Opened>,
    /// Held by the one who opens it again.
    reopening: Mutex<()>,
    failed_commits: AtomicU64,
    /// Told of every commit.
    commits: Arc<Commits>,
    /// Whether the last commit failed.
    doubtful: AtomicBool,
}

impl Connection {
    /// Over a database that was opened by hand.
    pub(super) fn over(database: Database, home: Home, id: PoolId) -> Self {
        let opened = Opened { database: Arc::new(database), room: None, latch: Arc::default(), copy: None };
        Self::new(home, id, opened)
    }

    /// Opens the catalogue that lies there. Nothing is changed unless it is one of ours.
    pub(super) fn open(home: Home) -> Result<Self, PoolError> {
        let (id, opened) = home.open()?;
        Ok(Self::new(home, id, opened))
    }

    fn new(home: Home, id: PoolId, opened: Opened) -> Self {
        Self {
            home,
            id,
            opened: RwLock::new(opened),
            reopening: Mutex::default(),
            failed_commits: AtomicU64::new(0),
            commits: Arc::default(),
            doubtful: AtomicBool::new(false),
        }
    }

    pub(super) fn id(&self) -> PoolId {
        self.id
    }

    /// The database, to read from.
    pub(super) fn reader(&self) -> Result<Opened, PoolError> {
        let opened = self.opened();
        if opened.latch.has_failed() { self.reopen() } else { Ok(opened) }
    }

    /// The database, to change.
    pub(super) fn writer(&self) -> Result<Opened, PoolError> {
        let opened = self.opened();
        let opened = if opened.latch.has_failed() || opened.copy.is_some() { self.reopen()? } else { opened };
        match opened.copy {
            Some(why) => Err(CatalogueFault::ReadOnly(why).into()),
            None => Ok(opened),
        }
    }

    /// How many commits failed.
    pub(super) fn failed_commits(&self) -> u64 {
        self.failed_commits.load(Ordering::Acquire)
    }

    /// What commits tell.
    pub(super) fn commits(&self) -> &Arc<Commits> {
        &self.commits
    }

    /// Notes that a commit worked.
    pub(super) fn note_success(&self) {
        self.doubtful.store(false, Ordering::Release);
        self.commits.note();
    }

    /// Notes that a commit failed.
    pub(super) fn note_failure(&self) {
        self.doubtful.store(true, Ordering::Release);
        self.failed_commits.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a commit is thought to work.
    pub(super) fn is_thought_to_work(&self) -> bool {
        let opened = self.opened();
        opened.copy.is_none() && !opened.latch.has_failed() && !self.doubtful.load(Ordering::Acquire)
    }

    fn opened(&self) -> Opened {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reopen(&self) -> Result<Opened, PoolError> {
        let _turn = match self.reopening.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(CatalogueFault::BeingReopened.into()),
        };
        let before = self.opened();
        if !before.latch.has_failed() && before.copy.is_none() {
            return Ok(before);
        }
        before.latch.retire();
        let (id, opened) = self.home.open().map_err(|error| CatalogueFault::NotReopened(Box::new(error)))?;
        if id != self.id {
            return Err(CatalogueFault::Replaced(id).into());
        }
        if opened.copy.is_none() {
            tracing::warn!(pool = %id, "the catalogue failed and was opened again");
        }
        *self.opened.write().unwrap_or_else(PoisonError::into_inner) = opened.clone();
        Ok(opened)
    }
}

impl Home {
    fn open(&self) -> Result<(PoolId, Opened), PoolError> {
        match self {
            Self::File(path) => {
                let (id, copy) = examine::file(path)?;
                let opened = AllocatedFile::open(path).and_then(|file| {
                    let room = Room::of_file(file.clone());
                    Opened::open(Box::new(file), Some(room))
                });
                Ok((id, Opened::indexed(opened, copy)?))
            }
            Self::Device(device, what) => {
                let region = device.try_clone().and_then(Region::open).map_err(|error| match error.kind() {
                    io::ErrorKind::InvalidData => PoolError::Format(Refusal::because(format!("{what} was not changed"), error)),
                    _ => PoolError::io(format!("open {what}"), error),
                })?;
                let (id, copy) = examine::storage(&region, what)?;
                let room = Room::of_region(region.gauge());
                let opened = region
                    .stretch()
                    .map_err(|error| CatalogueFault::Storage(error).into())
                    .and_then(|()| Opened::open(Box::new(region), Some(room)));
                Ok((id, Opened::indexed(opened, copy)?))
            }
            Self::Memory => Err(CatalogueFault::InMemory.into()),
            #[cfg(test)]
            Self::Test(what, open) => {
                let storage = open();
                let (id, copy) = examine::storage(&*storage, what)?;
                let opened = Opened::open(storage, None);
                Ok((id, Opened::indexed(opened, copy)?))
            }
        }
    }
}

impl Opened {
    /// Opens the database on this storage, made if there is none.
    pub(super) fn open(storage: Box<dyn StorageBackend>, room: Option<Room>) -> Result<Self, PoolError> {
        let latch = Arc::<Latch>::default();
        let storage = Latched { storage, latch: Arc::clone(&latch) };
        let database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(storage).map_err(failed)?;
        Ok(Self { database: Arc::new(database), room: room.map(Arc::new), latch, copy: None })
    }

    /// The one opened for writing with its index, or else the copy.
    fn indexed(opened: Result<Self, PoolError>, copy: Database) -> Result<Self, PoolError> {
        let opened = opened.and_then(|opened| index::ensure(&opened.database).map(|()| opened));
        opened.or_else(|why| {
            tracing::error!(why = %chain(&why), "the catalogue can be read, and not be changed");
            index::ensure(&copy)?;
            Ok(Self { database: Arc::new(copy), room: None, latch: Arc::default(), copy: Some(Arc::new(why)) })
        })
    }
}

/// Whether a storage failed, which the database on it takes for the end of it.
#[derive(Debug, Default)]
struct Latch {
    failed: AtomicBool,
    /// Set when another database takes the storage over. Held for reading during each access.
    retired: RwLock<bool>,
}

impl Latch {
    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Waits for accesses under way, and refuses all that come.
    fn retire(&self) {
        *self.retired.write().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// A storage that remembers its errors.
#[derive(Debug)]
struct Latched {
    storage: Box<dyn StorageBackend>,
    latch: Arc<Latch>,
}

impl Latched {
    fn access<T>(&self, access: impl FnOnce(&dyn StorageBackend) -> io::Result<T>) -> io::Result<T> {
        let retired = self.latch.retired.read().unwrap_or_else(PoisonError::into_inner);
        if *retired {
            return Err(io::Error::other("the catalogue was opened again meanwhile"));
        }
        access(&*self.storage).inspect_err(|_| self.latch.failed.store(true, Ordering::Release))
    }
}

impl StorageBackend for Latched {
    fn len(&self) -> io::Result<u64> {
        self.access(StorageBackend::len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.access(|storage| storage.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.access(|storage| storage.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.access(StorageBackend::sync_data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.access(|storage| storage.write(offset, data))
    }
}
