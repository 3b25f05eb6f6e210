//! Repositories as witnesses: what they hold of snapshots whose pools are not here.
//!
//! Only the pool that owns a snapshot may say that it does not exist; one that is not here cannot be asked. A repository may hold its
//! export all the same: the caller of ListSnapshots and GetSnapshot who brings the credentials of one (the class's list secret) is told
//! what it holds. So a VolumeSnapshotContent that was written by hand gets ready in a cluster that never had the pool.
//!
//! A witness never says "not found": what a repository does not hold may be in the pool. It keeps nothing, credentials least of all. The
//! newest export that carries the snapshot's handle is looked for and its metadata are read; no lock is taken, since nothing is relied
//! upon after the answer, and the credentials may be those of a reader. What is answered is in the snapshot object and in `meta.json`.
//!
//! To open a repository takes a third of a second of a processor and 32 MiB for its password, so [`OPEN_AT_ONCE`] are opened at a time,
//! and an answer that does not come within [`ANSWER_WITHIN`] is none: the sidecar asks again.

use std::collections::HashMap;
use std::time::Duration;

use csi_proto::csi::v1 as proto;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::csi::time;
use crate::repository::tree::FileSelector;
use crate::repository::{self, Repository, RepositoryError, StoredSnapshot, Workspace};
use crate::transfer::image::{Image, Locking};
use crate::types::{SnapshotHandle, Timestamp, VolumeHandle, VolumeSize};

use super::secrets::RepositorySecret;
use super::transfers::context::handle_tag;
use super::transfers::status;

/// Two sidecars' worth: each asks for one snapshot at a time.
const OPEN_AT_ONCE: usize = 2;
static OPENING: Semaphore = Semaphore::const_new(OPEN_AT_ONCE);
/// Far more than a store that is well takes, and little beside the minutes for which transfers wait for one that is not.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A snapshot by the word of somebody who is not its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WitnessedSnapshot {
    pub(super) handle: SnapshotHandle,
    /// The volume it was cut of.
    pub(super) source: VolumeHandle,
    pub(super) size: VolumeSize,
    /// When it was cut.
    pub(super) created: Timestamp,
}

impl From<&WitnessedSnapshot> for proto::Snapshot {
    fn from(snapshot: &WitnessedSnapshot) -> Self {
        Self {
            size_bytes: i64::try_from(snapshot.size.bytes()).unwrap_or(i64::MAX),
            snapshot_id: snapshot.handle.to_string(),
            source_volume_id: snapshot.source.to_string(),
            creation_time: Some(time::to_proto(snapshot.created)),
            // An export is visible only when it is whole.
            ready_to_use: true,
            group_snapshot_id: String::new(),
            accessible_topology: Vec::new(),
        }
    }
}

/// The snapshot `handle`, if the repository that `secrets` name holds all of it.
///
/// # Errors
/// A status for secrets that open nothing, and for a repository that does not answer. Never NOT_FOUND.
pub(super) async fn snapshot(
    handle: SnapshotHandle,
    secrets: HashMap<String, String>,
    workspace: &Workspace,
) -> Result<Option<WitnessedSnapshot>, Status> {
    let secret = RepositorySecret::parse(secrets).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let asked = async {
        // Never closed.
        let _turn = OPENING.acquire().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let RepositorySecret { location, password, environment } = secret;
        let opened = repository::open_at(&location, &environment, &password, workspace).await;
        let repository = opened.map_err(|error| unanswered(&error))?;
        find(&repository, handle).await
    };
    let late = |_| Status::unavailable("secrets: the repository that they name does not answer in time");
    tokio::time::timeout(ANSWER_WITHIN, asked).await.map_err(late)?
}

async fn find(repository: &Repository, handle: SnapshotHandle) -> Result<Option<WitnessedSnapshot>, Status> {
    let tag = handle_tag(handle);
    let snapshots = repository.snapshots().await.map_err(|error| unanswered(&error))?;
    let Some(stored) = snapshots.into_iter().rfind(|stored| stored.snapshot.tags.contains(&tag)) else { return Ok(None) };
    let image = Image::open(repository, &stored.id.to_string(), &FileSelector::Only, Locking::None).await;
    let image = image.map_err(|error| unanswered(&error))?;
    let witnessed = witnessed(handle, &stored, &image);
    image.close().await;
    witnessed.map(Some)
}

/// What an export says of its snapshot.
///
/// # Errors
/// DATA_LOSS for one that carries the handle and does not say all that an export says.
fn witnessed(handle: SnapshotHandle, stored: &StoredSnapshot, image: &Image) -> Result<WitnessedSnapshot, Status> {
    let lacks = |what: &str| Status::data_loss(format!("repository: snapshot {} does not tell {what}", stored.id.short()));
    let source = image.metadata().and_then(|metadata| metadata.volume_handle.as_deref()?.parse().ok());
    Ok(WitnessedSnapshot {
        handle,
        source: source.ok_or_else(|| lacks("which volume it is of"))?,
        size: VolumeSize::new(image.size_bytes()).map_err(|_| lacks("a size that a volume can have"))?,
        created: stored.snapshot.taken().ok_or_else(|| lacks("when it was taken"))?,
    })
}

/// The status of a repository that gives no answer. It is never "not found": that is for the snapshot's owner to say, and a place
/// without a repository is a mistake in the Secret.
fn unanswered(error: &RepositoryError) -> Status {
    let status = status::repository(error);
    match status.code() {
        Code::NotFound => Status::failed_precondition(status.message()),
        _ => status,
    }
}
