//! What a leased snapshot is.

use csi_proto::windlass::v1 as proto;

use super::{FieldError, handle, kubernetes, size, timestamp, timestamp_message, volume};
use crate::blocks::LeasedSnapshot;
use crate::types::LogicalBlockSize;

/// The snapshot of a message.
///
/// # Errors
/// [`FieldError`].
pub fn read(message: Option<proto::LeasedSnapshot>) -> Result<LeasedSnapshot, FieldError> {
    let message = message.ok_or_else(|| FieldError::new("snapshot", "is required"))?;
    Ok(LeasedSnapshot {
        handle: handle("snapshot_id", &message.snapshot_id)?,
        source: handle("source_volume_id", &message.source_volume_id)?,
        size: size("size_bytes", message.size_bytes)?,
        logical_block_size: block_size("logical_block_bytes", message.logical_block_bytes)?,
        mode: volume::read_mode("mode", &message.mode)?,
        is_unformatted: message.unformatted,
        created: timestamp("created", message.created)?,
        kubernetes: kubernetes::read(message.kubernetes)?,
    })
}

/// The message of a snapshot.
pub fn message(snapshot: &LeasedSnapshot) -> proto::LeasedSnapshot {
    proto::LeasedSnapshot {
        snapshot_id: snapshot.handle.to_string(),
        source_volume_id: snapshot.source.to_string(),
        size_bytes: snapshot.size.bytes(),
        logical_block_bytes: snapshot.logical_block_size.bytes(),
        mode: volume::mode_text(snapshot.mode),
        unformatted: snapshot.is_unformatted,
        created: Some(timestamp_message(snapshot.created)),
        kubernetes: Some(kubernetes::message(snapshot.kubernetes.clone())),
    }
}

pub(super) fn block_size(field: &'static str, bytes: u32) -> Result<LogicalBlockSize, FieldError> {
    LogicalBlockSize::from_bytes(bytes).ok_or_else(|| FieldError::new(field, "must be 512 or 4096"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{FsType, PoolId, SnapshotHandle, SnapshotId, Timestamp, VolumeHandle, VolumeId, VolumeMode, VolumeSize};

    #[test]
    fn a_snapshot_reads_back() {
        let pool = PoolId::random();
        for (mode, logical_block_size, is_unformatted) in [
            (VolumeMode::Block, LogicalBlockSize::B512, false),
            (VolumeMode::Filesystem(FsType::Btrfs), LogicalBlockSize::B4096, true),
        ] {
            let snapshot = LeasedSnapshot {
                handle: SnapshotHandle { pool, snapshot: SnapshotId::random() },
                source: VolumeHandle { pool, volume: VolumeId::random() },
                size: VolumeSize::MAX,
                logical_block_size,
                mode,
                is_unformatted,
                created: Timestamp::now(),
                kubernetes: Default::default(),
            };
            assert_eq!(read(Some(message(&snapshot))), Ok(snapshot));
        }
        assert!(read(None).is_err());
    }
}
