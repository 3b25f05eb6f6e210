use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::tables::{META, SNAPSHOTS, SNAPSHOTS_OF};
use super::*;
use crate::pool::PoolError;
use crate::pool::intent::Intent;
use crate::pool::record::PublicationKind;
use crate::pool::record::{Anchor, Publication, Snapshot, Volume};
use crate::types::error::chain;
use crate::types::{Access, AccessMode, DataChecksum, FormatState, LogicalBlockSize, Timestamp, VolumeMode, VolumeSize};
use crate::types::{ExportRecord, PoolId, SnapshotId, VolumeId};

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
        history: Default::default(),
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
        Err(error @ (PoolError::Format(_) | PoolError::CatalogueLost(_))) => chain(&error),
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

fn snapshot(name: &str, source: VolumeId) -> Snapshot {
    let source = Volume { id: source, ..volume("source") };
    serde_json::from_value(serde_json::json!({
        "id": SnapshotId::random(),
        "name": name,
        "source": source.id,
        "size": source.size,
        "logical_block_size": source.logical_block_size,
        "mode": source.mode,
        "format": source.format,
        "checksum": source.checksum,
        "parameters": {},
        "created": source.created,
    }))
    .unwrap()
}

/// Records that `read` reads.
fn records_read<T>(read: impl FnOnce() -> T) -> (usize, T) {
    let before = Catalogue::records_read();
    let value = read();
    (Catalogue::records_read() - before, value)
}

#[test]
fn the_snapshots_of_a_volume_are_found_without_reading_those_of_others() {
    let (_directory, path) = directory();
    let catalogue = Catalogue::create(&path, PoolId::random()).unwrap();
    let volumes: Vec<VolumeId> = (0..200).map(|_| VolumeId::random()).collect();
    catalogue
        .commit("test", |change| {
            (0..10_000).try_for_each(|n| change.put_snapshot(&snapshot(&format!("snapshot-{n}"), volumes[n % volumes.len()])))
        })
        .unwrap();
    let (read, found) = records_read(|| catalogue.snapshots_of(volumes[7]).unwrap());
    assert_eq!((read, found.len()), (50, 50));
    assert!(found.iter().all(|snapshot| snapshot.source == volumes[7]));
    let (read, ()) = records_read(|| {
        catalogue
            .commit("test", |change| {
                assert!(change.has_snapshots(volumes[7])?);
                assert_eq!(change.snapshots_of(volumes[7])?.len(), 50);
                change.remove_snapshot(&found[0])
            })
            .unwrap();
    });
    assert_eq!(read, 50);
    assert_eq!(catalogue.snapshots_of(volumes[7]).unwrap().len(), 49);
    // Opening one whose index is right reads none.
    drop(catalogue);
    let (read, catalogue) = records_read(|| Catalogue::open(&path).unwrap());
    assert_eq!(read, 0);
    assert_eq!(catalogue.snapshots_of(volumes[7]).unwrap().len(), 49);
}

#[test]
fn an_index_that_is_missing_or_was_left_behind_by_an_older_version_is_made_anew() {
    let (_directory, path) = directory();
    let catalogue = Catalogue::create(&path, PoolId::random()).unwrap();
    let volume = VolumeId::random();
    let (old, new) = (snapshot("old", volume), snapshot("new", volume));
    catalogue.commit("test", |change| change.put_snapshot(&old)).unwrap();
    let as_an_older_version = |catalogue: &Catalogue, change: &dyn Fn(&redb::WriteTransaction)| {
        let opened = catalogue.connection.writer().unwrap();
        let transaction = opened.database.begin_write().unwrap();
        change(&transaction);
        transaction.commit().unwrap();
    };
    as_an_older_version(&catalogue, &|transaction| assert!(transaction.delete_table(SNAPSHOTS_OF).unwrap()));
    drop(catalogue);
    let catalogue = Catalogue::open(&path).unwrap();
    assert_eq!(catalogue.snapshots_of(volume).unwrap(), vec![old.clone()]);
    // As many as before, but not the same.
    as_an_older_version(&catalogue, &|transaction| {
        let mut snapshots = transaction.open_table(SNAPSHOTS).unwrap();
        snapshots.remove(old.id.as_bytes().as_slice()).unwrap();
        snapshots.insert(new.id.as_bytes().as_slice(), serde_json::to_vec(&new).unwrap().as_slice()).unwrap();
    });
    drop(catalogue);
    let catalogue = Catalogue::open(&path).unwrap();
    assert_eq!(catalogue.snapshots_of(volume).unwrap(), vec![new]);
}

