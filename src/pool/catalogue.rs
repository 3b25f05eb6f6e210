//! The catalogue: the durable record of what was promised, on the pool's own disk.
//!
//! One redb database, in a file of the pool's directory or in a region of its device. Tables: `meta` (magic, format version, pool id,
//! properties), `volumes`, `snapshots`, `snapshots_of` (which snapshots a volume has, see `index`), `names` (unique within volumes and
//! within snapshots), `intents` (what is under way, hidden restores among it), `publications`, `exports`, `anchors` (deleted
//! snapshots that are kept; catalogues of the first versions lack this table), and of a thin pool `thin_objects` (which number each
//! object has in the pool's metadata) and `kept_maps` (what is kept of deleted snapshots; the one table that is no JSON). Values are JSON, so that `windlass` of a later
//! version reads them with defaults.
//!
//! * Every change goes through [`Catalogue::commit`]: one transaction, durable (file synced) when it returns `Ok`. When it
//!   returns an error the change may or may not be there; whoever gets one does nothing more about it, and what it left is found out
//!   from the intents, in this process or by the next start (`owned::recovery`).
//! * After an I/O error the database refuses everything until it is opened anew, which the next call does (`connection`).
//! * **It never needs space of its pool**: a file is allocated beforehand and overwritten in place (`allocated`), a region is its own;
//!   what is new is refused while there is room for all deletions (`room`). So a pool without a free block can be emptied.
//! * Running out of space in a commit all the same is [`PoolError::Catalogue`] like any other error of it: it is not known whether the
//!   change is there, which is no final answer.
//! * Opening never changes a file that is not ours: it is first read into memory whole and examined there (a catalogue is some
//!   megabytes). A newer format is refused with [`PoolError::Format`], another program's file and a damaged one with
//!   [`PoolError::CatalogueLost`].
//! * The file is made under another name and renamed when it is complete; a crash before leaves nothing that opens. Mode 0600.
//!   Of a region, the label of the device says whether it was complete.
//!
//! What it records is kept once more, in a second copy (`copy`), from which it can be made again ([`Catalogue::rebuild`]).
//!
//! It keeps no secrets, and it is not locked against other processes by itself but by the pool's lock.

mod allocated;
mod change;
mod connection;
pub(in crate::pool) mod copy;
mod examine;
mod index;
mod room;
mod tables;
mod thin;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use redb::backends::InMemoryBackend;
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction};

use self::allocated::AllocatedFile;
pub use self::change::Change;
use self::connection::{Connection, Home, Opened};
use self::copy::Records;
use self::tables::{
    ANCHORS, EXPORTS, INTENTS, MAGIC, META, NAMES, PUBLICATIONS, REVISION, SNAPSHOTS, SNAPSHOTS_OF, VOLUMES, anchor_key,
    export_key, failed, later_table, name_key, number,
};
pub use self::thin::EpochStep;
use super::PoolError;
use super::intent::{Intent, IntentId};
use super::properties::PoolProperties;
use super::record::{Anchor, Publication, Snapshot, Volume};
use super::thin::region::Region;
use crate::block::file_ops;
use crate::failpoint;
use crate::types::{ExportRecord, ObjectName, PoolId, SnapshotId, VolumeId};

/// Format version that this program writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// An open catalogue. A clone is another reference to the same open database, which is opened again when it fails.
#[derive(Clone)]
pub struct Catalogue {
    connection: Arc<Connection>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Catalogue {
    /// Makes the catalogue of a new pool at `path`, where nothing may be.
    ///
    /// # Errors
    /// [`PoolError::Format`] when something is there; [`PoolError::Io`], [`PoolError::NoSpace`], [`PoolError::Catalogue`].
    pub fn create(path: &Path, id: PoolId) -> Result<Self, PoolError> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(PoolError::Format(format!("{}: exists already", path.display())));
        }
        let unfinished = allocated::unfinished(path);
        let io = |what: &str, source| PoolError::io(format!("{what} {}", unfinished.display()), source);
        allocated::remove(&unfinished).map_err(|error| io("remove", error))?;
        drop(create_over(AllocatedFile::create(&unfinished)?, id)?);
        failpoint::hit("catalogue.create.before");
        fs::rename(&unfinished, path).map_err(|error| io("rename", error))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        file_ops::sync_dir(parent).map_err(|error| PoolError::io(format!("sync {}", parent.display()), error))?;
        failpoint::hit("catalogue.create.after");
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

    /// The catalogue at `path`, read into memory: what is changed in it is gone with it. Nothing is written.
    ///
    /// # Errors
    /// As for [`Catalogue::open`].
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

