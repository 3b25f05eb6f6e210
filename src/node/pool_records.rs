//! What is recorded of volumes and snapshots, as messages: for whoever has lost its own records of them.

use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::windlass::v1 as windlass;

use crate::csi::time;
use crate::pool::PoolError;
use crate::pool::owned::OwnedPool;
use crate::pool::record::{Snapshot, Volume};
use crate::types::{
    AccessMode, ExportRecord, ExportTask, KubernetesNames, PoolId, SnapshotExport, SnapshotHandle, TaskState, VolumeHandle,
    VolumeMode,
};

/// Everything that is recorded in an open pool. Reads the catalogue, so it blocks.
pub fn of_pool(pool: &OwnedPool) -> Result<Vec<windlass::ObjectRecord>, PoolError> {
    let mut records = of_records(pool.id(), &pool.volumes()?, &pool.snapshots()?);
    for record in &mut records {
        // What is not a volume's handle is a snapshot's.
        if let Ok(handle) = record.handle.parse::<VolumeHandle>() {
            record.exports = pool.exports(handle.volume)?.iter().map(recorded_export).collect();
        }
    }
    Ok(records)
}

fn recorded_export(export: &ExportRecord) -> windlass::RecordedExport {
    windlass::RecordedExport {
        repository: export.repository.clone(),
        repository_snapshot: export.repository_snapshot.clone(),
        finished: Some(time::to_proto(export.finished)),
    }
}

/// Records of one pool, volumes first, each kind by its handle.
pub fn of_records(pool: PoolId, volumes: &[Volume], snapshots: &[Snapshot]) -> Vec<windlass::ObjectRecord> {
    let mut records: Vec<_> = volumes.iter().map(|record| volume(pool, record)).collect();
    records.sort_unstable_by(|one, other| one.handle.cmp(&other.handle));
    let mut cut: Vec<_> = snapshots.iter().map(|record| snapshot(pool, record)).collect();
    cut.sort_unstable_by(|one, other| one.handle.cmp(&other.handle));
    records.append(&mut cut);
    records
}

fn volume(pool: PoolId, volume: &Volume) -> windlass::ObjectRecord {
    windlass::ObjectRecord {
        kind: "volume".to_owned(),
        handle: VolumeHandle { pool, volume: volume.id }.to_string(),
        name: volume.name.to_string(),
        size_bytes: volume.size.bytes(),
        mode: mode(volume.given_as()),
        access_modes: volume.access_modes.iter().map(|&mode| access_mode(mode)).collect(),
        mount_flags: volume.mount_flags.clone(),
        created: Some(time::to_proto(volume.created)),
        parameters: volume.parameters.clone().into_iter().collect(),
        ..named(pool, &volume.kubernetes)
    }
}

fn snapshot(pool: PoolId, snapshot: &Snapshot) -> windlass::ObjectRecord {
    windlass::ObjectRecord {
        kind: "snapshot".to_owned(),
        handle: SnapshotHandle { pool, snapshot: snapshot.id }.to_string(),
        name: snapshot.name.to_string(),
        size_bytes: snapshot.size.bytes(),
        mode: mode(snapshot.mode),
        created: Some(time::to_proto(snapshot.created)),
        source: VolumeHandle { pool, volume: snapshot.source }.to_string(),
        exports: snapshot.copies.exports.iter().map(snapshot_export).collect(),
        task: snapshot.copies.task.as_ref().map(task),
        ..named(pool, &snapshot.kubernetes)
    }
}

fn snapshot_export(export: &SnapshotExport) -> windlass::RecordedExport {
    windlass::RecordedExport {
        repository: export.repository.clone(),
        repository_snapshot: export.repository_snapshot.clone(),
        finished: Some(time::to_proto(export.finished)),
    }
}

fn task(task: &ExportTask) -> windlass::RecordedTask {
    let (state, reason) = match &task.state {
        TaskState::Pending => ("pending", ""),
        TaskState::Running => ("running", ""),
        TaskState::Failed { reason, .. } => ("failed", reason.as_str()),
        TaskState::Finished => ("finished", ""),
    };
    windlass::RecordedTask {
        state: state.to_owned(),
        reason: reason.to_owned(),
        asked: Some(time::to_proto(task.asked)),
        attempts: task.attempts,
    }
}

fn named(pool: PoolId, kubernetes: &KubernetesNames) -> windlass::ObjectRecord {
    let text = |name: Option<String>| name.unwrap_or_default();
    windlass::ObjectRecord {
        pool_id: pool.to_string(),
        pvc: text(kubernetes.claim.as_ref().map(ToString::to_string)),
        pv: text(kubernetes.volume.as_ref().map(ToString::to_string)),
        volume_snapshot: text(kubernetes.snapshot.as_ref().map(ToString::to_string)),
        volume_snapshot_content: text(kubernetes.snapshot_content.as_ref().map(ToString::to_string)),
        ..Default::default()
    }
}

fn mode(mode: VolumeMode) -> String {
    match mode {
        VolumeMode::Block => "block".to_owned(),
        VolumeMode::Filesystem(fs_type) => fs_type.to_string(),
    }
}

fn access_mode(mode: AccessMode) -> String {
    let mode = match mode {
        AccessMode::SingleNodeWriter => Mode::SingleNodeWriter,
        AccessMode::SingleNodeReaderOnly => Mode::SingleNodeReaderOnly,
        AccessMode::MultiNodeReaderOnly => Mode::MultiNodeReaderOnly,
        AccessMode::SingleNodeSingleWriter => Mode::SingleNodeSingleWriter,
        AccessMode::SingleNodeMultiWriter => Mode::SingleNodeMultiWriter,
    };
    mode.as_str_name().to_owned()
}
