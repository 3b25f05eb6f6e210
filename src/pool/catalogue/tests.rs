use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::block::Access;
use crate::pool::DataChecksum;
use crate::pool::record::{AccessMode, FormatState, PublicationKind, VolumeMode};
use crate::types::{LogicalBlockSize, Timestamp, VolumeSize};

fn volume(name: &str) -> Volume {
    Volume {
        id: VolumeId::random(),
        name: name.to_owned().try_into().unwrap(),
        size: VolumeSize::DEFAULT,
        created_size: VolumeSize::DEFAULT,
        logical_block_size: LogicalBlockSize::B4096,
        mode: VolumeMode::Block,
        access_modes: vec![AccessMode::SingleNodeWriter],
        mount_flags: Vec::new(),
        parameters: BTreeMap::new(),
        checksum: DataChecksum::Off,
        source: None,
        format: FormatState::Never,
        created: Timestamp::now(),
        foreign_source: None,
        kubernetes: Default::default(),
    }
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.redb");
    (directory, path)
}

fn format_error(result: Result<Catalogue, PoolError>) -> String {
    match result {
        Err(PoolError::Format(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let (_directory, path) = directory();
    let id = PoolId::random();
    let stored = volume("one");
    let catalogue = Catalogue::create(&path, id).unwrap();
    catalogue.commit("test", |change| change.put_volume(&stored)).unwrap();
    drop(catalogue);
    let catalogue = Catalogue::open(&path).unwrap();
    assert_eq!(catalogue.id(), id);
    assert_eq!(catalogue.volumes().unwrap(), vec![stored.clone()]);
    assert_eq!(catalogue.volume_by_name(&stored.name).unwrap(), Some(stored));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_change_that_fails_leaves_nothing() {
    let catalogue = Catalogue::in_memory().unwrap();
    let first = volume("one");
    catalogue.commit("test", |change| change.put_volume(&first)).unwrap();
    let second = volume("one");
    let refused = catalogue.commit("test", |change| {
        change.put_volume(&volume("two"))?;
        change.put_volume(&second)
    });
    assert!(matches!(refused, Err(PoolError::NameTaken { .. })));
    assert_eq!(catalogue.volumes().unwrap(), vec![first]);
}

#[test]
fn intents_keep_their_order_and_their_ids_are_not_reused() {
    let catalogue = Catalogue::in_memory().unwrap();
    let grow = Intent::Grow { volume: VolumeId::random(), size: VolumeSize::DEFAULT };
    let delete = Intent::DeleteVolume { volume: volume("gone") };
    let first = catalogue.commit("test", |change| change.add_intent(&grow)).unwrap();
    catalogue.commit("test", |change| change.drop_intent(first)).unwrap();
    let second = catalogue.commit("test", |change| change.add_intent(&delete)).unwrap();
    let third = catalogue.commit("test", |change| change.add_intent(&grow)).unwrap();
    assert!(first < second && second < third);
    assert_eq!(catalogue.intents().unwrap(), vec![(second, delete), (third, grow)]);
}

#[test]
fn publications_and_exports_belong_to_their_volume() {
    let catalogue = Catalogue::in_memory().unwrap();
    let (one, two) = (volume("one"), volume("two"));
    let publication = Publication {
        path: PathBuf::from("/target"),
        kind: PublicationKind::Published,
        mode: VolumeMode::Block,
        access_mode: AccessMode::SingleNodeWriter,
        mount_flags: Vec::new(),
        access: Access::ReadWrite,
        boot_id: "boot".to_owned(),
    };
    let export = |volume: VolumeId, repository: &str| ExportRecord {
        repository: repository.to_owned(),
        volume,
        snapshot: SnapshotId::from_bytes([7; 16]),
        repository_snapshot: "00".repeat(32),
        size: VolumeSize::DEFAULT,
        chunk_size: 1 << 20,
        finished: Timestamp { seconds: 1, nanoseconds: 2 },
    };
    catalogue
        .commit("test", |change| {
            change.set_publications(one.id, std::slice::from_ref(&publication))?;
            change.put_export(&export(one.id, "aa"))?;
            change.put_export(&export(one.id, "bb"))?;
            change.put_export(&export(two.id, "aa"))
        })
        .unwrap();
    assert_eq!(catalogue.publications(one.id).unwrap(), vec![publication]);
    assert_eq!(catalogue.publications(two.id).unwrap(), Vec::new());
    assert_eq!(catalogue.exports(one.id).unwrap(), vec![export(one.id, "aa"), export(one.id, "bb")]);
    assert_eq!(catalogue.export("aa", two.id).unwrap(), Some(export(two.id, "aa")));
    catalogue.commit("test", |change| change.remove_exports(one.id)).unwrap();
    assert_eq!(catalogue.exports(one.id).unwrap(), Vec::new());
    assert_eq!(catalogue.exports(two.id).unwrap().len(), 1);
}

#[test]
fn foreign_files_are_refused_and_left_as_they_were() {
    let (_directory, path) = directory();
    let other = redb::Database::create(path.with_file_name("other.redb")).unwrap();
    let transaction = other.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u64, u64>::new("x")).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(other);
    let other = fs::read(path.with_file_name("other.redb")).unwrap();
    for content in [Vec::new(), b"SQLite format 3\0".to_vec(), vec![0; 100_000], REDB_HEAD.to_vec(), other] {
        fs::write(&path, &content).unwrap();
        format_error(Catalogue::open(&path));
        assert_eq!(fs::read(&path).unwrap(), content);
        format_error(Catalogue::create(&path, PoolId::random()));
    }
}

const REDB_HEAD: &[u8] = b"redb\x1a\n\xa9\r\n and then nothing";

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let (_directory, path) = directory();
    let catalogue = Catalogue::create(&path, PoolId::random()).unwrap();
    {
        let transaction = catalogue.connection.writer().unwrap().database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("format", "2").unwrap();
        transaction.commit().unwrap();
    }
    drop(catalogue);
    let before = fs::read(&path).unwrap();
    assert!(format_error(Catalogue::open(&path)).contains("format 2"));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_cut_off_anywhere_is_refused_and_left_as_it_was() {
    let (_directory, path) = directory();
    let catalogue = Catalogue::create(&path, PoolId::random()).unwrap();
    for number in 0..300 {
        catalogue.commit("test", |change| change.put_volume(&volume(&format!("volume-{number}")))).unwrap();
    }
    drop(catalogue);
    let whole = fs::read(&path).unwrap();
    for part in 0..12 {
        let cut = &whole[..whole.len() * part / 12];
        fs::write(&path, cut).unwrap();
        format_error(Catalogue::open(&path));
        assert_eq!(fs::read(&path).unwrap(), cut);
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(Catalogue::open(&path).unwrap().volumes().unwrap().len(), 300);
}

#[test]
fn a_missing_catalogue_is_not_found_and_not_made() {
    let (_directory, path) = directory();
    assert!(matches!(Catalogue::open(&path), Err(PoolError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound));
    assert!(!path.exists());
}

#[test]
fn a_catalogue_of_before_there_were_anchors_opens_and_its_snapshots_get_the_defaults() {
    let (_directory, path) = directory();
    let catalogue = Catalogue::create(&path, PoolId::random()).unwrap();
    let volume = volume("one");
    let old = serde_json::json!({
        "id": SnapshotId::from_bytes([7; 16]),
        "name": "old",
        "source": volume.id,
        "size": volume.size,
        "logical_block_size": volume.logical_block_size,
        "mode": volume.mode,
        "format": volume.format,
        "checksum": volume.checksum,
        "parameters": {},
        "created": volume.created,
    });
    let snapshot: Snapshot = serde_json::from_value(old).unwrap();
    assert_eq!((snapshot.serial, snapshot.anchor_limit.count(), snapshot.used_by.len()), (0, 4, 0));
    catalogue.drop_anchors_table().unwrap();
    drop(catalogue);
    let catalogue = Catalogue::open(&path).unwrap();
    assert_eq!(catalogue.anchors().unwrap(), Vec::new());
    assert_eq!(catalogue.anchor(volume.id, snapshot.id).unwrap(), None);
    let anchor = Anchor { snapshot, deleted: volume.created };
    catalogue.commit("test", |change| change.put_anchor(&anchor)).unwrap();
    drop(catalogue);
    let catalogue = Catalogue::open(&path).unwrap();
    assert_eq!(catalogue.anchor(volume.id, anchor.snapshot.id).unwrap(), Some(anchor.clone()));
    assert_eq!(catalogue.anchors().unwrap(), vec![anchor]);
}

#[test]
fn a_catalogue_in_a_region_refuses_what_is_new_before_it_is_full_and_deletions_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    open().set_len(5 << 20).unwrap();
    let catalogue = Catalogue::create_device(open(), PoolId::random()).unwrap();
    let mut made = Vec::new();
    // Thirty in one commit, to be done sooner.
    let refused = loop {
        let batch: Vec<Volume> = (0..30).map(|n| volume(&format!("volume-{}-{n}", made.len()))).collect();
        let done = catalogue.commit("test", |change| {
            for volume in &batch {
                let intent = change.add_intent(&Intent::CreateVolume { volume: volume.clone(), holds: Vec::new() })?;
                change.put_volume(volume)?;
                change.drop_intent(intent)?;
            }
            Ok(())
        });
        match done {
            Ok(()) => made.extend(batch),
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, PoolError::NoSpace(text) if text.contains("catalogue")), "{refused}");
    assert!(made.len() > 1000, "{}", made.len());
    // Every single one can be deleted, by two commits each as ever, and then there is room again.
    for batch in made.chunks(30) {
        let delete = |volume: &Volume| Intent::DeleteVolume { volume: volume.clone() };
        let intents = catalogue.commit("test", |change| {
            let added = batch.iter().map(|volume| change.add_intent(&delete(volume))).collect::<Result<Vec<_>, _>>()?;
            batch.iter().try_for_each(|volume| change.remove_volume(volume))?;
            Ok(added)
        });
        let intents = intents.unwrap();
        catalogue.commit("test", |change| intents.iter().try_for_each(|&intent| change.drop_intent(intent))).unwrap();
    }
    assert_eq!(catalogue.volumes().unwrap(), Vec::new());
    let intent = Intent::CreateVolume { volume: volume("new"), holds: Vec::new() };
    catalogue.commit("test", |change| change.add_intent(&intent)).unwrap();
    drop(catalogue);
    assert_eq!(Catalogue::open_device(open(), "the region").unwrap().intents().unwrap().len(), 1);
}
