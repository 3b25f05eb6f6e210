//! What is held still for a cut, and how that ends.

use super::*;

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
    let transient: fn() -> QuiesceError = || QuiesceError::Transient("being unmounted".into());
    let lasting: fn() -> QuiesceError = || QuiesceError::Lasting("shut down".into());
    for (expire, refuse, lasts) in [(true, None, false), (false, Some(transient), false), (false, Some(lasting), true)] {
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