/// The whole storage of a catalogue that commit 1040e21 made, in a file or a region, with records of every kind.
fn made_by_the_first_version(name: &str) -> Vec<u8> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pool/catalogue/fixtures");
    zstd::decode_all(File::open(fixtures.join(name)).unwrap()).unwrap()
}

#[test]
fn catalogues_that_the_first_version_made_are_read_whole_and_changed() {
    let (_directory, path) = directory();
    let open_region = || File::options().read(true).write(true).open(path.with_file_name("region")).unwrap();
    fs::write(&path, made_by_the_first_version("file-1040e21.zst")).unwrap();
    fs::write(path.with_file_name("region"), made_by_the_first_version("region-1040e21.zst")).unwrap();
    type Open<'a> = &'a dyn Fn() -> Catalogue;
    let opens: [Open<'_>; 2] =
        [&|| Catalogue::open(&path).unwrap(), &|| Catalogue::open_device(open_region(), "the region").unwrap()];
    for open in opens {
        let catalogue = open();
        catalogue.check_works().unwrap();
        assert_eq!(catalogue.id(), PoolId::from_bytes([0x42; 16]));
        let [block, ext4, copy] = [1, 2, 3].map(|n| catalogue.volume(VolumeId::from_bytes([n; 16])).unwrap().unwrap());
        assert_eq!((block.name.as_str(), block.mode, block.format), ("block", VolumeMode::Block, FormatState::Never));
        assert_eq!((ext4.anchor_limit().count(), ext4.format), (2, FormatState::Content));
        assert_eq!((copy.format, copy.checksum), (FormatState::Copied, DataChecksum::On));
        assert_eq!(copy.source, Some(crate::types::Object::Snapshot(SnapshotId::from_bytes([11; 16]))));
        let ids = |volume: VolumeId| {
            let found = catalogue.snapshots_of(volume).unwrap();
            found.iter().map(|snapshot| snapshot.id.as_bytes()[0]).collect::<Vec<_>>()
        };
        assert_eq!((ids(ext4.id), ids(block.id), ids(VolumeId::from_bytes([9; 16]))), (vec![11, 12], vec![], vec![13]));
        let used = catalogue.snapshot(SnapshotId::from_bytes([11; 16])).unwrap().unwrap();
        assert_eq!((used.used_by.len(), used.serial), (3, 11));
        assert!(used.copies.is_local_only() && used.is_here() && used.is_ready());
        assert_eq!(catalogue.anchors().unwrap().len(), 2);
        assert_eq!(catalogue.publications(ext4.id).unwrap().len(), 2);
        assert_eq!(catalogue.export(&"ab".repeat(32), ext4.id).unwrap().unwrap().snapshot, used.id);
        assert_eq!(catalogue.intents().unwrap().len(), 6);
        assert_eq!(
            (catalogue.thin_objects().unwrap().len(), catalogue.next_thin_id().unwrap(), catalogue.epoch().unwrap()),
            (4, 4, 7)
        );
        assert_eq!(catalogue.kept_map(SnapshotId::from_bytes([5; 16])).unwrap().unwrap(), b"what a kept map holds");
        let new = volume("new");
        catalogue
            .commit("test", |change| {
                for (id, _) in catalogue.intents()? {
                    change.drop_intent(id)?;
                }
                change.remove_snapshot(&used)?;
                change.remove_exports(ext4.id)?;
                change.remove_volume(&ext4)?;
                change.put_volume(&new)
            })
            .unwrap();
        drop(catalogue);
        let catalogue = open();
        assert_eq!((catalogue.volumes().unwrap().len(), catalogue.snapshots().unwrap().len()), (3, 2));
        assert_eq!(catalogue.volume_by_name(&new.name).unwrap(), Some(new));
        assert_eq!(catalogue.volume_by_name(&ext4.name).unwrap(), None);
        assert_eq!(catalogue.publications(ext4.id).unwrap(), Vec::new());
    }
}
