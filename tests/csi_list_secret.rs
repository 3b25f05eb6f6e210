//! ListSnapshots and GetSnapshot with the credentials of a repository: snapshots whose pools are not here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/s3/mod.rs"]
mod s3;

use std::collections::HashMap;
use std::sync::Arc;

use csi_harness::*;
use csi_proto::csi::v1::controller_server::Controller as _;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use csi_proto::windlass::v1 as windlass_proto;
use csi_proto::windlass::v1::transfers_server::Transfers as _;
use futures::StreamExt;
use s3::S3Server;
use tonic::{Code, Request, Status};
use windlass::agent::{AgentLayer, Transfers};
use windlass::node::NodeLayer;
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

/// An agent over a node whose only pool is new, and the node.
async fn elsewhere() -> (AgentLayer<NodeLayer>, Node) {
    let node = Node::start().await;
    let blocks = Arc::new(PoolBlocks::new(node.pools.clone()));
    (AgentLayer::new(node.layer.clone(), blocks, "elsewhere"), node)
}

async fn list(agent: &AgentLayer<NodeLayer>, request: ListSnapshotsRequest) -> Result<Vec<Snapshot>, Status> {
    let listed = agent.list_snapshots(Request::new(request)).await?.into_inner();
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

    let (agent, node) = elsewhere().await;
    let [exported, local] = snapshots;
    let exported_id = exported.snapshot_id.clone();
    let request = || ListSnapshotsRequest { snapshot_id: exported_id.clone(), secrets: secrets.clone(), ..Default::default() };
    assert_eq!(list(&agent, request()).await.unwrap(), std::slice::from_ref(&exported));
    let of_source = ListSnapshotsRequest { source_volume_id: volume, ..request() };
    assert_eq!(list(&agent, of_source).await.unwrap(), std::slice::from_ref(&exported));
    let of_another = ListSnapshotsRequest { source_volume_id: VOLUME_ELSEWHERE.into(), ..request() };
    assert_eq!(list(&agent, of_another).await.unwrap(), []);
    let get = GetSnapshotRequest { snapshot_id: exported.snapshot_id.clone(), secrets: secrets.clone() };
    assert_eq!(agent.get_snapshot(Request::new(get)).await.unwrap().into_inner().snapshot, Some(exported));

    // What it does not hold, its pool may: only the owner says "not found".
    let code = async |request| list(&agent, request).await.map_err(|status| status.code());
    let unknown = Err(Code::Unavailable);
    assert_eq!(code(ListSnapshotsRequest { snapshot_id: local.snapshot_id, ..request() }).await, unknown);
    assert_eq!(code(ListSnapshotsRequest { secrets: secret(&server, "others"), ..request() }).await, unknown);
    assert_eq!(code(ListSnapshotsRequest { secrets: HashMap::new(), ..request() }).await, unknown);
    assert_eq!(
        code(ListSnapshotsRequest { secrets: secret(&server, "nowhere"), ..request() }).await,
        Err(Code::FailedPrecondition)
    );

    let with = |key: &str, value: &str| {
        let mut secrets = secrets.clone();
        secrets.insert(key.to_owned(), value.to_owned());
        ListSnapshotsRequest { secrets, ..request() }
    };
    assert_eq!(code(with("RESTIC_PASSWORD", "wrong")).await, Err(Code::PermissionDenied));
    assert_eq!(code(with("RESTIC_PASSWORD_FILE", "/etc/passwd")).await, Err(Code::InvalidArgument));
    assert_eq!(code(with("RESTIC_REPOSITORY", "/var/lib/repository")).await, Err(Code::InvalidArgument));

    // The node beneath never sees the secrets: it would refuse them, for it serves no repository.
    let request = request();
    let strict =
        AgentLayer::new(node.layer.clone().without_repositories(), Arc::new(PoolBlocks::new(node.pools.clone())), "strict");
    let refused = node.layer.clone().without_repositories().list_snapshots(Request::new(request.clone())).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(list(&strict, request).await.unwrap().len(), 1);
}
