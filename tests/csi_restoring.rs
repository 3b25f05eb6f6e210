//! CreateVolume from snapshots whose bytes are in a repository, as a provisioner asks for it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/exporting.rs"]
mod exporting;
#[path = "support/s3/mod.rs"]
mod s3;

use csi_harness::*;
use csi_proto::csi::v1::controller_server::Controller as _;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use csi_proto::windlass::v1::transfers_server::Transfers as _;
use csi_proto::windlass::v1::{CancelTransferRequest, TransferState};
use exporting::{Bench, Secret, class};
use s3::Trouble;
use tonic::{Code, Request, Status};
use windlass::mount::memory::Verb;

async fn create(bench: &Bench, request: CreateVolumeRequest, deadline: &str) -> Result<Volume, Status> {
    let mut request = Request::new(request);
    request.metadata_mut().insert("grpc-timeout", deadline.parse().unwrap());
    Ok(bench.agent.create_volume(request).await?.into_inner().volume.unwrap())
}

/// A request for a raw volume of the content of a snapshot.
fn from(name: &str, snapshot: &str, secrets: &Secret) -> CreateVolumeRequest {
    CreateVolumeRequest {
        volume_content_source: from_snapshot(snapshot),
        secrets: secrets.clone(),
        ..new_volume(name, block(Mode::SingleNodeWriter))
    }
}

