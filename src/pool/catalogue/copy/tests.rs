use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use super::slots::CopyFile;
use super::*;
use crate::pool::intent::Intent;
use crate::pool::properties::PoolProperties;
use crate::pool::record::{Anchor, Snapshot, Volume};
use crate::types::{ExportRecord, Object, PoolId, SnapshotId, VolumeId, VolumeSize};

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.copy");
    (directory, path)
}

fn volume(name: &str) -> Volume {
    serde_json::from_value(serde_json::json!({
        "id": VolumeId::random(),
        "name": name,
        "size": VolumeSize::DEFAULT,
        "created_size": VolumeSize::DEFAULT,
        "logical_block_size": crate::types::LogicalBlockSize::B4096,
        "mode": "block",
        "access_modes": ["SingleNodeWriter"],
        "mount_flags": [],
        "parameters": {},
        "checksum": crate::types::DataChecksum::Off,
        "source": null,
        "format": "never",
        "created": Timestamp::now(),
    }))
    .unwrap()
}

fn snapshot(name: &str, source: &Volume) -> Snapshot {
    serde_json::from_value(serde_json::json!({
        "id": SnapshotId::random(),
        "name": name,
        "source": source.id,
        "size": source.size,
        "logical_block_size": source.logical_block_size,
        "mode": "block",
        "format": "never",
        "checksum": source.checksum,
        "parameters": {},
        "created": source.created,
        "serial": 7,
    }))
    .unwrap()
}

fn export(volume: &Volume, snapshot: &Snapshot) -> ExportRecord {
    ExportRecord {
        repository: "ab".repeat(32),
        volume: volume.id,
        snapshot: snapshot.id,
        repository_snapshot: "00".repeat(32),
        size: volume.size,
        chunk_size: 1 << 20,
        finished: Timestamp { seconds: 1, nanoseconds: 2 },
    }
}

/// A catalogue with something of every kind in it, two intents among it.
fn catalogue() -> (Catalogue, Records) {
    let catalogue = Catalogue::in_memory().unwrap();
    // A name may have a line feed.
    let (one, unborn) = (volume("one\ntwo"), volume("unborn"));
    let (live, kept) = (snapshot("live", &one), snapshot("kept", &one));
    let anchor = Anchor { snapshot: kept, deleted: Timestamp::now() };
    let export = export(&one, &live);
    let properties = PoolProperties { name: "fast".parse().unwrap(), ..PoolProperties::default() };
    catalogue
        .commit("test", |change| {
            change.set_properties(&properties)?;
            change.put_volume(&one)?;
            change.put_snapshot(&live)?;
            change.put_anchor(&anchor)?;
            change.put_export(&export)?;
            change.add_intent(&Intent::CreateVolume { volume: unborn.clone(), holds: Vec::new() })?;
            change.add_intent(&Intent::DeleteVolume { volume: one.clone() })
        })
        .unwrap();
    let records = Records {
        pool: catalogue.id(),
        properties,
        next_intent: 3,
        first_delta_base: 0,
        volumes: vec![one.clone()],
        snapshots: vec![live],
        anchors: vec![anchor],
        exports: vec![export],
        under_way: vec![Object::Volume(unborn.id), Object::Volume(one.id)],
    };
    (catalogue, records)
}

fn write(path: &Path, catalogue: &Catalogue) {
    let (revision, text) = catalogue.as_text().unwrap();
    CopyFile::open(path).unwrap().write(revision, text).unwrap();
}

