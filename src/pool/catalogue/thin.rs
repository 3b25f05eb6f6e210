//! What the catalogue of a thin pool holds besides: the thin ids of objects, the maps kept of deleted snapshots, and the epoch that
//! the pool's metadata carry as their transaction id.
//!
//! Thin ids are given out in ascending order by a stored counter and never again: a mapping's time tells what changed since a
//! snapshot only if nobody else ever had the snapshot's number. Whatever the metadata holds without a record is above it or below:
//! the owner raises the counter above everything that is stored, so that no device of somebody else is ever taken for a new one.

use redb::ReadableTable;

use super::change::Change;
use super::open::Catalogue;
use super::room::Need;
use super::tables::{
    DELETED_THIN, FIRST_DELTA_BASE, KEPT_MAPS, META, NEXT_INTENT, THIN_OBJECTS, TableLike, all, encode, failed, get, later_table,
    number, object_key,
};
use crate::dm::units::ThinId;
use crate::pool::PoolError;
use crate::pool::record::{ThinObject, ThinStored};
use crate::types::{Object, SnapshotId, VolumeSize};

const NEXT_THIN_ID: &str = "next_thin_id";
const EPOCH: &str = "epoch";
const EPOCH_STEP: &str = "epoch_step";

/// How far the last beginning of an epoch came, as far as the catalogue knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochStep {
    /// It is not recorded: a program of a version that did not record it had the pool last.
    Unknown,
    /// The epoch is being carried to the metadata and the labels; whoever did that may have died meanwhile.
    Pending,
    /// The metadata and the labels carry it.
    Settled,
}

impl EpochStep {
    const fn word(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Pending => Some("pending"),
            Self::Settled => Some("settled"),
        }
    }
}

impl Catalogue {
    /// What is remembered about an object of a thin pool.
    pub fn thin_object(&self, object: Object) -> Result<Option<ThinObject>, PoolError> {
        let reading = self.begin_read()?;
        match later_table(&reading, THIN_OBJECTS).map_err(failed)? {
            Some(table) => get(&table, &object_key(object)),
            None => Ok(None),
        }
    }

    /// All objects of a thin pool, snapshots first.
    pub fn thin_objects(&self) -> Result<Vec<ThinObject>, PoolError> {
        let reading = self.begin_read()?;
        later_table(&reading, THIN_OBJECTS).map_err(failed)?.map_or(Ok(Vec::new()), |table| all(&table))
    }

    /// Thin devices whose objects are forgotten, and that are still to be deleted.
    pub fn deleted_thin(&self) -> Result<Vec<ThinObject>, PoolError> {
        let reading = self.begin_read()?;
        later_table(&reading, DELETED_THIN).map_err(failed)?.map_or(Ok(Vec::new()), |table| all(&table))
    }

    /// Whether the device of this id is one of them.
    pub fn is_deleted_thin(&self, id: ThinId) -> Result<bool, PoolError> {
        let reading = self.begin_read()?;
        match later_table(&reading, DELETED_THIN).map_err(failed)? {
            Some(table) => Ok(table.value(&thin_key(id))?.is_some()),
            None => Ok(false),
        }
    }

    /// The map kept of a deleted snapshot, encoded.
    pub fn kept_map(&self, snapshot: SnapshotId) -> Result<Option<Vec<u8>>, PoolError> {
        let reading = self.begin_read()?;
        match later_table(&reading, KEPT_MAPS).map_err(failed)? {
            Some(table) => table.value(snapshot.as_bytes()),
            None => Ok(None),
        }
    }

    /// The thin id that is given out next: more than the snapshots and copies that were ever made.
    pub fn next_thin_id(&self) -> Result<u64, PoolError> {
        let reading = self.begin_read()?;
        number(&reading.open_table(META).map_err(failed)?, NEXT_THIN_ID)
    }

    /// How often the pool was taken over: the transaction id that its metadata should carry.
    pub fn epoch(&self) -> Result<u64, PoolError> {
        let reading = self.begin_read()?;
        number(&reading.open_table(META).map_err(failed)?, EPOCH)
    }

    /// How far the beginning of the epoch came.
    pub fn epoch_step(&self) -> Result<EpochStep, PoolError> {
        let reading = self.begin_read()?;
        let meta = reading.open_table(META).map_err(failed)?;
        let epoch = number(&meta, EPOCH)?;
        let stored = meta.get(EPOCH_STEP).map_err(failed)?.map(|value| value.value().to_owned());
        // With the epoch that it is said of: one that was raised by a program that does not say it is told by that.
        let is = |step: &EpochStep| step.word().is_some_and(|word| stored.as_deref() == Some(format!("{word} {epoch}").as_str()));
        Ok([EpochStep::Pending, EpochStep::Settled].into_iter().find(is).unwrap_or(EpochStep::Unknown))
    }

    /// The first cut (see [`Snapshot::serial`](crate::pool::record::Snapshot::serial)) from which what changed since can be told: those
    /// before it are of before the pool, or a part of it, was put back to an earlier state or rebuilt. Zero when none is.
    pub fn first_delta_base(&self) -> Result<u64, PoolError> {
        let reading = self.begin_read()?;
        number(&reading.open_table(META).map_err(failed)?, FIRST_DELTA_BASE)
    }
}

