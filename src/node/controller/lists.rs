//! ListVolumes, ListSnapshots and ControllerGetVolume.
//!
//! Only what is ready is listed: nothing that is being made, restored or deleted. While a pool has failed there are no lists but those of
//! one pool (invariant 8): an orchestrator takes what is not listed for gone.

use csi_proto::csi::v1 as proto;

use crate::csi::error::{RequestError, no_such};
use crate::csi::token::PageRequest;
use crate::csi::validate;
use crate::node::answer;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::record::Snapshot;
use crate::types::{SnapshotHandle, VolumeHandle};

const VOLUME_ID: &str = "volume_id";

pub(super) fn check_volumes(
    layer: &NodeLayer,
    request: proto::ListVolumesRequest,
) -> Result<PageRequest<VolumeHandle>, RequestError> {
    PageRequest::new(request.max_entries, &request.starting_token, &layer.pools.known_ids(), |handle| handle.pool)
}

pub(super) fn volumes(layer: &NodeLayer, page: PageRequest<VolumeHandle>) -> Result<proto::ListVolumesResponse, CallError> {
    layer.check_complete()?;
    let pools = layer.pools();
    let mut all = Vec::new();
    for pool in &pools {
        let listed = pool.volumes()?.into_iter();
        all.extend(listed.map(|volume| (VolumeHandle { pool: pool.id(), volume: volume.id }, (pool, volume))));
    }
    let page = page.cut(all);
    let entries = page.entries.into_iter().map(|(_, (pool, volume))| proto::list_volumes_response::Entry {
        // Where a volume is published is told only by drivers that publish in the controller.
        status: None,
        volume: Some(answer::volume(pool.id(), &volume)),
    });
    Ok(proto::ListVolumesResponse { entries: entries.collect(), next_token: page.next_token })
}

pub(super) fn check_get_volume(request: proto::ControllerGetVolumeRequest) -> Result<Option<VolumeHandle>, RequestError> {
    validate::volume_handle(VOLUME_ID, &request.volume_id)
}

pub(super) fn get_volume(
    layer: &NodeLayer,
    handle: Option<VolumeHandle>,
) -> Result<proto::ControllerGetVolumeResponse, CallError> {
    let (pool, volume) = layer.volume(VOLUME_ID, handle.ok_or_else(|| no_such(VOLUME_ID))?)?;
    Ok(proto::ControllerGetVolumeResponse {
        // Required, and empty where volumes are not published in the controller.
        status: Some(proto::controller_get_volume_response::VolumeStatus { published_node_ids: Vec::new() }),
        volume: Some(answer::volume(pool.id(), &volume)),
    })
}

/// Which snapshots are asked for. The inner `None` is the handle of nothing, which matches nothing.
pub(super) struct SnapshotFilter {
    snapshot: Option<Option<SnapshotHandle>>,
    source: Option<Option<VolumeHandle>>,
    page: PageRequest<SnapshotHandle>,
}

pub(super) fn check_snapshots(layer: &NodeLayer, request: proto::ListSnapshotsRequest) -> Result<SnapshotFilter, RequestError> {
    validate::map("secrets", &request.secrets)?;
    let given = |text: &str| !text.is_empty();
    let snapshot = given(&request.snapshot_id).then(|| validate::snapshot_handle("snapshot_id", &request.snapshot_id));
    let source = given(&request.source_volume_id).then(|| validate::volume_handle("source_volume_id", &request.source_volume_id));
    Ok(SnapshotFilter {
        snapshot: snapshot.transpose()?,
        source: source.transpose()?,
        page: PageRequest::new(
            request.max_entries,
            &request.starting_token,
            &layer.pools.known_ids(),
            |handle: &SnapshotHandle| handle.pool,
        )?,
    })
}

pub(super) fn snapshots(layer: &NodeLayer, filter: SnapshotFilter) -> Result<proto::ListSnapshotsResponse, CallError> {
    let mut all = Vec::new();
    let nothing = matches!(filter.snapshot, Some(None)) || matches!(filter.source, Some(None));
    let (by_id, by_source) = (filter.snapshot.flatten(), filter.source.flatten());
    // A filter that names a pool that is not here has no answer but its owner's.
    if let Some(handle) = by_id {
        layer.pool("snapshot_id", handle.pool)?;
    }
    if let Some(handle) = by_source {
        layer.pool("source_volume_id", handle.pool)?;
    }
    if filter.snapshot.is_none() && filter.source.is_none() {
        layer.check_complete()?;
    }
    if !nothing {
        for pool in layer.pools() {
            if by_source.is_some_and(|source| source.pool != pool.id()) {
                continue;
            }
            let handle = |snapshot: &Snapshot| SnapshotHandle { pool: pool.id(), snapshot: snapshot.id };
            let listed = match by_id {
                Some(wanted) if wanted.pool == pool.id() => pool.snapshot(wanted.snapshot)?.into_iter().collect(),
                Some(_) => Vec::new(),
                None => pool.snapshots()?,
            };
            let matching = listed.into_iter().filter(|snapshot| {
                by_source.is_none_or(|source| source == VolumeHandle { pool: pool.id(), volume: snapshot.source })
            });
            all.extend(matching.map(|snapshot| (handle(&snapshot), answer::snapshot(pool.id(), &snapshot))));
        }
    }
    let page = filter.page.cut(all);
    Ok(proto::ListSnapshotsResponse {
        entries: page
            .entries
            .into_iter()
            .map(|(_, snapshot)| proto::list_snapshots_response::Entry { snapshot: Some(snapshot) })
            .collect(),
        next_token: page.next_token,
    })
}
