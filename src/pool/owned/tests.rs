//! The owned pool over memory: answers, refusals, leases, restores. Crashes are in `crash`, random sequences in `model`.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::pool::PoolUsage;
use crate::pool::intent::Intent;
use crate::pool::memory::{MemoryPool, Moment, Verb};
use crate::pool::quiesce::{Held, NothingToHold, QuiesceError};
use crate::pool::record::{NewSnapshot, Outcome, Publication, PublicationKind, Snapshot, Volume};
use crate::types::{
    AccessMode, ByteRange, CapacityRange, DataChecksum, ExportRecord, FormatState, FsType, NewVolume, ObjectName, SnapshotId,
    Timestamp, VolumeMode,
};

mod anchors;
pub(crate) mod crash;
mod many;
mod model;
mod zeros;

const MIB: u64 = 1 << 20;

fn name(text: &str) -> ObjectName {
    text.to_owned().try_into().unwrap()
}

fn bytes(bytes: u64) -> VolumeSize {
    VolumeSize::new(bytes).unwrap()
}

fn new_volume(text: &str) -> NewVolume {
    NewVolume {
        name: name(text),
        capacity: CapacityRange::new(Some(MIB), None).unwrap(),
        minimum: bytes(4096),
        mode: VolumeMode::Filesystem(FsType::Ext4),
        access_modes: vec![AccessMode::SingleNodeWriter],
        mount_flags: Vec::new(),
        parameters: BTreeMap::new(),
        checksum: DataChecksum::Off,
        source: None,
        foreign_source: None,
        kubernetes: Default::default(),
    }
}

fn new_snapshot(text: &str, source: VolumeId) -> NewSnapshot {
    NewSnapshot { name: name(text), source, parameters: BTreeMap::new(), kubernetes: Default::default() }
}

struct World {
    memory: Arc<MemoryPool>,
    catalogue: Catalogue,
    quiesce: Arc<dyn Quiesce>,
    owned: OwnedPool,
}

impl World {
    fn new() -> Self {
        Self::over(MemoryPool::default(), Arc::new(NothingToHold))
    }

    fn over(memory: MemoryPool, quiesce: Arc<dyn Quiesce>) -> Self {
        let (memory, catalogue) = (Arc::new(memory), Catalogue::in_memory().unwrap());
        let owned = OwnedPool::open(memory.clone(), catalogue.clone(), quiesce.clone()).unwrap();
        Self { memory, catalogue, quiesce, owned }
    }

    /// As after the death of the process.
    fn restart(&mut self) {
        self.memory.set_hook(None);
        self.owned = OwnedPool::open(self.memory.clone(), self.catalogue.clone(), self.quiesce.clone()).unwrap();
    }

    fn create(&self, text: &str) -> Volume {
        self.owned.create_volume(&new_volume(text)).unwrap().into_inner()
    }

    fn cut(&self, text: &str, source: VolumeId) -> Snapshot {
        self.owned.create_snapshots(&[new_snapshot(text, source)]).unwrap().remove(0).into_inner()
    }

    fn write(&self, id: VolumeId, offset: u64, data: &[u8]) {
        self.memory.open(Object::Volume(id), Access::ReadWrite).unwrap().write_all_at(data, offset).unwrap();
    }

    fn read(&self, object: Object, offset: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.memory.open(object, Access::ReadOnly).unwrap().read_exact_at(&mut data, offset).unwrap();
        data
    }

    /// No intent is left, every object has a record and every record an object.
    fn assert_tidy(&self) {
        assert_eq!(self.catalogue.intents().unwrap(), Vec::new());
        let findings = recovery::compare(self.memory.as_ref(), &self.catalogue).unwrap();
        assert_eq!(findings.quarantined, Vec::<String>::new());
        assert_eq!(findings.damaged, BTreeMap::new());
    }

    fn fail(&self, verb: Verb, moment: Moment) {
        self.memory.set_hook(Some(Arc::new(move |called, at| {
            if (called, at) == (verb, moment) { Err(PoolError::io("test", io::Error::other("injected"))) } else { Ok(()) }
        })));
    }
}

fn publication(boot_id: &str) -> Publication {
    Publication {
        path: PathBuf::from("/var/lib/kubelet/target"),
        kind: PublicationKind::Published,
        mode: VolumeMode::Block,
        access_mode: AccessMode::SingleNodeWriter,
        mount_flags: Vec::new(),
        access: Access::ReadWrite,
        boot_id: boot_id.to_owned(),
    }
}

fn this_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// Holds, with what is to be answered at the release, and a count of what is held.
#[derive(Default)]
struct Recorder {
    expire: bool,
    refuse: Option<QuiesceError>,
    /// Somebody else has frozen all of it.
    foreign: bool,
    held: Arc<AtomicUsize>,
    holds: Mutex<Vec<Vec<PathBuf>>>,
    leftovers: Mutex<Vec<Vec<PathBuf>>>,
}

struct Recorded {
    expire: bool,
    foreign: Vec<PathBuf>,
    held: Arc<AtomicUsize>,
}

