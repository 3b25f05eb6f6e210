use std::fs::File;
use std::os::unix::fs::FileExt;

use super::super::label::{Link, Segments};
use super::super::layout::{self, LayoutOptions};
use super::*;
use crate::types::error::chain;

const MIB: u64 = 1 << 20;

/// The same in all tests, as on the devices of one pool.
fn link() -> Link {
    static LINK: std::sync::LazyLock<Link> = std::sync::LazyLock::new(Link::random);
    *LINK
}

fn label_of(pool: PoolId, role: Role, device_bytes: u64) -> Label {
    let plan = layout::plan(device_bytes, LayoutOptions::default()).unwrap();
    let pair = layout::plan_pair(device_bytes, device_bytes, None).unwrap();
    let segments = match role {
        Role::Whole => plan.segments,
        Role::Metadata => pair.metadata,
        Role::Data => pair.data,
    };
    Label {
        pool,
        link: link(),
        generation: 1,
        epoch: None,
        role,
        state: State::Ready,
        device_bytes,
        block_size: plan.block_size,
        segments,
    }
}

fn whole(generation: u64, device_bytes: u64) -> Label {
    Label { generation, ..label_of(PoolId::from_bytes([1; 16]), Role::Whole, device_bytes) }
}

fn readings(first: Result<Label, LabelError>, last: Result<Label, LabelError>) -> Readings {
    Readings { first, last, inner: None, foreign: String::new() }
}

fn damaged() -> LabelError {
    LabelError::Damaged("x".to_owned())
}

const SIZE: u64 = 200 * MIB;

#[test]
fn the_newest_whole_copy_counts_and_the_other_is_renewed() {
    let judged = |first, last| judge(&readings(first, last), SIZE).unwrap();
    let both = judged(Ok(whole(3, SIZE)), Ok(whole(3, SIZE)));
    assert_eq!((both.label.generation, both.copies, both.grown_bytes), (3, Copies::Whole, 0));
    for (first, last, generation) in [
        (Ok(whole(3, SIZE)), Ok(whole(4, SIZE)), 4),
        (Ok(whole(4, SIZE)), Ok(whole(3, SIZE)), 4),
        (Ok(whole(4, SIZE)), Err(damaged()), 4),
        (Ok(whole(4, SIZE)), Err(LabelError::Absent), 4),
        (Err(damaged()), Ok(whole(5, SIZE)), 5),
        (Err(LabelError::Absent), Ok(whole(5, SIZE)), 5),
    ] {
        let judged = judged(first, last);
        assert_eq!(judged.label.generation, generation);
        assert!(matches!(judged.copies, Copies::Renew(_)), "{:?}", judged.copies);
    }
}

#[test]
fn what_is_no_pool_is_told_from_what_is_a_damaged_one() {
    let judged = |first, last| judge(&readings(Err(first), Err(last)), SIZE).unwrap_err();
    assert_eq!(judged(LabelError::Absent, LabelError::Absent), LabelsError::Absent);
    assert!(matches!(judged(damaged(), LabelError::Absent), LabelsError::Damaged(_)));
    assert!(matches!(judged(LabelError::Absent, damaged()), LabelsError::Damaged(_)));
    let newer = LabelError::Newer { found: 2 };
    assert_eq!(judge(&readings(Ok(whole(1, SIZE)), Err(newer.clone())), SIZE), Err(LabelsError::Newer(newer.clone())));
    assert_eq!(judge(&readings(Err(newer.clone()), Ok(whole(1, SIZE))), SIZE), Err(LabelsError::Newer(newer)));
}

#[test]
fn a_first_label_that_something_else_lies_over_is_not_renewed() {
    let mut overwritten = readings(Err(LabelError::Absent), Ok(whole(1, SIZE)));
    overwritten.foreign = "XFS (at byte 0)".to_owned();
    assert_eq!(judge(&overwritten, SIZE), Err(LabelsError::Overwritten("XFS (at byte 0)".to_owned())));
}

#[test]
fn another_pools_label_at_the_end_is_of_a_former_life() {
    let old = Label { generation: 9, ..label_of(PoolId::from_bytes([2; 16]), Role::Whole, SIZE) };
    let judged = judge(&readings(Ok(whole(1, SIZE)), Ok(old)), SIZE).unwrap();
    assert_eq!((judged.label, judged.copies), (whole(1, SIZE), Copies::Renew("the second label is damaged or older")));
}

