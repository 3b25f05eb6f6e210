//! Making a catalogue: of a new pool, or anew from what its second copy records.

use std::fs::{self, File};
use std::path::Path;

use redb::{Database, StorageBackend};

use super::allocated::{self, AllocatedFile};
use super::change::Change;
use super::connection::Opened;
#[cfg(any(test, feature = "doubles"))]
use super::connection::{Connection, Home};
use super::copy::Records;
use super::open::Catalogue;
use super::tables::{
    ANCHORS, EXPORTS, FORMAT, INTENTS, MAGIC, META, NAMES, PUBLICATIONS, REVISION, SNAPSHOTS, SNAPSHOTS_OF, VOLUMES, failed,
};
use crate::block::file_ops;
use crate::failpoint;
use crate::pool::PoolError;
use crate::pool::thin::region::Region;
use crate::types::PoolId;

impl Catalogue {
    /// Makes the catalogue of a new pool at `path`, where nothing may be.
    ///
    /// # Errors
    /// [`PoolError::Format`] when something is there; [`PoolError::Io`], [`PoolError::NoSpace`], [`PoolError::Catalogue`].
    pub fn create(path: &Path, id: PoolId) -> Result<Self, PoolError> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(PoolError::Format(format!("{}: exists already", path.display()).into()));
        }
        let unfinished = allocated::unfinished(path);
        let io = |what: &str, source| PoolError::io(format!("{what} {}", unfinished.display()), source);
        allocated::remove(&unfinished).map_err(|error| io("remove", error))?;
        drop(create_over(AllocatedFile::create(&unfinished)?, id)?);
        failpoint::around("catalogue.create", || {
            fs::rename(&unfinished, path).map_err(|error| io("rename", error))?;
            let parent = path.parent().unwrap_or(Path::new("/"));
            file_ops::sync_dir(parent).map_err(|error| PoolError::io(format!("sync {}", parent.display()), error))
        })?;
        Self::open(path)
    }

    /// Makes a catalogue at `path` that records this, and is of that revision. What is there is kept as `replaced`, and what was
    /// kept there before goes. A crash leaves the old one or the new one.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`] when a new one does not fit beside the old one; [`PoolError::NameTaken`] when two records have one name;
    /// [`PoolError::Io`], [`PoolError::Catalogue`].
    pub(in crate::pool) fn rebuild(path: &Path, replaced: &Path, records: &Records, revision: u64) -> Result<(), PoolError> {
        let unfinished = allocated::unfinished(path);
        let io = |what: &str, path: &Path, source| PoolError::io(format!("{what} {}", path.display()), source);
        allocated::remove(&unfinished).map_err(|error| io("remove", &unfinished, error))?;
        let fill = || -> Result<(), PoolError> {
            let opened = create_over(AllocatedFile::create(&unfinished)?, records.pool)?;
            let transaction = opened.database.begin_write().map_err(failed)?;
            Change::new(&transaction, None).put_records(records)?;
            transaction.open_table(META).map_err(failed)?.insert(REVISION, revision.to_string().as_str()).map_err(failed)?;
            transaction.commit().map_err(failed)
        };
        fill().inspect_err(|_| drop(allocated::remove(&unfinished)))?;
        failpoint::hit("catalogue.rebuild.before");
        allocated::remove(replaced).map_err(|error| io("remove", replaced, error))?;
        match fs::hard_link(path, replaced) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("put aside", path, error)),
            _ => {}
        }
        fs::rename(&unfinished, path).map_err(|error| io("rename", &unfinished, error))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        file_ops::sync_dir(parent).map_err(|error| io("sync", parent, error))
    }

    /// Makes the catalogue of a new pool on a device that is its own: open for reading and writing, and held by the caller.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`] or [`PoolError::Catalogue`] when the device is too small; [`PoolError::Io`].
    pub fn create_device(device: File, id: PoolId) -> Result<Self, PoolError> {
        let cloned = device.try_clone().map_err(|source| PoolError::io("use the catalogue's device", source))?;
        let region = Region::create(cloned).map_err(|source| PoolError::io("make the catalogue's region", source))?;
        drop(create_over(region, id)?);
        Self::open_device(device, "the catalogue's region")
    }

    #[cfg(any(test, feature = "doubles"))]
    /// A catalogue that lives as long as its last clone.
    pub fn in_memory() -> Result<Self, PoolError> {
        let id = PoolId::random();
        let database = redb::Builder::new().create_with_backend(redb::backends::InMemoryBackend::new()).map_err(failed)?;
        initialise(&database, id)?;
        Ok(Self::on(Connection::over(database, Home::Memory, id)))
    }

    /// A catalogue on storage that a test provides, also when it is opened again; made if the storage is empty.
    #[cfg(test)]
    pub(crate) fn over(storage: impl StorageBackend + Clone, id: PoolId) -> Result<Self, PoolError> {
        if storage.len().map_err(crate::pool::CatalogueFault::Storage)? == 0 {
            drop(create_over(storage.clone(), id)?);
        }
        Self::opened_by("a test's catalogue", move || Box::new(storage.clone()))
    }

    /// Makes one on empty storage of a test.
    #[cfg(test)]
    pub(in crate::pool) fn made_on(storage: impl StorageBackend, id: PoolId) -> Result<(), PoolError> {
        create_over(storage, id).map(drop)
    }
}

/// Makes the database of a new catalogue on empty storage.
fn create_over(storage: impl StorageBackend, id: PoolId) -> Result<Opened, PoolError> {
    let opened = Opened::open(Box::new(storage), None)?;
    initialise(&opened.database, id)?;
    Ok(opened)
}

fn initialise(database: &Database, id: PoolId) -> Result<(), PoolError> {
    let transaction = database.begin_write().map_err(failed)?;
    {
        let mut meta = transaction.open_table(META).map_err(failed)?;
        meta.insert("magic", MAGIC).map_err(failed)?;
        meta.insert("format", FORMAT.to_string().as_str()).map_err(failed)?;
        meta.insert("pool", id.to_string().as_str()).map_err(failed)?;
        for table in [VOLUMES, SNAPSHOTS, SNAPSHOTS_OF, NAMES, PUBLICATIONS, EXPORTS, ANCHORS] {
            transaction.open_table(table).map_err(failed)?;
        }
        transaction.open_table(INTENTS).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}