impl Quiesce for Recorder {
    fn hold(&self, devices: &[PathBuf], deadline: Duration) -> Result<Box<dyn Held>, QuiesceError> {
        assert_eq!(deadline, FREEZE_DEADLINE);
        self.holds.lock().unwrap().push(devices.to_vec());
        if let Some(error) = &self.refuse {
            return Err(error.clone());
        }
        self.held.fetch_add(1, Ordering::SeqCst);
        let foreign = if self.foreign { devices.to_vec() } else { Vec::new() };
        Ok(Box::new(Recorded { expire: self.expire, foreign, held: self.held.clone() }))
    }

    fn release_leftovers(&self, devices: &[PathBuf]) -> Result<(), QuiesceError> {
        self.leftovers.lock().unwrap().push(devices.to_vec());
        Ok(())
    }
}

impl Held for Recorded {
    fn foreign(&self) -> &[PathBuf] {
        &self.foreign
    }

    fn release(self: Box<Self>) -> Release {
        if self.expire { Release::Expired } else { Release::InTime }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn a_repeated_creation_is_answered_from_the_record() {
    let world = World::new();
    let Outcome::Created(volume) = world.owned.create_volume(&new_volume("one")).unwrap() else { panic!() };
    assert_eq!((volume.size, volume.format), (bytes(MIB), FormatState::Never));
    let grown = world.owned.grow_volume(volume.id, CapacityRange::new(Some(4 * MIB), None).unwrap()).unwrap();
    assert_eq!(world.owned.create_volume(&new_volume("one")).unwrap(), Outcome::Existing(grown));
    let other = NewVolume { mode: VolumeMode::Block, ..new_volume("one") };
    assert!(matches!(world.owned.create_volume(&other), Err(PoolError::NameTaken { .. })));
    world.assert_tidy();
}

#[test]
fn volumes_and_snapshots_have_names_of_their_own() {
    let world = World::new();
    let volume = world.create("same");
    let snapshot = world.cut("same", volume.id);
    assert_eq!(world.owned.snapshot_by_name(&name("same")).unwrap(), Some(snapshot));
    assert_eq!(world.owned.volume_by_name(&name("same")).unwrap(), Some(volume));
}

#[test]
fn a_snapshot_keeps_its_answer_when_its_volume_grows_and_goes() {
    let world = World::new();
    let volume = world.create("one");
    world.write(volume.id, 4096, b"at the cut");
    let snapshot = world.cut("snap", volume.id);
    world.write(volume.id, 4096, b"thereafter");
    world.owned.grow_volume(volume.id, CapacityRange::new(Some(2 * MIB), None).unwrap()).unwrap();
    let again = world.owned.create_snapshots(&[new_snapshot("snap", volume.id)]).unwrap();
    assert_eq!(again, vec![Outcome::Existing(snapshot.clone())]);
    world.owned.delete_volume(volume.id).unwrap();
    let again = world.owned.create_snapshots(&[new_snapshot("snap", volume.id)]).unwrap();
    assert_eq!(again, vec![Outcome::Existing(snapshot.clone())]);
    assert_eq!(world.read(Object::Snapshot(snapshot.id), 4096, 10), b"at the cut");
    let other = world.owned.create_snapshots(&[new_snapshot("other", volume.id)]);
    assert!(matches!(other, Err(PoolError::SourceMissing(_))));
}

#[test]
fn blocks_are_of_the_size_that_was_asked_for_and_copies_have_their_sources() {
    let world = World::new();
    let in_blocks = |value: &str, request: NewVolume| NewVolume {
        parameters: BTreeMap::from([(LogicalBlockSize::PARAMETER.to_owned(), value.to_owned())]),
        ..request
    };
    let make = |request: &NewVolume| world.owned.create_volume(request).map(|outcome| outcome.into_inner());
    assert_eq!(make(&new_volume("own")).unwrap().logical_block_size, LogicalBlockSize::B4096);
    let small = make(&in_blocks("512", new_volume("small"))).unwrap();
    assert_eq!(small.logical_block_size, LogicalBlockSize::B512);
    let snapshot = world.cut("snap", small.id);
    assert_eq!(snapshot.logical_block_size, LogicalBlockSize::B512);
    for (name, source) in [("clone", Object::Volume(small.id)), ("copy", Object::Snapshot(snapshot.id))] {
        let copy = NewVolume { source: Some(source), ..new_volume(name) };
        assert!(matches!(make(&in_blocks("4096", copy.clone())), Err(PoolError::Unsupported(_))));
        assert_eq!(make(&copy).unwrap().logical_block_size, LogicalBlockSize::B512);
    }
}

#[test]
fn a_record_never_says_less_than_the_object_holds() {
    let up_to = |size| CapacityRange::new(Some(size), None).unwrap();
    let grown = |moment| {
        let world = World::new();
        let volume = world.create("one");
        world.fail(Verb::Grow, moment);
        world.owned.grow_volume(volume.id, up_to(8 * MIB)).unwrap_err();
        world.memory.set_hook(None);
        (world, volume.id)
    };
    let size = |world: &World, id| world.owned.volume(id).unwrap().unwrap().size;
    // It failed behind the effect: the record follows at once, whatever is done next.
    let (world, id) = grown(Moment::After);
    assert_eq!(size(&world, id), bytes(8 * MIB));
    assert_eq!(world.cut("snap", id).size, bytes(8 * MIB));
    let lowered = world.owned.grow_volume(id, up_to(2 * MIB)).unwrap();
    assert_eq!((lowered.size, size(&world, id)), (bytes(8 * MIB), bytes(8 * MIB)));
    world.assert_tidy();
    let limited = CapacityRange::new(Some(2 * MIB), Some(4 * MIB)).unwrap();
    assert!(matches!(world.owned.grow_volume(id, limited), Err(PoolError::Size(_))));
    // It failed before it: a smaller growth is a smaller growth.
    let (world, id) = grown(Moment::Before);
    assert_eq!(size(&world, id), bytes(MIB));
    assert_eq!(world.owned.grow_volume(id, up_to(2 * MIB)).unwrap().size, bytes(2 * MIB));
    world.assert_tidy();
}

#[test]
fn a_record_that_an_earlier_version_left_too_small_is_mended_before_a_cut_a_copy_or_a_growth() {
    for then in ["cut", "copy", "grow", "restart"] {
        let mut world = World::new();
        let volume = world.create("one");
        world.memory.grow(volume.id, bytes(8 * MIB)).unwrap();
        match then {
            "cut" => assert_eq!(world.cut("snap", volume.id).size, bytes(8 * MIB)),
            "copy" => {
                let request =
                    NewVolume { source: Some(Object::Volume(volume.id)), capacity: CapacityRange::ANY, ..new_volume("copy") };
                assert_eq!(world.owned.create_volume(&request).unwrap().into_inner().size, bytes(8 * MIB));
            }
            "grow" => {
                let size = world.owned.grow_volume(volume.id, CapacityRange::new(Some(2 * MIB), None).unwrap()).unwrap().size;
                assert_eq!(size, bytes(8 * MIB));
            }
            _ => {
                let smaller = Intent::Grow { volume: volume.id, size: bytes(2 * MIB) };
                world.catalogue.commit("test", |change| change.add_intent(&smaller)).unwrap();
                world.restart();
            }
        }
        assert_eq!(world.owned.volume(volume.id).unwrap().unwrap().size, bytes(8 * MIB), "{then}");
        world.assert_tidy();
    }
}

#[test]
fn a_volume_that_comes_back_from_its_deletion_has_the_size_that_a_failed_growth_gave_it() {
    let world = World::new();
    let volume = world.create("one");
    world.fail(Verb::Grow, Moment::After);
    world.owned.grow_volume(volume.id, CapacityRange::new(Some(8 * MIB), None).unwrap()).unwrap_err();
    // As if the record had not followed: the deletion is begun from the record, and its act finds the volume in use.
    world.catalogue.commit("test", |change| change.put_volume(&volume)).unwrap();
    let object = Object::Volume(volume.id);
    world.memory.set_hook(Some(Arc::new(move |verb, at| match (verb, at) {
        (Verb::Delete, Moment::Before) => Err(PoolError::InUse { object, by: "test".to_owned() }),
        _ => Ok(()),
    })));
    assert!(matches!(world.owned.delete_volume(volume.id), Err(PoolError::InUse { .. })));
    world.memory.set_hook(None);
    assert_eq!(world.owned.volume(volume.id).unwrap().unwrap().size, bytes(8 * MIB));
    assert_eq!(world.catalogue.intents().unwrap().len(), 1, "its device still has to follow");
    world.owned.grow_volume(volume.id, CapacityRange::new(Some(MIB), None).unwrap()).unwrap();
    world.assert_tidy();
}

#[test]
fn a_copy_of_what_was_never_formatted_is_itself_never_formatted() {
    let world = World::new();
    let volume = world.create("one");
    let early = world.cut("early", volume.id);
    let from = |text: &str, source| NewVolume { capacity: CapacityRange::ANY, source: Some(source), ..new_volume(text) };
    let copy = |text: &str, source| world.owned.create_volume(&from(text, source)).unwrap().into_inner();
    let (clone, restored) = (copy("a", Object::Volume(volume.id)), copy("b", Object::Snapshot(early.id)));
    let again = copy("c", Object::Volume(restored.id));
    for volume in [&clone, &restored, &again] {
        assert_eq!(volume.format, FormatState::Never);
        assert_eq!(world.owned.volume(volume.id).unwrap().as_ref(), Some(volume));
    }
    for (number, state) in [FormatState::Formatting, FormatState::Content].into_iter().enumerate() {
        world.owned.set_format(volume.id, state).unwrap();
        assert_eq!(copy(&format!("v{number}"), Object::Volume(volume.id)).format, FormatState::Copied);
        let late = world.cut(&format!("s{number}"), volume.id);
        assert_eq!(copy(&format!("r{number}"), Object::Snapshot(late.id)).format, FormatState::Copied);
    }
    // What the earlier snapshot holds has not changed since.
    assert_eq!(copy("d", Object::Snapshot(early.id)).format, FormatState::Never);
}

#[test]
fn what_is_given_out_while_it_is_copied_is_taken_for_content() {
    let world = World::new();
    let volume = world.create("one");
    for (verb, text) in [(Verb::Snapshot, "s"), (Verb::Copy, "c")] {
        let source = if verb == Verb::Copy { world.create("two") } else { volume.clone() };
        let (catalogue, id) = (world.catalogue.clone(), source.id);
        // Between the plan and the cut somebody publishes it, and writes.
        world.memory.set_hook(Some(Arc::new(move |called, at| {
            if (called, at) == (verb, Moment::Before) {
                catalogue.commit("test", |change| {
                    let mut volume = change.volume(id)?.unwrap();
                    volume.format = FormatState::Content;
                    change.put_volume(&volume)
                })?;
            }
            Ok(())
        })));
        let format = match verb {
            Verb::Copy => {
                let request = NewVolume { capacity: CapacityRange::ANY, source: Some(Object::Volume(id)), ..new_volume(text) };
                world.owned.create_volume(&request).unwrap().into_inner().format
            }
            _ => world.cut(text, id).format,
        };
        world.memory.set_hook(None);
        assert_ne!(format, FormatState::Never, "{verb:?}");
    }
}

#[test]
fn a_creation_that_could_not_be_taken_back_is_no_final_failure() {
    for made in [Verb::Create, Verb::Snapshot, Verb::Copy] {
        let mut world = World::new();
        let volume = world.create("one");
        world.memory.set_hook(Some(Arc::new(move |verb, at| match (verb, at) {
            (verb, Moment::After) if verb == made => Err(PoolError::Unsupported("for good".to_owned())),
            (Verb::Delete, Moment::Before) => Err(PoolError::io("delete", io::Error::other("test"))),
            _ => Ok(()),
        })));
        let from = |source| NewVolume { capacity: CapacityRange::ANY, source, ..new_volume("two") };
        let failed = match made {
            Verb::Snapshot => world.owned.create_snapshots(&[new_snapshot("snap", volume.id)]).map(drop),
            Verb::Copy => world.owned.create_volume(&from(Some(Object::Volume(volume.id)))).map(drop),
            _ => world.owned.create_volume(&from(None)).map(drop),
        };
        assert!(matches!(&failed, Err(PoolError::Unfinished(text)) if text == "for good"), "{made:?}: {failed:?}");
        world.restart();
        world.assert_tidy();
    }
}

#[test]
fn a_copy_is_at_least_as_large_as_its_source_and_never_formatted() {
    let world = World::new();
    let volume = world.create("one");
    // Given out to be written to, as whoever writes has recorded.
    world.owned.set_format(volume.id, FormatState::Content).unwrap();
    world.write(volume.id, 0, b"content");
    let snapshot = world.cut("snap", volume.id);
    let from = |text: &str, source, capacity| NewVolume { capacity, source: Some(source), ..new_volume(text) };
    let copy = world.owned.create_volume(&from("copy", Object::Snapshot(snapshot.id), CapacityRange::ANY)).unwrap().into_inner();
    assert_eq!((copy.size, copy.format), (bytes(MIB), FormatState::Copied));
    assert_eq!(world.read(Object::Volume(copy.id), 0, 7), b"content");
    let larger = CapacityRange::new(Some(3 * MIB), None).unwrap();
    let copy = world.owned.create_volume(&from("larger", Object::Volume(volume.id), larger)).unwrap().into_inner();
    assert_eq!(copy.size, bytes(3 * MIB));
    let limited = CapacityRange::new(None, Some(MIB / 2)).unwrap();
    let smaller = world.owned.create_volume(&from("smaller", Object::Snapshot(snapshot.id), limited));
    assert!(matches!(smaller, Err(PoolError::Size(_))));
    let gone = Object::Snapshot(SnapshotId::random());
    assert!(matches!(world.owned.create_volume(&from("orphan", gone, CapacityRange::ANY)), Err(PoolError::SourceMissing(_))));
    let checked = NewVolume { checksum: DataChecksum::On, ..from("checked", Object::Snapshot(snapshot.id), CapacityRange::ANY) };
    assert!(matches!(world.owned.create_volume(&checked), Err(PoolError::Unsupported(_))));
    world.assert_tidy();
}

#[test]
fn a_set_is_cut_at_one_time_and_exists_as_a_whole() {
    let world = World::new();
    let (one, two) = (world.create("one"), world.create("two"));
    let set = [new_snapshot("a", one.id), new_snapshot("b", two.id)];
    let made: Vec<Snapshot> = world.owned.create_snapshots(&set).unwrap().into_iter().map(Outcome::into_inner).collect();
    assert_eq!(made[0].created, made[1].created);
    assert_eq!((made[0].source, made[1].source), (one.id, two.id));
    let again = world.owned.create_snapshots(&set).unwrap();
    assert_eq!(again, made.iter().cloned().map(Outcome::Existing).collect::<Vec<_>>());
    let wider = [new_snapshot("a", one.id), new_snapshot("c", two.id)];
    assert!(matches!(world.owned.create_snapshots(&wider), Err(PoolError::NameTaken { .. })));
    let twice = [new_snapshot("d", one.id), new_snapshot("d", two.id)];
    assert!(matches!(world.owned.create_snapshots(&twice), Err(PoolError::NameTaken { .. })));
    assert_eq!(world.owned.create_snapshots(&[]).unwrap(), Vec::new());
    world.assert_tidy();
}

#[test]
fn only_what_may_be_written_to_is_held_and_all_of_it_at_once() {
    let recorder = Arc::new(Recorder::default());
    let world = World::over(MemoryPool::default(), recorder.clone());
    let volumes = [world.create("written"), world.create("read"), world.create("idle"), world.create("written too")];
    let attach = |index: usize, access| world.owned.attach(Object::Volume(volumes[index].id), access).unwrap().device;
    let written = [attach(0, Access::ReadWrite), attach(3, Access::ReadWrite)];
    attach(1, Access::ReadOnly);
    let held = recorder.held.clone();
    world.memory.set_hook(Some(Arc::new(move |verb, _| {
        assert_eq!(held.load(Ordering::SeqCst), usize::from(verb == Verb::Snapshot || verb == Verb::Copy));
        Ok(())
    })));
    let set: Vec<NewSnapshot> = volumes.iter().map(|volume| new_snapshot(volume.name.as_str(), volume.id)).collect();
    world.owned.create_snapshots(&set).unwrap();
    let copy = NewVolume { source: Some(Object::Volume(volumes[0].id)), ..new_volume("copy") };
    world.owned.create_volume(&copy).unwrap();
    let mut holds = recorder.holds.lock().unwrap().clone();
    holds.iter_mut().for_each(|devices| devices.sort_unstable());
    let mut both = written.to_vec();
    both.sort_unstable();
    assert_eq!(holds, vec![both, vec![written[0].clone()]]);
    assert_eq!(recorder.held.load(Ordering::SeqCst), 0);
}

#[test]
fn a_cut_whose_hold_expired_or_was_refused_is_thrown_away() {
    let transient = Some(QuiesceError::Transient("being unmounted".to_owned()));
    let lasting = Some(QuiesceError::Lasting("shut down".to_owned()));
    for (expire, refuse) in [(true, None), (false, transient), (false, lasting)] {
        let lasts = matches!(refuse, Some(QuiesceError::Lasting(_)));
        let is_told = |error: PoolError| match error {
            PoolError::Quiesce(_) => !lasts,
            PoolError::CannotQuiesce(_) => lasts,
            _ => false,
        };
        let recorder = Recorder { expire, refuse, ..Recorder::default() };
        let world = World::over(MemoryPool::default(), Arc::new(recorder));
        let volume = world.create("one");
        world.owned.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap();
        let cut = world.owned.create_snapshots(&[new_snapshot("snap", volume.id)]);
        assert!(is_told(cut.unwrap_err()));
        let copy = NewVolume { source: Some(Object::Volume(volume.id)), ..new_volume("copy") };
        assert!(is_told(world.owned.create_volume(&copy).unwrap_err()));
        assert_eq!((world.owned.snapshots().unwrap().len(), world.owned.volumes().unwrap().len()), (0, 1));
        world.assert_tidy();
    }
}

#[test]
fn a_hold_ends_also_when_the_cut_panics() {
    let recorder = Arc::new(Recorder::default());
    let mut world = World::over(MemoryPool::default(), recorder.clone());
    let volume = world.create("one");
    let device = world.owned.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap().device;
    world.memory.set_hook(Some(Arc::new(|_, _| panic!("injected"))));
    let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.owned.create_snapshots(&[new_snapshot("snap", volume.id)])
    }));
    assert!(cut.is_err());
    assert_eq!(recorder.held.load(Ordering::SeqCst), 0);
    // The next start ends what the dead process may have held.
    world.restart();
    assert_eq!(*recorder.leftovers.lock().unwrap(), vec![vec![device]]);
    world.assert_tidy();
}

