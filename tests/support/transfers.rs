//! What exports and restores must do, whatever form of `Blocks` they stand on: with a repository in a directory, without root, without
//! a socket.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "called by tests only")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::TransferState;
use csi_proto::windlass::v1::transfers_server::Transfers as _;
use futures::StreamExt;
use tonic::{Code, Request, Status};
use windlass::agent::Transfers;
use windlass::repository::{Environment, KdfCost, Location, LockMode, LockOwner, Password, Repository, Snapshot, connect};
use windlass::types::{FsType, NewVolume, PoolId, SnapshotHandle, SnapshotId, VolumeHandle, VolumeMode};

use super::disks::{self, Disks};

/// A test of each of them, over the disks that an expression makes.
#[macro_export]
macro_rules! test_transfers {
    ($disks:expr) => {
        $crate::test_transfers! { $disks;
            a_locked_repository_is_told_by_the_code_of_the_failure_and_waited_for,
            a_restore_takes_the_latest_of_the_volume_that_is_meant_or_none,
            the_lock_of_a_node_that_died_goes_with_the_next_export_of_its_pool,
            what_was_exported_is_restored_byte_for_byte,
            a_larger_volume_ends_in_zeros,
            an_image_of_no_use_on_the_pools_devices_is_not_published,
            an_export_says_whether_it_was_verified,
            what_is_wrong_with_an_export_is_told_at_the_start,
            what_is_wrong_with_a_restore_is_told_at_the_start_and_makes_nothing,
            a_restore_from_a_locked_repository_says_for_whom_it_waits_and_can_be_cancelled,
            a_volume_with_holes_is_kept_under_a_name_that_says_so,
            a_damaged_repository_makes_no_volume_and_frees_the_name,
            a_cancelled_restore_leaves_no_volume,
            a_stopped_service_starts_nothing_and_leaves_nothing_running,
        }
    };
    ($disks:expr; $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                transfers::$name(transfers::Bench::over($disks)).await;
            }
        )*
    };
}

const PASSWORD: &str = "geheim";
const SIZE: u64 = 16 << 20;
/// What the records of a real pool may grow by while something is made and deleted: far less than a volume.
const CATALOGUE: u64 = 1 << 20;

/// Disks with their transfers, and a place for repositories.
pub struct Bench {
    folder: tempfile::TempDir,
    disks: Arc<dyn Disks>,
    transfers: Transfers,
}

/// Bytes that do not compress and do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(next).collect()
}

/// The volume that is exported.
fn new_volume() -> NewVolume {
    disks::new_volume("source", SIZE, VolumeMode::Filesystem(FsType::Ext4))
}

impl Bench {
    pub fn over(disks: Arc<dyn Disks>) -> Self {
        let transfers = Transfers::new(disks.blocks(), "bench");
        Self { folder: tempfile::tempdir().unwrap(), disks, transfers }
    }

