//! What is served: capabilities, a stop, and file systems that do not answer.

use std::path::Path;
use std::sync::Arc;

use csi_proto::csi::v1::*;
use tonic::Code;
use windlass::mount::memory::MemoryMounter;
use windlass::mount::{FileSystemStats, Formatting, MountEntry, MountError, MountRequest, MountedFileSystem, Mounter, Probe};
use windlass::types::{Access, FsType};

use crate::csi_harness::*;
use crate::gate::Gate;
use crate::{WRITER, staged};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_serving_also_beside_an_idle_connection_and_removes_the_socket() {
    use tokio_util::sync::CancellationToken;
    use windlass::csi::server::{self, PrivateSocket};
    let node = Node::start().await;
    let path = node.directory.path().join("stopped.sock");
    let stop = CancellationToken::new();
    let socket = PrivateSocket::bind(&path).unwrap();
    let serving = tokio::spawn(server::serve(socket, windlass::node::routes(&node.layer), stop.clone()));
    let mut client = client_of(&path).await;
    client.probe(ProbeRequest {}).await.unwrap();
    stop.cancel();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), serving).await;
    ended.unwrap().unwrap().unwrap();
    assert!(!path.exists());
    assert!(client.probe(ProbeRequest {}).await.is_err());
}

/// A mount table whose file systems do not answer.
struct Hung {
    inner: Arc<MemoryMounter>,
    gate: Arc<Gate>,
}

macro_rules! delegate {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> Result<$result, MountError> { self.inner.$name($($argument),*) })*
    };
}

impl Mounter for Hung {
    delegate! {
        mounts() -> Vec<MountEntry>;
        device_number(device: &Path) -> (u32, u32);
        probe(device: &Path) -> Probe;
        make_file_system(device: &Path, fs_type: FsType, over: Formatting) -> ();
        check(device: &Path, fs_type: FsType) -> ();
        mount(request: &MountRequest) -> ();
        bind(source: &Path, target: &Path, access: Access, options: &[String]) -> ();
        unmount(target: &Path) -> ();
        grow(device: &Path, mount_point: &Path, fs_type: FsType) -> ();
        grow_unmounted(device: &Path, fs_type: FsType) -> ();
        renew_identity(device: &Path, fs_type: FsType) -> ();
        open_mounted(device: &Path) -> Option<Arc<dyn MountedFileSystem>>;
        flush_device(device: &Path) -> ();
    }

    fn stats(&self, path: &Path) -> Result<FileSystemStats, MountError> {
        self.gate.wait_here();
        self.inner.stats(path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_does_not_answer_holds_up_nothing_else() {
    use csi_proto::csi::v1::node_server::Node as _;
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "a", mount("ext4", WRITER)).await;
    let gate = Arc::new(Gate::default());
    let hung = Hung { inner: Arc::clone(&node.mounter), gate: Arc::clone(&gate) };
    let options = windlass::node::NodeOptions {
        node: NODE.to_owned().try_into().unwrap(),
        root: windlass::mount::path::Root::open(&node.directory.path().join("kubelet")).unwrap(),
        boot_id: windlass::mount::boot_id().unwrap(),
        statistics_timeout: Some(std::time::Duration::from_millis(50)),
    };
    let layer = windlass::node::NodeLayer::new(node.pools.clone(), Arc::new(hung), options);
    let look = || {
        let request = NodeGetVolumeStatsRequest { volume_id: volume.clone(), volume_path: staging.clone(), ..Default::default() };
        layer.node_get_volume_stats(tonic::Request::new(request))
    };
    refused(look().await, Code::DeadlineExceeded);
    // A second look does not pile up on the first, and nothing else waits for it.
    refused(look().await, Code::DeadlineExceeded);
    let request = NodeExpandVolumeRequest { volume_id: volume.clone(), volume_path: staging.clone(), ..Default::default() };
    layer.node_expand_volume(tonic::Request::new(request)).await.unwrap();
    gate.open();
    let mut attempts = 0;
    while let Err(status) = look().await {
        assert_eq!(status.code(), Code::DeadlineExceeded);
        attempts += 1;
        assert!(attempts < 10_000, "the first look did not end");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_says_what_it_can() {
    let node = Node::start().await;
    let mut identity = node.identity.clone();
    let info = identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, "csi.windlass.dev");
    assert!(!info.vendor_version.is_empty());
    assert_eq!(identity.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));
    let capabilities = identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap().into_inner();
    assert_eq!(capabilities.capabilities.len(), 4);
    let controller = node.controller.clone().controller_get_capabilities(ControllerGetCapabilitiesRequest {}).await;
    assert_eq!(controller.unwrap().into_inner().capabilities.len(), 10);
    let capabilities = node.node.clone().node_get_capabilities(NodeGetCapabilitiesRequest {}).await;
    assert_eq!(capabilities.unwrap().into_inner().capabilities.len(), 4);
}