#[test]
fn a_start_after_a_death_in_the_cut_leaves_what_somebody_else_froze() {
    for foreign in [true, false] {
        for verb in [Verb::Snapshot, Verb::Copy] {
            let recorder = Arc::new(Recorder { foreign, ..Recorder::default() });
            let mut world = World::over(MemoryPool::default(), recorder.clone());
            let volume = world.create("one");
            world.owned.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap();
            world.memory.set_hook(Some(Arc::new(move |called, _| if called == verb { panic!("killed here") } else { Ok(()) })));
            let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match verb {
                Verb::Copy => {
                    let copy = NewVolume { source: Some(Object::Volume(volume.id)), ..new_volume("copy") };
                    world.owned.create_volume(&copy).map(drop)
                }
                _ => world.owned.create_snapshots(&[new_snapshot("snap", volume.id)]).map(drop),
            }));
            assert!(died.is_err());
            world.restart();
            assert_eq!(recorder.leftovers.lock().unwrap().is_empty(), foreign, "{verb:?}");
            world.assert_tidy();
        }
    }
}

#[test]
fn a_second_operation_on_a_name_or_object_is_refused_while_the_first_runs() {
    let world = Arc::new(World::new());
    let volume = world.create("one");
    let inner = Arc::downgrade(&world);
    let checks = Arc::new(AtomicUsize::new(0));
    let counter = checks.clone();
    // Asked from within the operations themselves: the verb is running.
    world.memory.set_hook(Some(Arc::new(move |verb, moment| {
        let world = inner.upgrade().unwrap();
        let busy = |result: Result<(), PoolError>| {
            assert!(matches!(result, Err(PoolError::Busy(_))), "{verb:?}: {result:?}");
            counter.fetch_add(1, Ordering::SeqCst);
        };
        match (verb, moment) {
            (Verb::Create, Moment::Before) => {
                busy(world.owned.create_volume(&new_volume("two")).map(drop));
                busy(world.owned.begin_restore(&new_volume("two")).map(drop));
            }
            (Verb::Snapshot, Moment::Before) => {
                busy(world.owned.create_snapshots(&[new_snapshot("snap", volume.id)]).map(drop));
                busy(world.owned.delete_volume(volume.id));
                busy(world.owned.attach(Object::Volume(volume.id), Access::ReadOnly).map(drop));
                busy(world.owned.grow_volume(volume.id, CapacityRange::new(Some(8 * MIB), None).unwrap()).map(drop));
            }
            _ => {}
        }
        Ok(())
    })));
    world.create("two");
    world.cut("snap", volume.id);
    assert_eq!(checks.load(Ordering::SeqCst), 6);
    world.memory.set_hook(None);
    world.assert_tidy();
}