    fn repository_path(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn access(&self) -> Option<proto::RepositoryAccess> {
        let location = self.repository_path().display().to_string();
        Some(proto::RepositoryAccess { location, password: PASSWORD.to_owned(), ..Default::default() })
    }

    pub async fn repository(&self) -> Repository {
        let location = Location::Local(self.repository_path());
        let store = connect(&location, &Environment::new()).unwrap();
        Repository::init(store, &Password::new(PASSWORD).unwrap(), KdfCost::TEST).await.unwrap()
    }

    /// A volume with data, holes and zeros in it, and a snapshot of it.
    pub async fn snapshot(&self) -> (VolumeHandle, SnapshotHandle) {
        let (large, zeros, end) = (noise(3 << 20), vec![0; 1 << 20], noise(5000));
        let parts: [(u64, &[u8]); 3] = [(12_288, &large), (6 << 20, &zeros), (SIZE - 5000, &end)];
        let volume = self.disks.create(&new_volume(), &parts).await;
        (volume, self.disks.cut("cut", volume))
    }

    fn volume_names(&self) -> Vec<String> {
        self.disks.volumes().into_iter().map(|(_, name, _)| name).collect()
    }

    pub fn export(&self, snapshot: SnapshotHandle) -> proto::StartExportRequest {
        proto::StartExportRequest {
            snapshot_id: snapshot.to_string(),
            repository: self.access(),
            chunk_size_bytes: 256 << 10,
            ..Default::default()
        }
    }

    pub fn restore(&self, volume: &str) -> proto::StartRestoreRequest {
        proto::StartRestoreRequest {
            repository: self.access(),
            repository_snapshot: "latest".to_owned(),
            volume_name: volume.to_owned(),
            ..Default::default()
        }
    }

    /// The id of a transfer that was started.
    pub async fn start_export(&self, request: proto::StartExportRequest) -> Result<String, Status> {
        Ok(self.transfers.start_export(Request::new(request)).await?.into_inner().transfer_id)
    }

    /// The id of a transfer that was started.
    pub async fn start_restore(&self, request: proto::StartRestoreRequest) -> Result<String, Status> {
        Ok(self.transfers.start_restore(Request::new(request)).await?.into_inner().transfer_id)
    }

    pub async fn exported(&self, snapshot: SnapshotHandle) -> proto::TransferProgress {
        let id = self.start_export(self.export(snapshot)).await.unwrap();
        self.end_of(&id).await
    }

    pub async fn restored(&self, request: proto::StartRestoreRequest) -> proto::TransferProgress {
        let id = self.start_restore(request).await.unwrap();
        self.end_of(&id).await
    }

    /// Follows a transfer; the final state must come last and only once.
    async fn end_of(&self, id: &str) -> proto::TransferProgress {
        let request = proto::WatchTransferRequest { transfer_id: id.to_owned() };
        let stream = self.transfers.watch_transfer(Request::new(request)).await.unwrap().into_inner();
        let states: Vec<_> = stream.map(Result::unwrap).collect().await;
        let (last, before) = states.split_last().unwrap();
        assert!(is_final(last) && !before.iter().any(is_final), "{states:?}");
        last.clone()
    }
}

fn is_final(progress: &proto::TransferProgress) -> bool {
    use TransferState::{Canceled, Failed, Refused, Succeeded};
    matches!(progress.state(), Succeeded | Failed | Canceled | Refused)
}

/// Changes a byte in the midst of every pack.
fn damage_packs(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage_packs(&path);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
}

pub async fn a_locked_repository_is_told_by_the_code_of_the_failure_and_waited_for(bench: Bench) {
    let repository = bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    let held = repository.lock(LockMode::Exclusive).await.unwrap();

    let at_once = proto::StartExportRequest { retry_lock_seconds: Some(0), ..bench.export(snapshot) };
    let started = bench.transfers.start_export(Request::new(at_once)).await.unwrap();
    let ended = bench.end_of(&started.into_inner().transfer_id).await;
    assert_eq!((ended.state(), ended.failure_code), (TransferState::Failed, Code::Aborted as u32), "{ended:?}");
    assert!(ended.message.starts_with("repository: the repository is locked exclusively by "), "{}", ended.message);
    let at_once = proto::StartRestoreRequest { retry_lock_seconds: Some(0), ..bench.restore("new") };
    let refused = bench.transfers.start_restore(Request::new(at_once)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);

    // Without a word it waits, and says for whom.
    let started = bench.transfers.start_export(Request::new(bench.export(snapshot))).await.unwrap();
    let id = started.into_inner().transfer_id;
    let waits = until_it_waits(&bench, &id).await;
    assert!(waits.message.contains("locked exclusively by"), "{waits:?}");
    held.release().await.unwrap();
    let ended = bench.end_of(&id).await;
    assert_eq!((ended.state(), ended.message.as_str()), (TransferState::Succeeded, ""));
}

pub async fn a_restore_takes_the_latest_of_the_volume_that_is_meant_or_none(bench: Bench) {
    let repository = bench.repository().await;
    let (volume, first) = bench.snapshot().await;
    bench.exported(first).await;
    // The newest in the repository is another volume's.
    let stored = repository.snapshots().await.unwrap().remove(0).snapshot;
    let other = Snapshot { paths: vec!["/v-other/volume.img".to_owned()], time: "2999-01-01T00:00:00Z".to_owned(), ..stored };
    let lock = repository.lock(LockMode::Shared).await.unwrap();
    repository.save_snapshot(&other, &lock).await.unwrap();
    lock.release().await.unwrap();

    let asked = |filter: proto::SnapshotFilter, file_path: &str| proto::StartRestoreRequest {
        filter: Some(filter),
        file_path: file_path.to_owned(),
        ..bench.restore("restored")
    };
    let refused = async |request| bench.transfers.start_restore(Request::new(request)).await.unwrap_err();
    let bare = refused(asked(Default::default(), "")).await;
    assert!(bare.code() == Code::InvalidArgument && bare.message().contains("/v-other/volume.img"), "{bare:?}");
    let nobody = proto::SnapshotFilter { hosts: vec!["nobody".to_owned()], ..Default::default() };
    assert_eq!(refused(asked(nobody, "")).await.code(), Code::NotFound);

    let handle = volume.to_string();
    let before = Some(prost_types::Timestamp { seconds: 32_000_000_000, nanos: 0 });
    for (name, filter, path) in [
        ("by-source", proto::SnapshotFilter { source: handle.clone(), ..Default::default() }, String::new()),
        ("by-time", proto::SnapshotFilter { before, ..Default::default() }, String::new()),
        ("by-path", Default::default(), format!("/{handle}/volume.img")),
    ] {
        let request = proto::StartRestoreRequest { volume_name: name.to_owned(), ..asked(filter, &path) };
        let restored = bench.restored(request).await;
        assert_eq!(restored.state(), TransferState::Succeeded, "{name}: {}", restored.message);
    }
}

pub async fn the_lock_of_a_node_that_died_goes_with_the_next_export_of_its_pool(bench: Bench) {
    let repository = bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    // As of a container that is no more, in another boot.
    let dead =
        |pool: &str| LockOwner { hostname: format!("node-1/another-boot.1.2.3/{pool}"), username: "root".to_owned(), process: 1 };
    let mut left = Vec::new();
    for pool in [bench.disks.pool_id(), PoolId::random()] {
        left.push(repository.clone().with_lock_owner(dead(&pool.to_string())).lock(LockMode::Shared).await.unwrap());
    }
    assert_eq!(bench.exported(snapshot).await.state(), TransferState::Succeeded);
    assert!(left[0].check().await.is_err(), "it is still there");
    left[1].check().await.unwrap();
}

pub async fn what_was_exported_is_restored_byte_for_byte(bench: Bench) {
    let repository = bench.repository().await;
    let (volume, snapshot) = bench.snapshot().await;
    let exported = bench.exported(snapshot).await;
    assert_eq!(exported.state(), TransferState::Succeeded, "{}", exported.message);
    let result = exported.export_result.unwrap();
    assert_eq!(result.size_bytes, SIZE);
    assert!(result.new_bytes >= 3 << 20 && result.new_bytes < 5 << 20, "holes and zeros are not stored: {result:?}");

    let stored = repository.find_snapshot(&result.repository_snapshot).await.unwrap().snapshot;
    assert_eq!(stored.hostname, "bench");
    assert_eq!(stored.tags, [format!("handle={snapshot}")]);
    let record = bench.disks.blocks().last_export(volume, &repository.id().to_string()).await.unwrap().unwrap();
    assert_eq!((record.volume, record.snapshot), (volume.volume, snapshot.snapshot));
    assert_eq!(record.repository_snapshot, result.repository_snapshot);

    let restored = bench.restored(bench.restore("restored")).await;
    assert_eq!(restored.state(), TransferState::Succeeded, "{}", restored.message);
    let result = restored.restore_result.unwrap();
    let handle: VolumeHandle = result.volume_id.parse().unwrap();
    let expected = (handle, "restored".to_owned(), VolumeMode::Filesystem(FsType::Ext4));
    assert!(bench.disks.volumes().contains(&expected), "{:?}", bench.disks.volumes());
    assert_eq!(bench.disks.content(bench.disks.cut("again", handle)).await, bench.disks.content(snapshot).await);
}

pub async fn a_larger_volume_ends_in_zeros(bench: Bench) {
    bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    bench.exported(snapshot).await;
    let larger = proto::StartRestoreRequest { capacity_bytes: 2 * SIZE as i64, block: true, ..bench.restore("larger") };
    let restored = bench.restored(larger).await;
    let handle: VolumeHandle = restored.restore_result.unwrap().volume_id.parse().unwrap();
    let content = bench.disks.content(bench.disks.cut("again", handle)).await;
    assert_eq!(content.len() as u64, 2 * SIZE);
    assert_eq!(content[..SIZE as usize], bench.disks.content(snapshot).await);
    assert!(content[SIZE as usize..].iter().all(|&byte| byte == 0));
}

pub async fn an_image_of_no_use_on_the_pools_devices_is_not_published(bench: Bench) {
    bench.repository().await;
    let request = NewVolume { mode: VolumeMode::Block, ..new_volume() };
    // A disk of 512 bytes a block, partitioned.
    let volume = bench.disks.create(&request, &[(512, b"EFI PART")]).await;
    bench.exported(bench.disks.cut("cut", volume)).await;
    let free = bench.disks.free_bytes().await;
    for _ in 0..2 {
        let refused = bench.restored(bench.restore("restored")).await;
        assert_eq!(refused.state(), TransferState::Refused, "{}", refused.message);
        assert!(refused.message.contains("GPT") && refused.message.contains("512"), "{}", refused.message);
        assert_eq!(bench.volume_names(), ["source"]);
        assert!(bench.disks.free_bytes().await + CATALOGUE >= free, "its space is lost");
    }
}

pub async fn an_export_says_whether_it_was_verified(bench: Bench) {
    bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    use proto::ExportVerification::{Decode, Skip, Unspecified};
    for (asked, expected) in [(Unspecified, Decode), (Decode, Decode), (Skip, Skip)] {
        let request = proto::StartExportRequest { verification: asked.into(), ..bench.export(snapshot) };
        let started = bench.transfers.start_export(Request::new(request)).await.unwrap();
        let ended = bench.end_of(&started.into_inner().transfer_id).await;
        assert_eq!(ended.export_result.unwrap().verification(), expected, "{}", ended.message);
    }
}

pub async fn what_is_wrong_with_an_export_is_told_at_the_start(bench: Bench) {
    let (_, snapshot) = bench.snapshot().await;
    let code = async |request| bench.transfers.start_export(Request::new(request)).await.unwrap_err().code();
    // No repository there yet.
    assert_eq!(code(bench.export(snapshot)).await, Code::NotFound);
    bench.repository().await;
    let good = || bench.export(snapshot);
    let access = |change: fn(&mut proto::RepositoryAccess)| {
        let mut access = bench.access().unwrap();
        change(&mut access);
        Some(access)
    };
    let elsewhere = SnapshotHandle { pool: PoolId::random(), ..snapshot };
    for (request, expected) in [
        (proto::StartExportRequest { snapshot_id: String::new(), ..good() }, Code::InvalidArgument),
        (proto::StartExportRequest { snapshot_id: "../../etc".to_owned(), ..good() }, Code::NotFound),
        (
            proto::StartExportRequest {
                snapshot_id: SnapshotHandle { snapshot: SnapshotId::random(), ..snapshot }.to_string(),
                ..good()
            },
            Code::NotFound,
        ),
        (proto::StartExportRequest { snapshot_id: elsewhere.to_string(), ..good() }, Code::Unavailable),
        (proto::StartExportRequest { repository: None, ..good() }, Code::InvalidArgument),
        (proto::StartExportRequest { repository: access(|a| a.location = "sftp:x".to_owned()), ..good() }, Code::InvalidArgument),
        (proto::StartExportRequest { repository: access(|a| a.password.clear()), ..good() }, Code::InvalidArgument),
        (proto::StartExportRequest { repository: access(|a| a.password.push('x')), ..good() }, Code::PermissionDenied),
        (proto::StartExportRequest { chunk_size_bytes: 5, ..good() }, Code::InvalidArgument),
        (proto::StartExportRequest { workers: 100_000, ..good() }, Code::InvalidArgument),
    ] {
        let text = format!("{request:?}");
        assert!(!text.contains(PASSWORD));
        assert_eq!(code(request).await, expected, "{text}");
    }
    let listed = bench.transfers.list_transfers(Request::new(proto::ListTransfersRequest {})).await.unwrap().into_inner();
    assert!(listed.transfers.is_empty(), "what was refused left something: {listed:?}");
}

pub async fn what_is_wrong_with_a_restore_is_told_at_the_start_and_makes_nothing(bench: Bench) {
    bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    let good = || bench.restore("restored");
    let code = async |request| bench.transfers.start_restore(Request::new(request)).await.unwrap_err().code();
    // Nothing was exported yet.
    assert_eq!(code(good()).await, Code::NotFound);
    bench.exported(snapshot).await;
    for (request, expected) in [
        (bench.restore(""), Code::InvalidArgument),
        (bench.restore("source"), Code::AlreadyExists),
        (proto::StartRestoreRequest { repository_snapshot: String::new(), ..good() }, Code::InvalidArgument),
        (proto::StartRestoreRequest { repository_snapshot: "zz".to_owned(), ..good() }, Code::NotFound),
        (proto::StartRestoreRequest { file_path: "/nothing".to_owned(), ..good() }, Code::NotFound),
        (proto::StartRestoreRequest { pool_id: PoolId::random().to_string(), ..good() }, Code::NotFound),
        (proto::StartRestoreRequest { capacity_bytes: 4096, ..good() }, Code::OutOfRange),
        (proto::StartRestoreRequest { capacity_bytes: -1, ..good() }, Code::InvalidArgument),
        (proto::StartRestoreRequest { fs_type: "xfs".to_owned(), ..good() }, Code::InvalidArgument),
        (proto::StartRestoreRequest { fs_type: "ext4".to_owned(), block: true, ..good() }, Code::InvalidArgument),
        (proto::StartRestoreRequest { capacity_bytes: 1 << 40, ..good() }, Code::ResourceExhausted),
    ] {
        let text = format!("{request:?}");
        assert_eq!(code(request).await, expected, "{text}");
    }
    assert_eq!(bench.volume_names(), ["source"]);
    assert_eq!(bench.disks.targets(), 0, "hidden targets are left");
}

/// Follows a transfer until it waits.
async fn until_it_waits(bench: &Bench, id: &str) -> proto::TransferProgress {
    let request = proto::WatchTransferRequest { transfer_id: id.to_owned() };
    let mut states = bench.transfers.watch_transfer(Request::new(request)).await.unwrap().into_inner();
    loop {
        let state = states.next().await.unwrap().unwrap();
        assert!(!is_final(&state), "{state:?}");
        if state.phase == "waiting" {
            return state;
        }
    }
}

pub async fn a_restore_from_a_locked_repository_says_for_whom_it_waits_and_can_be_cancelled(bench: Bench) {
    let repository = bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    bench.exported(snapshot).await;
    let held = repository.lock(LockMode::Exclusive).await.unwrap();
    // The call is answered although the lock is not had.
    let start = async |name| {
        let started = bench.transfers.start_restore(Request::new(bench.restore(name))).await.unwrap();
        started.into_inner().transfer_id
    };
    let (patient, cancelled, taken) = (start("patient").await, start("cancelled").await, start("source").await);
    let waits = until_it_waits(&bench, &patient).await;
    assert!(waits.message.contains("locked exclusively by"), "{waits:?}");
    let cancel = proto::CancelTransferRequest { transfer_id: cancelled.clone() };
    bench.transfers.cancel_transfer(Request::new(cancel)).await.unwrap();
    assert_eq!(bench.end_of(&cancelled).await.state(), TransferState::Canceled);

    held.release().await.unwrap();
    let ended = bench.end_of(&patient).await;
    assert_eq!((ended.state(), ended.message.as_str()), (TransferState::Succeeded, ""));
    // What a start would be refused for is known only now, and has the same code.
    let ended = bench.end_of(&taken).await;
    assert_eq!((ended.state(), ended.failure_code), (TransferState::Failed, Code::AlreadyExists as u32), "{ended:?}");
    let names = bench.volume_names();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(bench.disks.targets(), 0, "hidden targets are left");
}

/// Every pack, in order of size, the largest first.
fn packs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { packs(&path, found) } else { found.push(path) }
    }
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
}

