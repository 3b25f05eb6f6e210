//! Random sequences of operations, failures and restarts, against a model of plain maps.

use proptest::prelude::*;

use super::*;
use crate::pool::record::Consumer;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Step {
    Create {
        name: usize,
        blocks: u64,
    },
    Copy {
        name: usize,
        source: Pick,
        extra: u64,
    },
    Cut {
        names: Vec<usize>,
        sources: Vec<Pick>,
    },
    Write {
        volume: Pick,
        block: u64,
        value: u8,
    },
    Grow {
        volume: Pick,
        blocks: u64,
    },
    DeleteVolume(Pick),
    DeleteSnapshot(Pick),
    Use {
        snapshot: Pick,
        consumer: Consumer,
    },
    Attach(Pick),
    Restore {
        name: usize,
        blocks: u64,
        value: u8,
        commit: bool,
    },
    Restart,
    /// The next act fails, before or after its effect.
    Fail {
        verb: Verb,
        moment: Moment,
    },
}

/// One of what is there, by a number; from a snapshot or a volume by parity where both will do.
type Pick = usize;

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    let pick = 0_usize..64;
    let verb = prop_oneof![
        Just(Verb::Create),
        Just(Verb::Copy),
        Just(Verb::Snapshot),
        Just(Verb::Delete),
        Just(Verb::Grow),
        Just(Verb::Attach),
        Just(Verb::Detach)
    ];
    let moment = prop_oneof![Just(Moment::Before), Just(Moment::After)];
    prop_oneof![
        4 => (name.clone(), 1_u64..8).prop_map(|(name, blocks)| Step::Create { name, blocks }),
        3 => (name.clone(), pick.clone(), 0_u64..3).prop_map(|(name, source, extra)| Step::Copy { name, source, extra }),
        4 => (proptest::collection::vec(name.clone(), 1..3), proptest::collection::vec(pick.clone(), 2))
            .prop_map(|(names, sources)| Step::Cut { names, sources }),
        6 => (pick.clone(), 0_u64..8, any::<u8>()).prop_map(|(volume, block, value)| Step::Write { volume, block, value }),
        2 => (pick.clone(), 1_u64..12).prop_map(|(volume, blocks)| Step::Grow { volume, blocks }),
        3 => pick.clone().prop_map(Step::DeleteVolume),
        3 => pick.clone().prop_map(Step::DeleteSnapshot),
        3 => (pick.clone(), consumer()).prop_map(|(snapshot, consumer)| Step::Use { snapshot, consumer }),
        2 => pick.prop_map(Step::Attach),
        2 => (name, 1_u64..8, any::<u8>(), any::<bool>())
            .prop_map(|(name, blocks, value, commit)| Step::Restore { name, blocks, value, commit }),
        2 => Just(Step::Restart),
        2 => (verb, moment).prop_map(|(verb, moment)| Step::Fail { verb, moment }),
    ]
}

/// So few that together with [`Consumer::Source`] they leave at most as many anchors as a volume may have.
fn consumer() -> impl Strategy<Value = Consumer> {
    prop_oneof![Just(Consumer::Repository("ab".to_owned())), Just(Consumer::MetadataClient)]
}

/// What should be there: contents by name.
#[derive(Default)]
struct Expected {
    /// All snapshots there ever were: the number of the cut, the volume, the content.
    cuts: BTreeMap<SnapshotId, (u64, VolumeId, Vec<u8>)>,
    /// The newest snapshot that each consumer used.
    last: BTreeMap<(VolumeId, Consumer), SnapshotId>,
    volumes: BTreeMap<String, (VolumeId, Vec<u8>)>,
    snapshots: BTreeMap<String, (SnapshotId, VolumeId, Vec<u8>)>,
}

impl Expected {
    fn volume(&self, pick: Pick) -> Option<(String, VolumeId)> {
        let index = pick.checked_rem(self.volumes.len())?;
        self.volumes.iter().nth(index).map(|(name, (id, _))| (name.clone(), *id))
    }