#[test]
fn devices_that_grew_are_told_from_devices_that_were_cut_off() {
    let first = || Ok(whole(2, SIZE));
    let grown = Readings { inner: Some(Ok(whole(2, SIZE))), ..readings(first(), Err(LabelError::Absent)) };
    let judged = judge(&grown, SIZE + 10 * MIB + 512).unwrap();
    assert_eq!((judged.copies, judged.grown_bytes), (Copies::Whole, 10 * MIB));
    // Growth was interrupted after the new second label.
    let grown = Readings { last: Ok(whole(3, SIZE + 10 * MIB)), ..grown };
    let judged = judge(&grown, SIZE + 10 * MIB).unwrap();
    assert_eq!((judged.label.generation, judged.grown_bytes), (3, 0));
    assert!(matches!(judged.copies, Copies::Renew(_)));
    assert_eq!(
        judge(&readings(first(), Err(LabelError::Absent)), SIZE - MIB),
        Err(LabelsError::CutOff { have: SIZE - MIB, need: SIZE })
    );
}

fn image(folder: &Path, name: &str, bytes: u64) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

fn labelled(folder: &Path, name: &str, label: &Label) -> PathBuf {
    let path = image(folder, name, label.device_bytes);
    OpenDevice::open(&path, Access::ReadWrite).unwrap().write_label(label).unwrap();
    path
}

#[test]
fn a_written_label_is_read_back_from_either_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = labelled(folder.path(), "disk", &whole(1, SIZE));
    let mut device = LabelledDevice::read(&path).unwrap();
    assert_eq!((device.label(), device.judgement().copies), (&whole(1, SIZE), Copies::Whole));
    device.write(device.label().clone()).unwrap();
    assert_eq!(device.label().generation, 2);
    for spoilt in [0, SIZE - BLOCK] {
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff; 100], spoilt + 40).unwrap();
        let mut found = LabelledDevice::read(&path).unwrap();
        assert_eq!((found.label(), found.judgement().grown_bytes), (device.label(), 0));
        assert!(matches!(found.judgement().copies, Copies::Renew(_)));
        found.write(found.label().clone()).unwrap();
        device = LabelledDevice::read(&path).unwrap();
        assert_eq!((device.label().generation, device.judgement().copies), (found.label().generation, Copies::Whole));
    }
}

#[test]
fn a_crash_at_any_block_of_a_rewrite_leaves_one_of_the_two_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = labelled(folder.path(), "disk", &whole(7, SIZE));
    let grown = Label { device_bytes: SIZE + 50 * MIB, ..whole(8, SIZE) };
    let grown = Label {
        segments: layout::grow(Role::Whole, &grown.segments, grown.block_size, grown.device_bytes, layout::MetadataNeed::BySize)
            .unwrap()
            .unwrap(),
        ..grown
    };
    let new = grown.encode().unwrap();
    let end = grown.device_bytes - BLOCK;
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(grown.device_bytes).unwrap();
    // Whatever is there of a former life.
    file.write_all_at(&[0xa5; BLOCK as usize], end).unwrap();
    // Second copy, then the first, sector by sector.
    for (at, sector) in (0..8).map(|sector| (end, sector)).chain((0..8).map(|sector| (0, sector))) {
        let part = sector * 512..(sector + 1) * 512;
        file.write_all_at(&new[part.clone()], at + part.start as u64).unwrap();
        let found = LabelledDevice::read(&path).unwrap();
        let is_old = *found.label() == whole(7, SIZE);
        assert!(is_old || *found.label() == grown, "{at} {sector}");
        // Once the second copy is whole the growth has happened.
        assert_eq!(is_old, at == end && sector < 7, "{at} {sector}");
    }
    assert_eq!(LabelledDevice::read(&path).unwrap().judgement().copies, Copies::Whole);
}

#[test]
fn bad_devices_are_refused_and_left_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let text = |path: &Path| match LabelledDevice::read(path) {
        Err(error @ PoolError::Format(_)) => chain(&error),
        other => panic!("{other:?}"),
    };
    for bytes in [0, 512, 4096, 5000, 2 * MIB, 20 * MIB] {
        assert!(text(&image(folder.path(), "empty", bytes)).contains("there is no pool on it"), "{bytes}");
    }
    let path = labelled(folder.path(), "cut", &whole(1, SIZE));
    File::options().write(true).open(&path).unwrap().set_len(SIZE - MIB).unwrap();
    assert!(text(&path).contains("cut off"));
    assert!(matches!(LabelledDevice::read(&folder.path().join("none")), Err(PoolError::Io { .. })));
    let small = OpenDevice::open(&image(folder.path(), "small", SIZE / 2), Access::ReadWrite).unwrap();
    assert!(matches!(small.write_label(&whole(1, SIZE)), Err(PoolError::Format(_))));
    let empty = Label { segments: Segments::default(), ..whole(1, SIZE) };
    let device = OpenDevice::open(&image(folder.path(), "large", SIZE), Access::ReadWrite).unwrap();
    assert!(matches!(device.write_label(&empty), Err(PoolError::Format(_))));
    assert!(std::fs::read(folder.path().join("large")).unwrap().iter().all(|&byte| byte == 0));
}