/// A snapshot that only a repository has, and what its volume held.
async fn dropped(bench: &Bench) -> (Snapshot, Vec<u8>) {
    bench.repository("exports").await;
    let volume = bench.written_volume("data").await;
    let before = bench.content(&volume);
    let snapshot = bench.until_ready("cut", &volume, class("existing", "drop"), &bench.secret("exports")).await;
    bench.until_idle().await;
    bench.write(&volume, 4096, &[9; 4096]);
    (snapshot, before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_from_a_snapshot_without_a_local_copy_is_restored_and_answered_like_any_other() {
    let bench = Bench::start().await;
    let (snapshot, content) = dropped(&bench).await;
    let secrets = bench.secret("exports");
    let request = from("restored", &snapshot.snapshot_id, &secrets);
    let volume = create(&bench, request.clone(), "60S").await.unwrap();
    assert_eq!(volume.content_source, from_snapshot(&snapshot.snapshot_id));
    assert_eq!(volume.capacity_bytes, SIZE);
    assert!(bench.content(&volume.volume_id) == content, "its content is not that of the cut");
    assert_eq!(create(&bench, request.clone(), "60S").await.unwrap(), volume, "a repeated call");
    // Also when neither the repository nor its secret is there any more.
    let again = CreateVolumeRequest { secrets: Default::default(), ..request.clone() };
    assert_eq!(create(&bench, again, "60S").await.unwrap(), volume);
    let other = CreateVolumeRequest { capacity_range: bytes(2 * SIZE, 0), ..request.clone() };
    assert_eq!(create(&bench, other, "60S").await.unwrap_err().code(), Code::AlreadyExists);

    let larger = CreateVolumeRequest { name: "larger".to_owned(), capacity_range: bytes(2 * SIZE, 0), ..request.clone() };
    let larger = create(&bench, larger, "60S").await.unwrap();
    let bytes_of = bench.content(&larger.volume_id);
    assert_eq!((larger.capacity_bytes, bytes_of.len() as i64), (2 * SIZE, 2 * SIZE));
    assert!(bytes_of.starts_with(&content) && bytes_of[content.len()..].iter().all(|byte| *byte == 0));
    let smaller = CreateVolumeRequest { name: "smaller".to_owned(), capacity_range: bytes(SIZE / 2, 0), ..request };
    assert_eq!(create(&bench, smaller, "60S").await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(bench.node.pools[0].status().unwrap().restores, 0, "a hidden target is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_pool_that_is_not_here_is_restored_from_the_repository() {
    let source = Bench::start().await;
    let (snapshot, content) = dropped(&source).await;
    let secrets = source.secret("exports");
    let elsewhere = Bench::start().await;
    let request = from("restored", &snapshot.snapshot_id, &secrets);
    let waiting = CreateVolumeRequest { secrets: Default::default(), ..request.clone() };
    let refused = create(&elsewhere, waiting, "60S").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "without a repository its owner is waited for: {refused}");
    let volume = create(&elsewhere, request, "60S").await.unwrap();
    assert!(elsewhere.content(&volume.volume_id) == content, "its content is not that of the cut");
    // The snapshot's own pool still has the last word.
    let snapshot = snapshot.snapshot_id;
    source.delete(&snapshot, &secrets).await.unwrap();
    let gone = create(&source, from("late", &snapshot, &secrets), "60S").await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_copy_is_used_while_there_is_one() {
    let bench = Bench::start().await;
    bench.repository("exports").await;
    let volume = bench.written_volume("data").await;
    let secrets = bench.secret("exports");
    let snapshot = bench.until_ready("cut", &volume, class("existing", "keep"), &secrets).await;
    bench.server.misbehaves(|_, _| Some(Trouble::Answers(403, "AccessDenied")));
    let copy = create(&bench, from("copy", &snapshot.snapshot_id, &secrets), "60S").await.unwrap();
    assert!(bench.content(&copy.volume_id) == bench.content(&volume));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_held_to_just_under_its_deadline_and_the_next_one_finds_the_same_restore() {
    let mut bench = Bench::start().await;
    let (snapshot, content) = dropped(&bench).await;
    let secrets = bench.secret("exports");
    bench.server.misbehaves(|_, request| {
        (request.method() == "GET" && request.uri().path().contains("/data/")).then_some(Trouble::Stalls)
    });
    let request = from("restored", &snapshot.snapshot_id, &secrets);
    let mut texts = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        let running = create(&bench, request.clone(), "2S").await.unwrap_err();
        assert_eq!(running.code(), Code::Aborted, "{running}");
        assert!(begun.elapsed().as_millis() < 2000, "{:?}", begun.elapsed());
        texts.insert(running.message().to_owned());
    }
    assert_eq!(texts.len(), 1, "an event for each new text: {texts:?}");
    assert_eq!(bench.running_transfers().await, 1, "one restore, however often it is asked for");
    let hidden: Vec<_> = bench.node.pools[0].volumes().unwrap().iter().map(|volume| volume.name.to_string()).collect();
    assert_eq!(hidden, ["data"], "hidden until it is whole");
    // As of an agent that dies: what it had begun is undone, and begun anew.
    bench.restart_agent().await;
    bench.server.behaves();
    let volume = create(&bench, request, "60S").await.unwrap();
    assert!(bench.content(&volume.volume_id) == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_a_restored_volume_that_was_deleted_is_free_for_another_restore() {
    let bench = Bench::start().await;
    let (snapshot, content) = dropped(&bench).await;
    let request = from("restored", &snapshot.snapshot_id, &bench.secret("exports"));
    for _ in 0..2 {
        // Nobody waits for its end, so the layer below is who tells of it.
        assert_eq!(create(&bench, request.clone(), "1n").await.unwrap_err().code(), Code::Aborted);
        bench.until_idle().await;
        let volume = create(&bench, request.clone(), "1n").await.unwrap();
        assert!(bench.content(&volume.volume_id) == content);
        let gone = DeleteVolumeRequest { volume_id: volume.volume_id, ..Default::default() };
        bench.agent.delete_volume(Request::new(gone)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_says_why_leaves_nothing_and_is_begun_anew() {
    let bench = Bench::start().await;
    let (snapshot, content) = dropped(&bench).await;
    let good = bench.secret("exports");
    let mut bad = good.clone();
    bad.insert("RESTIC_PASSWORD".to_owned(), "canary-wrong".to_owned());
    let request = |secrets: &Secret| from("restored", &snapshot.snapshot_id, secrets);
    for _ in 0..2 {
        let refused = create(&bench, request(&bad), "60S").await.unwrap_err();
        assert!(refused.code() == Code::PermissionDenied && !refused.message().contains("canary"), "{refused}");
    }
    bench.repository("another").await;
    let refused = create(&bench, request(&bench.secret("another")), "60S").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "a repository never says that a snapshot does not exist: {refused}");
    let without = create(&bench, request(&Secret::new()), "60S").await.unwrap_err();
    assert!(without.code() == Code::FailedPrecondition && without.message().contains("provisioner secret"), "{without}");
    assert_eq!(bench.node.pools[0].status().unwrap().restores, 0);
    let volume = create(&bench, request(&good), "60S").await.unwrap();
    assert!(bench.content(&volume.volume_id) == content);
}

/// A snapshot of a volume made for a file system, which only a repository has.
async fn of_never_staged(bench: &Bench, name: &str, written: Option<(u64, &[u8])>) -> Snapshot {
    let volume = bench.node.volume(name, mount("ext4", Mode::SingleNodeWriter)).await;
    if let Some((offset, bytes)) = written {
        // Behind the catalogue's back, which says that the volume holds nothing.
        bench.write(&volume, offset, bytes);
    }
    let snapshot = bench.until_ready(&format!("{name}-cut"), &volume, class("existing", "drop"), &bench.secret("exports")).await;
    bench.until_idle().await;
    snapshot
}

fn file_system_from(name: &str, snapshot: &Snapshot, secrets: &Secret) -> CreateVolumeRequest {
    CreateVolumeRequest {
        volume_capabilities: vec![mount("ext4", Mode::SingleNodeWriter)],
        ..from(name, &snapshot.snapshot_id, secrets)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_restored_from_one_that_was_never_used_is_formatted_when_it_is_staged() {
    let bench = Bench::start().await;
    bench.repository("exports").await;
    let snapshot = of_never_staged(&bench, "unused", None).await;
    let restored = create(&bench, file_system_from("restored", &snapshot, &bench.secret("exports")), "60S").await.unwrap();
    let staging = bench.node.staging("restored");
    for _ in 0..2 {
        bench.node.stage(&restored.volume_id, &staging, mount("ext4", Mode::SingleNodeWriter)).await.unwrap();
    }
    assert_eq!(bench.node.mounter.count(Verb::MakeFileSystem), 1, "file systems made");

    // And so is one that is restored from what was restored and not used either.
    let again = create(&bench, file_system_from("again", &snapshot, &bench.secret("exports")), "60S").await.unwrap();
    let class = class("existing", "drop");
    let second = bench.until_ready("second-cut", &again.volume_id, class, &bench.secret("exports")).await;
    bench.until_idle().await;
    let last = create(&bench, file_system_from("last", &second, &bench.secret("exports")), "60S").await.unwrap();
    bench.node.stage(&last.volume_id, &bench.node.staging("last"), mount("ext4", Mode::SingleNodeWriter)).await.unwrap();
    assert_eq!(bench.node.mounter.count(Verb::MakeFileSystem), 2, "file systems made");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_says_falsely_that_its_volume_was_never_formatted_is_never_formatted() {
    let bench = Bench::start().await;
    bench.repository("exports").await;
    let snapshot = of_never_staged(&bench, "forged", Some((SIZE as u64 - 1, b"x"))).await;
    let restored = create(&bench, file_system_from("restored", &snapshot, &bench.secret("exports")), "60S").await.unwrap();
    assert_eq!(bench.content(&restored.volume_id).last(), Some(&b'x'));
    let capability = mount("ext4", Mode::SingleNodeWriter);
    refused(bench.node.stage(&restored.volume_id, &bench.node.staging("restored"), capability).await, Code::FailedPrecondition);
    assert_eq!(bench.node.mounter.count(Verb::MakeFileSystem), 0, "file systems made");
}

/// From now on whoever reads packs while there is a hidden target meets this. Before, it is the image that is looked for.
fn hidden_meets(bench: &Bench, trouble: Trouble) {
    let pool = bench.node.pools[0].clone();
    bench.server.misbehaves(move |_, request| {
        let is_data = request.method() == "GET" && request.uri().path().contains("/data/");
        (is_data && pool.status().unwrap().restores > 0).then_some(trouble)
    });
}

/// Waits until a hidden target is there.
async fn until_hidden(bench: &Bench) {
    let begun = std::time::Instant::now();
    while bench.node.pools[0].status().unwrap().restores == 0 {
        assert!(begun.elapsed().as_secs() < 120, "{:?}", bench.transfers().await);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stop_of_the_agent_interrupts_is_kept_for_the_next_call_and_what_fails_for_good_is_not() {
    let mut bench = Bench::start().await;
    let (snapshot, content) = dropped(&bench).await;
    let request = from("restored", &snapshot.snapshot_id, &bench.secret("exports"));
    let left = |bench: &Bench| {
        let status = bench.node.pools[0].status().unwrap();
        (status.restores, status.kept_restores)
    };
    for is_final in [true, false] {
        hidden_meets(&bench, Trouble::Stalls);
        assert_eq!(create(&bench, request.clone(), "1n").await.unwrap_err().code(), Code::Aborted);
        until_hidden(&bench).await;
        bench.restart_agent().await;
        assert_eq!(left(&bench), (0, 1));
        if is_final {
            hidden_meets(&bench, Trouble::Answers(403, "AccessDenied"));
            let denied = create(&bench, request.clone(), "60S").await.unwrap_err();
            assert_eq!((denied.code(), left(&bench)), (Code::PermissionDenied, (0, 0)), "{denied}");
        }
        bench.server.behaves();
    }
    let volume = create(&bench, request, "60S").await.unwrap();
    assert!(bench.content(&volume.volume_id) == content);
    assert_eq!(left(&bench), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_somebody_cancels_is_not_kept() {
    let bench = Bench::start().await;
    let (snapshot, _) = dropped(&bench).await;
    hidden_meets(&bench, Trouble::Stalls);
    let request = from("restored", &snapshot.snapshot_id, &bench.secret("exports"));
    assert_eq!(create(&bench, request, "1n").await.unwrap_err().code(), Code::Aborted);
    until_hidden(&bench).await;
    let running = bench.transfers().await.into_iter().find(|one| one.state() == TransferState::Running).unwrap();
    let cancel = CancelTransferRequest { transfer_id: running.transfer_id };
    bench.agent.transfers().cancel_transfer(Request::new(cancel)).await.unwrap();
    bench.until_idle().await;
    let status = bench.node.pools[0].status().unwrap();
    assert_eq!((status.restores, status.kept_restores), (0, 0));
}