pub async fn a_volume_with_holes_is_kept_under_a_name_that_says_so(bench: Bench) {
    bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    bench.exported(snapshot).await;
    let exported = bench.disks.content(snapshot).await;
    let mut found = Vec::new();
    packs(&bench.repository_path().join("data"), &mut found);
    fs::remove_file(&found[0]).unwrap();

    let strict = bench.restored(bench.restore("restored")).await;
    assert_eq!((strict.state(), strict.failure_code), (TransferState::Failed, Code::DataLoss as u32), "{strict:?}");
    for expected_name in ["restored-damaged", "restored-damaged-2"] {
        let request = proto::StartRestoreRequest { skip_damaged: true, ..bench.restore("restored") };
        let ended = bench.restored(request).await;
        assert_eq!(ended.state(), TransferState::Succeeded, "{}", ended.message);
        let result = ended.restore_result.unwrap();
        assert_eq!(result.volume_name, expected_name);
        assert!(result.hole_bytes > 0 && result.hole_bytes == result.holes.iter().map(|hole| hole.length).sum::<u64>());
        let handle: VolumeHandle = result.volume_id.parse().unwrap();
        assert!(bench.disks.volumes().iter().any(|(volume, name, _)| *volume == handle && name == expected_name));
        let mut rest = exported.clone();
        for hole in &result.holes {
            assert!(hole.reason.contains(&hole.pack) && found[0].ends_with(&hole.pack), "{hole:?}");
            rest[hole.offset as usize..(hole.offset + hole.length) as usize].fill(0);
        }
        let again = bench.disks.cut(&format!("of {expected_name}"), handle);
        assert!(bench.disks.content(again).await == rest && rest != exported);
    }
    // The list of all transfers stays short.
    let listed = bench.transfers.list_transfers(Request::new(proto::ListTransfersRequest {})).await.unwrap().into_inner();
    let results = || listed.transfers.iter().filter_map(|transfer| transfer.restore_result.as_ref());
    assert!(results().count() == 2 && results().all(|result| result.holes.is_empty() && result.hole_bytes > 0));
    assert!(bench.volume_names().iter().all(|name| name != "restored"), "the name is free");
    assert_eq!(bench.disks.targets(), 0, "hidden targets are left");
}