#[test]
fn a_leased_snapshot_cannot_be_deleted_and_tells_what_is_in_it() {
    let world = World::new();
    let volume = world.create("one");
    world.write(volume.id, 0, &[1; 4096]);
    let first = world.cut("first", volume.id);
    world.write(volume.id, 8192, &[2; 4096]);
    let second = world.cut("second", volume.id);
    let (lease, other) = (world.owned.lease(second.id).unwrap(), world.owned.lease(second.id).unwrap());
    assert_eq!((lease.size(), lease.snapshot().id), (bytes(MIB), second.id));
    let block = |offset| ByteRange::new(offset, 4096).unwrap();
    let collect = |ranges: crate::types::RangeStream| ranges.collect::<io::Result<Vec<_>>>().unwrap();
    assert_eq!(collect(lease.allocated().unwrap()), vec![block(0), block(8192)]);
    let changed = lease.changed_since(first.id).unwrap();
    assert!(matches!(world.owned.delete_snapshot(first.id), Err(PoolError::InUse { .. })), "the base of a running stream");
    assert_eq!(collect(changed), vec![block(8192)]);
    world.owned.delete_snapshot(first.id).unwrap();
    assert!(matches!(lease.changed_since(first.id), Err(PoolError::Missing(_))));
    let stranger = world.create("two");
    let stranger = world.cut("stranger", stranger.id);
    assert!(matches!(lease.changed_since(stranger.id), Err(PoolError::Unsupported(_))));
    drop(lease);
    assert!(matches!(world.owned.delete_snapshot(second.id), Err(PoolError::InUse { .. })));
    drop(other);
    world.owned.delete_snapshot(second.id).unwrap();
    world.owned.delete_snapshot(second.id).unwrap();
    assert!(matches!(world.owned.lease(second.id), Err(PoolError::Missing(_))));
    world.assert_tidy();
}

