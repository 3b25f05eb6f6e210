//! Exports and restores through the Transfers service, over disks without a pool, in this process and in another; and what becomes of
//! them when a node refuses.

#![allow(clippy::unwrap_used, clippy::panic, reason = "called by tests only")]

#[path = "support/disks/mod.rs"]
mod disks;
#[path = "support/disks/pool.rs"]
mod pool_disks;
#[path = "support/served_blocks.rs"]
mod served_blocks;
#[path = "support/transfers.rs"]
mod transfers;
#[path = "support/disks/wire.rs"]
mod wire_disks;

use std::sync::Arc;

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::TransferState;
use pool_disks::PoolDisks;
use tonic::Code;
use transfers::Bench;
use windlass::blocks::BlocksError;
use windlass::blocks::memory::{MemoryBlocks, Verb};
use wire_disks::WireDisks;

test_transfers!(disks::memory());

mod over_a_wire {
    use super::*;

    test_transfers!(Arc::new(WireDisks::over(disks::memory())));
}

mod over_a_wire_and_a_pool {
    use super::*;

    test_transfers!(Arc::new(WireDisks::over(Arc::new(PoolDisks::new()))));
}

/// A bench whose node can be made to fail.
fn bench() -> (MemoryBlocks, Bench) {
    let node = MemoryBlocks::with_capacity(disks::POOL_BYTES);
    (node.clone(), Bench::over(Arc::new(node)))
}

/// The same, in another process.
fn bench_over_a_wire() -> (MemoryBlocks, Bench) {
    let node = MemoryBlocks::with_capacity(disks::POOL_BYTES);
    (node.clone(), Bench::over(Arc::new(WireDisks::over(Arc::new(node)))))
}

fn broken() -> BlocksError {
    BlocksError::Failed("the disk is broken".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_refuses_has_a_code_that_says_what_to_do() {
    for (node, bench) in [bench(), bench_over_a_wire()] {
        each_refusal_has_its_code(node, bench).await;
    }
}

async fn each_refusal_has_its_code(node: MemoryBlocks, bench: Bench) {
    bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    bench.exported(snapshot).await;
    let text = || "so it is".to_owned();
    for (refusal, expected) in [
        (BlocksError::Missing(text()), Code::NotFound),
        (BlocksError::NameTaken(text()), Code::AlreadyExists),
        (BlocksError::Ambiguous(text()), Code::InvalidArgument),
        (BlocksError::Busy(text()), Code::Aborted),
        (BlocksError::NoSpace(text()), Code::ResourceExhausted),
        (BlocksError::InUse(text()), Code::FailedPrecondition),
        (BlocksError::Size(text()), Code::OutOfRange),
        (BlocksError::Unsupported(text()), Code::InvalidArgument),
        (BlocksError::Unavailable(text()), Code::Unavailable),
        (BlocksError::Failed(text()), Code::Internal),
    ] {
        node.fail_next(Verb::Lease, refusal.clone());
        let status = bench.start_export(bench.export(snapshot)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (expected, "snapshot_id: so it is"), "{refusal:?}");
        node.fail_next(Verb::Begin, refusal.clone());
        let status = bench.start_restore(bench.restore("new")).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (expected, "volume_name: so it is"), "{refusal:?}");
    }
    assert_eq!(node.targets(), 0, "hidden targets are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_builds_upon_the_one_before_also_when_its_snapshot_was_deleted() {
    let (node, bench) = bench();
    bench.repository().await;
    let (volume, first) = bench.snapshot().await;
    assert_eq!(result(bench.exported(first).await).mode, "full");
    node.delete_snapshot(first).unwrap();
    node.write(volume, 1 << 20, &[9; 4096]).unwrap();
    let second = node.cut(&disks::name("second"), volume).unwrap();
    let exported = result(bench.exported(second).await);
    assert_eq!((exported.mode.as_str(), exported.data_bytes), ("incremental", 256 << 10), "{exported:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_which_nothing_is_known_before_is_full_and_says_why() {
    for verb in [Verb::LastExport, Verb::ChangedSince] {
        let (node, bench) = bench();
        bench.repository().await;
        let (volume, first) = bench.snapshot().await;
        bench.exported(first).await;
        let second = node.cut(&disks::name("second"), volume).unwrap();
        node.fail_next(verb, broken());
        let exported = result(bench.exported(second).await);
        assert_eq!(exported.mode, "full", "{verb:?}");
        assert!(exported.full_reason.contains("the disk is broken"), "{verb:?}: {}", exported.full_reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_not_recorded_is_made_all_the_same() {
    let (node, bench) = bench();
    let repository = bench.repository().await;
    let (volume, snapshot) = bench.snapshot().await;
    node.fail_next(Verb::PutExport, broken());
    result(bench.exported(snapshot).await);
    assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    let second = node.cut(&disks::name("second"), volume).unwrap();
    assert_eq!(result(bench.exported(second).await).mode, "full", "nothing is recorded to build upon");
}

#[tokio::test(flavor = "multi_thread")]
async fn extents_that_cannot_be_told_fail_an_export() {
    let (node, bench) = bench();
    bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    node.fail_next(Verb::Allocated, broken());
    let ended = bench.exported(snapshot).await;
    assert_eq!((ended.state(), ended.failure_code), (TransferState::Failed, Code::Internal as u32), "{ended:?}");
    assert!(ended.message.ends_with("the disk is broken"), "{}", ended.message);
    node.delete_snapshot(snapshot).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_cannot_be_committed_leaves_nothing() {
    let (node, bench) = bench();
    bench.repository().await;
    let (_, snapshot) = bench.snapshot().await;
    bench.exported(snapshot).await;
    node.fail_next(Verb::Commit, broken());
    let ended = bench.restored(bench.restore("restored")).await;
    assert_eq!((ended.state(), ended.failure_code), (TransferState::Failed, Code::Internal as u32), "{ended:?}");
    assert_eq!(ended.message, "the restored volume cannot be committed: the disk is broken");
    assert_eq!((node.targets(), node.volumes().len()), (0, 1));

    // One that cannot be deleted either stays hidden, and keeps its name.
    node.fail_next(Verb::Commit, broken());
    node.fail_next(Verb::Abort, broken());
    bench.restored(bench.restore("restored")).await;
    assert_eq!((node.targets(), node.volumes().len()), (1, 1));
    let refused = bench.start_restore(bench.restore("restored")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
}

fn result(ended: proto::TransferProgress) -> proto::ExportResult {
    assert_eq!(ended.state(), TransferState::Succeeded, "{}", ended.message);
    ended.export_result.unwrap()
}
