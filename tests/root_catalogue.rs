#![cfg(feature = "root-tests")]
//! The catalogue in file systems without a free block, XFS and Btrfs. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/root_support/mod.rs"]
mod root_support;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use basics::MIB;
use root_support::Sandbox;
use windlass::block::AlignedBuffer;
use windlass::pool::PoolError;
use windlass::pool::catalogue::Catalogue;
use windlass::pool::intent::Intent;
use windlass::pool::record::Volume;
use windlass::types::{FsType, PoolId};

fn volume(number: usize) -> Volume {
    let record = serde_json::json!({
        "id": windlass::types::VolumeId::random(),
        "name": format!("volume-{number}"),
        "size": windlass::types::VolumeSize::DEFAULT,
        "created_size": windlass::types::VolumeSize::DEFAULT,
        "logical_block_size": windlass::types::LogicalBlockSize::B4096,
        "mode": "block",
        "access_modes": ["SingleNodeWriter"],
        "mount_flags": [],
        "parameters": {},
        "checksum": windlass::types::DataChecksum::Off,
        "source": null,
        "format": "never",
        "created": windlass::types::Timestamp::now(),
    });
    serde_json::from_value(record).unwrap()
}

/// Takes every block that a writer can get, down to the last 4 KiB.
fn fill(directory: &Path) {
    for round in 0..3 {
        let path = directory.join(format!("filler-{round}"));
        let opened = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(path);
        // Not even a name fits any more.
        let Ok(file) = opened else { break };
        let mut offset = 0;
        for piece in [MIB as usize, 64 << 10, 4096] {
            let buffer = AlignedBuffer::zeroed(piece);
            loop {
                match file.write_at(&buffer, offset) {
                    Ok(written) => offset += written as u64,
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                        break;
                    }
                }
            }
        }
        // What is freed in the background is taken too.
        let _ = file.sync_all();
    }
}

fn empty(directory: &Path) {
    (0..3).for_each(|round| drop(fs::remove_file(directory.join(format!("filler-{round}")))));
    File::open(directory).unwrap().sync_all().unwrap();
}

fn is_full(directory: &Path) -> bool {
    let taken = File::create(directory.join("one-more")).and_then(|file| {
        file.write_all_at(&[1; MIB as usize], 0)?;
        file.sync_all()
    });
    let _ = fs::remove_file(directory.join("one-more"));
    taken.is_err()
}

#[test]
fn a_catalogue_in_a_full_file_system_records_publications_and_every_deletion() {
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let sandbox = Sandbox::new();
        let pool = sandbox.pool(fs_type);
        let directory = pool.directory();
        let path = directory.join("catalogue.redb");
        let catalogue = Catalogue::create(&path, PoolId::random()).unwrap();
        let volumes: Vec<Volume> = (0..400).map(volume).collect();
        for batch in volumes.chunks(50) {
            catalogue.commit("test", |change| batch.iter().try_for_each(|volume| change.put_volume(volume))).unwrap();
        }
        fill(directory);
        assert!(is_full(directory), "{fs_type}");
        let delete = |catalogue: &Catalogue, volume: &Volume| {
            let intent = catalogue.commit("test", |change| {
                change.remove_volume(volume)?;
                change.add_intent(&Intent::DeleteVolume { volume: volume.clone() })
            });
            catalogue.commit("test", |change| change.drop_intent(intent.unwrap())).unwrap();
        };
        volumes[..100].iter().for_each(|volume| delete(&catalogue, volume));
        // A restart while it is full.
        drop(catalogue);
        let catalogue = Catalogue::open(&path).unwrap();
        catalogue.check_works().unwrap();
        assert_eq!(catalogue.volumes().unwrap().len(), 300);
        volumes[100..].iter().for_each(|volume| delete(&catalogue, volume));
        assert!(is_full(directory), "{fs_type}");
        empty(directory);
    }
}

#[test]
fn a_sparse_catalogue_is_readable_in_a_full_file_system_and_gets_its_own_space_when_there_is_some() {
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let sandbox = Sandbox::new();
        let pool = sandbox.pool(fs_type);
        let directory = pool.directory();
        let path = directory.join("catalogue.redb");
        let made = sandbox.path("made");
        let catalogue = Catalogue::create(&made, PoolId::random()).unwrap();
        let kept = volume(0);
        catalogue.commit("test", |change| change.put_volume(&kept)).unwrap();
        drop(catalogue);
        // As one of the first versions lies there: an ordinary file with holes.
        let content = fs::read(&made).unwrap();
        let file = File::create(&path).unwrap();
        for (number, piece) in content.chunks(4096).enumerate() {
            if piece.iter().any(|&byte| byte != 0) {
                file.write_all_at(piece, number as u64 * 4096).unwrap();
            }
        }
        file.set_len(content.len() as u64).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap();
        assert!(before.blocks() * 512 < before.len());
        drop(file);
        fill(directory);
        let catalogue = Catalogue::open(&path).unwrap();
        assert_eq!(catalogue.volumes().unwrap(), vec![kept.clone()]);
        assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino(), "{fs_type}: there was no room for another");
        // Commits may work for a while; once one does not, it says so, and what is there is read as before.
        let failed = (0..2000).find_map(|number| catalogue.commit("test", |change| change.put_volume(&volume(number + 1))).err());
        if let Some(error) = failed {
            assert!(matches!(error, PoolError::Catalogue(_)), "{fs_type}: {error}");
            assert!(matches!(catalogue.check_works(), Err(PoolError::Catalogue(_))), "{fs_type}");
            assert!(catalogue.volumes().unwrap().contains(&kept));
        } else {
            assert_ne!(fs_type, FsType::Btrfs, "it is copied on write");
        }
        empty(directory);
        catalogue.check_works().unwrap();
        drop(catalogue);
        let catalogue = Catalogue::open(&path).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert!(after.ino() != before.ino() && after.blocks() * 512 >= after.len(), "{fs_type}");
        assert!(catalogue.volumes().unwrap().contains(&kept));
    }
}