#[test]
fn a_full_pool_refuses_new_things_and_keeps_the_old() {
    let world = World::over(MemoryPool::with_capacity(16 * MIB), Arc::new(NothingToHold));
    let huge = NewVolume { capacity: CapacityRange::exactly(bytes(17 * MIB)), ..new_volume("huge") };
    assert!(matches!(world.owned.create_volume(&huge), Err(PoolError::NoSpace(_))));
    let roomy = NewVolume { capacity: CapacityRange::exactly(bytes(16 * MIB)), ..new_volume("one") };
    let volume = world.owned.create_volume(&roomy).unwrap().into_inner();
    world.write(volume.id, 0, &vec![7; 15 * MIB as usize]);
    let usage = world.owned.status().unwrap().usage;
    assert_eq!(usage, PoolUsage::new(16 * MIB, MIB));
    assert!(matches!(world.owned.create_volume(&new_volume("two")), Err(PoolError::NoSpace(_))));
    assert!(matches!(world.owned.begin_restore(&new_volume("two")), Err(PoolError::NoSpace(_))));
    assert!(matches!(world.owned.create_snapshots(&[new_snapshot("s", volume.id)]), Err(PoolError::NoSpace(_))));
    // What exists is still answered, used and deleted.
    assert_eq!(world.owned.create_volume(&roomy).unwrap(), Outcome::Existing(volume.clone()));
    assert!(matches!(world.owned.begin_restore(&roomy).unwrap(), RestoreStart::Existing(_)));
    world.owned.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap();
    world.owned.delete_volume(volume.id).unwrap();
    world.create("two");
    world.assert_tidy();
}