pub async fn a_damaged_repository_makes_no_volume_and_frees_the_name(bench: Bench) {
    bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    bench.exported(snapshot).await;
    let whole = bench.folder.path().join("whole");
    copy_folder(&bench.repository_path(), &whole);
    damage_packs(&bench.repository_path().join("data"));
    // Where the damage is met depends on which pack holds the tree: at the start, or later.
    match bench.transfers.start_restore(Request::new(bench.restore("restored"))).await {
        Ok(started) => {
            let end = bench.end_of(&started.into_inner().transfer_id).await;
            assert_eq!(end.state(), TransferState::Failed);
            assert!(end.message.contains("damaged"), "{}", end.message);
        }
        Err(status) => assert_eq!(status.code(), Code::DataLoss, "{status}"),
    }
    assert_eq!(bench.volume_names(), ["source"]);
    assert_eq!(bench.disks.targets(), 0, "hidden targets are left");

    fs::remove_dir_all(bench.repository_path()).unwrap();
    fs::rename(&whole, bench.repository_path()).unwrap();
    let restored = bench.restored(bench.restore("restored")).await;
    assert_eq!(restored.state(), TransferState::Succeeded, "{}", restored.message);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if path.is_dir() { copy_folder(&path, &target) } else { fs::copy(&path, &target).map(drop).unwrap() }
    }
}