#[test]
fn the_second_device_of_a_pool_is_found_by_its_label() {
    let folder = tempfile::tempdir().unwrap();
    let (pool, other) = (PoolId::random(), PoolId::random());
    let make = |name: &str, pool, role| labelled(folder.path(), name, &label_of(pool, role, SIZE));
    let (metadata, data) = (make("m", pool, Role::Metadata), make("d", pool, Role::Data));
    let found = |paths: &[&PathBuf]| {
        let found = paths.iter().map(|path| FoundDevice {
            path: (*path).clone(),
            bytes: SIZE,
            label: Ok(LabelledDevice::read(path).unwrap().label().clone()),
        });
        Ok(found.collect())
    };
    let foreign = make("x", other, Role::Data);
    for start in [&metadata, &data] {
        let devices = PoolDevices::open_with(start, || found(&[&metadata, &foreign, &data])).unwrap();
        assert_eq!((devices.metadata().path(), devices.data().path()), (metadata.as_path(), data.as_path()));
        assert_eq!((devices.pool(), devices.state()), (pool, State::Ready));
    }
    let text = |result: Result<PoolDevices, PoolError>| match result {
        Err(error @ PoolError::Format(_)) => chain(&error),
        other => panic!("{other:?}"),
    };
    assert!(text(PoolDevices::open_with(&metadata, || found(&[&metadata, &foreign]))).contains("is not there"));
    // By somebody who knows the pool's id, as everybody may.
    let forged = Label { link: Link::random(), ..label_of(pool, Role::Data, SIZE) };
    let forged = labelled(folder.path(), "forged", &forged);
    assert!(text(PoolDevices::open_with(&metadata, || found(&[&metadata, &forged]))).contains("is not there"));
    assert!(PoolDevices::open_with(&metadata, || found(&[&forged, &data])).is_ok());
    let copy = folder.path().join("copy");
    std::fs::copy(&data, &copy).unwrap();
    assert!(text(PoolDevices::open_with(&metadata, || found(&[&data, &copy]))).contains("more than once"));
    let read = |path: &Path| LabelledDevice::read(path).unwrap();
    assert!(text(PoolDevices::pair(read(&metadata), read(&forged))).contains("do not belong together"));
    assert!(text(PoolDevices::pair(read(&metadata), read(&foreign))).contains("do not belong together"));
    let whole = make("w", pool, Role::Whole);
    assert_eq!(PoolDevices::open_with(&whole, || panic!("one is enough")).unwrap().all().len(), 1);
}

#[test]
fn a_search_leaves_out_what_others_hold_and_what_is_our_own() {
    let folder = tempfile::tempdir().unwrap();
    let (sysfs, dev) = (folder.path().join("sys"), folder.path().join("dev"));
    std::fs::create_dir_all(&dev).unwrap();
    let entry = |name: &str| {
        std::fs::create_dir_all(sysfs.join(name)).unwrap();
        labelled(&dev, name, &whole(1, SIZE));
        sysfs.join(name)
    };
    entry("sda");
    let held = entry("sdb").join("holders/dm-0/dm");
    std::fs::create_dir_all(&held).unwrap();
    std::fs::write(held.join("name"), "mpatha\n").unwrap();
    let ours = entry("sdc").join("holders/dm-1/dm");
    std::fs::create_dir_all(&ours).unwrap();
    std::fs::write(ours.join("name"), "windlass-x-data\n").unwrap();
    let own = entry("dm-1").join("dm");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("name"), "windlass-x-data\n").unwrap();
    std::fs::create_dir_all(sysfs.join("gone")).unwrap();
    image(&dev, "blank", SIZE);
    std::fs::create_dir_all(sysfs.join("blank")).unwrap();
    let found = search_in(&sysfs, &dev).unwrap();
    let paths: Vec<&Path> = found.iter().map(|found| found.path.as_path()).collect();
    assert_eq!(paths, [dev.join("sda"), dev.join("sdc")]);
}