#[test]
fn the_reserve_is_two_percent_but_a_gibibyte_where_that_is_not_much() {
    const GIB: u64 = 1 << 30;
    for (total, reserve) in [(GIB, GIB / 10), (20 * GIB, GIB), (50 * GIB, GIB), (100 * GIB, 2 * GIB), (0, 0)] {
        assert_eq!(PoolUsage::reserve_of(total), reserve, "{total}");
    }
}

#[test]
fn a_published_volume_is_not_deleted_unless_that_was_another_boot() {
    let world = World::new();
    let volume = world.create("one");
    world.owned.put_publication(volume.id, publication(&this_boot())).unwrap();
    world.owned.put_publication(volume.id, publication(&this_boot())).unwrap();
    assert_eq!(world.owned.publications(volume.id).unwrap().len(), 1);
    assert!(matches!(world.owned.delete_volume(volume.id), Err(PoolError::InUse { .. })));
    world.owned.remove_publication(volume.id, &PathBuf::from("/elsewhere")).unwrap();
    world.owned.put_publication(volume.id, publication("an earlier boot")).unwrap();
    world.owned.delete_volume(volume.id).unwrap();
    assert_eq!(world.owned.publications(volume.id).unwrap(), Vec::new());
    assert!(matches!(world.owned.put_publication(volume.id, publication("x")), Err(PoolError::Missing(_))));
    world.owned.delete_volume(volume.id).unwrap();
    world.assert_tidy();
}

