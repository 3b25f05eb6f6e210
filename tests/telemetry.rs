//! A line of the log says what it is about: the lines of a call its volume and its claim, those of a transfer, from whichever thread, its
//! id, its volume and its claim too. No secret is in any.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the answers of gRPC calls are looked at")]

#[path = "support/csi_harness.rs"]
mod csi_harness;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock};

use csi_harness::*;
use csi_proto::csi::v1::CreateVolumeRequest;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::TransferState;
use csi_proto::windlass::v1::transfers_server::Transfers as _;
use futures::StreamExt;
use serde_json::Value;
use tonic::{Code, Request};
use tracing::Instrument;
use windlass::agent::Transfers;
use windlass::node::blocks::PoolBlocks;
use windlass::repository::{Environment, KdfCost, Location, Password, Repository, connect};
use windlass::types::{Access, Object, VolumeHandle, span};

const PASSWORD: &str = "a password that must be in no line";

/// What this process logs, everything included.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Captured {
    /// The same for all tests: a subscriber for all threads can be set only once.
    fn of_this_process() -> &'static Self {
        static ONE: OnceLock<Captured> = OnceLock::new();
        ONE.get_or_init(|| {
            let captured = Self::default();
            let writer = captured.clone();
            let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter("windlass=trace");
            subscriber.with_writer(move || writer.clone()).init();
            captured
        })
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The span of this name that a line was written in.
fn span_of<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line["spans"].as_array()?.iter().find(|span| span["name"] == name)
}

fn claimed(name: &str) -> CreateVolumeRequest {
    let names = [("csi.storage.k8s.io/pvc/namespace", "shop"), ("csi.storage.k8s.io/pvc/name", name)];
    let parameters = names.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    CreateVolumeRequest { parameters, ..new_volume(name, block(Mode::SingleNodeWriter)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_a_call_names_its_method_its_volume_and_its_claim() {
    let captured = Captured::of_this_process();
    let node = Node::start().await;
    let volume = node.create(claimed("carts")).await.unwrap().volume_id;
    node.delete(&volume).await.unwrap();
    refused(node.snapshot("late", &volume).await, Code::NotFound);

    let lines = captured.lines();
    let answer = |method: &str, field: &str, value: &str| {
        let is_it = |line: &&Value| {
            let of_call = |span: &Value| span["method"] == format!("/csi.v1.Controller/{method}") && span[field] == value;
            line["message"].as_str().is_some_and(|text| text.starts_with("call ")) && span_of(line, "call").is_some_and(of_call)
        };
        lines.iter().find(is_it).unwrap_or_else(|| panic!("no line of {method}"))
    };
    assert_eq!(answer("CreateVolume", "pvc", "shop/carts")["message"], "call answered");
    assert_eq!(answer("DeleteVolume", "volume", &volume)["message"], "call answered");
    let refusal = answer("CreateSnapshot", "volume", &volume);
    assert_eq!(refusal["message"], "call refused");
    assert_eq!(refusal["level"], "WARN");
    assert_eq!(refusal["code"], "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_a_pipeline_names_its_transfer_its_volume_and_its_claim_and_no_secret() {
    let captured = Captured::of_this_process();
    let node = Node::start().await;
    let volume = node.create(claimed("orders")).await.unwrap().volume_id;
    let handle: VolumeHandle = volume.parse().unwrap();
    let device = node.pools[0].attach(Object::Volume(handle.volume), Access::ReadWrite).unwrap().device;
    File::options().write(true).open(device).unwrap().write_all_at(&[7; 1 << 20], 0).unwrap();
    node.pools[0].detach(Object::Volume(handle.volume)).unwrap();
    let snapshot = node.snapshot("cut", &volume).await.unwrap().snapshot_id;

    let location = node.directory.path().join("repository");
    let store = connect(&Location::Local(location.clone()), &Environment::new()).unwrap();
    Repository::init(store, &Password::new(PASSWORD).unwrap(), KdfCost::TEST).await.unwrap();
    let transfers = Transfers::new(Arc::new(PoolBlocks::new(node.pools.clone())), NODE);
    let repository =
        proto::RepositoryAccess { location: location.display().to_string(), password: PASSWORD.to_owned(), ..Default::default() };
    let request = proto::StartExportRequest { snapshot_id: snapshot.clone(), repository: Some(repository), ..Default::default() };
    let call = transfers.start_export(Request::new(request)).instrument(span::call("StartExport"));
    let transfer_id = call.await.unwrap().into_inner().transfer_id;
    let watch = proto::WatchTransferRequest { transfer_id: transfer_id.clone() };
    let mut states = transfers.watch_transfer(Request::new(watch)).await.unwrap().into_inner();
    let mut last = None;
    while let Some(state) = states.next().await {
        last = Some(state.unwrap());
    }
    assert_eq!(last.unwrap().state(), TransferState::Succeeded);
    // Its last line is written by a task that nobody waits for but this.
    transfers.stop().await;

    let lines = captured.lines();
    let of_transfer: Vec<&Value> =
        lines.iter().filter(|line| span_of(line, "transfer").is_some_and(|span| span["transfer"] == transfer_id)).collect();
    for line in &of_transfer {
        let span = span_of(line, "transfer").unwrap();
        assert_eq!(span["volume"], volume, "{line}");
        assert_eq!(span["snapshot"], snapshot, "{line}");
        assert_eq!(span["pvc"], "shop/orders", "{line}");
        assert_eq!(span["kind"], "export", "{line}");
    }
    for message in ["transfer started", "everything is read", "index stored", "snapshot stored", "transfer succeeded"] {
        assert!(of_transfer.iter().any(|line| line["message"] == message), "no line `{message}` in {of_transfer:#?}");
    }
    assert!(!captured.text().contains(PASSWORD), "the password is in a line");
}
