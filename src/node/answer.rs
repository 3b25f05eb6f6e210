//! From records to messages. What is answered comes from the record alone, so it is the same on every repetition.

use csi_proto::csi::v1 as proto;

use crate::csi::{time, topology};
use crate::pool::record::{Snapshot, Volume};
use crate::types::{Object, PoolId, SnapshotHandle, VolumeHandle, VolumeSize};

/// A size as the protocol has it.
pub(super) fn size(size: VolumeSize) -> i64 {
    bytes(size.bytes())
}

/// A number of bytes as the protocol has it, at most `i64::MAX`.
pub(super) fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn content_source(pool: PoolId, source: Object) -> proto::VolumeContentSource {
    use proto::volume_content_source::{SnapshotSource, Type, VolumeSource};
    let r#type = match source {
        Object::Snapshot(snapshot) => {
            Type::Snapshot(SnapshotSource { snapshot_id: SnapshotHandle { pool, snapshot }.to_string() })
        }
        Object::Volume(volume) => Type::Volume(VolumeSource { volume_id: VolumeHandle { pool, volume }.to_string() }),
    };
    proto::VolumeContentSource { r#type: Some(r#type) }
}

/// A snapshot of another pool, or one that a repository holds.
fn foreign_source(handle: &str) -> proto::VolumeContentSource {
    use proto::volume_content_source::{SnapshotSource, Type};
    proto::VolumeContentSource { r#type: Some(Type::Snapshot(SnapshotSource { snapshot_id: handle.to_owned() })) }
}

/// A volume of `pool`.
pub(super) fn volume(pool: PoolId, volume: &Volume) -> proto::Volume {
    proto::Volume {
        capacity_bytes: size(volume.size),
        volume_id: VolumeHandle { pool, volume: volume.id }.to_string(),
        // Nothing: whatever a later call needs is in the catalogue, under the handle.
        volume_context: [].into(),
        content_source: match (&volume.foreign_source, volume.source) {
            (Some(handle), _) => Some(foreign_source(handle)),
            (None, source) => source.map(|source| content_source(pool, source)),
        },
        accessible_topology: vec![topology::of_pool(pool)],
    }
}

/// A snapshot of `pool`.
pub(super) fn snapshot(pool: PoolId, snapshot: &Snapshot) -> proto::Snapshot {
    proto::Snapshot {
        size_bytes: size(snapshot.size),
        snapshot_id: SnapshotHandle { pool, snapshot: snapshot.id }.to_string(),
        source_volume_id: VolumeHandle { pool, volume: snapshot.source }.to_string(),
        creation_time: Some(time::to_proto(snapshot.created)),
        // A local snapshot is complete at the cut, and one whose class asks for an export when that is.
        ready_to_use: snapshot.is_ready(),
        group_snapshot_id: String::new(),
        // Belongs to a capability that is not advertised.
        accessible_topology: Vec::new(),
    }
}
