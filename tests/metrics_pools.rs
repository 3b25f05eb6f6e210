//! Pools, exports and restores as metrics: what was seen and done is told, and a pool that fails or hangs is told of and holds nobody up.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the answers of gRPC calls are looked at")]

#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/metrics_text.rs"]
mod metrics_text;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use csi_harness::{NODE, Node, SIZE, block, new_volume};
use csi_proto::csi::v1::CreateVolumeRequest;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::TransferState;
use csi_proto::windlass::v1::transfers_server::Transfers as _;
use futures::StreamExt;
use metrics_text::Text;
use tonic::Request;
use windlass::agent::Transfers;
use windlass::mount::Mounter;
use windlass::mount::memory::MemoryMounter;
use windlass::node::blocks::PoolBlocks;
use windlass::node::pool_metrics::{ClaimSeries, PoolMetrics};
use windlass::node::quiesce::MountQuiesce;
use windlass::pool::PoolError;
use windlass::pool::catalogue::Catalogue;
use windlass::pool::memory::MemoryPool;
use windlass::pool::owned::OwnedPool;
use windlass::pool::set::{OpenedPool, Pace, PoolSet, PoolSource};
use windlass::repository::{Environment, KdfCost, Location, LockMode, Password, Repository, Workspace, connect};
use windlass::telemetry::metrics::{Metrics, ProcessName, families};
use windlass::types::{Access, Object, VolumeHandle};

const PASSWORD: &str = "a password that must be in no metric";
/// A wait that ends with the test when it is not over by then.
const BOUND: Duration = Duration::from_secs(30);

/// A disk in memory that can be made to fail and to hang.
#[derive(Clone)]
struct Disk {
    place: &'static str,
    pool: Arc<MemoryPool>,
    catalogue: Catalogue,
    mounter: Arc<MemoryMounter>,
}

impl Disk {
    fn new(place: &'static str) -> Self {
        let (pool, mounter) = (Arc::new(MemoryPool::with_capacity(8 << 30)), Arc::new(MemoryMounter::new()));
        Self { place, pool, catalogue: Catalogue::in_memory().unwrap(), mounter }
    }

    fn dies(&self) {
        let error = || PoolError::io("look at the disk", std::io::Error::from_raw_os_error(libc::EIO));
        self.pool.set_health_hook(Some(Arc::new(move || Err(error()))));
    }

    /// Whoever looks at it waits until the answer is dropped.
    fn hangs(&self) -> Hang {
        let hang = Hang(Arc::new((Mutex::new(true), Condvar::new())));
        let state = Arc::clone(&hang.0);
        self.pool.set_health_hook(Some(Arc::new(move || {
            let hanging = state.0.lock().unwrap();
            drop(state.1.wait_while(hanging, |hangs| *hangs).unwrap());
            Ok(())
        })));
        hang
    }
}

struct Hang(Arc<(Mutex<bool>, Condvar)>);

impl Drop for Hang {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = false;
        self.0.1.notify_all();
    }
}

impl PoolSource for Disk {
    fn place(&self) -> String {
        self.place.to_owned()
    }

    fn open(&self) -> Result<OpenedPool, String> {
        let quiesce = MountQuiesce::new(Arc::clone(&self.mounter) as Arc<dyn Mounter>);
        let pool = OwnedPool::open(self.pool.clone(), self.catalogue.clone(), Arc::new(quiesce));
        Ok(OpenedPool { pool: Arc::new(pool.map_err(|error| error.to_string())?), foundation: Box::new(()) })
    }
}

/// A node over these disks, looked at without pause, and its metrics.
async fn node_over(disks: &[Disk], claims: ClaimSeries) -> (Node, PoolSet, Metrics) {
    let sources = disks.iter().map(|disk| Box::new(disk.clone()) as Box<dyn PoolSource>).collect();
    let millisecond = Duration::from_millis(1);
    let pace = Pace {
        look: millisecond * 20,
        answer: millisecond * 200,
        retry: millisecond,
        retry_most: millisecond * 20,
        start: BOUND,
        close: millisecond * 100,
    };
    let pools = tokio::task::spawn_blocking(move || PoolSet::start(sources, pace).unwrap()).await.unwrap();
    let (directory, mounter) = (Arc::new(tempfile::tempdir().unwrap()), Arc::clone(&disks[0].mounter));
    let node = Node::with(directory, mounter, pools.pools(), &windlass::mount::boot_id().unwrap()).await;
    let metrics = Metrics::new(ProcessName::Node);
    metrics.collect(PoolMetrics::new(pools.clone(), claims));
    (node, pools, metrics)
}

