//! ListSnapshots and GetSnapshot with the credentials of a repository: snapshots whose pools are not here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

mod csi_harness;
mod s3;

use std::collections::HashMap;
use std::sync::Arc;

use csi_harness::*;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use csi_proto::windlass::v1 as windlass_proto;
use csi_proto::windlass::v1::transfers_server::Transfers as _;
use futures::StreamExt;
use s3::S3Server;
use tonic::{Code, Request, Status};
use windlass::agent::{RepositoryWitness, Transfers};
use windlass::mount::memory::MemoryMounter;
use windlass::node::blocks::PoolBlocks;
use windlass::repository::{KdfCost, Password, Repository, connect};

const PASSWORD: &str = "geheim";

/// The Secret of a repository.
fn secret(server: &S3Server, prefix: &str) -> HashMap<String, String> {
    let location = server.location(prefix).to_string();
    let keys = [("RESTIC_REPOSITORY", location.as_str()), ("RESTIC_PASSWORD", PASSWORD)];
    keys.into_iter().chain(s3::CREDENTIALS).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

async fn repository(server: &S3Server, prefix: &str) {
    let store = connect(&server.location(prefix), &server.credentials()).unwrap();
    Repository::init(store, &Password::new(PASSWORD).unwrap(), KdfCost::TEST).await.unwrap();
}

/// Exports a snapshot of `node` to the repository of `secret`.
async fn export(node: &Node, snapshot: &str, mut secret: HashMap<String, String>) {
    let transfers = Transfers::new(Arc::new(PoolBlocks::new(node.pools.clone())), "bench");
    let repository = windlass_proto::RepositoryAccess {
        location: secret.remove("RESTIC_REPOSITORY").unwrap(),
        password: secret.remove("RESTIC_PASSWORD").unwrap(),
        environment: secret.into_iter().collect(),
        cloud_identity: false,
    };
    let request = windlass_proto::StartExportRequest {
        snapshot_id: snapshot.to_owned(),
        repository: Some(repository),
        ..Default::default()
    };
    let transfer_id = transfers.start_export(Request::new(request)).await.unwrap().into_inner().transfer_id;
    let states = transfers.watch_transfer(Request::new(windlass_proto::WatchTransferRequest { transfer_id })).await.unwrap();
    let last = states.into_inner().map(Result::unwrap).fold(None, async |_, state| Some(state)).await.unwrap();
    assert_eq!(last.state(), windlass_proto::TransferState::Succeeded, "{}", last.message);
}

/// A node whose only pool is new.
async fn elsewhere() -> Node {
    let mounter = Arc::new(MemoryMounter::new());
    let pools = vec![pool(&mounter, 1 << 30)];
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let boot_id = windlass::mount::boot_id().unwrap();
    Node::over(directory, mounter, pools, &boot_id, "csi.sock", |layer| layer.with_witness(Arc::new(RepositoryWitness))).await
}

async fn list(node: &Node, request: ListSnapshotsRequest) -> Result<Vec<Snapshot>, Status> {
    let listed = node.controller.clone().list_snapshots(request).await?.into_inner();
    assert_eq!(listed.next_token, "");
    Ok(listed.entries.into_iter().map(|entry| entry.snapshot.unwrap()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_snapshot_is_listed_where_its_pool_never_was_to_who_brings_the_repository_s_secret() {
    let server = S3Server::start().await;
    for prefix in ["exports", "others"] {
        repository(&server, prefix).await;
    }
    let secrets = secret(&server, "exports");
    let source = Node::start().await;
    let volume = source.volume("a", block(Mode::SingleNodeWriter)).await;
    let snapshots = [source.snapshot("first", &volume).await.unwrap(), source.snapshot("second", &volume).await.unwrap()];
    export(&source, &snapshots[0].snapshot_id, secrets.clone()).await;

    let node = elsewhere().await;
    let [exported, local] = snapshots;
    let request = ListSnapshotsRequest { snapshot_id: exported.snapshot_id.clone(), secrets, ..Default::default() };
    assert_eq!(list(&node, request.clone()).await.unwrap(), std::slice::from_ref(&exported));
    let of_source = ListSnapshotsRequest { source_volume_id: volume, ..request.clone() };
    assert_eq!(list(&node, of_source).await.unwrap(), std::slice::from_ref(&exported));
    let of_another = ListSnapshotsRequest { source_volume_id: VOLUME_ELSEWHERE.into(), ..request.clone() };
    assert_eq!(list(&node, of_another).await.unwrap(), []);
    let get = GetSnapshotRequest { snapshot_id: exported.snapshot_id.clone(), secrets: request.secrets.clone() };
    assert_eq!(node.controller.clone().get_snapshot(get).await.unwrap().into_inner().snapshot, Some(exported));

    // What it does not hold, its pool may: only the owner says "not found".
    let code = async |request| list(&node, request).await.map_err(|status| status.code());
    let unknown = Err(Code::Unavailable);
    assert_eq!(code(ListSnapshotsRequest { snapshot_id: local.snapshot_id, ..request.clone() }).await, unknown);
    assert_eq!(code(ListSnapshotsRequest { secrets: secret(&server, "others"), ..request.clone() }).await, unknown);
    assert_eq!(code(ListSnapshotsRequest { secrets: HashMap::new(), ..request.clone() }).await, unknown);
    assert_eq!(
        code(ListSnapshotsRequest { secrets: secret(&server, "nowhere"), ..request.clone() }).await,
        Err(Code::FailedPrecondition)
    );

    let with = |key: &str, value: &str| {
        let mut secrets = request.secrets.clone();
        secrets.insert(key.to_owned(), value.to_owned());
        ListSnapshotsRequest { secrets, ..request.clone() }
    };
    assert_eq!(code(with("RESTIC_PASSWORD", "wrong")).await, Err(Code::PermissionDenied));
    assert_eq!(code(with("RESTIC_PASSWORD_FILE", "/etc/passwd")).await, Err(Code::InvalidArgument));
    assert_eq!(code(with("RESTIC_REPOSITORY", "/var/lib/repository")).await, Err(Code::InvalidArgument));
}