    fn snapshot(&self, pick: Pick) -> Option<(String, SnapshotId)> {
        let index = pick.checked_rem(self.snapshots.len())?;
        self.snapshots.iter().nth(index).map(|(name, (id, ..))| (name.clone(), *id))
    }

    fn used(&mut self, id: SnapshotId, consumer: Consumer) {
        // Two of one volume in one set are equal; the id decides.
        let number = |id: &SnapshotId| (self.cuts[id].0, *id);
        let key = (self.cuts[&id].1, consumer);
        if self.last.get(&key).is_none_or(|last| number(last) < number(&id)) {
            self.last.insert(key, id);
        }
    }

    /// Whatever somebody may ask about can be answered, and exactly.
    fn check_anchors(&self, world: &World) {
        let anchors: Vec<Snapshot> = world.owned.anchors().unwrap().into_iter().map(|anchor| anchor.snapshot).collect();
        let live = |volume: VolumeId| self.snapshots.values().filter(move |(_, source, _)| *source == volume);
        for ((volume, consumer), id) in &self.last {
            let exists = self.volumes.values().any(|(existing, _)| existing == volume);
            if exists || live(*volume).count() > 0 {
                let is_there = live(*volume).any(|(there, ..)| there == id) || anchors.iter().any(|anchor| anchor.id == *id);
                assert!(is_there, "{consumer:?} lost {id}");
            }
        }
        for anchor in anchors {
            let (_, source, before) = &self.cuts[&anchor.id];
            assert!(world.read(Object::Snapshot(anchor.id), 0, before.len()) == *before);
            for (target, _, after) in live(*source) {
                let block = |data: &[u8], offset: usize| data.get(offset..offset + 4096).map_or(vec![0; 4096], <[u8]>::to_vec);
                let wanted: Vec<u64> = (0..after.len())
                    .step_by(4096)
                    .filter(|&offset| block(before, offset) != block(after, offset))
                    .map(|offset| offset as u64)
                    .collect();
                let ranges = world.owned.lease(*target).unwrap().changed_since(anchor.id).unwrap();
                let found: Vec<u64> = ranges
                    .flat_map(|range| {
                        let range = range.unwrap();
                        (range.offset()..range.end()).step_by(4096)
                    })
                    .collect();
                assert_eq!(found, wanted);
            }
        }
    }

    fn check(&self, world: &World) {
        self.check_anchors(world);
        let mut volumes = world.owned.volumes().unwrap();
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        let found: Vec<(String, VolumeId, u64)> =
            volumes.iter().map(|volume| (volume.name.to_string(), volume.id, volume.size.bytes())).collect();
        let expected: Vec<_> = self.volumes.iter().map(|(name, (id, data))| (name.clone(), *id, data.len() as u64)).collect();
        assert_eq!(found, expected);
        assert_eq!(world.owned.snapshots().unwrap().len(), self.snapshots.len());
        for (id, data) in self.volumes.values() {
            assert!(world.read(Object::Volume(*id), 0, data.len()) == *data);
        }
        for (name, (id, source, data)) in &self.snapshots {
            let snapshot = world.owned.snapshot_by_name(&super::name(name)).unwrap().unwrap();
            assert_eq!((snapshot.id, snapshot.source, snapshot.size.bytes()), (*id, *source, data.len() as u64));
            assert!(world.read(Object::Snapshot(*id), 0, data.len()) == *data);
        }
    }
}

fn request(name: usize, blocks: u64) -> NewVolume {
    let capacity = CapacityRange::exactly(bytes(blocks * 4096));
    NewVolume { capacity, ..new_volume(NAMES[name]) }
}

