#![cfg(feature = "root-tests")]
//! Blocks over a wire and over pools on real XFS and Btrfs: transfers end as in one process, and what an agent leaves behind is deleted from
//! the disk. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/disks/mod.rs"]
mod disks;
#[path = "support/disks/pool.rs"]
mod pool_disks;
#[path = "support/root_support/mod.rs"]
mod root_support;
#[path = "support/served_blocks.rs"]
mod served_blocks;
#[path = "support/transfers.rs"]
mod transfers;
#[path = "support/disks/wire.rs"]
mod wire_disks;

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use disks::{Disks, delete_when_let_go, new_volume};
use pool_disks::PoolDisks;
use root_support::Sandbox;
use served_blocks::ServedBlocks;
use windlass::blocks::{Blocks, BlocksError, CommitName, TargetStart};
use windlass::mount::image::ImageFileSystem;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::reflink::{create_pool, open_pool};
use windlass::types::poll::{self, Patience};
use windlass::types::{FsType, OnLoss, PoolId, SnapshotHandle, VolumeHandle, VolumeMode};
use wire_disks::WireDisks;

const MIB: u64 = 1 << 20;

/// A real pool. It is closed before its image is taken down.
struct RealDisks {
    disks: PoolDisks,
    directory: PathBuf,
    _image: ImageFileSystem,
    _sandbox: Sandbox,
}

impl RealDisks {
    fn on(fs_type: FsType) -> Self {
        let sandbox = Sandbox::new();
        let image = sandbox.pool(fs_type);
        let directory = image.directory().join("pool");
        create_pool(&directory).unwrap();
        let pool = open_pool(&directory, Arc::new(NothingToHold)).unwrap();
        Self { disks: PoolDisks::over(pool), directory, _image: image, _sandbox: sandbox }
    }

    /// Files with the bytes of volumes and snapshots.
    fn files(&self) -> BTreeSet<PathBuf> {
        fn beneath(directory: &Path, found: &mut BTreeSet<PathBuf>) {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() && !path.is_symlink() {
                    true => beneath(&path, found),
                    false => drop(found.insert(path)),
                }
            }
        }
        let mut found = BTreeSet::new();
        beneath(&self.directory, &mut found);
        found.retain(|path| !path.to_string_lossy().contains("catalogue"));
        found
    }
}

impl Disks for RealDisks {
    fn blocks(&self) -> Arc<dyn Blocks> {
        self.disks.blocks()
    }

    fn pool_id(&self) -> PoolId {
        self.disks.pool_id()
    }

    fn cut(&self, name: &str, source: VolumeHandle) -> SnapshotHandle {
        self.disks.cut(name, source)
    }

    fn delete_snapshot(&self, snapshot: SnapshotHandle) -> Result<(), BlocksError> {
        self.disks.delete_snapshot(snapshot)
    }

    fn volumes(&self) -> Vec<(VolumeHandle, String, VolumeMode)> {
        self.disks.volumes()
    }

    fn targets(&self) -> usize {
        self.disks.targets()
    }

    fn kept(&self) -> usize {
        self.disks.kept()
    }

    fn pass(&self, time: Duration) {
        self.disks.pass(time);
    }
}

mod transfers_over_a_wire_and_xfs {
    use super::*;

    test_transfers!(Arc::new(WireDisks::over(Arc::new(RealDisks::on(FsType::Xfs)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reads_writes_and_is_forgotten_on_real_disks() {
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let real = Arc::new(RealDisks::on(fs_type));
        let disks: Arc<dyn Disks> = Arc::clone(&real) as _;
        let raw = |text: &str| new_volume(text, 4 * MIB, VolumeMode::Block);
        let volume = disks.create(&raw("data"), &[(0, &[7; 8192]), (2 * MIB, &[9; 4096])]).await;
        let snapshot = disks.cut("cut", volume);
        let files = real.files();
        let node = ServedBlocks::over(disks.blocks());
        let agent = node.client();

        // What is read is what was cut, by a descriptor that writes nothing.
        let lease = agent.lease(snapshot).await.unwrap();
        let mut bytes = [0; 4096];
        lease.file().read_exact_at(&mut bytes, 2 * MIB).unwrap();
        assert_eq!(bytes, [9; 4096], "{fs_type}");
        assert!(lease.file().write_all_at(b"x", 0).is_err(), "{fs_type}");
        let ranges = lease.allocated().await.unwrap();
        let read = tokio::task::spawn_blocking(|| ranges.map(|range| range.unwrap().into()).collect::<Vec<(u64, u64)>>());
        assert_eq!(read.await.unwrap(), [(0, 8192), (2 * MIB, 4096)], "{fs_type}");

        // A target is committed once nobody can write to it, mapped or not.
        let TargetStart::Target(target) = agent.begin(disks.pool_id(), raw("new"), OnLoss::Delete).await.unwrap() else {
            panic!()
        };
        target.file.write_all_at(&[5; 4096], MIB).unwrap();
        let volume = target.volume;
        let refused = agent.commit(volume, CommitName::AsBegun).await;
        assert!(matches!(refused, Err(BlocksError::InUse(_))), "{fs_type}: {refused:?}");
        drop(target);
        agent.commit(volume, CommitName::AsBegun).await.unwrap();
        let content = disks.content(disks.cut("look", volume)).await;
        assert_eq!(content[MIB as usize..MIB as usize + 4096], [5; 4096], "{fs_type}");

        // One that goes away in the midst of writing leaves no file of it.
        let TargetStart::Target(target) = agent.begin(disks.pool_id(), raw("half"), OnLoss::Delete).await.unwrap() else {
            panic!()
        };
        target.file.write_all_at(&[1; 65536], 0).unwrap();
        drop((agent, lease));
        let looking = Arc::clone(&real);
        let patience = Patience { limit: Duration::from_secs(60), every: Duration::from_millis(20) };
        let question = move || poll::until(patience, || Ok::<_, ()>((looking.targets() == 0).then_some(())));
        assert_eq!(tokio::task::spawn_blocking(question).await.unwrap(), Ok(Some(())), "{fs_type}");
        drop(target);
        delete_when_let_go(&disks, disks.blocks().find_snapshot(&disks::name("look")).await.unwrap().unwrap()).await;
        let names: BTreeSet<String> = disks.volumes().into_iter().map(|(_, name, _)| name).collect();
        assert_eq!(names, ["data", "new"].map(str::to_owned).into(), "{fs_type}");
        assert_eq!(real.files().len(), files.len() + 1, "{fs_type}: {:?}", real.files());
        delete_when_let_go(&disks, snapshot).await;
        node.stop().await;
    }
}