#[test]
fn a_volume_that_turns_out_to_be_in_use_is_not_deleted_and_comes_back_into_sight() {
    let world = World::new();
    let volume = world.create("one");
    world.memory.set_hook(Some(Arc::new(move |verb, moment| match (verb, moment) {
        (Verb::Delete, Moment::Before) => Err(PoolError::InUse { object: Object::Volume(volume.id), by: "somebody".to_owned() }),
        _ => Ok(()),
    })));
    assert!(matches!(world.owned.delete_volume(volume.id), Err(PoolError::InUse { .. })));
    assert_eq!(world.owned.volume_by_name(&name("one")).unwrap().unwrap().id, volume.id);
    world.memory.set_hook(None);
    world.assert_tidy();
}

#[test]
fn failed_acts_leave_nothing_of_creations_and_are_repeated_for_the_rest() {
    for moment in [Moment::Before, Moment::After] {
        let world = World::new();
        let volume = world.create("one");
        let snapshot = world.cut("snap", volume.id);
        let copy = NewVolume { source: Some(Object::Volume(volume.id)), ..new_volume("copy") };
        world.fail(Verb::Create, moment);
        assert!(world.owned.create_volume(&new_volume("two")).is_err());
        assert!(world.owned.begin_restore(&new_volume("two")).is_err());
        world.fail(Verb::Copy, moment);
        assert!(world.owned.create_volume(&copy).is_err());
        world.fail(Verb::Snapshot, moment);
        assert!(world.owned.create_snapshots(&[new_snapshot("new", volume.id)]).is_err());
        world.memory.set_hook(None);
        world.assert_tidy();
        let larger = CapacityRange::new(Some(2 * MIB), None).unwrap();
        world.fail(Verb::Grow, moment);
        assert!(world.owned.grow_volume(volume.id, larger).is_err());
        world.memory.set_hook(None);
        assert_eq!(world.owned.grow_volume(volume.id, larger).unwrap().size, bytes(2 * MIB));
        world.fail(Verb::Delete, moment);
        assert!(world.owned.delete_snapshot(snapshot.id).is_err());
        assert!(world.owned.delete_volume(volume.id).is_err());
        assert!(world.owned.volume(volume.id).unwrap().is_none(), "out of sight");
        world.memory.set_hook(None);
        world.owned.delete_snapshot(snapshot.id).unwrap();
        world.owned.delete_volume(volume.id).unwrap();
        world.assert_tidy();
    }
}

#[test]
fn a_restore_is_hidden_until_its_commit_and_content_from_then_on() {
    let mut world = World::new();
    let RestoreStart::Target(target) = world.owned.begin_restore(&new_volume("one")).unwrap() else { panic!() };
    target.file().write_all_at(b"restored", 0).unwrap();
    let id = target.volume();
    assert_eq!(target.size(), bytes(MIB));
    assert!(world.owned.volumes().unwrap().is_empty());
    assert!(world.owned.volume(id).unwrap().is_none());
    assert!(matches!(world.owned.create_volume(&new_volume("one")), Err(PoolError::Busy(_))));
    assert!(matches!(world.owned.attach(Object::Volume(id), Access::ReadWrite), Err(PoolError::Busy(_))));
    assert_eq!(world.owned.status().unwrap().restores, 1);
    drop(target);
    let volume = world.owned.commit_restore(id).unwrap();
    assert_eq!((volume.id, volume.format), (id, FormatState::Copied));
    assert!(matches!(world.owned.commit_restore(id), Err(PoolError::Missing(_))));
    assert!(matches!(world.owned.begin_restore(&new_volume("one")).unwrap(), RestoreStart::Existing(found) if found == volume));
    world.owned.abort_restore(id).unwrap();
    world.restart();
    assert_eq!(world.read(Object::Volume(id), 0, 8), b"restored");
    world.assert_tidy();
}

#[test]
fn a_restore_is_committed_only_when_nobody_can_write_to_it_any_more() {
    let world = World::new();
    let RestoreStart::Target(target) = world.owned.begin_restore(&new_volume("one")).unwrap() else { panic!() };
    target.file().write_all_at(b"restored", 0).unwrap();
    let kept = target.file().try_clone().unwrap();
    let id = target.close();
    for _ in 0..2 {
        let refused = world.owned.commit_restore(id);
        assert!(matches!(&refused, Err(PoolError::InUse { object: Object::Volume(of), .. }) if *of == id), "{refused:?}");
        assert!(world.owned.volumes().unwrap().is_empty());
    }
    drop(kept);
    assert_eq!(world.owned.commit_restore(id).unwrap().id, id);
    assert_eq!(world.read(Object::Volume(id), 0, 8), b"restored");
}

