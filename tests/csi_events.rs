//! What people are told of snapshots that are exported and of volumes that are restored: an agent over a node with a pool in memory, a store of
//! S3's protocol, and an API server in this process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/api_server.rs"]
mod api_server;
#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/exporting.rs"]
mod exporting;
#[path = "support/s3/mod.rs"]
mod s3;

use std::sync::Arc;

use api_server::{ApiServer, Manner};
use csi_harness::*;
use csi_proto::csi::v1::controller_server::Controller as _;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use exporting::{Bench, Class, class};
use tonic::Request;
use windlass::k8s::{EventPublisher, Pace};

/// Parameters that the sidecars add.
fn named(names: &[(&str, &str)]) -> Class {
    names.iter().map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), (*value).to_owned())).collect()
}

fn claim(name: &str) -> Class {
    named(&[("pvc/name", name), ("pvc/namespace", "shop"), ("pv/name", "pvc-1")])
}

fn snapshot_class(local_copy: &str) -> Class {
    let names =
        [("volumesnapshot/name", "nightly"), ("volumesnapshot/namespace", "shop"), ("volumesnapshotcontent/name", "content-1")];
    named(&names).into_iter().chain(class("existing", local_copy)).collect()
}

/// A bench whose agent tells the server, and a volume of the claim `data`.
async fn told(server: &ApiServer) -> (Bench, String, EventPublisher) {
    let mut bench = Bench::start().await;
    let pace = Pace { call: std::time::Duration::from_secs(2), ..Pace::default() };
    let publisher = EventPublisher::start(server.cluster(), "node-1", pace);
    bench.agent = bench.agent.clone().with_events(Arc::new(publisher.clone()));
    bench.repository("exports").await;
    let request = CreateVolumeRequest { parameters: claim("data"), ..new_volume("pvc-1", block(Mode::SingleNodeWriter)) };
    let volume = bench.node.create(request).await.unwrap().volume_id;
    bench.write(&volume, 4096, &[7; 20_000]);
    (bench, volume, publisher)
}

/// What was told about an object, once the last of it is this.
async fn until_told(server: &ApiServer, kind: &str, name: &str, last: &str) -> Vec<(String, String)> {
    let what = format!("{kind} {name} is told {last}");
    server.until(&what, |server| server.told(kind, name).last().is_some_and(|(reason, _)| reason == last)).await;
    server.told(kind, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_and_a_restore_are_told_on_the_objects_that_they_concern() {
    let server = ApiServer::new();
    server.has_uid("/api/v1/namespaces/shop/persistentvolumeclaims/data", "uid-data");
    let (bench, volume, _publisher) = told(&server).await;
    let secrets = bench.secret("exports");
    let snapshot = bench.until_ready("snapshot-1", &volume, snapshot_class("drop"), &secrets).await;
    for (kind, name) in [("VolumeSnapshot", "nightly"), ("VolumeSnapshotContent", "content-1")] {
        let told = until_told(&server, kind, name, "ExportFinished").await;
        assert_eq!(told.iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>(), ["ExportStarted", "ExportFinished"]);
        assert!(told[1].1.contains(" are in the repository as snapshot ") && told[1].1.contains(": full ("), "{told:?}");
    }
    let on_claim = until_told(&server, "PersistentVolumeClaim", "data", "ExportFinished").await;
    assert!(on_claim.iter().all(|(_, text)| text.starts_with("VolumeSnapshot nightly: ")), "{on_claim:?}");
    let about = server.events().into_iter().find(|event| event["involvedObject"]["kind"] == "PersistentVolumeClaim").unwrap();
    assert_eq!((&about["involvedObject"]["uid"], &about["reportingInstance"]), (&"uid-data".into(), &"node-1".into()));

    bench.until_idle().await;
    let mut request = Request::new(CreateVolumeRequest {
        parameters: claim("restored"),
        volume_content_source: from_snapshot(&snapshot.snapshot_id),
        secrets: secrets.clone(),
        ..new_volume("pvc-2", block(Mode::SingleNodeWriter))
    });
    request.metadata_mut().insert("grpc-timeout", "60S".parse().unwrap());
    bench.agent.create_volume(request).await.unwrap();
    let told = until_told(&server, "PersistentVolumeClaim", "restored", "RestoreFinished").await;
    assert_eq!(told[0].0, "RestoreStarted");
    assert!(told[1].1.contains("is restored and verified"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_by_the_text_of_the_status_counted_and_without_a_secret() {
    let server = ApiServer::new();
    let (bench, volume, publisher) = told(&server).await;
    let mut secrets = bench.secret("exports");
    secrets.insert("RESTIC_PASSWORD".to_owned(), "canary-password".to_owned());
    let refused = bench.until_refused("snapshot-1", &volume, snapshot_class("keep"), &secrets).await;
    let told = until_told(&server, "VolumeSnapshot", "nightly", "ExportFailed").await;
    assert_eq!(told.last().unwrap().1, refused.message());
    // The next attempts, which the sidecar's calls begin when their pause is over.
    let counted = |server: &ApiServer| {
        let events = server.events();
        let mut failures = events.iter().filter(|event| event["reason"] == "ExportFailed" && event["type"] == "Warning");
        failures.all(|event| event["count"].as_u64() >= Some(2)) && events.len() >= 6
    };
    while !counted(&server) {
        bench.until_refused("snapshot-1", &volume, snapshot_class("keep"), &secrets).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(server.events().len(), 6, "started and failed, on each of three objects, each one object");

    // Mended, it is told that it is done, and nothing that opens anything is told to anybody.
    let good = bench.secret("exports");
    bench.until_ready("snapshot-1", &volume, snapshot_class("keep"), &good).await;
    until_told(&server, "VolumeSnapshotContent", "content-1", "ExportFinished").await;
    publisher.close().await;
    let asked = format!("{:?}", server.asked());
    for secret in secrets.into_iter().chain(good).filter(|(key, _)| key != "RESTIC_REPOSITORY") {
        assert!(!asked.contains(&secret.1), "{} is told", secret.0);
    }
    assert_eq!(publisher.dropped(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_hangs_or_refuses_hinders_no_export() {
    for manner in [Manner::Hangs, Manner::With(403), Manner::With(500)] {
        let server = ApiServer::new();
        server.becomes(manner);
        let (bench, volume, publisher) = told(&server).await;
        let secrets = bench.secret("exports");
        bench.until_ready("snapshot-1", &volume, snapshot_class("keep"), &secrets).await;
        bench.until_idle().await;
        publisher.close().await;
        assert!(publisher.dropped() > 0, "{manner:?}");
        assert_eq!(server.events().len(), 0);
    }
}
