//! What `Blocks` promises, of each form: over a pool in memory and over no pool, in this process and over a wire.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../support/disks/mod.rs"]
mod disks;
#[path = "../support/disks/pool.rs"]
mod pool_disks;
#[path = "../support/served_blocks.rs"]
mod served_blocks;
#[path = "../support/disks/wire.rs"]
mod wire_disks;

mod copies;
mod kept;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use disks::{Disks, delete_when_let_go, name, new_volume};
use pool_disks::PoolDisks;
use windlass::blocks::{BlocksError, CommitName, PoolState, TargetStart, UsageQuery};
use windlass::types::{
    ByteRange, ExportRecord, NewVolume, Object, OnLoss, PoolId, RangeStream, SnapshotHandle, SnapshotId, Timestamp, VolumeHandle,
    VolumeId, VolumeMode, VolumeSize,
};
use wire_disks::WireDisks;

const MIB: u64 = 1 << 20;

/// Each form, with a name for what fails.
fn forms() -> [(&'static str, Arc<dyn Disks>); 4] {
    [
        ("no pool", disks::memory()),
        ("a pool", Arc::new(PoolDisks::new())),
        ("no pool, over a wire", Arc::new(WireDisks::over(disks::memory()))),
        ("a pool, over a wire", Arc::new(WireDisks::over(Arc::new(PoolDisks::new())))),
    ]
}

fn raw(text: &str) -> NewVolume {
    new_volume(text, 4 * MIB, VolumeMode::Block)
}

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).unwrap()
}

/// On a thread that may wait for them.
async fn all(ranges: Result<RangeStream, BlocksError>) -> Vec<ByteRange> {
    let ranges = ranges.unwrap();
    tokio::task::spawn_blocking(|| ranges.map(Result::unwrap).collect()).await.unwrap()
}

fn record(volume: VolumeHandle, snapshot: SnapshotHandle) -> ExportRecord {
    ExportRecord {
        repository: "ab".repeat(32),
        volume: volume.volume,
        snapshot: snapshot.snapshot,
        repository_snapshot: "cd".repeat(32),
        size: VolumeSize::new(4 * MIB).unwrap(),
        chunk_size: MIB,
        finished: Timestamp::now(),
    }
}