#[test]
fn a_restore_that_is_aborted_or_loses_its_process_or_its_size_leaves_nothing() {
    let mut world = World::new();
    let begin = |world: &World| match world.owned.begin_restore(&new_volume("one")).unwrap() {
        RestoreStart::Target(target) => target,
        RestoreStart::Existing(volume) => panic!("{volume:?}"),
    };
    let target = begin(&world);
    world.owned.abort_restore(target.volume()).unwrap();
    world.assert_tidy();
    let target = begin(&world);
    target.file().set_len(MIB / 2).unwrap();
    let id = target.close();
    assert!(matches!(world.owned.commit_restore(id), Err(PoolError::Size(_))));
    world.fail(Verb::Delete, Moment::Before);
    assert!(world.owned.abort_restore(id).is_err());
    world.memory.set_hook(None);
    world.owned.abort_restore(id).unwrap();
    world.assert_tidy();
    let target = begin(&world);
    world.restart();
    world.assert_tidy();
    assert!(matches!(world.owned.commit_restore(target.volume()), Err(PoolError::Missing(_))));
    world.create("one");
}

#[test]
fn objects_without_a_record_are_quarantined_and_records_without_an_object_are_damaged() {
    let mut world = World::new();
    let volume = world.create("one");
    let stray = VolumeId::random();
    let spec = crate::pool::ObjectSpec { size: bytes(MIB), checksum: DataChecksum::Off };
    world.memory.create(stray, spec).unwrap();
    world.memory.delete(Object::Volume(volume.id)).unwrap();
    world.restart();
    let status = world.owned.status().unwrap();
    assert_eq!(status.quarantined, vec![Object::Volume(stray).to_string()]);
    assert_eq!(status.damaged.len(), 1);
    assert_eq!((status.volumes, status.snapshots), (1, 0));
    assert_eq!(world.owned.volumes().unwrap(), vec![volume.clone()]);
    let object = Object::Volume(volume.id);
    assert!(matches!(world.owned.attach(object, Access::ReadOnly), Err(PoolError::Io { .. })));
    assert!(matches!(world.owned.create_snapshots(&[new_snapshot("s", volume.id)]), Err(PoolError::Io { .. })));
    assert!(world.owned.attachment(object).unwrap().is_none());
    // It is not said to be gone, since it is not.
    let deleted = world.owned.delete_volume(stray);
    assert!(matches!(&deleted, Err(PoolError::InUse { by, .. }) if by.contains("no record")), "{deleted:?}");
    world.memory.open(Object::Volume(stray), Access::ReadOnly).unwrap();
    world.owned.delete_volume(VolumeId::random()).unwrap();
}

#[test]
fn export_records_live_as_long_as_something_of_the_volume_does() {
    let world = World::new();
    let volume = world.create("one");
    let snapshot = world.cut("snap", volume.id);
    let export = ExportRecord {
        repository: "ab".repeat(32),
        volume: volume.id,
        snapshot: snapshot.id,
        repository_snapshot: "cd".repeat(32),
        size: volume.size,
        chunk_size: MIB,
        finished: Timestamp::now(),
    };
    world.owned.put_export(&export).unwrap();
    world.owned.delete_volume(volume.id).unwrap();
    assert_eq!(world.owned.exports(volume.id).unwrap(), vec![export.clone()]);
    assert_eq!(world.owned.export(&export.repository, volume.id).unwrap(), Some(export.clone()));
    world.owned.delete_snapshot(snapshot.id).unwrap();
    assert_eq!(world.owned.exports(volume.id).unwrap(), Vec::new());
    assert!(matches!(world.owned.put_export(&export), Err(PoolError::Missing(_))));
}

#[test]
fn a_snapshot_is_attached_for_reading_only() {
    let world = World::new();
    let volume = world.create("one");
    let object = Object::Snapshot(world.cut("snap", volume.id).id);
    assert!(matches!(world.owned.attach(object, Access::ReadWrite), Err(PoolError::Unsupported(_))));
    let attachment = world.owned.attach(object, Access::ReadOnly).unwrap();
    assert_eq!(world.owned.attach(object, Access::ReadOnly).unwrap(), attachment);
    world.owned.detach(object).unwrap();
    assert_eq!(world.owned.attachment(object).unwrap(), None);
    world.owned.detach(Object::Volume(VolumeId::random())).unwrap();
}

#[test]
fn a_format_state_is_kept_and_goes_one_way() {
    let mut world = World::new();
    let volume = world.create("one");
    world.owned.set_format(volume.id, FormatState::Formatting).unwrap();
    world.restart();
    assert_eq!(world.owned.volume(volume.id).unwrap().unwrap().format, FormatState::Formatting);
    world.owned.set_format(volume.id, FormatState::Content).unwrap();
    assert!(matches!(world.owned.set_format(volume.id, FormatState::Formatting), Err(PoolError::Unsupported(_))));
    let missing = VolumeId::random();
    assert!(matches!(world.owned.set_format(missing, FormatState::Content), Err(PoolError::Missing(_))));
}
