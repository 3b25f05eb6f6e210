//! The process dies at each act of each operation, before and after its effect; then the pool is opened anew.
//!
//! An act lies between two commits, so dying before it is dying after the intent, and dying after it is dying before the
//! result is recorded.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::pool::record::{Anchor, Consumer};

type Operation = fn(&World, VolumeId, SnapshotId) -> Result<(), PoolError>;

fn copy_of(source: Object) -> NewVolume {
    NewVolume { source: Some(source), ..new_volume("new") }
}

/// Each operation that changes the pool, with what it acts by.
const OPERATIONS: [(&str, &[Verb], Operation); 13] = [
    ("create", &[Verb::Create], |world, _, _| world.owned.create_volume(&new_volume("new")).map(drop)),
    ("copy a snapshot", &[Verb::Copy], |world, _, snapshot| {
        world.owned.create_volume(&copy_of(Object::Snapshot(snapshot))).map(drop)
    }),
    ("copy a volume", &[Verb::Copy], |world, volume, _| world.owned.create_volume(&copy_of(Object::Volume(volume))).map(drop)),
    ("cut", &[Verb::Snapshot], |world, volume, _| world.owned.create_snapshots(&[new_snapshot("new", volume)]).map(drop)),
    ("grow", &[Verb::Grow], |world, volume, _| {
        world.owned.grow_volume(volume, CapacityRange::new(Some(4 * MIB), None).unwrap()).map(drop)
    }),
    ("delete a volume", &[Verb::Detach, Verb::Delete], |world, volume, _| world.owned.delete_volume(volume)),
    ("delete a snapshot", &[Verb::Delete], |world, _, snapshot| world.owned.delete_snapshot(snapshot)),
    ("delete a used snapshot into an anchor, which evicts the one before", &[Verb::Delete], |world, _, snapshot| {
        if world.owned.snapshot(snapshot)?.is_some() {
            world.owned.record_use(snapshot, CONSUMER)?;
        }
        world.owned.delete_snapshot(snapshot)
    }),
    ("export, which evicts the base of the export before", &[Verb::Delete], |world, volume, snapshot| {
        let export = ExportRecord {
            repository: REPOSITORY.to_owned(),
            volume,
            snapshot,
            repository_snapshot: String::new(),
            size: bytes(MIB),
            chunk_size: MIB,
            finished: Timestamp::now(),
        };
        world.owned.put_export(&export)
    }),
    ("give a local copy up that is nobody's base", &[Verb::Delete], |world, volume, snapshot| {
        export(world, volume, snapshot)?;
        let newer = world.owned.create_snapshots(&[new_snapshot("newer", volume)])?.remove(0).into_inner();
        export(world, volume, newer.id)?;
        world.owned.give_up_local_copy(snapshot)
    }),
    ("give a local copy up that is a base", &[Verb::Condense], |world, volume, snapshot| {
        export(world, volume, snapshot)?;
        world.owned.give_up_local_copy(snapshot)
    }),
    ("restore", &[Verb::Create], |world, _, _| match world.owned.begin_restore(&new_volume("new"), OnLoss::Delete)? {
        RestoreStart::Target(target) => world.owned.commit_restore(target.close()).map(drop),
        RestoreStart::Existing(_) => Ok(()),
    }),
    ("abort", &[Verb::Create, Verb::Delete], |world, _, _| {
        match world.owned.begin_restore(&new_volume("new"), OnLoss::Delete)? {
            RestoreStart::Target(target) => world.owned.abort_restore(target.volume()),
            RestoreStart::Existing(_) => Ok(()),
        }
    }),
];

/// To a repository that nothing was exported to before.
fn export(world: &World, volume: VolumeId, snapshot: SnapshotId) -> Result<(), PoolError> {
    world.owned.put_export(&ExportRecord {
        repository: "cd".to_owned(),
        volume,
        snapshot,
        repository_snapshot: String::new(),
        size: bytes(MIB),
        chunk_size: MIB,
        finished: Timestamp::now(),
    })
}

const CONSUMER: Consumer = Consumer::MetadataClient;
const REPOSITORY: &str = "ab";

/// A volume, attached, with a snapshot, and anchors of older snapshots, as many of each consumer as are kept.
fn prepared() -> (World, VolumeId, SnapshotId) {
    let world = World::over(MemoryPool::default(), Arc::new(Recorder::default()));
    let volume = world.create("old");
    world.write(volume.id, 0, b"kept");
    for consumer in [CONSUMER, CONSUMER, Consumer::Repository(REPOSITORY.to_owned())] {
        let used = world.cut("used", volume.id);
        world.owned.record_use(used.id, consumer).unwrap();
        world.owned.delete_snapshot(used.id).unwrap();
    }
    let snapshot = world.cut("old", volume.id);
    world.owned.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap();
    (world, volume.id, snapshot.id)
}

