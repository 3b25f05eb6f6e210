//! Every wrong request has its code, and words that name the field.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly, wherever it does")]

#[path = "../support/csi_harness.rs"]
mod csi_harness;

mod create;
mod node;
mod publish;
mod snapshots;
mod stage;
mod volumes;

use std::collections::HashMap;

use csi_harness::*;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::Code;

const WRITER: Mode = Mode::SingleNodeWriter;
const NOT_OURS: [&str; 4] = ["fake-vol-id", "../../etc/passwd", "v-x-y", "pvc/1"];

fn long() -> String {
    "x".repeat(129)
}

fn big_map() -> HashMap<String, String> {
    HashMap::from([("key".to_owned(), "x".repeat(4096))])
}

fn parameters(entries: &[(&str, &str)]) -> HashMap<String, String> {
    entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn flags(flags: &[&str]) -> VolumeCapability {
    let mount =
        volume_capability::MountVolume { mount_flags: flags.iter().map(|&flag| flag.to_owned()).collect(), ..Default::default() };
    VolumeCapability { access_type: Some(volume_capability::AccessType::Mount(mount)), access_mode: mode(WRITER) }
}

fn requisite(entries: &[(&str, &str)]) -> Option<TopologyRequirement> {
    Some(TopologyRequirement { requisite: vec![topology(entries)], preferred: vec![] })
}

fn elsewhere() -> Option<TopologyRequirement> {
    requisite(&[("topology.windlass.dev/node", "node-2")])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_advertised_is_not_implemented() {
    let node = Node::start().await;
    let mut table = Table::default();
    let (mut controller, mut client) = (node.controller.clone(), node.node.clone());
    let code = Code::Unimplemented;
    table.refused("publish", controller.controller_publish_volume(ControllerPublishVolumeRequest::default()).await, code, "");
    table.refused(
        "unpublish",
        controller.controller_unpublish_volume(ControllerUnpublishVolumeRequest::default()).await,
        code,
        "",
    );
    table.refused("modify", controller.controller_modify_volume(ControllerModifyVolumeRequest::default()).await, code, "");
    table.refused("health", controller.controller_get_volume_health(ControllerGetVolumeHealthRequest::default()).await, code, "");
    let result = controller.controller_list_volume_health(ControllerListVolumeHealthRequest::default()).await;
    table.refused("list health", result, code, "");
    table.refused("node health", client.node_get_volume_health(NodeGetVolumeHealthRequest::default()).await, code, "");
    table.refused("storage health", client.node_get_storage_health(NodeGetStorageHealthRequest::default()).await, code, "");
    table.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_given_no_pools_is_well_and_makes_nothing() {
    let mounter = std::sync::Arc::new(windlass::mount::memory::MemoryMounter::new());
    let directory = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let node = Node::with(directory, mounter, vec![], "boot").await;
    assert_eq!(node.identity.clone().probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));
    refused(node.create(new_volume("a", mount("", WRITER))).await, Code::ResourceExhausted);
    let capacity = node.controller.clone().get_capacity(GetCapacityRequest::default()).await.unwrap().into_inner();
    assert_eq!(capacity.available_capacity, 0);
    assert!(node.identity.clone().get_plugin_info(GetPluginInfoRequest {}).await.is_ok());
}