/// Runs one step; an injected failure changes nothing that is visible, but for a deletion, which is out of sight at once.
fn run(world: &mut World, expected: &mut Expected, step: Step) {
    match step {
        Step::Create { name, blocks } => match world.owned.create_volume(&request(name, blocks)) {
            Ok(Outcome::Created(volume)) => {
                let before = expected.volumes.insert(NAMES[name].to_owned(), (volume.id, vec![0; blocks as usize * 4096]));
                assert!(before.is_none());
            }
            Ok(Outcome::Existing(volume)) => assert_eq!(expected.volumes[NAMES[name]].0, volume.id),
            Err(PoolError::NameTaken { .. }) => assert!(expected.volumes.contains_key(NAMES[name])),
            Err(error) => injected(error),
        },
        Step::Copy { name, source, extra } => {
            let from = if source % 2 == 0 {
                expected.snapshot(source).map(|(name, id)| (Object::Snapshot(id), expected.snapshots[&name].2.clone()))
            } else {
                expected.volume(source).map(|(name, id)| (Object::Volume(id), expected.volumes[&name].1.clone()))
            };
            let Some((source, mut data)) = from else { return };
            data.resize(data.len() + extra as usize * 4096, 0);
            let request = NewVolume { source: Some(source), ..request(name, data.len() as u64 / 4096) };
            match world.owned.create_volume(&request) {
                Ok(Outcome::Created(volume)) => {
                    let known = match source {
                        Object::Volume(id) => world.owned.volume(id).unwrap().unwrap().format,
                        Object::Snapshot(id) => world.owned.snapshot(id).unwrap().unwrap().format,
                    };
                    let is_untouched = known == FormatState::Never;
                    assert_eq!(volume.format, if is_untouched { FormatState::Never } else { FormatState::Copied });
                    if let Object::Snapshot(id) = source {
                        expected.used(id, Consumer::Source);
                    }
                    assert!(expected.volumes.insert(NAMES[name].to_owned(), (volume.id, data)).is_none());
                }
                Ok(Outcome::Existing(volume)) => assert_eq!(expected.volumes[NAMES[name]].0, volume.id),
                Err(PoolError::NameTaken { .. }) => assert!(expected.volumes.contains_key(NAMES[name])),
                Err(error) => injected(error),
            }
        }
        Step::Cut { names, sources } => {
            let sources: Vec<_> = sources.into_iter().filter_map(|pick| expected.volume(pick)).collect();
            let set: Vec<NewSnapshot> =
                names.iter().zip(&sources).map(|(&name, (_, source))| new_snapshot(NAMES[name], *source)).collect();
            match world.owned.create_snapshots(&set) {
                Ok(outcomes) => {
                    for (outcome, (source, _)) in outcomes.into_iter().zip(&sources) {
                        match outcome {
                            Outcome::Created(snapshot) => {
                                let content = (snapshot.id, snapshot.source, expected.volumes[source].1.clone());
                                let cut = (snapshot.serial, content.1, content.2.clone());
                                expected.cuts.insert(snapshot.id, cut);
                                assert!(expected.snapshots.insert(snapshot.name.to_string(), content).is_none());
                            }
                            Outcome::Existing(snapshot) => {
                                assert_eq!(expected.snapshots[snapshot.name.as_str()].0, snapshot.id);
                            }
                        }
                    }
                }
                Err(PoolError::NameTaken { .. }) => {}
                Err(error) => injected(error),
            }
        }
        Step::Write { volume, block, value } => {
            let Some((name, id)) = expected.volume(volume) else { return };
            let data = &mut expected.volumes.get_mut(&name).unwrap().1;
            let offset = (block * 4096) % data.len() as u64;
            data[offset as usize..offset as usize + 4096].fill(value);
            world.write(id, offset, &[value; 4096]);
        }
        Step::Grow { volume, blocks } => {
            let Some((name, id)) = expected.volume(volume) else { return };
            match world.owned.grow_volume(id, CapacityRange::new(Some(blocks * 4096), None).unwrap()) {
                Ok(grown) => expected.volumes.get_mut(&name).unwrap().1.resize(grown.size.bytes() as usize, 0),
                Err(error) => {
                    injected(error);
                    // Finished at the next start.
                    world.restart();
                    let size = world.owned.volume(id).unwrap().unwrap().size.bytes();
                    expected.volumes.get_mut(&name).unwrap().1.resize(size as usize, 0);
                    assert!(size >= blocks * 4096);
                }
            }
        }
        Step::DeleteVolume(pick) => {
            let Some((name, id)) = expected.volume(pick) else { return };
            match world.owned.delete_volume(id) {
                Ok(()) => drop(expected.volumes.remove(&name)),
                Err(error) => {
                    injected(error);
                    if world.owned.volume(id).unwrap().is_none() {
                        expected.volumes.remove(&name);
                    }
                }
            }
        }
        Step::DeleteSnapshot(pick) => {
            let Some((name, id)) = expected.snapshot(pick) else { return };
            match world.owned.delete_snapshot(id) {
                Ok(()) => {}
                Err(error) => injected(error),
            }
            expected.snapshots.remove(&name);
        }
        Step::Use { snapshot, consumer } => {
            let Some((_, id)) = expected.snapshot(snapshot) else { return };
            world.owned.record_use(id, consumer.clone()).unwrap();
            expected.used(id, consumer);
        }
        Step::Attach(pick) => {
            let Some((_, id)) = expected.volume(pick) else { return };
            if let Err(error) = world.owned.attach(Object::Volume(id), Access::ReadWrite) {
                injected(error);
            }
        }
        Step::Restore { name, blocks, value, commit } => {
            match world.owned.begin_restore(&request(name, blocks), OnLoss::Delete) {
                Ok(RestoreStart::Target(target)) => {
                    let data = vec![value; blocks as usize * 4096];
                    target.file().write_all_at(&data, 0).unwrap();
                    if commit {
                        let volume = world.owned.commit_restore(target.close()).unwrap();
                        assert!(expected.volumes.insert(NAMES[name].to_owned(), (volume.id, data)).is_none());
                    } else if let Err(error) = world.owned.abort_restore(target.volume()) {
                        injected(error);
                        world.restart();
                    }
                }
                Ok(RestoreStart::Existing(volume)) => assert_eq!(expected.volumes[NAMES[name]].0, volume.id),
                Err(PoolError::NameTaken { .. }) => assert!(expected.volumes.contains_key(NAMES[name])),
                Err(error) => injected(error),
            }
        }
        Step::Restart => {
            world.restart();
            world.assert_tidy();
        }
        Step::Fail { verb, moment } => {
            let armed = AtomicUsize::new(1);
            world.memory.set_hook(Some(Arc::new(move |called, at| {
                if (called, at) == (verb, moment) && armed.swap(0, Ordering::SeqCst) == 1 {
                    return Err(PoolError::io("test", io::Error::other("injected")));
                }
                Ok(())
            })));
        }
    }
}

fn injected(error: PoolError) {
    assert!(matches!(&error, PoolError::Io { source, .. } if source.to_string() == "injected"), "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn random_operations_do_what_the_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::over(MemoryPool::default(), Arc::new(Recorder::default()));
        let mut expected = Expected::default();
        for step in steps {
            run(&mut world, &mut expected, step);
            expected.check(&world);
        }
        world.restart();
        expected.check(&world);
        world.assert_tidy();
        // Each consumer's newest at most, one more for a metadata client, and nothing of what nobody can ask about.
        for anchor in world.owned.anchors().unwrap() {
            let volume = anchor.snapshot.source;
            let comparable = world.owned.volume(volume).unwrap().is_some()
                || world.owned.snapshots().unwrap().iter().any(|snapshot| snapshot.source == volume);
            assert!(comparable);
            assert!(anchor.snapshot.used_by.iter().any(|consumer| {
                *consumer == Consumer::MetadataClient || expected.last[&(volume, consumer.clone())] == anchor.snapshot.id
            }));
        }
    }
}
