//! A catalogue that is open: opened, changed in transactions, and asked whether it works.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use redb::{Durability, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction};

use super::change::Change;
use super::connection::{Connection, Home};
use super::tables::{self, META, REVISION, failed, number};
use super::{examine, index};
use crate::failpoint;
use crate::pool::PoolError;
use crate::pool::properties::PoolProperties;
use crate::types::PoolId;

/// An open catalogue. A clone is another reference to the same open database, which is opened again when it fails.
#[derive(Clone)]
pub struct Catalogue {
    pub(super) connection: Arc<Connection>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Catalogue {
    /// The catalogue at `path`, read into memory: what is changed in it is gone with it. Nothing is written.
    pub(in crate::pool) fn read(path: &Path) -> Result<Self, PoolError> {
        let (id, copy) = examine::file(path)?;
        index::ensure(&copy)?;
        Ok(Self::on(Connection::over(copy, Home::Memory, id)))
    }

    /// Opens the catalogue at `path`. Nothing is changed unless it is one of ours.
    ///
    /// # Errors
    /// [`PoolError::Format`] when it is of a newer format; [`PoolError::CatalogueLost`] when it is damaged or no catalogue;
    /// [`PoolError::Io`] (`NotFound` among it),
    /// [`PoolError::Catalogue`]. One that can be read and not be changed is no error: [`Catalogue::check_works`] says so.
    pub fn open(path: &Path) -> Result<Self, PoolError> {
        Connection::open(Home::File(path.to_owned())).map(Self::on)
    }

    /// Opens the catalogue on a device of its own, as for [`Catalogue::create_device`]. Nothing is changed unless it is one of ours.
    /// `what` names it in errors.
    pub fn open_device(device: File, what: &str) -> Result<Self, PoolError> {
        Connection::open(Home::Device(device, what.to_owned())).map(Self::on)
    }

    /// The catalogue that `storage` holds, read into memory: what is changed in it is gone with it. Nothing is written to `storage`.
    pub fn read_only(storage: &impl StorageBackend, what: &str) -> Result<Self, PoolError> {
        let (id, copy) = examine::storage(storage, what)?;
        index::ensure(&copy)?;
        Ok(Self::on(Connection::over(copy, Home::Memory, id)))
    }

    /// The catalogue on storage that a test provides each time it is opened.
    #[cfg(test)]
    pub(in crate::pool) fn opened_by(
        what: &str,
        open: impl Fn() -> Box<dyn StorageBackend> + Send + Sync + 'static,
    ) -> Result<Self, PoolError> {
        Connection::open(Home::Test(what.to_owned(), Box::new(open))).map(Self::on)
    }

    /// Makes it as catalogues were before there were anchors.
    #[cfg(test)]
    pub(super) fn drop_anchors_table(&self) -> Result<(), PoolError> {
        let transaction = self.connection.writer()?.database.begin_write().map_err(failed)?;
        transaction.delete_table(tables::ANCHORS).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    /// How many records this thread has read, of any catalogue.
    #[cfg(test)]
    pub(in crate::pool) fn records_read() -> usize {
        tables::DECODED.get()
    }

    pub(super) fn on(connection: Connection) -> Self {
        Self { connection: Arc::new(connection) }
    }

    /// The pool's identity.
    pub fn id(&self) -> PoolId {
        self.connection.id()
    }

    /// What was chosen for the pool; the defaults where nothing was.
    pub fn properties(&self) -> Result<PoolProperties, PoolError> {
        let reading = self.begin_read()?;
        tables::properties(&reading.open_table(META).map_err(failed)?)
    }

    /// Records what was chosen for the pool.
    pub fn set_properties(&self, properties: &PoolProperties) -> Result<(), PoolError> {
        // Of a new pool, which has the defaults without saying so.
        if *properties == self.properties()? {
            return Ok(());
        }
        self.commit("set_properties", |change| change.set_properties(properties))
    }

    /// Makes one durable change: all of it or, on an error of `change`, nothing. `label` names its failpoints.
    ///
    /// # Errors
    /// What `change` returns, [`PoolError::NoSpace`] among it when the catalogue has no room for something new; and from the database
    /// [`PoolError::Catalogue`], after which it is not known whether the change is there.
    pub fn commit<T>(&self, label: &str, change: impl FnOnce(&mut Change<'_>) -> Result<T, PoolError>) -> Result<T, PoolError> {
        let result = self.try_commit(label, change);
        match &result {
            Ok(_) => self.connection.note_success(),
            Err(PoolError::Catalogue(_)) => self.connection.note_failure(),
            Err(_) => {}
        }
        result
    }

    fn try_commit<T>(&self, label: &str, change: impl FnOnce(&mut Change<'_>) -> Result<T, PoolError>) -> Result<T, PoolError> {
        let opened = self.connection.writer()?;
        let mut transaction = opened.database.begin_write().map_err(failed)?;
        transaction.set_durability(Durability::Immediate).map_err(failed)?;
        // An error drops the transaction, which aborts it.
        let value = change(&mut Change::new(&transaction, opened.room.as_deref()))?;
        raise_revision(&transaction)?;
        failpoint::around(&format!("catalogue.{label}"), || transaction.commit().map_err(failed))?;
        Ok(value)
    }

    /// Whether a commit works: known from the last one, and tried when that one failed.
    pub fn check_works(&self) -> Result<(), PoolError> {
        if self.took_its_last_change() {
            return Ok(());
        }
        self.commit("check", |change| change.touch())
    }

    /// Whether the last commit worked, as far as is known. Looks at no disk.
    pub fn took_its_last_change(&self) -> bool {
        self.connection.is_thought_to_work()
    }

    /// How many commits have failed in this process: each may have left an intent that nobody works on.
    pub fn failed_commits(&self) -> u64 {
        self.connection.failed_commits()
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, PoolError> {
        self.connection.reader()?.database.begin_read().map_err(failed)
    }
}

/// Counts a commit, so that of two catalogues, or of one and its copy, the newer is known.
fn raise_revision(transaction: &WriteTransaction) -> Result<(), PoolError> {
    let mut meta = transaction.open_table(META).map_err(failed)?;
    let revision = number(&meta, REVISION)? + 1;
    meta.insert(REVISION, revision.to_string().as_str()).map_err(failed)?;
    Ok(())
}