impl Change<'_> {
    /// Gives an object a thin id, or keeps the one it has.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`] when all ids were given out; [`PoolError::Catalogue`], as for all that follow.
    pub fn add_thin_object(&mut self, object: Object, size: VolumeSize) -> Result<ThinObject, PoolError> {
        let key = object_key(object);
        if let Some(known) = get(&self.transaction.open_table(THIN_OBJECTS).map_err(failed)?, &key)? {
            return Ok(known);
        }
        let mut meta = self.transaction.open_table(META).map_err(failed)?;
        let next = number(&meta, NEXT_THIN_ID)?;
        let id = u32::try_from(next).ok().and_then(ThinId::new).ok_or_else(|| {
            PoolError::NoSpace("all 16,777,216 thin ids of this pool were used; move its volumes to a new pool".to_owned())
        })?;
        meta.insert(NEXT_THIN_ID, (next + 1).to_string().as_str()).map_err(failed)?;
        drop(meta);
        let thin = ThinObject { object, id, size, stored: ThinStored::Device };
        self.put(THIN_OBJECTS, &key, &encode(&thin)?)?;
        Ok(thin)
    }

    /// Gives out no thin id below `first` any more; whether that is news.
    pub fn skip_thin_ids(&mut self, first: u64) -> Result<bool, PoolError> {
        let mut meta = self.transaction.open_table(META).map_err(failed)?;
        let is_news = number(&meta, NEXT_THIN_ID)? < first;
        if is_news {
            meta.insert(NEXT_THIN_ID, first.to_string().as_str()).map_err(failed)?;
        }
        Ok(is_news)
    }

    /// Gives an object another thin id, since a device that is not its own has the one it was given.
    pub fn renumber_thin_object(&mut self, thin: &ThinObject) -> Result<ThinObject, PoolError> {
        self.remove(THIN_OBJECTS, &object_key(thin.object))?;
        self.add_thin_object(thin.object, thin.size)
    }

    /// Replaces what is remembered about an object.
    pub fn put_thin_object(&mut self, thin: &ThinObject) -> Result<(), PoolError> {
        self.put(THIN_OBJECTS, &object_key(thin.object), &encode(thin)?)
    }

    /// Forgets an object, and the map that was kept of it. Absent is fine.
    pub fn remove_thin_object(&mut self, object: Object) -> Result<(), PoolError> {
        if let Object::Snapshot(id) = object {
            self.remove(KEPT_MAPS, id.as_bytes())?;
        }
        self.remove(THIN_OBJECTS, &object_key(object))
    }

    /// Notes that the device of an object is still to be deleted, whatever becomes of what is remembered about the object.
    pub fn put_deleted_thin(&mut self, thin: &ThinObject) -> Result<(), PoolError> {
        self.put(DELETED_THIN, &thin_key(thin.id), &encode(thin)?)
    }

    /// Forgets that a device is still to be deleted. Absent is fine.
    pub fn drop_deleted_thin(&mut self, id: ThinId) -> Result<(), PoolError> {
        self.remove(DELETED_THIN, &thin_key(id))
    }

    /// Keeps the map of a deleted snapshot in place of its thin device.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`] when the catalogue has no room for it; [`PoolError::Catalogue`].
    pub fn keep_map(&mut self, thin: &ThinObject, snapshot: SnapshotId, encoded: &[u8]) -> Result<(), PoolError> {
        self.check_room(Need::New)?;
        self.put(KEPT_MAPS, snapshot.as_bytes(), encoded)?;
        self.put_thin_object(&ThinObject { stored: ThinStored::Map, ..*thin })
    }

    /// Sets the epoch, and how far it came.
    pub fn set_epoch(&mut self, epoch: u64, step: EpochStep) -> Result<(), PoolError> {
        let mut meta = self.transaction.open_table(META).map_err(failed)?;
        meta.insert(EPOCH, epoch.to_string().as_str()).map_err(failed)?;
        match step.word() {
            Some(word) => meta.insert(EPOCH_STEP, format!("{word} {epoch}").as_str()).map(drop).map_err(failed)?,
            None => meta.remove(EPOCH_STEP).map(drop).map_err(failed)?,
        }
        Ok(())
    }

    /// Makes every snapshot and anchor that there is useless as a base: what changed since is not told any more.
    pub fn break_history(&mut self) -> Result<(), PoolError> {
        let mut meta = self.transaction.open_table(META).map_err(failed)?;
        // A cut has the number of its intent, and those ascend whatever becomes of them.
        let first = meta.get(NEXT_INTENT).map_err(failed)?.map_or_else(|| "1".to_owned(), |value| value.value().to_owned());
        meta.insert(FIRST_DELTA_BASE, first.as_str()).map_err(failed)?;
        Ok(())
    }
}