/// The metrics once `wanted` is true of them.
async fn until(metrics: &Metrics, wanted: impl Fn(&Text) -> bool) -> Text {
    let begun = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    loop {
        let raw = metrics.text().await.unwrap();
        let text = Text::read(&raw);
        if wanted(&text) {
            return text;
        }
        assert!(begun.elapsed() < BOUND, "{raw}");
        looks.tick().await;
    }
}

fn claimed(name: &str) -> CreateVolumeRequest {
    let names = [("csi.storage.k8s.io/pvc/namespace", "shop"), ("csi.storage.k8s.io/pvc/name", name)];
    let parameters = names.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    CreateVolumeRequest { parameters, ..new_volume(name, block(Mode::SingleNodeWriter)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_pool_is_told_by_its_space_its_promises_and_what_it_holds() {
    let disk = Disk::new("/srv/pool");
    let (node, pools, metrics) = node_over(std::slice::from_ref(&disk), ClaimSeries::None).await;
    let volume = node.create(claimed("orders")).await.unwrap().volume_id;
    node.snapshot("cut", &volume).await.unwrap();
    let text = until(&metrics, |text| text.value("windlass_pool_snapshots", &[]) == Some(1.0)).await;
    let id = node.pools[0].id().to_string();
    let of_pool = |name: &str| text.value(name, &[("process", "node"), ("pool", &id)]).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(of_pool("windlass_pool_up"), 1.0);
    assert_eq!(of_pool("windlass_pool_volumes"), 1.0);
    assert_eq!(of_pool("windlass_pool_size_bytes"), (8_u64 << 30) as f64);
    assert_eq!(of_pool("windlass_pool_promised_bytes"), SIZE as f64);
    assert!(of_pool("windlass_pool_promise_limit_bytes") > of_pool("windlass_pool_size_bytes"));
    assert!(
        of_pool("windlass_pool_available_bytes") <= of_pool("windlass_pool_free_bytes") - of_pool("windlass_pool_reserve_bytes")
    );
    assert_eq!(text.value("windlass_pool_state", &[("state", "ready")]), Some(1.0));
    assert_eq!(text.sum("windlass_pool_state", &[]), 1.0);
    assert_eq!(text.value("windlass_pool_exports_pending", &[]), Some(0.0));
    assert!(text.labels().all(|(_, labels)| !labels.values().any(|value| value.contains("orders"))), "nobody asked for claims");
    pools.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_fails_is_told_of_and_the_others_are_as_they_are() {
    let disks = [Disk::new("/srv/good"), Disk::new("/srv/bad")];
    let (_node, pools, metrics) = node_over(&disks, ClaimSeries::None).await;
    let up = |text: &Text, place| text.value("windlass_pool_up", &[("place", place)]);
    until(&metrics, |text| up(text, "/srv/bad") == Some(1.0) && up(text, "/srv/good") == Some(1.0)).await;
    disks[1].dies();
    let text = until(&metrics, |text| up(text, "/srv/bad") == Some(0.0)).await;
    assert_eq!(up(&text, "/srv/good"), Some(1.0));
    let id = disks[1].catalogue.id().to_string();
    assert_eq!(text.value("windlass_pool_up", &[("pool", &id)]), Some(0.0), "it is told by its id too");
    assert_eq!(text.value("windlass_pool_free_bytes", &[("pool", &id)]), None, "no more is known of it");
    pools.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_hangs_is_told_of_and_holds_no_scrape_up() {
    let disk = Disk::new("/srv/pool");
    let (_node, pools, metrics) = node_over(std::slice::from_ref(&disk), ClaimSeries::None).await;
    let up = |text: &Text| text.value("windlass_pool_up", &[]);
    until(&metrics, |text| up(text) == Some(1.0)).await;
    let hang = disk.hangs();
    until(&metrics, |text| up(text) == Some(0.0)).await;
    // It hangs still: whoever waited for it would wait for ever.
    for _ in 0..50 {
        let text = tokio::time::timeout(BOUND, metrics.text()).await.expect("a scrape waits for the disk").unwrap();
        assert_eq!(up(&Text::read(&text)), Some(0.0));
    }
    drop(hang);
    until(&metrics, |text| up(text) == Some(1.0)).await;
    pools.close();
}

/// The final state of a transfer.
async fn end_of(transfers: &Transfers, transfer_id: String) -> proto::TransferProgress {
    let watch = proto::WatchTransferRequest { transfer_id };
    let mut states = transfers.watch_transfer(Request::new(watch)).await.unwrap().into_inner();
    let mut last = None;
    while let Some(state) = states.next().await {
        last = Some(state.unwrap());
    }
    last.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_and_restores_are_counted_with_their_bytes_and_modes_and_a_claim_has_its_age() {
    let disk = Disk::new("/srv/pool");
    let (node, pools, metrics) = node_over(std::slice::from_ref(&disk), ClaimSeries::Each).await;
    let volume = node.create(claimed("orders")).await.unwrap().volume_id;
    let handle: VolumeHandle = volume.parse().unwrap();
    let write = |byte: u8, offset| {
        let device = node.pools[0].attach(Object::Volume(handle.volume), Access::ReadWrite).unwrap().device;
        File::options().write(true).open(device).unwrap().write_all_at(&[byte; 1 << 20], offset).unwrap();
        node.pools[0].detach(Object::Volume(handle.volume)).unwrap();
    };
    let location = node.directory.path().join("repository");
    let store = connect(&Location::Local(location.clone()), &Environment::new()).unwrap();
    Repository::init(Arc::clone(&store), &Password::new(PASSWORD).unwrap(), KdfCost::TEST).await.unwrap();
    let access = |password: &str| {
        Some(proto::RepositoryAccess {
            location: location.display().to_string(),
            password: password.to_owned(),
            ..Default::default()
        })
    };
    let transfers = Transfers::new(Arc::new(PoolBlocks::new(node.pools.clone())), NODE)
        .with_workspace(Workspace::default().counting_in(metrics.stores.clone()))
        .with_metrics(metrics.transfers.clone());
    for (byte, offset, name) in [(1, 0, "first"), (2, 32 << 20, "second")] {
        write(byte, offset);
        let snapshot_id = node.snapshot(name, &volume).await.unwrap().snapshot_id;
        let request = proto::StartExportRequest { snapshot_id, repository: access(PASSWORD), ..Default::default() };
        let started = transfers.start_export(Request::new(request)).await.unwrap().into_inner();
        assert_eq!(end_of(&transfers, started.transfer_id).await.state(), TransferState::Succeeded);
    }
    let request = proto::StartRestoreRequest {
        repository: access(PASSWORD),
        repository_snapshot: "latest".to_owned(),
        volume_name: "restored".to_owned(),
        ..Default::default()
    };
    let started = transfers.start_restore(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(end_of(&transfers, started.transfer_id).await.state(), TransferState::Succeeded);
    // One that fails, one that is cancelled while it waits, and one that never begins.
    let held = Repository::open(store, &Password::new(PASSWORD).unwrap()).await.unwrap();
    let held = held.lock(LockMode::Exclusive).await.unwrap();
    let snapshot_id = node.snapshot("third", &volume).await.unwrap().snapshot_id;
    let export = |password| proto::StartExportRequest {
        snapshot_id: snapshot_id.clone(),
        repository: access(password),
        retry_lock_seconds: Some(0),
        ..Default::default()
    };
    let failing = transfers.start_export(Request::new(export(PASSWORD))).await.unwrap().into_inner();
    assert_eq!(end_of(&transfers, failing.transfer_id).await.state(), TransferState::Failed);
    let waiting = proto::StartExportRequest { retry_lock_seconds: None, ..export(PASSWORD) };
    let transfer_id = transfers.start_export(Request::new(waiting)).await.unwrap().into_inner().transfer_id;
    let running = until(&metrics, |text| text.sum("windlass_transfers_running", &[]) == 1.0).await;
    assert_eq!(running.value("windlass_transfers_running", &[("kind", "export")]), Some(1.0));
    transfers.cancel_transfer(Request::new(proto::CancelTransferRequest { transfer_id: transfer_id.clone() })).await.unwrap();
    assert_eq!(end_of(&transfers, transfer_id).await.state(), TransferState::Canceled);
    transfers.start_export(Request::new(export("wrong"))).await.unwrap_err();
    held.release().await.unwrap();
    transfers.stop().await;

    let text = until(&metrics, |text| text.value("windlass_claim_last_export_timestamp_seconds", &[]).is_some()).await;
    let value = |name: &str, labels: &[(&str, &str)]| text.value(name, labels);
    let count = "windlass_transfer_duration_seconds_count";
    assert_eq!(value(count, &[("kind", "export"), ("outcome", "succeeded")]), Some(2.0));
    assert_eq!(value(count, &[("kind", "restore"), ("outcome", "succeeded")]), Some(1.0));
    assert_eq!(value(count, &[("kind", "export"), ("outcome", "failed")]), Some(1.0));
    assert_eq!(value(count, &[("kind", "export"), ("outcome", "cancelled")]), Some(1.0));
    assert_eq!(text.sum(count, &[]), 5.0, "what is refused at its start has not run");
    assert_eq!(text.sum("windlass_transfers_running", &[]), 0.0);
    assert_eq!(value("windlass_exports_total", &[("mode", "full"), ("reason", "no_parent")]), Some(1.0));
    assert_eq!(value("windlass_exports_total", &[("mode", "incremental"), ("reason", "")]), Some(1.0));
    let ratio = |mode| value("windlass_export_changed_ratio_sum", &[("mode", mode)]).unwrap();
    assert!(ratio("incremental") > 0.0 && ratio("incremental") < 0.5, "{}", ratio("incremental"));
    let mebibytes = |name, kind| value(name, &[("kind", kind)]).unwrap() / f64::from(1 << 20);
    assert!(mebibytes("windlass_transfer_volume_bytes_total", "export") >= 2.0);
    assert!(mebibytes("windlass_transfer_volume_bytes_total", "restore") >= 2.0);
    assert!(value("windlass_transfer_repository_bytes_total", &[("kind", "export")]).unwrap() > 0.0);
    assert!(value("windlass_transfer_last_success_timestamp_seconds", &[("kind", "export")]).unwrap() > 1.7e9);
    assert!(value("windlass_store_call_duration_seconds_count", &[("operation", "put"), ("outcome", "ok")]).unwrap() >= 6.0);
    assert!(value("windlass_store_sent_bytes_total", &[]).unwrap() > 0.0);
    assert!(value("windlass_store_received_bytes_total", &[]).unwrap() > 0.0);
    let claim = [("namespace", "shop"), ("persistentvolumeclaim", "orders")];
    assert!(value("windlass_claim_last_export_timestamp_seconds", &claim).unwrap() > 1.7e9);

    let raw = metrics.text().await.unwrap();
    assert!(!raw.contains(PASSWORD) && !raw.contains(location.to_str().unwrap()), "{raw}");
    // Every label is one that the family's description has.
    for (sample, labels) in text.labels() {
        let of_sample = |name: &str| ["", "_bucket", "_sum", "_count"].iter().any(|ending| sample == format!("{name}{ending}"));
        let family = families::ALL.iter().find(|family| of_sample(family.name)).unwrap_or_else(|| panic!("{sample}"));
        let known: BTreeSet<&str> = family.labels.iter().copied().chain(["process", "le"]).collect();
        assert!(labels.keys().all(|label| known.contains(label.as_str())), "{sample} {labels:?}");
    }
    pools.close();
}
