//! A raw block volume of the node, which somebody writes to between its exports.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use csi_proto::csi::v1 as csi;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume};
use tokio::runtime::Runtime;
use windlass::cli::client;

use crate::data::noise::Noise;
use crate::error::{BenchError, While};

const MIB: u64 = 1 << 20;

/// The calls that an orchestrator makes.
pub(super) struct Orchestrator {
    runtime: Runtime,
    node: client::Node,
}

impl Orchestrator {
    /// Connects to the node's socket.
    pub(super) fn connect(endpoint: &str) -> Result<Self, BenchError> {
        let what = || format!("connecting to {endpoint}");
        let socket = endpoint.parse().while_doing(what)?;
        // A thread of its own, which answers the node between calls too.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().while_doing(what)?;
        let node = runtime.block_on(client::Node::connect(&socket)).while_doing(what)?;
        Ok(Self { runtime, node })
    }

    fn publish(&self, handle: &str, paths: &Paths) -> Result<(), BenchError> {
        let stage = csi::NodeStageVolumeRequest {
            volume_id: handle.to_owned(),
            staging_target_path: paths.staging.display().to_string(),
            volume_capability: Some(capability()),
            ..Default::default()
        };
        let publish = csi::NodePublishVolumeRequest {
            volume_id: handle.to_owned(),
            staging_target_path: paths.staging.display().to_string(),
            target_path: paths.target.display().to_string(),
            volume_capability: Some(capability()),
            ..Default::default()
        };
        self.runtime.block_on(async {
            self.node.node().node_stage_volume(stage).await.while_doing(|| format!("staging {handle}"))?;
            self.node.node().node_publish_volume(publish).await.while_doing(|| format!("publishing {handle}"))?;
            Ok(())
        })
    }

    fn unpublish(&self, handle: &str, paths: &Paths) -> Result<(), BenchError> {
        let unpublish =
            csi::NodeUnpublishVolumeRequest { volume_id: handle.to_owned(), target_path: paths.target.display().to_string() };
        let unstage = csi::NodeUnstageVolumeRequest {
            volume_id: handle.to_owned(),
            staging_target_path: paths.staging.display().to_string(),
        };
        self.runtime.block_on(async {
            self.node.node().node_unpublish_volume(unpublish).await.while_doing(|| format!("unpublishing {handle}"))?;
            self.node.node().node_unstage_volume(unstage).await.while_doing(|| format!("unstaging {handle}"))?;
            Ok(())
        })
    }
}

fn capability() -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(AccessType::Block(BlockVolume {})),
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
    }
}

struct Paths {
    staging: PathBuf,
    target: PathBuf,
}

/// A volume in use.
pub(super) struct Volume {
    /// Its handle.
    pub(super) handle: String,
    /// The handle of the snapshot that was exported last.
    pub(super) exported: Option<String>,
    paths: Paths,
    device: Option<File>,
    size: u64,
    noise: Noise,
    /// Where the next write goes, in bytes.
    next: u64,
}

impl Volume {
    /// Publishes the volume `handle` of `size` bytes beneath `root`, and fills it with what does not compress.
    pub(super) fn publish(
        orchestrator: &Orchestrator,
        root: &Path,
        name: &str,
        handle: String,
        size: u64,
        seed: u64,
    ) -> Result<Self, BenchError> {
        let (staging, pod) = (root.join("staging").join(name), root.join("pods").join(name));
        for folder in [&staging, &pod] {
            fs::create_dir_all(folder).while_doing(|| format!("making {}", folder.display()))?;
        }
        let paths = Paths { staging, target: pod.join("volume") };
        orchestrator.publish(&handle, &paths)?;
        let what = || format!("opening {}", paths.target.display());
        let device = OpenOptions::new().write(true).open(&paths.target).while_doing(what)?;
        let mut volume = Self { handle, exported: None, paths, device: Some(device), size, noise: Noise::new(seed), next: 0 };
        volume.write(size)?;
        Ok(volume)
    }

    /// Writes so many bytes anew, whole MiB, after those that were written last.
    pub(super) fn write(&mut self, bytes: u64) -> Result<(), BenchError> {
        let what = || format!("writing to {}", self.paths.target.display());
        let Some(device) = &self.device else { return Ok(()) };
        let mut block = vec![0; MIB as usize];
        for _ in 0..bytes / MIB {
            self.noise.fill(&mut block);
            device.write_all_at(&block, self.next).while_doing(what)?;
            self.next = (self.next + MIB) % self.size;
        }
        device.sync_all().while_doing(what)
    }

    /// Takes it out of use.
    pub(super) fn unpublish(&mut self, orchestrator: &Orchestrator) -> Result<(), BenchError> {
        self.device = None;
        orchestrator.unpublish(&self.handle, &self.paths)
    }
}