type Visible = (Vec<(String, u64)>, Vec<String>, Vec<(String, Vec<Consumer>)>);

/// What the orchestrator sees, names of volumes with their sizes and snapshots with whether their bytes are here; and names of anchors with their consumers.
fn visible(world: &World) -> Visible {
    let mut volumes: Vec<(String, u64)> =
        world.owned.volumes().unwrap().iter().map(|volume| (volume.name.to_string(), volume.size.bytes())).collect();
    volumes.sort_unstable();
    let snapshot = |snapshot: &Snapshot| format!("{}, local copy {:?}", snapshot.name, snapshot.copies.local);
    let mut snapshots: Vec<String> = world.owned.snapshots().unwrap().iter().map(snapshot).collect();
    snapshots.sort_unstable();
    let anchor = |anchor: Anchor| (anchor.snapshot.name.to_string(), anchor.snapshot.used_by.into_iter().collect());
    let mut anchors: Vec<(String, Vec<Consumer>)> = world.owned.anchors().unwrap().into_iter().map(anchor).collect();
    anchors.sort_unstable();
    (volumes, snapshots, anchors)
}

#[test]
fn whatever_was_interrupted_the_next_start_is_tidy_and_the_same_request_succeeds() {
    for (what, verbs, operation) in OPERATIONS {
        let undisturbed = {
            let (world, volume, snapshot) = prepared();
            operation(&world, volume, snapshot).unwrap();
            world.assert_tidy();
            visible(&world)
        };
        for &verb in verbs {
            for moment in [Moment::Before, Moment::After] {
                let (mut world, volume, snapshot) = prepared();
                let before = visible(&world);
                world.memory.set_hook(Some(Arc::new(move |called, at| {
                    if (called, at) == (verb, moment) { panic!("killed here") } else { Ok(()) }
                })));
                let died = catch_unwind(AssertUnwindSafe(|| operation(&world, volume, snapshot))).is_err();
                assert!(died, "{what} does not act by {verb:?}");
                world.restart();
                world.assert_tidy();
                let after = visible(&world);
                assert!(after == before || after == undisturbed, "{what}, {moment:?} {verb:?}: {after:?}");
                operation(&world, volume, snapshot).unwrap();
                world.assert_tidy();
                assert_eq!(visible(&world), undisturbed, "{what}, {moment:?} {verb:?}");
                if world.owned.volume(volume).unwrap().is_some() {
                    assert_eq!(world.read(Object::Volume(volume), 0, 4), b"kept");
                }
            }
        }
    }
}

#[test]
fn the_anchors_of_a_deleted_volume_go_with_its_last_snapshot_also_when_that_is_interrupted() {
    for acts in 0..4 {
        for moment in [Moment::Before, Moment::After] {
            let (mut world, volume, snapshot) = prepared();
            world.owned.delete_volume(volume).unwrap();
            assert_eq!(world.owned.anchors().unwrap().len(), 3);
            let count = AtomicUsize::new(0);
            world.memory.set_hook(Some(Arc::new(move |verb, at| {
                let is_next = verb == Verb::Delete && at == moment && count.fetch_add(1, Ordering::SeqCst) == acts;
                if is_next { panic!("killed here") } else { Ok(()) }
            })));
            assert!(catch_unwind(AssertUnwindSafe(|| world.owned.delete_snapshot(snapshot))).is_err());
            world.restart();
            assert_eq!(visible(&world), (Vec::new(), Vec::new(), Vec::new()));
            assert!(world.memory.scan().unwrap().is_empty());
            world.assert_tidy();
        }
    }
}

#[test]
fn what_the_next_start_cannot_recover_is_kept_for_the_one_after() {
    let (mut world, volume, _) = prepared();
    world.memory.set_hook(Some(Arc::new(|verb, _| if verb == Verb::Snapshot { panic!("killed here") } else { Ok(()) })));
    assert!(catch_unwind(AssertUnwindSafe(|| world.owned.create_snapshots(&[new_snapshot("new", volume)]))).is_err());
    world.fail(Verb::Delete, Moment::Before);
    world.owned = OwnedPool::open(world.memory.clone(), world.catalogue.clone(), world.quiesce.clone()).unwrap();
    assert_eq!(world.catalogue.intents().unwrap().len(), 1);
    assert!(world.owned.status().unwrap().quarantined.is_empty());
    world.restart();
    world.assert_tidy();
}