    /// Opens the catalogue on a device of its own, as for [`Catalogue::create_device`]. Nothing is changed unless it is one of ours.
    /// `what` names it in errors.
    ///
    /// # Errors
    /// As for [`Catalogue::open`].
    pub fn open_device(device: File, what: &str) -> Result<Self, PoolError> {
        Connection::open(Home::Device(device, what.to_owned())).map(Self::on)
    }

    /// The catalogue that `storage` holds, read into memory: what is changed in it is gone with it. Nothing is written to `storage`.
    ///
    /// # Errors
    /// As for [`Catalogue::open`].
    pub fn read_only(storage: &impl StorageBackend, what: &str) -> Result<Self, PoolError> {
        let (id, copy) = examine::storage(storage, what)?;
        index::ensure(&copy)?;
        Ok(Self::on(Connection::over(copy, Home::Memory, id)))
    }

    /// A catalogue that lives as long as its last clone.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn in_memory() -> Result<Self, PoolError> {
        let id = PoolId::random();
        let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).map_err(failed)?;
        initialise(&database, id)?;
        Ok(Self::on(Connection::over(database, Home::Memory, id)))
    }

    /// A catalogue on storage that a test provides, also when it is opened again; made if the storage is empty.
    #[cfg(test)]
    pub(crate) fn over(storage: impl StorageBackend + Clone, id: PoolId) -> Result<Self, PoolError> {
        if storage.len().map_err(|error| PoolError::Catalogue(format!("{error:?}")))? == 0 {
            drop(create_over(storage.clone(), id)?);
        }
        Self::opened_by("a test's catalogue", move || Box::new(storage.clone()))
    }

    /// Makes one on empty storage of a test.
    #[cfg(test)]
    pub(super) fn made_on(storage: impl StorageBackend, id: PoolId) -> Result<(), PoolError> {
        create_over(storage, id).map(drop)
    }

    /// The catalogue on storage that a test provides each time it is opened.
    #[cfg(test)]
    pub(super) fn opened_by(
        what: &str,
        open: impl Fn() -> Box<dyn StorageBackend> + Send + Sync + 'static,
    ) -> Result<Self, PoolError> {
        Connection::open(Home::Test(what.to_owned(), Box::new(open))).map(Self::on)
    }

    /// Makes it as catalogues were before there were anchors.
    #[cfg(test)]
    pub(super) fn drop_anchors_table(&self) -> Result<(), PoolError> {
        let transaction = self.connection.writer()?.database.begin_write().map_err(failed)?;
        transaction.delete_table(ANCHORS).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    /// How many records this thread has read, of any catalogue.
    #[cfg(test)]
    pub(super) fn records_read() -> usize {
        tables::DECODED.get()
    }

    fn on(connection: Connection) -> Self {
        Self { connection: Arc::new(connection) }
    }

    /// The pool's identity.
    pub fn id(&self) -> PoolId {
        self.connection.id()
    }

    /// What was chosen for the pool; the defaults where nothing was.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn properties(&self) -> Result<PoolProperties, PoolError> {
        let reading = self.begin_read()?;
        tables::properties(&reading.open_table(META).map_err(failed)?)
    }

    /// Records what was chosen for the pool.
    ///
    /// # Errors
    /// As for [`Catalogue::commit`].
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
        if failpoint::ENABLED {
            failpoint::hit(&format!("catalogue.{label}.before"));
        }
        transaction.commit().map_err(failed)?;
        if failpoint::ENABLED {
            failpoint::hit(&format!("catalogue.{label}.after"));
        }
        Ok(value)
    }

    /// Whether a commit works: known from the last one, and tried when that one failed.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
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

    fn begin_read(&self) -> Result<ReadTransaction, PoolError> {
        self.connection.reader()?.database.begin_read().map_err(failed)
    }

    /// A volume by id.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`], as for all that follow.
    pub fn volume(&self, id: VolumeId) -> Result<Option<Volume>, PoolError> {
        let reading = self.begin_read()?;
        tables::get(&reading.open_table(VOLUMES).map_err(failed)?, id.as_bytes())
    }

    /// A volume by name.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn volume_by_name(&self, name: &ObjectName) -> Result<Option<Volume>, PoolError> {
        let reading = self.begin_read()?;
        match tables::get::<VolumeId>(&reading.open_table(NAMES).map_err(failed)?, &name_key(VOLUMES, name))? {
            Some(id) => tables::get(&reading.open_table(VOLUMES).map_err(failed)?, id.as_bytes()),
            None => Ok(None),
        }
    }

    /// All volumes, by ascending id.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn volumes(&self) -> Result<Vec<Volume>, PoolError> {
        let reading = self.begin_read()?;
        tables::all(&reading.open_table(VOLUMES).map_err(failed)?)
    }

    /// The names of all volumes.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn volume_names(&self) -> Result<BTreeSet<ObjectName>, PoolError> {
        let reading = self.begin_read()?;
        tables::names(&reading.open_table(NAMES).map_err(failed)?, VOLUMES)
    }

    /// The sizes of all volumes, and of those that are being made, restored or grown, in bytes.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn promised(&self) -> Result<u64, PoolError> {
        // The intents first: one that ends in between is a volume by then, and counts once.
        let intents = self.intents()?;
        Ok(change::promised(&self.volumes()?, intents.iter().map(|(_, intent)| intent)))
    }

    /// A snapshot by id.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>, PoolError> {
        let reading = self.begin_read()?;
        tables::get(&reading.open_table(SNAPSHOTS).map_err(failed)?, id.as_bytes())
    }

    /// A snapshot by name.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn snapshot_by_name(&self, name: &ObjectName) -> Result<Option<Snapshot>, PoolError> {
        let reading = self.begin_read()?;
        match tables::get::<SnapshotId>(&reading.open_table(NAMES).map_err(failed)?, &name_key(SNAPSHOTS, name))? {
            Some(id) => tables::get(&reading.open_table(SNAPSHOTS).map_err(failed)?, id.as_bytes()),
            None => Ok(None),
        }
    }

    /// All snapshots, by ascending id.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, PoolError> {
        let reading = self.begin_read()?;
        tables::all(&reading.open_table(SNAPSHOTS).map_err(failed)?)
    }

    /// The snapshots of a volume, anchors left out, by ascending id. No others are read.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn snapshots_of(&self, volume: VolumeId) -> Result<Vec<Snapshot>, PoolError> {
        let reading = self.begin_read()?;
        let index = reading.open_table(SNAPSHOTS_OF).map_err(failed)?;
        index::snapshots_of(&index, &reading.open_table(SNAPSHOTS).map_err(failed)?, volume)
    }

    /// A deleted snapshot of a volume, if it is kept.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn anchor(&self, volume: VolumeId, id: SnapshotId) -> Result<Option<Anchor>, PoolError> {
        let reading = self.begin_read()?;
        match later_table(&reading, ANCHORS).map_err(failed)? {
            Some(table) => tables::get(&table, &anchor_key(volume, id)),
            None => Ok(None),
        }
    }

    /// All deleted snapshots that are kept, volume by volume.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn anchors(&self) -> Result<Vec<Anchor>, PoolError> {
        let reading = self.begin_read()?;
        later_table(&reading, ANCHORS).map_err(failed)?.map_or(Ok(Vec::new()), |table| tables::all(&table))
    }

    /// The deleted snapshots of a volume that are kept.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn anchors_of(&self, volume: VolumeId) -> Result<Vec<Anchor>, PoolError> {
        let reading = self.begin_read()?;
        let table = later_table(&reading, ANCHORS).map_err(failed)?;
        table.map_or(Ok(Vec::new()), |table| tables::with_prefix(&table, volume.as_bytes()))
    }

    /// Everything under way or interrupted, oldest first.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn intents(&self) -> Result<Vec<(IntentId, Intent)>, PoolError> {
        let reading = self.begin_read()?;
        tables::numbered(&reading.open_table(INTENTS).map_err(failed)?)
    }

    /// Where a volume is staged and published, as recorded in any boot.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn publications(&self, volume: VolumeId) -> Result<Vec<Publication>, PoolError> {
        let reading = self.begin_read()?;
        let stored = tables::get(&reading.open_table(PUBLICATIONS).map_err(failed)?, volume.as_bytes())?;
        Ok(stored.unwrap_or_default())
    }

    /// The export of a volume to one repository.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn export(&self, repository: &str, volume: VolumeId) -> Result<Option<ExportRecord>, PoolError> {
        let reading = self.begin_read()?;
        tables::get(&reading.open_table(EXPORTS).map_err(failed)?, &export_key(volume, repository))
    }

    /// The exports of a volume to all repositories.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub fn exports(&self, volume: VolumeId) -> Result<Vec<ExportRecord>, PoolError> {
        let reading = self.begin_read()?;
        tables::with_prefix(&reading.open_table(EXPORTS).map_err(failed)?, volume.as_bytes())
    }
}

/// Counts a commit, so that of two catalogues, or of one and its copy, the newer is known.
fn raise_revision(transaction: &WriteTransaction) -> Result<(), PoolError> {
    let mut meta = transaction.open_table(META).map_err(failed)?;
    let revision = number(&meta, REVISION)? + 1;
    meta.insert(REVISION, revision.to_string().as_str()).map_err(failed)?;
    Ok(())
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

#[cfg(test)]
mod tests;
