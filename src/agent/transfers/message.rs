//! What the messages of the service mean, checked once.

use std::collections::HashMap;
use std::time::Duration;

use csi_proto::windlass::v1 as windlass;
use tonic::Status;

use crate::repository::forget::{Filter, TagList};
use crate::repository::{Environment, Location, LockOwner, Password, RETRY_LOCK, Repository, SnapshotChoice, Workspace};
use crate::transfer::{Hole, Progress};
use crate::types::{PoolId, SnapshotHandle, Timestamp};

use super::context::Context;
use super::status;

/// Opens the repository of a request, whose store `progress` watches. Everything that is wrong with it is known after this.
///
/// # Errors
/// INVALID_ARGUMENT for fields, else as for [`status::repository`].
pub(super) async fn open(
    access: Option<windlass::RepositoryAccess>,
    workspace: &Workspace,
    progress: &Progress,
) -> Result<Repository, Status> {
    let access = access.ok_or_else(|| Status::invalid_argument("repository: is required"))?;
    let location: Location =
        access.location.parse().map_err(|error| Status::invalid_argument(format!("repository.location: {error}")))?;
    let password =
        Password::new(access.password).map_err(|error| Status::invalid_argument(format!("repository.password: {error}")))?;
    let environment = environment(access.environment, access.cloud_identity)?;
    let opened = async {
        let store = workspace.connect(&location, &environment)?;
        progress.watch(&store);
        workspace.open(store, &location, &password).await
    };
    opened.await.map_err(|error| status::repository(&error))
}

/// What the store asks for. The identity of this process is used only where who starts the transfer says so.
///
/// # Errors
/// INVALID_ARGUMENT when it is to be used and there is none.
fn environment(pairs: HashMap<String, String>, cloud_identity: bool) -> Result<Environment, Status> {
    let given = Environment::from_pairs(pairs);
    if !cloud_identity {
        return Ok(given);
    }
    let given = given.with_identity_of_process();
    match given.identity() {
        Ok(Some(_)) => Ok(given),
        Ok(None) => Err(Status::invalid_argument("repository.cloud_identity: the environment of this node's process names none")),
        Err(error) => Err(Status::invalid_argument(format!("repository.cloud_identity: on this node {error}"))),
    }
}

/// The repository as a transfer of `pool` uses it: under the name of this node, and as the pool's, whose owner is one process at a time.
pub(in crate::agent) fn locked_for(
    context: &Context,
    pool: PoolId,
    repository: Repository,
    retry_seconds: Option<u32>,
) -> Repository {
    let owner = LockOwner::of_this_process().named(&context.node).holding(&pool.to_string());
    let wait = retry_seconds.map_or(RETRY_LOCK, |seconds| Duration::from_secs(seconds.into()));
    repository.with_lock_owner(owner).with_retry_lock(wait)
}

/// The choice of the snapshot to restore.
///
/// # Errors
/// INVALID_ARGUMENT for a time before 1970 or that is none.
pub(super) fn choice(name: String, filter: windlass::SnapshotFilter) -> Result<SnapshotChoice, Status> {
    let before = match filter.before {
        None => None,
        Some(time) => match Timestamp::from_signed(time.seconds, time.nanos) {
            None => return Err(Status::invalid_argument("filter.before: is no time since 1970")),
            before => before,
        },
    };
    let tags = filter.tags.iter().map(|tags| TagList::from(tags.as_str())).collect();
    Ok(SnapshotChoice {
        name,
        filter: Filter { hosts: filter.hosts, tags, paths: Vec::new() },
        source: Some(filter.source).filter(|source| !source.is_empty()),
        before,
    })
}

/// A range that could not be had.
pub(super) fn hole(hole: Hole) -> windlass::RestoreHole {
    let Hole { offset, length, blobs, blob, pack, reason } = hole;
    let pack = pack.map(|pack| pack.to_string()).unwrap_or_default();
    windlass::RestoreHole { offset, length, blobs, blob: blob.to_string(), pack, reason }
}

/// The handle of a snapshot. A text that is no handle of ours is the handle of nothing.
///
/// # Errors
/// INVALID_ARGUMENT without one; NOT_FOUND.
pub(super) fn snapshot(text: &str) -> Result<SnapshotHandle, Status> {
    if text.is_empty() {
        return Err(Status::invalid_argument("snapshot_id: is required"));
    }
    text.parse().map_err(|_| Status::not_found("snapshot_id: does not exist"))
}
