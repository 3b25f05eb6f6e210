//! Restores: hidden, committed, aborted.

use super::*;

#[test]
fn a_restore_is_hidden_until_its_commit_and_content_from_then_on() {
    let mut world = World::new();
    let RestoreStart::Target(target) = world.owned.begin_restore(&new_volume("one"), OnLoss::Delete).unwrap() else { panic!() };
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
    assert!(
        matches!(world.owned.begin_restore(&new_volume("one"), OnLoss::Delete).unwrap(), RestoreStart::Existing(found) if found == volume)
    );
    world.owned.abort_restore(id).unwrap();
    world.restart();
    assert_eq!(world.read(Object::Volume(id), 0, 8), b"restored");
    world.assert_tidy();
}

#[test]
fn a_restore_is_committed_only_when_nobody_can_write_to_it_any_more() {
    let world = World::new();
    let RestoreStart::Target(target) = world.owned.begin_restore(&new_volume("one"), OnLoss::Delete).unwrap() else { panic!() };
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
    let begin = |world: &World| match world.owned.begin_restore(&new_volume("one"), OnLoss::Delete).unwrap() {
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
fn a_restore_may_be_formatted_only_if_its_image_never_was_and_nothing_was_written_to_it() {
    let mut world = World::new();
    let mut restored = |text: &str, is_said: bool, written: &[u8]| {
        let RestoreStart::Target(target) = world.owned.begin_restore(&new_volume(text), OnLoss::Delete).unwrap() else {
            panic!()
        };
        target.file().write_all_at(written, MIB / 2).unwrap();
        let id = target.close();
        let made = if is_said { world.owned.commit_restore_unformatted(id) } else { world.owned.commit_restore(id) }.unwrap();
        world.restart();
        assert_eq!(world.owned.volume(id).unwrap().unwrap(), made);
        made.format
    };
    assert_eq!(restored("blank", true, b""), FormatState::Never);
    assert_eq!(restored("forged", true, b"x"), FormatState::Copied);
    assert_eq!(restored("older", false, b""), FormatState::Copied);
    world.assert_tidy();
}