/// A volume with this content, and a snapshot of it.
async fn version(disks: &Arc<dyn Disks>, text: &str, parts: &[(u64, &[u8])]) -> (VolumeHandle, SnapshotHandle) {
    let volume = disks.create(&raw(text), parts).await;
    (volume, disks.cut(&format!("cut of {text}"), volume))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_reads_what_was_cut_keeps_it_and_tells_where_there_is_anything() {
    for (form, disks) in forms() {
        let (volume, snapshot) = version(&disks, "data", &[(MIB, &[7; 8192]), (3 * MIB, &[9; 4096])]).await;
        let lease = disks.blocks().lease(snapshot).await.unwrap();
        let told = lease.snapshot();
        assert_eq!((told.handle, told.source, told.size.bytes()), (snapshot, volume, 4 * MIB), "{form}");
        assert_eq!(told.mode, VolumeMode::Block, "{form}");
        assert_eq!(all(lease.allocated().await).await, [range(MIB, 8192), range(3 * MIB, 4096)], "{form}");
        let source = lease.source().unwrap();
        let mut bytes = [0; 4096];
        windlass::block::BlockSource::read_at(&source, 3 * MIB, &mut bytes).unwrap();
        assert_eq!(bytes, [9; 4096], "{form}");
        let written = lease.file().write_all_at(b"x", 0);
        assert!(written.is_err(), "{form}: its descriptor writes");

        let refused = disks.delete_snapshot(snapshot);
        assert!(matches!(refused, Err(BlocksError::InUse(_))), "{form}: {refused:?}");
        let second = disks.blocks().lease(snapshot).await.unwrap();
        drop(lease);
        assert!(disks.delete_snapshot(snapshot).is_err(), "{form}: another lease is held");
        drop((second, source));
        delete_when_let_go(&disks, snapshot).await;
        let gone = disks.blocks().lease(snapshot).await.map(drop);
        assert!(matches!(gone, Err(BlocksError::Missing(_))), "{form}: {gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_pool_that_is_here_says_that_something_is_missing() {
    for (form, disks) in forms() {
        let (blocks, elsewhere) = (disks.blocks(), PoolId::random());
        let snapshot = SnapshotHandle { pool: elsewhere, snapshot: SnapshotId::random() };
        let volume = VolumeHandle { pool: elsewhere, volume: VolumeId::random() };
        let query = UsageQuery { pool: elsewhere, after: None, limit: 1 };
        let answers = [
            blocks.lease(snapshot).await.map(drop),
            blocks.begin(elsewhere, raw("new"), OnLoss::Delete).await.map(drop),
            blocks.commit(volume, CommitName::AsBegun).await,
            blocks.abort(volume).await,
            blocks.put_export(elsewhere, record(volume, snapshot)).await,
            blocks.last_export(volume, "ab").await.map(drop),
            blocks.usage(query).await.map(drop),
        ];
        for (verb, answer) in answers.into_iter().enumerate() {
            assert!(matches!(&answer, Err(BlocksError::Unavailable(_))), "{form}, verb {verb}: {answer:?}");
        }
        let here = SnapshotHandle { pool: disks.pool_id(), ..snapshot };
        assert!(matches!(blocks.lease(here).await.map(drop), Err(BlocksError::Missing(_))), "{form}");
        let here = VolumeHandle { pool: disks.pool_id(), ..volume };
        assert!(matches!(blocks.commit(here, CommitName::AsBegun).await, Err(BlocksError::Missing(_))), "{form}");
        blocks.abort(here).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_seen_by_nobody_until_it_is_committed_and_its_name_is_claimed() {
    for (form, disks) in forms() {
        let blocks = disks.blocks();
        let target = disks.begin(&raw("restored")).await;
        let volume = target.volume;
        assert_eq!(disks.volumes(), [], "{form}");
        assert_eq!(blocks.find_volume(&name("restored")).await.unwrap(), None, "{form}");
        let second = blocks.begin(disks.pool_id(), raw("restored"), OnLoss::Delete).await.map(drop);
        assert!(matches!(second, Err(BlocksError::Busy(_))), "{form}: {second:?}");
        target.file.write_all_at(&[5; 4096], 0).unwrap();
        drop(target);
        blocks.commit(volume, CommitName::AsBegun).await.unwrap();
        assert_eq!(blocks.find_volume(&name("restored")).await.unwrap(), Some(volume), "{form}");
        let again = blocks.begin(disks.pool_id(), raw("restored"), OnLoss::Delete).await.unwrap();
        assert!(matches!(again, TargetStart::Existing(existing) if existing == volume), "{form}: {again:?}");
        let other =
            blocks.begin(disks.pool_id(), new_volume("restored", 8 * MIB, VolumeMode::Block), OnLoss::Delete).await.map(drop);
        assert!(matches!(other, Err(BlocksError::NameTaken(_))), "{form}: {other:?}");
        // What is committed is no target any more.
        assert!(matches!(blocks.commit(volume, CommitName::AsBegun).await, Err(BlocksError::Missing(_))), "{form}");
        blocks.abort(volume).await.unwrap();
        assert_eq!(disks.volumes().len(), 1, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_committed_only_when_nobody_can_write_to_it_any_more() {
    for (form, disks) in forms() {
        let (blocks, target) = (disks.blocks(), disks.begin(&raw("restored")).await);
        let volume = target.volume;
        let kept: File = target.file.try_clone().unwrap();
        let sink = target.into_sink().unwrap();
        let refused = blocks.commit(volume, CommitName::AsBegun).await;
        assert!(matches!(refused, Err(BlocksError::InUse(_))), "{form}, while its sink is open: {refused:?}");
        drop(sink);
        let refused = blocks.commit(volume, CommitName::Instead(name("other"))).await;
        assert!(matches!(refused, Err(BlocksError::InUse(_))), "{form}, while a copy of its descriptor is open: {refused:?}");
        assert_eq!(disks.volumes(), [], "{form}");
        drop(kept);
        blocks.commit(volume, CommitName::AsBegun).await.unwrap();
        assert_eq!(blocks.find_volume(&name("other")).await.unwrap(), None, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_whose_image_was_never_formatted_has_content_if_anything_was_written_to_it() {
    for (form, disks) in forms() {
        for (text, as_what, written, expected) in [
            ("said and empty", CommitName::AsBegunUnformatted, &b""[..], true),
            ("said and written to", CommitName::AsBegunUnformatted, &b"x"[..], false),
            ("not said", CommitName::AsBegun, &b""[..], false),
        ] {
            let target = disks.begin(&raw(text)).await;
            let volume = target.volume;
            target.file.write_all_at(written, MIB).unwrap();
            drop(target);
            disks.blocks().commit(volume, as_what).await.unwrap();
            let cut = disks.cut(&format!("cut of {text}"), volume);
            let lease = disks.blocks().lease(cut).await.unwrap();
            assert_eq!(lease.snapshot().is_unformatted, expected, "{form}, {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_committed_under_another_name_if_that_is_free() {
    for (form, disks) in forms() {
        let blocks = disks.blocks();
        disks.create(&raw("taken"), &[]).await;
        let claimed = disks.begin(&raw("claimed")).await;
        let volume = disks.begin(&raw("restored")).await.volume;
        let instead = async |text: &str| blocks.commit(volume, CommitName::Instead(name(text))).await;
        let refused = instead("taken").await;
        assert!(matches!(refused, Err(BlocksError::NameTaken(_))), "{form}: {refused:?}");
        let refused = instead("claimed").await;
        assert!(matches!(refused, Err(BlocksError::Busy(_))), "{form}: {refused:?}");
        instead("restored-damaged").await.unwrap();
        assert_eq!(blocks.find_volume(&name("restored-damaged")).await.unwrap(), Some(volume), "{form}");
        assert_eq!(blocks.find_volume(&name("restored")).await.unwrap(), None, "{form}");
        disks.create(&raw("restored"), &[]).await;
        blocks.abort(claimed.volume).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_given_up_or_cut_short_makes_no_volume_and_frees_its_name() {
    for (form, disks) in forms() {
        let blocks = disks.blocks();
        let target = disks.begin(&raw("restored")).await;
        let volume = target.volume;
        drop(target);
        blocks.abort(volume).await.unwrap();
        blocks.abort(volume).await.unwrap();
        let target = disks.begin(&raw("restored")).await;
        let volume = target.volume;
        target.file.set_len(MIB).unwrap();
        drop(target);
        let refused = blocks.commit(volume, CommitName::AsBegun).await;
        assert!(matches!(refused, Err(BlocksError::Size(_))), "{form}: {refused:?}");
        blocks.abort(volume).await.unwrap();
        assert_eq!((disks.volumes(), disks.targets()), (vec![], 0), "{form}");
        let refused =
            blocks.begin(disks.pool_id(), new_volume("large", 1 << 40, VolumeMode::Block), OnLoss::Delete).await.map(drop);
        assert!(matches!(refused, Err(BlocksError::NoSpace(_))), "{form}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_exported_is_recorded_and_tells_what_changed_after_its_snapshot_was_deleted() {
    for (form, disks) in forms() {
        let blocks = disks.blocks();
        let (volume, first) = version(&disks, "data", &[(0, &[1; 4096])]).await;
        let second = disks.cut("second", volume);
        let repository = "ab".repeat(32);
        assert_eq!(blocks.last_export(volume, &repository).await.unwrap(), None, "{form}");
        let record = record(volume, first);
        blocks.put_export(disks.pool_id(), record.clone()).await.unwrap();
        assert_eq!(blocks.last_export(volume, &repository).await.unwrap(), Some(record.clone()), "{form}");
        assert_eq!(blocks.last_export(volume, "another").await.unwrap(), None, "{form}");

        disks.delete_snapshot(first).unwrap();
        assert_eq!(blocks.find_snapshot(&name("cut of data")).await.unwrap(), None, "{form}");
        assert!(matches!(blocks.lease(first).await.map(drop), Err(BlocksError::Missing(_))), "{form}");
        let lease = blocks.lease(second).await.unwrap();
        assert_eq!(all(lease.changed_since(first.snapshot).await).await, [], "{form}: nothing was written between the two");
        // One that nobody built upon is gone.
        let third = disks.cut("third", volume);
        disks.delete_snapshot(third).unwrap();
        let unknown = lease.changed_since(third.snapshot).await.map(drop);
        assert!(matches!(unknown, Err(BlocksError::Missing(_))), "{form}: {unknown:?}");
        // Of another volume nothing can be told.
        let (_, foreign) = version(&disks, "other", &[]).await;
        let unknown = lease.changed_since(foreign.snapshot).await.map(drop);
        assert!(matches!(unknown, Err(BlocksError::Unsupported(_))), "{form}: {unknown:?}");
        let nothing = ExportRecord { volume: VolumeId::random(), snapshot: SnapshotId::random(), ..record };
        let refused = blocks.put_export(disks.pool_id(), nothing).await;
        assert!(matches!(refused, Err(BlocksError::Missing(_))), "{form}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_named_by_its_id_its_name_or_by_being_the_only_one() {
    for (form, disks) in forms() {
        let (blocks, id) = (disks.blocks(), disks.pool_id());
        for text in [String::new(), id.to_string(), id.label(), "default".to_owned()] {
            assert_eq!(blocks.pool(&text).await.unwrap().id, id, "{form}: {text}");
        }
        for text in [PoolId::random().to_string(), "fast".to_owned(), "/var/lib/windlass".to_owned()] {
            let missing = blocks.pool(&text).await;
            assert!(matches!(missing, Err(BlocksError::Missing(_))), "{form}, {text}: {missing:?}");
        }
        let states = blocks.state().await;
        let [PoolState::Open { pool, space, problem: None, .. }] = states.as_slice() else { panic!("{form}: {states:?}") };
        assert_eq!((pool.id, space.total), (id, disks::POOL_BYTES), "{form}");
        assert!(space.available <= space.free && space.free <= space.total, "{form}: {space:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_objects_take_is_told_page_by_page() {
    for (form, disks) in forms() {
        let (volume, snapshot) = version(&disks, "data", &[(0, &[1; 8192])]).await;
        let hidden = disks.begin(&raw("hidden")).await;
        let mut expected = vec![Object::Volume(volume.volume), Object::Snapshot(snapshot.snapshot)];
        expected.sort_unstable();
        let (mut query, mut seen) = (UsageQuery { pool: disks.pool_id(), after: None, limit: 1 }, Vec::new());
        loop {
            let page = disks.blocks().usage(query).await.unwrap();
            assert!(page.objects.iter().all(|usage| usage.allocated == 8192 && usage.extents == 1), "{form}: {page:?}");
            seen.extend(page.objects.iter().map(|usage| usage.object));
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        assert_eq!(seen, expected, "{form}: a hidden target is not listed");
        disks.blocks().abort(hidden.volume).await.unwrap();
    }
}