#[test]
fn a_copy_says_what_is_recorded_and_no_intent() {
    let (_directory, path) = place();
    let (catalogue, records) = catalogue();
    write(&path, &catalogue);
    let stored = read(&path).unwrap();
    assert_eq!(stored.records, records);
    assert_eq!((stored.revision, catalogue.revision().unwrap()), (1, 1));
    assert_eq!(catalogue.records().unwrap(), records);
    let text = String::from_utf8(catalogue.as_text().unwrap().1).unwrap();
    assert!(!text.contains("create_volume") && !text.contains("unborn"), "{text}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn of_a_write_that_was_interrupted_anywhere_the_copy_before_it_is_left() {
    let (_directory, path) = place();
    let body = |n: u8| [b"pool {}\n".as_slice(), &vec![n; 3000]].concat();
    let mut file = CopyFile::open(&path).unwrap();
    file.write(1, body(b'1')).unwrap();
    file.write(2, body(b'2')).unwrap();
    let before = fs::read(&path).unwrap();
    file.write(3, body(b'3')).unwrap();
    let after = fs::read(&path).unwrap();
    assert_eq!(before.len(), after.len(), "written in place");
    let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert!(changed > 2900, "{changed}");
    let first = before.iter().zip(&after).position(|(before, after)| before != after).unwrap();
    for written in [1, 20, 60, 500, 1500, 2999] {
        let cut = [&after[..first + written], &before[first + written..]].concat();
        fs::write(&path, &cut).unwrap();
        let slot = slots::read(&path).unwrap();
        assert_eq!((slot.revision, slot.body), (2, body(b'2')), "after {written} bytes");
    }
    fs::write(&path, &after).unwrap();
    assert_eq!(slots::read(&path).unwrap().revision, 3);
    // Whoever opens it goes on where it was.
    let mut file = CopyFile::open(&path).unwrap();
    file.write(4, body(b'4')).unwrap();
    assert_eq!(slots::read(&path).unwrap().generation, 4);
}

#[test]
fn what_says_the_same_is_not_written_again_and_what_does_not_fit_gets_a_larger_file() {
    let (_directory, path) = place();
    let mut file = CopyFile::open(&path).unwrap();
    file.write(1, b"pool {}\n".to_vec()).unwrap();
    file.write(9, b"pool {}\n".to_vec()).unwrap();
    assert_eq!((slots::read(&path).unwrap().revision, slots::read(&path).unwrap().generation), (1, 1));
    assert_eq!(fs::metadata(&path).unwrap().len(), 2 << 20);
    let large = vec![b'x'; 3 << 20];
    file.write(10, large.clone()).unwrap();
    assert_eq!(slots::read(&path).unwrap().body, large);
    assert_eq!(fs::metadata(&path).unwrap().len(), 16 << 20);
    file.write(11, b"pool {}\n".to_vec()).unwrap();
    assert_eq!(slots::read(&path).unwrap().revision, 11);
    assert!(!path.with_file_name("catalogue.copy-new").exists());
}

#[test]
fn damaged_copies_are_refused_and_made_anew_and_later_ones_left_alone() {
    let (_directory, path) = place();
    assert!(matches!(read(&path), Err(CopyError::Absent)));
    let (catalogue, records) = catalogue();
    write(&path, &catalogue);
    let whole = fs::read(&path).unwrap();
    let garbage: Vec<u8> = (0..70_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for damaged in [Vec::new(), vec![0; 2 << 20], garbage, whole[..(1 << 20) + 100].to_vec()] {
        fs::write(&path, damaged).unwrap();
        assert!(read(&path).is_err());
        write(&path, &catalogue);
        assert_eq!(read(&path).unwrap().records, records);
    }
    // One byte of the content.
    let mut spoilt = whole.clone();
    let at = spoilt.windows(4).position(|bytes| bytes == b"live").unwrap();
    spoilt[at] = b'L';
    fs::write(&path, spoilt).unwrap();
    assert!(matches!(read(&path), Err(CopyError::Damaged(_))));
    let later = "windlass-catalogue-copy 2 5 5 5 0 00000000\n";
    fs::write(&path, &whole).unwrap();
    fs::File::options().write(true).open(&path).unwrap().write_all_at(later.as_bytes(), 0).unwrap();
    assert!(matches!(read(&path), Err(CopyError::Newer(2))));
    assert!(matches!(CopyFile::open(&path), Err(CopyError::Newer(2))));
}

#[test]
fn a_catalogue_that_is_behind_its_copy_or_of_another_pool_is_refused() {
    let (_directory, path) = place();
    let first = path.with_file_name("catalogue.redb");
    let (id, changed) = (PoolId::random(), volume("one"));
    let catalogue = Catalogue::create(&first, id).unwrap();
    check_not_behind(&catalogue, &path).unwrap();
    drop(catalogue);
    let earlier = fs::read(&first).unwrap();
    let catalogue = Catalogue::open(&first).unwrap();
    catalogue.commit("test", |change| change.put_volume(&changed)).unwrap();
    write(&path, &catalogue);
    check_not_behind(&catalogue, &path).unwrap();
    catalogue.commit("test", |change| change.remove_volume(&changed)).unwrap();
    check_not_behind(&catalogue, &path).unwrap();
    drop(catalogue);
    fs::write(&first, earlier).unwrap();
    let behind = check_not_behind(&Catalogue::open(&first).unwrap(), &path);
    assert!(matches!(&behind, Err(PoolError::CatalogueLost(text)) if text.contains("earlier moment")), "{behind:?}");
    fs::remove_file(&first).unwrap();
    let other = check_not_behind(&Catalogue::create(&first, PoolId::random()).unwrap(), &path);
    assert!(matches!(&other, Err(PoolError::CatalogueLost(text)) if text.contains(&id.to_string())), "{other:?}");
    // One that cannot be read says nothing.
    fs::write(&path, "garbage").unwrap();
    check_not_behind(&Catalogue::open(&first).unwrap(), &path).unwrap();
}

#[test]
fn the_keeper_writes_what_was_committed_at_the_latest_when_it_ends() {
    let (_directory, path) = place();
    let (catalogue, records) = catalogue();
    let keeper = CopyKeeper::start(catalogue.clone(), path.clone()).unwrap();
    let last = volume("last");
    catalogue.commit("test", |change| change.put_volume(&last)).unwrap();
    drop(keeper);
    let stored = read(&path).unwrap();
    assert_eq!((stored.records.volumes.len(), stored.revision), (records.volumes.len() + 1, 2));
    // A place where nothing can be written fails no commit, and ends.
    let nowhere = path.join("not-a-directory").join("catalogue.copy");
    let keeper = CopyKeeper::start(catalogue.clone(), nowhere).unwrap();
    catalogue.commit("test", |change| change.remove_volume(&last)).unwrap();
    drop(keeper);
}

#[test]
fn a_catalogue_made_again_records_what_the_copy_says_and_keeps_the_one_before_it() {
    let (_directory, path) = place();
    let (_, mut records) = catalogue();
    let (first, replaced) = (path.with_file_name("catalogue.redb"), path.with_file_name("catalogue.replaced"));
    records.next_intent = 1 << 40;
    records.first_delta_base = 1 << 40;
    for before in ["garbage", "other garbage"] {
        fs::write(&first, before).unwrap();
        Catalogue::rebuild(&first, &replaced, &records, 12).unwrap();
        assert_eq!(fs::read_to_string(&replaced).unwrap(), before);
        fs::remove_file(&first).unwrap();
    }
    Catalogue::rebuild(&first, &replaced, &records, 12).unwrap();
    let made = Catalogue::open(&first).unwrap();
    assert_eq!(made.intents().unwrap(), Vec::new());
    assert_eq!(made.records().unwrap(), Records { under_way: Vec::new(), ..records.clone() });
    assert_eq!((made.revision().unwrap(), made.first_delta_base().unwrap()), (12, 1 << 40));
    assert_eq!(made.snapshots_of(records.volumes[0].id).unwrap(), records.snapshots);
    // Two of one name are no records of a catalogue, and nothing was replaced.
    let twice = Records { volumes: vec![volume("a"), volume("a")], ..records };
    assert!(matches!(Catalogue::rebuild(&first, &replaced, &twice, 13), Err(PoolError::NameTaken { .. })));
    assert_eq!(Catalogue::open(&first).unwrap().revision().unwrap(), 12);
    assert!(!path.with_file_name("catalogue.new").exists());
}
