//! Volumes as the demo uses them: made, mounted and removed by the calls that an orchestrator makes.

use std::path::PathBuf;

use csi_proto::csi::v1 as csi;
use tokio_util::sync::CancellationToken;

use super::place::Place;
use crate::cli::client::{Answer, Node};
use crate::cli::exit::{CliError, Exit};
use crate::cli::interruptible::unless;
use crate::cli::size::ByteSize;
use crate::cli::volume::{Presentation, Source, capability, create_request};

/// A volume that is staged and published, in the sense of CSI.
#[derive(Debug, Clone)]
pub struct Published {
    volume_id: String,
    staging: PathBuf,
    /// Where its file system is mounted, or its device node lies.
    pub target: PathBuf,
}

/// The node's calls, each given up when the demo is interrupted.
#[derive(Debug, Clone)]
pub struct Calls {
    pub node: Node,
    /// Where paths lie.
    pub place: Place,
    /// Cancelled when the demo is interrupted.
    pub interrupt: CancellationToken,
}

impl Calls {
    /// CreateVolume.
    ///
    /// # Errors
    /// As the node answers; [`Exit::Interrupted`].
    pub async fn create_volume(
        &self,
        name: &str,
        size: ByteSize,
        presentation: Presentation,
        source: Option<Source>,
    ) -> Result<csi::Volume, CliError> {
        let request = create_request(name, Some(size), presentation, source, Vec::new())?;
        let call = async {
            let answer = self.node.controller().create_volume(request).await.answer(&format!("volume {name} was not made"))?;
            answer.volume.ok_or_else(|| CliError::new(Exit::Failed, "the node's answer holds no volume"))
        };
        unless(&self.interrupt, call).await
    }

    /// CreateSnapshot.
    ///
    /// # Errors
    /// As the node answers; [`Exit::Interrupted`].
    pub async fn create_snapshot(&self, name: &str, volume_id: &str) -> Result<csi::Snapshot, CliError> {
        let request =
            csi::CreateSnapshotRequest { source_volume_id: volume_id.to_owned(), name: name.to_owned(), ..Default::default() };
        let call = async {
            let answer =
                self.node.controller().create_snapshot(request).await.answer(&format!("snapshot {name} was not made"))?;
            answer.snapshot.ok_or_else(|| CliError::new(Exit::Failed, "the node's answer holds no snapshot"))
        };
        unless(&self.interrupt, call).await
    }

    /// NodeStageVolume and NodePublishVolume.
    ///
    /// # Errors
    /// As the node answers; [`Exit::Interrupted`].
    pub async fn publish(&self, volume: &csi::Volume, name: &str, presentation: Presentation) -> Result<Published, CliError> {
        let staging = self.place.staging().join(name);
        let target = self.place.targets().join(name);
        std::fs::create_dir_all(&staging)
            .map_err(|error| CliError::because(Exit::Failed, format!("cannot make {}", staging.display()), error))?;
        let stage = csi::NodeStageVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: staging.display().to_string(),
            volume_capability: Some(capability(presentation)),
            volume_context: volume.volume_context.clone(),
            ..Default::default()
        };
        let publish = csi::NodePublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: staging.display().to_string(),
            target_path: target.display().to_string(),
            volume_capability: Some(capability(presentation)),
            volume_context: volume.volume_context.clone(),
            ..Default::default()
        };
        let call = async {
            self.node.node().node_stage_volume(stage).await.answer(&format!("volume {name} was not staged"))?;
            self.node.node().node_publish_volume(publish).await.answer(&format!("volume {name} was not published"))
        };
        unless(&self.interrupt, call).await?;
        Ok(Published { volume_id: volume.volume_id.clone(), staging, target })
    }

    /// NodeUnpublishVolume and NodeUnstageVolume.
    ///
    /// # Errors
    /// As the node answers; [`Exit::Interrupted`].
    pub async fn unpublish(&self, published: &Published) -> Result<(), CliError> {
        let volume_id = published.volume_id.clone();
        let target_path = published.target.display().to_string();
        let staging_target_path = published.staging.display().to_string();
        let call = async {
            let request = csi::NodeUnpublishVolumeRequest { volume_id: volume_id.clone(), target_path };
            self.node.node().node_unpublish_volume(request).await.answer("a volume was not unpublished")?;
            let request = csi::NodeUnstageVolumeRequest { volume_id, staging_target_path };
            self.node.node().node_unstage_volume(request).await.answer("a volume was not unstaged")
        };
        unless(&self.interrupt, call).await.map(drop)
    }

    /// DeleteVolume.
    ///
    /// # Errors
    /// As the node answers; [`Exit::Interrupted`].
    pub async fn delete_volume(&self, volume_id: &str) -> Result<(), CliError> {
        let request = csi::DeleteVolumeRequest { volume_id: volume_id.to_owned(), ..Default::default() };
        let call = async { self.node.controller().delete_volume(request).await.answer("a volume was not deleted") };
        unless(&self.interrupt, call).await.map(drop)
    }

    /// DeleteSnapshot.
    ///
    /// # Errors
    /// As the node answers; [`Exit::Interrupted`].
    pub async fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), CliError> {
        let request = csi::DeleteSnapshotRequest { snapshot_id: snapshot_id.to_owned(), ..Default::default() };
        let call = async { self.node.controller().delete_snapshot(request).await.answer("a snapshot was not deleted") };
        unless(&self.interrupt, call).await.map(drop)
    }
}