/// A disk under the catalogue that dies at a chosen sync, and keeps what was synced.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Debug, Default)]
struct DiskState {
    synced: Vec<u8>,
    written: Vec<u8>,
    /// Syncs until it dies, and whether that last one still takes effect.
    dies: Option<(usize, Moment)>,
    dead: bool,
    /// Changes that still fit before there is no space, if there is an end of it.
    fits: Option<usize>,
    /// Whether anything did not fit.
    was_full: bool,
}

impl DiskState {
    /// Takes space for one change.
    fn take_space(&mut self) -> io::Result<()> {
        match &mut self.fits {
            None => Ok(()),
            Some(0) => {
                self.was_full = true;
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(fits) => {
                *fits -= 1;
                Ok(())
            }
        }
    }
}

impl Disk {
    /// So many changes still fit; all of them when `None`.
    pub(crate) fn set_room(&self, fits: Option<usize>) {
        self.state.lock().unwrap().fits = fits;
    }

    pub(crate) fn was_full(&self) -> bool {
        self.state.lock().unwrap().was_full
    }

    fn die_at(&self, sync: usize, moment: Moment) {
        self.state.lock().unwrap().dies = Some((sync, moment));
    }

    fn is_dead(&self) -> bool {
        self.state.lock().unwrap().dead
    }