fn thin_key(id: ThinId) -> [u8; 4] {
    id.number().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::VolumeId;

    #[test]
    fn a_thin_id_is_given_out_once_also_after_its_object_is_gone() {
        let catalogue = Catalogue::in_memory().unwrap();
        let (one, two) = (Object::Volume(VolumeId::random()), Object::Snapshot(SnapshotId::random()));
        let add = |object| catalogue.commit("test", |change| change.add_thin_object(object, VolumeSize::DEFAULT)).unwrap();
        assert_eq!(catalogue.thin_objects().unwrap(), Vec::new());
        assert_eq!((add(one).id.number(), add(one).id.number(), add(two).id.number()), (0, 0, 1));
        catalogue.commit("test", |change| change.remove_thin_object(two)).unwrap();
        assert_eq!(catalogue.thin_object(two).unwrap(), None);
        assert_eq!(add(two).id.number(), 2);
        assert_eq!(catalogue.thin_objects().unwrap().len(), 2);
    }

    #[test]
    fn an_id_that_something_else_has_is_skipped_and_never_given_out() {
        let catalogue = Catalogue::in_memory().unwrap();
        let object = Object::Volume(VolumeId::random());
        let commit = |first| catalogue.commit("test", |change| change.skip_thin_ids(first)).unwrap();
        assert!(commit(5));
        assert!(!commit(5) && !commit(3), "the counter never goes back");
        let size = VolumeSize::DEFAULT;
        let thin = catalogue.commit("test", |change| change.add_thin_object(object, size)).unwrap();
        assert_eq!(thin.id.number(), 5);
        let again = catalogue.commit("test", |change| change.renumber_thin_object(&thin)).unwrap();
        assert_eq!((again.id.number(), again.object, again.size), (6, object, size));
        assert_eq!(catalogue.thin_objects().unwrap(), [again]);
        // Beyond the last one there is none.
        commit(1 << 24);
        let full = catalogue.commit("test", |change| change.renumber_thin_object(&again));
        assert!(matches!(full, Err(PoolError::NoSpace(_))), "{full:?}");
        assert_eq!(catalogue.thin_objects().unwrap(), [again]);
    }

    #[test]
    fn a_kept_map_goes_with_its_object() {
        let catalogue = Catalogue::in_memory().unwrap();
        let snapshot = SnapshotId::random();
        let object = Object::Snapshot(snapshot);
        catalogue
            .commit("test", |change| {
                let thin = change.add_thin_object(object, VolumeSize::DEFAULT)?;
                change.keep_map(&thin, snapshot, b"map")
            })
            .unwrap();
        assert_eq!(catalogue.kept_map(snapshot).unwrap().as_deref(), Some(b"map".as_slice()));
        assert_eq!(catalogue.thin_object(object).unwrap().unwrap().stored, ThinStored::Map);
        catalogue.commit("test", |change| change.remove_thin_object(object)).unwrap();
        assert_eq!(catalogue.kept_map(snapshot).unwrap(), None);
    }

    #[test]
    fn a_device_that_is_to_be_deleted_is_remembered_without_its_object() {
        let catalogue = Catalogue::in_memory().unwrap();
        let object = Object::Volume(VolumeId::random());
        assert_eq!(catalogue.deleted_thin().unwrap(), []);
        let delete = |change: &mut Change<'_>| {
            let thin = change.add_thin_object(object, VolumeSize::DEFAULT)?;
            change.put_deleted_thin(&thin)?;
            change.remove_thin_object(object).map(|()| thin)
        };
        let thin = catalogue.commit("test", delete).unwrap();
        assert_eq!((catalogue.thin_object(object).unwrap(), catalogue.deleted_thin().unwrap()), (None, vec![thin]));
        assert!(catalogue.is_deleted_thin(thin.id).unwrap());
        catalogue.commit("test", |change| change.drop_deleted_thin(thin.id)).unwrap();
        assert!(!catalogue.is_deleted_thin(thin.id).unwrap());
    }

    #[test]
    fn the_epoch_starts_at_zero_and_is_what_was_set() {
        let catalogue = Catalogue::in_memory().unwrap();
        assert_eq!(catalogue.epoch().unwrap(), 0);
        let set = |epoch, step| catalogue.commit("test", |change| change.set_epoch(epoch, step)).unwrap();
        assert_eq!(catalogue.epoch_step().unwrap(), EpochStep::Unknown);
        set(7, EpochStep::Pending);
        assert_eq!((catalogue.epoch().unwrap(), catalogue.epoch_step().unwrap()), (7, EpochStep::Pending));
        set(7, EpochStep::Settled);
        assert_eq!(catalogue.epoch_step().unwrap(), EpochStep::Settled);
    }

    #[test]
    fn an_epoch_that_another_version_raised_is_not_taken_for_settled() {
        let catalogue = Catalogue::in_memory().unwrap();
        catalogue.commit("test", |change| change.set_epoch(7, EpochStep::Settled)).unwrap();
        // As a version does that knows nothing of steps.
        let raise = |change: &mut Change<'_>| {
            let mut meta = change.transaction.open_table(META).map_err(failed)?;
            meta.insert(EPOCH, "8").map(drop).map_err(failed)
        };
        catalogue.commit("test", raise).unwrap();
        assert_eq!((catalogue.epoch().unwrap(), catalogue.epoch_step().unwrap()), (8, EpochStep::Unknown));
    }
}