pub async fn a_cancelled_restore_leaves_no_volume(bench: Bench) {
    bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    bench.exported(snapshot).await;
    let started = bench.transfers.start_restore(Request::new(bench.restore("restored"))).await.unwrap().into_inner();
    let cancel = proto::CancelTransferRequest { transfer_id: started.transfer_id.clone() };
    bench.transfers.cancel_transfer(Request::new(cancel.clone())).await.unwrap();
    let end = bench.end_of(&started.transfer_id).await;
    // It may have been quicker than the cancellation.
    let volumes = match end.state() {
        TransferState::Succeeded => 2,
        state => {
            assert_eq!(state, TransferState::Canceled, "{}", end.message);
            1
        }
    };
    assert_eq!(bench.volume_names().len(), volumes);
    assert_eq!(bench.disks.targets(), 0, "hidden targets are left");
    // Cancelling what has ended is fine, cancelling what never was is not.
    bench.transfers.cancel_transfer(Request::new(cancel)).await.unwrap();
    let unknown = proto::CancelTransferRequest { transfer_id: "none".to_owned() };
    assert_eq!(bench.transfers.cancel_transfer(Request::new(unknown)).await.unwrap_err().code(), Code::NotFound);
}

pub async fn a_stopped_service_starts_nothing_and_leaves_nothing_running(bench: Bench) {
    bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    let started = bench.transfers.start_export(Request::new(bench.export(snapshot))).await.unwrap().into_inner();
    bench.transfers.stop().await;
    assert!(is_final(&bench.end_of(&started.transfer_id).await));
    let refused = bench.transfers.start_export(Request::new(bench.export(snapshot))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    // The lease has ended with the transfer.
    disks::delete_when_let_go(&bench.disks, snapshot).await;
}