    /// The same disk after the power came back.
    fn revived(&self) -> Self {
        let synced = self.state.lock().unwrap().synced.clone();
        Self { state: Arc::new(Mutex::new(DiskState { written: synced.clone(), synced, ..DiskState::default() })) }
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, DiskState>> {
        let state = self.state.lock().unwrap();
        if state.dead { Err(io::Error::other("the disk is dead")) } else { Ok(state) }
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        out.copy_from_slice(self.alive()?.written.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        state.take_space()?;
        state.written.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        state.take_space()?;
        match &mut state.dies {
            Some((0, moment)) => {
                if *moment == Moment::After {
                    state.synced = state.written.clone();
                }
                state.dead = true;
                Err(io::Error::other("the disk died"))
            }
            other => {
                if let Some((syncs, _)) = other {
                    *syncs -= 1;
                }
                state.synced = state.written.clone();
                Ok(())
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = offset as usize;
        let mut state = self.alive()?;
        state.take_space()?;
        state.written.get_mut(offset..offset + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }
}

/// A world whose catalogue lies on the disk.
fn prepared_on(disk: &Disk) -> (World, VolumeId, SnapshotId) {
    let (mut world, volume, snapshot) = prepared();
    let (volume, snapshot) = (world.owned.volume(volume).unwrap().unwrap(), world.owned.snapshot(snapshot).unwrap().unwrap());
    let anchors = world.owned.anchors().unwrap();
    world.catalogue = Catalogue::over(disk.clone(), PoolId::random()).unwrap();
    world
        .catalogue
        .commit("test", |change| {
            // What is cut from here on comes after what was cut before.
            change.skip_intents(snapshot.serial + 1)?;
            anchors.iter().try_for_each(|anchor| change.put_anchor(anchor))?;
            change.put_volume(&volume)?;
            change.put_snapshot(&snapshot)
        })
        .unwrap();
    world.restart();
    (world, volume.id, snapshot.id)
}

#[test]
fn a_commit_that_fails_is_neither_undone_nor_lost() {
    let mut cuts = 0;
    for (what, _, operation) in OPERATIONS {
        let undisturbed = {
            let (world, volume, snapshot) = prepared();
            operation(&world, volume, snapshot).unwrap();
            visible(&world)
        };
        for moment in [Moment::Before, Moment::After] {
            for sync in 0.. {
                let disk = Disk::default();
                let (mut world, volume, snapshot) = prepared_on(&disk);
                disk.die_at(sync, moment);
                let result = operation(&world, volume, snapshot);
                if !disk.is_dead() {
                    result.unwrap();
                    break;
                }
                cuts += 1;
                assert!(matches!(result, Ok(()) | Err(PoolError::Catalogue(_))), "{what}: {result:?}");
                // The pool stands still: nothing is done that could not be recorded.
                assert!(world.owned.create_volume(&new_volume("another")).is_err());
                world.catalogue = Catalogue::over(disk.revived(), PoolId::random()).unwrap();
                world.restart();
                world.assert_tidy();
                if result.is_ok() {
                    // Done but for an eviction that came of it, which is none of the caller's business.
                    assert_eq!(visible(&world), undisturbed, "{what}, sync {sync}, {moment:?}");
                }
                operation(&world, volume, snapshot).unwrap();
                world.assert_tidy();
                assert_eq!(visible(&world), undisturbed, "{what}, sync {sync}, {moment:?}");
                if world.owned.snapshot(snapshot).unwrap().is_some_and(|snapshot| snapshot.is_here()) {
                    assert_eq!(world.read(Object::Snapshot(snapshot), 0, 4), b"kept", "{what}");
                }
            }
        }
    }
    assert!(cuts >= 2 * 2 * OPERATIONS.len(), "{cuts}");
}

#[test]
fn a_commit_that_finds_no_space_is_settled_in_the_same_process_once_there_is_some() {
    let mut full = 0;
    for (what, _, operation) in OPERATIONS {
        let undisturbed = {
            let (world, volume, snapshot) = prepared();
            operation(&world, volume, snapshot).unwrap();
            visible(&world)
        };
        for fits in 0.. {
            let disk = Disk::default();
            let (world, volume, snapshot) = prepared_on(&disk);
            disk.set_room(Some(fits));
            let result = operation(&world, volume, snapshot);
            if !disk.was_full() {
                result.unwrap();
                break;
            }
            full += 1;
            // Not known to have been done, and not known not to: never the final answer that a full pool is.
            assert!(matches!(result, Ok(()) | Err(PoolError::Catalogue(_))), "{what}: {result:?}");
            let works = world.owned.check_catalogue();
            assert!(matches!(works, Err(PoolError::Catalogue(_))), "{what}: {works:?}");
            assert!(!world.owned.catalogue_took_its_last_change());
            // What is there can be looked at all the same.
            world.owned.volumes().unwrap();
            assert!(world.owned.create_volume(&new_volume("another")).is_err());
            disk.set_room(None);
            if fits % 2 == 0 {
                world.owned.check_catalogue().unwrap();
                // What is left is that of a restore, which goes on until its commit or abort.
                assert!(world.catalogue.intents().unwrap().len() <= world.owned.restoring().len(), "{what}, after {fits}");
            }
            operation(&world, volume, snapshot).or_else(|error| finished(&world, what, error)).unwrap();
            assert_eq!(visible(&world), undisturbed, "{what}, after {fits}");
            world.owned.check_catalogue().unwrap();
            assert!(world.owned.catalogue_took_its_last_change());
            world.assert_tidy();
            if world.owned.snapshot(snapshot).unwrap().is_some_and(|snapshot| snapshot.is_here()) {
                assert_eq!(world.read(Object::Snapshot(snapshot), 0, 4), b"kept", "{what}");
            }
        }
    }
    assert!(full >= 10 * OPERATIONS.len(), "{full}");
}

/// A restore goes on where it stopped: its commit, or its abort, is repeated.
fn finished(world: &World, what: &str, error: PoolError) -> Result<(), PoolError> {
    let PoolError::Busy(_) = error else { return Err(error) };
    let id = *world.owned.restoring().keys().next().ok_or(error)?;
    if what == "abort" { world.owned.abort_restore(id) } else { world.owned.commit_restore(id).map(drop) }
}

#[test]
fn a_pool_whose_catalogue_takes_no_changes_opens_ends_what_was_held_and_recovers_when_it_does() {
    let disk = Disk::default();
    let (mut world, volume, _) = prepared_on(&disk);
    world.memory.set_hook(Some(Arc::new(|verb, _| if verb == Verb::Snapshot { panic!("killed here") } else { Ok(()) })));
    assert!(catch_unwind(AssertUnwindSafe(|| world.owned.create_snapshots(&[new_snapshot("new", volume)]))).is_err());
    world.memory.set_hook(None);
    let quiesce = Arc::new(Recorder::default());
    let dead = disk.revived();
    dead.set_room(Some(0));
    world.catalogue = Catalogue::over(dead.clone(), PoolId::random()).unwrap();
    world.owned = OwnedPool::open(world.memory.clone(), world.catalogue.clone(), quiesce.clone()).unwrap();
    assert_eq!(quiesce.leftovers.lock().unwrap().len(), 1);
    assert_eq!(world.owned.volumes().unwrap().len(), 1);
    assert!(matches!(world.owned.check_catalogue(), Err(PoolError::Catalogue(_))));
    assert!(matches!(world.owned.delete_volume(volume), Err(PoolError::Catalogue(_))));
    assert_eq!(world.catalogue.intents().unwrap().len(), 1);
    dead.set_room(None);
    world.owned.check_catalogue().unwrap();
    world.assert_tidy();
    world.owned.delete_volume(volume).unwrap();
    world.assert_tidy();
}
